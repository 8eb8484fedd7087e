"""What a reward term looks at: steps of worlds in time order, of a rollout or of a recorded episode alike.

`following` is what a step led to.  Where an episode was cut it is what the episode was cut in; where one ended for good
it is `now` again, because a rollout does not keep what came then, and a potential is 0 there anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import Part
from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.experience.rollout import Rollout

__all__ = ["Histories", "Seen", "Steps", "Term", "features_of", "steps_of"]


@dataclass(frozen=True)
class Seen:
    """What was seen: `features` (T, B, F) that learned terms read, and `state` (T, B, O), the numbers that an
    environment's names stand in."""

    features: Tensor
    state: Tensor


@dataclass(frozen=True, kw_only=True)
class Steps:
    """T steps of B worlds.  All are (T, B), of bools but `discount` (gamma^k of k control steps) and `environment`."""

    now: Seen
    following: Seen
    first: Tensor
    """Whether an episode begins with it."""
    terminated: Tensor
    truncated: Tensor
    success: Tensor
    """Whether success was reported in it."""
    discount: Tensor
    environment: Tensor
    """What the environment pays, in its own units."""
    real: Tensor
    action: Tensor | None = None
    """(T, B, A) what was done."""
    source: int = 0
    """Whose steps they are, where several environments count."""
    rollout: Rollout | None = None
    """What they come from; None: a recorded episode."""


class Term(Part):
    """One term of a reward."""

    name: str
    """What it is called in `--reward`, in metrics and pages."""
    kind: str
    """potential (shaping, which leaves the best policy what it was), delta (progress made), bonus or judge."""

    def paid(self, steps: Steps) -> Tensor:
        """Return what the steps earn, (T, B), in the environment's units, before its weight."""
        raise NotImplementedError

    def value(self, steps: Steps) -> Tensor | None:
        """Return how far each step is said to be, (T, B), before it is made; None where the term says no such thing."""
        return None

    def fit(self, steps: Steps) -> None:
        """Learn from steps after they were paid, never before: none is paid by a model that has seen it."""


def features_of(observation: Observation) -> Tensor:
    """Return the features (..., F) of an observation: the mean of a frozen backbone's tokens, where there are any, and
    proprioception."""
    proprio = observation["proprio"]
    if "context" not in observation:
        return proprio
    mask = observation["context_mask"][..., None].to(proprio.dtype)
    pooled = (observation["context"].to(proprio.dtype) * mask).sum(-2) / mask.sum(-2).clamp(min=1.0)
    return torch.cat([pooled, proprio], -1)


def _seen(observation: Observation) -> Seen:
    return Seen(features_of(observation), observation.get("critic", observation["proprio"]))


def steps_of(rollout: Rollout, source: int, begins: Tensor) -> Steps:
    """Return the steps of a rollout; `begins` (B,) bool: an episode begins with its first row.

    Raises InputError where the environment does not report success.
    """
    if rollout.reached is None:
        raise problem("reward", "an environment that reports `success`, for terms beside its own", "none")
    device = rollout.reward.device
    whole = _seen(rollout.observation_and_last)
    ended = rollout.terminated | rollout.truncated
    first = torch.cat([begins[None].to(device), ended[:-1]])
    following = [part[1:].clone() for part in (whole.features, whole.state)]
    if rollout.mask is None and rollout.finals is not None:
        rows, worlds = rollout.final_at.unbind(1)
        finals = _seen(rollout.finals)
        for part, final in zip(following, (finals.features, finals.state), strict=True):
            part[rows, worlds] = final.to(device)
    real = torch.ones_like(ended)
    if rollout.mask is not None:
        real = rollout.mask
        first = torch.zeros_like(ended)
        first[0] = True
    now = Seen(whole.features[:-1], whole.state[:-1])
    for part, before in zip(following, (now.features, now.state), strict=True):
        part[rollout.terminated] = before[rollout.terminated]
    return Steps(
        now=now,
        following=Seen(*following),
        first=first,
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        success=rollout.reached.to(device),
        discount=rollout.discount,
        environment=rollout.reward * rollout.reward_scale,
        real=real,
        action=None if rollout.executed is None else rollout.executed.to(device),
        source=source,
        rollout=rollout,
    )


class Histories(Part):
    """The features that each world's episode has gone through, kept from one rollout to the next."""

    def __init__(self, longest: int | None = None) -> None:
        """longest: only so many are kept."""
        self.longest, self.held = longest, dict[int, list[Tensor]]()

    def walk(self, steps: Steps) -> list[list[tuple[Tensor, Tensor]]]:
        """Return for each step of each world, [t][b], the features of its episode so far (n, F) and the one that
        followed (1, F)."""
        count = steps.first.shape[1]
        empty = steps.now.features.new_zeros(0, steps.now.features.shape[-1])
        held = self.held.get(steps.source) or [empty] * count
        found = []
        for t, first in enumerate(steps.first):
            now, following = steps.now.features[t], steps.following.features[t]
            for world in range(count):
                past = empty if first[world] else held[world]
                past = torch.cat([past, now[world : world + 1]])
                held[world] = past if self.longest is None else past[-self.longest :]
            found.append([(held[world], following[world : world + 1]) for world in range(count)])
        self.held[steps.source] = held
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what episodes under way have gone through."""
        return {str(source): list(held) for source, held in self.held.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.held = {int(source): [part.clone() for part in held] for source, held in state.items()}
