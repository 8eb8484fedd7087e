"""Writes chosen episodes of LeRobot datasets as a dataset of their own, every column and picture as it is stored.

Files are written one by one, each atomically, and `meta/info.json` last: what was killed is no dataset yet, and goes
on with the files that are missing.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import InputError, problem
from toddle.core.files import write_atomic, write_json_atomic
from toddle.core.reading import read_json
from toddle.data.layout import (
    DEFAULT_FEATURES,
    FILES_PER_CHUNK,
    VERSION,
    data_path,
    episodes_path,
    video_path,
)
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.metadata import read_cameras
from toddle.data.parquet import read_columns, take_rows, write_columns
from toddle.data.statistics import FeatureStatistics, feature_statistics, merge_statistics
from toddle.data.video import read_frames, video_info, write_video

__all__ = ["Chosen", "check_fits", "encodes", "write_subset"]

Array = NDArray[Any]
Chosen = Sequence[tuple[LeRobotDataset, Sequence[int]]]
"""Datasets, and the places of the episodes to keep of each, ascending."""
VideoMode = Literal["auto", "copy", "encode"]
COMMON = ("fps", "robot_type")


def check_fits(datasets: Sequence[LeRobotDataset]) -> None:
    """Raise InputError unless the datasets can become one: the same columns, rate, robot and picture rate."""
    first = datasets[0]
    for other in datasets[1:]:
        for name in COMMON:
            if other.info.get(name) != first.info.get(name):
                raise problem(
                    f"{other.path}: {name}",
                    f"{first.info.get(name)}, as in {first.path}",
                    other.info.get(name),
                    "keep them apart: one dataset a command",
                )
        if other.image_stride != first.image_stride:
            raise problem(f"{other.path}: image_stride", str(first.image_stride), other.image_stride)
        kinds = [
            {name: (entry["dtype"], list(entry["shape"])) for name, entry in each.info["features"].items()}
            for each in (first, other)
        ]
        for name in sorted(kinds[0].keys() | kinds[1].keys()):
            if kinds[0].get(name) != kinds[1].get(name):
                raise problem(
                    f"{other.path}: feature {name}",
                    f"{kinds[0].get(name)}, as in {first.path}",
                    kinds[1].get(name),
                    "keep them apart: one dataset a command",
                )


def encodes(chosen: Chosen, mode: VideoMode) -> bool:
    """Whether videos are encoded anew: by default where most of the pictures in the files would be of no use."""
    if mode != "auto":
        return mode == "encode"
    used = {path for dataset, places in chosen for place in places for path, _ in _videos(dataset, place)}
    held = sum(
        e.length for dataset, _ in chosen for e in dataset.episodes for path, _ in e.videos.values() if path in used
    )
    kept = sum(
        dataset.episodes[place].length * len(_videos(dataset, place)) for dataset, places in chosen for place in places
    )
    return 2 * kept < held


def _videos(dataset: LeRobotDataset, place: int) -> list[tuple[Path, float]]:
    return list(dataset.episodes[place].videos.values())


@dataclass
class _Plan:
    """What has been numbered anew."""

    tasks: dict[str, int] = field(default_factory=dict)
    files: int = 0
    rows: int = 0
    data: list[int] = field(default_factory=list)
    """File of rows of each new episode."""
    videos: dict[tuple[str, Path], int] = field(default_factory=dict)


def write_subset(
    out: Path, chosen: Chosen, *, video: VideoMode = "auto", tell: Callable[[int], None] = lambda done: None
) -> None:
    """Write the dataset into the folder `out`; files that are there already are of an earlier, killed call.

    tell: called with the number of episodes whose pictures are written.  Raises InputError where datasets do not fit
    together, or nothing is chosen.
    """
    chosen = [(dataset, list(places)) for dataset, places in chosen if len(places)]
    if not chosen:
        raise problem("keep", "at least one episode", "none")
    check_fits([dataset for dataset, _ in chosen])
    anew = encodes(chosen, video)
    plan, entries, meta = _Plan(), list[dict[str, Any]](), list[tuple[Path, Array]]()
    for dataset, places in chosen:
        _write_rows(out, dataset, places, plan)
        meta += _episode_rows(dataset, places)
    for dataset, places in chosen:
        for place in places:
            entries.append(_write_videos(out, dataset, place, len(entries), plan, anew))
            tell(len(entries))
    _write_meta(out, chosen, plan, entries, meta)
    _write_info(out, chosen, plan, anew)


def _write_rows(out: Path, dataset: LeRobotDataset, places: Sequence[int], plan: _Plan) -> None:
    """Write the rows of a dataset's kept episodes: a file for each of its files that holds some."""
    rows = np.concatenate([np.arange(dataset.episodes[p].start, dataset.episodes[p].stop) for p in places])
    first = len(plan.data)
    episode = first + np.repeat(np.arange(len(places)), [dataset.episodes[p].length for p in places])
    said = [dataset.task_of(int(row)) for row in rows]
    task = np.array([plan.tasks.setdefault(text, len(plan.tasks)) for text in said], np.int64)
    starts, at = set(np.flatnonzero(np.diff(episode, prepend=-1)).tolist()), 0
    for file, lines in dataset.stored_at(rows):
        span = slice(at, at + len(lines))
        plan.data += [plan.files] * len(starts & set(range(span.start, span.stop)))
        path = data_path(out, plan.files)
        if not path.exists():
            index = plan.rows + np.arange(span.start, span.stop, dtype=np.int64)
            take_rows(path, [(file, lines)], {"index": index, "episode_index": episode[span], "task_index": task[span]})
        plan.files, at = plan.files + 1, span.stop
    plan.rows += len(rows)


