"""The human stand-in: measurably less smooth than the expert it imitates, its habits as they are set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.envs.make import make_env
from toddle.experience.demonstrations import Demonstration, ExpertActor, demonstrate
from toddle.experience.human import HumanActor, HumanConfig
from toddle.maths.smoothness import log_dimensionless_jerk, no_op_count, spectral_arc_length

pytest.importorskip("metaworld", reason="metaworld is not installed")
SEEDS = [1, 2, 3, 4]
NONE: dict[str, Any] = {"detour": 0.0, "slowest": 1.0, "pauses": 0.0, "reaction": 0.0, "tremor": 0.0}


@pytest.fixture(scope="module")
def env() -> Any:
    return make_env("metaworld/reach-v3", 4)


def measured(episodes: list[Demonstration], dt: float) -> np.ndarray:
    """Log jerk, arc length (both lower where less smooth), minus the share of no-ops: means over episodes."""
    rows = []
    for one in episodes:
        speed = np.linalg.norm(np.diff(one.columns["observation.tool_position"], axis=0), axis=1) / dt
        still = no_op_count(one.columns["action"]) / one.length
        rows.append((log_dimensionless_jerk(speed, dt), spectral_arc_length(speed, dt), -still))
    return np.mean(rows, axis=0)


def test_it_is_less_smooth_than_the_expert_and_succeeds(env: Any) -> None:
    expert, human = (demonstrate(env, actor, SEEDS) for actor in (ExpertActor(), HumanActor(HumanConfig(pauses=2.0))))
    assert all(one.success for one in human)
    assert (measured(human, env.dt) < measured(expert, env.dt)).all()
    again = demonstrate(env, HumanActor(HumanConfig(pauses=2.0)), [4, 3, 2, 1])  # an episode depends on its seed alone
    for one, other in zip(human, reversed(again), strict=True):
        assert np.array_equal(one.columns["action"], other.columns["action"])


def test_each_habit_does_what_it_says(env: Any) -> None:
    def first(**habits: Any) -> np.ndarray:
        env.reset(seed=SEEDS)
        actor = HumanActor(HumanConfig(**{**NONE, **habits}))
        actor.begin(env, SEEDS)
        acted = []
        for _ in range(20):
            acted.append(actor.act(env)[0])
            env.step_chunk(acted[-1][:, None], reset_done=False)
        return np.stack(acted)  # (20, worlds, 4)

    env.reset(seed=SEEDS)
    wanted = env.expert_action()
    assert np.allclose(first()[0], wanted)
    late = first(reaction=0.05)
    assert not late[:4, :, :3].any() and np.allclose(late[4], wanted)  # 4 control steps of 12.5 ms
    slow = first(slowest=0.25)[0, :, :3] / wanted[:, :3]
    assert (slow > 0.25).all() and (slow < 1.0).all() and len(np.unique(slow.round(4).mean(axis=1))) == 4
    ways = first(detour=0.5, routes=2)[1] - first()[1]
    assert np.allclose(ways[:, [1, 3]], 0.0) and len({tuple(np.sign(way.round(3))) for way in ways}) == 2
    pause = first(pauses=1e9, pause_seconds=1e-6)  # after every step, for one step
    assert pause[0, :, :3].any() and not pause[1, :, :3].any() and (pause[1, :, 3] == pause[0, :, 3]).all()


def test_the_tremor_has_its_size_and_frequency() -> None:
    actor, dt = HumanActor(HumanConfig(tremor=0.2, tremor_hertz=8.0)), 0.0125
    person = actor._person(np.random.default_rng(0))
    drawn = np.stack([actor._tremor(person, dt) for _ in range(20_000)])[200:]
    assert drawn.std() == pytest.approx(0.2, rel=0.1)
    power = np.abs(np.fft.rfft(drawn[:, 0])) ** 2
    frequency = np.fft.rfftfreq(len(drawn), dt)
    assert (power * frequency).sum() / power.sum() == pytest.approx(8.0, rel=0.15)


def test_what_has_no_hand_is_refused() -> None:
    walker = make_env("gymnasium/Hopper-v5", 1)
    with pytest.raises(InputError, match="a hand's place and a gripper"):
        HumanActor(HumanConfig()).begin(walker, [0])
