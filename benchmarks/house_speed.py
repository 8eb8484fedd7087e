"""Is toddle as fast as it was?  A commit of before beside the present tree, by the same commands.

    git worktree add --detach /tmp/before fa567b0
    python benchmarks/house_speed.py --before /tmp/before [--rounds 5]

Both run as processes of one thread, in turn, in every round in the other order: `toddle pretrain` on goal/sawyer (64
worlds; an iteration is a rollout of 8,192 control steps and the updates on it) and `toddle sft` of a FlowVLA (batch 16,
cached features) on demonstrations that the tree of before recorded.  Measured are CPU seconds of all threads inside
the loop (the loop's clock is replaced, so that other processes on the machine count less); of a run the median over
its iterations, of the runs the median; the ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
OUT = HERE / "docs/benchmarks"
CHILD = """
import json, resource, sys, time
time.perf_counter = time.process_time
from toddle.cli import main
try:
    from toddle.experience.collect import Collector
except ImportError:
    from toddle.training.collect import Collector
seconds, collect = [], Collector.collect
def timed(self, *given):
    began = time.process_time()
    made = collect(self, *given)
    seconds.append(time.process_time() - began)
    return made
Collector.collect = timed
try:
    main(sys.argv[2:])
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    open(sys.argv[1], "w").write(json.dumps([seconds, peak]))
"""
COUNT = """
import cProfile, json, pstats, sys
from toddle.algorithms.ppo import PPO
from toddle.algorithms.sft import SFT
from toddle.cli import main
profile, steps = cProfile.Profile(), []
def counted(step):
    def run(self):
        steps.append(1)
        if len(steps) <= 2:
            return step(self)
        profile.enable()
        try:
            return step(self)
        finally:
            profile.disable()
    return run
PPO.step, SFT.step = counted(PPO.step), counted(SFT.step)
try:
    main(sys.argv[2:])
finally:
    calls = pstats.Stats(profile).total_calls / (len(steps) - 2)
    open(sys.argv[1], "w").write(json.dumps([[calls], 0]))
"""
PRETRAIN = "pretrain --env goal/sawyer --worlds 64 --steps 65536 --checkpoint-every 100"
RECORD = "record --env metaworld/reach-v3 --episodes 4"
SFT = "sft --sft.steps 60 --sft.batch 16 --checkpoint-every 100"
ROWS = {
    "iteration": ("PPO, an iteration, ms", 1000),
    "collect": ("of it the rollout, ms", 1000),
    "iteration_mib": ("PPO, peak memory, MiB", 1),
    "sft": ("FlowVLA, a step of SFT, ms", 1000),
    "sft_mib": ("SFT, peak memory, MiB", 1),
}
"""Key of the data -> what it is, and by what it is multiplied."""


def toddle(
    tree: Path, folder: Path, name: str, command: str, *more: str, code: str = CHILD
) -> tuple[list[float], list[float], float]:
    """Run a command with a tree's code; return CPU seconds of its iterations and rollouts, and its peak MiB."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
    arguments = [sys.executable, "-c", code, f"{name}.json", *command.split(), *more, "--out", name]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[4:])}: {done.stderr[-2000:]}")
    metrics = folder / name / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    rollouts, peak = json.loads((folder / f"{name}.json").read_text())
    return [row["time/iteration_seconds"] for row in rows], rollouts, peak


def measure(trees: dict[str, Path], rounds: int) -> list[dict[str, dict[str, float]]]:
    """Return for every round, tree and row the median of the CPU seconds."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toddle(trees["before"], folder, "demos", RECORD)
        for number in range(rounds):
            made: dict[str, dict[str, float]] = {}
            for tree in sorted(trees, reverse=bool(number % 2)):
                iterations, rollouts, memory = toddle(trees[tree], folder, f"rl-{tree}-{number}", PRETRAIN)
                steps, _, more = toddle(trees[tree], folder, f"sft-{tree}-{number}", SFT, "--dataset", "demos")
                made[tree] = {
                    "iteration": statistics.median(iterations[2:]),
                    "collect": statistics.median(rollouts[2:]),
                    "iteration_mib": memory,
                    "sft_mib": more,
                    "sft": statistics.median(steps[10:]),
                }
            found.append(made)
            print(json.dumps(made), flush=True)
    return found


def count(trees: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Return how many Python and C calls an iteration of each makes, by tree: what no other process can change.

    The runs are shorter than those that are timed, as the profiler slows them.
    """
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toddle(trees["before"], folder, "demos", RECORD)
        for tree, path in trees.items():
            _, rl, _ = toddle(path, folder, f"rl-{tree}", PRETRAIN.replace("65536", "40960"), code=COUNT)
            _, sft, _ = toddle(path, folder, f"sft-{tree}", SFT.replace("60", "30"), "--dataset", "demos", code=COUNT)
            found[tree] = {"iteration": rl[0], "sft": sft[0]}
    return found


def page(data: dict[str, Any]) -> str:
    """Return the page of the data."""
    lines = [
        "# As fast as before the house was put in order?",
        "",
        f"`python benchmarks/house_speed.py --before <a checkout of {data['before']}>`: {len(data['rounds'])} rounds, "
        f"both in turn, one thread, CPU time, medians; now is {data['after']}; load average {data['load']:.1f} at the "
        "start. A ratio above 1 means more now; in brackets the least and the greatest of the rounds.",
        "",
        "| | before | now | now / before |",
        "|---|---|---|---|",
    ]
    for key, (label, factor) in ROWS.items():
        before, now = ([row[tree][key] for row in data["rounds"]] for tree in ("before", "now"))
        ratios = [b / a for a, b in zip(before, now, strict=True)]
        middle = [factor * statistics.median(values) for values in (before, now)]
        lines.append(
            f"| {label} | {middle[0]:.1f} | {middle[1]:.1f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
        )
    calls = data["calls"]
    for key, label in (("iteration", "PPO, calls an iteration"), ("sft", "SFT, calls a step")):
        before, now = calls["before"][key], calls["now"][key]
        lines.append(f"| {label} | {before:,.0f} | {now:,.0f} | {now / before:.3f} |")
    lines += ["", "Calls are those of Python and of C functions under cProfile, which no other process can change."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the data and the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    trees = {"before": arguments.before.resolve(), "now": HERE.resolve()}
    commits = {
        tree: subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=path, capture_output=True, text=True, check=True
        ).stdout.strip()
        for tree, path in trees.items()
    }
    data: dict[str, Any] = {"before": commits["before"], "after": commits["now"], "load": os.getloadavg()[0]}
    data |= {"rounds": measure(trees, arguments.rounds), "calls": count(trees)}
    (OUT / "house_speed.json").write_text(json.dumps(data, indent=1) + "\n")
    (OUT / "house_speed.md").write_text(page(data))


if __name__ == "__main__":
    main()
