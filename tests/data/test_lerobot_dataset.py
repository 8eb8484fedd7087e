"""Datasets on disk: read back by toddle, by pyarrow and PyAV alone, after kills, and when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toddle.core.errors import InputError
from toddle.data import lerobot_writer, pictures
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.parquet import read_pictures, write_columns

LENGTHS = (9, 14, 5)
STATE, ACTION, STRIDE, SIDE = 6, 3, 4, 32


def spec(images: Literal["video", "image"] = "video", cameras: int = 1) -> DatasetSpec:
    features = {
        "observation.state": Feature(size=STATE),
        "action": Feature(size=ACTION, names=("x", "y", "grip")),
        "next.reward": Feature(size=1),
        "next.success": Feature(size=1, dtype="bool"),
    }
    views = dict(zip(("front", "wrist")[:cameras], ((SIDE, SIDE), (16, 24))))
    return DatasetSpec(fps=20, features=features, cameras=views, robot_type="arm", images=images, image_stride=STRIDE)


def episode(number: int, of: DatasetSpec) -> tuple[dict[str, Any], dict[str, Any], str]:
    rng, rows = np.random.default_rng(number), LENGTHS[number % 3]
    columns = {
        "observation.state": rng.normal(size=(rows, STATE)).astype(np.float32),
        "action": rng.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        "next.reward": rng.normal(size=rows).astype(np.float32),
        "next.success": np.arange(rows) == rows - 1,
    }
    count = -(-rows // STRIDE)
    images = {}
    for camera, (height, width) in of.cameras.items():
        ramp = np.add.outer(np.arange(height), np.arange(width))[None, None] + 20 * number
        shade = np.arange(count)[:, None, None, None] * 9 + np.arange(3)[None, :, None, None] * 40
        images[camera] = ((ramp + shade) % 256).astype(np.uint8)
    return columns, images, f"task {number % 2}"


def write(path: Path, of: DatasetSpec, numbers: range = range(3), *, resume: bool = False) -> None:
    with DatasetWriter(path, of, resume=resume) as writer:
        for number in numbers:
            columns, images, task = episode(number, of)
            writer.add_episode(columns, images, task, {"seed": number, "env": "somewhere"})


@pytest.mark.parametrize(("images", "error"), [("video", 12), ("image", 0)])
def test_what_is_written_is_read(tmp_path: Path, images: Literal["video", "image"], error: int) -> None:
    of = spec(images, cameras=2)
    write(tmp_path, of)
    data = LeRobotDataset(tmp_path)
    assert (len(data.episodes), data.num_frames, data.fps, data.image_stride) == (3, sum(LENGTHS), 20, STRIDE)
    assert data.cameras == ("front", "wrist")
    for number in range(3):
        columns, pictures, task = episode(number, of)
        span = data.episodes[number]
        assert (span.task, span.facts["seed"], span.facts["env"]) == (task, number, "somewhere")
        found = data.episode(number)
        for name, column in columns.items():
            np.testing.assert_array_equal(found[name], column)
        np.testing.assert_allclose(found["timestamp"], np.arange(span.length) / 20, rtol=1e-6)
        for camera, picture in pictures.items():
            rows = np.arange(span.start, span.stop)[::-1]
            shown = data.images(camera, rows).astype(int)
            assert np.abs(shown - picture[np.arange(span.length)[::-1] // STRIDE]).max() <= error
    mixed = data.images("front", np.array([20, 3, 27]))  # rows of three episodes in one call
    np.testing.assert_array_equal(mixed[1], data.images("front", np.array([0]))[0])
    assert data.task_of(9) == "task 1"


def test_the_files_are_what_the_format_says(tmp_path: Path) -> None:
    write(tmp_path, spec())
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 28, 2)
    assert info["features"]["observation.images.front"]["dtype"] == "video"
    assert info["features"]["action"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    table = pq.read_table(tmp_path / "data/chunk-000/file-001.parquet")
    assert table.schema.field("action").type == pa.list_(pa.float32(), 3)
    assert table["index"].to_pylist() == list(range(9, 23))
    assert table["task_index"].to_pylist() == [1] * 14
    tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]
    row = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-002.parquet").to_pylist()[0]
    assert (row["dataset_from_index"], row["dataset_to_index"], row["length"], row["tasks"]) == (23, 28, 5, ["task 0"])
    assert row["videos/observation.images.front/file_index"] == 2
    video = tmp_path / "videos/observation.images.front/chunk-000/file-001.mp4"
    with av.open(str(video)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(np.array(times, float), np.arange(14) / 20, atol=1e-4)  # lerobot's own tolerance
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    actions = np.concatenate([episode(n, spec())[0]["action"] for n in range(3)])
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(actions.astype(float), 0.9, axis=0), rtol=1e-6)
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)


@pytest.mark.parametrize("killed_in", ["write_video", "write_columns", "write_json_atomic"])
def test_a_kill_loses_only_the_episode_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    write(tmp_path, spec(), range(2))

    def kill(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        writer = DatasetWriter(tmp_path, spec(), resume=True)
        patch.setattr(lerobot_writer, killed_in, kill)
        with pytest.raises(KeyboardInterrupt):
            writer.add_episode(*episode(2, spec()))
    assert len(LeRobotDataset(tmp_path).episodes) == 2
    write(tmp_path, spec(), range(2, 4), resume=True)
    whole = tmp_path / "whole"
    write(whole, spec(), range(4))
    resumed, straight = LeRobotDataset(tmp_path), LeRobotDataset(whole)
    for name in straight.features:
        np.testing.assert_array_equal(resumed.column(name), straight.column(name))
    assert json.loads((tmp_path / "meta/stats.json").read_text()) == json.loads((whole / "meta/stats.json").read_text())
    every = np.arange(straight.num_frames)
    np.testing.assert_array_equal(resumed.images("front", every), straight.images("front", every))


def test_a_folder_is_not_overwritten_and_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, spec())
    with pytest.raises(InputError, match="resume it"):
        DatasetWriter(tmp_path, spec())
    with pytest.raises(InputError, match="features"):
        DatasetWriter(tmp_path, spec(cameras=2), resume=True)


def test_wrong_episodes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    columns, images, task = episode(0, spec())
    with DatasetWriter(tmp_path, spec()) as writer:
        nan = columns | {"action": np.where(np.arange(9)[:, None] == 4, np.nan, columns["action"])}
        with pytest.raises(InputError, match=r"'action' is not finite at row 4"):
            writer.add_episode(nan, images, task)
        with pytest.raises(InputError, match=r"'action' has shape \(8, 3\), expected \(9, 3\)"):
            writer.add_episode(columns | {"action": columns["action"][:8]}, images, task)
        with pytest.raises(InputError, match=r"images of front.*\(3, 3, 32, 32\)"):
            writer.add_episode(columns, {"front": images["front"][:2]}, task)
        with pytest.raises(InputError, match="columns"):
            writer.add_episode({k: v for k, v in columns.items() if k != "action"}, images, task)
    with pytest.raises(InputError, match="at least one episode"):
        LeRobotDataset(tmp_path)


def rewrite(file: Path, **changes: Any) -> None:
    table = pq.read_table(file)
    for name, column in changes.items():
        name = name.replace("__", ".")
        place = table.schema.get_field_index(name)
        table = table.remove_column(place)
        if column is not None:
            table = table.append_column(name, column)
    pq.write_table(table, file)


DATA = "data/chunk-000/file-001.parquet"


def test_each_damage_is_one_line_that_names_the_place(tmp_path: Path) -> None:
    write(tmp_path, spec())
    original = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def damaged(expected: str) -> None:
        with pytest.raises(InputError, match=expected) as caught:
            LeRobotDataset(tmp_path).episode(0)
        assert "\n" not in str(caught.value)
        for path, content in original.items():
            path.write_bytes(content)
        LeRobotDataset(tmp_path)  # control: whole again

    file = tmp_path / DATA
    action = np.zeros((14, 3), np.float32)
    action[6, 1] = np.nan
    rewrite(file, action=pa.FixedSizeListArray.from_arrays(action.ravel(), 3))
    damaged(r"file-001.parquet: column 'action' is not finite at row 6")
    rewrite(file, action=pa.FixedSizeListArray.from_arrays(np.zeros(28, np.float32), 2))
    damaged(r"file-001.parquet: column 'action' has shape \(14, 2\), expected \(14, 3\)")
    rewrite(file, observation__state=None)
    damaged(r"file-001.parquet has no column 'observation.state'")
    file.write_bytes(original[file][:200])
    damaged("file-001.parquet is not a parquet file")
    file.unlink()
    damaged("file-001.parquet is missing")
    (tmp_path / "videos/observation.images.front/chunk-000/file-002.mp4").unlink()
    damaged("file-002.mp4 is missing")
    (tmp_path / "meta/info.json").write_text("{")
    damaged("info.json: not valid JSON")
    info = json.loads(original[tmp_path / "meta/info.json"])
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    damaged("codebase_version: expected v3.0, got 'v2.1'")
    (tmp_path / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 7}))
    damaged("expected 7 episodes, got 3")
    (tmp_path / "meta/episodes/chunk-000/file-000.parquet").unlink()
    damaged("expected 3 episodes, got 2")


def test_a_damaged_video_is_told_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, spec())
    video = tmp_path / "videos/observation.images.front/chunk-000/file-000.mp4"
    video.write_bytes(b"not a video")
    with pytest.raises(InputError, match=r"file-000\.mp4 is not a readable video"):
        LeRobotDataset(tmp_path).images("front", np.array([0]))
    with pytest.raises(InputError, match="did you mean 'front'"):
        LeRobotDataset(tmp_path).images("fron", np.array([0]))
    with pytest.raises(InputError, match="did you mean 'action'"):
        LeRobotDataset(tmp_path).column("actions")


@pytest.mark.parametrize(("room", "kept"), [(9, True), (8, False)])  # 3 + 4 + 2 pictures
def test_pictures_are_kept_where_all_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: bool
) -> None:
    write(tmp_path, spec())
    decoded: list[float] = []
    real = pictures.read_frames

    def counting(path: Path, times: Any, **options: Any) -> Any:
        decoded.extend(times)
        return real(path, times, **options)

    monkeypatch.setattr(pictures, "read_frames", counting)
    data = LeRobotDataset(tmp_path, cache_bytes=room * 3 * SIDE * SIDE)
    whole = data.images("front", np.arange(data.num_frames))
    once = len(decoded)
    assert once == 9 + 1  # the first one tells the size
    np.testing.assert_array_equal(data.images("front", np.array([20, 3])), whole[[20, 3]])
    assert len(decoded) - once == (0 if kept else 2)  # where they do not fit, no more than what is asked for


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"data_path": "../../../etc/{chunk_index}"}, "data_path"),
        ({"data_path": "data/{shard}.parquet"}, "data_path"),
        ({"data_path": "data/{0}.parquet"}, "data_path"),
        ({"data_path": 3}, "data_path"),
        ({"features": []}, "features"),
        ({"features": {"action": 3}}, "features: action"),
        ({"features": {"action": {"dtype": "float32", "shape": [-1]}}}, "shape"),
        ({"features": {"action": {"dtype": "float32", "shape": "3"}}}, "shape"),
        ({"total_frames": "many"}, "total_frames"),
        ({"total_episodes": None}, "total_episodes"),
        ({"fps": []}, "fps"),
    ],
)
def test_a_damaged_description_of_a_dataset(tmp_path: Path, change: dict[str, object], names: str) -> None:
    write(tmp_path / "data", spec("image"))
    path = tmp_path / "data" / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=names):
        LeRobotDataset(tmp_path / "data")


def test_cut_pictures_in_a_parquet_are_one_line(tmp_path: Path) -> None:
    """The footer is whole, what it points to is not."""
    file = tmp_path / "file.parquet"
    write_columns(file, {"picture": [bytes([number]) * 3000 for number in range(20)]})
    assert next(read_pictures(file, "picture", np.array([3])))["bytes"] == bytes([3]) * 3000
    whole = bytearray(file.read_bytes())
    whole[4:400] = bytes(396)
    file.write_bytes(whole)
    with pytest.raises(InputError, match="column 'picture' cannot be read"):
        next(read_pictures(file, "picture", np.array([3])))
