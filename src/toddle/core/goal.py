"""The layout of a goal token: one goal item of the generic physics reward (GCTR) as a row of floats.

Environments write it, goal encoders read it; this file alone says where each number stands.
"""

from __future__ import annotations

__all__ = [
    "CURRENT_ERROR",
    "FAMILIES",
    "FAMILY",
    "FRAME",
    "GOAL_FEATURES",
    "MAX_GOAL_ITEMS",
    "PART",
    "TARGET",
    "TIME_TO_GO",
    "TOLERANCE",
    "VALUES",
    "WEIGHT",
]

FAMILIES = ("posture", "key_point", "velocity", "hold")
"""The families of goal items, in the order of their one-hot columns."""
VALUES = 6
"""Numbers a target can have (padded with zeros): a key point uses 3, a planar velocity with yaw 3, a joint 1."""
MAX_GOAL_ITEMS = 6
"""Items a goal can have."""

PART = 0  # integer id of the controlled part, unique over all bodies of a run; the encoder embeds it
FAMILY = slice(1, 5)  # one-hot over FAMILIES
FRAME = 5  # 0 world frame, 1 body frame
TARGET = slice(6, 12)  # target y, dimensionless
CURRENT_ERROR = slice(12, 18)  # y - q, dimensionless
TOLERANCE = 18
TIME_TO_GO = 19  # in units of sqrt(L / g)
WEIGHT = 20  # w of the item; the weights of a goal sum to 1
GOAL_FEATURES = 21
