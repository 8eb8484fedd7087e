"""`toddle pretrain --method ...`: every method learns, resumes bitwise, and starts from demonstrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.algorithms.ddiffpg import DDiffPGConfig
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.config import from_dict, to_dict
from toddle.core.errors import InputError, NaNError
from toddle.core.types import BodySpec
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_writer import DatasetWriter
from toddle.experience.collect import CollectConfig
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.chunk import ChunkPolicy
from toddle.policies.store import load_policy
from toddle.recipes.imitation import ImitationConfig
from toddle.recipes.methods import METHODS, DenoisingSettings, build_policy, resolved_ppo, setting_of, settings_of
from toddle.recipes.pretrain import Config, build, plan, run
from toddle.runs.checkpoint import states_equal
from toddle.runs.loop import run_loop
from toddle.runs.run import RunFolder

DENOISING = ("dppo", "reinflow", "flow-sde", "flow-noise", "fpo")
SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in ("reinflow", "flow-noise")]
SMALL = DenoisingSettings(
    network="mlp",
    mlp=MlpDenoiserConfig(width=16),
    horizon=2,
    trunk=TrunkDenoiserConfig(
        trunk=TrunkConfig(width=16, depth=2, heads=2, context_width=8, modulation="residual"), bank_hidden=16
    ),
)
DDIFFPG = DDiffPGConfig(
    warm_up=2, regroup_every=3, batch=8, updates=1, capacity=30, hidden=(16,), ascent_steps=2, steps=30
)


def settings(method: str, out: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "out": out,
        "method": method,
        "env": ("fork/point",),
        "worlds": 4,
        "denoising": SMALL,
        "ddiffpg": DDIFFPG,
        "collect": CollectConfig(length=8),
        "critic_hidden": (16,),
        "steps": 480,
        "checkpoint_every": 2,
    }
    return Config(**(values | changes))


@pytest.mark.parametrize("network", ["mlp", "unet", "trunk"])
@pytest.mark.parametrize("method", ["dppo", "reinflow"])
def test_from_scratch_actions_begin_near_zero_unless_told_otherwise(method: str, network: str) -> None:
    """Random weights shrink the noise they begin with; after imitation, or with contract False, they do not."""
    g = torch.Generator().manual_seed(0)
    body, noise = BodySpec(name="arm", proprio=5, action=3, dt=0.05), torch.randn(64, 2, 3, generator=g)
    observation = {"proprio": torch.randn(64, 5, generator=g)}
    small = dataclasses.replace(SMALL, network=network, unet=UnetConfig(channels=(8, 16), condition=16, groups=4))

    def spread(given: DenoisingSettings, warm: bool) -> float:
        setting = setting_of(warm=warm, goals=False)
        policy = build_policy(method, given, body, setting=setting, goal_width=0, seed=0)
        return float(policy.integrate(observation, 0.3 * noise).std()) / 0.3

    own = {network: dataclasses.replace(getattr(small, network), contract=False)}
    assert spread(small, False) < 0.7 * spread(dataclasses.replace(small, **own), False)
    assert spread(small, True) > 1.2 * spread(small, False)


@pytest.mark.parametrize("method", ["dppo", "flow-sde", "fpo", "ddiffpg", *SLOWLY])
def test_two_halves_with_a_new_process_between_are_the_whole(method: str, tmp_path: Path) -> None:
    """Bitwise resume, through the files: 4 iterations = 2, stop, 2."""
    config = settings(method, tmp_path / "whole")
    whole, _, _ = build(config)
    for _ in range(4):
        last = whole.step()
    parts = settings(method, tmp_path / "parts")
    for until in (2, 4):
        learner, _, _ = build(parts)
        with RunFolder.open(tmp_path / "parts", parts, resume=until == 4) as folder:
            if until == 2:
                with pytest.raises(KeyboardInterrupt):
                    run_loop(_Stopping(learner, 2), folder, 4, checkpoint_every=1)
            else:
                run_loop(learner, folder, 4, checkpoint_every=1)
    assert states_equal(learner.state_dict(), whole.state_dict())
    assert np.isfinite(list(last.values())).all()


class _Stopping:
    """A learner whose process is asked to stop in its n-th step."""

    def __init__(self, learner: Any, after: int) -> None:
        self.learner, self.left = learner, after
        self.state_dict, self.load_state_dict = learner.state_dict, learner.load_state_dict

    def step(self) -> dict[str, float]:
        import os
        import signal

        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.learner.step()


@pytest.mark.parametrize("method", ["dppo", "fpo", *SLOWLY])
def test_the_policy_is_kept_and_acts(method: str, tmp_path: Path) -> None:
    config = settings(method, tmp_path, denoising=dataclasses.replace(SMALL, network="trunk"), steps=128)
    said = "".join(plan(config).steps)
    assert method in said
    if method in DENOISING:
        own = settings_of(method, "scratch").ppo["minibatches"]
        assert f"ppo.minibatches {own}" in said, "what the method sets is named"
    run(config)
    policy = load_policy(tmp_path / "policy")
    assert isinstance(policy, ChunkPolicy) and policy.trunk is not None
    action = policy.act({"proprio": torch.zeros(3, 4)}, generator=torch.Generator())[0].action
    assert action.shape == (3, 2, 2)


@pytest.mark.parametrize("method", ["dppo", "flow-sde", "fpo", "ddiffpg", *SLOWLY])
def test_a_number_that_is_not_finite_stops_the_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of warnings where it runs
    learner, policy, _ = build(settings(method, tmp_path, ddiffpg=dataclasses.replace(DDIFFPG, warm_up=0)))
    learner.step()
    learner.step()
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).fill_(torch.nan)
    with pytest.raises((NaNError, InputError), match=r"finite|NaN|nan"):
        _steps(learner, 3)


def test_critic_warm_up_leaves_the_policy_bitwise_unchanged(tmp_path: Path) -> None:
    learner, policy, _ = build(settings("dppo", tmp_path, ppo=dataclasses.replace(Config.ppo, critic_warm_up=2)))
    assert isinstance(learner, PPO)
    before, critic = _copy(policy), _copy(learner.modules["critic"])
    for _ in range(2):
        metrics = learner.step()
        assert metrics["ppo/policy_loss"] == 0 and metrics["ppo/value_loss"] > 0
    assert states_equal(before, _copy(policy))
    assert not states_equal(critic, _copy(learner.modules["critic"]))
    learner.step()
    assert not states_equal(before, _copy(policy))


def test_after_warm_up_adam_starts_afresh(tmp_path: Path) -> None:
    """Without that, moments of zero gradients would let the first steps be several times the learning rate."""
    rate = 1e-3
    ppo = PPOConfig(critic_warm_up=3, learning_rate=rate, epochs=1, minibatches=1, schedule="constant")
    learner, policy, _ = build(settings("reinflow", tmp_path, ppo=ppo))
    for _ in range(3):
        learner.step()
    before = torch.cat([p.detach().flatten().clone() for p in policy.parameters()])
    learner.step()
    moved = torch.cat([p.detach().flatten() for p in policy.parameters()]) - before
    assert moved.abs().max() <= rate * 1.01  # Adam's first step is at most the rate
    assert moved.abs().max() > rate / 2


def _steps(learner: Any, count: int) -> None:
    for _ in range(count):
        learner.step()


def _copy(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Straight walks to the right: action (1, 0.5) whatever is seen."""
    folder = tmp_path_factory.mktemp("demos") / "data"
    features = {"observation.state": Feature(size=4), "action": Feature(size=2)}
    spec = DatasetSpec(fps=10, features=features, robot_type="point", cameras={})
    random = np.random.default_rng(0)
    with DatasetWriter(folder, spec) as writer:
        for number in range(3):
            columns = {
                "observation.state": random.normal(size=(20, 4)).astype(np.float32),
                "action": np.tile(np.array([0.9, 0.5], np.float32), (20, 1)),
            }
            writer.add_episode(columns, {}, "go", {"seed": number})
    return folder


