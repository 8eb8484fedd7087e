"""Denoising policies: what was drawn is scored the same, in one pass; the special cases of the papers."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch

from toddle.core.types import BodySpec
from toddle.maths.diffusion import cosine_alpha_bar
from toddle.maths.distributions import gaussian_log_prob
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig

BODY = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
PROCESSES = {
    "ddpm": DiffusionConfig(train_steps=6),
    "ddim": DiffusionConfig(train_steps=20, ddim_steps=5),
    "ddpm_tail": DiffusionConfig(train_steps=6, tuned_steps=2),
    "one_tuned_step": DiffusionConfig(train_steps=6, tuned_steps=1),
    "reinflow": FlowConfig(),
    "flow_noise": FlowConfig(noise="flow_noise", steps=3),
    "flow_sde": FlowConfig(noise="flow_sde", steps=5),
    "one_random_step": FlowConfig(noise="flow_sde", one_random_step=True),
    "fpo": None,
}
SMALL_TRUNK = TrunkConfig(width=16, depth=4, heads=2, context_width=12, modulation="residual")
NETWORKS = {
    "mlp": MlpDenoiserConfig(width=32),
    "unet": UnetConfig(channels=(8, 16), condition=16, groups=4),
    "trunk": TrunkDenoiserConfig(trunk=SMALL_TRUNK, bank_hidden=16, goal_hidden=16),
}
LINKS = {"ddpm": 6, "ddim": 5, "ddpm_tail": 2, "one_tuned_step": 1, "reinflow": 4, "flow_noise": 3, "flow_sde": 5}


def make(name: str, network: str = "mlp", /, **changes: Any) -> Any:
    shared = {"body": BODY, "network": NETWORKS[network]}
    if name == "fpo":
        return FPOPolicy(FPOConfig(**shared | {"steps": 5} | changes))
    return DenoisingPolicy(DenoisingConfig(**shared | {"process": PROCESSES[name]} | changes))


def observe(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"proprio": torch.randn(batch, 5, generator=torch.Generator().manual_seed(seed))}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("process", PROCESSES)
def test_score_reproduces_the_rollouts_log_prob(process: str, network: str) -> None:
    policy, observation = make(process, network), observe(7)
    decision, _ = policy.act(observation, generator=generator())
    links = LINKS.get(process, 1)
    assert decision.action.shape == (7, 4, 3)
    assert decision.log_prob.shape == (7, links)
    score = policy.score({"proprio": observation["proprio"][None]}, decision.chain[None])
    assert score.log_prob.shape == (1, 7, links)
    assert score.entropy.shape == (1, 7)
    torch.testing.assert_close(score.log_prob[0], decision.log_prob, atol=1e-5, rtol=0)


@pytest.mark.parametrize("process", PROCESSES)
def test_every_tuned_weight_gets_a_gradient(process: str) -> None:
    policy, observation = make(process), observe(64)
    decision, _ = policy.act(observation, generator=generator())
    score = policy.score({"proprio": observation["proprio"][None]}, decision.chain[None])
    score.log_prob.sum().backward()
    missing = [name for name, p in policy.tuned.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []
    if policy.base is not None:
        assert all(p.grad is None for p in policy.base.parameters())


def test_a_wrong_time_grid_would_be_caught() -> None:
    """ReinFlow's released code draws on linspace(0, 1, K) and scores on linspace(0, 1 - 1/K, K)."""
    policy, observation = make("reinflow"), observe(7)
    decision, _ = policy.act(observation, generator=generator())
    policy.links.times = torch.linspace(0, 1, policy.links.steps)
    score = policy.score({"proprio": observation["proprio"][None]}, decision.chain[None])
    assert (score.log_prob[0] - decision.log_prob).abs().max() > 1e-3


def test_deterministic_acting_depends_on_the_first_draw_alone() -> None:
    for process in ("ddim", "reinflow", "flow_sde", "one_random_step", "fpo"):
        policy, observation = make(process), observe(3)
        first, _ = policy.act(observation, generator=generator(1), deterministic=True)
        second, _ = policy.act(observation, generator=generator(1), deterministic=True)
        assert torch.equal(first.action, second.action)
    noisy, _ = make("reinflow").act(observe(3), generator=generator(1))
    calm, _ = make("reinflow").act(observe(3), generator=generator(1), deterministic=True)
    assert not torch.equal(noisy.action, calm.action)


def test_constant_spread_gives_the_gaussian_chain() -> None:
    """With a band of one value ReinFlow's links are plain Gaussians of that spread."""
    policy = make("reinflow", process=FlowConfig(std_range=(0.1, 0.1)), reduce="sum")
    observation = observe(4)
    decision, _ = policy.act(observation, generator=generator())
    states = decision.chain.view(4, 5, 4, 3)
    features = policy.features(observation)
    shared = policy.tuned.denoiser.encode(features)
    for i in range(4):
        mean = states[:, i] + policy.tuned.denoiser(shared, states[:, i : i + 1], torch.tensor([i / 4]))[:, 0] / 4
        expected = gaussian_log_prob(states[:, i + 1].flatten(1), mean.flatten(1), torch.full((12,), 0.1).log())
        torch.testing.assert_close(decision.log_prob[:, i], expected, atol=1e-4, rtol=0)


