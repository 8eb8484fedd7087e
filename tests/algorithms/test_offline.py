"""Learning from stored transitions: CORL's own numbers, limits that reduce to imitation, values known by hand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.corl_updates import (
    ACTION,
    BATCH,
    FEW,
    HIDDEN,
    LAYERS,
    NARROW,
    OBSERVATION,
    SAMPLES,
    UPDATES,
    given,
    put,
)
from torch import Tensor

from toddle.algorithms.offline import METHODS, OfflineConfig, OfflineLearner
from toddle.algorithms.offline.dt import history
from toddle.algorithms.offline.learner import (
    ConditionedImitationConfig,
    ConRFTConfig,
    ConservativeConfig,
    PACConfig,
    seen,
)
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.transitions import Transitions
from toddle.maths.action_tokens import bin_centres
from toddle.maths.categorical import spread_over
from toddle.maths.consistency import bounds, noise_levels
from toddle.maths.token_values import spare_push, token_targets
from toddle.maths.value_targets import (
    advantage_weight,
    chunk_rewards,
    conservative_gap,
    expectile_loss,
    one_step_target,
    plain_gap,
    returns_to_go,
)
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.distributional_value import DistributionalValue
from toddle.models.normalizer import RunningNorm
from toddle.models.perceiver_critic import PerceiverCritic
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.conditioned import ConditionedConfig, ConditionedPolicy
from toddle.policies.consistency import ConsistencyConfig, ConsistencyPolicy
from toddle.policies.decision_transformer import DecisionTransformer, DecisionTransformerConfig, Window
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import FlowConfig
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from toddle.policies.tokens import TokenConfig, TokenPolicy

CORL = json.loads((Path(__file__).parent / "data/corl_updates.json").read_text())
NAMES = {"iql": "iql", "td3-bc": "td3_bc", "awac": "awac"}
SAID = {"critic_loss": "q_loss", "actor_loss": "policy_loss", "alpha": "temperature", "alpha_prime": "factor"}
CONSERVATIVE = {
    "cal_ql": ConservativeConfig(samples=SAMPLES),
    "cal_ql_lagrange": ConservativeConfig(samples=SAMPLES, gap=0.8, largest_backup=True, least_gap=3.5),
}


def policy(observation: int, action: int, **settings: Any) -> GaussianPolicy:
    body = BodySpec(name="point", proprio=observation, action=action, dt=0.1)
    return GaussianPolicy(GaussianConfig(bodies=(body,), activation="relu", **settings))


def squashed(observation: int, action: int, **settings: Any) -> SquashedGaussianPolicy:
    body = BodySpec(name="point", proprio=observation, action=action, dt=0.1)
    return SquashedGaussianPolicy(SquashedGaussianConfig(body=body, **settings))


def fill(ensemble: QEnsemble, *networks: list[Tensor]) -> None:
    """Set the weights of the ensemble's networks; observations are taken as they are."""
    for layer, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
        for number, network in enumerate(networks):
            weight.data[number], bias.data[number, 0] = network[2 * layer].T, network[2 * layer + 1]
    ensemble.scale = RunningNorm((OBSERVATION,), eps=0.0)


def agree(learner: Any, batches: Tensor, name: str) -> None:
    for rows, wanted in zip(batches, CORL[name], strict=True):
        found = learner.update(learner.data.at(rows))
        learner.updates += 1
        for key, value in wanted.items():
            if (ours := SAID.get(key, key)) in found:
                got = float(found[ours].detach())
                assert got == pytest.approx(value, rel=1e-5, abs=1e-6), (learner.updates, key)


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
    agree(learner, batches, NAMES[method])


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_a_hundred_updates_of_cal_ql_are_corls(name: str, double: None) -> None:
    """Policy, temperature, target (of one action, or the best), push, its calibration, floor and Lagrange factor."""
    weights, data, batches, noise = given(LAYERS[name], NARROW)
    hidden = (NARROW,) * LAYERS[name]
    actor = squashed(OBSERVATION, ACTION, hidden=hidden).double()
    put(actor, weights["squashed"])
    actor.actor.scale = RunningNorm((OBSERVATION,), eps=0.0).double()
    config = OfflineConfig(hidden=hidden, batch=FEW, conservative=CONSERVATIVE[name])
    learner: Any = METHODS["cal-ql"](actor, Transitions(**data), config, updates=UPDATES, seed=0)
    for ensemble in (learner.q, learner.slow):
        fill(ensemble, weights["q1"], weights["q2"])
    learner.noise = noise
    agree(learner, batches[:, :FEW], name)
    assert 0.1 < CORL[name][0]["bound_rate"] < 0.9  # the bound was at work