def _write_videos(
    out: Path, dataset: LeRobotDataset, place: int, number: int, plan: _Plan, anew: bool
) -> dict[str, int | float]:
    """Write the pictures of an episode, or copy the files that hold them; return its row's entries about them."""
    episode, entries = dataset.episodes[place], dict[str, int | float]()
    times = dataset.column("timestamp")[episode.start : episode.stop].astype(np.float64)
    for camera in read_cameras(dataset.info).values():
        if not camera.video:
            continue
        source, start = episode.videos[camera.name]
        if anew:
            file, begin = number, 0.0
            path = video_path(out, camera.key, file)
            if not path.exists():
                frames = read_frames(source, start + times, tolerance=0.25 / dataset.fps)
                write_video(path, frames, dataset.fps)
        else:
            file = plan.videos.setdefault((camera.key, source), sum(key == camera.key for key, _ in plan.videos))
            path, begin = video_path(out, camera.key, file), start
            if not path.exists():
                write_atomic(path, partial(shutil.copyfile, source))
        entries |= {
            f"videos/{camera.key}/chunk_index": file // FILES_PER_CHUNK,
            f"videos/{camera.key}/file_index": file % FILES_PER_CHUNK,
            f"videos/{camera.key}/from_timestamp": begin,
            f"videos/{camera.key}/to_timestamp": begin + episode.length / dataset.fps,
        }
    return entries


def _episode_rows(dataset: LeRobotDataset, places: Sequence[int]) -> list[tuple[Path, Array]]:
    """Return where the rows of meta/episodes of these episodes are, in their order."""
    found = {}
    for file in sorted((dataset.path / "meta" / "episodes").glob("*/*.parquet")):
        for row, number in enumerate(read_columns(file, ["episode_index"])["episode_index"]):
            found[int(number)] = (file, row)
    at = [found[dataset.episodes[place].index] for place in places]
    parts: list[tuple[Path, list[int]]] = []
    for file, row in at:
        if not parts or parts[-1][0] != file:
            parts.append((file, []))
        parts[-1][1].append(row)
    return [(file, np.array(rows)) for file, rows in parts]


