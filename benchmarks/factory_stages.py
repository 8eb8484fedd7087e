"""What a successful episode with pictures costs in the factory, by stage.

    LP_NUM_THREADS=1 python benchmarks/factory_stages.py [--policy FOLDER] [--task window-open-v3]

It writes docs/benchmarks/factory_stages.{json,md}: CPU microseconds of the process for an episode: played from state
(by a policy or the scripted expert), played once more from its actions, the same with pictures drawn (their
difference is the drawing), encoded, and the other writing.  Medians of three rounds over the same 16 episodes, pictures
of 96 pixels every 4 control steps.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.rendering import FAST
from toddle.data.layout import DatasetSpec
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.video import write_video
from toddle.envs.make import make_env
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import Demonstration, ExpertActor, PolicyActor, demonstrate, row_features
from toddle.experience.replay import ReplayActor, replayed
from toddle.policies.store import load_policy

OUT = Path(__file__).parent.parent / "docs/benchmarks"
EPISODES, ROUNDS, SIZE, STRIDE, GOAL = 16, 3, 96, 4, 10_000
CORES = 2


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds of the process, and what the call returned."""
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


def stages(task: str, policy: Path | None) -> tuple[list[dict[str, float]], list[Demonstration], int]:
    """Return seconds of each stage for each round, the episodes, and how many were played for them."""
    state = make_env(f"metaworld-state/{task}", EPISODES)
    blind, seeing = (
        make_env(f"metaworld/{task}", EPISODES),
        make_env(f"metaworld/{task}", EPISODES, cameras=("close",), image_size=SIZE, render=FAST),
    )
    stored = None if policy is None else load_policy(policy, acting=True)
    actor: Any = ExpertActor() if stored is None else PolicyActor(stored, body=body_in(stored, state))
    seeds, rounds, drawn = list(range(EPISODES)), [], list[Demonstration]()
    for _ in range(ROUNDS):
        play, episodes = timed(lambda: demonstrate(state, actor, seeds, after_success=0))
        won = {one.seed: one.columns["action"] for one in episodes if one.success}

        def again(env: Any, actions: dict[int, Any] = won) -> list[Demonstration]:
            return list(replayed(env, ReplayActor(actions), most=EPISODES, done=(), image_stride=STRIDE))

        physics, _ = timed(lambda: again(blind))
        pictures, drawn = timed(lambda: again(seeing))
        with tempfile.TemporaryDirectory() as folder:
            encode, _ = timed(functools.partial(_encode, Path(folder), drawn))
            whole, _ = timed(functools.partial(_write, Path(folder) / "dataset", seeing, drawn))
        rounds.append(
            {
                "play from state": play,
                "physics once more": physics,
                "draw pictures": pictures - physics,
                "encode video": encode,
                "other writing": whole - encode,
            }
        )
    return rounds, drawn, EPISODES


def _encode(folder: Path, drawn: list[Demonstration]) -> None:
    for one in drawn:
        held = np.arange(one.length) // STRIDE
        write_video(folder / f"{one.seed}.mp4", one.images["close"][held], 80)


def _write(folder: Path, env: Any, drawn: list[Demonstration]) -> None:
    spec = DatasetSpec(
        fps=80,
        features=row_features(env),
        robot_type=env.body,
        cameras={"close": (SIZE, SIZE)},
        image_stride=STRIDE,
    )
    with DatasetWriter(folder, spec) as writer:
        for one in drawn:
            writer.add_episode(one.columns, one.images, one.task)


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--task", default="window-open-v3")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    rounds, drawn, played = stages(given.task, given.policy)
    micro = {name: 1e6 * statistics.median(each[name] for each in rounds) / len(drawn) for name in rounds[0]}
    total = sum(micro.values())
    rows = sum(one.length for one in drawn) / len(drawn)
    found = {
        "task": given.task,
        "actor": "a diffusion policy of the factory" if given.policy else "the scripted expert",
        "load": load,
        "successes": len(drawn),
        "played": played,
        "rows_an_episode": rows,
        "cpu_microseconds_an_episode": micro,
        "episodes_an_hour_a_core": 3600e6 / total,
    }
    (OUT / "factory_stages.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# What an episode of the factory costs",
        "",
        f"`LP_NUM_THREADS=1 python benchmarks/factory_stages.py`, load average {load:.1f} at the "
        f"start. One process, {given.task}, {found['actor']}:",
        f"{len(drawn)} of {played} episodes succeeded, {rows:.0f} rows on average; pictures of {SIZE} pixels every "
        f"{STRIDE} rows. Failures count for those that succeeded.",
        "",
        "| stage | CPU us an episode |",
        "|---|---|",
        *(f"| {name} | {value:,.0f} |" for name, value in micro.items()),
        f"| all | {total:,.0f} |",
        "",
        f"{3600e6 / total:,.0f} episodes an hour of one core; {CORES} cores that do nothing else would make "
        f"{CORES * 3600e6 / total:,.0f} (computed; the goal is {GOAL:,}).",
    ]
    (OUT / "factory_stages.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
