"""SAC beside stable-baselines3's: what an update costs for each critic, interleaved; what is learned in equal steps.

    python benchmarks/off_policy.py [--rounds 12] [--learning] [--seeds 3]

An update is one of all critics and one of the actor, batch 256, networks 3 x 256 with ReLU, 17 numbers of state and 6
of action.  Every contender is a process of its own that waits (`off_policy_contenders.py`); a round asks each in turn
for the same number of updates, the order rotates, and what counts is CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import ROOT, machine, peer_python

CONTENDERS: dict[str, dict[str, Any]] = {
    "stable-baselines3, 2 critics": {"kind": "sb3", "critics": 2},
    "toddle, 2 critics": {"kind": "toddle", "critics": 2, "subset": 2},
    "toddle, 10 critics": {"kind": "toddle", "critics": 10, "subset": 2},
    "toddle, 10 critics, layer norm": {"kind": "toddle", "critics": 10, "subset": 2, "layer_norm": True},
}
GOAL = 1.5
"""As fast for each critic as stable-baselines3 (issue 23)."""
TASK, STEPS, EPISODES = "Pendulum-v1", 6000, 10


class Worker:
    """One waiting process."""

    def __init__(self, job: dict[str, Any]) -> None:
        python = sys.executable if job["kind"] == "toddle" else peer_python("sb3")
        command = [python, str(Path(__file__).with_name("off_policy_contenders.py")), json.dumps(job)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.version = self.read()

    def read(self) -> Any:
        """Return the next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended: run {self.process.args} by hand")
        return json.loads(line)

    def ask(self, number: int) -> Any:
        """Return what it says to a number."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def speed(rounds: int, updates: int) -> dict[str, Any]:
    """Return, for each contender, CPU milliseconds of an update for each critic, and the ratio to stable-baselines3."""
    workers = {name: Worker({"job": "speed", **job}) for name, job in CONTENDERS.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    names = list(workers)
    for index in range(rounds + 1):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            said = workers[name].ask(updates)
            if index:  # the first warms up
                found[name].append(said)
    for worker in workers.values():
        worker.close()
    peer = names[0]
    out = {}
    for name, rows in found.items():
        critics = CONTENDERS[name]["critics"]
        each = [row["update"] / critics for row in rows]
        ratios = [theirs["update"] / 2 / mine for theirs, mine in zip(found[peer], each, strict=True)]
        out[name] = {
            "update_ms": statistics.median(row["update"] for row in rows),
            "each_critic_ms": statistics.median(each),
            "sampling_share": statistics.median(row["sampling"] / row["update"] for row in rows),
            "ratio": statistics.median(ratios),
            "ratio_spread": [min(ratios), max(ratios)],
        }
    return {"contenders": out, "versions": {name: worker.version for name, worker in workers.items()}}


def replay() -> dict[str, Any]:
    """Return what drawing 256 decisions costs of a million of 512 numbers, in float16 in a mapped file."""
    import torch

    from toddle.data.replay import Decisions, Store

    count, numbers, part = 1_000_000, 512, 50_000
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "online"
        store = Store(count, numbers, 7, kind="float16", file=file)
        for _ in range(count // part):
            rows = torch.randn(part, numbers, generator=g)
            store.add(Decisions(rows, rows[:, :7].tanh(), rows, rows[:, 0], torch.full((part,), 0.99)))
        state, size = store.state_dict(), store.size
        del store
        for name in (".seen", ".paid"):  # the next draws come from the disk
            with open(file.with_suffix(name), "rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        store = Store(count, numbers, 7, kind="float16", file=file)
        store.load_state_dict(state)
        found = {}
        for name, clock, draws in (("first_ms", time.perf_counter, 20), ("draw_ms", time.process_time, 2000)):
            began = clock()
            for _ in range(draws):
                store.at(torch.randint(count, (1, 256), generator=g))
            found[name] = 1e3 * (clock() - began) / draws
    return {"decisions": count, "numbers": numbers, "bytes": size, **found}


def learning(seeds: int) -> dict[str, Any]:
    """Return the mean return of ten episodes after STEPS steps of TASK, for each seed."""
    out: dict[str, list[float]] = {}
    for seed in range(seeds):
        for kind in ("sb3", "toddle"):
            worker = Worker({"job": "learning", "kind": kind, "task": TASK, "steps": STEPS, "episodes": EPISODES})
            out.setdefault(kind, []).append(worker.ask(seed))
            worker.close()
            print(f"{TASK}, seed {seed}, {kind}: {out[kind][-1]}", flush=True)
    return {"task": TASK, "steps": STEPS, "returns": out}


def main() -> None:
    """Measure and write docs/benchmarks/off_policy.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--learning", action="store_true", help="what is learned, in place of what an update costs")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    file = ROOT / "docs/benchmarks/off_policy.json"
    data = json.loads(file.read_text()) if file.exists() else {}
    data["machine"] = machine()
    if given.learning:
        data["learning"] = learning(given.seeds)
    else:
        data["speed"] = speed(given.rounds, given.updates) | {"goal": GOAL}
        data["replay"] = replay()
    file.write_text(json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))


if __name__ == "__main__":
    main()
