"""Learning from answers: gradients against closed forms, the reference stays, flows share their noise."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import ToyDemonstrations, tiny_token_vla, tiny_vla
from torch import Tensor

from toddle.algorithms.preference import Preference, PreferenceConfig, StateLikelihood, VLALikelihood
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.tokens import TokenConfig, TokenPolicy

BODY = BodySpec(name="point", proprio=2, action=1, dt=0.1)
PIECES = [np.arange(0, 8), np.arange(8, 16), np.arange(16, 24), np.arange(24, 32)]
"""Of eight decisions each: two winners, then two losers."""


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(32, 2, generator=generator), torch.randn(32, 1, 1, generator=generator).clamp(-1, 1)


def gaussian() -> GaussianPolicy:
    return GaussianPolicy(GaussianConfig(bodies=(BODY,), hidden=(8,), log_std=-0.5))


def flow() -> DenoisingPolicy:
    return DenoisingPolicy(DenoisingConfig(body=BODY, horizon=1, executed=1, process=FlowConfig()))


def learner(policy: Any, method: str = "dpo", winners: Any = None, losers: Any = None, **settings: Any) -> Preference:
    likelihood = StateLikelihood(*data(), 0, exact=policy.kind != "denoising")
    chosen = PIECES[:2] if winners is None else winners, PIECES[2:] if losers is None else losers
    config = PreferenceConfig(**{"updates": 50, "learning_rate": 1e-2, "warm_up": 0.0, **settings})
    return Preference(policy, copy.deepcopy(policy), likelihood, *chosen, config, method=method, seed=0)  # type: ignore[arg-type]


def test_the_first_gradient_is_that_of_the_closed_form() -> None:
    """At the reference dL = -beta / 2 (d log pi(w) - d log pi(l)); of the log-deviation that is z^2 - 1 a decision."""
    policy = gaussian()
    observation, action = data()
    mean = policy.score({"proprio": observation}, action.flatten(1)).mean
    assert mean is not None
    z = ((action - mean) / math.exp(-0.5)).detach().square().flatten() - 1.0
    wanted = -0.3 / 2 * (z[:16].sum() - z[16:].sum()) / 2  # mean over two pairs
    made = learner(policy, beta=0.3, max_grad_norm=1e9)
    metrics = made.step()
    assert metrics["prefer/loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert metrics["prefer/margin"] == metrics["prefer/drift"] == 0.0
    grad = policy.nets[0].log_std.grad  # type: ignore[union-attr]
    assert grad is not None and grad.item() == pytest.approx(float(wanted), rel=1e-5)


def test_answers_are_learned_and_the_reference_stays() -> None:
    made = learner(gaussian())
    reference = {name: value.clone() for name, value in made.reference.state_dict().items()}
    held = made.held.clone()  # type: ignore[union-attr]
    metrics = [made.step() for _ in range(50)]
    assert metrics[-1]["prefer/accuracy"] == 1.0 and metrics[-1]["prefer/loss"] < 0.5
    assert metrics[-1]["prefer/margin"] > 0.5 and metrics[-1]["prefer/loser"] < 0.0
    assert all(torch.equal(value, reference[name]) for name, value in made.reference.state_dict().items())
    assert torch.equal(held, made._held())


def test_equal_pieces_give_log_2_and_no_gradient() -> None:
    for policy in (gaussian(), flow()):
        method = "flow-dpo" if policy.kind == "denoising" else "dpo"
        made = learner(policy, method, PIECES[:2], PIECES[:2])
        with torch.no_grad():
            for value in policy.parameters():
                value.add_(0.1)  # away from the reference: only shared noise keeps the margin at 0
        metrics = made.step()
        assert metrics["prefer/loss"] == pytest.approx(math.log(2), abs=1e-7) and metrics["prefer/margin"] == 0.0
        assert metrics["prefer/grad_norm"] < 1e-6 < abs(metrics["prefer/winner"])


def test_a_tpo_of_eight_decisions_is_dpo_and_of_four_has_twice_the_beta() -> None:
    runs = [[made.step() for _ in range(5)] for made in (learner(gaussian()), learner(gaussian(), "tpo"))]
    assert runs[0] == runs[1]
    halves = [piece[:4] for piece in PIECES]
    assert learner(gaussian(), "tpo", halves[:2], halves[2:]).beta == pytest.approx(0.2)


def test_a_shorter_piece_counts_its_own_decisions_alone() -> None:
    made = learner(gaussian(), winners=[PIECES[0][:3], PIECES[1]])
    row = made.held[0]  # type: ignore[index]
    observation, action = data()
    direct = made.policy.score({"proprio": observation[:3]}, action[:3].flatten(1)).log_prob.sum()  # type: ignore[attr-defined]
    assert float(row.sum()) == pytest.approx(direct.item(), rel=1e-6) and (row[3:] == 0).all()


def test_ipo_stops_at_its_margin() -> None:
    made = learner(gaussian(), "ipo", beta=0.25, updates=80, learning_rate=3e-2)
    for _ in range(80):
        metrics = made.step()
    assert metrics["prefer/margin"] / 0.25 == pytest.approx(1 / (2 * 0.25), rel=0.05)


def test_a_flow_moves_from_the_loser_to_the_winner() -> None:
    """One state; winners say 0.5, losers -0.5; draws end nearer to the winner, and swapped answers the other way."""
    observation, action = torch.zeros(2, 2), torch.tensor([0.5, -0.5]).view(2, 1, 1)
    ends = []
    for winner, loser in ((0, 1), (1, 0)):
        policy = flow()
        likelihood = StateLikelihood(observation, action, 0, exact=False)
        pair = [np.array([winner])], [np.array([loser])]
        config = PreferenceConfig(updates=12, learning_rate=6e-3)
        made = Preference(policy, copy.deepcopy(policy), likelihood, *pair, config, method="flow-dpo", seed=0)
        for _ in range(12):
            made.step()
        noise = torch.randn(64, 1, 1, generator=torch.Generator().manual_seed(1))
        seen: Any = {"proprio": torch.zeros(64, 2)}
        ends.append(float((policy.integrate(seen, noise) - made.reference.integrate(seen, noise)).mean()))  # type: ignore[attr-defined]
    assert ends[0] > 0.05 and ends[1] < -0.05


@pytest.mark.parametrize("method", ["dpo", "flow-dpo"])
def test_a_restored_learner_goes_on_bitwise(method: str) -> None:
    make = flow if method == "flow-dpo" else gaussian
    whole, first = learner(make(), method), learner(make(), method)
    wanted = [whole.step() for _ in range(6)][3:]
    for _ in range(3):
        first.step()
    second = learner(make(), method)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second.step() for _ in range(3)] == wanted


@pytest.mark.parametrize("kind", ["flow", "tokens"])
def test_a_vla_learns_answers_beside_its_frozen_copy(kind: str) -> None:
    """Of winners and losers that differ in their actions alone; the copy, which shares the backbone, stays."""
    flows = kind == "flow"
    policy: Any = tiny_vla() if flows else tiny_token_vla()
    reference, source = policy.frozen_copy(), ToyDemonstrations(8)
    source.context[4:] = source.context[:4].clone()
    source.action = torch.where(torch.arange(8)[:, None, None] < 4, 0.6, -0.6).expand(8, 4, 3).clone()
    likelihood = VLALikelihood(source, policy.horizon, exact=policy.exact)
    kept = {name: value.clone() for name, value in reference.state_dict().items()}
    config = PreferenceConfig(updates=8, learning_rate=6e-3, warm_up=0.0)
    sides = [np.arange(2), np.arange(2, 4)], [np.arange(4, 6), np.arange(6, 8)]
    method: Any = "flow-dpo" if flows else "dpo"
    made = Preference(policy, reference, likelihood, *sides, config, method=method, seed=0)
    found = [made.step() for _ in range(8)]
    assert found[0]["prefer/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert found[-1]["prefer/accuracy"] == 1.0 and found[-1]["prefer/margin"] > 0.2
    assert all(torch.equal(value, kept[name]) for name, value in reference.state_dict().items())


def bandit(answers: int, errors: float, *, shuffled: bool, seed: int) -> float:
    """A token policy of one state and five arms, good as its number; the mean arm after DPO on answers."""
    body = BodySpec(name="bandit", proprio=1, action=1, dt=1.0)
    policy = TokenPolicy(TokenConfig(body=body, bins=5, discrete=True, hidden=(8,)))
    rng = np.random.default_rng(seed)
    arms = np.array([rng.permutation(5)[:2] for _ in range(answers)])
    better = (arms[:, 0] > arms[:, 1]) ^ (rng.random(answers) < errors)
    better = rng.permutation(better) if shuffled else better
    winner, loser = (np.where(better, arms[:, i], arms[:, 1 - i]) for i in (0, 1))
    likelihood = StateLikelihood(torch.zeros(5, 1), torch.arange(5.0).view(5, 1, 1), 0, exact=True)
    config = PreferenceConfig(updates=25, learning_rate=3e-2, batch=answers, beta=0.5)
    pieces = ([np.array([arm]) for arm in side] for side in (winner, loser))
    made = Preference(policy, copy.deepcopy(policy), likelihood, *pieces, config, method="dpo", seed=0)
    for _ in range(25):
        made.step()
    mean = policy.score({"proprio": torch.zeros(1, 1)}, torch.zeros(1, 1)).mean
    assert mean is not None
    return mean.item()


@pytest.mark.slow
def test_fifty_answers_with_errors_improve_a_token_policy_and_shuffled_ones_do_not() -> None:
    """Which began at 2, each arm as likely as another."""
    assert min(bandit(50, 0.1, shuffled=False, seed=seed) for seed in range(3)) > 2.8
    assert abs(np.mean([bandit(50, 0.1, shuffled=True, seed=seed) for seed in range(4)]) - 2.0) < 0.4


def test_a_method_that_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="method: expected flow-dpo for a policy of kind 'denoising', got 'dpo'"):
        learner(flow())
    with pytest.raises(InputError, match="method: expected dpo, ipo or tpo"):
        learner(gaussian(), "flow-dpo")
    with pytest.raises(InputError, match="smoothing"):
        learner(gaussian(), "ipo", smoothing=0.1)
