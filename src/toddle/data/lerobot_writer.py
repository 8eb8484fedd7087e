"""Writes LeRobot datasets v3.0 episode by episode: whatever kills the recording, finished episodes stay readable.

An episode's files are written first, each atomically, and `meta/info.json`, which counts the episodes, last: what was
under way is not counted, and resuming writes over it.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.reading import read_json
from toddle.core.rendering import FAST
from toddle.data.layout import (
    FILES_PER_CHUNK,
    IMAGE_PREFIX,
    DatasetSpec,
    check_column,
    data_path,
    episodes_path,
    video_path,
)
from toddle.data.parquet import read_columns, write_columns
from toddle.data.statistics import (
    FeatureStatistics,
    feature_statistics,
    image_statistics,
    merge_statistics,
)
from toddle.data.video import write_video

__all__ = ["DatasetWriter"]

Array = NDArray[Any]
STATISTICS_EVERY = 10
"""Episodes after which `meta/stats.json` is renewed (and when the writer is closed); from 100 episodes on it is renewed
when they are a tenth more, because it goes over all rows."""


class DatasetWriter:
    """Appends episodes to a dataset; also a context manager that closes it."""

    def __init__(self, path: Path, spec: DatasetSpec, *, resume: bool = False) -> None:
        """Begin a dataset in the folder `path`, or with `resume` go on with the one that is there.

        Raises InputError when a dataset is there and `resume` is False, or when its features differ from `spec`.
        """
        self.path, self.spec = Path(path), spec
        self._info = spec.to_info()
        self._tasks: dict[str, int] = {}
        self._columns: dict[str, list[Array]] = {}  # all rows so far, for exact statistics
        self._image_statistics: dict[str, list[FeatureStatistics]] = {camera: [] for camera in spec.cameras}
        if (self.path / "meta" / "info.json").exists():
            if not resume:
                raise problem("out", "a folder without a dataset", str(self.path), "resume it, or choose another")
            self._resume()
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json_atomic(self.path / "meta" / "info.json", self._info)

    def _resume(self) -> None:
        info = read_json(self.path / "meta" / "info.json", {"total_episodes": int})
        counts = ("total_episodes", "total_frames", "total_tasks", "splits")
        ours = self._info["toddle"]
        if "render" not in info.get("toddle", {}) and self.spec.render == FAST and "variation" not in ours:
            ours.pop("render")  # begun by an older toddle, which drew in no other way
        for key, expected in self._info.items():
            if key not in counts and info.get(key) != expected:
                raise problem(
                    f"out: {self.path}: {key}",
                    f"{expected!r}, as this recording has it",
                    repr(info.get(key)),
                    "choose another folder",
                )
        self._info = info
        for leftover in self.path.rglob(".*.*"):  # temporary files of a write that was killed
            leftover.unlink()
        if not self.num_episodes:
            return
        table = read_columns(self.path / "meta" / "tasks.parquet")
        self._tasks = dict(zip(table["__index_level_0__"], table["task_index"].tolist(), strict=True))
        for episode in range(self.num_episodes):
            for name, column in read_columns(data_path(self.path, episode), self._number_names()).items():
                self._columns.setdefault(name, []).append(column)
            row = read_columns(episodes_path(self.path, episode))
            for camera in self.spec.cameras:
                prefix = f"stats/{IMAGE_PREFIX}{camera}/"
                part = {key.removeprefix(prefix): row[key][0] for key in row if key.startswith(prefix)}
                self._image_statistics[camera].append(FeatureStatistics.from_dict(part))

    @property
    def num_episodes(self) -> int:
        """Episodes that are complete on disk."""
        return int(self._info["total_episodes"])

    @property
    def num_frames(self) -> int:
        """Rows that are complete on disk."""
        return int(self._info["total_frames"])

    def _number_names(self) -> list[str]:
        return [name for name, entry in self._info["features"].items() if entry["dtype"] not in ("video", "image")]

    def add_episode(
        self,
        columns: dict[str, Array],
        images: dict[str, Array],
        task: str,
        facts: dict[str, str | int | float | bool] | None = None,
    ) -> int:
        """Write one episode and return its number.

        `columns`: feature -> (T, size), or (T,) where size is 1.  `images`: camera -> (ceil(T / image_stride), 3, H, W)
        uint8.  `task`: the sentence.  `facts`: further entries of the episode's row, the same for every episode.
        Raises InputError, before anything is written, for a wrong shape, a missing or unknown column, or NaN.
        """
        rows = self._check(columns, images)
        number = self.num_episodes
        new_task = task not in self._tasks
        self._tasks.setdefault(task, len(self._tasks))
        frame = np.arange(rows, dtype=np.int64)
        table = {
            name: np.ascontiguousarray(columns[name], dtype=self._info["features"][name]["dtype"])
            for name in self.spec.features
        } | {
            "timestamp": (frame / self.spec.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(rows, number, np.int64),
            "index": frame + self.num_frames,
            "task_index": np.full(rows, self._tasks[task], np.int64),
        }
        statistics = {name: feature_statistics(column.reshape(rows, -1)) for name, column in table.items()}
        statistics |= {IMAGE_PREFIX + camera: image_statistics(images[camera]) for camera in self.spec.cameras}
        places = self._write_images(images, number, rows, table)
        write_columns(data_path(self.path, number), table)
        if new_task:
            numbers = np.arange(len(self._tasks), dtype=np.int64)
            tasks = {"task_index": numbers, "__index_level_0__": list(self._tasks)}
            write_columns(self.path / "meta" / "tasks.parquet", tasks, index="__index_level_0__")
        self._write_episode_row(number, rows, task, places, statistics, facts or {})
        for name in self._number_names():
            self._columns.setdefault(name, []).append(table[name])
        for camera in self.spec.cameras:
            self._image_statistics[camera].append(statistics[IMAGE_PREFIX + camera])
        if number % max(STATISTICS_EVERY, number // STATISTICS_EVERY) == 0:
            self._write_statistics()
        self._info |= {
            "total_episodes": number + 1,
            "total_frames": self.num_frames + rows,
            "total_tasks": len(self._tasks),
            "splits": {"train": f"0:{number + 1}"},
        }
        write_json_atomic(self.path / "meta" / "info.json", self._info)  # from here on the episode counts
        return number

    def _check(self, columns: dict[str, Array], images: dict[str, Array]) -> int:
        for kind, given, known in (("column", columns, self.spec.features), ("camera", images, self.spec.cameras)):
            if set(given) != set(known):
                raise problem(f"episode: {kind}s", ", ".join(sorted(known)) or "none", ", ".join(sorted(given)))
        rows = len(next(iter(columns.values())))
        if not rows:
            raise problem("episode", "at least one row", 0)
        for name, feature in self.spec.features.items():
            check_column(name, np.asarray(columns[name]), feature.size, rows, "episode")
        for camera, size in self.spec.cameras.items():
            shape = (-(-rows // self.spec.image_stride), 3, *size)
            if images[camera].shape != shape or images[camera].dtype != np.uint8:
                got = f"{images[camera].dtype} {images[camera].shape}"
                raise problem(f"episode: images of {camera}", f"uint8 {shape}", got)
        return rows

    def _write_images(
        self, images: dict[str, Array], number: int, rows: int, table: dict[str, Any]
    ) -> dict[str, int | float]:
        """Write the pictures, each held for `image_stride` rows; return the episode row's entries about them."""
        places: dict[str, int | float] = {}
        held = np.arange(rows) // self.spec.image_stride
        for camera in self.spec.cameras:
            key = IMAGE_PREFIX + camera
            if self.spec.images == "image":
                pictures = [_png(picture) for picture in images[camera]]
                table[key] = [pictures[index] for index in held]
                continue
            write_video(video_path(self.path, key, number), (images[camera][i] for i in held), self.spec.fps)
            places |= {
                f"videos/{key}/chunk_index": number // FILES_PER_CHUNK,
                f"videos/{key}/file_index": number % FILES_PER_CHUNK,
                f"videos/{key}/from_timestamp": 0.0,
                f"videos/{key}/to_timestamp": rows / self.spec.fps,
            }
        return places

    def _write_episode_row(
        self,
        number: int,
        rows: int,
        task: str,
        places: dict[str, int | float],
        statistics: dict[str, FeatureStatistics],
        facts: dict[str, Any],
    ) -> None:
        chunk, file = divmod(number, FILES_PER_CHUNK)
        row: dict[str, Any] = (
            {
                "episode_index": number,
                "tasks": [task],
                "length": rows,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": self.num_frames,
                "dataset_to_index": self.num_frames + rows,
                "meta/episodes/chunk_index": chunk,
                "meta/episodes/file_index": file,
            }
            | places
            | facts
        )
        for name, statistic in statistics.items():
            row |= {f"stats/{name}/{key}": value for key, value in statistic.to_dict().items()}
        write_columns(episodes_path(self.path, number), {key: [value] for key, value in row.items()})

    def _write_statistics(self) -> None:
        result = {
            name: feature_statistics(np.concatenate(columns).reshape(sum(map(len, columns)), -1)).to_dict()
            for name, columns in self._columns.items()
        }
        for camera, parts in self._image_statistics.items():
            result[IMAGE_PREFIX + camera] = merge_statistics(parts).to_dict()
        write_json_atomic(self.path / "meta" / "stats.json", result)

    def close(self) -> None:
        """Write the final statistics."""
        if self.num_episodes:
            self._write_statistics()

    def __enter__(self) -> DatasetWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, after an error too: the finished episodes are whole."""
        self.close()


def _png(picture: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
