"""Gaussian densities against torch.distributions."""

from __future__ import annotations

import torch
from torch import distributions as oracles
from torch.distributions import Independent, Normal

from toddle.maths.distributions import Categorical, Laplace, gaussian_entropy, gaussian_log_prob
from toddle.maths.distributions import Normal as Normals


def case() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 5, 2, generator=generator, dtype=torch.float64) for _ in range(5))


def test_log_prob_and_entropy() -> None:
    x, mean, log_std, *_ = case()
    oracle = Independent(Normal(mean, log_std.exp()), 1)
    assert torch.allclose(gaussian_log_prob(x, mean, log_std), oracle.log_prob(x))
    assert torch.allclose(gaussian_entropy(log_std), oracle.entropy())


def test_a_shared_standard_deviation() -> None:
    x, mean, log_std, *_ = case()
    oracle = Independent(Normal(mean, log_std[0, 0].exp()), 1)
    assert torch.allclose(gaussian_log_prob(x, mean, log_std[0, 0]), oracle.log_prob(x))


def test_gradients_by_hand_are_those_of_autograd() -> None:
    x, mean, log_std, *_ = case()
    inputs = (x.requires_grad_(), mean.requires_grad_(), log_std[0, 0].detach().requires_grad_())
    assert torch.autograd.gradcheck(gaussian_log_prob, inputs)
    assert torch.autograd.gradcheck(gaussian_log_prob, (*inputs[:2], log_std.requires_grad_()))


def test_divergences_are_those_of_torch() -> None:
    """Of every kind, summed with their weights; none of a distribution from itself."""
    a, b, log_s, log_t, weight = (part.float() for part in case())
    weight, s, t = weight.abs(), log_s.exp(), log_t.exp()
    pairs = [
        (Normals(mean=a, std=s, weight=weight), Normals(mean=b, std=t, weight=weight)),
        (Laplace(mean=a, scale=s, weight=weight), Laplace(mean=b, scale=t, weight=weight)),
    ]
    found = [(oracles.Normal(a, s), oracles.Normal(b, t)), (oracles.Laplace(a, s), oracles.Laplace(b, t))]
    generator = torch.Generator().manual_seed(2)
    logits = [torch.randn(3, 5, 2, 7, generator=generator).log_softmax(-1) for _ in range(2)]
    pairs.append((Categorical(log_probs=logits[0], weight=weight), Categorical(log_probs=logits[1], weight=weight)))
    found.append((oracles.Categorical(logits=logits[0]), oracles.Categorical(logits=logits[1])))
    for (one, other), (first, second) in zip(pairs, found, strict=True):
        expected = (oracles.kl_divergence(first, second) * weight).sum(-1)
        torch.testing.assert_close(one.kl(other), expected, atol=1e-5, rtol=1e-5)
        assert expected.min() > 0.01 and one.kl(one).abs().max() < 1e-6
