"""`toddle doctor --body FILE`: each promise of a body (docs/add_a_body.md), looked at in its model and at work."""

from __future__ import annotations

import numpy as np

from toddle.core.errors import InputError
from toddle.envs.bodies.body import Body
from toddle.envs.bodies.promises import PROMISES, build_model
from toddle.envs.check_env import check_env
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.recipes._checks import Check

__all__ = ["check_body"]

WORLDS, STEPS = 16, 240
REWARD = (-0.5, 1.2)
"""What the reward of any body stays within."""
ORDER = 30.0
"""Largest number in the dimensionless proprioception under random actions; for all bodies here it is below this."""
EASY = 0.5
"""Share of goals reached by random actions from which a length is too long."""


def check_body(body: Body) -> list[Check]:
    """Look at every promise: first the model's, and where they hold, the body at work under random actions."""
    try:
        model = build_model(body)
    except InputError as error:
        return [Check(item="model", fine=False, found=str(error), remedy="mend what build returns")]
    found = f"{model.nbody} bodies, {model.njnt} joints, {model.nu} actuators"
    checks = [Check(item="model", fine=True, found=found)]
    for item, promise in PROMISES.items():
        try:
            checks.append(Check(item=item, fine=True, found=promise(body, model)))
        except InputError as error:
            said, _, remedy = str(error).partition("; ")
            checks.append(Check(item=item, fine=False, found=said, remedy=remedy or "see docs/add_a_body.md"))
    return checks + (_at_work(body) if all(check.fine for check in checks) else [])


def _at_work(body: Body) -> list[Check]:
    """The environment of the body: its contract, its rewards, its numbers and how hard its goals are."""
    remedy = "see docs/add_a_body.md, 'What to check'"
    try:
        env = GoalTrackingEnv(body, WORLDS, seed=0, held_out=True, pushes=None)
    except InputError as error:
        return [Check(item="goals", fine=False, found=str(error), remedy=remedy)]
    env.reset(seed=0)
    rng, rewards, largest, done, reached, finite = np.random.default_rng(0), [0.0], 0.0, 0, 0, True
    for _ in range(STEPS):
        observation, reward, _, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        rewards += [float(reward.min()), float(reward.max())]
        finite &= bool(np.isfinite(reward).all()) and all(np.isfinite(part).all() for part in observation.values())
        largest = max(largest, float(np.abs(observation["proprio"]).max()))
        done += int(info["goal_done"].sum())
        reached += int(info["goal_success"][info["goal_done"]].sum())
    low, high = min(rewards), max(rewards)
    seconds = 14 * env.dt
    checks = [
        Check(
            item="control rate",
            fine=True,
            found=f"{1 / env.dt:.4g} Hz; unit of length {body.length:g} m, of time {body.time:.3g} s",
        ),
        Check(
            item="rewards",
            fine=finite and REWARD[0] <= low and high <= REWARD[1],
            found=f"{low:.2f} to {high:.2f} under random actions",
            remedy=f"they stay within {REWARD[0]} to {REWARD[1]} where the physics is stable: a smaller timestep",
        ),
        Check(
            item="proprioception",
            fine=finite and largest < ORDER,
            found=f"at most {largest:.3g}, " + ("finite" if finite else "NOT finite"),
            remedy="numbers are of order 1 where length and the joints' ranges are right",
        ),
        Check(
            item="goals",
            fine=done == 0 or reached / done < EASY,
            found=f"random actions reach {reached} of {done}",
            remedy="length is too long for the motion: goals count as reached within 0.1 of it",
        ),
    ]
    try:
        check_env(
            GoalTrackingEnv(
                body, 3, episode_seconds=seconds, duration=(seconds / 4, seconds / 2), pushes=None, held_out=True
            )
        )
        checks.append(Check(item="contract", fine=True, found="seeds, chunks, frozen worlds, ends, bitwise resume"))
    except AssertionError as error:
        checks.append(Check(item="contract", fine=False, found=str(error), remedy=remedy))
    return checks