@pytest.mark.parametrize("method", ["dppo", "flow-sde"])
def test_warm_start_imitates_then_learns(method: str, tmp_path: Path, demonstrations: Path) -> None:
    config = settings(
        method,
        tmp_path,
        warm_start=demonstrations,
        imitation=ImitationConfig(steps=800, batch=128),
        steps=192,
        denoising=dataclasses.replace(SMALL, mlp=MlpDenoiserConfig(width=32)),
    )
    run(config)
    begun, done = load_policy(tmp_path / "warm_start"), load_policy(tmp_path / "policy")
    seen = {"proprio": torch.randn(64, 4, generator=torch.Generator().manual_seed(1))}
    action = begun.act(seen, generator=torch.Generator(), deterministic=True)[0].action
    assert (action.mean((0, 1)) - torch.tensor([0.9, 0.5])).abs().max() < 0.3
    assert torch.equal(begun.features.scale.mean, done.features.scale.mean)  # a warm start's statistics are fixed
    changed = {name for name, value in done.state_dict().items() if not torch.equal(value, begun.state_dict()[name])}
    assert any(name.startswith("tuned.") for name in changed)
    assert not any(name.startswith("base.") for name in changed)
    if method == "dppo":
        base = {n[5:]: v for n, v in begun.state_dict().items() if n.startswith("base.")}
        assert all(torch.equal(value, begun.state_dict()[f"tuned.{name}"]) for name, value in base.items()) and base


