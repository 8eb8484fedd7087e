"""Small LeRobot datasets on disk: one of a toy body by our writer, and ones as other people's tools write them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.video import write_video

LENGTHS = (9, 6, 8)
TASKS = ("open the drawer", "press the red button", "open the drawer")


def write_toy_dataset(folder: Path, *, seed: int = 0, tasks: tuple[str, str, str] = TASKS, **changes: Any) -> Path:
    """States are 5 numbers, actions 3, one camera "close" of 32 x 32 pixels, 20 rows a second.

    `changes` are of the DatasetSpec; an episode's sentence is of `tasks`.
    """
    rng = np.random.default_rng(seed)
    spec = DatasetSpec(
        **{
            "fps": 20,
            "features": {"observation.state": Feature(size=5), "action": Feature(size=3)},
            "robot_type": "toy",
            "cameras": {"close": (32, 32)},
            "images": "image",
            "image_stride": 2,
            **changes,
        }
    )
    state, action = (spec.features[name].size for name in ("observation.state", "action"))
    with DatasetWriter(folder, spec) as writer:
        for number, (length, task) in enumerate(zip(LENGTHS, tasks)):
            columns = {
                "observation.state": rng.normal(size=(length, state)).astype(np.float32),
                "action": rng.uniform(-1, 1, (length, action)).astype(np.float32),
            }
            pictures = rng.integers(0, 256, (-(-length // 2), 3, 32, 32), dtype=np.uint8)
            writer.add_episode(columns, {"close": pictures}, task, {"env": f"toy/{task[:4]}", "seed": number})
    return folder


# ---- datasets of others, written with pyarrow and PIL alone ---------------------------------------------------------
EPISODES = (5, 1, 7, 4)
"""Rows of the foreign dataset's episodes; the third lies in two files of rows."""
CUTS = (9, 17)
"""Rows at which a file of rows ends."""


def state_of(rows: Any) -> Any:
    """The state (N, 3) of rows by their `index`, in degrees."""
    return np.stack([rows * 10.0, -rows * 1.5, np.full(len(rows), 45.0)], 1).astype(np.float32)


def action_of(rows: Any) -> Any:
    """The action (N, 2), in millimetres."""
    return np.stack([rows * 30.0 - 200.0, 7.0 * (rows % 3)], 1).astype(np.float32)


def picture_of(row: int, height: int, width: int) -> Any:
    """A picture (H, W, 3) that tells its row."""
    ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([1, 2, 3])
    return ((ramp + 11 * row) % 256).astype(np.uint8)


def png(array: Any) -> dict[str, Any]:
    """An embedded picture, as the datasets library stores it."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_foreign_dataset(
    folder: Path,
    *,
    fps: float = 12.5,
    robot: str | None = "other arm",
    pictures: dict[str, Callable[[int], Any]] | None = None,
    columns: dict[str, tuple[dict[str, Any], Callable[[Any], pa.Array]]] | None = None,
    task_numbers: tuple[int, int] = (0, 1),
    tasks: str = "index",
    info: dict[str, Any] | None = None,
    videos: bool = False,
) -> Path:
    """Two sentences by turns; `pictures`: feature key -> row -> picture; `columns`: further columns with their entry.

    tasks: "index" (pandas' unnamed index), "task" (an index of that name), "reversed" (rows in the other order).
    """
    total, frame = sum(EPISODES), np.concatenate([np.arange(n) for n in EPISODES])
    index, number = np.arange(total), np.repeat(np.arange(len(EPISODES)), EPISODES)
    features: dict[str, Any] = {
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "frame_index": {"dtype": "int64", "shape": [1], "names": None},
        "episode_index": {"dtype": "int64", "shape": [1], "names": None},
        "index": {"dtype": "int64", "shape": [1], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
        "action": {"dtype": "float32", "shape": [2], "names": ["slide", "grip"]},
    }
    table: dict[str, Any] = {
        "action": pa.FixedSizeListArray.from_arrays(action_of(index).reshape(-1), 2),
        "observation.state": pa.array(state_of(index).tolist(), pa.list_(pa.float32())),
        "timestamp": pa.array((frame / fps).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(number),
        "index": pa.array(index),
        "task_index": pa.array(np.array(task_numbers)[number % 2]),
    }
    for name, (entry, make) in (columns or {}).items():
        features[name], table[name] = entry, make(index)
    row: dict[str, Any] = {}
    for key, draw in (pictures or {}).items():
        shown = [draw(int(i)) for i in index]
        height, width = shown[0].shape[:2]
        features[key] = {"dtype": "video" if videos else "image", "shape": [3, height, width]}
        features[key]["names"] = ["channels", "height", "width"]
        if videos:
            start = np.cumsum([0, *EPISODES[:-1]]) / fps
            row |= {f"videos/{key}/chunk_index": [0] * 4, f"videos/{key}/file_index": [0] * 4}
            row |= {
                f"videos/{key}/from_timestamp": start,
                f"videos/{key}/to_timestamp": start + np.array(EPISODES) / fps,
            }
            path = folder / "videos" / key / "chunk-000" / "file-000.mp4"
            write_video(path, (frame.transpose(2, 0, 1) for frame in shown), fps)
        else:
            table[key] = pa.array([png(picture) for picture in shown])
    for part, (low, high) in enumerate(zip((0, *CUTS[:-1]), CUTS, strict=True)):
        file = folder / f"data/chunk-00{part}/file-000.parquet"  # a chunk of its own for each
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table).slice(low, high - low), file, row_group_size=4)
    stops = np.cumsum(EPISODES)
    row |= {
        "dataset_to_index": stops,
        "dataset_from_index": stops - np.array(EPISODES),
        "episode_index": np.arange(len(EPISODES)),
        "length": np.array(EPISODES),
        "tasks": [[("push", "pull")[n % 2]] for n in range(len(EPISODES))],
        "data/chunk_index": [0, 0, 1, 1],
        "data/file_index": [0] * 4,
    }
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    pq.write_table(pa.table(row), folder / "meta/episodes/chunk-000/file-000.parquet")
    _write_tasks(folder / "meta/tasks.parquet", task_numbers, tasks)
    facts = {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_episodes": len(EPISODES),
        "total_frames": total,
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": "0:4"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if videos else None,
        "features": features,
    }
    (folder / "meta/info.json").write_text(json.dumps(facts | (info or {})))
    return folder


def _write_tasks(path: Path, numbers: tuple[int, int], kind: str) -> None:
    name = "__index_level_0__" if kind == "index" else "task"
    rows = [("push", numbers[0]), ("pull", numbers[1])][:: -1 if kind == "reversed" else 1]
    table = pa.table({"task_index": [number for _, number in rows], name: [sentence for sentence, _ in rows]})
    pandas = {
        "index_columns": [name],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
            {"name": None if kind == "index" else "task", "field_name": name, "pandas_type": "unicode"}
            | {"numpy_type": "object"},
        ],
        "pandas_version": "2.2.0",
    }
    for column in pandas["columns"]:
        column["metadata"] = None  # type: ignore[index]
    pq.write_table(table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()}), path)
