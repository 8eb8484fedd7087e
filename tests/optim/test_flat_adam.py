"""Adam over one vector takes the steps of torch.optim.Adam with clipped gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from toddle.core.errors import InputError
from toddle.optim.flat_adam import FlatAdam


def networks() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), nn.Linear(3, 1)


def vector(flat: FlatAdam) -> torch.Tensor:
    """All parameters of the one type there is."""
    (buffer,) = flat.buffers.values()
    return buffer.parameter


def test_same_steps_as_torch() -> None:
    policy, critic = networks()
    others = copy.deepcopy((policy, critic))
    flat = FlatAdam({"policy": (policy, 0.01), "critic": (critic, 0.03)}, max_norm=0.5, epsilon=1e-5)
    groups = [{"params": others[0].parameters(), "lr": 0.01}, {"params": others[1].parameters(), "lr": 0.03}]
    oracle = torch.optim.Adam(groups, eps=1e-5)
    generator = torch.Generator().manual_seed(0)
    clipped = 0
    for step in range(6):
        x = (10.0 if step % 2 else 0.1) * torch.randn(7, 3, generator=generator)
        flat.zero_grad()
        oracle.zero_grad()
        (policy(x).square().mean() + critic(x).square().mean()).backward()
        (others[0](x).square().mean() + others[1](x).square().mean()).backward()
        norms = flat.clip()
        for name, module in zip(("policy", "critic"), others, strict=True):
            norm = float(nn.utils.clip_grad_norm_(module.parameters(), 0.5))
            assert norms[name] == pytest.approx(norm, rel=1e-5)
            clipped += norm > 0.5
        flat.step()
        oracle.step()
    assert 0 < clipped < 12  # the limit was in force at times
    for mine, other in zip((policy, critic), others, strict=True):
        for p, reference in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, reference, atol=1e-6)


def test_rates_are_scaled_together() -> None:
    policy, critic = networks()
    flat = FlatAdam({"policy": (policy, 0.01), "critic": (critic, 0.03)}, max_norm=0.5)
    flat.set_rates(0.5)
    assert [part.rate for part in flat.parts.values()] == [0.005, 0.015]
    before = critic.weight.detach().clone()
    critic(torch.ones(1, 3)).sum().backward()
    flat.step()
    assert (before - critic.weight).detach().abs().max().item() == pytest.approx(0.015, rel=1e-4)  # Adam's first step


def test_modules_keep_names_and_load_in_place() -> None:
    policy, critic = networks()
    saved = {name: value.clone() for name, value in policy.state_dict().items()}
    flat = FlatAdam({"policy": (policy, 0.01), "critic": (critic, 0.03)}, max_norm=0.5)
    assert all(torch.equal(value, saved[name]) for name, value in policy.state_dict().items())
    vector(flat).zero_()
    assert float(policy.state_dict()["0.weight"].abs().sum()) == 0.0
    policy.load_state_dict(saved)
    assert float(vector(flat).abs().sum()) > 0.0


def test_state_resumes_and_frozen_parameters_stay() -> None:
    policy, critic = networks()
    critic.weight.requires_grad_(False)
    flat = FlatAdam({"policy": (policy, 0.01), "critic": (critic, 0.03)}, max_norm=0.5)
    frozen = critic.weight.clone()

    def train(adam: FlatAdam, modules: tuple[nn.Module, nn.Module]) -> None:
        adam.zero_grad()
        (modules[0](torch.ones(2, 3)).square().sum() + modules[1](torch.ones(2, 3)).square().sum()).backward()
        adam.clip()
        adam.step()

    train(flat, (policy, critic))
    twins = copy.deepcopy((policy, critic))
    twin = FlatAdam({"policy": (twins[0], 0.01), "critic": (twins[1], 0.03)}, max_norm=0.5)
    twin.load_state_dict(flat.state_dict())
    train(flat, (policy, critic))
    train(twin, twins)
    assert torch.equal(vector(flat), vector(twin))
    assert torch.equal(critic.weight, frozen)


def test_types_are_kept_apart() -> None:
    """A bfloat16 policy beside a float32 critic: each keeps its type, and each makes torch's steps."""
    policy, critic = networks()
    policy[2].to(torch.bfloat16)  # type: ignore[index]
    others = copy.deepcopy((policy, critic))
    flat = FlatAdam({"policy": (policy, 0.01), "critic": (critic, 0.03)}, max_norm=1e9)
    assert {p.dtype for p in policy.parameters()} == {torch.float32, torch.bfloat16}
    assert {p.dtype for p in critic.parameters()} == {torch.float32}
    groups = [{"params": others[0].parameters(), "lr": 0.01}, {"params": others[1].parameters(), "lr": 0.03}]
    oracle = torch.optim.Adam(groups, fused=True)

    def loss(p: nn.Module, c: nn.Module) -> torch.Tensor:
        hidden = p[1](p[0](torch.ones(2, 3)))  # type: ignore[index]
        return p[2](hidden.bfloat16()).float().square().sum() + c(torch.ones(2, 3)).square().sum()  # type: ignore[index]

    for _ in range(3):
        flat.zero_grad()
        oracle.zero_grad()
        loss(policy, critic).backward()
        loss(*others).backward()
        norms = flat.clip()
        gradients = torch.cat([p.grad.float().flatten() for p in policy.parameters() if p.grad is not None])
        assert norms["policy"] == pytest.approx(float(gradients.norm()), rel=1e-2)
        flat.step()
        oracle.step()
    for mine, other in zip((policy, critic), others, strict=True):
        for p, reference in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p.float(), reference.float(), atol=1e-6)
    twins = copy.deepcopy((policy, critic))
    twin = FlatAdam({"policy": (twins[0], 0.01), "critic": (twins[1], 0.03)}, max_norm=1e9)
    twin.load_state_dict(flat.state_dict())
    for adam, modules in ((flat, (policy, critic)), (twin, twins)):
        adam.zero_grad()
        loss(*modules).backward()
        adam.step()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), twins[0].parameters(), strict=True))


def test_what_cannot_be_flat_is_refused() -> None:
    frozen = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(InputError, match="policy: expected a module with parameters that learn"):
        FlatAdam({"policy": (frozen, 0.1)}, max_norm=1.0)

    class DTensor(torch.Tensor):
        pass

    odd = nn.Linear(2, 1)
    odd.weight = nn.Parameter(torch.zeros(1, 2).as_subclass(DTensor))
    with pytest.raises(InputError, match="critic: expected parameters that are plain tensors, got 'DTensor'"):
        FlatAdam({"critic": (odd, 0.1)}, max_norm=1.0)
