"""The page and the curves of denoising_learning.py, from the files of its finished runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from toddle.maths.intervals import Interval, t_interval, welch_interval
from toddle.reporting.plots import colours_of

Run = dict[str, Any]
GAIN, SHARE = 0.30, 0.80
"""What was wanted: points of success after imitation, share of Gaussian PPO's return from scratch."""
ORDER = ("gaussian", "dppo", "reinflow", "flow-sde")
INTRO = """# Diffusion and flow policies by RL: what was measured

`python benchmarks/denoising_learning.py warm`, `... scratch`, `... page`. Small runs on a CPU, one thread; every run's
numbers are in the JSON files beside this page. Intervals: 95 %, Student's t over seeds; over seeds and tasks two-way,
as cells of one seed and cells of one task have something in common; against Gaussian PPO, whose runs are others,
Welch's. Passed: the whole interval reaches the target. Failed: none of it does. Not resolved: the target lies inside.
"""
WARM = """
## From 10 noisy demonstrations, Meta-World from state

Wanted: each method raises success by 30 points over the imitated start. {steps:,} control steps of RL, 16 worlds, MLPs
of width 128, chunks of 4, every method at its own defaults (docs/denoising.md) with gamma 0.99. Environment
`metaworld-state/<task>`: the observation holds objects and goal; success gives reward 1 and ends the episode, else 200
steps do. Demonstrations are the scripted expert's, pushed off its way by noise (drawer-open 0.5, window-open 1.0,
plate-slide 0.5, faucet-close 1.5). Success is that of the same 50 episodes before and after, no exploration noise.

Tasks and noise were chosen by the starts alone: drawer-open and window-open by those of seed 0, the other two by those
of seeds 10 and 11, which are not counted. Another seed draws other demonstrations, from which imitation alone may solve
the task: a start above 70 % cannot gain 30 points, and counts all the same. The column "failures gone" is the share of
the start's failures that RL removed. Clips and rates were chosen on seed 0 (dppo on window-open-v3, flow-sde on
drawer-open-v3), which is counted here too.
"""
SCRATCH = """
## From scratch, beside Gaussian PPO at equal environment steps

Wanted: dppo and one flow method reach 80 % of Gaussian PPO's return. {steps:,} control steps, 16 worlds, MLPs of width
64, one action a decision, equal epochs, minibatches and rates. Two scores: the mean return of the episodes in the last
fifth of the run, with each method's own exploration noise (the Gaussian's is wider); and the mean return of 10 episodes
without noise after the run, which is what a user of the policy gets. Without its KL stop Gaussian PPO scores the same
(seed 0 of both tasks): it never acted.
"""
SCORES = {"without noise": lambda run: float(np.mean(run["final"])), "while learning": lambda run: float(run["score"])}


def verdict(interval: Interval, wanted: float, seeds: int) -> str:
    """Say what the interval says of a target that is to be reached."""
    if seeds < 3:
        return "too few seeds"
    if interval.low >= wanted:
        return "passed"
    return "failed" if interval.high < wanted else "not resolved"


def _of(runs: Sequence[Run], **wanted: Any) -> list[Run]:
    found = [run for run in runs if all(run[key] == value for key, value in wanted.items())]
    return sorted(found, key=lambda run: (run["task"], run["seed"]))


def _names(runs: Sequence[Run], key: str) -> list[str]:
    names = {run[key] for run in runs}
    return [name for name in ORDER if name in names] + sorted(names - set(ORDER))


def _points(values: Interval) -> str:
    return f"{100 * values.value:+.0f} [{100 * values.low:+.0f}, {100 * values.high:+.0f}]"


