"""LanguageVLA: a language model that reads pictures and says actions in its own words (OpenVLA, arXiv 2406.09246).

    prompt [start | patches | (proprioception) | question]  ->  H_exec A words of the 256 that say numbers
What is said, drawn and scored is `policies.speaking`'s; OpenVLA-OFT (arXiv 2502.19645) says all at once, by words or by
its L1 head or its diffusion head, which RL does not train.  The model's weights stand outside the policy's, in the
folder they came from (`source`); the policy's own are LoRA's, OFT's parts and the statistics.  LoRA is on the language
model alone unless `lora_on` says everything (upstream's way), and the loss is over the 256 words and without the stop
word (upstream: over the vocabulary, and with it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import InputError, problem
from toddle.core.numbers import Positive, Seed, Size, SizeOrNone
from toddle.core.reading import read_json
from toddle.core.seeding import rand, randn, seed_sequence
from toddle.core.types import BodySpec, Decision, Observation, sentences_of
from toddle.data.statistics import FeatureStatistics, Mode, Normalization, feature_statistics
from toddle.maths.action_tokens import bin_centres, openvla_tokens
from toddle.maths.diffusion import cosine_alpha_bar, eps_to_x0
from toddle.models.backbones.base import BackboneConfig, tell_what_is_lost
from toddle.models.backbones.hub import FAMILIES
from toddle.models.lora import add_lora
from toddle.models.oft_heads import ProprioProjector, time_features
from toddle.models.vlms.base import WORDS, Prompt, SpeakingModel
from toddle.models.vlms.hub import load_speaking_hub
from toddle.models.vlms.prismatic import Prismatic
from toddle.policies.flow_explorer import SamplerConfig
from toddle.policies.foreign import layout_of
from toddle.policies.one_body import rows_of
from toddle.policies.prismatic_layouts import OFTParts, load_prismatic, read_parts, read_statistics, statistics_of
from toddle.policies.seeing import HoldingPolicy
from toddle.policies.speaking import LOG_SCALE, Speaking
from toddle.policies.unsaid import Unsaid

__all__ = ["OPENVLA", "LanguageVLA", "LanguageVLAConfig", "Unsaid", "is_openvla_folder"]

OPENVLA = ("openvla", "openvla_oft", "prismatic")
"""Layouts that are read (policies.foreign)."""
DIFFUSION_STEPS = 50
"""Steps of OFT's diffusion head, in training and in acting."""
EPS = 1e-8
"""What OFT adds to the width of a range."""


@config
class LanguageVLAConfig:
    """A VLA that says actions in a language model's words."""

    source: str
    """Folder of the model: OpenVLA's or OpenVLA-OFT's; or a folder or hub id of a SmolVLM2, Idefics3 or PaliGemma."""
    body: BodySpec
    """The embodiment."""
    unsaid: Unsaid = Unsaid()
    """What no file of the source says."""
    executed: Size | None = None
    """Actions that are said and executed in one decision; None: all of the chunk."""
    tokenizer: str = ""
    """Folder with tokenizer.json, where the source has none."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads, in this order."""
    text_tokens: Size = 32
    """Tokens of a sentence that are kept, of a model of transformers (OpenVLA reads sentences whole)."""
    lora_rank: SizeOrNone = 32
    """Rank of LoRA; 0: it acts and does not learn (but for OFT's parts)."""
    lora_alpha: Positive = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    lora_on: Literal["attention", "all", "everything"] = "attention"
    """Which layers LoRA is on: the language model's of attention, its MLPs' too, or every linear layer of towers,
    projector and language model."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number type of the model's weights; LoRA and OFT's parts are in float32."""
    temperature: Positive = 1.0
    """Logits are divided by it, when drawing and when scoring alike."""
    ratio_per: Literal["token", "action", "chunk"] = "action"
    """What one log-density is of: a token, the tokens of one action, or all of a decision."""
    head: Literal["tokens", "laplace", "diffusion"] = "tokens"
    """Words, OFT's L1 head with a spread, or its diffusion head; filled in when it is built, as what `unsaid` leaves
    open is."""
    fingerprint: str = ""
    """Fingerprint of the model the policy was made with; filled in when it is built."""
    seed: Seed = 0
    """Seed of fresh weights."""

    @property
    def horizon(self) -> int:
        """H, actions of a chunk."""
        return self.unsaid.horizon or 1

    @property
    def decoding(self) -> str:
        """How it says them."""
        return self.unsaid.decoding


