"""Reads LeRobot datasets v3.0 (ours or others'): numbers in memory, pictures decoded when asked for and kept.

Opening a dataset checks all of it but the pixels; each mistake is one InputError that names file and column.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toddle.core.errors import InputError, nearest, problem
from toddle.core.reading import Kinds, check_keys, inside, read_json
from toddle.data.layout import DEFAULT_FEATURES, IMAGE_PREFIX, VERSION, check_column
from toddle.data.parquet import read_columns, read_pngs
from toddle.data.statistics import FeatureStatistics, feature_statistics
from toddle.data.video import read_frames

__all__ = ["Episode", "LeRobotDataset"]

INFO_KEYS: Kinds = {
    "fps": (int, float),
    "features": dict,
    "total_episodes": int,
    "total_frames": int,
    "data_path": str,
}

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Where an episode lies: rows start..stop of the dataset, files of its pictures."""

    index: int
    start: int
    stop: int
    task: str
    data_file: Path
    first_row_in_file: int
    videos: dict[str, tuple[Path, float]]  # camera -> (file, seconds at which the episode begins in it)
    facts: dict[str, Any] = field(default_factory=dict)  # further entries of its row, such as `env` and `seed`

    @property
    def length(self) -> int:
        """Rows of the episode."""
        return self.stop - self.start


