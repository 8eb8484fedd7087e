"""Adam over one vector takes the steps of torch.optim.Adam with clipped gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from toddle.optim.flat_adam import FlatAdam


def networks() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), nn.Linear(3, 1)


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
    flat.vector.zero_()
    assert float(policy.state_dict()["0.weight"].abs().sum()) == 0.0
    policy.load_state_dict(saved)
    assert float(flat.vector.abs().sum()) > 0.0


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
    assert torch.equal(flat.vector, twin.vector)
    assert torch.equal(critic.weight, frozen)
