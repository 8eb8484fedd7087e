"""Rewards on the way to success, said by a process reward model: VLA-RL (Lu et al. 2025, arXiv 2505.18719).

    r = r_sparse + min(weight * answer, cap),    nothing from the decision on before which the episode had succeeded

The answer is the model's about the observation at which the policy decides, as its labels are about the step itself.
It is a proxy, and PPO will find what raises it without raising success: docs/process_reward.md says what to watch.
Deviations: the paper's reward has neither cap nor budget.  Without a budget an episode that never succeeds may earn
more than one that does, because it lasts longer (measured: docs/process_reward.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from toddle.algorithms.parts import RewardTerm
from toddle.algorithms.potential_reward import PotentialReward
from toddle.core.config import changes, config, to_dict
from toddle.core.device import CPU
from toddle.core.errors import problem
from toddle.core.numbers import Positive
from toddle.core.types import FeatureSource
from toddle.experience.rollout import Rollout
from toddle.policies.process_reward import RewardModel, load_reward_model, seen_by_model

__all__ = ["ProcessReward", "ProcessRewardConfig", "ProcessRewardSettings", "load_process_reward"]


@config
class ProcessRewardConfig:
    """What a process reward model adds to the rewards."""

    weight: Positive = 1.0
    """The answer is multiplied by this; of a model that says how far the task is, what a demonstration is worth."""
    cap: Positive = 0.1
    """Most that one decision earns, in the environment's own units (success is mostly worth 1)."""
    answer: Literal["word", "probability"] = "word"
    """What is paid for: the word the model says (1 for yes, 0 for no), or the probability of yes."""
    budget: Positive | None = 0.5
    """Most that an episode earns, in the same units: less than success is worth; None: no limit."""
    form: Literal["shaping", "difference"] = "shaping"
    """Of a model that says how far the task is (`toddle reward train --model.says order` or `steps-to-go`), which
    `cap`, `answer` and `budget` are not for: shaping pays gamma progress' - progress and leaves the best policy what it
    was; difference pays progress' - progress, and success as a progress of 1."""


class ProcessReward(RewardTerm):
    """What the model's answers are worth.  It reads the rollout's features, or its pictures where it keeps those."""

    def __init__(self, model: RewardModel, config: ProcessRewardConfig, *, same_features: bool) -> None:
        """same_features: whether a rollout's features are of the model's own backbone and cameras."""
        self.model, self.config, self.same_features = model, config, same_features
        self._facts: dict[str, float] = {}
        self._places: dict[int, int] = {}  # of each source's rollout, which is the same object every time
        self._left: list[Tensor] = []  # of the budget of each world's episode, where it goes on in the next rollout

    def reward(self, rollout: Rollout) -> Tensor:
        """Return (T, B) in the units of the rollout's rewards.

        Raises InputError where the environment does not report success, or the rollout has neither pictures nor the
        features the model reads.
        """
        if "succeeded" not in rollout.columns:
            raise problem("process reward", "an environment that reports `success`", "none")
        seen = seen_by_model(rollout.observation, same_features=self.same_features)
        answer = self.model.yes(seen).to(rollout.reward.device)
        if self.config.answer == "word":
            answer = (answer > 0.5).float()
        wanted = self.config.weight * answer
        paid = wanted.clamp(max=self.config.cap)
        withheld = rollout.columns["succeeded"]
        open_ = ~withheld if rollout.mask is None else ~withheld & rollout.mask
        paid = torch.where(open_, paid, 0.0)
        if self.config.budget is not None:
            paid = self._within(paid, rollout, self.config.budget)
        real = max(1, rollout.decisions)
        self._facts = {
            "reward/process": float(paid.sum()) / real,
            "reward/process_capped": float(((wanted > self.config.cap) & open_).sum()) / real,
            "reward/process_withheld": 1.0 - float(open_.sum()) / real,
        }
        return paid / rollout.reward_scale

    def _within(self, paid: Tensor, rollout: Rollout, budget: float) -> Tensor:
        """Return rewards (T, B) cut where an episode has earned its budget, in this rollout and those before."""
        place = self._places.setdefault(id(rollout), len(self._places))
        if place == len(self._left):
            self._left.append(torch.full_like(paid[0], budget))
        left = torch.full_like(paid[0], budget) if rollout.mask is not None else self._left[place].to(paid.device)
        rows = []
        for reward, ended in zip(paid, rollout.terminated | rollout.truncated, strict=True):
            rows.append(torch.minimum(reward, left))
            left = torch.where(ended, budget, left - rows[-1])
        self._left[place] = left
        return torch.stack(rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what is left of the budgets of episodes under way, in the order of the sources."""
        return {"left": list(self._left)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._left, self._places = [left.clone() for left in state["left"]], {}

    def metrics(self) -> dict[str, float]:
        """Return what was paid a decision (before scaling), the share that was capped, the share after success."""
        return self._facts


def load_process_reward(
    folder: Path,
    config: ProcessRewardConfig | None = None,
    *,
    features: FeatureSource | None = None,
    cameras: tuple[str, ...] | None = None,
    device: torch.device = CPU,
) -> ProcessReward | PotentialReward:
    """Return the reward term of a stored model (a folder of `toddle reward train`), whatever it says.

    features: what makes the features that rollouts keep (`FineTunable.features` of the policy), None where they keep
    pictures.  cameras: the policy's, whose pictures the rollouts hold.  Raises InputError where the folder is damaged
    or the cameras are not the model's.
    """
    model, _ = load_reward_model(folder, device)
    if cameras is not None and cameras != model.config.cameras:
        raise problem("process reward", f"a policy that sees {' '.join(model.config.cameras)}", " ".join(cameras))
    same = features is not None and features.fingerprint == model.config.fingerprint
    if features is not None and not same:
        expected = f"the policy's backbone, of fingerprint {features.fingerprint}"
        raise problem("process reward", expected, model.config.fingerprint, "train one on it: toddle reward train")
    config = config or ProcessRewardConfig()
    plain = ProcessRewardConfig()
    if model.config.says == "key-frame":
        if config.form != plain.form:
            raise problem("process_reward.form", f"{plain.form} with a model that says yes or no", config.form)
        return ProcessReward(model, config, same_features=same)
    for name, value in (("cap", config.cap), ("answer", config.answer), ("budget", config.budget)):
        if value != to_dict(plain)[name]:
            raise problem(f"process_reward.{name}", f"nothing with a model that says {model.config.says}", value)
    return PotentialReward(model, form=config.form, weight=config.weight, same_features=same)


@config
class ProcessRewardSettings(ProcessRewardConfig):
    """A process reward model that a run learns from, if any."""

    model: Path | None = None
    """Folder of the model (`toddle reward train`); None: no such reward."""

    def __post_init__(self) -> None:
        own = {name: value for name, value in to_dict(self).items() if name != "model"}
        given = changes(to_dict(ProcessRewardConfig()), own)
        if self.model is None and given:
            expected = "a folder of `toddle reward train`"
            raise problem("process_reward.model", expected, None, f"{given[0][0]} is of a model")

    def terms(
        self, features: FeatureSource | None, cameras: tuple[str, ...], device: torch.device
    ) -> list[ProcessReward | PotentialReward]:
        """Return the reward terms, none or one: as `load_process_reward`."""
        if self.model is None:
            return []
        return [load_process_reward(self.model, self, features=features, cameras=cameras, device=device)]
