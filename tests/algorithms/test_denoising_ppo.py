"""PPO over denoising chains against closed forms (DPPO), and the faults of released codes not to repeat.

The gradient of the first epoch is compared with REINFORCE on the chain; truncation is tested by moving a reward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tiny_env import EndlessEnv, ReachEnv
from toddle.algorithms.ppo import PPO, PPOConfig
from toddle.core.types import BodySpec
from toddle.experience.collect import CollectConfig, Collector
from toddle.maths.diffusion import cosine_alpha_bar
from toddle.maths.distributions import gaussian_log_prob
from toddle.maths.objectives import clipped_surrogate, link_clips, link_discounts, link_log_ratio
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.critic import CriticConfig, ValueNet
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig, FlowLinks

BODY = BodySpec(name="point", proprio=4, action=2, dt=0.1)


def make(process: Any, body: BodySpec = BODY, **changes: Any) -> DenoisingPolicy:
    network = MlpDenoiserConfig(width=16)
    return DenoisingPolicy(DenoisingConfig(body=body, process=process, network=network, **changes))


def drawn(policy: Any, count: int = 32) -> tuple[Any, Any, torch.Tensor]:
    seen = {"proprio": torch.randn(count, 4, generator=torch.Generator().manual_seed(1))}
    decision, _ = policy.act(seen, generator=torch.Generator().manual_seed(2))
    return {"proprio": seen["proprio"][None]}, decision, torch.randn(count, generator=torch.Generator().manual_seed(3))


def gradient(loss: torch.Tensor, policy: Any) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.tuned.parameters()))])


@pytest.mark.parametrize("process", [DiffusionConfig(train_steps=6), FlowConfig(noise="flow_sde", level=0.7)])
def test_without_clip_the_first_gradient_is_reinforce_on_the_chain(process: Any) -> None:
    """d/dtheta mean_l(exp(log p - log p_old) A) = mean_l(A dlog p), each link a step of the two-layer MDP."""
    policy = make(process, horizon=2, executed=2, reduce="sum")
    batch, decision, advantage = drawn(policy)
    score = policy.score(batch, decision.chain[None])
    ratio = link_log_ratio(score.log_prob[0], decision.log_prob, "per_link")
    loss, _ = clipped_surrogate(ratio, advantage, 1e9, 1e9)
    ppo = gradient(loss, policy)
    again = policy.score(batch, decision.chain[None])
    reinforce = gradient(-(advantage[:, None] * again.log_prob[0]).mean(), policy)
    assert (ppo - reinforce).abs().max() <= 1e-5 * reinforce.abs().max()


def test_one_step_one_action_is_gaussian_ppo_with_std_a_tenth() -> None:
    """K = 1, H = 1: loss and gradient are those of a Gaussian of that mean and spread."""
    policy = make(DiffusionConfig(train_steps=1), horizon=1, executed=1, reduce="sum")
    batch, decision, advantage = drawn(policy)
    score = policy.score(batch, decision.chain[None])
    old = decision.log_prob + 0.05 * torch.randn(32, 1, generator=torch.Generator().manual_seed(4))
    loss, _ = clipped_surrogate(link_log_ratio(score.log_prob[0], old, "per_link"), advantage, 0.1, 0.1)
    states = decision.chain.view(32, 2, 2)
    features = policy.features(batch)[0]
    eps = policy.tuned.denoiser(policy.tuned.denoiser.encode(features), states[:, None, :1], torch.zeros(1))[:, 0, 0]
    keep = cosine_alpha_bar(1)[0].float()
    mean = ((states[:, 0] - (1 - keep).sqrt() * eps) / keep.sqrt()).clamp(-1, 1)
    log_prob = gaussian_log_prob(states[:, 1], mean, torch.full((2,), 0.1).log())
    ratio = (log_prob - old[:, 0]).exp()
    expected = -torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient(loss, policy), gradient(expected, policy), atol=1e-4, rtol=1e-3)


def test_the_links_of_dppo_are_weighted_and_clipped_as_released() -> None:
    """Numbers of the released schedule, base 0.001, end 0.01, rate 3, K' = 10; K' = 1 is 0 / 0 there."""
    expected = [0.001, 0.0012, 0.0015, 0.0018, 0.0023, 0.0030, 0.0040, 0.0054, 0.0073, 0.01]
    np.testing.assert_allclose(link_clips(10, 0.001, 0.01).numpy(), expected, atol=6e-5)
    assert link_clips(1, 0.001, 0.01).tolist() == pytest.approx([0.01])
    np.testing.assert_allclose(link_discounts(3, 0.9).numpy(), [0.81, 0.9, 1.0], rtol=1e-6)


@pytest.mark.parametrize("tuned", [1, 3])
def test_few_tuned_steps_learn_without_nan(tuned: int) -> None:
    learner = ppo_on(
        ReachEnv(4),
        DiffusionConfig(train_steps=6, tuned_steps=tuned),
        ratio="per_link",
        link_clip_first=0.001,
        clip_low=0.01,
        clip_high=0.01,
    )
    before = {name: value.clone() for name, value in learner.modules["policy"].state_dict().items()}
    for _ in range(2):
        assert np.isfinite(list(learner.step().values())).all()
    after = learner.modules["policy"].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("base."))
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith("tuned."))


def ppo_on(env: Any, process: Any, horizon: int = 1, **settings: Any) -> PPO:
    policy = make(process, env.body_spec, horizon=horizon, executed=horizon)
    critic = ValueNet(CriticConfig(inputs=(env.body_spec.proprio,), hidden=(16,)))
    collect = CollectConfig(length=10, discount=0.9, scale_rewards=False)
    config = PPOConfig(**{"target_kl": None, "minibatches": 2, "epochs": 2, **settings})
    return PPO(policy, critic, [Collector(env, collect, seed=0)], config, iterations=20, seed=0)


@pytest.mark.parametrize(("as_termination", "expected"), [(False, 10.0), (True, 2.63)])
def test_a_cut_episode_bootstraps_with_chains_too(as_termination: bool, expected: float) -> None:
    """DPPO's and ReinFlow's released codes count the time limit as an end.  V = 1 / (1 - 0.9) = 10 when it is a cut."""
    learner = ppo_on(
        EndlessEnv(8, limit=5, as_termination=as_termination),
        DiffusionConfig(train_steps=2),
        critic_warm_up=60,
        critic_learning_rate=5e-2,
        max_grad_norm=10.0,
        lam=1.0,
        schedule="constant",
        epochs=4,
    )
    for _ in range(60):
        learner.step()
    value = learner.critic.value({"proprio": torch.full((1, 2), 0.5)})
    assert value.item() == pytest.approx(expected, rel=0.1)


def test_drawing_and_scoring_share_one_grid_of_times() -> None:
    """ReinFlow's released code scores on other times than it draws with; here there is one grid, i / K."""
    links = FlowLinks(FlowConfig(steps=5))
    np.testing.assert_allclose(links.times.numpy(), [0.0, 0.2, 0.4, 0.6, 0.8])
    assert links.tuned.tolist() == [0, 1, 2, 3, 4]


