"""Every kind of policy keeps the contract; a policy that breaks one rule is caught by that rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.test_fast_vla import tiny_fast_vla
from tests.policies.tiny_vla import SENTENCES, tiny_backbone, tiny_config, tiny_diffusion_config, tiny_token_config
from tests.prismatic_folders import save_oft, save_openvla
from tests.tiny_vlm import save_pi0, save_smolvlm, save_tokenizer

from toddle.core.protocols import FineTunable, Imitating, Scorable
from toddle.core.types import BodySpec, Decision, Observation, Score
from toddle.data.statistics import feature_statistics
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.models.resnet import ResNetConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.check_policy import check_policy
from toddle.policies.conditioned import ConditionedConfig, ConditionedPolicy
from toddle.policies.consistency import ConsistencyConfig, ConsistencyPolicy
from toddle.policies.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.diffusion_vla import DiffusionVLA
from toddle.policies.fast_language_vla import FastLanguageVLA, fast_language_config
from toddle.policies.fast_vla import FastVLA
from toddle.policies.fpo import FPOConfig, FPOPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.language_vla import LanguageVLA, LanguageVLAConfig, Unsaid
from toddle.policies.links import DiffusionConfig, FlowConfig
from toddle.policies.pi0 import Pi0Config, Pi0Policy
from toddle.policies.recovering import RecoveringConfig, RecoveringPolicy
from toddle.policies.squashed_gaussian import SquashedGaussianConfig, SquashedGaussianPolicy
from toddle.policies.steered import SteeredConfig, SteeredPolicy
from toddle.policies.store import KINDS, classes_of
from toddle.policies.token_vla import TokenVLA
from toddle.policies.tokens import TokenConfig, TokenPolicy
from toddle.policies.vla import FlowVLA

ARM = BodySpec(name="arm", proprio=5, action=3, dt=0.05)
SMALL = MlpDenoiserConfig(width=16)
Make = Callable[[Path], tuple[Any, Observation]]


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


def squashed(folder: Path) -> tuple[Any, Observation]:
    return SquashedGaussianPolicy(SquashedGaussianConfig(body=ARM, hidden=(16,), horizon=2)), state()


def conditioned(folder: Path) -> tuple[Any, Observation]:
    return ConditionedPolicy(ConditionedConfig(body=ARM, hidden=(16,), asks="return", guidance=1.5)), state()


def decision_transformer(folder: Path) -> tuple[Any, Observation]:
    return DecisionTransformer(DecisionTransformerConfig(body=ARM, window=3, width=8, depth=1)), state()


def consistency(folder: Path) -> tuple[Any, Observation]:
    return ConsistencyPolicy(ConsistencyConfig(body=ARM, network=MlpDenoiserConfig(width=8))), state()


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


def steered(mode: str) -> Make:
    """A flow VLA with a small actor over it that has its say in half of the decisions."""

    def make(folder: Path) -> tuple[Any, Observation]:
        save_embedded(folder / "eyes", tiny_backbone())
        base = FlowVLA.from_config(replace(tiny_config(), backbone=BackboneConfig(name=str(folder / "eyes"))))
        settings: Any = {"mode": mode, "scale": 0.7, "hidden": (16,), "steps": 3}
        policy = SteeredPolicy(SteeredConfig(**settings), base, {"image_size": 32})
        policy.share.fill_(0.5)
        return policy, seen(32)

    return make


def diffusion_vla(folder: Path) -> tuple[Any, Observation]:
    save_embedded(folder / "eyes", tiny_backbone())
    backbone = BackboneConfig(name=str(folder / "eyes"))
    return DiffusionVLA.from_config(tiny_diffusion_config(body=ARM, backbone=backbone)), seen(32)


def diffusion_resnet(folder: Path) -> tuple[Any, Observation]:
    save_embedded(folder / "eyes", tiny_backbone())
    eyes = ResNetConfig(channels=(16, 32), blocks=1)  # of 4 and 8: docs/LOG.md, 2026-11-30
    more: dict[str, Any] = {"eyes": "resnet", "resnet": eyes, "network": SMALL}
    settings = tiny_diffusion_config(body=ARM, backbone=BackboneConfig(name=str(folder / "eyes")), **more)
    return DiffusionVLA.from_config(settings), seen(32)


def token_vla(folder: Path, **more: Any) -> tuple[Any, Observation]:
    save_embedded(folder / "eyes", tiny_backbone())
    config = tiny_token_config(**more)
    return TokenVLA.from_config(replace(config, backbone=BackboneConfig(name=str(folder / "eyes")))), seen(32)


def fast_vla(folder: Path) -> tuple[Any, Observation]:
    save_embedded(folder / "eyes", tiny_backbone())
    made = tiny_fast_vla(ratio_per="token", temperature=1.3).config
    eyes = BackboneConfig(name=str(folder / "eyes"))
    return FastVLA.from_config(replace(made, backbone=eyes, fingerprint="")), seen(32)


def oft_tokens(folder: Path) -> tuple[Any, Observation]:
    return token_vla(folder, decoding="parallel", ratio_per="token")


def oft(folder: Path) -> tuple[Any, Observation]:
    return token_vla(folder, decoding="parallel", head="laplace", ratio_per="chunk", temperature=1.5)


def pi0(folder: Path) -> tuple[Any, Observation]:
    source = save_pi0(folder / "pi0")
    return Pi0Policy.from_pretrained(Pi0Config(source=str(source), body=ARM, executed=4, text_tokens=9)), seen(24)


def lerobots(kind: str, room: int) -> Make:
    """One that LeRobot wrote."""

    def make(folder: Path) -> tuple[Any, Observation]:
        save_tokenizer(folder)
        policy, config = classes_of(kind)
        source = str(Path(__file__).parent / f"data/lerobot_{kind}")
        given = {"source": source, "tokenizer": str(folder), "body": ARM, "executed": 4, "text_tokens": room}
        return policy.from_pretrained(config(**given)), seen(24)

    return make


def openvla(folder: Path) -> tuple[Any, Observation]:
    source = save_openvla(folder / "openvla")
    body = BodySpec(name="arm", proprio=5, action=7, dt=0.2)
    return LanguageVLA.from_config(LanguageVLAConfig(source=str(source), body=body, lora_rank=2)), seen(40)


def openvla_oft(folder: Path) -> tuple[Any, Observation]:
    source, body = save_oft(folder / "oft", proprio=False), BodySpec(name="arm", proprio=5, action=7, dt=0.2)
    unsaid = Unsaid(horizon=4, attention="bidirectional")
    return LanguageVLA.from_config(
        LanguageVLAConfig(source=str(source), body=body, unsaid=unsaid, executed=2, lora_rank=0)
    ), seen(40)


def smolvlm(folder: Path) -> tuple[Any, Observation]:
    (folder / "smolvlm").mkdir()
    source = str(save_smolvlm(folder / "smolvlm"))
    policy = LanguageVLA.from_config(LanguageVLAConfig(source=source, body=ARM, unsaid=Unsaid(horizon=2)))
    numbers = np.linspace(-1, 2, 30).reshape(10, 3)
    policy.fit_normalization(torch.zeros(1, 5), feature_statistics(numbers), "min_max", 0)
    return policy, seen(24)


def fast_smolvlm(folder: Path) -> tuple[Any, Observation]:
    (folder / "smolvlm").mkdir()
    source, code = str(save_smolvlm(folder / "smolvlm")), tiny_fast_vla().config.code
    plain = LanguageVLAConfig(source=source, body=ARM, unsaid=Unsaid(horizon=4), executed=2)
    policy = FastLanguageVLA.from_config(fast_language_config(plain, code))
    numbers = np.linspace(-1, 2, 30).reshape(10, 3)
    policy.fit_normalization(torch.zeros(1, 5), feature_statistics(numbers), "min_max", 0)
    return policy, seen(24)


def recovering(folder: Path) -> tuple[Any, Observation]:
    policy = RecoveringPolicy(RecoveringConfig(body=ARM, hidden=(16,), risk_hidden=(16,), horizon=2, threshold=0.5))
    policy.armed.fill_(True)
    return policy, state()


MADE: dict[str, tuple[Make, ...]] = {
    "gaussian": (gaussian,),
    "squashed_gaussian": (squashed,),
    "recovering": (recovering,),
    "conditioned": (conditioned,),
    "consistency": (consistency,),
    "decision_transformer": (decision_transformer,),
    "causal": (causal,),
    "denoising": (diffusion, flow),
    "fpo": (fpo,),
    "tokens": (tokens,),
    "diffusion_vla": (diffusion_vla, diffusion_resnet),
    "token_vla": (token_vla, oft_tokens, oft),
    "fast_vla": (fast_vla,),
    "fast_language_vla": (fast_smolvlm,),
    "flow_vla": (flow_vla,),
    "language_vla": (openvla, openvla_oft, smolvlm),
    "pi0": (pi0,),
    "pi05": (lerobots("pi05", 90),),
    "smolvla": (lerobots("smolvla", 9),),
    "steered": (steered("noise"), steered("residual")),
}
LEARN: dict[str, tuple[type[Any], ...]] = {
    **dict.fromkeys(
        ("gaussian", "squashed_gaussian", "recovering", "tokens", "denoising", "fpo"), (Scorable, Imitating)
    ),
    **dict.fromkeys(("causal", "conditioned"), (Scorable,)),
    "consistency": (Imitating,),
    **dict.fromkeys(("steered", "decision_transformer"), ()),
    **dict.fromkeys(("flow_vla", "pi0", "pi05", "smolvla"), (FineTunable,)),
    **dict.fromkeys(
        ("diffusion_vla", "token_vla", "fast_vla", "language_vla", "fast_language_vla"), (Scorable, FineTunable)
    ),
}
"""What a kind can learn by: what `check_policy` looks at is what is meant to be there."""


def cases(kinds: Iterable[str]) -> list[tuple[str, Make]]:
    """Every stored kind with each of its makers; a kind that nobody makes is a KeyError."""
    return [(kind, make) for kind in kinds for make in MADE[kind]]


@pytest.mark.parametrize(("kind", "make"), cases(KINDS), ids=lambda value: getattr(value, "__name__", value))
def test_every_stored_kind_keeps_the_contract(kind: str, make: Make, tmp_path: Path) -> None:
    policy, observation = make(tmp_path)
    assert policy.kind == kind
    assert tuple(p for p in (Scorable, Imitating, FineTunable) if isinstance(policy, p)) == LEARN[kind]
    check_policy(policy, observation)


def test_a_kind_that_is_not_checked_is_an_error() -> None:
    with pytest.raises(KeyError, match="diffusion_forest"):
        cases({**KINDS, "diffusion_forest": ("", "", "")})


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

    def imitation_loss(self, observation: Observation, action: torch.Tensor, generator: torch.Generator) -> Any:
        loss = super().imitation_loss(observation, action, generator)
        if self.lie == "dice":
            return loss + torch.rand(())
        return {"mean": loss.mean(), "stiff": loss.detach()}.get(self.lie, loss)


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
        ("mean", r"imitation_loss: expected \(4,\)"),
        ("dice", "imitation_loss: the same generator"),
        ("stiff", "imitation_loss: no gradient"),
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


@pytest.mark.parametrize(
    ("name", "lie", "complaint"),
    [
        ("body_index", lambda self, name: 0, "body_index: an unknown body"),
        ("trunk_parameters", lambda self: {"elsewhere": torch.nn.Parameter(torch.ones(1))}, "no parameters of its own"),
        ("window_sizes", property(lambda self: (4, 1, 3)), "window_sizes: do not fit"),
        ("loss", lambda self, batch, generator: (torch.zeros(()), {}), "loss: no gradient"),
        ("trunk_tokens", lambda self, batch: torch.rand(3, 2), "trunk_tokens"),
    ],
)
def test_a_lie_of_a_vla_is_caught(
    name: str, lie: Any, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, observation = flow_vla(tmp_path)
    monkeypatch.setattr(FlowVLA, name, lie)
    with pytest.raises(AssertionError, match=complaint):
        check_policy(policy, observation)
