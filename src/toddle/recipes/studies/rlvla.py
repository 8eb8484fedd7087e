"""Study `rlvla`: what PPO, GRPO and DPO make of one fine-tuned VLA of tokens, judged where none of them has learned.

The comparison of RLVLA (arXiv 2505.19789) at the size of two cores; the outcomes were fixed before any run.  A VLA
learns two tasks from demonstrations and practises one of them by each method, from the same weights.  It is judged on
that task as it was, with other looks (vision), under pushes (execution), and on the task that it did not practise
(semantics: another sentence and object).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.config import merged
from toddle.recipes.studies._cells import Measure, Pairs, cells_of, gain, points, table
from toddle.reporting.study import Outcome, Row, Study
from toddle.runs.steps import Step, toddle_step

__all__ = ["SCALES", "STUDY", "Scale", "steps"]

PRACTISED, OTHER = "metaworld/drawer-open-v3", "metaworld/button-press-v3"
ARMS = ("sft", "ppo", "grpo", "dpo")
FILE = "answers.jsonl"
LOOKS = ("background", "light", "texture", "camera")
AXES = {"plain": "as trained", "pushed": "execution", "other": "semantics", **dict.fromkeys(LOOKS, "vision")}
"""By condition, what of the surroundings is another than in training."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int
    demonstrations: int = 20
    """Of each task."""
    updates: int = 1000
    """Of supervised learning."""
    steps: int
    """Control steps of PPO and of GRPO each; as many are recorded for DPO."""
    length: int = 150
    """Control steps of an episode at most."""
    worlds: int = 16
    episodes: int = 50
    """Of each evaluation."""
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of SFT besides."""


SCALES = {
    "small": Scale(seeds=3, steps=60_000),
    "medium": Scale(seeds=5, steps=400_000, updates=4000, worlds=64, episodes=100),
    "lab": Scale(seeds=5, steps=2_000_000, demonstrations=70, updates=20_000, worlds=128, episodes=200),
}


def steps(scale: Scale) -> list[Step]:
    """Demonstrations once; by seed the warm start, the three methods from it, and the evaluations of all four."""
    shown = {"env": [PRACTISED, OTHER], "episodes": scale.demonstrations}
    found = [toddle_step("demos", "record", shown, seconds=3.0 * scale.demonstrations)]
    for seed in range(scale.seeds):
        at, run = f"seed{seed}", 60 + scale.steps / 30
        start = f"{{folder}}/{at}/sft"
        learn = {"dataset": ["{folder}/demos"], "kind": "tokens", "sft": {"steps": scale.updates}, "seed": seed}
        learn = merged(learn, scale.common)
        found.append(toddle_step(f"{at}/sft", "sft", learn, after=["demos"], seconds=60 + 0.4 * scale.updates))
        practise = {"policy": start, "env": [PRACTISED], "steps": scale.steps, "worlds": scale.worlds, "seed": seed}
        practise |= {"max_episode_steps": scale.length, "evaluation": {"episodes": 4}}
        for method, preset in (("ppo", "tokens-alone"), ("grpo", "tokens")):
            settings = practise | {"method": method, "preset": preset}
            found.append(toddle_step(f"{at}/{method}", "finetune", settings, after=[f"{at}/sft"], seconds=run))
        found += _preferred(scale, at, start, seed, run)
        for arm in ARMS:
            for name, env in (("seen", PRACTISED), ("other", OTHER)):
                settings = {"policy": [f"policy={{folder}}/{at}/{arm}"], "env": [env], "episodes": scale.episodes}
                settings |= {"seed": 5_000_000, "videos": 0, "max_episode_steps": scale.length}
                settings |= {"push": True, "looks": list(LOOKS)} if name == "seen" else {}
                seconds = scale.episodes * (6 if name == "seen" else 1) * 3.0
                found.append(
                    toddle_step(f"{at}/{arm}-{name}", "evaluate", settings, after=[f"{at}/{arm}"], seconds=seconds)
                )
    return found


def _preferred(scale: Scale, at: str, start: str, seed: int, run: float) -> list[Step]:
    """Play, judge by success, and learn from the answers."""
    plays = max(8, scale.steps // scale.length)
    play = {"policy": start, "env": [PRACTISED], "episodes": plays, "keep_failures": True, "deterministic": False}
    play |= {"max_episode_steps": scale.length, "batch": min(plays, scale.worlds), "seed": 2_000_000 + 10_000 * seed}
    judge = {"dataset": f"{{folder}}/{at}/plays", "by": "success", "answers": plays, "seed": seed}
    train = {
        "policy": start,
        "dataset": f"{{folder}}/{at}/plays",
        "answers": f"{{folder}}/{at}/answers/{FILE}",
        "method": "tpo",
        "seed": seed,
    }
    judged = toddle_step(f"{at}/answers", "prefer judge", judge, after=[f"{at}/plays"], seconds=30)
    return [
        toddle_step(f"{at}/plays", "record", play, after=[f"{at}/sft"], seconds=run),
        replace(judged, settings=judged.settings | {"out": f"{{out}}/{FILE}"}),
        toddle_step(f"{at}/dpo", "prefer train", train, after=[f"{at}/answers"], seconds=run),
    ]


def collect(scale: Scale, folder: Path) -> list[Row]:
    """Rows: the share of an evaluation's episodes that succeeded, one a condition."""
    rows: list[Row] = []
    for seed in range(scale.seeds):
        for arm in ARMS:
            for name in ("seen", "other"):
                file = folder / f"seed{seed}" / f"{arm}-{name}" / "episodes.jsonl"
                for (_, _, condition), scores in cells_of(file).items() if file.exists() else ():
                    condition = "other" if name == "other" else condition
                    labels = {"seed": seed, "arm": arm, "condition": condition, "axis": AXES[condition]}
                    rows.append(labels | {"success": float(np.mean(scores))})
    return rows


