"""The embedded backbone: a small vision-language encoder that needs no network and runs on a CPU.

A convolutional stem feeds the vision tower of SigLIP (transformers' classes); the sentence goes through SigLIP's
text tower; a fusion encoder mixes [registers | patches | words].  The registers start from keypoints found by a
spatial softmax on the stem (Finn et al. 2016, "Deep spatial autoencoders"), because WHERE things are is what a
manipulation policy asks of its eyes.  `toddle backbone` trains it; the weights are shipped as fp16 safetensors.

Context of one picture: R registers, (grid/2)^2 pooled patches; then the words, shared by all pictures.
A sentence that is longer than the text tower is read in pieces, which break between words; the fusion encoder sees all
of its tokens, and what it makes of them is averaged over neighbours into the context's fixed number of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipTextConfig, SiglipTextModel, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionModel

from toddle.core.config import config, from_dict, to_dict
from toddle.core.errors import InputError, problem
from toddle.core.files import write_atomic, write_json_atomic
from toddle.core.numbers import PictureSize, Size
from toddle.core.reading import read_json, read_text
from toddle.models.backbones.base import Backbone, BackboneConfig, tokenizer_data

__all__ = [
    "ASSETS",
    "LONGEST",
    "EmbeddedBackbone",
    "EmbeddedConfig",
    "load_embedded",
    "save_embedded",
    "train_tokenizer",
]

ASSETS = Path(__file__).parents[1] / "assets" / "embedded"
PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[END]"
SPACE = "\u0120"
"""How byte-level BPE writes the space before a word."""
LONGEST = 256
"""Tokens of the longest sentence that is read whole: attention takes their square."""


@config
class EmbeddedConfig:
    """Sizes of the embedded backbone."""

    image_size: PictureSize = 96
    """Side of the square picture in pixels; others are resized to it."""
    width: Size = 192
    """D_vlm, width of every tower."""
    stem: tuple[Size, Size, Size] = (24, 48, 192)
    """Channels of the convolutional stem at 1/2, 1/4 and 1/8 of the picture's side."""
    keypoints: Size = 32
    """Points the spatial softmax looks for on the 1/4 map."""
    registers: Size = 8
    """Summary tokens; the first ones are read by the pose head during pretraining."""
    vision_layers: Size = 3
    """Layers of the vision tower."""
    text_layers: Size = 3
    """Layers of the text tower."""
    fusion_layers: Size = 3
    """Layers over registers, patches and words together."""
    heads: Size = 6
    """Attention heads of every layer."""
    text_tokens: Size = 16
    """Tokens the text tower reads at once; shorter sentences are padded, longer ones are read in pieces."""
    vocabulary: Size = 448
    """Size of the tokenizer's vocabulary."""

    def __post_init__(self) -> None:
        """Check that the towers fit together."""
        if self.image_size % 32:
            raise problem("image_size", "a multiple of 32 with the embedded backbone", self.image_size)
        if self.width % self.heads:
            raise problem("heads", f"a divisor of width {self.width}", self.heads)

    @property
    def grid(self) -> int:
        """Patches along one side: each is 16 x 16 pixels."""
        return self.image_size // 16


