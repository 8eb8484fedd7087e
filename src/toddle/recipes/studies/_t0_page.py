"""Study `t0`: from rows to estimates, plots and tables (the outcomes and the runs stand in t0.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toddle.recipes.studies._cells import Measure, Pairs, gain, points, shown, table
from toddle.reporting.plots import colours_of, curve_panels, interval_lines, success_over_budget
from toddle.reporting.study import Figure, Row, Units, effect

__all__ = ["area", "area_gain", "difference", "erased", "figures", "pushed_count", "speed", "success", "tables"]


def success(rows: Sequence[Row], start: str, count: int, disturbance: str = "plain") -> dict[tuple[int, str], float]:
    """Success by (seed, task)."""
    return {
        (row["seed"], row["task"]): row["successes"] / row["episodes"]
        for row in rows
        if row["kind"] == "success" and (row["start"], row["count"], row["disturbance"]) == (start, count, disturbance)
    }


def area(rows: Sequence[Row], start: str) -> Pairs:
    """Area under success over log N, by (seed, task), where every N is there; 0 to 1."""
    counts = sorted({row["count"] for row in rows if row["kind"] == "success" and row["start"] == "random"})
    cells = [success(rows, start, count) for count in counts]
    if len(counts) < 2:
        return {}
    x, whole = np.log(counts), set.intersection(*(set(cell) for cell in cells))
    return {key: float(np.trapezoid([cell[key] for cell in cells], x) / (x[-1] - x[0])) for key in sorted(whole)}


def pushed_count(rows: Sequence[Row]) -> int:
    """The N of ablations and pushes."""
    return next((row["count"] for row in rows if row["kind"] == "success" and row["disturbance"] == "pushed"), 0)


def area_gain(start: str, other: str) -> Measure:
    return lambda rows: gain(area(rows, start), area(rows, other))


def erased(name: str) -> Measure:
    """A third of paradigm 1's gain minus the ablation's: not negative where the ablation erases two thirds of it."""

    def measure(rows: Sequence[Row]) -> Units | None:
        n = pushed_count(rows)
        base, whole, cut = (success(rows, start, n) for start in ("random", "paradigm 1", name))
        keys = sorted(set(base) & set(whole) & set(cut))
        gains = {key: (whole[key] - base[key]) / 3 for key in keys}
        return gain(gains, {key: cut[key] - base[key] for key in keys})

    return measure


def difference(start: str, other: str, disturbance: str = "plain") -> Measure:
    def measure(rows: Sequence[Row]) -> Units | None:
        n = pushed_count(rows)
        return gain(success(rows, start, n, disturbance), success(rows, other, n, disturbance))

    return measure


def speed(rows: Sequence[Row]) -> Units | None:
    """Part of random's updates after which paradigm 1's error is where random's is at 80 % of its fall, by seed."""
    errors = {(r["start"], r["seed"], r["count"]): r["error"] for r in rows if r["kind"] == "sft"}
    ratios: dict[int, list[float]] = {}
    for (start, seed, count), error in errors.items():
        own = errors.get(("paradigm 1", seed, count))
        if start == "random" and own is not None:
            line = error[-1] + 0.2 * (error[0] - error[-1])
            reached = [next((i + 1 for i, e in enumerate(es) if e <= line), len(es) + 1) for es in (own, error)]
            ratios.setdefault(seed, []).append(reached[0] / reached[1])
    return effect([np.mean(of_seed) for of_seed in ratios.values()]) if len(ratios) > 1 else None


# ---- page ------------------------------------------------------------------------------------------------------------
def figures(rows: Sequence[Row], groups: Mapping[str, Sequence[str]]) -> list[Figure]:
    """Success over N; every start against random at one N; fine-tuning error and CKA of one seed.

    groups: title -> names of starts; the first group is at every N.
    """
    found, n, main = list[Figure](), pushed_count(rows), next(iter(groups.values()))
    counts = sorted({row["count"] for row in rows if row["kind"] == "success"})
    lines = {
        name: [(float(count), e) for count in counts if (e := points(table(success(rows, name, count)))) is not None]
        for name in main
    }
    if lines := {name: points for name, points in lines.items() if points}:
        svg = success_over_budget(lines, colours_of(main), x_label="demonstrations of each task", y_label="success, %")
        caption = "Success over N, mean over tasks; 95 % two-way over seeds and tasks."
        found.append(Figure(name="success", svg=svg, caption=caption))
    for disturbance, label in (("plain", "undisturbed"), ("pushed", "one push an episode")):
        effects = {
            name: points(difference(name, "random", disturbance)(rows))
            for group in groups.values()
            for name in group
            if name != "random"
        }
        if measured := {name: e for name, e in effects.items() if e is not None}:
            svg = interval_lines(measured, x_label=f"success minus random's, points, N = {n}, {label}")
            found.append(Figure(name=f"effects_{disturbance}", svg=svg, caption=f"Every start at N = {n}, {label}."))
    return found + _courses(rows, groups, n)


