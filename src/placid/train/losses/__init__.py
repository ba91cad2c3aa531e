"""What is minimised: one file per loss, each with its equation and its source.

A loss says which token rows it needs of a pair, how much a row weighs in the mean of a step, and the weighted sum over
some rows. A step's loss is (sum over all rows of all ranks) / (sum of their weights), whatever the number of ranks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from placid.train.data import Example, Maker
from placid.train.losses.act import Activations
from placid.train.losses.cross_entropy import CrossEntropy
from placid.train.losses.dpo import DirectPreference
from placid.train.losses.jsd import OutputDistribution
from placid.train.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

    from placid.train.model import Learner


class Loss(Maker, Protocol):
    """One way to learn from pairs."""

    def total(self, learner: "Learner", examples: Sequence[Example]) -> "Tensor":
        """Weighted sum over the examples, a scalar."""
        ...


def of(settings: TrainSettings) -> Loss:
    """The loss that the settings name."""
    return {
        "cross_entropy": CrossEntropy(),
        "dpo": DirectPreference(settings.beta),
        "act": Activations("residual"),
        "act_attention": Activations("attention"),
        "act_mlp": Activations("mlp"),
        "jsd": OutputDistribution(),
    }[settings.loss]
