"""Study `t1`: from rows to estimates, plots and tables (the outcomes and the runs stand in t1.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toddle.maths.intervals import Interval, t_interval
from toddle.recipes.studies._cells import Measure, Pairs, gain, shown, table
from toddle.reporting.plots import colours_of, interval_bars
from toddle.reporting.study import Figure, Row, Units

__all__ = ["MEASURES", "figures", "higher", "mixed_gain", "most_no_ops", "number", "ratio", "slower", "tables"]

MEASURES = ("seconds", "no_ops", "squared_jerk", "log_jerk", "arc_length", "efficiency", "gripper_changes")
"""What is kept of `toddle quality`'s metrics, beside the variance."""


def _success(rows: Sequence[Row], kind: str, source: str) -> Pairs:
    return {
        (row["seed"], row["task"]): row["successes"] / row["episodes"]
        for row in rows
        if (row["kind"], row["source"]) == (kind, source)
    }


def _numbers(rows: Sequence[Row], kind: str, source: str, key: str) -> Pairs:
    own = [row for row in rows if (row["kind"], row["source"]) == (kind, source)]
    return {(row["seed"], row["task"]): float(row[key]) for row in own if key in row}


def higher(kind: str, source: str, other: str) -> Measure:
    """Success of one minus that of another, by seed and task, where both were run."""
    return lambda rows: gain(_success(rows, kind, source), _success(rows, kind, other))


def mixed_gain(rows: Sequence[Row]) -> Units | None:
    """Success on unseen tasks after mixed episodes, minus that after the better half alone (on average over all)."""
    single = [_success(rows, "unseen", source) for source in ("human", "diffusion")]
    if not all(single):
        return None
    return gain(_success(rows, "unseen", "mixed"), max(single, key=lambda found: float(np.mean(list(found.values())))))


def ratio(key: str, *others: str) -> Measure:
    """A number of diffusion's episodes over the least of others', by seed and task."""

    def measure(rows: Sequence[Row]) -> Units | None:
        own, found = _numbers(rows, "data", "diffusion", key), [_numbers(rows, "data", o, key) for o in others]
        both = [cell for cell in own if all(cell in each for each in found)]
        return table({cell: own[cell] / min(each[cell] for each in found) for cell in both})

    return measure


def number(kind: str, source: str, key: str) -> Measure:
    """A number of a source, by seed and task."""
    return lambda rows: table(_numbers(rows, kind, source, key))


def most_no_ops(rows: Sequence[Row]) -> Units | None:
    """The largest share of no-ops among the sources of RL, by seed and task."""
    found: dict[tuple[int, str], float] = {}
    for row in rows:
        if row["kind"] == "data" and row["source"] != "human" and row["episodes"]:
            cell = row["seed"], row["task"]
            found[cell] = max(found.get(cell, 0.0), float(row["no_ops"]))
    return table(found)


def slower(name: str) -> Measure:
    """Time of a decision over that of diffusion's, by seed and task."""

    def measure(rows: Sequence[Row]) -> Units | None:
        own, other = _numbers(rows, "latency", "diffusion", "ms"), _numbers(rows, "latency", name, "ms")
        return table({cell: other[cell] / own[cell] for cell in own if cell in other})

    return measure


# ---- page ------------------------------------------------------------------------------------------------------------
def _sources(rows: Sequence[Row], kind: str) -> list[str]:
    return list(dict.fromkeys(row["source"] for row in rows if row["kind"] == kind and row.get("episodes", 1)))


def _by_task(rows: Sequence[Row], kind: str, key: str) -> dict[str, dict[str, Interval]]:
    """Return mean and interval over seeds by task and source; `key` "success" or a number's name."""
    found: dict[str, dict[str, Interval]] = {}
    for source in _sources(rows, kind):
        values = _success(rows, kind, source) if key == "success" else _numbers(rows, kind, source, key)
        for task in dict.fromkeys(task for _, task in values):
            own = [value for (_, of), value in values.items() if of == task]
            found.setdefault(task, {})[source] = t_interval(own)
    return found


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Success of the VLAs (table I), jerk (figure 6) and variance (figure 7), by task and source."""
    found = []
    for name, kind, key, label, caption in (
        ("vla", "vla", "success", "success", "Success of the VLA by the source of its episodes (S1's table I)."),
        ("unseen", "unseen", "success", "success", "Success on tasks never seen (S1's table II)."),
        ("jerk", "data", "squared_jerk", "m²/s⁶", "Mean squared jerk of the hand's path (S1's figure 6)."),
        ("variance", "data", "variance", "variance", "Variance of the actions over phase (S1's figure 7)."),
    ):
        if bars := _by_task(rows, kind, key):
            colours = colours_of(_sources(rows, kind))
            svg = interval_bars(bars, colours, y_label=label, percent=key == "success", legend=True)
            found.append(Figure(name=name, svg=svg, caption=f"{caption} Bars: mean and 95 % over seeds."))
    return found


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Success by source, what its episodes are like, the policies, latency, failures, and every cell."""
    found = []
    for kind, heading in (("vla", "VLAs (S1's table I)"), ("unseen", "VLAs on tasks never seen (S1's table II)")):
        lines = [
            [
                source,
                _percent(_success(rows, kind, source)),
                "" if source == "diffusion" else shown(higher(kind, "diffusion", source)(rows)),
            ]
            for source in _sources(rows, kind)
        ]
        if lines:
            found.append((heading, ["episodes of", "success", "diffusion minus this, points [95 %]"], lines))
    if lines := [_episodes(rows, source) for source in _sources(rows, "data")]:
        head = ["episodes of", "seconds", "no-ops", "squared jerk", "variance", "log jerk", "arc length", "efficiency"]
        found.append(("What the episodes are like, mean over seeds and tasks", head, lines))
    if bars := _by_task(rows, "policy", "success"):
        names = _sources(rows, "policy")
        lines = [
            [task, *(f"{100 * own[name].value:.0f} %" if name in own else "" for name in names)]
            for task, own in bars.items()
        ]
        found.append(("The policies themselves, without noise, from state", ["task", *names], lines))
    latency = [[row["task"], row["source"], f"{row['ms']:.2f}"] for row in rows if row["kind"] == "latency"]
    if latency:
        found.append(("Milliseconds of a decision in one world", ["task", "policy", "ms"], latency))
    failed = [[row["task"], row["source"], str(row["seed"])] for row in rows if row.get("episodes") == 0]
    found.append(("What failed: too few successes", ["task", "source", "seed"], failed or [["none", "", ""]]))
    cells = [
        [row["kind"], row["task"], row["source"], str(row["seed"]), f"{row['successes']:.0f}/{row['episodes']}"]
        for row in rows
        if "successes" in row
    ]
    return [*found, ("Every cell", ["kind", "task", "source", "seed", "successes"], cells)]


def _percent(values: Pairs) -> str:
    return f"{100 * float(np.mean(list(values.values()))):.0f} %" if values else ""


def _episodes(rows: Sequence[Row], source: str) -> list[str]:
    keys = ("seconds", "no_ops", "squared_jerk", "variance", "log_jerk", "arc_length", "efficiency")
    means = [float(np.mean(list(_numbers(rows, "data", source, key).values()) or [np.nan])) for key in keys]
    return [source, *(f"{mean:.3g}" for mean in means)]
