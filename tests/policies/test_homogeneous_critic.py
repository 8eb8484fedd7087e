"""The critic with the VLA's own architecture reads what the VLA reads, through a copy that stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.test_flow_explorer import BATCH, observed, stirred
from tests.policies.tiny_vla import tiny_backbone, tiny_config, tiny_token_vla, tiny_vla

from toddle.core.types import Observation
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.backbones.load import load_backbone
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.homogeneous_critic import HomogeneousCritic
from toddle.policies.vla import FlowVLA

VLAS: Any = {
    "flow": tiny_vla,
    "flow with history": lambda: tiny_vla(window=2),
    "flow, all modulated": lambda: tiny_vla(modulate="all"),
    "tokens": tiny_token_vla,
    "parallel": lambda: tiny_token_vla(decoding="parallel"),
}


def segment(*, kept: Any = None) -> Observation:
    """Three decisions of an episode, as pictures, or as the features that the VLA `kept` keeps."""
    steps: Any = [observed(t, first=t == 0) for t in range(3)]
    steps = steps if kept is None else [kept.encode(step) for step in steps]
    found = {key: torch.stack([step[key] for step in steps]) for key in steps[0] if key != "instruction"}
    said = {} if kept is not None else {"instruction": steps[0]["instruction"]}
    return Observation(**found, **said)  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", VLAS)
def test_it_reads_what_the_vla_reads_and_stays_as_it_was(name: str) -> None:
    vla = VLAS[name]()
    critic = HomogeneousCritic(vla, seed=0).train()
    seen = segment(kept=vla)
    hidden = vla.eval().prompt_hidden(seen)
    assert hidden.shape == (3, BATCH, vla.prompt_width) and hidden.std() > 0.1
    assert torch.equal(critic.copy.prompt_hidden(seen), hidden)
    torch.testing.assert_close(vla.prompt_hidden(segment()), hidden, atol=2e-3, rtol=2e-3)  # pictures, not float16
    assert critic.copy.backbone is vla.backbone and not critic.copy.training
    learned = [weight for weight in critic.parameters() if weight.requires_grad]
    sizes = [(1024, vla.prompt_width), (512, 1024), (1, 512)]
    assert [tuple(weight.shape) for weight in learned] == sizes
    before = critic.value(seen)
    assert before.shape == (3, BATCH) and len(before.unique()) == 3 * BATCH
    with torch.no_grad():
        for weight in vla.parameters():
            weight.add_(0.1)
    assert torch.equal(critic.value(seen), before)
    assert not torch.allclose(vla.prompt_hidden(seen), hidden)
    critic.value(seen).sum().backward()
    assert all(weight.grad is not None for weight in learned)
    assert all(weight.grad is None for weight in critic.copy.parameters())
    assert not any("backbone" in key for key in critic.state_dict())


def test_of_tokens_it_is_what_says_the_first_token() -> None:
    vla = tiny_token_vla().eval()
    vla.explorer(SamplerConfig(ratio_per="token", temperature=1.5))
    seen = vla.encode(observed(0, first=True))
    decision, _ = vla.act(seen, generator=torch.Generator().manual_seed(0))
    said = torch.log_softmax(vla.out(vla.prompt_hidden(seen)) / 1.5, -1).gather(-1, decision.chain[:, :1])
    torch.testing.assert_close(said, decision.log_prob[:, :1])


@pytest.mark.parametrize("window", [1, 2])
def test_of_a_flow_it_is_the_observation_as_it_acts(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vla = stirred(tiny_vla(window=window)).eval()
    seen = segment(kept=vla)
    step, tokens, memory = vla.expert.trunk.step, list[Any](), None

    def kept(*given: Any, **more: Any) -> Any:
        tokens.append(step(*given, **more))
        return tokens[-1]

    monkeypatch.setattr(vla.expert.trunk, "step", kept)
    for t in range(3):
        now: Any = {key: value[t] for key, value in seen.items()}  # type: ignore[attr-defined]
        if window == 1:
            now["first"] = torch.ones(BATCH, dtype=torch.bool)
        _, memory = vla.open_flow(now, memory)
    acted = torch.stack([found[:, 1] for found in tokens])
    if window == 1:
        seen["first"] = torch.ones(3, BATCH, dtype=torch.bool)
    torch.testing.assert_close(vla.prompt_hidden(seen), acted, atol=1e-5, rtol=1e-5)
    single: Any = {key: value[0] for key, value in seen.items()}  # type: ignore[attr-defined]
    torch.testing.assert_close(vla.prompt_hidden(single), acted[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_with_lora_the_copy_has_one_of_its_own(lora: bool, tmp_path: Path) -> None:
    """The policy's LoRA learns and the value stays; the critic's learns, where it is asked to, and the policy stays."""
    save_embedded(tmp_path, tiny_backbone())
    backbone = BackboneConfig(name=str(tmp_path), lora_rank=2)
    vla = FlowVLA(replace(tiny_config(), backbone=backbone), load_backbone(backbone))
    critic, seen = HomogeneousCritic(vla, seed=0, learns="lora" if lora else "head").train(), segment()
    before, acted = critic.value(seen), vla.prompt_hidden(seen)
    base = [name for name, _ in vla.backbone.named_parameters() if ".lora_" not in name]
    own, copied = dict(vla.backbone.named_parameters()), dict(critic.copy.backbone.named_parameters())
    assert len(base) < len(own) and all(own[name] is copied[name] for name in base)
    with torch.no_grad():
        for weight in vla.lora.values():
            weight.add_(0.3)
    assert torch.equal(critic.value(seen), before) and not torch.allclose(vla.prompt_hidden(seen), acted)
    critic.value(seen).sum().backward()
    learned = {name for name, weight in critic.named_parameters() if weight.grad is not None}
    adapters = {f"copy.lora.{name}" for name in vla.lora}
    assert learned == {"head.0.weight", "head.2.weight", "head.4.weight"} | (adapters if lora else set())
    assert all(weight.grad is None for weight in vla.parameters())
    with torch.no_grad():
        now = vla.prompt_hidden(seen)
        for weight in critic.copy.lora.values():
            weight.add_(0.3)
        assert torch.equal(vla.prompt_hidden(seen), now) and not torch.allclose(critic.value(seen), before)
