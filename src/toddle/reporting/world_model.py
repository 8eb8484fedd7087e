"""The pages of `toddle worldmodel`: errors over the horizon, doubt, and imagined success beside the real one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib
from matplotlib.figure import Figure
from numpy.typing import NDArray

from toddle.core.files import write_text_atomic
from toddle.core.types import EpisodeResult
from toddle.maths.intervals import Interval
from toddle.reporting import page
from toddle.reporting.plots import COLOURS, INK, STYLE, colours_of, curve_panels, interval_bars, svg

__all__ = ["write_imagined_page", "write_world_model_page"]

BESIDE = (
    "Success in a model rises in nearly every training in it, so by itself it shows nothing: what counts is the real "
    "one, from the same starts."
)


PATHS = "Seen from above, in metres: where it goes in the environment, and, dotted, in the model; dots are starts."


class BothPlayed(Protocol):
    """A policy's episodes in the environment and in the model."""

    @property
    def name(self) -> str:
        """The policy."""

    @property
    def real(self) -> list[EpisodeResult]:
        """In the environment."""

    @property
    def imagined(self) -> list[EpisodeResult]:
        """In the model, from the same starts."""


def write_world_model_page(path: Path, found: Mapping[str, Any], played: Sequence[BothPlayed]) -> None:
    """Write what `toddle worldmodel evaluate` found."""
    recorded = found["recorded"]
    lead = (
        f"{found['environment']}, from {recorded['episodes']} episodes ({recorded['successes']} with success, "
        f"{recorded['steps']:,} steps), of which {recorded['held_out']} were held out for this page."
    )
    body = [
        ("Errors over the horizon", _errors(found)),
        ("Doubt", _doubt(found["model"])),
        ("Success", _success(found)),
    ]
    if played:
        body.append(("Real and imagined", _both(found, played)))
    write_text_atomic(path, page.render("A model of an environment", lead, body))


Paths = Mapping[str, Sequence[tuple[NDArray[Any], NDArray[Any]]]]
"""Thing -> of each start, where it goes (T, 2), real and imagined."""


def write_imagined_page(
    path: Path, found: Mapping[str, Any], played: Sequence[BothPlayed], drawn: Mapping[str, Paths]
) -> None:
    """Write what `toddle worldmodel imagine` found; drawn: of each policy, paths from some of the starts."""
    lead = "Policies in a model of the environment and in the environment, from the same starts."
    body = [("Real and imagined", _both(found, played))]
    body += [(f"Paths: {name}", page.figure(_paths(paths), PATHS)) for name, paths in drawn.items() if paths]
    write_text_atomic(path, page.render("Imagined and real", lead, body))


