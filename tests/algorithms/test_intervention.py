"""A person beside a policy: takes over by the rule, and what was really done is kept, twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.toy_flow import AimEnv, ToyFlow

from toddle.algorithms.intervention import PERSON, Intervened
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import SteeringConfig
from toddle.core.errors import InputError
from toddle.data.replay import Replay, Store
from toddle.envs.base import Array
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.guide import Person, PersonConfig
from toddle.experience.teacher import ExpertTeacher
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.runs.checkpoint import copy_tree, states_equal


class ShownEnv(AimEnv):
    """An expert does 0.8."""

    def expert_action(self) -> Array:
        return np.full((self.num_envs, 1), 0.8, np.float32)


def made(*, learn_after: int = 64, mode: Any = "residual", **rule: Any) -> Intervened:
    policy = SteeredPolicy(SteeredConfig(mode=mode, scale=1.0, hidden=(32,)), ToyFlow(lambda w: 0.1 * w.clamp(-3, 3)))
    collector = Collector(ShownEnv(16), CollectConfig(length=1, discount=0.9, scale_rewards=False), seed=0)
    stores = {name: Store(5000, *policy.state_sizes) for name in (ONLINE, PERSON)}
    sac = SACConfig(
        critic_hidden=(32,), rounds=5, learn_after=learn_after, batch=32, discount=0.9, ratio=0.1, temperature=0.01
    )
    person = Person(ExpertTeacher(collector.env), collector.env, PersonConfig(**rule))
    replay = Replay(stores, {ONLINE: 0.5, PERSON: 0.5})
    return Intervened(policy, collector, replay, sac, SteeringConfig(), seed=0, person=person)


def test_the_person_takes_over_by_the_rule_and_hands_back() -> None:
    """Off by 0.8 where the policy does nothing: after two such decisions three are the person's, and so on."""
    person = Person(ExpertTeacher(ShownEnv(2)), ShownEnv(2), PersonConfig(tolerance=0.5, patience=2, hold=3))
    still = np.array([[[0.0]], [[0.5]]], np.float32)  # the second is off by 0.3 alone
    acted = []
    for step in range(9):
        chunk = person.step(0, None, np.array([step == 7, False]), still)
        acted.append(bool(person.acted[0]))
        assert chunk[0, 0, 0] == pytest.approx(0.8 if acted[-1] else 0.0) and chunk[1, 0, 0] == 0.5
    assert acted == [False, True, True, True, False, True, True, False, True]  # an episode begins at the eighth


def test_what_was_really_done_is_kept_and_the_persons_twice() -> None:
    learner = made(tolerance=0.5)
    for _ in range(30):
        learner._gather()
    online, theirs = (store.at(torch.arange(len(store))) for store in learner.replay.stores.values())
    executed = np.concatenate(learner.collector.env.actions)[: len(online), 0]  # type: ignore[attr-defined]
    assert (online.observation[:, 2] + online.action[:, 0]).clamp(-1, 1).numpy() == pytest.approx(executed, abs=1e-6)
    assert (theirs.observation[:, 2] + theirs.action[:, 0]).numpy() == pytest.approx(0.8, abs=1e-6)
    assert 64 <= len(theirs) < len(online)
    as_done = (online.observation[:, 2] + online.action[:, 0] - 0.8).abs() < 1e-6
    assert int(as_done.sum()) == len(theirs)


@pytest.mark.slow
def test_the_person_is_needed_less_and_less() -> None:
    learner = made(tolerance=0.5)
    first = [learner._gather()["steer/interventions"] for _ in range(4)]
    assert first == [1.0] * 4  # 64 decisions are the person's
    before = np.mean([learner._gather()["steer/interventions"] for _ in range(6)])
    for _ in range(15):
        metrics = learner.step()
    assert metrics["steer/interventions"] < 0.2 < before


def test_noise_cannot_say_what_a_person_did() -> None:
    with pytest.raises(InputError, match=r"steered\.mode: expected residual"):
        made(mode="noise")


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_by_bit() -> None:
    whole, killed = made(), made()
    for _ in range(4):
        whole.step()
    killed.load_state_dict(copy_tree(whole.state_dict()))
    assert killed.step() == whole.step()
    assert states_equal(killed.state_dict(), whole.state_dict())
