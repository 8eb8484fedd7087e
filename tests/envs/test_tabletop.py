"""The tabletop tasks: ManiSkill's own rules on the same states, an arm that goes where it is told, experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from toddle.core.errors import InputError
from toddle.core.rendering import LOOKS, RenderVariation
from toddle.envs.check_env import check_env
from toddle.envs.estimates import EstimateConfig, PoseEstimates
from toddle.envs.families.tabletop import MEMBERS
from toddle.envs.make import make_env
from toddle.envs.tabletop.control import joint_motion, tool_jacobian
from toddle.envs.tabletop.experts import down
from toddle.envs.tabletop.task import Moment
from toddle.envs.tabletop.tasks import TASKS

RULES = json.loads((Path(__file__).parent / "data" / "maniskill_rules.json").read_text())


class Told(Moment):
    """A moment in which the file says whether something is held."""

    def holds(self, thing: str, half_size: Any) -> Any:
        return self.touch[:, 0] > 0


SEEN = EstimateConfig(noise=0.01, turn=0.1, delay=2, dropped=0.3)


def moment(state: dict[str, Any]) -> Told:
    values = {name: np.array(value, float) for name, value in state.items()}
    count = len(values["tool"])
    places = {name: values[name] for name in ("cube", "peg", "goal", "box") if name in values}
    none = np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))
    return Told(
        tool=values["tool"],
        turn=down(np.zeros(count)),
        speed=values["speed"],
        touch=np.repeat(values["held"][:, None], 2, 1),
        at=places,
        rotation={name: Rotation.from_quat(values.get(f"{name}_rotation", none), scalar_first=True) for name in places},
        sizes={name: values[name] for name in ("length", "radius", "centre") if name in values},
    )


@pytest.mark.parametrize("name", RULES)
def test_success_and_dense_reward_are_the_package_s(name: str) -> None:
    told, task = moment(RULES[name]["state"]), TASKS[name]
    solved = np.asarray(task.solved(told))
    assert solved.tolist() == RULES[name]["success"]
    assert np.allclose(np.where(solved, task.best, task.dense(told)), RULES[name]["reward"], atol=2e-3)
    assert 0 < solved.sum() < len(solved), "the states tell both apart"
    simple = np.asarray(task.simplified(told))
    assert ((simple >= 0) & (simple <= 1)).all()


def test_the_jacobian_is_mujoco_s_and_a_small_motion_is_made() -> None:
    env = make_env("tabletop/pick-cube", 3, seed=5)
    env.reset(seed=5)
    pool = env.pool
    tool = pool.state["site_xpos"][:, 0]
    found = tool_jacobian(pool.state["xanchor"][:, :7], pool.state["xaxis"][:, :7], tool)
    for world in range(3):
        linear, angular = np.zeros((3, pool.model.nv)), np.zeros((3, pool.model.nv))
        mujoco.mj_jacSite(pool.model, pool.datas[world], linear, angular, 0)
        assert np.allclose(found[world], np.concatenate([linear, angular])[:, :7], atol=1e-10)
    motion = np.random.default_rng(0).normal(size=(3, 6)) * 1e-3
    made = np.einsum("nij,nj->ni", found, joint_motion(found, motion, 1e-6))
    assert np.allclose(made, motion, atol=1e-8)


@pytest.mark.parametrize(("part", "sign"), [(0, 1), (0, -1), (1, 1), (2, -1), (3, 1), (4, 1), (5, -1)])
def test_the_tool_goes_where_it_is_told(part: int, sign: int) -> None:
    env = make_env("tabletop/push-cube", 2, seed=1)
    env.reset(seed=1)
    before = env.tool_pose()
    action = np.zeros((2, 7), np.float32)
    action[:, part], action[:, 6] = 0.4 * sign, 1.0
    for _ in range(3):
        env.step(action)
    after = env.tool_pose()
    moved = after["tool_position"] - before["tool_position"]
    first, last = (Rotation.from_quat(pose["tool_orientation"], scalar_first=True) for pose in (before, after))
    both = np.concatenate([moved, (last * first.inv()).as_rotvec()], 1) * sign
    assert (both[:, part] > 0.02).all()
    assert (np.abs(np.delete(both, part, 1)) < 0.4 * both[:, part : part + 1]).all()


LEAST = {"peg-insertion-side": 2, "lift-peg-upright": 4}
"""Of eight starts, where an expert fails in some."""


@pytest.mark.parametrize("name", MEMBERS)
def test_experts_solve_their_tasks(name: str) -> None:
    env = make_env(f"tabletop/{name}", 8, seed=0, reward="sparse")
    env.reset(seed=0)
    for _ in range(min(70, env.max_episode_steps - 1)):
        _, reward, _, _, info = env.step(env.expert_action())
    assert info["success"].sum() >= LEAST.get(name, 6)
    assert np.array_equal(reward, info["success_now"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pick-cube", {"cameras": ("side",), "image_size": 16, "privileged": True}),
        ("peg-insertion-side", {"threads": 2}),
        ("push-cube", {"observation": "arm", "reward": "simplified", "paraphrases": True}),
        ("pick-cube", {"estimates": SEEN, "privileged": True}),
    ],
)
def test_it_keeps_what_environments_promise(name: str, options: dict[str, Any]) -> None:
    check_env(make_env(f"tabletop/{name}", 2, seed=4, max_episode_steps=5, **options))


def test_states_and_pictures_are_two_bodies() -> None:
    seen = make_env("tabletop/pick-cube", 1, cameras=("close",), image_size=16)
    told = make_env("tabletop/pick-cube", 1)
    assert (seen.body, told.body) == ("panda_tool", "panda_tool_pick_cube")
    assert seen.body_spec.proprio == 27 and told.body_spec.proprio > 27
    assert make_env("tabletop/pick-cube", 1, horizon_scale=10).max_episode_steps == 500


def test_estimates_are_late_lost_and_noisy_and_change_nothing_else() -> None:
    everyone, turn = np.arange(4), np.tile([1.0, 0.0, 0.0, 0.0], (4, 2, 1))
    late = PoseEstimates(EstimateConfig(delay=3), 4, 2, 0)
    late.begin(everyone, np.zeros((4, 2, 3)), turn)
    for step in range(1, 6):
        late.step(everyone[:3], np.full((3, 2, 3), float(step)), turn[:3])
    assert (late.pose[:3, :, :3] == 2.0).all() and not late.pose[3, :, :3].any()
    lossy = PoseEstimates(EstimateConfig(noise=0.1, dropped=0.25), 500, 4, 0)
    many, turns = np.arange(500), np.tile([1.0, 0.0, 0.0, 0.0], (500, 4, 1))
    lossy.begin(many, np.zeros((500, 4, 3)), turns)
    lossy.step(many, np.full((500, 4, 3), 9.0), turns)
    kept = lossy.pose[..., 0] < 5
    assert kept.mean() == pytest.approx(0.25, abs=0.04)
    assert lossy.pose[~kept][:, :3].std() == pytest.approx(0.1, abs=0.01)
    plain, none, told = (
        make_env("tabletop/pick-cube", 3, seed=2, privileged=True, estimates=given)
        for given in (None, EstimateConfig(), SEEN)
    )
    found = [[env.reset(seed=2)[0], *env.step(np.full((3, 7), 0.3, np.float32))[:2]] for env in (plain, none, told)]
    for first, second in zip(found[0], found[1]):
        assert np.array_equal(first, second) if isinstance(first, np.ndarray) else first.keys() == second.keys()
    for moment in (0, 1):
        truth, same, seen = (run[moment] for run in found)
        assert np.array_equal(truth["proprio"], same["proprio"])
        assert np.array_equal(truth["critic"], seen["critic"]) and np.array_equal(truth["critic"], truth["proprio"])
        assert np.array_equal(truth["proprio"][:, :27], seen["proprio"][:, :27]), "the arm knows its own"
        assert not np.array_equal(truth["proprio"], seen["proprio"])
    assert np.array_equal(found[0][2], found[2][2]), "rewards are of the true state"


def test_looks_change_pictures_and_nothing_else() -> None:
    def seen(variation: RenderVariation) -> tuple[np.ndarray, np.ndarray]:
        env = make_env("tabletop/push-cube", 2, seed=3, cameras=("close",), image_size=24, variation=variation)
        env.reset(seed=3)
        observation = env.step(np.full((2, 7), 0.2, np.float32))[0]
        return observation["images"], observation["proprio"]

    plain, arm = seen(RenderVariation())
    for name, look in LOOKS.items():
        pictures, same = seen(look)
        assert np.array_equal(same, arm)
        assert (pictures != plain).reshape(2, -1).any(1).all(), name
    assert np.array_equal(seen(look)[0], pictures), "it follows from the seed"


def test_pressing_on_the_table_is_no_grasp() -> None:
    env = make_env("tabletop/pick-cube", 8, seed=0)
    env.reset(seed=0)
    for step in range(22):  # open fingers go down around the cube, and are then pushed onto the table
        action = env.expert_action()
        action[:, 2] = action[:, 2] if step < 12 else -0.5
        action[:, 6] = 1.0
        env.step(action)
    assert env._now().holds("cube", (0.02,) * 3).mean() <= 0.25


def test_no_picture_is_drawn_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("tabletop/push-cube", 3, cameras=("close",), image_size=16)
    env.reset(seed=0)
    drawn: list[int] = []
    draw = env._picture
    monkeypatch.setattr(env, "_picture", lambda world, *given: (drawn.append(world), draw(world, *given))[1])
    env.step_chunk(np.full((3, 4, 7), 0.3, np.float32))
    assert drawn == [0, 1, 2], "one picture a decision, not one a control step"
    env.step_chunk(np.full((3, 4, 7), -0.3, np.float32), active=np.array([True, False, False]))
    assert drawn[3:] == [0], "a world that stood still keeps its picture"


def test_the_peg_s_size_is_its_world_s_and_comes_back() -> None:
    env = make_env("tabletop/peg-insertion-side", 4, seed=0)
    env.reset(seed=0)
    sizes = {float(model.geom("peg").size[0]) for model in env.pool.models}
    assert len(sizes) == 4 and all(0.085 <= size <= 0.125 for size in sizes)
    for model in env.pool.models:
        x, y, z = model.geom("peg").size
        assert model.body("peg").mass == pytest.approx(8000 * x * y * z)
    again = make_env("tabletop/peg-insertion-side", 4, seed=9)
    again.load_state_dict(env.state_dict())
    assert sizes == {float(model.geom("peg").size[0]) for model in again.pool.models}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pick-cubes", {}, "pick-cube"),
        ("pick-cube", {"reward": "shaped"}, "reward: expected 'dense'"),
        ("pick-cube", {"horizon_scale": 0}, "horizon_scale: expected at least 1"),
        ("pick-cube", {"horizon_scale": 10, "max_episode_steps": 5}, "horizon_scale: expected 1 where"),
        ("pick-cube", {"cameras": ("top",), "image_size": 16}, "camera"),
    ],
)
def test_what_is_unknown_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_env(f"tabletop/{name}", 1, **options)
