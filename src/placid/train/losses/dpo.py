"""Direct preference optimisation: the calm reply over the frustrated one, in the same conversation.

    loss = - log sigmoid( beta * [ (log p_theta(c|x) - log p_0(c|x)) - (log p_theta(r|x) - log p_0(r|x)) ] )

c: chosen reply, r: rejected reply, x: their common context, p_0: the untrained model (the base without its adapter);
log p sums over the reply's tokens. Rafailov et al. 2023 (arXiv 2305.18290), as Soligo et al. 2026 use it (arXiv
2603.10011: beta 0.1, 280 pairs, LoRA rank 64 on all seven projections). Both replies share the context in one tree.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from placid.records import BadInputError, Pair
from placid.render import Renderer
from placid.train.data import Example

if TYPE_CHECKING:
    from torch import Tensor

    from placid.train.model import Batch, Learner


class DirectPreference:
    """See the file's equation. Every pair weighs the same."""

    def __init__(self, beta: float) -> None:
        """beta: how far from the untrained model a preference may pull (dimensionless)."""
        self.beta = beta

    def example(self, renderer: Renderer, pair: Pair) -> Example:
        """The chosen and the rejected reply after the same context.

        Raises:
            BadInputError: the pair has no rejected reply.
        """
        if not pair.rejected:
            raise BadInputError(
                f"loss dpo needs rows with `rejected`, but the {pair.kind} row of prompt {pair.prompt_id!r} "
                f"({pair.source}) has none; train on pairs/dpo.jsonl or pairs/dpo_calm.jsonl"
            )
        replies = (pair.target, pair.rejected)
        return Example(tuple(renderer.example(pair.messages, reply) for reply in replies))

    def weight(self, example: Example) -> int:
        """Each pair once."""
        del example
        return 1

    def total(self, learner: "Learner", examples: Sequence[Example]) -> "Tensor":
        """Sum over the pairs."""
        from torch.nn import functional

        batch = learner.pack([row for example in examples for row in example.rows])
        with learner.untrained():
            before = self._reply_logprobs(learner, batch)
        gain = self._reply_logprobs(learner, batch) - before
        return -functional.logsigmoid(self.beta * (gain[0::2] - gain[1::2])).sum()

    def _reply_logprobs(self, learner: "Learner", batch: "Batch") -> "Tensor":
        """[rows] log-probability of each row's whole reply."""
        losses = learner.token_losses(learner.states(batch)[batch.place], batch.label)
        return -losses.new_zeros(batch.rows).index_add(0, batch.row, losses)
