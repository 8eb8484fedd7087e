"""Statistics and normalisation: hand arithmetic, and inverses as properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toddle.core.errors import InputError
from toddle.data.statistics import (
    FeatureStatistics,
    Mode,
    Normalization,
    feature_statistics,
    image_statistics,
    merge_statistics,
)

MODES = ("mean_std", "min_max", "quantile", "identity")


def test_statistics_of_0_to_100() -> None:
    found = feature_statistics(np.arange(101.0)[:, None])
    assert found.count == 101
    assert (found.min[0], found.max[0], found.mean[0]) == (0.0, 100.0, 50.0)
    assert found.std[0] == pytest.approx(np.sqrt((101**2 - 1) / 12))  # of a discrete uniform
    assert [found.q01[0], found.q10[0], found.q50[0], found.q90[0], found.q99[0]] == [1, 10, 50, 90, 99]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(MODES),
    st.floats(1e-3, 1e3),
    st.floats(-100, 100),
)
def test_inverse_undoes_forward(seed: int, mode: str, scale: float, offset: float) -> None:
    samples = np.random.default_rng(seed).normal(size=(50, 3)) * scale + offset
    norm = Normalization.of(feature_statistics(samples), mode)  # type: ignore[arg-type]
    norm = Normalization.from_dict(norm.to_dict())
    values = torch.tensor(samples * 3.0, dtype=torch.float64)
    torch.testing.assert_close(norm.inverse(norm.forward(values)), values, rtol=1e-9, atol=1e-6 * scale)
    np.testing.assert_allclose(norm.forward(values.numpy()), norm.forward(values).numpy())


def test_what_each_mode_makes_of_the_data() -> None:
    samples = np.random.default_rng(0).exponential(size=(5000, 2)) * [1.0, 40.0]
    statistics = feature_statistics(samples)
    standard = Normalization.of(statistics, "mean_std").forward(samples)
    np.testing.assert_allclose([standard.mean(0), standard.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    ranged = Normalization.of(statistics, "min_max").forward(samples)
    np.testing.assert_allclose([ranged.min(0), ranged.max(0)], [[-1, -1], [1, 1]], atol=1e-5)
    inner = Normalization.of(statistics, "quantile").forward(samples)
    assert np.mean((inner < -1) | (inner > 1)) == pytest.approx(0.02, abs=0.002)  # outliers are not clipped
    np.testing.assert_array_equal(Normalization.of(statistics, "identity").forward(samples), samples)


def test_a_constant_feature_is_shifted_not_scaled() -> None:
    samples = np.full((20, 1), 7.0)
    for mode in ("mean_std", "min_max", "quantile"):
        norm = Normalization.of(feature_statistics(samples), mode)  # type: ignore[arg-type]
        assert norm.forward(samples).tolist() == np.zeros((20, 1)).tolist()
        assert norm.inverse(norm.forward(np.array([[9.0]])))[0, 0] == 9.0


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
@pytest.mark.parametrize(("rest", "noise"), [(0.04, 1e-7), (-700.0, 1e-4), (0.0, 1e-6)])
def test_a_gripper_that_never_moves_is_not_blown_up(mode: Mode, rest: float, noise: float) -> None:
    """Its noise or rounding is no movement; when it moves after all, by 0.04, it is not thousands of scales away."""
    samples = rest + noise * np.random.default_rng(0).uniform(-1, 1, (500, 1))
    norm = Normalization.of(feature_statistics(samples), mode)
    assert np.abs(norm.forward(samples)).max() < 1e-3
    assert np.abs(norm.forward(samples + 0.04)).max() < 0.05


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantile"])
def test_rare_moments_stay_within_a_hundred(mode: Mode) -> None:
    """A gripper that shuts once in 2,000 steps, and rests with a sensor's noise: 1 % to 99 % are the noise alone."""
    samples = 1e-3 * np.random.default_rng(0).normal(size=(2000, 1))
    samples[77] = 1.0
    norm = Normalization.of(feature_statistics(samples), mode)
    assert 0.9 < np.abs(norm.forward(samples)).max() <= 101
    moving = np.random.default_rng(1).normal(size=(2000, 1))  # control: what moves all the time keeps its own scale
    np.testing.assert_allclose(Normalization.of(feature_statistics(moving)).scale, moving.std(0), rtol=1e-6)


def test_merged_parts_equal_the_whole() -> None:
    samples = np.random.default_rng(1).normal(size=(300, 2))
    whole = feature_statistics(samples)
    merged = merge_statistics([feature_statistics(samples[:50]), feature_statistics(samples[50:])])
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name))


def test_image_statistics_are_those_of_the_pixels() -> None:
    images = np.random.default_rng(2).integers(0, 200, (7, 3, 5, 4), dtype=np.uint8)
    found, pixels = image_statistics(images), images.astype(np.float64) / 255
    assert found.mean.shape == (3, 1, 1)
    assert found.count == 7
    np.testing.assert_allclose(found.mean[:, 0, 0], pixels.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(found.std[:, 0, 0], pixels.std(axis=(0, 2, 3)))
    np.testing.assert_allclose(found.max[:, 0, 0], pixels.max(axis=(0, 2, 3)))
    exact = np.quantile(pixels, 0.5, axis=(0, 2, 3), method="inverted_cdf")
    np.testing.assert_allclose(found.q50[:, 0, 0], exact)


def test_wrong_input_is_one_line() -> None:
    statistics = feature_statistics(np.arange(4.0))
    with pytest.raises(InputError, match="did you mean 'min_max'"):
        Normalization.of(statistics, "minmax")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN or infinity in std"):
        FeatureStatistics.from_dict(statistics.to_dict() | {"std": float("nan")})
    with pytest.raises(InputError, match="no q99"):
        FeatureStatistics.from_dict({k: v for k, v in statistics.to_dict().items() if k != "q99"})
    with pytest.raises(InputError, match="at least one sample"):
        feature_statistics(np.zeros((0, 3)))
