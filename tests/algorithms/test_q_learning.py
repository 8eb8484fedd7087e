"""Learning from stored transitions: CORL's own numbers, limits that reduce to imitation, values known by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.corl_updates import ACTION, BATCH, HIDDEN, LAYERS, OBSERVATION, UPDATES, given, put
from torch import Tensor

from toddle.algorithms.q_learning import METHODS, OfflineConfig, OfflineLearner
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.transitions import Transitions
from toddle.maths.value_targets import advantage_weight, expectile_loss, one_step_target
from toddle.models.normalizer import RunningNorm
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

CORL = json.loads((Path(__file__).parent / "data/corl_updates.json").read_text())
NAMES = {"iql": "iql", "td3-bc": "td3_bc", "awac": "awac"}
SAID = {"value_loss": "value_loss", "q_loss": "q_loss", "critic_loss": "q_loss", "actor_loss": "policy_loss"}


def policy(observation: int, action: int, **settings: Any) -> GaussianPolicy:
    body = BodySpec(name="point", proprio=observation, action=action, dt=0.1)
    return GaussianPolicy(GaussianConfig(bodies=(body,), activation="relu", **settings))


def fill(ensemble: QEnsemble, *networks: list[Tensor]) -> None:
    """Set the weights of the ensemble's networks; observations are taken as they are."""
    for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
        for number, network in enumerate(networks):
            weight.data[number], bias.data[number, 0] = network[2 * layer].T, network[2 * layer + 1]
    ensemble.scale = RunningNorm((OBSERVATION,), eps=0.0)


@pytest.mark.parametrize("method", NAMES)
def test_a_hundred_updates_are_corls(method: str) -> None:
    layers = LAYERS[NAMES[method]]
    weights, data, batches, noise = given(layers)
    hidden = (HIDDEN,) * layers
    actor = policy(OBSERVATION, ACTION, hidden=hidden, squashed=method != "awac")
    put(actor, weights["actor"])
    actor.nets[0].features.scale = RunningNorm((OBSERVATION,), eps=0.0)
    config = OfflineConfig(hidden=hidden, batch=BATCH)
    learner: Any = METHODS[method](actor, Transitions(**data), config, updates=UPDATES, seed=0)
    for ensemble in (learner.q, learner.slow):
        fill(ensemble, weights["q1"], weights["q2"])
    if method == "iql":
        fill(learner.v, weights["v"])
    learner.noise = noise
    for rows, wanted in zip(batches, CORL[NAMES[method]], strict=True):
        found = learner.update(learner.data.at(rows))
        learner.updates += 1
        for name, value in wanted.items():
            assert float(found[SAID[name]].detach()) == pytest.approx(value, rel=1e-5, abs=1e-6), (
                learner.updates,
                name,
            )


def test_expectiles_by_hand() -> None:
    """The tau-expectile m of x solves tau sum (x - m)+ = (1 - tau) sum (m - x)+."""
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    for tau, wanted in ((0.5, 3.2), (0.7, 4.631578947), (0.9, 7.384615385)):
        m = torch.tensor(wanted, dtype=torch.float64, requires_grad=True)
        expectile_loss(x - m, tau).sum().backward()
        assert m.grad is not None and abs(m.grad.item()) < 1e-8


def test_targets_and_weights_by_hand() -> None:
    target = one_step_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), 0.9, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(target, torch.tensor([2.8, 1.0]))
    weight = advantage_weight(torch.tensor([0.0, 1.535, 1.536]), 1 / 3, 100.0)
    assert weight[0] == 1.0 and weight[1] < 100.0 and weight[2] == 100.0  # ln(100) / 3 = 1.5351


