"""Which starts to practise: more of those that are worth it, by how often each has succeeded lately.

The shares are those of `maths.curriculum` (VLA-RL); skipping what is mastered is RIPT-VLA's rule (arXiv 2505.17016).
`StartCurriculum` chooses among the starts within an environment; `TaskCurriculum` among several tasks, or tasks and
their starts, that share the worlds (`envs.mixture`).  Where each environment has its own worlds, nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toddle.core.config import config
from toddle.core.numbers import Positive, Share
from toddle.maths.curriculum import CurriculumKind, curriculum_shares

__all__ = [
    "MAX_STARTS",
    "SKIPS",
    "StartCurriculum",
    "StartCurriculumConfig",
    "TaskCurriculum",
    "TaskCurriculumConfig",
]

SKIPS = 3
"""Times a mastered start is passed over before it is tried again."""
MAX_STARTS = 1_000_000
"""Starts that a curriculum keeps count of at most."""


@config
class StartCurriculumConfig:
    """How starts are chosen, by their success; with `starts` above 0."""

    kind: CurriculumKind = "uniform"
    """uniform: all alike; literal: the less success the more (VLA-RL, equation 4); frontier: most at one half."""
    tau: Positive = 0.5
    """Temperature: the lower, the more it chooses."""
    ema: Share = 0.9
    """What is left of a start's success rate after a group: rate <- ema rate + (1 - ema) success; it begins at 0.5."""
    floor: Share = 0.1
    """Least probability of every start, as a share of the uniform one."""
    skip_mastered: bool = False
    """Pass over a start whose last group was all successes, three times at most; then it is tried again (RIPT-VLA)."""

    @property
    def chooses(self) -> bool:
        """Whether starts are not simply drawn alike."""
        return self.kind != "uniform" or self.skip_mastered


class StartCurriculum:
    """Draws starts 0..N-1 and keeps their success."""

    def __init__(self, config: StartCurriculumConfig, starts: int) -> None:
        """Begin with a rate of 0.5 for each of `starts` starts, none of them mastered."""
        self.config = config
        self.success = np.full(starts, 0.5)
        self.mastered = np.zeros(starts, bool)
        self.skips = np.zeros(starts, np.int64)
        self._passed = 0

    @property
    def shares(self) -> NDArray[np.float64]:
        """Probability of each start (N,), before mastered ones are passed over."""
        return curriculum_shares(self.success, self.config.kind, tau=self.config.tau, floor=self.config.floor)

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return `count` starts, all different where there are enough; where all are mastered, some all the same."""
        shares, found, self._passed = self.shares, list[int](), 0
        while len(found) < count:
            # Independent clocks with these rates ring in the order of draws without replacement.
            order = np.argsort(generator.exponential(size=len(shares)) / np.maximum(shares, 1e-300))
            passed: list[int] = []
            for start in order:
                if len(found) == count:
                    break
                (passed if self.config.skip_mastered and self.mastered[start] else found).append(int(start))
            self._skip(passed)
            found += passed[: count - len(found)]
        return np.array(found)

    def _skip(self, starts: list[int]) -> None:
        self._passed += len(starts)
        self.skips[starts] += 1
        again = self.mastered & (self.skips >= SKIPS)
        self.mastered[again], self.skips[again] = False, 0

    def note(self, starts: NDArray[Any], success: NDArray[Any]) -> None:
        """Take in the success (G, K) bool of groups that began at `starts` (G,)."""
        for start, group in zip(starts, success, strict=True):
            self.success[start] = self.config.ema * self.success[start] + (1.0 - self.config.ema) * group.mean()
            self.mastered[start], self.skips[start] = group.all(), 0

    def metrics(self) -> dict[str, float]:
        """Return the entropy of the shares (1: uniform), tenths of the success rates, how many were passed over."""
        shares = self.shares
        entropy = -float((shares * np.log(np.maximum(shares, 1e-300))).sum())
        low, high = np.quantile(self.success, (0.1, 0.9))
        return {
            "curriculum/entropy": entropy / np.log(len(shares)) if len(shares) > 1 else 1.0,
            "curriculum/success_low": float(low),
            "curriculum/success_high": float(high),
            "curriculum/passed_over": float(self._passed),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what the next draw depends on, besides the generator."""
        return {"success": self.success.copy(), "mastered": self.mastered.copy(), "skips": self.skips.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name in ("success", "mastered", "skips"):
            getattr(self, name)[:] = state[name]


@config
class TaskCurriculumConfig:
    """Whether several environments share the worlds, and which are practised more often then, by their success."""

    kind: Literal["apart"] | CurriculumKind = "apart"
    """apart: each environment has worlds of its own, and all count alike; else they share the worlds, and the task of
    each episode (or group) is drawn: uniform: all alike; literal: the less success the more (VLA-RL, equation 4);
    frontier: most at one half."""
    tau: Positive = 0.5
    """Temperature: the lower, the more it chooses."""
    ema: Share = 0.9
    """What is left of a task's success rate after an episode (or group); it begins at 0.5."""
    floor: Share = 0.1
    """Least probability of every task, as a share of the uniform one."""

    @property
    def draws(self) -> bool:
        """Whether tasks are drawn."""
        return self.kind != "apart"


class TaskCurriculum(StartCurriculum):
    """Draws tasks, or pairs of a task and one of its starts: pair i is of task i // starts and start i % starts.

    As every pair keeps its floor, so does every task.
    """

    def __init__(self, config: TaskCurriculumConfig, tasks: Sequence[str], *, starts: int = 1) -> None:
        """Begin with a rate of 0.5 for each of the tasks, or of their starts."""
        kind: Any = config.kind
        own = StartCurriculumConfig(kind=kind, tau=config.tau, ema=config.ema, floor=config.floor)
        super().__init__(own, len(tasks) * starts)
        self.tasks, self.starts = tuple(tasks), starts

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return `count` pairs: of starts all different where there are enough; of tasks alone each drawn by itself."""
        if self.starts > 1:
            return super().draw(count, generator)
        return generator.choice(len(self.tasks), size=count, p=self.shares)

    def metrics(self) -> dict[str, float]:
        """Return each task's share of the draws and running success rate, and what `StartCurriculum` says of pairs."""
        shares, success = (part.reshape(-1, self.starts) for part in (self.shares, self.success))
        found = super().metrics()
        for task, share, rate in zip(self.tasks, shares.sum(1), success.mean(1), strict=True):
            label = task.replace("/", "-")
            found |= {f"curriculum/share/{label}": float(share), f"curriculum/success/{label}": float(rate)}
        return found
