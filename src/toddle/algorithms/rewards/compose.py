"""`--reward sparse+0.5*pbrs+0.1*rnd`: which terms a reward has, each with its weight, and their sum.

The sum is the environment's reward, as the learner scales it, and the weighted terms over the same scale: to scale
or clip the sum would break the telescoping of potentials.  Every term is a metric: `reward/<term>`, what it paid a
decision after its weight, and `reward/<term>/share` of all that was paid.  What they pay over one episode is kept for
the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.algorithms.potential_reward import PotentialReward
from toddle.algorithms.process_reward import ProcessRewardConfig, load_process_reward
from toddle.algorithms.rewards.classifier import ClassifierTerm
from toddle.algorithms.rewards.counts import CountTerm
from toddle.algorithms.rewards.file import FileTerm
from toddle.algorithms.rewards.gvl import OrderTerm
from toddle.algorithms.rewards.learned import LearnedTerm
from toddle.algorithms.rewards.pbrs import LearnedPotential, WrittenPotential
from toddle.algorithms.rewards.rewind import RewindTerm
from toddle.algorithms.rewards.rnd import NoveltyTerm
from toddle.algorithms.rewards.steps import Steps, Term, steps_of
from toddle.algorithms.rewards.viper import LikelihoodTerm
from toddle.algorithms.rewards.vlac import DeltaTerm
from toddle.core.errors import nearest, problem
from toddle.core.types import Named
from toddle.experience.rollout import Rollout

__all__ = ["EPISODE", "LEARNED", "OWN", "TERMS", "Around", "ComposedReward", "Wanted", "make_terms", "parse_reward"]

OWN = ("own", "dense", "simplified", "sparse", "success", "reference")
"""Words for what an environment pays by itself."""
EPISODE = "reward_episode.json"
"""File of a run's folder: what each term paid at each decision of its last whole episode."""


@dataclass(frozen=True)
class Wanted:
    """What a reward is made of."""

    own: str | None
    """The environment's own reward in it; None: it pays nothing."""
    own_weight: float
    terms: tuple[tuple[str, str, float], ...]
    """Name, what follows its colon, and weight of each other term."""

    @property
    def composed(self) -> bool:
        """Whether it is more than a word for the environment's reward."""
        return bool(self.terms) or self.own is None or self.own_weight != 1.0


def parse_reward(text: str) -> Wanted:
    """Return what `text` asks for, such as sparse+0.5*pbrs+gvl:runs/terms.

    Raises InputError for an unknown term, a weight that is no number, a term without what must follow its colon.
    """
    own: tuple[str | None, float] = (None, 0.0)
    terms: list[tuple[str, str, float]] = []
    for part in text.split("+"):
        weight_text, star, rest = part.partition("*") if ":" not in part.partition("*")[0] else ("", "", part)
        name, colon, argument = (rest if star else part).partition(":")
        weight = _weight(weight_text, text) if star else 1.0
        if name in OWN:
            if own[0] is not None or colon:
                raise problem("reward", f"one of {', '.join(OWN)} at most, without a colon", text)
            own = (name, weight)
        elif name not in TERMS:
            raise problem("reward", f"terms of {', '.join((*OWN, *TERMS))}", name, nearest(name, (*OWN, *TERMS)))
        elif bool(argument) < TERMS[name].needs or (argument and not TERMS[name].takes):
            raise problem("reward", f"{name}{TERMS[name].said}", part)
        elif name in [known for known, _, _ in terms]:
            raise problem("reward", "each term once", text)
        else:
            terms.append((name, argument, weight))
    return Wanted(*own, tuple(terms))


