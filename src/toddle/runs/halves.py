"""Rollouts of which half the worlds step their physics while the networks decide for the other half.

Each half has a collector and a thread of its own; the pool's physics and torch's operations both let go of Python's
lock, so that they run side by side: on a GPU machine the card decides for one half while the cores step the other.
World i is the same world as without halves, and the noise is drawn as if for all, so rollouts are those of one
collector with all worlds, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toddle.core.errors import problem
from toddle.core.protocols import Acting
from toddle.core.team import Place, placed
from toddle.envs.base import BatchedEnv
from toddle.experience.collect import Collector
from toddle.runs.beside import Beside, brought, done

__all__ = ["Halves", "check_overlap", "overlapped"]


class Halves:
    """The collectors of both halves of every environment; `Beside` asks them as it asks workers."""

    size, first, total = 2, 0, 2

    def __init__(self, halves: Sequence[Sequence[Collector]]) -> None:
        """halves: of each half, a collector for each environment."""
        self.halves, self.threads = halves, ThreadPoolExecutor(self.size)

    def gather(self, at: int, policy: Acting, told: Any) -> list[Any]:
        """Let both act, each in its thread; return what they bring."""
        return list(self.threads.map(lambda half: brought(half[at], policy, told), self.halves))

    def ask(self, given: Callable[[int], tuple[str, int, Any]]) -> list[Any]:
        """Save or restore the worlds of both."""
        told = [(self.halves[index], *given(index)) for index in range(self.size)]
        return [done(word, half[at], what) for half, word, at, what in told]


def check_overlap(config: Any, **beside: Any) -> None:
    """Raise InputError where halves of the worlds cannot take turns."""
    beside |= {"one world": config.worlds < Halves.size, "several learners": config.learners > 1}
    beside["safety"] = config.safety != "none"
    for what, given in beside.items():
        if config.overlap and given:
            raise problem("overlap", f"nothing with {what.replace('_', ' ')}", True)


def _over(source: Collector, env: BatchedEnv) -> Collector:
    """Return a collector of the same settings and seed over other worlds."""
    own = ("config", "seed", "body", "label", "critic_sees", "values")
    return Collector(env, **{name: getattr(source, name) for name in own})


def overlapped(made: Any, config: Any, environments: Callable[[], list[BatchedEnv]]) -> Any:
    """Return what a method has built, whose sources are halves where `config.overlap` says so.

    environments: makes those of this process's share of the worlds.  Raises InputError where the experience is not
    gathered by collectors, or more than the worlds is shared by the halves (drawn tasks, a guide).
    """
    if not config.overlap:
        return made
    sources = made.sources
    if not all(isinstance(source, Collector) and source.tasks is None and source.guide is None for source in sources):
        raise problem("overlap", f"nothing with method {config.method} or drawn tasks", True)
    halves = []
    for index in range(Halves.size):
        with placed(Place(index, Halves.size, config.worlds)):
            halves.append([_over(source, env) for source, env in zip(sources, environments(), strict=True)])
    crew = Halves(halves)
    made.learner.sources = [Beside(source, at, crew) for at, source in enumerate(sources)]
    return made
