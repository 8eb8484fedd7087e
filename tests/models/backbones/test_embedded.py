"""The embedded backbone: shapes, masks, batches, text, saving, the shipped weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.policies.tiny_vla import SENTENCES, SIZES, tiny_backbone
from torch.testing import assert_close

from toddle.core.errors import InputError
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import (
    ASSETS,
    LONGEST,
    EmbeddedBackbone,
    EmbeddedConfig,
    load_embedded,
    save_embedded,
    train_tokenizer,
)
from toddle.models.backbones.load import load_backbone


def pictures(batch: int = 3, cameras: int = 2, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, cameras, 3, side, side), generator=generator, dtype=torch.uint8)


def test_shapes_and_mask() -> None:
    """Per camera 3 registers and (2 / 2)^2 pooled patch; 7 words."""
    backbone = tiny_backbone()
    context, mask = backbone.encode(pictures(), list(SENTENCES))
    assert backbone.tokens(2) == 2 * (3 + 1) + 7
    assert context.shape == (3, 15, 16) and context.dtype == torch.float32 and not context.requires_grad
    words = [len(backbone.tokenizer(sentence)["input_ids"]) for sentence in SENTENCES]
    assert mask.sum(1).tolist() == [8 + min(7, count) for count in words]


def test_rows_do_not_depend_on_their_batch() -> None:
    backbone = tiny_backbone()
    together, mask = backbone.encode(pictures(), list(SENTENCES))
    for row in range(3):
        alone, _ = backbone.encode(pictures()[row : row + 1], [SENTENCES[row]])
        assert_close(alone[0][mask[row]], together[row][mask[row]], rtol=0, atol=1e-5)


def test_it_reads_both() -> None:
    backbone = tiny_backbone()
    first, _ = backbone.encode(pictures(1), [SENTENCES[0]])
    other_words, _ = backbone.encode(pictures(1), [SENTENCES[1]])
    other_picture, _ = backbone.encode(255 - pictures(1), [SENTENCES[0]])
    assert not torch.allclose(first[0, :3], other_words[0, :3], atol=1e-4)  # fused: registers know the sentence
    assert not torch.allclose(first[0, :3], other_picture[0, :3], atol=1e-4)


def test_other_sizes_are_resized() -> None:
    context, _ = tiny_backbone().encode(pictures(side=48), list(SENTENCES))
    assert context.shape == (3, 15, 16)


def test_keypoints_find_a_bright_spot() -> None:
    """With the heat map set to the picture's brightness, the spatial softmax returns where the spot is."""
    backbone = tiny_backbone()
    stem = backbone.stem
    grid = stem.grid.view(8, 8, 2)
    with torch.no_grad():
        stem.heat.weight.zero_()
        stem.heat.bias.zero_()
    _, points = stem(torch.zeros(1, 3, 32, 32))
    assert_close(points.view(4, 3)[:, :2], torch.zeros(4, 2), rtol=0, atol=1e-6)  # flat heat: the centre
    spot = torch.full((1, 1, 64), -1e4)
    spot[..., 8 * 2 + 5] = 0.0
    assert_close(torch.einsum("bkp,pc->bkc", spot.softmax(-1), stem.grid)[0, 0], grid[2, 5])


def test_save_and_load_in_half_precision(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    save_embedded(tmp_path, backbone)
    again = load_embedded(tmp_path)
    a, b = (one.encode(pictures(), list(SENTENCES))[0] for one in (backbone, again))
    assert_close(a, b, rtol=0, atol=2e-2)
    assert again.fingerprint() == load_embedded(tmp_path).fingerprint() != backbone.fingerprint()
    (tmp_path / "backbone.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="toddle backbone"):
        load_embedded(tmp_path)


def test_tokenizer_needs_no_hub() -> None:
    tokenizer = train_tokenizer(SENTENCES, SIZES)
    ids = tokenizer("Open the DRAWER")["input_ids"]
    assert ids == tokenizer("open the drawer")["input_ids"] and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]).strip() == "open the drawer"
    assert tokenizer.unk_token_id not in tokenizer("close a new drawer in 12 steps, please")["input_ids"]


