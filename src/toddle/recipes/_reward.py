"""What `pretrain`, `finetune` and `jumpstart` share of `--reward`: a word for what the environment pays, or a sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toddle.algorithms.parts import RewardTerm
from toddle.algorithms.rewards.compose import EPISODE, TERMS, Around, ComposedReward, make_terms, parse_reward
from toddle.core.errors import nearest, problem
from toddle.core.files import write_json_atomic
from toddle.core.types import FeatureSource
from toddle.envs.base import BatchedEnv
from toddle.methods._base import Run

__all__ = ["Rewarded", "check_reward", "check_taken", "keep_episode", "own_word", "reward_lines", "reward_terms"]


class Rewarded:
    """Settings with a `reward`."""

    reward: str

    @property
    def also_read(self) -> dict[str, list[Path]]:
        """The files and folders that its terms read: a run goes on with the same content only."""
        return {"reward": [Path(argument) for _, argument, _ in parse_reward(self.reward).terms if argument]}


def check_reward(text: str, words: Sequence[str]) -> None:
    """Raise InputError where `text` is no reward, or a word for the environment's own that is not among `words`."""
    wanted = parse_reward(text)
    if wanted.own is not None and wanted.own not in words and not (wanted.composed and wanted.own == "sparse"):
        raise problem("reward", f"{', '.join(words)}, or a sum with {', '.join(TERMS)}", text, nearest(text, words))


def own_word(text: str, default: str, *, sparse: str = "success") -> str:
    """Return the word for what the environment pays in a reward; `sparse`: how environments call it in a sum."""
    wanted = parse_reward(text)
    if wanted.composed and wanted.own == "sparse":
        return sparse
    return wanted.own or default


def reward_terms(
    text: str, envs: Sequence[BatchedEnv], seed: int, features: FeatureSource | None = None
) -> list[RewardTerm]:
    """Return what is added to the environments' rewards, none or one.  Raises InputError where a term does not fit."""
    wanted = parse_reward(text)
    if not wanted.composed:
        return []
    named = envs[0].named if all(env.named == envs[0].named for env in envs) else {}
    around = Around(named=named, seed=seed, fingerprint="" if features is None else features.fingerprint)
    return [ComposedReward(make_terms(wanted, around), own_weight=wanted.own_weight)]


def check_taken(made: Run, text: str) -> Run:
    """Return the run.  Raises InputError where its method has not taken the terms of a sum over."""
    if parse_reward(text).composed and not made.rewards:
        expected = "one word with a method that learns from replay or demonstrations"
        raise problem("reward", expected, text, "take a method that learns from rollouts (ppo, grpo, rloo, dppo, ...)")
    return made


def reward_lines(text: str) -> list[str]:
    """Say for a plan what is added."""
    wanted = parse_reward(text)
    parts = [f"{weight:g} of {name}{f' ({argument})' if argument else ''}" for name, argument, weight in wanted.terms]
    return [f"pay {wanted.own_weight:g} of the environment's reward, {', '.join(parts)}"] if wanted.composed else []


def keep_episode(folder: Path, terms: Sequence[RewardTerm]) -> dict[str, Any]:
    """Write what each term paid over the last whole episode, for the report; return what the policy's card says."""
    found: dict[str, Any] = {}
    for term in terms:
        if isinstance(term, ComposedReward) and term.episode:
            write_json_atomic(folder / EPISODE, {"terms": term.episode})
            found = {"reward_terms": term.names}
    return found
