"""Several tasks behind one environment: the contract holds, and each world is in its own task alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tiny_env import StartsEnv
from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.dots import DotsEnv
from toddle.envs.mixture import MixtureEnv


def dots(worlds: int = 4, **options: Any) -> MixtureEnv:
    options = {"cameras": ("top",), "image_size": 16, "max_episode_steps": 6} | options
    return MixtureEnv([DotsEnv(member, worlds, **options) for member in ("one", "reach")])


def test_the_contract_of_environments() -> None:
    check_env(dots())
    check_env(MixtureEnv([StartsEnv(4, limit=6), StartsEnv(4, limit=9)]))


def test_each_world_is_in_its_own_task_and_no_other_is_stepped_or_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    env = dots(draw := 4)
    env.choose = lambda count: np.arange(count) % 2  # of worlds 0 to 3: one, reach, one, reach
    drawn = [list[int](), list[int]()]
    for part, found in zip(env.parts, drawn, strict=True):
        picture: Any = part._picture  # type: ignore[attr-defined]
        monkeypatch.setattr(part, "_picture", lambda world, p=picture, f=found: f.append(world) or p(world))
    seen, _ = env.reset(seed=5)
    assert env.tasks == ("dots/one", "dots/reach") and env.task.tolist() == [0, 1, 0, 1]
    assert drawn == [[0, 2], [1, 3]]
    assert env.instruction is not None and all(env.instruction[world] == "reach the red dot" for world in (0, 2))
    alone = [DotsEnv(member, draw, cameras=("top",), image_size=16, max_episode_steps=6) for member in ("one", "reach")]
    expected = [each.reset(seed=5)[0] for each in alone]
    before = [part._point.copy() for part in env.parts]  # type: ignore[attr-defined]
    action = np.tile(np.array([0.7, -0.4]), (4, 3, 1))
    for _ in range(2):
        for world in range(4):
            np.testing.assert_array_equal(seen["images"][world], expected[world % 2]["images"][world])
            np.testing.assert_array_equal(seen["proprio"][world], expected[world % 2]["proprio"][world])
        seen, *_, info = env.step_chunk(action, reset_done=False)
        expected = [each.step_chunk(action, reset_done=False)[0] for each in alone]
        assert info["task"].tolist() == [0, 1, 0, 1]
    for index, part in enumerate(env.parts):
        still = np.arange(4) % 2 != index
        np.testing.assert_array_equal(part._point[still], before[index][still])  # type: ignore[attr-defined]


def test_what_is_not_alike_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"env: expected tasks with the same cameras, to share the worlds \(dots/one: "
    ):
        MixtureEnv([DotsEnv("one", 2), DotsEnv("reach", 2, cameras=("top",))])
    with pytest.raises(InputError, match="tasks with the same num_envs"):
        MixtureEnv([DotsEnv("one", 2), DotsEnv("reach", 3)])
