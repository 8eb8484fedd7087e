"""How a run was jump-started: what the teacher was asked, what its word weighed, the reward, when it went off."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from toddle.reporting import page, plots
from toddle.reporting.run_data import PROGRESS, RunData

__all__ = ["jump_start_section", "regimes", "went_off"]

Lines = Sequence[Mapping[str, Any]]
PANELS = {
    "jumpstart/reward": "reward of a step",
    "jumpstart/calls": "answers",
    "jumpstart/weight": "weight",
}


def went_off(lines: Lines) -> float | None:
    """Return the control steps after which the teacher was asked no more; None where it is still asked."""
    asked = [line for line in lines if line.get("jumpstart/on")]
    if not asked or asked[-1] is lines[-1]:
        return None
    return float(asked[-1][PROGRESS])


def _learns(lines: Lines, share: float = 0.1) -> float | None:
    """Return the control steps at which the teacher was first asked `share` less than at first; None: never."""
    most = max((line["jumpstart/calls"] for line in lines if "jumpstart/calls" in line), default=0.0)
    fewer = [line for line in lines if line.get("jumpstart/calls", most) < (1.0 - share) * most]
    return float(fewer[0][PROGRESS]) if fewer else None


def regimes(lines: Lines) -> str:
    """Return a plot of a run's lines of metrics over control steps: reward, answers, weight.

    Shaded: stuck (the teacher is asked most), rising (less), off (PPO alone).
    """
    steps = [float(line[PROGRESS]) for line in lines]
    borders = [0.0, _learns(lines) or steps[-1], went_off(lines) or steps[-1], steps[-1]]
    borders[2] = max(borders[1], borders[2])
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes = figure.subplots(len(PANELS), 1, sharex=True)
        for axis, (name, label) in zip(axes, PANELS.items(), strict=True):
            values = [float(line.get(name, 0.0)) for line in lines]
            axis.plot(steps, values, color=plots.COLOURS[0])
            axis.set_ylabel(label)
            for index, (begin, end) in enumerate(itertools.pairwise(borders)):
                axis.axvspan(begin, end, color=plots.COLOURS[1 + index], alpha=0.12, linewidth=0)
        for index, word in enumerate(("stuck: asked most", "rising: asked less", "off: PPO alone")):
            if borders[index + 1] > borders[index]:
                middle = (borders[index] + borders[index + 1]) / 2
                axes[0].annotate(word, (middle, 1.04), xycoords=("data", "axes fraction"), ha="center", fontsize=8)
        axes[-1].set_xlabel("control steps")
        return plots.svg(figure)


def jump_start_section(runs: Sequence[RunData]) -> str:
    """Return the plots of the runs that asked a teacher for hints, with what it came to."""
    parts = []
    for run in runs:
        lines = [line for line in run.metrics if "jumpstart/on" in line]
        if len(lines) < 2 or "jumpstart/weight" not in lines[0]:
            continue
        off, total = went_off(lines), float(lines[-1][PROGRESS])
        calls = sum(line.get("jumpstart/calls", 0.0) for line in lines)
        said = f"{calls:,.0f} answers, {100 * calls / total:.2g} % of {total:,.0f} control steps; "
        said += "asked to the end" if off is None else f"off for good after {off:,.0f}"
        parts += [f"<h3>{escape(run.name)}</h3>", page.figure(regimes(lines), said)]
    return page.section(*parts) if parts else ""
