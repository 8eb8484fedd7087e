"""pi0 (arXiv 2410.24164) as transformers has it: PaliGemma and a Gemma action expert that share attention.

The second VLA class beside FlowVLA, through the same commands: SFT from a folder with pi0 weights, evaluation, saving.
Its flow time runs the other way (t = 1 noise, t = 0 action, velocity noise - action); it is turned at this border, by
`maths.flow`, and nothing outside this file knows.
Deviations from openpi: chunk positions beyond an episode's end are masked; padded action dimensions are trained, as
there; state and actions are normalised with the statistics of the demonstrations, kept in the policy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PI0Config, PI0ForConditionalGeneration

from toddle.core.config import config
from toddle.core.errors import InputError, problem
from toddle.core.numbers import Size
from toddle.core.protocols import Memory
from toddle.core.seeding import randn
from toddle.core.types import BodySpec, Decision, Observation, Reading, sentences_of
from toddle.data.statistics import FeatureStatistics, Mode, Normalization, feature_statistics
from toddle.maths import flow
from toddle.models.backbones.base import check_images, reading_of, tell_what_is_lost
from toddle.models.backbones.hub import fit_square
from toddle.models.normalizer import CLIP
from toddle.policies.bounds import bounded
from toddle.policies.foreign import layout_of
from toddle.policies.pi0_layouts import OTHERS, is_other_pi0, read_settings, read_statistics, read_weights

__all__ = ["Pi0Config", "Pi0Policy", "is_pi0_folder"]


@config
class Pi0Config:
    """A pi0 for one body."""

    source: str
    """Folder or hub id with pi0's config, weights and tokenizer; config and tokenizer are read from there again when
    the policy is loaded, the weights from the policy's own folder."""
    body: BodySpec
    """The embodiment."""
    executed: Size = 8
    """Actions of a chunk that are executed before the next decision."""
    steps: Size = 10
    """Euler steps from noise to the chunk."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads, in this order."""
    text_tokens: Size = 48
    """Tokens a sentence is padded or cut to."""
    train: Literal["expert", "all"] = "expert"
    """What fine-tuning changes: the action expert alone, or PaliGemma too."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer, where the source has none (LeRobot's, openpi's); empty: the source's own."""


def is_pi0_folder(folder: Path) -> bool:
    """Return whether a folder holds pi0 weights as transformers, LeRobot or openpi's PyTorch port saves them."""
    try:
        return layout_of(Path(folder)) in ("pi0", *OTHERS)
    except InputError:
        return False


