"""Judges the episodes of LeRobot datasets by their numbers (`maths.quality`, `maths.smoothness`), without pictures.

The hand's path is brought to one rate first: jerk scales as the sixth power of the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from toddle.data.progress import numbers_of
from toddle.data.quality_source import ACTION, STATE, QualityConfig, Source, calibration, sources, task_of
from toddle.maths.quality import (
    crossings,
    idle_share,
    mode_count,
    path_efficiency,
    phase_deviation,
    phase_variance,
    saturated_share,
    share_of_worse,
)
from toddle.maths.smoothness import (
    log_dimensionless_jerk,
    mean_squared_jerk,
    no_op_count,
    resample,
    spectral_arc_length,
)

__all__ = ["METRICS", "Judged", "JudgedEpisode", "Metric", "QualityConfig", "Source", "judge", "sources"]

Array = NDArray[Any]
PHASES = 50
"""Moments of equal phase at which episodes of a task are compared."""
EQUAL = 0.02
"""Distance, in deviations of the task's rows, below which two episodes count as nearly equal."""
MOST_PATHS = 200
"""Episodes of a task and dataset, evenly chosen, whose paths are sorted into modes."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of an episode: its unit, what it is, and whether more of it is worse."""

    unit: str
    meaning: str
    larger_is_worse: bool


METRICS = {
    "seconds": Metric(unit="s", meaning="length of the episode", larger_is_worse=True),
    "no_ops": Metric(unit="share", meaning="rows whose action moves nothing (OpenVLA's rule)", larger_is_worse=True),
    "squared_jerk": Metric(unit="m²/s⁶", meaning="mean squared jerk of the hand's path", larger_is_worse=True),
    "log_jerk": Metric(unit="", meaning="log dimensionless jerk of the hand's speed", larger_is_worse=False),
    "arc_length": Metric(unit="", meaning="SPARC: spectral arc length of the hand's speed", larger_is_worse=False),
    "action_deviation": Metric(
        unit="",
        meaning="squared distance of the actions from the task's mean at the same phase; its mean is the variance",
        larger_is_worse=True,
    ),
    "efficiency": Metric(unit="share", meaning="the straight way as a share of the hand's way", larger_is_worse=False),
    "idle": Metric(unit="share", meaning="time at which the hand is below 5 % of its high speed", larger_is_worse=True),
    "saturation": Metric(unit="share", meaning="numbers of actions at the dataset's bounds", larger_is_worse=True),
    "gripper_changes": Metric(unit="", meaning="openings and closings commanded", larger_is_worse=True),
}
"""The metrics of an episode, in the order of the page."""


@dataclass(kw_only=True)
class JudgedEpisode:
    """An episode and what was found of it."""

    source: int
    """Which of the datasets."""
    place: int
    """Its place among the dataset's episodes."""
    number: int
    """Its `episode_index`."""
    task: str
    rows: int
    success: bool | None
    metrics: dict[str, float]
    """By the names of METRICS; what cannot be said of it is left out."""
    faults: list[str] = field(default_factory=list)
    """What speaks against keeping it at all."""
    score: float = 0.5
    """Mean over metrics of the share of the task's other episodes, of all datasets, that are worse: 0 to 1."""


@dataclass(kw_only=True)
class Judged:
    """What was found of all datasets."""

    sources: list[Source]
    episodes: list[JudgedEpisode]
    rate: float
    variance: list[dict[str, Array]]
    """Dataset -> task -> variance of the actions over phase, (PHASES,)."""
    modes: list[dict[str, int]]
    """Dataset -> task -> bundles of paths."""
    paths: list[dict[str, list[Array]]]
    """Dataset -> task -> paths of the hand at PHASES moments, for plots; empty without a path."""

    def of(self, source: int, task: str | None = None) -> list[JudgedEpisode]:
        """Return the episodes of a dataset, of one task where it is named."""
        return [one for one in self.episodes if one.source == source and task in (None, one.task)]

    @property
    def tasks(self) -> list[str]:
        """The tasks of all datasets."""
        return list(dict.fromkeys(one.task for one in self.episodes))

    def mean(self, source: int, name: str) -> float:
        """Return the mean over tasks of a metric's mean over the task's episodes; NaN where there is none."""
        tasks = [[one.metrics[name] for one in self.of(source, task) if name in one.metrics] for task in self.tasks]
        means = [float(np.mean(values)) for values in tasks if values]
        return float(np.mean(means)) if means else float("nan")

    def score(self, source: int) -> float:
        """Return the mean score of a dataset's episodes, each task counting alike."""
        tasks = [[one.score for one in self.of(source, task)] for task in self.tasks]
        return float(np.mean([np.mean(scores) for scores in tasks if scores]))

    def ranked(self) -> list[JudgedEpisode]:
        """Return the episodes from the worst to the best: those with faults first, then by score."""
        return sorted(self.episodes, key=lambda one: (not one.faults, one.score))


def judge(found: Sequence[Source], config: QualityConfig) -> Judged:
    """Judge every episode, by itself and against the others of its task."""
    rate = config.rate or min(source.dataset.fps for source in found)
    judged = Judged(sources=list(found), episodes=[], rate=rate, variance=[], modes=[], paths=[])
    for number, source in enumerate(found):
        episodes = _episodes(number, source, rate)
        judged.episodes += episodes
        _compare_actions(judged, source, episodes)
        source.notes += calibration(source)
    _find_repeats(judged)
    _score(judged)
    return judged


