"""Episodes of datasets, labelled with progress (`maths.progress_labels`), and the file that keeps the labels.

A step is a new picture: every `image_stride`-th row, for that is what a reward model can see.  Labels end with success.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toddle.core.config import config, to_dict
from toddle.core.errors import InputError, problem
from toddle.core.reading import check_keys, read_json
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.maths.progress_labels import ProgressConfig, gripper_segments, hand_speed, key_frames, progress_labels

__all__ = [
    "LabelConfig",
    "LabelledEpisode",
    "identity",
    "label_episodes",
    "label_file",
    "labels_of",
    "numbers_of",
    "read_labels",
    "split_episodes",
    "time_episodes",
]

Array = NDArray[Any]
OPENINGS = {"sawyer": "observation.state:6"}
"""Where a body's own state says how far its gripper is open; for others the command is taken, by custom the last number
of an action."""
FORMAT = 1


@config
class LabelConfig(ProgressConfig):
    """How episodes are labelled with progress."""

    path: str = "observation.tool_position"
    """Column of the hand's path in metres; a part of a column as `observation.state:0,1,2`."""
    gripper: tuple[str, ...] | None = None
    """Columns of the grippers' openings, such as `action:-1`; None: the opening that a Sawyer's state holds, the last
    number of the action for other bodies; `--label.gripper` alone: no gripper."""


@dataclass(frozen=True, kw_only=True)
class LabelledEpisode:
    """S steps of an episode up to its success, or its end where it has none."""

    place: int
    """Its place among the dataset's episodes."""
    number: int
    """Its `episode_index`."""
    task: str
    success: bool
    rows: NDArray[np.int64]
    """(S,) the dataset's rows."""
    speed: Array
    """(S,) of the hand, metres a second."""
    opening: Array
    """(S, K) of the grippers, as shares of their range."""
    segments: list[tuple[int, int]]
    keys: NDArray[np.int64]
    labels: NDArray[np.bool_]
    """(S,) True where the step leads to a key frame."""

    @property
    def to_success(self) -> Array:
        """(S,) steps left until the last one."""
        return np.arange(len(self.rows))[::-1]


def numbers_of(dataset: LeRobotDataset, where: str) -> Array:
    """Return the numbers (N, k) of `column` or `column:0,1,2` (negative: counted from the last).

    Raises InputError for a column or a number that is not there.
    """
    name, _, chosen = where.partition(":")
    values = dataset.vector(name)
    if not chosen:
        return values
    try:
        return values[:, [int(part) for part in chosen.split(",")]]
    except (ValueError, IndexError):
        size = values.shape[1]
        raise problem(f"column '{where}'", f"numbers from {-size} to {size - 1} after the colon", chosen) from None


def labelled_from(dataset: LeRobotDataset, config: LabelConfig) -> tuple[str, ...]:
    """Return the columns of the grippers' openings."""
    if config.gripper is not None:
        return config.gripper
    return (OPENINGS.get(str(dataset.robot_type), "action:-1"),)


def label_episodes(dataset: LeRobotDataset, config: LabelConfig) -> list[LabelledEpisode]:
    """Label every episode; one without success is labelled to its end, and is not to be trained on.

    A dataset without the column `next.success` is taken for one of successes.  Raises InputError where columns are
    missing or not of that kind, and where no success has a key frame, saying how slow the hand gets.
    """
    if config.path.partition(":")[0] not in dataset.features:
        remedy = "record it again (toddle record), or name the hand's position: --label.path observation.state:0,1,2"
        raise problem("label.path", f"a column of {dataset.path}", config.path, remedy)
    path = numbers_of(dataset, config.path)
    grippers = [numbers_of(dataset, where) for where in labelled_from(dataset, config)]
    opening = np.concatenate(grippers, 1) if grippers else np.zeros((dataset.num_frames, 0))
    low, span = (opening.min(0), np.ptp(opening, axis=0)) if opening.size else (0.0, np.ones(0))
    opening = (opening - low) / np.where(span > 0, span, 1.0)
    size = np.where(span > 0, 1.0, 0.0)
    found = []
    for one in time_episodes(dataset):
        rows = one.rows
        speed = hand_speed(path[rows])
        segments = gripper_segments(opening[rows], size, change=config.change, hold=config.hold)
        keys = key_frames(speed, segments, still=config.still, gap=config.gap, skip=config.skip)
        found.append(
            replace(
                one,
                speed=speed * dataset.fps / dataset.image_stride,
                opening=opening[rows],
                segments=segments,
                keys=keys,
                labels=progress_labels(len(rows), keys, config.window),
            )
        )
    _check(dataset, config, found)
    return found


def time_episodes(dataset: LeRobotDataset) -> list[LabelledEpisode]:
    """Return every episode up to its success, or its end where it has none, without speeds, key frames and labels.

    A dataset without the column `next.success` is taken for one of successes.
    """
    reached = dataset.column("next.success").astype(bool) if "next.success" in dataset.features else None
    found = []
    for place, episode in enumerate(dataset.episodes):
        ends, success = np.zeros(0, np.int64), True
        if reached is not None:
            ends = np.flatnonzero(reached[episode.start : episode.stop])
            success = bool(len(ends))
        stop = episode.start + int(ends[0]) + 1 if len(ends) else episode.stop
        rows = np.arange(episode.start, stop, dataset.image_stride)
        found.append(
            LabelledEpisode(
                place=place,
                number=episode.index,
                task=dataset.task_of(episode.start),
                success=success,
                rows=rows,
                speed=np.zeros(len(rows)),
                opening=np.zeros((len(rows), 0)),
                segments=[(0, len(rows))],
                keys=np.zeros(0, np.int64),
                labels=np.zeros(len(rows), bool),
            )
        )
    return found


