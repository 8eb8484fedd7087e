"""Experience that others gather, each with its share of the worlds: what they bring is put side by side.

The others are processes that act (`runs.workers`) or halves in threads of this one (`runs.halves`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from toddle.core.device import device_of, to_device
from toddle.core.errors import problem
from toddle.core.protocols import Acting, Critic
from toddle.core.team import Place
from toddle.experience.collect import Collector
from toddle.experience.episodes import GroupCollector
from toddle.experience.notes import Gathered
from toddle.experience.rollout import Rollout
from toddle.experience.worlds import merged_state, own_state
from toddle.runs.placing import check_ray

__all__ = ["Beside", "Gathering", "beside", "brought", "check_sources", "done", "side_by_side"]

FOR_EACH = ("group", "episode_return", "success", "dropped")
"""What a rollout has for each world, not for each decision."""


def brought(source: Any, policy: Acting, told: Any, *, dropped: bool = False) -> dict[str, Any]:
    """Let a collector gather; return its rollout's attributes and what came of it besides.

    dropped: another was in its place before, and its episodes are lost.
    """
    gathered = source.gather(policy, told)
    source.rollout.dropped.fill_(dropped)
    return {"rollout": dict(vars(source.rollout)), "besides": gathered}


def done(word: str, source: Any, given: Any) -> dict[str, Any]:
    """Restore ("load") or return ("save") what of a collector's state is of its worlds."""
    if word == "load":
        source.load_state_dict({**source.state_dict(), **given})
        return {}
    return {name: value for name, value in source.state_dict().items() if name in source.of_worlds}


class Gathering(Protocol):
    """Several that gather, each with its share of the worlds: workers, or halves in this process."""

    size: int
    first: int
    """Those of the learners before this one."""
    total: int
    """Those of all learners."""

    def gather(self, at: int, policy: Acting, told: Any) -> list[Any]:
        """Let each gather from its part of environment `at`, as it is `told`; return what they bring (`brought`)."""

    def ask(self, given: Callable[[int], tuple[str, int, Any]]) -> list[Any]:
        """Say to each (word, environment, state), "save" or "load"; return what they answer (`done`)."""


class Beside:
    """A source of experience whose worlds are others'; `inner` is the collector that it stands for."""

    def __init__(self, inner: Any, at: int, crew: Gathering) -> None:
        self.inner, self.at, self.crew, self.label, self.worlds = inner, at, crew, inner.label, inner.worlds

    def collect(self, policy: Acting, critic: Critic | None) -> tuple[Rollout, dict[str, float]]:
        """Let the workers act, and put what they bring side by side."""
        parts = self.crew.gather(self.at, policy, self.inner.told())
        self.inner.rollout = side_by_side([part["rollout"] for part in parts], device_of(policy))
        gathered: list[Gathered] = [part["besides"] for part in parts]
        found: tuple[Rollout, dict[str, float]] = self.inner.finish(critic, gathered)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the state of one collector with all worlds."""
        whole: dict[str, Any] = self.inner.state_dict()
        if self.inner.of_worlds:
            parts = self.crew.ask(lambda index: ("save", self.at, None))
            whole |= merged_state(parts, [len(share) for share in self._shares()])
        return whole

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; each worker takes its own worlds."""
        self.inner.load_state_dict(state)
        whole = {name: state[name] for name in self.inner.of_worlds if name in state}
        if whole:
            shares = self._shares()
            self.crew.ask(lambda index: ("load", self.at, own_state(whole, shares[index], self.worlds)))

    def _shares(self) -> list[range]:
        """Return which of this learner's worlds are of each of those that gather by steps."""
        crew, every = self.crew, self.inner.all_worlds
        places = [Place(crew.first + index, crew.total, every).share(every) for index in range(crew.size)]
        return [range(place.start - places[0].start, place.stop - places[0].start) for place in places]


def side_by_side(parts: Sequence[dict[str, Any]], device: torch.device) -> Rollout:
    """Return one rollout of several (their attributes), whose worlds follow one another."""
    whole, first = Rollout.__new__(Rollout), parts[0]
    said = list(dict.fromkeys(sentence for part in parts for sentence in part["sentences"]))
    numbers = {sentence: index for index, sentence in enumerate(said)}
    starts = [sum(part["worlds"] for part in parts[:index]) for index in range(len(parts))]
    for part, start in zip(parts, starts, strict=True):
        if "task" in part["_observation"] and part["sentences"]:
            seen = part["_observation"]
            own = torch.tensor([numbers[sentence] for sentence in part["sentences"]], device=seen["task"].device)
            part["_observation"] = {**seen, "task": own[seen["task"]]}
        part["final_at"] = part["final_at"] + part["final_at"].new_tensor([0, start])
    for name, value in first.items():
        others = [part[name] for part in parts]
        if name in ("finals", "final_at"):
            others = [each for each, part in zip(others, parts, strict=True) if part["finals"] is not None]
            value = others[0] if others else value
        setattr(whole, name, to_device(_joined(name, value, others), device))
    whole.worlds, whole.sentences, whole._numbers = sum(part["worlds"] for part in parts), said, numbers
    return whole


def _joined(name: str, first: Any, values: Sequence[Any]) -> Any:
    if isinstance(first, dict) and name != "_numbers":
        return {key: _joined(name, value, [each[key] for each in values]) for key, value in first.items()}
    if isinstance(first, Tensor) and values:
        return torch.cat(list(values), 0 if name in ("finals", "final_at", *FOR_EACH) else 1)
    if name == "finals" and isinstance(first, list):
        return [sentence for each in values for sentence in each]
    return first


def beside(config: Any, made: Any, crew: Gathering | None) -> Any:
    """Return what a method has built, whose learner takes its experience from the workers where these decide."""
    if crew is not None and config.acting == "workers":
        made.learner.sources = [Beside(source, index, crew) for index, source in enumerate(made.sources)]
        made.learner.engine = made.learner.engine.elsewhere()
    return made


def check_sources(config: Any, sources: Sequence[Any]) -> None:
    """Raise InputError where workers cannot gather the experience, or what is to place them is not there."""
    if config.workers > 1 and not all(isinstance(source, Collector | GroupCollector) for source in sources):
        remedy = "docs/scaling.md lists what workers are for"
        raise problem("workers", f"1 with method {config.method}", config.workers, remedy)
    if config.workers > 1 and config.placement == "ray":
        check_ray()
