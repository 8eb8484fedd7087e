"""PA-RL over a toy policy: imitating what a critic prefers brings it to what pays, and not to what pays others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.policies.toy_flow import AimEnv
from torch import Tensor, nn

from toddle.algorithms.action_optimisation import ActionOptimisation, OptimiseConfig
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import SteeringConfig
from toddle.core.types import BodySpec, Decision, Observation
from toddle.data.replay import Replay, Store
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.optimised import OptimisedPolicy
from toddle.runs.checkpoint import copy_tree, states_equal


class Draws(nn.Module):
    """Normal actions around a mean that is learned; imitation is the squared distance to it."""

    kind, sequential, cameras, features, context_width, horizon = "toy", False, (), None, 3, 1
    config, window_sizes = None, (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))
        self.bodies = (BodySpec(name="point", proprio=2, action=1, dt=0.1),)

    def initial_memory(self, batch: int) -> None:
        """Nothing is remembered."""

    def encode(self, observation: Observation) -> Observation:
        worlds = len(observation["proprio"])
        made: Any = {"context": torch.zeros(worlds, 2, 3), "context_mask": torch.ones(worlds, 2, dtype=torch.bool)}
        return observation | made

    def act(self, observation: Observation, memory: Any = None, *, generator: Any = None, **more: Any) -> Any:
        noise = torch.randn((len(observation["proprio"]), 1, 1), generator=generator)
        action = (self.mean + 0.25 * noise).detach()
        return Decision(action, noise, noise.new_zeros(len(noise), 0)), None

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        assert batch["observation"]["context"].shape[:3] == (1, len(batch["action"]), 2)
        return (self.mean - batch["action"]).square()[batch["mask"]].mean(), {}


def made(**optimise: Any) -> ActionOptimisation:
    policy = OptimisedPolicy(Draws(), 6, torch.tensor([-1.0]), torch.tensor([1.0]))
    collector = Collector(AimEnv(64, limit=3), CollectConfig(length=1, discount=0.9, scale_rewards=False), seed=0)
    replay = Replay({ONLINE: Store(5000, *policy.state_sizes)}, {ONLINE: 1.0})
    sac = SACConfig(
        critic_hidden=(32,), rounds=5, learn_after=512, batch=64, discount=0.9, ratio=0.25, learning_rate=3e-3
    )
    sac = replace(sac, learning_rate=3e-3)
    given: dict[str, Any] = {"keep": 3, "steps": 3, "learning_rate": 1e-2, "imitate_every": 1, "batch": 32} | optimise
    return ActionOptimisation(policy, collector, replay, sac, SteeringConfig(), OptimiseConfig(**given), seed=0)


def mean(learner: ActionOptimisation) -> float:
    return learner.optimised.vla.mean.item()


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_imitation_brings_the_policy_to_what_pays(shuffled: bool) -> None:
    """At a mean of 0 and a deviation of 0.25 an action of 0.5 is rare (2 of 100): alone it is seldom met."""
    learner = made()
    if shuffled:
        generator = torch.Generator().manual_seed(5)
        paid = learner._paid
        learner._paid = lambda reward, discount: paid(  # type: ignore[method-assign]
            reward[torch.randperm(len(reward), generator=generator)], discount
        )
    for _ in range(5):
        metrics = learner.step()
    assert metrics["sac/updates"] > 200
    assert mean(learner) < 0.4 if shuffled else mean(learner) > 0.5


def test_one_draw_without_steps_is_the_policy_itself() -> None:
    """What is executed is then its own draw, bit by bit, and so is what it imitates: it stays where it is."""
    alone, learner = made(), made(draws=1, keep=1, steps=0)
    learner.optimised.draws = 1
    state = torch.cat([torch.randn(9, 5), torch.randn(9, 6)], 1)
    one = OptimisedPolicy(Draws(), 1, torch.tensor([-1.0]), torch.tensor([1.0]))
    assert one.candidates(state[:, :6]).shape == (9, 1, 1)
    learner.optimised = one
    assert torch.equal(learner.improve(state[:, :6], learner.critics, learner.noise), state[:, 5:6])
    assert float(alone.optimised.share) == 0.0


def test_a_state_holds_the_draws_of_which_one_was_executed() -> None:
    learner = made(steps=0, temperature=0.0)
    learner.learn_after = 0
    learner._gather()
    seen = Observation(proprio=torch.randn(7, 2, generator=torch.Generator().manual_seed(0)))
    decision, _ = learner.optimised.act(seen, generator=torch.Generator().manual_seed(3))
    assert decision.state is not None and decision.state.shape == (7, 2 + 3 + 6)
    draws = learner.optimised.candidates(decision.state)
    assert bool((draws == decision.chain[:, None]).any(1).all())


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit() -> None:
    whole, killed = made(), made()
    for _ in range(3):
        whole.step()
    killed.load_state_dict(copy_tree(whole.state_dict()))
    assert killed.step() == whole.step() and whole.updates > 60
    assert states_equal(killed.state_dict(), whole.state_dict())
