"""Cross-entropy on the target tokens: BCT on consistency pairs, and the SFT control on instruct rows alone.

    loss = - sum_n log p_theta(y_n | x, y_<n) / N        y: target and its end-of-turn token; x: the context

Bias-augmented consistency training (Chua et al. 2024, arXiv 2403.05518; Irpan et al. 2025, arXiv 2510.27062): x is the
rejection-shaped conversation, y the model's own calm reply to the bare prompt. The context carries no loss.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from placid.records import Pair
from placid.render import Renderer
from placid.train.data import Example

if TYPE_CHECKING:
    from torch import Tensor

    from placid.train.model import Learner


class CrossEntropy:
    """See the file's equation. An example weighs as many parts as it has learned tokens."""

    def example(self, renderer: Renderer, pair: Pair) -> Example:
        """Context and target as one row."""
        return Example((renderer.example(pair.messages, pair.target),))

    def weight(self, example: Example) -> int:
        """Learned tokens."""
        return sum(example.rows[0].learn[1:])

    def total(self, learner: "Learner", examples: Sequence[Example]) -> "Tensor":
        """Sum over the learned tokens of -log p."""
        batch = learner.pack([example.rows[0] for example in examples])
        return learner.token_losses(learner.states(batch)[batch.place], batch.label).sum()
