"""`toddle prefer ask|judge|train`: pieces of a dataset are compared, and a policy learns from the answers.

Each word is a command of its own, in `prefer_<word>.py`.
"""

from __future__ import annotations

__all__ = ["ACTIONS"]

ACTIONS = {
    "ask": "serve a page on this machine, on which a person says which of two videos is better",
    "judge": "answer by what was recorded (success, return, ...), with a set share of errors",
    "train": "learn a policy from answers: dpo, ipo, tpo, flow-dpo",
}
"""The words after `toddle prefer`."""
