"""Domain randomisation: one table for every simulator of what differs from episode to episode.

Tobin et al. 2017, arXiv 1703.06907 (what is seen); Peng et al. 2018, arXiv 1710.06537 (dynamics).  The ranges that are
usual are in docs/randomisation.md.  Everything is drawn once an episode from generators of its own, so that an
environment without a table, or with `scale` 0, is what it was to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import NonNegative, Positive, Share
from toddle.core.rendering import RenderVariation
from toddle.envs.costs import robot_bodies
from toddle.envs.streams import WorldStreams

if TYPE_CHECKING:
    from toddle.envs.base import Array, BatchedEnv, Obs

__all__ = ["FACTORS", "Domain", "DomainTable"]

OWN = 2**44
"""Added to a world's seed, so that what is drawn here comes from a stream of its own."""
FACTORS = ("object_mass", "link_mass", "friction", "gains", "damping")
"""What is multiplied by a factor, drawn uniformly in its logarithm."""
Factor = tuple[Positive, Positive]
FIELDS = (
    "body_mass",
    "body_inertia",
    "geom_friction",
    "pair_friction",
    "actuator_gainprm",
    "actuator_biasprm",
    "dof_damping",
)


@config
class DomainTable:
    """What differs from episode to episode; a factor (1, 1) and a size of 0 change nothing."""

    scale: Share = 1.0
    """Multiplies the widths of all ranges below (of factors, in their logarithm); 0: nothing differs."""
    object_mass: Factor = (1.0, 1.0)
    """Factor of the masses and inertias of free objects."""
    link_mass: Factor = (1.0, 1.0)
    """Factor of the masses and inertias of the robot's links."""
    friction: Factor = (1.0, 1.0)
    """Factor of the sliding friction of all surfaces together (MuJoCo takes the larger of the two that touch, so a
    factor of one alone may do nothing)."""
    gains: Factor = (1.0, 1.0)
    """Factor of the actuators' gains, of position servos with their stiffness and damping."""
    damping: Factor = (1.0, 1.0)
    """Factor of the damping of the robot's joints."""
    delay: tuple[Share, ...] = (1.0,)
    """Probabilities that an episode's actions come 0, 1, 2, ... control steps late; they sum to 1."""
    bias: NonNegative = 0.0
    """Standard deviation of what is added to each number of proprioception for a whole episode, in its own units."""
    look: RenderVariation = RenderVariation()
    """How what is seen differs."""

    def __post_init__(self) -> None:
        for name in FACTORS:
            low, high = getattr(self, name)
            if low > high:
                raise problem(name, "the smaller factor first", f"{low}, {high}")
        if not self.delay or abs(sum(self.delay) - 1.0) > 1e-6:
            raise problem("delay", "probabilities that sum to 1", self.delay)

    @property
    def physical(self) -> bool:
        """Whether more differs than what is seen."""
        differs = any(getattr(self, name) != (1.0, 1.0) for name in FACTORS)
        return self.scale > 0.0 and (differs or self.bias > 0.0 or self.delay[0] < 1.0)

    @property
    def drawn(self) -> RenderVariation:
        """How what is seen differs, at this scale."""
        look = self.look
        amounts = {name: self.scale * getattr(look, name) for name in look.__dataclass_fields__}
        return replace(look, **amounts)


