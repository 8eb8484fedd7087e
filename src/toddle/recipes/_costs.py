"""What the steps of a longer job cost, kept over its interruptions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toddle.core.files import write_json_atomic
from toddle.core.reading import read_json

__all__ = ["costed"]


def costed(folder: Path, name: str, call: Callable[[], None]) -> dict[str, float]:
    """Do a step and add what it and its processes cost to `costs.json`, also where it is interrupted.

    A kill -9 hides its own part.
    """
    path = folder / "costs.json"
    costs: dict[str, Any] = read_json(path) if path.exists() else {}
    seconds, cpu = time.perf_counter(), _cpu_seconds()
    try:
        call()
    finally:
        before = costs.get(name, {"seconds": 0.0, "cpu_seconds": 0.0})
        costs[name] = {
            "seconds": before["seconds"] + time.perf_counter() - seconds,
            "cpu_seconds": before["cpu_seconds"] + _cpu_seconds() - cpu,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, costs)
    return dict(costs[name])


def _cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it has waited for."""
    return sum(os.times()[:4])