def test_the_hybrid_sampler_scores_one_step_and_the_rest_is_the_ode() -> None:
    policy = make(FlowConfig(noise="flow_sde", steps=4, one_random_step=True, level=0.6), horizon=1, executed=1)
    batch, decision, _ = drawn(policy, 64)
    assert decision.log_prob.shape == (64, 1)
    steps = decision.chain[:, -1].long()
    assert set(steps.tolist()) == {0, 1, 2, 3}
    shared = policy.tuned.denoiser.encode(policy.features(batch)[0])
    x = decision.chain[:, 2:4]  # after the stochastic step; what follows is the ODE
    for i in range(4):
        velocity = policy.tuned.denoiser(shared, x[:, None, None], torch.tensor([i / 4]))[:, 0, 0]
        x = torch.where((steps < i)[:, None], x + velocity / 4, x)
    torch.testing.assert_close(x, decision.action[:, 0], atol=1e-5, rtol=0)


def test_fpo_ratio_is_one_at_first_and_an_advantage_of_zero_moves_nothing() -> None:
    network = MlpDenoiserConfig(width=32)
    policy = FPOPolicy(FPOConfig(body=BODY, network=network, steps=5, horizon=1, executed=1))
    batch, decision, _ = drawn(policy)
    ratio = (policy.score(batch, decision.chain[None]).log_prob[0] - decision.log_prob).exp()
    torch.testing.assert_close(ratio, torch.ones(32, 1), atol=1e-5, rtol=0)
    score = policy.score(batch, decision.chain[None])
    loss, _ = clipped_surrogate(score.log_prob[0] - decision.log_prob, torch.zeros(32), 0.05, 0.05)
    assert gradient(loss, policy).abs().max() == 0
    other = decision.chain.clone()
    other[:, -1] = (other[:, -1] + 0.5) % 1.0
    assert (policy.score(batch, other[None]).log_prob[0] - decision.log_prob).abs().max() > 1e-3, "the pairs matter"


@pytest.mark.parametrize("process", [DiffusionConfig(train_steps=5), FlowConfig(noise="reinflow")])
def test_ratio_is_one_before_the_first_update_through_the_whole_loop(process: Any) -> None:
    learner = ppo_on(ReachEnv(8), process, horizon=2, epochs=1, minibatches=1, ratio="per_link")
    metrics = learner.step()
    assert abs(metrics["ppo/kl"]) < 1e-9 and metrics["ppo/clipped"] == 0
