"""The learning curves of a page: what runs logged, and what their curricula drew, over training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from toddle.reporting import page, plots
from toddle.reporting.run_data import PROGRESS, RunData, curves_of, points_of

__all__ = ["curricula_of", "curves_section", "values_of"]

COMMANDS = {
    "pretrain": "Pretraining by reinforcement learning",
    "sft": "Fine-tuning on demonstrations",
    "offline": "Learning from datasets alone",
}
VALUES = {"value": "value and return", "return": "value and return", "bound_rate": "values below the return"}
"""What is drawn of `offline/` metrics together: the critics' mean, the return that was reached, and the share of the
policy's actions that are valued below it."""
CURRICULUM = {"share": "share of the draws", "success": "success lately"}
"""What is drawn of a curriculum: metrics `curriculum/share/<task>`, `curriculum/success/<task>`, and of starts
`curriculum/success_low` and `_high`."""


def curricula_of(runs: Iterable[RunData]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return {what: {task, or tenth of the starts: [(x, value), ...]}} of the runs that practise by a curriculum."""
    named, panels = list(runs), {title: dict[str, list[tuple[float, float]]]() for title in CURRICULUM.values()}
    for run in named:
        for name in dict.fromkeys(key for line in run.metrics for key in line):
            found = re.fullmatch(r"curriculum/(share|success)[/_](.+)", name)
            if found and len(points := points_of(run, name)) > 1:
                label = found[2] if len(named) == 1 else f"{run.name} {found[2]}"
                panels[CURRICULUM[found[1]]][label] = points
    return {title: series for title, series in panels.items() if series}


def values_of(runs: Iterable[RunData]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return {what: {metric: [(x, value), ...]}} of the runs that learned values from data."""
    named, panels = list(runs), {title: dict[str, list[tuple[float, float]]]() for title in VALUES.values()}
    for run in named:
        for name, title in VALUES.items():
            having = any("offline/value" in line for line in run.metrics)
            if having and len(points := points_of(run, f"offline/{name}")) > 1:
                panels[title][name if len(named) == 1 else f"{run.name} {name}"] = points
    return {title: series for title, series in panels.items() if series}


def curves_section(runs: Sequence[RunData], colours: Mapping[str, str]) -> str:
    """Return the learning curves of each command's runs, and of a curriculum how often each task was drawn."""
    parts = []
    for command in dict.fromkeys(run.command for run in runs if len(run.metrics) > 1):
        chosen = [run for run in runs if run.command == command]
        panels = curves_of(chosen)
        if not panels:
            continue
        names = list(dict.fromkeys(name for series in panels.values() for name in series))
        spare = iter(colour for colour in (*plots.COLOURS, *plots.COLOURS) if colour not in colours.values())
        own = {name: _colour_of(name, colours) or next(spare) for name in names}
        parts.append(f"<h3>{escape(COMMANDS.get(command, command))}</h3>")
        if len(names) > 1:
            parts.append(page.chips(own))
        caption = "Faint: each iteration. Bold: running mean over 5 %."
        label = "control steps" if any(PROGRESS in line for run in chosen for line in run.metrics) else "step"
        parts.append(page.figure(plots.curve_panels(panels, own, x_label=label), caption))
        for drawn, caption in (
            (curricula_of(chosen), "The curriculum: how often each task is drawn, and its running success rate."),
            (values_of(chosen), "What the critics say of the data's actions, and the return reached from there on."),
        ):
            if drawn:
                hues = plots.colours_of(list(dict.fromkeys(name for series in drawn.values() for name in series)))
                parts += [page.chips(hues), page.figure(plots.curve_panels(drawn, hues, x_label=label), caption)]
    return page.section(*parts)


def _colour_of(run: str, colours: Mapping[str, str]) -> str | None:
    """The colour of the candidate whose name the run's name holds, the longest such name first."""
    held = sorted((name for name in colours if name in run), key=len)
    return colours[held[-1]] if held else None