def _check(dataset: LeRobotDataset, config: LabelConfig, episodes: list[LabelledEpisode]) -> None:
    good = [one for one in episodes if one.success]
    if not good:
        raise problem(f"dataset: {dataset.path}", "an episode that succeeded", f"{len(episodes)} without success")
    if any(one.labels.any() for one in good):
        return
    slowest = [
        one.speed[config.skip :].min() / max(np.median(one.speed), 1e-12)
        for one in good[:50]
        if len(one.speed) > config.skip
    ]
    how = f"at its slowest the hand has {np.median(slowest):.2f} of its median speed" if slowest else "all are short"
    raise problem(
        f"dataset: {dataset.path}",
        f"key frames, at which the hand is slower than {config.still:g} of its median speed",
        f"none in {len(good)} successes",
        f"{how}: raise --label.still (a Meta-World expert: 0.6), or lower --label.skip",
    )


def identity(dataset: LeRobotDataset) -> str:
    """Return 16 hex digits of the dataset's actions and episodes: the same for a copy of it, wherever that lies."""
    digest = hashlib.sha256(np.array([episode.length for episode in dataset.episodes], np.int64).tobytes())
    digest.update(np.ascontiguousarray(dataset.column("action"), dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


def split_episodes(
    episodes: Sequence[LabelledEpisode], share: float, generator: np.random.Generator
) -> tuple[list[LabelledEpisode], list[LabelledEpisode]]:
    """Return the successes to train on and those held out: of each task a share, at least one, drawn whole.

    Raises InputError where a task has one success alone.
    """
    train: list[LabelledEpisode] = []
    held: list[LabelledEpisode] = []
    for task in dict.fromkeys(one.task for one in episodes):
        own = [one for one in episodes if one.task == task and one.success]
        if len(own) == 1:
            raise problem(f"episodes of '{task}'", "at least two successes, one to be held out", 1)
        count = min(len(own) - 1, max(1, round(share * len(own))))
        chosen = set(generator.permutation(len(own))[:count].tolist())
        held += [one for index, one in enumerate(own) if index in chosen]
        train += [one for index, one in enumerate(own) if index not in chosen]
    return train, held


def labels_of(dataset: LeRobotDataset, episodes: Sequence[LabelledEpisode], config: LabelConfig) -> dict[str, Any]:
    """Return what a file of labels says of a dataset; `steps` are rows of the episode, `image_stride` apart."""
    return {
        "dataset": str(dataset.path),
        "identity": identity(dataset),
        "image_stride": dataset.image_stride,
        "grippers": list(labelled_from(dataset, config)),
        "episodes": [
            {
                "episode": one.number,
                "task": one.task,
                "success": one.success,
                "steps": len(one.rows),
                "segments": [list(segment) for segment in one.segments],
                "key_frames": one.keys.tolist(),
                "labels": one.labels.astype(int).tolist(),
            }
            for one in episodes
        ],
    }


def label_file(parts: Sequence[dict[str, Any]], config: LabelConfig) -> dict[str, Any]:
    """Return the content of a file of labels."""
    return {"format": FORMAT, "label": to_dict(config), "datasets": list(parts)}


def read_labels(path: Path, dataset: LeRobotDataset, episodes: Sequence[LabelledEpisode]) -> list[LabelledEpisode]:
    """Return the episodes with the labels of a file (of `toddle reward label`, perhaps changed by hand).

    Raises InputError where the file has none of this dataset, or not one label a step.
    """
    data = read_json(path, {"format": int, "datasets": list})
    if data["format"] != FORMAT:
        raise problem(f"{path}: format", str(FORMAT), data["format"])
    wanted = identity(dataset)
    parts = [check_keys(part, f"{path}: datasets", {"identity": str, "episodes": list}) for part in data["datasets"]]
    mine = next((part for part in parts if part["identity"] == wanted), None)
    if mine is None:
        raise problem(str(path), f"labels of {dataset.path}", "labels of others", "label it: toddle reward label")
    entries = [check_keys(one, f"{path}: episodes", {"episode": int, "labels": list}) for one in mine["episodes"]]
    known = {entry["episode"]: entry for entry in entries}
    return [_relabelled(one, known.get(one.number), path) for one in episodes]


def _relabelled(one: LabelledEpisode, entry: dict[str, Any] | None, path: Path) -> LabelledEpisode:
    where = f"{path}: episode {one.number}"
    if entry is None:
        raise InputError(f"{where}: it has no labels; label the dataset again")
    labels = entry["labels"]
    if len(labels) != len(one.rows) or any(value not in (0, 1) for value in labels):
        raise problem(f"{where}: labels", f"{len(one.rows)} of 0 and 1, one a step", f"{len(labels)}")
    facts = vars(one) | {"labels": np.array(labels, bool)}
    return LabelledEpisode(**facts)
