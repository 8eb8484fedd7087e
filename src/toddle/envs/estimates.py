"""What a detector would say of where things are, in place of the simulator's knowledge: noise, delay, lost detections.

VLAJS (S4) deploys a state-based policy on a robot with detected poses; this is how such a policy meets them beforehand.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from toddle.core.config import config
from toddle.core.numbers import NonNegative, Range, Share
from toddle.envs.base import Array
from toddle.envs.streams import WorldStreams

__all__ = ["EstimateConfig", "PoseEstimates"]

OWN = 2**40
"""Added to a world's seed, so that estimates draw from a stream of their own and nothing else changes by them."""
Delay = Annotated[int, Range(0, 1000, "a whole number from 0 to 1000", whole=True)]


@config
class EstimateConfig:
    """How poses of things are estimated; at 0 they are the simulator's."""

    noise: NonNegative = 0.0
    """Standard deviation of each coordinate of a position, metres, drawn anew at each control step."""
    turn: NonNegative = 0.0
    """Standard deviation of each component of the rotation vector by which an orientation is off, radians."""
    delay: Delay = 0
    """Control steps by which poses are late."""
    dropped: Share = 0.0
    """Share of control steps at which a thing is not detected; what was last known of it stays."""


class PoseEstimates:
    """Estimates of the poses of K things in N worlds: positions (N, K, 3) metres, quaternions (N, K, 4) wxyz."""

    def __init__(self, config: EstimateConfig, num_envs: int, things: int, seed: int) -> None:
        self.config = config
        self._streams = WorldStreams(num_envs, seed + OWN)
        self._late = np.zeros((config.delay + 1, num_envs, things, 7))
        self.pose = np.zeros((num_envs, things, 7))
        """What is known now: position and quaternion."""

    def reseed(self, world: int, seed: int) -> None:
        """Begin the random numbers of a world anew."""
        self._streams.reseed(world, seed + OWN)

    def begin(self, worlds: Array, position: Array, quaternion: Array) -> None:
        """Begin an episode in `worlds` (indices): what is detected first is known at once."""
        seen = self._detect(worlds, position, quaternion)
        self._late[:, worlds] = seen
        self.pose[worlds] = seen

    def step(self, worlds: Array, position: Array, quaternion: Array) -> None:
        """Take in the true poses of `worlds` (indices) after a control step: (W, K, 3) and (W, K, 4)."""
        self._late[:-1, worlds] = self._late[1:, worlds]
        self._late[-1, worlds] = self._detect(worlds, position, quaternion)
        lost = self._streams.uniform(worlds, self.pose.shape[1]) < self.config.dropped
        self.pose[worlds] = np.where(lost[..., None], self.pose[worlds], self._late[0, worlds])

    def _detect(self, worlds: Array, position: Array, quaternion: Array) -> Array:
        from scipy.spatial.transform import Rotation  # takes long to import

        things = self.pose.shape[1]
        off = self._streams.normal(worlds, things, 6)
        by = Rotation.from_rotvec((self.config.turn * off[..., 3:]).reshape(-1, 3))
        turned = by * Rotation.from_quat(quaternion.reshape(-1, 4), scalar_first=True)
        seen = turned.as_quat(scalar_first=True).reshape(len(worlds), things, 4)
        return np.concatenate([position + self.config.noise * off[..., :3], seen], -1)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next estimates depend on."""
        return {"streams": self._streams.state_dict(), "late": self._late.copy(), "pose": self.pose.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._streams.load_state_dict(state["streams"])
        self._late[:], self.pose[:] = np.asarray(state["late"]), np.asarray(state["pose"])
