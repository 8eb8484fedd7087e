"""Study `walk`: do bodies with legs learn to walk by the generic reward, one reward for all, alone and together?

The outcomes were fixed before any run of it.  For every seed each body learns alone from the goals of `walk/<body>`; an
arm learns alone from `goal/sawyer`; and all of them learn together with one trunk at equal weight.  Each policy is
evaluated with its own commands, undisturbed and pushed, and with those of another world.  Then a walker becomes a
vision-language-action model: fine-tuned on a few of its own episodes with sentences and pictures (`spoken/<body>`), and
compared with random weights that learn from the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toddle.core.config import merged
from toddle.core.reading import read_json
from toddle.maths.walking import SENTENCES
from toddle.recipes.studies import _walk_page as page
from toddle.reporting.study import Outcome, Row, Study
from toddle.runs.steps import Step, toddle_step

__all__ = ["STUDY"]

ARM = "goal/sawyer"
CONTROLS = ("own", "shuffled")
STARTS: dict[str, dict[str, Any] | None] = {
    "converted": {},
    "re-anchored": {"fresh_adapter": True, "fresh_decoder": True},
    "random": None,
}
"""What becomes of the walker: kept, kept but for what reads the VLM and says actions, nothing (its architecture)."""
WALKER = "RL policy"
"""The walker itself, which is told by tokens: the most that imitating it can come to."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    seeds: int
    bodies: Mapping[str, int]
    """Control steps that each body learns from alone."""
    rates: Mapping[str, float]
    """Control steps a second of one core, roughly, learning included."""
    arm: int
    """Control steps of the arm alone."""
    spoken: tuple[str, ...] = ("ant",)
    """Bodies whose walkers become VLAs."""
    demonstrations: int = 10
    """Of each sentence, by the walker, whatever came of them."""
    sft_steps: int = 600
    share: float = 1.0
    """Control steps of each environment in learning together, as a share of the mean of those alone."""
    worlds: int = 128
    episodes: int = 50
    """Evaluation episodes of each cell."""
    videos: int = 2
    common: dict[str, Any] = field(default_factory=dict)
    """Settings of every pretraining."""


RATES = {"ant": 1800.0, "go1": 600.0, "humanoid": 1200.0}
SCALES = {
    "small": Scale(
        seeds=3,
        bodies={"ant": 6_000_000, "go1": 4_000_000, "humanoid": 8_000_000},
        rates=RATES,
        arm=1_000_000,
        share=0.5,
    ),
    "medium": Scale(
        seeds=5,
        bodies={"ant": 30_000_000, "go1": 30_000_000, "humanoid": 60_000_000},
        rates=RATES,
        arm=4_000_000,
        worlds=512,
        episodes=100,
    ),
    "lab": Scale(
        seeds=5,
        bodies={"ant": 200_000_000, "go1": 200_000_000, "humanoid": 400_000_000},
        rates=RATES,
        arm=10_000_000,
        worlds=2048,
        episodes=200,
    ),
}


def _pretrain(scale: Scale, at: str, envs: list[str], total: int, seed: int, seconds: float, **more: Any) -> Step:
    settings = {"env": envs, "worlds": scale.worlds, "steps": total, "seed": seed, "preset": "walk"}
    return toddle_step(f"{at}/train", "pretrain", merged(merged(settings, more), scale.common), seconds=seconds)


def _evaluations(scale: Scale, at: str, envs: list[str], seconds: float) -> list[Step]:
    """Evaluate what `at` has learned: with its own goals, pushed too, and with another world's."""
    found = []
    for control in CONTROLS:
        settings = {
            "policy": [f"policy={{folder}}/{at}/train/policy"],
            "env": envs,
            "control": control,
            "push": control == "own",
            "episodes": scale.episodes,
            "num_envs": min(scale.episodes, 25),
            "videos": scale.videos if control == "own" else 0,
            "seed": 5_000_000,
        }
        found.append(toddle_step(f"{at}/{control}", "evaluate", settings, after=[f"{at}/train"], seconds=seconds))
    return found


