"""`rewind:FOLDER`: how far the episode so far is, by a model that has seen demonstrations run backwards too.

ReWiND (Zhang et al. 2025, arXiv 2505.10911): a causal transformer says the progress at each of 16 steps of a clip; the
place is told at the first step alone; in four of five clips the last part runs backwards, and its targets with it.
It pays the absolute progress at each step, and lingering near the end earns more than success does (68.8 against 64 for
128 steps at 0.95); here it is a potential.  Clips begin with the episode, as when it pays; failures are to be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toddle.algorithms.rewards.learned import LearnedTerm, RecordedEpisode, Standard, train
from toddle.algorithms.rewards.potential import PotentialTerm
from toddle.algorithms.rewards.steps import Histories, Steps

__all__ = ["RewindTerm", "rewound", "sampled"]

CLIP, WIDTH, CLIPS, REWINDS, FAILURES = 16, 64, 32, 0.8, 0.2
"""Steps of a clip, width, clips of a batch, share of clips that are rewound, share that are of failures."""


class _Progress(nn.Module):
    """Progress at each step of a clip."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standard(size)
        self.embed, self.first = nn.Linear(size, WIDTH), nn.Parameter(torch.zeros(WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CLIP), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Return progress (N, CLIP), 0 to 1, of clips (N, CLIP, F)."""
        x = self.embed(self.standard(clips))
        x = torch.cat([x[:, :1] + self.first, x[:, 1:]], 1)
        return torch.sigmoid(self.head(self.trunk(x, mask=self.mask, is_causal=True))[..., 0])


def rewound(length: int, end: int, back: int) -> list[int]:
    """Return the steps 0 to end - 1 of an episode of `length`, and then `back` of them backwards."""
    return [*range(min(end, length)), *range(end - 2, end - 2 - back, -1)]


def sampled(count: int) -> Tensor:
    """Return which CLIP of `count` steps a clip holds; of fewer, the last is repeated."""
    if count <= CLIP:
        return torch.arange(CLIP).clamp(max=count - 1)
    return torch.linspace(0, count - 1, CLIP).round().long()


class RewindTerm(LearnedTerm, PotentialTerm):
    """Progress of the episode so far."""

    name, Model = "rewind", _Progress
    rewinds = REWINDS

    def __init__(self, model: _Progress) -> None:
        super().__init__(model)
        self.histories = Histories()

    @classmethod
    def teach(cls, model: _Progress, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train on clips of successes, forwards and rewound, and of failures, which are to be 0."""
        good, bad = [one for one in episodes if one.success], [one for one in episodes if not one.success]

        def loss(draw: torch.Generator) -> Tensor:
            uniform = torch.rand(CLIPS, 4, generator=draw).tolist()
            clips, targets = [], []
            for failed, which, until, back in uniform:
                fails = bool(bad) and failed < FAILURES
                one = (bad if fails else good)[int(which * len(bad if fails else good))]
                length = len(one.features)
                end = 2 + int(until * (length - 1))
                turned = 0 if back > cls.rewinds else 1 + int(back / max(cls.rewinds, 1e-6) * (end - 2))
                walk = torch.tensor(rewound(length, end, min(turned, end - 1)))
                walk = walk[sampled(len(walk))]
                clips.append(one.features[walk])
                targets.append(torch.zeros(CLIP) if fails else (walk + 1) / length)
            said = model(torch.stack(clips))
            return (said - torch.stack(targets))[:, 1:].square().mean()

        train(model, loss, steps, seed)

    @torch.no_grad()
    def potentials(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Return the progress (T, B) of each world's episode before and after each step."""
        self.check(steps.now)
        walked = [pair for row in self.histories.walk(steps) for pair in row]
        now = torch.stack([past[sampled(len(past))] for past, _ in walked])
        longer = [torch.cat(pair) for pair in walked]
        following = torch.stack([past[sampled(len(past))] for past in longer])
        said = [self.model(clips)[:, -1].view(steps.first.shape) for clips in (now, following)]
        return said[0], said[1]

    def state_dict(self) -> dict[str, Any]:
        """Return what episodes under way have gone through."""
        return self.histories.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.histories.load_state_dict(state)
