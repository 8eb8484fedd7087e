"""A study: conditions, seeds, a budget, and outcomes fixed before any run; a verdict for each, from committed data.

The runner turns a study's steps into processes (`runs.steps`), its finished runs into rows (`data.jsonl`), and the
rows into a page (`index.md` with its plots).  The page needs the rows alone, so it can be rebuilt from what is
committed.  A study is a file: `recipes/studies/<name>.py` with `STUDY = Study(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import problem
from toddle.core.files import write_text_atomic
from toddle.core.reading import read_json
from toddle.maths.intervals import Interval, sign_flip_p, t_interval, t_p
from toddle.reporting.study_data import Row, read_rows
from toddle.runs.steps import Step

__all__ = [
    "Estimate",
    "Figure",
    "Outcome",
    "Row",
    "Study",
    "Units",
    "Verdict",
    "effect",
    "estimate",
    "judge",
    "standalone",
    "verdict",
    "write_page",
]

Verdict = Literal["passed", "failed", "not resolved", "not measured", "not applicable"]
S = TypeVar("S")


Units = NDArray[np.float64]
"""An effect in each independent unit: (S,) a seed, or (S, K) a seed and task where both were drawn."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured effect: its mean with its 95 % interval, and how surely it reaches a line."""

    interval: Interval
    p: float
    """One-sided, of "the line is not reached", by Student's t (two-way where seeds and tasks vary)."""
    p_flip: float
    """The same by exact sign flips over seeds, which few seeds cannot make small."""
    units: str = ""
    """What the independent units are, in words."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was to be found, fixed beforehand."""

    name: str
    statement: str
    measure: Callable[[Sequence[Row]], Units | None]
    """Reads the effect in each unit from the rows; None where they are not there yet."""
    line: float
    """The estimate must reach this."""
    at_most: bool = False
    """Whether reaching means being at most the line (else at least)."""
    alpha: float = 0.05
    """The p of "the line is not reached" must be below it."""
    given: str | None = None
    """Name of an outcome without which this one says nothing (the gain whose cause it asks for)."""
    scale: float = 1.0
    """Factor for display, 100 for points."""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot of a page."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Study(Generic[S]):
    """A study; `S` is its own type of a scale's settings."""

    name: str
    title: str
    question: str
    scales: Mapping[str, S]
    """Settings by name: small, medium, lab.  Going from one to the next changes one word of the command."""
    steps: Callable[[S], list[Step]]
    """The processes of a scale, in an order in which each stands after what it depends on."""
    collect: Callable[[S, Path], list[Row]]
    """Reads rows from the folder of finished steps; what is missing is left out."""
    labels: tuple[str, ...]
    """Fields of a row that say what was measured: a row measures anew what another one of the same labels did."""
    outcomes: tuple[Outcome, ...]
    figures: Callable[[Sequence[Row]], list[Figure]] = lambda rows: []
    tables: Callable[[Sequence[Row]], list[tuple[str, list[str], list[list[str]]]]] = lambda rows: []
    """(heading, column names, rows of text)."""
    parts: tuple[str, ...] = ()
    """Parts that can be run alone: the first words of the names of their steps."""
    notes: tuple[str, ...] = ()
    """Facts a reader must know: deviations, negative results found on the way."""

    def settings(self, scale: str) -> S:
        """Return the settings of a scale.  Raises InputError for an unknown one."""
        if scale not in self.scales:
            raise problem("scale", f"one of {', '.join(self.scales)}", scale)
        return self.scales[scale]


def effect(first: Sequence[Any], second: Sequence[Any] | None = None) -> Units:
    """Return `first` - `second` by unit, paired by position (`second` None stands for zero): (S,) or (S, K).

    Raises InputError where the two have different shapes.
    """
    a = np.asarray(first, float)
    b = np.zeros_like(a) if second is None else np.asarray(second, float)
    if a.shape != b.shape:
        raise problem("paired values", f"shape {a.shape} for both", str(b.shape))
    return a - b


def estimate(units: Units, line: float = 0.0, *, at_most: bool = False) -> Estimate:
    """Return the mean effect with its interval, and the p of its not reaching `line`."""
    sign = -1.0 if at_most else 1.0
    words = [f"{number} {name}{'' if number == 1 else 's'}" for number, name in zip(units.shape, ("seed", "task"))]
    return Estimate(
        interval=t_interval(units),
        p=t_p(sign * units, sign * line),
        p_flip=sign_flip_p(sign * units, sign * line),
        units=" x ".join(words),
    )


def verdict(outcome: Outcome, found: Estimate | None) -> Verdict:
    """Judge an outcome by its line.

    passed: the estimate reaches the line with p < alpha; failed: the whole interval misses the line; not resolved:
    anything between; not measured: no estimate.
    """
    if found is None:
        return "not measured"
    sign = -1.0 if outcome.at_most else 1.0
    if sign * found.interval.value >= sign * outcome.line and found.p < outcome.alpha:
        return "passed"
    best = found.interval.low if outcome.at_most else found.interval.high
    return "failed" if sign * best < sign * outcome.line else "not resolved"


