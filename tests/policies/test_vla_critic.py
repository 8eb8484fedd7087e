"""The critic of a VLA: what it reads, and that it begins below what success pays."""

from __future__ import annotations

from typing import Any

import torch

from toddle.core.types import Observation
from toddle.policies.vla_critic import VLACritic, VLACriticConfig


def observed(**more: Any) -> Observation:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 3, 7, dtype=torch.bool)
    mask[..., 5:] = False
    return Observation(
        proprio=torch.randn(2, 3, 5, generator=generator),
        context=torch.randn(2, 3, 7, 16, generator=generator).half(),
        context_mask=mask,
        critic=torch.randn(2, 3, 9, generator=generator),
        **more,
    )


def test_begins_near_zero_so_that_success_is_worth_more_than_going_on() -> None:
    for seed in range(20):
        critic = VLACritic(VLACriticConfig(proprio=5, context=16, seed=seed))
        assert float(critic.value(observed()).detach().abs().max()) < 0.2


def test_reads_the_real_context_tokens_in_any_order() -> None:
    critic, seen = VLACritic(VLACriticConfig(proprio=5, context=16)), observed()
    value = critic.value(seen)
    assert value.shape == (2, 3)
    hidden, shuffled, other = observed(), observed(), observed()
    hidden["context"][..., 5:, :] = 100.0
    shuffled["context"][..., :5, :] = seen["context"][..., [3, 0, 4, 1, 2], :]
    other["context"][..., 0, :] += 1.0
    torch.testing.assert_close(critic.value(hidden), value)
    torch.testing.assert_close(critic.value(shuffled), value, atol=1e-5, rtol=0)
    assert not torch.equal(critic.value(other), value)


def test_the_simulators_state_stands_in_for_what_the_policy_sees() -> None:
    critic, seen = VLACritic(VLACriticConfig(proprio=9, key="critic")), observed()
    value = critic.value(seen)
    blind = Observation(critic=seen["critic"])
    assert torch.equal(critic.value(blind), value)
    critic.update_normaliser(blind)
    torch.testing.assert_close(critic.norm.mean[0].float(), seen["critic"].flatten(0, 1).mean(0))
