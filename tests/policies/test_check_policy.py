"""Every kind of policy keeps the contract; a policy that breaks one rule is caught by that rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.policies.tiny_vla import SENTENCES, tiny_backbone, tiny_config
from tests.tiny_vlm import save_pi0

from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.check_policy import check_policy
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.links import DiffusionConfig, FlowConfig
from toddle.policies.pi0 import Pi0Config, Pi0Policy
from toddle.policies.store import KINDS
from toddle.policies.tokens import TokenConfig, TokenPolicy
from toddle.policies.vla import FlowVLA

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
SMALL = MlpDenoiserConfig(width=16)


def state(batch: int = 4) -> Observation:
    return Observation(proprio=torch.randn(batch, 5, generator=torch.Generator().manual_seed(0)))


def seen(size: int, batch: int = 3) -> Observation:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 1, 3, size, size), generator=g, dtype=torch.uint8)
    return Observation(
        proprio=torch.randn(batch, 5, generator=g),
        images=images,
        instruction=list(SENTENCES),
        task=torch.tensor([2, 0, 1])[:batch],
    )


def gaussian(folder: Path) -> tuple[Any, Observation]:
    return GaussianPolicy(GaussianConfig(bodies=(ARM,), hidden=(16,), horizon=2)), state()


def causal(folder: Path) -> tuple[Any, Observation]:
    trunk = TrunkConfig(width=24, depth=2, heads=2, context_width=8)
    expert = ExpertConfig(trunk=trunk, bodies=(ARM,), horizon=4, executed=2, window=3)
    return CausalPolicy(CausalConfig(expert=expert, noise_correlation=0.5)), state()


def diffusion(folder: Path) -> tuple[Any, Observation]:
    process = DiffusionConfig(train_steps=6, tuned_steps=3)
    return DenoisingPolicy(DenoisingConfig(body=ARM, network=SMALL, process=process, executed=3)), state()


def flow(folder: Path) -> tuple[Any, Observation]:
    process = FlowConfig(noise="flow_sde", one_random_step=True)
    return DenoisingPolicy(DenoisingConfig(body=ARM, network=SMALL, process=process)), state()


def fpo(folder: Path) -> tuple[Any, Observation]:
    return FPOPolicy(FPOConfig(body=ARM, network=SMALL, steps=3)), state()


def tokens(folder: Path) -> tuple[Any, Observation]:
    return TokenPolicy(TokenConfig(body=ARM, horizon=2, bins=7, temperature=1.3)), state()


def flow_vla(folder: Path) -> tuple[Any, Observation]:
    save_embedded(folder / "eyes", tiny_backbone())
    return FlowVLA.from_config(
        replace(tiny_config(window=2), backbone=BackboneConfig(name=str(folder / "eyes")))
    ), seen(32)


def pi0(folder: Path) -> tuple[Any, Observation]:
    source = save_pi0(folder / "pi0")
    return Pi0Policy.from_pretrained(Pi0Config(source=str(source), body=ARM, executed=4, text_tokens=9)), seen(24)


MADE: tuple[Callable[[Path], tuple[Any, Observation]], ...] = (
    gaussian,
    causal,
    diffusion,
    flow,
    fpo,
    tokens,
    flow_vla,
    pi0,
)


@pytest.mark.parametrize("make", MADE, ids=lambda make: make.__name__)
def test_every_policy_keeps_the_contract(make: Callable[[Path], tuple[Any, Observation]], tmp_path: Path) -> None:
    policy, observation = make(tmp_path)
    check_policy(policy, observation)


def test_every_stored_kind_is_checked(tmp_path: Path) -> None:
    assert {make(tmp_path / make.__name__)[0].kind for make in MADE if make not in (flow_vla, pi0)} | {
        "flow_vla",
        "pi0",
    } == set(KINDS)


class _Lies(GaussianPolicy):
    """A Gaussian policy that breaks the rule it is told to break."""

    lie = ""

    def act(self, observation: Observation, memory: Any = None, **options: Any) -> Any:
        if self.lie == "unseeded":
            options["generator"] = None
        decision, _ = super().act(observation, memory, **options)
        action, log_prob = decision.action, decision.log_prob
        if self.lie == "short":
            action = action[:, :1]
        if self.lie == "infinite":
            action = action * float("inf")
        if self.lie == "batch":
            action = action + action.mean(0)
        if self.lie == "remembers":
            memory = (0 if memory is None else memory) + 1
            action = action + memory
        if self.lie == "flat":
            log_prob = log_prob[:, 0]
        if self.lie == "density":
            log_prob = log_prob + 0.1
        return Decision(action, decision.chain, log_prob), memory

    def encode(self, observation: Observation) -> Observation:
        if self.lie == "forgets":
            return Observation(**{**observation, "proprio": observation["proprio"] * 0})  # type: ignore[typeddict-item]
        return observation

    def score(self, observation: Observation, chain: torch.Tensor) -> Score:
        score = super().score(observation, chain)
        if self.lie == "detached":
            return Score(*(None if value is None else value.detach().requires_grad_() for value in score))
        return score._replace(entropy=score.entropy[0]) if self.lie == "entropy" else score


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        ("short", "expected actions"),
        ("infinite", "action is not finite"),
        ("unseeded", "the same generator gave other actions"),
        ("batch", "when it is alone"),
        ("remembers", "depends on the one before"),
        ("flat", r"log_prob \(B, L\)"),
        ("forgets", "encode"),
        ("density", "log_prob differs from act's by 0.1"),
        ("detached", "no gradient reaches"),
        ("entropy", "expected entropy"),
    ],
)
def test_a_lie_is_caught(lie: str, complaint: str) -> None:
    policy = _Lies(GaussianConfig(bodies=(ARM,), hidden=(16,), horizon=2))
    with torch.no_grad():
        policy.nets[0].mlp.weight_1.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, operator]
    honest = copy.deepcopy(policy)
    check_policy(honest, state())
    policy.lie = lie
    with pytest.raises(AssertionError, match=complaint):
        check_policy(policy, state())
