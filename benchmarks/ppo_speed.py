"""PPO end to end (rollout and learning): toddle against stable-baselines3, skrl and rsl_rl, in one interleaved run.

    python benchmarks/ppo_speed.py [--rounds 12] [--only sb3 skrl] [--tasks HalfCheetah-v5]

Every contender is a process of its own that waits; a round asks each in turn for the same number of iterations, the
order rotates, and what counts is environment steps per CPU second (all threads), so that other users of the machine
fall on all alike.  Reported: medians over rounds, and medians of the ratio within a round.  `ppo_contenders.py` sets
the contenders up: same network, worlds, steps, epochs, minibatches, optimiser and rate.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers import ROOT, machine, peer_python

DEFAULT = {"worlds": 64, "steps": 32, "hidden": [64, 64], "epochs": 5, "minibatches": 4}
WIDE = DEFAULT | {"hidden": [256, 256]}
SMALL = DEFAULT | {"epochs": 10, "minibatches": 32}
TASKS = ("HalfCheetah-v5", "Ant-v5", "Humanoid-v5")
CASES: dict[str, dict[str, Any]] = {task: {"task": task, **DEFAULT} for task in TASKS}
CASES |= {f"{task}, wide network": {"task": task, **WIDE} for task in TASKS}
CASES["HalfCheetah-v5, minibatches of 64"] = {"task": "HalfCheetah-v5", **SMALL}
"""stable-baselines3's default network (2x64); a wide one (2x256); and its default minibatches and epochs."""
TARGETS = {"HalfCheetah-v5": (2.0, 2.5), "Ant-v5": (1.5, 1.8), "Humanoid-v5": (1.5, 1.8)}
"""Task -> (at least this against stable-baselines3, wanted against the best peer)."""
TITLES = {
    "toddle": "toddle",
    "toddle_half": "toddle, bfloat16 in the backward pass",
    "sb3": "stable-baselines3",
    "skrl": "skrl",
    "rsl_rl": "rsl_rl",
}

RATIOS = ("toddle_over_it", "physics_over_it")


class Worker:
    """One waiting process."""

    def __init__(self, name: str, case: dict[str, Any]) -> None:
        kind = "toddle" if name.startswith("toddle") else name
        setting = case | ({"half": True} if name == "toddle_half" else {})
        python = sys.executable if kind == "toddle" else peer_python(kind)
        command = [python, str(Path(__file__).with_name("ppo_contenders.py")), kind, json.dumps(setting)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start: run {' '.join(command[:3])} by hand")
        self.version = json.loads(line)

    def measure(self, iterations: int) -> tuple[float, float]:
        """Return CPU microseconds per environment step, and those of them in MuJoCo (0 for peers)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        steps, seconds, physics = json.loads(self.process.stdout.readline())
        return 1e6 * seconds / steps, 1e6 * physics / steps

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_case(case: dict[str, Any], names: list[str], rounds: int, iterations: int) -> dict[str, Any]:
    workers = {name: Worker(name, case) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    physics: list[float] = []
    for index in range(rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            cost, share = workers[name].measure(iterations)
            samples[name].append(cost)
            if name == "toddle":
                physics.append(share)
    rows = {}
    for name, values in samples.items():
        rows[name] = {
            "version": workers[name].version,
            "cpu_us_per_step": round(statistics.median(values), 1),
            "steps_per_cpu_second": round(1e6 / statistics.median(values)),
            "toddle_over_it": round(statistics.median(b / a for a, b in zip(samples["toddle"], values)), 2),
            "physics_over_it": round(statistics.median(b / a for a, b in zip(physics, values)), 2),
        }
        workers[name].close()
    return rows


def table(report: dict[str, Any]) -> str:
    lines = [
        "# PPO, end to end",
        "",
        f"`python benchmarks/ppo_speed.py`: {report['rounds']} interleaved rounds, one thread each; "
        f"{report['machine']}; load average {report['load']} at the start; torch {report['torch']}. "
        "CPU microseconds per environment step for rollout and learning "
        "together, medians over the rounds; the ratios are medians of the ratios within a round. Physics alone: the "
        "contender's time over that which toddle spends inside MuJoCo, the ratio of a learner that cost nothing.",
        "",
    ]
    for name, case in report["cases"].items():
        s = case["setting"]
        size = "x".join(str(width) for width in s["hidden"])
        lines += [
            f"## {name}",
            "",
            f"tanh {size} for policy and critic, {s['worlds']} worlds x {s['steps']} steps, {s['epochs']} epochs of "
            f"{s['minibatches']} minibatches of {s['worlds'] * s['steps'] // s['minibatches']}.",
            "",
            "| | version | CPU us/step | steps per CPU second | toddle is faster | physics alone is faster |",
            "|---|---|---|---|---|---|",
        ]
        for who, row in case["rows"].items():
            cells = [TITLES[who], row["version"], row["cpu_us_per_step"], f"{row['steps_per_cpu_second']:,}"]
            lines.append("| " + " | ".join(map(str, [*cells, *(f"x {row[key]:.2f}" for key in RATIOS)])) + " |")
        lines.append("")
        if "sb3" in case["rows"]:
            least, wanted = TARGETS[name.split(",")[0]]
            ratio = case["rows"]["sb3"]["toddle_over_it"]
            best = min(row["toddle_over_it"] for who, row in case["rows"].items() if not who.startswith("toddle"))
            lines += [
                f"Against stable-baselines3 x {ratio} (at least x {least}: "
                f"{'reached' if ratio >= least else 'missed'}); "
                f"against the best of the three x {best} (wanted x {wanted}: "
                f"{'reached' if best >= wanted else 'missed'}).",
                "",
            ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=3, help="iterations a contender makes in one turn")
    parser.add_argument("--only", nargs="*", default=["toddle_half", "sb3", "skrl", "rsl_rl"])
    parser.add_argument("--tasks", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "rounds": options.rounds,
        "torch": importlib.metadata.version("torch"),
        "cases": {},
    }
    for name in options.tasks:
        rows = run_case(CASES[name], ["toddle", *options.only], options.rounds, options.iterations)
        report["cases"][name] = {"setting": CASES[name], "rows": rows}
        print(name, json.dumps(rows), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ppo_speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "ppo_speed.md").write_text(table(report))


if __name__ == "__main__":
    main()
