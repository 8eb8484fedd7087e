"""Where `toddle sft` begins: a stored policy, a pi0, the architecture of another, or fresh weights of five kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import Positive, Seed, Size
from toddle.core.protocols import FineTunable
from toddle.core.types import BodySpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.models.backbones.base import BackboneConfig
from toddle.models.denoisers import MlpDenoiserConfig, UnetConfig
from toddle.models.expert import ExpertConfig
from toddle.models.fast import FastSettings, train_fast
from toddle.models.resnet import ResNetConfig
from toddle.models.token_decoder import DecoderConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.diffusion_vla import DiffusionVLA, DiffusionVLAConfig
from toddle.policies.fast_vla import FastVLA, fast_config
from toddle.policies.foreign import expert_kind
from toddle.policies.links import DiffusionConfig
from toddle.policies.store import classes_of, load_policy, policy_card
from toddle.policies.token_vla import TokenVLA, TokenVLAConfig
from toddle.policies.unsaid import Unsaid
from toddle.policies.vla import FlowVLA, FlowVLAConfig

__all__ = ["FreshDiffusion", "FreshExpert", "FreshTokens", "StartConfig", "start_policy"]


Chunks = Callable[[int, int], Tensor]
"""Gives, of H and the actions executed of it, the demonstrated chunks (N, H, A), normalised."""


@config
class FreshExpert:
    """The action expert of `--init random` (an init folder brings its own)."""

    trunk: TrunkConfig = field(default_factory=lambda: TrunkConfig(modulation="residual"))
    """The transformer."""
    horizon: Size = 8
    """H, actions of a chunk."""
    executed: Size = 8
    """Actions of a chunk that are executed before the next decision."""
    window: Size = 1
    """Decisions the history reaches back; 1 is the present alone."""
    head: Literal["velocity", "endpoint"] = "velocity"
    """What the decoder gives: the flow's velocity or the estimated end of the flow."""
    slot_mask: Literal["causal", "bidirectional"] = "causal"
    """Whether an action slot sees the later ones."""
    steps: Size = 8
    """Euler steps when acting."""
    source: Literal["noise", "previous"] = "noise"
    """Where the flow comes from: noise, or the last action that was executed, with noise of `spread` (with --like
    too).  RL that needs the density of a chunk needs noise."""
    spread: Positive = 0.1
    """Deviation of the noise on the last action, in normalised actions."""


@config
class FreshTokens:
    """The VLA of tokens of `--kind tokens`, `--kind fast` and `--kind oft`."""

    decoder: DecoderConfig = DecoderConfig()
    """The decoder of action tokens."""
    horizon: Size = 8
    """H, actions of a chunk in training."""
    executed: Size = 8
    """Actions that are said and executed in one decision."""
    bins: Size = 256
    """Tokens of a number (not with --kind fast)."""
    thought: bool = False
    """--kind tokens: say first, as one action that is not executed, what the whole chunk comes to."""
    fast: FastSettings = FastSettings()
    """How --kind fast writes a chunk."""


@config
class FreshDiffusion:
    """The diffusion policy of `--kind diffusion`."""

    eyes: Literal["backbone", "resnet"] = "backbone"
    """What sees: the frozen backbone, or a ResNet that learns with the policy, from pictures alone (no sentence)."""
    resnet: ResNetConfig = ResNetConfig()
    """The ResNet."""
    network: Literal["unet", "mlp"] = "unet"
    """What denoises: a 1-D U-Net over the chunk, or a multilayer perceptron."""
    unet: UnetConfig = UnetConfig()
    """The U-Net."""
    mlp: MlpDenoiserConfig = MlpDenoiserConfig()
    """The multilayer perceptron."""
    process: DiffusionConfig = DiffusionConfig(ddim_steps=5)
    """How the chunk is drawn."""
    horizon: Size = 8
    """H, actions of a chunk."""
    executed: Size = 8
    """Actions that are executed before the next decision."""


@config
class LanguageStart:
    """How a VLA learns that says actions in a language model's words, and what no file of an OpenVLA says."""

    unsaid: Unsaid = Unsaid()
    """How it was trained."""
    say: Literal["numbers", "fast"] = "numbers"
    """What a word means: a number, or a piece of the chunk's frequencies, by --tokens.fast (at most 256 of them)."""
    executed: Size | None = None
    """Actions that are said and executed in one decision; None: all of the chunk."""
    lora_rank: Size = 32
    """Rank of LoRA."""
    lora_alpha: Positive = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    lora_on: Literal["attention", "all", "everything"] = "attention"
    """Which layers LoRA is on: the language model's of attention, its MLPs' too, or every linear layer of towers,
    projector and language model (everything, as upstream)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number type of the model's own weights."""