def _weight(text: str, whole: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise problem("reward", "a weight that is a number, such as 0.5*pbrs", whole)
    return weight


# ---- the terms -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Around:
    """What terms are made for."""

    named: Mapping[str, Named]
    """The environment's names."""
    seed: int = 0
    fingerprint: str = ""
    """Of the frozen backbone whose features are kept; empty where states are."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A term that `--reward` knows."""

    make: Callable[[str, Around], Term]
    """what follows its colon, and what it is made for -> the term."""
    takes: str = ""
    """What may follow its colon."""
    needs: bool = False
    """Whether it must."""

    @property
    def said(self) -> str:
        """Say what follows its name."""
        return "" if not self.takes else f":{self.takes}" if self.needs else f", or :{self.takes} behind it"


def _pbrs(argument: str, around: Around) -> Term:
    if not argument or not Path(argument).is_dir():
        return WrittenPotential(Path(argument) if argument else None, around.named)
    learned = load_process_reward(Path(argument), ProcessRewardConfig())
    if not isinstance(learned, PotentialReward):
        raise problem("reward: pbrs", "a model that says how far a task is (order, steps-to-go)", argument)
    return LearnedPotential(learned)


def _learned(term: type[LearnedTerm]) -> _Kind:
    return _Kind(
        make=lambda argument, around: term.load(Path(argument), around.fingerprint), takes="FOLDER", needs=True
    )


LEARNED: dict[str, type[LearnedTerm]] = {
    term.name: term for term in (OrderTerm, RewindTerm, DeltaTerm, LikelihoodTerm, ClassifierTerm)
}
"""Those that `toddle reward fit` trains."""
TERMS: dict[str, _Kind] = {
    "pbrs": _Kind(make=_pbrs, takes="FILE.py or FOLDER"),
    "rnd": _Kind(make=lambda argument, around: NoveltyTerm(around.seed)),
    "counts": _Kind(make=lambda argument, around: CountTerm(around.seed)),
    "file": _Kind(make=lambda argument, around: FileTerm(Path(argument), around.named), takes="FILE.py", needs=True),
    **{name: _learned(term) for name, term in LEARNED.items()},
}


def make_terms(wanted: Wanted, around: Around) -> list[tuple[Term, float]]:
    """Return the terms with their weights.  Raises InputError where a file or a folder is not what a term needs."""
    return [(TERMS[name].make(argument, around), weight) for name, argument, weight in wanted.terms]


# ---- their sum -------------------------------------------------------------------------------------------------------
class ComposedReward(RewardTerm):
    """The weighted sum of terms, in PPO's place for one."""

    looks_at_ends = True

    def __init__(self, terms: Sequence[tuple[Term, float]], *, own_weight: float = 1.0) -> None:
        self.terms, self.own_weight = list(terms), own_weight
        self.episode: dict[str, list[float]] = {}
        """What each term paid at each decision of the last whole episode of world 0."""
        self._under_way: dict[str, list[float]] = {}
        self._ended: dict[int, Tensor] = {}  # (B,) whether the last row of a source's rollout ended an episode
        self._places: dict[int, int] = {}
        self._facts: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        """Return the terms' names, the environment's own first."""
        return ["environment", *(term.name for term, _ in self.terms)]

    def reward(self, rollout: Rollout) -> Tensor:
        """Return what is added to the environment's rewards, (T, B), in the rollout's units."""
        source = self._places.setdefault(id(rollout), len(self._places))
        steps = steps_of(rollout, source, self._ended.get(source, torch.ones(rollout.worlds, dtype=torch.bool)))
        self._ended[source] = (rollout.terminated[-1] | rollout.truncated[-1]).cpu()
        paid = {"environment": torch.where(steps.real, self.own_weight * steps.environment, 0.0)}
        for term, weight in self.terms:
            paid[term.name] = torch.where(steps.real, weight * term.paid(steps), 0.0)
        self._note(steps, paid)
        for term, _ in self.terms:
            term.fit(steps)
        added = (self.own_weight - 1.0) * torch.where(steps.real, steps.environment, 0.0)
        for term, _ in self.terms:
            added = added + paid[term.name]
        return added / rollout.reward_scale

    def _note(self, steps: Steps, paid: Mapping[str, Tensor]) -> None:
        """Set the metrics, and go on with the episode of world 0 of the first source."""
        real = max(1, int(steps.real.sum()))
        sizes = {name: float(value.abs().sum()) for name, value in paid.items()}
        whole = sum(sizes.values()) or 1.0
        self._facts = {f"reward/{name}": float(value.sum()) / real for name, value in paid.items()}
        self._facts |= {f"reward/{name}/share": size / whole for name, size in sizes.items()}
        for term, _ in self.terms:
            if isinstance(term, FileTerm):
                self._facts |= {f"reward/file/{name}": value for name, value in term.parts.items()}
        if steps.source:
            return
        rows = {name: value[:, 0].tolist() for name, value in paid.items()}
        ended, real_rows = (steps.terminated | steps.truncated)[:, 0].tolist(), steps.real[:, 0].tolist()
        for t, first in enumerate(steps.first[:, 0].tolist()):
            if first:
                self._under_way = {name: [] for name in rows}
            if real_rows[t] and self._under_way:
                for name, values in rows.items():
                    self._under_way[name].append(values[t])
            if ended[t] and self._under_way:
                self.episode, self._under_way = self._under_way, {}

    def metrics(self) -> dict[str, float]:
        """Return what each term paid a decision (before scaling), its share, and the parts of a reward file."""
        return self._facts

    def state_dict(self) -> dict[str, Any]:
        """Return the terms' states and the episode under way."""
        return {
            "terms": [term.state_dict() for term, _ in self.terms],
            "ended": {str(source): ended.clone() for source, ended in self._ended.items()},
            "episode": self.episode,
            "under_way": self._under_way,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        for (term, _), kept in zip(self.terms, state["terms"], strict=True):
            term.load_state_dict(kept)
        self._ended = {int(source): ended.clone() for source, ended in state["ended"].items()}
        self.episode, self._under_way, self._places = state["episode"], state["under_way"], {}