def test_expectiles_by_hand() -> None:
    """The tau-expectile m of x solves tau sum (x - m)+ = (1 - tau) sum (m - x)+."""
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    for tau, wanted in ((0.5, 3.2), (0.7, 4.631578947), (0.9, 7.384615385)):
        m = torch.tensor(wanted, dtype=torch.float64, requires_grad=True)
        expectile_loss(x - m, tau).sum().backward()
        assert m.grad is not None and abs(m.grad.item()) < 1e-8
    for ones, wanted in ((5, 0.9), (2, 9 / 13)):  # of ten
        x, m = torch.arange(10.0) < ones, torch.tensor(wanted, requires_grad=True)
        expectile_loss(x.float() - m, 0.9).sum().backward()
        assert m.grad is not None and abs(m.grad.item()) < 1e-5


def test_targets_and_weights_by_hand() -> None:
    target = one_step_target(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), 0.9, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(target, torch.tensor([2.8, 1.0]))
    weight = advantage_weight(torch.tensor([0.0, 1.535, 1.536]), 1 / 3, 100.0)
    assert weight[0] == 1.0 and weight[1] < 100.0 and weight[2] == 100.0  # ln(100) / 3 = 1.5351


def test_returns_by_hand() -> None:
    """gamma 0.5: an end for good, a cut, and failures that were cut while all steps cost the same."""
    rewards = np.array([1.0, 2.0, 4.0])
    assert returns_to_go(rewards, True, 0.5).tolist() == returns_to_go(rewards, False, 0.5).tolist() == [3.0, 4.0, 4.0]
    assert returns_to_go(np.full(3, -1.0), False, 0.5).tolist() == [-2.0] * 3  # not -1.75, -1.5, -1
    assert returns_to_go(np.full(3, -1.0), True, 0.5).tolist() == [-1.75, -1.5, -1.0]
    assert returns_to_go(np.zeros(2), False, 0.99).tolist() == [0.0, 0.0]


def test_what_a_chunk_pays_by_hand() -> None:
    """gamma 0.5, H 2: 1 + 2 / 2, 2 + 4 / 2, and at the end 4 alone; H 1 is a step, H beyond the end is the return."""
    rewards = np.array([1.0, 2.0, 4.0])
    assert chunk_rewards(rewards, 2, 0.5).tolist() == [2.0, 4.0, 4.0]
    assert chunk_rewards(rewards, 1, 0.5).tolist() == [1.0, 2.0, 4.0]
    assert chunk_rewards(rewards, 9, 0.5).tolist() == returns_to_go(rewards, True, 0.5).tolist()


@pytest.mark.slow
def test_co_rft_learns_chunks_and_bootstraps_after_them() -> None:
    """The best chunk is (0.5, -0.5) and imitation says (0, 0); what follows counts gamma^2; unpushed it is td3-bc."""
    one, g = line(), torch.Generator().manual_seed(3)
    action = torch.rand(2000, 2, generator=g) * 2 - 1
    reward = 1.0 - 4.0 * (action - torch.tensor([0.5, -0.5])).square().mean(-1)
    chunks = replace(one, action=action, reward=reward, returns=reward)
    found: dict[float, list[float]] = {}
    few = ConservativeConfig(samples=2, weight=1.0)
    for alpha in (0.0, 20.0):
        learner = trained("co-rft", chunks, chunk=2, alpha=alpha, batch=64, conservative=few)
        seen = {"proprio": torch.zeros(1, 2)}
        found[alpha] = learner.policy.act(seen, deterministic=True)[0].action[0, :, 0].tolist()
    assert 0.25 < found[20.0][0] < 0.8 and -0.8 < found[20.0][1] < -0.25 and max(map(abs, found[0.0])) < 0.2, found
    assert learner.discount == pytest.approx(0.99**2)
    free = ConservativeConfig(weight=0.0)
    batch = one.draw(64, torch.Generator().manual_seed(3))
    ours, theirs = (trained(name, one, steps=0, conservative=free).update(batch) for name in ("co-rft", "td3-bc"))
    assert torch.equal(ours["q_loss"], theirs["q_loss"])


