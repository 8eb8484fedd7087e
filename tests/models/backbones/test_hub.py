"""Hub backbones on tiny local checkpoints of the real architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.tiny_vlm import SENTENCES, save_idefics3, save_paligemma, save_smolvlm
from torch.testing import assert_close

from toddle.core.errors import InputError
from toddle.models.backbones.base import Backbone, BackboneConfig
from toddle.models.backbones.hub import FAMILIES, fit_square
from toddle.models.backbones.load import load_backbone

BUILD = {"smolvlm": save_smolvlm, "idefics3": save_idefics3, "paligemma": save_paligemma}
PICTURE_TOKENS = {"smolvlm": 4 + 3, "idefics3": 4 + 3, "paligemma": 16}  # three tokens frame a picture


@pytest.fixture(scope="module", params=list(BUILD))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Backbone]:
    folder = BUILD[request.param](tmp_path_factory.mktemp(request.param))
    return request.param, folder, load_backbone(BackboneConfig(name=str(folder), text_tokens=9))


def pictures(batch: int = 3, cameras: int = 2, height: int = 20, width: int = 28) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, cameras, 3, height, width), generator=generator, dtype=torch.uint8)


def test_every_family_that_the_loader_claims_is_tested(loaded: tuple[str, Path, Backbone]) -> None:
    assert set(BUILD) == set(FAMILIES)
    kind, folder, _ = loaded
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind


def test_shapes_and_mask(loaded: tuple[str, Path, Backbone]) -> None:
    kind, _, backbone = loaded
    context, mask = backbone.encode(pictures(), SENTENCES)
    tokens = 2 * PICTURE_TOKENS[kind] + 9 + 1
    assert backbone.tokens(2) == tokens and backbone.width == 24
    assert context.shape == (3, tokens, 24) and context.dtype == torch.float32
    assert mask.shape == (3, tokens) and mask.dtype == torch.bool
    assert mask[:, : 2 * PICTURE_TOKENS[kind] + 2].all() and not mask.all()
    assert not context.requires_grad


def test_it_reads_picture_and_sentence(loaded: tuple[str, Path, Backbone]) -> None:
    _, _, backbone = loaded
    images = pictures()
    context, _ = backbone.encode(images, SENTENCES)
    alone, _ = backbone.encode(images[1:2], SENTENCES[1:2])
    assert_close(alone[0], context[1], rtol=0, atol=2e-5)  # a row does not depend on its batch
    other, mask = backbone.encode(images[1:2], SENTENCES[2:])
    assert not torch.allclose(other[0][mask[0]][-3:], context[1][mask[0]][-3:])
    darker, _ = backbone.encode(images[1:2] // 2, SENTENCES[1:2])
    assert not torch.allclose(darker[0], context[1])


def test_padding_changes_nothing(loaded: tuple[str, Path, Backbone]) -> None:
    """A wider text field only adds masked tokens."""
    _, folder, backbone = loaded
    wide = load_backbone(BackboneConfig(name=str(folder), text_tokens=14))
    narrow_context, mask = backbone.encode(pictures(), SENTENCES)
    wide_context, wide_mask = wide.encode(pictures(), SENTENCES)
    assert wide_mask.sum() == mask.sum()
    assert_close(wide_context[wide_mask], narrow_context[mask], rtol=0, atol=2e-5)


def test_fingerprint_follows_weights_and_preprocessing(loaded: tuple[str, Path, Backbone]) -> None:
    _, folder, backbone = loaded
    again = load_backbone(BackboneConfig(name=str(folder), text_tokens=9))
    assert again.fingerprint() == backbone.fingerprint()
    again.encode(pictures(), SENTENCES)
    assert again.fingerprint() == backbone.fingerprint()  # encoding leaves no trace
    assert load_backbone(BackboneConfig(name=str(folder), text_tokens=8)).fingerprint() != backbone.fingerprint()
    with torch.no_grad():
        next(again.parameters()).view(-1)[0] += 1e-3
    assert again.fingerprint() != backbone.fingerprint()


def test_lora_starts_as_the_same_function_and_learns(loaded: tuple[str, Path, Backbone]) -> None:
    _, folder, backbone = loaded
    adapted = load_backbone(BackboneConfig(name=str(folder), text_tokens=9, lora_rank=2))
    context, _ = adapted.encode(pictures(), SENTENCES)
    assert_close(context, backbone.encode(pictures(), SENTENCES)[0], rtol=0, atol=1e-6)
    context.square().mean().backward()
    trained = {name for name, value in adapted.named_parameters() if value.grad is not None}
    assert trained and all(".lora_" in name for name in trained)


def test_clear_lines_for_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"backbone\.name: expected 'embedded', a folder"):
        load_backbone(BackboneConfig(name=str(tmp_path / "nothing")))
    with pytest.raises(InputError, match="cannot be loaded") as error:
        load_backbone(BackboneConfig(name=str(tmp_path)))
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="smolvlm, idefics3, paligemma"):
        load_backbone(BackboneConfig(name=str(tmp_path)))


def test_wrong_pictures_are_refused(loaded: tuple[str, Path, Backbone]) -> None:
    backbone = loaded[2]
    with pytest.raises(InputError, match="uint8"):
        backbone.encode(pictures().float(), SENTENCES)
    with pytest.raises(InputError, match="3 sentences"):
        backbone.encode(pictures(), SENTENCES[:1])
    with pytest.raises(InputError, match="cameras, 3, height, width"):
        backbone.encode(pictures()[:, 0], SENTENCES)


def test_fit_square_keeps_the_aspect() -> None:
    image = torch.full((1, 3, 10, 20), 255, dtype=torch.uint8)
    square = fit_square(image, 40)
    assert square.shape == (1, 3, 40, 40)
    assert square[0, 0, :10].max() == 0 and square[0, 0, 30:].max() == 0 and square[0, 0, 10:30].min() == 1
