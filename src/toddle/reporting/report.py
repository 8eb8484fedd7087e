"""`report.html`: what runs came to, on one self-contained page.

Numbers come from the run folders alone (metrics.jsonl, episodes.jsonl, transfer.json, config.yaml), so a page can
be made again at any time.  A candidate has one colour throughout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.files import write_text_atomic
from toddle.maths.intervals import Interval, matched_interval, sign_flip_p
from toddle.reporting import page, plots, run_data
from toddle.reporting.curves import curves_section
from toddle.reporting.episode_log import EvaluationReport, compare, score_of, summarise
from toddle.reporting.jump_start import jump_start_section
from toddle.reporting.reward_terms import reward_section
from toddle.reporting.run_data import Cell, RunData, cells_of, environment, find_runs
from toddle.reporting.walking import walking_section

__all__ = ["write_report"]

EMBEDDED_BYTES = 24 * 2**20
"""Videos are put into the page up to this many bytes in all, the rest are linked."""
SHORT = 12
"""A table of a conversion with more rows is folded."""
OUTCOME = {True: '<span class="good">success</span>', False: '<span class="bad">failure</span>', None: ""}
CONDITIONS = {"plain": "Undisturbed", "pushed": "Pushed once in the middle of the episode"}
WORDS = {
    "cycle_time": "s of a success",
    "time_per_success": "s for each success",
    "throughput": "successes an hour",
    "length_of_failures": "steps of a failure",
    "cost_rate": "cost of 1,000 steps",
    "costly": "share of episodes that cost",
    "intervention_rate": "share of steps helped",
    "takeovers": "takeovers an episode",
    "no_ops": "actions that move nothing",
    "action_change": "mean squared change of action",
    "tool_squared_jerk": "squared jerk of the tool (m²/s⁶)",
    "tool_log_jerk": "log dimensionless jerk",
    "tool_arc_length": "spectral arc length",
}


def write_report(
    folders: Iterable[Path],
    out: Path,
    *,
    title: str = "Results",
    reference: str | None = None,
    lead: str = "",
    notes: Sequence[str] = (),
) -> Path:
    """Write the page for the runs in `folders` to the file `out` and return it.

    `reference` names the candidate the others are compared with (default: `run_data.usual_reference`); `notes` are
    added to what did not work.  Raises InputError when a folder holds no run.
    """
    runs = find_runs(folders)
    cells = cells_of(runs)
    candidates = list(dict.fromkeys(cell.candidate for cell in cells))
    reference = reference if reference in candidates else run_data.usual_reference(candidates)
    candidates.sort(key=lambda name: name == reference)  # the reference last, the others in their order
    colours = plots.colours_of(candidates)
    cells.sort(key=lambda cell: candidates.index(cell.candidate))
    reports = {(cell.candidate, cell.env, cell.condition): summarise(cell.results) for cell in cells}
    effects = _effects(cells, reference)
    body = [
        ("Success", _success(cells, reports, effects, colours, reference)),
        ("What did not work, or is not resolved", _negative(effects, runs, notes)),
        ("Learning curves", curves_section(runs, colours)),
        ("Terms of the reward", reward_section(runs)),
        ("Asking a teacher", jump_start_section(runs)),
        ("Conversion", page.section(*(_conversion(run) for run in runs if run.conversion is not None))),
        ("Walking", walking_section({(cell.candidate, cell.env, cell.condition): cell.results for cell in cells})),
        ("Motion and speed", _motion(cells, reports)),
        ("Videos", _videos(cells, colours, out.parent)),
        ("Settings and environment", _settings(runs)),
    ]
    top = page.columns(_cards(cells, colours))
    foot = "Made by toddle report from the run folders; the same folders give the same page."
    write_text_atomic(out, page.render(title, lead or _lead(runs, cells), body, top=top, foot=foot))
    return out


def percent(interval: Interval) -> str:
    """Return "71 % [62, 79]"; of one unit the value alone."""
    return f"{100 * interval.value:.0f} %{_bounds(interval)}"


def points(interval: Interval) -> str:
    """Return a difference of rates as "+12 [3, 20]" in percentage points."""
    return f"{100 * interval.value:+.0f}{_bounds(interval)}"


def _bounds(interval: Interval) -> str:
    if not math.isfinite(interval.low + interval.high):
        return ""
    return f" [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def p_text(p: float) -> str:
    """Return a p-value as text."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _lead(runs: Sequence[RunData], cells: Sequence[Cell]) -> str:
    episodes = sum(len(cell.results) for cell in cells)
    tasks = len({cell.env for cell in cells})
    parts = [f"{len(runs)} run{'s' if len(runs) != 1 else ''}"]
    if cells:
        plural = "s" if tasks != 1 else ""
        parts.append(f"{episodes} evaluation episodes on {tasks} task{plural}, the same seeds for all")
    return ", ".join(parts) + "."