def _spoken(scale: Scale, body: str, seed: int) -> list[Step]:
    """Record the walker of a body with sentences and pictures, fine-tune each start on that, evaluate them all."""
    at, env, seen = f"seed{seed}/{body}", f"spoken/{body}", {"cameras": ["head"]}
    walker, count = f"{{folder}}/{at}/train/policy", len(SENTENCES)
    record = {"policy": walker, "env": [env], "episodes": count * scale.demonstrations, "batch": count}
    told = seen | {"keep_failures": True, "seed": 1_000_000 + 10_000 * seed}
    found = [toddle_step(f"{at}/demos", "record", record | told, after=[f"{at}/train"], seconds=30)]
    for name, convert in STARTS.items():
        source, init = f"{at}/transfer/{name}", {"init": f"{{folder}}/{at}/transfer/{name}/policy"}
        if convert is None:
            source = f"{at}/transfer/converted"
            init = {"init": "random", "like": f"{{folder}}/{source}/policy"}
        else:
            convert = {"source": walker, "convert": {"seed": seed} | convert} | seen
            found.append(toddle_step(source, "transfer", convert, after=[f"{at}/train"], seconds=20))
        sft = {"dataset": [f"{{folder}}/{at}/demos"], "seed": seed, "cache": "{folder}/features", "refit_proprio": True}
        sft |= init | {"sft": {"steps": scale.sft_steps, "learning_rate": 1e-3}}
        seconds = 15 + 0.05 * scale.sft_steps
        found.append(toddle_step(f"{at}/sft/{name}", "sft", sft, after=[f"{at}/demos", source], seconds=seconds))
    policies = [f"{_file(WALKER)}={walker}", *(f"{name}={{folder}}/{at}/sft/{name}/policy" for name in STARTS)]
    evaluate = {"policy": policies, "env": [env], "episodes": count * -(-scale.episodes // count), "num_envs": count}
    evaluate |= {"videos": scale.videos, "seed": 5_000_000}
    after = [f"{at}/sft/{name}" for name in STARTS]
    return [*found, toddle_step(f"{at}/spoken", "evaluate", evaluate, after=after, seconds=3 * scale.episodes)]


def _file(name: str) -> str:
    return name.replace(" ", "_")


def _envs(scale: Scale) -> list[str]:
    return [ARM, *(f"walk/{body}" for body in scale.bodies)]


def steps(scale: Scale) -> list[Step]:
    """Each body alone, the arm alone, and all together, by seed."""
    found: list[Step] = []
    walks = 1.5 * scale.episodes * 700 / 600.0 + 30
    mean = scale.share * (sum(scale.bodies.values()) + scale.arm) / (1 + len(scale.bodies))
    slow = sum(mean / scale.rates[body] for body in scale.bodies) + mean / 2500
    for seed in range(scale.seeds):
        for body, total in scale.bodies.items():
            at = f"seed{seed}/{body}"
            found.append(_pretrain(scale, at, [f"walk/{body}"], total, seed, 30 + total / scale.rates[body]))
            found += _evaluations(scale, at, [f"walk/{body}"], walks)
            found += _spoken(scale, body, seed) if body in scale.spoken else []
        at = f"seed{seed}/arm"
        found.append(_pretrain(scale, at, [ARM], scale.arm, seed, 30 + scale.arm / 2500, preset="goals", worlds=64))
        found += _evaluations(scale, at, [ARM], 60)
        at = f"seed{seed}/together"
        total = round(mean * (1 + len(scale.bodies)))
        found.append(_pretrain(scale, at, _envs(scale), total, seed, 60 + slow))
        found += _evaluations(scale, at, _envs(scale), walks * len(scale.bodies) + 60)
    return found


def collect(scale: Scale, folder: Path) -> list[Row]:
    """Rows: one a cell of a finished evaluation."""
    rows: list[Row] = []
    for seed in range(scale.seeds):
        for name in (*scale.bodies, "arm", "together"):
            for control in CONTROLS:
                file = folder / f"seed{seed}" / name / control / "summary.json"
                for cell in read_json(file, {"cells": list})["cells"] if file.exists() else ():
                    labels = {"seed": seed, "training": "together" if name == "together" else "alone"}
                    labels |= {"control": control, "condition": cell["condition"]}
                    body = cell["env"].partition("/")[2]
                    success = {"success": cell["success"]["value"]} if cell["success"] else {}
                    rows.append(labels | {"body": body, "arm": cell["env"] == ARM} | success | cell["walking"])
        for body in scale.spoken:
            file = folder / f"seed{seed}" / body / "spoken" / "summary.json"
            for cell in read_json(file, {"cells": list})["cells"] if file.exists() else ():
                labels = {"seed": seed, "training": page.told(cell["candidate"].replace("_", " ")), "control": "own"}
                labels |= {"condition": cell["condition"], "body": body, "arm": False}
                rows.append(labels | cell["walking"])
    return rows


# ---- outcomes, fixed before any run ----------------------------------------------------------------------------------
PERCENT: dict[str, Any] = {"scale": 100, "unit": "%"}
POINTS: dict[str, Any] = {"scale": 100, "unit": "points"}
OUTCOMES = (
    Outcome(name="ant", statement="velocity goals that Ant tracks", line=0.8, measure=page.of("ant"), **PERCENT),
    Outcome(name="go1", statement="velocity goals that Go1 tracks", line=0.8, measure=page.of("go1"), **PERCENT),
    Outcome(
        name="humanoid",
        statement="metres an episode that Humanoid walks as commanded before it falls",
        line=10.0,
        measure=page.of("humanoid", "walked"),
        unit="m",
    ),
    Outcome(
        name="listens",
        statement="velocity goals tracked, own commands minus another world's",
        line=0.3,
        measure=page.listens,
        **POINTS,
    ),
    Outcome(
        name="stands",
        statement="pushed episodes of Ant and Go1 that do not end in a fall",
        line=0.8,
        measure=page.stands,
        **PERCENT,
    ),
    Outcome(
        name="together",
        statement="velocity goals tracked, learned together minus alone",
        line=-0.1,
        measure=page.together,
        **POINTS,
    ),
    Outcome(
        name="arm",
        statement="goals of the arm reached, learned together minus alone",
        line=-0.05,
        measure=page.arm,
        **POINTS,
    ),
    Outcome(
        name="told",
        statement="velocity goals tracked by sentence after 10 episodes of each, converted walker minus random weights",
        line=0.2,
        measure=page.by_sentence,
        **POINTS,
    ),
)

NOTES = (
    "The fourth body with legs, Unitree's G1, is not part of it: its model is in an extra of its own (`humanoids`).",
    "Learning together gives each environment `share` of the mean steps of those alone, not as many as the body had.",
    "A held-out body's gain from the shared trunk is not part of it (`--init` gives a new body networks of its own).",
    "A velocity is tracked by its mean over the second half of a goal, within 0.1 sqrt(g L) and 0.1 sqrt(g / L).",
    "By sentence: five velocities and standing, six seconds each, from `record`'s pictures at the body's head; "
    "all starts are fine-tuned on the same episodes of the walker, failures included, and refit proprioception.",
    "Ant's and Humanoid's motors are servos of the same strength here, and Humanoid has flat feet "
    "(docs/goal_tracking.md).",
)
STUDY = Study(
    name="walk",
    title="Walk: bodies with legs by one generic reward",
    question=(
        "An arm, a quadruped, an ant and a humanoid are given goals by one dimensionless reward that names no gait. Do "
        "those with legs walk as they are commanded, stay on their feet when pushed, and lose nothing when all of "
        "them, the arm included, share one trunk?"
    ),
    scales=SCALES,
    steps=steps,
    collect=collect,
    labels=("seed", "training", "control", "condition", "body", "arm"),
    outcomes=OUTCOMES,
    figures=page.figures,
    tables=page.tables,
    notes=NOTES,
)