class Stem(nn.Module):
    """Convolutions to 1/4 (fine) and 1/8 (coarse) of the picture; the fine map gives the keypoints."""

    def __init__(self, settings: EmbeddedConfig) -> None:
        super().__init__()
        first, second, third = settings.stem
        self.conv1 = nn.Conv2d(3, first, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(8, second)
        self.conv3 = nn.Conv2d(second, second, 3, padding=1)
        self.norm3 = nn.GroupNorm(8, second)
        self.conv4 = nn.Conv2d(second, third, 3, stride=2, padding=1)
        self.norm4 = nn.GroupNorm(8, third)
        self.heat = nn.Conv2d(second, settings.keypoints, 1)
        side = settings.image_size // 4
        line = torch.linspace(-1.0, 1.0, side)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)  # (side^2, [y, x])
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map pixels (B, 3, S, S) to a map (B, C, S/8, S/8) and keypoints (B, K * 3): y, x, strength."""
        x = F.gelu(self.conv1(pixels))
        x = F.gelu(self.norm2(self.conv2(x)))
        x = x + F.gelu(self.norm3(self.conv3(x)))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 would round a point to a quarter pixel
            heat = self.heat(x.float()).flatten(2)
            weight = heat.softmax(-1)
            points = torch.einsum("bkp,pc->bkc", weight, self.grid)
            strength = (weight * heat).sum(-1, keepdim=True) - heat.mean(-1, keepdim=True)
            keypoints = torch.cat([points, strength.tanh()], -1).flatten(1)
        return F.gelu(self.norm4(self.conv4(x))), keypoints


class EmbeddedBackbone(Backbone):
    """The vision-language backbone that comes with toddle: pictures and sentences to context tokens.

    Built by `load_embedded`, or fresh by the pretraining recipe.
    """

    remedy = "shorten it, put it in English, or train a backbone on your sentences (toddle backbone)"
    room = LONGEST

    def __init__(self, sizes: EmbeddedConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.sizes, self.tokenizer, self.width = sizes, tokenizer, sizes.width
        self._pieces: dict[str, list[list[int]]] = {}  # of the sentences met so far
        self.settings = BackboneConfig()
        common: dict[str, Any] = {
            "hidden_size": sizes.width,
            "intermediate_size": 2 * sizes.width,
            "num_attention_heads": sizes.heads,
            "attn_implementation": "eager",  # few tokens: half the time of sdpa when training on a CPU
        }
        vision = SiglipVisionConfig(
            image_size=2 * sizes.grid,
            patch_size=2,
            num_channels=sizes.stem[2],
            num_hidden_layers=sizes.vision_layers,
            vision_use_head=False,
            **common,
        )
        text = SiglipTextConfig(
            vocab_size=sizes.vocabulary,
            max_position_embeddings=sizes.text_tokens,
            num_hidden_layers=sizes.text_layers,
            projection_size=sizes.width,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            **common,
        )
        fusion = SiglipVisionConfig(num_hidden_layers=sizes.fusion_layers, **common)
        self.stem = Stem(sizes)
        self.vision = SiglipVisionModel(vision)
        self.text = SiglipTextModel(text)
        self.register_tokens = nn.Parameter(0.02 * torch.randn(sizes.registers, sizes.width))
        self.from_keypoints = nn.Linear(3 * sizes.keypoints, sizes.registers * sizes.width)
        self.fusion = SiglipEncoder(fusion)  # its layers take either tower's sizes
        self.norm = nn.LayerNorm(sizes.width)

    # ---- parts that pretraining uses -----------------------------------------------------------------------------
    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map pictures (B, 3, H, W) uint8 to registers (B, R, D) and patches (B, P, D), before any word is known."""
        size = (self.sizes.image_size, self.sizes.image_size)
        pixels = images.float() / 127.5 - 1.0
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        maps, keypoints = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        patches = self.vision(pixel_values=maps).last_hidden_state
        registers = self.from_keypoints(keypoints).unflatten(-1, (self.sizes.registers, self.width))
        return registers + self.register_tokens, patches

    def read(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Map B sentences to words (B, L, D) and mask (B, L); each different sentence is read once.

        L is the text tower's room, or the tokens of the longest sentence where that is more.
        """
        different = sorted(set(instructions))
        row = {sentence: index for index, sentence in enumerate(different)}
        pieces = [self._in_pieces(sentence) for sentence in different]
        room, device = self.sizes.text_tokens, self.register_tokens.device
        flat = [piece for each in pieces for piece in each]
        ids = [piece + [self.tokenizer.pad_token_id] * (room - len(piece)) for piece in flat]
        mask = torch.tensor([[1] * len(piece) + [0] * (room - len(piece)) for piece in flat], device=device)
        words = self.text(input_ids=torch.tensor(ids, device=device), attention_mask=mask).last_hidden_state
        if len(flat) > len(different):
            counts = [len(each) for each in pieces]
            whole = [w[m.bool()] for w, m in zip(words.split(counts), mask.split(counts), strict=True)]
            words = nn.utils.rnn.pad_sequence(whole, batch_first=True)
            length = torch.tensor([len(each) for each in whole], device=device)
            mask = torch.arange(words.shape[1], device=device) < length[:, None]
        rows = torch.tensor([row[sentence] for sentence in instructions], device=device)
        return words[rows], mask.bool()[rows]

    def _ids(self, sentence: str) -> list[int]:
        ids: list[int] = self.tokenizer(sentence)["input_ids"]
        return ids

    def _in_pieces(self, sentence: str) -> list[list[int]]:
        """Return the ids of a sentence's tokens in pieces that the text tower can read, each of whole words."""
        if sentence not in self._pieces:
            ids, room, pieces = self._ids(sentence)[:LONGEST], self.sizes.text_tokens, []
            while len(ids) > room:
                tokens = self.tokenizer.convert_ids_to_tokens(ids[: room + 1])
                begins = [place for place in range(1, room + 1) if tokens[place].startswith(SPACE)]
                cut = max(begins, default=room)
                pieces.append(ids[:cut])
                ids = ids[cut:]
            self._pieces[sentence] = [*pieces, ids]
        return self._pieces[sentence]

    def fuse(self, registers: Tensor, patches: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix [registers | patches | words] and return the three parts, normalised."""
        tokens = torch.cat([registers, patches, words], 1)
        seen = torch.cat([mask.new_ones(mask.shape[0], registers.shape[1] + patches.shape[1]), mask], 1)
        bias = torch.zeros(seen.shape, dtype=tokens.dtype, device=seen.device).masked_fill(~seen, -1e9)
        mixed = self.norm(self.fusion(inputs_embeds=tokens, attention_mask=bias[:, None, None, :]).last_hidden_state)
        parts = mixed.split([registers.shape[1], patches.shape[1], words.shape[1]], 1)
        return parts[0], parts[1], parts[2]

    # ---- Backbone ------------------------------------------------------------------------------------------------
    def tokens(self, cameras: int) -> int:
        return cameras * (self.sizes.registers + (self.sizes.grid // 2) ** 2) + self.sizes.text_tokens

    def preprocessing(self) -> dict[str, Any]:
        return {"kind": "embedded", "sizes": to_dict(self.sizes), "tokenizer": tokenizer_data(self.tokenizer)}

    def _features(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        long = torch.tensor([len(self._in_pieces(sentence)) > 1 for sentence in instructions])
        if long.all() or not long.any():
            return self._encode(images, instructions)
        context = torch.empty(len(images), self.tokens(images.shape[1]), self.width, device=self.register_tokens.device)
        mask = torch.empty(context.shape[:2], dtype=torch.bool, device=context.device)
        for rows in (long.nonzero()[:, 0], (~long).nonzero()[:, 0]):  # apart: a sentence is not read by its neighbours
            found = self._encode(images[rows.to(images.device)], [instructions[row] for row in rows.tolist()])
            for whole, part in zip((context, mask), found, strict=True):
                whole[rows.to(whole.device)] = part
        return context, mask

    def _encode(self, images: Tensor, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode pictures with sentences that are all within the text tower's room, or all beyond it."""
        batch, cameras = images.shape[:2]
        words, mask = self.read(instructions)
        images = images.to(self.register_tokens.device)
        registers, patches = self.see(images.flatten(0, 1))
        repeated = words.repeat_interleave(cameras, 0), mask.repeat_interleave(cameras, 0)
        registers, patches, words = self.fuse(registers, patches, *repeated)
        side = self.sizes.grid
        square = patches.unflatten(1, (side // 2, 2, side // 2, 2)).mean((2, 4)).flatten(1, 2)
        seen = torch.cat([registers, square], 1).unflatten(0, (batch, cameras)).flatten(1, 2)
        words = words.unflatten(0, (batch, cameras)).mean(1)
        if words.shape[1] > self.sizes.text_tokens:
            whole = [F.adaptive_avg_pool1d(w[m].t(), self.sizes.text_tokens).t() for w, m in zip(words, mask)]
            words, mask = torch.stack(whole), mask.new_ones(batch, self.sizes.text_tokens)
        return torch.cat([seen, words], 1), torch.cat([mask.new_ones(seen.shape[:2]), mask], 1)


def train_tokenizer(sentences: Sequence[str], sizes: EmbeddedConfig) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the instruction sentences (no hub is needed)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789-.,'") + [SPACE]
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary, special_tokens=[PAD, UNKNOWN, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sorted(set(sentences)), trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Any) -> PreTrainedTokenizerFast:
    """Wrap a `tokenizers` tokenizer so that transformers' models take it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, padding_side="right"
    )


def save_embedded(folder: Path, backbone: EmbeddedBackbone) -> None:
    """Write weights (fp16), sizes and tokenizer to `folder`."""
    state = {name: value.detach().cpu().half().contiguous() for name, value in backbone.state_dict().items()}
    write_atomic(folder / "backbone.safetensors", lambda path: save_file(state, path))
    write_json_atomic(folder / "sizes.json", to_dict(backbone.sizes))
    write_json_atomic(folder / "tokenizer.json", tokenizer_data(backbone.tokenizer))


def load_embedded(folder: Path = ASSETS) -> EmbeddedBackbone:
    """Load the embedded backbone, frozen, in float32.  Raises InputError when a file of it is missing or damaged."""
    from tokenizers import Tokenizer

    try:
        sizes = from_dict(EmbeddedConfig, read_json(folder / "sizes.json"), where="sizes.json")
        tokenizer = wrap_tokenizer(Tokenizer.from_str(read_text(folder / "tokenizer.json")))
        state = load_file(folder / "backbone.safetensors")
        backbone = EmbeddedBackbone(sizes, tokenizer)
        backbone.load_state_dict({name: value.float() for name, value in state.items()})
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"backbone: the embedded weights in {folder} cannot be read ({line}); `toddle backbone` makes them again"
        ) from None
    backbone.freeze()
    return backbone
