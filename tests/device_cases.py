"""What is trained on a device other than the CPU, by the tests of every machine and by those marked gpu."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tests.algorithms.test_backbone_pretraining import scenes
from tests.policies.tiny_vla import SENTENCES, ToyDemonstrations, tiny_backbone, tiny_vla
from tests.tiny_world import TINY, recorded

from toddle.algorithms.backbone_pretraining import BackbonePretraining, BackboneTrainingConfig
from toddle.algorithms.sft import SFT, SFTConfig
from toddle.algorithms.world_model_training import WorldModelTraining, WorldModelTrainingConfig
from toddle.core.config import to_dict
from toddle.core.protocols import Learner
from toddle.models.trunk import TrunkConfig
from toddle.models.world_model import WorldModel
from toddle.recipes.pretrain import build, configure
from toddle.runs.checkpoint import load_state, save_state

TRUNK = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
POLICIES: dict[str, Any] = {
    "goal_width": 8,
    "mlp": {"hidden": [16]},
    "causal": {"trunk": to_dict(TRUNK), "bank_hidden": 16, "executed": 4},
}
PPO: dict[str, Any] = {
    "collect": {"length": 3},
    "critic_hidden": [16],
    "goal_width": 8,
    "ppo": {"epochs": 1, "minibatches": 3},
}
DDIFFPG: dict[str, Any] = {
    "warm_up": 1,
    "regroup_every": 2,
    "batch": 8,
    "updates": 1,
    "capacity": 30,
    "hidden": [16],
    "ascent_steps": 2,
    "steps": 20,
}


def denoising(network: Literal["mlp", "trunk"], **changes: Any) -> dict[str, Any]:
    """Settings of a denoising policy: on a point, or, with goals, on goal tracking."""
    trunk = to_dict(TRUNK) | {"modulation": "residual"}
    small = {
        "network": network,
        "mlp": {"width": 16},
        "trunk": {"trunk": trunk, "bank_hidden": 16},
        "horizon": 4,
        "steps": 3,
    }
    return {"env": ["goal/sawyer" if network == "trunk" else "fork/point"], "denoising": small | changes, **PPO}


SAC = {"critic_hidden": [8], "batch": 8, "rounds": 5, "learn_after": 6, "critics": 3, "subset": 2, "layer_norm": True}
PRETRAIN: dict[str, dict[str, Any]] = {
    "gaussian": {"env": ["goal/sawyer"], "policy": "mlp", **PPO, **POLICIES},
    "gaussian, two bodies": {"env": ["fork/point", "gymnasium/HalfCheetah-v5"], "policy": "mlp", **PPO, **POLICIES},
    "causal": {"env": ["goal/sawyer"], **PPO, **POLICIES},
    "dppo": {"method": "dppo", **denoising("mlp")},
    "dppo, last steps": {"method": "dppo", **denoising("mlp", ddim_steps=2, tuned_steps=1)},
    "dppo, trunk": {"method": "dppo", **denoising("trunk")},
    "reinflow": {"method": "reinflow", **denoising("mlp")},
    "flow-sde": {"method": "flow-sde", **denoising("mlp")},
    "flow-sde, one step": {"method": "flow-sde", **denoising("mlp", one_random_step=True)},
    "flow-noise": {"method": "flow-noise", **denoising("trunk")},
    "fpo": {"method": "fpo", **denoising("mlp")},
    "ddiffpg": {"method": "ddiffpg", "env": ["fork/point"], "ddiffpg": DDIFFPG},
    "sac": {"method": "sac", "env": ["fork/point"], "hidden": [8], "sac": SAC},
}


def pretraining(name: str, device: str = "cpu") -> Learner:
    """Build what `toddle pretrain` trains."""
    return build(configure(PRETRAIN[name], worlds=3, steps=480, device=device)).learner


class Pictures(ToyDemonstrations):
    """The toy demonstrations with pictures and sentences in place of cached features."""

    def batch(self, samples: Any) -> dict[str, Any]:
        batch = super().batch(samples)
        now = batch["observation"]
        count = now["context"].shape[1]
        pictures = (now["context"][..., 0, :3].sigmoid() * 255).to(torch.uint8)
        images = pictures[:, :, None, :, None, None].expand(1, count, 1, 3, 32, 32).contiguous()
        seen = {"proprio": now["proprio"], "images": images, "instruction": [SENTENCES[i % 3] for i in range(count)]}
        return batch | {"observation": seen}


def fine_tuning(device: torch.device, *, pictures: bool = False, bf16: bool = False, **more: Any) -> SFT:
    """Build what `toddle sft` trains."""
    settings = SFTConfig(steps=10, batch=6, learning_rate=3e-3, ema=0.9, l2_sp=0.1, bf16=bf16)
    data = Pictures() if pictures else ToyDemonstrations()
    return SFT(tiny_vla(**more).to(device), data, settings)


def backbone(device: torch.device) -> BackbonePretraining:
    """Build what `toddle backbone` trains."""
    settings = BackboneTrainingConfig(steps=4, batch=8, bf16=False)
    return BackbonePretraining(tiny_backbone().to(device), scenes(32, 0), settings, seed=0)


def world_model(device: torch.device) -> WorldModelTraining:
    """Build what `toddle worldmodel train` trains."""
    models = {name: WorldModel(TINY, 2, 1).to(device) for name in ("model", "control")}
    settings = WorldModelTrainingConfig(steps=10, batch=8, roll_out=3, roll_outs=4)
    return WorldModelTraining(models, recorded(8), settings, seed=0)


OTHERS: dict[str, Callable[[torch.device], Learner]] = {
    "sft": fine_tuning,
    "sft, endpoint, history": lambda device: fine_tuning(device, head="endpoint", slot_mask="bidirectional"),
    "sft, pictures": lambda device: fine_tuning(device, pictures=True),
    "backbone": backbone,
    "world model": world_model,
}


def steps(learner: Learner, count: int) -> list[dict[str, float]]:
    """Return the metrics of the next steps."""
    return [learner.step() for _ in range(count)]


def through_files(learner: Learner, folder: Path) -> Any:
    """Return the learner's state as a checkpoint keeps it."""
    save_state(folder, learner.state_dict())
    return load_state(folder)[0]


def assert_near(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Compare trees of metrics or state: numbers within `tolerance`, relative and absolute; all else equal."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_near(found[key], expected[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
            assert_near(mine, theirs, tolerance, f"{where}/{index}")
    elif isinstance(expected, torch.Tensor | np.ndarray | float):
        mine, theirs = (np.asarray(x, dtype=np.float64) for x in (found, expected))
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance, err_msg=where)
    else:
        assert found == expected, where
