"""PPO beside stable-baselines3's own: the same rollouts, values, advantages, losses and weights over two iterations.

`scripts/record_sb3_update.py` recorded what stable-baselines3 2.9.2 did.  Three of toddle's habits (docstring of
`algorithms.ppo`) are swapped for stable-baselines3's here, and nothing else: one gradient limit over both networks in
place of one for each; observations and rewards as VecNormalize gave them, normalised before they are used.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.types import Decision, Observation
from toddle.envs.base import Array, BatchedEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.optim.flat_adam import FlatAdam
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

with safe_open(Path(__file__).parent / "data" / "sb3_update.safetensors", "pt") as _file:
    ABOUT: dict[str, Any] = json.loads(_file.metadata()["about"])
    DATA: dict[str, Tensor] = {name: _file.get_tensor(name) for name in _file.keys()}  # noqa: SIM118
SETTINGS, ITERATIONS = ABOUT["settings"], ABOUT["iterations"]
STEPS, WORLDS, WIDTH = DATA["actions/0"].shape


def recorded(name: str) -> Tensor:
    """Return what was recorded at every step of all iterations, (I T, B, ...)."""
    return torch.cat([DATA[f"{name}/{iteration}"] for iteration in range(ITERATIONS)])


class Replay(BatchedEnv):
    """The recorded worlds, whatever is done in them.  With `cuts` False a time limit is told as a termination."""

    def __init__(self, *, cuts: bool = True) -> None:
        self.name, self.body, self.num_envs, self.dt, self.max_episode_steps = "recorded", "point", WORLDS, 0.1, 7
        seen = [DATA[f"observation/{iteration}"][:STEPS] for iteration in range(ITERATIONS)]
        self.seen = torch.cat([*seen, DATA[f"observation/{ITERATIONS - 1}"][STEPS:]]).numpy()
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self.seen.shape[2:], np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (WIDTH,), np.float32)
        self.cuts, self.step_count, self.now = cuts, 0, self.seen[0].copy()
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        self.now[mask] = self.seen[self.step_count][mask]

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        names = ("reward", "terminated", "truncated", "final")
        reward, fell, cut, final = (recorded(name)[self.step_count].numpy() for name in names)
        self.step_count += 1
        self.now = np.where((fell | cut)[:, None], final, self.seen[self.step_count])
        return reward, fell if self.cuts else fell | cut, cut if self.cuts else np.zeros_like(cut)

    def _observe(self) -> Array:
        return self.now.copy()


class Replayed(GaussianPolicy):
    """A Gaussian policy that draws what was drawn."""

    step_count = 0

    def act(self, observation: Observation, memory: None = None, **options: Any) -> tuple[Decision, None]:
        drawn = recorded("actions")[self.step_count]
        self.step_count += 1
        with torch.no_grad():
            return Decision(drawn[:, None], drawn, self.score(observation, drawn).log_prob), None


class Given(ValueNet):
    """A critic whose observations are normalised already."""

    def update_normaliser(self, observation: Observation) -> None:
        """Nothing to learn."""


class OneLimit(FlatAdam):
    """One limit of the gradient's norm over all modules together."""

    def clip(self) -> dict[str, float]:
        norms = {name: part.norm() for name, part in self.parts.items()}
        norm = math.hypot(*norms.values())
        if norm > self.max_norm:
            for buffer in self.buffers.values():
                buffer.gradient.mul_(self.max_norm / (norm + 1e-6))
        return norms


def weights(iteration: int) -> dict[str, Tensor]:
    """Return the recorded weights under toddle's names."""
    found = {}
    for ours, theirs, last in (("nets.0.mlp", "policy_net", "action_net"), ("bodies.0.mlp", "value_net", "value_net")):
        for layer, module in enumerate((f"mlp_extractor.{theirs}.0", f"mlp_extractor.{theirs}.2", last)):
            for kind in ("weight", "bias"):
                found[f"{ours}.{kind}_{layer}"] = DATA[f"weights/{iteration}/{module}.{kind}"]
    return found | {"nets.0.log_std": DATA[f"weights/{iteration}/log_std"]}


