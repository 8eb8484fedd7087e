"""What a LeRobot dataset v3.0 says of itself: `meta/info.json`, `meta/tasks.parquet`, `meta/episodes`.

Everything is found by its name: keys, columns, numbers of tasks and episodes; never by its place.  Each mistake is one
InputError that names file and entry, and no path leaves the dataset's folder.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.config import from_dict
from toddle.core.errors import InputError, problem
from toddle.core.reading import Kinds, check_keys, inside, read_json
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.data.layout import DEFAULT_FEATURES, IMAGE_PREFIX
from toddle.data.parquet import column_names, read_columns

__all__ = ["Camera", "Episode", "read_cameras", "read_drawing", "read_episodes", "read_info", "read_tasks"]

INFO_KEYS: Kinds = {"fps": (int, float), "features": dict, "total_episodes": int, "total_frames": int}
CONVERTER = "lerobot.datasets.v30.convert_dataset_v21_to_v30"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A feature of pictures: `name` is its key without `observation.images.`."""

    name: str
    key: str
    video: bool
    """Whether the pictures are in video files; else they are in the rows, as PNG or JPEG."""
    depth: bool
    """Whether info.json says that these are distances, not colours."""


@dataclass(frozen=True, kw_only=True)
class Episode:
    """An episode: rows start..stop of the opened dataset, and where its pictures lie."""

    index: int
    """Its number, the column `episode_index`."""
    start: int
    stop: int
    first_index: int
    """The column `index` at its first row."""
    file: Path
    """Where its row in `meta/episodes` says that its rows are; they are found by their index in all files."""
    tasks: tuple[str, ...]
    """Its sentences, as its row in `meta/episodes` has them; the rows' own are `LeRobotDataset.task_of`."""
    videos: dict[str, tuple[Path, float]]
    """Camera -> file, and seconds at which the episode begins in it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further entries of its row, such as `env` and `seed`."""

    @property
    def length(self) -> int:
        """Rows of the episode."""
        return self.stop - self.start

    @property
    def task(self) -> str:
        """The first of its sentences, or nothing where its row has none."""
        return self.tasks[0] if self.tasks else ""


WHOLE = ("episode_index", "dataset_from_index", "dataset_to_index", "length")
"""Columns of an episode's row that must be whole numbers."""


def read_info(root: Path) -> dict[str, Any]:
    """Return `meta/info.json`, checked.  Raises InputError for another format, another version, or no episodes."""
    path = root / "meta" / "info.json"
    if not path.exists():
        raise problem("dataset", "a folder with meta/info.json", str(root), "record one: toddle record")
    where = f"dataset: {path}"
    info = check_keys(read_json(path), where, {"codebase_version": str})
    _check_version(info["codebase_version"], where)
    check_keys(info, where, INFO_KEYS)
    if not (math.isfinite(info["fps"]) and info["fps"] > 0):
        raise problem(f"{where}: fps", "a number above 0", info["fps"])
    for name, entry in info["features"].items():
        sizes = check_keys(entry, f"{where}: features: {name}", {"dtype": str, "shape": list})["shape"]
        if not all(isinstance(size, int) and 0 < size < 2**20 for size in sizes):
            raise problem(f"{where}: features: {name}: shape", "whole numbers above 0", sizes)
    for name in DEFAULT_FEATURES:
        if name not in info["features"]:
            raise problem(where, f"the feature '{name}'", "features without it")
    ours = info.get("toddle", {})
    stride = check_keys(ours, f"{where}: toddle", {}).get("image_stride", 1)
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 1:
        raise problem(f"{where}: toddle: image_stride", "a whole number, at least 1", stride)
    read_drawing(info, where)
    if info["total_episodes"] < 1:
        raise problem(f"dataset: {root}", "at least one episode", info["total_episodes"], "record some: toddle record")
    return info


