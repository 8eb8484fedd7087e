"""The penalty on sensitivity is the trace of the Fisher information: closed forms of Gaussians and of tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.algorithms.test_own_successes import played
from torch import Tensor

from toddle.algorithms.sensitivity import Sensitivity
from toddle.core.errors import InputError
from toddle.core.types import Score
from toddle.experience.rollout import Minibatch
from toddle.maths.distributions import Categorical, Normal

FEATURES, COUNT = 6, 4000


class Linear:
    """A policy whose decision is linear in its features: what its sensitivity is can be computed."""

    def __init__(self, weight: Tensor, kind: str, std: float = 0.3) -> None:
        self.weight, self.kind, self.std = weight, kind, std

    def score(self, observation: Any, chain: Tensor) -> Score:
        said = observation["context"][..., 0, :] @ self.weight.T
        none = said.sum(-1, keepdim=True)
        spread: Any = (
            Normal(mean=said[..., None, :], std=torch.tensor(self.std), weight=torch.ones(()))
            if self.kind == "normal"
            else Categorical(log_probs=said.log_softmax(-1)[..., None, None, :], weight=torch.ones(()))
        )
        return Score(log_prob=none, entropy=none[..., 0], distribution=spread)


def penalty(policy: Linear, context: Tensor, *, repeats: int = 1, **more: Any) -> tuple[Sensitivity, Tensor]:
    term = Sensitivity(weight=1.0, step=0.01, seed=0)
    term.policy, term.unit, term.most = policy, 1.0, float("inf")  # type: ignore[assignment]
    seen: Any = {"context": context[None, :, None, :].expand(1, -1, 1, -1)}
    empty = torch.zeros(1, len(context))
    part = Minibatch(seen, empty, empty[..., None], empty, empty, empty, **more)
    return term, term.loss(part, policy.score(seen, empty))[0]


def test_of_a_gaussian_it_is_the_jacobian_over_the_variance() -> None:
    """|W|^2 / std^2 in units of the features' root mean square, which is 1 here."""
    weight = torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(1))
    context = torch.ones(COUNT, FEATURES)
    _, found = penalty(Linear(weight, "normal"), context)
    assert float(found) == pytest.approx(float(weight.square().sum()) / 0.09, rel=0.05)


def test_of_tokens_it_is_the_spread_of_the_gradients() -> None:
    """sum_k p_k |w_k - sum_j p_j w_j|^2 at one state."""
    weight = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(2))
    p = (torch.ones(FEATURES) @ weight.T).softmax(-1)
    wanted = float((p * (weight - p @ weight).square().sum(-1)).sum())
    _, found = penalty(Linear(weight, "tokens"), torch.ones(COUNT, FEATURES))
    assert float(found) == pytest.approx(wanted, rel=0.05)


def test_it_begins_at_about_one_falls_and_resumes() -> None:
    context = torch.randn(COUNT, FEATURES)
    weight = torch.randn(3, FEATURES, requires_grad=True)
    term, _ = penalty(Linear(weight, "normal"), context)
    term.unit = 0.0
    seen: Any = {"context": context[None, :, None, :]}
    empty = torch.zeros(1, COUNT)
    part = Minibatch(seen, empty, empty[..., None], empty, empty, empty)
    losses = []
    for _ in range(4):
        loss, facts = term.loss(part, term.policy.score(seen, empty))  # type: ignore[union-attr]
        losses.append(float(facts["robust/sensitivity"]))
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 0.5 * gradient
    assert 0.85 < losses[0] < 1.0 and losses[0] > losses[1] > losses[2] > losses[3]  # its largest twentieth is cut
    other = Sensitivity(weight=1.0, step=0.01, seed=5)
    other.load_state_dict(term.state_dict())
    other.policy = term.policy
    score = term.policy.score(seen, empty)  # type: ignore[union-attr]
    assert torch.equal(term.loss(part, score)[0], other.loss(part, score)[0])


def test_what_is_beyond_the_limit_has_no_gradient() -> None:
    """Of two states of which one is 100 times as sensitive, a limit between them leaves the other's gradient alone."""
    weight = torch.ones(1, FEATURES, requires_grad=True)
    policy, seen, empty = Linear(weight, "normal"), {"context": torch.ones(1, 2, 1, FEATURES)}, torch.zeros(1, 2)
    plain = policy.score

    def uneven(observation: Any, chain: Tensor) -> Score:
        score: Any = plain(observation, chain)
        spread = replace(score.distribution, std=torch.tensor([0.3, 0.03])[:, None, None])
        return score._replace(distribution=spread)

    policy.score = uneven  # type: ignore[method-assign]

    def loss(most: float, mask: Tensor | None) -> Tensor:
        term = Sensitivity(weight=1.0, step=0.01, seed=0)
        term.policy, term.unit, term.most = policy, 1.0, most  # type: ignore[assignment]
        part = Minibatch(seen, empty, empty[..., None], empty, empty, empty, mask=mask)  # type: ignore[arg-type]
        return term.loss(part, policy.score(seen, empty))[0]

    calm = loss(float("inf"), torch.tensor([[True, False]]))
    (wanted,) = torch.autograd.grad(calm, weight)
    (found,) = torch.autograd.grad(loss(1.01 * float(calm.detach()), None), weight)
    torch.testing.assert_close(found, wanted / 2)
    assert bool(wanted.any()) and not torch.autograd.grad(loss(1e-9, None), weight)[0].any()


def test_pictures_are_refused() -> None:
    rollout = played(0, 2)
    del rollout._observation["context"]
    with pytest.raises(InputError, match="sensitivity: expected rollouts that keep features"):
        Sensitivity(weight=1.0, step=0.05, seed=0).begin([rollout], Linear(torch.ones(1, 1), "normal"))  # type: ignore[arg-type]
