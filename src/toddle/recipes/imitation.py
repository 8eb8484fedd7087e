"""Warm start of a denoising policy: imitation of a recorded dataset before RL."""

from __future__ import annotations

from pathlib import Path

import torch

from toddle.core.config import config
from toddle.core.device import device_of
from toddle.core.errors import NaNError, problem
from toddle.core.protocols import Imitating
from toddle.core.seeding import randint, torch_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset
from toddle.policies.store import read_policy, save_policy
from toddle.runs.loop import ProgressLine

__all__ = ["ImitationConfig", "imitate", "warm_start"]


@config
class ImitationConfig:
    """How demonstrations are imitated before RL (`--warm-start`)."""

    steps: int = 3000
    """Updates."""
    batch: int = 256
    """Chunks of one update."""
    learning_rate: float = 1e-3
    """Adam's rate, which falls to 0 by a half cosine."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise problem(name, "at least 1", getattr(self, name))


def imitate(policy: Imitating, dataset: LeRobotDataset, settings: ImitationConfig, seed: int) -> list[float]:
    """Fit a fresh policy to the chunks of a dataset; return the losses.  Its normalisation comes from the dataset.

    Raises InputError where the dataset's sizes are not the body's, NaNError where the loss is not finite.
    """
    (body,) = policy.bodies
    windows = WindowDataset(dataset, horizon=policy.config.horizon)
    samples = [windows[index] for index in range(len(windows))]
    proprio = torch.stack([sample["proprio"][-1] for sample in samples])
    action = torch.stack([sample["action"] for sample in samples]).clamp(-1.0, 1.0)
    for name, found, wanted in (("observation.state", proprio, body.proprio), ("action", action, body.action)):
        if found.shape[-1] != wanted:
            raise problem(f"dataset: {name}", f"{wanted} numbers, as body {body.name} has", found.shape[-1])
    device = device_of(policy)
    proprio, action = proprio.to(device), action.to(device)
    policy.fit_normaliser({"proprio": proprio})
    generator = torch_generator(seed, "imitation")
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    losses = []
    with ProgressLine("imitate", settings.steps) as bar:
        for step in range(settings.steps):
            rows = randint(len(proprio), (settings.batch,), generator, device)
            loss = policy.imitation_loss({"proprio": proprio[rows]}, action[rows], generator).mean()
            losses.append(float(loss.detach()))
            if not torch.isfinite(loss):
                raise NaNError(f"imitation, update {step}: the loss is not finite")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.advance(step + 1)
    for parameter in policy.parameters():
        parameter.grad = None
    policy.finish_imitation()
    return losses


def warm_start(policy: Imitating, dataset: Path, settings: ImitationConfig, folder: Path, seed: int) -> None:
    """Imitate `dataset`, or take what an interrupted run imitated already, and keep the result in `folder`."""
    opened = LeRobotDataset(dataset)
    if policy.config.goal_width:
        raise problem("warm_start", "environments without goal items (datasets hold none)", str(dataset))
    if (folder / "policy.json").exists():
        _, _, _, state = read_policy(folder)
        policy.load_state_dict(state)
        return
    losses = imitate(policy, opened, settings, seed)
    tail = losses[-max(1, len(losses) // 20) :]
    save_policy(folder, policy, {"dataset": str(dataset), "imitation_loss": sum(tail) / len(tail)})
