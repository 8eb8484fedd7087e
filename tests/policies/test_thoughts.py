"""A VLA of tokens that says first what its chunk comes to: one likelihood, one advantage over thought and action."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.policies.test_token_vla import observed, scored
from tests.policies.tiny_vla import ACTION, ToyDemonstrations, tiny_token_vla

from toddle.algorithms.sft import SFT, SFTConfig
from toddle.core.errors import InputError


def test_a_thought_is_said_first_scored_and_not_executed() -> None:
    """Chunks of two actions are six tokens and a thought three; a ratio an action has three links then."""
    policy, seen = tiny_token_vla(thought=True).eval(), observed()
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    size = len(decision.chain)
    assert decision.chain.shape == (size, 3 * ACTION) and decision.action.shape == (size, 2, ACTION)
    assert decision.log_prob.shape == (size, 3)
    torch.testing.assert_close(policy.centres[decision.chain[:, ACTION:]].view_as(decision.action), decision.action)
    found = scored(policy, seen, decision.chain)
    torch.testing.assert_close(found.log_prob[0], decision.log_prob, atol=1e-5, rtol=0)
    (-found.log_prob[0, :, 0].sum()).backward()  # what an advantage that all links share does by the thought's
    assert policy.decoder.words.weight.grad is not None and float(policy.out.weight.grad.abs().max()) > 0  # type: ignore[union-attr]


def test_a_thought_knows_nothing_of_what_follows_and_what_follows_reads_it() -> None:
    policy, seen = tiny_token_vla(thought=True, ratio_per="token").eval(), observed()
    chain = policy.act(seen, deterministic=True)[0].chain
    later, thought = chain.clone(), chain.clone()
    later[:, ACTION:] = (later[:, ACTION:] + 1) % 16
    thought[:, 0] = (thought[:, 0] + 1) % 16
    with torch.no_grad():
        plain, other, moved = (scored(policy, seen, each).log_prob[0] for each in (chain, later, thought))
    assert torch.equal(plain[:, :ACTION], other[:, :ACTION])
    assert float((plain[:, ACTION:] - moved[:, ACTION:]).abs().min()) > 0.0


def test_thoughts_at_random_and_none_are_controls() -> None:
    policy, seen = tiny_token_vla(thought=True).eval(), observed()
    policy.config = replace(policy.config, thinks="silent")
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    assert bool((decision.chain[:, :ACTION] == 8).all()) and decision.chain[:, ACTION:].unique().numel() > 1
    torch.testing.assert_close(scored(policy, seen, decision.chain).log_prob[0], decision.log_prob, atol=1e-5, rtol=0)
    policy.config = replace(policy.config, thinks="random")
    first, second = (
        policy.act(seen, generator=torch.Generator().manual_seed(seed), deterministic=True)[0].chain for seed in (0, 1)
    )
    assert not torch.equal(first[:, :ACTION], second[:, :ACTION])
    with pytest.raises(InputError, match="thought: expected false with decoding parallel"):
        tiny_token_vla(thought=True, decoding="parallel")


@pytest.mark.slow
def test_it_learns_thoughts_from_demonstrations_and_heeds_them() -> None:
    """What it says first is within a bin of the demonstrated chunk's mean; said at random the actions are worse."""
    policy: Any = tiny_token_vla(executed=4, thought=True)
    learner = SFT(policy, ToyDemonstrations(), SFTConfig(steps=300, batch=48, learning_rate=4e-3, ema=0.9))
    for _ in range(300):
        learner.step()
    learner.use_average()
    batch = ToyDemonstrations().batch(range(48))
    seen: Any = {key: value[0] for key, value in batch["observation"].items()}
    wrong = {}
    for thinks in ("said", "random"):
        policy.config = replace(policy.config, thinks=thinks)
        decision, _ = policy.eval().act(seen, generator=torch.Generator().manual_seed(0), deterministic=True)
        wrong[thinks] = float((decision.action - batch["action"]).abs().mean())
        if thinks == "said":
            thought = policy.centres[decision.chain[:, :ACTION]]
            assert float((thought - batch["action"].mean(1)).abs().mean()) < 0.125
    assert wrong["said"] < 0.1 and wrong["random"] > 1.2 * wrong["said"], wrong
