"""What one sees of a process reward model: strips of labelled episodes, and the page of what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from toddle.algorithms.reward_training import ProgressSamples
from toddle.core.files import write_atomic, write_text_atomic
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelConfig, LabelledEpisode
from toddle.reporting import page
from toddle.reporting.plots import COLOURS, INK, STYLE, curve_panels

__all__ = ["draw_episode", "write_evaluation_page", "write_label_page", "write_progress_page"]

SPEED, OPEN, GOOD, KEY = COLOURS[0], COLOURS[3], COLOURS[2], COLOURS[1]
PANELS = 6
"""Held-out episodes whose answers are drawn."""
MEANINGS = {
    "precision": "of the steps called yes, the share that lead to a key frame",
    "recall": "of the steps that lead to a key frame, the share called yes",
    "specificity": "of the other steps, the share called no",
    "area": "how often a step that leads to a key frame is scored above another of its episode; chance is 0.5",
    "order": "rank correlation of the probability of yes with the steps left until success, within an episode",
    "order_of_labels": "the same of the labels themselves: what a model without a mistake has",
    "yes_share": "share of all steps called yes",
}


def draw_episode(
    path: Path, dataset: LeRobotDataset, one: LabelledEpisode, camera: str, config: LabelConfig, pictures: int
) -> None:
    """Draw an episode into a PNG: pictures in time order, the hand's speed with key frames, the gripper, the labels."""
    shown = np.unique(np.linspace(0, len(one.rows) - 1, pictures).round().astype(int))
    seconds = (one.rows - one.rows[0]) / dataset.fps
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(11.0, 4.6), layout="constrained")
        halves: Any = figure.subfigures(2, 1, height_ratios=(1.0, 1.9))
        top, below = halves
        top.suptitle(f"episode {one.number}: {one.task}", x=0.01, ha="left", fontsize=11, color=INK)
        for axes, step in zip(np.atleast_1d(top.subplots(1, len(shown))), shown, strict=True):
            axes.imshow(dataset.images(camera, one.rows[[step]])[0].transpose(1, 2, 0))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set(visible=True, color=GOOD if one.labels[step] else "#c3c9d4", linewidth=3.0)
            axes.set_title(f"{seconds[step]:.2f} s", fontsize=8, loc="center", fontweight="normal")
        speed, opening = below.subplots(2, 1, sharex=True, height_ratios=(1.6, 1.0))
        _speed(speed, one, seconds, config)
        _opening(opening, one, seconds)
        write_atomic(path, partial(figure.savefig, format="png", dpi=100))


def _speed(axes: Axes, one: LabelledEpisode, seconds: NDArray[Any], config: LabelConfig) -> None:
    step = seconds[1] if len(seconds) > 1 else 1.0
    for at in np.flatnonzero(one.labels):
        axes.axvspan(seconds[at] - step / 2, seconds[at] + step / 2, color=GOOD, alpha=0.18, linewidth=0)
    axes.plot(seconds, one.speed, color=SPEED)
    axes.axhline(config.still * float(np.median(one.speed)), color=SPEED, linewidth=1.0, linestyle="--", alpha=0.7)
    axes.plot(seconds[one.keys], one.speed[one.keys], "v", color=KEY, markersize=9)
    axes.set_ylabel("hand, m/s")
    axes.set_ylim(bottom=0.0)
    axes.set_title(f"green: steps that lead to a key frame (triangle); dashed: {config.still:g} of the median speed")


def _opening(axes: Axes, one: LabelledEpisode, seconds: NDArray[Any]) -> None:
    for start, _ in one.segments[1:]:
        axes.axvline(seconds[start], color=INK, linewidth=1.2)
    axes.plot(seconds, one.opening, color=OPEN)
    axes.set_ylim(-0.08, 1.08)
    axes.set_ylabel("gripper")
    axes.set_xlabel("seconds")
    axes.set_title("share of its range; lines: a new segment begins")


