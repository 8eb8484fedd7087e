"""The acting engine: one process decides, in one batch, for the worlds of many that only step them.

Workers step physics and draw pictures; they hold no policy, and weights never leave the process that learns.  To it the
worlds of all workers are one environment, `WorldsElsewhere`, in which whatever gathers experience acts as it does in
worlds of its own: the policy (or what `algorithms.parts.Engine` yields in its place) runs once a decision for all of
them, as one process would run it.

A worker that is lost is started again as the first one was, and told again all that its worlds have been told since
they were last reset, restored or saved (which they are after every `MOST_TOLD` calls): they stand where they stood, and
the run is what it would have been.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client
from typing import Any

import numpy as np

from toddle.core.errors import problem
from toddle.core.team import Place, placed
from toddle.envs.base import Array, BatchedEnv, Obs
from toddle.envs.make import family_of
from toddle.experience.worlds import merged_state, own_state
from toddle.runs.workers import ASKED, LOST, Crew, acts, address_of, received, send

__all__ = ["MOST_TOLD", "WorldsElsewhere", "answer", "check_engine", "serve", "worlds_of"]

FACTS = (
    *("name", "body", "dt", "max_episode_steps", "published_steps", "single_observation_space", "single_action_space"),
    *("discrete", "action_parts", "seeing_spec", "cameras", "named", "num_envs", "instruction"),
)
"""What a worker says of an environment."""
MOST_TOLD = 500
"""Calls after which worlds are saved, so that what would be told again takes little memory and time."""
Call = tuple[str, tuple[Any, ...], Callable[[int], dict[str, Any]]]
"""A method of environments, what is drawn meanwhile, and what each worker's is given."""


def check_engine(config: Any) -> None:
    """Raise InputError where worlds cannot be stepped by processes that hold no policy."""
    if config.acting == "workers":
        return
    if config.workers == 1 and not acts():
        raise problem("workers", "above 1 with acting engine", 1)
    if any(family_of(name).modelled for name in config.env):
        raise problem("acting", "workers in a learned model, which sees as the policy does", "engine")


# ---- the worker ------------------------------------------------------------------------------------------------------
def serve(config: Any, environments: Callable[[], Sequence[BatchedEnv]], unit: int = 1) -> None:
    """Be a worker until the engine lets go: step this one's worlds as it is said.

    unit: worlds are shared out in so many at once.
    """
    address, key, index, size, _ = os.environ[ASKED].split()
    with placed(Place(int(index), int(size), config.worlds, unit)):
        envs = environments()  # of the same seeds however often it was started
    try:  # the engine waits for a word of whoever has connected, so not before all is built
        link = Client(address_of(address, ASKED), authkey=bytes.fromhex(key))
        send(link, ("ready", int(index), {}))
        while True:
            word, at, given = received(link)
            send(link, answer(envs[at], word, given))
    except LOST:
        return  # the learner has ended


def answer(env: BatchedEnv, word: str, calls: Sequence[tuple[str, tuple[Any, ...], dict[str, Any]]] | None) -> Any:
    """Return the "facts" of an environment, or "call": what came of the last of the calls, and the sentences then."""
    if word == "facts":
        return {name: getattr(env, name) for name in FACTS}
    found = None
    for method, drawn, given in calls or ():
        env.rendering, env.draw_ends = drawn
        found = getattr(env, method)(**given)
    return found, env.instruction


# ---- the engine's process --------------------------------------------------------------------------------------------
def worlds_of(config: Any, crew: Crew | None, environments: Callable[[], list[BatchedEnv]]) -> list[BatchedEnv]:
    """Return the environments of a run: its own, or, with an engine, the workers'."""
    if crew is None or config.acting == "workers":
        return environments()
    return [WorldsElsewhere(crew, at) for at in range(len(config.env))]


