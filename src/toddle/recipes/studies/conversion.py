"""Study `conversion`: does the converted expert start better than a random one, and does the literal gate undo it?

Conditions: `random` (same architecture, fresh weights), `converted` (residual modulation, the default), `dit_literal`
(the same RL weights behind DiT's zero gate, which makes them silent).  One pretraining a seed; equal demonstrations,
updates and evaluation seeds.  A rehearsal of T0 in minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toddle.maths.intervals import Interval
from toddle.training.episodes import read_episodes, result_of, score_of
from toddle.training.plots import colours_of, interval_bars
from toddle.training.steps import Step, toddle_step
from toddle.training.study import Estimate, Figure, Outcome, Row, Study, effect

__all__ = ["STUDY"]

CONDITIONS = ("random", "converted", "dit_literal")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int
    tasks: tuple[str, ...]
    pretrain_steps: int
    demonstrations: int
    sft_steps: int
    episodes: int
    backbone: str = "embedded"


SCALES = {
    "small": Scale(
        seeds=3, tasks=("metaworld/reach-v3",), pretrain_steps=300_000, demonstrations=10, sft_steps=200, episodes=50
    ),
    "medium": Scale(
        seeds=5, tasks=("metaworld/reach-v3", "metaworld/drawer-close-v3", "metaworld/button-press-topdown-v3"),
        pretrain_steps=2_000_000, demonstrations=25, sft_steps=1000, episodes=100,
    ),
    "lab": Scale(
        seeds=10, tasks=("metaworld/reach-v3", "metaworld/drawer-close-v3", "metaworld/button-press-topdown-v3",
                         "metaworld/push-v3", "metaworld/window-open-v3"),
        pretrain_steps=20_000_000, demonstrations=50, sft_steps=5000, episodes=200,
    ),
}  # fmt: skip


def steps(scale: Scale) -> list[Step]:
    """One recording; for each seed a pretraining, two conversions, three fine-tunings and one evaluation."""
    found = [
        toddle_step(
            "demos", "record", {"env": list(scale.tasks), "episodes": scale.demonstrations},
            seconds=10 + 0.7 * scale.demonstrations * len(scale.tasks),
        )
    ]
    for seed in range(scale.seeds):
        at = f"seed{seed}"
        found.append(toddle_step(
            f"{at}/pretrain", "pretrain", {"steps": scale.pretrain_steps, "seed": seed},
            seconds=10 + scale.pretrain_steps / 1500,
        ))  # fmt: skip
        for name, modulation in (("converted", "residual"), ("dit_literal", "dit_literal")):
            settings = {
                "source": f"{{folder}}/{at}/pretrain/policy", "convert": {"modulation": modulation, "seed": seed},
                "backbone": {"name": scale.backbone},
            }
            found.append(
                toddle_step(f"{at}/transfer_{name}", "transfer", settings, after=[f"{at}/pretrain"], seconds=20)
            )
        for name in CONDITIONS:
            source = f"{at}/transfer_{'dit_literal' if name == 'dit_literal' else 'converted'}"
            init = {"init": "random", "like": f"{{folder}}/{source}/policy"}
            if name != "random":
                init = {"init": f"{{folder}}/{source}/policy"}
            tuning: dict[str, Any] = {
                **init, "dataset": ["{folder}/demos"], "cache": "{folder}/features", "seed": seed,
                "sft": {"steps": scale.sft_steps},
            }  # fmt: skip
            seconds = 20 + 0.16 * scale.sft_steps
            found.append(toddle_step(f"{at}/sft_{name}", "sft", tuning, after=["demos", source], seconds=seconds))
        evaluation: dict[str, Any] = {
            "policy": [f"{name}={{folder}}/{at}/sft_{name}/policy" for name in CONDITIONS], "env": list(scale.tasks),
            "episodes": scale.episodes, "push": True, "videos": 0, "max_episode_steps": 200,
        }  # fmt: skip
        found.append(toddle_step(
            f"{at}/evaluate", "evaluate", evaluation, after=[f"{at}/sft_{name}" for name in CONDITIONS],
            seconds=10 + 3.5 * scale.episodes * len(scale.tasks),
        ))  # fmt: skip
    return found


def collect(scale: Scale, folder: Path) -> list[Row]:
    """One row a seed, condition, task and disturbance (success), one a conversion (its exactness)."""
    rows: list[Row] = []
    for seed in range(scale.seeds):
        cells: dict[tuple[str, str, str], list[float]] = {}
        for line in read_episodes(folder / f"seed{seed}" / "evaluate" / "episodes.jsonl"):
            if (score := score_of(result_of(line))) is not None:
                cells.setdefault((line["candidate"], line["env"], line["condition"]), []).append(score)
        rows += [
            {"kind": "success", "seed": seed, "condition": c, "task": env, "disturbance": d, "episodes": len(scores),
             "successes": sum(scores)}
            for (c, env, d), scores in cells.items()
            if len(scores) == scale.episodes
        ]  # fmt: skip
        for name in ("converted", "dit_literal"):
            record = folder / f"seed{seed}" / f"transfer_{name}" / "transfer.json"
            if record.exists():
                levels = {level["level"]: level["deviation"] for level in json.loads(record.read_text())["levels"]}
                rows.append({"kind": "exactness", "seed": seed, "condition": name, **levels})
    return rows


def success(rows: Sequence[Row], condition: str, disturbance: str = "plain") -> list[float]:
    """Mean success over tasks of each seed, in the order of seeds."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        if row["kind"] == "success" and (row["condition"], row["disturbance"]) == (condition, disturbance):
            by_seed.setdefault(row["seed"], []).append(row["successes"] / row["episodes"])
    return [float(np.mean(by_seed[seed])) for seed in sorted(by_seed)]


