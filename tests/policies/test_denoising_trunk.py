"""The action expert as a denoiser: the way of training, of acting and of the VLA give the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.goal import GOAL_FEATURES
from toddle.core.types import BodySpec, Observation
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.denoising_trunk import TrunkDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig
from toddle.policies.store import load_policy, save_policy

BODY = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
TRUNK = TrunkConfig(width=16, depth=4, heads=2, context_width=12, modulation="residual")
PROCESSES = {
    "ddpm": DiffusionConfig(train_steps=6),
    "ddim": DiffusionConfig(train_steps=20, ddim_steps=5),
    "ddpm_tail": DiffusionConfig(train_steps=6, tuned_steps=2),
    "reinflow": FlowConfig(),
    "one_random_step": FlowConfig(noise="flow_sde", one_random_step=True),
    "fpo": None,
}


def make(name: str, contract: bool = False, **changes: Any) -> Any:
    """A policy whose every weight is away from its initial value, as training leaves it."""
    network = TrunkDenoiserConfig(trunk=TRUNK, bank_hidden=16, goal_hidden=16, contract=contract)
    shared: dict[str, Any] = {"body": BODY, "network": network, "horizon": 6, "executed": 4, "goal_width": 7}
    policy: Any
    if name == "fpo":
        policy = FPOPolicy(FPOConfig(**shared | {"steps": 5} | changes))
    else:
        policy = DenoisingPolicy(DenoisingConfig(**shared | {"process": PROCESSES[name]} | changes))
    g = torch.Generator().manual_seed(7)
    for parameter in policy.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    policy.update_normaliser(Observation(proprio=torch.randn(200, 5, generator=g) * 3 + 1))
    policy.finish_imitation()
    return policy


def observe(batch: int, seed: int = 0) -> Observation:
    g = torch.Generator().manual_seed(seed)
    goal = torch.randn(batch, 2, GOAL_FEATURES, generator=g)
    goal[..., 0] = torch.randint(9, (batch, 2), generator=g)
    mask = torch.tensor([[True, False], [True, True]])[torch.arange(batch) % 2]
    return Observation(proprio=torch.randn(batch, 5, generator=g), goal=goal, goal_mask=mask)


def one_row(observation: Observation) -> Any:
    return {key: value[None] for key, value in observation.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("contract", [False, True])
@pytest.mark.parametrize("process", PROCESSES)
def test_scoring_all_links_in_one_pass_is_acting_link_by_link(process: str, contract: bool) -> None:
    policy, observation = make(process, contract), observe(9)
    decision, _ = policy.act(observation, generator=torch.Generator().manual_seed(0))
    assert 0 < decision.chain[:, -1].sum() < 9, "some goals are hidden"
    score = policy.score(one_row(observation), decision.chain[None])
    torch.testing.assert_close(score.log_prob[0], decision.log_prob, atol=1e-5, rtol=0)
    other = decision.chain.clone()
    other[:, -1] = 1 - other[:, -1]
    wrong = policy.score(one_row(observation), other[None])
    assert (wrong.log_prob[0] - decision.log_prob).abs().max() > 1e-4, "control: the goal matters"


@pytest.mark.parametrize("contract", [False, True])
@pytest.mark.parametrize("process", ["ddim", "reinflow"])
def test_the_denoiser_is_the_experts_own_forward_and_its_cached_one(process: str, contract: bool) -> None:
    """Three ways through the same weights: all links at once, a segment of one decision, the ring of the VLA."""
    policy, observation, g = make(process, contract), observe(5), torch.Generator().manual_seed(3)
    net = policy.trunk
    assert net is not None
    x, tau = torch.randn(5, 4, 6, 3, generator=g), torch.rand(5, 4, generator=g)
    dropped = torch.tensor([True, False, False, False, True])
    done = net(net.encode(observation, dropped), x, tau)
    context, mask = net.goals(observation["goal"], observation["goal_mask"], dropped, (5,))
    cache = net.expert.prefix(observation, context, mask, net.expert.initial_cache(5))
    for link in range(4):
        plain = net.expert(one_row(observation), context[None], mask[None], x[None, :, link], tau[None, :, link])[0]
        torch.testing.assert_close(done[:, link], plain, atol=1e-5, rtol=0)
        cached = net.expert.slots(cache, x[:, link], tau[:, link])
        torch.testing.assert_close(done[:, link], cached, atol=1e-5, rtol=0)
    shared = net(net.encode(observation, dropped), x, tau[0])
    one_by_one = net(net.encode(observation, dropped), x, tau[:1].expand(5, -1))
    torch.testing.assert_close(shared, one_by_one, atol=1e-6, rtol=0)


@pytest.mark.parametrize("process", PROCESSES)
def test_every_weight_that_can_matter_gets_a_gradient(process: str) -> None:
    policy, observation = make(process), observe(64)
    decision, _ = policy.act(observation, generator=torch.Generator().manual_seed(0))
    policy.score(one_row(observation), decision.chain[None]).log_prob.sum().backward()
    missing = {name for name, p in policy.tuned.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    idle = {f"denoiser.expert.tokens.past_in.mlps.arm.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert missing == idle  # a window of 1 hides the past action
    assert policy.base is None or all(p.grad is None for p in policy.base.parameters())


def test_goals_are_hidden_in_training_alone() -> None:
    policy = make("reinflow").eval()
    decision, _ = policy.act(observe(64), generator=torch.Generator().manual_seed(0))
    assert decision.chain[:, -1].sum() == 0
    decision, _ = policy.train().act(observe(64), generator=torch.Generator().manual_seed(0))
    assert 3 <= decision.chain[:, -1].sum() <= 20  # 64 at 0.15


@pytest.mark.parametrize("process", ["ddim", "ddpm_tail", "reinflow"])
def test_round_trip_to_a_folder(process: str, tmp_path: Any) -> None:
    policy = make(process).eval()
    save_policy(tmp_path, policy)
    loaded = load_policy(tmp_path)
    first, second = (
        p.act(observe(5), generator=torch.Generator().manual_seed(1), deterministic=True)[0] for p in (policy, loaded)
    )
    assert torch.equal(first.action, second.action)


def test_statistics_that_are_fixed_stay() -> None:
    policy = make("reinflow", fixed_statistics=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    policy.update_normaliser(Observation(proprio=torch.randn(50, 5)))
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    policy.fit_normaliser(Observation(proprio=torch.randn(50, 5)))
    assert not torch.equal(policy.state_dict()["features.scale.mean"], before["features.scale.mean"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"trunk.modulation: expected residual"):
        TrunkDenoiserConfig(trunk=TrunkConfig())
    with pytest.raises(InputError, match="condition: expected 0 with a trunk"):
        make("ddpm", condition=3)
    make("ddpm", condition=3, network=MlpDenoiserConfig(width=8))