def test_the_gap_is_the_logarithm_of_an_integral() -> None:
    """Q(s, a) = 2 a on [-1, 1]: log of the integral of exp Q is log(sinh(2)), from either density (and log n more)."""
    g, n = torch.Generator().manual_seed(0), 200_000
    even = 2 * torch.rand(n, generator=g, dtype=torch.float64) - 1
    tilted = (1 + even) / 2  # sqrt of a uniform one has density 2 x on [0, 1], here (1 + a) / 2 on [-1, 1]
    tilted = 2 * tilted.sqrt() - 1
    for action, density in ((even, torch.full_like(even, 0.5)), (tilted, (1 + tilted) / 2)):
        gap = conservative_gap(torch.tensor(0.7, dtype=torch.float64), 2 * action, density.log())
        assert float(gap) - math.log(n) == pytest.approx(math.log(math.sinh(2.0)) - 0.7, abs=0.02)


@pytest.mark.slow
def test_a_flow_leans_to_what_came_to_more() -> None:
    """The data's actions are even around 0, the best is 0.5; alike weights are imitation."""
    seen, means = {"proprio": torch.zeros(256, 2)}, {}
    for share in (0.3, 1.0):
        learner = trained("arfm", line(), steps=3, batch=128, weights_share=share)
        action = learner.policy.act(seen, generator=torch.Generator().manual_seed(0), deterministic=True)[0].action
        means[share] = float(action.mean())
    assert means[0.3] > 0.3 and abs(means[1.0]) < 0.2, means


def test_calibration_holds_the_policys_actions_alone() -> None:
    """Below every bound cal-ql is cql; above all values the policy's actions are not pushed, and uniform ones are."""
    cal, plain = trained("cal-ql", line(200), steps=0), trained("cql", line(200), steps=0)
    batch = cal.data.draw(16, torch.Generator().manual_seed(0))
    never = replace(batch, returns=torch.full((16,), -1e6))
    found, wanted = cal.update(never), plain.update(never)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
    values = torch.zeros(2, 16, 30, requires_grad=True)
    bounded = cal.bounded(values, replace(batch, returns=torch.full((16,), 5.0)))
    conservative_gap(torch.zeros(2, 16), bounded, torch.zeros(16, 30)).sum().backward()
    assert values.grad is not None and (values.grad[..., 10:] == 0).all() and (values.grad[..., :10] > 0).all()