def _gain(disturbance: str) -> Callable[[Sequence[Row]], Estimate | None]:
    def measure(rows: Sequence[Row]) -> Estimate | None:
        a, b = success(rows, "converted", disturbance), success(rows, "random", disturbance)
        return effect(a, b) if a and len(a) == len(b) else None

    return measure


def _literal(rows: Sequence[Row]) -> Estimate | None:
    """gain(dit_literal) - gain(converted) / 3 over seeds: at most 0 where the literal gate erases the gain."""
    random, converted, literal = (success(rows, name) for name in CONDITIONS)
    if not random or not len(random) == len(converted) == len(literal):
        return None
    return effect([(c - r) / 3 for r, c in zip(random, converted)], [d - r for r, d in zip(random, literal)])


def _exact(rows: Sequence[Row]) -> Estimate | None:
    """The greatest deviation of level C over seeds: the converted expert's flow sample against the RL chunk."""
    found = [row["C"] for row in rows if row["kind"] == "exactness" and row["condition"] == "converted" and "C" in row]
    return Estimate(value=max(found), low=min(found), high=max(found), count=len(found)) if found else None


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Success of each condition, over seeds."""
    groups: dict[str, dict[str, Interval]] = {}
    for disturbance, label in (("plain", "undisturbed"), ("pushed", "pushed")):
        for name in CONDITIONS:
            if values := success(rows, name, disturbance):
                found = effect(values)
                groups.setdefault(label, {})[name] = Interval(found.value, found.low, found.high)
    if not groups:
        return []
    svg = interval_bars(groups, colours_of(CONDITIONS), y_label="success, %", legend=True)
    caption = "Success after fine-tuning, mean over tasks; lines: 95 % bootstrap over seeds."
    return [Figure(name="success", svg=svg, caption=caption)]


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Every cell: successes of each seed."""
    cells: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["kind"] == "success":
            key = (row["task"], row["disturbance"], row["condition"])
            cells.setdefault(key, []).append(f"{row['successes']:.0f}/{row['episodes']}")
    lines = [[*key, ", ".join(values)] for key, values in sorted(cells.items())]
    return [("Every cell", ["task", "disturbance", "condition", "successes, one number a seed"], lines)]


STUDY = Study(
    name="conversion",
    title="Conversion: does the RL prior survive into the VLA, and does the literal gate erase it?",
    question=(
        "An action expert pretrained by RL on goal tracking is converted into a VLA's action expert and fine-tuned on "
        "demonstrations; the same architecture with fresh weights is the control."
    ),
    scales=SCALES, steps=steps, collect=collect, figures=figures, tables=tables,
    outcomes=(
        Outcome(name="gain", statement="success of converted minus random, undisturbed", measure=_gain("plain"),
                line=0.05, alpha=0.05, scale=100, unit="points"),
        Outcome(name="gain under pushes", statement="the same with one push in every episode",
                measure=_gain("pushed"), line=0.0, alpha=0.05, scale=100, unit="points"),
        Outcome(name="literal gate", statement="a third of the gain minus what dit_literal keeps of it is not negative",
                measure=_literal, line=0.0, alpha=0.05, scale=100, unit="points"),
        Outcome(name="exact", statement="level C: the converted expert's sample equals the RL chunk", measure=_exact,
                line=1e-5, at_most=True),
    ),
)  # fmt: skip
