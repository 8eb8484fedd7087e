"""The options of goal tracking, looked at before worlds are built."""

from __future__ import annotations

from toddle.core.errors import problem

__all__ = ["check_options"]


def check_options(worlds: int, control: str, duration: tuple[float, float], latency: int, distractors: int) -> None:
    """Raise InputError, one line, for a wrong value (`tracking.GoalTrackingEnv` says what they are)."""
    if control not in ("own", "shuffled", "none"):
        raise problem("control", "'own', 'shuffled' or 'none'", control)
    if control == "shuffled" and worlds < 2:
        raise problem("num_envs", "at least 2 worlds to shuffle goals between", worlds)
    if not 0.0 < duration[0] <= duration[1]:
        raise problem("duration", "0 < shortest <= longest seconds", str(duration))
    if latency < 1:
        raise problem("token_latency", "at least 1 step", latency)
    if not 0 <= distractors <= 56:
        raise problem("distractors", "0 to 56 tokens", distractors)
