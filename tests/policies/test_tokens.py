"""Tokens: the density sums to one over all sequences, depends on what was said, bins have an exact inverse."""

from __future__ import annotations

import itertools

import pytest
import torch

from toddle.core.types import BodySpec, Observation
from toddle.maths.action_tokens import bin_centres
from toddle.policies.tokens import TokenConfig, TokenPolicy

ARM = BodySpec(name="arm", proprio=3, action=2, dt=0.05)


def make(**changes: object) -> TokenPolicy:
    policy = TokenPolicy(TokenConfig(body=ARM, horizon=2, bins=3, **changes))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=g)
    return policy


def test_centres_by_hand() -> None:
    assert bin_centres(4).tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_probabilities_of_all_chunks_sum_to_one(temperature: float) -> None:
    """3^4 sequences; and the mean action of the last link is the expectation over them."""
    policy, seen = make(temperature=temperature), Observation(proprio=torch.randn(1, 3))
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).float()
    many = Observation(proprio=seen["proprio"].expand(81, -1))
    probability = policy.score(many, every).log_prob.sum(-1).exp()
    assert float(probability.detach().sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_was_said_matters_and_what_will_be_does_not() -> None:
    policy, seen = make(), Observation(proprio=torch.zeros(2, 3))
    score = policy.score(seen, torch.tensor([[0.0, 1.0, 2.0, 1.0], [0.0, 2.0, 2.0, 1.0]])).log_prob
    assert float((score[0, 0] - score[1, 0]).detach().abs()) < 1e-6  # the first token does not know the second
    assert float((score[0, 2] - score[1, 2]).detach().abs()) > 1e-3  # the third does


def test_draws_are_as_frequent_as_they_say() -> None:
    policy = make()
    seen = Observation(proprio=torch.zeros(20_000, 3))
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(0))
    first = torch.bincount(decision.chain[:, 0].long(), minlength=3) / 20_000
    each = policy.score(Observation(proprio=torch.zeros(3, 3)), torch.arange(3.0)[:, None].expand(3, 4)).log_prob
    assert torch.allclose(first, each[:, 0].exp().detach(), atol=0.02)
    assert set(decision.action.unique().tolist()) <= set(bin_centres(3).tolist())


def test_a_discrete_action_is_its_token() -> None:
    body = BodySpec(name="cart", proprio=3, action=1, dt=0.02)
    policy = TokenPolicy(TokenConfig(body=body, bins=4, discrete=True))
    decision, _ = policy.act(Observation(proprio=torch.randn(50, 3)), generator=torch.Generator().manual_seed(0))
    assert set(decision.action.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0}