class Domain:
    """What N worlds of one environment differ in from their description, episode by episode."""

    def __init__(self, table: DomainTable, env: BatchedEnv, seed: int) -> None:
        """Raises InputError where the worlds' models cannot be changed, or actions are choices and come late."""
        if env.discrete is not None and table.delay[0] < 1.0:
            raise problem("randomise.delay", "1 where actions are choices", table.delay)
        self.table, self.env = table, env
        self.factors = np.ones((env.num_envs, len(FACTORS)))
        self.fixed: Array | None = None  # (N, factors) that are taken in place of drawn ones
        self.delays = np.zeros(env.num_envs, np.int64)
        self.biases: Array | None = None  # (N, O), once an observation has been seen
        self._streams = WorldStreams(env.num_envs, seed + OWN)
        self._episode = np.zeros(env.num_envs, np.int64)
        self._past = np.zeros((env.num_envs, len(table.delay), *env.single_action_space.shape), np.float32)
        self._plain: list[dict[str, Array] | None] = [None] * env.num_envs  # models as their resets left them
        self._pending: list[bool] = []
        self._changes = any(getattr(table, name) != (1.0, 1.0) for name in FACTORS)
        if self._changes:
            env.own_models()
            model = env.physics(0)[0]
            self._scratch = mujoco.MjData(model)
            robot = robot_bodies(model)
            self._robot, self._joints = robot, robot[model.dof_bodyid]
            free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
            self._objects = np.isin(np.arange(model.nbody), free) & ~robot

    # ---- episodes ------------------------------------------------------------------------------------------------
    def undo(self, worlds: Array) -> None:
        """Give the models of the worlds (N,) bool back what they were, before their episodes are drawn."""
        for world in np.flatnonzero(worlds):
            if (plain := self._plain[world]) is not None:
                self._write(int(world), plain)
                self._plain[world] = None

    def begin(self, worlds: Array, seeds: list[int | None] | None) -> None:
        """Draw anew in the worlds (N,) bool, whose episodes begin, and change their models."""
        table, own = self.table, np.flatnonzero(worlds)
        self._episode[own] += 1
        for world in own:
            if seeds is not None and (seed := seeds[world]) is not None:
                self._streams.reseed(int(world), seed + OWN)
                self._episode[world] = 0
        self._streams.counters[own] = self._episode[own].astype(np.uint64) << np.uint64(28)
        uniform = self._streams.uniform(own, len(FACTORS) + 1)
        low, high = np.log([getattr(table, name) for name in FACTORS]).T
        drawn = np.exp(table.scale * (low + (high - low) * uniform[:, :-1]))
        self.factors[own] = drawn if self.fixed is None else self.fixed[own]
        late = np.searchsorted(np.cumsum(table.delay), uniform[:, -1] * sum(table.delay), side="right")
        self.delays[own] = np.where(table.scale > 0.0, np.minimum(late, len(table.delay) - 1), 0)
        self._past[own] = 0.0
        if self.biases is not None:
            self.biases[own] = self._bias(own, self.biases.shape[1:])
        for world in own if self._changes else ():
            self._change(int(world))

    def _bias(self, worlds: Array, shape: tuple[int, ...]) -> Array:
        self._streams.counters[worlds] = (self._episode[worlds].astype(np.uint64) << np.uint64(28)) + np.uint64(2**20)
        return self.table.scale * self.table.bias * self._streams.normal(worlds, *shape)

    def _change(self, world: int) -> None:
        model = self.env.physics(world)[0]
        plain = {name: getattr(model, name).copy() for name in FIELDS}
        self._plain[world] = plain
        mass, links, friction, gains, damping = self.factors[world]
        changed = {name: value.copy() for name, value in plain.items()}
        for chosen, factor in ((self._objects, mass), (self._robot, links)):
            changed["body_mass"][chosen] *= factor
            changed["body_inertia"][chosen] *= factor
        changed["geom_friction"][:, 0] *= friction
        changed["pair_friction"][:, :2] *= friction
        changed["actuator_gainprm"][:, 0] *= gains
        changed["actuator_biasprm"][:, 1:3] *= gains
        changed["dof_damping"][self._joints] *= damping
        self._write(world, changed)

    def _write(self, world: int, values: dict[str, Array]) -> None:
        model = self.env.physics(world)[0]
        for name, value in values.items():
            getattr(model, name)[...] = value
        mujoco.mj_setConst(model, self._scratch)  # what the solver derives from masses follows them

    # ---- control steps -------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Change the models as a restored state says, once the environment has restored its own."""
        pending, self._pending = self._pending, []
        for world in np.flatnonzero(pending):
            self._change(int(world))

    def on_actions(self, actions: Array, worlds: Array) -> Array:
        """Return chunks (N, H, A) as they are executed in the worlds (N,) bool: late by each world's delay, with no
        motion before the first."""
        if not self.delays.any():
            return actions
        found = actions.copy()
        for ahead in range(actions.shape[1]):
            self._past[worlds] = np.roll(self._past[worlds], 1, axis=1)
            self._past[worlds, 0] = actions[worlds, ahead]
            found[worlds, ahead] = self._past[worlds, self.delays[worlds]]
        return found

    def on_observations(self, observed: Obs) -> Obs:
        """Return observations (N, ...) whose proprioception is off by each world's bias."""
        if not self.table.bias:
            return observed
        values = observed["proprio"] if isinstance(observed, dict) else observed
        if self.biases is None:
            self.biases = self._bias(np.arange(len(values)), values.shape[1:])
        seen = (values + self.biases).astype(values.dtype)
        return observed | {"proprio": seen} if isinstance(observed, dict) else seen

    def state_dict(self) -> dict[str, Any]:
        """Return what was drawn."""
        return {
            "streams": self._streams.state_dict(),
            "episode": self._episode.copy(),
            "factors": self.factors.copy(),
            "delays": self.delays.copy(),
            "past": self._past.copy(),
            "biases": None if self.biases is None else self.biases.copy(),
            "changed": [plain is not None for plain in self._plain],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; models change at the next step, after the environment has restored what it sets in them."""
        self.undo(np.ones(self.env.num_envs, bool))
        self._streams.load_state_dict(state["streams"])
        for name, held in (("episode", self._episode), ("factors", self.factors), ("delays", self.delays)):
            held[...] = np.asarray(state[name])
        self._past[...] = np.asarray(state["past"])
        self.biases = None if state["biases"] is None else np.asarray(state["biases"]).copy()
        self._pending = [bool(changed) for changed in state["changed"]]