def _cards(cells: Sequence[Cell], colours: Mapping[str, str]) -> list[str]:
    """One card a candidate: its success over all tasks, undisturbed."""
    cards = []
    for name, colour in colours.items():
        plain = [cell for cell in cells if cell.candidate == name and cell.condition == "plain"]
        results = [result for cell in plain for result in cell.results]
        if results and (success := summarise(results).success) is not None:
            low, high = round(100 * success.low), round(100 * success.high)
            goals = any("goals" in result.info for result in results)
            note = f"{'goals reached' if goals else 'success'}, 95 % interval {low} to {high}, {len(results)} episodes"
            cards.append(page.card(name, f"{100 * success.value:.0f} %", note, colour))
    return cards


Effect = tuple[str, str, str, Interval, float, int]
"""Candidate, task ("all tasks" for the mean), condition, difference to the reference, p, pairs."""


def _effects(cells: Sequence[Cell], reference: str | None) -> list[Effect]:
    effects: list[Effect] = []
    base = {(cell.env, cell.condition): cell for cell in cells if cell.candidate == reference}
    pooled: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        other = base.get((cell.env, cell.condition))
        if cell.candidate == reference or other is None:
            continue
        if (found := compare(cell.results, other.results)) is None:
            continue
        effects.append((cell.candidate, cell.env, cell.condition, found.difference, found.p, found.pairs))
        theirs = {result.seed: score_of(result) for result in other.results}
        pooled.setdefault((cell.candidate, cell.condition), []).extend(
            (float(score), float(theirs[result.seed] or 0.0))
            for result in cell.results
            if (score := score_of(result)) is not None and theirs.get(result.seed) is not None
        )
    if len({effect[1] for effect in effects}) > 1:
        for (candidate, condition), pairs in pooled.items():
            a, b = np.array(pairs).T
            interval, p = matched_interval(a, b), sign_flip_p(a - b)
            effects.append((candidate, "all tasks", condition, interval, p, len(pairs)))
    return effects


def _success(
    cells: Sequence[Cell],
    reports: Mapping[tuple[str, str, str], EvaluationReport],
    effects: Sequence[Effect],
    colours: Mapping[str, str],
    reference: str | None,
) -> str:
    plots_of = []
    for condition in dict.fromkeys(cell.condition for cell in cells):
        groups: dict[str, dict[str, Interval]] = {}
        for cell in cells:
            success = reports[cell.candidate, cell.env, cell.condition].success
            if cell.condition == condition and success is not None:
                groups.setdefault(cell.env.split("/", 1)[-1], {})[cell.candidate] = success
        if groups:
            heading = f"<h3>{escape(CONDITIONS.get(condition, condition))}</h3>"
            bars = plots.interval_bars(groups, colours, y_label="success, %")
            plots_of.append(page.section(heading, page.figure(bars)))
    if not plots_of:
        return _returns(cells, reports)
    caption = (
        "Bars: share of episodes that succeeded at any of their steps; lines: 95 % Wilson intervals over episodes "
        "(goal tracking: share of goals, t over episodes). They cover chance in the episodes, not in the training run."
    )
    table = _success_table(cells, reports, effects, colours, reference)
    return page.section(page.chips(colours), page.pair(plots_of), page.paragraph(caption, faint=True), table)


def _success_table(
    cells: Sequence[Cell],
    reports: Mapping[tuple[str, str, str], EvaluationReport],
    effects: Sequence[Effect],
    colours: Mapping[str, str],
    reference: str | None,
) -> str:
    """One row a task and condition, one column a candidate: success, and the difference to the reference below."""
    differences = {effect[:3]: effect for effect in effects}
    rows = []
    keys = list(dict.fromkeys((cell.env, cell.condition) for cell in cells))
    keys += [("all tasks", condition) for condition in dict.fromkeys(e[2] for e in effects if e[1] == "all tasks")]
    for env, condition in keys:
        row = [escape(env) if env != "all tasks" else "<b>all tasks</b>", escape(condition)]
        for name in colours:
            report, effect = reports.get((name, env, condition)), differences.get((name, env, condition))
            lines = [percent(report.success)] if report and report.success else []
            lines += [_difference(effect)] if effect else []
            lines += [f"<small>{report.episodes} episodes, {report.length.value:.0f} steps</small>"] if report else []
            lines += [f"<small>{escape(report.protocol)}</small>"] if report and report.protocol else []
            row.append("<br>".join(lines) or "–")
        rows.append(row)
    marked = {reference: " (reference)"} if len(colours) > 1 else {}
    return page.table(["task", "condition", *(name + marked.get(name, "") for name in colours)], rows)


def _returns(cells: Sequence[Cell], reports: Mapping[tuple[str, str, str], EvaluationReport]) -> str:
    """The table where no environment reports success."""
    rows = []
    for cell in cells:
        value = reports[cell.candidate, cell.env, cell.condition].episode_return
        text = f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"
        rows.append((escape(cell.env), escape(cell.condition), escape(cell.candidate), str(len(cell.results)), text))
    head = ["task", "condition", "candidate", "episodes", "return [95 %]"]
    return page.table(head, rows, numbers=(3, 4)) if rows else ""


def _mark(name: str, colours: Mapping[str, str]) -> str:
    return f'<span class="chip"><i class="dot" style="--accent: {colours[name]}"></i>{escape(name)}</span>'


