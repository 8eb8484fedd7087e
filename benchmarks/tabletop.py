"""The tabletop tasks: what their experts solve, and how much of a control step is bare physics.

    python benchmarks/tabletop.py            docs/benchmarks/tabletop.{json,md}

64 worlds under random actions on one thread; CPU seconds of the thread inside `MujocoPool.step` beside those of the
whole control step, in the same run; medians of five rounds of 40 control steps.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from toddle.envs.families.tabletop import MEMBERS
from toddle.envs.make import make_env

OUT = Path(__file__).parent.parent / "docs/benchmarks"
STARTS, WORLDS, ROUNDS, STEPS = 32, 64, 5, 40


def solved(task: str) -> int:
    """Return how many of the first starts the expert solves within the task's limit."""
    env: Any = make_env(f"tabletop/{task}", STARTS, seed=0)
    env.reset(seed=0)
    best = np.zeros(STARTS, bool)
    for _ in range(env.max_episode_steps - 1):
        best |= env.step(env.expert_action())[-1]["success"]
    return int(best.sum())


def cost(task: str) -> tuple[float, float]:
    """Return CPU microseconds of a control step, and the share of them that is physics."""
    env: Any = make_env(f"tabletop/{task}", WORLDS, seed=0)
    env.reset(seed=0)
    step, physics = env.pool.step, [0.0]

    def timed(*given: Any) -> None:
        began = time.thread_time()
        step(*given)
        physics[0] += time.thread_time() - began

    env.pool.step = timed
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, WORLDS, 7)).astype(np.float32)
    rounds = []
    for _ in range(ROUNDS):
        physics[0], began = 0.0, time.thread_time()
        for action in actions:
            env.step(action)
        whole = time.thread_time() - began
        rounds.append((1e6 * whole / STEPS / WORLDS, physics[0] / whole))
    return statistics.median(each for each, _ in rounds), statistics.median(share for _, share in rounds)


def main() -> None:
    load = os.getloadavg()[0]
    rows = []
    for task in MEMBERS:
        micro, share = cost(task)
        rows.append({"task": task, "solved": solved(task), "microseconds": micro, "physics": share})
    (OUT / "tabletop.json").write_text(json.dumps({"load": load, "rows": rows}) + "\n")
    text = "# Tabletop tasks: experts and speed\n\n"
    text += f"`python benchmarks/tabletop.py`, load average {load:.1f} at the start.\n"
    text += f"One thread, {WORLDS} worlds, random actions; starts are seeds 0 to {STARTS - 1}.\n\n"
    text += f"| task | its expert solves, of {STARTS} | CPU us a control step | of it physics |\n|---|---|---|---|\n"
    for row in rows:
        text += f"| {row['task']} | {row['solved']} | {row['microseconds']:.0f} | {row['physics']:.3f} |\n"
    (OUT / "tabletop.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
