"""Every learner, evaluation and checkpoint on a pretend device, on every machine: nothing is forgotten on the CPU.

The numbers must be the CPU's to rounding, as the device computes there and random numbers are drawn there
(tests/pretend_device.py says what such a run cannot tell).  Not run here: backbones of the hub, bfloat16, the feature
cache (its encoder is), the warm start; and no real GPU: see test_gpu.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.device_cases import (
    OTHERS,
    POLICIES,
    PRETRAIN,
    assert_near,
    fine_tuning,
    pretraining,
    steps,
    through_files,
)
from tests.policies.test_fast_vla import tiny_fast_vla
from tests.policies.test_pi0 import batch as pi0_batch
from tests.policies.test_pi0 import make as make_pi0
from tests.policies.tiny_vla import ToyDemonstrations
from tests.pretend_device import PRETEND, MixedDevices, Pretend
from tests.tiny_vlm import save_pi0
from torch.nn.attention import SDPBackend, sdpa_kernel

from tiny_env import ReachEnv
from toddle.algorithms import sft
from toddle.algorithms.ddiffpg import DDiffPG
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.device import CPU, device_of, to_device
from toddle.core.errors import InputError
from toddle.core.protocols import Learner
from toddle.core.seeding import torch_generator
from toddle.experience import actor
from toddle.experience.evaluate import evaluate
from toddle.policies import gaussian
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, read_policy, save_policy
from toddle.recipes import pretrain
from toddle.recipes.pretrain import build, configure

ROUNDING = 1e-4
COVERED = ("dppo", "flow-sde", "ddiffpg")  # by the tests of what is special about them
ALIKE = ("dppo, trunk", "dppo, last steps")  # the trunk is that of `causal`, the loss that of `reinflow`
LONG = (*COVERED, *ALIKE, "sac", "flow-noise")
QUICK = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PRETRAIN]


@pytest.fixture(autouse=True)
def plain_attention(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same attention on both devices, and `cuda` meaning the pretend device to the recipe."""
    monkeypatch.setattr(pretrain, "resolve_device", lambda name: PRETEND if name == "cuda" else CPU)
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.parametrize("name", QUICK)
def test_pretraining_and_its_checkpoint_on_either_device(name: str, tmp_path: Path) -> None:
    here, there = pretraining(name), pretraining(name, "cuda")
    assert device_of(there.policy) == PRETEND  # type: ignore[attr-defined]
    check(here, there, tmp_path)


@pytest.mark.parametrize("name", OTHERS)
def test_fine_tuning_and_its_checkpoint_on_either_device(name: str, tmp_path: Path) -> None:
    check(OTHERS[name](CPU), OTHERS[name](PRETEND), tmp_path)


@pytest.mark.slow
def test_modes_of_ddiffpg_are_where_their_critics_are(tmp_path: Path) -> None:
    """All trajectories called successes, so that there are modes: their critics, embeddings and target actions."""
    learners = [pretraining("ddiffpg"), pretraining("ddiffpg", "cuda")]
    for learner in learners:
        assert isinstance(learner, DDiffPG)
        steps(learner, 2)
        learner.buffer.success[learner.buffer.filled()] = True
        learner._regroup()
        assert learner.modes and device_of(learner.modes[0].critic) == learner.modes[0].embedding.device
    check(learners[0], learners[1], tmp_path)


def test_cloning_takes_its_teacher_along(tmp_path: Path) -> None:
    teacher = pretraining("gaussian")
    save_policy(tmp_path / "teacher", teacher.policy)  # type: ignore[attr-defined]
    changes = {"method": "clone", "policy": "mlp", "env": ["goal/sawyer"], "teacher": tmp_path / "teacher"}
    changes |= {"collect": {"length": 3}, "worlds": 3, "steps": 480, **POLICIES}
    learners = [build(configure(changes, device=name)).learner for name in ("cpu", "cuda")]
    check(learners[0], learners[1], tmp_path)


def test_pi0_of_transformers(tmp_path: Path) -> None:
    """Its loss with gradients, and a draw."""
    folder, found = save_pi0(tmp_path), []
    for device in (CPU, PRETEND):
        policy, batch = make_pi0(folder).to(device), to_device(pi0_batch(), device)
        loss, metrics = policy.loss(batch, torch_generator(0, "pi0"))
        loss.backward()
        now = {k: v[-1] if isinstance(v, torch.Tensor) else v for k, v in batch["observation"].items()}
        decision, _ = policy.act(now, generator=torch_generator(1, "pi0"))  # type: ignore[arg-type]
        found.append(metrics | {"action": decision.action.cpu()})
    assert_near(found[1], found[0], ROUNDING)


