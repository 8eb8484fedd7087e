"""The penalty on leaving a reference: exact where it can be, none at the start, and it holds the policy back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.policies.test_flow_explorer import BATCH, observed, stirred
from tests.policies.tiny_vla import tiny_token_vla, tiny_vla

from toddle.algorithms.reference import ReferenceKL, ReferenceSettings
from toddle.core.errors import InputError
from toddle.experience.rollout import Minibatch
from toddle.policies.flow_explorer import SamplerConfig

KINDS: Any = {
    "flow-sde": lambda: (stirred(tiny_vla()), SamplerConfig()),
    "flow-sde, sums": lambda: (stirred(tiny_vla()), SamplerConfig(reduce="sum")),
    "reinflow": lambda: (stirred(tiny_vla()), SamplerConfig(noise="reinflow")),
    "fpo": lambda: (stirred(tiny_vla()), SamplerConfig(noise="fpo")),
    "tokens": lambda: (tiny_token_vla(), SamplerConfig(ratio_per="token", temperature=1.6)),
    "tokens of a chunk": lambda: (tiny_token_vla(), SamplerConfig(ratio_per="chunk")),
    "laplace": lambda: (tiny_token_vla(decoding="parallel", head="laplace"), SamplerConfig()),
}


def drawn(kind: str, worlds: int = 1) -> tuple[Any, ReferenceKL, Any]:
    """A policy, its penalty, and a function that draws a minibatch of decisions (1, BATCH) as the policy is then."""
    vla, sampler = KINDS[kind]()
    reference = vla.frozen_copy().explorer(sampler)
    policy = vla.explorer(sampler)
    held = ReferenceKL(reference.requires_grad_(False), policy, ReferenceSettings(weight=0.5))
    seen = policy.encode(observed(0, first=True))
    many: Any = {key: value.repeat_interleave(worlds, 0) for key, value in seen.items()}

    def draw(seed: int) -> Minibatch:
        decision, _ = policy.act(many, generator=torch.Generator().manual_seed(seed))
        nothing = torch.zeros(1, worlds * BATCH)
        segment: Any = {key: value[None] for key, value in many.items()}
        return Minibatch(segment, decision.chain[None], decision.log_prob[None], nothing, nothing, nothing)

    return policy, held, draw


def moved(policy: Any, by: float) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_none_at_the_start_and_pulls_back(kind: str) -> None:
    policy, held, draw = drawn(kind)
    part = draw(0)
    loss, facts = held.loss(part, policy.score(part.observation, part.chain))
    assert abs(loss.item()) < 1e-7 and facts["reference/kl"].item() == pytest.approx(loss.item() / 0.5, abs=1e-9)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    slopes = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-5
    moved(policy, 0.05)
    part = draw(0)
    before = {name: value.clone() for name, value in held.reference.state_dict().items()}
    found = []
    for _ in range(3):
        loss, facts = held.loss(part, policy.score(part.observation, part.chain))
        weights = [weight for weight in policy.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(0.03 * gradient / length)
        found.append(float(facts["reference/kl"]))
    assert found[0] > 1e-5 and found[2] < found[1] < found[0]
    assert all(torch.equal(value, before[name]) for name, value in held.reference.state_dict().items())


@pytest.mark.parametrize("kind", ["flow-sde, sums", "reinflow", "tokens", "laplace"])
def test_the_exact_divergence_is_what_draws_come_to(kind: str) -> None:
    """Mean of log pi - log pi_ref over 4 x 500 draws of the policy, within four of its deviations."""
    policy, held, draw = drawn(kind, worlds=500)
    moved(policy, 0.03)
    part = draw(1)
    with torch.no_grad():
        score = policy.score(part.observation, part.chain)
        exact = float(held.loss(part, score)[1]["reference/kl"])
        gaps = (score.log_prob - held.reference.score(part.observation, part.chain).log_prob).flatten(1).mean(0)
    assert exact > 1e-3 and float(gaps.mean()) == pytest.approx(exact, abs=4 * float(gaps.std()) / len(gaps) ** 0.5)


def test_of_a_masked_decision_nothing_counts() -> None:
    policy, held, draw = drawn("tokens")
    moved(policy, 0.05)
    part = draw(0)
    with torch.no_grad():
        score = policy.score(part.observation, part.chain)
    part.mask = torch.tensor([[True] + [False] * (BATCH - 1)])
    own = score.distribution.kl(held.reference.score(part.observation, part.chain).distribution)
    assert float(held.loss(part, score)[1]["reference/kl"]) == pytest.approx(float(own[0, 0].mean()), rel=1e-5)


def test_it_is_taken_anew_every_so_many_iterations() -> None:
    policy, held, _ = drawn("tokens")
    held.settings = ReferenceSettings(weight=0.5, refresh=2)
    for iteration in range(4):
        moved(policy, 0.05)
        held.begin([], policy)
        same = torch.equal(held.reference.state_dict()["start.weight"], policy.state_dict()["start.weight"])
        assert same is (iteration == 2)
    state = held.state_dict()
    _, again, _ = drawn("tokens")
    again.load_state_dict(state)
    assert again.iteration == 4
    assert torch.equal(again.reference.state_dict()["out.weight"], held.reference.state_dict()["out.weight"])


def test_what_it_shares_with_the_policy_is_not_stored_twice() -> None:
    vla = tiny_token_vla()
    vla.decoder.requires_grad_(False)
    shared: Any = {id(value): value for value in vla.parameters() if not value.requires_grad}
    held = ReferenceKL(copy.deepcopy(vla, shared).requires_grad_(False), vla, ReferenceSettings(weight=0.5, refresh=1))
    stored = set(held.state_dict()["reference"])
    assert "out.weight" in stored and not any(name.startswith("decoder.") for name in stored)
    moved(vla, 0.05)  # what is shared moves along here, what is not does not
    assert not torch.equal(held.reference.state_dict()["out.weight"], vla.state_dict()["out.weight"])
    held.iteration = 1
    held.begin([], vla)
    assert all(torch.equal(value, vla.state_dict()[name]) for name, value in held.reference.state_dict().items())


def test_a_refresh_without_weight_is_refused() -> None:
    with pytest.raises(InputError, match=r"reference\.refresh: expected 0 where reference\.weight is 0, got 3"):
        ReferenceSettings(refresh=3)
