"""Study `t3`: from rows to estimates, plots and tables (the outcomes and the runs stand in t3.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toddle.maths.ranks import spearman
from toddle.recipes.studies._cells import Measure, gain, points, shown, table
from toddle.reporting.plots import colours_of, curve_panels, interval_lines
from toddle.reporting.study import Figure, Row, Units

__all__ = ["figures", "higher", "share_of", "success", "tables", "trend"]


def success(rows: Sequence[Row], policy: str) -> dict[tuple[int, str], float]:
    """Success by (seed, task)."""
    return {
        (row["seed"], row["task"]): row["successes"] / row["episodes"]
        for row in rows
        if (row["kind"], row["policy"]) == ("success", policy)
    }


def higher(policy: str, other: str) -> Measure:
    """Success of one minus that of another, by seed and task, where both were run."""
    return lambda rows: gain(success(rows, policy), success(rows, other))


def share_of(policy: str) -> Measure:
    """Success, by seed and task."""
    return lambda rows: table(success(rows, policy))


def trend(policy: str, key: str) -> Measure:
    """Rank correlation of a course with its iterations, by seed and suite; None where a run has too few."""

    def measure(rows: Sequence[Row]) -> Units | None:
        found: dict[tuple[int, str], float] = {}
        for row in rows:
            if (row["kind"], row["policy"]) == ("course", policy):
                known = [(index, value) for index, value in enumerate(row[key]) if value is not None]
                correlation = spearman(*zip(*known, strict=True)) if len(known) > 2 else np.nan
                if np.isfinite(correlation):
                    found[row["seed"], row["suite"]] = correlation
        return table(found)

    return measure


# ---- page ------------------------------------------------------------------------------------------------------------
def _policies(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["policy"] for row in rows if row["kind"] == "success"))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """What each part adds, and the courses of the first seed."""
    found: list[Figure] = []
    effects = {
        name: points(higher("full", name)(rows)) for name in _policies(rows) if name != "full"
    }  # the whole recipe minus each
    if measured := {name: effect for name, effect in effects.items() if effect is not None}:
        svg = interval_lines(measured, x_label="success of the whole recipe minus this, points")
        caption = "The whole recipe against the SFT it starts from (all tasks), and with one thing changed."
        found.append(Figure(name="parts", svg=svg, caption=caption))
    chosen = [row for row in rows if row["kind"] == "course" and row["seed"] == min(r["seed"] for r in rows)]
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for suite in dict.fromkeys(row["suite"] for row in chosen):
        for key, title in (
            ("success", "success while exploring"),
            ("length", "steps of a success"),
            ("entropy", "entropy"),
        ):
            series = {row["policy"]: _series(row, key) for row in chosen if row["suite"] == suite}
            if series := {name: line for name, line in series.items() if line}:
                panels[f"{suite}: {title}"] = series
    if panels:
        names = [row["policy"] for row in chosen]
        svg = curve_panels(panels, colours_of(names), x_label="control step", legend=list(dict.fromkeys(names)))
        found.append(Figure(name="courses", svg=svg, caption="Training, first seed."))
    return found


def _series(row: Row, key: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(row["steps"], row[key], strict=True) if y is not None]


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Success by task before and after (table 1), by what was changed (table 2), and every cell."""
    policies, tasks = _policies(rows), list(dict.fromkeys(r["task"] for r in rows if r["kind"] == "success"))
    first = [
        [task, *(_percent(_of(success(rows, name), [task])) for name in ("sft", "full")), _one(rows, task)]
        for task in tasks
    ]
    second = []
    for name in policies:
        own = success(rows, name)
        both = [key for key in own if key in success(rows, "full")]
        against = "" if name == "full" else shown(higher("full", name)(rows))
        second.append([name, f"{len({task for _, task in both})}", _percent(list(own.values())), against])
    cells = [
        [row["task"], row["policy"], str(row["seed"]), f"{row['successes']:.0f}/{row['episodes']}"]
        for row in rows
        if row["kind"] == "success"
    ]
    return [
        ("Before and after (VLA-RL's table 1)", ["task", "SFT", "PPO", "points [95 %] over seeds"], first),
        (
            "With one thing changed (VLA-RL's table 2)",
            ["policy", "tasks", "success", "whole recipe minus this, points [95 %]"],
            second,
        ),
        ("Every cell", ["task", "policy", "seed", "successes"], cells),
    ]


def _of(values: dict[tuple[int, str], float], tasks: Sequence[str]) -> list[float]:
    return [value for (_, task), value in values.items() if task in tasks]


def _percent(values: Sequence[Any]) -> str:
    return f"{100 * float(np.mean(values)):.0f} %" if values else ""


def _one(rows: Sequence[Row], task: str) -> str:
    """Return the gain on one task, over seeds."""
    return shown(higher("full", "sft")([row for row in rows if row.get("task") == task]))
