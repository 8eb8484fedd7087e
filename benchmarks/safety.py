"""A limit on costs held by PPO-Lagrangian on tabletop/push-cube, by four costs: the runs, and their page.

    python benchmarks/safety.py run --work runs/safety [--seeds 3 4] [--arms none force]    two to five minutes each
    python benchmarks/safety.py page --work runs/safety                 docs/results/safety/{results.json,README.md}

`page` adds what is in `work` to the results that are there.

An arm is one `toddle pretrain` of 400,000 control steps with the dense reward: without a limit, and with a limit on one
of four costs, at about a third of what an episode costs without.  Every policy is then evaluated on 50 seeds, its most
likely action, and counted by all three costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from toddle import make_env
from toddle.experience.evaluate import evaluate
from toddle.maths.intervals import Interval, matched_interval, t_interval
from toddle.policies.store import load_policy
from toddle.runs.metrics import read_metrics

ENV = "tabletop/push-cube"
LIMITS = {"contact": 4.0, "force": 4.0, "joint": 2.0, "knocked": 0.3}
ARMS = ("none", *LIMITS)
OUT = Path(__file__).parent.parent / "docs/results/safety"


def run(work: Path, seeds: list[int], arms: list[str]) -> None:
    """Make the runs that are not there yet."""
    for seed in seeds:
        for arm in arms:
            folder = work / f"{arm}-{seed}"
            words = ["pretrain", "--env", ENV, "--reward", "dense", "--steps", "400000", "--seed", str(seed)]
            words += ["--cost", "contact" if arm == "none" else arm, "--out", str(folder)]
            if arm != "none":
                words += ["--safety", "lagrangian", "--limit", str(LIMITS[arm])]
            if not (folder / "policy").exists():
                more = ["--resume"] if folder.exists() else []
                subprocess.run([sys.executable, "-m", "toddle", *words, *more], check=True)
            if not (folder / "played.json").exists():
                (folder / "played.json").write_text(json.dumps(_played(folder)))


def _played(folder: Path) -> dict[str, float]:
    """Return success and costs of 50 episodes, and the cost while learning over the last tenth."""
    found: dict[str, float] = {}
    for cost in LIMITS:
        env = make_env(ENV, 25, cost=cost)
        results = evaluate(load_policy(folder / "policy"), env, seeds=list(range(50)))
        found[cost] = float(np.mean([result.cost for result in results]))
        found["success"] = 100.0 * float(np.mean([bool(result.success) for result in results]))
        env.close()
    rows = read_metrics(folder)
    late = [row["episode/cost"] for row in rows[-len(rows) // 10 :] if "episode/cost" in row]
    return found | {"late": float(np.mean(late))}


def _shown(interval: Interval) -> str:
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]"


def _column(values: list[float | None]) -> str:
    """Return a mean with its interval, or that it was not counted in all of the runs."""
    counted = [value for value in values if value is not None]
    return _shown(t_interval(counted)) if len(counted) == len(values) else "-"


def page(work: Path) -> None:
    """Write the data and the page."""
    results = OUT / "results.json"
    data: dict[str, dict[str, Any]] = json.loads(results.read_text()) if results.exists() else {}
    for path in sorted(work.glob("*/played.json")):
        arm, seed = path.parent.name.rsplit("-", 1)
        data.setdefault(arm, {})[seed] = json.loads(path.read_text())
    OUT.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    lines = [
        "# A limit on costs, held while learning",
        "",
        f"`python benchmarks/safety.py run`, then `page`. {ENV}, dense reward, 400,000 control steps; mean",
        "over seeds with 95 % intervals (t). *While learning* is the mean cost of an episode over the last tenth of",
        "training, with exploration; the other columns are of 50 episodes of the most likely action.",
        "The last column is the success beside the run without a limit of the same seed, in points; an",
        "arm with fewer seeds than that was run at another time, and is not compared.",
        "",
        f"| limit on | limit | seeds | while learning | {' | '.join(LIMITS)} | success % | against no limit |",
        f"|---|---|---|---|{'---|' * len(LIMITS)}---|---|",
    ]
    for arm in ARMS:
        rows = data.get(arm, {})
        shown = [_column([row.get(name) for row in rows.values()]) for name in ("late", *LIMITS, "success")]
        pairs = [(row["success"], data["none"][seed]["success"]) for seed, row in rows.items() if seed in data["none"]]
        whole = arm != "none" and len(pairs) == len(data["none"])
        gap = _shown(matched_interval(*zip(*pairs, strict=True))) if whole else "-"
        late = "-" if arm == "none" else shown[0]
        limit = f"{LIMITS[arm]:g}" if arm in LIMITS else "-"
        lines.append(f"| {arm} | {limit} | {len(rows)} | {late} | {' | '.join(shown[1:])} | {gap} |")
    (OUT / "README.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--work", type=Path, default=Path("runs/safety"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    given = parser.parse_args()
    run(given.work, given.seeds, given.arms) if given.what == "run" else page(given.work)
