"""The process reward model: looks at pictures and sentence and answers, in one word, whether the robot gets on.

    frozen backbone(images, sentence) -> (B, G, D_vlm)    beside the weights, known by its fingerprint
    adapter, one token of proprioception if wanted        -> (B, G + 1, d)
    a learned question attends to them, `layers` times    -> (B, d)
    the words "no" and "yes": two logits                  -> (B, 2)

or, where it does not say a word but how far the task is (`RewardModelConfig.says`), one value or a distribution over
the steps left, from which `progress` is read: 0 where demonstrations begin and 1 where they succeed, in the mean.

VLA-RL (Lu et al. 2025, arXiv 2505.18719) fine-tunes a vision-language model to say the next word; here the question is
a learned token and the vocabulary has the two words that can be said, so that a small backbone can answer.

On disk: `reward.safetensors` (weights) and `reward.json` (config, facts of its training, SHA-256).  Never pickle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from toddle.core.config import config, from_dict, to_dict
from toddle.core.device import CPU, device_of
from toddle.core.errors import InputError, problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Seed, Size, SizeOrNone
from toddle.core.seeding import seed_sequence
from toddle.core.tensors import load_tensors, read_card, save_tensors
from toddle.core.types import FeatureSource, Observation, sentences_of
from toddle.maths.potentials import bin_centres
from toddle.models.attention import CrossAttention
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.models.expert import make_adapter
from toddle.models.mlp import make_mlp
from toddle.models.normalizer import RunningNorm

__all__ = ["WORDS", "RewardModel", "RewardModelConfig", "load_reward_model", "save_reward_model", "seen_by_model"]

WORDS = ("no", "yes")
"""The vocabulary of the answer."""
WEIGHTS, CARD = "reward.safetensors", "reward.json"


@config
class RewardModelConfig:
    """A process reward model."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The frozen vision-language model that reads pictures and sentence."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads, in this order."""
    width: Size = 64
    """Numbers of a token of the head."""
    heads: Size = 4
    """Attention heads."""
    layers: Size = 2
    """How often the question attends to the context."""
    says: Literal["key-frame", "order", "steps-to-go"] = "key-frame"
    """What it says of a picture: whether it leads to a key frame (yes or no); a value that rises in the order of time
    (RFTF, VLAC); or how many steps are left until success (Generalist)."""
    bins: Size = 32
    """Numbers of steps that are told apart by steps-to-go."""
    proprio: SizeOrNone = 0
    """Numbers of proprioception it reads beside pictures and sentence; 0: none."""
    fingerprint: str = ""
    """Fingerprint of the backbone it was made with; filled in when it is built."""
    seed: Seed = 0
    """Seed of fresh weights."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise problem("width", f"a multiple of the {self.heads} heads", self.width)
        if self.backbone.lora_rank:
            raise problem("backbone.lora_rank", "0, for the backbone stays frozen", self.backbone.lora_rank)
        if not self.cameras:
            raise problem("cameras", "at least one", "none")
        if self.says != "steps-to-go" and self.bins != 32:
            raise problem("bins", "32, for they are of says steps-to-go alone", self.bins)

    @property
    def outputs(self) -> int:
        """Numbers that it says."""
        return {"key-frame": len(WORDS), "order": 1, "steps-to-go": self.bins}[self.says]


