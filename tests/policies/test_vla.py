"""FlowVLA: acting, the flow loss, what is frozen, saving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tests.policies.tiny_vla import (
    ACTION,
    PROPRIO,
    SENTENCES,
    tiny_backbone,
    tiny_config,
    tiny_token_vla,
    tiny_vla,
)
from torch.testing import assert_close

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.seeding import torch_generator
from toddle.core.types import BodySpec
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import load_embedded, save_embedded
from toddle.policies.flow_access import flows
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.hastened import hastened
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.policies.vla import FlowVLA


def observation(batch: int = 3) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)
    return {
        "proprio": torch.randn(batch, PROPRIO, generator=generator),
        "images": torch.randint(0, 256, (batch, 1, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "instruction": [SENTENCES[i % len(SENTENCES)] for i in range(batch)],
        "previous_action": torch.zeros(batch, 2 * ACTION),
        "first": torch.ones(batch, dtype=torch.bool),
        "body": torch.zeros(batch, dtype=torch.int64),
    }


def awake(policy: FlowVLA) -> FlowVLA:
    """Give the zero-initialised layers values, so that noise and time matter."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    return policy


@pytest.mark.parametrize("head", ["velocity", "endpoint"])
def test_act_draws_chunks(head: Literal["velocity", "endpoint"]) -> None:
    policy = awake(tiny_vla(head)).eval()
    decision, memory = policy.act(observation(), policy.initial_memory(3), generator=torch.Generator().manual_seed(1))
    assert decision.action.shape == (3, 2, ACTION) and decision.action.abs().max() <= 1
    assert decision.log_prob.shape == (3, 0) and memory is not None
    other, _ = policy.act(observation(), None, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(decision.action, other.action)
    calm = [policy.act(observation(), None, deterministic=True)[0].action for _ in range(2)]
    assert torch.equal(*calm)


def test_cached_context_gives_the_same_action() -> None:
    policy = awake(tiny_vla()).eval()
    live = observation()
    context, mask = policy.backbone.encode(live["images"], live["instruction"])
    cached = {key: value for key, value in live.items() if key not in ("images", "instruction")}
    cached |= {"context": context, "context_mask": mask}
    a = policy.act(live, None, deterministic=True)[0].action
    b = policy.act(cached, None, deterministic=True)[0].action
    assert_close(a, b, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="images"):
        policy.act({key: value for key, value in cached.items() if not key.startswith("context")}, None)


def test_acting_step_by_step_is_the_training_pass() -> None:
    """One decision's chunk from the loss's forward (window of history) equals acting with the cache."""
    policy = awake(tiny_vla("endpoint", window=3)).eval()
    generator = torch.Generator().manual_seed(4)
    length, batch = 4, 2
    steps = [
        observation(batch)
        | {
            "proprio": torch.randn(batch, PROPRIO, generator=generator),
            "previous_action": torch.randn(batch, 2 * ACTION, generator=generator),
            "first": torch.full((batch,), t == 0),
        }
        for t in range(length)
    ]
    memory = policy.initial_memory(batch)
    with torch.no_grad():
        for step in steps:
            context, mask = policy.context(step)
            noisy, tau = torch.randn(batch, 4, ACTION, generator=generator), torch.full((batch,), 0.3)
            memory = policy.expert.prefix(step, context, mask, memory)
            acted = policy.expert.slots(memory, noisy, tau)
        names = ("proprio", "previous_action", "first", "body", "images")
        stacked: Any = {key: torch.stack([s[key] for s in steps]) for key in names} | {
            "instruction": steps[0]["instruction"]
        }
        context, mask = policy.context(stacked)
        trained = policy.expert(stacked, context, mask, noisy[None], tau[None], last=1)[0]
    assert_close(acted, trained, rtol=0, atol=1e-5)


def _silent_batch(policy: FlowVLA, action: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    now = observation(len(action))
    lifted = {key: value[None] for key, value in now.items() if isinstance(value, torch.Tensor)}
    return {"observation": lifted | {"instruction": now["instruction"]}, "action": action, "mask": mask}


@pytest.mark.parametrize("head", ["velocity", "endpoint"])
def test_flow_loss_against_hand_values(head: Literal["velocity", "endpoint"]) -> None:
    """An expert whose head outputs the constant 1: velocity loss is mean (1 - (a - eps))^2, endpoint loss (1 - a)^2."""
    policy = tiny_vla(head)
    with torch.no_grad():
        for layer in policy.expert.out.last_layers():
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    action = torch.full((3, 4, ACTION), 0.25)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0, 2:] = False
    seed = torch.Generator().manual_seed(7)
    loss, _ = policy.loss(_silent_batch(policy, action, mask), seed)
    noise = torch.randn(3, 4, ACTION, generator=torch.Generator().manual_seed(7))  # the first draw of the loss
    error = (1 - (0.25 - noise)).square() if head == "velocity" else torch.full((3, 4, ACTION), 0.5625)
    assert loss.item() == pytest.approx(float(error[mask].mean()), rel=1e-5)


def test_a_flow_from_the_last_action_begins_there() -> None:
    """A head that says velocity 1 everywhere: the chunk is the last action + 1, and so is the loss's target."""
    policy = FlowVLA(replace(tiny_config("velocity"), source="previous", spread=0.5), tiny_backbone())
    with torch.no_grad():
        for layer in policy.expert.out.last_layers():
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    policy.set_action_normalization(0, torch.full((ACTION,), 0.5), torch.full((ACTION,), 2.0))
    now = observation() | {"first": torch.tensor([False, False, True])}
    now["previous_action"] = torch.arange(3 * 2 * ACTION).reshape(3, -1) / 40.0
    last = (now["previous_action"].reshape(3, 2, ACTION)[:, 1] - 0.5) / 2
    last[2] = 0.0  # an episode's first decision has none
    action = policy.act(now, None, deterministic=True)[0].action
    wanted = (last[:, None] + 1).expand(3, 2, ACTION) * 2 + 0.5
    assert_close(action, wanted)
    chunk, mask = torch.full((3, 4, ACTION), 0.25), torch.ones(3, 4, dtype=torch.bool)
    batch = _silent_batch(policy, chunk, mask)
    batch["observation"] |= {name: now[name][None] for name in ("previous_action", "first")}
    loss, _ = policy.loss(batch, torch.Generator().manual_seed(7))
    noise = torch.randn(3, 4, ACTION, generator=torch.Generator().manual_seed(7))
    start = last[:, None] + 0.5 * noise
    assert loss.item() == pytest.approx(float((1 - ((0.25 - 0.5) / 2 - start)).square().mean()), rel=1e-5)
    with pytest.raises(InputError, match="a VLA whose flow comes from noise, for RL, got 'from the previous action'"):
        policy.explorer(SamplerConfig())
    assert not flows(policy) and flows(tiny_vla())
    steered = SteeredPolicy(SteeredConfig(mode="residual"), policy)  # what takes no density takes it as it is
    alone = steered.act(now, generator=torch.Generator().manual_seed(5))[0].action
    drawn = torch.randn(3, 4, ACTION, generator=torch.Generator().manual_seed(5))
    assert_close(alone, ((last[:, None] + 0.5 * drawn + 1) * 2 + 0.5)[:, :2])


def test_padded_steps_do_not_count() -> None:
    policy = tiny_vla()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[:, 3] = False
    losses = []
    for last in (0.0, 5.0):
        action = torch.zeros(3, 4, ACTION)
        action[:, 3] = last  # beyond the episode's end (slots are causal, so it cannot be seen by earlier ones)
        losses.append(policy.loss(_silent_batch(policy, action, mask), torch.Generator().manual_seed(1))[0].item())
    assert losses[0] == losses[1]


def test_action_normalisation_has_its_inverse() -> None:
    policy = tiny_vla()
    policy.set_action_normalization(0, torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.1, 1.0]))
    action, body = torch.rand(2, 4, ACTION), torch.zeros(2, dtype=torch.int64)
    assert_close(policy.denormalise(policy.normalise(action, body), body), action)
    assert_close(policy.normalise(action, body)[..., 0], (action[..., 0] - 0.5) / 2.0)
    with pytest.raises(InputError, match="positive"):
        policy.set_action_normalization(0, torch.zeros(3), torch.zeros(3))