def _of(rows: Sequence[Row], arm: str, axis: str) -> Pairs:
    return {(row["seed"], row["condition"]): row["success"] for row in rows if (row["arm"], row["axis"]) == (arm, axis)}


def over(first: str, second: str, axis: str) -> Measure:
    """Return the measure of one arm's success less another's, (seeds, conditions of the axis)."""
    return lambda rows: gain(_of(rows, first, axis), _of(rows, second, axis))


def tables(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Success by arm and axis, with intervals over seeds."""
    axes = list(dict.fromkeys(AXES.values()))
    body = []
    for arm in ARMS:
        found = [points(table(_of(rows, arm, axis))) for axis in axes]
        body.append(
            [arm, *("" if one is None else f"{one.value:.0f} [{one.low:.0f}, {one.high:.0f}]" for one in found)]
        )
    return [("Success, %, with 95 % intervals over seeds", ["learned by", *axes], body)] if rows else []


def _outcome(name: str, statement: str, other: str, axis: str, line: float) -> Outcome:
    said = f"PPO minus {other.upper()}, {statement}"
    return Outcome(name=name, statement=said, line=line, measure=over("ppo", other, axis), scale=100, unit="points")


OUTCOMES = (
    _outcome("practised", "as trained", "sft", "as trained", 0.05),
    _outcome("execution", "pushed", "sft", "execution", 0.05),
    _outcome("vision", "with other looks", "sft", "vision", -0.05),
    _outcome("semantics", "on the task that was not practised", "sft", "semantics", -0.05),
    _outcome("grpo", "as trained", "grpo", "as trained", 0.0),
    _outcome("dpo", "as trained", "dpo", "as trained", 0.0),
)
STUDY = Study(
    name="rlvla",
    title="PPO, GRPO and DPO from one VLA, judged where none has learned",
    question=(
        "A VLA of tokens that demonstrations of two tasks have taught practises one of them by PPO, by GRPO, or by "
        "preferences among its own plays. Which gains, and what is left of the gain under pushes, with other looks, "
        "and on the task that was not practised?"
    ),
    scales=SCALES,
    steps=steps,
    collect=collect,
    labels=("seed", "arm", "condition"),
    outcomes=OUTCOMES,
    tables=tables,
    notes=(
        "PPO's critic is beside the policy's frozen context and shares no trunk with it, where RLVLA's does.",
        "GRPO is by groups of one start, where RLVLA's normalises over the batch.",
        "Semantics are one other task that was demonstrated, where RLVLA has unseen objects and sentences.",
        "DPO's loss is that of whole episodes (tpo), on as many control steps of play as PPO learns from.",
    ),
)
