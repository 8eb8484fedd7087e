"""A FlowVLA of a few thousand weights on an untrained embedded backbone, and a toy dataset in memory."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from toddle.core.types import BodySpec
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import EmbeddedBackbone, EmbeddedConfig, train_tokenizer
from toddle.models.denoisers import UnetConfig
from toddle.models.expert import ExpertConfig
from toddle.models.token_decoder import DecoderConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.diffusion_vla import DiffusionVLAConfig
from toddle.policies.links import DiffusionConfig
from toddle.policies.token_vla import TokenVLA, TokenVLAConfig
from toddle.policies.vla import FlowVLA, FlowVLAConfig

SENTENCES = ("open the drawer", "press the red button", "close the window")
SIZES = EmbeddedConfig(
    image_size=32,
    width=16,
    stem=(8, 8, 16),
    keypoints=4,
    registers=3,
    vision_layers=1,
    text_layers=1,
    fusion_layers=1,
    heads=2,
    text_tokens=7,
    vocabulary=80,
)
PROPRIO, ACTION = 5, 3


def tiny_backbone(seed: int = 0) -> EmbeddedBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = EmbeddedBackbone(SIZES, train_tokenizer(SENTENCES, SIZES))
    backbone.freeze()
    return backbone


def tiny_config(
    head: Literal["velocity", "endpoint"] = "velocity",
    window: int = 1,
    horizon: int = 4,
    backbone: BackboneConfig | None = None,
    **more: Any,
) -> FlowVLAConfig:
    trunk = TrunkConfig(width=32, depth=2, heads=2, context_width=24, modulation="residual")
    body = BodySpec(name="toy", proprio=PROPRIO, action=ACTION, dt=0.05)
    expert = ExpertConfig(
        trunk=trunk, bodies=(body,), horizon=horizon, executed=2, window=window, head=head, bank_hidden=32, **more
    )
    return FlowVLAConfig(expert=expert, steps=5, backbone=backbone or BackboneConfig())


def tiny_vla(head: Literal["velocity", "endpoint"] = "velocity", window: int = 1, **more: Any) -> FlowVLA:
    return FlowVLA(tiny_config(head, window, **more), tiny_backbone())


def tiny_token_config(**more: Any) -> TokenVLAConfig:
    body = BodySpec(name="toy", proprio=PROPRIO, action=ACTION, dt=0.05)
    decoder = DecoderConfig(width=32, depth=2, heads=2, context_width=24)
    sizes: dict[str, Any] = {"horizon": 4, "executed": 2, "bins": 16} | more
    return TokenVLAConfig(body=body, decoder=decoder, **sizes)


def tiny_token_vla(**more: Any) -> TokenVLA:
    return TokenVLA(tiny_token_config(**more), tiny_backbone())


def tiny_diffusion_config(**more: Any) -> DiffusionVLAConfig:
    sizes: dict[str, Any] = {"width": 16, "queries": 2, "horizon": 4, "executed": 2}
    sizes["network"] = UnetConfig(channels=(16, 32), condition=32, groups=2)
    sizes["process"] = DiffusionConfig(train_steps=6, ddim_steps=3)
    body = BodySpec(name="toy", proprio=PROPRIO, action=ACTION, dt=0.05)
    return DiffusionVLAConfig(**{"body": body} | sizes | more)


class ToyDemonstrations:
    """Chunks that follow from the context alone: the action is a fixed linear map of the first context token."""

    def __init__(self, count: int = 48, horizon: int = 4, tokens: int = 6, width: int = 16, *, shuffled: bool = False):
        rng = np.random.default_rng(3)
        self.context = torch.from_numpy(rng.normal(size=(count, tokens, width)).astype(np.float32))
        way = torch.from_numpy(rng.normal(size=(width, horizon * ACTION)).astype(np.float32)) / 4
        action = (self.context[:, 0] @ way).tanh().unflatten(-1, (horizon, ACTION))
        self.action = action[torch.from_numpy(rng.permutation(count))] if shuffled else action
        self.proprio = torch.zeros(count, PROPRIO)

    def __len__(self) -> int:
        return len(self.context)

    def batch(self, samples: Any) -> dict[str, Any]:
        rows = torch.from_numpy(np.asarray(samples))
        context = self.context[rows]
        return {
            "observation": {
                "proprio": self.proprio[rows][None],
                "context": context[None],
                "context_mask": torch.ones(context.shape[:2], dtype=torch.bool)[None],
            },
            "action": self.action[rows],
            "mask": torch.ones(self.action[rows].shape[:2], dtype=torch.bool),
        }
