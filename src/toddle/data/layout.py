"""The layout of a LeRobot dataset v3.0 on disk, as its writer and its reader here share it.

    meta/info.json                            features, frames per second, totals
    meta/stats.json                           statistics of every feature (`data.statistics`)
    meta/tasks.parquet                        sentence (index) -> task_index
    meta/episodes/chunk-000/file-000.parquet  one row an episode: where its rows and pictures lie, its statistics
    data/chunk-000/file-000.parquet           one row a control step
    videos/<camera>/chunk-000/file-000.mp4    one picture a row (feature type "video"; "image" embeds PNG in the rows)

Source: lerobot 0.4.4, `datasets/utils.py` and `datasets/lerobot_dataset.py` (Apache-2.0), read, not copied.  Here each
episode has files of its own, which the format allows: a file is complete as soon as it is there.
`info.json` holds one key of ours, `toddle`: {"image_stride": k}, pictures are new every k rows and held between, and
where it is known how the pictures were drawn, {"render": ..., "variation": ...} (`core.rendering`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from toddle.core.config import to_dict
from toddle.core.errors import InputError, problem
from toddle.core.rendering import RenderSettings, RenderVariation
from toddle.data.video import video_info

__all__ = [
    "DEFAULT_FEATURES",
    "FILES_PER_CHUNK",
    "IMAGE_PREFIX",
    "VERSION",
    "DatasetSpec",
    "Feature",
    "check_column",
    "data_path",
    "episodes_path",
    "video_path",
]

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
IMAGE_PREFIX = "observation.images."
DEFAULT_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
"""Columns that every dataset has: seconds since the episode began, place in it, its number, place in all, sentence."""

_NAME = "chunk-{chunk:03d}/file-{file:03d}"


def _numbered(root: Path, number: int, pattern: str) -> Path:
    return root / pattern.format(chunk=number // FILES_PER_CHUNK, file=number % FILES_PER_CHUNK)


def data_path(root: Path, number: int) -> Path:
    """Return the file of rows of that number (chunks count up after 1000 files)."""
    return _numbered(root, number, f"data/{_NAME}.parquet")


def video_path(root: Path, key: str, number: int) -> Path:
    """Return the video file of that number."""
    return _numbered(root / "videos" / key, number, f"{_NAME}.mp4")


def episodes_path(root: Path, number: int) -> Path:
    """Return the file of episode rows of that number."""
    return _numbered(root, number, f"meta/episodes/{_NAME}.parquet")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of numbers: its type, its size (a row is (size,), or a scalar where size is 1) and their names."""

    size: int
    dtype: Literal["float32", "float64", "int64", "bool"] = "float32"
    names: tuple[str, ...] | None = None

    def to_info(self) -> dict[str, Any]:
        """Return the entry in `info.json`."""
        return {"dtype": self.dtype, "shape": [self.size], "names": list(self.names) if self.names else None}


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a new dataset holds.  Cameras are named without the prefix `observation.images.`."""

    fps: float  # rows a second
    features: dict[str, Feature]
    cameras: dict[str, tuple[int, int]]  # camera -> (height, width)
    robot_type: str
    images: Literal["video", "image"] = "video"
    image_stride: int = 1  # a picture is new every so many rows
    render: RenderSettings | None = None  # how pictures were drawn; None: not known, or no drawing at all
    variation: RenderVariation | None = None  # and how that differs between episodes

    def __post_init__(self) -> None:
        """Raise InputError for what the format cannot hold."""
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise problem("fps", "a number above 0", self.fps)
        if self.image_stride < 1:
            raise problem("image_stride", "at least 1", self.image_stride)
        for name in (*self.features, *self.cameras):
            if "/" in name:
                raise problem("feature", "a name without '/'", name)
        clash = sorted(set(self.features) & set(DEFAULT_FEATURES))
        if clash:
            raise problem("feature", "a name other than the format's own columns", clash[0])
        for camera, size in self.cameras.items():
            if min(size) < 8 or any(side % 2 for side in size):
                raise problem(f"camera {camera}", "an even height and width of at least 8", str(size))

    def to_info(self) -> dict[str, Any]:
        """Return `info.json` of the dataset while it is empty."""
        rate = int(self.fps) if float(self.fps).is_integer() else self.fps
        features = {name: feature.to_info() for name, feature in self.features.items()}
        for camera, (height, width) in self.cameras.items():
            entry: dict[str, Any] = {
                "dtype": self.images,
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
            }
            if self.images == "video":
                entry["info"] = video_info(height, width, rate)
            features[IMAGE_PREFIX + camera] = entry
        ours: dict[str, Any] = {"image_stride": self.image_stride}
        if self.render is not None:
            ours["render"] = to_dict(self.render)
            if self.variation not in (None, RenderVariation()):
                ours["variation"] = to_dict(self.variation)
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            "total_episodes": 0,
            "total_frames": 0,
            "total_tasks": 0,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": rate,
            "splits": {},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
            if self.images == "video" and self.cameras
            else None,
            "features": features | DEFAULT_FEATURES,
            "toddle": ours,
        }


def check_column(name: str, column: np.ndarray[Any, Any], size: int, rows: int, where: str) -> None:
    """Raise InputError, naming file and column, unless the column has `rows` rows of `size` finite numbers."""
    shape = (rows,) if size == 1 else (rows, size)
    if column.shape != shape:
        raise InputError(f"{where}: column '{name}' has shape {column.shape}, expected {shape}")
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row = int(np.argwhere(~np.isfinite(column.reshape(rows, -1)).all(axis=1))[0, 0])
        raise InputError(f"{where}: column '{name}' is not finite at row {row}; leave the episode out")
