"""Consistency of the output distribution: while it speaks the target, the model shall not care about the rejections.

    loss = mean over n of JSD( p_theta(. | wrapped, y_<n) || stopgrad p_0(. | clean, y_<n) )
    JSD(p || q) = KL(p || m) / 2 + KL(q || m) / 2,   m = (p + q) / 2      in nats, at most log 2

y: the target, n: its tokens; wrapped: a pair's context, clean: its first user message alone; p_0: the untrained model.
The output-level sibling of ACT (Gautam et al. 2026, arXiv 2606.05817; the divergence: Lin 1991). On which positions
they take it was not found; here on those that predict the target, where the model speaks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from placid.records import Pair
from placid.render import Renderer
from placid.train.data import Example, clean_context

if TYPE_CHECKING:
    from torch import Tensor

    from placid.train.model import Learner


class OutputDistribution:
    """See the file's equation. An example weighs as many parts as its target has tokens."""

    def example(self, renderer: Renderer, pair: Pair) -> Example:
        """The target after the conversation, and after the bare prompt."""
        clean = renderer.example(clean_context(pair.messages), pair.target)
        return Example((renderer.example(pair.messages, pair.target),), clean)

    def weight(self, example: Example) -> int:
        """Learned tokens."""
        return sum(example.rows[0].learn[1:])

    def total(self, learner: "Learner", examples: Sequence[Example]) -> "Tensor":
        """Sum over the target tokens."""
        clean = learner.pack([example.clean or example.rows[0] for example in examples])
        with learner.untrained():
            wanted = learner.states(clean)[clean.place]
        batch = learner.pack([example.rows[0] for example in examples])
        return learner.in_chunks(_divergence, learner.states(batch)[batch.place], wanted).sum()


def _divergence(logits: "Tensor", wanted: "Tensor") -> "Tensor":
    """[N] Jensen-Shannon divergence of two [N, V] tables of logits."""
    import torch

    p, q = torch.log_softmax(logits, -1), torch.log_softmax(wanted, -1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, device=p.device))
    return ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2
