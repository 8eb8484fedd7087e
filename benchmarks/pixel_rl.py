"""A flow VLA of five demonstrations a task, improved by RL from pictures on Meta-World: the runs, and their page.

    python benchmarks/pixel_rl.py prepare --work runs/pixel_rl     demonstrations and the VLA (600 updates)
    python benchmarks/pixel_rl.py run --work runs/pixel_rl --task dial-turn-v3 --seed 0 [--arm rftf]
    python benchmarks/pixel_rl.py page --work runs/pixel_rl             docs/benchmarks/pixel_rl.{json,md,png}

A run is one `toddle finetune` of 100,000 control steps and evaluates 50 episodes before and after on the same seeds.
Arms: `ppo` is the preset `flow` (PPO with Flow-SDE, own successes imitated beside it); `imitation` is the control that
leaves PPO's surrogate out (`--ppo.policy-weight 0`), all else the same; `ac-ppo` and `rftf` are the methods of those
names, `rftf` with a model of the order of time of the same five demonstrations; `short` is `ac-ppo` with practice
episodes cut at 1.5 times the mean length of the task's demonstrations, so that a failure costs less and more starts are
met; `sft` has no RL: it goes on with 1,600 supervised updates on the task's five demonstrations.  `short` and `sft` are
evaluated by a command of their own, on as many starts, within 200 steps as all others.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.maths.intervals import t_interval
from toddle.runs.metrics import read_metrics

TASKS = ("dial-turn-v3", "push-v3", "lever-pull-v3", "plate-slide-v3")
ARMS = {
    "ppo": (),
    "ac-ppo": ("--method", "ac-ppo"),
    "rftf": ("--method", "rftf"),
    "short": ("--method", "ac-ppo"),
    "imitation": ("--ppo.policy-weight", "0"),
    "sft": (),
}
DRAWN = ("ppo", "short", "imitation")
"""Arms whose curves are drawn."""
APART = ("sft", "short")
"""Arms that are evaluated by a command of its own."""
OUT = Path(__file__).parent.parent / "docs/benchmarks"
INTRO = """# A VLA that sees, improved by RL

`python benchmarks/pixel_rl.py` ({said}). A FlowVLA of 1.3 million trained weights behind the frozen embedded
backbone, fine-tuned on five demonstrations of each of four Meta-World tasks, then one task a run: 100,000
control steps, 32 worlds, pictures of 96 by 96 and a sentence, reward 1 at success within 200 steps. Success is
that of the same 50 episodes before and after, without exploring, from drawn noise; in brackets 95 % (Wilson).
CPU minutes are those of the whole command, both evaluations included, beside other jobs. The arm `sft` has no RL:
1,600 more supervised updates on the task's own five demonstrations, evaluated by a command of its own (other noise is
drawn, so `before` differs). `short` is AC-PPO with practice episodes cut at 1.5 times the length of the
demonstrations; it was evaluated so too, and begins with a VLA that was fine-tuned anew in the same way.

| task | seed | arm | before | after | CPU minutes |
|---|---|---|---|---|---|
"""


def toddle(*words: str) -> float:
    """Run a command; return its CPU minutes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "toddle", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def prepare(work: Path) -> None:
    """Record five demonstrations of each task and fine-tune one VLA on all of them."""
    for task in TASKS:
        toddle("record", "--env", f"metaworld/{task}", "--episodes", "5", "--out", str(work / f"demos_{task}"))
    folders = [str(work / f"demos_{task}") for task in TASKS]
    common = ["--sft.steps", "600", "--sft.learning-rate", "1e-3", "--cache", str(work / "cache")]
    toddle("sft", "--dataset", *folders, *common, "--out", str(work / "sft"))


def train(work: Path, task: str, seed: int, arm: str) -> None:
    """Improve the VLA on one task."""
    folder = work / f"{arm}_{task}_{seed}"
    if arm == "sft":
        (folder / "cost.json").write_text(json.dumps({"cpu_minutes": go_on(work, task, seed, folder)}) + "\n")
        return
    known = ["--imitation.dataset", str(work / f"demos_{task}"), "--imitation.cache", str(work / "cache")]
    known += ["--worlds", "32", "--evaluation.episodes", "50", "--evaluation.videos", "1"]
    start = ["--policy", str(work / "sft"), "--env", f"metaworld/{task}", "--seed", str(seed)]
    if arm == "rftf":
        model = work / f"order_{task}"
        data = ["--dataset", str(work / f"demos_{task}"), "--cache", str(work / "cache")]
        if not (model / "model").exists():
            toddle("reward", "train", *data, "--model.says", "order", "--controls", "0", "--out", str(model))
        known += ["--process-reward.model", str(model)]
    if arm == "short":
        lengths = [episode.length for episode in LeRobotDataset(work / f"demos_{task}").episodes]
        known += ["--max-episode-steps", str(round(1.5 * sum(lengths) / len(lengths)))]
    minutes = toddle("finetune", *start, *known, *ARMS[arm], "--out", str(folder), "--resume")
    if arm in APART:
        minutes += evaluate(work, task, folder, folder / "policy")
    (folder / "cost.json").write_text(json.dumps({"cpu_minutes": minutes}) + "\n")


