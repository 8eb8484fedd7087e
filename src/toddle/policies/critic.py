"""ValueNet: the separate critic.  It sees privileged state where the environment gives it, and never the chain."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Seed, Size, SizeOrNone
from toddle.core.seeding import torch_generator
from toddle.core.types import Observation
from toddle.models.tanh_mlp import TanhMLP
from toddle.policies.features import BodyFeatures

__all__ = ["CriticConfig", "ValueNet"]


@config
class CriticConfig:
    """An MLP critic a body."""

    inputs: tuple[Size, ...]
    """Numbers each body's critic sees, in the order of the body ids."""
    key: str = "proprio"
    """Key of the observation it reads: `critic` where the environment gives privileged state, else `proprio`."""
    hidden: tuple[Size, ...] = (256, 256)
    """Widths of the hidden layers."""
    goal_width: SizeOrNone = 0
    """Width of the pooled goal; 0 for environments without goals."""
    goal_parts: Size = 256
    """Controlled parts a goal item can name (ids below this)."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise problem("inputs", "one number a body", "none")


class _Body(nn.Module):
    def __init__(self, inputs: int, config: CriticConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.features = BodyFeatures(inputs, config.goal_width, config.goal_parts, config.key, generator)
        self.mlp = TanhMLP(self.features.width, config.hidden, 1, last_gain=1.0, generator=generator)


class ValueNet(nn.Module):
    """V(o) by an MLP of its own for each body."""

    def __init__(self, config: CriticConfig) -> None:
        """Build the networks; the weights follow from `config.seed`."""
        super().__init__()
        self.config = config
        self.bodies = nn.ModuleList(
            _Body(inputs, config, torch_generator(config.seed, "critic", index))
            for index, inputs in enumerate(config.inputs)
        )
        self._by_id = [body for body in self.bodies if isinstance(body, _Body)]  # a list is faster than a ModuleList

    def _body(self, observation: Observation) -> _Body:
        return self._by_id[int(observation["body"].reshape(-1)[0]) if len(self._by_id) > 1 else 0]

    def value(self, observation: Observation) -> Tensor:
        """Return values (...) of observations (..., O) of one body."""
        body = self._body(observation)
        value: Tensor = body.mlp(body.features(observation))
        return value.squeeze(-1)

    def update_normaliser(self, observation: Observation) -> None:
        """Take observations (..., O) of one body into its running statistics."""
        self._body(observation).features.update_normaliser(observation)
