"""FAST: chunks there and back against scipy's transform and the tokenizers library's own encoding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
import torch
from tokenizers import Tokenizer

from toddle.core.errors import InputError
from toddle.models.fast import NONE, FastSettings, FastTokenizer, train_fast

H, A = 7, 3


def smooth(count: int = 300) -> torch.Tensor:
    """Chunks (N, H, A) of slow motions, in [-1, 1]."""
    walk = torch.randn(count, H, A, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return (walk / 4).clamp(-1, 1)


def taught(**settings: float) -> FastTokenizer:
    return FastTokenizer(train_fast(smooth(), FastSettings(**({"vocabulary": 300} | settings))), H, A)  # type: ignore[arg-type]


def test_there_and_back_is_scipys_rounded_transform() -> None:
    for scale in (3.0, 10.0, 100.0):
        made, chunks = taught(scale=scale, vocabulary=1200), smooth()
        back = made.decode(made.encode(chunks)).double().numpy()
        rounded = np.rint(scale * scipy.fft.dct(chunks.double().numpy(), axis=1, norm="ortho")) / scale
        np.testing.assert_allclose(back, scipy.fft.idct(rounded, axis=1, norm="ortho"), atol=1e-6)
        # a coefficient is off by half a step at most, and the transform keeps lengths
        assert float(np.sqrt(((back - chunks.numpy()) ** 2).sum(1)).max()) <= 0.5 * np.sqrt(H) / scale + 1e-6


def test_tokens_are_the_librarys_and_cover_every_coefficient() -> None:
    made, chunks = taught(), smooth(40)
    tokens = made.encode(chunks)
    known = Tokenizer.from_str(made.code.pairs)
    numbers = np.rint(10 * scipy.fft.dct(chunks.double().numpy(), axis=1, norm="ortho")).astype(int)
    for row, coefficients in zip(tokens, numbers.reshape(len(chunks), -1), strict=True):
        word = known.encode("".join(chr(0x8000 + c) for c in coefficients))
        assert row[row >= 0].tolist() == word.ids and (row[len(word.ids) :] == NONE).all()
    real = tokens >= 0
    assert torch.equal(torch.where(real, made.lengths[tokens.clamp(min=0)], 0).sum(1), torch.full((40,), H * A))
    assert float(real.sum(1).float().mean()) < 0.7 * H * A  # slow motions are shorter than their numbers
    left = made.left(tokens)
    assert (left[:, 0] == H * A).all() and (left[real] > 0).all() and (left[~real] == 0).all()
    assert train_fast(smooth(), FastSettings(vocabulary=300)) == made.code


def test_any_sentence_that_fits_is_a_chunk() -> None:
    """Tokens drawn at random among those that fit end exactly at the last coefficient."""
    made, left, tokens = taught(), torch.full((50,), H * A), []
    generator = torch.Generator().manual_seed(1)
    while bool((left > 0).any()):
        chance = made.fitting(torch.zeros(50, made.vocabulary), left).softmax(-1)
        drawn = torch.multinomial(chance, 1, generator=generator)[:, 0]
        tokens.append(torch.where(left > 0, drawn, NONE))
        left = left - torch.where(left > 0, made.lengths[drawn], 0)
    assert (left == 0).all()
    said = torch.stack(tokens, 1)
    numbers = [[c for t in row if t >= 0 for c in made.pieces[t, : made.lengths[t]].tolist()] for row in said]
    expected = scipy.fft.idct(np.array(numbers).reshape(50, H, A) / 10.0, axis=1, norm="ortho")
    np.testing.assert_allclose(made.decode(said).numpy(), expected, atol=2e-5)


def test_what_was_never_seen_is_held_to_what_was() -> None:
    made = taught()
    far = made.encode(torch.full((1, H, A), 100.0))
    assert torch.equal(far, made.encode(torch.full((1, H, A), 1000.0)))
    expected = torch.full((1, H, A), made.high / 10 / H**0.5)  # the constant's coefficient at its largest
    torch.testing.assert_close(made.decode(far), expected)


def test_impossible_codes_are_refused() -> None:
    with pytest.raises(InputError, match=r"tokens\.fast\.vocabulary: expected at least \d+ tokens, got 4"):
        train_fast(smooth(), FastSettings(vocabulary=4))
    with pytest.raises(InputError, match=r"tokens\.fast\.scale"):
        train_fast(smooth(), FastSettings(scale=1e6))
    with pytest.raises(InputError, match=r"code\.pairs: not readable"):
        FastTokenizer(replace(taught().code, pairs="{"), H, A)
