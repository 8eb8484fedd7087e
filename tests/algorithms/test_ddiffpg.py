"""DDiffPG: modes are found and inherited, the memory keeps what it should, critics know their mode, targets improve."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toddle.algorithms.ddiffpg import DDiffPG, DDiffPGConfig
from toddle.algorithms.modes import Mode, assign_modes, inherit
from toddle.core.errors import InputError
from toddle.data.trajectory_buffer import FAILED, TrajectoryBuffer
from toddle.envs.fork import ForkEnv
from toddle.models.mode_critic import ModeCritic
from toddle.models.novelty import Novelty
from toddle.runs.checkpoint import states_equal

TINY = DDiffPGConfig(warm_up=4, regroup_every=4, batch=8, updates=1, capacity=40, hidden=(16,), actor_width=16)


def walk(side: float, random: np.random.Generator, steps: int = 20) -> Any:
    """A path from (0, 0) to (2, 0) that goes round (1, 0) at height `side`, with noise; velocity columns are zero."""
    x = np.linspace(0, 2, steps + 1)
    y = side * np.sin(np.pi * x / 2) + 0.03 * random.normal(size=steps + 1)
    return np.stack([x, y, 0 * x, 0 * x], 1)


def filled(above: int, below: int, failed: int, capacity: int = 60) -> TrajectoryBuffer:
    buffer, random = TrajectoryBuffer(capacity, 20, 4, 2, (0, 1)), np.random.default_rng(0)
    for side, count, success in ((1.0, above, True), (-1.0, below, True), (0.8, failed, False)):
        for _ in range(count):
            path = walk(side, random)
            buffer.add(path, np.diff(path[:, :2], axis=0), np.zeros(20), success=success, terminated=success)
    return buffer


def test_two_families_of_paths_are_two_modes_and_failures_join_the_nearer() -> None:
    buffer = filled(6, 5, 4)
    assert assign_modes(buffer, np.random.default_rng(0), share=0.7) == 2
    above, below, failed = buffer.mode[:6], buffer.mode[6:11], buffer.mode[11:15]
    assert len(set(above)) == len(set(below)) == 1 and above[0] != below[0]
    assert set(failed) == {above[0]}  # they went round above
    assert set(buffer.mode[15:]) == {FAILED}


def test_no_mode_takes_more_than_its_share_and_successes_stay() -> None:
    buffer = filled(30, 4, 8, capacity=44)
    assert assign_modes(buffer, np.random.default_rng(0), share=0.7) == 2
    counts = np.bincount(buffer.mode[buffer.mode >= 0])
    assert counts.max() <= 11 and counts.min() == 4  # 44 / (2 * 2)
    assert buffer.success[buffer.filled()].all()  # the failures went first


def test_a_memory_without_success_has_no_mode() -> None:
    assert assign_modes(filled(0, 0, 5), np.random.default_rng(0), share=0.7) == 0


def test_the_memory_drops_failures_before_successes() -> None:
    buffer = filled(2, 0, 4, capacity=6)
    path = walk(1.0, np.random.default_rng(1))
    for _ in range(2):
        buffer.add(path, np.diff(path[:, :2], axis=0), np.zeros(20), success=True, terminated=True)
    assert buffer.success.sum() == 4 and (~buffer.success).sum() == 2
    for _ in range(3):  # failures hold less than half now: the oldest goes, whatever it is
        buffer.add(path, np.diff(path[:, :2], axis=0), np.zeros(20), success=True, terminated=True)
    assert buffer.born.min() >= 2


def test_steps_are_drawn_in_proportion_and_written_back() -> None:
    buffer, random = filled(3, 0, 27), np.random.default_rng(0)
    batch, places = buffer.sample(buffer.filled(), 3000, random)
    assert 0.07 < buffer.success[places[:, 0]].mean() < 0.13
    assert torch.equal(batch["alive"] == 0, torch.from_numpy((places[:, 1] == 19) & buffer.success[places[:, 0]]))
    _, rich = buffer.sample(buffer.filled(), 3000, random, winners=0.5)
    assert 0.52 < buffer.success[rich[:, 0]].mean() < 0.58
    buffer.write("mode_target", places[:5], torch.full((5, 2), 0.25))
    assert (buffer.steps["mode_target"][places[:5, 0], places[:5, 1]] == 0.25).all()
    assert not (buffer.steps["explore_target"][places[:5, 0], places[:5, 1]] == 0.25).any()


def mode(seed: int, members: set[int]) -> Mode:
    critic = ModeCritic(4, 2, hidden=(8,), atoms=11, top=1.0, seed=seed)
    return Mode(torch.full((3,), float(seed)), critic, torch.optim.Adam(critic.twins.parameters()), members)


def test_inheritance() -> None:
    """The larger overlap keeps critic and embedding, the smaller gets a copy, a stranger the exploration critic."""
    former, explorer = [mode(1, {0, 1, 2, 3, 4})], mode(9, set())
    embeddings = np.zeros((3, 3), np.float32)
    groups = [{3, 4}, {0, 1, 2}, {7, 8}]
    copied, kept, strange = inherit(former, groups, explorer, embeddings, 1e-3)
    assert kept is former[0] and kept.embedding[0] == 1 and kept.members == {0, 1, 2}
    assert copied.critic is not kept.critic and states_equal(copied.critic.state_dict(), kept.critic.state_dict())
    assert copied.embedding[0] == 0
    assert states_equal(strange.critic.state_dict(), explorer.critic.state_dict())
    assert strange.critic is not explorer.critic


def test_critics_prefer_the_way_of_their_mode_at_the_fork() -> None:
    """Taught on the data of one side only, a mode's critic values going up or down there accordingly."""
    g, values = torch.Generator().manual_seed(0), {}
    up, down = torch.tensor([[0.2, 0.9]]), torch.tensor([[0.2, -0.9]])
    fork = torch.zeros(1, 4)
    for name, good in (("above", up), ("below", down)):
        critic = ModeCritic(4, 2, hidden=(32,), atoms=21, top=1.5, seed=3)
        optimiser = torch.optim.Adam(critic.twins.parameters(), lr=5e-3)
        for _ in range(150):
            action = torch.rand(64, 2, generator=g) * 2 - 1
            reward = ((action - good).norm(dim=-1) < 0.8).float()
            batch = {
                "observation": fork.expand(64, -1),
                "next_observation": fork.expand(64, -1),
                "action": action,
                "alive": torch.zeros(64),
            }
            loss = critic.loss(batch, reward, action, 0.9)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        values[name] = (critic.value(fork, up).item(), critic.value(fork, down).item())
    assert values["above"][0] > values["above"][1] + 0.2
    assert values["below"][1] > values["below"][0] + 0.2


