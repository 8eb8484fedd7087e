"""The numbers of an environment's state by name, for rewards that people write (`BatchedEnv.named`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toddle.algorithms.rewards.steps import Seen, Steps
from toddle.core.errors import problem
from toddle.core.types import Named
from toddle.maths.reward_expression import RewardExpression

__all__ = ["WRITTEN", "known_names", "look_up", "values_of"]

WRITTEN = ("success", "action")
"""Names beside the environment's own: whether success was reported, and what was done."""
AXES = "xyz"


def known_names(named: Mapping[str, Named]) -> tuple[str, ...]:
    """Return what a file may ask for: the environment's names, and `object_x` and so on for what has two or three
    numbers."""
    sizes = {name: len(where.at) for name, where in named.items()}
    parts = [f"{name}_{axis}" for name, size in sizes.items() if size in (2, 3) for axis in AXES[:size]]
    return (*named, *parts)


def values_of(reward: RewardExpression, named: Mapping[str, Named], seen: Seen) -> dict[str, Tensor]:
    """Return the values (N, k) of what a file asks for, N = T B."""
    state = seen.state.flatten(0, 1)
    found = {}
    for name in reward.names:
        if name in WRITTEN:
            continue
        whole, _, axis = (name, "", "") if name in named else name.rpartition("_")
        where = named[whole]
        if max(where.at) >= state.shape[-1]:
            want = f"a state of {max(where.at) + 1} numbers (pretrain on states, or a critic that has them)"
            raise problem(f"reward: {reward.where}", want, state.shape[-1])
        value = state[:, list(where.at)] * where.scale + state.new_tensor(where.offset or (0.0,) * len(where.at))
        found[name] = value if not axis else value[:, [AXES.index(axis)]]
    return found or {"": state[:, :1]}


def look_up(reward: RewardExpression, named: Mapping[str, Named], steps: Steps) -> dict[str, Tensor]:
    """Return the values of what a file asks for of what the steps led to."""
    found = values_of(reward, named, steps.following)
    if "success" in reward.names:
        found["success"] = steps.success.flatten().to(torch.float32)[:, None]
    if "action" in reward.names:
        if steps.action is None:
            raise problem(f"reward: {reward.where}", "steps that hold actions, for the name action", "none")
        found["action"] = steps.action.flatten(0, 1)
    return found
