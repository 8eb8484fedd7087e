"""How a body walks: what was commanded against what was reached, metres, falls; a plot of every velocity goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from toddle.core.files import write_text_atomic
from toddle.core.types import EpisodeResult
from toddle.reporting import page
from toddle.reporting.plots import INK, STYLE, colours_of, svg
from toddle.reporting.walking_facts import commands_of, walking_facts

__all__ = ["command_plot", "walking_line", "walking_report", "walking_section"]

Labels = tuple[str, str, str]
"""Candidate, environment and condition of a cell."""

COLUMNS = {"forward": (2, 5), "sideways": (3, 6), "turning": (4, 7)}
"""Of a command's row (`experience.evaluate`): what was asked, what was reached."""


def walking_line(facts: Mapping[str, float]) -> str:
    """Return the facts in a line."""
    parts = [f"walked {facts['walked']:.1f} m an episode", f"fell in {100 * facts['falls']:.0f} %"]
    if "tracked" in facts:
        parts.insert(0, f"tracked {100 * facts['tracked']:.0f} % of {facts['velocity_goals']:.0f} velocity goals")
        parts.append(f"off by {facts['speed_error']:.2f} m/s")
    if "pushed_survived" in facts:
        parts.append(f"stood {100 * facts['pushed_survived']:.0f} % of the pushes")
    return ", ".join(parts)


def command_plot(cells: Mapping[str, Sequence[EpisodeResult]]) -> str:
    """Return an SVG: of each velocity goal, what was reached over what was commanded, a colour a cell."""
    colours = colours_of(list(cells))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.6), layout="constrained")
        for index, (name, (asked, reached)) in enumerate(COLUMNS.items()):
            axes = figure.add_subplot(1, 3, index + 1)
            for cell, found in cells.items():
                rows = commands_of(found)
                rows = rows[rows[:, 0] == 0]
                axes.plot(rows[:, asked], rows[:, reached], ".", color=colours[cell], alpha=0.5, label=cell)
            low, high = axes.get_xlim()
            axes.plot([low, high], [low, high], color=INK, linewidth=1.0)
            unit = "rad/s" if name == "turning" else "m/s"
            axes.set_title(f"{name}, {unit}")
            axes.set_xlabel("commanded")
            axes.set_ylabel("reached" if index == 0 else "")
        axes.legend(labelcolor=INK, fontsize=8)
        return svg(figure)


def walking_section(table: Mapping[Labels, Sequence[EpisodeResult]]) -> str:
    """Return the part of a page on the cells that walk: the plot of commands, and a table; nothing where none does."""
    walks = _walks(table)
    if not walks:
        return ""
    head = ["who", "velocities tracked", "off by, m/s", "slope", "metres an episode", "falls", "pushes survived"]
    keys = ("tracked", "speed_error", "slope", "walked", "falls", "pushed_survived")
    facts = [(name, walking_facts(found)) for name, found in walks.items()]
    rows = [[name, *(f"{found[key]:.2f}" if key in found else "" for key in keys)] for name, found in facts]
    words = "A dot a velocity goal, what was reached over what was commanded; on the line it was followed."
    return page.section(page.figure(command_plot(walks), words), page.table(head, rows, numbers=range(1, len(head))))


def _walks(table: Mapping[Labels, Sequence[EpisodeResult]]) -> dict[str, Sequence[EpisodeResult]]:
    """Return the cells that walk, by a name."""
    return {
        ", ".join(part for part in (environment, condition, candidate) if part != "plain"): found
        for (candidate, environment, condition), found in table.items()
        if any("walked" in result.info for result in found)
    }


def walking_report(folder: Path, table: Mapping[Labels, Sequence[EpisodeResult]]) -> str:
    """Draw `walking.svg` into the folder; return a line for each cell (candidate, environment, condition) that walks,
    nothing where none does."""
    walks = _walks(table)
    if walks:
        write_text_atomic(folder / "walking.svg", command_plot(walks))
    return "".join(f"{cell}: {walking_line(walking_facts(found))}\n" for cell, found in walks.items())