def judge(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> tuple[dict[str, Estimate | None], dict[str, Verdict]]:
    """Measure and judge outcomes; one whose `given` has not passed is not applicable (where it is measured at all)."""
    measured = {outcome.name: (outcome, outcome.measure(rows)) for outcome in outcomes}
    estimates = {
        name: None if units is None else estimate(units, outcome.line, at_most=outcome.at_most)
        for name, (outcome, units) in measured.items()
    }
    alone = {outcome.name: verdict(outcome, estimates[outcome.name]) for outcome in outcomes}
    verdicts = dict(alone)
    for outcome in outcomes:
        if outcome.given is not None and estimates[outcome.name] is not None and alone[outcome.given] != "passed":
            verdicts[outcome.name] = "not applicable"
    return estimates, verdicts


def write_page(study: Study[Any], folder: Path) -> dict[str, Verdict]:
    """Write `index.md` and its plots from `data.jsonl` and `study.json` in `folder`; return the verdicts."""
    rows = read_rows(folder / "data.jsonl")
    facts = read_json(folder / "study.json", {"scale": str, "runs_done": int, "runs_planned": int, "command": str})
    estimates, verdicts = judge(study.outcomes, rows)
    parts = [f"# {study.title}", study.question, _status(facts), "## Outcomes, fixed before any run"]
    lines = [_outcome_line(outcome, estimates[outcome.name], verdicts[outcome.name]) for outcome in study.outcomes]
    parts.append(_table(["outcome", "pass line", "estimate [95 %]", "p", "verdict"], lines))
    parts.append(
        "Intervals: Student's t over seeds; where a seed has several tasks, two-way over seeds and tasks, for cells of "
        "one seed share its pretraining and cells of one task its demonstrations. p is one-sided, of not reaching the "
        "line, by the same t; in brackets by exact sign flips over seeds, which few seeds cannot make small. "
        "Not resolved: the data neither reach the line surely nor miss it. "
        "Not applicable: the outcome asks for the cause of a gain that was not found."
    )
    figures = study.figures(rows)
    if figures:
        parts.append("## Figures")
    for figure in figures:
        write_text_atomic(folder / f"{figure.name}.svg", standalone(figure.svg))
        parts += [f"![{figure.caption}]({figure.name}.svg)", figure.caption]
    for heading, head, body in study.tables(rows):
        parts += [f"## {heading}", _table(head, body)]
    parts += ["## What did not work, or is not resolved", _negative(study, verdicts)]
    parts += ["## How to repeat", _repeat(facts)]
    write_text_atomic(folder / "index.md", "\n\n".join(part for part in parts if part) + "\n")
    return verdicts


def _status(facts: Mapping[str, Any]) -> str:
    done, planned = facts["runs_done"], facts["runs_planned"]
    text = f"Scale `{facts['scale']}`: {done} of {planned} runs done"
    text += "." if done == planned else "; **the study is not complete**, verdicts are those of the data so far."
    return text + (" A small-scale analogue." if facts["scale"] == "small" else "")


def _outcome_line(outcome: Outcome, found: Estimate | None, judged: Verdict) -> list[str]:
    def show(value: float) -> str:
        return f"{outcome.scale * value:.3g}"

    line = f"{'≤' if outcome.at_most else '≥'} {show(outcome.line)} {outcome.unit}".strip()
    line += f", p < {outcome.alpha:g}"
    text, p = "", ""
    if found is not None:
        value, low, high = (show(number) for number in found.interval)
        text = f"{value} [{low}, {high}], {found.units}"
        p = f"{found.p:.2g} ({found.p_flip:.2g})"
    return [f"**{outcome.name}**: {outcome.statement}", line, text, p, f"**{judged}**"]


def _negative(study: Study[Any], verdicts: Mapping[str, Verdict]) -> str:
    lines = [f"- {name}: {judged}." for name, judged in verdicts.items() if judged != "passed"]
    return "\n".join(lines + [f"- {note}" for note in study.notes]) or "Every outcome passed."


def _repeat(facts: Mapping[str, Any]) -> str:
    minutes = facts["seconds"] / 60
    where = "; ".join(facts["environment"])
    return (
        f"```\n{facts['command']}\n```\n\nThe runs took {minutes:.1f} minutes of one process each, added up ({where}). "
        f"`{facts['command']} --page-only` rebuilds this page from `data.jsonl`."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def standalone(svg: str) -> str:
    """Give an inline SVG what a file of its own needs: a background and a font."""
    end = svg.index(">") + 1
    style = '<rect width="100%" height="100%" fill="#ffffff"/><style>text { font-family: sans-serif; }</style>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:end]}{style}{svg[end:]}\n'
