"""A policy that learns in a model of its environment, beside RL in the environment itself and a control.

    python benchmarks/world_models.py --base runs/base --model runs/world_model [--seeds 3]

`base` is a policy of the environment that the model was trained on (`toddle worldmodel train`).  From it PPO goes on,
with as many control steps, (1) in the model, (2) in the model that was trained on shuffled actions, (3) in the
environment.  After each piece of the steps the policy is checked on real episodes; the best of base and pieces counts,
on other episodes.  So the arms of models use the check episodes of the environment and no other step of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from toddle.algorithms.world_model_evaluation import side_by_side
from toddle.envs.imagined import ImaginedEnv
from toddle.envs.make import make_env
from toddle.experience.evaluate import evaluate
from toddle.maths.intervals import matched_interval, wilson_interval
from toddle.models.world_model import load_world_model
from toddle.policies.store import load_policy
from toddle.recipes import pretrain

CHECKED, COUNTED = 500_000, 0
"""Seeds of the episodes that choose, and of those that count."""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--base", type=Path, required=True)
parser.add_argument("--model", type=Path, required=True)
parser.add_argument("--steps", type=int, default=20_000, help="control steps of each arm")
parser.add_argument("--pieces", type=int, default=2, help="a check after each")
parser.add_argument("--branch", type=int, default=10, help="control steps of an episode in the model")
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--check", type=int, default=50, help="real episodes of a check")
parser.add_argument("--episodes", type=int, default=200, help="real episodes that count")
parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/world_models"))
args = parser.parse_args()
torch.set_num_threads(1)

NAME = str(load_world_model(args.model)[1]["env"]["name"])
ARMS = {
    "model": (f"imagined/{args.model}", args.branch),
    "control": (f"imagined/{args.model}/control", args.branch),
    "real": (NAME, None),
}
real = make_env(NAME, args.check, seed=0, terminate_on_success=True)


def succeeded(folder: Path, first: int, count: int) -> list[float]:
    """Success of the policy's draws on real episodes."""
    results = evaluate(load_policy(folder), real, seeds=list(range(first, first + count)), deterministic=False)
    return [float(bool(one.success)) for one in results]


def trained(arm: str, init: Path, seed: int, out: Path) -> Path:
    """One piece of PPO from a policy."""
    environment, branch = ARMS[arm]
    settings = pretrain.configure(
        env=[environment],
        init=str(init),
        steps=args.steps // args.pieces,
        max_episode_steps=branch,
        seed=seed,
        out=str(out),
    )
    pretrain.run(settings)
    return out / "policy"


def main() -> None:
    """Run every arm with every seed, and write the table."""
    rows: list[dict[str, Any]] = []
    base = {
        "check": sum(succeeded(args.base, CHECKED, args.check)),
        "counted": succeeded(args.base, COUNTED, args.episodes),
    }
    with tempfile.TemporaryDirectory() as name:
        for seed in range(args.seeds):
            for arm in ARMS:
                folders, checks = [args.base], [base["check"]]
                for piece in range(args.pieces):
                    out = Path(name) / f"{arm}-{seed}-{piece}"
                    folders.append(trained(arm, folders[-1], 100 * seed + piece, out))
                    checks.append(sum(succeeded(folders[-1], CHECKED, args.check)))
                best = max(range(len(folders)), key=lambda i: checks[i])
                counted = base["counted"] if best == 0 else succeeded(folders[best], COUNTED, args.episodes)
                last = counted if best == args.pieces else succeeded(folders[-1], COUNTED, args.episodes)
                row = {"arm": arm, "seed": seed, "checks": checks, "chosen": best}
                row |= {"success": sum(counted) / len(counted), "last": sum(last) / len(last)}
                if arm != "real":
                    imagined = ImaginedEnv(
                        ARMS[arm][0].removeprefix("imagined/"), args.check, terminate_on_success=True
                    )
                    seeds = list(range(COUNTED, COUNTED + args.check))
                    _, dreamt = side_by_side(load_policy(folders[-1]), real, imagined, seeds, deterministic=False)
                    row["imagined_last"] = sum(bool(one.success) for one in dreamt) / len(dreamt)
                rows.append(row)
                print(row, flush=True)
    found = {
        "environment": NAME,
        "settings": {name: value for name, value in vars(args).items() if name not in ("base", "model", "out")},
        "base": {"check": base["check"] / args.check, "success": sum(base["counted"]) / len(base["counted"])},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(page(found, len(base["counted"])))


def page(found: dict[str, Any], count: int) -> str:
    """Return the table as a page."""
    start = wilson_interval(round(found["base"]["success"] * count), count)
    lines = [
        "# Learning in a model of the environment\n",
        f"`{NAME}`; PPO from one base policy, {args.steps:,} control steps an arm, {args.seeds} seeds; written by "
        "`benchmarks/world_models.py` ([world_models.md](../world_models.md)).\n",
        f"The base succeeds in {100 * start.value:.1f} % of {count} real episodes ({100 * start.low:.0f} to "
        f"{100 * start.high:.0f} %, Wilson), drawing its actions. After each of {args.pieces} pieces {args.check} "
        "other real episodes choose among base and pieces. Percent; intervals are t over seeds, 95 %.\n",
        "| learns in | chosen, by seed | change of the chosen | last, by seed | last, imagined |",
        "|---|---|---|---|---|",
    ]
    says = {"model": "the model", "control": "the model on shuffled actions", "real": "the environment"}
    for arm, label in says.items():
        rows = [row for row in found["rows"] if row["arm"] == arm]
        change = matched_interval([row["success"] for row in rows], [found["base"]["success"]] * len(rows))
        cells = (
            label,
            ", ".join(f"{100 * row['success']:.1f}" for row in rows),
            f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})",
            ", ".join(f"{100 * row['last']:.1f}" for row in rows),
            ", ".join(f"{100 * row['imagined_last']:.0f}" for row in rows if "imagined_last" in row) or "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


main()