def test_consistency_by_numbers() -> None:
    """The released grid and bounds (0.02 to 80 in 40, rho 7, spread 0.5); at the least level f is its input."""
    grid = noise_levels(40)
    torch.testing.assert_close(grid[[0, 1, 20, 39]], torch.tensor([80.0, 70.549, 3.675, 0.02]), rtol=1e-4, atol=0)
    skip, out, _ = bounds(torch.tensor([0.02, 80.0]))
    assert skip[0] == 1.0 and out[0] == 0.0
    torch.testing.assert_close(torch.stack([skip[1], out[1]]), torch.tensor([3.9e-5, 0.49987]), rtol=5e-3, atol=0)
    actor, seen = fresh("conrft"), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    noisy = torch.randn(3, 1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(actor.clean(seen, noisy, torch.full((3,), 0.02)), noisy)
    value = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(plain_gap(value, value[:, None].expand(2, 5)), torch.zeros(2))
    torch.testing.assert_close(plain_gap(torch.zeros(1), torch.tensor([[math.log(3.0)]])), torch.tensor([math.log(2)]))


def test_online_conrft_is_plain_td() -> None:
    """Without the push the critics' gradient knows neither samples nor returns; with weights 0 the policy stays."""
    still = ConRFTConfig(climb=0.0, imitation=0.0, push=0.0)
    first, second = (trained("conrft", line(200), steps=0, conrft=still, batch=16) for _ in range(2))
    batch, before = first.data.draw(16, torch.Generator().manual_seed(0)), copy.deepcopy(first.policy.state_dict())
    found = first.update(batch), second.update(replace(batch, returns=torch.full((16,), 1e6)))
    assert all(torch.equal(*pair) for pair in zip(first.q.parameters(), second.q.parameters(), strict=True))
    assert torch.equal(found[0]["critic_loss"], found[0]["q_loss"]) and "gap" not in found[0]
    assert all(torch.equal(value, before[name]) for name, value in first.policy.state_dict().items())
    near = trained("conrft", line(200), steps=0, conrft=replace(still, imitation=1.0), batch=16).update(batch)
    assert torch.equal(near["policy_loss"], near["distance"])  # without Q it is imitation


@pytest.mark.slow
def test_a_consistency_policy_climbs_and_without_climbing_imitates() -> None:
    """The best action is 0.5, the data are even: without Q it is imitation, without imitation it leaves them."""
    means = {}
    for climb in (0.0, 1.0):
        weights = ConRFTConfig(climb=climb)
        learner = trained(
            "conrft", line(), steps=4, batch=128, conrft=weights, conservative=ConservativeConfig(samples=2)
        )
        seen = {"proprio": torch.zeros(256, 2)}
        action = learner.policy.act(seen, generator=torch.Generator().manual_seed(0))[0].action
        means[climb] = float(action.mean())
    assert abs(means[0.0]) < 0.2 and 0.25 < means[1.0] < 0.8, means


def test_a_value_spread_over_bins() -> None:
    """At a bin's middle it keeps erf(1 / (1.5 sqrt 2)) = 0.4950 of its mass, next to it (erf(3 / ...) - that) / 2 =
    0.2297; the mean is the value; and a network that has seen 0 and 1 alike says both, with the mean between."""
    atoms = torch.linspace(-1.0, 0.0, 11)
    mass = spread_over(torch.tensor([-0.5, -0.43]), atoms)
    torch.testing.assert_close(mass[0, 4:7], torch.tensor([0.2297, 0.4950, 0.2297]), atol=2e-4, rtol=0)
    torch.testing.assert_close(mass @ atoms, torch.tensor([-0.5, -0.43]), atol=2e-3, rtol=0)
    torch.testing.assert_close(mass.sum(-1), torch.ones(2))
    value = DistributionalValue(2, (16,), low=0.0, high=1.0, bins=11, seed=0)
    step, state = torch.optim.Adam(value.parameters(), lr=6e-2), torch.zeros(2, 2)
    for _ in range(60):
        step.zero_grad()
        value.loss(state, torch.tensor([0.0, 1.0])).backward()
        step.step()
    said = value.log_probs(state[:1]).exp()[0].detach()
    assert abs(float(value(state[:1]).detach()) - 0.5) < 0.02 and said[5] < 0.02 and said[0] > 0.3 < said[10]
    learner = trained("recap", line(1000), steps=1, value_bins=21, value_share=0.9, updates_a_step=20)
    above = learner.advantage(learner.data) >= learner.find_threshold()
    assert int(above.sum()) == 300 and learner.networks["v"] is learner.distribution


def test_a_critic_reads_a_set_and_answers_each_action_alone() -> None:
    """The order of tokens and the other actions change nothing."""
    critic, g = PerceiverCritic(5, 2, width=16, latents=3, low=-1.0, high=0.0, bins=7, seed=0), torch.Generator()
    seen, actions = torch.randn(4, 5, generator=g.manual_seed(0)), torch.rand(4, 6, 2, generator=g)
    found = critic(seen, actions)
    assert found.shape == (4, 6, 7) and found.std(0).min() > 1e-4 and found.std(1).min() > 1e-4
    mixed = critic.log_probs(critic.context(critic.tokens(seen)[:, [3, 1, 4, 0, 2]]), actions)
    torch.testing.assert_close(mixed, found, atol=1e-5, rtol=0)
    torch.testing.assert_close(critic(seen, actions[:, 2:3]), found[:, 2:3], atol=1e-5, rtol=0)
    alone = trained("pac", line(), steps=0, pac=PACConfig(imitation=1.0, width=16))
    batch = alone.data.draw(16, g)
    told = alone.update(batch)
    assert torch.equal(told["policy_loss"], told["distance"])  # alpha 1 is imitation
    even = trained("pac", line(), steps=0, pac=PACConfig(temperature=1e9, width=16)).update(batch)
    assert float(even["weights_used"]) == pytest.approx(1.0)


def test_samples_of_one_state_weigh_by_their_values() -> None:
    """pi exp(Q / eta) / Z: for Q = (0, 0.05, 0.1) of returns from 0 to 1, eta 0.1 and three equal arms it is (0.1863,
    0.3072, 0.5065), in every state, whatever the values of the others."""
    data = line(64)
    data = replace(data, returns=torch.linspace(0.0, 1.0, 64))
    learner = trained("pac", data, steps=0, pac=PACConfig(imitation=0.0, width=8, temperature=0.1, samples=3))
    arms, batch = torch.tensor([2, 9, 15]), data.draw(16, torch.Generator().manual_seed(0))
    tokens = arms[:, None].expand(16, 3, 1).float()
    learner.samples = lambda observation, count: (torch.zeros(len(observation), count, 1), tokens)
    value = torch.tensor([0.0, 0.05, 0.1]) + 0.8 * torch.linspace(0.0, 1.0, 16)[:, None]
    share = torch.zeros(16, 3, len(learner.slow.atoms))
    share[..., 0], share[..., -1] = 1.0 - value, value
    learner.slow = lambda *_: share.log()
    learner.slow.atoms = torch.linspace(0.0, 1.0, share.shape[-1])
    log_prob = [learner.policy.score(seen(batch.observation), tokens[:, arm]).log_prob.sum(-1) for arm in range(3)]
    wanted = -(torch.tensor([0.1863, 0.3072, 0.5065]) * torch.stack(log_prob, -1).detach()).sum(-1).mean()
    found = learner.teach(batch)
    torch.testing.assert_close(found["policy_loss"].detach(), wanted, rtol=1e-3, atol=0)
    assert float(found["weights_used"]) == pytest.approx(1 / (0.1863**2 + 0.3072**2 + 0.5065**2) / 3, rel=1e-3)


@pytest.mark.slow
def test_pac_moves_to_better_samples_and_not_from_permuted_rewards() -> None:
    found = []
    for data in (line(), line().permuted(torch.Generator().manual_seed(1))):
        learner = trained("pac", data, steps=5, batch=128, pac=PACConfig(width=32, imitation=0.3), target_rate=0.02)
        seen = {"proprio": torch.zeros(256, 2)}
        action = learner.policy.act(seen, generator=torch.Generator().manual_seed(0))[0].action
        found.append(float(action.mean()))
    assert found[0] > 0.25 and abs(found[1]) < 0.2, found


def test_targets_of_tokens_by_hand() -> None:
    """Between two numbers of an action no time passes; what was reached is a floor; said tokens are not pushed."""
    value = torch.tensor([[[0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2], [0.3, 0.4]]])
    target = token_targets(value, torch.tensor([0.05, 0.5]), torch.tensor([0.0, 0.45]))
    torch.testing.assert_close(target, torch.tensor([[0.4, 0.05], [0.45, 0.5]]))
    pushed = spare_push(torch.tensor([[[0.1, 0.2, 0.3]]]), torch.tensor([[1]]))
    torch.testing.assert_close(pushed, torch.tensor([[0.05]]))  # (0.01 + 0.09) / 2


@pytest.mark.slow
def test_values_of_two_numbers_are_those_of_the_best_pair() -> None:
    """16 pairs that end at once.  Unpushed, Q of the first number is the best of its row and Q of the second the pair's
    own, gamma 0.5 or not, and the greedy pair is the best of all.  Pushed, of a number that half of the bins have been
    seen of, each as often: t p / (p + (1 - p) / 3) = 3 t / 4 at p = 1/2, and 0 where it was not seen."""
    pairs, places = torch.cartesian_prod(torch.arange(4), torch.arange(4)), bin_centres(4)
    table = torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.8, 0.7, 0.8, 0.7], [0.0, 0.4, 0.5, 1.0], [0.6, 0.6, 0.6, 0.2]])
    state, paid = torch.zeros(16, 2), table.flatten()
    body = BodySpec(name="pair", proprio=2, action=2, dt=0.1)
    many: dict[str, Any] = {"learning_rate": 2e-2, "target_rate": 0.2, "discount": 0.5, "updates_a_step": 250}
    actor = TokenPolicy(TokenConfig(body=body, bins=4, hidden=(32,)))
    data = Transitions(state, places[pairs], paid, state, torch.ones(16), paid)
    learner: Any = METHODS["q-transformer"](
        actor, data, OfflineConfig(batch=32, spare_weight=0.0, **many), updates=250, seed=0
    )
    learner.step()
    values = learner.values(actor, state, pairs).detach()
    torch.testing.assert_close(values[:, 1].gather(-1, pairs[:, 1:])[:, 0], paid, atol=0.06, rtol=0)
    torch.testing.assert_close(values[0, 0], table.amax(1), atol=0.06, rtol=0)
    best = actor.act({"proprio": state[:1]}, deterministic=True)[0].action[0, 0]
    assert torch.equal(best, places[torch.tensor([2, 3])])
    two = torch.tensor([0.0, 1.0])
    half = Transitions(state[:2], places[[0, 1], None], two, state[:2], torch.ones(2), two)
    actor = TokenPolicy(TokenConfig(body=replace(body, action=1), bins=4, hidden=(32,)))
    learner = METHODS["q-transformer"](actor, half, OfflineConfig(batch=32, **many), updates=250, seed=0)
    learner.step()
    found = learner.values(actor, state[:1], pairs[:1, :1]).detach()[0, 0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0.75, 0.0, 0.0]), atol=0.06, rtol=0)


