"""Warm start of a policy: imitation of a recorded dataset before RL."""

from __future__ import annotations

from pathlib import Path

import torch
from gymnasium.spaces import Box

from toddle.core.config import config
from toddle.core.device import device_of
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, Positive, Size
from toddle.core.protocols import Imitating
from toddle.core.seeding import randint, torch_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset
from toddle.methods._base import Start
from toddle.optim.schedules import cosine_factor
from toddle.policies.bounds import ROUNDING
from toddle.policies.store import read_policy, save_policy
from toddle.runs.loop import ProgressLine

__all__ = ["ImitationConfig", "imitate", "warm_start"]


@config
class ImitationConfig:
    """How demonstrations are imitated before RL (`--warm-start`)."""

    steps: Count = 3000
    """Updates."""
    batch: Size = 256
    """Chunks of one update."""
    learning_rate: Positive = 1e-3
    """Adam's rate, which falls to 0 by a half cosine."""


def _samples(policy: Imitating, dataset: LeRobotDataset, space: Box) -> tuple[torch.Tensor, torch.Tensor]:
    """Return proprioception (N, O) and chunks (N, H, A) of a dataset.

    Raises InputError where its sizes are not the body's, or its actions are not those that the environment takes.
    """
    (body,) = policy.bodies
    windows = WindowDataset(dataset, horizon=policy.chunk_size)
    samples = [windows[index] for index in range(len(windows))]
    proprio = torch.stack([sample["proprio"][-1] for sample in samples])
    action = torch.stack([sample["action"] for sample in samples])
    for name, found, wanted in (("observation.state", proprio, body.proprio), ("action", action, body.action)):
        if found.shape[-1] != wanted:
            raise problem(f"dataset: {name}", f"{wanted} numbers, as body {body.name} has", found.shape[-1])
    low, high = (torch.from_numpy(bound) for bound in (space.low, space.high))
    beyond = torch.maximum(low - action, action - high).amax((0, 1))
    if float(beyond.max()) > ROUNDING:
        number = int(beyond.argmax())
        got = f"{float(action[..., number].min()):g} to {float(action[..., number].max()):g}"
        bounds = f"{float(low[number]):g} to {float(high[number]):g}, as the environment takes them"
        remedy = "a policy of another action space cannot act here: convert the actions"
        raise problem(f"dataset: action: number {number}", bounds, got, remedy)
    return proprio, action


def imitate(
    policy: Imitating, dataset: LeRobotDataset, settings: ImitationConfig, seed: int, *, space: Box
) -> list[float]:
    """Fit a fresh policy to the chunks of a dataset; return the losses.  Its normalisation comes from the dataset.

    Raises InputError where the dataset does not fit body and environment, NaNError where the loss is not finite.
    """
    device = device_of(policy)
    proprio, action = (part.to(device) for part in _samples(policy, dataset, space))
    policy.fit_normaliser({"proprio": proprio})
    generator = torch_generator(seed, "imitation")
    optimiser = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=settings.learning_rate)
    losses = []
    with ProgressLine("imitate", settings.steps) as bar:
        for step in range(settings.steps):
            rows = randint(len(proprio), (settings.batch,), generator, device)
            loss = policy.imitation_loss({"proprio": proprio[rows]}, action[rows], generator).mean()
            losses.append(float(loss.detach()))
            if not torch.isfinite(loss):
                raise NaNError(f"imitation, update {step}: the loss is not finite")
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * cosine_factor(step, settings.steps)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            bar.advance(step + 1)
    for parameter in policy.parameters():
        parameter.grad = None
    policy.finish_imitation()
    return losses


def warm_start(policy: Imitating, dataset: Path, settings: ImitationConfig, start: Start, *, goals: bool) -> None:
    """Imitate `dataset`, or take what an interrupted run imitated already; the result is kept in the run's folder.

    In a plan (no folder) the dataset is checked and nothing is trained.
    """
    if goals:
        raise problem("warm_start", "environments without goal items (datasets hold none)", str(dataset))
    opened, space = LeRobotDataset(dataset), start.envs[0].single_action_space
    if start.folder is None:
        _samples(policy, opened, space)
        return
    folder = start.folder / "warm_start"
    if (folder / "policy.json").exists():
        policy.load_state_dict(read_policy(folder)[3])
        return
    losses = imitate(policy, opened, settings, start.seed, space=space)
    tail = losses[-max(1, len(losses) // 20) :]
    save_policy(folder, policy, {"dataset": str(dataset), "imitation_loss": sum(tail) / len(tail)})