def test_the_shipped_weights() -> None:
    """A few million weights in at most 8 MB, frozen, with a card; they tell sentences and pictures apart."""
    size = sum(file.stat().st_size for file in ASSETS.iterdir())
    assert size <= 8 * 2**20 and (ASSETS / "CARD.md").exists()
    backbone = load_backbone(BackboneConfig())
    assert isinstance(backbone, EmbeddedBackbone) and backbone.sizes == EmbeddedConfig()
    assert 2e6 < sum(value.numel() for value in backbone.parameters()) < 5e6
    assert not any(value.requires_grad for value in backbone.parameters())
    context, mask = backbone.encode(pictures(1, 1, 96), ["open the green drawer"])
    assert context.shape == (1, backbone.tokens(1), backbone.width) and torch.isfinite(context).all()
    assert 16 <= backbone.tokens(1) <= 64 and mask.any()
    changed = [(pictures(1, 1, 96), "close the window"), (255 - pictures(1, 1, 96), "open the green drawer")]
    for images, sentence in changed:
        assert (backbone.encode(images, [sentence])[0] - context).abs().mean() > 0.05  # tokens: 0.7 on average


LONG = "open the red drawer, then the window, and close the new button"  # 3 pieces of at most 7 tokens


def test_a_long_sentence_is_read_whole_to_its_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = tiny_backbone()
    images, room = pictures(2, 2), backbone.sizes.text_tokens
    context, mask = backbone.encode(images, [LONG, LONG.replace("button", "drawer")])
    assert context.shape == (2, backbone.tokens(2), backbone.width) and mask.all()
    same, _ = backbone.encode(images, [LONG, LONG])
    assert torch.equal(context[0], same[0])
    assert (context[1, -room:] - same[1, -room:]).abs().max() > 1e-3  # the last of its words
    assert capsys.readouterr().err == ""


def test_a_long_sentence_is_read_in_pieces_of_whole_words() -> None:
    backbone = tiny_backbone()
    tokenizer, room = backbone.tokenizer, backbone.sizes.text_tokens
    pieces = backbone._in_pieces(LONG)
    assert len(pieces) > 2 and all(0 < len(piece) <= room for piece in pieces)
    assert [number for piece in pieces for number in piece] == tokenizer(LONG)["input_ids"]
    words = [word for piece in pieces for word in tokenizer.decode(piece, skip_special_tokens=True).split()]
    assert words == LONG.split()  # none is broken
    assert [len(piece) for piece in backbone._in_pieces("q" * 20)] == [
        7,
        7,
        7,
        1,
    ]  # but one that is longer than a piece
    words, mask = backbone.read([LONG, "close the window"])
    assert mask.sum(1).tolist() == [len(tokenizer(text)["input_ids"]) for text in (LONG, "close the window")]


def test_a_sentence_does_not_depend_on_the_others_length() -> None:
    """Beside a long one a short one has the features it has alone, to the bit."""
    backbone = tiny_backbone()
    images = pictures(3)
    whole, mask = backbone.encode(images, ["close the window", LONG, "close the window"])
    for rows, sentence in ((slice(0, 3, 2), "close the window"), (slice(1, 2), LONG)):
        apart = images[rows]
        alone, real = backbone.encode(apart, [sentence] * len(apart))
        assert torch.equal(whole[rows], alone) and torch.equal(mask[rows], real)


def test_what_is_lost_of_a_sentence_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    backbone, images = tiny_backbone(), pictures(2)
    endless = "open the drawer, " * 300
    for _ in range(2):
        backbone.encode(images, ["open the drawer", endless])
    said = capsys.readouterr().err
    assert said.count("instruction") == 1 and f"only {LONGEST} of its" in said and len(said) < 500
    backbone.encode(images, ["открой ящик", "press the \U0001f534 button"])
    said = capsys.readouterr().err
    assert said.count("are unknown to the vocabulary") == 2


@pytest.mark.parametrize(
    ("sentence", "tokens", "read", "unknown"),
    [("", 1, 1, 0), ("open the drawer", 4, 4, 0), ("拿", 5, 5, 3), ("\U0001f534", 6, 6, 4), ("q" * 999, 1001, 256, 0)],
)
def test_how_much_is_read(sentence: str, tokens: int, read: int, unknown: int) -> None:
    """A letter of another script is as many unknown tokens as it has bytes, beside the space and the end."""
    found = tiny_backbone().reading(sentence)
    assert (found.read, found.unknown) == (read, unknown) and abs(found.tokens - tokens) <= 1


def test_sizes_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(InputError, match="image_size: expected a multiple of 32 with the embedded backbone, got 48"):
        EmbeddedConfig(image_size=48)
    with pytest.raises(InputError, match="heads: expected a divisor of width 20, got 6"):
        EmbeddedConfig(width=20)
