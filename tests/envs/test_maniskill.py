"""ManiSkill's own tasks: the contract, its rules beside tabletop's on the states met, motions and experts in both.

They need the package (`toddle[maniskill]`), and are skipped without it; pictures need a Vulkan device too.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.make import make_env
from toddle.envs.maniskill_rules import REPLICAS
from toddle.envs.tabletop.tasks import TASKS

HERE = importlib.util.find_spec("mani_skill") is not None
needs = pytest.mark.skipif(not HERE, reason="needs toddle[maniskill]")


@pytest.mark.skipif(HERE, reason="the package is installed")
def test_a_missing_package_is_one_line() -> None:
    with pytest.raises(InputError, match=r"needs the package (sapien|mani_skill); pip install 'toddle\[maniskill\]'"):
        make_env("maniskill/PickCube-v1", 1)


@needs
@pytest.mark.parametrize("task", ["PickCube-v1", "StackCube-v1"])
def test_it_keeps_what_environments_promise(task: str) -> None:
    check_env(make_env(f"maniskill/{task}", 2, seed=4, max_episode_steps=5))


@needs
@pytest.mark.parametrize("task", REPLICAS)
def test_tabletop_s_rules_are_the_package_s_on_the_states_met(task: str) -> None:
    env: Any = make_env(f"maniskill/{task}", 4, seed=0)
    env.reset(seed=0)
    rule = TASKS[REPLICAS[task].task]
    for _ in range(env.max_episode_steps - 1):
        _, reward, _, _, info = env.step(env.expert_action())
        now = env.moment()
        solved = np.asarray(rule.solved(now))
        assert np.array_equal(solved, info["success_now"])
        assert np.allclose(np.where(solved, 1.0, rule.dense(now) / rule.best), reward, atol=2e-3)
    assert info["success"].any() or task == "PegInsertionSide-v1"


@needs
@pytest.mark.parametrize("part", range(6))
def test_actions_and_numbers_mean_what_they_mean_in_tabletop(part: int) -> None:
    turned = {}
    for name in ("maniskill/PickCube-v1", "tabletop/pick-cube"):
        env: Any = make_env(name, 1, seed=0)
        before = env.reset(seed=0)[0]["proprio"], env.tool_pose()
        action = np.zeros((1, 7), np.float32)
        action[0, part], action[0, 6] = 0.5, 1.0
        for _ in range(3):
            after = env.step(action)[0]["proprio"]
        first, last = (
            Rotation.from_quat(pose["tool_orientation"], scalar_first=True) for pose in (before[1], env.tool_pose())
        )
        moved = env.tool_pose()["tool_position"] - before[1]["tool_position"]
        turned[name] = np.concatenate([moved, (last * first.inv()).as_rotvec()], 1)[0]
        assert np.allclose(after[0, 18:21] - before[0][0, 18:21], moved[0], atol=1e-5)
        assert env.body == "panda_tool_pick_cube" and env.body_spec.proprio == 49
    one, other = turned.values()
    assert np.abs(one - other).max() < 0.02 and one[part] > 0.03 < other[part]


@needs
def test_pictures_are_drawn_when_they_are_looked_at() -> None:
    draws = importlib.import_module("toddle.envs.maniskill")._package()
    if not draws:
        with pytest.raises(InputError, match="rendering: ManiSkill finds no Vulkan device"):
            make_env("maniskill/PickCube-v1", 2, seed=0, cameras=("base_camera",), image_size=32)
        return
    env = make_env("maniskill/PickCube-v1", 2, seed=0, cameras=("base_camera",), image_size=32)
    seen = env.reset(seed=0)[0]
    assert seen["images"].shape == (2, 1, 3, 32, 32) and seen["images"].std() > 5 and seen["proprio"].shape == (2, 27)
    moved = env.step(np.full((2, 7), 0.5, np.float32))[0]["images"]
    assert (moved != seen["images"]).any() and env.body == "panda_tool"
    check_env(
        make_env("maniskill/PushCube-v1", 2, seed=1, cameras=("base_camera",), image_size=16, max_episode_steps=4)
    )


@needs
@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("PickCub-v1", {}, "PickCube-v1"),
        ("PickCube-v1", {"reward": "simplified"}, "reward: expected 'dense', 'sparse'"),
        ("PickCube-v1", {"cameras": ("close",)}, "camera: expected base_camera"),
    ],
)
def test_what_is_unknown_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_env(f"maniskill/{name}", 1, **options)
