"""What VLAs share that read pictures and a sentence through a backbone held beside their own weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.core.types import FeatureSource, Observation, Reading, sentences_of
from toddle.models.backbones.base import Backbone
from toddle.models.lora import merged_copy

__all__ = ["SeeingPolicy"]


class SeeingPolicy(nn.Module):
    """A policy with a backbone that is frozen, or trained by LoRA alone.

    The backbone's own weights are not part of the policy's `state_dict`; a fingerprint says which they were.
    A subclass sets `adapter`, which maps the backbone's tokens to the context that it reads.
    """

    adapter: nn.Module
    cameras: tuple[str, ...]
    fingerprint: str

    def __init__(self, backbone: Backbone, expected: str, name: str) -> None:
        """Hold the backbone `name`.  Raises InputError when its fingerprint is not `expected` (where that is known)."""
        super().__init__()
        self.fingerprint = backbone.base_fingerprint or backbone.fingerprint()
        if expected and expected != self.fingerprint:
            raise problem(
                "backbone",
                f"fingerprint {expected}, which the policy was trained with",
                self.fingerprint,
                f"'{name}' has other weights or preprocessing now: restore it or train again",
            )
        self._held = [backbone]  # in a list, so that its weights are not part of the policy's
        self._merged: list[Backbone] = []  # what reads in its place while it acts with LoRA merged

    def _share_lora(self) -> None:
        """Take the backbone's LoRA weights into the policy's, so that they are trained and saved with it."""
        lora = [(name, value) for name, value in self.backbone.named_parameters() if ".lora_" in name]
        self.lora = nn.ParameterDict({name.replace(".", "/"): value for name, value in lora})

    @property
    def backbone(self) -> Backbone:
        """The vision-language model."""
        return self._held[0]

    def merge_lora(self) -> None:
        """Read through a copy of the backbone with LoRA folded into its weights as it is now (where it has LoRA).

        It reads the same to rounding and faster, and LoRA no longer learns: call it on a policy that acts alone.
        """
        self._merged = [merged_copy(self.backbone)] if self.backbone.trainable else []

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Act with LoRA merged, as it is when this begins, until this ends."""
        self.merge_lora()
        try:
            yield
        finally:
            self._merged = []

    @property
    def features(self) -> FeatureSource | None:
        """The frozen backbone; None where LoRA trains it."""
        if self.backbone.trainable:
            return None
        shape = (self.backbone.tokens(len(self.cameras)), self.backbone.width)
        return FeatureSource(self.fingerprint, shape, self.backbone.encode)

    def reading(self, sentence: str) -> Reading:
        """Return how much of a sentence its backbone reads."""
        return self.backbone.reading(sentence)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move the backbone along when the policy moves to another device."""
        for backbone in (self.backbone, *self._merged):
            backbone._apply(fn)
        super()._apply(fn, recurse)
        return self

    def frozen_copy(self) -> Self:
        """Return a copy in evaluation mode that does not learn and shares the frozen backbone (for a critic).

        Raises InputError where LoRA trains the backbone: the copy's would move with it.
        """
        if self.backbone.trainable:
            raise problem("policy", "a VLA with a frozen backbone, which a frozen copy shares", "LoRA on the backbone")
        memo: dict[int, Any] = {id(self.backbone): self.backbone}
        return copy.deepcopy(self, memo).requires_grad_(False).eval()

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
        adapted: Tensor = self.adapter(raw)
        return adapted, mask

    def _encode(self, images: Tensor, sentences: list[str]) -> tuple[Tensor, Tensor]:
        """Encode pictures (..., n, 3, H, W) with a sentence each, or (T, B, ...) with the same B at every decision."""
        lead = images.shape[:-4]
        rows = images.flatten(0, -5)
        reader = self._merged[0] if self._merged else self.backbone
        raw, mask = reader.encode(rows, sentences * (len(rows) // len(sentences)))
        return raw.unflatten(0, lead), mask.unflatten(0, lead)

    @torch.no_grad()
    def encode(self, observation: Observation) -> Observation:
        """Return the observation with the frozen backbone's features, in float16, in place of pictures and sentence."""
        if self.backbone.trainable or "context" in observation:
            return observation
        raw, mask = self._encode(observation["images"], sentences_of(observation))
        kept = {key: value for key, value in observation.items() if key not in ("images", "instruction", "task")}
        return Observation(**kept, context=raw.half(), context_mask=mask)  # type: ignore[typeddict-item]
