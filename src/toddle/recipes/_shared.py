"""What several learners can share of a command's settings."""

from __future__ import annotations

from typing import Any

from toddle.core.config import to_dict
from toddle.core.errors import problem
from toddle.methods._base import load_method
from toddle.runs.learners import check_learners

__all__ = ["check_shared"]


def check_shared(config: Any, command: str, **beside: Any) -> None:
    """Raise InputError where several learners cannot share the worlds, the method, or what is set `beside` it."""
    whole = to_dict(config).get("episodes", {})
    unit = whole.get("group", 1)
    check_learners(config.learners, config.worlds // unit, "worlds" if unit == 1 else "groups of worlds")
    if config.learners == 1:
        return
    beside["a curriculum over starts"] = whole.get("curriculum", {}).get("kind", "uniform") != "uniform"
    beside["safety"] = config.safety != "none"
    beside[f"method {config.method}"] = not load_method(config.method, command).shared
    for what, given in beside.items():
        if given:
            remedy = "docs/scaling.md lists what several learners share"
            raise problem("learners", f"1 with {what.replace('_', ' ')}", config.learners, remedy)