def test_sentences_of_any_length() -> None:
    """FAST's loss with gradients, a draw, and its score."""
    found = []
    for device in (CPU, PRETEND):
        policy, batch = (
            tiny_fast_vla(ratio_per="token").to(device),
            to_device(ToyDemonstrations(6).batch(range(6)), device),
        )
        loss, metrics = policy.loss(batch, torch_generator(0, "fast"))
        loss.backward()
        now = {key: value[0] for key, value in batch["observation"].items()}
        decision, _ = policy.act(now, generator=torch_generator(1, "fast"))
        score = policy.score(batch["observation"], decision.chain[None])
        assert score.real is not None and decision.real is not None
        each = {"action": decision.action.cpu(), "old": decision.log_prob.cpu(), "real": decision.real.cpu()}
        found.append(
            metrics | each | {"new": score.log_prob[0].detach().cpu(), "entropy": score.entropy.detach().cpu()}
        )
    assert_near(found[1], found[0], ROUNDING)
    assert_near(found[0]["new"], found[0]["old"], 1e-5)


def check(here: Learner, there: Learner, folder: Path) -> None:
    """Two steps are the same on both devices; a checkpoint goes from the one to the other and back, and goes on."""
    assert_near(steps(there, 2), steps(here, 2), ROUNDING)
    here.load_state_dict(through_files(there, folder / "there"))
    there.load_state_dict(through_files(here, folder / "here"))
    assert_near(steps(there, 1), steps(here, 1), ROUNDING)


def test_a_policy_saved_on_one_device_is_evaluated_on_another(tmp_path: Path) -> None:
    env = ReachEnv(2)
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=(8,))).to(PRETEND)
    save_policy(tmp_path, policy)
    assert all(type(tensor) is torch.Tensor for tensor in read_policy(tmp_path)[3].values())
    policies = [load_policy(tmp_path), load_policy(tmp_path, PRETEND)]
    assert [device_of(policy) for policy in policies] == [CPU, PRETEND]
    here, there = (evaluate(policy, env, seeds=[1, 2, 3], deterministic=False) for policy in policies)
    assert [r.episode_return for r in there] == pytest.approx([r.episode_return for r in here], rel=1e-5)
    assert here[0].episode_return != here[1].episode_return


# ---- negative controls: each forgets one thing, and is found ---------------------------------------------------------
def test_a_forgotten_device_in_a_policy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaussian, "randn", lambda shape, generator, device: torch.randn(shape, generator=generator))
    with pytest.raises(MixedDevices, match="addcmul"):
        pretraining("gaussian", "cuda").step()


def test_a_batch_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "to_device", lambda tree, device: tree)
    with pytest.raises(MixedDevices):
        fine_tuning(PRETEND).step()


def test_an_observation_left_on_the_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "to_device", lambda tree, device: tree)
    with pytest.raises(MixedDevices):
        pretraining("causal", "cuda").step()


def test_a_table_left_on_the_cpu_is_found() -> None:
    learner = pretraining("dppo", "cuda")
    learner.policy.links.now = learner.policy.links.now.cpu()  # type: ignore[attr-defined]
    with pytest.raises(MixedDevices):
        learner.step()


def test_numpy_of_a_tensor_elsewhere_and_a_critic_elsewhere_are_refused() -> None:
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        torch.ones(2, device=PRETEND).numpy()
    learner = pretraining("gaussian")
    learner.policy.to(PRETEND)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"critic: expected the policy's device pretend:0, got 'cpu'"):
        PPO(learner.policy, learner.critic, learner.sources, PPOConfig(), iterations=1, seed=0)  # type: ignore[attr-defined]


def test_plain_tensors_know_nothing_of_it() -> None:
    """The pretend device does not change what the CPU does in the tests that share a process with this file."""
    assert type(torch.ones(2) + torch.ones(2)) is torch.Tensor and isinstance(torch.ones(1, device=PRETEND), Pretend)


@pytest.mark.slow
def test_what_needs_a_gpu_needs_no_package_for_data() -> None:
    """`pytest -m gpu` is collected, and every learner of it is built on the CPU, where the packages are missing."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['av', 'pyarrow', 'libero', 'mani_skill']));"
        "import pytest, torch; from tests.device_cases import OTHERS, PRETRAIN, pretraining, steps;"
        "[steps(make(torch.device('cpu')), 1) for make in OTHERS.values()]; [pretraining(name) for name in PRETRAIN];"
        "sys.exit(pytest.main(['-m', 'gpu', '--collect-only', '-q', 'tests/test_gpu.py', 'tests/models']))"
    )
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root / "src", root, root / "tests")))}
    found = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and "test_gpu.py" in found.stdout, found.stdout + found.stderr
