"""Iterations of `pretrain` with workers and learners, against what `toddle.maths.scaling` says of them.

    python benchmarks/scaling.py [--rounds 9] [--cases "Ant-v5, Gaussian MLP"]

What parts take is measured in one process: physics and decision at each of three numbers of worlds, learning, the bytes
of weights and rollouts, and the line between two processes.  From these alone the model forecasts an iteration of each
way, which is then measured.  Every way is a process that waits and is asked in turns, in an order that rotates, so that
what else the machine does meets all of them alike; what counts are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Client, Listener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from peers import ROOT, machine

from toddle.core.config import save_config
from toddle.core.team import HOST
from toddle.maths.scaling import Costs, acting_seconds, learning_seconds
from toddle.recipes import pretrain
from toddle.runs.beside import beside, brought
from toddle.runs.learners import leading, led
from toddle.runs.workers import crew, received, send

CASES: dict[str, dict[str, Any]] = {
    "goal/ant, causal transformer": {"env": ["goal/ant"], "worlds": 64},
    "Ant-v5, Gaussian MLP": {"env": ["gymnasium/Ant-v5"], "worlds": 128, "collect": {"length": 32}},
}
WAYS: dict[str, dict[str, int]] = {
    "one process": {},
    "2 workers": {"workers": 2},
    "4 workers": {"workers": 4},
    "2 learners": {"learners": 2},
}
SHARES = (1, 2, 4)
"""Parts are measured in one process with all worlds, with half and with a quarter of them."""
BYTES = 4 * 2**20


# ---- one way, in a process that waits --------------------------------------------------------------------------------
class Timed:
    """Adds up the seconds that calls of a function take."""

    def __init__(self, function: Any) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        found = self.function(*given, **named)
        self.seconds += time.perf_counter() - began
        return found


def wait_and_step(settings: dict[str, Any]) -> None:
    """Build a run, and answer each line from the standard input: with the seconds of an iteration, and its parts."""
    torch.set_num_threads(1)
    with ExitStack() as held:
        out = Path(held.enter_context(TemporaryDirectory())) / "run"
        config = pretrain.configure(settings, out=out)
        out.mkdir()
        save_config(out / "config.yaml", config)
        learners = held.enter_context(leading(config.learners, "pretrain", out))
        workers = held.enter_context(crew(config, "pretrain", out))
        made = beside(config, pretrain.build(config, workers), workers)
        learner: Any = made.learner
        source, physics = learner.sources[0], Timed(None)
        if workers is None:
            physics = source.env.step_chunk = Timed(source.env.step_chunk)
            gather = source.gather = Timed(source.gather)
        else:
            gather = workers.gather = Timed(workers.gather)
        all_of_them = led(learner, learners)
        all_of_them.step()  # it starts the workers, and allocates
        before = {name: value.clone() for name, value in learner.policy.state_dict().items()}
        updates = all_of_them.step()["ppo/updates"]
        now = learner.policy.state_dict()
        changed = {name: v.clone() for name, v in now.items() if not torch.equal(v, before[name])}  # as a crew sends it
        facts = {"updates": updates, "weights": len(pickle.dumps(changed)), "length": config.collect.length}
        if config.learners == config.workers == 1:
            with torch.no_grad():
                found = brought(source, made.policy, None)
            facts["rollout"] = len(pickle.dumps(found)) / source.decisions
        print(json.dumps(facts), flush=True)
        for _ in sys.stdin:
            physics.seconds = gather.seconds = 0.0
            began = time.perf_counter()
            all_of_them.step()
            whole = time.perf_counter() - began
            print(json.dumps({"whole": whole, "gather": gather.seconds, "physics": physics.seconds}), flush=True)


class Way:
    """A process that makes iterations when it is asked."""

    def __init__(self, settings: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--as", json.dumps(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, **pipes)
        self.facts: dict[str, float] = {}

    def told(self) -> dict[str, float]:
        """Return the next thing that it says."""
        assert self.process.stdout is not None
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found

    def step(self) -> dict[str, float]:
        """Let it make an iteration; return the seconds of its parts."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.told()

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# ---- the line between two processes ----------------------------------------------------------------------------------
def echo(address: Any) -> None:
    """Send back whatever comes, until the other lets go."""
    torch.set_num_threads(1)
    with Client(address) as link:
        while (came := received(link)) is not None:
            send(link, came)


