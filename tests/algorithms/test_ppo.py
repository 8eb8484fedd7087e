"""PPO: the first ratio is 1, resume is bitwise, bodies weigh equally, schedules and stops do what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tiny_env import ReachEnv
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.ppo_memory import forecast
from toddle.core.errors import InputError, NaNError
from toddle.core.live_memory import LiveBytes
from toddle.core.protocols import Learner
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.experience.collect import CollectConfig, Collector
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.runs.checkpoint import load_state, save_state, states_equal

POINT = BodySpec(name="point", proprio=4, action=2, dt=0.1)
WIDE = BodySpec(name="wide", proprio=6, action=2, dt=0.1)


def make(
    kind: str = "mlp", *, seed: int = 0, bodies: tuple[BodySpec, ...] = (POINT,), worlds: Any = None, **ppo: Any
) -> PPO:
    if kind == "mlp":
        policy: Any = GaussianPolicy(GaussianConfig(bodies=bodies, hidden=(8,), log_std=-0.5))
    else:
        trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=8)
        expert = ExpertConfig(trunk=trunk, bodies=bodies, horizon=2, executed=2, window=3, bank_hidden=8)
        policy = CausalPolicy(CausalConfig(expert=expert))
    critic = ValueNet(CriticConfig(inputs=tuple(body.proprio for body in bodies), hidden=(8,)))
    sources = []
    for index, body in enumerate(bodies):
        env = ReachEnv((worlds or [6] * len(bodies))[index], limit=7, body=body.name, extra=body.proprio - 4)
        sources.append(Collector(env, CollectConfig(length=8, discount=0.9), seed=seed + index, body=index))
    return PPO(policy, critic, sources, PPOConfig(**{"epochs": 2, "minibatches": 3, **ppo}), iterations=10, seed=seed)


@pytest.mark.parametrize("kind", ["mlp", "causal"])
def test_first_update_has_ratio_one(kind: str) -> None:
    metrics = make(kind, epochs=1, minibatches=1).step()
    assert abs(metrics["ppo/kl"]) < 1e-9
    assert metrics["ppo/clipped"] == 0.0
    assert metrics["ppo/policy_loss"] == pytest.approx(0.0, abs=1e-5)  # the mean of standardised advantages


def test_advantages_as_they_are_move_nothing_where_nothing_is_gained() -> None:
    """FLaRe's choice: no reward and values of 0 give a policy gradient of exactly 0.  Values that are noise move the
    policy; the loss at ratio 1 is minus the mean advantage, which standardised ones have not."""
    for normalise, value, moves in ((False, 0.0, False), (False, 1.0, True), (True, 1.0, True)):
        learner = make(epochs=1, minibatches=1, normalise_advantages=normalise)
        env = learner.sources[0].env  # type: ignore[attr-defined]
        step = env._step_worlds
        env._step_worlds = lambda *args, step=step: (step(*args)[0] * 0.0, *step(*args)[1:])
        with torch.no_grad():
            for weight in learner.critic.parameters():
                weight.mul_(value)
        before = [p.detach().clone() for p in learner.modules["policy"].parameters()]
        loss = abs(learner.step()["ppo/policy_loss"])
        assert (loss > 1e-2) is (moves and not normalise) and (loss < 1e-5) is (normalise or not moves)
        same = [torch.equal(a, b) for a, b in zip(before, learner.modules["policy"].parameters(), strict=True)]
        assert not any(same) if moves else all(same)


def test_later_updates_have_not() -> None:
    assert make(epochs=3, learning_rate=3e-3).step()["ppo/kl"] > 1e-5


@pytest.mark.parametrize("kind", ["mlp", "causal"])
def test_train_four_equals_train_two_and_resume_two(kind: str, tmp_path: Path) -> None:
    whole = make(kind, schedule="adaptive")
    rows = [whole.step() for _ in range(4)]
    first = make(kind, schedule="adaptive")
    assert [first.step() for _ in range(2)] == rows[:2]
    save_state(tmp_path / "state", first.state_dict())
    second: Learner = make(kind, schedule="adaptive", seed=5)
    second.load_state_dict(load_state(tmp_path / "state")[0])
    assert [second.step() for _ in range(2)] == rows[2:]
    assert states_equal(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("missing", ["optimiser", "generator", "policy", "source_0"])
def test_every_part_of_the_state_is_needed(missing: str) -> None:
    """Control: leave one part at its start value and the next step differs."""
    whole = make()
    whole.step()
    state = whole.state_dict()
    saved = {**state, missing: make(seed=5).state_dict()[missing] if missing != "optimiser" else None}
    second = make(seed=5)
    if saved["optimiser"] is None:
        second.optimiser.load_state_dict = lambda state: None  # type: ignore[method-assign]
    second.load_state_dict(saved)
    assert second.step() != whole.step()


def test_bodies_weigh_equally() -> None:
    """A body with ten times the worlds does not count more: the gradient is the mean of the bodies' own."""
    both = make(bodies=(POINT, WIDE), worlds=[3, 30], epochs=1, minibatches=1)
    rollouts = []
    for source in both.sources:
        rollout, _ = source.collect(both.policy, both.critic)
        both._estimate(rollout)
        rollouts.append(next(iter(rollout.minibatches(1, False, torch.Generator()))))
    gradient: dict[str, torch.Tensor] = {}
    for name, parts in (("both", rollouts), ("point", rollouts[:1]), ("wide", rollouts[1:])):
        both._gradients(parts)
        gradient[name] = torch.cat([p.grad.flatten().clone() for p in both.modules["policy"].parameters()])  # type: ignore[union-attr]
    assert torch.allclose(gradient["both"], (gradient["point"] + gradient["wide"]) / 2, atol=1e-7)
    assert float(gradient["point"].norm()) > 1e-4
    assert float(gradient["wide"].norm()) > 1e-4


