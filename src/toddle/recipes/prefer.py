"""`toddle prefer ask|judge|train`: pieces of a dataset are compared, and a policy learns from the answers.

Each word is a command of its own, in `prefer_<word>.py`.
"""

from __future__ import annotations

__all__ = ["ACTIONS"]

ACTIONS = {
    "judge": "answer by what was recorded (success, return, ...), with a set share of errors",
    "train": "learn a policy from answers: dpo, ipo, tpo, flow-dpo",
}
"""The words after `toddle prefer`."""
