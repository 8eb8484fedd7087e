"""`viper:FOLDER`: how likely a step is to follow the three before it, for a model of successes alone.

VIPER (Escontrela et al. 2023, arXiv 2305.14343) takes the likelihood of pictures under a video model.  Here it is a
Gaussian of the next features, whose conditional (not the moving sum that is released) is standardised by what
demonstrations have and held to [-3, 0].  It pays for what is typical, not for success; a model for which standing still
is more typical than demonstrations are is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toddle.algorithms.rewards.learned import BATCH, LearnedTerm, RecordedEpisode, Standard, train
from toddle.algorithms.rewards.steps import Histories, Steps
from toddle.core.errors import problem
from toddle.models.mlp import make_mlp

__all__ = ["LikelihoodTerm"]

BACK, LEAST, LOW = 3, -3.0, -4.0
"""Steps it looks back; the least reward; the least logarithm of a standard deviation."""


class _Likelihood(nn.Module):
    """A Gaussian of the next step."""

    usual: Tensor
    still: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standard(size)
        self.net = make_mlp((BACK * size, 128, 128, size))
        self.log_std = nn.Parameter(torch.zeros(size))
        self.register_buffer("usual", torch.tensor([0.0, 1.0]))  # mean and deviation of what demonstrations have
        self.register_buffer("still", torch.tensor(0.0))  # what standing still is paid, over what they are

    def log_density(self, past: Tensor, following: Tensor) -> Tensor:
        """Return log p (N,), a number's mean, of `following` (N, F) after `past` (N, BACK, F)."""
        x, y = self.standard(past), self.standard(following)
        log_std = self.log_std.clamp(LOW, 2.0)
        off = (y - x[:, -1] - self.net(x.flatten(1))) / log_std.exp()
        return (-0.5 * off.square() - log_std).mean(-1)

    def reward(self, past: Tensor, following: Tensor) -> Tensor:
        """Return the standardised log-density (N,), held to [LEAST, 0]."""
        return ((self.log_density(past, following) - self.usual[0]) / self.usual[1]).clamp(LEAST, 0.0)


class LikelihoodTerm(LearnedTerm):
    """How typical a step is."""

    name, kind, Model = "viper", "bonus", _Likelihood

    def __init__(self, model: _Likelihood) -> None:
        super().__init__(model)
        self.histories = Histories(longest=BACK)

    @classmethod
    def usable(cls, model: _Likelihood, where: Path) -> None:
        """Raise InputError for a model that pays more for standing still than for demonstrations."""
        if float(model.still) >= 0.0:
            remedy = "take more demonstrations, or steps further apart (toddle reward fit --every)"
            raise problem(f"{where}", "a model that pays less for standing still", f"{model.still:+.2f}", remedy)

    @classmethod
    def teach(cls, model: _Likelihood, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train on successes; note what they and standing still are paid."""
        parts = [_windows(one.features) for one in episodes if one.success]
        past, following = (torch.cat([part[index] for part in parts]) for index in (0, 1))

        def loss(draw: torch.Generator) -> Tensor:
            chosen = torch.randint(len(past), (BATCH,), generator=draw)
            return -model.log_density(past[chosen], following[chosen]).mean()

        train(model, loss, steps, seed)
        with torch.no_grad():
            found = model.log_density(past, following)
            model.usual.copy_(torch.stack([found.mean(), found.std().clamp(min=1e-3)]))
            resting = past[:, -1:].expand(-1, BACK, -1)
            model.still.copy_(model.reward(resting, past[:, -1]).mean() - model.reward(past, following).mean())

    @torch.no_grad()
    def paid(self, steps: Steps) -> Tensor:
        """Return the reward (T, B)."""
        self.check(steps.now)
        walked = [pair for row in self.histories.walk(steps) for pair in row]
        past = torch.stack([_padded(before) for before, _ in walked])
        said: Tensor = self.model.reward(past, torch.cat([after for _, after in walked]))
        return said.view(steps.first.shape)

    def state_dict(self) -> dict[str, Any]:
        """Return what episodes under way have gone through."""
        return self.histories.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.histories.load_state_dict(state)


def _padded(past: Tensor) -> Tensor:
    """Return the last BACK of (n, F), the first repeated where there are fewer."""
    return torch.cat([past[:1].expand(max(0, BACK - len(past)), -1), past[-BACK:]])


def _windows(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return what came before (L - 1, BACK, F) and after (L - 1, F) each step of an episode (L, F)."""
    past = torch.stack([_padded(features[: t + 1]) for t in range(len(features) - 1)])
    return past, features[1:]
