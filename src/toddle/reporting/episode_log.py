"""Evaluation episodes on disk, one JSON line each, and what they add up to.

A line holds the labels of its cell (candidate, env, condition, ...) beside the fields of `EpisodeResult`; it is
written when the episode ends, so a killed evaluation loses only the episodes under way.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.errors import problem
from toddle.core.files import write_text_atomic
from toddle.core.reading import Kinds, read_json_lines
from toddle.core.types import EpisodeResult
from toddle.maths.deployment import deployment_metrics
from toddle.maths.intervals import Interval, matched_interval, ratio_interval, sign_flip_p, t_interval, wilson_interval
from toddle.reporting.walking_facts import walking_facts

__all__ = [
    "LINE",
    "Comparison",
    "EpisodeLog",
    "EvaluationReport",
    "compare",
    "read_episodes",
    "result_of",
    "score_of",
    "summarise",
]

FIELDS = [field.name for field in dataclasses.fields(EpisodeResult)]
Labels = Mapping[str, str | int | float]


LINE: Kinds = {"seed": int, "length": int, "episode_return": (int, float), "info": dict}


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """Return the lines of an episode file (labels and fields in one dict); a last line cut short is left out.

    Raises InputError for a damaged line before the last one.
    """
    return read_json_lines(path, LINE)


def result_of(row: Mapping[str, Any]) -> EpisodeResult:
    """Return the EpisodeResult of one line."""
    known: dict[str, Any] = {name: row.get(name) for name in FIELDS}
    return EpisodeResult(**known)


class EpisodeLog:
    """The episode file of one evaluation.  Opening it drops a line that a kill cut short."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._rows = read_episodes(self.path)
        write_text_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def done(self, labels: Labels) -> dict[int, EpisodeResult]:
        """Return the finished episodes of a cell by seed."""
        return {row["seed"]: result_of(row) for row in self._rows if {k: row.get(k) for k in labels} == dict(labels)}

    def append(self, labels: Labels, result: EpisodeResult) -> None:
        """Write one episode and flush it to disk.  Raises ValueError when a number is not finite."""
        row = {**labels, **dataclasses.asdict(result)}
        with open(self.path, "a") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows.append(row)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationReport:
    """What the episodes of one cell add up to.  Intervals are 95 %; None where the environment does not report it."""

    episodes: int
    success: Interval | None
    """Wilson's interval over episodes; for goal tracking the share of goals, the episodes being the units."""
    success_at_end: Interval | None
    """Success at the last step; differs where episodes go on after success (`--to-the-end`)."""
    ends_at_success: bool
    """Every successful episode ended with its success, so that success at the last step says nothing more."""
    horizon: int | None
    """The most control steps an episode had; None in files of before."""
    published_horizon: int | None
    """The benchmark's own, where that is another."""
    goals: int | None
    """Goals that ended, in goal tracking."""
    episode_return: Interval
    length: Interval
    """Control steps, of all episodes."""
    length_of_successes: float | None
    seconds_per_decision: float
    seconds: float
    """Mean wall-clock seconds of an episode."""
    cost: Interval | None
    interventions: Interval | None
    deployment: dict[str, float]
    """What `maths.deployment` makes of them: time of a cycle, successes an hour, cost and help by control steps."""
    walking: dict[str, float]
    """What `reporting.walking_facts` makes of episodes of walking; empty of others."""
    smoothness: dict[str, float]
    """Means over episodes of `no_ops`, `action_change` and, where the tool's path is known, jerk measures."""

    @property
    def protocol(self) -> str:
        """How success was counted, in words: at which steps, and of how many."""
        parts = []
        if self.success_at_end is not None:
            end = f"{100 * self.success_at_end.value:.0f} % at the last step"
            parts.append("episodes end at success" if self.ends_at_success else end)
        if self.horizon is not None:
            published = f" (the benchmark's own limit: {self.published_horizon})" if self.published_horizon else ""
            parts.append(f"at most {self.horizon} steps{published}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; an interval becomes {"value", "low", "high"}, a bound that is infinite None."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if not isinstance(value, Interval):
        return value
    return {name: number if math.isfinite(number) else None for name, number in value._asdict().items()}


SMOOTHNESS = ("no_ops", "action_change", "tool_squared_jerk", "tool_log_jerk", "tool_arc_length")
"""Keys of `EpisodeResult.info` that measure how smooth a motion was (`experience.evaluate` fills them)."""


def score_of(result: EpisodeResult) -> float | None:
    """Return the success of an episode as a number: 0 or 1, the share of goals in goal tracking, None if unreported."""
    if (goals := result.info.get("goals", 0)) > 0:
        return float(result.info["goals_reached"]) / goals
    return None if result.success is None else float(result.success)


def summarise(results: Iterable[EpisodeResult]) -> EvaluationReport:
    """Add up the episodes of one cell.  Raises InputError when there is none."""
    found = list(results)
    if not found:
        raise problem("episodes", "at least one", 0)
    lengths = [float(result.length) for result in found]
    won = [length for length, result in zip(lengths, found) if result.success]
    smooth = {
        key: float(np.mean(values)) for key in SMOOTHNESS if (values := [r.info[key] for r in found if key in r.info])
    }
    return EvaluationReport(
        episodes=len(found),
        success=_success(found),
        success_at_end=_at_end(found),
        ends_at_success=bool(won) and all(r.info.get("terminated") for r in found if r.success),
        horizon=_largest("horizon", found),
        published_horizon=_largest("published_horizon", found),
        goals=sum(r.info.get("goals", 0) for r in found) if any("goals" in r.info for r in found) else None,
        episode_return=t_interval([r.episode_return for r in found]),
        length=t_interval(lengths),
        length_of_successes=float(np.mean(won)) if won else None,
        seconds_per_decision=float(np.mean([r.seconds_per_decision for r in found])),
        seconds=float(np.mean([r.seconds for r in found])),
        cost=_mean_of([r.cost for r in found]),
        interventions=_mean_of([r.interventions for r in found]),
        deployment=_deployment(found),
        walking=walking_facts(found),
        smoothness=smooth,
    )


def _deployment(found: list[EpisodeResult]) -> dict[str, float]:
    """Return the metrics of use, where episodes report success and the seconds of a control step."""
    steps = {result.info.get("dt") for result in found}
    if None in steps or len(steps) > 1 or any(result.success is None for result in found):
        return {}
    known: dict[str, Any] = {"cost": [r.cost for r in found], "helped": [r.interventions for r in found]}
    known["takeovers"] = [r.info.get("takeovers") for r in found]
    known = {name: values for name, values in known.items() if None not in values}
    won, lengths = [bool(r.success) for r in found], [r.length for r in found]
    return deployment_metrics(won, lengths, float(steps.pop() or 0.0), **known)


def _success(found: list[EpisodeResult]) -> Interval | None:
    scores = [score for result in found if (score := score_of(result)) is not None]
    if all(result.info.get("goals", 0) > 0 for result in found):
        reached, met = zip(*((result.info["goals_reached"], result.info["goals"]) for result in found), strict=True)
        value, low, high = ratio_interval(reached, met)
        return Interval(value, max(0.0, low), min(1.0, high))
    if any("goals" in result.info for result in found):  # goal tracking beside other tasks, or episodes without a goal
        return _mean_of(scores)
    return wilson_interval(round(sum(scores)), len(scores)) if scores else None


def _at_end(found: list[EpisodeResult]) -> Interval | None:
    known = [bool(result.info["success_at_end"]) for result in found if "success_at_end" in result.info]
    return wilson_interval(sum(known), len(known)) if known else None


def _largest(key: str, found: list[EpisodeResult]) -> int | None:
    return max((int(result.info[key]) for result in found if key in result.info), default=None)


def _mean_of(values: list[Any]) -> Interval | None:
    known = [float(value) for value in values if value is not None]
    return t_interval(known) if known else None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Success of one candidate minus another's on the same seeds."""

    pairs: int
    difference: Interval
    p: float
    """One-sided, of "the first is no better", by exact sign flips over episodes."""


def compare(first: Iterable[EpisodeResult], second: Iterable[EpisodeResult]) -> Comparison | None:
    """Compare two candidates on the seeds both have; None where there is no such seed with a reported success."""
    a = {result.seed: score for result in first if (score := score_of(result)) is not None}
    b = {result.seed: score for result in second if (score := score_of(result)) is not None}
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return None
    x, y = [a[seed] for seed in shared], [b[seed] for seed in shared]
    return Comparison(pairs=len(shared), difference=matched_interval(x, y), p=sign_flip_p(np.subtract(x, y)))