class Pi0Policy(nn.Module):
    """transformers' pi0 for one body: PaliGemma, a Gemma action expert, and the statistics that normalise for it."""

    kind: ClassVar[str] = "pi0"
    sequential = False
    features: ClassVar[None] = None  # its expert reads the VLM's keys and values layer by layer, not one set of tokens
    state_offset: Tensor
    state_scale: Tensor
    action_offset: Tensor
    action_scale: Tensor

    def __init__(self, config: Pi0Config, model: Any, tokenizer: Any) -> None:
        """Wrap a loaded model.  Raises InputError when the checkpoint is too small for the body or the chunk."""
        super().__init__()
        self.config, self.model, self.tokenizer = config, model, tokenizer
        settings = model.config
        _check_sizes(config, settings)
        self.horizon, self.bodies, self.cameras = config.executed, (config.body,), config.cameras
        vision = settings.vlm_config.vision_config
        self.size = int(vision.image_size)
        self.picture_tokens = (self.size // int(vision.patch_size)) ** 2
        for name, size in (("state", config.body.proprio), ("action", config.body.action)):
            self.register_buffer(f"{name}_offset", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        model.model.dit.embed_tokens.requires_grad_(False)  # a table of words that is never read
        if config.train == "expert":
            model.model.vlm.requires_grad_(False)

    @classmethod
    def from_config(cls, config: Pi0Config) -> Pi0Policy:
        """Build with the architecture and tokenizer of `config.source` and fresh weights (`load_policy` fills them)."""
        settings, tokenizer = _read(config, _settings)
        with torch.random.fork_rng(devices=[]):
            return cls(config, PI0ForConditionalGeneration(settings), tokenizer)

    @classmethod
    def from_pretrained(cls, config: Pi0Config) -> Pi0Policy:
        """Load the weights of `config.source`, and a LeRobot folder's statistics where they are of the body's size.

        Raises InputError when they cannot be had, or when a tensor is missing or left over.
        """

        def load(source: str) -> Any:
            settings = _settings(source)
            _check_sizes(config, settings)  # before gigabytes of weights are read
            return _load(source, settings)

        policy = cls(config, *_read(config, load))
        if is_other_pi0(config.source):
            policy._take_statistics(read_statistics(Path(config.source).expanduser()))
        return policy

    def _take_statistics(self, found: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Normalise by a folder's statistics; NaN, with which nothing acts, where they are none or another body's."""
        for name in ("state", "action"):
            for buffer, value in zip(("offset", "scale"), found.get(name, (None, None)), strict=True):
                own = getattr(self, f"{name}_{buffer}")
                own.copy_(value if value is not None and value.shape == own.shape else own.new_tensor(float("nan")))

    # ---- what SFT and its command ask ------------------------------------------------------------------------------
    @property
    def window_sizes(self) -> tuple[int, int, int]:
        """H, decisions of history, actions executed per decision."""
        return int(self.model.config.chunk_size), 1, self.config.executed

    def body_index(self, name: str | None) -> int:
        """Return 0 for its body.  Raises InputError for another."""
        if name not in (None, self.config.body.name):
            raise problem("body", self.config.body.name, str(name))
        return 0

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence it reads."""
        return reading_of(self._ids(sentence), self.config.text_tokens, self.tokenizer)

    def begin_step(self, share: float) -> None:
        """Nothing changes with the steps."""

    def trunk_tokens(self, batch: dict[str, Any]) -> None:
        """Return None: transformers' model shows no tokens of its expert."""

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """Return the action expert's transformer."""
        return {name: value for name, value in self.named_parameters() if name.startswith("model.model.dit.")}

    def fit_normalization(
        self, proprio: Tensor, actions: FeatureStatistics, mode: Mode, body: int, *, refit: bool = False
    ) -> None:
        """Fit to demonstrations: state by mean and deviation, actions by `mode`; always anew, `refit` or not."""
        state = Normalization.of(feature_statistics(proprio.cpu().numpy()), "mean_std")
        action = Normalization.of(actions, mode)
        for name, made in (("state", state), ("action", action)):
            getattr(self, f"{name}_offset").copy_(torch.from_numpy(made.offset))
            getattr(self, f"{name}_scale").copy_(torch.from_numpy(made.scale))

    def loss(self, batch: dict[str, Any], generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss of demonstrated chunks; the batch is that of `FlowVLA.loss` with T = 1 and pictures."""
        observation, mask = batch["observation"], batch["mask"]
        now = {name: value[-1] for name, value in observation.items() if isinstance(value, Tensor)}
        inputs = self._inputs(now["proprio"], now["images"], sentences_of(observation))
        action = _pad((batch["action"] - self.action_offset) / self.action_scale, self.model.config.max_action_dim)
        noise = randn(action.shape, generator, action.device)
        tau = flow.sample_time((len(action),), generator).to(action.device)
        noisy = flow.interpolate(noise, action, tau)
        velocity = self._velocity(noisy, tau, inputs)
        target = flow.target_velocity(noise, action)
        weight = mask[..., None].expand_as(action).float()
        total = weight.sum().clamp(min=1)
        loss = ((velocity - target).square() * weight).sum() / total
        with torch.no_grad():
            own = slice(0, self.config.body.action)
            miss = (flow.endpoint_from_velocity(velocity, noisy, tau) - action).abs() * weight
            miss = miss[..., own].sum() / weight[..., own].sum().clamp(min=1)
        return loss, {"sft/loss": loss.item(), "sft/endpoint_error": miss.item()}

    def _velocity(self, noisy: Tensor, tau: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Return the velocity in toddle's direction at (noisy, tau)."""
        _, t = flow.to_pi0(noisy, tau)
        theirs = self.model(noise=noisy, timestep=t, **inputs).logits
        ours, _ = flow.from_pi0(theirs, t)
        return ours

    def encode(self, observation: Observation) -> Observation:
        """Return the observation: its features are not kept."""
        return observation

    # ---- Policy ----------------------------------------------------------------------------------------------------
    def initial_memory(self, batch: int) -> Memory:
        """It has none."""

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Memory = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> tuple[Decision, Memory]:
        """Draw a chunk (B, H_exec, A); `deterministic` starts at zero noise.  log_prob is (B, 0): an ODE has none."""
        if "images" not in observation or "instruction" not in observation:
            raise problem(
                "observation",
                "'images' and 'instruction'",
                ", ".join(observation),
                f"make the environment with cameras={self.config.cameras}",
            )
        inputs = self._inputs(observation["proprio"], observation["images"], sentences_of(observation))
        settings, batch = self.model.config, len(observation["proprio"])
        noise = torch.zeros(batch, settings.chunk_size, settings.max_action_dim, device=self.state_scale.device)
        if not deterministic:
            noise = randn(noise.shape, generator, noise.device)
        chunk = self.model.sample_actions(noise=noise, num_steps=self.config.steps, **inputs)
        chunk = chunk[:, : self.config.executed, : self.config.body.action]
        action = bounded(chunk * self.action_scale + self.action_offset, self.action_offset, self.action_scale)
        return Decision(action, noise, chunk.new_zeros(batch, 0)), None

    def explorer(self, sampler: Any) -> Any:
        """Raise InputError: RL cannot train it yet, for its velocities are not asked for with gradients (`Flowing`)."""
        raise problem("policy", "a VLA that RL trains (flow_vla, token_vla)", self.kind, "fine-tune it with toddle sft")

    # ---- inputs ----------------------------------------------------------------------------------------------------
    def _inputs(self, proprio: Tensor, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        """Prepare state (B, O), pictures (B, n, 3, H, W) uint8 and B sentences as the model takes them."""
        check_images(images, instructions)
        if bool((self.state_scale.sum() + self.action_scale.sum()).isnan()):
            want = f"statistics of the state and actions of body '{self.config.body.name}'"
            raise problem(
                f"pi0 {self.config.source}",
                want,
                "none that fit",
                "fine-tune it (toddle sft --init)",
            )
        device = self.state_scale.device
        batch, cameras = images.shape[:2]
        prompts = {sentence: self._prompt(sentence, cameras) for sentence in set(instructions)}
        pixels = 2.0 * fit_square(images.flatten(0, 1).to(device), self.size) - 1.0
        state = (proprio.to(device)[..., : self.config.body.proprio] - self.state_offset) / self.state_scale
        state = state.clamp(-CLIP, CLIP)
        return {
            "state": _pad(state, self.model.config.max_state_dim),
            "pixel_values": pixels.unflatten(0, (batch, cameras)),
            "pixel_attention_mask": torch.ones(batch, cameras, dtype=torch.bool, device=device),
            "input_ids": torch.tensor([prompts[sentence][0] for sentence in instructions], device=device),
            "attention_mask": torch.tensor([prompts[sentence][1] for sentence in instructions], device=device),
        }

    def _ids(self, sentence: str) -> list[int]:
        """Return start token, sentence and line end."""
        words: list[int] = self.tokenizer(sentence.strip() + "\n", add_special_tokens=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        return words if start is None else [start, *words]

    def _prompt(self, sentence: str, cameras: int) -> tuple[list[int], list[int]]:
        """Ids and mask of one prompt: pictures, words, padding."""
        pictures = [self.model.config.vlm_config.image_token_id] * (self.picture_tokens * cameras)
        tell_what_is_lost(sentence, self.reading(sentence), "shorten it, or make the policy with more text_tokens")
        words = self._ids(sentence)[: self.config.text_tokens]
        missing = self.config.text_tokens - len(words)
        pad = self.tokenizer.pad_token_id or 0
        return pictures + words + [pad] * missing, [1] * (len(pictures) + len(words)) + [0] * missing


def _check_sizes(config: Pi0Config, settings: Any) -> None:
    """Raise InputError, one line, where a size of the checkpoint's config is too small for the body or the chunk."""
    body = config.body
    for field, need, why, remedy in (
        ("max_state_dim", body.proprio, f"for the proprioception of body '{body.name}'", "take a larger checkpoint"),
        ("max_action_dim", body.action, f"for the actions of body '{body.name}'", "take a larger checkpoint"),
        ("chunk_size", config.executed, "for the actions executed of a chunk", "execute fewer (--expert.executed)"),
    ):
        if getattr(settings, field) < need:
            raise problem(f"pi0 {config.source}: {field}", f"at least {need}, {why}", getattr(settings, field), remedy)


def _pad(x: Tensor, size: int) -> Tensor:
    return nn.functional.pad(x, (0, size - x.shape[-1]))


def _settings(source: str) -> Any:
    if is_other_pi0(source):
        return PI0Config(**read_settings(Path(source).expanduser()))
    return PI0Config.from_pretrained(source)


def _load(source: str, settings: Any) -> Any:
    """Return the model in float32 with every weight of `source`.  Raises InputError for one missing or left over."""
    if is_other_pi0(source):
        with torch.random.fork_rng(devices=[]):
            model = PI0ForConditionalGeneration(settings)
        read_weights(Path(source).expanduser(), model)
        return model
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    model, told = PI0ForConditionalGeneration.from_pretrained(source, **options)
    unread = {"model.dit.embed_tokens.weight"}  # a table of words
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted({str(name) for name in told[kind]} - unread):
            what = kind.replace("_keys", "")
            raise problem(f"pi0 {source}", "every weight of the model and no other", f"{what}: {', '.join(wrong[:3])}")
    return model


def _read(config: Pi0Config, load: Any) -> tuple[Any, Any]:
    """Return what `load` makes of the source, and its tokenizer.  Raises InputError, one line, where it cannot."""
    source, words = config.source, config.tokenizer or config.source
    if not Path(source).expanduser().is_dir() and (source.startswith(("/", ".", "~")) or source.count("/") != 1):
        raise problem("pi0 source", "a folder that exists or a hub id like lerobot/pi0_base", source)
    if words == source and is_other_pi0(source) and not list(Path(source).expanduser().glob("tokenizer*")):
        want = "a folder or hub id with PaliGemma's tokenizer (google/paligemma-3b-pt-224)"
        raise problem("tokenizer", want, f"none in {source}", "name it (toddle sft --tokenizer)")
    try:
        return load(source), AutoTokenizer.from_pretrained(words)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:160]
        raise InputError(f"pi0: '{source}' cannot be loaded ({line}); download it and give its folder") from None