def _write_meta(
    out: Path, chosen: Chosen, plan: _Plan, entries: list[dict[str, Any]], meta: list[tuple[Path, Array]]
) -> None:
    lengths = np.array([dataset.episodes[place].length for dataset, places in chosen for place in places])
    stops, count = np.cumsum(lengths), len(lengths)
    numbers = np.arange(count, dtype=np.int64)
    files = np.array(plan.data, np.int64)
    replaced: dict[str, Any] = {
        "episode_index": numbers,
        "length": lengths,
        "dataset_from_index": stops - lengths,
        "dataset_to_index": stops,
        "data/chunk_index": files // FILES_PER_CHUNK,
        "data/file_index": files % FILES_PER_CHUNK,
        "meta/episodes/chunk_index": np.zeros(count, np.int64),
        "meta/episodes/file_index": np.zeros(count, np.int64),
    }
    replaced |= {name: np.array([entry[name] for entry in entries]) for name in entries[0]}
    stale = [f"stats/{name}/" for name in ("index", "episode_index", "task_index")]
    take_rows(episodes_path(out, 0), meta, replaced, without=stale)
    tasks = {"task_index": np.arange(len(plan.tasks), dtype=np.int64), "__index_level_0__": list(plan.tasks)}
    write_columns(out / "meta" / "tasks.parquet", tasks, index="__index_level_0__")
    write_json_atomic(out / "meta" / "stats.json", _statistics(out, chosen))


def _statistics(out: Path, chosen: Chosen) -> dict[str, Any]:
    """Return the statistics of the kept rows; those of pictures are merged from the episodes' own."""
    first, result = chosen[0][0], {}
    rows = [
        np.concatenate([np.arange(d.episodes[p].start, d.episodes[p].stop) for p in places]) for d, places in chosen
    ]
    for name, entry in first.features.items():
        if entry["dtype"] not in ("string", "language") and name not in DEFAULT_FEATURES:
            parts = [dataset.column(name)[at] for (dataset, _), at in zip(chosen, rows, strict=True)]
            column = np.concatenate(parts)
            result[name] = feature_statistics(column.reshape(len(column), -1)).to_dict()
    stored = read_columns(episodes_path(out, 0))
    for camera in read_cameras(first.info).values():
        prefix = f"stats/{camera.key}/"
        columns = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
        try:
            each = [{name: column[row] for name, column in columns.items()} for row in range(len(stored["length"]))]
            result[camera.key] = merge_statistics([FeatureStatistics.from_dict(part) for part in each]).to_dict()
        except InputError:  # without the episodes' own, those of all episodes are the nearest there is
            whole = first.path / "meta" / "stats.json"
            if whole.exists() and camera.key in (known := read_json(whole, finite=False)):
                result[camera.key] = known[camera.key]
    return result


def _write_info(out: Path, chosen: Chosen, plan: _Plan, anew: bool) -> None:
    first = chosen[0][0]
    info, count = copy.deepcopy(first.info), sum(len(places) for _, places in chosen)
    ours = [dataset.info.get("toddle") for dataset, _ in chosen]
    if any(each != ours[0] for each in ours):  # drawn differently
        info["toddle"] = {"image_stride": first.image_stride}
    for camera in read_cameras(info).values():
        if camera.video and anew:
            entry = info["features"][camera.key]
            height, width = entry["shape"][:2] if entry["shape"][-1] == 3 else entry["shape"][-2:]
            entry.pop("video_info", None)
            entry["info"] = video_info(height, width, info["fps"])
    info |= {
        "codebase_version": VERSION,
        "total_episodes": count,
        "total_frames": plan.rows,
        "total_tasks": len(plan.tasks),
        "splits": {"train": f"0:{count}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if any(camera.video for camera in read_cameras(info).values())
        else None,
    }
    write_json_atomic(out / "meta" / "info.json", info)
