"""What study `t0b` reads from its rows: the choice of each start, gains over random, a plot over demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toddle.maths.intervals import Interval, t_interval
from toddle.recipes.studies._cells import Measure, Pairs, gain
from toddle.reporting.plots import colours_of, success_over_budget
from toddle.reporting.study import Figure, Row, Units

__all__ = ["AT", "FEW", "better", "chosen", "figures", "muon", "tables"]

AT = 10
"""Demonstrations of a task at which optimiser and rate are chosen."""
FEW = 5


def chosen(rows: Sequence[Row], start: str, optimiser: str = "") -> str | None:
    """Return the choice of `start` with the best mean success on the tuning tasks, of one optimiser where named."""
    found: dict[str, list[float]] = {}
    for row in rows:
        counts = row["tuning"] and row["disturbance"] == "plain" and row["count"] == AT
        if counts and row["start"] == start and row["choice"].startswith(optimiser):
            found.setdefault(row["choice"], []).append(row["success"])
    return max(found, key=lambda choice: (np.mean(found[choice]), choice)) if found else None


def _success(rows: Sequence[Row], start: str, choice: str | None, disturbance: str, most: int) -> Pairs:
    """Return the mean success over the numbers of demonstrations up to `most`, by seed and task."""
    cells: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        here = (row["start"], row["choice"], row["disturbance"]) == (start, choice, disturbance)
        if here and not row["tuning"] and row["count"] <= most:
            cells.setdefault((row["seed"], row["task"]), []).append(row["success"])
    return {key: float(np.mean(values)) for key, values in cells.items()}


def better(start: str, disturbance: str = "plain") -> Measure:
    """Return the measure of a start's success less random's, (seeds, tasks): undisturbed with at most FEW
    demonstrations, pushed with any number."""
    most = FEW if disturbance == "plain" else 10**9

    def measure(rows: Sequence[Row]) -> Units | None:
        mine, theirs = (_success(rows, name, chosen(rows, name), disturbance, most) for name in (start, "random"))
        return gain(mine, theirs)

    return measure


def muon(starts: Sequence[str]) -> Measure:
    """Return the measure of Muon's success less AdamW's, each at its best rate, the mean over starts."""

    def of(rows: Sequence[Row], optimiser: str) -> Pairs:
        each = [_success(rows, name, chosen(rows, name, optimiser), "plain", 10**9) for name in starts]
        shared = set.intersection(*(set(pairs) for pairs in each))
        return {key: float(np.mean([pairs[key] for pairs in each])) for key in shared}

    return lambda rows: gain(of(rows, "muon"), of(rows, "adamw"))


def figures(rows: Sequence[Row], starts: Sequence[str]) -> list[Figure]:
    """Success over the number of demonstrations, each start at its choice, by disturbance."""
    found = []
    for disturbance in ("plain", "pushed"):
        series: dict[str, list[tuple[float, Interval]]] = {}
        for start in starts:
            wanted = {"start": start, "choice": chosen(rows, start), "disturbance": disturbance, "tuning": False}
            here = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
            for count in sorted({row["count"] for row in here}):
                seeds: dict[int, list[float]] = {}
                for row in here:
                    if row["count"] == count:
                        seeds.setdefault(row["seed"], []).append(100 * row["success"])
                means = t_interval([float(np.mean(values)) for values in seeds.values()])
                series.setdefault(start, []).append((float(count), means))
        if series:
            labels = {"x_label": "demonstrations of each task", "y_label": "success, %"}
            picture = success_over_budget(series, colours_of(list(starts)), **labels)
            caption = (
                f"Success, {disturbance}, each start at the optimiser and rate chosen for it; intervals over seeds."
            )
            found.append(Figure(name=disturbance, svg=picture, caption=caption))
    return found


def tables(rows: Sequence[Row], starts: Sequence[str]) -> list[tuple[str, list[str], list[list[str]]]]:
    """What was chosen for each start, and on what grounds."""
    body = []
    for start in starts:
        if (choice := chosen(rows, start)) is None:
            continue
        tuning = [row for row in rows if row["tuning"] and row["start"] == start and row["disturbance"] == "plain"]
        scores = {name: [r["success"] for r in tuning if r["choice"] == name] for name in {r["choice"] for r in tuning}}
        told = ", ".join(f"{name}: {100 * np.mean(values):.0f} %" for name, values in sorted(scores.items()))
        body.append([start, choice, told])
    return (
        [("Optimiser and rate of each start", ["start", "chosen", "success on the tuning tasks"], body)] if body else []
    )
