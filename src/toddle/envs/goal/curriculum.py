"""What to ask for next: a curriculum on the number of items and the tolerance, and more of what is half mastered.

Both adapt to the measured success of finished goals; both are part of the environment's state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.config import config
from toddle.core.goal import FAMILIES, MAX_GOAL_ITEMS
from toddle.core.numbers import Count, Positive, Share
from toddle.envs.base import Array

__all__ = ["BINS", "Curriculum", "CurriculumConfig", "Failures"]

EDGES = np.array([0.1, 0.3, 0.6, 1.0])
"""Edges of the bins of a goal's distance (mean item error at its start, dimensionless)."""
BINS = len(EDGES) + 1


@config
class CurriculumConfig:
    """From few items and a wide tolerance to many and a narrow one, as fast as goals are reached."""

    start_items: Count = 2
    """Most items of a goal at the beginning."""
    end_items: Count = MAX_GOAL_ITEMS
    """Most items of a goal at the end."""
    start_tolerance: Positive = 0.2
    """Error an item may have to count as reached, at the beginning (dimensionless)."""
    end_tolerance: Positive = 0.1
    """The same at the end."""
    promote: Share | None = None
    """Success of recent goals above which the level rises (it falls again below half of this); None is the body's."""
    goals_per_level: Count = 2000
    """Finished goals it takes, at least, to go from level 0 to level 1."""


class Curriculum:
    """The level (0..1) and the running success it follows."""

    def __init__(self, settings: CurriculumConfig | None, promote: float) -> None:
        """settings: None for no curriculum; promote: `Body.promote`, where the settings name none."""
        self.settings = settings
        own = None if settings is None else settings.promote
        self.promote = promote if own is None else own
        self.forget()

    def forget(self) -> None:
        """Go back to the beginning."""
        self.level = 0.0 if self.settings is not None else 1.0
        self.success = 0.0

    @property
    def items(self) -> int:
        """Most items of a goal now."""
        c = self.settings
        return MAX_GOAL_ITEMS if c is None else round(c.start_items + self.level * (c.end_items - c.start_items))

    @property
    def tolerance(self) -> float:
        """The tolerance now."""
        c = self.settings
        return 0.1 if c is None else c.start_tolerance + self.level * (c.end_tolerance - c.start_tolerance)

    def update(self, success: Array) -> None:
        """Take the results (n,) bool, within the present tolerance, of goals that just ended."""
        if self.settings is None or not len(success):
            return
        keep = 0.99 ** len(success)
        self.success = keep * self.success + (1.0 - keep) * float(np.mean(success))
        change = len(success) / self.settings.goals_per_level
        if self.success > self.promote:
            self.level = min(1.0, self.level + change)
        elif self.success < 0.5 * self.promote:
            self.level = max(0.0, self.level - 0.25 * change)

    def state_dict(self) -> dict[str, float]:
        """Return level and running success."""
        return {"level": self.level, "success": self.success}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.level, self.success = float(state["level"]), float(state["success"])


class Failures:
    """Success s by (family, distance bin); goals are drawn with P ~ exp(-|s - 0.5| / 0.5)."""

    def __init__(self) -> None:
        self.success = np.empty((len(FAMILIES), BINS))
        self.forget()

    def forget(self) -> None:
        """Know nothing."""
        self.success[:] = 0.5

    def weight(self) -> Array:
        """Return (families, bins) weights."""
        return np.asarray(np.exp(-np.abs(self.success - 0.5) / 0.5))

    def update(self, family: Array, bin_: Array, success: Array, rate: float = 0.02) -> None:
        """Move the estimates towards the results (n,) of goals that just ended."""
        if not len(family):
            return
        count, total = np.zeros_like(self.success), np.zeros_like(self.success)
        np.add.at(count, (family, bin_), 1.0)
        np.add.at(total, (family, bin_), np.asarray(success, dtype=np.float64))
        seen = count > 0
        keep = (1.0 - rate) ** count[seen]
        self.success[seen] = keep * self.success[seen] + (1.0 - keep) * total[seen] / count[seen]
