"""Writes tests/envs/data/maniskill_rules.json: what ManiSkill 3.0.1 says of random states of its tasks.

    pip install mani_skill==3.0.1 sapien==3.0.3      in an environment of its own, beside torch
    python tests/parity/maniskill_rules.py tests/envs/data/maniskill_rules.json

The package's own `evaluate` and `compute_dense_reward` are called as functions of states: nothing is simulated,
so this needs neither a GPU nor Vulkan.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import sapien
import sapien.pysapien.render
import sapien.render
import sapien.wrapper.urdf_loader
import torch


class Nothing:
    def __init__(self, *given: Any, **named: Any) -> None:
        pass


for module in (sapien.render, sapien.pysapien.render, sapien.wrapper.urdf_loader):
    for name in ("RenderMaterial", "RenderTexture2D"):
        if not hasattr(module, name):
            setattr(module, name, Nothing)

sys.modules["IPython"] = sys.modules["IPython.display"] = SimpleNamespace(HTML=Nothing, display=Nothing)  # type: ignore[assignment]
from mani_skill.envs.tasks.tabletop.lift_peg_upright import LiftPegUprightEnv  # noqa: E402
from mani_skill.envs.tasks.tabletop.peg_insertion_side import PegInsertionSideEnv  # noqa: E402
from mani_skill.envs.tasks.tabletop.pick_cube import PickCubeEnv  # noqa: E402
from mani_skill.envs.tasks.tabletop.poke_cube import PokeCubeEnv  # noqa: E402
from mani_skill.envs.tasks.tabletop.push_cube import PushCubeEnv  # noqa: E402
from mani_skill.utils.structs.pose import Pose  # noqa: E402

COUNT = 40
random = np.random.default_rng(0)


def uniform(low: float, high: float, *shape: int) -> np.ndarray[Any, Any]:
    return random.uniform(low, high, (COUNT, *shape))


def quaternions(yaw_only: bool, spread: float = np.pi) -> np.ndarray[Any, Any]:
    if yaw_only:
        half = uniform(-spread, spread) / 2
        return np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], 1)
    drawn = random.normal(size=(COUNT, 4))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def pose(state: dict[str, Any], name: str) -> Any:
    rotation = state.get(f"{name}_rotation", np.tile([1.0, 0.0, 0.0, 0.0], (COUNT, 1)))
    return Pose.create_from_pq(tensor(state[name]), tensor(rotation))


def agent(state: dict[str, Any]) -> Any:
    tool, speed, held = pose(state, "tool"), tensor(state["speed"]), torch.as_tensor(state["held"])
    qvel = torch.cat([speed, torch.zeros(COUNT, 2)], 1)
    return SimpleNamespace(
        tcp=SimpleNamespace(pose=tool),
        tcp_pose=tool,
        robot=SimpleNamespace(get_qvel=lambda: qvel),
        is_grasping=lambda thing, max_angle=85: held,
        is_static=lambda limit: speed.abs().max(1)[0] <= limit,
    )


def actor(state: dict[str, Any], name: str) -> Any:
    return SimpleNamespace(pose=pose(state, name))


def judged(task: Any, me: Any) -> dict[str, Any]:
    info = task.evaluate(me)
    me.evaluated = info
    reward = task.compute_dense_reward(me, None, None, info)
    return {"success": info["success"].tolist(), "reward": reward.tolist()}


def common() -> dict[str, Any]:
    still = random.uniform(size=(COUNT, 1)) < 0.5
    return {"speed": np.where(still, 0.1, 1.0) * uniform(-1, 1, 7), "held": random.uniform(size=COUNT) < 0.5}


def near(centre: Any, far: float) -> np.ndarray[Any, Any]:
    """Half of the points close to a centre, half anywhere about it."""
    scale = np.where(random.uniform(size=(COUNT, 1)) < 0.5, 0.02, far)
    return np.asarray(centre + scale * uniform(-1, 1, 3))


def cube_and_goal(radius: float) -> dict[str, Any]:
    cube = np.concatenate([uniform(-0.1, 0.1, 2), uniform(0.018, 0.03, 1)], 1)
    return {"cube": cube, "goal": near(cube, 4 * radius), "tool": near(cube, 0.2)}


def main(file: Path) -> None:
    found: dict[str, Any] = {}
    state = common() | cube_and_goal(0.025)
    me = SimpleNamespace(cube=actor(state, "cube"), goal_site=actor(state, "goal"), agent=agent(state))
    me.goal_thresh, me.robot_uids, me.device = 0.025, "panda", "cpu"
    found["pick-cube"] = {"state": state} | judged(PickCubeEnv, me)

    state = common() | cube_and_goal(0.1)
    state["tool"] = near(state["cube"] - np.array([0.025, 0, 0]), 0.2)
    state["tool"][:10] = state["cube"][:10] - np.array([0.025, 0, 0]) + 0.003 * uniform(-1, 1, 3)[:10]
    me = SimpleNamespace(obj=actor(state, "cube"), goal_region=actor(state, "goal"), agent=agent(state))
    me.cube_half_size, me.goal_radius, me.device = 0.02, 0.1, "cpu"
    found["push-cube"] = {"state": state} | judged(PushCubeEnv, me)

    peg = np.concatenate(
        [uniform(-0.1, 0.1, 2), np.where(uniform(0, 1, 1) < 0.5, 0.12, 0.025) + uniform(-0.004, 0.004, 1)], 1
    )
    state = common() | {"peg": peg, "tool": near(peg, 0.2), "peg_rotation": quaternions(False)}
    upright = np.array([0.5, 0.5, -0.5, 0.5]) + 0.02 * random.normal(size=(20, 4))
    state["peg_rotation"][:20] = upright / np.linalg.norm(upright, axis=1, keepdims=True)
    me = SimpleNamespace(peg=actor(state, "peg"), agent=agent(state), device="cpu")
    me.peg_half_length, me.peg_half_width = 0.12, 0.025
    found["lift-peg-upright"] = {"state": state} | judged(LiftPegUprightEnv, me)

    peg = np.concatenate([uniform(-0.1, 0.1, 2), np.full((COUNT, 1), 0.025)], 1)
    cube = near(peg + np.array([0.14, 0.0, 0.0]), 0.1)
    cube[:, 2] = 0.02
    goal = near(cube, 0.1)
    state = common() | {"peg": peg, "cube": cube, "goal": goal, "tool": peg + 0.004 * uniform(-1, 1, 3)}
    state["tool"][30:] = near(peg, 0.2)[30:]
    state |= {"peg_rotation": quaternions(True, 0.03), "cube_rotation": quaternions(True, 0.05)}
    me = SimpleNamespace(peg=actor(state, "peg"), cube=actor(state, "cube"), goal_region=actor(state, "goal"))
    me.agent, me.device, me.goal_radius, me.cube_half_size = agent(state), "cpu", 0.05, 0.02
    me.peg_head_offsets = Pose.create_from_pq(torch.tensor([[0.12, 0.0, 0.0]]))
    me.peg_head_pos = me.peg.pose.p + me.peg_head_offsets.p
    me.peg_head_pose = me.peg.pose * me.peg_head_offsets
    found["poke-cube"] = {"state": state} | judged(PokeCubeEnv, me)

    length, radius = uniform(0.085, 0.125), uniform(0.015, 0.025)
    centre = 0.5 * (length - radius)[:, None] * uniform(-1, 1, 2)
    box = np.concatenate([uniform(-0.05, 0.05, 1), uniform(0.2, 0.4, 1), length[:, None]], 1)
    state = common() | {
        "box": box,
        "box_rotation": quaternions(True),
        "length": length,
        "radius": radius,
        "centre": centre,
    }
    offset = np.concatenate([np.zeros((COUNT, 1)), centre], 1)
    hole = pose(state, "box") * Pose.create_from_pq(tensor(offset))
    depth = uniform(-0.25, 0.02)
    slip = np.concatenate(
        [(depth - length)[:, None], np.where(uniform(0, 1, 1) < 0.6, 0.004, 0.05) * uniform(-1, 1, 2)], 1
    )
    peg_pose = hole * Pose.create_from_pq(tensor(slip), tensor(quaternions(True, 0.02)))
    state |= {"peg": peg_pose.p.numpy(), "peg_rotation": peg_pose.q.numpy()}
    state["tool"] = near(state["peg"], 0.2)
    me = SimpleNamespace(peg=SimpleNamespace(pose=peg_pose), box=actor(state, "box"), agent=agent(state), device="cpu")
    heads = Pose.create_from_pq(tensor(np.stack([length, 0 * length, 0 * length], 1)))
    me.peg_head_pose, me.box_hole_pose, me.box_hole_radii = peg_pose * heads, hole, tensor(radius + 0.003)
    me.goal_pose = hole * heads.inv()
    me.has_peg_inserted = lambda: PegInsertionSideEnv.has_peg_inserted(me)
    found["peg-insertion-side"] = {"state": state} | judged(PegInsertionSideEnv, me)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return (
            np.round(value, 5).tolist()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
            else np.asarray(value).tolist()
        )

    file.write_text(json.dumps(plain(found)) + "\n")
    for name, rows in found.items():
        print(
            name, sum(rows["success"]), "of", COUNT, "succeed; rewards", min(rows["reward"]), "to", max(rows["reward"])
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