def test_a_window_holds_its_own_episode_alone() -> None:
    """Rows 0 to 2 are one episode, 3 and 4 the next; what lies before it, or comes after a step, changes nothing."""
    assert history(torch.tensor([0, 4]), 3).tolist() == [[0, 0, 0], [2, 3, 4]]
    actor, g = fresh("dt"), torch.Generator().manual_seed(0)
    real = torch.tensor([[False, True, True, True]])
    made = Window(torch.rand(1, 4, generator=g), torch.randn(1, 4, 2, generator=g), torch.rand(1, 4, 1), real)
    before, after = actor.mean(made), copy.deepcopy(made)
    for part in (after.asked, after.state, after.action):
        part[:, 0] += 1.0  # another episode's
    after.action[:, 2:] -= 1.0  # the action that is to be said at step 2, and what follows
    after.state[:, 3:] += 1.0
    torch.testing.assert_close(actor.mean(after)[:, 1:3], before[:, 1:3])
    assert not torch.allclose(actor.mean(after)[:, 3], before[:, 3])
    memory, seen = None, torch.randn(4, 1, 2, generator=g)  # acting step by step is the window at once
    for step, state in enumerate(seen):
        decision, memory = actor.act({"proprio": state, "first": torch.tensor([step == 0])}, memory)
    assert memory is not None and memory.real.all() and torch.equal(memory.state[0], seen[:, 0])
    torch.testing.assert_close(actor.mean(memory)[:, -1], decision.chain)