def write_label_page(path: Path, lines: Sequence[str], strips: Sequence[tuple[Path, str]], config: LabelConfig) -> None:
    """Write the page of labels: what was found, and the strips, in one file."""
    images = [
        f'<figure><img src="{page.data_url(strip, "image/png")}" alt="{escape(text, quote=True)}" style="width: 100%">'
        f"<figcaption>{escape(text)}</figcaption></figure>"
        for strip, text in strips
    ]
    facts = "".join(f"<li>{escape(line)}</li>" for line in lines)
    words = (
        f"A segment ends where a gripper has moved by more than {config.change:g} of its range for {config.hold} "
        f"steps. Inside it, a key frame is a local minimum of the hand's speed below {config.still:g} of the episode's "
        f"median, at least {config.gap} steps from another and {config.skip} from the beginning. The "
        f"{config.window} steps before it are labelled 1, all others 0. A step is a new picture."
    )
    body = [
        ("What was found", page.section(f"<ul>{facts}</ul>", page.paragraph(words, faint=True))),
        ("Episodes", page.section(*images)),
    ]
    lead = "Which steps of demonstrations lead to a moment at which the hand has arrived."
    foot = "Made by toddle reward label."
    write_text_atomic(path, page.render("Labels of progress", lead, body, foot=foot))


def write_evaluation_page(
    path: Path, found: Mapping[str, Any], samples: ProgressSamples, answers: Mapping[str, NDArray[Any]]
) -> None:
    """Write the page of an evaluation: numbers beside the control's, tasks, and answers over held-out episodes.

    found: as in evaluation.json.  answers: name of the model -> probability of yes at every step of `samples`.
    """
    names = [name for name in ("model", "controls") if name in found]
    colours = {"model": COLOURS[0], "controls": COLOURS[6], "control_0": COLOURS[6], "label": COLOURS[2]}
    note = "area within episodes, 95 % interval; chance is 0.5"
    cards = [page.card(name, _text(found[name]["area"]), note, colours[name]) for name in names]
    rows = [
        [escape(key.replace("_", " ")), *(_text(found[name].get(key)) for name in names), escape(meaning)]
        for key, meaning in MEANINGS.items()
    ]
    head = ["number", *names, "what it is"]
    counted = found["model"]
    text = (
        f"{counted['episodes']} held-out episodes, {counted['steps']} steps, {counted['labelled_share']:.0%} of them "
        "labelled: the precision of answers at random. The model's intervals are over episodes, those of the controls "
        "over the controls, each trained on labels dealt anew."
    )
    verdict = "".join(f"<li>{escape(line)}</li>" for line in found["verdicts"])
    body = [
        ("What it is worth", page.section(f"<ul>{verdict}</ul>", page.paragraph(text), page.table(head, rows))),
        ("By task", _tasks(found["tasks"])),
        ("Failures", _failures(found)),
        ("Answers", _answers(samples, answers, colours)),
    ]
    lead = "Does the model say yes at the steps that lead to a key frame, in episodes it has not seen?"
    foot = "Made by toddle reward evaluate."
    text = page.render("A process reward model", lead, body, top=page.columns(cards), foot=foot)
    write_text_atomic(path, text)


PROGRESS = {
    "order": "rank correlation of what it says with time, within an episode: 1 where it only rises",
    "rises": "share of the steps at which it says more than at the step before",
    "begin": "what it says at the first step; 0 is the mean of what it was trained on",
    "end": "what it says at success; 1 is the mean of what it was trained on",
}


