"""The same on a CUDA device: run with `pytest -m gpu`.  Learners against the CPU, bf16, checkpoints, the commands.

Random numbers are drawn on the CPU on every device, so a few steps agree with the CPU's to what float32 on other
kernels, TF32 convolutions and two updates of Adam leave of them.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.device_cases import OTHERS, PRETRAIN, assert_near, fine_tuning, pretraining, steps, through_files

from tiny_env import ReachEnv
from toddle.algorithms.backbone_pretraining import BackbonePretraining, BackboneTrainingConfig
from toddle.algorithms.sft import SFT
from toddle.cli import main
from toddle.core.device import CPU, describe_devices, device_of, resolve_device
from toddle.core.protocols import Learner
from toddle.data.feature_cache import FeatureCache
from toddle.experience.evaluate import evaluate
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, read_policy, save_policy
from toddle.runs.metrics import read_metrics

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
NEAR = 2e-2


def check(here: Learner, there: Learner, folder: Path) -> None:
    """Two steps agree; a checkpoint goes from the GPU to the CPU and back, and goes on."""
    assert_near(steps(there, 2), steps(here, 2), NEAR)
    saved = through_files(there, folder / "there")
    here.load_state_dict(saved)
    assert_near(through_files(here, folder / "here"), saved, 0.0)
    there.load_state_dict(through_files(here, folder / "again"))
    assert_near(steps(there, 1), steps(here, 1), NEAR)


@pytest.mark.parametrize("name", PRETRAIN)
def test_pretraining(name: str, tmp_path: Path) -> None:
    here, there = pretraining(name), pretraining(name, "cuda")
    assert device_of(there.policy) == CUDA  # type: ignore[attr-defined]
    check(here, there, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_fine_tuning_and_the_backbone(name: str, tmp_path: Path) -> None:
    check(OTHERS[name](CPU), OTHERS[name](CUDA), tmp_path)


def test_bfloat16_is_close_to_float32() -> None:
    exact, half = (steps(fine_tuning(CUDA, bf16=bf16), 5) for bf16 in (False, True))
    assert exact != half
    for one, other in zip(exact, half, strict=True):
        assert other["sft/loss"] == pytest.approx(one["sft/loss"], rel=0.1)
    made = OTHERS["backbone"](CUDA)
    assert isinstance(made, BackbonePretraining)
    made.settings = BackboneTrainingConfig(steps=4, batch=8, bf16=True)
    assert all(math.isfinite(value) for metrics in steps(made, 2) for value in metrics.values())


def test_a_policy_saved_on_one_device_is_evaluated_on_another(tmp_path: Path) -> None:
    env = ReachEnv(2)
    save_policy(tmp_path, GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=(8,))).to(CUDA))
    assert all(tensor.device == CPU for tensor in read_policy(tmp_path)[3].values())
    policies = [load_policy(tmp_path), load_policy(tmp_path, CUDA)]
    assert [device_of(policy) for policy in policies] == [CPU, CUDA]
    here, there = (evaluate(policy, env, seeds=[1, 2, 3], deterministic=False) for policy in policies)
    assert [r.episode_return for r in there] == pytest.approx([r.episode_return for r in here], rel=1e-3)


def test_features_made_on_the_gpu_fill_the_cache(tmp_path: Path) -> None:
    learner = fine_tuning(CUDA, pictures=True)
    assert isinstance(learner, SFT)
    images = torch.zeros(3, 1, 3, 32, 32, dtype=torch.uint8)
    backbone = learner.policy.backbone
    cache = FeatureCache.open(tmp_path / "cache", count=3, tokens=backbone.tokens(1), width=backbone.width)
    cache.fill(lambda rows: backbone.encode(images[rows], ["open the drawer"] * len(rows)))
    assert cache.load()[0].shape == (3, backbone.tokens(1), backbone.width)


def test_the_commands_change_devices_between_sittings(tmp_path: Path) -> None:
    """Half a pretraining on the GPU, the rest on the CPU, the evaluation on the GPU."""
    out, small = str(tmp_path / "run"), ("--policy", "mlp", "--mlp.hidden", "16", "--worlds", "4", "--steps", "256")

    def toddle(*arguments: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert not end.value.code

    toddle("pretrain", "--env", "fork/point", *small, "--out", out, "--device", "cuda")
    (tmp_path / "run" / "finished.json").unlink()
    toddle("pretrain", "--env", "fork/point", *small, "--out", out, "--device", "cpu", "--resume")
    assert read_metrics(tmp_path / "run")
    toddle(
        "evaluate",
        "--policy",
        f"{out}/policy",
        "--env",
        "fork/point",
        "--episodes",
        "2",
        "--videos",
        "0",
        "--device",
        "auto",
        "--out",
        str(tmp_path / "evaluation"),
    )


def test_devices_are_named() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == CUDA and "cuda:0" in describe_devices()
