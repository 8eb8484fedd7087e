"""The backbone seam: pictures and a sentence in, context tokens out, frozen unless LoRA is asked for.

What travels on is only (context, mask); nothing outside this folder knows which backbone it is.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.numbers import PictureSize, Positive, Size, SizeOrNone
from toddle.core.types import Reading

__all__ = [
    "Backbone",
    "BackboneConfig",
    "VisionLanguageModel",
    "check_images",
    "fingerprint_of",
    "reading_of",
    "tell_what_is_lost",
    "tokenizer_data",
]


@config
class BackboneConfig:
    """Which vision-language model reads the scene."""

    name: str = "embedded"
    """'embedded' (shipped with toddle, needs no network), a folder of `toddle backbone`, a local folder of a
    SmolVLM2, Idefics3 or PaliGemma class model, or its hub id, such as HuggingFaceTB/SmolVLM2-256M-Video-Instruct."""
    image_size: PictureSize | None = None
    """Side in pixels to which pictures are resized; None takes what the model was trained with."""
    text_tokens: Size = 32
    """Tokens of a sentence that are kept, padded to this number (the embedded backbone reads sentences whole)."""
    lora_rank: SizeOrNone = 0
    """Rank of LoRA on the attention projections of the backbone; 0 keeps it frozen."""
    lora_alpha: Positive = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""


def reading_of(ids: Sequence[int], room: int, tokenizer: Any) -> Reading:
    """Return how much is read of a sentence with these ids where there is room for `room` of them."""
    unknown = tokenizer.unk_token_id
    return Reading(len(ids), min(len(ids), room), 0 if unknown is None else list(ids).count(unknown))


@functools.cache
def tell_what_is_lost(sentence: str, reading: Reading, remedy: str) -> None:
    """Say on stderr, once for each sentence, that its end is cut off or that words of it are not known."""
    lost = [f"only {reading.read} of its {reading.tokens} tokens are read"] if reading.read < reading.tokens else []
    if reading.unknown:
        lost.append(f"{reading.unknown} of its {reading.tokens} tokens are unknown to the vocabulary")
    if lost:
        print(f"instruction '{sentence[:200]}': {' and '.join(lost)}; {remedy}", file=sys.stderr)


class VisionLanguageModel(nn.Module):
    """What a policy holds beside its own weights: a model of pictures and sentences, frozen or trained by LoRA."""

    tokenizer: Any
    trainable: bool = False  # True with LoRA: gradients flow and features must not be cached
    base_fingerprint: str = ""  # with LoRA: the fingerprint of what it was put on

    @property
    def room(self) -> int:
        """Tokens of a sentence that are read, at most."""
        raise NotImplementedError

    def _ids(self, sentence: str) -> list[int]:
        """Return the ids of a sentence's tokens, all of them."""
        raise NotImplementedError

    def preprocessing(self) -> dict[str, Any]:
        """Return what is done to pictures and text before the weights, as plain values (part of the fingerprint)."""
        raise NotImplementedError

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence is read."""
        return reading_of(self._ids(sentence), self.room, self.tokenizer)

    def train(self, mode: bool = True) -> Self:
        """A frozen model stays in evaluation mode."""
        return super().train(mode and self.trainable)

    def freeze(self) -> Self:
        """Switch off gradients of all weights and go to evaluation mode."""
        self.trainable = False
        self.requires_grad_(False)
        return self.eval()

    def fingerprint(self) -> str:
        """Return 16 hex digits that change with the weights or the preprocessing: they key the feature cache."""
        return fingerprint_of(self, self.preprocessing())


class Backbone(VisionLanguageModel):
    """A vision-language encoder.  `encode` is all that callers use.

    width: D_vlm, numbers of one context token.  tokens: G for `cameras` pictures, always the same.
    """

    width: int
    settings: BackboneConfig
    remedy: str  # what a user can do about a sentence of which something is lost

    def tokens(self, cameras: int) -> int:
        """Return G, the context tokens of one decision with `cameras` pictures."""
        raise NotImplementedError

    def _features(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return context (B, G, D_vlm) and mask (B, G) bool for images (B, n, 3, H, W) uint8."""
        raise NotImplementedError

    def encode(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode pictures (B, n, 3, H, W) uint8 and B sentences.

        Returns context (B, G, D_vlm) float32 and mask (B, G) bool, True where the token is real.  Without LoRA no
        gradient is recorded and dropout is off, whatever mode the policy is in.
        Raises InputError when the pictures' shape or type is wrong or the number of sentences is not B.
        """
        check_images(images, instructions)
        for sentence in set(instructions):
            tell_what_is_lost(sentence, self.reading(sentence), self.remedy)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            context, mask = self._features(images, instructions)
        return context.float(), mask


def fingerprint_of(module: nn.Module, preprocessing: dict[str, Any]) -> str:
    """Hash all tensors of `module` (name, type, shape, bytes) and the preprocessing."""
    digest = hashlib.sha256(json.dumps(preprocessing, sort_keys=True).encode())
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()[:16]


def tokenizer_data(tokenizer: Any) -> dict[str, Any]:
    """Return a fast tokenizer's definition, without the padding and cutting that its latest call has left in it."""
    data: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return data | {"padding": None, "truncation": None}


def check_images(images: Tensor, instructions: Sequence[str]) -> None:
    """Raise InputError unless images are (B, n, 3, H, W) uint8 and there are B sentences."""
    if images.ndim != 5 or images.shape[2] != 3:
        raise problem("images", "shape (B, cameras, 3, height, width)", str(tuple(images.shape)))
    if images.dtype != torch.uint8:
        raise problem("images", "uint8 in 0..255", str(images.dtype), "the backbone normalises pictures itself")
    if len(instructions) != len(images):
        raise problem("instruction", f"{len(images)} sentences, one a picture set", len(instructions))