def test_target_actions_climb_the_critic() -> None:
    learner = DDiffPG(ForkEnv(2), TINY, seed=0)
    observation, start = torch.zeros(16, 4), torch.zeros(16, 2)
    better = learner.actor.improve(learner.explorer.critic, observation, start)
    gain = learner.explorer.critic.value(observation, better) - learner.explorer.critic.value(observation, start)
    assert (gain > 0).all() and better.abs().max() < 1


@pytest.mark.parametrize("wrong", [{"path": (0, 4)}, {"path": ()}, {"atoms": 1}, {"capacity": 1}])
def test_settings_that_say_nothing_are_named(wrong: Any) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(wrong))}: expected"):
        DDiffPG(ForkEnv(2), DDiffPGConfig(**wrong), seed=0)


def test_a_plan_times_an_iteration_that_learns() -> None:
    learner = DDiffPG(ForkEnv(4), TINY, seed=0)
    assert "ddiffpg/critic_loss" not in learner.step() and not learner.buffer.filled()[1:].size
    learner.gather_first()
    assert len(learner.buffer.filled()) > 1 and learner.iteration == TINY.warm_up
    assert any(name.endswith("loss") for name in learner.step())


def test_the_bonus_of_what_is_known_falls_and_of_the_new_stays() -> None:
    novelty = Novelty(4, seed=0)
    g = torch.Generator().manual_seed(0)
    seen = torch.randn(64, 4, generator=g)
    novelty.norm.update(seen)
    far = seen + 4
    before = novelty.bonus(seen, seen, "rnd").mean()
    optimiser = torch.optim.Adam(novelty.predictor.parameters(), lr=1e-3)
    for _ in range(500):
        loss = novelty.loss(seen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = novelty.bonus(seen, seen, "rnd").mean()
    assert after < before / 10 and novelty.bonus(far, far, "rnd").mean() > 3 * after
    assert (novelty.bonus(far, seen, "noveld") == 0).all() and (novelty.bonus(seen, far, "noveld") > 0).all()
    assert not any(p.requires_grad for p in novelty.target.parameters())


@pytest.mark.parametrize("actor", ["diffusion", "deterministic"])
def test_resume_is_bitwise(actor: Any) -> None:
    config = DDiffPGConfig(**{**TINY.__dict__, "actor": actor})
    whole, part = (DDiffPG(ForkEnv(4), config, seed=0) for _ in range(2))
    for _ in range(12):
        whole.step()
    for _ in range(7):
        part.step()
    resumed = DDiffPG(ForkEnv(4, seed=5), config, seed=0)
    resumed.load_state_dict(part.state_dict())
    for _ in range(5):
        resumed.step()
    assert states_equal(resumed.state_dict(), whole.state_dict())
    assert whole.buffer.count > 4
