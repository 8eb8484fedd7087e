"""Training samples, compared with slices written out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.windows import INTERVENTION, WindowDataset

LENGTHS = (10, 7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    """Actions count 1, 2, 3, ... over the rows of the dataset; the state is ten times that, twice."""
    path = tmp_path_factory.mktemp("windows")
    features = {"observation.state": Feature(size=2), "action": Feature(size=1)}
    spec = DatasetSpec(
        fps=10, features=features, cameras={"eye": (16, 16)}, robot_type="arm", images="image", image_stride=2
    )
    with DatasetWriter(path, spec) as writer:
        first = 1
        for index, length in enumerate(LENGTHS):
            count = np.arange(first, first + length, dtype=np.float32)
            shades = (count[::2] * 5).astype(np.uint8)[:, None, None, None]
            images = np.broadcast_to(shades, (len(shades), 3, 16, 16))
            columns = {"observation.state": np.stack([count * 10, count * 10], 1), "action": count}
            writer.add_episode(columns, {"eye": images}, f"task {index}")
            first += length
    return LeRobotDataset(path)


def test_a_sample_in_the_middle(data: LeRobotDataset) -> None:
    windows = WindowDataset(data, horizon=3, history=3, stride=2, cameras=("eye",))
    assert windows.rows.tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16]  # every new picture, both episodes
    sample = windows[3]  # row 6: actions 7, 8, 9
    assert sample["rows"].tolist() == [2, 4, 6]
    assert sample["proprio"][:, 0].tolist() == [30, 50, 70]
    assert sample["previous_action"][..., 0].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert sample["action"][:, 0].tolist() == [7, 8, 9]
    assert sample["valid"].all()
    assert sample["action_valid"].all()
    assert sample["images"].shape == (3, 1, 3, 16, 16)
    assert sample["images"][:, 0, 0, 0, 0].tolist() == [15, 25, 35]
    assert sample["instruction"] == "task 0"


def test_nothing_crosses_an_episodes_border(data: LeRobotDataset) -> None:
    windows = WindowDataset(data, horizon=4, history=2, stride=2)
    start = windows[5]  # row 10, the first of the second episode, whose action is 11
    assert start["rows"].tolist() == [10, 10]
    assert start["valid"].tolist() == [False, True]
    assert start["previous_action"][..., 0].tolist() == [[0, 0], [0, 0]]
    end = windows[4]  # row 8 of the first episode: actions 9, 10, then none
    assert end["action"][:, 0].tolist() == [9, 10, 10, 10]
    assert end["action_valid"].tolist() == [True, True, False, False]
    whole = WindowDataset(data, horizon=4, keep_tail=False)
    assert all(whole[i]["action_valid"].all() for i in range(len(whole)))
    assert whole.rows.tolist() == [0, 2, 4, 6, 10, 12]


def test_episodes_can_be_chosen_and_batches_stack(data: LeRobotDataset) -> None:
    windows = WindowDataset(data, horizon=3, history=2, episodes=[1])
    assert windows.rows.tolist() == [10, 12, 14, 16]
    batch = next(iter(torch.utils.data.DataLoader(windows, batch_size=4)))
    assert batch["action"].shape == (4, 3, 1)
    assert batch["instruction"] == ["task 1"] * 4


def test_held_pictures_are_not_paired_with_later_rows(data: LeRobotDataset) -> None:
    with pytest.raises(InputError, match="multiple of the dataset's image_stride 2"):
        WindowDataset(data, horizon=3, stride=3)
    with pytest.raises(InputError, match="horizon"):
        WindowDataset(data, horizon=0)
    with pytest.raises(InputError, match="at least 50 rows"):
        WindowDataset(data, horizon=50, keep_tail=False)


def test_of_interventions_the_persons_steps_alone_are_learned_from(tmp_path: Path) -> None:
    features = {name: Feature(size=1) for name in ("observation.state", "action")}
    spec = DatasetSpec(
        fps=10, features=features | {INTERVENTION: Feature(size=1, dtype="bool")}, cameras={}, robot_type="arm"
    )
    with DatasetWriter(tmp_path, spec) as writer:
        for said in ("..PPPP..PP", "PP.....", "......"):  # two episodes that meet in a person's hands, one without
            count, acted = np.arange(len(said), dtype=np.float32), np.array([letter == "P" for letter in said])
            writer.add_episode({"observation.state": count, "action": count, INTERVENTION: acted}, {}, "do it")
    dataset = LeRobotDataset(tmp_path)
    windows = WindowDataset(dataset, horizon=3, person=True)
    assert windows.rows.tolist() == [2, 3, 4, 5, 8, 9, 10, 11]
    valid = [(sample["action"][sample["action_valid"], 0]).tolist() for sample in windows]
    assert valid == [[2, 3, 4], [3, 4, 5], [4, 5], [5], [8, 9], [9], [0, 1], [1]]  # nothing that the policy did
    assert windows[0]["previous_action"].tolist() == [[[1.0]]]  # but what it did before is seen
    assert WindowDataset(dataset, horizon=3, person=True, reaction=2).rows.tolist() == [4, 5]
    assert len(WindowDataset(dataset, horizon=3)) == 23
    with pytest.raises(InputError, match="expected a decision that a person made"):
        WindowDataset(dataset, horizon=3, person=True, episodes=[2])
