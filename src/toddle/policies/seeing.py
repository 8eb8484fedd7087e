"""What VLAs share that read pictures and a sentence through a model held beside their own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.types import FeatureSource, Observation, Reading, sentences_of
from toddle.models.backbones.base import Backbone, VisionLanguageModel
from toddle.models.lora import merged_copy
from toddle.models.resampler import Resampler

__all__ = ["HoldingPolicy", "SeeingPolicy"]


class HoldingPolicy(nn.Module):
    """A policy that holds a vision-language model which is frozen, or trained by LoRA alone.

    The model's own weights are not part of the policy's `state_dict`; a fingerprint says which they were.
    """

    cameras: tuple[str, ...]
    fingerprint: str

    def __init__(self, held: VisionLanguageModel, expected: str, name: str) -> None:
        """Hold the model `name`.  Raises InputError when its fingerprint is not `expected` (where that is known)."""
        super().__init__()
        self.fingerprint = held.base_fingerprint or held.fingerprint()
        if expected and expected != self.fingerprint:
            raise problem(
                "backbone",
                f"fingerprint {expected}, which the policy was trained with",
                self.fingerprint,
                f"'{name}' has other weights or preprocessing now: restore it or train again",
            )
        self._held: list[Any] = [held]  # in a list, so that its weights are not part of the policy's
        self._merged: list[Any] = []  # what reads in its place while it acts with LoRA merged

    def _share_lora(self) -> None:
        """Take the model's LoRA weights into the policy's, so that they are trained and saved with it."""
        lora = [(name, value) for name, value in self._held[0].named_parameters() if ".lora_" in name]
        self.lora = nn.ParameterDict({name.replace(".", "/"): value for name, value in lora})

    def merge_lora(self) -> None:
        """Read through a copy of the model with LoRA folded into its weights as it is now (where it has LoRA).

        It reads the same to rounding and faster, and LoRA no longer learns: call it on a policy that acts alone.
        """
        self._merged = [merged_copy(self._held[0])] if self._held[0].trainable else []

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Act with LoRA merged, as it is when this begins, until this ends."""
        self.merge_lora()
        try:
            yield
        finally:
            self._merged = []

    def frozen_copy(self, *, lora: bool = False) -> Self:
        """Return a copy in evaluation mode that does not learn, as it is now (a critic's, or a reference).

        It shares the model's own weights; LoRA is copied, and with `lora` the copy's goes on learning.
        """
        model = self._held[0]
        memo: dict[int, Any] = {id(model): model}
        if model.trainable:
            tensors = (*model.named_parameters(), *model.named_buffers())
            memo = {id(value): value for name, value in tensors if ".lora_" not in name}
        found = copy.deepcopy(self, memo).requires_grad_(False).eval()
        if lora:
            found.lora.requires_grad_(True)
        else:
            found._held[0].trainable = False
        return found

    @property
    def context_width(self) -> int:
        """0: `encode` keeps what was seen, unless a subclass says otherwise."""
        return 0

    @property
    def _reader(self) -> Any:
        """What reads now: the model, or its merged copy."""
        return (self._merged or self._held)[0]

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence its model reads."""
        reading: Reading = self._held[0].reading(sentence)
        return reading

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the model along when the policy moves to another device."""
        for model in (*self._held, *self._merged):
            model._apply(fn)
        super()._apply(fn, recurse)
        return self


class SeeingPolicy(HoldingPolicy):
    """A policy that reads the context tokens of a backbone.

    A subclass sets `adapter`, which maps the backbone's tokens to the context that it reads: each by itself, or all of
    them to a few (`Resampler`).
    """

    adapter: nn.Module

    @property
    def backbone(self) -> Backbone:
        """The vision-language model."""
        backbone: Backbone = self._held[0]
        return backbone

    @property
    def features(self) -> FeatureSource | None:
        """The frozen backbone; None where LoRA trains it."""
        if self.backbone.trainable:
            return None
        shape = (self.backbone.tokens(len(self.cameras)), self.backbone.width)
        return FeatureSource(self.fingerprint, shape, self.backbone.encode)

    @property
    def context_width(self) -> int:
        """D of the frozen backbone's features, which `encode` keeps; 0 where LoRA trains it."""
        return 0 if self.backbone.trainable else self.backbone.width

    def context(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Return adapted context (..., G, d_g) and its mask: cached features where given, else pictures and sentence.

        Raises InputError when the observation has neither.
        """
        if "context" in observation:
            raw, mask = observation["context"].float(), observation["context_mask"]
        elif "images" in observation and "instruction" in observation:
            raw, mask = self._encode(observation["images"], sentences_of(observation))
        else:
            raise problem(
                "observation",
                "'images' with 'instruction', or cached 'context'",
                ", ".join(observation),
                f"make the environment with cameras={self.cameras}",
            )
        if isinstance(self.adapter, Resampler):
            return self.adapter(raw, mask)
        adapted: Tensor = self.adapter(raw)
        return adapted, mask

    def _encode(self, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Encode pictures (..., n, 3, H, W) with a sentence each, or (T, B, ...) with the same B at every decision."""
        lead = images.shape[:-4]
        rows = images.flatten(0, -5)
        raw, mask = self._reader.encode(rows, sentences * (len(rows) // len(sentences)))
        return raw.unflatten(0, lead), mask.unflatten(0, lead)

    @torch.no_grad()
    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen backbone's features, in float16, in place of pictures and sentence."""
        if self.backbone.trainable or "context" in observation:
            return observation
        raw, mask = self._encode(observation["images"], sentences_of(observation))
        kept = {key: value for key, value in observation.items() if key not in ("images", "instruction", "task")}
        return Observation(**kept, context=raw.half(), context_mask=mask)  # type: ignore[typeddict-item]