def read_drawing(info: dict[str, Any], where: str = "info.json") -> tuple[RenderSettings | None, RenderVariation]:
    """Return how the pictures were drawn, None where that is not known, and how it differs between episodes."""
    ours = info.get("toddle", {})
    known: Kinds = {name: dict for name in ("render", "variation") if name in ours}
    check_keys(ours, f"{where}: toddle", known)
    render = from_dict(RenderSettings, ours["render"], f"{where}: toddle: render") if "render" in ours else None
    return render, from_dict(RenderVariation, ours.get("variation", {}), f"{where}: toddle: variation")


def _check_version(version: str, where: str) -> None:
    """Take v3.x, as the format's own reader does."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)(\.\d+)?", version.strip())
    major, minor = (int(found[1]), int(found[2])) if found else (0, 0)
    if major == 3:
        return
    remedy = "no converter is known"
    if (major, minor) == (2, 1):
        remedy = f"convert it: python -m {CONVERTER} (of lerobot 0.4)"
    elif major == 2:
        remedy = f"convert it to v2.1 with lerobot 0.3, then: python -m {CONVERTER} (of lerobot 0.4)"
    elif major > 3:
        remedy = "it is newer than this toddle: update toddle"
    raise problem(f"{where}: codebase_version", "v3.0", version, remedy)


def read_cameras(info: dict[str, Any]) -> dict[str, Camera]:
    """Return the features of pictures by camera name, in the order of info.json."""
    cameras: dict[str, Camera] = {}
    for key, entry in info["features"].items():
        if entry["dtype"] not in ("video", "image"):
            continue
        name = key.removeprefix(IMAGE_PREFIX)
        name = key if name in cameras else name
        more = [part for part in (entry, entry.get("info"), entry.get("video_info")) if isinstance(part, dict)]
        depth = any(part.get(mark) is True for part in more for mark in ("is_depth_map", "video.is_depth_map"))
        cameras[name] = Camera(name=name, key=key, video=entry["dtype"] == "video", depth=depth)
    return cameras


def read_tasks(root: Path) -> dict[int, str]:
    """Return the sentences by task_index.

    The sentence is the table's index as pandas stores it (`__index_level_0__`, or under a name such as `task`) or a
    plain column.
    """
    path = root / "meta" / "tasks.parquet"
    table = read_columns(path)
    if "task_index" not in table:
        raise problem(f"dataset: {path}", "the columns task_index and task", ", ".join(table) or "none")
    texts = [name for name, column in table.items() if name != "task_index" and _all_text(column)]
    for wanted in ("task", "__index_level_0__"):
        texts = [wanted] if wanted in texts else texts
    if len(texts) != 1:
        raise problem(f"dataset: {path}", "one column of sentences, such as 'task'", ", ".join(texts) or "none")
    numbers = _whole(table["task_index"], f"dataset: {path}: column 'task_index'").tolist()
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise problem(f"dataset: {path}: task_index", "each number once", f"{twice} twice")
    return dict(zip(numbers, table[texts[0]], strict=True))


def _is_numbers(column: Any) -> bool:
    """Whether a column is one finite number a row."""
    plain = isinstance(column, np.ndarray) and column.dtype.kind in "iuf" and column.size == len(column)
    return plain and bool(np.isfinite(column).all())


def _whole(column: Any, where: str) -> Any:
    """Return a column of whole numbers (N,) int64.  Raises InputError where it is something else."""
    if not _is_numbers(column) or (column != np.floor(column)).any():
        raise problem(where, "whole numbers, one a row", "something else")
    return column.reshape(-1).astype(np.int64)


def _all_text(column: Any) -> bool:
    return isinstance(column, list) and all(isinstance(value, str) for value in column)


def read_episodes(root: Path, info: dict[str, Any], cameras: dict[str, Camera]) -> list[Episode]:
    """Return the episodes in the order of their numbers, their rows one after another."""
    folder = root / "meta" / "episodes"
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob("*/*.parquet")):
        file = inside(root, file.relative_to(root), "dataset: meta/episodes")
        names = [name for name in column_names(file) if not name.startswith("stats/")]
        table = read_columns(file, names)
        for name, column in table.items():
            where = f"dataset: {file}: column '{name}'"
            if name in WHOLE or (name.startswith(("data/", "videos/")) and name.endswith("_index")):
                table[name] = _whole(column, where)
            elif name.endswith("_timestamp") and not _is_numbers(column):
                raise problem(where, "numbers, one a row", "something else")
            elif name == "tasks" and isinstance(column, np.ndarray):
                raise problem(where, "sentences", "numbers")
        rows += [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    wanted = int(info["total_episodes"])
    if len(rows) < wanted:
        raise problem(f"dataset: {folder}", f"{wanted} episodes", len(rows))
    episodes: list[Episode] = []
    for row in sorted(rows, key=lambda row: int(row.get("episode_index", 0)))[
        :wanted
    ]:  # more are of a killed recording
        number = row.get("episode_index", len(episodes))
        try:
            episodes.append(_episode(root, info, cameras, row, episodes[-1].stop if episodes else 0))
        except KeyError as error:
            raise problem(f"dataset: meta/episodes: episode {number}", f"the column {error}", "none") from None
        if len(episodes) > 1 and episodes[-2].index == episodes[-1].index:
            raise problem("dataset: meta/episodes: episode_index", "each number once", f"{number} twice")
    if episodes[-1].stop != info["total_frames"]:
        raise problem(f"dataset: {root}: total_frames", str(episodes[-1].stop), info["total_frames"])
    return episodes


def _episode(root: Path, info: dict[str, Any], cameras: dict[str, Camera], row: dict[str, Any], at: int) -> Episode:
    number = int(row["episode_index"])
    first, last = int(row["dataset_from_index"]), int(row["dataset_to_index"])
    where = f"dataset: meta/episodes: episode {number}"
    length = int(row.get("length", last - first))
    if last <= first or length != last - first:
        raise problem(
            where, "a length of dataset_to_index - dataset_from_index, at least 1", f"{length}, {first}:{last}"
        )
    known = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
    facts = {key: value for key, value in row.items() if key not in known and "/" not in key}
    return Episode(
        index=number,
        start=at,
        stop=at + length,
        first_index=first,
        file=_file(root, info, "data_path", chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]),
        tasks=tuple(map(str, row.get("tasks") or ())),
        videos={
            camera.name: _video(root, info, camera.key, row, length, where)
            for camera in cameras.values()
            if camera.video
        },
        facts={key: value.item() if isinstance(value, np.generic) else value for key, value in facts.items()},
    )


def _file(root: Path, info: dict[str, Any], template: str, **values: Any) -> Path:
    """Return the file that a template of info.json names.  Raises InputError where that lies outside the dataset."""
    where = f"dataset: meta/info.json: {template}"
    numbers = {name: value if isinstance(value, str) else int(value) for name, value in values.items()}
    try:
        return inside(root, info[template].format(**numbers), where)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        known = ", ".join(f"{{{name}}}" for name in numbers)
        raise problem(where, f"a template with {known}", str(info.get(template))) from None


def _video(
    root: Path, info: dict[str, Any], key: str, row: dict[str, Any], length: int, where: str
) -> tuple[Path, float]:
    """Return the file of an episode's pictures and the second at which they begin."""
    chunk, file = row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"]
    path = _file(root, info, "video_path", video_key=key, chunk_index=chunk, file_index=file)
    if not path.exists():
        raise InputError(f"dataset: the video {path} is missing; copy or record the dataset again")
    start = float(row[f"videos/{key}/from_timestamp"])
    end = float(row.get(f"videos/{key}/to_timestamp", start + length / info["fps"]))
    if not (math.isfinite(start) and start >= 0 and abs((end - start) * info["fps"] - length) < 0.5):
        expected = f"{length} pictures at {info['fps']} a second from from_timestamp to to_timestamp"
        raise problem(f"{where}: {key}", expected, f"{start:g} s to {end:g} s")
    return path, start
