"""A critic with the VLA's own architecture: VLA-RL (Lu et al. 2025, arXiv 2505.18719), there called homogeneous.

    a copy of the VLA as it was fine-tuned, frozen: hidden state of the last token of its prompt   -> (..., D)
    Linear(D -> 1024), ReLU, Linear(1024 -> 512), ReLU, Linear(512 -> 1), without biases           -> (...)
Only the three linear layers learn, and what the critic reads does not change while the policy learns; or, in the
paper's other variant, a LoRA of the critic's own on the copy's backbone learns too; or everything that the policy
learns, in a network of its own (FLaRe, Hu et al. 2024, arXiv 2409.16578).  The copy shares with the policy what
learns in neither.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from toddle.core.numbers import Seed
from toddle.core.protocols import Explorable
from toddle.core.seeding import seed_sequence
from toddle.core.types import Observation

__all__ = ["HIDDEN", "HomogeneousCritic"]

HIDDEN = (1024, 512)
"""Widths of the hidden layers, as in the paper's released code."""


class HomogeneousCritic(nn.Module):
    """V(o) read at the last token of the prompt of a frozen copy of the VLA."""

    sees = True

    def __init__(
        self, vla: Explorable, *, seed: Seed, learns: Literal["head", "lora", "all"] = "head", values: int = 1
    ) -> None:
        """Copy the VLA as it is now; the head's weights follow from `seed`.

        learns: besides the head nothing; the copy's LoRA, which begins as the VLA's own (the VLA must have LoRA on its
        backbone); or all that learns in the VLA.
        values: of a decision; more than one where each action of its chunk has its own.
        Raises InputError where what the copy reads has no gradient.
        """
        super().__init__()
        self.copy: Any = vla.frozen_copy(lora=learns == "lora")
        self.learns, self.values = learns, values
        if learns == "all":
            for mine, its in zip(self.copy.parameters(), vla.parameters(), strict=True):
                mine.requires_grad_(its.requires_grad and mine is not its)
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(seed, "homogeneous critic").generate_state(1)[0]))
            for inputs, outputs in pairwise((vla.prompt_width, *HIDDEN, values)):
                layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])

    def train(self, mode: bool = True) -> Self:
        """Go to training mode; the copy stays as it is."""
        super().train(mode)
        self.copy.eval()
        return self

    def value(self, observation: Observation) -> Tensor:
        """Return values (...), or (..., values), of observations (...) as the VLA reads them.

        They are (T, B, ...) in time order, or (N, ...).
        Where the VLA has a history, an observation (N, ...) is valued without it.
        """
        with torch.set_grad_enabled(self.learns != "head" and torch.is_grad_enabled()):
            hidden = self.copy.prompt_hidden(observation)
        value: Tensor = self.head(hidden)
        return value.squeeze(-1) if self.values == 1 else value

    def update_normaliser(self, observation: Observation) -> None:
        """Leave the statistics as they are: the VLA was fine-tuned with them."""
