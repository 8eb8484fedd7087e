"""Changed copies of pictures: in their ranges, the same for all who ask, and learned from beside the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny_dataset import write_toy_dataset

from toddle.core.errors import InputError
from toddle.data.augment import PictureAugmentation, augmented
from toddle.data.demonstrations import Demonstrations
from toddle.data.feature_cache import cache_dataset
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset

NONE: dict[str, Any] = {"crop": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def picture() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(60, 170, (2, 3, 24, 40), dtype=np.uint8))


def test_without_any_range_a_copy_is_the_picture() -> None:
    settings = PictureAugmentation(variants=3, **NONE)
    for variant in range(4):
        assert torch.equal(augmented(picture(), settings, 5, variant), picture())


def test_brightness_multiplies_within_its_range_and_each_view_on_its_own() -> None:
    settings = PictureAugmentation(variants=64, **NONE | {"brightness": 0.2})
    factors = []
    for variant in range(1, 65):
        ratio = augmented(picture(), settings, 0, variant) / picture()
        assert float((ratio.amax((1, 2, 3)) - ratio.amin((1, 2, 3))).max()) < 0.02  # one factor, but for rounding
        factors += ratio.mean((1, 2, 3)).tolist()
    assert 0.79 < min(factors) < 0.83 and 1.17 < max(factors) < 1.21
    assert factors[0] != pytest.approx(factors[1], abs=1e-3)


def test_contrast_keeps_the_mean_grey() -> None:
    settings = PictureAugmentation(variants=1, **NONE | {"contrast": 0.4})
    changed, grey = ((part * GREY).sum(1) for part in (augmented(picture(), settings, 0, 1), picture()))
    np.testing.assert_allclose(changed.mean((1, 2)), grey.mean((1, 2)), atol=0.5)
    spread = changed.std((1, 2)) / grey.std((1, 2)) - 1.0
    assert (spread.abs() > 0.02).all() and (spread.abs() < 0.41).all()


def test_saturation_keeps_every_pixels_grey() -> None:
    settings = PictureAugmentation(variants=1, **NONE | {"saturation": 0.4})
    changed = augmented(picture(), settings, 0, 1)
    np.testing.assert_allclose((changed * GREY).sum(1), (picture() * GREY).sum(1), atol=1.0)
    assert (changed != picture()).float().mean() > 0.3


def test_a_crop_stays_inside_and_moves_by_no_more_than_it_may() -> None:
    ramp = torch.arange(100.0).expand(1, 3, 60, 100).to(torch.uint8)  # colour = column
    settings = PictureAugmentation(variants=64, **NONE | {"crop": 0.2})
    copies = [augmented(ramp, settings, 0, variant)[0, 0, 30] for variant in range(1, 65)]
    left, right = ([int(copy[column]) for copy in copies] for column in (0, -1))
    assert min(left) >= 0 and 8 < max(left) <= 20 and 79 <= min(right) < 91 and max(right) <= 99
    assert all(0.79 * 99 <= b - a <= 99 for a, b in zip(left, right))


def encode(images: torch.Tensor, sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    assert len(images) == len(sentences)
    return images.float().mean((1, 3, 4))[:, None] / 256, torch.ones(len(images), 1, dtype=torch.bool)


def test_every_sample_is_there_with_its_copies_cached_or_not(tmp_path: Path) -> None:
    dataset = LeRobotDataset(write_toy_dataset(tmp_path / "data"))
    settings = PictureAugmentation(variants=2)
    cache = cache_dataset(tmp_path, "x", dataset, ("close",), (1, 3), encode, augment=settings, batch=7)
    plain = cache_dataset(tmp_path, "x", dataset, ("close",), (1, 3), encode)
    assert cache.count == 3 * plain.count == 3 * dataset.num_pictures and cache.folder != plain.folder
    np.testing.assert_array_equal(cache.load()[0][::3], plain.load()[0])  # the pictures themselves
    windows = [WindowDataset(dataset, horizon=2, history=2)]
    cached = Demonstrations(windows, caches=[cache], augment=settings)
    fresh = Demonstrations(windows, augment=settings)
    count = len(Demonstrations(windows))
    assert len(cached) == len(fresh) == 3 * count
    samples = np.arange(len(cached))
    a, b = cached.batch(samples), fresh.batch(samples)
    torch.testing.assert_close(a["action"][:count], a["action"][count : 2 * count])
    images = b["observation"]["images"].flatten(0, 1)
    means = encode(images, [""] * len(images))[0].unflatten(0, (2, -1))
    context = a["observation"]["context"]
    torch.testing.assert_close(context, means.half().float())  # the same copies either way
    assert not torch.equal(context[:, :count], context[:, count : 2 * count])


def test_bad_numbers_are_refused() -> None:
    for wrong in ({"variants": -1}, {"variants": 65}, {"crop": 1.0}, {"brightness": 1.5}):
        with pytest.raises(InputError):
            PictureAugmentation(**wrong)  # type: ignore[arg-type]
