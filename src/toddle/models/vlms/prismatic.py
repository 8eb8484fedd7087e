"""Prismatic (arXiv 2402.07865), the model of OpenVLA: one or two vision towers, a projector, a Llama.

    [start | patches of each picture | (what a policy adds) | rest of the prompt]
The patches of the towers are joined in their channels.  Source: openvla/openvla, prismatic/extern/hf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toddle.core.errors import problem
from toddle.models.backbones.base import check_images, tokenizer_data
from toddle.models.vit import TowerSizes, VisionTower
from toddle.models.vlms.base import WORDS, Prompt, SpeakingModel
from toddle.models.vlms.parts import make_llama
from toddle.models.vlms.pictures import PictureSettings, Strategy, TowerPicture, prepare

__all__ = ["PROMPTS", "Prismatic", "PrismaticSizes"]

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PROMPTS = {
    "pure": "In: What action should the robot take to {}?\nOut:",
    "vicuna": f"{SYSTEM} USER: What action should the robot take to {{}}? ASSISTANT:",
}
"""What is asked, of OpenVLA 7B and of its first version, which is a Vicuna."""
LLAMA_WORDS, LLAMA_SPACE = 32000, 29871
"""Words of Llama-2's tokenizer, and the id of its lone space, which stands before the first action word."""


class PrismaticSizes(NamedTuple):
    """What a folder says of the model beside its weights."""

    towers: tuple[TowerSizes, ...]
    pictures: tuple[TowerPicture, ...]
    strategy: Strategy
    llama: Any  # transformers' configuration
    vocabulary: int  # words of the tokenizer, without the padding of the table
    prompt: Literal["pure", "vicuna"]


class Projector(nn.Module):
    """Features of patches (..., v) to the Llama's width D: two layers for one tower, three for two."""

    def __init__(self, features: int, width: int, *, fused: bool) -> None:
        super().__init__()
        inner = 4 * features if fused else width
        self.fc1, self.fc2 = nn.Linear(features, inner), nn.Linear(inner, width)
        self.fc3 = nn.Linear(width, width) if fused else None

    def forward(self, x: Tensor) -> Tensor:
        done: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return done if self.fc3 is None else self.fc3(F.gelu(done))


class Prismatic(SpeakingModel):
    """Built without weights (on no device): `policies.prismatic_layouts` assigns them."""

    def __init__(self, sizes: PrismaticSizes, tokenizer: Any, pictures: PictureSettings) -> None:
        """Raises InputError where the tokenizer is not the one of the table of words."""
        super().__init__()
        self.sizes, self.tokenizer, self.settings = sizes, tokenizer, pictures
        self.width, self.top = int(sizes.llama.hidden_size), sizes.vocabulary - 1
        self.start, self.stop = int(sizes.llama.bos_token_id), int(sizes.llama.eos_token_id)
        if tokenizer.vocab_size != sizes.vocabulary:
            want = f"{sizes.vocabulary} words, as the weights have without padding"
            raise problem("tokenizer.json", want, tokenizer.vocab_size)
        self.space = tokenizer.get_vocab().get("▁")
        if self.space is None or (sizes.vocabulary == LLAMA_WORDS and self.space != LLAMA_SPACE):
            raise problem("tokenizer.json: the word '▁'", f"Llama-2's, id {LLAMA_SPACE}", self.space)
        with torch.device("meta"):
            self.towers = nn.ModuleList(VisionTower(tower) for tower in sizes.towers)
            features = sum(tower.width for tower in sizes.towers)
            self.projector = Projector(features, self.width, fused=len(sizes.towers) > 1)
            self.head = nn.Parameter(torch.empty(WORDS, self.width), requires_grad=False)
        self.decoder = make_llama(sizes.llama)
        self.requires_grad_(False)

    def preprocessing(self) -> dict[str, Any]:
        return {
            "kind": "prismatic",
            "pictures": [list(tower) for tower in self.sizes.pictures],
            "strategy": self.sizes.strategy,
            "before": [self.settings.view, self.settings.lanczos, self.settings.crop],
            "prompt": PROMPTS[self.sizes.prompt],
            "vocabulary": self.sizes.vocabulary,
            "tokenizer": tokenizer_data(self.tokenizer),
        }

    @property
    def room(self) -> int:
        return int(self.sizes.llama.max_position_embeddings)

    def _ids(self, sentence: str) -> list[int]:
        """Return the ids of the whole prompt: start, question, the lone space."""
        asked = PROMPTS[self.sizes.prompt].format(sentence.lower())
        ids = [self.start, *self.tokenizer(asked, add_special_tokens=False)["input_ids"]]
        return ids if ids[-1] == self.space else [*ids, self.space]

    def prompt(self, images: Tensor, sentences: Sequence[str], more: Tensor | None = None) -> Prompt:
        check_images(images, sentences)
        device = self.head.device
        known = {sentence: self._ids(sentence) for sentence in set(sentences)}
        length = max(map(len, known.values()))
        ids = torch.tensor([known[one] + [self.stop] * (length - len(known[one])) for one in sentences], device=device)
        count = torch.tensor([len(known[one]) for one in sentences], device=device)
        real = torch.arange(length, device=device) < count[:, None]
        text = self.words(ids)
        language = None
        if self.sizes.towers[0].film:  # the mean of the prompt's words and the stop word
            stop = self.words(torch.tensor(self.stop, device=device))
            language = ((text * real[..., None].to(text.dtype)).sum(1) + stop) / (count[:, None] + 1).to(text.dtype)
        patches = self.patches(images.to(device), language)
        between = patches if more is None else torch.cat([patches, more.to(patches.dtype)], 1)
        x = torch.cat([text[:, :1], between, text[:, 1:]], 1)
        whole = torch.cat([real[:, :1], real.new_ones(between.shape[:2]), real[:, 1:]], 1)
        return Prompt(x, whole, between.shape[1] + count - 1)

    def picture_tokens(self, cameras: int) -> int:
        """Return the tokens that so many pictures take."""
        return cameras * self.sizes.towers[0].side ** 2

    def patches(self, images: Tensor, language: Tensor | None = None) -> Tensor:
        """Return the projected patches (N, n P, D) of pictures (N, n, 3, H, W) uint8, picture after picture."""
        size, cameras = images.shape[:2]
        seen = prepare(images.flatten(0, 1), self.sizes.pictures, self.sizes.strategy, self.settings)
        each = None if language is None else language.repeat_interleave(cameras, 0)
        dtype = self.head.dtype
        features = [tower(pixels.to(dtype), each) for tower, pixels in zip(self.towers, seen, strict=True)]
        projected: Tensor = self.projector(torch.cat(features, -1))
        return projected.unflatten(0, (size, cameras)).flatten(1, 2)