class _Look(nn.Module):
    """The question looks at the context once more and thinks about it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), CrossAttention(width, heads, width)
        self.second, self.mlp = nn.LayerNorm(width), make_mlp((width, 2 * width, width))

    def forward(self, question: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        question = question + self.attention(self.norm(question), self.attention.keys(context), mask)
        return question + self.mlp(self.second(question))


class RewardModel(nn.Module):
    """Answers "yes" where the picture is one that leads to a key frame (`maths.progress_labels`), or says how far the
    task is (`maths.potentials`)."""

    ends: Tensor
    longest: Tensor

    def __init__(self, config: RewardModelConfig, backbone: Backbone) -> None:
        """Build on a loaded backbone.  Raises InputError when its fingerprint is not the config's."""
        super().__init__()
        found = backbone.fingerprint()
        if config.fingerprint and config.fingerprint != found:
            expected = f"fingerprint {config.fingerprint}, which the reward model was trained with"
            raise problem("backbone", expected, found, f"'{config.backbone.name}' has changed: train it again")
        self.config = replace(config, fingerprint=found)
        self._held = [backbone]  # in a list, so that its weights are not part of the model's
        width = config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed_sequence(config.seed, "process reward").generate_state(1)[0]))
            self.adapter = make_adapter(width, backbone.width)
            self.question = nn.Parameter(0.02 * torch.randn(width))
            self.looks = nn.ModuleList([_Look(width, config.heads) for _ in range(config.layers)])
            self.words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.outputs))
            if config.proprio:
                self.norm, self.body = RunningNorm((config.proprio,)), nn.Linear(config.proprio, width)
        if config.says != "key-frame":
            self.register_buffer("ends", torch.tensor([0.0, 1.0]))  # what it says at the beginning and at success
            self.register_buffer("longest", torch.tensor(1.0))  # steps of the longest demonstration

    @property
    def backbone(self) -> Backbone:
        """The vision-language model."""
        return self._held[0]

    @property
    def features(self) -> FeatureSource:
        """What makes its features of pictures and sentences."""
        shape = (self.backbone.tokens(len(self.config.cameras)), self.backbone.width)
        return FeatureSource(self.config.fingerprint, shape, self.backbone.encode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> RewardModel:
        """Move the backbone along when the model moves to another device."""
        self.backbone._apply(fn)
        super()._apply(fn, recurse)
        return self

    def forward(self, context: Tensor, mask: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Return the logits (B, 2) of the words (or the value (B, 1), or the logits (B, bins) of steps to go) for
        context (B, G, D_vlm), mask (B, G) and proprioception (B, O)."""
        seen = self.adapter(context.float())
        if self.config.proprio:
            if proprio is None or proprio.shape[-1] != self.config.proprio:
                got = "none" if proprio is None else proprio.shape[-1]
                raise problem("proprio", f"{self.config.proprio} numbers, which the reward model reads", got)
            seen = torch.cat([seen, self.body(self.norm(proprio))[:, None]], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        hidden = torch.zeros(mask.shape, device=seen.device).masked_fill(~mask, -1e9)[:, None, None]
        question = self.question.expand(len(seen), 1, -1)
        for look in self.looks:
            question = look(question, seen, hidden)
        logits: Tensor = self.words(question[:, 0])
        return logits

    def yes(self, observation: Observation, batch: int = 256) -> Tensor:
        """Return the probability (...) of "yes" for an observation (...) with features, or pictures and sentences.

        Raises InputError when the observation has neither, or other features than this backbone's, and for a model that
        says no words.
        """
        if self.config.says != "key-frame":
            raise problem("process reward", "a model that says yes or no", self.config.says)
        return self._asked(observation, batch).softmax(-1)[..., WORDS.index("yes")]

    def progress(self, observation: Observation, batch: int = 256) -> Tensor:
        """Return how far the task is (...), 0 where demonstrations begin and 1 where they succeed, in the mean.

        Raises InputError as `yes`, and for a model that says words.
        """
        self._says_progress()
        start, end = self.ends
        return (self.value(self._asked(observation, batch)) - start) / (end - start)

    def _says_progress(self) -> None:
        if self.config.says == "key-frame":
            raise problem("process reward", "a model that says how far a task is", self.config.says)

    def value(self, said: Tensor) -> Tensor:
        """Return the value that rises with time (...): what is said (..., 1), or minus the mean of the steps to go of
        logits (..., bins)."""
        self._says_progress()
        if self.config.says == "order":
            return said[..., 0]
        centres = bin_centres(float(self.longest), self.config.bins).to(said)
        return -(said.softmax(-1) * centres).sum(-1)

    @torch.no_grad()
    def _asked(self, observation: Observation, batch: int) -> Tensor:
        """Return what it says (..., outputs) of an observation (...)."""
        lead, rows = _flat(observation)
        count = len(next(iter(rows.values())))
        device = device_of(self)
        found = []
        for part in torch.arange(count).split(batch):
            if "context" in rows:
                context, mask = rows["context"][part].to(device), rows["context_mask"][part].to(device)
            else:
                sentences = [rows["instruction"][row] for row in part.tolist()]
                context, mask = self.backbone.encode(rows["images"][part].to(device), sentences)
                context = context.half()  # as features are kept, so that both ways give the same answer
            if context.shape[1:] != self.features.shape:
                expected = f"context of shape {self.features.shape}, of the backbone '{self.config.backbone.name}'"
                raise problem("observation", expected, str(tuple(context.shape[1:])))
            proprio = rows["proprio"][part].to(device) if self.config.proprio else None
            found.append(self(context, mask, proprio))
        return torch.cat(found).unflatten(0, lead)


def _flat(observation: Observation) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the leading dimensions of an observation, and what the model reads of it with them flattened."""
    if "context" in observation:
        lead = tuple(observation["context"].shape[:-2])
    elif "images" in observation and "instruction" in observation:
        lead = tuple(observation["images"].shape[:-4])
    else:
        raise problem("observation", "'images' with 'instruction', or features ('context')", ", ".join(observation))
    names = ("context", "context_mask", "proprio") if "context" in observation else ("images", "proprio")
    rows: dict[str, Any] = {
        name: observation[name].flatten(0, len(lead) - 1)  # type: ignore[literal-required]
        for name in names
        if name in observation
    }
    if "images" in rows:
        rows["instruction"] = sentences_of(observation)
    return lead, rows


def seen_by_model(observation: Observation, *, same_features: bool) -> Observation:
    """Return what a rollout holds as the model reads it: without features that are another backbone's.

    Raises InputError where there are no pictures either.
    """
    if "context" not in observation or same_features:
        return observation
    if "images" not in observation:
        remedy = "keep pictures in rollouts (collect.keep pictures), or train one on the policy's backbone"
        raise problem("process reward", "the features of its own backbone and cameras", "others", remedy)
    return {key: value for key, value in observation.items() if key != "context"}  # type: ignore[return-value]


def save_reward_model(folder: Path, model: RewardModel, meta: dict[str, Any] | None = None) -> None:
    """Write the model and `meta` (JSON values) to `folder`; the backbone stays where it is."""
    digest = save_tensors(Path(folder) / WEIGHTS, model.state_dict())
    card = {"config": to_dict(model.config), "meta": meta or {}, "sha256": digest}
    write_json_atomic(Path(folder) / CARD, card)


def load_reward_model(folder: Path, device: torch.device = CPU) -> tuple[RewardModel, dict[str, Any]]:
    """Return the model of a folder (or of a run's, in its `model/`) in evaluation mode, and its `meta`.

    Raises InputError when the folder is incomplete or damaged, or its backbone has changed.
    """
    path = Path(folder) / CARD
    if not path.exists() and (Path(folder) / "model" / CARD).exists():
        path = Path(folder) / "model" / CARD
    card = read_card(path, {"config": dict, "sha256": str, "meta": dict})
    state = load_tensors(path.parent / WEIGHTS, card["sha256"])
    settings = from_dict(RewardModelConfig, card["config"], where=str(path))
    model = RewardModel(settings, load_backbone(settings.backbone))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"{folder}: the weights do not fit the config: {detail}") from None
    return model.to(device).eval(), card["meta"]
