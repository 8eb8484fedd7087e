"""A person who speaks first: the rule, what is learned from corrections, and nothing without words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.algorithms.test_intervention import ShownEnv
from tests.policies.toy_flow import ToyFlow

from toddle.algorithms.dual_actor import DualActor, RefineConfig
from toddle.algorithms.intervention import PERSON
from toddle.algorithms.soft_actor_critic import ONLINE, SACConfig
from toddle.algorithms.steering import SteeringConfig
from toddle.data.replay import Replay, Store
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.talking import TalkConfig, Talking
from toddle.experience.teacher import ExpertTeacher
from toddle.maths.corrections import corrections, one_hot
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.runs.checkpoint import copy_tree


def test_what_is_furthest_off_is_said_with_its_side() -> None:
    wanted, now = np.array([[0.0, 0.5, 0.0], [0.2, 0.0, -0.9], [0.05, 0.0, 0.0]]), np.zeros((3, 3))
    said = corrections(wanted, now, 0.1)
    assert said.tolist() == [3, 6, 0]  # more of the second, less of the third, nothing
    assert one_hot(said, 3).tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0] * 6]


def made(**rule: Any) -> DualActor:
    policy = SteeredPolicy(
        SteeredConfig(mode="residual", scale=1.0, hidden=(8,)), ToyFlow(lambda w: 0.1 * w.clamp(-3, 3))
    )
    collector = Collector(ShownEnv(16), CollectConfig(length=1, discount=0.9, scale_rewards=False), seed=0)
    stores = {name: Store(500, *policy.state_sizes) for name in (ONLINE, PERSON)}
    sac = SACConfig(critic_hidden=(8,), rounds=2, learn_after=64, batch=16, discount=0.9, ratio=0.1, temperature=0.01)
    person = Talking(ExpertTeacher(collector.env), collector.env, TalkConfig(patience=1, **rule))
    replay, refine = Replay(stores, {ONLINE: 0.5, PERSON: 0.5}), RefineConfig(hidden=16, learning_rate=1e-2)
    return DualActor(policy, collector, replay, sac, SteeringConfig(), seed=0, person=person, refine=refine)


def test_the_person_speaks_first_and_takes_over_where_that_was_in_vain() -> None:
    """The expert does 0.8; the second policy is off by 0.3 alone, which is within what is let pass."""
    env = ShownEnv(2)
    person = Talking(ExpertTeacher(env), env, TalkConfig(patience=2, talk=2, hold=3))
    still, heard = np.array([[[0.0]], [[0.5]]], np.float32), 0.1
    person.refine = lambda said: np.full((2, 1, 1), heard)
    done = []
    for _ in range(9):
        chunk = person.step(0, None, np.zeros(2, bool), still)
        done.append(round(float(chunk[0, 0, 0]), 3))
        assert chunk[1, 0, 0] == 0.5
    assert done == [0.0, 0.1, 0.1, 0.0, 0.8, 0.8, 0.8, 0.0, 0.1]  # spoke, was off again, took over, gave back
    person.refine = None  # nobody hears: as a person who does not talk
    person._vain[:] = person._talk[:] = person._off[:] = person._left[:] = 0
    alone = [float(person.step(0, None, np.zeros(2, bool), still)[0, 0, 0]) for _ in range(3)]
    assert alone == pytest.approx([0.0, 0.8, 0.8])


def test_corrections_teach_the_second_actor_which_is_silent_without_words() -> None:
    learner = made(talk=2)
    for _ in range(5):
        learner._gather()  # 64 decisions are the person's alone
    assert len(learner.told) >= 48 and learner.told[:, -2].mean() > 0.5  # what was to be added to about 0
    seen: Any = {"proprio": torch.zeros(16, 2)}
    learner.policy.act(seen, generator=torch.Generator().manual_seed(0))
    assert np.abs(learner._refined(np.ones(16, np.int64))).max() == 0.0  # it begins by adding nothing
    losses = [float(learner._listen()["refine_loss"]) for _ in range(80)]
    assert losses[-1] < 0.2 * losses[0]
    more, none = learner._refined(np.ones(16, np.int64)), learner._refined(np.zeros(16, np.int64))
    assert more.mean() > 0.5 and np.abs(none).max() == 0.0
    again = made(talk=2)
    again.load_state_dict(copy_tree(learner.state_dict()))
    assert again.step() == learner.step() and torch.equal(again.told, learner.told)


def test_the_second_actor_climbs_the_critics_from_where_the_first_one_is() -> None:
    """As far as the best of 41 actions for critics that were taught -(a - 0.4)^2; without a weight nothing moves."""
    learner = made(talk=2)
    for _ in range(5):
        learner._gather()
    known, words, first, *_ = learner.told.split(learner.parts, -1)
    optimiser, draw = torch.optim.Adam(learner.critics.parameters(), 1e-2), torch.Generator().manual_seed(0)
    for _ in range(200):
        action = 2.0 * torch.rand(len(known), first.shape[1], generator=draw) - 1.0
        loss = (learner.critics(known, action) + (action - 0.4).square().sum(-1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learner.critics.requires_grad_(False)
    grid = torch.linspace(-1.0, 1.0, 41)
    values = torch.stack([learner.critics(known, torch.full_like(first, float(at))).mean(0) for at in grid])

    def valued() -> float:
        added = learner._added(known[:, : learner.corrected.state_sizes[0]], words)
        return float(learner.critics(known, first + added).detach().mean())

    before, best = valued(), float(values.amax(0).mean())
    for weight, least, most in ((0.0, before, before), (1.0, before + 0.9 * (best - before), best + 1e-3)):
        learner.second = replace(learner.second, imitation=0.0, values=weight)
        for _ in range(80):
            learner._listen()
        assert least - 1e-6 <= valued() <= most + 1e-6 and best - before > 0.05


@pytest.mark.slow
def test_whom_words_help_is_taken_over_less() -> None:
    shares = {}
    for talk in (0, 2):
        learner, acted = made(talk=talk), []
        for _ in range(12):
            acted.append(learner.step()["steer/interventions"])
        shares[talk] = float(np.mean(acted[2:8]))
    assert shares[2] < shares[0]
