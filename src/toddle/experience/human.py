"""A stand-in for a human: a scripted expert that takes one of several routes, pauses, overshoots and trembles.

It makes "human" data measurable without humans; it is no model of any person.  Everything it does is recorded as it is
executed, as a teleoperated arm's actions are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Count, NonNegative, Positive, Share
from toddle.core.seeding import numpy_generator
from toddle.envs.base import Array, BatchedEnv

__all__ = ["HumanActor", "HumanConfig"]

HAND = 3
"""Numbers of an action that move the hand's place; the last number is the gripper."""


@config
class HumanConfig:
    """How the stand-in differs from the expert it imitates; sizes are shares of a full action."""

    routes: Count = 3
    """Ways around the straight one: an episode begins with a detour in one of so many directions, evenly around the
    vertical plane across the first motion."""
    detour: NonNegative = 0.6
    """Size of the detour at its middle; 0 for none."""
    detour_seconds: Positive = 0.5
    """How long it lasts."""
    grasps: Count = 2
    """Ways of taking an object among which an episode draws, where the expert has so many (LIBERO's: two)."""
    slowest: Share = 0.4
    """An episode's motion is scaled by a factor between this and 1."""
    pauses: NonNegative = 0.5
    """Pauses a second of motion, on average."""
    pause_seconds: Positive = 0.3
    """Mean length of a pause, at which the hand is told to stay and the gripper to stay as it is."""
    reaction: NonNegative = 0.05
    """Seconds by which it acts on what it saw: it begins late, and overshoots where it should stop."""
    tremor: NonNegative = 0.1
    """Deviation of a tremor of each of the hand's three numbers, around `tremor_hertz`."""
    tremor_hertz: Positive = 6.0
    """Frequency of the tremor; below half the control rate, else it is taken there."""


@dataclass
class _Person:
    """One episode's own: its generator, its route, and what it is about to do."""

    generator: np.random.Generator
    speed: float
    angle: float
    seen: list[Array]
    moved: int = 0
    paused: int = 0
    gripper: float = 0.0
    before: Array | None = None
    last: Array | None = None


class HumanActor:
    """Acts like the environment's scripted expert, in a human way; an episode depends on its seed alone."""

    def __init__(self, settings: HumanConfig) -> None:
        self.settings = settings
        self._people: list[_Person] = []

    def begin(self, env: BatchedEnv, seeds: list[int]) -> None:
        """Begin episodes.  Raises InputError where actions have no hand and gripper."""
        if env.single_action_space.shape[0] <= HAND:
            raise problem("policy", "actions of a hand's place and a gripper, to be human", env.name)
        self._people = [self._person(numpy_generator(seed, "human")) for seed in seeds]
        ways = min(self.settings.grasps, env.grasps)
        env.grasp = np.array([int(numpy_generator(seed, "human", "grasp").integers(ways)) for seed in seeds])

    def _person(self, generator: np.random.Generator) -> _Person:
        route = int(generator.integers(self.settings.routes))
        speed = float(generator.uniform(self.settings.slowest, 1.0))
        angle = 2.0 * math.pi * (route + 0.25) / self.settings.routes
        return _Person(generator=generator, speed=speed, angle=angle, seen=[])

    def act(self, env: BatchedEnv) -> tuple[Array, Array]:
        """Return the actions, twice: what is done is what is recorded."""
        wanted, space = env.expert_action(), env.single_action_space
        done = np.stack([self._act(one, own, env.dt) for one, own in zip(self._people, wanted, strict=True)])
        # single precision all the way, so that a pause is the same gripper to the last bit
        done = np.clip(done, space.low, space.high).astype(np.float32)
        return done, done

    def _act(self, one: _Person, wanted: Array, dt: float) -> Array:
        """Return what a person does where the expert would do `wanted` (A,)."""
        settings, generator = self.settings, one.generator
        one.seen.append(wanted)
        late = round(settings.reaction / dt)
        if len(one.seen) <= late or one.paused > 0:
            one.paused = max(0, one.paused - 1)
            return np.append(np.zeros(len(wanted) - 1), one.gripper if one.moved else wanted[-1])
        action = np.array(one.seen[-1 - late], dtype=np.float64)
        action[:-1] *= one.speed
        share = one.moved * dt / settings.detour_seconds
        if share < 1.0:
            across = np.array([math.cos(one.angle), 0.0, math.sin(one.angle)])
            action[:HAND] += settings.detour * math.sin(math.pi * share) * across
        action[:HAND] += self._tremor(one, dt)
        one.moved += 1
        one.gripper = float(action[-1])
        if generator.random() < settings.pauses * dt:
            one.paused = max(1, round(generator.exponential(settings.pause_seconds) / dt))
        return action

    def _tremor(self, one: _Person, dt: float) -> Array:
        """Return the next of a resonant noise, (3,): an autoregression of order 2 with its pole at the frequency."""
        if one.before is None or one.last is None:
            one.before, one.last = np.zeros(HAND), np.zeros(HAND)
        turn = 2.0 * math.pi * min(self.settings.tremor_hertz * dt, 0.5)
        decay = math.exp(-dt * self.settings.tremor_hertz / 2.0)  # it keeps its phase for about two turns
        a, b = 2.0 * decay * math.cos(turn), -(decay**2)
        variance = (1.0 - b) / ((1.0 + b) * ((1.0 - b) ** 2 - a**2))  # of the autoregression, for unit innovations
        fresh = one.generator.normal(size=HAND) * self.settings.tremor / math.sqrt(variance)
        one.before, one.last = one.last, a * one.last + b * one.before + fresh
        return one.last
