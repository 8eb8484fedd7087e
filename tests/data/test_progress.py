"""Labels of datasets: where they end, what they are made of, the file that keeps them, and how episodes are split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.core.files import write_json_atomic
from toddle.core.seeding import numpy_generator
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.progress import (
    LabelConfig,
    LabelledEpisode,
    identity,
    label_episodes,
    label_file,
    labels_of,
    numbers_of,
    read_labels,
    split_episodes,
)

STEPS, STRIDE = 30, 2
REST = 12
"""The hand stands still in steps 12 to 15, so that 7 to 11 lead to a key frame."""


def speeds(rest: int = REST) -> np.ndarray:
    speed = np.full(STEPS, 0.02)
    speed[rest : rest + 4] = 0.0
    return speed


def write_progress_dataset(
    folder: Path,
    *,
    rests: tuple[int, ...] = (REST, REST, REST, REST),
    success: tuple[int | None, ...] | None = None,
    robot: str = "toy",
    seed: int = 0,
    leave: str = "",
) -> Path:
    """Four episodes of 30 steps (60 rows, a picture every second one) of two tasks.

    The hand moves 2 cm a step along x and rests once.  Pictures are bright where a step leads to that rest, so that
    they can be learned.  success: the row at which each episode is reported to have succeeded.
    """
    rng = np.random.default_rng(seed)
    features = {
        "observation.state": Feature(size=8),
        "observation.tool_position": Feature(size=3),
        "action": Feature(size=3),
    }
    if success is not None:
        features["next.success"] = Feature(size=1, dtype="bool")
    features.pop(leave, None)
    spec = DatasetSpec(
        fps=40,
        features=features,
        robot_type=robot,
        cameras={"close": (32, 32)},
        images="image",
        image_stride=STRIDE,
    )
    with DatasetWriter(folder, spec) as writer:
        for number, rest in enumerate(rests):
            position = np.repeat(np.concatenate([[0.0], np.cumsum(speeds(rest))[:-1]]), STRIDE)
            columns: dict[str, Any] = {
                "observation.state": rng.normal(size=(STRIDE * STEPS, 8)).astype(np.float32),
                "observation.tool_position": np.stack([position, 0 * position, 0 * position], 1).astype(np.float32),
                "action": rng.uniform(-1, 1, (STRIDE * STEPS, 3)).astype(np.float32),
            }
            columns["action"][:, 2] = np.repeat([-1.0, 1.0], STRIDE * STEPS // 2)  # the gripper: shut from step 15 on
            columns["observation.state"][:, 6] = 0.5
            if success is not None:
                at = success[number]
                columns["next.success"] = np.arange(STRIDE * STEPS) >= (STRIDE * STEPS if at is None else at)
            columns.pop(leave, None)
            bright = np.zeros(STEPS, bool)
            bright[rest - 5 : rest] = True
            pictures = rng.integers(0, 40, (STEPS, 3, 32, 32)) + 200 * bright[:, None, None, None]
            task = ("open the drawer", "press the red button")[number % 2]
            writer.add_episode(columns, {"close": pictures.astype(np.uint8)}, task, {"env": "toy", "seed": number})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return LeRobotDataset(write_progress_dataset(tmp_path_factory.mktemp("progress") / "data"))


def test_a_step_is_a_picture(data: LeRobotDataset) -> None:
    """40 rows a second, a picture every second row: 20 steps a second, 2 cm each: 0.4 m/s."""
    one = label_episodes(data, LabelConfig())[1]
    assert one.rows.tolist() == list(range(60, 120, 2)) and one.task == "press the red button"
    assert one.speed[:3] == pytest.approx(0.4) and one.speed[13] == 0.0
    assert one.keys.tolist() == [12] and np.flatnonzero(one.labels).tolist() == [7, 8, 9, 10, 11]
    assert one.to_success.tolist() == list(range(29, -1, -1))


def test_the_gripper_is_what_the_body_or_the_user_says(data: LeRobotDataset, tmp_path: Path) -> None:
    whole = [(0, 30)]
    assert label_episodes(data, LabelConfig())[0].segments == [(0, 15), (15, 30)]  # the action's last number
    assert label_episodes(data, LabelConfig(gripper=()))[0].segments == whole
    assert label_episodes(data, LabelConfig(gripper=("observation.state:6",)))[0].segments == whole  # never moves
    both = LabelConfig(gripper=("observation.state:6", "action:2"))
    assert label_episodes(data, both)[0].opening.shape == (30, 2)
    assert label_episodes(data, both)[0].segments == [(0, 15), (15, 30)]
    sawyer = LeRobotDataset(write_progress_dataset(tmp_path / "sawyer", robot="sawyer"))
    assert label_episodes(sawyer, LabelConfig())[0].segments == whole


def test_labels_end_with_success_and_failures_are_marked(tmp_path: Path) -> None:
    written = write_progress_dataset(tmp_path / "data", success=(50, 21, None, 59))
    found = label_episodes(LeRobotDataset(written), LabelConfig())
    assert [one.success for one in found] == [True, True, False, True]
    assert [len(one.rows) for one in found] == [26, 11, 30, 30]  # rows 0 to 50, 0 to 21, all, all
    assert [len(one.keys) for one in found] == [1, 0, 1, 1]  # the second succeeded before it rested


def test_a_part_of_a_column(data: LeRobotDataset) -> None:
    state = data.vector("observation.state")
    np.testing.assert_array_equal(numbers_of(data, "observation.state:0,-1"), state[:, [0, 7]])
    np.testing.assert_array_equal(numbers_of(data, "action"), data.vector("action"))
    for wrong in ("action:3", "action:x", "action:1,", "action:-4"):
        with pytest.raises(InputError, match=r"column 'action:.*': expected numbers from -3 to 2 after the colon"):
            numbers_of(data, wrong)
    with pytest.raises(InputError, match="did you mean 'action'"):
        numbers_of(data, "actoin:0")


def test_what_gives_no_labels_is_one_line(tmp_path: Path, data: LeRobotDataset) -> None:
    without = LeRobotDataset(write_progress_dataset(tmp_path / "without", leave="observation.tool_position"))
    with pytest.raises(InputError, match=r"label.path: expected a column of .*--label.path observation.state:0,1,2"):
        label_episodes(without, LabelConfig())
    state = LabelConfig(path="observation.state:0,1,2", still=0.9)
    assert len(label_episodes(without, state)) == 4
    quick = LabelConfig(path="observation.state:0,1,2", still=0.001)
    with pytest.raises(InputError, match=r"none in 4 successes'; at its slowest the hand has 0\.\d\d of its median"):
        label_episodes(without, quick)
    failed = write_progress_dataset(tmp_path / "failed", success=(None,) * 4)
    with pytest.raises(InputError, match=r"expected an episode that succeeded, got '4 without success'"):
        label_episodes(LeRobotDataset(failed), LabelConfig())
    with pytest.raises(InputError, match="still: expected a number above 0"):
        LabelConfig(still=0.0)


def test_a_file_keeps_labels_and_takes_those_made_by_hand(tmp_path: Path, data: LeRobotDataset) -> None:
    config = LabelConfig()
    episodes = label_episodes(data, config)
    path = tmp_path / "labels.json"
    content = label_file([labels_of(data, episodes, config)], config)
    write_json_atomic(path, content)
    again = read_labels(path, data, episodes)
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(again, episodes, strict=True))
    content["datasets"][0]["episodes"][0]["labels"] = [1] * 30
    write_json_atomic(path, content)
    assert read_labels(path, data, episodes)[0].labels.all()


def test_what_is_wrong_with_a_file_of_labels_is_one_line(tmp_path: Path, data: LeRobotDataset) -> None:
    config = LabelConfig()
    episodes = label_episodes(data, config)
    good, path = label_file([labels_of(data, episodes, config)], config), tmp_path / "labels.json"

    def refused(change: Any) -> str:
        content = json.loads(json.dumps(good))
        change(content)
        write_json_atomic(path, content)
        with pytest.raises(InputError) as error:
            read_labels(path, data, episodes)
        assert "\n" not in str(error.value)
        return str(error.value)

    def entry(content: Any) -> Any:
        return content["datasets"][0]["episodes"][1]

    assert "format: expected 1, got 2" in refused(lambda c: c.update(format=2))
    assert "labels of others" in refused(lambda c: c["datasets"][0].update(identity="0" * 16))
    assert "episode 1: labels: expected 30 of 0 and 1" in refused(lambda c: entry(c)["labels"].pop())
    assert "episode 1: labels: expected 30 of 0 and 1" in refused(lambda c: entry(c).update(labels=[2] * 30))
    assert "episode 1: it has no labels" in refused(lambda c: c["datasets"][0]["episodes"].pop(1))
    assert "episodes: labels: expected a value of type list" in refused(lambda c: entry(c).update(labels=1))
    assert "datasets: expected the keys" in refused(lambda c: c["datasets"][0].pop("identity"))
    with pytest.raises(InputError, match="does not exist"):
        read_labels(tmp_path / "none.json", data, episodes)


def test_a_copy_is_the_same_dataset_and_another_is_not(tmp_path: Path, data: LeRobotDataset) -> None:
    shutil.copytree(data.path, tmp_path / "copy")
    assert identity(LeRobotDataset(tmp_path / "copy")) == identity(data)
    assert identity(LeRobotDataset(write_progress_dataset(tmp_path / "other", seed=1))) != identity(data)


def test_whole_episodes_of_each_task_are_held_out(data: LeRobotDataset) -> None:
    episodes = label_episodes(data, LabelConfig())
    many = [replace(one, number=number) for number, one in enumerate([*episodes] * 5)]
    train, held = split_episodes(many, 0.25, numpy_generator(0, "split"))
    assert sorted(one.number for one in [*train, *held]) == list(range(20))
    for task in {one.task for one in many}:
        assert sum(one.task == task for one in held) == 2  # a quarter of ten, rounded
    assert [one.number for one in held] != [one.number for one in split_episodes(many, 0.25, numpy_generator(1))[1]]
    for share, count in ((0.0, 2), (1.0, 18)):  # at least one of each task, never all of them
        assert len(split_episodes(many, share, numpy_generator(0))[1]) == count
    failed = [replace(one, success=False) for one in many[:4]]
    assert not {id(one) for one in failed} & {
        id(one) for one in split_episodes([*many, *failed], 0.5, numpy_generator(0))[0]
    }
    alone: list[LabelledEpisode] = [episodes[0], episodes[1], episodes[2]]
    with pytest.raises(InputError, match="'press the red button': expected at least two successes"):
        split_episodes(alone, 0.25, numpy_generator(0))
