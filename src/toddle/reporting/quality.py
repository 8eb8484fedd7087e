"""The page of `toddle quality`: datasets beside each other, their plots, and their worst episodes with frames."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from toddle.core.errors import InputError
from toddle.core.files import write_text_atomic
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.quality import METRICS, Judged, JudgedEpisode
from toddle.reporting import page
from toddle.reporting.plots import INK, STYLE, colours_of, curve_panels, svg

__all__ = ["write_quality_page"]

TASKS = 6
"""Tasks whose variance over phase is drawn."""
DRAWN_PATHS = 60
"""Paths in a panel."""
SIDE = 132
"""Pixels of a frame's longer side."""


def write_quality_page(
    path: Path,
    judged: Judged,
    worst: Mapping[int, Sequence[JudgedEpisode]],
    *,
    frames: int,
    camera: str | None,
    kept: Sequence[Sequence[int]] | None,
) -> None:
    """Write the page.  worst: dataset -> its worst episodes, worst first, of which `frames` frames each are drawn.

    kept: places of the kept episodes of each dataset, None where nothing is kept.
    """
    names = _names(judged)
    colours = colours_of(names)
    cards = [
        page.card(name, f"{judged.score(number):.2f}", _counted(judged, number), colours[name])
        for number, name in enumerate(names)
    ]
    body = [
        ("Datasets", _datasets(judged, names, kept)),
        ("Smoothness and length", _distributions(judged, names, colours)),
        ("Actions over phase", _variance(judged, names, colours)),
        ("Paths of the hand", _paths(judged, names, colours)),
        ("Worst episodes", _worst(judged, names, worst, frames, camera)),
        ("What is measured", _meanings(judged)),
    ]
    lead = (
        "The score of an episode is the mean, over its metrics, of the share of the task's other episodes (of all "
        "datasets here) that are worse: 0.5 is the average. It compares; it is no promise of what a policy learns."
    )
    text = page.render("Quality of demonstrations", lead, body, top=page.columns(cards), foot="Made by toddle quality.")
    write_text_atomic(path, text)


def _names(judged: Judged) -> list[str]:
    """Return the datasets' folder names, their whole paths where those are the same."""
    paths = [source.dataset.path for source in judged.sources]
    short = [path.name for path in paths]
    return [str(path) if short.count(path.name) > 1 else path.name for path in paths]


def _counted(judged: Judged, number: int) -> str:
    own = judged.of(number)
    faults = sum(bool(one.faults) for one in own)
    tasks = len({one.task for one in own})
    return f"score; {len(own)} episodes of {tasks} task{'s' if tasks > 1 else ''}, {faults} with faults"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _datasets(judged: Judged, names: Sequence[str], kept: Sequence[Sequence[int]] | None) -> str:
    rows = []
    for name, metric in METRICS.items():
        values = [judged.mean(number, name) for number in range(len(names))]
        known = [value for value in values if math.isfinite(value)]
        best = (min if metric.larger_is_worse else max)(known, default=math.nan)
        shown = [
            f'<span class="good">{_number(value)}</span>' if value == best and len(set(known)) > 1 else _number(value)
            for value in values
        ]
        unit = f" <small>{metric.unit}</small>" if metric.unit else ""
        rows.append([escape(name.replace("_", " ")) + unit, *shown])
    modes = [" / ".join(map(str, judged.modes[number].values())) or "–" for number in range(len(names))]
    rows.append(["modes of the path", *(modes if len(judged.tasks) <= TASKS else ["in quality.json"] * len(names))])
    if kept is not None:
        rows.append(["kept episodes", *(str(len(places)) for places in kept)])
    notes = [
        f"<li><b>{escape(name)}</b>: {escape(note)}</li>"
        for name, source in zip(names, judged.sources, strict=True)
        for note in source.notes
    ]
    text = f"Means over episodes, each task counting alike; paths at {judged.rate:g} points a second. Green is better."
    return page.section(
        page.table(["metric", *names], rows, numbers=range(1, len(names) + 1)),
        page.paragraph(text, faint=True),
        f"<ul>{''.join(notes)}</ul>" if notes else "",
    )