class LeRobotDataset:
    """A dataset opened for reading: `columns[name]` is (N,) or (N, size) over all rows, episodes one after another."""

    def __init__(self, path: Path, *, cache_bytes: int = 2**30) -> None:
        """Open and check the dataset in the folder `path`; decoded pictures are kept up to `cache_bytes`."""
        self.path = Path(path)
        self.info = self._read_info()
        self.fps = int(self.info["fps"])
        features = self.info["features"]
        self.features = {name: entry for name, entry in features.items() if entry["dtype"] not in ("video", "image")}
        self.cameras = tuple(
            name.removeprefix(IMAGE_PREFIX) for name, entry in features.items() if entry["dtype"] in ("video", "image")
        )
        self.image_stride = int(self.info.get("toddle", {}).get("image_stride", 1))
        self.tasks = self._read_tasks()
        self.episodes = self._read_episodes()
        self.columns = self._read_data()
        self._cache: OrderedDict[tuple[str, int], Array] = OrderedDict()
        self._cache_bytes, self._cached = cache_bytes, 0

    # ---- opening -------------------------------------------------------------------------------------------------
    def _read_info(self) -> dict[str, Any]:
        path = self.path / "meta" / "info.json"
        if not path.exists():
            remedy = "record one: toddle record"
            raise problem("dataset", "a folder with meta/info.json", str(self.path), remedy)
        info = read_json(path)
        if info.get("codebase_version") != VERSION:
            raise problem(
                f"dataset: {path}: codebase_version",
                VERSION,
                info.get("codebase_version"),
                "convert it with lerobot's own scripts",
            )
        check_keys(info, f"dataset: {path}", INFO_KEYS)
        for name, entry in info["features"].items():
            where = f"dataset: {path}: features: {name}"
            check_keys(entry, where, {"dtype": str, "shape": list})
            if not all(isinstance(size, int) and 0 < size < 2**20 for size in entry["shape"]):
                raise problem(f"{where}: shape", "whole numbers above 0", entry["shape"])
        for name in DEFAULT_FEATURES:
            if name not in info["features"]:
                raise problem(f"dataset: {path}", f"the feature '{name}'", "features without it")
        if not info["total_episodes"]:
            raise problem(f"dataset: {self.path}", "at least one episode", 0, "record some: toddle record")
        return dict(info)

    def _read_tasks(self) -> list[str]:
        table = read_columns(self.path / "meta" / "tasks.parquet")
        names = [name for name in table if name != "task_index"]
        if "task_index" not in table or len(names) != 1:
            raise problem(
                f"dataset: {self.path / 'meta' / 'tasks.parquet'}",
                "task_index and an index of sentences",
                ", ".join(table),
            )
        by_number = dict(zip(table["task_index"].tolist(), table[names[0]], strict=True))
        return [by_number[number] for number in sorted(by_number)]

    def _read_episodes(self) -> list[Episode]:
        files = sorted((self.path / "meta" / "episodes").glob("*/*.parquet"))
        rows: list[dict[str, Any]] = []
        for file in files:
            table = {name: column for name, column in read_columns(file).items() if not name.startswith("stats/")}
            rows += [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        wanted = int(self.info["total_episodes"])
        if len(rows) < wanted:
            raise problem(f"dataset: {self.path / 'meta' / 'episodes'}", f"{wanted} episodes", len(rows))
        episodes, first_rows = [], dict[Path, int]()
        for number, row in enumerate(rows[:wanted]):
            try:
                episodes.append(self._episode(number, row, first_rows))
            except KeyError as error:
                raise problem(f"dataset: meta/episodes: episode {number}", f"the column {error}", "none") from None
        if episodes[-1].stop != self.info["total_frames"]:
            raise problem(f"dataset: {self.path}: total_frames", str(episodes[-1].stop), self.info["total_frames"])
        return episodes

    def _file(self, template: str, **values: str | int) -> Path:
        """Return the file a template of info.json names.  Raises InputError where that lies outside the dataset."""
        where = f"dataset: meta/info.json: {template}"
        try:
            name = self.info[template].format(**values)
        except (KeyError, IndexError, ValueError, AttributeError):
            known = ", ".join(f"{{{name}}}" for name in values)
            raise problem(where, f"a template with {known}", self.info.get(template)) from None
        return inside(self.path, name, where)

    def _episode(self, number: int, row: dict[str, Any], first_rows: dict[Path, int]) -> Episode:
        start, stop = int(row["dataset_from_index"]), int(row["dataset_to_index"])
        file = self._file("data_path", chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"]))
        first_rows.setdefault(file, start)
        videos = {}
        for camera in self.cameras:
            key = IMAGE_PREFIX + camera if IMAGE_PREFIX + camera in self.info["features"] else camera
            if self.info["features"][key]["dtype"] == "video":
                path = self._file(
                    "video_path",
                    video_key=key,
                    chunk_index=int(row[f"videos/{key}/chunk_index"]),
                    file_index=int(row[f"videos/{key}/file_index"]),
                )
                if not path.exists():
                    raise InputError(f"dataset: the video {path} is missing; record the dataset again")
                videos[camera] = (path, float(row[f"videos/{key}/from_timestamp"]))
        known = ("episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index")
        facts = {key: value for key, value in row.items() if key not in known and "/" not in key}
        return Episode(
            index=number,
            start=start,
            stop=stop,
            task=next(iter(row["tasks"])),
            data_file=file,
            first_row_in_file=start - first_rows[file],
            videos=videos,
            facts={key: value.item() if isinstance(value, np.generic) else value for key, value in facts.items()},
        )

    def _read_data(self) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {name: [] for name in self.features}
        files = list(dict.fromkeys(episode.data_file for episode in self.episodes))
        for file in files:
            last = max(episode.stop for episode in self.episodes if episode.data_file == file)
            first = min(episode.start for episode in self.episodes if episode.data_file == file)
            table = read_columns(file, list(self.features))
            for name, entry in self.features.items():
                column = np.asarray(table[name])
                if len(column) > last - first and file == files[-1]:
                    column = column[: last - first]  # rows of an episode that was never counted
                check_column(name, column, int(np.prod(entry["shape"])), last - first, f"dataset: {file}")
                parts[name].append(column)
        columns = {name: np.concatenate(part) for name, part in parts.items()}
        for episode in self.episodes:
            rows = slice(episode.start, episode.stop)
            if not (columns["episode_index"][rows] == episode.index).all():
                raise problem(
                    f"dataset: {episode.data_file}: column 'episode_index'", str(episode.index), "other numbers"
                )
        if columns["task_index"].max() >= len(self.tasks):
            raise problem(f"dataset: {self.path}: task_index", f"below {len(self.tasks)}", columns["task_index"].max())
        return columns

    # ---- reading -------------------------------------------------------------------------------------------------
    @property
    def num_frames(self) -> int:
        """Rows of the dataset."""
        return int(self.info["total_frames"])

    def column(self, name: str) -> Array:
        """Return a column over all rows.  Raises InputError when the dataset has none of that name."""
        if name not in self.columns:
            raise problem("dataset column", f"a column of {self.path}", name, nearest(name, self.columns))
        return self.columns[name]

    def episode(self, number: int) -> dict[str, Array]:
        """Return the columns of one episode, (T,) or (T, size)."""
        rows = slice(self.episodes[number].start, self.episodes[number].stop)
        return {name: column[rows] for name, column in self.columns.items()}

    def task_of(self, row: int) -> str:
        """Return the sentence of a row."""
        return self.tasks[int(self.columns["task_index"][row])]

    def images(self, camera: str, rows: Array) -> Array:
        """Return the pictures of a camera at rows of the dataset (any order): (n, 3, H, W) uint8."""
        if camera not in self.cameras:
            raise problem("dataset camera", f"a camera of {self.path}", camera, nearest(camera, self.cameras))
        rows = np.asarray(rows, dtype=np.int64)
        result: Array | None = None
        for number in np.unique(self.columns["episode_index"][rows]):
            pictures = self._pictures(camera, int(number))
            chosen = self.columns["episode_index"][rows] == number
            inside = (rows[chosen] - self.episodes[number].start) // self.image_stride
            if result is None:
                result = np.empty((len(rows), *pictures.shape[1:]), np.uint8)
            result[chosen] = pictures[inside]
        if result is None:
            raise problem("rows", "at least one row", 0)
        return result

    def _pictures(self, camera: str, number: int) -> Array:
        """Return the new pictures of an episode (every `image_stride` rows), from the cache where they are there."""
        if (camera, number) in self._cache:
            self._cache.move_to_end((camera, number))
            return self._cache[camera, number]
        episode = self.episodes[number]
        if camera in episode.videos:
            path, seconds = episode.videos[camera]
            first = round(seconds * self.fps)
            last, every = first + episode.length, self.image_stride
            pictures = read_frames(path, first, last, fps=self.fps, every=every)
        else:
            key = IMAGE_PREFIX + camera if IMAGE_PREFIX + camera in self.info["features"] else camera
            data = read_pngs(episode.data_file, key)[episode.first_row_in_file :][: episode.length]
            opened = [np.asarray(Image.open(io.BytesIO(row)).convert("RGB")) for row in data[:: self.image_stride]]
            pictures = np.stack(opened).transpose(0, 3, 1, 2)
        self._cache[camera, number] = pictures = np.ascontiguousarray(pictures)
        self._cached += pictures.nbytes
        while self._cached > self._cache_bytes and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return pictures

    def statistics(self, name: str) -> FeatureStatistics:
        """Return a feature's statistics from `meta/stats.json`, or computed where that has none of it."""
        path = self.path / "meta" / "stats.json"
        stored = read_json(path) if path.exists() else {}
        if isinstance(stored.get(name), dict) and set(FeatureStatistics.__dataclass_fields__) <= set(stored[name]):
            return FeatureStatistics.from_dict(stored[name], where=f"dataset: {path}: {name}")
        return feature_statistics(self.column(name).reshape(self.num_frames, -1))
