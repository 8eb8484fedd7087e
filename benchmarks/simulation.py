"""Simulation speed: toddle's pool against gymnasium's SyncVectorEnv, envpool and the bare physics, in one run.

    python benchmarks/simulation.py [--rounds 40] [--seconds 0.15] [--patience 60]

All contenders are processes that wait; the rounds go A B C D B C D A ..., so that what else the machine does falls on
all of them alike.  For each run the CPU time that other processes took meanwhile is read from /proc/stat.  Reported are
medians of steps per second and of CPU microseconds per step over all rounds, the median of the ratios within a round,
and the same speeds over the quietest quarter of the rounds: only with both cores free do two threads show what they do.

One step = one control step of one world.  64 worlds; toddle and envpool with 2 threads, SyncVectorEnv with the one it
has, the bare loop (`mujoco.mj_step` on 32 MjData a process, no observation, no reward) in 2 processes.  envpool lives
in a virtual environment of its own, made here under .cache/ when missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
TASKS = {"HalfCheetah-v5": 1000, "Ant-v5": 120, "Humanoid-v5": 22}
"""Task -> control steps after which the bare loop resets a world: the mean length of an episode of random actions."""
XML = {"HalfCheetah-v5": "half_cheetah.xml", "Ant-v5": "ant.xml", "Humanoid-v5": "humanoid.xml"}
WORLDS, THREADS, FRAME_SKIP = 64, 2, 5
QUIET = 0.2
"""Cores that others may use in a run that counts as undisturbed."""
TARGETS = {"sync": 2.5, "envpool": 1.2, "bare": 0.9}
TITLES = {
    "toddle": "toddle, pool of 64 worlds, 2 threads",
    "sync": "gymnasium SyncVectorEnv, 64 worlds",
    "envpool": "envpool, 64 worlds, 2 threads",
    "bare": "bare mj_step loop, 2 processes x 32 worlds",
}


# ---- contenders: each returns a function that makes one batch step with the actions given ---------------------------
def toddle_step(task: str) -> Callable[[Any], None]:
    from toddle.envs.make import make_env

    env = make_env(f"gymnasium/{task}", WORLDS, threads=THREADS)
    env.reset(seed=0)
    return lambda action: env.step(action)


def sync_step(task: str) -> Callable[[Any], None]:
    import gymnasium

    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(task) for _ in range(WORLDS)])
    env.reset(seed=0)
    return lambda action: env.step(action)


def envpool_step(task: str) -> Callable[[Any], None]:
    import envpool

    env = envpool.make_gymnasium(task, num_envs=WORLDS, num_threads=THREADS, seed=0)
    env.reset()
    return lambda action: env.step(action.astype(np.float64))


def bare_step(task: str) -> Callable[[Any], None]:
    import gymnasium
    import mujoco

    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    model = mujoco.MjModel.from_xml_path(str(folder / XML[task]))
    datas, ages = [mujoco.MjData(model) for _ in range(WORLDS // 2)], list(range(WORLDS // 2))

    def step(action: Any) -> None:
        for i, data in enumerate(datas):
            ages[i] += 1
            if ages[i] % TASKS[task] == 0:
                mujoco.mj_resetData(model, data)
            data.ctrl[:] = action[i]
            mujoco.mj_step(model, data, nstep=FRAME_SKIP)

    return step


CONTENDERS = {"toddle": toddle_step, "sync": sync_step, "envpool": envpool_step, "bare": bare_step}


def serve(contender: str, task: str) -> None:
    """Make as many batch steps as each line of stdin says; print [wall seconds, CPU seconds]."""
    step = CONTENDERS[contender](task)
    size, limit = {"HalfCheetah-v5": (6, 1.0), "Ant-v5": (8, 1.0), "Humanoid-v5": (17, 0.4)}[task]
    actions = np.random.default_rng(0).uniform(-limit, limit, (50, WORLDS, size)).astype(np.float32)
    if contender == "toddle":
        actions /= np.float32(limit)  # toddle's actions are normalised
    for index in range(150):  # past the first falls, so that worlds are out of step as in training
        step(actions[index % 50])
    print("ready", flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for index in range(int(line)):
            step(actions[index % 50])
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of this machine have used (0 where /proc is not there)."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    ticks = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and waiting for disks


def wait_for_quiet(seconds: float) -> float:
    """Wait until others leave the cores alone for a tenth of a second, at most `seconds`; return the seconds waited."""
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        busy, moment = busy_seconds(), time.perf_counter()
        time.sleep(0.1)
        if (busy_seconds() - busy) / (time.perf_counter() - moment) < QUIET:
            break
    return time.perf_counter() - start


class Contender:
    """One or two waiting processes."""

    def __init__(self, name: str, task: str, python: str) -> None:
        self.copies = 2 if name == "bare" else 1
        command = [python, str(Path(__file__).resolve()), "--serve", name, task]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(self.copies)
        ]
        self.steps = 4
        for process in self.processes:
            if self._answer(process) != "ready":
                raise RuntimeError(f"{name} on {task} did not start")

    @staticmethod
    def _answer(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def measure(self) -> tuple[float, float, float]:
        """Return steps per wall second, CPU microseconds per step, and cores that others used, of one short run."""
        busy = busy_seconds()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{self.steps}\n")
            process.stdin.flush()
        times = [json.loads(self._answer(process)) for process in self.processes]
        wall, cpu = max(t[0] for t in times), sum(t[1] for t in times)
        others = max(0.0, busy_seconds() - busy - cpu) / wall
        return self.steps * WORLDS / wall, 1e6 * cpu / (self.steps * WORLDS), others

    def calibrate(self, seconds: float) -> None:
        """Choose how many batch steps make a run of about `seconds`."""
        rate = self.measure()[0] / WORLDS
        self.steps = max(2, round(rate * seconds))

    def close(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def envpool_python() -> str:
    """Return the Python of envpool's own environment, made when it is missing."""
    folder = ROOT / ".cache" / "envpool"
    python = folder / "bin" / "python"
    if not python.exists():
        print("installing envpool into its own environment ...")
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "envpool==1.2.5"], check=True)
    return str(python)


