"""A model of an environment: an ensemble of small transformers says what state follows, heads what it pays.

Over a window of the last steps, two tokens each (the state, the action), under a mask by which a step sees itself and
earlier ones (as in DINO-WM, Zhou et al. 2024, arXiv 2411.04983); the action's token gives the change of the state,
in units of its spread, from an output layer that begins at zero, so that a fresh model says that nothing changes.
Reward, success and end are read from the state that was *predicted*, never from a recorded one alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from toddle.core.config import config, from_dict, to_dict
from toddle.core.device import CPU
from toddle.core.errors import InputError, problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Seed, Size
from toddle.core.tensors import load_tensors, read_card, save_tensors
from toddle.maths.world_models import counted, disagreement
from toddle.models.attention_block import AttentionBlock
from toddle.models.mlp import make_mlp, zero_
from toddle.models.normalizer import RunningNorm

__all__ = [
    "Outcome",
    "Windows",
    "WorldModel",
    "WorldModelConfig",
    "load_world_model",
    "save_world_model",
    "world_model_folder",
    "world_model_meta",
]

CARD, WEIGHTS = "world_model.json", "world_model.safetensors"
MARGIN = 0.1
"""Predicted states are kept within the recorded range, extended by this share of it on both sides."""


@config
class WorldModelConfig:
    """Sizes of a model of an environment."""

    window: Size = 2
    """Steps that it sees: the present one and those before."""
    width: Size = 96
    """Numbers of a token."""
    depth: Size = 2
    """Blocks of attention."""
    heads: Size = 4
    """Heads of attention; they divide the width."""
    head_hidden: Size = 128
    """Hidden units of what reads reward, success and end from predicted states."""
    members: Size = 3
    """Networks of the ensemble; doubt is how far they disagree."""
    seed: Seed = 0
    """Seed of the weights."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise problem("heads", f"a divisor of the width, {self.width}", self.heads)


class Outcome(NamedTuple):
    """What a step comes to, (...,) each."""

    reward: Tensor
    success: Tensor
    """Score of "it is solved now", from 0 to 1; no probability."""
    end: Tensor
    """Score of "the episode ends for good", from 0 to 1."""


class Dynamics(nn.Module):
    """One member: states and actions of a window -> change of the state, in its own units."""

    def __init__(self, config: WorldModelConfig, state: int, action: int) -> None:
        super().__init__()
        width, window = config.width, config.window
        self.state, self.action = nn.Linear(state, width), nn.Linear(action, width)
        self.place = nn.Parameter(0.02 * torch.randn(window, 2, width))
        self.blocks = nn.ModuleList(AttentionBlock(width, config.heads, itself=True) for _ in range(config.depth))
        self.norm, self.out = nn.LayerNorm(width), zero_(nn.Linear(width, state))
        step = torch.arange(window).repeat_interleave(2)
        self.register_buffer("sees", step[:, None] >= step, persistent=False)
        self.sees: Tensor

    def forward(self, states: Tensor, actions: Tensor, real: Tensor) -> Tensor:
        """Return changes (B, T, O) after the steps of normalised states (B, T, O) and actions (B, T, A); steps that are
        not `real` (B, T) are not looked at."""
        tokens = torch.stack([self.state(states), self.action(actions)], 2) + self.place
        x, rows = tokens.flatten(1, 2), real.repeat_interleave(2, 1)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # a row that sees nothing would be NaN
        mask = ((self.sees & rows[:, None]) | own)[:, None]
        for block in self.blocks:
            x = block(x, None, mask)
        change: Tensor = self.out(self.norm(x[:, 1::2]))
        return change