def test_a_dataset_of_another_body_is_refused(tmp_path: Path, demonstrations: Path) -> None:
    config = settings("dppo", tmp_path, warm_start=demonstrations, env=("gymnasium/Hopper-v5",))
    with pytest.raises(InputError, match=r"observation.state: expected 11 numbers"):
        run(config)
    with pytest.raises(InputError, match="warm_start: expected none with this method"):
        settings("ppo", tmp_path, warm_start=demonstrations)


def test_the_table_of_defaults() -> None:
    """Numbers of the sources, written down by hand from the papers that PAPERS.md names."""
    assert {method for method, _ in METHODS} == set(DENOISING)
    warm = settings_of("dppo", "warm")
    assert (warm.process.train_steps, warm.process.tuned_steps) == (20, 10)  # type: ignore[union-attr]
    dppo = resolved_ppo("dppo", "warm", Config.ppo, Config.ppo)
    assert (dppo.link_discount, dppo.critic_learning_rate, dppo.critic_warm_up) == (0.99, 1e-3, 2)
    assert (dppo.link_clip_first, dppo.clip_high, dppo.learning_rate) == (0.005, 0.05, 3e-4)  # ours
    assert settings_of("flow-sde", "warm").process.one_random_step  # type: ignore[union-attr]
    assert resolved_ppo("fpo", "scratch", Config.ppo, Config.ppo).clip_high == 0.05
    users = dataclasses.replace(Config.ppo, clip_high=0.3)
    assert resolved_ppo("fpo", "scratch", users, Config.ppo).clip_high == 0.3, "the user's value wins"


def test_goal_tracking_takes_its_own_row_where_there_is_one(tmp_path: Path) -> None:
    def made(method: str, env: str) -> tuple[str, str]:
        learner, policy, _ = build(settings(method, tmp_path, env=(env,)))
        assert isinstance(learner, PPO) and isinstance(policy, ChunkPolicy)
        return learner.config.ratio, policy.config.reduce

    assert made("reinflow", "goal/sawyer") == ("sum", "sum")
    assert resolved_ppo("reinflow", "goals", Config.ppo, Config.ppo) == Config.ppo
    assert made("reinflow", "fork/point") == ("mean", "mean")
    assert made("dppo", "goal/sawyer") == ("per_link", "mean")  # it has none


def test_a_setting_of_another_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"denoising.level: expected nothing with method dppo"):
        build(settings("dppo", tmp_path, denoising=dataclasses.replace(SMALL, level=0.3)))
    with pytest.raises(InputError, match="one body with method dppo"):
        build(settings("dppo", tmp_path, env=("fork/point", "gymnasium/Hopper-v5")))
    config = settings("reinflow", tmp_path)
    assert from_dict(Config, to_dict(config)) == config
