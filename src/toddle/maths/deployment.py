"""What a policy is worth where it is used: how long a success takes, how many an hour, what they cost, how often a
person had to help.

The six metrics of the survey (its section VI.C), with the two that it defines in two ways decided: the time of a cycle
is that of one successful execution, and lengths of successes and failures are never averaged together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["deployment_metrics"]


def deployment_metrics(
    success: Sequence[bool],
    steps: Sequence[int],
    dt: float,
    *,
    cost: Sequence[float] | None = None,
    helped: Sequence[int] | None = None,
    takeovers: Sequence[int] | None = None,
    reset: float = 0.0,
) -> dict[str, float]:
    """Return the metrics of N episodes, those alone that are defined.

    success (N,), steps (N,) control steps of dt seconds, cost (N,), helped (N,) control steps in which a person acted,
    takeovers (N,) how often they began to; reset: seconds between two episodes.
      cycle_time           seconds of a successful episode, mean; undefined where none succeeded
      time_per_success     seconds of all episodes and resets for each success
      throughput           successes an hour
      length_of_failures   control steps, mean
      cost_rate            cost of a thousand control steps
      costly               share of the episodes that cost anything
      intervention_rate    share of the control steps in which a person acted
      takeovers            times a person began to act, of an episode
    """
    won, made = np.asarray(success, bool), np.asarray(steps, float)
    seconds = float((made * dt + reset).sum())
    found = {"throughput": 3600.0 * float(won.sum()) / seconds} if seconds > 0 else {}
    if won.any():
        found |= {"cycle_time": float(made[won].mean()) * dt, "time_per_success": seconds / float(won.sum())}
    if not won.all():
        found["length_of_failures"] = float(made[~won].mean())
    if cost is not None:
        paid = np.asarray(cost, float)
        found |= {"cost_rate": 1000.0 * float(paid.sum()) / made.sum(), "costly": float((paid > 0).mean())}
    if helped is not None:
        found["intervention_rate"] = float(np.sum(helped)) / made.sum()
    if takeovers is not None:
        found["takeovers"] = float(np.mean(takeovers))
    return {name: float(value) for name, value in found.items()}