def test_millimetres_act_as_millimetres() -> None:
    """The same weights: what the flow gives, and what it is told of the past, is scaled and shifted; nothing is cut."""
    plain, scaled = awake(tiny_vla()).eval(), awake(tiny_vla()).eval()
    for policy in (plain, scaled):  # fresh weights do not look at the past
        generator = torch.Generator().manual_seed(4)
        for value in policy.expert.tokens.past_in.parameters():
            value.data = torch.randn(value.shape, generator=generator)
    offset, scale = torch.tensor([100.0, -30.0, 0.0]), torch.tensor([400.0, 0.01, 1.0])
    scaled.set_action_normalization(0, offset, scale)
    seen = observation()
    executed = plain.config.expert.executed
    past = 3.0 * torch.randn(len(seen["proprio"]), executed, ACTION, generator=torch.Generator().manual_seed(2))
    first = torch.tensor([True, *[False] * (len(past) - 1)])
    told: list[Any] = [
        {**seen, "first": first, "previous_action": each.flatten(1)} for each in (past, past * scale + offset)
    ]
    told[0]["previous_action"][0] = told[1]["previous_action"][0] = 0.0
    a = plain.act(told[0], None, generator=torch.Generator().manual_seed(3))[0].action
    b = scaled.act(told[1], None, generator=torch.Generator().manual_seed(3))[0].action
    cut = ((b - offset) / scale).clamp(-1.0, 1.0)  # float32 keeps less of -30 +- 0.01
    assert_close(cut, a, rtol=1e-3, atol=1e-3)
    assert b.abs().max() > 50
    seen_past = scaled._seen(told[1])["previous_action"]
    assert_close(seen_past, told[0]["previous_action"], rtol=1e-4, atol=1e-4)
    assert a.abs().max() <= 1.0  # what has no units ends at 1


