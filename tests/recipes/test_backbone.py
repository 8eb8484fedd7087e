"""`toddle backbone` end to end at a small size, with real rendering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.policies.tiny_vla import SIZES

from toddle.algorithms.backbone_pretraining import BackboneTrainingConfig
from toddle.core.errors import InputError
from toddle.data.scenes import load_scenes, scenes_file
from toddle.envs.metaworld_sentences import SENTENCES
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.recipes.backbone import Config, RenderConfig, plan, run

TASKS = ("reach-v3", "drawer-open-v3")


def config(out: Path) -> Config:
    return Config(
        out=out,
        render=RenderConfig(tasks=TASKS, episodes=4, frames=2, steps=6, size=32),
        sizes=replace(SIZES, vocabulary=300),
        training=BackboneTrainingConfig(steps=3, batch=4, bf16=False),
        held_out=0.5,
    )


def test_render_train_and_write(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    assert "2 tasks still to do" in plan(settings).steps[0]
    run(settings)
    scenes = load_scenes(settings.out / "scenes", {task: SENTENCES[task] for task in TASKS})
    assert scenes.images.shape == (16, 3, 32, 32) and scenes.images.std() > 10
    assert scenes.poses.shape == (16, 3, 3) and np.isfinite(scenes.poses).all()
    assert (np.abs(scenes.poses) < 1.5).all() and (scenes.poses[:, 0, 2] > 0).all()  # metres
    text = (settings.out / "embedded" / "CARD.md").read_text()
    assert "| reach-v3 |" in text and "16 frames" in text
    backbone = load_backbone(BackboneConfig(name=str(settings.out / "embedded")))
    assert backbone.width == SIZES.width
    scenes_file(settings.out / "scenes", "reach-v3").write_bytes(b"")
    with pytest.raises(InputError, match="delete it"):
        run(settings, resume=True)


def test_unknown_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'reach-v3'"):
        replace(config(tmp_path), render=RenderConfig(tasks=("reach-v2",)))