class WorldModel(nn.Module):
    """The ensemble with its heads, statistics and levels.  States are the environment's own, not normalised."""

    spread: Tensor
    reward: Tensor
    low: Tensor
    high: Tensor
    alarm: Tensor
    fires: Tensor
    ends: Tensor
    weight: Tensor

    def __init__(self, config: WorldModelConfig, state: int, action: int) -> None:
        """state, action: O and A, how many numbers."""
        super().__init__()
        self.config, self.sizes = config, (state, action)
        with torch.random.fork_rng(devices=[]):  # torch's layers can only draw from the global generator
            torch.manual_seed(config.seed)
            self.members = nn.ModuleList(Dynamics(config, state, action) for _ in range(config.members))
            self.heads = make_mlp([2 * state + action, config.head_hidden, config.head_hidden, 3])
        self.norm = RunningNorm((state,))
        for name, value in {
            "spread": torch.ones(state),  # of the change in one step; 0: this number never changes
            "reward": torch.tensor([0.0, 1.0]),  # its mean and deviation
            "low": torch.full((state,), -1e6),
            "high": torch.full((state,), 1e6),
            "alarm": torch.tensor(1e9),  # the doubt above which nothing is believed
            "fires": torch.tensor(0.5),  # the score above which it is solved
            "ends": torch.tensor(2.0),  # the score above which it is over; above 1: never
            "weight": torch.ones(state),  # how much each number counts in doubts and distances
        }.items():
            self.register_buffer(name, value)

    @torch.no_grad()
    def fit_statistics(self, state: Tensor, change: Tensor, reward: Tensor, felt: int | None = None) -> None:
        """Take recorded states (N, O), changes in one step (M, O) and rewards (N,); numbers of the state from `felt` on
        are components of what is seen."""
        self.norm.update(state)
        if felt is not None:
            self.weight.copy_(counted(state.double().var(0, correction=0), felt))
        spread = change.double().std(0, correction=0)
        self.spread.copy_(torch.where(spread > 1e-6 * (1.0 + state.double().std(0, correction=0)), spread, 0.0))
        self.reward.copy_(torch.stack([reward.mean(), reward.std(correction=0).clamp_min(1e-6)]))
        low, high = state.amin(0), state.amax(0)
        self.low.copy_(low - MARGIN * (high - low))
        self.high.copy_(high + MARGIN * (high - low))

    def changes(self, member: int, states: Tensor, actions: Tensor, real: Tensor) -> Tensor:
        """Return a member's changes (B, T, O), in units of their spread, of windows (B, T, O), (B, T, A), (B, T)."""
        found: Tensor = self.members[member](self.norm(states), actions, real)
        return found

    def after(self, state: Tensor, change: Tensor) -> Tensor:
        """Return the states (..., O) that changes in units of their spread lead to."""
        return torch.minimum(torch.maximum(state + self.spread * change, self.low), self.high)

    def following(self, states: Tensor, actions: Tensor, real: Tensor) -> Tensor:
        """Return what each member says follows (K, B, O) windows (B, T, O), (B, T, A), (B, T)."""
        changes = [self.changes(k, states, actions, real)[:, -1] for k in range(len(self.members))]
        return self.after(states[:, -1], torch.stack(changes))

    def logits(self, state: Tensor, action: Tensor, following: Tensor) -> Tensor:
        """Return (..., 3): the reward in its own units, and logits of success and end."""
        found: Tensor = self.heads(torch.cat([self.norm(state), action, self.norm(following)], -1))
        return found

    def outcome(self, state: Tensor, action: Tensor, following: Tensor) -> Outcome:
        """Return what steps come to, of states (..., O), actions (..., A) and predicted states (..., O)."""
        reward, success, end = self.logits(state, action, following).unbind(-1)
        return Outcome(self.reward[0] + self.reward[1] * reward, success.sigmoid(), end.sigmoid())

    def doubt(self, following: Tensor) -> Tensor:
        """Return (B,) how far members' states (K, B, O) are apart, in deviations of the recorded states."""
        moving = self.spread > 0
        return disagreement(self.norm(following)[..., moving], self.weight[moving])

    def apart(self, states: Tensor, others: Tensor) -> Tensor:
        """Return (B,) the mean distance of states (B, O) from others, in deviations of the recorded states."""
        weight = torch.where(self.spread > 0, self.weight, 0.0)
        found: Tensor = ((self.norm(states) - self.norm(others)).abs() * weight).sum(1) / weight.sum()
        return found