class WorldsElsewhere(BatchedEnv):
    """An environment whose worlds are those of the workers, one worker's after the other's."""

    def __init__(self, crew: Crew, at: int) -> None:
        """at: which of the environments of each worker."""
        self.crew, self.at = crew, at
        facts = crew.ask(lambda index: ("facts", at, None))
        for name in FACTS:
            setattr(self, name, facts[0][name])
        self.sizes = [int(found["num_envs"]) for found in facts]
        starts = [sum(self.sizes[:index]) for index in range(crew.size)]
        self.shares = [slice(start, start + size) for start, size in zip(starts, self.sizes, strict=True)]
        self.num_envs = sum(self.sizes)
        self._say([found["instruction"] for found in facts])
        self._told: list[Call] = []  # since all worlds were last reset, restored or saved
        self._lives = [-1] * crew.size  # of each worker, the one that was told all of it but the last
        self._allocate()

    def _say(self, sentences: Sequence[Any]) -> None:
        if sentences[0] is not None:
            self.instruction = [sentence for part in sentences for sentence in part]

    def _ask(self, word: str, given: Callable[[int], dict[str, Any]]) -> list[Any]:
        """Let every worker call a method, all at the same time; return what came of it."""
        self._told.append((word, (self.rendering, self.draw_ends), given))

        def calls(index: int) -> tuple[str, int, Any]:
            again = self._lives[index] != self.crew.lives[index]
            told = self._told if again else self._told[-1:]
            return "call", self.at, [(name, drawn, cut(index)) for name, drawn, cut in told]

        parts = self.crew.ask(calls)
        self._lives = list(self.crew.lives)
        self._say([sentences for _, sentences in parts])
        return [found for found, _ in parts]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Reset all worlds, or those of ``options["reset_mask"]``."""
        mask = None if not options or "reset_mask" not in options else np.array(options["reset_mask"], bool)
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        if mask is None and seeds is not None and None not in seeds:
            self._told = []

        def given(index: int) -> dict[str, Any]:
            own = self.shares[index]
            chosen = {} if mask is None else {"reset_mask": mask[own]}
            return {"seed": None if seeds is None else seeds[own], "options": chosen}

        return _joined([seen for seen, _ in self._ask("reset", given)]), {}

    def current_observation(self) -> Obs:
        """Return the observations of all worlds now."""
        return _joined(self._ask("current_observation", lambda index: {}))

    def step_chunk(
        self,
        actions: Array,
        *,
        active: Array | None = None,
        reset_done: bool = True,
        discount: float = 1.0,
        on_step: Callable[[Array, Array, dict[str, Array]], None] | None = None,
    ) -> tuple[Obs, Array, Array, Array, dict[str, Any]]:
        """Execute chunks (N, H, A), each worker those of its worlds.  Nobody hears of single control steps."""
        if on_step is not None:
            raise problem("on_step", "nobody who hears of the control steps of other processes", on_step)
        self._check_finite("action", actions)
        if len(self._told) >= MOST_TOLD:
            self.state_dict()
        chunks, running = np.array(actions), None if active is None else np.array(active, bool)

        def given(index: int) -> dict[str, Any]:
            own = self.shares[index]
            some = None if running is None else running[own]
            return {"actions": chunks[own], "active": some, "reset_done": reset_done, "discount": discount}

        parts = self._ask("step_chunk", given)
        seen, reward, terminated, truncated = (_joined([part[place] for part in parts]) for place in range(4))
        info = self._reports([part[0] for part in parts], [part[4] for part in parts])
        self._length[:] = info["episode_length"]
        return seen, reward, terminated, truncated, info

    def _reports(self, seen: Sequence[Obs], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one info of all workers'; 0 where one has nothing to report, as none of its worlds was active."""
        info: dict[str, Any] = {}
        for name in dict.fromkeys(name for part in parts for name in part):
            if name == "final_obs":  # valid where an episode has ended
                info[name] = _joined([part.get(name, now) for part, now in zip(parts, seen, strict=True)])
                continue
            like = next(part[name] for part in parts if name in part)
            none = [np.zeros((size, *like.shape[1:]), like.dtype) for size in self.sizes]
            info[name] = _joined([part.get(name, empty) for part, empty in zip(parts, none, strict=True)])
        return info

    def state_dict(self) -> dict[str, Any]:
        """Return the state of one environment with all worlds."""
        parts = self._ask("state_dict", lambda index: {})
        self._told = [("load_state_dict", (self.rendering, self.draw_ends), lambda index: {"state": parts[index]})]
        whole: dict[str, Any] = merged_state(parts, self.sizes)
        return whole

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; each worker takes its own worlds."""

        def given(index: int) -> dict[str, Any]:
            own = self.shares[index]
            return {"state": own_state(state, range(own.start, own.stop), self.num_envs)}

        self._told = []
        self._ask("load_state_dict", given)


def _joined(parts: Sequence[Any]) -> Any:
    """Return observations or numbers (N, ...) of all workers."""
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(list(parts))
