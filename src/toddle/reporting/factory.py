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
    path: Path,
    results: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    observe: str = "state",
    drawing: Mapping[str, float] | None = None,
) -> None:
    """Write the page.  results: as in factory.json.  drawing: cost of the dataset, once it is written.

    observe: what the policies see.
    """
    good = [result for result in results if result["status"] == "done"]
    recorded = sum(int(result.get("recorded", 0)) for result in good)
    spent = sum(cost["cpu_seconds"] for result in results for cost in result["costs"].values())
    cards = [
        page.card("tasks", f"{len(good)} of {len(results)}", "came to their successes"),
        page.card("episodes", str(recorded), "successes of the policies, all without exploration noise"),
        page.card("CPU", _minutes(spent), "of all tasks, failed ones too"),
    ]
    failures = [
        f"<li><b>{escape(result['task'])}</b>: {escape(result['why'])}</li>"
        for result in results
        if result["status"] != "done"
    ]
    body = [
        ("Tasks", page.section(*_tasks(results))),
        ("Failures", f"<ul>{''.join(failures)}</ul>" if failures else ""),
        ("Dataset", "" if drawing is None else _dataset(good, out, recorded, drawing["cpu_seconds"])),
    ]
    lead = f"Demonstrations by diffusion RL from {observe}: imitate, learn by RL, keep the successes."
    write_text_atomic(
        path, page.render("Demonstration factory", lead, body, top=page.columns(cards), foot="Made by toddle factory.")
    )


def _tasks(results: Sequence[Mapping[str, Any]]) -> list[page.Html]:
    """Return the table of tasks, and what is said of it."""
    steps = [name for name in STEPS if any(name in result["costs"] for result in results)]
    head = [
        "task",
        "",
        "imitation",
        "after RL",
        "plays",
        "control steps",
        "recorded",
        *(f"CPU: {name}" for name in steps),
    ]
    rows = [
        [
            escape(result["task"]),
            '<span class="good">done</span>' if result["status"] == "done" else '<span class="bad">failed</span>',
            _share(result.get("success_at_first"), result.get("measured_episodes")),
            _share(result.get("success_after_rl"), result.get("measured_episodes")),
            _share(result.get("success_at_last"), result.get("played")),
            f"{result['steps']:,}" if "steps" in result else "–",
            str(result.get("recorded", "–")),
            *(_minutes(result["costs"].get(name, {}).get("cpu_seconds")) for name in steps),
        ]
        for result in results
    ]
    words = (
        "Success of the imitation and after RL is of the same episodes; of the plays it is the share that succeeded "
        "until there were enough; all without exploration noise. Where the imitation was better than "
        "what RL made of it, it plays. "
        + ("" if "imitation" in steps else "The CPU of rl holds the imitation. ")
        + "Time of a call that was killed with -9 is not counted."
    )
    notes = [page.paragraph(words, faint=True)]
    if worse := [result["task"] for result in results if result.get("played_by") == "the imitation"]:
        notes.append(page.paragraph(f"Played by the imitation, which RL made worse: {', '.join(worse)}."))
    return [page.table(head, rows, numbers=range(2, len(head))), *notes]


def _dataset(good: Sequence[Mapping[str, Any]], out: Path, recorded: int, seconds: float) -> page.Html:
    """Return what the dataset is, and what to do with it."""
    text = f"{out / 'dataset'}: {recorded} episodes; writing it, with its pictures, took "
    first = out / "tasks" / good[0]["task"].replace("/", "_")
    ways = [
        (
            "compare a task's plays with what it began with",
            f"toddle quality {first / 'demonstrations'} {first / 'plays'}",
        ),
        ("teach a VLA with it", f"toddle sft --dataset {out / 'dataset'} --out runs/vla"),
    ]
    return page.paragraph(text + f"{_minutes(seconds)} of CPU.") + "".join(
        f"<p>{words}:<br><code>{escape(command)}</code></p>" for words, command in ways
    )


def _share(value: float | None, count: int | None) -> str:
    of = "" if count is None else f" of {count}"
    return "–" if value is None else f"{value:.0%}{of}"


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