def is_openvla_folder(folder: Path) -> bool:
    """Return whether a folder holds OpenVLA's or OpenVLA-OFT's weights."""
    try:
        return layout_of(Path(folder)) in OPENVLA
    except InputError:
        return False


class LanguageVLA(Speaking, HoldingPolicy):
    """A VLA whose decision is a sequence of a language model's words.  The chain is (B, L): bins, or the head's draws.

    Statistics are the folder's where they are of the body's size, until `fit_normalization` replaces them.
    """

    kind: ClassVar[str] = "language_vla"
    features: ClassVar[None] = None  # pictures are kept: the embedded prompt is larger than they are
    proprio_offset: Tensor
    proprio_scale: Tensor

    def __init__(self, config: LanguageVLAConfig, model: SpeakingModel, parts: OFTParts = OFTParts()) -> None:  # noqa: B008
        """Build on a loaded model.  Raises InputError for what does not fit, and for what must be given and is not."""
        super().__init__(model, config.fingerprint, config.source)
        config = _resolved(config, parts)
        self.config = replace(config, fingerprint=self.fingerprint)
        self.horizon, self.bodies, self.cameras = int(config.executed or 0), (config.body,), config.cameras
        action, proprio = config.body.action, config.body.proprio
        if parts.head is not None and parts.head.action != action:
            raise problem(f"body '{config.body.name}'", f"{parts.head.action} actions, as the head says", action)
        projects: ProprioProjector | None = parts.proprio
        if projects is not None and projects.fc1.in_features != proprio:
            want = f"{projects.fc1.in_features} numbers of proprioception, as the projector reads"
            raise problem(f"body '{config.body.name}'", want, proprio)
        self.action_head, self.proprio_projector, self.noisy_action_projector = parts.head, projects, parts.noisy
        if config.head == "laplace":
            self.log_scale = nn.Parameter(torch.full((config.horizon * action,), -2.0))
        self.register_buffer("action_offset", torch.full((1, action), float("nan")))
        self.register_buffer("action_scale", torch.full((1, action), float("nan")))
        if projects is not None:
            self.register_buffer("proprio_offset", torch.full((proprio,), float("nan")))
            self.register_buffer("proprio_scale", torch.full((proprio,), float("nan")))
        centres = bin_centres(WORDS - 1)  # 256 words for 255 bins: the last is said for 1.0 alone
        self.register_buffer("centres", torch.cat([centres, centres[-1:]]), persistent=False)
        self._share_lora()

    @classmethod
    def from_config(cls, config: LanguageVLAConfig) -> LanguageVLA:
        """Load the model of `config.source` and the statistics beside it; a saved policy's own replace them.

        Raises InputError, one line, for what is missing, unknown or does not fit.
        """
        folder, dtype = Path(config.source).expanduser(), getattr(torch, config.precision)
        parts, model = OFTParts(), _of_transformers(config, dtype)
        if model is None:
            if not folder.is_dir() or layout_of(folder) not in OPENVLA:
                raise problem("source", "a folder of OpenVLA or OpenVLA-OFT", config.source)
            parts = read_parts(folder)
            tokenizer = Path(config.tokenizer).expanduser() if config.tokenizer else folder
            model = load_prismatic(folder, config.unsaid.pictures, dtype=dtype, tokenizer=tokenizer, film=parts.towers)
        _with_lora(model, config)
        policy = cls(config, model, parts)
        if isinstance(model, Prismatic):
            policy._take_statistics(folder)
        return policy

    def _take_statistics(self, folder: Path) -> None:
        """Normalise by a folder's statistics; NaN, with which nothing acts, where none apply or they are another's."""
        key, oft = self.config.unsaid.unnorm_key, self.config.decoding == "parallel"
        bounds = ("q01", "q99") if self.config.unsaid.bounds == "quantiles" else ("min", "max")
        for part in ("action", *(("proprio",) if self.proprio_projector is not None else ())):
            offset, scale = getattr(self, f"{part}_offset"), getattr(self, f"{part}_scale")
            found = statistics_of(folder, key, part, bounds)
            if found is None or len(found[0]) != offset.shape[-1]:
                continue
            low, high, mask = found
            width = (high - low + (EPS if oft else 0.0)) / 2
            offset.copy_(torch.where(mask, low + width, torch.zeros_like(low)))
            scale.copy_(torch.where(mask, width, torch.ones_like(low)))

    # ---- what SFT asks ---------------------------------------------------------------------------------------------
    def encode(self, observation: Observation) -> Observation:
        """Return the observation: pictures are kept."""
        return observation

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations, always anew: actions by `mode`, proprioception (N, O) by quantiles where it is read.

        They are in the environment's units, the gripper's too, which is said as it is from then on.
        """
        self._fit_actions(actions, mode)
        self.config = replace(self.config, unsaid=replace(self.config.unsaid, gripper="as_said"))
        if self.proprio_projector is not None:
            made = Normalization.of(feature_statistics(proprio.cpu().numpy()), "quantile")
            self.proprio_offset.copy_(torch.from_numpy(made.offset))
            self.proprio_scale.copy_(torch.from_numpy(made.scale))

    # ---- what it says (policies.speaking) --------------------------------------------------------------------------
    def _prompt(self, observation: Observation, time: Tensor | None = None) -> Prompt:
        """Read observations (N, ...); time (N, D) is one more token, of the diffusion head."""
        if "images" not in observation or "instruction" not in observation:
            remedy = f"make the environment with cameras={self.cameras}"
            raise problem("observation", "'images' and 'instruction'", ", ".join(observation), remedy)
        if bool(self.action_scale.isnan().any()):
            self._refuse_to_act()
        images, sentences = observation["images"], sentences_of(observation)
        sentences = sentences * (len(images) // len(sentences))
        for sentence in set(sentences):
            tell_what_is_lost(sentence, self.reading(sentence), "shorten it")
        more = None
        if self.proprio_projector is not None:
            state = (observation["proprio"] - self.proprio_offset) / self.proprio_scale
            more = self.proprio_projector(state.clamp(-1.0, 1.0))[:, None]
        if time is not None:
            more = time[:, None] if more is None else torch.cat([more, time[:, None]], 1)
        prompt: Prompt = self._reader.prompt(images, sentences, more)
        return prompt

    def _refuse_to_act(self) -> None:
        folder = Path(self.config.source).expanduser()
        known = ", ".join(sorted(read_statistics(folder))) if is_openvla_folder(folder) else ""
        want = f"statistics of the {self.config.body.action} actions of body '{self.config.body.name}'"
        remedy = "name a data set (unnorm_key) or fine-tune it (toddle sft --init)"
        raise problem(f"{self.config.source}", want, f"those of {known}" if known else "none", remedy)

    def _hidden(self, observation: Observation, length: int, tokens: Tensor | None) -> Tensor:
        prompt = self._prompt(observation)
        if self.config.decoding == "parallel" or tokens is None:
            both, whole = self.config.unsaid.attention == "bidirectional", self.config.horizon * self.config.body.action
            hidden: Tensor = self._reader.together(prompt, whole, both_ways=both)
            return hidden[:, :length]
        forced: Tensor = self._reader.forced(prompt, tokens)
        return forced

    def _one_by_one(self, observation: Observation) -> Callable[[Tensor | None], Tensor]:
        following: Callable[[Tensor | None], Tensor] = self._reader.one_by_one(self._prompt(observation))
        return following

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._reader.logits(hidden)
        return logits

    def _laplace(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        assert self.action_head is not None
        mean = self.action_head(hidden.float()).flatten(1)
        return mean, self.log_scale[: mean.shape[1]].clamp(*LOG_SCALE).expand_as(mean)

    def _bins(self, action: Tensor) -> Tensor:
        return WORDS - 1 - openvla_tokens(action, WORDS)

    def _action(self, numbers: Tensor) -> Tensor:
        action = super()._action(numbers)
        if self.config.unsaid.gripper == "libero":
            action = torch.cat([action[..., :-1], -(2 * action[..., -1:] - 1).sign()], -1)
        return action

    # ---- OFT's diffusion head --------------------------------------------------------------------------------------
    def _noise(self, prompt: Prompt, noisy: Tensor) -> Tensor:
        """Return the noise (N, H A) that the head finds in noisy numbers (N, H A)."""
        assert self.action_head is not None and self.noisy_action_projector is not None
        both, holders = self.config.unsaid.attention == "bidirectional", self.noisy_action_projector(noisy)
        hidden = self._reader.together(prompt, noisy.shape[1], both_ways=both, placeholders=holders)
        found: Tensor = self.action_head(hidden.float()).flatten(1)
        return found

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, None]:
        """Decide for (B, ...) observations; `deterministic` takes the likeliest word of each (the mean).

        OFT's diffusion head draws by 50 DDIM steps from noise, from zero where `deterministic`: log_prob is (B, 0).
        """
        if self.config.head != "diffusion":
            return super().act(observation, memory, generator=generator, deterministic=deterministic)
        size, length = len(observation["proprio"]), self.config.horizon * self.config.body.action
        noise = torch.zeros(size, length, device=self.action_scale.device)
        if not deterministic:
            noise = randn(noise.shape, generator, noise.device)
        steps = torch.arange(DIFFUSION_STEPS, device=noise.device)
        times, left = time_features(steps, self.prompt_width), cosine_alpha_bar(DIFFUSION_STEPS).tolist()
        prompt = self._prompt(observation, times[:1].expand(size, -1))  # pictures are read once
        place = int(self._held[0].picture_tokens(len(self.cameras))) + (1 if self.proprio_projector is None else 2)
        x = noise
        for step in reversed(range(DIFFUSION_STEPS)):
            prompt.x[:, place] = times[step].to(prompt.x.dtype)
            found = self._noise(prompt, x)
            clean = eps_to_x0(x, found, x.new_tensor(left[step]))
            after = left[step - 1] if step else 1.0
            x = after**0.5 * clean + (1 - after) ** 0.5 * found  # DDIM; the noise is the head's, though x0 is clamped
        return Decision(self._action(x[:, : self._length]), noise, x.new_zeros(size, 0)), None

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy of demonstrated words, the L1 loss, or the error of the diffusion head's noise."""
        if self.config.head != "diffusion":
            return super().loss(batch, generator)
        error, weight = self._errors(batch, generator)
        loss = error.sum() / weight.sum().clamp(min=1)
        return loss, {"sft/loss": loss.item()}

    @property
    def exact(self) -> bool:
        """`surprise` is minus a log-density, but for the diffusion head."""
        return bool(self.config.head != "diffusion")

    def surprise(self, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        """Return minus the log-density (B,) of each demonstrated chunk, or the squared error of the diffusion head."""
        if self.config.head != "diffusion":
            return super().surprise(batch, generator)
        return self._errors(batch, generator)[0].sum(1)

    def _errors(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the squared errors (B, L) of the diffusion head's noise, 0 where no number is real, and which are."""
        observation, action, weight = self._demonstrated(batch)
        noise = randn(action.shape, generator, action.device)
        step = (rand((len(action),), generator, action.device) * DIFFUSION_STEPS).long().clamp(max=DIFFUSION_STEPS - 1)
        left = cosine_alpha_bar(DIFFUSION_STEPS).to(action)[step][:, None]
        noisy = left.sqrt() * action + (1 - left).sqrt() * noise
        found = self._noise(self._prompt(observation, time_features(step, self.prompt_width)), noisy)
        return (found - noise).square() * weight, weight

    def explorer(self, sampler: SamplerConfig) -> Self:
        """Return itself, drawing at the sampler's temperature.  Raises InputError for the diffusion head."""
        if self.config.head == "diffusion":
            raise problem("policy", "a language_vla that says words or has OFT's L1 head", "its diffusion head")
        return super().explorer(sampler)

    # ---- what a homogeneous critic asks ----------------------------------------------------------------------------
    @property
    def prompt_width(self) -> int:
        """Numbers of `prompt_hidden`."""
        return int(self._held[0].width)

    def prompt_hidden(self, observation: Observation) -> Tensor:
        """Return the hidden state (..., D) at the prompt's last token, before anything is said."""
        lead = observation["proprio"].shape[:-1]
        rows = rows_of(observation, len(lead))
        if self.config.decoding == "parallel":
            hidden = self._hidden(rows, 1, None)[:, 0]
        else:
            hidden = self._reader.prompt_hidden(self._prompt(rows))
        return hidden.float().unflatten(0, lead)


def _of_transformers(config: LanguageVLAConfig, dtype: torch.dtype) -> SpeakingModel | None:
    """Load a model of transformers; None where the source is a folder of another kind."""
    source, path = config.source, Path(config.source).expanduser() / "config.json"
    if not path.parent.is_dir() and (source.startswith(("/", ".", "~")) or source.count("/") != 1):
        raise problem("source", "a folder that exists or a hub id like owner/model", source)
    if path.exists() and read_json(path, finite=False).get("model_type") not in FAMILIES:
        return None
    plain = replace(config.unsaid, horizon=None, decoding="auto", attention="auto")
    if plain != Unsaid() or config.unsaid.decoding == "parallel":
        raise problem("unsaid", f"horizon alone: {config.source} is no OpenVLA", "other settings of OpenVLA's")
    return load_speaking_hub(BackboneConfig(name=config.source, text_tokens=config.text_tokens), dtype)


def _with_lora(model: SpeakingModel, config: LanguageVLAConfig) -> None:
    if not config.lora_rank:
        return
    model.base_fingerprint = model.fingerprint()
    seed = int(seed_sequence(config.seed, "language vla").generate_state(1)[0])
    given: dict[str, Any] = {"rank": config.lora_rank, "alpha": config.lora_alpha, "seed": seed}
    if config.lora_on == "everything":
        linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        add_lora(model, layers=linear, **given)
    else:
        add_lora(model.decoder, mlp=config.lora_on == "all", **given)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.data = value.data.float()
    model.trainable = True


def _resolved(config: LanguageVLAConfig, parts: OFTParts) -> LanguageVLAConfig:
    """Return the config with everything said.  Raises InputError for what must be given, or contradicts the folder."""
    unsaid, remedy = config.unsaid, "no file of the folder says it"
    decoding = unsaid.decoding
    if decoding == "auto":
        decoding = "autoregressive" if parts == OFTParts() else "parallel"
    if decoding == "autoregressive":
        if parts != OFTParts():
            raise problem("unsaid.decoding", "parallel, as OpenVLA-OFT's parts are", decoding)
        if unsaid.attention == "bidirectional":
            raise problem("unsaid.attention", "causal, where words are said one by one", unsaid.attention)
        unsaid = replace(unsaid, horizon=unsaid.horizon or 1, attention="causal")
    elif unsaid.horizon is None:
        raise problem("unsaid.horizon", "actions of a chunk (OFT: LIBERO 8, Bridge 5, ALOHA 25)", "none", remedy)
    elif unsaid.attention == "auto":
        raise problem("unsaid.attention", "bidirectional (OpenVLA-OFT's own) or causal", "auto", remedy)
    executed = config.executed or unsaid.horizon
    assert unsaid.horizon is not None and executed is not None
    if executed > unsaid.horizon:
        raise problem("executed", f"at most the chunk's {unsaid.horizon}", executed)
    head: Literal["tokens", "laplace", "diffusion"] = "tokens" if parts.head is None else "laplace"
    head = head if parts.noisy is None else "diffusion"
    return replace(config, unsaid=replace(unsaid, decoding=decoding), executed=executed, head=head)
