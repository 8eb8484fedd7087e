"""What gates have said of later policies: gains in a model beside the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toddle.core.files import write_text_atomic
from toddle.reporting import page

__all__ = ["gains_of", "write_gates_page"]


def gains_of(row: Mapping[str, Any]) -> list[str]:
    """Return a gate's gains of return with their intervals, in the model and real, as text."""
    return ["{:+.3g} ({:+.3g} to {:+.3g})".format(*row[where]) for where in ("imagined", "real")]


def write_gates_page(path: Path, environment: str, rounds: Sequence[Mapping[str, Any]]) -> None:
    """Write what the gates of `toddle worldmodel improve` found, a row a round."""
    rows = []
    for row in rounds:
        old, new = row["played"]
        shares = [f"{100 * one['real']['success'][0]:.0f} %" for one in (old, new)]
        rows.append([row["policy"], "taken" if row["accepted"] else "left", *gains_of(row), *shares])
    lead = f"Policies of offline RL for {environment}, each taken over where it gains in a model on the one before."
    head = ["candidate", "", "gain of return in the model", "real gain", "success before, real", "of the candidate"]
    text = (
        "The gate looks at the model alone. Real gains, from the same starts, stand beside to say what its word was "
        "worth, and decide nothing; intervals (95 %) are of the starts."
    )
    body = page.section(page.paragraph(text), page.table(head, rows, numbers=range(2, 6)))
    write_text_atomic(path, page.render("A policy improved behind a gate", lead, [("Gates", body)]))
