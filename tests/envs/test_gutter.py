"""The table with gutters: how a puck is pushed, and that nothing brings it out of a gutter."""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.envs.gutter import GutterEnv


def placed(member: str, hand: tuple[float, float], puck: tuple[float, float]) -> GutterEnv:
    env = GutterEnv(member, 1, max_episode_steps=1000)
    env._hand[:], env._puck[:] = hand, puck
    return env


def moved(env: GutterEnv, *action: float) -> tuple[list[float], dict[str, Any]]:
    observation, *_, info = env.step(np.array([action]))
    return observation["proprio"][0].round(6).tolist(), info


def test_a_puck_is_pushed_ahead_of_the_hand_at_its_distance() -> None:
    """From 0.25 away the hand comes 0.1 nearer: the puck must go until it is 0.2 away again, 0.05 on."""
    seen, _ = moved(placed("push", (0.0, 0.0), (0.25, 0.0)), 1.0, 0.0)
    assert seen == np.float32([0.1, 0.0, 0.3, 0.0, 0.2, 0.0]).round(6).tolist()
    assert moved(placed("push", (0.0, 0.0), (0.25, 0.0)), -1.0, 0.0)[0][2:4] == [0.25, 0.0]  # it is not pulled


def test_out_of_a_gutter_nothing_leads_and_a_wall_keeps_from_it() -> None:
    for member, kept in (("push", 0.5), ("flat", 0.45)):
        env = placed(member, (0.0, 0.2), (0.0, 0.4))
        (_, _, x, y, *_), info = moved(env, 0.0, 1.0)
        assert (x, round(y, 6)) == (0.0, kept) and bool(info["stuck"][0]) == (member == "push")
        env._hand[:] = 0.0, 0.7
        (_, _, _, y, *_), _ = moved(env, 0.0, -1.0)  # from beyond it, back to the table
        assert (y == 0.5) == (member == "push") and y < 0.51


def test_the_expert_brings_it_to_the_spot_from_everywhere() -> None:
    env = GutterEnv("push", 100, terminate_on_success=True)
    solved = sum(env.step(env.expert_action())[2] for _ in range(60))
    assert (solved >= 1).all()
