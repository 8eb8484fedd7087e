"""Sawyer, the arm of Meta-World: the package's own model, welds, action and frame skip, without a task's objects.

An action means the same here and in every Meta-World task (a test steps both), and `sawyer_proprio` is the
proprioception of both, so that an expert trained here can be used there as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from toddle.envs.base import Array
from toddle.envs.bodies.body import GRAVITY, Body, KeyPoint, MocapAction, compiled_once, package_file

__all__ = ["CENTRE", "LENGTH", "PROPRIO_FIELDS", "SAWYER", "SawyerIndex", "sawyer_proprio", "sawyer_proprio_batch"]

LENGTH = 0.5  # metres: the hand's box reaches this far to either side; 0.1 L is Meta-World's own target radius, 5 cm
CENTRE = (0.0, 0.7, 0.25)
ARM = tuple(f"right_j{i}" for i in range(7))
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)  # SawyerMocapBase.reset_mocap_welds
OPEN, CLOSED = 0.1, 0.03  # metres between the claws
PROPRIO_FIELDS = ("qpos", "xpos", "cvel", "subtree_com", "mocap_pos")
"""Arrays of MjData that the proprioception is read from."""


@dataclass(frozen=True)
class SawyerIndex:
    """Where the arm stands in the arrays of a model (tasks add objects and joints of their own)."""

    arm: Array  # (7,) addresses in qpos
    middle: Array  # (7,) rad
    half: Array  # (7,) rad
    hand: int
    root: int
    claws: tuple[int, int]
    mocap: int

    @classmethod
    def of(cls, model: mujoco.MjModel) -> SawyerIndex:
        """Find the arm by its names; KeyError (of mujoco) when the model has none."""
        joints = [model.joint(name) for name in ARM]
        ranges = np.array([joint.range for joint in joints])
        hand = model.body("hand").id
        return cls(
            arm=np.array([joint.qposadr[0] for joint in joints]),
            middle=ranges.mean(axis=1),
            half=0.5 * (ranges[:, 1] - ranges[:, 0]),
            hand=hand,
            root=int(model.body_rootid[hand]),
            claws=(model.body("rightclaw").id, model.body("leftclaw").id),
            mocap=int(model.body_mocapid[model.body("mocap").id]),
        )


def sawyer_proprio_batch(index: SawyerIndex, fields: Mapping[str, Array]) -> Array:
    """Return (N, 17) float32 proprioception from arrays (N, ...) of the names in PROPRIO_FIELDS.

    Columns: hand position from the workspace's centre / L (3); hand velocity / sqrt(g L) (3); gripper opening, -1
    closed to 1 open (1); mocap target - hand, / L (3); arm joints, -1..1 over their ranges (7).
    """
    hand = fields["xpos"][:, index.hand]
    claws = [fields["xpos"][:, claw] for claw in index.claws]
    spatial = fields["cvel"][:, index.hand]  # rotation, then velocity at the centre of mass of the tree
    velocity = spatial[:, 3:] + np.cross(spatial[:, :3], hand - fields["subtree_com"][:, index.root])
    gap = np.linalg.norm(claws[0] - claws[1], axis=1)
    opening = np.clip((gap - CLOSED) / (OPEN - CLOSED), 0.0, 1.0) * 2.0 - 1.0
    parts = [
        (hand - np.asarray(CENTRE)) / LENGTH,
        velocity / np.sqrt(GRAVITY * LENGTH),
        opening[:, None],
        (fields["mocap_pos"][:, index.mocap] - hand) / LENGTH,
        (fields["qpos"][:, index.arm] - index.middle) / index.half,
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def sawyer_proprio(model: mujoco.MjModel, data: mujoco.MjData, index: SawyerIndex | None = None) -> Array:
    """Return (17,) float32 proprioception of one world, as `sawyer_proprio_batch` does for many.

    `data` must be forwarded (Meta-World does so at the end of each step).  Pass `index` to save looking up names.
    """
    fields = {name: getattr(data, name)[None] for name in PROPRIO_FIELDS}
    return sawyer_proprio_batch(index or SawyerIndex.of(model), fields)[0]


@compiled_once
def build() -> mujoco.MjModel:
    """Compile Meta-World's reach scene without its puck and goal mark, with the welds its environments set."""
    path = package_file("metaworld", "assets/sawyer_xyz/sawyer_reach_v3.xml", "sim")
    spec = mujoco.MjSpec.from_file(str(path))
    spec.detach_body(spec.body("obj"))
    model = spec.compile()
    model.eq_data[model.eq_type == int(mujoco.mjtEq.mjEQ_WELD)] = WELD
    return model


SAWYER = Body(
    name="sawyer",
    build=build,
    joints=("r_close",),  # the arm's seven joints follow the hand; only the gripper is a posture of its own
    key_points=(
        KeyPoint(name="hand", objects=("hand",), kind="body"),
        KeyPoint(name="tool", objects=("rightEndEffector", "leftEndEffector")),
        KeyPoint(name="right_finger", objects=("rightEndEffector",)),
        KeyPoint(name="left_finger", objects=("leftEndEffector",)),
    ),
    root="fixed",
    length=LENGTH,
    frame_skip=5,
    action=MocapAction(low=(-0.5, 0.4, 0.05), high=(0.5, 1.0, 0.5)),
    centre=CENTRE,
    tool="hand",
    undesired=("right_hand", "right_l6"),
    torque_limits=(400.0, 400.0),
    mix=(0.1, 0.55, 0.2, 0.15),
    episode_seconds=5.0,
)
