"""Plots as inline SVG: learning curves, success bars with intervals, effects on a line.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart; a candidate keeps its colour in
every plot of a page.  Text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from toddle.maths.intervals import Interval

__all__ = ["COLOURS", "colours_of", "curve_panels", "interval_bars", "interval_lines", "success_over_budget", "svg"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6E6E6E")
INK, FAINT, GRID = "#1c2430", "#667085", "#e7eaf0"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "toddle",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": "#c3c9d4",
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
Point = tuple[float, float]
Series = Mapping[str, Sequence[Point]]
"""Curves by name, each a list of (x, y)."""


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return each name's colour, in the order given."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(dict.fromkeys(names))}


def svg(figure: Figure) -> str:
    """Return the figure as an <svg> element that scales with the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # with text kept as text, matplotlib names its own font: the page's is wanted
    return re.sub(r"font: (\d+ )?([\d.]+)px [^;\"]*", _font, text).strip()


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match.group(1).strip()}; " if match.group(1) else ""
    return f"{weight}font-size: {match.group(2)}px"


def smooth(values: ArrayLike, share: float = 0.05) -> np.ndarray:
    """Return a running mean of `values` over a centred window of `share` of their number, shorter at both ends."""
    array = np.asarray(values, dtype=np.float64)
    half = int(len(array) * share / 2)
    if half == 0:
        return array
    total = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    reach = np.minimum(half, np.minimum(index, len(array) - 1 - index))
    return np.asarray((total[index + reach + 1] - total[index - reach]) / (2 * reach + 1))


def curve_panels(
    panels: Mapping[str, Series],
    colours: Mapping[str, str],
    *,
    x_label: str = "step",
    columns: int = 3,
    legend: Sequence[str] = (),
) -> str:
    """Return one small panel a metric, the runs overlaid: the values faint, their running mean bold.

    A curve is coloured by its name; names without a colour are drawn in the first one.  `legend`: names that stand
    above the panels in their colours, where the page says them nowhere else.
    """
    across = min(columns, len(panels))
    rows, lines = -(-len(panels) // across), -(-len(legend) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5 * across, 2.25 * rows + 0.25 * lines), layout="constrained")
        if legend:
            marks = [Patch(color=colours[name], label=name) for name in legend]
            figure.legend(handles=marks, loc="outside upper left", ncols=across, labelcolor=INK)
        for index, (title, series) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, across, index + 1)
            for name, points in series.items():
                x, y = np.array([p[0] for p in points]), np.array([p[1] for p in points])
                colour = colours.get(name, COLOURS[0])
                if len(y) >= 40:
                    axes.plot(x, y, color=colour, alpha=0.22, linewidth=1.0)
                axes.plot(x, smooth(y), color=colour, label=name)
            axes.set_title(title)
            axes.margins(x=0.02)
            axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
            axes.locator_params(axis="both", nbins=5)
            if index >= len(panels) - columns:
                axes.set_xlabel(x_label)
        return svg(figure)


def _wrapped(name: str, most: int = 14) -> str:
    """Break a long task name at its hyphens, so that neighbours under a plot do not touch."""
    lines = [""]
    for part in name.split("-"):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines[-1] += "-"
            lines.append("")
        lines[-1] += ("-" if lines[-1] else "") + part
    return "\n".join(lines)


def interval_bars(
    groups: Mapping[str, Mapping[str, Interval]],
    colours: Mapping[str, str],
    *,
    y_label: str,
    percent: bool = True,
    legend: bool = False,
) -> str:
    """Return grouped bars with intervals: one group a task, one bar a candidate, the value written above."""
    candidates = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / max(1, len(candidates))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(min(11.0, 1.6 + 0.5 * len(groups) * len(candidates)), 2.7), layout="constrained")
        axes = figure.add_subplot()
        scale = 100.0 if percent else 1.0
        for column, bars in enumerate(groups.values()):
            for name, interval in bars.items():
                x = column + (candidates.index(name) - (len(candidates) - 1) / 2) * width
                value, low, high = (scale * number for number in interval)
                axes.bar(x, value, width * 0.86, color=colours.get(name, COLOURS[0]), alpha=0.88, linewidth=0)
                if math.isfinite(low + high):  # one unit alone has no interval
                    axes.plot([x, x], [low, high], color=INK, linewidth=1.1, solid_capstyle="round")
                axes.annotate(
                    f"{value:.0f}" if percent else f"{value:.3g}",
                    (x, max(high if math.isfinite(high) else value, 0.0)),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=INK,
                )
        axes.set_xticks(range(len(groups)), [_wrapped(name) for name in groups])
        axes.tick_params(axis="x", labelcolor=INK)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(y_label)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        if legend:
            marks = [Patch(color=colours.get(name, COLOURS[0]), label=name) for name in candidates]
            figure.legend(handles=marks, loc="outside upper left", ncols=len(marks), labelcolor=INK)
        if percent:
            axes.set_ylim(0, 109)
            axes.set_yticks([0, 25, 50, 75, 100])
        return svg(figure)


def interval_lines(rows: Mapping[str, Interval], *, x_label: str, colour: str = COLOURS[0], zero: bool = True) -> str:
    """Return a dot and whisker a row, against a line at zero: effects with their intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.7 + 0.32 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for index, interval in enumerate(rows.values()):
            if math.isfinite(interval.low + interval.high):
                axes.plot([interval.low, interval.high], [index, index], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot([interval.value], [index], "o", color=colour, markersize=6)
        if zero:
            axes.axvline(0.0, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        return svg(figure)


def success_over_budget(
    series: Mapping[str, Sequence[tuple[float, Interval]]], colours: Mapping[str, str], *, x_label: str, y_label: str
) -> str:
    """Return lines with shaded intervals: a value over a budget (demonstrations, updates), one line a condition."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for name, points in series.items():
            x = [point[0] for point in points]
            axes.plot(x, [p[1].value for p in points], "o-", color=colours.get(name, COLOURS[0]), label=name)
            axes.fill_between(
                x,
                [p[1].low for p in points],
                [p[1].high for p in points],
                color=colours.get(name, COLOURS[0]),
                alpha=0.15,
                linewidth=0,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(labelcolor=INK)
        return svg(figure)