def _paths(paths: Paths) -> str:
    count = len(next(iter(paths.values())))
    columns = min(3, count)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * columns, 2.9 * -(-count // columns)), layout="constrained")
        for start in range(count):
            axes = figure.add_subplot(-(-count // columns), columns, start + 1)
            for (name, both), colour in zip(paths.items(), COLOURS, strict=False):
                real, imagined = both[start]
                axes.plot(*real.T, color=colour, label=f"{name}, real")
                axes.plot(*imagined.T, color=colour, linestyle=":", label=f"{name}, imagined")
                axes.plot(*real[0], color=colour, marker="o", markersize=4)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_title(f"start {start + 1}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=2 * len(paths))
        return svg(figure)


def _named(found: Mapping[str, Any]) -> list[str]:
    return [name for name in ("model", "control") if name in found]


def _errors(found: Mapping[str, Any]) -> str:
    names = _named(found)
    curves = {
        name: list(zip(found[name]["horizons"], found[name]["error_over_copy"], strict=True)) for name in names
    } | {"nothing changes": [(step, 1.0) for step in found["model"]["horizons"]]}
    rows = [
        [
            label,
            *(
                _number(found[name]["error_over_copy"][number]) if number < len(found[name]["horizons"]) else "-"
                for name in names
            ),
        ]
        for number, label in enumerate(map(str, found["model"]["horizons"]))
    ]
    parts = (("felt", "of proprioception"), ("seen", "of what is seen"))
    for kind, label in parts if "error_over_copy_seen" in found["model"] else ():
        for number, step in enumerate(found["model"]["horizons"]):
            told = [found[name][f"error_over_copy_{kind}"] for name in names]
            rows.append([f"{step}, {label}", *(_number(one[number]) if number < len(one) else "-" for one in told)])
    for kind, label in (("moving", "1, the object moving"), ("still", "1, the object still")):
        numbers = [found[name].get(f"error_over_copy_{kind}") for name in names]
        if all(numbers):
            rows.append([f"{label} ({numbers[0]['steps']} steps)", *(_number(one["value"]) for one in numbers)])
    text = (
        f"Recorded actions are rolled out from {found['model']['steps']} held-out steps, without another look at what "
        "was recorded. 1 is the error of saying that nothing changes. The control was trained on shuffled actions: a "
        "model that is no better than it has learned what follows, not what actions do."
    )
    return page.section(
        page.paragraph(text),
        page.figure(curve_panels({"error / copy error": curves}, colours_of(list(curves)), x_label="steps ahead")),
        page.chips(colours_of(list(curves))),
        page.table(["steps ahead", *names], rows, numbers=range(1, len(names) + 1)),
    )


def _doubt(model: Mapping[str, Any]) -> str:
    rows = [
        [str(step), *(_number(said[name]) for name in ("rank", "shuffled_rank", "coverage", "scale"))]
        for step, said in zip(model["horizons"], model["doubt"], strict=True)
    ]
    head = ["steps ahead", "rank correlation with the error", "of shuffled doubt", "coverage of 90 %", "error / doubt"]
    text = (
        "Doubt is how far the members of the ensemble disagree. It is of use where it is large when the error is; "
        f"episodes in the model are cut where it exceeds {_number(model['levels']['alarm'])}."
    )
    return page.section(page.paragraph(text), page.table(head, rows, numbers=range(5)))


def _success(found: Mapping[str, Any]) -> str:
    names = ("success_level", "success_precision", "success_recall", "success_f1")
    rows = [[kind, *(_number(found[kind]["levels"].get(name)) for name in names)] for kind in _named(found)]
    text = (
        "Whole held-out episodes are rolled out in the model; it says success where its head reaches the level. The "
        "level was chosen on half of them, and the other half says what it is worth."
    )
    return page.section(
        page.paragraph(text), page.table(["", "level", "precision", "recall", "F1"], rows, numbers=range(1, 5))
    )


def _both(found: Mapping[str, Any], played: Sequence[BothPlayed]) -> str:
    colours = {"real": COLOURS[0], "imagined": COLOURS[6]}
    bars = {row["policy"]: {where: Interval(*row[where]["success"]) for where in colours} for row in found["policies"]}
    rows = [
        [row["policy"], *(f"{100 * row[where]['success'][0]:.0f} %" for where in colours)]
        + [f"{row[where]['return']:.2f}" for where in colours]
        for row in found["policies"]
    ]
    agreed = found["agreement"]
    text = (
        f"Over {agreed['episodes']:.0f} episodes the returns correlate by {_number(agreed['pearson'])} (Pearson), and "
        f"the model's are larger by {agreed['over_estimate']:.2f} on average."
    )
    head = ["policy", "success, real", "imagined", "return, real", "imagined"]
    return page.section(
        page.paragraph(BESIDE),
        page.figure(interval_bars(bars, colours, y_label="success, %", legend=True)),
        page.table(head, rows, numbers=range(1, 5)),
        page.figure(_scatter(played), "Return of each start: real, and imagined."),
        page.paragraph(text),
    )


def _scatter(played: Sequence[BothPlayed]) -> str:
    colours = colours_of([one.name for one in played])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        ends = [one.episode_return for both in played for one in (*both.real, *both.imagined)]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, linewidth=0.8, alpha=0.5)
        for both in played:
            x, y = ([one.episode_return for one in results] for results in (both.real, both.imagined))
            axes.scatter(x, y, s=12, color=colours[both.name], alpha=0.7, label=both.name, linewidths=0)
        axes.set_xlabel("return in the environment")
        axes.set_ylabel("return in the model")
        axes.legend()
        return svg(figure)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