@pytest.mark.parametrize(("kind", "ended"), [("mlp", False), ("causal", True)])
def test_parts_one_after_the_other_make_the_same_update(kind: str, ended: bool) -> None:
    """Six worlds in four parts, recomputed, give the gradient of all at once (a mask makes the parts unequal)."""
    learner = make(kind, clip_low=1e-3, clip_high=2e-3)
    rollout, _ = learner.sources[0].collect(learner.policy, learner.critic)
    if ended:
        rollout.mask = torch.arange(8)[:, None] < torch.tensor([8, 1, 2, 8, 3, 5])
    learner._estimate(rollout)
    with torch.no_grad():  # ratios that are not 1
        for p in learner.modules["policy"].parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    found = []
    for parts, again in ((1, False), (4, True), (4, False)):
        learner.config = replace(learner.config, accumulate=parts, checkpointing=again)
        part = next(iter(rollout.minibatches(1, learner.policy.sequential, torch.Generator().manual_seed(0))))
        facts = learner._gradients([part])
        found.append((torch.cat(learner.optimiser.gradients()).clone(), torch.stack([*facts.values()])))
    assert float(found[0][0].norm()) > 1e-3
    for gradient, numbers in found[1:]:
        torch.testing.assert_close(gradient, found[0][0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(numbers, found[0][1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "causal"])
def test_metrics_of_several_bodies_name_them(kind: str) -> None:
    metrics = make(kind, bodies=(POINT, WIDE)).step()
    assert {"episode/return/point", "episode/return/wide", "ppo/kl"} <= set(metrics)


def test_kl_stop() -> None:
    free = make(epochs=8, learning_rate=0.03, target_kl=None, schedule="constant").step()
    held = make(epochs=8, learning_rate=0.03, target_kl=0.01, schedule="constant").step()
    assert free["ppo/updates"] == 24.0
    assert held["ppo/updates"] < 24.0
    assert held["ppo/last_kl"] > 0.015 > 0.0


def test_schedules() -> None:
    def rates(schedule: str, rate: float) -> list[float]:
        learner = make(schedule=schedule, learning_rate=rate, final_rate=0.1, target_kl=0.02, epochs=4)
        return [learner.step()["ppo/learning_rate"] for _ in range(6)]

    assert rates("constant", 1e-3) == [1e-3] * 6
    cosine = [1e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2) for step in range(6)]
    assert rates("cosine", 1e-3) == pytest.approx(cosine)
    assert rates("adaptive", 1e-5)[-1] > 5e-5  # KL far below its target: the rate rises
    assert rates("adaptive", 0.5)[-1] < 0.2  # far above: it falls
    warming = make(schedule="adaptive", learning_rate=1e-5, target_kl=0.02, critic_warm_up=3)
    assert [warming.step()["ppo/learning_rate"] for _ in range(4)] == [1e-5] * 4  # nothing moved: KL 0 says nothing


class Tokens(nn.Module):
    """An autoregressive policy of three binary tokens (L = 3): what an action-token VLA is, at its smallest."""

    sequential, horizon = False, 1

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def initial_memory(self, batch: int) -> None:
        return None

    def encode(self, observation: Observation) -> Observation:
        return observation

    def act(
        self, observation: Observation, memory: Any = None, *, generator: Any = None, deterministic: bool = False
    ) -> Any:
        one = torch.rand(len(observation["proprio"]), 3, generator=generator) < torch.sigmoid(self.logits.detach())
        action = (one.float().mean(-1) * 2 - 1)[:, None, None].expand(-1, 1, 2)
        return Decision(action, one.float(), self.score(observation, one.float()).log_prob.detach()), None

    def score(self, observation: Observation, chain: torch.Tensor) -> Score:
        log_prob = -nn.functional.softplus(torch.where(chain > 0.5, -self.logits, self.logits))
        return Score(log_prob, torch.zeros(chain.shape[:-1]))

    def update_normaliser(self, observation: Observation) -> None:
        pass


@pytest.mark.parametrize("ratio", ["sum", "mean", "per_link"])
def test_any_chain(ratio: str) -> None:
    """PPO knows nothing of Gaussians: a chain of three tokens learns, whichever way its ratio is formed."""
    learner = make(ratio=ratio, link_discount=0.9, link_clip_first=0.05, learning_rate=0.02, schedule="constant")
    tokens = Tokens()
    learner = PPO(tokens, learner.critic, learner.sources, learner.config, iterations=10, seed=0)  # type: ignore[arg-type]
    first = learner.step()
    learner.step()
    assert first["ppo/updates"] == 6.0
    assert float(tokens.logits.detach().abs().max()) > 0.02


def test_nan_is_named_and_does_not_reach_the_parameters() -> None:
    learner = make()
    learner.step()
    before = [p.detach().clone() for p in learner.modules["policy"].parameters()]
    env = learner.sources[0].env  # type: ignore[attr-defined]
    step = env._step_worlds
    env._step_worlds = lambda *args: (step(*args)[0] * float("nan"), *step(*args)[1:])
    with pytest.raises(NaNError, match="the reward of world 0 is nan"):
        learner.step()
    assert all(torch.equal(a, b) for a, b in zip(before, learner.modules["policy"].parameters(), strict=True))


def test_nan_in_the_policy_is_named() -> None:
    learner = make()
    with torch.no_grad():
        learner.modules["policy"].nets[0].log_std.fill_(float("nan"))  # type: ignore[union-attr, index]
    with pytest.raises(NaNError, match=r"the action of world 0, number 0\.0 is nan"):
        learner.step()


def test_wrong_settings() -> None:
    for field, value in (("epochs", 0), ("learning_rate", -1.0), ("lam", 1.5), ("max_grad_norm", 0.0)):
        with pytest.raises(InputError, match=field):
            PPOConfig(**{field: value})
    with pytest.raises(InputError, match="target_kl"):
        PPOConfig(schedule="adaptive", target_kl=None)
    with pytest.raises(InputError, match="minibatches"):
        make("causal", minibatches=7).step()


@pytest.mark.parametrize("cut", [{"accumulate": 3}, {"minibatches": 1}])
def test_the_forecast_of_memory_is_what_an_iteration_has_alive(cut: dict[str, Any]) -> None:
    settings = {"kind": "causal", "worlds": [48], "minibatches": 2, "target_kl": None} | cut
    found = forecast(make(**settings))
    learner = make(**settings)
    with LiveBytes() as live:
        learner.step()
    assert abs(found.peak - found.optimiser - max(live.timeline)) < 0.1 * max(live.timeline)
    assert found.optimiser == 3 * sum(4 * x.numel() for x in learner.optimiser.gradients())