def run_task(task: str, rounds: int, seconds: float, patience: float) -> dict[str, Any]:
    """Measure one task; `patience` seconds in all may be spent on waiting for a quiet machine."""
    pythons = {name: sys.executable for name in CONTENDERS} | {"envpool": envpool_python()}
    contenders = {name: Contender(name, task, pythons[name]) for name in CONTENDERS}
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CONTENDERS}
    for contender in contenders.values():
        contender.calibrate(seconds / 4)
        contender.calibrate(seconds)
    for index in range(rounds):
        names = list(contenders)
        for name in names[index % 4 :] + names[: index % 4]:  # nobody always follows the same neighbour
            patience -= wait_for_quiet(patience)
            samples[name].append(contenders[name].measure())
    for contender in contenders.values():
        contender.close()
    return {name: summary(samples, name) for name in CONTENDERS}


def summary(samples: dict[str, list[tuple[float, float, float]]], name: str) -> dict[str, float]:
    """Medians of one contender over all rounds and over its quietest quarter, and ratios to toddle."""
    values, ours = samples[name], samples["toddle"]
    quiet, our_quiet = (sorted(v, key=lambda run: run[2])[: max(1, len(v) // 4)] for v in (values, ours))
    result = {
        "steps_per_second": round(statistics.median(v[0] for v in values)),
        "steps_per_second_quiet": round(statistics.median(v[0] for v in quiet)),
        "cores_used_by_others_quiet": round(statistics.median(v[2] for v in quiet), 2),
        "cores_used_by_others": round(statistics.median(v[2] for v in values), 2),
        "cpu_us_per_step": round(statistics.median(v[1] for v in values), 1),
    }
    if name != "toddle":
        pairs = list(zip(ours, values))
        speed = statistics.median(v[0] for v in our_quiet) / statistics.median(v[0] for v in quiet)
        result["toddle_over_it_wall"] = round(statistics.median(a[0] / b[0] for a, b in pairs), 2)
        result["toddle_over_it_quiet"] = round(speed, 2)
        result["toddle_over_it_cpu"] = round(statistics.median(b[1] / a[1] for a, b in pairs), 2)
    return result


def machine() -> str:
    """Describe the machine without naming it."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = models[0] if models else model
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"


def table(report: dict[str, Any]) -> str:
    lines = [
        "# Simulation speed",
        "",
        f"`python benchmarks/simulation.py`: {report['rounds']} interleaved rounds of {report['seconds']} s each; "
        f"{report['machine']}; mujoco {report['versions']['mujoco']}, gymnasium {report['versions']['gymnasium']}, "
        f"envpool {report['versions']['envpool']}; load average {report['load']} at the start.",
        "",
        "A step is one control step (5 physics steps) of one world. toddle, SyncVectorEnv and envpool return "
        "observations, rewards and resets; the bare loop does physics alone. Ratios above 1: toddle is faster, or "
        "needs less CPU time. Medians over all rounds, and over the quarter of the rounds in which other processes "
        "used the machine least.",
        "",
    ]
    for task, rows in report["tasks"].items():
        lines += [f"## {task}", ""]
        lines += ["| | steps/s | quiet | cores used by others, quiet | CPU us/step | toddle is faster | quiet | CPU |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, row in rows.items():
            speeds = [f"{row[key]:,}" for key in ("steps_per_second", "steps_per_second_quiet")]
            cells = [TITLES[name], *speeds, str(row["cores_used_by_others_quiet"]), str(row["cpu_us_per_step"])]
            ratios = [row.get(f"toddle_over_it_{kind}") for kind in ("wall", "quiet", "cpu")]
            cells += [f"x {ratio:.2f}" if ratio is not None else "" for ratio in ratios]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    parts = []
    for name, target in TARGETS.items():
        row = report["tasks"]["HalfCheetah-v5"][name]
        halfcheetah = report["tasks"]["HalfCheetah-v5"].values()
        word = "reached" if row["toddle_over_it_quiet"] >= target else "missed"
        if max(entry["cores_used_by_others_quiet"] for entry in halfcheetah) > QUIET:
            word = "not decided, others used the machine"
        ratios = f"quiet rounds {row['toddle_over_it_quiet']}, all {row['toddle_over_it_wall']}"
        parts.append(f"{TITLES[name].split(',')[0]} x {target} ({word}: {ratios}, CPU {row['toddle_over_it_cpu']})")
    return "\n".join([*lines, "Targets on HalfCheetah: " + ", ".join(parts) + ".", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.15)
    parser.add_argument("--patience", type=float, default=0.0, help="seconds a task to wait for a quiet machine")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve)
        return
    report: dict[str, Any] = {
        "machine": machine(),
        "load": round(os.getloadavg()[0], 1),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {name: importlib.metadata.version(name) for name in ("mujoco", "gymnasium")} | {"envpool": "1.2.5"},
        "targets_halfcheetah": TARGETS,
        "tasks": {},
    }
    for task in TASKS:
        report["tasks"][task] = run_task(task, options.rounds, options.seconds, options.patience)
        print(task, json.dumps(report["tasks"][task], indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "simulation.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "simulation.md").write_text(table(report))


if __name__ == "__main__":
    main()
