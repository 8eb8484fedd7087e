"""What the terms share that learn from recorded episodes: their folder, their training, their control.

A term is a small network over features of single steps.  Its control learns from the same episodes with the steps of
each in an order that was drawn at random; what it says must be worth nothing.

On disk, `<folder>/<term>`: `term.safetensors` and `term.json` (sizes, what the features are, SHA-256).  Never pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toddle.algorithms.rewards.steps import Seen, Term
from toddle.core.errors import InputError, problem
from toddle.core.files import write_json_atomic
from toddle.core.seeding import torch_generator
from toddle.core.tensors import load_tensors, read_card, save_tensors
from toddle.optim.flat_adam import FlatAdam

__all__ = ["BATCH", "LearnedTerm", "RecordedEpisode", "Standard", "pairs_of", "shuffled_steps", "train"]

BATCH, RATE = 256, 1e-3
CARD, WEIGHTS = "term.json", "term.safetensors"


@dataclass(frozen=True)
class RecordedEpisode:
    """Features (L, F) of an episode's steps, up to its success where it has one."""

    features: Tensor
    success: bool
    task: str = ""


def shuffled_steps(episodes: Sequence[RecordedEpisode], seed: int) -> list[RecordedEpisode]:
    """Return the episodes with the steps of each in a random order: what controls learn from."""
    draw = torch_generator(seed, "shuffled steps")
    return [replace(one, features=one.features[torch.randperm(len(one.features), generator=draw)]) for one in episodes]


def pairs_of(
    episodes: Sequence[RecordedEpisode], count: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features (count, F) of two steps of one episode each, and the share (count,) of the episode at which they
    stand, 0 to 1; and whether it is a success."""
    lengths = torch.tensor([len(one.features) for one in episodes])
    flat = torch.cat([one.features for one in episodes])
    starts = lengths.cumsum(0) - lengths
    which = torch.randint(len(episodes), (count,), generator=draw)
    places = (torch.rand(2, count, generator=draw) * lengths[which]).long()
    shares = places / (lengths[which] - 1).clamp(min=1)
    first, second = flat[starts[which] + places[0]], flat[starts[which] + places[1]]
    won = torch.tensor([one.success for one in episodes])[which]
    return first, second, shares.T, won


class Standard(nn.Module):
    """Standardises features by those of the episodes that are learned from, held to +-10; constant ones become 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def take(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Take the moments of the episodes."""
        flat = torch.cat([one.features for one in episodes])
        deviation = flat.std(0, correction=0)
        self.mean.copy_(flat.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-5, 1.0 / deviation.clamp(min=1e-5), 0.0))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise (..., F)."""
        return ((features - self.mean) * self.scale).clamp(-10.0, 10.0)


def train(model: nn.Module, loss: Callable[[torch.Generator], Tensor], steps: int, seed: int) -> float:
    """Make steps of Adam on a loss that draws its batch; return the mean of its last tenth."""
    draw, last = torch_generator(seed, "reward term"), list[float]()
    optimiser = FlatAdam({"model": (model, RATE)}, max_norm=1.0)
    for step in range(steps):
        value = loss(draw)
        optimiser.zero_grad()
        value.backward()
        optimiser.clip()
        optimiser.step()
        if step >= 0.9 * steps:
            last.append(float(value.detach()))
    return sum(last) / max(1, len(last))


class LearnedTerm(Term):
    """A term whose model was trained from recorded episodes.  A subclass has `Model`, an `nn.Module` of a size."""

    Model: ClassVar[Any]

    def __init__(self, model: Any) -> None:
        self.model = model.eval()

    @classmethod
    def usable(cls, model: Any, where: Path) -> None:
        """Raise InputError where a stored model is not to be paid by."""

    @classmethod
    def taught(cls, episodes: Sequence[RecordedEpisode], *, steps: int, seed: int) -> LearnedTerm:
        """Train on episodes, of which some must be successes.  Raises InputError where they are not enough."""
        if not any(one.success and len(one.features) > 4 for one in episodes):
            raise problem("dataset", "a success of at least five steps", "none")
        episodes = [one for one in episodes if len(one.features) > 4]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = cls.Model(episodes[0].features.shape[-1])
        model.standard.take(episodes)
        cls.teach(model, episodes, steps, seed)
        return cls(model)

    @classmethod
    def teach(cls, model: Any, episodes: Sequence[RecordedEpisode], steps: int, seed: int) -> None:
        """Train the model."""
        raise NotImplementedError

    def check(self, seen: Seen) -> Tensor:
        """Return the features.  Raises InputError where they are not of the size that was learned from."""
        size = len(self.model.standard.mean)
        if seen.features.shape[-1] != size:
            remedy = "train it on episodes of this environment: toddle reward fit"
            raise problem(f"reward: {self.name}", f"features of {size} numbers", seen.features.shape[-1], remedy)
        return seen.features

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the model to `folder`/<term>, with facts (JSON values) of its training."""
        where = folder / self.name
        digest = save_tensors(where / WEIGHTS, self.model.state_dict())
        card = {"term": self.name, "size": len(self.model.standard.mean), "facts": facts, "sha256": digest}
        write_json_atomic(where / CARD, card)

    @classmethod
    def load(cls, folder: Path, fingerprint: str = "") -> LearnedTerm:
        """Return the term of `folder`/<term>.  fingerprint: of the backbone whose features it will read.

        Raises InputError where the folder is incomplete or damaged, or was trained on other features.
        """
        where = folder / cls.name
        card = read_card(where / CARD, {"term": str, "size": int, "facts": dict, "sha256": str})
        if (learned := card["facts"].get("fingerprint", "")) != fingerprint:
            want = f"features of the backbone {fingerprint}" if fingerprint else "a term that reads states"
            remedy = "toddle reward fit" + (" --features backbone" if fingerprint else "")
            raise problem(f"reward: {cls.name}", want, learned or "one that reads states", remedy)
        model = cls.Model(card["size"])
        try:
            model.load_state_dict(load_tensors(where / WEIGHTS, card["sha256"]))
        except RuntimeError as error:
            raise InputError(f"{where}: {' '.join(str(error).split())[:200]}") from None
        cls.usable(model, where)
        return cls(model)