@pytest.mark.slow
def test_without_the_push_the_policy_leaves_the_data() -> None:
    """The data's actions are all below 0, and the better the higher: without the push Q and policy go on beyond."""
    data = line(400)
    reward = -5.0 * data.action.abs()[:, 0]
    half = replace(data, action=-data.action.abs(), reward=reward, returns=reward)
    beyond, mean = {}, {}
    for weight in (0.0, 5.0):
        push = ConservativeConfig(weight=weight, samples=4, policy_rate=3e-3)
        learner = trained("cql", half, steps=3, batch=64, conservative=push)
        with torch.no_grad():
            values = learner.q(torch.zeros(2, 2), torch.tensor([[-0.5], [0.5]])).amin(0)
        beyond[weight], mean[weight] = float(values[1] - values[0]), mean_action(learner)
    assert beyond[0.0] > 1.0 and mean[0.0] > 0.2  # -2.5 at -0.5, and what was never seen is held for better
    assert beyond[5.0] < -5.0 and -0.8 < mean[5.0] < 0.0


def line(count: int = 2000) -> Transitions:
    """One step on a line: the reward is high at a = 0.5, and actions of the data are spread over [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    action = torch.rand(count, 1, generator=g) * 2 - 1
    reward = 1.0 - 4.0 * (action[:, 0] - 0.5).square()
    state, following = torch.randn(count, 2, generator=g), torch.randn(count, 2, generator=g)
    return Transitions(state, action, reward, following, torch.ones(count), reward, torch.zeros(count).long())


def fresh(method: str, seed: int = 0, chunk: int = 1) -> Any:
    kind = METHODS[method].policy_kind
    if kind == "squashed_gaussian":
        return squashed(2, 1, hidden=(32,), seed=seed)
    body = BodySpec(name="point", proprio=2, action=1, dt=0.1)
    if kind == "denoising":
        shape: dict[str, Any] = {"horizon": 1, "executed": 1, "network": MlpDenoiserConfig(width=32)}
        return DenoisingPolicy(DenoisingConfig(body=body, process=FlowConfig(), seed=seed, **shape))
    if kind == "consistency":
        network = MlpDenoiserConfig(width=32)
        return ConsistencyPolicy(ConsistencyConfig(body=body, network=network, seed=seed))
    if kind == "tokens":
        return TokenPolicy(TokenConfig(body=body, bins=21, hidden=(32,), seed=seed))
    if kind == "decision_transformer":
        return DecisionTransformer(DecisionTransformerConfig(body=body, window=4, width=16, depth=1, seed=seed))
    if kind == "conditioned":
        asks = "positive" if method == "recap" else "return"
        return ConditionedPolicy(ConditionedConfig(body=body, hidden=(32,), asks=asks, seed=seed))
    return policy(2, 1, hidden=(32,), squashed=True, seed=seed, horizon=chunk)


def trained(method: str, data: Transitions, steps: int = 4, **settings: Any) -> Any:
    narrow: dict[str, Any] = {"chunk": 1, "pac": PACConfig(width=8, latents=2, bins=11, samples=2)}
    config = OfflineConfig(hidden=(32, 32), learning_rate=3e-3, **narrow | settings)
    chunk = config.chunk if METHODS[method].chunked else 1
    learner = METHODS[method](fresh(method, chunk=chunk), data, config, updates=100 * steps, seed=0)
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


@pytest.mark.slow
def test_what_was_good_is_asked_for_and_what_was_bad_is_worse() -> None:
    """The best action is 0.5; imitation says 0, as the data are even, and so do both where rewards are permuted."""
    told: dict[str, Any] = {"batch": 128, "conditioned": ConditionedImitationConfig(expectile=0.95)}
    for method, steps in (("dt", 6), ("recap", 3), ("reinbot", 8)):
        learner = trained(method, line(), steps=steps, **told)
        assert 0.3 < mean_action(learner) < 0.7, method
        if method == "dt":
            continue
        condition = torch.tensor([[1.0, -1.0 if method == "recap" else 0.3]])
        worse = learner.policy.mean(torch.zeros(1, 2), condition)
        assert float(worse.detach()) < 0.0, method
    metrics = trained("recap", line(), steps=2, **told).step()
    assert metrics["offline/positive"] == pytest.approx(0.3, abs=0.03)
    permuted = trained("recap", line().permuted(torch.Generator().manual_seed(1)), steps=2, **told)
    assert abs(mean_action(permuted)) < 0.3


def test_guidance_goes_from_nothing_asked_beyond_what_is_asked() -> None:
    policy, state = fresh("recap"), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    free, asked = (policy.mean(state, torch.tensor([pair]).expand(5, 2)) for pair in ((0.0, 0.0), (1.0, 1.0)))

    def guided(weight: float) -> Tensor:
        policy.config = replace(policy.config, guidance=weight)
        return policy.act({"proprio": state}, deterministic=True)[0].action[:, 0]

    for weight, wanted in ((0.0, free), (1.0, asked), (2.0, 2 * asked - free)):
        torch.testing.assert_close(guided(weight), wanted.detach())


def test_the_threshold_leaves_the_wanted_share() -> None:
    learner = trained("recap", line(1000), steps=0)
    above = learner.advantage(learner.data) >= learner.find_threshold()
    assert int(above.sum()) == 300


@pytest.mark.parametrize("method", ["awac", "iql"])
def test_without_a_preference_it_is_imitation(method: str) -> None:
    """At an infinite temperature all weights are 1; awac's rate is held where imitation's falls."""
    found = trained(method, line(), steps=1, temperature=1e9, updates_a_step=1 if method == "awac" else 100)
    other = trained("bc", line(), steps=1, updates_a_step=1 if method == "awac" else 100)
    for a, b in zip(found.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_td3_bc_does_not_feel_the_scale_of_rewards() -> None:
    """Q is divided by the mean of its magnitude: ten times Q leaves the policy's gradient, ten times alpha not."""
    learner, found = trained("td3-bc", line(200), steps=0, policy_every=1), list[Tensor]()
    batch, q = learner.data.draw(64, torch.Generator().manual_seed(3)), learner.q

    def learn(name: str, loss: Tensor) -> Tensor:
        parts = torch.autograd.grad(loss, learner.learned[name], allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
        return loss

    learner.learn, learner.critic_step = learn, lambda *_: {}
    for factor, alpha in ((1.0, 2.5), (10.0, 2.5), (1.0, 25.0)):
        learner.q, learner.config = (lambda *of, by=factor: by * q(*of)), replace(learner.config, alpha=alpha)
        learner.update(batch)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)
    assert (found[2] - found[0]).norm() > 0.1 * found[0].norm()
    alone = trained("td3-bc", line(), steps=0, alpha=0.0, policy_every=1).update(batch)
    assert torch.equal(alone["policy_loss"], alone["distance"])  # without Q it is imitation


