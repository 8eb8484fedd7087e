"""Adam's state survives a checkpoint's string keys, and settings stay the optimiser's own."""

from __future__ import annotations

import copy

import torch
from torch import nn

from toddle.optim.adam_state import adam_state, load_adam_state


def test_the_next_step_is_the_same() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.9, 0.95))

    def step(module: nn.Module, adam: torch.optim.Adam) -> None:
        adam.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        adam.step()

    step(net, optimiser)
    saved = copy.deepcopy(adam_state(optimiser))
    assert set(saved) == {"0", "1"}
    twin = copy.deepcopy(net)
    resumed = torch.optim.AdamW(twin.parameters(), lr=0.1, betas=(0.9, 0.95))
    load_adam_state(resumed, saved)
    fresh = copy.deepcopy(net)
    step(net, optimiser)
    step(twin, resumed)
    assert torch.equal(net.weight, twin.weight)
    without = torch.optim.AdamW(fresh.parameters(), lr=0.1, betas=(0.9, 0.95))
    step(fresh, without)
    assert not torch.equal(net.weight, fresh.weight)  # without the moments it is another step


def test_settings_are_not_loaded() -> None:
    net = nn.Linear(2, 1)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    other = torch.optim.Adam(net.parameters(), lr=0.5)
    load_adam_state(other, adam_state(optimiser))
    assert other.param_groups[0]["lr"] == 0.5
