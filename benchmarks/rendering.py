"""Does a VLA that was taught with varied pictures bear a foreign rendering better?  push-v3, 15 demonstrations.

    python benchmarks/rendering.py --out runs/rendering --seeds 0 1 2
    python benchmarks/rendering.py --out runs/rendering --page docs/results/rendering

The first records the demonstrations (once plain, once with the drawing varied from episode to episode), fine-tunes a
fresh expert on them for every arm and seed and evaluates it under the rendering that it was taught with and under
MuJoCo's defaults; what is done is not done again.  The second puts every episode into `episodes.csv` there and prints
the table.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from toddle.maths.intervals import t_interval, wilson_interval
from toddle.reporting.episode_log import read_episodes

TASK, DEMONSTRATIONS = "metaworld/push-v3", ("--episodes", "15", "--noise", "0.3")
VARIATION = {"light-angle": 30, "light-brightness": 0.3, "shadows": 0.5, "multisampling": 0.5, "reflections": 0.5}
VARIED = [text for name, value in VARIATION.items() for text in (f"--variation.{name}", str(value))]
AUGMENTED = ["--augment.variants", "3"]
ARMS: dict[str, tuple[str, list[str]]] = {
    "plain": ("plain", []),
    "varied drawing": ("varied", []),
    "augmented pictures": ("plain", AUGMENTED),
}
"""Arm -> demonstrations, and further settings of sft."""
SFT = ("--sft.steps", "400", "--sft.learning-rate", "1e-3")
EPISODES, SEED = 20, 0
FOREIGN = ("--render.shadows", "True", "--render.reflections", "True", "--render.multisampling", "4")
RENDERINGS: dict[str, tuple[str, ...]] = {"taught": (), "MuJoCo's": FOREIGN}


def toddle(done: Path, *arguments: str) -> None:
    """Run a command unless what it makes is there."""
    if not done.exists():
        subprocess.run([sys.executable, "-m", "toddle", *arguments], check=True)


def record(out: Path) -> None:
    """Record both data sets: the same seeds, so the same motions."""
    for name, more in (("plain", []), ("varied", VARIED)):
        folder = out / name
        toddle(folder / "finished.json", "record", "--out", str(folder), "--env", TASK, *DEMONSTRATIONS, *more)


def run(out: Path, arm: str, seed: int) -> None:
    """Fine-tune and evaluate one arm with one seed."""
    data, more = ARMS[arm]
    sft = out / f"sft_{arm.split()[0]}_{seed}"
    train = ("--dataset", str(out / data), "--cache", str(out / "features"), "--seed", str(seed))
    toddle(sft / "policy" / "policy.json", "sft", "--out", str(sft), *train, *SFT, *more)
    for name, rendering in RENDERINGS.items():
        folder = out / f"evaluate_{arm.split()[0]}_{seed}_{'taught' if name == 'taught' else 'foreign'}"
        common = ("--policy", f"{arm}={sft}", "--env", TASK, "--episodes", str(EPISODES), "--videos", "0")
        toddle(folder / "finished.json", "evaluate", "--out", str(folder), *common, *rendering)


def collect(out: Path, page: Path) -> None:
    """Write every episode and print the table."""
    rows = []
    for arm in ARMS:
        for folder in sorted(out.glob(f"evaluate_{arm.split()[0]}_*")):
            _, _, seed, rendering = folder.name.split("_")
            for line in read_episodes(folder / "episodes.jsonl"):
                found = {"arm": arm, "seed": int(seed), "rendering": rendering, "episode": line["seed"]}
                rows.append(found | {"success": int(line["success"]), "length": line["length"]})
    page.mkdir(parents=True, exist_ok=True)
    with open(page / "episodes.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    show(page)


def show(page: Path) -> None:
    """Print the table from the page's data: success over all episodes, and per seed the gap to plain and the fall."""
    with open(page / "episodes.csv") as file:
        rows = list(csv.DictReader(file))
    cells: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        cells.setdefault((row["arm"], row["rendering"], row["seed"]), []).append(int(row["success"]))
    seeds = sorted({seed for _, _, seed in cells})
    rates = {key: sum(found) / len(found) for key, found in cells.items()}
    for arm in ARMS:
        for rendering in ("taught", "foreign"):
            each = [cells[arm, rendering, seed] for seed in seeds]
            won = wilson_interval(sum(map(sum, each)), sum(map(len, each)))
            line = f"| {arm} | {rendering} | {', '.join(f'{sum(x)}' for x in each)} of {len(each[0])} |"
            line += f" {100 * won.value:.0f} [{100 * won.low:.0f}, {100 * won.high:.0f}] |"
            if arm != "plain":
                gaps = [rates[arm, rendering, seed] - rates["plain", rendering, seed] for seed in seeds]
                line += f" {_points(gaps)} |"
            print(line)
        falls = [rates[arm, "foreign", seed] - rates[arm, "taught", seed] for seed in seeds]
        print(f"    {arm}: from the taught to the foreign drawing {_points(falls)} points over {len(seeds)} seeds")


def _points(gaps: list[float]) -> str:
    gap = t_interval(gaps)
    return f"{100 * gap.value:+.0f} [{100 * gap.low:.0f}, {100 * gap.high:.0f}]"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rendering"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[])
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    if given.seeds:
        record(given.out)
    for number in given.seeds:
        for name in given.arms:
            run(given.out, name, number)
    if given.page:
        collect(given.out, given.page)
