"""Reads LeRobot datasets v3.0 (ours or others'), as the format's own reader would: by names and indices.

Opening checks the metadata and the columns every dataset has; another column is read, and checked, when it is first
asked for, so one that nobody uses may be anything.  Each mistake is one InputError that names file and column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import InputError, nearest, problem
from toddle.core.reading import inside, read_json
from toddle.data.metadata import Camera, Episode, read_cameras, read_drawing, read_episodes, read_info, read_tasks
from toddle.data.parquet import read_columns
from toddle.data.pictures import TOLERANCE, Pictures, Size
from toddle.data.statistics import FeatureStatistics, feature_statistics

__all__ = ["Camera", "Episode", "LeRobotDataset"]

Array = NDArray[Any]
OWN_COLUMNS = ("index", "episode_index", "task_index", "frame_index", "timestamp")


class LeRobotDataset:
    """A dataset opened for reading: N rows, the episodes' one after another in the order of their numbers.

    episodes: where each lies; an episode is asked for by its place in this list.  cameras: their names.  features:
    the entries of info.json that are no pictures.  tasks: the sentences, in the order of their numbers.  render: how
    the pictures were drawn, None where that is not known; variation: how it differs between episodes.
    """

    def __init__(self, path: Path | str, *, cache_bytes: int = 2**30) -> None:
        """Open and check the dataset in the folder `path`; decoded pictures are kept up to `cache_bytes`."""
        self.path = Path(path)
        self.info = read_info(self.path)
        self.fps = float(self.info["fps"])
        self.image_stride = int(self.info.get("toddle", {}).get("image_stride", 1))
        self.render, self.variation = read_drawing(self.info)
        known = read_cameras(self.info)
        self.cameras, taken = tuple(known), {camera.key for camera in known.values()}
        self.features = {name: entry for name, entry in self.info["features"].items() if name not in taken}
        self._sentences = read_tasks(self.path)
        self.tasks = [self._sentences[number] for number in sorted(self._sentences)]
        self.episodes = read_episodes(self.path, self.info, known)
        self._columns: dict[str, Array] = {}
        self._find_rows()
        self._check_rows()
        self._pictures = Pictures(
            self.path,
            known,
            self.episodes,
            times=self.column("timestamp").astype(np.float64),
            fps=self.fps,
            stride=self.image_stride,
            place=self.stored_at,
            budget=cache_bytes,
        )

    # ---- opening -------------------------------------------------------------------------------------------------
    def _find_rows(self) -> None:
        """Find every episode's rows by the column `index`, in whichever files and order they are."""
        files = sorted((self.path / "data").glob("*/*.parquet"))
        if not files:
            raise InputError(f"dataset: {self.path / 'data'} holds no parquet files; copy or record the dataset again")
        self._files = [inside(self.path, file.relative_to(self.path), "dataset: data") for file in files]
        parts = [_numbers(read_columns(file, ["index"])["index"], "index", f"dataset: {file}") for file in self._files]
        self._file_starts = np.cumsum([0, *map(len, parts)])
        stored = np.concatenate(parts).reshape(-1)
        order = np.argsort(stored, kind="stable")
        sorted_index = stored[order]
        wanted = np.concatenate([e.first_index + np.arange(e.length) for e in self.episodes])
        low, high = (np.searchsorted(sorted_index, wanted, side=side) for side in ("left", "right"))
        if (bad := np.flatnonzero(high - low != 1)).size:
            row = int(bad[0])
            episode, got = self.episodes[self.places([row])[0]], int((high - low)[row])
            remedy = "copy or record the dataset again"
            if not episode.file.exists():
                raise InputError(f"dataset: {episode.file} is missing; {remedy}")
            where = f"dataset: {episode.file}: episode {episode.index}"
            raise problem(where, f"one row with index {wanted[row]}", got, remedy)
        self._rows = order[low]
        self._in_order = bool((np.diff(self._rows) > 0).all())

    def _check_rows(self) -> None:
        """Check the columns that every dataset has."""
        for name in OWN_COLUMNS:
            if self.column(name).ndim != 1:
                raise problem(
                    f"dataset: {self.path}: column '{name}'", "one number a row", str(self.column(name).shape)
                )
        numbers, place = np.array([e.index for e in self.episodes]), self.places(np.arange(self.num_frames))
        wrong = np.flatnonzero(self.column("episode_index") != numbers[place])
        if len(wrong):
            number, got = numbers[place[wrong[0]]], self.column("episode_index")[wrong[0]]
            raise problem(f"dataset: episode {number}: column 'episode_index'", str(number), got)
        unknown = sorted(set(np.unique(self.column("task_index")).tolist()) - set(self._sentences))
        if unknown:
            known = ", ".join(map(str, sorted(self._sentences)[:8]))
            raise problem(f"dataset: {self.path}: task_index", f"a number of meta/tasks.parquet ({known})", unknown[0])
        frame, seconds = self.column("frame_index").astype(np.float64), self.column("timestamp").astype(np.float64)
        starts = np.array([e.start for e in self.episodes])[place]
        skipped = frame - frame[starts] != np.arange(self.num_frames) - starts
        late = np.abs(seconds * self.fps - frame) > TOLERANCE
        for bad, name, expected in (
            (skipped, "frame_index", frame[starts] + np.arange(self.num_frames) - starts),
            (late, "timestamp", frame / self.fps),
        ):
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                where = f"dataset: episode {numbers[place[row]]}: {name}: row {row - starts[row]}"
                remedy = f"{self.fps:g} rows a second; leave the episode out or mend its times"
                raise problem(where, f"{expected[row]:g}", float(self.column(name)[row]), remedy)

    # ---- numbers -------------------------------------------------------------------------------------------------
    @property
    def num_frames(self) -> int:
        """Rows of the dataset."""
        return self.episodes[-1].stop

    @property
    def robot_type(self) -> str | None:
        """The body that was recorded, where the dataset says."""
        found = self.info.get("robot_type")
        return str(found) if found else None

    def names(self, feature: str) -> tuple[str, ...] | None:
        """Return the names of a feature's numbers, where info.json has them."""
        found = self.info["features"].get(feature, {}).get("names")
        if isinstance(found, dict):  # {"motors": [...]}
            parts = [part for part in found.values() if isinstance(part, list)]
            found = parts[0] if len(parts) == 1 else None
        return tuple(map(str, found)) if isinstance(found, list) and found else None

    def places(self, rows: Array | Sequence[int]) -> NDArray[np.int64]:
        """Return in which episode (its place in `episodes`) each row lies, of the same shape."""
        return np.searchsorted([episode.stop for episode in self.episodes], np.asarray(rows), side="right")

    def column(self, name: str) -> Array:
        """Return a column over all rows, (N,) where a row is one number, else (N, ...).

        Raises InputError when the dataset has none of that name, or a row is no finite numbers of the stated shape.
        """
        if name not in self._columns:
            if name not in self.features:
                raise problem("dataset column", f"a column of {self.path}", name, nearest(name, self.features))
            parts = []
            for file in self._files:
                where = f"dataset: {file}"
                part = _numbers(read_columns(file, [name])[name], name, where)
                parts.append(_shaped(part, self.features[name]["shape"], name, where))
            column = np.concatenate(parts)
            column = column if self._in_order and len(column) == len(self._rows) else column[self._rows]
            self._columns[name] = self._finite(name, column)
        return self._columns[name]

    def _finite(self, name: str, column: Array) -> Array:
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            bad = ~np.isfinite(column.reshape(len(column), -1)).all(axis=1)
            row = int(np.flatnonzero(bad)[0])
            [(file, [line])] = self.stored_at(np.array([row]))
            episode = self.episodes[self.places([row])[0]].index
            where = f"dataset: {file}: column '{name}' is not finite at row {line}"
            raise InputError(f"{where} (episode {episode}); leave the episode out")
        return column

    def vector(self, name: str) -> Array:
        """Return a column of one list of numbers a row as (N, size).  Raises InputError for another shape."""
        column = self.column(name)
        if column.ndim > 2:
            raise problem(f"dataset: column '{name}'", "one dimension a row", f"{column.ndim - 1}: {column.shape[1:]}")
        return column.reshape(self.num_frames, -1)

    def stored_at(self, rows: Array) -> list[tuple[Path, Array]]:
        """Return file and rows in it of rows of the dataset, in their order, neighbours of one file together."""
        stored = self._rows[rows]
        files = np.searchsorted(self._file_starts, stored, side="right") - 1
        cuts = np.flatnonzero(np.diff(files)) + 1
        return [
            (self._files[part[0]], lines - self._file_starts[part[0]])
            for part, lines in zip(np.split(files, cuts), np.split(stored, cuts), strict=True)
            if len(lines)
        ]

    def episode(self, place: int) -> dict[str, Array]:
        """Return the columns of numbers of one episode, (T,) or (T, ...)."""
        rows = slice(self.episodes[place].start, self.episodes[place].stop)
        numeric = [name for name, entry in self.features.items() if entry["dtype"] not in ("string", "language")]
        return {name: self.column(name)[rows] for name in numeric}

    def task_of(self, row: int) -> str:
        """Return the sentence of a row."""
        return self._sentences[int(self.column("task_index")[row])]

    def statistics(self, name: str) -> FeatureStatistics:
        """Return a feature's statistics from `meta/stats.json`, or computed where that has none of it."""
        path = self.path / "meta" / "stats.json"
        stored = read_json(path, finite=False).get(name) if path.exists() else None
        if isinstance(stored, dict) and set(FeatureStatistics.__dataclass_fields__) <= set(stored):
            return FeatureStatistics.from_dict(stored, where=f"dataset: {path}: {name}")
        return feature_statistics(self.column(name).reshape(self.num_frames, -1))

    # ---- pictures ------------------------------------------------------------------------------------------------
    def picture_size(self, *cameras: str) -> Size:
        """Return height and width that hold the pictures of these cameras.

        Raises InputError for an unknown camera, one whose pictures cannot be read, or one of depth.
        """
        for camera in cameras:
            if camera not in self.cameras:
                raise problem("dataset camera", f"a camera of {self.path}", camera, nearest(camera, self.cameras))
        sizes = [self._pictures.size(camera) for camera in cameras]
        return max(height for height, _ in sizes), max(width for _, width in sizes)

    @property
    def num_pictures(self) -> int:
        """New pictures of each camera."""
        return sum(map(self._pictures.count, range(len(self.episodes))))

    def picture_rows(self) -> NDArray[np.int64]:
        """Return the rows at which pictures are new."""
        return np.concatenate([np.arange(e.start, e.stop, self.image_stride) for e in self.episodes])

    def images(self, camera: str, rows: Array) -> Array:
        """Return the pictures of a camera at rows of the dataset (any order): (n, 3, H, W) uint8."""
        height, width = self.picture_size(camera)
        rows = np.asarray(rows, dtype=np.int64)
        if not len(rows):
            raise problem("rows", "at least one row", 0)
        result = np.empty((len(rows), 3, height, width), np.uint8)
        place = self.places(rows)
        for number in np.unique(place):
            chosen = place == number
            wanted = (rows[chosen] - self.episodes[number].start) // self.image_stride
            result[chosen] = self._pictures.at(camera, int(number), wanted)
        return result

    def stream(self, camera: str, first: int = 0) -> Iterator[Array]:
        """Yield the new pictures (3, H, W) of all episodes in their order, from number `first`, each decoded once."""
        self.picture_size(camera)
        return self._pictures.stream(camera, first)


def _numbers(column: Any, name: str, where: str) -> Array:
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "fiub":
        raise problem(f"{where}: column '{name}'", "numbers, as many in every row", "text, or lists of several lengths")
    return column


def _shaped(column: Array, shape: list[int], name: str, where: str) -> Array:
    """Return the column in the shape of info.json: [1] is a number, [n] a list of n, [n, m] lists of lists."""
    wanted = () if list(shape) in ([1], []) else tuple(shape)
    rows = len(column)
    if (
        column.shape[1:] != wanted
        and column.size == rows * int(np.prod(wanted))
        and column.ndim <= 2
        and len(wanted) < 2
    ):
        column = column.reshape(rows, *wanted)  # [1] as a list of one
    if column.shape[1:] != wanted:
        raise InputError(f"{where}: column '{name}' has shape {column.shape}, expected {(rows, *wanted)}")
    return column
