"""What several learners can share of a command's settings."""

from __future__ import annotations

from typing import Any

from toddle.core.config import to_dict
from toddle.core.errors import problem
from toddle.methods._base import load_method
from toddle.runs.learners import check_learners

__all__ = ["check_shared"]


def check_shared(config: Any, command: str, *, workers: int = 1, **beside: Any) -> None:
    """Raise InputError where several learners or workers cannot share the worlds, the method, or what is set `beside`
    it."""
    whole = to_dict(config).get("episodes", {})
    unit = whole.get("group", 1)
    check_learners(config.learners, config.worlds // unit, "worlds" if unit == 1 else "groups of worlds")
    check_learners(workers, config.worlds, "worlds", "workers")
    if config.learners == workers == 1:
        return
    name, count = ("learners", config.learners) if workers == 1 else ("workers", workers)
    beside["several learners"] = config.learners > 1 and workers > 1
    beside["a curriculum over starts"] = whole.get("curriculum", {}).get("kind", "uniform") != "uniform"
    beside["safety"] = config.safety != "none"
    beside[f"method {config.method}"] = not load_method(config.method, command).shared
    for what, given in beside.items():
        if given:
            remedy = f"docs/scaling.md lists what several {name} share"
            raise problem(name, f"1 with {what.replace('_', ' ')}", count, remedy)
