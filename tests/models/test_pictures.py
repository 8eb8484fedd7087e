"""Pictures as PIL and TensorFlow resize them, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.prismatic_folders import pictures

from toddle.core.errors import InputError
from toddle.maths.resampling import apply, crop_matrix, resize_matrix
from toddle.models.vlms.pictures import PictureSettings, TowerPicture, prepare

BYTES = TowerPicture(28, "bicubic", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))


@pytest.mark.parametrize("size", [(40, 56), (256, 200), (20, 28), (28, 28)])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos"])
def test_resizing_is_pils(size: tuple[int, int], kernel: Any) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8))
    for picture in (pictures(1, 1, size)[0, 0], noise):
        plain = Image.fromarray(picture.permute(1, 2, 0).numpy())
        theirs = np.array(plain.resize((28, 28), Image.Resampling[kernel.upper()]))
        rows, columns = (resize_matrix(side, 28, kernel) for side in size)
        ours = apply(picture, rows, columns, steps=True)
        assert torch.equal(ours.to(torch.uint8), torch.from_numpy(theirs).permute(2, 0, 1))


def test_what_evaluations_do_first_is_tensorflows() -> None:
    answer = load_file(Path(__file__).parent.parent / "policies" / "data" / "openvla_answer.safetensors")
    picture = pictures(1, 1, (40, 56))[0]
    for crop, name in ((1.0, "lanczos"), (0.9, "crop")):
        (found,) = prepare(picture, [BYTES], "resize-naive", PictureSettings(lanczos=True, crop=crop))
        assert torch.equal(found[0].round().to(torch.uint8), answer[f"tensorflow.{name}"])


def test_a_crop_reaches_from_corner_to_corner() -> None:
    whole = crop_matrix(224, 224, 1.0)
    torch.testing.assert_close(whole, torch.eye(224, dtype=torch.float64))
    middle = crop_matrix(224, 224, 0.9**0.5) @ torch.arange(224, dtype=torch.float64)
    assert middle[0].item() == pytest.approx(0.02566 * 223, abs=2e-3)
    assert (middle[0] + middle[-1]).item() == pytest.approx(223)


def test_turning_and_letterboxing() -> None:
    picture = pictures(1, 1, (28, 28))[0]
    views: Any = ("as_drawn", "mirrored", "turned")
    plain, mirrored, turned = (prepare(picture, [BYTES], "resize-naive", PictureSettings(view=v))[0] for v in views)
    assert torch.equal(turned, plain.flip((-2, -1)))
    (robosuites,) = prepare(picture.flip(-2), [BYTES], "resize-naive", PictureSettings(view="turned"))
    assert torch.equal(mirrored, robosuites)  # rows from below, turned, is upright and mirrored
    towers = [BYTES, TowerPicture(28, "bicubic", (0.5, 0.25, 0.1), (1.0, 1.0, 1.0))]
    wide = torch.full((1, 3, 14, 28), 200, dtype=torch.uint8)
    boxed = prepare(wide, towers, "letterbox", PictureSettings())[0]
    assert boxed[0, :, 0, 0].round().tolist() == [127, 63, 25]  # the last tower's mean, for both
    assert boxed[0, :, 13, 0].round().tolist() == [200, 200, 200]
    cropped = prepare(wide, towers, "resize-crop", PictureSettings())[0]
    assert cropped.shape == (1, 3, 28, 28) and bool((cropped.round() == 200).all())


def test_more_than_the_whole_picture_is_refused() -> None:
    with pytest.raises(InputError, match=r"pictures\.crop"):
        PictureSettings(crop=1.1)
