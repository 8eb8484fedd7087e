"""A world whose laws are known, recorded: a point on a line that actions move by 0.1, solved beyond 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from toddle.core.tensors import save_tensors
from toddle.data.recordings import Recordings
from toddle.envs.imagined import BANK
from toddle.models.world_model import WorldModel, WorldModelConfig, save_world_model

STEP = 0.1
TINY = WorldModelConfig(width=16, depth=1, heads=2, head_hidden=32, members=2)


def recorded(episodes: int = 40, length: int = 12, seed: int = 0) -> Recordings:
    """State (x, a number that never changes); the reward is x after the step."""
    draw = np.random.default_rng(seed)
    action = draw.uniform(-1, 1, (episodes, length, 1)) + draw.uniform(-0.5, 1.0, (episodes, 1, 1))
    action = np.clip(action, -1, 1)
    after = draw.uniform(-0.5, 0.5, (episodes, 1, 1)) + STEP * np.cumsum(action, 1)
    state = np.concatenate([after - STEP * action, np.full_like(after, 3.0)], 2)
    held = np.arange(episodes) % 4 == 0
    values = {
        "state": state.reshape(-1, 2).astype(np.float32),
        "action": action.reshape(-1, 1).astype(np.float32),
        "reward": after.reshape(-1).astype(np.float32),
        "success": after.reshape(-1) > 1.0,
        "terminated": np.zeros(episodes * length, bool),
        "start": length * np.arange(episodes),
        "held": held,
    }
    return Recordings(**{name: torch.from_numpy(value) for name, value in values.items()})


class Perfect(WorldModel):
    """A model that is the law itself."""

    def following(self, states: torch.Tensor, actions: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return what the law says, twice."""
        moved = states[:, -1] + STEP * actions[:, -1] * torch.tensor([1.0, 0.0])
        return torch.stack([moved, moved])

    def logits(self, state: torch.Tensor, action: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """Return the law's reward and success."""
        x = following[..., 0]
        return torch.stack([x, 1000.0 * (x - 1.0), torch.full_like(x, -1000.0)], -1)


def save(folder: Path, model: WorldModel, data: Recordings, *, middle: float = 0.5) -> None:
    """Write a model as `toddle worldmodel train` does."""
    digest = save_tensors(folder / BANK, data.tensors())
    env = {"name": "tiny/line", "body": "point", "dt": 0.1, "max_episode_steps": 12, "instruction": None, "named": []}
    save_world_model(
        folder, model, {"env": env, "imagine": {"middle": middle, "doubt": 1.0}, "recordings": digest, "levels": {}}
    )
