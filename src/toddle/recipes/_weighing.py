"""Chunks that were followed by more are learned from more often: ARFM (arXiv 2509.04063) for any VLA.

The paper weighs the flow-matching loss; here a chunk is drawn as often as it weighs, which is the same in expectation
and fits every loss.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Discount, Share
from toddle.core.seeding import numpy_generator
from toddle.data.demonstrations import Demonstrations
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.returns import row_returns
from toddle.maths.energy_weights import energy_weights

__all__ = ["WeighConfig", "shared_out"]


@config
class WeighConfig:
    """Which demonstrations are learned from more often."""

    by: Literal["nothing", "success", "reward"] = "nothing"
    """Chunks are drawn in proportion to exp(alpha R), R what followed: how soon success came (0 where it never came),
    or the rewards that were recorded; nothing: all alike."""
    share: Share = 0.5
    """What alpha leaves of the sample size, effectively (Kish): 1 draws all alike, less trusts returns more."""
    discount: Discount = 0.99
    """gamma of a row."""
    shuffled: bool = False
    """The control: chunks have the weights of others of their sentence, which must bring nothing."""

    def __post_init__(self) -> None:
        given = {"share": self.share != 0.5, "discount": self.discount != 0.99, "shuffled": self.shuffled}
        if self.by == "nothing" and any(given.values()):
            name = next(name for name, changed in given.items() if changed)
            raise problem("weigh.by", "success or reward", self.by, f"weigh.{name} has no effect without")
        if self.share == 0.0:
            raise problem("weigh.share", "above 0", self.share)

    def weights(self, data: Demonstrations, datasets: list[LeRobotDataset], seed: int) -> NDArray[np.float64] | None:
        """Return the weights (N,) of the samples, sentence by sentence with a mean of 1; None where all are alike."""
        if self.by == "nothing":
            return None
        rows = data.arrays["rows"][:, -1].numpy()
        returns, sentences = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        numbers: dict[str, int] = {}
        for source, dataset in enumerate(datasets):
            own = data.source == source
            returns[own] = row_returns(dataset, self.by, self.discount)[rows[own]]
            sentences[own] = [numbers.setdefault(dataset.task_of(int(row)), len(numbers)) for row in rows[own]]
        weights, generator = np.ones(len(rows)), numpy_generator(seed, "shuffled weights")
        for number in numbers.values():
            own = sentences == number
            found = energy_weights(returns[own], self.share)
            weights[own] = generator.permutation(found) if self.shuffled else found
        return np.tile(weights, len(data) // len(rows))

    def lines(self, datasets: list[LeRobotDataset]) -> list[str]:
        """Return what a plan says of it.

        Raises InputError where what chunks are weighed by was not recorded, or is the same everywhere.
        """
        if self.by == "nothing":
            return []
        if not max(np.ptp(row_returns(dataset, self.by, self.discount)) for dataset in datasets):
            raise problem(f"weigh.by {self.by}", "rows that were followed by different returns", "none")
        whose = "another chunk's" if self.shuffled else "their"
        return [f"draw chunks by {whose} {self.by}: effectively {100 * self.share:.0f} % of them"]


def shared_out(weights: NDArray[np.float64] | None, beside: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """Return weights (C N,) of C copies of N samples, of which those `beside` (N,) are drawn with probability `share`.

    weights: (C N,), of the samples within each of the two; None: all alike.
    """
    weights = np.ones(len(beside)) if weights is None else weights
    beside = np.tile(beside, len(weights) // len(beside))
    return np.where(beside, share * weights / weights[beside].sum(), (1 - share) * weights / weights[~beside].sum())