class Windows:
    """What N worlds have seen last: states (N, T, O), actions (N, T, A) of which the last is still to come, and which
    steps (N, T) there were."""

    def __init__(self, worlds: int, model: WorldModel) -> None:
        window, (size, action) = model.config.window, model.sizes
        device = model.spread.device
        self.states = torch.zeros(worlds, window, size, device=device)
        self.actions = torch.zeros(worlds, window, action, device=device)
        self.real = torch.zeros(worlds, window, dtype=torch.bool, device=device)

    def followed(self, model: WorldModel, action: Tensor) -> Tensor:
        """Return what each member says follows actions (N, A): (K, N, O)."""
        self.actions = torch.cat([self.actions[:, :-1], action[:, None]], 1)
        return model.following(self.states, self.actions, self.real)

    def go_on(self, moving: Tensor, following: Tensor) -> None:
        """Take in the states (N, O) that followed, in the worlds that are moving (N,)."""
        later = {
            "states": torch.cat([self.states[:, 1:], following[:, None]], 1),
            "actions": torch.cat([self.actions[:, 1:], self.actions[:, -1:]], 1),
            "real": torch.cat([self.real[:, 1:], torch.ones_like(self.real[:, :1])], 1),
        }
        for name, value in later.items():
            old = getattr(self, name)
            setattr(self, name, torch.where(moving.view(-1, *[1] * (old.dim() - 1)), value, old))

    def state_dict(self) -> dict[str, Any]:
        """Return the arrays."""
        return {name: getattr(self, name).numpy().copy() for name in ("states", "actions", "real")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        for name in ("states", "actions", "real"):
            setattr(self, name, torch.from_numpy(np.array(state[name])))


def world_model_folder(folder: Path | str) -> Path | None:
    """Return where the model of a folder is: in itself, or in its `model/` where it is a run's; None: nowhere."""
    places = (Path(folder), Path(folder) / "model")
    return next((place for place in places if (place / CARD).is_file()), None)


def save_world_model(folder: Path, model: WorldModel, meta: dict[str, Any]) -> None:
    """Write the model and `meta` (JSON values) to `folder`."""
    digest = save_tensors(folder / WEIGHTS, model.state_dict())
    card = {"config": to_dict(model.config), "sizes": list(model.sizes), "meta": meta, "sha256": digest}
    write_json_atomic(folder / CARD, card)


def _card_of(folder: Path | str) -> tuple[Path, dict[str, Any]]:
    found = world_model_folder(folder)
    if found is None:
        raise problem("world model", f"a folder with {CARD}, as toddle worldmodel train writes it", str(folder))
    return found, read_card(found / CARD, {"config": dict, "sizes": list, "meta": dict, "sha256": str})


def world_model_meta(folder: Path | str) -> dict[str, Any]:
    """Return the meta of a folder's model without its weights.  Raises InputError."""
    meta: dict[str, Any] = _card_of(folder)[1]["meta"]
    return meta


def load_world_model(folder: Path | str, device: torch.device = CPU) -> tuple[WorldModel, dict[str, Any]]:
    """Return the model of a folder (or of a run's, in its `model/`) and its meta.  Raises InputError."""
    found, card = _card_of(folder)
    state = load_tensors(found / WEIGHTS, card["sha256"])
    state.setdefault("weight", torch.ones(int(card["sizes"][0])))  # models from before had none
    try:
        model = WorldModel(from_dict(WorldModelConfig, card["config"], where=str(found / CARD)), *card["sizes"])
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{found}: the weights do not fit the card: {' '.join(str(error).split())[:200]}") from None
    return model.to(device).eval().requires_grad_(False), card["meta"]
