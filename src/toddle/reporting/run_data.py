"""What run folders hold, read back for reports: config, curves, episodes, the table of a conversion."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from toddle import __version__
from toddle.core.errors import InputError
from toddle.core.reading import SETTINGS_LIMIT, inside, read_json, read_text
from toddle.core.types import EpisodeResult
from toddle.reporting.episode_log import read_episodes, result_of
from toddle.runs.metrics import CLOCK_GROUP, read_metrics

__all__ = ["Cell", "RunData", "cells_of", "curves_of", "environment", "find_runs", "points_of", "usual_reference"]

PREFERRED = (
    r"^goal/success$",
    r"^episode/return$",
    r"^cost/episode$",
    r"^sft/loss$",
    r"^sft/endpoint_error$",
    r"^goal/error$",
    r"^rollout/reward$",
    r"^goal/level$",
    r"explained_variance",
    r"/kl$",
    r"success",
    r"return",
    r"loss",
    r"error",
    r"entropy",
)
"""Which metrics are shown first, by what their names match."""
PROGRESS = "rollout/total_steps"
"""Where a run logs it, curves are drawn over this (control steps) instead of over iterations."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """One run folder."""

    path: Path
    name: str
    command: str
    config_text: str
    metrics: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    conversion: Any = None
    """`transfer.json` of a `transfer` run."""
    finished: bool = False


@dataclass(kw_only=True)
class Cell:
    """All episodes of one candidate in one environment under one condition."""

    candidate: str
    env: str
    condition: str
    results: list[EpisodeResult] = field(default_factory=list)
    videos: list[tuple[Path, EpisodeResult]] = field(default_factory=list)


def find_runs(folders: Iterable[Path]) -> list[RunData]:
    """Return the runs in `folders`: each folder itself, or what lies up to two folders below.

    Raises InputError when a folder does not exist or holds no run.
    """
    found: dict[Path, RunData] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"report: {folder} is not a folder")
        marks = [mark for depth in ("run.json", "*/run.json", "*/*/run.json") for mark in folder.glob(depth)]
        if not marks:
            raise InputError(f"report: {folder} holds no run (no run.json in it or two folders below)")
        for mark in sorted(marks, key=lambda mark: mark.stat().st_mtime):
            path = mark.parent
            found[path] = _read(path, path.name if path == folder else str(path.relative_to(folder)))
    return list(found.values())


def _read(path: Path, name: str) -> RunData:
    config, conversion = path / "config.yaml", path / "transfer.json"
    return RunData(
        path=path,
        name=name,
        command=str(read_json(path / "run.json").get("command", "?")),
        config_text=read_text(config, limit=SETTINGS_LIMIT) if config.exists() else "",
        metrics=read_metrics(path),
        episodes=read_episodes(path / "episodes.jsonl"),
        conversion=read_json(conversion) if conversion.exists() else None,
        finished=(path / "finished.json").exists(),
    )


def cells_of(runs: Iterable[RunData]) -> list[Cell]:
    """Return the evaluation cells of all runs, in the order they appear.

    `before` and `after` of several fine-tunings bear their run's name.
    """
    cells: dict[tuple[str, str, str], Cell] = {}
    named = list(runs)
    several = sum(run.command == "finetune" for run in named) > 1
    for run in named:
        prefix = f"{run.name} " if several and run.command == "finetune" else ""
        for row in run.episodes:
            name = prefix + str(row.get("candidate", run.name))
            key = (name, row.get("env", "?"), row.get("condition", "plain"))
            cell = cells.setdefault(key, Cell(candidate=key[0], env=key[1], condition=key[2]))
            result = result_of(row)
            cell.results.append(result)
            film = inside(run.path / "videos", str(result.info.get("video")), f"{run.path}: info.video")
            if "video" in result.info and film.is_file():
                cell.videos.append((film, result))
    return list(cells.values())


def usual_reference(candidates: list[str]) -> str | None:
    """Return what others are compared with: a policy before it was fine-tuned by RL, else the last candidate."""
    before = [name for name in candidates if name.split()[-1:] == ["before"]]
    return next(iter(before or candidates[::-1]), None)


def curves_of(runs: Iterable[RunData], most: int = 6) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return {metric: {run: [(x, value), ...]}} of at most `most` metrics, the telling ones first."""
    named = list(runs)
    names = dict.fromkeys(
        key
        for run in named
        for line in run.metrics
        for key in line
        if "/" in key and not key.startswith((CLOCK_GROUP, "curriculum/"))
    )

    def rank(name: str) -> int:
        return next((i for i, word in enumerate(PREFERRED) if re.search(word, name)), len(PREFERRED))

    names.pop(PROGRESS, None)
    chosen = sorted(names, key=rank)[:most]  # stable: within a rank in the order they were logged
    curves = {name: {run.name: points for run in named if len(points := points_of(run, name)) > 1} for name in chosen}
    return {name: series for name, series in curves.items() if series}


def points_of(run: RunData, name: str) -> list[tuple[float, float]]:
    """Return (x, value) of a metric, wherever it was logged."""
    return [(float(line.get(PROGRESS, line["step"])), float(line[name])) for line in run.metrics if name in line]


def environment() -> str:
    """Return the versions and the machine as lines of text."""
    lines = [f"toddle {__version__}", f"python {platform.python_version()}"]
    for package in ("torch", "numpy", "mujoco", "gymnasium", "metaworld", "transformers"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    lines.append(f"{platform.system()} {platform.machine()}")
    return "\n".join(lines)
