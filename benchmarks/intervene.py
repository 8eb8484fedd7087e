"""`toddle intervene` measured: the page's pictures, how soon a take-over acts, what a scripted person's rounds bring.

    python benchmarks/intervene.py page --policy runs/sft --env metaworld/reach-v3      prints one line of JSON
    python benchmarks/intervene.py rounds --work runs/rounds [--env ...] [--seeds 3]    the runs that are missing
    python benchmarks/intervene.py table --work runs/rounds                             docs/results/interventions

`page` starts the command, reads the stream as a browser does, and takes over again and again: a picture counts when it
is read, a take-over when the page is told that the person's action was made.  `rounds`: 10 demonstrations and `toddle
sft`; then rounds in which a scripted person corrects 10 episodes and `toddle sft` goes on from the policy with
demonstrations and interventions; and as many in which 10 more demonstrations come in their place.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.maths.intervals import matched_interval, t_interval

EPISODES = 10
PERSON = ["--person.tolerance", "0.2", "--person.patience", "2", "--person.hold", "10"]
"""Of an environment whose episodes have 50 control steps."""
OUT = Path(__file__).parent.parent / "docs/results/interventions"


# ---- the page ------------------------------------------------------------------------------------------------------
def page(policy: Path, env: str, seconds: float, takeovers: int, more: list[str]) -> dict[str, Any]:
    """Return pictures a second, and the times of take-overs."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["intervene", "--policy", str(policy), "--env", env, "--episodes", "1000", "--out", f"{folder}/run"]
        words += more
        process = subprocess.Popen([sys.executable, "-m", "toddle", *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url, arrived, stop = process.stdout.readline().split()[1], list[float](), threading.Event()
        number = 0

        def say(take: bool, new: bool = False, episode: int = 0) -> dict[str, Any]:
            nonlocal number
            content = {
                "page": "b",
                "number": number,
                "new": new,
                "episode": episode,
                "drive": [0.2 * take, 0, 0, 0, 0, 0],
            }
            content |= {"take": take, "gripper": 0, "mark": "", "pause": False, "gone": False}
            number += 1
            body, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
            with urllib.request.urlopen(urllib.request.Request(url + "input", body, kind)) as reply:
                return json.loads(reply.read())  # type: ignore[no-any-return]

        def read() -> None:
            with urllib.request.urlopen(url + "stream") as stream:
                while not stop.is_set():
                    while (line := stream.readline()) and not line.startswith(b"Content-Length"):
                        pass
                    stream.readline()
                    if not line or len(stream.read(int(line.split()[1]))) == 0:
                        return
                    arrived.append(time.monotonic())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            told, waits = say(False, new=True), list[float]()
            end, spent, seen = time.monotonic() + seconds, _cpu(process.pid), len(arrived)
            while time.monotonic() < end or len(waits) < takeovers:
                time.sleep(0.3)
                told = say(False, episode=told["episode"])
                if told["who"] != "policy":
                    continue
                began = time.monotonic()
                while (told := say(True, episode=told["episode"]))["who"] != "person":
                    time.sleep(0.002)
                waits.append(time.monotonic() - began)
            spent, seen = _cpu(process.pid) - spent, len(arrived) - seen
        finally:
            stop.set()
            process.terminate()
            process.wait()
    gaps = np.diff(arrived)
    return {
        "env": env,
        "pictures_per_second": round((len(arrived) - 1) / (arrived[-1] - arrived[0]), 1),
        "cpu_ms_per_picture": round(1000 * spent / seen, 1),
        "longest_gap_ms": round(1000 * float(gaps.max())),
        "takeovers": len(waits),
        "takeover_ms": {f"p{q}": round(1000 * float(np.percentile(waits, q))) for q in (50, 95, 100)},
    }


def _cpu(process: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- rounds --------------------------------------------------------------------------------------------------------
def toddle(out: Path, *words: str) -> None:
    """Run a command of toddle, or go on with it."""
    if not (out / "finished.json").exists():
        more = ["--resume"] if out.exists() else []
        subprocess.run([sys.executable, "-m", "toddle", *words, "--out", str(out), *more], check=True)


def rounds(work: Path, env: str, seeds: int, steps: int, count: int, camera: str) -> None:
    """Make the runs that are not there yet."""
    (work / "settings.json").parent.mkdir(parents=True, exist_ok=True)
    (work / "settings.json").write_text(json.dumps({"env": env, "seeds": seeds, "steps": steps, "rounds": count}))
    for seed in range(seeds):
        own, scene = work / str(seed), ["--env", env, "--cameras", camera]
        demos = own / "demos"
        toddle(demos, "record", *scene, "--episodes", str(EPISODES), "--seed", str(1_000_000 + 1000 * seed))
        for arm in ("person", "demos"):
            sets, before = [demos], own / "policy0"
            fit = ["--sft.steps", str(steps), "--seed", str(seed), "--cameras", camera]
            fresh = ["--init", "random", "--kind", "diffusion", "--diffusion.network", "mlp"]
            toddle(before, "sft", "--dataset", str(demos), *fresh, *fit)
            measure(before, env)
            for number in range(1, count + 1):
                more = own / f"{arm}{number}"
                if arm == "person":
                    words = ["intervene", "--policy", str(before), "--human", "scripted", "--batch", str(EPISODES)]
                    words += ["--env", env, *PERSON, "--seed", str(3_000_000 + 1000 * seed + 100 * number)]
                else:
                    words = ["record", *scene, "--seed", str(2_000_000 + 1000 * seed + 100 * number)]
                toddle(more, *words, "--episodes", str(EPISODES))
                sets.append(more)
                after = own / f"policy_{arm}{number}"
                toddle(after, "sft", "--init", str(before), "--dataset", *map(str, sets), *fit)
                measure(after, env)
                before = after


def measure(policy: Path, env: str) -> None:
    """Evaluate on 50 seeds that nobody learned from."""
    words = ["--env", env, "--episodes", "50", "--num-envs", "25", "--videos", "0"]
    toddle(policy / "played", "evaluate", "--policy", str(policy), *words)


def played(folder: Path) -> tuple[float, float]:
    """Return success in percent, and the share of the steps that a person made, in percent."""
    (cell,) = json.loads((folder / "summary.json").read_text())["cells"]
    return 100 * cell["success"]["value"], 100 * cell["deployment"].get("intervention_rate", 0.0)


def table(work: Path) -> None:
    """Write what came of it."""
    given = json.loads((work / "settings.json").read_text())
    found: dict[str, Any] = {
        "settings": given,
        "base": [],
        "person": [],
        "demos": [],
        "rate": [],
        "team": [],
        "rows": [],
    }
    for seed in range(given["seeds"]):
        own = work / str(seed)
        found["base"].append(played(own / "policy0/played")[0])
        for arm in ("person", "demos"):
            numbers = range(1, given["rounds"] + 1)
            found[arm].append([played(own / f"policy_{arm}{number}/played")[0] for number in numbers])
        team = [played(own / f"person{number}") for number in numbers]
        found["team"].append([success for success, _ in team])
        found["rate"].append([rate for _, rate in team])
        sets = [[LeRobotDataset(own / f"{arm}{number}") for number in numbers] for arm in ("person", "demos")]
        people = sum(int(each.column("intervention").sum()) for each in sets[0])
        found["rows"].append([people, sum(each.num_frames for each in sets[1])])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    told = lambda values: "{:.0f} ({:.0f} to {:.0f})".format(*t_interval(values))  # noqa: E731
    words = f"--env {given['env']} --seeds {given['seeds']} --steps {given['steps']} --rounds {given['rounds']}"
    lines = [
        "# Interventions against as many demonstrations",
        "",
        f"`python benchmarks/intervene.py rounds {words}`, then `table`. From pictures; percent, mean over seeds with "
        f"a 95 % t interval; success of 50 episodes. After 10 demonstrations: {told(found['base'])}.",
        "",
        "| round | the person acts in | success with the person | then alone | with 10 more demonstrations instead |",
        "|---|---|---|---|---|",
    ]
    for number in range(given["rounds"]):
        cells = [told([row[number] for row in found[name]]) for name in ("rate", "team", "person", "demos")]
        lines.append(f"| {number + 1} | " + " | ".join(cells) + " |")
    last = [[row[-1] for row in found[name]] for name in ("person", "demos")]
    rows = np.mean(found["rows"], 0)
    lines += [
        "",
        "Difference in the last round, seed by seed: {:+.0f} points ({:+.0f} to {:+.0f}); ".format(
            *matched_interval(*last)
        )
        + f"rows learned from besides: {rows[0]:.0f} of the person, {rows[1]:.0f} of demonstrations.",
    ]
    (OUT / "README.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("page", "rounds", "table"))
    parser.add_argument("--policy", type=Path, default=Path("runs/sft"))
    parser.add_argument("--env", default="tabletop/push-cube")
    parser.add_argument("--work", type=Path, default=Path("runs/rounds"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--camera", default="close")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--takeovers", type=int, default=20)
    given, more = parser.parse_known_args()
    if given.what == "page":
        print(json.dumps(page(given.policy, given.env, given.seconds, given.takeovers, more)))
    elif given.what == "rounds":
        rounds(given.work, given.env, given.seeds, given.steps, given.rounds, given.camera)
    else:
        table(given.work)


if __name__ == "__main__":
    main()