def test_one_step_of_diffusion_is_a_gaussian_policy() -> None:
    """K = 1, H = 1: one link with standard deviation 0.1 around a mean, its density the Gaussian's."""
    policy = make("ddpm", horizon=1, executed=1, process=DiffusionConfig(train_steps=1), reduce="sum")
    decision, _ = policy.act(observe(4), generator=generator())
    states = decision.chain.view(4, 2, 3)
    x0 = policy._link(
        policy.tuned,
        policy.features(observe(4)),
        policy.tuned.denoiser.encode(policy.features(observe(4))),
        states[:, :1, None],
        torch.tensor([0]),
    )[0][:, 0, 0]
    expected = gaussian_log_prob(states[:, 1], x0, torch.full((3,), 0.1).log())
    torch.testing.assert_close(decision.log_prob[:, 0], expected, atol=1e-4, rtol=0)


def test_executed_part_alone_is_scored() -> None:
    policy = make("ddpm", executed=2)
    decision, _ = policy.act(observe(4), generator=generator())
    assert decision.action.shape == (4, 2, 3)
    states = decision.chain.view(4, 7, 4, 3).clone()
    states[:, -1, 2:] += 1.0  # the last state's unexecuted rows enter no link's density
    score = policy.score({"proprio": observe(4)["proprio"][None]}, states.flatten(1)[None])
    torch.testing.assert_close(score.log_prob[0], decision.log_prob, atol=1e-5, rtol=0)


def test_fpo_ratio_rises_where_the_loss_falls() -> None:
    policy, observation = make("fpo"), observe(16)
    decision, _ = policy.act(observation, generator=generator())
    batch = {"proprio": observation["proprio"][None]}
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.05)
    (-policy.score(batch, decision.chain[None]).log_prob.mean()).backward()
    optimiser.step()
    assert policy.score(batch, decision.chain[None]).log_prob.mean() > decision.log_prob.mean()


def test_a_contracting_flow_begins_with_a_third_of_its_noise() -> None:
    """Velocity near -x: (1 - 1/4)^4 = 0.316 of the noise is left after four Euler steps."""
    policy = make("reinflow", network=MlpDenoiserConfig(width=32, contract=True))
    for parameter in policy.tuned.denoiser.out.parameters():
        torch.nn.init.zeros_(parameter)
    noise = torch.randn(5, 4, 3, generator=generator())
    torch.testing.assert_close(policy.integrate(observe(5), noise), noise * 0.75**4)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_contracting_diffusion_shrinks_its_noise(network: str) -> None:
    """Noise predicted as x: a DDIM step makes a' (1 - s) / a + s' of x, where a^2 = alpha_bar, s^2 = 1 - alpha_bar."""
    policy = make("ddim", network, network=dataclasses.replace(NETWORKS[network], contract=True))
    net = policy.tuned.denoiser
    for layer in net.expert.out.last_layers() if network == "trunk" else (net.out,):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    left, table = 1.0, cosine_alpha_bar(20)[torch.tensor([16, 12, 8, 4, 0])].tolist()
    for now, after in pairwise([*table, 1.0]):
        left *= after**0.5 * (1 - (1 - now) ** 0.5) / now**0.5 + (1 - after) ** 0.5
    assert left < 0.5, "control: it is a contraction"
    noise = 0.3 * torch.randn(5, 4, 3, generator=generator())
    torch.testing.assert_close(policy.integrate(observe(5), noise), noise * left, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("process", ["ddim", "reinflow"])
def test_imitation_learns_two_modes(process: str) -> None:
    """Actions -0.5 or +0.5, half each: samples come near both; the mean of a Gaussian fit would be at 0."""
    policy = make(process, horizon=1, executed=1)
    optimiser = torch.optim.Adam(policy.parameters(), lr=3e-3)
    g = generator()
    for _ in range(600):
        sign = torch.randint(2, (128, 1, 1), generator=g) * 2.0 - 1.0
        loss = policy.imitation_loss({"proprio": torch.zeros(128, 5)}, 0.5 * sign.expand(-1, 1, 3), g).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    decision, _ = policy.act({"proprio": torch.zeros(500, 5)}, generator=g, deterministic=True)
    action = decision.action[:, 0].mean(-1)
    assert ((action.abs() - 0.5).abs() < 0.2).float().mean() > 0.8
    assert 0.3 < (action > 0).float().mean() < 0.7


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="min_log_prob_std"):
        DiffusionConfig(min_sampling_std=0.2)
    with pytest.raises(ValueError, match="one_random_step"):
        FlowConfig(one_random_step=True)
    with pytest.raises(ValueError, match="horizon: expected a multiple of 2"):
        make("ddpm", "unet", horizon=3, executed=3)
