"""What fine-tuning asks of a VLA of one body without a history, where nothing is special about it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.core.types import Observation
from toddle.data.statistics import FeatureStatistics, Mode, Normalization

__all__ = ["OneBody", "last_of", "rows_of"]


class OneBody:
    """Part of a policy.  Actions are normalised: a = (action - action_offset) / action_scale."""

    sequential = False
    config: Any  # with body, horizon, executed
    action_offset: Tensor  # (1, A)
    action_scale: Tensor

    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history (1: the present alone), actions executed per decision."""
        return self.config.horizon, 1, self.config.executed

    def body_index(self, name: str | None) -> int:
        """Return 0 for its body.  Raises InputError for another."""
        if name not in (None, self.config.body.name):
            raise problem("body", self.config.body.name, str(name))
        return 0

    def begin_step(self, share: float) -> None:
        """Nothing changes with the steps."""

    def trunk_tokens(self, batch: dict[str, Any]) -> None:
        """Return None: it has no trunk that comes from pretraining."""

    def trunk_parameters(self) -> dict[str, Any]:
        """Return nothing: no weight of it comes from pretraining."""
        return {}

    def update_normaliser(self, observation: Observation) -> None:
        """Leave the statistics as they are: it was fine-tuned with them."""

    def initial_memory(self, batch: int) -> None:
        """Return None: nothing is remembered."""

    def _fit_actions(self, actions: FeatureStatistics, mode: Mode) -> None:
        made = Normalization.of(actions, mode)
        self.action_offset.copy_(torch.from_numpy(made.offset))
        self.action_scale.copy_(torch.from_numpy(made.scale))


def rows_of(observation: Observation, lead: int) -> Observation:
    """Return an observation with `lead` leading dimensions as rows (N, ...)."""
    rows: Any = {key: value.flatten(0, lead - 1) for key, value in observation.items() if isinstance(value, Tensor)}
    if "instruction" in observation:
        rows["instruction"] = observation["instruction"]
    return rows


def last_of(observation: Observation) -> Observation:
    """Return the last decision (B, ...) of an observation (T, B, ...)."""
    last: Any = {key: value[-1] for key, value in observation.items() if isinstance(value, Tensor)}
    if "instruction" in observation:
        last["instruction"] = observation["instruction"]
    return last