@config
class VLMStart:
    """What learns of the vision-language model of a pi0, pi0.5 or SmolVLA, beside its expert."""

    train: Literal["expert", "lora", "all"] = "expert"
    """Nothing (expert), LoRA on it, or all of it."""
    lora_rank: Size = 8
    """Rank of LoRA."""
    lora_alpha: Positive = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    lora_on: Literal["attention", "all"] = "attention"
    """Which layers LoRA is on: attention of language model and picture tower, or the language model's MLPs too."""


@config
class StartConfig:
    """Which policy is fine-tuned."""

    init: str = "random"
    """'random' for a fresh expert, or a policy folder: of `toddle transfer`, of an earlier SFT, or of others'
    weights (a pi0, pi0.5, SmolVLA, OpenVLA: docs/checkpoints.md)."""
    tokenizer: str = ""
    """Where the folder has none: folder or hub id of PaliGemma's tokenizer with a pi0 or pi0.5, of SmolVLM2's with a
    SmolVLA; folder of Llama-2's tokenizer.json with an OpenVLA."""
    language: LanguageStart = LanguageStart()
    """With the folder of an OpenVLA or OpenVLA-OFT, and with --kind language."""
    vlm: VLMStart = VLMStart()
    """With the folder of a pi0, pi0.5 or SmolVLA."""
    like: Path | None = None
    """With --init random: a policy folder whose architecture is copied, not its weights (a fair baseline)."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The vision-language model (with --init random; of a pi0 its text_tokens alone, which are at least 48)."""
    kind: Literal["flow", "diffusion", "tokens", "fast", "oft", "oft-tokens", "language"] = "flow"
    """With --init random, how it acts: a flow from noise; a diffusion from noise (S1's warm start, DPPO's policy);
    tokens one by one, each a number (OpenVLA) or a piece of the chunk's frequencies (FAST); a number for each at once,
    by the L1 loss (OpenVLA-OFT), or tokens at once; or words of the backbone's own language model (OpenVLA's way)."""
    expert: FreshExpert = field(default_factory=FreshExpert)
    """The action expert (with --init random, kind flow)."""
    diffusion: FreshDiffusion = FreshDiffusion()
    """The diffusion policy (with --init random, kind diffusion)."""
    tokens: FreshTokens = FreshTokens()
    """The decoder (with --init random, the other kinds)."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras of the dataset that are read (with --init random)."""
    seed: Seed = 0
    """Seed of fresh weights, order of samples and noise."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        if self.kind != "flow" and (self.init != "random" or self.like is not None):
            raise problem("kind", "flow with --init <folder> or --like", self.kind, "the folder says how it acts")
        if self.like is not None and self.init != "random":
            raise problem("like", "nothing with --init <folder>", str(self.like), "it brings its own architecture")
        came = FreshExpert().source, FreshExpert().spread
        if (self.kind != "flow" or self.init != "random") and (self.expert.source, self.expert.spread) != came:
            found = f"{self.expert.source}, {self.expert.spread:g}"
            raise problem("expert.source, expert.spread", "nothing without --init random and kind flow", found)
        if self.expert.source == "noise" and self.expert.spread != came[1]:
            raise problem("expert.spread", "nothing without --expert.source previous", self.expert.spread)
        if self.kind == "fast" and self.tokens.bins != FreshTokens().bins:
            remedy = "the number of its tokens is --tokens.fast.vocabulary"
            raise problem("tokens.bins", "nothing with --kind fast", self.tokens.bins, remedy)
        if self.kind != "fast" and self.language.say != "fast" and self.tokens.fast != FastSettings():
            want = "nothing without --kind fast or --language.say fast"
            raise problem("tokens.fast", want, str(self.tokens.fast))


def start_policy(config: StartConfig, datasets: list[LeRobotDataset], chunks: Chunks) -> FineTunable:
    """Load the policy of `init`, or build one with fresh weights for the datasets' body.

    chunks: what FAST makes its tokens of.
    """
    if config.init != "random":
        from toddle.policies.language_vla import is_openvla_folder

        if is_openvla_folder(Path(config.init)):
            _refuse_vlm(config)
            return _language(config, config.init, _body(datasets[0]), chunks)
        if (found := expert_kind(Path(config.init))) is None:
            _refuse_vlm(config)
            return load_policy(Path(config.init))
        policy, settings = classes_of(found)
        started: FineTunable = policy.from_pretrained(
            settings(
                source=config.init,
                body=_body(datasets[0]),
                tokenizer=config.tokenizer,
                executed=config.expert.executed,
                cameras=config.cameras,
                text_tokens=max(settings.text_tokens, config.backbone.text_tokens),
                train=config.vlm.train,
                lora_rank=config.vlm.lora_rank,
                lora_alpha=config.vlm.lora_alpha,
                lora_on=config.vlm.lora_on,
            )
        )
        return started
    _refuse_vlm(config)
    if config.like is not None:
        kind, architecture, _ = policy_card(config.like)
        if kind != FlowVLA.kind:
            raise problem("like", f"a policy of kind '{FlowVLA.kind}'", kind)
        if config.expert.source != "noise":
            architecture = replace(architecture, source=config.expert.source, spread=config.expert.spread)
        return FlowVLA.from_config(replace(architecture, seed=config.seed))
    if config.kind == "diffusion":
        return DiffusionVLA.from_config(_diffusion_config(config, _body(datasets[0])))
    if config.kind == "language":
        return _language(config, config.backbone.name, _body(datasets[0]), chunks)
    if config.kind == "fast":
        return _fast(config, _body(datasets[0]), chunks(config.tokens.horizon, config.tokens.executed))
    if config.kind != "flow":
        return TokenVLA.from_config(_token_config(config, _body(datasets[0])))
    return _flow(config, _body(datasets[0]))


def _flow(config: StartConfig, body: BodySpec) -> FineTunable:
    fresh = config.expert
    expert = ExpertConfig(
        trunk=fresh.trunk,
        bodies=(body,),
        horizon=fresh.horizon,
        executed=fresh.executed,
        window=fresh.window,
        head=fresh.head,
        slot_mask=fresh.slot_mask,
    )
    settings = FlowVLAConfig(
        backbone=config.backbone,
        expert=expert,
        steps=fresh.steps,
        source=fresh.source,
        spread=fresh.spread,
        cameras=config.cameras,
        seed=config.seed,
    )
    return FlowVLA.from_config(settings)


def _refuse_vlm(config: StartConfig) -> None:
    if config.vlm != VLMStart():
        raise problem("vlm", "nothing but with the folder of a pi0, pi0.5 or SmolVLA", f"--init {config.init}")


def _language(config: StartConfig, source: str, body: BodySpec, chunks: Chunks) -> FineTunable:
    from toddle.policies.language_vla import LanguageVLA, LanguageVLAConfig  # with it comes transformers

    plain = LanguageVLAConfig(
        source=source,
        body=body,
        unsaid=config.language.unsaid,
        executed=config.language.executed,
        tokenizer=config.tokenizer,
        cameras=config.cameras,
        text_tokens=config.backbone.text_tokens,
        lora_rank=config.language.lora_rank,
        lora_alpha=config.language.lora_alpha,
        lora_on=config.language.lora_on,
        precision=config.language.precision,
        seed=config.seed,
    )
    if config.language.say == "numbers":
        return LanguageVLA.from_config(plain)
    from toddle.models.vlms.base import WORDS
    from toddle.policies.fast_language_vla import FastLanguageVLA, fast_language_config

    settings = replace(config.tokens.fast, vocabulary=min(WORDS, config.tokens.fast.vocabulary))
    code = train_fast(chunks(plain.horizon, plain.executed or plain.horizon), settings)
    return FastLanguageVLA.from_config(fast_language_config(plain, code))


def _fast(config: StartConfig, body: BodySpec, chunks: Tensor) -> FineTunable:
    return FastVLA.from_config(fast_config(_token_config(config, body), train_fast(chunks, config.tokens.fast)))


def _diffusion_config(config: StartConfig, body: BodySpec) -> DiffusionVLAConfig:
    fresh = config.diffusion
    return DiffusionVLAConfig(
        backbone=config.backbone,
        body=body,
        eyes=fresh.eyes,
        resnet=fresh.resnet,
        network=fresh.unet if fresh.network == "unet" else fresh.mlp,
        process=fresh.process,
        horizon=fresh.horizon,
        executed=fresh.executed,
        cameras=config.cameras,
        seed=config.seed,
    )


def _token_config(config: StartConfig, body: BodySpec) -> TokenVLAConfig:
    fresh = config.tokens
    return TokenVLAConfig(
        backbone=config.backbone,
        body=body,
        decoder=fresh.decoder,
        horizon=fresh.horizon,
        executed=fresh.executed,
        bins=fresh.bins,
        thought=fresh.thought,
        decoding="autoregressive" if config.kind in ("tokens", "fast") else "parallel",
        head="laplace" if config.kind == "oft" else "tokens",
        cameras=config.cameras,
        seed=config.seed,
    )


def _body(dataset: LeRobotDataset) -> BodySpec:
    state, action = (dataset.vector(name).shape[1] for name in ("observation.state", "action"))
    return BodySpec(name=dataset.robot_type or "robot", proprio=state, action=action, dt=1.0 / dataset.fps)