def line(rounds: int) -> tuple[float, float]:
    """Return the seconds until a message arrives, and bytes a second, of pickles over a local socket as workers'."""
    with Listener((HOST, 0)) as server:
        other = get_context("spawn").Process(target=echo, args=(server.address,), daemon=True)
        other.start()
        times: dict[int, list[float]] = {8: [], BYTES: []}
        with server.accept() as link:
            for _ in range(5 * rounds):
                for size, found in times.items():
                    message = torch.zeros(size // 4)
                    began = time.perf_counter()
                    send(link, message)
                    received(link)
                    found.append((time.perf_counter() - began) / 2)
            send(link, None)
        other.join()
    latency, long = (statistics.median(found) for found in times.values())
    return latency, BYTES / (long - latency)


# ---- model and measurement -------------------------------------------------------------------------------------------
def fitted(counts: list[float], seconds: list[float]) -> tuple[float, float]:
    """Return (what is taken once, what each takes) of the line nearest to seconds(count); neither below 0."""
    each, once = np.polyfit(counts, seconds, 1)
    return (float(once), float(each)) if once > 0 else (0.0, float(np.dot(counts, seconds) / np.dot(counts, counts)))


def costs_of(facts: dict[str, float], parts: dict[int, dict[str, float]], link: tuple[float, float]) -> Costs:
    """Return what the model is given, of medians by the number of worlds of one process."""
    worlds, length, updates = max(parts), int(facts["length"]), int(facts["updates"])
    counts = [float(count) for count in parts]
    act = fitted(counts, [each["gather"] / length for each in parts.values()])
    learn = fitted([count * length for count in counts], [each["whole"] - each["gather"] for each in parts.values()])
    return Costs(
        worlds=worlds,
        length=length,
        act_once=act[0],
        act=act[1],
        learn_once=learn[0] / updates,
        learn=learn[1],
        rollout=facts["rollout"],
        weights=facts["weights"],
        updates=updates,
        latency=link[0],
        bandwidth=link[1],
        cores=os.cpu_count(),
    )


def measured(settings: dict[str, Any], rounds: int, link: tuple[float, float]) -> dict[str, Any]:
    """Return what the parts take, and of each way the model's seconds and the measured ones."""
    one = {settings["worlds"] // share: settings | {"worlds": settings["worlds"] // share} for share in SHARES}
    all_ways: dict[Any, Way] = {name: Way(settings | more) for name, more in WAYS.items()}
    all_ways |= {count: Way(given) for count, given in one.items() if count != settings["worlds"]}
    for way in all_ways.values():
        way.facts = way.told()
    names, times = list(all_ways), {name: list[dict[str, float]]() for name in all_ways}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(all_ways[name].step())
    for way in all_ways.values():
        way.close()
    medians = {name: {key: statistics.median(each[key] for each in t) for key in t[0]} for name, t in times.items()}
    parts = {count: medians["one process" if count == settings["worlds"] else count] for count in one}
    facts = all_ways["one process"].facts
    costs, rows = costs_of(facts, parts, link), {}
    for name, more in WAYS.items():
        workers, learners = more.get("workers", 1), more.get("learners", 1)
        model = acting_seconds(costs, workers, learners), learning_seconds(costs, learners)
        now = medians[name]["gather"], medians[name]["whole"] - medians[name]["gather"]
        rows[name] = {"model": sum(model), "measured": sum(now), "model_parts": model, "measured_parts": now}
        ratios = [one["whole"] / each["whole"] for one, each in zip(times["one process"], times[name], strict=True)]
        rows[name]["gain"] = statistics.median(ratios)
    physics = parts[costs.worlds]["physics"] / costs.worlds / costs.length
    return {"costs": vars(costs), "rows": rows, "physics": physics, "parts": parts}


def page(report: dict[str, Any]) -> str:
    """Return the page of a report."""
    lines = [
        "# Several processes: the model of an iteration against measured iterations",
        "",
        f"`{report['command']}`: medians of {report['rounds']} rounds in which every way made an iteration in turn; "
        f"{report['machine']}, one thread a process; torch {report['torch']}. Load average at the start "
        f"{report['load'][0]:.1f}, at the end {report['load'][1]:.1f}. {report['note']}",
        "",
        f"The line between two processes here, pickles over a local socket: {1e3 * report['line'][0]:.2f} ms until a "
        f"message arrives, {report['line'][1] / 1e9:.2f} GB/s.",
        "",
    ]
    for name, case in report["cases"].items():
        costs = case["costs"]
        acting = costs["act"] + costs["act_once"] / costs["worlds"]
        lines += [
            f"## {name}: {costs['worlds']} worlds, {costs['length']} decisions, {costs['updates']} updates",
            "",
            f"In one process a decision takes {1e6 * acting:.0f} us, of which physics {1e6 * case['physics']:.0f} us: "
            f"{1e6 * costs['act']:.0f} us for each world and {1e3 * costs['act_once']:.2f} ms for all together; "
            f"learning takes {1e6 * costs['learn']:.0f} us a decision and {1e3 * costs['learn_once']:.1f} ms an "
            f"update. {costs['weights'] / 1e6:.2f} MB of weights are sent to each worker, and {costs['rollout']:.0f} "
            "bytes of rollout a decision.",
            "",
            "| seconds | acting: model | measured | learning: model | measured | iteration: model | measured "
            "| model / measured | gain over one process |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for way, row in case["rows"].items():
            (act, learn), (acted, learned) = row["model_parts"], row["measured_parts"]
            cells = [*(f"{x:.3f}" for x in (act, acted, learn, learned, row["model"], row["measured"]))]
            ratio = row["model"] / row["measured"]
            lines.append("| " + " | ".join([way, *cells, f"{ratio:.2f}", f"{row['gain']:.2f}"]) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--note", default="", help="what else the machine did, for the page")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--as", dest="settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settings is not None:
        wait_and_step(options.settings)
        return
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "command": f"python benchmarks/scaling.py --rounds {options.rounds}",
        "machine": machine(),
        "torch": torch.__version__,
        "note": options.note,
        "rounds": options.rounds,
        "load": [os.getloadavg()[0], 0.0],
        "line": line(options.rounds),
        "cases": {},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.cases:
        settings = CASES[name] | {"ppo": {"target_kl": None}}  # every iteration makes all its updates
        report["cases"][name] = measured(settings, options.rounds, report["line"])
        report["load"][1] = os.getloadavg()[0]
        print(name, json.dumps(report["cases"][name]["rows"]), flush=True)
        (options.out / "scaling.json").write_text(json.dumps(report, indent=1) + "\n")
        (options.out / "scaling.md").write_text(page(report))


if __name__ == "__main__":
    main()
