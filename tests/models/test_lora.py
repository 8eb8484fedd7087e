"""LoRA folded into a backbone's weights: the same function, the same tensors beside, and nothing moved by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.policies.test_flow_explorer import observed, stirred
from tests.policies.tiny_vla import tiny_backbone, tiny_config, tiny_token_config

from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.backbones.load import load_backbone
from toddle.models.lora import merged_copy
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.store import load_policy, save_policy
from toddle.policies.token_vla import TokenVLA
from toddle.policies.vla import FlowVLA


@pytest.fixture
def adapted(tmp_path: Path) -> Backbone:
    """A tiny backbone with LoRA that has learned something."""
    save_embedded(tmp_path / "eyes", tiny_backbone())
    backbone = load_backbone(BackboneConfig(name=str(tmp_path / "eyes"), lora_rank=3, lora_alpha=6.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in backbone.named_parameters():
            if ".lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator))
    return backbone


def test_merged_it_reads_the_same_and_shares_the_rest(adapted: Backbone) -> None:
    seen = observed(0, first=True)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    copy = merged_copy(adapted)
    with torch.no_grad():
        own, frozen = (each.encode(seen["images"], seen["instruction"])[0] for each in (adapted, tiny_backbone()))
        merged = copy.encode(seen["images"], seen["instruction"])[0]
    torch.testing.assert_close(merged, own, atol=1e-5, rtol=1e-5)
    assert (own - frozen).abs().max() > 0.1, "LoRA changes what is read"
    assert not any("lora" in name for name, _ in copy.named_modules())
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    shared = {id(value) for value in adapted.parameters()}
    layers = sum(name.endswith("lora_A") for name, _ in adapted.named_modules())
    assert layers > 0 and sum(id(value) not in shared for value in copy.parameters()) == layers


def test_its_matrices_begin_alike_wherever_the_global_generator_stands(tmp_path: Path) -> None:
    save_embedded(tmp_path / "eyes", tiny_backbone())
    settings = BackboneConfig(name=str(tmp_path / "eyes"), lora_rank=3)
    made = []
    for _ in range(2):
        made.append({name: value for name, value in load_backbone(settings).named_parameters() if ".lora_" in name})
        torch.rand(7)
    assert made[0] and all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert any(value.any() for name, value in made[0].items() if ".lora_A" in name)


@pytest.mark.parametrize("kind", ["flow", "tokens"])
def test_a_vla_acts_merged_and_learns_with_the_adapters(adapted: Backbone, kind: str, tmp_path: Path) -> None:
    backbone = adapted.settings
    if kind == "flow":
        vla = stirred(FlowVLA(tiny_config(backbone=backbone), adapted))
    else:
        vla = TokenVLA(tiny_token_config(backbone=backbone), adapted)
    explorer, seen = vla.explorer(SamplerConfig()), observed(0, first=True)
    plain, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    with vla.merged():
        assert explorer.encode(seen) is seen, "pictures are kept: they are read again with the adapters"
        merged, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
        vla.context(seen)[0].sum().backward()
    assert all(weight.grad is None for weight in vla.lora.values()), "merged, it does not learn"
    torch.testing.assert_close(merged.action, plain.action, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged.log_prob, plain.log_prob, atol=1e-5, rtol=1e-5)
    segment = {key: value[None] for key, value in seen.items() if isinstance(value, torch.Tensor)}
    score = explorer.score(segment | {"instruction": seen["instruction"]}, merged.chain[None])
    score.log_prob.sum().backward()
    assert all(weight.grad is not None for weight in vla.lora.values())
    with torch.no_grad():
        for weight in vla.lora.values():
            weight.mul_(1.5)
    with vla.merged():  # refreshed: it acts as it is now
        again, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    now, _ = explorer.act(seen, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.log_prob, now.log_prob, atol=1e-5, rtol=1e-5)
    assert not torch.equal(again.log_prob, merged.log_prob)
    save_policy(tmp_path / "policy", vla)
    loaded = load_policy(tmp_path / "policy", acting=True)
    with torch.no_grad():
        torch.testing.assert_close(loaded.context(seen)[0], vla.context(seen)[0], atol=1e-5, rtol=1e-5)
        assert not torch.equal(loaded.context(seen)[0], vla.context(seen)[0]), "the stored one reads merged"
