"""`toddle reward plot`: every term of a composed reward over recorded successes and failures, and over cheats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toddle.algorithms.rewards.compose import Around, make_terms, parse_reward
from toddle.algorithms.rewards.learned import RecordedEpisode
from toddle.algorithms.rewards.steps import Term
from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, Discount, Seed, Whole
from toddle.core.plan import Plan
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import BatchedEnv
from toddle.envs.make import family_of, make_env
from toddle.experience.cheats import play_cheats
from toddle.maths.ranks import spearman
from toddle.models.backbones.base import BackboneConfig
from toddle.recipes._reward_episodes import recorded, steps_of_episode
from toddle.recipes.reward import check_datasets
from toddle.recipes.reward_fit import source_of
from toddle.reporting.reward_terms import write_terms_page
from toddle.runs.run import RunFolder

__all__ = ["Config", "measured", "plan", "run"]


@config
class Config:
    """Draw every term of a reward over recorded successes and failures, beside policies that would cheat it.

    Writes <out>/terms.json and the page index.html.
    Example: toddle reward plot --reward sparse+pbrs+gvl:runs/terms --dataset data/new data/new_failures
    """

    dataset: tuple[Path, ...]
    """LeRobot datasets that nothing was trained on, with successes and failures."""
    reward: str = "sparse+pbrs"
    """The reward, as `--reward` of pretrain and finetune."""
    env: tuple[str, ...] = ()
    """One environment: written terms use its names, cheats are played in it; by default that of the recording."""
    cheats: Whole = 8
    """Episodes of each policy that would cheat; 0: none.  They need an environment from state with an expert."""
    out: Path = Path("runs/reward_plot")
    """Folder of results."""
    features: str = "state"
    """What learned terms read, as they were trained: state or backbone."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The frozen backbone."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads."""
    every: Count = 1
    """Steps between two that are looked at."""
    discount: Discount = 0.99
    """gamma of a step."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept."""
    seed: Seed = 5_000_000
    """Seed of the first episode of cheats, and of bonuses."""

    def __post_init__(self) -> None:
        check_datasets(self.dataset)
        if self.features not in ("state", "backbone"):
            raise problem("features", "state or backbone", self.features)
        if len(self.env) > 1:
            raise problem("env", "one environment", " ".join(self.env))
        if not parse_reward(self.reward).terms:
            raise problem("reward", "a sum with terms beside the environment's own, such as sparse+pbrs", self.reward)


def _env(config: Config) -> BatchedEnv:
    """Build the environment.  Raises InputError where the recording does not say which it was."""
    name = config.env[0] if config.env else LeRobotDataset(config.dataset[0]).episodes[0].facts.get("env")
    if not isinstance(name, str):
        raise problem("env", "the name of an environment, which the recording does not say", "none")
    ends: dict[str, Any] = {"terminate_on_success": True} if family_of(name).takes("terminate_on_success", name) else {}
    return make_env(name, max(1, config.cheats), seed=config.seed, **ends)


def _terms(config: Config, env: BatchedEnv) -> list[tuple[Term, float]]:
    source = source_of(config.features, config.backbone, config.cameras)
    around = Around(named=env.named, seed=config.seed % 2**31, fingerprint="" if source is None else source.fingerprint)
    return make_terms(parse_reward(config.reward), around)


def plan(config: Config) -> Plan:
    """Read terms and datasets, and say what will be drawn."""
    env = _env(config)
    terms = [term.name for term, _ in _terms(config, env)]
    datasets = [LeRobotDataset(folder) for folder in config.dataset]
    cheats = [f"play {config.cheats} episodes of each cheat in {env.name}"] if config.cheats else []
    env.close()
    return Plan(
        steps=[
            *(f"read {one.path}: {len(one.episodes)} episodes" for one in datasets),
            *cheats,
            f"draw {', '.join(terms)}; write {config.out / 'index.html'}",
        ],
        memory_bytes=2**29,
        seconds=5.0 + 1.5 * config.cheats + 0.02 * sum(len(one.episodes) for one in datasets) * len(terms),
    )