def _distributions(judged: Judged, names: Sequence[str], colours: Mapping[str, str]) -> str:
    shown = {
        name: [[one.metrics[name] for one in judged.of(number) if name in one.metrics] for number in range(len(names))]
        for name in METRICS
    }
    shown = {name: values for name, values in shown.items() if any(values)}
    columns, rows = 2, -(-len(shown) // 2)
    generator = np.random.default_rng(0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.0, rows * (0.75 + 0.3 * len(names))), layout="constrained")
        for index, (name, groups) in enumerate(shown.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            for row, values in enumerate(groups):
                if not values:
                    continue
                colour, spread = colours[names[row]], generator.uniform(-0.22, 0.22, len(values))
                axes.plot(values, row + spread, ".", color=colour, alpha=0.4, markersize=4, markeredgewidth=0)
                low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
                axes.plot([low, high], [row, row], color=INK, linewidth=1.3)
                axes.plot([middle], [row], "|", color=INK, markersize=11, markeredgewidth=1.8)
            numbers = [value for values in groups for value in values]
            if min(numbers) > 0 and max(numbers) > 30 * min(numbers):
                axes.set_xscale("log")
            axes.set_yticks(range(len(names)), names if index % columns == 0 else [""] * len(names))
            axes.tick_params(axis="y", labelcolor=INK)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            unit = METRICS[name].unit
            worse = "more is worse" if METRICS[name].larger_is_worse else "less is worse"
            axes.set_title(f"{name.replace('_', ' ')}{f', {unit}' if unit else ''} ({worse})")
        plot = svg(figure)
    return page.section(page.figure(plot, "A dot an episode; the line spans the middle half, its tick is the median."))


def _variance(judged: Judged, names: Sequence[str], colours: Mapping[str, str]) -> str:
    panels = {}
    for task in judged.tasks[:TASKS]:
        own = {
            name: list(zip(np.linspace(0.0, 100.0, len(found[task])), found[task], strict=True))
            for name, found in zip(names, judged.variance, strict=True)
            if task in found and len(judged.of(names.index(name), task)) > 1
        }
        if own:
            panels[task[-36:]] = own
    if not panels:
        return ""
    caption = "Variance of the actions over episodes at the same phase, the mean over their numbers."
    return page.section(
        page.chips(colours), page.figure(curve_panels(panels, colours, x_label="% of the episode", columns=2), caption)
    )


def _paths(judged: Judged, names: Sequence[str], colours: Mapping[str, str]) -> str:
    drawn = [{task: own for task, own in found.items() if own[0].shape[1] > 1} for found in judged.paths]
    task = next((task for task in judged.tasks if any(task in found for found in drawn)), None)
    if task is None:
        return ""
    shown = [(name, found[task]) for name, found in zip(names, drawn, strict=True) if task in found]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(min(10.0, 3.3 * len(shown) + 0.6), 3.0), layout="constrained")
        all_axes = np.atleast_1d(figure.subplots(1, len(shown), sharex=True, sharey=True))
        for axes, (name, paths) in zip(all_axes, shown, strict=True):
            for one in paths[:: -(-len(paths) // DRAWN_PATHS)]:
                axes.plot(one[:, -2], one[:, -1], color=colours[name], alpha=0.35, linewidth=0.9)
            modes = judged.modes[names.index(name)][task]
            axes.set_title(f"{name}: {modes} mode{'s' if modes > 1 else ''}")
            axes.set_aspect("equal", adjustable="box")
        plot = svg(figure)
    caption = f"{task}: the last two coordinates of the hand's path in metres, up to {DRAWN_PATHS} episodes a dataset."
    return page.section(page.figure(plot, caption))


def _worst(
    judged: Judged,
    names: Sequence[str],
    worst: Mapping[int, Sequence[JudgedEpisode]],
    frames: int,
    camera: str | None,
) -> str:
    parts = []
    for number, own in worst.items():
        dataset = judged.sources[number].dataset
        rows = [
            [
                str(one.number),
                escape(one.task),
                f"{one.score:.2f}",
                escape("; ".join(one.faults)) or "–",
                escape(_why(judged, one)),
            ]
            for one in own
        ]
        if not rows:
            continue
        head = ["episode", "task", "score", "faults", "against the median of its task"]
        parts += [f"<h3>{escape(names[number])}</h3>", page.table(head, rows, numbers=(2,))]
        if frames and dataset.cameras:
            parts += [_strip(dataset, one, frames, camera or dataset.cameras[0]) for one in own]
    return page.section(*parts)


def _why(judged: Judged, one: JudgedEpisode) -> str:
    """Return the three metrics in which an episode is furthest from its task's median, in middle-half widths."""
    group = [other for other in judged.episodes if other.task == one.task]
    far = []
    for name, value in one.metrics.items():
        values = [other.metrics[name] for other in group if name in other.metrics]
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        sign = 1.0 if METRICS[name].larger_is_worse else -1.0
        if high > low and (distance := sign * (value - middle) / (high - low)) > 0.5:
            far.append((distance, f"{name.replace('_', ' ')} {_number(value)} ({_number(float(middle))})"))
    return ", ".join(text for _, text in sorted(far, reverse=True)[:3]) or "nothing stands out"


def _strip(dataset: LeRobotDataset, one: JudgedEpisode, frames: int, camera: str) -> str:
    """Return frames of an episode side by side, as one picture in the page."""
    episode = dataset.episodes[one.place]
    rows = np.unique(np.linspace(episode.start, episode.stop - 1, frames).round().astype(np.int64))
    try:
        pictures = dataset.images(camera, rows)
    except InputError as error:
        return page.paragraph(f"episode {one.number}: {error}", faint=True)
    text = f"episode {one.number}: {dataset.task_of(episode.start)}"
    return page.figure(f'<img src="{_jpeg(pictures)}" alt="{escape(text, quote=True)}">', text)


def _jpeg(pictures: NDArray[Any]) -> str:
    """Return pictures (n, 3, H, W) side by side as a data: URL."""
    height, width = pictures.shape[2:]
    scale = SIDE / max(height, width)
    size = round(width * scale), round(height * scale)
    strip = Image.new("RGB", (len(pictures) * (size[0] + 4) - 4, size[1]), "white")
    for index, picture in enumerate(pictures):
        one = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize(size, Image.Resampling.BILINEAR)
        strip.paste(one, (index * (size[0] + 4), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _meanings(judged: Judged) -> str:
    rows = [
        [escape(name.replace("_", " ")), escape(metric.meaning), "more" if metric.larger_is_worse else "less"]
        for name, metric in METRICS.items()
    ]
    text = (
        "Jerk and spectra are of the hand's path at one rate for all datasets. Modes are bundles of paths of one task "
        "(average linkage, mean silhouette above 0.7). A fault is no success, or an episode that is equal to an "
        "earlier one of its task within 0.02 of the rows' deviation. docs/data_quality.md has the formulas."
    )
    return page.section(page.table(["metric", "what it is", "worse is"], rows), page.paragraph(text, faint=True))