def go_on(work: Path, task: str, seed: int, folder: Path) -> float:
    """Go on with supervised updates on the task's own demonstrations; return the CPU minutes, evaluation included."""
    data = ["--dataset", str(work / f"demos_{task}"), "--cache", str(work / "cache"), "--seed", str(seed)]
    updates = ["--sft.steps", "1600", "--sft.learning-rate", "1e-3"]
    minutes = toddle("sft", "--init", str(work / "sft"), *data, *updates, "--out", str(folder / "sft"))
    return minutes + evaluate(work, task, folder, folder / "sft")


def evaluate(work: Path, task: str, folder: Path, after: Path) -> float:
    """Evaluate a policy beside the one that all begin with; return the CPU minutes."""
    both = ["--policy", f"before={work / 'sft'}", f"after={after}", "--env", f"metaworld/{task}"]
    protocol = ["--max-episode-steps", "200", "--episodes", "50", "--videos", "0"]
    return toddle("evaluate", *both, *protocol, "--out", str(folder / "evaluated"))


def found(work: Path) -> list[dict[str, Any]]:
    """Return what the finished runs came to."""
    rows = []
    for folder in sorted(work.glob("*_*_*")):
        arm, _, rest = folder.name.partition("_")
        task, _, seed = rest.rpartition("_")
        if arm not in ARMS or not (folder / "cost.json").exists():
            continue
        played = folder / "evaluated" if arm in APART else folder
        cells = {
            cell["candidate"]: cell["success"] for cell in json.loads((played / "summary.json").read_text())["cells"]
        }
        learned = read_metrics(folder) if arm != "sft" else []
        curve = [[row["rollout/total_steps"], row["episode/success"]] for row in learned if "episode/success" in row]
        cost = json.loads((folder / "cost.json").read_text())
        rows.append({"task": task, "seed": int(seed), "arm": arm, **cells, **cost, "curve": curve})
    return rows


def _share(found: dict[str, float]) -> str:
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:.0f} % ({low:.0f} to {high:.0f})"


def page(work: Path, said: str) -> None:
    """Write data, table and curves."""
    rows = found(work)
    OUT.mkdir(exist_ok=True)
    (OUT / "pixel_rl.json").write_text(json.dumps(rows) + "\n")
    text = INTRO.format(said=said)
    for row in rows:
        before, after = (_share(row[when]) for when in ("before", "after"))
        cost = "not kept" if row["cpu_minutes"] is None else f"{row['cpu_minutes']:.1f}"
        text += f"| {row['task']} | {row['seed']} | {row['arm']} | {before} | {after} | {cost} |\n"
    for task, arm in ((task, arm) for task in TASKS for arm in ("ppo", "ac-ppo", "short", "rftf")):
        gains = [r["after"]["value"] - r["before"]["value"] for r in rows if (r["task"], r["arm"]) == (task, arm)]
        if len(gains) > 1:
            gap = t_interval(gains)
            span = f"{100 * gap.low:.0f} to {100 * gap.high:.0f} over {len(gains)} seeds, Student's t"
            text += f"\n{task}, {arm}: {100 * gap.value:+.0f} points ({span}).\n"
    text += "\n![Success while exploring over control steps.](pixel_rl.png)\n\n"
    text += "Success while exploring, of the episodes that ended in each rollout.\n"
    (OUT / "pixel_rl.md").write_text(text)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for row in (row for row in rows if row["curve"] and row["arm"] in DRAWN):
        steps, success = zip(*row["curve"], strict=True)
        style = {"ppo": "-", "short": "--", "imitation": ":"}[row["arm"]]
        colour = f"C{TASKS.index(row['task'])}"
        axes.plot(steps, success, style, color=colour, label=f"{row['task']}, {row['arm']}, seed {row['seed']}")
    axes.set(xlabel="control steps", ylabel="success while exploring", ylim=(0, 1))
    axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(OUT / "pixel_rl.png", dpi=110, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run", "page"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, default=TASKS[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", choices=tuple(ARMS), default="ppo")
    parser.add_argument("--said", default="as it stands", help="what the page says of how the runs were made")
    given = parser.parse_args()
    if given.what == "prepare":
        prepare(given.work)
    elif given.what == "run":
        train(given.work, given.task, given.seed, given.arm)
    else:
        page(given.work, given.said)


if __name__ == "__main__":
    main()