def test_value_of_an_even_expectile_is_the_mean_over_the_datas_actions() -> None:
    """One state, two actions paid 0 and 1: V is their mean at 0.5 and nearer the better one at 0.9."""
    action = torch.tensor([-1.0, 1.0]).repeat(500)[:, None]
    paid, state = (action[:, 0] > 0).float(), torch.zeros(1000, 2)
    data = Transitions(state, action, paid, state, torch.ones(1000), paid)
    for expectile, low, high in ((0.5, 0.45, 0.55), (0.9, 0.8, 1.0)):
        learner: Any = trained("iql", data, expectile=expectile, target_rate=0.1, batch=32)
        assert low < float(learner.v(torch.zeros(1, 2)).detach()) < high


def test_sarsa_values_the_policy_that_made_the_data_and_no_better_one() -> None:
    """Two chunks of two steps, drawn evenly: up from the start leads to where up is paid 1; down is the end.

    By hand, gamma 0.9: the second state is worth 1/2, so up is worth 0.9^2 / 2 in the first; the best policy's is 0.81.
    """
    g = torch.Generator().manual_seed(0)
    action = torch.rand(4000, 2, generator=g) * 2 - 1
    up, second = action[:, 0] > 0, torch.rand(4000, generator=g) < 0.5
    state = torch.stack([second.float(), (~second).float()], 1)
    reward, ended = (up & second).float(), (second | ~up).float()
    data = Transitions(state, action, reward, torch.tensor([[1.0, 0.0]]).expand(4000, 2), ended, reward)
    learner = trained("sarsa", data, steps=6, chunk=2, discount=0.9, target_rate=0.05, batch=128)
    asked = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    with torch.no_grad():
        found = learner.q(asked, torch.tensor([[0.7, 0.0], [-0.7, 0.0]]).repeat(2, 1)).mean(0)
    torch.testing.assert_close(found, torch.tensor([0.405, 0.0, 1.0, 0.0]), atol=0.04, rtol=0.0)


@pytest.mark.parametrize("method", METHODS)
def test_state_goes_on_bit_for_bit(method: str) -> None:
    # the policy's part has begun
    whole, parts = (trained(method, line(), steps=1, updates_a_step=7, value_share=0.05) for _ in range(2))
    other = METHODS[method](fresh(method, 5), line(), whole.config, updates=100, seed=9)
    other.load_state_dict(parts.state_dict())
    other.total = whole.total
    assert other.step() == whole.step()
    for a, b in zip(other.policy.parameters(), whole.policy.parameters(), strict=True):
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
