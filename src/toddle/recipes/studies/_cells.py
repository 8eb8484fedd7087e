"""What studies over seeds and tasks share: success read from episodes, and effects in cells of a seed and a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from toddle.maths.intervals import Interval, t_interval
from toddle.reporting.episode_log import read_episodes, result_of, score_of
from toddle.reporting.study import Row, Units

__all__ = ["Measure", "Pairs", "cells_of", "gain", "points", "shown", "table"]

Pairs = Mapping[tuple[int, str], float]
"""A number for each pair of seed and task."""
Measure = Callable[[Sequence[Row]], Units | None]


def cells_of(path: Path) -> dict[tuple[str, str, str], list[float]]:
    """Return the scores of an evaluation's episodes by (candidate, environment, condition)."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for line in read_episodes(path):
        if (score := score_of(result_of(line))) is not None:
            cells.setdefault((line["candidate"], line["env"], line["condition"]), []).append(score)
    return cells


def table(values: Pairs) -> Units | None:
    """Return values as (seeds, tasks): the seeds that have every task; None where fewer than two do."""
    tasks = sorted({task for _, task in values})
    seeds = [seed for seed in sorted({seed for seed, _ in values}) if all((seed, task) in values for task in tasks)]
    return np.array([[values[seed, task] for task in tasks] for seed in seeds]) if len(seeds) > 1 else None


def gain(a: Pairs, b: Pairs, share: float = 1.0) -> Units | None:
    """Return share * a - b as (seeds, tasks), where both have them."""
    return table({key: share * a[key] - b[key] for key in set(a) & set(b)})


def points(units: Units | None) -> Interval | None:
    """Return the mean with its interval, in per cent; None where there is none."""
    return None if units is None else Interval(*(100 * number for number in t_interval(units)))


def shown(units: Units | None) -> str:
    """Return the mean with its interval as text, in points; nothing where there is none."""
    found = points(units)
    return "" if found is None else f"{found.value:+.0f} [{found.low:.0f}, {found.high:.0f}]"
