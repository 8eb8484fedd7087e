"""The diffusion policy that sees learns from what it sees, by supervised fine-tuning, over either network; its eyes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import ToyDemonstrations, tiny_backbone, tiny_diffusion_config

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.resnet import ResNet, ResNetConfig, shifted
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


def test_a_crop_moves_every_picture_by_itself() -> None:
    """A picture of its own coordinates says by how much; what comes in at the edge repeats it."""
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    picture = torch.stack([rows, columns, rows * 0]).to(torch.uint8).expand(50, 1, 3, 40, 40)
    moved = shifted(picture, torch.Generator().manual_seed(0))
    by = moved[:, 0, :2, 20, 20].long() - 20
    assert by.unique(dim=0).shape[0] > 10 and by.abs().max() == 2
    inside = moved[:, 0, 0, 5:35, 5:35].long() - rows[5:35, 5:35]
    assert torch.equal(inside, by[:, :1, None].expand_as(inside))
    assert moved[:, 0, 0].max() == 39


def test_a_resnet_of_eighteen_layers() -> None:
    """Its convolutions are as many, and it says where what it sees is."""
    net = ResNet(ResNetConfig())
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    assert len(layers) + 1 == 18  # with the linear layer of the classifier that it is without
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(11.2e6, rel=0.01)  # torchvision's: 11.7 with it
    assert net(torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8)).shape == (1, 2 * 2 * 2, 514)