def write_progress_page(
    path: Path,
    found: Mapping[str, Any],
    won: tuple[NDArray[Any], ProgressSamples],
    lost: tuple[Any, ProgressSamples] | None,
) -> None:
    """Write the page of a model that says how far a task is: numbers beside the controls', and its course in episodes.

    won, lost: what it says at every step of held-out successes, and of failures where there are any.
    """
    names = [name for name in ("model", "controls") if name in found]
    colours = {"success": COLOURS[0], "failure": COLOURS[1]}
    tops = {"model": COLOURS[0], "controls": COLOURS[6]}
    note = "order in time within episodes, 95 % interval; chance is 0"
    cards = [page.card(name, _text(found[name]["order"]), note, tops[name]) for name in names]
    rows = [
        [key, *(_text(found[name].get(key)) for name in names), escape(meaning)] for key, meaning in PROGRESS.items()
    ]
    counted = found["model"]
    text = f"{counted['episodes']} held-out successes, {counted['steps']} steps. Controls learned from shuffled times."
    verdict = "".join(f"<li>{escape(line)}</li>" for line in found["verdicts"])
    panels: dict[str, Any] = {}
    for name, part in (("success", won), ("failure", lost)):
        if part is None:
            continue
        said, samples = part
        count = min(PANELS // 2, len(samples.episodes))
        for number in [index * len(samples.episodes) // count for index in range(count)]:
            own, one = said[samples.episode == number], samples.episodes[number]
            panels[f"{name} {one.number}: {one.task}"[:40]] = {name: list(enumerate(own))}
    caption = "How far the model says the task is at each step (a new picture): 0 at the beginning, 1 at success."
    drawn = page.figure(curve_panels(panels, colours, columns=2), caption)
    body = [
        ("What it is worth", page.section(f"<ul>{verdict}</ul>", page.paragraph(text))),
        ("Numbers", page.table(["number", *names, "what it is"], rows)),
        ("Episodes", page.section(page.chips(colours), drawn)),
    ]
    lead = "Does what the model says rise with time in episodes it has not seen, and stay low in failures?"
    foot = "Made by toddle reward evaluate."
    write_text_atomic(path, page.render("A model of progress", lead, body, top=page.columns(cards), foot=foot))


def _text(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return "–"
    bounds = "" if interval["low"] is None else f" [{interval['low']:.2f}, {interval['high']:.2f}]"
    return f"{interval['value']:.2f}{bounds}"


def _tasks(tasks: Mapping[str, Any]) -> str:
    keys = ("precision", "recall", "area", "order")
    rows = [[escape(task), str(own["episodes"]), *(_text(own[key]) for key in keys)] for task, own in tasks.items()]
    return page.table(["task", "episodes", *keys], rows, numbers=(1,)) if len(rows) > 1 else ""


def _failures(found: Mapping[str, Any]) -> str:
    if "failures" not in found:
        return ""
    rows = [
        [
            side,
            str(own["episodes"]),
            *(f"{own[key]:.2f}" for key in ("yes_share", "yes_an_episode", "steps_an_episode")),
        ]
        for side, own in ((side, found[side]) for side in ("successes", "failures"))
    ]
    text = (
        "A failure passes key frames too, and lasts longer: where it hears yes as often as a success, the model pays "
        "for trying. That is what the cap, the budget and the reward of success itself must outweigh."
    )
    head = ["episodes that are", "number", "share of steps called yes", "yes an episode", "steps an episode"]
    return page.section(page.paragraph(text), page.table(head, rows, numbers=(1, 2, 3, 4)))


def _answers(samples: ProgressSamples, answers: Mapping[str, NDArray[Any]], colours: Mapping[str, str]) -> str:
    panels = {}
    count = min(PANELS, len(samples.episodes))
    for number in [index * len(samples.episodes) // count for index in range(count)]:
        own, one = samples.episode == number, samples.episodes[number]
        steps = range(int(own.sum()))
        series = {"label": list(zip(steps, samples.labels[own].astype(float), strict=True))}
        series |= {name: list(zip(steps, yes[own], strict=True)) for name, yes in answers.items()}
        panels[f"{one.number}: {one.task}"[:32]] = series
    shown = {name: colours[name] for name in ("label", *answers)}
    caption = (
        "Probability of yes at each step (a new picture) of held-out episodes, and the label, 0 or 1. "
        "Long ones are smoothed."
    )
    return page.section(page.chips(shown), page.figure(curve_panels(panels, colours, columns=2), caption))
