"""What study `walk` reads from its rows: effects by seed (and body), bars of what was tracked, a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toddle.maths.intervals import t_interval
from toddle.recipes.studies._cells import Measure, Pairs, gain
from toddle.recipes.studies._cells import table as by_seed_and_task
from toddle.reporting.plots import colours_of, interval_bars
from toddle.reporting.study import Figure, Row, Units

__all__ = ["arm", "by_sentence", "figures", "listens", "of", "stands", "tables", "together", "told"]

QUADRUPEDS = ("ant", "go1")
KEYS = ("tracked", "walked", "falls", "pushed_survived", "speed_error", "slope")


def _pairs(rows: Sequence[Row], key: str, **labels: Any) -> Pairs:
    """Return a number by (seed, body) of the rows with these labels."""
    wanted = {"training": "alone", "control": "own", "condition": "plain", "arm": False} | labels
    chosen = [row for row in rows if key in row and all(row[name] == value for name, value in wanted.items())]
    return {(row["seed"], row["body"]): row[key] for row in chosen}


def of(body: str, key: str = "tracked") -> Measure:
    """Return the measure of a number of one body, learned alone, by seed."""

    def measure(rows: Sequence[Row]) -> Units | None:
        values = [value for (_, name), value in sorted(_pairs(rows, key).items()) if name == body]
        return np.array(values) if len(values) > 1 else None

    return measure


def listens(rows: Sequence[Row]) -> Units | None:
    """Return what is tracked with a body's own commands less what is with another world's, (seeds, bodies)."""
    return gain(_pairs(rows, "tracked"), _pairs(rows, "tracked", control="shuffled"))


def stands(rows: Sequence[Row]) -> Units | None:
    """Return the pushes survived by the quadrupeds, (seeds, bodies)."""
    found = _pairs(rows, "pushed_survived", condition="pushed")
    return by_seed_and_task({key: value for key, value in found.items() if key[1] in QUADRUPEDS})


def together(rows: Sequence[Row]) -> Units | None:
    """Return what is tracked by the policy of all bodies less what is by each body's own, (seeds, bodies)."""
    return gain(_pairs(rows, "tracked", training="together"), _pairs(rows, "tracked"))


def arm(rows: Sequence[Row]) -> Units | None:
    """Return the arm's goals reached by the policy of all bodies less those by its own, (seeds,)."""
    found = gain(_pairs(rows, "success", training="together", arm=True), _pairs(rows, "success", arm=True))
    return None if found is None else found[:, 0]


def told(candidate: str) -> str:
    """Return how a row says that a policy was told by sentences (the walker by their tokens)."""
    return f"told: {candidate}"


def by_sentence(rows: Sequence[Row]) -> Units | None:
    """Return what is tracked by sentence by converted walkers less by random weights, (seeds, bodies)."""
    return gain(_pairs(rows, "tracked", training=told("converted")), _pairs(rows, "tracked", training=told("random")))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Bars of the velocity goals tracked, by body."""
    arms = {
        "alone": _pairs(rows, "tracked"),
        "together": _pairs(rows, "tracked", training="together"),
        "another world's commands": _pairs(rows, "tracked", control="shuffled"),
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, pairs in arms.items():
        for body in sorted({body for _, body in pairs}):
            values = [value for (_, other), value in pairs.items() if other == body]
            groups.setdefault(body, {})[name] = t_interval(values)
    if not groups:
        return []
    bars = interval_bars(groups, colours_of(list(arms)), y_label="velocity goals tracked, %", legend=True)
    return [Figure(name="tracked", svg=bars, caption="Velocity goals tracked, means over seeds with 95 % intervals.")]


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Means over seeds of every number of a cell."""
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row["arm"]:
            cells.setdefault((row["body"], row["training"], row["control"], row["condition"]), []).append(row)
    body = []
    for labels, found in sorted(cells.items()):
        means = [[row[key] for row in found if key in row] for key in KEYS]
        body.append([*labels, str(len(found)), *(f"{np.mean(values):.2f}" if values else "" for values in means)])
    head = ["body", "learned", "commands", "condition", "seeds", *(key.replace("_", " ") for key in KEYS)]
    return [("How they walk", head, body)] if body else []