def warm_lines(runs: Sequence[Run]) -> list[str]:
    """Return the table of the warm starts."""
    lines = [WARM.format(steps=runs[0]["steps"])]
    lines += [
        "| task | method | seeds | imitation | after RL | gain, points | target 30 | failures gone | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in _names(runs, "method"):
        for task in [*_names(_of(runs, method=method), "task"), None]:
            own = _of(runs, method=method) if task is None else _of(runs, method=method, task=task)
            before, after = ([np.mean(run[key]) for run in own] for key in ("before", "after"))
            gain = t_interval(_cells(own, after, before))
            each = [
                f"{np.mean(side):.0%}" + ("" if task is None else f" ({', '.join(f'{v:.0%}' for v in side)})")
                for side in (before, after)
            ]
            label = f"**all {len(_names(own, 'task'))} tasks**" if task is None else task
            room = 1.0 - np.mean(before)
            gone = f"{gain.value / room:.0%}" if room > 0 else "-"
            cost = np.mean([run["cpu_seconds"] for run in own])
            seeds = len({run["seed"] for run in own})
            lines.append(
                f"| {label} | {method} | {seeds} | {each[0]} | {each[1]} | "
                f"{_points(gain)} | {verdict(gain, GAIN, seeds)} | {gone} | {cost:.0f} |"
            )
    return [
        *lines,
        "",
        "![Success while learning](warm.png)",
        "",
        "Curves: success of the episodes that ended, with exploration noise; bold: mean of the seeds. The first",
        "points are too high: of the first episodes, successes end first.",
    ]


def _cells(runs: Sequence[Run], after: Sequence[float], before: Sequence[float]) -> np.ndarray[Any, Any]:
    """Return the gains as (seeds, tasks); runs are sorted by task and seed."""
    seeds = len({run["seed"] for run in runs})
    return np.reshape(np.subtract(after, before), (-1, seeds)).T


def scratch_lines(runs: Sequence[Run]) -> list[str]:
    """Return the table of the runs from scratch."""
    lines = [SCRATCH.format(steps=runs[0]["steps"])]
    lines += [
        "| score | task | method | seeds | return (each seed) | of Gaussian PPO | above 80 % of it | target | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, score in SCORES.items():
        for task in _names(runs, "task"):
            base = {run["seed"]: score(run) for run in _of(runs, task=task, method="gaussian")}
            for method in _names(_of(runs, task=task), "method"):
                own, share, said = _of(runs, task=task, method=method), " | ", ""
                scores = [score(run) for run in own]
                if method != "gaussian" and base:
                    above = welch_interval(scores, [SHARE * value for value in base.values()])
                    share = f"{np.mean(scores) / np.mean(list(base.values())):.0%} | {{:+.0f}} [{{:+.0f}}, {{:+.0f}}]"
                    share, said = share.format(*above), verdict(above, 0.0, len(scores))
                lines.append(
                    f"| {title} | {task} | {method} | {len(own)} | {np.mean(scores):.0f} "
                    f"({', '.join(f'{value:.0f}' for value in scores)}) | {share} | {said} | "
                    f"{np.mean([run['cpu_seconds'] for run in own]):.0f} |"
                )
    return [*lines, "", "![Return while learning](scratch.png)", "", "Curves: as above; bold the mean over seeds."]


def _binned(curve: Sequence[Sequence[float]], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean over the episodes that ended between two edges; NaN where none did."""
    rows = np.asarray(curve)
    out = np.full(len(edges) - 1, np.nan)
    for index in range(len(out)):
        at = (rows[:, 0] > edges[index]) & (rows[:, 0] <= edges[index + 1])
        if at.any():
            out[index] = np.average(rows[at, 1], weights=rows[at, 2])
    return out


def draw(runs: Sequence[Run], label: str, path: Path) -> None:
    """Draw one panel a task, thin lines the seeds, bold their mean."""
    tasks, colours = _names(runs, "task"), colours_of(_names(runs, "method"))
    figure = Figure(figsize=(4.2 * len(tasks), 3.2), layout="constrained")
    for panel, task in enumerate(tasks):
        axes = figure.add_subplot(1, len(tasks), panel + 1)
        for method, colour in colours.items():
            own = _of(runs, task=task, method=method)
            if not own:
                continue
            edges = np.linspace(0, own[0]["steps"], 13)
            curves = np.stack([_binned(run["curve"], edges) for run in own])
            seen = np.isfinite(curves).all(0)
            axes.plot(edges[1:][seen], curves[:, seen].T, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(edges[1:][seen], curves[:, seen].mean(0), color=colour, linewidth=2.2, label=method)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("control steps")
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(label if panel == 0 else "")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def write_page(folder: Path) -> None:
    """Write README.md and the curves from the files that are there."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [INTRO]
    for name, key, label, table in (
        ("warm", "before", "success", warm_lines),
        ("scratch", "score", "return of an episode", scratch_lines),
    ):
        own = [run for run in runs if key in run]
        if own:
            lines += table(own)
            draw(own, label, folder / f"{name}.png")
    (folder / "README.md").write_text("\n".join([*lines, ""]))
