"""What plans of learning share: what several learners can share of the settings, and what an iteration takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toddle.core.config import save_config, to_dict
from toddle.core.errors import problem
from toddle.core.protocols import Learner
from toddle.envs.base import BatchedEnv
from toddle.methods._base import Run, load_method
from toddle.runs.beside import beside
from toddle.runs.engine import serve
from toddle.runs.joining import join
from toddle.runs.learners import check_learners, follow, follows
from toddle.runs.workers import Crew, act, acts, crew

__all__ = ["check_sharded", "check_shared", "iteration_seconds", "led_by_another", "process_lines", "unit_of"]

LONG = 40.0
"""Seconds of a first iteration from which a second one is not waited for; a cold start can take a third of them."""


def led_by_another(
    config: Any,
    command: str,
    build: Callable[[Any, Crew | None], Run],
    environments: Callable[[], Sequence[BatchedEnv]],
) -> bool:
    """Be a worker or one of the other learners until the end, where this process is one; return whether it was.

    build: makes what learns, whose worlds are those of workers where an engine is theirs.  environments: makes those of
    this process.
    """
    if acts() and config.acting == "engine":
        serve(config, environments, unit_of(config))
    elif acts():
        act(config, lambda own: build(own, None), unit_of(config))
    elif config.join is not None:
        join(config.join, command)
    elif follows(config.learners):
        with ExitStack() as held:
            folder = Path(held.enter_context(TemporaryDirectory()))  # the run's is the first learner's
            save_config(folder / "config.yaml", config)

            def made() -> Any:
                workers = held.enter_context(crew(config, command, folder))
                return beside(config, build(config, workers), workers).learner

            follow(made, config.learners)
    else:
        return False
    return True


def unit_of(config: Any) -> int:
    """Return how many worlds go together where worlds are shared out: those of a group of episodes."""
    return int(to_dict(config).get("episodes", {}).get("group", 1))


def check_sharded(config: Any, **settings: bool) -> None:
    """Raise InputError where weights cannot be shared out in RL; `settings`: what else stands against it."""
    given = to_dict(config)
    kept = {"one learner": config.learners == 1, "imitation": given.get("imitation", {}).get("weight", 0.0) > 0.0}
    kept |= {"ppo.compile": given.get("ppo", {}).get("compile", False)}
    for what, true in {**kept, **settings}.items():
        if config.sharding == "full" and true:
            raise problem("sharding", f"none with {what}", "full")


def check_shared(config: Any, command: str, *, workers: int = 1, **settings: Any) -> None:
    """Raise InputError where several learners or workers cannot share the worlds, the method, or what else is
    set."""
    whole, unit = to_dict(config).get("episodes", {}), unit_of(config)
    for field, count in (("learners", config.learners), ("workers", workers)):
        check_learners(count, config.worlds // unit, "worlds" if unit == 1 else "groups of worlds", field)
    if config.learners == workers == 1:
        return
    name, count = ("learners", config.learners) if workers == 1 else ("workers", workers)
    if workers > 1 and workers % config.learners:
        raise problem("workers", f"a multiple of the {config.learners} learners", workers)
    chosen = whole.get("curriculum", {}).get("kind", "uniform") != "uniform"
    settings["a curriculum over starts"] = chosen and config.learners > 1
    settings["safety"] = config.safety != "none"
    settings[f"method {config.method}"] = not load_method(config.method, command).shared
    for what, given in settings.items():
        if given:
            remedy = f"docs/scaling.md lists what several {name} share"
            raise problem(name, f"1 with {what.replace('_', ' ')}", count, remedy)


def process_lines(config: Any) -> list[str]:
    """Return what a plan says of the processes of a run, where there are several."""
    lines = []
    if config.learners > 1:
        parts = ", each with a part of every weight" if to_dict(config).get("sharding") == "full" else ""
        lines.append(f"{config.learners} processes learn{parts}")
    if config.workers > 1:
        where = " wherever Ray places them" if config.placement == "ray" else ""
        where = f"; they join {config.listen}" if config.listen else where
        act = "step worlds, for all of which one decides" if config.acting == "engine" else "act"
        lines.append(f"{config.workers} other processes {act}{where}")
    return lines


def iteration_seconds(learner: Learner, config: Any) -> float:
    """Make an iteration, and another one where the first was short, so that allocating weighs, or compiles; return the
    seconds of the last."""
    compiles = to_dict(config).get("ppo", {}).get("compile", False)
    for _ in range(2):
        began = time.perf_counter()
        learner.step()
        seconds = time.perf_counter() - began
        if seconds >= LONG and not compiles:
            break
    return seconds
