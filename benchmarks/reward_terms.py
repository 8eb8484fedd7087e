"""What the terms of a reward are worth on three of Meta-World's tasks from state: the table of docs/rewards.md.

    python benchmarks/reward_terms.py --out runs/reward_terms

Records, trains, draws, and prints the table: for each task rank correlation with time within new successes, share of
pairs of a new success and a new failure in order, the same of the controls, and whether a policy that cheats earns less
than the expert.  What is there already is not made again.  About 25 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TASKS = ("push", "drawer-open", "door-open")
LEARNED = ("gvl", "rewind", "vlac", "viper", "classifier")
FAILING = "--noise 0.9 --executed --keep-failures --max-episode-steps 100"
DATA = {"": "--episodes 40", "-failed": f"--episodes 30 --seed 3000000 {FAILING}"}
NEW = {"-new": "--episodes 20 --seed 2000000", "-failed-new": f"--episodes 30 --seed 4000000 {FAILING}"}


def toddle(out: Path, command: str) -> None:
    """Run a command that writes `out`, unless it has been run."""
    if not (out / "finished.json").exists():
        subprocess.run([sys.executable, "-m", "toddle", *command.split(), "--out", str(out)], check=True)


def measured(root: Path, task: str, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the terms of a task are worth, and the controls."""
    record = f"record --env metaworld-state/{task}-v3 --cameras --image-stride 1 --batch 10"
    for name, settings in (DATA | NEW).items():
        toddle(root / "data" / f"{task}{name}", f"{record} {settings}")
    given, new = (" ".join(f"{root}/data/{task}{name}" for name in names) for names in (DATA, NEW))
    terms = root / "terms" / task
    toddle(terms, f"reward fit --dataset {given} --steps {steps}")
    sums = [
        "sparse+0.5*pbrs+" + "+".join(f"{_weight(name)}{name}:{terms}" for name in LEARNED) + "+0.01*rnd+0.01*counts",
        "+".join(f"{name}:{terms}/control" for name in LEARNED if name != "viper"),  # shuffled it refuses to be paid by
    ]
    found = []
    for place, reward in zip((task, f"{task}-control"), sums, strict=True):
        toddle(root / "plot" / place, f"reward plot --reward {reward} --dataset {new}")
        found.append(json.loads((root / "plot" / place / "terms.json").read_text())["terms"])
    return found[0], found[1]


def _weight(name: str) -> str:
    return "0.01*" if name == "viper" else ""


def _cell(own: dict[str, Any]) -> str:
    order = "-" if own["order"] is None else f"{own['order']:.2f}"
    return f"{order}, {own['pairs']:.2f}"


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/reward_terms"))
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    found = {task: measured(given.out, task, given.steps) for task in TASKS}
    print(f"| term | {' | '.join(f'{task} (control), cheats earn less' for task in TASKS)} |")
    print(f"|{'---|' * (len(TASKS) + 1)}")
    for name in next(iter(found.values()))[0]:
        cells = []
        for own, control in found.values():
            beside = f" ({_cell(control[name])})" if name in control else ""
            cells.append(f"{_cell(own[name])}{beside}, {'yes' if own[name]['cheats']['holds'] else 'no'}")
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
