"""Study `t2`: from rows to estimates, plots and tables (the outcomes and the runs stand in t2.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toddle.recipes.studies._cells import Measure, Pairs, gain, shown, table
from toddle.reporting.study import Row

__all__ = ["cost", "difference", "tables"]


def _success(rows: Sequence[Row], part: str, arm: str, world: str) -> Pairs:
    """Success of an arm by seed and task."""
    return {
        (row["seed"], row["task"]): row["successes"] / row["episodes"]
        for row in rows
        if (row["part"], row["arm"], row["world"]) == (part, arm, world)
    }


def difference(part: str, arm: str, other: str, *, world: str = "plain") -> Measure:
    """Success of an arm minus another's, by seed and task."""
    return lambda rows: gain(_success(rows, part, arm, world), _success(rows, part, other, world))


def cost(arm: str) -> Measure:
    """What an episode costs at the end of training, by seed and task."""
    return lambda rows: table(
        {
            (row["seed"], row["task"]): float(row["cost while learning"])
            for row in rows
            if (row["part"], row["arm"], row["world"]) == ("deployment", arm, "plain")
        }
    )


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """By part, task and arm: success over seeds, beside the first arm of its part, and costs."""
    lines = []
    for part, task, world, arm in dict.fromkeys((r["part"], r["task"], r["world"], r["arm"]) for r in rows):
        own = [r for r in rows if (r["part"], r["task"], r["world"], r["arm"]) == (part, task, world, arm)]
        base = next(r["arm"] for r in rows if r["part"] == part)
        here = [r for r in rows if r["task"] == task]
        costs = [r["cost"] for r in own if "cost" in r]
        lines.append(
            [
                part,
                task,
                world,
                arm,
                str(len(own)),
                f"{100 * np.mean([r['successes'] / r['episodes'] for r in own]):.0f} %",
                "" if arm == base else shown(difference(part, arm, base, world=world)(here)),
                f"{np.mean(costs):.1f}" if costs else "",
            ]
        )
    head = ["part", "task", "worlds", "arm", "seeds", "success", "minus the part's first arm", "cost"]
    return [("By part, task and arm", head, lines)]
