"""The feature cache: equal to live features, resumable, refuses what is not its own."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone
from tests.tiny_dataset import write_toy_dataset
from torch.testing import assert_close

from toddle.core.errors import InputError
from toddle.data.demonstrations import Demonstrations
from toddle.data.feature_cache import FeatureCache, cache_dataset, dataset_key, picture_index
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return LeRobotDataset(write_toy_dataset(tmp_path_factory.mktemp("toy") / "data"))


def numbered(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    context = torch.arange(6.0).view(1, 2, 3) + 10.0 * torch.from_numpy(indices).view(-1, 1, 1)
    return context, torch.from_numpy(indices % 2 == 0)[:, None].expand(-1, 2)


def test_a_batch_of_cached_features_equals_live_ones(dataset: LeRobotDataset, tmp_path: Path) -> None:
    """Windows of history 2: each decision gets the features of its own picture and sentence (float16 on disk)."""
    backbone = tiny_backbone()
    shape = (backbone.tokens(1), backbone.width)
    cache = cache_dataset(tmp_path, backbone.fingerprint(), dataset, ("close",), shape, backbone.encode, batch=5)
    window = WindowDataset(dataset, horizon=4, history=2, stride=2)
    cached = Demonstrations([window], cameras=("close",), caches=[cache])
    live = Demonstrations([window], cameras=("close",))
    samples = np.array([0, 3, 7, len(window) - 1])
    seen, expected = cached.batch(samples), live.batch(samples)
    observation = expected["observation"]
    context, mask = backbone.encode(observation["images"].flatten(0, 1), observation["instruction"] * 2)
    assert_close(seen["observation"]["context"].flatten(0, 1), context, rtol=2e-3, atol=2e-3)
    assert torch.equal(seen["observation"]["context_mask"].flatten(0, 1), mask)
    for name in ("proprio", "previous_action", "first", "body"):
        assert torch.equal(seen["observation"][name], observation[name])
    assert torch.equal(seen["action"], expected["action"]) and torch.equal(seen["mask"], expected["mask"])


def test_batches_hold_the_demonstrations(dataset: LeRobotDataset) -> None:
    """Against the dataset's own columns: the window of row 2 of the second episode (rows 9 to 14)."""
    window = WindowDataset(dataset, horizon=4, history=2, stride=2)
    sample = int(np.flatnonzero(window.rows == 11)[0])
    batch = Demonstrations([window]).batch(np.array([sample]))
    state, action = dataset.column("observation.state"), dataset.column("action")
    assert np.array_equal(batch["observation"]["proprio"][:, 0].numpy(), state[[9, 11]])
    assert np.array_equal(batch["action"][0].numpy(), action[11:15])
    assert np.array_equal(batch["observation"]["previous_action"][1, 0].numpy(), action[9:11].ravel())
    assert batch["observation"]["first"][:, 0].tolist() == [True, False]
    assert batch["observation"]["instruction"] == ["press the red button"]
    start = Demonstrations([window]).batch(np.array([int(np.flatnonzero(window.rows == 9)[0])]))
    assert start["observation"]["first"][:, 0].tolist() == [False, True]  # the row before the episode is no episode


def test_pictures_are_held_between_rows(dataset: LeRobotDataset) -> None:
    rows = np.array([0, 1, 2, 8, 9, 10, 15, 22])  # episodes of 9, 6 and 8 rows hold 5, 3 and 4 pictures
    assert picture_index(dataset, rows).tolist() == [0, 0, 1, 4, 5, 5, 8, 11]


def test_filling_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    asked: list[int] = []

    def encode(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if len(asked) >= 8:
            raise KeyboardInterrupt
        asked.extend(indices.tolist())
        return numbered(indices)

    cache = FeatureCache.open(tmp_path / "c", count=11, tokens=2, width=3)
    with pytest.raises(KeyboardInterrupt):
        cache.fill(encode, batch=4)
    again = FeatureCache.open(tmp_path / "c", count=11, tokens=2, width=3)
    assert again.done == 8
    with pytest.raises(InputError, match="8 of 11"):
        again.load()
    asked.clear()
    again.fill(encode, batch=4)
    assert asked == [8, 9, 10]
    context, mask = again.load()
    expected, real = numbered(np.arange(11))
    assert np.array_equal(context, expected.numpy().astype(np.float16)) and np.array_equal(mask, real.numpy())
    again.fill(lambda indices: pytest.fail("nothing is missing"))


def test_damage_and_other_shapes_are_refused(tmp_path: Path) -> None:
    FeatureCache.open(tmp_path / "c", count=4, tokens=2, width=3).fill(numbered)
    with pytest.raises(InputError, match="delete it"):
        FeatureCache.open(tmp_path / "c", count=5, tokens=2, width=3)
    (tmp_path / "c" / "context.npy").write_bytes(b"short")
    with pytest.raises(InputError, match="cut short"):
        FeatureCache.open(tmp_path / "c", count=4, tokens=2, width=3)
    (tmp_path / "c" / "progress.json").write_text(json.dumps({"count": 4}))
    with pytest.raises(InputError, match="damaged"):
        FeatureCache.open(tmp_path / "c", count=4, tokens=2, width=3)


def test_features_that_overflow_float16_are_refused(tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path / "c", count=2, tokens=2, width=3)
    with pytest.raises(InputError, match="float16"):
        cache.fill(lambda indices: (numbered(indices)[0] * 1e6, numbered(indices)[1]))


def test_another_dataset_has_another_key(dataset: LeRobotDataset, tmp_path: Path) -> None:
    other = write_toy_dataset(tmp_path / "other", seed=1)
    assert dataset_key(dataset.path) == dataset_key(dataset.path) != dataset_key(other)


@pytest.mark.parametrize("fallocate", [True, False])
def test_a_full_disk_is_one_line_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallocate: bool
) -> None:
    """Room is reserved when the cache is made: what is written through a map later cannot fail."""
    if not fallocate:  # as on macOS
        monkeypatch.delattr(os, "posix_fallocate")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cache: expected room under .* MiB for the features of 9000 pictures"):
            FeatureCache.open(tmp_path / "cache", count=9000, tokens=2, width=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").iterdir())
    FeatureCache.open(tmp_path / "cache", count=9000, tokens=2, width=3)
    file = (tmp_path / "cache" / "context.npy").stat()
    assert file.st_blocks * 512 >= 9000 * 2 * 3 * 2
