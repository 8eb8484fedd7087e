"""FAST: a chunk as tokens of its frequencies, as many as it takes (Pertsch et al. 2025, arXiv 2501.09747).

    chunk (H, A) in [-1, 1] -> cosine transform along time (orthonormal, scipy's) -> times `scale`, rounded
    -> the coefficients, all dimensions' low frequencies first -> byte-pair encoding (the tokenizers library)
The encoding is trained on demonstrated chunks.  A chunk has H A coefficients whatever it is, and every token says how
many of them it stands for: a sentence is over when all have been said, so it needs no end token, and where no token is
drawn that stands for more than are left (`fitting`), every sentence is a chunk.
Deviation from the paper's release, where a sentence of another number of coefficients becomes a chunk of zeros.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch import Tensor, nn

from toddle.core.config import config
from toddle.core.errors import InputError, problem
from toddle.core.numbers import Positive, Size

__all__ = ["NONE", "FastCode", "FastSettings", "FastTokenizer", "train_fast"]

NONE = -1
"""Stands after the last token of a sentence."""
ZERO = 0x8000
"""The letter of the coefficient 0; c is the letter ZERO + c."""
LARGEST = 10_000
"""Coefficients up to here have letters of their own that are whole characters."""
NEVER = -1e9
"""Log-probability of a token that cannot be said: finite, so that 0 times it is 0."""


@config
class FastSettings:
    """How chunks are written as tokens of their frequencies."""

    scale: Positive = 10.0
    """Coefficients are multiplied by it before they are rounded: more is finer and longer."""
    vocabulary: Size = 512
    """Tokens at most, single coefficients included."""
    rarest: Size = 10
    """Coefficients become one token where they stand side by side at least so often; smaller makes longer tokens, each
    of which is demonstrated less often."""


@config
class FastCode:
    """A trained encoding."""

    scale: Positive
    """Coefficients are multiplied by it before they are rounded."""
    pairs: str
    """The byte-pair encoding, as the tokenizers library writes it."""


def train_fast(chunks: Tensor, settings: FastSettings) -> FastCode:
    """Train on normalised chunks (N, H, A).  The same chunks give the same code.

    Raises InputError where the vocabulary has no room for every coefficient, or where one is too large.
    """
    from tokenizers import Tokenizer, models, trainers

    numbers = _coefficients(chunks.double(), settings.scale)
    low, high = int(numbers.min()), int(numbers.max())
    if max(-low, high) > LARGEST:
        raise problem("tokens.fast.scale", f"coefficients within {LARGEST}", max(-low, high), "take a smaller scale")
    letters = [chr(ZERO + number) for number in range(low, high + 1)]
    if len(letters) > settings.vocabulary:
        remedy = "take more, or a smaller --tokens.fast.scale"
        raise problem("tokens.fast.vocabulary", f"at least {len(letters)} tokens", settings.vocabulary, remedy)
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        min_frequency=settings.rarest,
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.train_from_iterator(_written(numbers), trainer)
    return FastCode(scale=settings.scale, pairs=tokenizer.to_str())


def _coefficients(chunks: Tensor, scale: float) -> Tensor:
    """Return the rounded coefficients (N, H A) int64 of chunks (N, H, A)."""
    found = scipy.fft.dct(chunks.cpu().numpy(), axis=1, norm="ortho")
    return torch.from_numpy(np.rint(found * scale).astype(np.int64)).flatten(1)


def _written(numbers: Tensor) -> list[str]:
    """Return coefficients (N, H A) as one word each."""
    return ["".join(chr(ZERO + number) for number in row) for row in numbers.tolist()]


class FastTokenizer(nn.Module):
    """Chunks (N, H, A) to tokens (N, H A), `NONE` after the last, and back."""

    lengths: Tensor
    pieces: Tensor
    transform: Tensor

    def __init__(self, code: FastCode, horizon: int, action: int) -> None:
        """Read a trained code for chunks (horizon, action).  Raises InputError where it is damaged."""
        from tokenizers import Tokenizer

        super().__init__()
        self.code, self.horizon, self.action = code, horizon, action
        try:
            self._tokenizer: Any = Tokenizer.from_str(code.pairs)
        except Exception as error:  # tokenizers raises plain exceptions
            raise InputError(f"code.pairs: not readable as a tokenizer: {' '.join(str(error).split())[:100]}") from None
        words = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        said = [[ord(letter) - ZERO for letter in word] for word, _ in words]
        single = [piece[0] for piece in said if len(piece) == 1]
        self.low, self.high = min(single), max(single)
        pieces = torch.zeros(len(said), max(map(len, said)), dtype=torch.int64)
        for row, piece in zip(pieces, said, strict=True):
            row[: len(piece)] = torch.tensor(piece)
        self.register_buffer("lengths", torch.tensor([len(piece) for piece in said]), persistent=False)
        self.register_buffer("pieces", pieces, persistent=False)
        matrix = scipy.fft.dct(np.eye(horizon), axis=0, norm="ortho")  # orthonormal: its inverse is its transpose
        self.register_buffer("transform", torch.from_numpy(matrix).float(), persistent=False)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self.lengths)

    @property
    def longest(self) -> int:
        """H A, tokens of the longest sentence: one for every coefficient."""
        return self.horizon * self.action

    def encode(self, chunks: Tensor) -> Tensor:
        """Return the tokens (N, H A) int64 of normalised chunks (N, H, A), `NONE` after the last.

        Coefficients beyond those of the training are held to its smallest and largest.
        """
        numbers = _coefficients(chunks.detach().double(), self.code.scale).clamp(self.low, self.high)
        found = torch.full((len(chunks), self.longest), NONE)
        for row, word in zip(found, self._tokenizer.encode_batch(_written(numbers)), strict=True):
            row[: len(word.ids)] = torch.tensor(word.ids)
        return found.to(chunks.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the chunks (N, H, A) of whole sentences (N, L <= H A): the inverse, up to the rounding."""
        real = tokens >= 0
        tokens = tokens.clamp(min=0)
        ends = torch.where(real, self.lengths[tokens], 0).cumsum(1)
        place = torch.arange(self.longest, device=tokens.device).expand(len(tokens), -1).contiguous()
        which = torch.searchsorted(ends, place, right=True).clamp(max=tokens.shape[1] - 1)
        chosen = tokens.gather(1, which)
        inside = place - (ends.gather(1, which) - self.lengths[chosen])
        numbers = self.pieces[chosen, inside.clamp(max=self.pieces.shape[1] - 1)].to(self.transform.dtype)
        return self.transform.T @ (numbers / self.code.scale).unflatten(1, (self.horizon, self.action))

    def left(self, tokens: Tensor) -> Tensor:
        """Return how many coefficients are left to say before each of tokens (N, L); 0 after the last."""
        covered = torch.where(tokens >= 0, self.lengths[tokens.clamp(min=0)], 0)
        left: Tensor = self.longest - covered.cumsum(1) + covered
        return left

    def fitting(self, log_probs: Tensor, left: Tensor) -> Tensor:
        """Return logits (..., V) in which no token stands for more than are `left` (...); all fit where none are."""
        whole = torch.where(left > 0, left, math.inf)
        return log_probs.masked_fill(self.lengths > whole[..., None], NEVER)
