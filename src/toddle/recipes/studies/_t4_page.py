"""Study `t4`: from rows to estimates, plots and tables (the outcomes and the runs stand in t4.py)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from toddle.recipes.studies._cells import Measure, Pairs, table
from toddle.reporting.plots import colours_of, curve_panels
from toddle.reporting.study import Figure, Row, Units

__all__ = [
    "beyond",
    "change",
    "figures",
    "largest",
    "mean_ratio",
    "number",
    "off_before",
    "reached",
    "share_at_most",
    "tables",
]

GOAL = 0.8
"""Success that an agent is to reach."""


def reached(course: Sequence[tuple[int, float]]) -> int | None:
    """Return the control steps of the first of two evaluations in a row that solve 80 %; None: there are none."""
    for (steps, share), (_, following) in itertools.pairwise(course):
        if min(share, following) >= GOAL:
            return steps
    return None


def _of(rows: Sequence[Row], arm: str) -> list[Row]:
    return [row for row in rows if row["arm"] == arm]


def _needed(rows: Sequence[Row], arm: str) -> Pairs:
    """Interactions to 80 % by seed and task; the whole budget where they did not suffice."""
    return {
        (row["seed"], row["task"]): float(row["budget"] if row["reached"] is None else row["reached"])
        for row in _of(rows, arm)
    }


def _ratios(rows: Sequence[Row], arm: str, other: str) -> Units | None:
    """Ratios of interactions as (seeds, tasks)."""
    a, b = _needed(rows, arm), _needed(rows, other)
    return table({key: a[key] / b[key] for key in a if key in b})


def share_at_most(arm: str, other: str, line: float) -> Measure:
    """Share of tasks whose ratio is at most `line`, by seed."""

    def measure(rows: Sequence[Row]) -> Units | None:
        found = _ratios(rows, arm, other)
        return None if found is None else np.asarray((found <= line).mean(1))

    return measure


def largest(arm: str, other: str) -> Measure:
    """The largest ratio over tasks, by seed."""

    def measure(rows: Sequence[Row]) -> Units | None:
        found = _ratios(rows, arm, other)
        return None if found is None else np.asarray(found.max(1))

    return measure


def mean_ratio(arm: str, other: str) -> Measure:
    """The ratio, by seed and task."""
    return lambda rows: _ratios(rows, arm, other)


def number(arm: str, key: str) -> Measure:
    """A number of an arm's agents, by seed and task."""
    return lambda rows: table({(row["seed"], row["task"]): float(row[key]) for row in _of(rows, arm)})


def off_before(arm: str) -> Measure:
    """Whether the teacher was off for good when 80 % were reached, by seed and task, of those that reached it."""

    def measure(rows: Sequence[Row]) -> Units | None:
        found = {
            (row["seed"], row["task"]): float(row["off"] is not None and row["off"] <= row["reached"])
            for row in _of(rows, arm)
            if row["reached"] is not None
        }
        return table(found)

    return measure


def beyond(arm: str) -> Measure:
    """Final success minus the teacher's, by seed and task."""
    return lambda rows: table(
        {(row["seed"], row["task"]): row["successes"] / row["episodes"] - row["teacher"] for row in _of(rows, arm)}
    )


def change(arm: str, others: Sequence[str], *, absolute: bool) -> Measure:
    """Mean relative change of the interactions with something else, by seed and task."""

    def measure(rows: Sequence[Row]) -> Units | None:
        base, found = _needed(rows, arm), [_needed(rows, other) for other in others]
        whole = {key for key in base if all(key in own for own in found)}
        changed = {key: [own[key] / base[key] - 1.0 for own in found] for key in whole}
        return table({key: float(np.mean(np.abs(value) if absolute else value)) for key, value in changed.items()})

    return measure


# ---- page ------------------------------------------------------------------------------------------------------------
def figures(rows: Sequence[Row]) -> list[Figure]:
    """Success without noise over control steps, a panel a task, all seeds of an arm in its colour."""
    names = list(dict.fromkeys(row["arm"] for row in rows))
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    colours = colours_of(names)
    for row in rows:
        points = [(float(x), float(y)) for x, y in zip(row["steps"], row["success"], strict=True)]
        label = f"{row['arm']} {row['seed']}"
        colours[label] = colours[row["arm"]]
        panels.setdefault(row["task"], {})[label] = points
    if not panels:
        return []
    drawn = curve_panels(panels, colours, x_label="control steps", legend=names)
    return [Figure(name="courses", svg=drawn, caption="Success without noise, a line a seed.")]


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """By task and arm: interactions, final success, calls; and every run."""
    keys = list(dict.fromkeys((row["task"], row["arm"]) for row in rows))
    lines = []
    for task, arm in keys:
        own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
        got = [row["reached"] for row in own if row["reached"] is not None]
        final = np.mean([row["successes"] / row["episodes"] for row in own])
        asked = [row["calls"] for row in own if "calls" in row]
        lines.append(
            [
                task,
                arm,
                f"{len(got)} of {len(own)}",
                f"{np.median(got):,.0f}" if got else "",
                f"{100 * final:.0f} %",
                f"{100 * np.mean([row['teacher'] for row in own]):.0f} %" if asked else "",
                f"{100 * np.mean(asked):.1f} %" if asked else "",
            ]
        )
    every = [
        [
            row["task"],
            row["arm"],
            str(row["seed"]),
            "never" if row["reached"] is None else f"{row['reached']:,}",
            f"{row['successes']:.0f}/{row['episodes']}",
            "" if "off" not in row else "never" if row["off"] is None else f"{row['off']:,}",
        ]
        for row in rows
    ]
    head = ["task", "arm", "reached 80 %", "median steps of these", "final success", "its teacher's", "calls a step"]
    return [
        ("By task", head, lines),
        ("Every run", ["task", "arm", "seed", "steps to 80 %", "final success", "teacher off after"], every),
    ]
