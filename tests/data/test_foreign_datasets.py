"""Datasets as other people's tools write them: opened with the right numbers, or refused by one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.tiny_dataset import (
    EPISODES,
    action_of,
    picture_of,
    state_of,
    write_foreign_dataset,
)

from toddle.core.errors import InputError
from toddle.data import pictures
from toddle.data.demonstrations import Demonstrations
from toddle.data.feature_cache import cache_dataset
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset, views

ROWS = np.arange(sum(EPISODES))
EYE = {"observation.images.eye": lambda row: picture_of(row, 16, 24)}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a parquet file's rows as lists."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    change(columns)
    kept = {name: pa.array(values, table.schema.field(name).type) for name, values in columns.items()}
    pq.write_table(pa.table(kept).replace_schema_metadata(table.schema.metadata), path)


@pytest.mark.parametrize("fps", [12.5, 29.97, 30])
def test_episodes_over_files_and_chunks_at_any_rate(tmp_path: Path, fps: float) -> None:
    data = LeRobotDataset(write_foreign_dataset(tmp_path, fps=fps, pictures=EYE))
    assert (data.fps, data.num_frames, data.robot_type) == (fps, 17, "other arm")
    assert [episode.length for episode in data.episodes] == list(EPISODES)
    np.testing.assert_array_equal(data.vector("observation.state"), state_of(ROWS))  # lists, and of fixed size
    np.testing.assert_array_equal(data.vector("action"), action_of(ROWS))
    assert [data.task_of(row) for row in (0, 5, 6, 13)] == ["push", "pull", "push", "pull"]
    assert (data.names("observation.state"), data.names("action")) == (("a", "b", "c"), ("slide", "grip"))
    shown = data.images("eye", ROWS[::-1])  # channels first by info.json, as PNG in the rows
    np.testing.assert_array_equal(shown, [picture_of(row, 16, 24).transpose(2, 0, 1) for row in ROWS[::-1]])
    np.testing.assert_allclose(data.statistics("action").max, action_of(ROWS).max(0))  # there is no stats.json


@pytest.mark.parametrize("fps", [12.5, 29.97])
def test_episodes_share_one_video(tmp_path: Path, fps: float) -> None:
    data = LeRobotDataset(write_foreign_dataset(tmp_path, fps=fps, pictures=EYE, videos=True))
    expected = np.stack([picture_of(row, 16, 24).transpose(2, 0, 1) for row in ROWS])
    smooth = np.abs(expected.astype(int) - data.images("eye", ROWS).astype(int)).mean((1, 2, 3))
    other = np.abs(expected[1:].astype(int) - data.images("eye", ROWS[:-1]).astype(int)).mean((1, 2, 3))
    assert smooth.max() < 6 < 9 < other.min()  # control: a frame beside is another picture


@pytest.mark.parametrize("kind", ["index", "task", "reversed"])
@pytest.mark.parametrize("numbers", [(0, 1), (40, 7)])
def test_sentences_go_by_their_numbers(tmp_path: Path, kind: str, numbers: tuple[int, int]) -> None:
    data = LeRobotDataset(write_foreign_dataset(tmp_path, tasks=kind, task_numbers=numbers))
    assert [data.task_of(row) for row in (0, 5, 6, 13)] == ["push", "pull", "push", "pull"]


def test_rows_in_another_order_are_found_by_their_index(tmp_path: Path) -> None:
    write_foreign_dataset(tmp_path, pictures=EYE)
    for file in sorted(tmp_path.glob("data/*/*.parquet")):
        table = pq.read_table(file)
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), file)
    edit(tmp_path / "meta/episodes/chunk-000/file-000.parquet", lambda row: [row[k].reverse() for k in row])
    data = LeRobotDataset(tmp_path)
    np.testing.assert_array_equal(data.vector("action"), action_of(ROWS))
    assert data.images("eye", np.array([11]))[0, 0, 0, 0] == picture_of(11, 16, 24)[0, 0, 0]
    assert [episode.index for episode in data.episodes] == [0, 1, 2, 3]


def test_columns_that_nobody_uses_may_be_anything(tmp_path: Path) -> None:
    """Several dimensions, text, lists of many lengths, NaN, nothing: harmless until asked for, then named."""
    ragged = [[1.0] * (i % 3) for i in ROWS]
    more: dict[str, Any] = {
        "grid": ({"dtype": "float32", "shape": [2, 3]}, lambda i: pa.array([[[n, 1, 2], [3, 4, 5]] for n in i])),
        "note": ({"dtype": "string", "shape": [1]}, lambda i: pa.array([f"row {n}" for n in i])),
        "ragged": ({"dtype": "float32", "shape": [2]}, lambda i: pa.array(ragged)),
        "force": ({"dtype": "float32", "shape": [1]}, lambda i: pa.array(np.where(i == 8, np.nan, 1.0))),
        "absent": ({"dtype": "float32", "shape": [2]}, lambda i: pa.array([None] * len(i), pa.list_(pa.float32()))),
        "short": ({"dtype": "float32", "shape": [3]}, lambda i: pa.array([[1.0, 2.0]] * len(i))),
    }
    data = LeRobotDataset(write_foreign_dataset(tmp_path, columns=more))
    assert len(Demonstrations([WindowDataset(data, horizon=3)])) == 17
    assert data.column("grid").shape == (17, 2, 3) and data.column("grid")[4, 0, 0] == 4
    for name, complaint in {
        "note": "text",
        "ragged": "as many in every row",
        "force": r"'force' is not finite at row 8 \(episode 2\)",
        "absent": "numbers",
        "short": r"shape \(9, 2\), expected \(9, 3\)",
    }.items():
        with pytest.raises(InputError, match=complaint):
            data.column(name)
    with pytest.raises(InputError, match="one dimension a row"):
        data.vector("grid")


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    """Per camera and per episode: all get one size, scaled to fit, with black beside them."""
    mixed = {
        "observation.images.wide": lambda row: picture_of(row, 16, 32),
        "observation.images.tall": lambda row: np.full((24, 12, 3) if row < 6 else (12, 6, 3), 10 * row, np.uint8),
    }
    data = LeRobotDataset(write_foreign_dataset(tmp_path, pictures=mixed))
    assert data.images("tall", ROWS).shape == (17, 3, 24, 12)
    assert (data.images("tall", np.array([9])) == 90).all()  # twice as large
    both = views(data, ("wide", "tall"), np.array([3]))
    assert both.shape == (1, 2, 3, 24, 32)
    np.testing.assert_array_equal(both[0, 0, :, 4:20], data.images("wide", np.array([3]))[0])
    assert (
        (both[0, 0, :, :4] == 0).all() and (both[0, 1, :, :, 10:22] == 30).all() and (both[0, 1, :, :, :10] == 0).all()
    )


def test_depth_is_harmless_until_it_is_asked_for(tmp_path: Path) -> None:
    depth = EYE | {"observation.images.depth": lambda row: np.full((16, 24), 300 * row, np.uint16)}
    data = LeRobotDataset(write_foreign_dataset(tmp_path, pictures=depth))
    assert data.cameras == ("eye", "depth") and data.images("eye", ROWS).shape == (17, 3, 16, 24)
    with pytest.raises(InputError, match=r"observation.images.depth: expected pictures of 8-bit colours, got .*depth"):
        data.picture_size("depth")
    info = json.loads((tmp_path / "meta/info.json").read_text())
    info["features"]["observation.images.eye"]["info"] = {"video.is_depth_map": True}
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match="a depth map"):
        LeRobotDataset(tmp_path).picture_size("eye")


def test_no_episode_is_decoded_twice_for_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cameras and room for nothing; stopped and gone on with in the middle of an episode."""
    two = EYE | {"observation.images.wrist": lambda row: picture_of(row + 3, 16, 24)}
    write_foreign_dataset(tmp_path / "data", pictures=two, videos=True)
    opened: list[str] = []
    real = pictures.read_frames
    monkeypatch.setattr(pictures, "read_frames", lambda p, t, **o: opened.append(f"{p}{t[0]:.3f}") or real(p, t, **o))
    seen: list[Any] = []

    def encode(images: torch.Tensor, sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        if len(seen) >= 8 and not going_on:
            raise KeyboardInterrupt
        seen.extend(images.numpy())
        return torch.zeros(len(images), 2, 3), torch.ones(len(images), 2, dtype=torch.bool)

    data, going_on = LeRobotDataset(tmp_path / "data", cache_bytes=1), False
    with pytest.raises(KeyboardInterrupt):
        cache_dataset(tmp_path, "f", data, ("eye", "wrist"), (2, 3), encode, batch=4)
    assert len(opened) == 2 + 2 * 3  # the size of each camera, and three episodes for each
    data, going_on = LeRobotDataset(tmp_path / "data", cache_bytes=1), True
    cache_dataset(tmp_path, "f", data, ("eye", "wrist"), (2, 3), encode, batch=4)
    assert len(seen) == 17
    for row in (0, 7, 8, 16):
        for camera, (name, picture) in enumerate(zip(("eye", "wrist"), seen[row], strict=True)):
            np.testing.assert_array_equal(picture, data.images(name, np.array([row]))[0], err_msg=f"{row} {camera}")


def test_times_that_are_off_by_a_frame_name_the_episode(tmp_path: Path) -> None:
    write_foreign_dataset(tmp_path, fps=10, pictures=EYE, videos=True)
    files = [*sorted(tmp_path.glob("data/*/*.parquet")), tmp_path / "meta/episodes/chunk-000/file-000.parquet"]
    whole = {file: file.read_bytes() for file in files}

    def refused(number: int, change: Callable[[dict[str, Any]], None], expected: str) -> None:
        edit(files[number], change)
        with pytest.raises(InputError, match=expected):
            LeRobotDataset(tmp_path).images("eye", ROWS)
        for file, content in whole.items():
            file.write_bytes(content)
        LeRobotDataset(tmp_path).images("eye", ROWS)  # control

    def late(columns: dict[str, Any]) -> None:
        columns["timestamp"] = [t + 0.1 * (e == 2) for t, e in zip(columns["timestamp"], columns["episode_index"])]

    def early_video(columns: dict[str, Any]) -> None:
        columns["videos/observation.images.eye/from_timestamp"][3] += 0.1

    def later_video(columns: dict[str, Any]) -> None:
        for end in ("from", "to"):
            columns[f"videos/observation.images.eye/{end}_timestamp"][3] += 0.1

    def skips(columns: dict[str, Any]) -> None:
        columns["frame_index"][2] = 3

    refused(0, late, "episode 2: timestamp: row 0: expected 0, got 0.1")
    refused(0, skips, "episode 0: frame_index: row 2: expected 2, got 3")
    refused(2, early_video, "episode 3: observation.images.eye: expected 4 pictures at 10 a second")
    refused(2, later_video, r"episode 3: .*has no picture at 1.700 s.*the nearest is at 1.600 s")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"codebase_version": "v2.1"}, "convert_dataset_v21_to_v30"),
        ({"codebase_version": "v2.0"}, "convert it to v2.1 with lerobot 0.3, then"),
        ({"codebase_version": "v4.0"}, "update toddle"),
        ({"codebase_version": "newest"}, "expected v3.0, got 'newest'"),
        ({"fps": 0}, "fps: expected a number above 0, got 0"),
        ({"fps": "30"}, "fps: expected a value of type int or float"),
        ({"total_episodes": 0}, "at least one episode"),
        ({"total_frames": 16}, "total_frames: expected 17, got 16"),
        ({"features": []}, "features: expected a value of type dict"),
        ({"toddle": {"image_stride": 0}}, "image_stride: expected a whole number, at least 1"),
        ({"video_path": "../{video_key}/{chunk_index}{file_index}.mp4"}, "expected a path inside"),
        ({"video_path": "{nothing}"}, "video_path: expected a template"),
        ({"video_path": None}, "video_path: expected a template"),
    ],
)
def test_metadata_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    write_foreign_dataset(tmp_path, pictures=EYE, videos=True, info=change)
    with pytest.raises(InputError, match=expected) as caught:
        LeRobotDataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_newer_minor_versions_open_as_they_do_elsewhere(tmp_path: Path) -> None:
    assert LeRobotDataset(write_foreign_dataset(tmp_path, info={"codebase_version": "v3.1"})).num_frames == 17


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("tasks", lambda c: c.update(task_index=[0, 0]), "each number once"),
        (
            "tasks",
            lambda c: c.update(task_index=[0, 5]),
            r"task_index: expected a number of meta/tasks.parquet \(0, 5\)",
        ),
        ("episodes", lambda c: c.update(length=[5, 1, 6, 4]), "episode 2: expected a length"),
        ("episodes", lambda c: c.update(dataset_from_index=[0, 5, 6, 99]), "episode 3: expected a length"),
        ("episodes", lambda c: c.update(episode_index=[0, 1, 1, 3]), "each number once"),
        (
            "data",
            lambda c: c.update(index=[0, 1, 2, 3, 4, 5, 6, 6, 8]),
            "episode 2: expected one row with index 6, got 2",
        ),
        (
            "data",
            lambda c: c.update(index=[0, 1, 2, 3, 99, 5, 6, 7, 8]),
            "episode 0: expected one row with index 4, got 0",
        ),
        ("data", lambda c: c.update(episode_index=[1] * 9), "episode 0: column 'episode_index': expected 0"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(
    tmp_path: Path, file: str, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    write_foreign_dataset(tmp_path)
    name = {"tasks": "meta/tasks.parquet", "episodes": "meta/episodes/chunk-000/file-000.parquet"}
    edit(tmp_path / name.get(file, "data/chunk-000/file-000.parquet"), change)
    with pytest.raises(InputError, match=expected) as caught:
        LeRobotDataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    write_foreign_dataset(tmp_path / "data")
    file = tmp_path / "data/data/chunk-000/file-000.parquet"
    file.rename(tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(InputError, match="expected a path inside"):
        LeRobotDataset(tmp_path / "data")
