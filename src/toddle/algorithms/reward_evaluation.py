"""What a process reward model is worth on episodes it has not seen: every number with an interval over episodes.

An episode is the unit, for its steps are anything but independent.  Chance is what models reach that learned from
shuffled labels: area 0.5 on average.  One of them may lie far from it, in all episodes alike, as these resemble each
other: the controls' interval is over several of them.  Precision's chance is the share of steps that are labelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toddle.algorithms.reward_training import ProgressSamples
from toddle.maths.intervals import Interval, ratio_interval, t_interval
from toddle.maths.ranks import area_under_roc, spearman

__all__ = ["beside_failures", "judge", "judge_progress", "pooled", "verdicts"]

Array = NDArray[Any]


def judge(yes: Array, samples: ProgressSamples, episodes: Sequence[int] | None = None) -> dict[str, Any]:
    """Return what answers `yes` (N,) are worth in `episodes` (numbers of samples.episodes; all by default).

    The values are JSON's; an interval is {"value", "low", "high"}, None where there is nothing to count.

    precision     of the steps called "yes", the share that lead to a key frame
    recall        of the steps that lead to a key frame, the share called "yes"
    specificity   of the others, the share called "no"
    area          how often, within an episode, a step that leads to a key frame has the higher probability
    order         Spearman's correlation, within an episode, of the probability with the steps left until success;
                  order_of_labels: the same of the labels, which is what a model without a mistake has
    yes_share     share of all steps called "yes"
    """
    counts, areas, orders, own_orders = [], [], [], []
    for number in range(len(samples.episodes)) if episodes is None else episodes:
        own = samples.episode == number
        label, probability = samples.labels[own], yes[own]
        said = probability > 0.5
        counts.append([(said & label).sum(), said.sum(), label.sum(), (~said & ~label).sum(), len(label)])
        areas.append(area_under_roc(probability, label))
        orders.append(spearman(probability, samples.to_success[own]))
        own_orders.append(spearman(label, samples.to_success[own]))
    hit, said, wanted, refused, steps = np.array(counts, float).T
    return {
        "episodes": len(counts),
        "steps": int(steps.sum()),
        "labelled_share": float(wanted.sum() / steps.sum()),
        "precision": _share(hit, said),
        "recall": _share(hit, wanted),
        "specificity": _share(refused, steps - wanted),
        "area": _mean(areas),
        "order": _mean(orders, -1.0),
        "order_of_labels": _mean(own_orders, -1.0),
        "yes_share": _share(said, steps),
    }


def judge_progress(progress: Array, samples: ProgressSamples, episodes: Sequence[int] | None = None) -> dict[str, Any]:
    """Return what is worth what a model says of how far the task is, `progress` (N,), as `judge`.

    order   Spearman's correlation, within an episode, with time: 1 where it only rises
    rises   share of the steps at which it is higher than at the step before
    begin   what it says at the first step: 0 in the mean of what it was trained on
    end     what it says at success: 1 there
    """
    orders, rises, begins, ends = [], [], [], []
    for number in range(len(samples.episodes)) if episodes is None else episodes:
        own = samples.episode == number
        said = progress[own]
        orders.append(spearman(said, -samples.to_success[own]))
        rises.append(float((np.diff(said) > 0).mean()) if len(said) > 1 else math.nan)
        begins.append(float(said[0]))
        ends.append(float(said[-1]))
    found = {"episodes": len(orders), "steps": len(progress), "order": _mean(orders, -1.0), "rises": _mean(rises)}
    return found | {name: _plain(t_interval(x), -math.inf, math.inf) for name, x in (("begin", begins), ("end", ends))}


def beside_failures(won: Array, good: ProgressSamples, lost: Array, bad: ProgressSamples) -> dict[str, Any]:
    """Return how the progress of successes (N,) and failures (M,) compares: `below`, the share of pairs of one of each
    in which the failure ends lower, and what either says at its end and at its highest."""
    ends, highest = ([_each(x, of, read) for x, of in ((won, good), (lost, bad))] for read in (_last, np.max))
    return {
        "below": float((ends[1][None] < ends[0][:, None]).mean()),
        "successes": {"episodes": len(ends[0]), "end": float(ends[0].mean()), "highest": float(highest[0].mean())},
        "failures": {"episodes": len(ends[1]), "end": float(ends[1].mean()), "highest": float(highest[1].mean())},
    }


def _each(said: Array, samples: ProgressSamples, read: Callable[[Array], Any]) -> Array:
    return np.array([read(said[samples.episode == number]) for number in range(len(samples.episodes))], float)


def _last(values: Array) -> float:
    return float(values[-1])


def _share(top: Array, bottom: Array) -> dict[str, float | None] | None:
    """Return top / bottom over episodes, held to [0, 1]; None where there is nothing to count."""
    return None if bottom.sum() == 0 else _plain(ratio_interval(top, bottom), 0.0, 1.0)


def _mean(values: list[float], low: float = 0.0) -> dict[str, float | None] | None:
    """Return the mean of the values that are known, held to [low, 1]; None where none is."""
    known = [value for value in values if not math.isnan(value)]
    return _plain(t_interval(known), low, 1.0) if known else None


def _plain(found: Interval, low: float, high: float) -> dict[str, float | None]:
    if not math.isfinite(found.low + found.high):  # one episode says nothing of the spread
        return {"value": found.value, "low": None, "high": None}
    return {"value": found.value, "low": max(low, found.low), "high": min(high, found.high)}


def pooled(controls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the controls' numbers with intervals over the controls; what they say at beginnings and ends
    is in units of their own."""
    own = ("begin", "end")
    keys = [key for key, value in controls[0].items() if key not in own and (value is None or isinstance(value, dict))]
    known = {key: [one[key]["value"] for one in controls if one[key] is not None] for key in keys}
    return {"number": len(controls)} | {
        key: _mean(values, -1.0 if key.startswith("order") else 0.0) for key, values in known.items()
    }


def verdicts(
    model: dict[str, Any], controls: dict[str, Any] | None, by: str = "area", chance: float = 0.5
) -> list[str]:
    """Return in words whether the model tells steps apart, and whether the controls fail as they must.

    The controls fail where they reach, for sure, less than half of what the model gains over chance in the number `by`;
    a few of them that lie a hundredth above it, and close together, are no leak.
    """
    area = model[by]
    if area is None or area["low"] is None:
        return ["the model: not resolved, too few episodes"]
    if area["low"] <= chance:
        return ["the model: not resolved whether it tells steps apart better than chance"]
    lines = ["the model: it tells steps apart better than chance"]
    if controls is not None:
        found, half = controls[by], (chance + area["low"]) / 2.0
        if found is None or found["low"] is None or found["low"] <= half <= found["high"]:
            said = "not resolved; train more of them (--controls)"
        else:
            said = "they fail, as they must" if found["high"] < half else "they do NOT fail: do not trust these numbers"
        lines.append(f"the controls (shuffled labels): {said}")
    return lines
