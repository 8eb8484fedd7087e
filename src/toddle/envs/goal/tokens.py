"""Goals as a policy sees them (tokens of `core.goal`) and as the critic does (one slot a part of the body)."""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.goal import (
    CURRENT_ERROR,
    FAMILIES,
    FAMILY,
    FRAME,
    GOAL_FEATURES,
    MAX_GOAL_ITEMS,
    PART,
    TARGET,
    TIME_TO_GO,
    TOLERANCE,
    WEIGHT,
)
from toddle.envs.base import Array
from toddle.envs.goal.parts import BodyReader, BodyState
from toddle.envs.goal.sampling import Goals
from toddle.envs.streams import WorldStreams
from toddle.maths.goal_reward import item_error, kernel

__all__ = ["TokenWriter"]


class TokenWriter:
    """Writes goal tokens; with a latency above 1 they are refreshed only now and then, like a slow vision model's."""

    def __init__(
        self,
        reader: BodyReader,
        goals: Goals,
        offset: int,
        step_time: float,
        latency: int,
        distractors: int,
        others: Array | None,
    ) -> None:
        """offset: first part id of the body; step_time: a control step in sqrt(L / g); others (N,): whose goal each
        world is shown, None for its own."""
        self.reader, self.goals, self.offset, self.step_time = reader, goals, offset, step_time
        self.latency, self.distractors, self.others = latency, distractors, others
        worlds = len(goals.family)
        self.columns = MAX_GOAL_ITEMS + distractors
        self.rows = np.zeros((worlds, MAX_GOAL_ITEMS, GOAL_FEATURES), dtype=np.float32)
        self.mask = np.zeros((worlds, MAX_GOAL_ITEMS), dtype=bool)
        self.wait = np.zeros(worlds, dtype=np.int64)
        self.extra = np.zeros(worlds, dtype=np.int64)  # distractors shown
        self._family = np.eye(len(FAMILIES))[reader.part_family]
        self._used = np.concatenate([p * 9 + np.arange(3 + reader.part_size[p]) for p in range(reader.parts)])

    def begin(self, worlds: Array, quantities: Array, tolerance: float, streams: WorldStreams) -> None:
        """Begin an episode in the worlds (indices): fresh tokens, a new number of distractors."""
        if self.distractors and len(worlds):
            self.extra[worlds] = (streams.uniform(worlds, 1)[:, 0] * (self.distractors + 1)).astype(np.int64)
        if self.latency > 1:
            self.wait[worlds] = 0
            self._write(worlds, quantities, tolerance)

    def tick(self, active: Array, quantities: Array, tolerance: float, streams: WorldStreams) -> None:
        """A control step has passed in the worlds of `active` (N,)."""
        if self.latency == 1:
            return
        self.wait -= active
        due = np.flatnonzero(active & (self.wait <= 0))
        if len(due):
            self._write(due, quantities, tolerance)
            self.wait[due] = 1 + (streams.uniform(due, 1)[:, 0] * self.latency).astype(np.int64)

    def _write(self, worlds: Array, quantities: Array, tolerance: float) -> None:
        goals, owner = self.goals, worlds if self.others is None else self.others[worlds]
        part, present = goals.part[owner], goals.present[owner]
        rows = np.zeros((len(worlds), MAX_GOAL_ITEMS, GOAL_FEATURES), dtype=np.float32)
        rows[..., PART] = self.offset + part
        rows[..., FAMILY] = self._family[part]
        rows[..., FRAME] = self.reader.part_frame[part]
        rows[..., TARGET] = goals.target[owner]
        rows[..., CURRENT_ERROR] = goals.target[owner] - quantities[worlds[:, None], part]
        rows[..., TOLERANCE] = tolerance
        rows[..., TIME_TO_GO] = (goals.left[owner] * self.step_time)[:, None]
        rows[..., WEIGHT] = goals.weight[owner]
        self.rows[worlds], self.mask[worlds] = rows * present[..., None], present

    def read(self, quantities: Array, tolerance: float) -> tuple[Array, Array]:
        """Return tokens (N, G, GOAL_FEATURES) float32 and their mask (N, G)."""
        n = len(self.mask)
        if self.latency == 1:
            self._write(np.arange(n), quantities, tolerance)
        if not self.distractors:
            return self.rows.copy(), self.mask.copy()
        number = np.arange(self.distractors)
        world = (np.arange(n)[:, None] + 1 + number // MAX_GOAL_ITEMS) % n
        added, real = self.rows[world, number % MAX_GOAL_ITEMS], self.mask[world, number % MAX_GOAL_ITEMS]
        shown = real & (number < self.extra[:, None])
        added[..., WEIGHT] = 0.0
        added *= shown[..., None]
        return np.concatenate([self.rows, added], axis=1), np.concatenate([self.mask, shown], axis=1)

    def privileged(self, state: BodyState, contact: Array, progress: Array, factors: Array, tolerance: float) -> Array:
        """Return what the critic sees, (N, C) float32.

        Proprioception without noise; the goal's reward now; per part its weight in the goal, what it earns, the norm
        of its exact error and the error; time to go; share of the episode that has passed; undesired contact; factors
        of the randomisation, less 1.  The value is nearly linear in what is earned now, which a critic given errors
        alone takes long to find out.
        """
        goals, n = self.goals, len(self.mask)
        slots = np.zeros((n, self.reader.parts, 9))
        world = np.broadcast_to(np.arange(n)[:, None], goals.part.shape)[goals.present]
        part, weight = goals.part[goals.present], goals.weight[goals.present]
        difference = goals.difference(state.quantities)[goals.present]
        error = item_error(difference)
        slots[world, part, 0] = weight
        slots[world, part, 1] = weight * kernel(error * (0.1 / tolerance))
        slots[world, part, 2] = error
        slots[world, part, 3:] = difference
        facts = [slots[:, :, 1].sum(axis=1), goals.left * self.step_time, progress, contact]
        flat = slots.reshape(n, -1)[:, self._used]
        return np.concatenate([state.proprio, np.stack(facts, axis=1), flat, factors - 1.0], axis=1).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return the tokens shown and the waiting times."""
        return {name: getattr(self, name).copy() for name in ("rows", "mask", "wait", "extra")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in ("rows", "mask", "wait", "extra"):
            getattr(self, name)[...] = np.asarray(state[name])