def test_the_backbone_is_not_among_the_weights() -> None:
    policy = tiny_vla()
    assert not any("stem" in name or "vision" in name for name in policy.state_dict())
    assert not any(value.requires_grad for value in policy.backbone.parameters())
    policy.train()
    assert not policy.backbone.training


def test_save_and_load_give_the_same_actions_and_a_changed_backbone_is_refused(tmp_path: Path) -> None:
    save_embedded(tmp_path / "eyes", tiny_backbone())
    settings = replace(tiny_config(), backbone=BackboneConfig(name=str(tmp_path / "eyes")))
    policy = awake(FlowVLA(settings, load_embedded(tmp_path / "eyes"))).eval()
    policy.set_action_normalization(0, torch.full((3,), 0.1), torch.full((3,), 0.5))
    save_policy(tmp_path / "policy", policy, {"note": "test"})
    assert (tmp_path / "policy" / "policy.safetensors").stat().st_size < 4 * 10 * 60_000
    again = load_policy(tmp_path / "policy")
    assert again.config == policy.config and again.config.fingerprint
    a, b = (p.act(observation(), None, deterministic=True)[0].action for p in (policy, again))
    assert torch.equal(a, b)
    save_embedded(tmp_path / "eyes", tiny_backbone(seed=1))
    with pytest.raises(InputError, match="fingerprint"):
        load_policy(tmp_path / "policy")


