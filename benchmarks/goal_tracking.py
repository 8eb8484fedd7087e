"""Goal tracking pretrained and measured on held-out goals, with its negative controls, as a curve over CPU seconds.

    python benchmarks/goal_tracking.py --cpu-seconds 400 --pretrain.env goal/sawyer
    python benchmarks/goal_tracking.py --cpu-seconds 400 --pretrain.env goal/ant --pretrain.causal.executed 4

Writes <out>/<body>.jsonl (one line a measurement; the first line holds the settings), <body>.png and <body>/ (the
policy).  A held-out goal has 1 to 6 items from configurations that training never asks for, at the full tolerance of
0.1; `success` is the share of goals whose items were all within it when the goal ended; a fall misses the goal.
`success/moved` is the same of the goals that were not met when they began: standing still holds a pose whichever goal
is shown, so goals to hold tell little of whether goals are used.  Floating bases begin on their feet.
Controls on the same policy and seeds: `shuffled` shows each world another world's goal, `none` hides the goal; `idle`
is the action 0.  CPU seconds are those of the training process alone, measurements not counted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal, cast

import matplotlib
import numpy as np
import torch
import tyro

from toddle.core.config import config, to_dict
from toddle.core.goal import FAMILIES
from toddle.core.protocols import Acting
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.experience.actor import Actor
from toddle.policies.store import save_policy
from toddle.recipes.pretrain import build, config_class, configure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KEYS = (
    "goal/success",
    "goal/level",
    "goal/error",
    "rollout/reward",
    "episode/length",
    "ppo/last_kl",
    "ppo/updates",
    "ppo/entropy",
    "ppo/explained_variance",
    "ppo/learning_rate",
)


Pretrain = config_class("ppo")
Control = Literal["own", "shuffled", "none", "idle"]
CONTROLS: tuple[Control, ...] = ("own", "shuffled", "none", "idle")


@config
class Config:
    """Pretrain on one body for a number of CPU seconds and measure on held-out goals."""

    pretrain: Pretrain = configure(checkpoint_every=10**9)
    """Settings of the pretraining; its `out` is not used, and one environment is measured."""
    out: Path = Path("docs/results/gctr")
    """Folder of the results."""
    cpu_seconds: float = 400.0
    """CPU seconds of training."""
    every: float = 50.0
    """CPU seconds between two measurements."""
    worlds: int = 64
    """Worlds of a measurement."""
    seconds: float = 5.0
    """Simulated seconds of a measurement; the last one takes `last` times as long."""
    last: float = 2.0
    """See `seconds`."""


def measure(
    policy: Acting, body: str, worlds: int, seconds: float, control: Control, seed: int = 777
) -> dict[str, float]:
    """Return success and error of held-out goals under one control, by family too."""
    shown: Literal["own", "shuffled", "none"] = "own" if control == "idle" else control
    env = GoalTrackingEnv(body, worlds, held_out=True, control=shown, recovery_fraction=0.0, episode_seconds=seconds)
    raw, _ = env.reset(seed=seed)
    actor, rows = Actor(env), list[Any]()
    actor.begin(policy)
    for _ in range(int(seconds / env.dt / policy.horizon)):
        decision = actor.decide(policy, actor.observe(raw), None, deterministic=True)
        chunk = actor.executable(decision) * (control != "idle")
        raw, _, terminated, truncated, info = env.step_chunk(chunk)
        actor.note(terminated | truncated)
        done = info["goal_done"]
        rows += list(zip(*(info[f"goal_{key}"][done] for key in ("success", "family", "error", "start_met", "items"))))
    env.close_extras()
    table = np.array(rows, dtype=float)
    moved = table[table[:, 3] == 0]
    facts = {
        "success": table[:, 0].mean(),
        "error": table[:, 2].mean(),
        "goals": len(table),
        "success/moved": moved[:, 0].mean(),
        "goals/moved": len(moved),
    }
    for index, family in enumerate(FAMILIES):
        chosen = table[table[:, 1] == index, 0]
        if len(chosen):
            facts[f"success/{family}"] = chosen.mean()
    return {key: round(float(value), 4) for key, value in facts.items()}


def draw(lines: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw success of held-out goals over CPU seconds."""
    figure, axes = plt.subplots(figsize=(6, 4))
    for index, control in enumerate(CONTROLS):
        for key, style in (("success", "-"), ("success/moved", "--")):
            points = [(line["cpu_seconds"], line[control][key]) for line in lines if control in line]
            label = control if key == "success" else f"{control}, goals not met at the start"
            axes.plot(*zip(*points), style, color=f"C{index}", marker="o", markersize=3, label=label)
    axes.set(xlabel="CPU seconds of training", ylabel="success of held-out goals", title=title, ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(settings: Config) -> None:
    """Train and measure."""
    torch.set_num_threads(1)
    body = settings.pretrain.env[0].removeprefix("goal/")
    settings.out.mkdir(parents=True, exist_ok=True)
    made = build(settings.pretrain)
    learner, policy, iterations = made.learner, made.policy, made.iterations
    policy.train()
    chooser = cast(Acting, policy)
    spent, last = 0.0, -np.inf
    lines: list[dict[str, Any]] = []
    facts: list[dict[str, float]] = []
    with open(settings.out / f"{body}.jsonl", "w") as log:
        head = {"settings": to_dict(settings), "parameters": sum(p.numel() for p in policy.parameters())}
        head["settings"] = json.loads(json.dumps(head["settings"], default=str))
        log.write(json.dumps(head) + "\n")
        for iteration in range(iterations):
            began = time.process_time()
            facts.append(learner.step())
            spent += time.process_time() - began
            ended = spent >= settings.cpu_seconds or iteration == iterations - 1
            if spent - last < settings.every and not ended:
                continue
            last = spent
            line: dict[str, Any] = {
                "cpu_seconds": round(spent, 1),
                "iteration": iteration + 1,
                "steps": sum(source.total_steps for source in learner.sources),
            }  # type: ignore[attr-defined]
            policy.eval()
            seconds = settings.seconds * (settings.last if ended else 1.0)
            for control in CONTROLS if ended or not lines else CONTROLS[:2]:
                line[control] = measure(chooser, body, settings.worlds, seconds, control)
            policy.train()
            line |= {
                key: round(float(np.mean([f[key] for f in facts if key in f])), 4)
                for key in KEYS
                if any(key in f for f in facts)
            }
            facts = []
            lines.append(line)
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(json.dumps({key: line.get(key) for key in ("cpu_seconds", "steps", "own", "shuffled")}), flush=True)
            if ended:
                break
    save_policy(settings.out / body, policy, {"envs": list(settings.pretrain.env), "cpu_seconds": spent})
    draw(lines, settings.out / f"{body}.png", f"goal/{body}: {lines[-1]['steps']:,} control steps")


if __name__ == "__main__":
    main(tyro.cli(Config))