def line(count: int = 2000) -> Transitions:
    """One step on a line: the reward is high at a = 0.5, and actions of the data are spread over [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    action = torch.rand(count, 1, generator=g) * 2 - 1
    reward = 1.0 - 4.0 * (action[:, 0] - 0.5).square()
    return Transitions(torch.randn(count, 2, generator=g), action, reward, torch.randn(count, 2), torch.ones(count))


def trained(method: str, data: Transitions, steps: int = 4, **settings: Any) -> OfflineLearner:
    config = OfflineConfig(hidden=(32, 32), learning_rate=3e-3, **settings)
    learner = METHODS[method](policy(2, 1, hidden=(32,), squashed=True), data, config, updates=100 * steps, seed=0)
    for _ in range(steps):
        learner.step()
    return learner


def mean_action(learner: OfflineLearner) -> float:
    seen = torch.zeros(1, 2)
    return float(learner.policy.act({"proprio": seen}, deterministic=True)[0].action[0, 0, 0])


@pytest.mark.parametrize("method", NAMES)
def test_the_better_actions_are_found_and_not_from_permuted_rewards(method: str) -> None:
    data, settings = line(), {"temperature": 0.1, "alpha": 5.0, "batch": 128}
    assert 0.3 < mean_action(trained(method, data, **settings)) < 0.8  # the best is 0.5
    permuted = data.permuted(torch.Generator().manual_seed(1))
    assert abs(mean_action(trained(method, permuted, **settings | {"alpha": 1.0}))) < 0.3  # the data's mean is 0


@pytest.mark.parametrize("method", ["awac", "iql"])
def test_without_a_preference_it_is_imitation(method: str) -> None:
    """At an infinite temperature all weights are 1; awac's rate is held where imitation's falls."""
    found = trained(method, line(), steps=1, temperature=1e9, updates_a_step=1 if method == "awac" else 100)
    other = trained("bc", line(), steps=1, updates_a_step=1 if method == "awac" else 100)
    for a, b in zip(found.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_td3_bc_does_not_feel_the_scale_of_rewards() -> None:
    """Q is divided by the mean of its magnitude, so ten times Q gives the policy the same gradient."""
    learner: Any = trained("td3-bc", line(), steps=1)
    batch = learner.data.draw(64, torch.Generator().manual_seed(3))

    def gradient(factor: float) -> Tensor:
        mean = learner.score(batch.observation, batch.action).mean[:, 0]
        value = factor * learner.q(batch.observation, mean)[0]
        loss = (mean - batch.action).square().mean() - 2.5 / value.detach().abs().mean() * value.mean()
        return torch.autograd.grad(loss, next(iter(learner.policy.nets[0].mlp.parameters())))[0]

    torch.testing.assert_close(gradient(1.0), gradient(10.0), rtol=1e-5, atol=1e-7)


def test_value_of_an_even_expectile_is_the_mean_over_the_datas_actions() -> None:
    """One state, two actions paid 0 and 1: V is their mean at 0.5 and nearer the better one at 0.9."""
    action = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    data = Transitions(torch.zeros(1000, 2), action, (action[:, 0] > 0).float(), torch.zeros(1000, 2), torch.ones(1000))
    for expectile, low, high in ((0.5, 0.45, 0.55), (0.9, 0.8, 1.0)):
        learner: Any = trained("iql", data, expectile=expectile, target_rate=0.1, batch=32)
        assert low < float(learner.v(torch.zeros(1, 2)).detach()) < high


@pytest.mark.parametrize("method", METHODS)
def test_state_goes_on_bit_for_bit(method: str) -> None:
    whole, parts = (trained(method, line(), steps=1, updates_a_step=7) for _ in range(2))
    fresh = METHODS[method](
        policy(2, 1, hidden=(32,), squashed=True, seed=5), line(), whole.config, updates=100, seed=9
    )
    fresh.load_state_dict(parts.state_dict())
    fresh.total = whole.total
    assert fresh.step() == whole.step()
    for a, b in zip(fresh.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_chunks_are_refused() -> None:
    config = replace(policy(2, 1).config, horizon=2)
    with pytest.raises(InputError, match="single actions"):
        OfflineLearner(GaussianPolicy(config), line(), OfflineConfig(), updates=1, seed=0)


def test_an_ensemble_is_its_networks_one_by_one() -> None:
    ensemble = QEnsemble(3, 2, hidden=(8, 8), count=3, seed=0)
    observation, action = torch.randn(5, 3), torch.randn(5, 2)
    ensemble.scale.update(torch.randn(100, 3) * 3 + 1)
    found = ensemble(observation, action)
    assert found.shape == (3, 5)
    for number in range(3):
        x = torch.cat([ensemble.scale(observation), action], -1).detach().numpy()
        for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            x = (np.maximum(x, 0) if layer else x) @ weight[number].detach().numpy() + bias[number].detach().numpy()
        np.testing.assert_allclose(found[number].detach().numpy(), x[:, 0], rtol=1e-4, atol=1e-5)
