"""`toddle identify`: which masses, friction and gains a recording was made with: a twin of its world, with intervals.

Writes <out>/identified.json, every number, and <out>/table.yaml, the intervals as a table for `--randomise`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml
from pydantic import BeforeValidator
from rich.console import Console
from rich.table import Table

from toddle.core.config import config
from toddle.core.errors import nearest, problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.numbers import Count, Positive, Seed
from toddle.core.plan import Plan
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.envs.base import BatchedEnv
from toddle.envs.domain import FACTORS, DomainTable
from toddle.envs.make import family_of, make_env
from toddle.experience.identification import Recorded, Replays, recorded_episodes
from toddle.maths.identification import Identified, identify
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "replays_of", "run", "seek", "worlds_of"]

ENOUGH = 0.8
"""Share of the squares left by the environment's own physics that a twin takes away; what remains may be the sensors'
noise."""
SETS = 4
"""Sets of factors that are played at once."""


def _one_by_one(names: Sequence[str]) -> list[str]:
    """Return the names, of which several may stand in one word with commas; `mass` is that of what is moved."""
    each = [name for text in names for name in text.split(",")]
    return ["object_mass" if name == "mass" else name for name in each]


@config
class Config:
    """Find the physics of recorded episodes: factors of masses, friction, gains and damping, each with an interval.

    Example: toddle identify runs/measured --env tabletop/push-cube --parameters friction object_mass --out runs/twin
    Every episode is played again from its start, with the recorded actions; what fits best is the twin.
    """

    dataset: Annotated[Path, tyro.conf.Positional]
    """Episodes to be explained: a LeRobot dataset (v3.0) with the seeds of its starts, as `toddle record` writes."""
    env: str = "tabletop/push-cube"
    """Environment whose episodes they are."""
    out: Path = Path("runs/identify")
    """Folder of what is found."""
    parameters: Annotated[tuple[str, ...], BeforeValidator(_one_by_one)] = ("friction", "object_mass")
    """What is sought: of object_mass (or mass), link_mass, friction, gains, damping, as factors of the environment's
    own; words or a list with commas."""
    low: Positive = 0.25
    """Least factor that is thought possible."""
    high: Positive = 4.0
    """Largest factor that is thought possible."""
    episodes: Count = 8
    """Episodes that are used, at most."""
    steps: Count = 50
    """First control steps of each that are played again."""
    window: Count = 3
    """Control steps of each that are compared, from the first at which the parameters matter.  With more, small
    differences grow and the search may end in a wrong valley; with fewer, sensors' noise tells less."""
    seed: Seed = 0
    """Seed of the first guesses."""

    def __post_init__(self) -> None:
        for name in self.parameters:
            if name not in FACTORS:
                raise problem("parameters", f"some of {', '.join(FACTORS)}", name, nearest(name, FACTORS))
        if not self.parameters or len(set(self.parameters)) < len(self.parameters):
            raise problem("parameters", f"different ones of {', '.join(FACTORS)}", " ".join(self.parameters) or "none")
        if self.window > self.steps:
            raise problem("window", f"at most the {self.steps} steps that are played again", self.window)
        if not self.low < 1.0 < self.high:
            raise problem("low", "below 1, which is below high", f"{self.low:g}, {self.high:g}")


def _episodes(config: Config) -> list[Recorded]:
    family_of(config.env)
    return recorded_episodes(LeRobotDataset(config.dataset), config.env, most=config.episodes, steps=config.steps)


def worlds_of(config: Config, count: int) -> BatchedEnv:
    """Return worlds whose parameters can be set.  Raises InputError where the environment has none."""
    family, options = family_of(config.env), dict[str, Any]()
    if family.takes("max_episode_steps", config.env):
        options["max_episode_steps"] = 10 * config.steps
    wide = DomainTable(**dict.fromkeys(config.parameters, (config.low, config.high)))  # type: ignore[arg-type]
    return make_env(config.env, count, randomise=wide, **options)


def replays_of(config: Config, episodes: list[Recorded]) -> Replays:
    """Return the episodes, ready to be played again under other factors.  Raises InputError where these do nothing."""
    replays = Replays(worlds_of(config, SETS * len(episodes)), episodes, config.parameters)
    replays.look_at(config.window, config.low, config.high)
    return replays


def plan(config: Config) -> Plan:
    """Check the episodes, and say what will be sought."""
    episodes = _episodes(config)
    replays_of(config, episodes).env.close()
    sought = ", ".join(config.parameters)
    plays = 2 * (16 * 12 * len(config.parameters) + 40 * len(config.parameters) ** 2)
    return Plan(
        steps=[
            f"play {len(episodes)} episodes of {config.env} again, up to {config.steps} control steps of each",
            f"seek {sought} between {config.low:g} and {config.high:g} times the environment's own",
            f"write {config.out / 'identified.json'} and {config.out / 'table.yaml'}",
        ],
        memory_bytes=500 * 2**20 + SETS * len(episodes) * (2**22 + family_of(config.env).world_bytes),
        seconds=plays * len(episodes) * config.steps * 2e-4,
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Seek, print and write what was found."""
    episodes = _episodes(config)
    replays = replays_of(config, episodes)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        found, explained = seek(config, replays)
        replays.env.close()
        _write(config, found, explained)
        folder.finish(1)


def seek(config: Config, replays: Replays) -> tuple[dict[str, Identified], float]:
    """Return what is known of each parameter, and the share of the squares that it explains: once with every number
    weighed by how far it moves, and again by how well it is known then."""
    own = [1.0] * len(config.parameters)
    if not np.square(replays(np.array([own]))).any():
        print("the environment's own physics gives these episodes exactly: every factor is 1", file=sys.stderr)
        return {name: Identified(1.0, 1.0, 1.0, True) for name in config.parameters}, 1.0
    box = [config.low] * len(config.parameters), [config.high] * len(config.parameters)
    print(f"comparing {replays.compared} rows; every number weighed by how far it moves", file=sys.stderr)
    first = identify(replays, *box, seed=config.seed, intervals=False)
    replays.weigh(np.array([one.value for one in first]))
    print("again, every number weighed by how well it is known", file=sys.stderr)
    found = identify(replays, *box, seed=config.seed)
    explained = 1.0 - _square(replays, [one.value for one in found]) / _square(replays, own)
    return dict(zip(config.parameters, found, strict=True)), explained


def _square(replays: Replays, factors: list[float]) -> float:
    return max(float(np.square(replays(np.array([factors]))).sum()), 1e-300)


def _write(config: Config, found: dict[str, Identified], explained: float) -> None:
    found = {name: one._replace(identified=one.identified and explained >= ENOUGH) for name, one in found.items()}
    facts = {name: one._asdict() for name, one in found.items()}
    write_json_atomic(config.out / "identified.json", {"env": config.env, "parameters": facts, "explained": explained})
    ranges = {name: [round(one.low, 4), round(one.high, 4)] for name, one in found.items()}
    write_text_atomic(config.out / "table.yaml", yaml.safe_dump(ranges))
    title = f"{config.dataset} in {config.env}: {100 * explained:.1f} % explained"
    shown = Table("parameter", "factor", "95 % interval", "", title=title)
    for name, one in found.items():
        said = "identified" if one.identified else "not identified"
        shown.add_row(name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", said)
    if explained < ENOUGH:
        shown.caption = "the fit leaves much: something else differs too, or the search ended in a wrong valley"
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