def make(monkeypatch: pytest.MonkeyPatch, kept: str = "") -> PPO:
    """Build toddle's PPO with stable-baselines3's weights and settings, which takes its minibatches in that order.

    kept: what of toddle's own is not swapped, `limits`, `moments` or `scale`; or `ends` for time limits that are told
    as terminations, `order` for minibatches in an order of toddle's own.
    """
    env, hidden = Replay(cuts=kept != "ends"), tuple(ABOUT["hidden"])
    fixed = kept != "moments"
    policy = Replayed(GaussianConfig(bodies=(env.body_spec,), hidden=hidden, fixed_statistics=fixed))
    critic = (Given if fixed else ValueNet)(CriticConfig(inputs=(env.body_spec.proprio,), hidden=hidden))
    for module in (policy, critic):
        missing, _ = module.load_state_dict(weights(0), strict=False)
        assert all(".scale." in name for name in missing)  # the moments of observations, which are the identity's
        for name, buffer in module.named_buffers():
            if name.endswith("scale.scale"):
                buffer.fill_(1.0)  # 1 / sqrt(1 + 1e-6) before
    limit = SETTINGS["max_grad_norm"]
    config = PPOConfig(
        epochs=SETTINGS["n_epochs"],
        minibatches=STEPS * WORLDS // SETTINGS["batch_size"],
        learning_rate=SETTINGS["learning_rate"],
        critic_learning_rate=SETTINGS["learning_rate"],
        schedule="constant",
        lam=SETTINGS["gae_lambda"],
        clip_low=SETTINGS["clip_range"],
        clip_high=SETTINGS["clip_range"],
        entropy=SETTINGS["ent_coef"],
        max_grad_norm=limit,
        target_kl=None,
    )
    collect = CollectConfig(length=STEPS, discount=SETTINGS["gamma"], scale_rewards=kept == "scale")
    optimiser = FlatAdam if kept == "limits" else OneLimit
    if kept != "order":
        orders = iter(recorded("order"))
        monkeypatch.setattr(torch, "randperm", lambda total, generator: next(orders))
    return PPO(
        policy,
        critic,
        [Collector(env, collect, seed=0)],
        config,
        iterations=ITERATIONS,
        seed=0,
        optimiser=lambda modules: optimiser(modules, max_norm=limit, epsilon=config.adam_epsilon),
    )


def distance(learner: PPO, iteration: int) -> float:
    """Distance of all weights together from the recorded ones, as a share of the way these had gone."""
    found = {name: value for module in learner.modules.values() for name, value in module.state_dict().items()}  # type: ignore[attr-defined]
    start, end = weights(0), weights(iteration)
    off, way = (torch.cat([(a[n] - end[n]).flatten() for n in end]).norm() for a in (found, start))
    return float(off / way)


def test_two_iterations_are_stable_baselines3s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: advantages to 1e-6, losses to 2e-7, weights to 1e-6 of their way; processors round differently."""
    learner = make(monkeypatch)
    assert 0 < int(recorded("terminated").sum()) < int(recorded("truncated").sum())  # ends of both kinds
    for iteration in range(ITERATIONS):
        facts = learner.step()
        rollout = learner.sources[0].rollout  # type: ignore[attr-defined]
        found = {"log_probs": rollout.log_prob[..., 0], "values": rollout.value, "advantages": rollout.advantage}
        for name, value in (found | {"returns": rollout.target}).items():
            torch.testing.assert_close(value, DATA[f"{name}/{iteration}"], atol=1e-5, rtol=1e-5)
        losses = {"policy_gradient_loss": facts["ppo/policy_loss"], "value_loss": 2.0 * facts["ppo/value_loss"]}
        losses |= {"entropy_loss": -facts["ppo/entropy"], "clip_fraction": facts["ppo/clipped"]}
        for name, number in losses.items():
            assert number == pytest.approx(float(DATA[f"{name}/{iteration}"]), abs=2e-6, rel=2e-6)
        assert facts["ppo/updates"] == STEPS * WORLDS / SETTINGS["batch_size"] * SETTINGS["n_epochs"]
        assert distance(learner, iteration + 1) < 5e-6


@pytest.mark.parametrize("kept", ["limits", "moments", "scale", "ends", "order"])
def test_each_difference_shows(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: with one of the three deviations as toddle has it, or with ends or order mistaken, weights differ."""
    learner = make(monkeypatch, kept)
    for _ in range(ITERATIONS):
        learner.step()
    assert distance(learner, ITERATIONS) > 0.02
