"""Any SmolVLM2, Idefics3 or PaliGemma class model, whose language model says numbers by 256 of its words.

Pictures and sentence are prepared as its backbone's are (models.backbones.hub): [pictures | sentence, line end].  The
words are the last 256 of the tokenizer's own vocabulary, before what was added to it.  PaliGemma's prompt sees itself
both ways, as it was trained; what is said is causal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toddle.core.errors import problem
from toddle.models.backbones.base import BackboneConfig, check_images
from toddle.models.backbones.hub import HubBackbone, load_hub_vlm
from toddle.models.vlms.base import WORDS, Prompt, SpeakingModel

__all__ = ["HubVLM", "load_speaking_hub"]


class HubVLM(SpeakingModel):
    """A vision-language model of transformers; built by `load_speaking_hub`."""

    def __init__(self, eyes: HubBackbone, head: Tensor) -> None:
        """Keep the rows of the head (V, D) that say numbers.  Raises InputError where one of them means something."""
        super().__init__()
        self.eyes, self.tokenizer, self.width = eyes, eyes.tokenizer, eyes.width
        self.top = int(self.tokenizer.vocab_size) - 1
        self.prefix_sees_itself = eyes.family == "paligemma"
        taken = {*self.tokenizer.all_special_ids, eyes.model.config.image_token_id}
        if wrong := [index for index in taken if self.top - WORDS < index <= self.top]:
            want = f"{WORDS} plain words at the end of its vocabulary of {self.top + 1}"
            raise problem("tokenizer", want, ", ".join(map(str, self.tokenizer.convert_ids_to_tokens(wrong))))
        self.keep_rows(head)

    @property
    def decoder(self) -> Any:
        """The language model, part of the whole."""
        return self.eyes.model.get_decoder()

    def preprocessing(self) -> dict[str, Any]:
        return self.eyes.preprocessing() | {"words": WORDS}

    @property
    def room(self) -> int:
        return self.eyes.room

    def _ids(self, sentence: str) -> list[int]:
        return self.eyes._ids(sentence)

    def prompt(self, images: Tensor, sentences: Sequence[str], more: Tensor | None = None) -> Prompt:
        check_images(images, sentences)
        assert more is None
        ids, real, pixels = self.eyes.inputs(images, sentences)
        marked = ids == self.eyes.model.config.image_token_id
        x = self.words(ids.masked_fill(marked, 0))  # the mark may lie beyond the table
        features = self.eyes.model.get_image_features(pixels.to(x.dtype)).pooler_output
        whole = torch.cat(list(features)) if isinstance(features, list | tuple) else features
        x = x.masked_scatter(marked[..., None], whole.to(x.dtype))
        return Prompt(x, real.bool(), real.sum(1) - 1)


def load_speaking_hub(settings: BackboneConfig, dtype: torch.dtype) -> HubVLM:
    """Load a checkpoint from a folder or the hub, frozen, in `dtype`, every weight of it.

    Raises InputError, one line, when it cannot be had or a weight is missing or left over.
    """
    return HubVLM(*load_hub_vlm(settings, dtype)).freeze()
