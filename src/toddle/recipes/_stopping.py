"""When RL has learned enough: `--stop-at` of `toddle pretrain` and `toddle finetune`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from toddle.core.errors import problem
from toddle.runs.metrics import read_metrics

__all__ = ["check_stop", "enough"]

STOP_EPISODES = 50
"""Episodes, the last that ended, whose success is counted."""


def check_stop(stop_at: float | None, envs: int) -> None:
    """Raise InputError for a target in several environments, whose episodes are not counted together."""
    if stop_at is not None and envs > 1:
        raise problem("stop_at", "nothing with several environments", stop_at)


def enough(folder: Path, share: float | None, begin: int) -> Callable[[], bool] | None:
    """Return what says whether a run has come to its target, where it has one."""
    return None if share is None else partial(_succeeds, folder, share, begin)


def _succeeds(folder: Path, share: float, begin: int) -> bool:
    """Whether `share` of the last STOP_EPISODES episodes in a run's metrics succeeded; fewer never do.

    begin: control steps in which every world can end a whole episode; before, none counts: successes end first.
    """
    ended = successes = 0.0
    for line in reversed(read_metrics(folder)):
        if line["rollout/total_steps"] < begin:
            return False
        count = line.get("episode/ended", 0.0)
        ended, successes = ended + count, successes + count * line.get("episode/success", 0.0)
        if ended >= STOP_EPISODES:
            return bool(successes >= share * ended)
    return False
