"""`toddle explore --method asid`: motions that say most of unknown physics, made and recorded for `toddle identify`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from toddle.core.config import config
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.numbers import Count, Positive, Whole
from toddle.core.plan import Plan
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.base import Array
from toddle.envs.make import family_of, make_env
from toddle.experience.excitation import Motion, Search, make_motions
from toddle.maths.exploration import information_gain
from toddle.recipes import identify
from toddle.recipes._recording import make_recorded, spec_of
from toddle.runs.run import RunFolder

__all__ = ["ExcitationConfig", "check", "deviations", "excite", "find_motions", "gain", "plan"]


@config
class ExcitationConfig:
    """What is unknown, and how motions are searched that tell it."""

    parameters: tuple[str, ...] = ("friction", "object_mass")
    """What is unknown: of object_mass, link_mass, friction, gains, damping."""
    low: Positive = 0.25
    """Least factor that is thought possible."""
    high: Positive = 4.0
    """Largest factor that is thought possible."""
    guesses: Count = 3
    """Sets of factors at which a motion must say much: the environment's own, and others drawn from the middle half."""
    pool: Count = 24
    """Motions that are compared in a round."""
    rounds: Whole = 2
    """Rounds in which the chosen motions are disturbed and chosen from again."""
    sensor: Positive = 1e-3
    """Standard deviation of a sensor's noise on each number, which says how soon more is known than was before."""
    steps: Count = 25
    """Control steps of a motion."""
    window: Count = 3
    """Control steps that `toddle identify` will compare."""


def check(config: Any) -> identify.Config:
    """Return the settings of `toddle identify` under which motions are compared.  Raises InputError where none are."""
    asid = config.asid
    return identify.Config(
        dataset=config.out,
        env=config.env,
        parameters=asid.parameters,
        low=asid.low,
        high=asid.high,
        steps=asid.steps,
        window=asid.window,
    )


def _prior(asid: ExcitationConfig) -> Array:
    """Return the information (P, P) of factors drawn log-uniformly between the least and the largest."""
    return np.eye(len(asid.parameters)) * 12.0 / np.log(asid.high / asid.low) ** 2


def _search(config: Any) -> Search:
    asid, compared = config.asid, check(config)
    drawn = numpy_generator(config.seed, "guesses").uniform(0.25, 0.75, (asid.guesses, len(asid.parameters)))
    guesses = asid.low ** (1.0 - drawn) * asid.high**drawn
    guesses[0] = 1.0
    options = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}
    return Search(
        make_env(config.env, asid.pool, seed=config.seed, **options),
        lambda episodes: identify.replays_of(compared, episodes),
        guesses,
        _prior(asid),
        steps=asid.steps,
        noise=0.3 if config.size is None else config.size,
        deviation=asid.sensor,
    )


def find_motions(config: Any) -> tuple[list[Motion], list[Motion]]:
    """Return the motions that say most, and as many of the first round that nobody chose."""
    search, asid = _search(config), config.asid
    first = search.first(config.seed)
    plain = first[: config.episodes]
    best = plain if config.control == "shuffled" else search.chosen(first, config.episodes)
    for number in range(0 if config.control == "shuffled" else asid.rounds):
        varied = search.varied(best, config.seed + number)
        best = max(best, search.chosen([*best, *varied], config.episodes), key=lambda found: gain(asid, found))
        print(f"round {number + 1}: {gain(asid, best):.2f} nats", file=sys.stderr)
    search.env.close()
    return best, plain


def gain(asid: ExcitationConfig, motions: list[Motion]) -> float:
    """Return what the motions say of all parameters together, in nats, the mean over the guesses."""
    known, prior = sum(one.information for one in motions), _prior(asid)
    return float(np.mean([information_gain(at, prior) for at in np.asarray(known)])) / 2.0


def deviations(asid: ExcitationConfig, motions: list[Motion]) -> dict[str, float]:
    """Return the deviation of each parameter's logarithm that is to be expected, the root of the mean variance."""
    known = _prior(asid) + np.asarray(sum(one.information for one in motions))
    variance = np.linalg.inv(known).diagonal(axis1=1, axis2=2).mean(0)
    return {name: float(value) for name, value in zip(asid.parameters, np.sqrt(variance), strict=True)}


def plan(config: Any, recorded: Any) -> Plan:
    """Check the environment, and say what will be sought."""
    family_of(config.env)
    make_recorded(recorded, config.env).close()
    env = identify.worlds_of(check(config), 1)
    env.reset(seed=config.seed)
    env.expert_action()
    env.close()
    asid = config.asid
    plays = (2 + asid.rounds) * asid.pool * (2 + 2 * (1 + asid.guesses) * len(asid.parameters))
    return Plan(
        steps=[
            f"play {asid.pool} motions of {config.env}, {asid.steps} control steps long, and {asid.rounds} rounds more",
            f"choose {config.episodes} that say most of {', '.join(asid.parameters)}",
            f"make them and write them to {config.out}",
        ],
        memory_bytes=500 * 2**20 + 5 * asid.pool * (2**22 + family_of(config.env).world_bytes),
        seconds=10.0 + plays * asid.steps * 2e-4,
    )


def excite(config: Any, recorded: Any, folder: RunFolder) -> None:
    """Search, make the motions in the world of `--randomise`, and write them."""
    best, plain = find_motions(config)
    env = make_recorded(recorded, config.env)
    writer = DatasetWriter(config.out, spec_of(recorded, env), resume=True)
    try:
        made = make_motions(env, best, image_stride=config.image_stride, steps=config.asid.steps)
        for one in made[writer.num_episodes :]:
            facts: dict[str, str | int | float | bool] = {"env": config.env, "seed": one.seed, "success": one.success}
            writer.add_episode(one.columns, one.images, one.task, facts)
    finally:
        writer.close()
        env.close()
    _tell(config, best, plain)
    folder.finish(writer.num_episodes)


def _tell(config: Any, best: list[Motion], plain: list[Motion]) -> None:
    """Write and print what is to be expected of the motions, beside motions that nobody chose."""
    asid = config.asid
    expected, unchosen = deviations(asid, best), deviations(asid, plain)
    facts = {"expected": expected, "unchosen": unchosen, "nats": gain(asid, best), "unchosen_nats": gain(asid, plain)}
    write_json_atomic(config.out / "explored.json", {"method": "asid", "seeds": [one.seed for one in best], **facts})
    card = f"# {config.out.name}\n\n{len(best)} motions of {config.env}, recorded by `toddle explore --method asid`.\n"
    write_text_atomic(config.out / "README.md", card)
    title = f"{len(best)} motions: {gain(asid, best):.2f} nats of what is unknown; unchosen {gain(asid, plain):.2f}"
    shown = Table("parameter", "to be expected", "unchosen", title=title)
    for name in asid.parameters:
        shown.add_row(name, f"+- {100 * expected[name]:.2f} %", f"+- {100 * unchosen[name]:.2f} %")
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
