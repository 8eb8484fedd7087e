"""What environments have reported on the way, until it is said in metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Gathered", "Notes"]


@dataclass
class Notes:
    """Numbers of episodes and goals that ended, and sums over decisions, by metric."""

    ended: dict[str, list[float]] = field(default_factory=dict)
    """One number an episode or a goal."""
    sums: dict[str, NDArray[Any]] = field(default_factory=dict)
    """A sum for each world."""

    def end(self, name: str, values: NDArray[Any]) -> None:
        """Note a number of each of some episodes or goals."""
        self.ended.setdefault(name, []).extend(values.astype(float).tolist())

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Add to the sum of each world."""
        self.sums[name] = self.sums.get(name, 0.0) + values

    def beside(self, others: Iterable[Notes]) -> None:
        """Take in the notes of others' worlds, behind one's own."""
        for other in others:
            for name, values in other.ended.items():
                self.ended.setdefault(name, []).extend(values)
            for name, value in other.sums.items():
                self.sums[name] = np.append(self.sums.get(name, ()), value)

    def means(self, length: int) -> dict[str, float]:
        """Return means over what ended and over `length` decisions of each world."""
        metrics = {name: float(np.mean(values)) for name, values in self.ended.items()}
        metrics |= {name: float(np.mean(value)) / length for name, value in self.sums.items()}
        metrics["episode/ended"] = float(len(self.ended.get("episode/return", ())))
        if "goal/success" in self.ended:
            metrics["goal/ended"] = float(len(self.ended["goal/success"]))
        return metrics


@dataclass
class Gathered:
    """What came of a rollout, or of one process's part of it, besides the rollout."""

    steps: int
    """Control steps that were made."""
    notes: Notes = field(default_factory=Notes)
    """What ended in it."""
    decisions: int = 0
    """Decisions until the last episode had ended, where whole episodes are played."""
    noise: Tensor | None = None
    """Where the generator of the noise then stood."""
