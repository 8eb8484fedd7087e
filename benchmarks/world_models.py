"""A policy that learns in a model of its environment, beside RL in the environment itself and a control.

    python benchmarks/world_models.py run --work runs/models [--seeds 0 1 2 3 4]    what is missing, ten minutes a seed
    python benchmarks/world_models.py page --work runs/models                       docs/benchmarks/world_models.*

Each seed has a base policy of its own (PPO, stopped at 40 % while it explores), episodes of it, and a model and a
control trained on these.  From the base PPO goes on, with as many control steps, (1) in the model, (2) in the control,
which was trained on shuffled actions, (3) in the environment.  After each piece of the steps the policy is checked on
real episodes; the best of base and pieces counts, on other episodes.  So the arms of models use the check episodes of
the environment and no other step of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from toddle.algorithms.world_model_evaluation import side_by_side
from toddle.envs.base import BatchedEnv
from toddle.envs.imagined import ImaginedEnv
from toddle.envs.make import make_env
from toddle.experience.evaluate import evaluate
from toddle.maths.intervals import matched_interval
from toddle.policies.store import load_policy

ENV = "tabletop/push-cube"
ARMS = {"model": "the model", "control": "the model on shuffled actions", "real": "the environment"}
PIECES, PIECE, BRANCH = 3, 20_000, 10
"""Pieces of an arm, control steps of one, and of an episode in a model."""
RECORDED, GRADIENTS = 600, 2500
"""Episodes of the base, and gradient steps of a model."""
CHECK, COUNT = 50, 200
"""Real episodes of a check, and those that count."""
CHECKED, COUNTED = 500_000, 0
"""Seeds of the episodes that choose, and of those that count."""
OUT = Path(__file__).parent.parent / "docs/benchmarks/world_models"


def toddle(*words: object) -> None:
    """Run a command whose last word is its folder, or go on with it."""
    if not Path(str(words[-1]), "finished.json").exists():
        subprocess.run([sys.executable, "-m", "toddle", *map(str, words), "--resume"], check=True)


def succeeded(env: BatchedEnv, folder: Path, first: int, count: int) -> float:
    """Share of real episodes in which the policy's draws succeed."""
    results = evaluate(load_policy(folder), env, seeds=list(range(first, first + count)), deterministic=False)
    return sum(bool(one.success) for one in results) / count


def run(work: Path, seed: int) -> dict[str, Any]:
    """Make what a seed needs, run its arms, and return what came of them."""
    real = make_env(ENV, CHECK, seed=0, terminate_on_success=True)
    base, recorded, model = work / "base", work / "recorded", work / "model"
    first = ("--env", ENV, "--reward", "dense", "--stop-at", 0.4, "--steps", 400_000)
    toddle("pretrain", *first, "--seed", seed, "--out", base)
    toddle("worldmodel", "record", "--env", ENV, "--policy", base, "--episodes", RECORDED, "--out", recorded)
    toddle("worldmodel", "train", "--dataset", recorded, "--train.steps", GRADIENTS, "--seed", seed, "--out", model)
    found: dict[str, Any] = {"base": succeeded(real, base / "policy", COUNTED, COUNT)}
    places = {"model": f"imagined/{model}", "control": f"imagined/{model}/control", "real": ENV}
    start = succeeded(real, base / "policy", CHECKED, CHECK)
    for arm, place in places.items():
        folders, checks = [base], [start]
        for piece in range(PIECES):
            out = work / f"{arm}-{piece}"
            more = ("--max-episode-steps", BRANCH) if arm != "real" else ()
            words = ("--env", place, "--init", folders[-1], "--steps", PIECE, *more, "--seed", 100 * seed + piece)
            toddle("pretrain", *words, "--out", out)
            folders.append(out)
            checks.append(succeeded(real, out / "policy", CHECKED, CHECK))
        best = max(range(len(folders)), key=lambda i: checks[i])
        row: dict[str, Any] = {"checks": checks, "chosen": best}
        row["success"] = succeeded(real, folders[best] / "policy", COUNTED, COUNT)
        row["last"] = succeeded(real, folders[-1] / "policy", COUNTED, COUNT)
        if arm != "real":
            imagined = ImaginedEnv(place.removeprefix("imagined/"), CHECK, terminate_on_success=True)
            starts = list(range(COUNTED, COUNTED + CHECK))
            _, dreamt = side_by_side(load_policy(folders[-1] / "policy"), real, imagined, starts, deterministic=False)
            row["imagined_last"] = sum(bool(one.success) for one in dreamt) / CHECK
        found[arm] = row
        print(f"seed {seed}, {arm}: {row}", flush=True)
    return found


def page(found: dict[str, dict[str, Any]]) -> str:
    """Return the table as a page."""
    seeds, bases = len(found), [one["base"] for one in found.values()]
    lines = [
        "# Learning in a model of the environment\n",
        f"`{ENV}`; {seeds} seeds, each with a base policy, recordings and models of its own; PPO from the base, "
        f"{PIECES * PIECE:,} control steps an arm; written by `benchmarks/world_models.py` "
        "([world_models.md](../world_models.md)).\n",
        f"Percent of {COUNT} real episodes, the policy drawing its actions. After each of {PIECES} pieces {CHECK} "
        "other real episodes choose among base and pieces. Intervals are t over seeds, 95 %.\n",
        "| learns in | by seed | change of the chosen | last, by seed | change of the last | last, imagined |",
        "|---|---|---|---|---|---|",
        f"| - (the base) | {_shares(bases)} | | | | |",
    ]
    for arm, label in ARMS.items():
        rows = [one[arm] for one in found.values()]
        imagined = _shares([row["imagined_last"] for row in rows]) if arm != "real" else "-"
        changes = [_change([row[name] for row in rows], bases) for name in ("success", "last")]
        shares = [_shares([row[name] for row in rows]) for name in ("success", "last")]
        lines.append(f"| {label} | {shares[0]} | {changes[0]} | {shares[1]} | {changes[1]} | {imagined} |")
    for name, which in (("success", "chosen"), ("last", "last")):
        half = [one["base"] + (one["real"][name] - one["base"]) / 2 for one in found.values()]
        gap = _change([one["model"][name] for one in found.values()], half)
        lines.append(f"\nThe model's {which} less half of what the environment gave from the same base: {gap} points.")
    return "\n".join(lines) + "\n"


def _shares(values: list[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values)


def _change(after: list[float], before: list[float]) -> str:
    found = matched_interval(after, before)
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def main() -> None:
    """Run what is missing, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work", type=Path, default=Path("runs/models"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds if given.what == "run" else []:
        folder = given.work.resolve() / f"seed{seed}"
        if not (folder / "found.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            found = run(folder, seed)
            (folder / "found.json").write_text(json.dumps(found, indent=1) + "\n")
    if given.what == "page":
        files = sorted(given.work.glob("seed*/found.json"))
        data = {path.parent.name: json.loads(path.read_text()) for path in files}
        OUT.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
        OUT.with_suffix(".md").write_text(page(data))


if __name__ == "__main__":
    main()