def _courses(rows: Sequence[Row], groups: Mapping[str, Sequence[str]], n: int) -> list[Figure]:
    """Endpoint error and CKA over the updates at N = n, seed 0."""
    chosen = {r["start"]: r for r in rows if r["kind"] == "sft" and (r["seed"], r["count"]) == (0, n)}
    main = [name for name in next(iter(groups.values())) if name in chosen]
    if not main:
        return []
    error = {
        name: [(r["steps"] * (i + 0.5) / len(r["error"]), e) for i, e in enumerate(r["error"])]
        for name in main
        for r in [chosen[name]]
    }
    cka = {name: [(float(a), float(b)) for a, b in chosen[name]["cka"]] for name in main if chosen[name]["cka"]}
    panels = {"endpoint error of training batches": error, "CKA to the trunk at the start": cka}
    drawn = {title: series for title, series in panels.items() if series}
    svg = curve_panels(drawn, colours_of(main), x_label="update")
    return [Figure(name="courses", svg=svg, caption=f"Fine-tuning at N = {n}, seed 0; colours as in the first plot.")]


def tables(
    rows: Sequence[Row], groups: Mapping[str, Sequence[str]], controls: Mapping[str, str]
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Effects, every cell, drift and CKA, and what the RL policies themselves can do.

    controls: start -> the random start to which the same was done.
    """
    n, names = pushed_count(rows), [name for group in groups.values() for name in group]
    effects, drift, cells = [], [], []
    for name in names:
        cells_of = [success(rows, name, n, disturbance) for disturbance in ("plain", "pushed")]
        if any(cells_of):
            line = [name]
            for disturbance, cell in zip(("plain", "pushed"), cells_of):
                line.append(f"{100 * float(np.mean(list(cell.values()))):.0f} %" if cell else "")
                line.append("" if name == "random" else shown(difference(name, "random", disturbance)(rows)))
            effects.append(line)
        runs = [r for r in rows if r["kind"] == "sft" and (r["start"], r["count"]) == (name, n)]
        if runs:
            last = [r["cka"][-1][1] for r in runs if r["cka"]]
            error, moved = (np.mean(values) for values in zip(*((r["error"][-1], r["drift"]) for r in runs)))
            drift.append([name, f"{error:.3f}", f"{moved:.3f}", f"{np.mean(last):.3f}" if last else ""])
    for start, task, count, disturbance in sorted(
        {(r["start"], r["task"], r["count"], r["disturbance"]) for r in rows if r["kind"] == "success"}
    ):
        own = [
            r
            for r in rows
            if r["kind"] == "success"
            and (r["start"], r["task"], r["count"], r["disturbance"]) == (start, task, count, disturbance)
        ]
        counted = ", ".join(f"{r['successes']:.0f}/{r['episodes']}" for r in own)
        cells.append([task, disturbance, str(count), start, counted])
    goals = [[policy, env, f"{100 * np.mean(values):.0f} %"] for (policy, env), values in _goals(rows).items()]
    against = [
        [name, control, text] for name, control in controls.items() if (text := shown(difference(name, control)(rows)))
    ]
    return [
        (
            f"Everything at N = {n}: success, and points over random with 95 % intervals",
            ["start", "undisturbed", "over random", "pushed", "over random"],
            effects,
        ),
        (
            f"Remedies at N = {n} against random with the same change: points with 95 % intervals",
            ["start", "control", "difference"],
            against,
        ),
        (
            f"Fine-tuning at N = {n}, mean over seeds",
            ["start", "endpoint error at the end", "drift of the trunk", "CKA to the trunk at the start"],
            drift,
        ),
        (
            "What the policies of RL do before any conversion: share of goals, touch/ in the VLA's own scenes",
            ["policy", "environment", "success"],
            goals,
        ),
        ("Every cell", ["task", "disturbance", "N", "start", "successes, one number a seed"], cells),
    ]


def _goals(rows: Sequence[Row]) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["kind"] == "goals":
            found.setdefault((row["policy"], row["env"]), []).append(row["success"])
    return found
