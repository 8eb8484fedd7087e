"""Pretraining of the embedded backbone on toy scenes: a bright square stands where the hand is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import SENTENCES, tiny_backbone

from toddle.algorithms.backbone_pretraining import (
    BackbonePretraining,
    BackboneTrainingConfig,
    pose_errors,
    retrieval,
)
from toddle.data.scenes import Scenes


def scenes(count: int, seed: int) -> Scenes:
    """Task 0: red square, task 1: green, task 2: blue; the hand's x and y are the square's, object and goal NaN."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 3, 32, 32), np.uint8)
    poses = np.full((count, 3, 3), np.nan, np.float32)
    task = rng.integers(0, 3, count)
    for i in range(count):
        y, x = rng.integers(0, 26, 2)
        images[i, task[i], y : y + 6, x : x + 6] = 255
        poses[i, 0] = (x / 26, y / 26, 0.0)
    return Scenes(images, poses, task, np.arange(count), [(sentence,) for sentence in SENTENCES])


def learner(steps: int) -> BackbonePretraining:
    settings = BackboneTrainingConfig(steps=steps, batch=32, learning_rate=3e-3, bf16=False, contrastive=0.3)
    return BackbonePretraining(tiny_backbone(), scenes(256, 0), settings, seed=0)


def test_it_learns_where_and_what() -> None:
    held = scenes(96, 1)
    trained = learner(140)
    before = float(np.nanmean(pose_errors(trained, held)[:, 0]))
    for _ in range(140):
        metrics = trained.step()
    after = float(np.nanmean(pose_errors(trained, held)[:, 0]))
    assert after < 0.5 * before and after < 0.2, (before, after)
    assert retrieval(trained, held) > 0.8
    assert np.isfinite(list(metrics.values())).all()  # unknown poses do not count
    assert np.isnan(pose_errors(trained, held)[:, 1:]).all()


def test_resume_is_bitwise() -> None:
    whole, half, again = learner(4), learner(4), learner(4)
    metrics = [whole.step() for _ in range(4)]
    for _ in range(2):
        half.step()
    again.load_state_dict(_copy(half.state_dict()))
    assert [again.step() for _ in range(2)] == metrics[2:]


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_the_pose_loss_counts_known_numbers_only() -> None:
    """All poses unknown but the hand: the loss is the hand's mean error, whatever the other heads say."""
    one = learner(1)
    with torch.no_grad():
        one.heads.pose[0].weight.zero_()
        one.heads.pose[0].bias.zero_()
    metrics = one.step()
    assert 0.5 < metrics["backbone/pose_loss"] < 1.2  # mean |z| of a uniform variable is 0.87; z of height is 0
    assert metrics["backbone/pose_loss"] == pytest.approx(0.87 * 2 / 3, abs=0.12)