def _episodes(number: int, source: Source, rate: float) -> list[JudgedEpisode]:
    dataset = source.dataset
    actions = dataset.vector(ACTION).astype(np.float64)
    path = None if source.path is None else numbers_of(dataset, source.path).astype(np.float64)
    reached = dataset.column("next.success").astype(bool) if "next.success" in dataset.features else None
    low, high = actions.min(axis=0), actions.max(axis=0)
    arm = [place for place in range(actions.shape[1]) if place not in source.gripper]
    found = []
    for place, episode in enumerate(dataset.episodes):
        rows = slice(episode.start, episode.stop)
        own = actions[rows]
        metrics = {
            "seconds": episode.length / dataset.fps,
            "no_ops": _no_ops(own, arm, source) / episode.length,
            "saturation": saturated_share(own[:, arm], low[arm], high[arm]),
        }
        if source.gripper:
            metrics["gripper_changes"] = sum(crossings(own[:, g], (low[g] + high[g]) / 2) for g in source.gripper)
        if path is not None:
            metrics |= _motion(path[rows], dataset.fps, rate)
        found.append(
            JudgedEpisode(
                source=number,
                place=place,
                number=episode.index,
                task=task_of(dataset, place),
                rows=episode.length,
                success=None if reached is None else bool(reached[rows].any()),
                metrics={name: float(value) for name, value in metrics.items() if np.isfinite(value)},
            )
        )
        if found[-1].success is False:
            found[-1].faults.append("no success")
    return found


def _no_ops(actions: Array, arm: list[int], source: Source) -> int:
    moves = actions[:, arm]
    if source.absolute:
        moves = np.diff(moves, axis=0, prepend=np.full((1, len(arm)), np.inf))
    # the rule takes one gripper: of several, a number that changes whenever one of them does
    gripper = np.cumsum(np.any(np.diff(actions[:, list(source.gripper)], axis=0, prepend=0.0) != 0.0, axis=1))
    return no_op_count(np.concatenate([moves, gripper[:, None]], axis=1))


def _motion(path: Array, fps: float, rate: float) -> dict[str, float]:
    """Return what the hand's path says, at `rate` points a second."""
    points = round((len(path) - 1) / fps * rate) + 1
    if points < 5:
        return {}
    at, dt = resample(path, points), 1.0 / rate
    speed = np.linalg.norm(np.diff(at, axis=0), axis=1) / dt
    found = {"squared_jerk": mean_squared_jerk(at, dt), "efficiency": path_efficiency(at), "idle": idle_share(speed)}
    if speed.max() > 0.0:
        found["log_jerk"] = log_dimensionless_jerk(speed, dt)
        found["arc_length"] = spectral_arc_length(speed, dt)
    return found


def _compare_actions(judged: Judged, source: Source, episodes: list[JudgedEpisode]) -> None:
    """Find the variance over phase and the modes of each task of a dataset."""
    dataset = source.dataset
    path = None if source.path is None else numbers_of(dataset, source.path)
    variance, modes, paths = dict[str, Array](), dict[str, int](), dict[str, list[Array]]()
    for task in dict.fromkeys(one.task for one in episodes):
        own = [one for one in episodes if one.task == task]
        rows = [slice(dataset.episodes[one.place].start, dataset.episodes[one.place].stop) for one in own]
        actions = np.stack([resample(dataset.vector(ACTION)[each], PHASES) for each in rows])
        for one, value in zip(own, phase_deviation(actions), strict=True):
            if len(own) > 1:
                one.metrics["action_deviation"] = float(value)
        variance[task] = phase_variance(actions)
        if path is not None:
            chosen = np.unique(np.linspace(0, len(own) - 1, MOST_PATHS).round().astype(int))
            paths[task] = [resample(path[rows[index]], PHASES) for index in chosen]
            flat = np.stack(paths[task]).reshape(len(chosen), -1)
            modes[task] = mode_count(cdist(flat, flat))
    judged.variance.append(variance)
    judged.modes.append(modes)
    judged.paths.append(paths)


def _find_repeats(judged: Judged) -> None:
    """Note the later of two episodes of a task that are the same, or nearly so, in whichever datasets they are."""
    kinds: dict[tuple[str, int], list[tuple[JudgedEpisode, Array]]] = {}
    for one in judged.episodes:
        dataset = judged.sources[one.source].dataset
        rows = slice(dataset.episodes[one.place].start, dataset.episodes[one.place].stop)
        parts = [dataset.vector(name)[rows] for name in (STATE, ACTION) if name in dataset.features]
        profile = resample(np.concatenate(parts, axis=1), PHASES)
        kinds.setdefault((one.task, profile.shape[1]), []).append((one, profile))
    for group in kinds.values():
        profiles = np.stack([profile for _, profile in group])
        spread = profiles.std(axis=(0, 1))
        flat = (profiles / np.where(spread > 1e-9, spread, 1.0)).reshape(len(group), -1)
        for later in range(1, len(group)):
            apart = cdist(flat[later : later + 1], flat[:later])[0] / np.sqrt(flat.shape[1])
            nearest = int(np.argmin(apart))
            one, other = group[later][0], group[nearest][0]
            if apart[nearest] < EQUAL:
                where = "" if other.source == one.source else f" of {judged.sources[other.source].dataset.path}"
                how = "equal" if apart[nearest] == 0.0 and one.rows == other.rows else "nearly equal"
                one.faults.append(f"{how} to episode {other.number}{where}")


def _score(judged: Judged) -> None:
    for task in judged.tasks:
        own = [one for one in judged.episodes if one.task == task]
        ranks = np.stack(
            [
                share_of_worse([one.metrics.get(name, np.nan) for one in own], metric.larger_is_worse)
                for name, metric in METRICS.items()
            ]
        )
        known = np.isfinite(ranks)
        total = np.where(known, ranks, 0.0).sum(axis=0) / np.maximum(1, known.sum(axis=0))
        for one, score in zip(own, total, strict=True):
            one.score = float(score)