def _difference(effect: Effect) -> str:
    interval, p = effect[3], effect[4]
    kind = "good" if interval.low > 0 else "bad" if interval.high < 0 else ""
    return f'<span class="{kind}">{points(interval)} points</span> <small>{p_text(p)}</small>'


def _negative(effects: Sequence[Effect], runs: Sequence[RunData], notes: Sequence[str]) -> str:
    lines = [
        f"{candidate} on {task} ({condition}): "
        + ("worse than the reference" if interval.high < 0 else "not resolved, the interval holds zero")
        + f", {points(interval)} points over {pairs} paired episodes."
        for candidate, task, condition, interval, _, pairs in effects
        if interval.low <= 0
    ]
    lines += [f"{run.name}: the run is not finished." for run in runs if not run.finished and run.metrics]
    items = "".join(f"<li>{escape(line)}</li>" for line in [*lines, *notes])
    if not items:
        return page.paragraph("Every difference above excludes zero.") if effects else ""
    return f"<ul>{items}</ul>"


def _conversion(run: RunData) -> str:
    """The table `toddle transfer` printed: a list of rows, or a mapping that holds lists and facts."""
    value: Any = run.conversion
    parts = [f"<h3>{escape(run.name)}</h3>"]
    value = {"": value} if isinstance(value, list) else value
    groups = {key: item for key, item in value.items() if isinstance(item, dict)}
    groups |= {"": facts} if (facts := {k: v for k, v in value.items() if not isinstance(v, list | dict)}) else {}
    tables = {key: item for key, item in value.items() if isinstance(item, list)}
    tables = dict(sorted(tables.items(), key=lambda pair: len(pair[1])))  # the short ones first
    for name, group in groups.items():
        lines = [[escape(key.replace("_", " ")), _cell(item)] for key, item in group.items()]
        parts.append(page.table([name.replace("_", " "), ""], lines, numbers=(1,)))
    for name, rows in tables.items():
        if rows and isinstance(rows[0], dict):
            head = list(dict.fromkeys(key for row in rows for key in row))
            numbers = [i for i, key in enumerate(head) if any(isinstance(row.get(key), int | float) for row in rows)]
            lines = [[_cell(row.get(key)) for key in head] for row in rows]
            shown = page.table([key.replace("_", " ") for key in head], lines, numbers=numbers)
            heading = name.replace("_", " ") or "table"
            parts.append(shown if len(rows) <= SHORT else page.fold(f"{heading} ({len(rows)} rows)", shown))
    return page.section(*parts)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def _motion(cells: Sequence[Cell], reports: Mapping[tuple[str, str, str], EvaluationReport]) -> str:
    measured = {cell: report.deployment | report.smoothness for cell, report in reports.items()}
    rows, keys = [], list(dict.fromkeys(key for found in measured.values() for key in found))
    for cell in cells:
        report = reports[cell.candidate, cell.env, cell.condition]
        own = measured[cell.candidate, cell.env, cell.condition]
        extra = [f"{own[key]:.3g}" if key in own else "–" for key in keys]
        safety = [f"{value.value:.3g}" if value else "–" for value in (report.cost, report.interventions)]
        milliseconds = f"{1000 * report.seconds_per_decision:.1f}"
        rows.append(
            (
                escape(cell.env),
                escape(cell.condition),
                escape(cell.candidate),
                milliseconds,
                f"{report.seconds:.1f}",
                *safety,
                *extra,
            )
        )
    if not rows:
        return ""
    head = ["task", "condition", "candidate", "ms a decision", "s an episode", "cost", "interventions"]
    kept = [i for i in range(len(head)) if i < 5 or any(row[i] != "–" for row in rows)] + list(
        range(len(head), len(head) + len(keys))
    )
    head += [WORDS.get(key, key) for key in keys]
    note = "Means over episodes. Log dimensionless jerk and spectral arc length: nearer 0 is smoother."
    lines = [[row[i] for i in kept] for row in rows]
    table = page.table([head[i] for i in kept], lines, numbers=range(3, len(kept)))
    return page.section(page.paragraph(note, faint=True), table)


def _videos(cells: Sequence[Cell], colours: Mapping[str, str], beside: Path) -> str:
    films, used = [], 0
    for cell in sorted(cells, key=lambda cell: (cell.env, cell.condition)):
        for path, result in cell.videos:
            size = path.stat().st_size
            embed = used + size <= EMBEDDED_BYTES
            used += size if embed else 0
            source = page.data_url(path) if embed else os.path.relpath(path, beside)
            lines = [
                f"{_mark(cell.candidate, colours)} {OUTCOME[result.success]}",
                f"{escape(cell.env)}, {escape(cell.condition)}, seed {result.seed}, {result.length} steps",
            ]
            films.append(page.video(source, "<br>".join(lines)))
    return f'<div class="films">{"".join(films)}</div>' if films else ""


def _settings(runs: Sequence[RunData]) -> str:
    blocks = [page.details(f"{run.name} ({run.command})", run.config_text) for run in runs if run.config_text]
    return page.section(*blocks, page.details("Environment", environment()))