def _over(term: Term, one: RecordedEpisode, states: int, discount: float) -> dict[str, Any]:
    """Return what a term pays at each step of an episode, what it says of each, and what it learns of them."""
    steps = steps_of_episode(one, states, discount)
    paid, value = term.paid(steps)[:, 0], term.value(steps)
    term.fit(steps)
    return {
        "paid": paid.tolist(),
        "value": None if value is None else value[:, 0].tolist(),
        "discounted": float((discount ** torch.arange(len(paid)) * paid).sum()),
        "success": one.success,
    }


def measured(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what a term is worth over episodes: `order`, the mean rank correlation of what it says with time within
    successes; `pairs`, the share of pairs of a success and a failure in which the failure is worth less.

    An episode is worth what was said of its last step, or where nothing is said the mean of what was paid.
    """
    orders = [spearman(one["value"], range(len(one["value"]))) for one in found if one["success"] and one["value"]]
    worth = [one["value"][-1] if one["value"] else float(np.mean(one["paid"])) for one in found]
    won = np.array([value for value, one in zip(worth, found, strict=True) if one["success"]])
    lost = np.array([value for value, one in zip(worth, found, strict=True) if not one["success"]])
    below = (lost[None] < won[:, None]) + 0.5 * (lost[None] == won[:, None])
    return {
        "order": float(np.mean(orders)) if orders else math.nan,
        "pairs": float(below.mean()) if below.size else math.nan,
        "successes": len(won),
        "failures": len(lost),
    }


def _cheated(term: Term, weight: float, played: dict[str, Any], states: int, discount: float) -> dict[str, Any]:
    """Return the mean discounted return of each policy, of the term alone and with 1 at success; of those that cheat,
    episodes that succeeded all the same do not count."""
    table: dict[str, Any] = {}
    for name, episodes in played.items():
        alone, whole = [], []
        for rows, success in episodes:
            if success and name != "expert":
                continue
            found = _over(term, RecordedEpisode(torch.from_numpy(rows), success), states, discount)
            alone.append(weight * found["discounted"])
            whole.append(alone[-1] + (discount ** (len(rows) - 1) if success else 0.0))
        if alone:
            table[name] = {"term": float(np.mean(alone)), "with_success": float(np.mean(whole)), "episodes": len(alone)}
    best = max((own["with_success"] for name, own in table.items() if name != "expert"), default=-math.inf)
    return {"policies": table, "holds": table["expert"]["with_success"] > best}


def run(config: Config, *, resume: bool = False) -> None:
    """Draw and write."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        env = _env(config)
        source = source_of(config.features, config.backbone, config.cameras)
        episodes = recorded(
            config.dataset, source=source, cameras=config.cameras, cache=config.cache, every=config.every
        )
        states = LeRobotDataset(config.dataset[0]).vector("observation.state").shape[1]
        played = play_cheats(env, config.seed) if config.cheats and source is None else {}
        env.close()
        found: dict[str, Any] = {}
        for term, weight in _terms(config, env):
            over = [_over(term, one, states, config.discount) for one in episodes]
            facts = {"kind": term.kind, "weight": weight, **measured(over), "episodes": over}
            if played:
                facts["cheats"] = _cheated(term, weight, played, states, config.discount)
            found[term.name] = facts
        plain = {
            name: {key: _plain(value) for key, value in own.items() if key != "episodes"} for name, own in found.items()
        }
        write_json_atomic(config.out / "terms.json", {"reward": config.reward, "terms": plain})
        write_terms_page(config.out / "index.html", config.reward, found)
        folder.finish(len(found))
    for name, own in found.items():
        held = f"; cheats earn {'less' if own['cheats']['holds'] else 'NOT less'}" if played else ""
        print(f"{name}: order {own['order']:.2f}, pairs {own['pairs']:.2f}{held}")
    print(f"page: {config.out / 'index.html'}")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
