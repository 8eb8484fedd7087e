"""The page of `toddle reward plot`: what each term of a reward says and pays, in episodes and to cheats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from toddle.algorithms.rewards.compose import EPISODE
from toddle.core.errors import problem
from toddle.core.files import write_text_atomic
from toddle.core.reading import read_json
from toddle.reporting import page
from toddle.reporting.plots import COLOURS, colours_of, curve_panels
from toddle.reporting.run_data import RunData

__all__ = ["reward_section", "write_terms_page"]

DRAWN = 4
"""Successes and failures that are drawn of each term."""


def write_terms_page(path: Path, reward: str, found: Mapping[str, Any]) -> None:
    """Write the page.  found: by term what `recipes.reward_plot` measured, with its `episodes`."""
    colours = {"success": COLOURS[0], "failure": COLOURS[1]}
    head = ["term", "kind", "weight", "order in time", "pairs in order", "successes", "failures"]
    rows = [
        [
            escape(name),
            own["kind"],
            f"{own['weight']:g}",
            _number(own["order"]),
            _number(own["pairs"]),
            str(own["successes"]),
            str(own["failures"]),
        ]
        for name, own in found.items()
    ]
    words = (
        "Order in time: mean rank correlation, within successes, of what a term says of a step with the time; 1 where "
        "it only rises, – where it says nothing of that kind. Pairs in order: of all pairs of a success and a failure, "
        "the share in which the failure is worth less, by the last thing said, or the mean of what was paid."
    )
    worth = page.section(page.table(head, rows, numbers=(2, 3, 4, 5, 6)), page.paragraph(words))
    body = [("What each is worth", worth)]
    cheats = [_cheats(name, own["cheats"]) for name, own in found.items() if "cheats" in own]
    if cheats:
        text = (
            "Mean discounted return of the term with its weight, and in brackets with 1 at success. Oscillate: the "
            "expert for three fifths of its way, then back and forth. Linger: the expert until ten steps before it "
            "succeeds, then nothing. Look: the hand goes to the goal without the object. Of these, episodes that "
            "succeed all the same are left out. A reward holds where the expert earns most."
        )
        columns = ["term", *next(iter(found.values()))["cheats"]["policies"], "holds"]
        body.append(("Policies that would cheat", page.section(page.paragraph(text), page.table(columns, cheats))))
    panels = [(f"{name}: {what}", _curves(own, key)) for name, own in found.items() for what, key in _drawn(own)]
    caption = "By step of the episode; successes and failures that nothing was trained on. Long ones are smoothed."
    drawing = page.figure(_coloured(dict(panels), colours), caption)
    body.append(("Over episodes", page.section(page.chips(colours), drawing)))
    lead = "What each term says of recorded episodes, and what policies would earn by it that do not succeed."
    text = f"Made by toddle reward plot --reward {reward.replace('+', ' + ')}"
    write_text_atomic(path, page.render("Terms of a reward", lead, body, foot=text))


def reward_section(runs: Sequence[RunData]) -> str:
    """Return what the terms of each run's composed reward paid over its last whole episode; none have one: empty.

    Raises InputError where a run's file is damaged.
    """
    parts = []
    for run in runs:
        if not (run.path / EPISODE).exists():
            continue
        terms = read_json(run.path / EPISODE, {"terms": dict})["terms"]
        if not terms or any(not _curve(values) for values in terms.values()):
            raise problem(str(run.path / EPISODE), "numbers of each term", "others")
        drawn = curve_panels(
            {name: {name: list(enumerate(paid))} for name, paid in terms.items()}, colours_of([*terms])
        )
        caption = f"{run.name}: what each term paid, after its weight, at each decision of the last whole episode."
        parts.append(page.figure(drawn, caption))
    return page.section(*parts) if parts else ""


def _curve(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, int | float) for value in values)


def _drawn(own: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = any(one["value"] for one in own["episodes"])
    return [*([("says", "value")] if said else []), ("pays", "paid")]


def _curves(own: Mapping[str, Any], key: str) -> dict[str, list[tuple[int, float]]]:
    """Return a few episodes of each kind, named so that their colours can be told."""
    series: dict[str, list[tuple[int, float]]] = {}
    for label, wanted in (("success", True), ("failure", False)):
        chosen = [one for one in own["episodes"] if one["success"] is wanted][:DRAWN]
        series |= {f"{label} {number}": list(enumerate(one[key])) for number, one in enumerate(chosen)}
    return series


def _coloured(panels: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    names = {name: colours[name.split()[0]] for series in panels.values() for name in series}
    return curve_panels(panels, names, columns=3)


def _cheats(name: str, found: Mapping[str, Any]) -> list[str]:
    cells = [f"{own['term']:.2f} ({own['with_success']:.2f})" for own in found["policies"].values()]
    return [escape(name), *cells, "yes" if found["holds"] else "NO"]


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"
