"""Goals of N worlds as arrays, and their sampling: family, items, targets, all worlds at once.

The targets of one goal come from one configuration, so that its items are feasible together: from the table of feasible
configurations, or from a ring of visited states.  Several candidates are drawn for each goal, and one is chosen by the
failure weights of (family, distance bin).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from toddle.core.goal import FAMILIES, MAX_GOAL_ITEMS, VALUES
from toddle.envs.base import Array
from toddle.envs.goal.curriculum import EDGES, Failures
from toddle.envs.goal.parts import HOLD, KEY_POINT, POSTURE, VELOCITY, BodyReader
from toddle.envs.streams import WorldStreams
from toddle.maths.goal_reward import goal_success, item_error

__all__ = ["GoalSampler", "Goals", "VisitedStates"]

CANDIDATES = 4
MIXED = 0.5  # share of key-point goals that ask for joints of the same configuration as well
NEAR = 0.02  # factor of the weight of goals, other than to hold, that are reached before they begin
POINTS = 3  # most key points of one goal
SPEED = (0.35, 0.25, 0.5)  # largest targets of a floating base: forward, sideways, yaw rate (dimensionless)


class Goals:
    """The goals of N worlds.  Everything that a bitwise resume needs is in `state_dict`."""

    _names = ("part", "present", "target", "weight", "family", "bin", "left", "start_error", "met")

    def __init__(self, worlds: int) -> None:
        items = (worlds, MAX_GOAL_ITEMS)
        self.part = np.zeros(items, dtype=np.int64)  # index among the body's parts
        self.present = np.zeros(items, dtype=bool)
        self.target = np.zeros((*items, VALUES))
        self.weight = np.zeros(items)  # sums to 1
        self.family = np.zeros(worlds, dtype=np.int64)
        self.bin = np.zeros(worlds, dtype=np.int64)
        self.left = np.ones(worlds, dtype=np.int64)  # control steps until the goal ends
        self.start_error = np.zeros(worlds)  # mean item error when it began
        self.met = np.zeros(worlds, dtype=bool)  # all items within 0.1 when it began

    def difference(self, quantities: Array, other: Array | None = None) -> Array:
        """y - q, (N, I, VALUES), 0 where there is no item; `other` (N,) shows each world another world's goal."""
        part, target, present = self.part, self.target, self.present
        if other is not None:
            part, target, present = part[other], target[other], present[other]
        gathered = quantities[np.arange(len(part))[:, None], part]
        return np.asarray((target - gathered) * present[..., None])

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the arrays."""
        return {name: getattr(self, name).copy() for name in self._names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in self._names:
            getattr(self, name)[...] = np.asarray(state[name])


class VisitedStates:
    """A ring of the quantities (P, VALUES) of visited states."""

    def __init__(self, size: int, parts: int) -> None:
        self.rows = np.zeros((size, parts, VALUES), dtype=np.float32)
        self.count = 0

    def add(self, quantities: Array) -> None:
        """Append (n, P, VALUES), writing over the oldest."""
        places = (self.count + np.arange(len(quantities))) % len(self.rows)
        self.rows[places] = quantities
        self.count += len(quantities)

    def draw(self, uniform: Array) -> Array:
        """Return rows (..., P, VALUES) for uniform numbers (...); the ring must not be empty."""
        index = (uniform * min(self.count, len(self.rows))).astype(np.int64)
        return np.asarray(self.rows[index])

    def state_dict(self) -> dict[str, Any]:
        """Return rows and count."""
        return {"rows": self.rows.copy(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows[...], self.count = np.asarray(state["rows"]), int(state["count"])


def _ranks(scores: Array) -> Array:
    """Rank of each score in its row, 0 the smallest."""
    return np.asarray(np.argsort(np.argsort(scores, axis=1), axis=1))


class GoalSampler:
    """Draws goals for some of the worlds into `Goals`."""

    def __init__(
        self,
        reader: BodyReader,
        rows: Array,
        mix: Array,
        visited_fraction: float,
        duration: tuple[int, int],
        step_time: float,
    ) -> None:
        """rows (R, P, VALUES): quantities of feasible configurations; mix (4,): shares of the families; duration:
        least and most control steps of a goal; step_time: a control step in units of sqrt(L / g)."""
        self.reader, self.rows, self.duration, self.step_time = reader, rows, duration, step_time
        self.visited_fraction = visited_fraction
        self.members = np.array([reader.part_family == family for family in range(len(FAMILIES))])
        usable = np.asarray(mix, dtype=np.float64) * self.members.any(axis=1)
        self.mix = usable / usable.sum()
        self.near = np.zeros((len(FAMILIES), len(EDGES) + 1), bool)
        self.near[[POSTURE, KEY_POINT, VELOCITY], 0] = True

    def sample(
        self,
        goals: Goals,
        worlds: Array,
        quantities: Array,
        streams: WorldStreams,
        visited: VisitedStates,
        failures: Failures | None,
        most_items: int,
    ) -> None:
        """Give the worlds (indices) new goals, from their present `quantities` (len(worlds), P, VALUES)."""
        draw = streams.uniform(worlds, 4)
        weights = failures.weight() if failures is not None else np.ones((len(FAMILIES), len(EDGES) + 1))
        weights = weights * np.where(self.near, NEAR, 1.0)
        share = np.cumsum(self.mix * weights.mean(axis=1, where=~self.near))
        family = np.minimum(np.searchsorted(share / share[-1], draw[:, 0], side="right"), len(FAMILIES) - 1)
        part, present = self._items(worlds, family, 1 + (draw[:, 1] * most_items).astype(np.int64), streams)
        low, high = self.duration
        steps = low + (draw[:, 2] * (high - low + 1)).astype(np.int64)
        targets = self._targets(worlds, family, part, present, quantities, steps, streams, visited)
        now = quantities[np.arange(len(worlds))[:, None], part][:, None]
        error = item_error((targets - now) * present[:, None, :, None])
        mean_error = error.sum(axis=2) / present.sum(axis=1)[:, None]  # (m, candidates)
        bins = np.searchsorted(EDGES, mean_error)
        score = np.cumsum(weights[family[:, None], bins], axis=1)
        chosen = np.minimum((score / score[:, -1:] < draw[:, 3:]).sum(axis=1), CANDIDATES - 1)
        pick = np.arange(len(worlds))
        raw = (0.5 + streams.uniform(worlds, MAX_GOAL_ITEMS)) * present
        goals.part[worlds], goals.present[worlds] = part, present
        goals.target[worlds] = targets[pick, chosen] * present[..., None]
        goals.weight[worlds] = raw / raw.sum(axis=1, keepdims=True)
        goals.family[worlds], goals.bin[worlds] = family, bins[pick, chosen]
        goals.left[worlds], goals.start_error[worlds] = steps, mean_error[pick, chosen]
        goals.met[worlds] = goal_success(error[pick, chosen], present)

    def _items(self, worlds: Array, family: Array, wanted: Array, streams: WorldStreams) -> tuple[Array, Array]:
        """Which parts (m, I), and which items there are (m, I).  At most POINTS key points; one velocity."""
        draw = streams.uniform(worlds, self.reader.parts + 1)
        member = self.members[family]  # (m, P)
        if self.reader.floating:  # a pose is held by its joints too
            member = member | ((family == HOLD)[:, None] & self.members[POSTURE])
        points = family == KEY_POINT
        score = np.where(member, draw[:, :-1], np.inf)
        excess = points[:, None] & member & (_ranks(score) >= np.minimum(wanted, POINTS)[:, None])
        mixed = points & (draw[:, -1] < MIXED)
        joints = mixed[:, None] & self.members[POSTURE][None]
        score = np.where(excess, np.inf, np.where(joints, 1.0 + draw[:, :-1], score))
        order = np.argsort(score, axis=1)[:, :MAX_GOAL_ITEMS]
        finite = np.isfinite(np.take_along_axis(score, order, axis=1))
        # a mixed goal of one item wanted still keeps one joint: "there, with the gripper open"
        limit = np.maximum(wanted, np.where(mixed, 2, 1))[:, None]
        part, present = (np.zeros((len(worlds), MAX_GOAL_ITEMS), dtype=t) for t in (np.int64, bool))
        width = order.shape[1]
        part[:, :width] = order
        present[:, :width] = finite & (np.arange(width) < limit)
        return part * present, present

    def _targets(
        self,
        worlds: Array,
        family: Array,
        part: Array,
        present: Array,
        quantities: Array,
        steps: Array,
        streams: WorldStreams,
        visited: VisitedStates,
    ) -> Array:
        """Candidate targets (m, CANDIDATES, I, VALUES)."""
        m, reader = len(worlds), self.reader
        draw = streams.uniform(worlds, CANDIDATES, 3)
        rows = self.rows[(draw[..., 0] * len(self.rows)).astype(np.int64)]  # (m, C, P, VALUES)
        seen = draw[..., 1] < (self.visited_fraction if visited.count else 0.0)
        if seen.any():
            rows = np.where(seen[..., None, None], visited.draw(draw[..., 0]), rows)
        velocity = int(reader.slots[2][0])
        if reader.floating:
            aim = (2.0 * streams.uniform(worlds, CANDIDATES, 3) - 1.0) * SPEED
            rows[:, :, velocity, :3] = np.where(seen[..., None], rows[:, :, velocity, :3], aim)
        else:  # towards a place that can be reached, at the speed that reaches it when the goal ends
            stay = int(reader.slots[3][0])
            way = rows[:, :, stay, :3] - quantities[:, None, stay, :3]
            rows[:, :, velocity, :3] = way / (steps * self.step_time)[:, None, None]
        now = np.broadcast_to(quantities[:, None], rows.shape)
        rows = np.where((family == HOLD)[:, None, None, None], now, rows)
        if reader.floating:  # whatever the pose that is held, upright and at this place
            _, upright, station = reader.slots[3][:3]
            rows[:, :, [upright, station]] = 0.0
        return np.asarray(np.take_along_axis(rows, part.reshape(m, 1, -1, 1), axis=2))
