"""Activation consistency: inside the model the rejected conversation shall look as the bare prompt looked untrained.

    loss = mean over t, l of || h_theta[l, t](wrapped) - stopgrad h_0[l, t](clean) ||^2

t: the tokens of the longest common SUFFIX of the two prompts, prompt tokens only; l: all layers, without the
embedding; h_0: the untrained model. Irpan et al. 2025 (arXiv 2510.27062, eq. 1); on decoder layer outputs, the last
one before the final norm, as in AISI's published implementation. Its siblings take the output of the attention or of
the MLP block in place of the residual stream (Gautam et al. 2026, arXiv 2606.05817); that paper found them to make
frustration WORSE in Gemma-3-27B. `wrapped` is a pair's context, `clean` its first user message alone, so the suffix is
short where the last user turn is a rejection: the words that open the model's turn.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from placid.records import Pair
from placid.render import Rendered, Renderer
from placid.train.data import Example, clean_context

if TYPE_CHECKING:
    from torch import Tensor

    from placid.train.model import Batch, Learner

Site = Literal["residual", "attention", "mlp"]
_BLOCK: dict[Site, Callable[[Any], Any]] = {
    "residual": lambda layer: layer,
    "attention": lambda layer: layer.self_attn,
    "mlp": lambda layer: layer.mlp,
}


class Activations:
    """See the file's equation. An example weighs as many parts as its suffix has tokens."""

    def __init__(self, site: Site) -> None:
        """site: whose output is compared in every layer."""
        self.site: Site = site

    def example(self, renderer: Renderer, pair: Pair) -> Example:
        """The two prompts, their common suffix marked."""
        wrapped, clean = renderer.prompt(pair.messages), renderer.prompt(clean_context(pair.messages))
        length = common_suffix(wrapped, clean)
        return Example((_marked(wrapped, length),), _marked(clean, length))

    def weight(self, example: Example) -> int:
        """Tokens of the suffix."""
        return sum(example.rows[0].learn[1:])

    def total(self, learner: "Learner", examples: Sequence[Example]) -> "Tensor":
        """Sum over the suffixes' tokens of the mean squared distance over the layers."""
        clean = learner.pack([example.clean or example.rows[0] for example in examples])
        with learner.untrained():
            wanted = self._activations(learner, clean)
        got = self._activations(learner, learner.pack([example.rows[0] for example in examples]))
        distances = [(a.float() - b.float()).pow(2).sum() for a, b in zip(got, wanted, strict=True)]
        return sum(distances[1:], distances[0]) / len(distances)

    def _activations(self, learner: "Learner", batch: "Batch") -> "list[Tensor]":
        """Per layer [N, D] at the N marked tokens."""
        with recorded([_BLOCK[self.site](layer) for layer in learner.layers]) as outputs:
            learner.states(batch)
        return [output[0][batch.token] for output in outputs]


def common_suffix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common suffix, short of the first token of either."""
    length = 0
    while length < min(len(left), len(right)) - 1 and left[-1 - length] == right[-1 - length]:
        length += 1
    return length


def _marked(ids: list[int], suffix: int) -> Rendered:
    return Rendered(ids, [at >= len(ids) - suffix for at in range(len(ids))])


@contextmanager
def recorded(blocks: Sequence[Any]) -> "Iterator[list[Tensor]]":
    """Inside, each block's output [1, L, D] is appended to the list when it runs."""
    outputs: list[Tensor] = []

    def keep(_block: object, _inputs: object, output: Any) -> None:  # noqa: ANN401 - tensor, or tuple that begins with it
        outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
