"""Backbones from a hub id or a local folder: SmolVLM2 / Idefics3 and PaliGemma class models, by transformers.

Context = hidden states of the language model over [picture tokens of each camera | sentence], as SmolVLA and pi0 read
their VLM.  Pictures are prepared by hand (a sixth of a processor's time, and no torchvision): scaled to fit the
square, padded with black, normalised with the checkpoint's mean and deviation; no splitting into tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import cached_file

from toddle.core.errors import InputError, problem
from toddle.core.reading import read_json
from toddle.models.backbones.base import Backbone, BackboneConfig, tokenizer_data

__all__ = ["FAMILIES", "HubBackbone", "fit_square", "load_hub_backbone", "load_hub_vlm"]

FAMILIES = {"smolvlm": "idefics", "idefics3": "idefics", "paligemma": "paligemma"}
"""Supported `model_type`s of a checkpoint's config.json, and how their prompt is laid out."""


def fit_square(images: Tensor, size: int, *, corner: bool = False) -> Tensor:
    """Scale pictures (N, 3, H, W) uint8 to fit size x size, keep the aspect, pad with black; float32 in [0, 1].

    They are put in the middle, or with `corner` to the right and below.
    """
    pixels = images.float() / 255.0
    height, width = pixels.shape[-2:]
    scale = size / max(height, width)
    new = (max(1, round(height * scale)), max(1, round(width * scale)))
    if new != (height, width):
        pixels = F.interpolate(pixels, size=new, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    down, right = size - new[0], size - new[1]
    if corner:
        return F.pad(pixels, (right, 0, down, 0))
    return F.pad(pixels, (right // 2, right - right // 2, down // 2, down - down // 2))


class HubBackbone(Backbone):
    """A pretrained vision-language model; built by `load_hub_backbone`."""

    remedy = "keep more (--backbone.text-tokens) or shorten it"

    def __init__(self, model: Any, tokenizer: Any, settings: BackboneConfig, moments: tuple[list[float], list[float]]):
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        config = model.config
        self.family = FAMILIES[config.model_type]
        self.width = int(config.get_text_config().hidden_size)
        trained = int(config.vision_config.image_size)
        self.size = settings.image_size or trained
        patch = int(config.vision_config.patch_size)
        if self.family == "paligemma" and self.size != trained:
            raise problem("backbone.image_size", f"{trained}, the size this PaliGemma was trained with", self.size)
        scale = int(getattr(config, "scale_factor", 1))
        if self.size % (patch * scale):
            raise problem("backbone.image_size", f"a multiple of {patch * scale}", self.size)
        self.picture_tokens = (self.size // patch) ** 2 // scale**2
        self.moments = moments
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in moments)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.frame = self._picture_frame()

    def _picture_frame(self) -> tuple[list[int], list[int]]:
        """Tokens before and after a picture, where the family has them and the tokenizer knows them."""
        if self.family != "idefics":
            return [], []
        known = self.tokenizer.get_vocab()
        before = [known[name] for name in ("<fake_token_around_image>", "<global-img>") if name in known]
        return before, before[:1]

    def tokens(self, cameras: int) -> int:
        return cameras * (self.picture_tokens + sum(map(len, self.frame))) + self.room

    def preprocessing(self) -> dict[str, Any]:
        return {
            "kind": self.family,
            "size": self.size,
            "moments": self.moments,
            "frame": self.frame,
            "text_tokens": self.settings.text_tokens,
            "tokenizer": tokenizer_data(self.tokenizer),
        }

    @property
    def room(self) -> int:
        return self.settings.text_tokens + 1

    def _ids(self, sentence: str) -> list[int]:
        """Return start token, sentence and line end."""
        words: list[int] = self.tokenizer(sentence.strip() + "\n", add_special_tokens=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        return words if start is None else [start, *words]

    def _prompt(self, sentence: str, cameras: int) -> tuple[list[int], list[int]]:
        """Token ids and mask of one prompt: pictures, words, padding."""
        before, after = self.frame
        pictures = (before + [self.model.config.image_token_id] * self.picture_tokens + after) * cameras
        words = self._ids(sentence)[: self.room]
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        missing = self.room - len(words)
        return pictures + words + [pad] * missing, [1] * (len(pictures) + len(words)) + [0] * missing

    def inputs(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids and mask (B, G) and pixels of images (B, n, 3, H, W) uint8 and B sentences, as the model takes."""
        batch, cameras = images.shape[:2]
        prompts = {sentence: self._prompt(sentence, cameras) for sentence in set(instructions)}
        device = self.mean.device
        ids = torch.tensor([prompts[sentence][0] for sentence in instructions], device=device)
        mask = torch.tensor([prompts[sentence][1] for sentence in instructions], device=device)
        pixels = (fit_square(images.flatten(0, 1).to(device), self.size) - self.mean) / self.std
        return ids, mask, pixels.unflatten(0, (batch, cameras)) if self.family == "idefics" else pixels

    def _features(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids, mask, pixels = self.inputs(images, instructions)
        extra: dict[str, Any] = {}
        if self.family == "paligemma":
            extra["token_type_ids"] = torch.zeros_like(ids)  # the whole prompt is a prefix: it sees itself both ways
        output = self.model(input_ids=ids, attention_mask=mask, pixel_values=pixels, use_cache=False, **extra)
        return output.last_hidden_state, mask.bool()


def load_hub_backbone(settings: BackboneConfig) -> HubBackbone:
    """Load a checkpoint from a folder or the hub, in float32.  Raises InputError, one line, when it cannot be had."""
    source, model, tokenizer = _load(settings, AutoModel, torch.float32)
    return HubBackbone(model, tokenizer, settings, _moments(source))


def load_hub_vlm(settings: BackboneConfig, dtype: torch.dtype) -> tuple[HubBackbone, Tensor]:
    """Load a checkpoint as a backbone in `dtype`, and its head (V, D).

    Raises InputError, one line, when it cannot be had or a weight is missing, left over or of another size.
    """
    source, (model, told), tokenizer = _load(settings, AutoModelForImageTextToText, dtype, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told[kind]:
            got = f"{kind.replace('_keys', '')}: {', '.join(sorted(map(str, told[kind]))[:3])}"
            raise problem(f"backbone {source}", "every weight of the model and no other", got)
    return HubBackbone(model.model, tokenizer, settings, _moments(source)), model.get_output_embeddings().weight


def _load(settings: BackboneConfig, auto: Any, dtype: torch.dtype, **more: Any) -> tuple[str, Any, Any]:
    """Return the source, what `auto` loads from it, and the tokenizer."""
    name = settings.name
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith(("/", ".", "~")) or name.count("/") != 1):
        raise problem("backbone.name", "'embedded', a folder that exists or a hub id like owner/model", name)
    source = str(folder) if folder.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type not in FAMILIES:
            raise problem("backbone", f"a model of type {', '.join(FAMILIES)}", config.model_type)
        if config.model_type == "paligemma":
            config.vision_config.vision_use_head = False
        return (
            source,
            auto.from_pretrained(source, config=config, dtype=dtype, **more),
            AutoTokenizer.from_pretrained(source),
        )
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        line = " ".join(str(error).split())[:160]
        remedy = "check the folder's files" if folder.is_dir() else "download it and give its folder, or use 'embedded'"
        raise InputError(f"backbone: '{name}' cannot be loaded ({line}); {remedy}") from None


def _moments(source: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of pixels in [0, 1], from the checkpoint's preprocessor file; SigLIP's 0.5 without one."""
    found = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    values = read_json(Path(found)) if found else {}
    return list(values.get("image_mean", [0.5] * 3)), list(values.get("image_std", [0.5] * 3))
