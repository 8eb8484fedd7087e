"""Does the score of `toddle quality` say how well a policy does that imitates a dataset?

    python benchmarks/quality_score.py run [--task drawer-open-v3] [--folder runs/quality_score]
    python benchmarks/quality_score.py page [--folder runs/quality_score]

The page is docs/benchmarks/quality_score.{json,md}.  24 datasets of 5 episodes each: a human stand-in whose habits are
0, 0.5, 1, 1.5, 2 or 3 times the default, each with 4 draws.  Each is imitated by the same small diffusion policy from
state, with the same updates, and the policy plays the same 32 starts.  The page says Spearman's correlation of success
with the datasets' score, with each metric, and with the score without it.  A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.quality import METRICS, Judged, QualityConfig, judge, sources
from toddle.envs.make import make_env
from toddle.experience.actor import body_in
from toddle.experience.demonstrations import PolicyActor, demonstrate
from toddle.experience.human import HumanConfig
from toddle.maths.quality import share_of_worse
from toddle.methods._imitation import ImitationConfig, imitate
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.links import DiffusionConfig
from toddle.recipes import record

OUT = Path(__file__).parent.parent / "docs/benchmarks"
HABITS, DRAWS, EPISODES, STARTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0), 4, 5, 32
UPDATES = 500


def human(times: float) -> HumanConfig:
    """Return the stand-in with habits of so many times their defaults."""
    usual = HumanConfig()
    return HumanConfig(
        detour=times * usual.detour,
        slowest=max(0.15, 1.0 - times * (1.0 - usual.slowest)),
        pauses=times * usual.pauses,
        reaction=times * usual.reaction,
        tremor=times * usual.tremor,
    )


def recorded(folder: Path, task: str, times: float, draw: int) -> LeRobotDataset:
    """Record a dataset, or open the one that is there."""
    settings = record.Config(
        out=folder,
        env=(f"metaworld-state/{task}",),
        policy="human",
        human=human(times),
        episodes=EPISODES,
        attempts=40,
        seed=5_000_000 + 10_000 * draw,
        batch=5,
        cameras=(),
        after_success=0,
    )
    record.run(settings, resume=True)
    return LeRobotDataset(folder)


def success(dataset: LeRobotDataset, task: str, seed: int) -> float:
    """Imitate the dataset, play, and return the share of successes."""
    env: Any = make_env(f"metaworld-state/{task}", STARTS)
    policy = DenoisingPolicy(
        DenoisingConfig(
            body=env.body_spec,
            horizon=4,
            executed=4,
            network=MlpDenoiserConfig(contract=False),
            fixed_statistics=True,
            seed=seed,
            process=DiffusionConfig(train_steps=20, ddim_steps=5),
        )
    )
    imitate(policy, dataset, ImitationConfig(steps=UPDATES), seed, space=env.single_action_space)
    played = demonstrate(env, PolicyActor(policy, body=body_in(policy, env)), list(range(STARTS)), after_success=0)
    return float(np.mean([one.success for one in played]))


def run(folder: Path, task: str) -> None:
    """Make every run that is missing, draw by draw, so that what is there is always balanced."""
    for draw in range(DRAWS):
        for times in HABITS:
            own = folder / f"habits{times:g}_draw{draw}"
            if not (own / "success.json").exists():
                dataset = recorded(own / "data", task, times, draw)
                found = {"task": task, "habits": times, "draw": draw, "success": success(dataset, task, draw)}
                (own / "success.json").write_text(json.dumps(found))
                print(found, flush=True)


def page(folder: Path) -> None:
    """Judge all datasets together and write the page."""
    runs = sorted(path.parent for path in folder.glob("*/success.json"))
    facts = [json.loads((own / "success.json").read_text()) for own in runs]
    config = QualityConfig()
    judged = judge(sources([LeRobotDataset(own / "data") for own in runs], config), config)
    won = np.array([one["success"] for one in facts])
    columns = {"score": [judged.score(number) for number in range(len(runs))]}
    columns |= {name: [judged.mean(number, name) for number in range(len(runs))] for name in METRICS}
    found, within = {}, {}
    level = np.array([one["habits"] for one in facts])
    for name, values in columns.items():
        sign = -1.0 if name in METRICS and METRICS[name].larger_is_worse else 1.0
        own = sign * np.array(values)
        found[name] = _correlation(own, won)
        within[name] = _correlation(_without_level(own, level), _without_level(won, level))
    without = {name: _correlation(_score_without(judged, name, len(runs)), won) for name in METRICS}
    draws = np.random.default_rng(0).integers(0, len(runs), (4000, len(runs)))
    score = np.array(columns["score"])
    interval = np.percentile([_correlation(score[each], won[each]) or 0.0 for each in draws], [2.5, 97.5]).tolist()
    habits = sorted({one["habits"] for one in facts})
    rows = [(times, [one["success"] for one in facts if one["habits"] == times]) for times in habits]
    (OUT / "quality_score.json").write_text(
        json.dumps(
            {
                "runs": facts,
                "spearman": found,
                "spearman_within": within,
                "score_interval": interval,
                "score_without": without,
            },
            indent=1,
        )
        + "\n"
    )
    order = sorted(found, key=lambda name: -math.inf if found[name] is None else found[name], reverse=True)
    lines = [
        "# Does the score say how well imitation goes?",
        "",
        f"`python benchmarks/quality_score.py`, {facts[0]['task']} from state, {len(runs)} datasets of {EPISODES}",
        f"episodes, {UPDATES} updates of a small diffusion policy, {STARTS} starts. A stand-in for fine-tuning a VLA.",
        "",
        "| habits of the stand-in, times the default | success of its imitators |",
        "|---|---|",
        *(f"| {times:g} | {', '.join(f'{value:.0%}' for value in values)} |" for times, values in rows),
        "",
        "Spearman's correlation with success; 1 means that what is better by the number succeeds more. Beside it",
        "the same after the mean of each level of habits is taken off both, which leaves the luck of the draw. The",
        "last column is the correlation of the score of all metrics but this one.",
        "",
        "| number | correlation | within a level | score without it |",
        "|---|---|---|---|",
        *(
            f"| {name.replace('_', ' ')} | {_text(found[name])} | {_text(within[name])} | "
            f"{_text(without[name]) if name in without else '–'} |"
            for name in order
        ),
        "",
        f"95 % of the score's correlation over bootstrapped datasets: {interval[0]:.2f} to {interval[1]:.2f}.",
    ]
    (OUT / "quality_score.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _correlation(values: Any, won: Any) -> float | None:
    """Return Spearman's correlation, None where one of them is constant."""
    if np.ptp(values) < 1e-12 or np.ptp(won) < 1e-12:
        return None
    return float(spearmanr(values, won).statistic)


def _score_without(judged: Judged, name: str, count: int) -> Any:
    """Return each dataset's score (all of one task), as `judge` makes it, without one metric."""
    ranks = [
        share_of_worse([one.metrics.get(other, np.nan) for one in judged.episodes], metric.larger_is_worse)
        for other, metric in METRICS.items()
        if other != name
    ]
    mean, source = np.nanmean(ranks, 0), np.array([one.source for one in judged.episodes])
    return np.array([mean[source == each].mean() for each in range(count)])


def _without_level(values: Any, level: Any) -> Any:
    means = {each: values[level == each].mean() for each in np.unique(level)}
    return values - np.array([means[each] for each in level])


def _text(value: float | None) -> str:
    return "constant" if value is None else f"{value:.2f}"


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--folder", type=Path, default=Path("runs/quality_score"))
    given = parser.parse_args()
    run(given.folder, given.task) if given.what == "run" else page(given.folder)


if __name__ == "__main__":
    main()