def test_lora_trains_with_the_policy_and_is_saved(tmp_path: Path) -> None:
    """The backbone's own weights stay; the LoRA matrices learn, travel with the policy, and change what it sees."""
    save_embedded(tmp_path / "eyes", tiny_backbone())
    settings = replace(tiny_config(), backbone=BackboneConfig(name=str(tmp_path / "eyes"), lora_rank=2))
    policy = FlowVLA.from_config(settings)
    assert policy.features is None and policy.config.fingerprint == load_embedded(tmp_path / "eyes").fingerprint()
    batch = _silent_batch(policy, torch.rand(3, 4, ACTION), torch.ones(3, 4, dtype=torch.bool))
    optimiser = torch.optim.SGD(awake(policy).train().parameters(), lr=1.0)
    policy.loss(batch, torch.Generator().manual_seed(1))[0].backward()
    assert all(value.grad is not None for name, value in policy.named_parameters() if name.startswith("lora."))
    assert not any(value.requires_grad for name, value in policy.backbone.named_parameters() if ".lora_" not in name)
    optimiser.step()
    policy.eval()
    save_policy(tmp_path / "policy", policy)
    again = load_policy(tmp_path / "policy")
    now = observation()
    assert torch.equal(policy.context(now)[0], again.context(now)[0])
    assert not torch.allclose(policy.context(now)[0], awake(FlowVLA.from_config(settings)).context(now)[0], atol=1e-4)


def test_a_direct_head_is_refused() -> None:
    with pytest.raises(InputError, match="velocity"):
        replace(
            tiny_config(),
            expert=replace(
                tiny_config().expert, head="direct", trunk=replace(tiny_config().expert.trunk, modulation="none")
            ),
        )


@pytest.mark.parametrize("window", [1, 2])
def test_hastened_it_acts_alike(window: int) -> None:
    plain, fast = awake(tiny_vla(window=window)).eval(), awake(tiny_vla(window=window)).eval()
    before = {name: value.clone() for name, value in fast.state_dict().items()}
    assert hastened(fast, "none") is fast and fast.initial_memory(1).keys[0].dtype == torch.float32
    hastened(fast, "tables")
    memories, seen = [policy.initial_memory(3) for policy in (plain, fast)], observation()
    for seed in range(3):
        found = []
        for index, policy in enumerate((plain, fast)):
            decision, memories[index] = policy.act(seen, memories[index], generator=torch_generator(seed, "act"))
            found.append(decision.action)
        assert_close(found[1], found[0], atol=1e-5, rtol=0.0)
        seen = {**seen, "first": torch.tensor([False, seed == 1, False]), "proprio": seen["proprio"] + 0.1}
    assert_close(
        fast.chunk_from(seen, torch.ones(3, 4, ACTION), steps=2)[0],
        plain.chunk_from(seen, torch.ones(3, 4, ACTION), steps=2)[0],
        atol=1e-5,
        rtol=0.0,
    )
    assert all(torch.equal(value, before[name]) for name, value in fast.state_dict().items())
    hastened(fast, "tables", bf16=True)
    assert fast.initial_memory(1).keys[0].dtype == torch.bfloat16
    with pytest.raises(InputError, match="compile: expected none with a policy that does not act by toddle's own flow"):
        hastened(tiny_token_vla(), "tables")


def test_what_cannot_be_hastened_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = BodySpec(name="point", proprio=2, action=2, dt=0.1)
    save_policy(tmp_path, GaussianPolicy(GaussianConfig(bodies=(spec,), hidden=(8,))))
    evaluation = ["evaluate", "--policy", str(tmp_path), "--env", "fork/point", "--dry-run"]
    told = {
        "--compile graph": "compile: expected none, tables or inductor with device cpu, got 'graph'",
        "--bf16": "bf16: expected nothing with compile none",
        "--compile tables": "compile: expected none with a policy that does not act by toddle's own flow",
    }
    for flags, line in told.items():
        with pytest.raises(SystemExit) as stopped:
            main([*evaluation, *flags.split()])
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and line in said and said.count("\n") == 1, said
