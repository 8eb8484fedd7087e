"""FastVLA: sentences of different length are drawn, scored, learned and told apart; the densities are one pass's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.policies.test_token_vla import observed, scored
from tests.policies.tiny_vla import ACTION, ToyDemonstrations, tiny_backbone, tiny_token_config

from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.algorithms.sft import SFT, SFTConfig
from toddle.core.errors import InputError
from toddle.core.types import Decision, Observation
from toddle.experience.rollout import Rollout
from toddle.models.fast import FastSettings, FastTokenizer, train_fast
from toddle.policies.fast_vla import FastVLA, fast_config
from toddle.policies.flow_explorer import SamplerConfig


def tiny_fast_vla(**more: Any) -> FastVLA:
    code = train_fast(ToyDemonstrations(200).action, FastSettings(vocabulary=60))
    plain = fast_config(tiny_token_config(), code)
    return FastVLA(replace(plain, **more), tiny_backbone())


def drawn(policy: FastVLA, batch: int = 9) -> tuple[Observation, Decision]:
    seen = observed(batch)
    return seen, policy.act(seen, generator=torch.Generator().manual_seed(0))[0]


@pytest.mark.parametrize("temperature", [0.7, 1.8])
def test_what_is_drawn_is_scored_alike_whatever_its_length(temperature: float) -> None:
    policy = tiny_fast_vla(ratio_per="token", temperature=temperature).eval()
    seen, decision = drawn(policy)
    lengths = (decision.chain >= 0).sum(1)
    assert lengths.unique().numel() > 1 and decision.chain.shape == (9, 4 * ACTION)
    assert torch.equal(decision.real, decision.chain >= 0) and not decision.log_prob[decision.chain < 0].any()
    score = scored(policy, seen, decision.chain)
    torch.testing.assert_close(score.log_prob[0], decision.log_prob, atol=3e-6, rtol=0)
    assert torch.equal(score.real[0], decision.chain >= 0)
    alone = torch.cat(
        [
            scored(policy, {k: v[i : i + 1] for k, v in seen.items()}, decision.chain[i : i + 1]).log_prob[0]
            for i in range(9)
        ]
    )
    torch.testing.assert_close(alone, decision.log_prob, atol=3e-6, rtol=0)  # beside longer ones or not
    chunk = tiny_fast_vla(ratio_per="chunk", temperature=temperature).eval()
    chunk.load_state_dict(policy.state_dict())
    torch.testing.assert_close(drawn(chunk)[1].log_prob[:, 0], decision.log_prob.sum(1))
    torch.testing.assert_close(scored(chunk, seen, decision.chain).log_prob[0, :, 0], decision.log_prob.sum(1))


def test_the_probabilities_of_all_sentences_sum_to_one() -> None:
    """Two coefficients: every sentence there is, enumerated."""
    code = train_fast(ToyDemonstrations(200).action[:, :1, :2], FastSettings(scale=2.0, vocabulary=12))
    made, plain = FastTokenizer(code, 1, 2), tiny_token_config(horizon=1, executed=1)
    plain = replace(plain, body=replace(plain.body, action=2))
    policy = FastVLA(fast_config(plain, code), tiny_backbone()).eval()
    ones = [int(t) for t in (made.lengths == 1).nonzero()[:, 0]]
    every = [[int(t), -1] for t in (made.lengths == 2).nonzero()[:, 0]] + [[a, b] for a in ones for b in ones]
    assert len(every) > len(ones) ** 2  # some token stands for both
    chain = torch.tensor(every)
    seen: Any = {key: value.expand(len(every), *value.shape[1:]) for key, value in observed(1).items()}
    with torch.no_grad():
        total = scored(policy, seen, chain).log_prob.exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)


def test_entropy_and_divergence_are_of_the_tokens_that_were_said() -> None:
    policy, other = tiny_fast_vla(ratio_per="token").eval(), tiny_fast_vla(ratio_per="token", seed=3).eval()
    seen, decision = drawn(policy)
    score, held = scored(policy, seen, decision.chain), scored(other, seen, decision.chain)
    kl = score.distribution.kl(held.distribution)
    assert torch.isfinite(kl).all() and (kl[score.real] > 0).all() and not kl[~score.real].any()
    torch.testing.assert_close(score.distribution.kl(score.distribution), torch.zeros_like(kl))
    log_probs = score.distribution.log_probs[0, 0, :, 0]
    by_hand = -(log_probs.exp() * log_probs).sum(-1)[decision.chain[0] >= 0].mean()
    torch.testing.assert_close(score.entropy[0, 0], by_hand)


def test_greedy_is_cold_and_decodes_to_the_executed_actions() -> None:
    policy, seen = tiny_fast_vla().eval(), observed()
    greedy, _ = policy.act(seen, deterministic=True)
    policy.explorer(SamplerConfig(temperature=1e-4))
    cold, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cold.chain, greedy.chain) and policy.config.ratio_per == "chunk"
    torch.testing.assert_close(greedy.action, policy.code.decode(greedy.chain)[:, :2].clamp(-1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_learns_demonstrations_and_nothing_of_shuffled_ones(shuffled: bool) -> None:
    policy, data = tiny_fast_vla(executed=4), ToyDemonstrations(shuffled=shuffled)
    learner = SFT(policy, data, SFTConfig(steps=200, batch=48, learning_rate=4e-3, ema=0.9))
    for _ in range(200):
        learner.step()
    learner.use_average()
    batch = ToyDemonstrations().batch(range(48))
    seen: Any = {key: value[0] for key, value in batch["observation"].items()}
    decision, _ = policy.eval().act(seen, deterministic=True)
    error = float((decision.action - batch["action"]).abs().mean())
    assert error > 0.3 if shuffled else error < 0.05


def test_trajectories_count_the_tokens_that_were_said() -> None:
    """With ratios per token the weight of a decision is by its own number of tokens."""
    policy = tiny_fast_vla(ratio_per="token").eval()
    seen, decision = drawn(policy)
    rollout = Rollout(2, 9, seen, decision)
    for t in range(2):
        rollout.decide(t, decision)
    learner = PPO.__new__(PPO)
    learner.policy, learner.config = policy, PPOConfig(ratio="per_link")
    assert torch.equal(learner._rescore(rollout), (decision.chain >= 0).sum(1).float().expand(2, 9))


def test_impossible_settings_are_refused() -> None:
    for more, said in (
        ({"ratio_per": "action"}, "ratio_per: expected token or chunk"),
        ({"decoding": "parallel"}, "decoding: expected autoregressive"),
    ):
        with pytest.raises(InputError, match=said):
            tiny_fast_vla(**more)
