"""The page of `toddle factory`: what came of each task, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from toddle.core.files import write_text_atomic
from toddle.reporting import page

__all__ = ["write_factory_page"]

STEPS = ("demonstrations", "imitation", "rl", "plays")
"""Steps that may have a cost of their own, in their order."""


def write_factory_page(
    path: Path, results: Sequence[Mapping[str, Any]], out: Path, *, drawing: Mapping[str, float] | None = None
) -> None:
    """Write the page.  results: as in factory.json.  drawing: cost of the dataset, once it is written."""
    good = [result for result in results if result["status"] == "done"]
    recorded = sum(int(result.get("recorded", 0)) for result in good)
    spent = sum(cost["cpu_seconds"] for result in results for cost in result["costs"].values())
    cards = [
        page.card("tasks", f"{len(good)} of {len(results)}", "came to their successes"),
        page.card("episodes", str(recorded), "successes of the policies, all without exploration noise"),
        page.card("CPU", _minutes(spent), "of all tasks, failed ones too"),
    ]
    steps = [name for name in STEPS if any(name in result["costs"] for result in results)]
    head = ["task", "", "success at first", "at last", "control steps", "recorded", *(f"CPU: {name}" for name in steps)]
    rows = [
        [
            escape(result["task"]),
            '<span class="good">done</span>' if result["status"] == "done" else '<span class="bad">failed</span>',
            _share(result.get("success_at_first")),
            _share(result.get("success_at_last")),
            f"{result['steps']:,}" if "steps" in result else "–",
            str(result.get("recorded", "–")),
            *(_minutes(result["costs"].get(name, {}).get("cpu_seconds")) for name in steps),
        ]
        for result in results
    ]
    failures = [
        f"<li><b>{escape(result['task'])}</b>: {escape(result['why'])}</li>"
        for result in results
        if result["status"] != "done"
    ]
    words = (
        "Success at first is the imitation's, over 32 episodes and before RL; at last the share of the plays that came "
        "to the episodes recorded; both without exploration noise. "
        + ("" if "imitation" in steps else "The CPU of rl holds the imitation. ")
        + "Time of a call that was killed with -9 is not counted."
    )
    drawn = ""
    if drawing is not None:
        text = f"{out / 'dataset'}: {recorded} episodes; writing it, with its pictures, took "
        drawn = page.paragraph(text + f"{_minutes(drawing['cpu_seconds'])} of CPU.")
    body = [
        ("Tasks", page.section(page.table(head, rows, numbers=range(2, len(head))), page.paragraph(words, faint=True))),
        ("Failures", f"<ul>{''.join(failures)}</ul>" if failures else ""),
        ("Dataset", drawn),
    ]
    lead = "Demonstrations by diffusion RL: imitate, learn by RL, keep the successes."
    write_text_atomic(
        path, page.render("Demonstration factory", lead, body, top=page.columns(cards), foot="Made by toddle factory.")
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
