"""The diffusion policy that sees learns from what it sees, by supervised fine-tuning, over either network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import ToyDemonstrations, tiny_backbone, tiny_diffusion_config

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.diffusion_vla import DiffusionVLA


def missed(network: Any, *, shuffled: bool) -> float:
    """Return how far its deterministic chunks are from the demonstrated ones after 400 updates."""
    data = ToyDemonstrations(shuffled=shuffled)
    policy = DiffusionVLA(tiny_diffusion_config(executed=4, **network), tiny_backbone())
    learner = SFT(policy, data, SFTConfig(steps=400, batch=32, learning_rate=3e-3), seed=0)
    for _ in range(400):
        learner.step()
    learner.use_average()
    truth, batch = ToyDemonstrations(), ToyDemonstrations().batch(range(48))
    observation = {key: value[0] for key, value in batch["observation"].items()}
    decision, _ = policy.act(observation, generator=torch.Generator().manual_seed(0), deterministic=True)
    return float((decision.action - truth.action).abs().mean())


@pytest.mark.slow
@pytest.mark.parametrize("network", [{}, {"network": MlpDenoiserConfig(width=64)}], ids=["unet", "mlp"])
def test_it_learns_what_it_sees(network: Any) -> None:
    assert missed(network, shuffled=False) < 0.7 * missed(network, shuffled=True)
