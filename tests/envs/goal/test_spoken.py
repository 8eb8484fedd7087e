"""Walking as a sentence says: the contract, one command each, left is left, what the head sees, another's sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.goal.spoken import SpokenWalkingEnv
from toddle.envs.make import make_env
from toddle.maths.walking import SENTENCES
from toddle.methods._base import load_method


def test_contract() -> None:
    check_env(make_env("spoken/ant", 3, episode_seconds=0.2, cameras=("head",), image_size=32))


def test_the_sentences_take_turns_from_the_seed_on() -> None:
    env, sentences = SpokenWalkingEnv("ant", 3, episode_seconds=0.08), list(SENTENCES)
    env.reset(seed=12)
    assert env.instruction == sentences[:3]
    for _ in range(2):
        *_, truncated, _ = env.step(np.zeros((3, 8)))
    assert truncated.all()
    assert env.instruction == sentences[1:4]
    env.reset(seed=12)
    assert env.instruction == sentences[:3]


@pytest.mark.parametrize(("side", "spin"), [("left", 1.0), ("right", -1.0)])
def test_left_is_counterclockwise_from_above(side: str, spin: float) -> None:
    """MuJoCo's z is up, so a positive rate about it is counterclockwise, and is measured as what left asks for."""
    env = SpokenWalkingEnv("ant", 1)
    qpos, qvel = env.pool.state["qpos"].copy(), np.zeros((1, env.reader.model.nv))
    qvel[:, 5] = spin  # of a free joint: the rate about z
    env.pool.set_state(np.ones(1, bool), qpos, qvel)
    turning = env.reader.read(env.pool, env._origin).quantities[0, env._items[0], 2]
    asked = next(velocity[2] for sentence, velocity in SENTENCES.items() if side in sentence)
    assert turning * asked > 0


def test_no_velocity_meets_two_sentences() -> None:
    """A velocity is met within 0.1, so whatever is told apart is farther apart; the goal asks for what is said."""
    velocities = np.array(list(SENTENCES.values()))
    distance = np.linalg.norm(velocities[:, None] - velocities[None], axis=2)
    assert (distance[~np.eye(len(velocities), dtype=bool)] > 0.1).all()
    env = SpokenWalkingEnv("ant", len(SENTENCES))
    env.reset(seed=0)
    np.testing.assert_allclose(env.goals.target[:, 0, :3], velocities)
    assert env.instruction == list(SENTENCES)


def test_the_head_looks_where_the_body_is_turned_to() -> None:
    env = make_env("spoken/ant", 1, cameras=("head", "follow"), image_size=48, pushes=None)
    env.reset(seed=0)
    data = env.physics(0)[1]
    before = env.render_worlds([0], 48, 48, "head")
    data.qpos[3:7] = (0.0, 0.0, 0.0, 1.0)  # half a turn about z
    turned = env.render_worlds([0], 48, 48, "head")
    assert np.abs(before.astype(int) - turned).mean() > 5


def test_another_worlds_sentence_is_another_worlds_token() -> None:
    env = SpokenWalkingEnv("ant", 3, control="shuffled")
    seen, _ = env.reset(seed=0)
    assert env.instruction == ["walk forward slowly", "walk forward fast", "stand still"]
    own = SpokenWalkingEnv("ant", 3)
    other, _ = own.reset(seed=0)
    target = slice(None), 0
    assert not np.allclose(seen["goal"][target], other["goal"][target])


@pytest.mark.parametrize("option", [{"control": "none"}, {"cameras": ("close",)}])
def test_options_are_told(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        SpokenWalkingEnv("ant", 1, **option)


def test_a_policy_that_walks_by_its_tokens_is_one_that_can_become_a_vla() -> None:
    preset = load_method("ppo").preset(["spoken/ant"], started=False)
    assert preset.name == "walk" and preset.settings.policy == "causal"
