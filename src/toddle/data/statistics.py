"""Statistics of a dataset's features, and the normalisations made of them, each with its inverse.

Quantiles are exact (`numpy.quantile`, linear interpolation).  The names are those of LeRobot's `meta/stats.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from toddle.core.errors import nearest, problem

__all__ = [
    "QUANTILES",
    "FeatureStatistics",
    "Mode",
    "Normalization",
    "feature_statistics",
    "image_statistics",
    "merge_statistics",
]

Array = NDArray[Any]
Mode = Literal["mean_std", "min_max", "quantile", "identity"]
MODES = ("mean_std", "min_max", "quantile", "identity")
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
SMALLEST, ROUNDING = 1e-5, 1e-5
"""A feature that moves by no more than this, or by no more than this share of its size, is constant: what moves is
noise or rounding.  It is shifted, never scaled."""
NARROWEST = 0.01
"""Smallest scale as a share of the whole range: a feature that rests but for rare moments keeps these below 100."""

Numbers = TypeVar("Numbers", Tensor, Array)


@dataclass(frozen=True, kw_only=True)
class FeatureStatistics:
    """Statistics over the samples of one feature: each an array of the feature's shape, `count` samples."""

    min: Array
    max: Array
    mean: Array
    std: Array
    q01: Array
    q10: Array
    q50: Array
    q90: Array
    q99: Array
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `count` is a list of one, as LeRobot has it."""
        return {
            name: [value] if name == "count" else np.asarray(value, dtype=np.float64).tolist()
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "statistics") -> FeatureStatistics:
        """Read what `to_dict` returned.  Raises InputError when a statistic is missing or not a number."""
        names = [name for name in cls.__dataclass_fields__ if name != "count"]
        missing = [name for name in (*names, "count") if name not in data]
        if missing:
            raise problem(where, f"the statistics {', '.join((*names, 'count'))}", f"no {', '.join(missing)}")
        arrays = {name: np.asarray(data[name], dtype=np.float64) for name in names}
        broken = [name for name, value in arrays.items() if not np.isfinite(value).all()]
        if broken:
            raise problem(where, "finite numbers", f"NaN or infinity in {', '.join(broken)}")
        return cls(**arrays, count=int(np.ravel(data["count"])[0]))


def feature_statistics(samples: Array) -> FeatureStatistics:
    """Return the statistics over the first axis of `samples` (N, ...), in float64.  Raises InputError when N = 0."""
    samples = np.asarray(samples, dtype=np.float64)
    if not len(samples):
        raise problem("samples", "at least one sample", 0)
    quantiles = np.quantile(samples, list(QUANTILES.values()), axis=0)
    return FeatureStatistics(
        min=samples.min(axis=0),
        max=samples.max(axis=0),
        mean=samples.mean(axis=0),
        std=samples.std(axis=0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
        count=len(samples),
    )


def image_statistics(images: Array) -> FeatureStatistics:
    """Return the statistics per channel of (n, 3, H, W) uint8 pictures as numbers in [0, 1], of shape (3, 1, 1).

    Made from a histogram: exact (quantiles are values that occur), and memory does not grow with n.
    """
    if not len(images):
        raise problem("images", "at least one picture", 0)
    bins = np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(3)])
    values, total, present = np.arange(256) / 255.0, bins.sum(axis=1, keepdims=True), bins > 0
    mean = (bins * values).sum(axis=1) / total[:, 0]
    square = (bins * values**2).sum(axis=1) / total[:, 0]
    cumulative = np.cumsum(bins, axis=1) / total
    rows = {
        "min": values[np.argmax(present, axis=1)],
        "max": values[255 - np.argmax(present[:, ::-1], axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0.0)),
        **{name: values[np.argmax(cumulative >= q, axis=1)] for name, q in QUANTILES.items()},
    }
    return FeatureStatistics(**{name: row.reshape(3, 1, 1) for name, row in rows.items()}, count=len(images))


def merge_statistics(parts: list[FeatureStatistics]) -> FeatureStatistics:
    """Merge the statistics of parts of a dataset: all exact but the quantiles, which are averaged by count."""
    counts = np.array([part.count for part in parts], dtype=np.float64)
    weights = counts / counts.sum()

    def mean_of(rows: list[Array]) -> Array:
        return np.tensordot(weights, np.stack(rows), axes=1)

    mean = mean_of([part.mean for part in parts])
    variance = mean_of([part.std**2 + (part.mean - mean) ** 2 for part in parts])
    return FeatureStatistics(
        min=np.min([part.min for part in parts], axis=0),
        max=np.max([part.max for part in parts], axis=0),
        mean=mean,
        std=np.sqrt(variance),
        **{name: mean_of([getattr(part, name) for part in parts]) for name in QUANTILES},
        count=int(counts.sum()),
    )


@dataclass(frozen=True)
class Normalization:
    """y = (x - offset) / scale and back; applies to torch tensors and numpy arrays (..., *feature shape)."""

    offset: Array  # float32
    scale: Array  # float32, never 0

    @classmethod
    def of(cls, statistics: FeatureStatistics, mode: Mode = "mean_std") -> Normalization:
        """Make the normalisation of `mode`.

        mean_std: mean 0, deviation 1.  min_max: the range becomes [-1, 1].  quantile: 1 % to 99 % become [-1, 1]
        (outliers lie outside; nothing is clipped, so that the inverse is exact).  identity: unchanged.
        A constant feature has scale 1; no scale is below a hundredth of the feature's range.
        """
        if mode not in MODES:
            raise problem("normalisation", f"one of {', '.join(MODES)}", mode, nearest(mode, MODES))
        if mode == "identity":
            return cls(np.zeros_like(statistics.mean, np.float32), np.ones_like(statistics.mean, np.float32))
        if mode == "mean_std":
            offset, scale = statistics.mean, statistics.std
        else:
            low, high = (statistics.min, statistics.max) if mode == "min_max" else (statistics.q01, statistics.q99)
            offset, scale = (high + low) / 2.0, (high - low) / 2.0
        size = np.maximum(np.abs(statistics.min), np.abs(statistics.max))
        spread = statistics.max - statistics.min
        scale = np.where(spread <= np.maximum(SMALLEST, ROUNDING * size), 1.0, np.maximum(scale, NARROWEST * spread))
        return cls(offset.astype(np.float32), scale.astype(np.float32))

    def _like(self, value: Numbers) -> tuple[Any, Any]:
        if isinstance(value, Tensor):
            return value.new_tensor(self.offset), value.new_tensor(self.scale)
        return self.offset, self.scale

    def forward(self, value: Numbers) -> Numbers:
        """Normalise."""
        offset, scale = self._like(value)
        result: Numbers = (value - offset) / scale
        return result

    def inverse(self, value: Numbers) -> Numbers:
        """Undo `forward`."""
        offset, scale = self._like(value)
        result: Numbers = value * scale + offset
        return result

    def to_dict(self) -> dict[str, list[float]]:
        """Return JSON values, as they travel in a checkpoint."""
        return {"offset": self.offset.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, list[float]]) -> Normalization:
        """Read what `to_dict` returned."""
        return cls(np.asarray(data["offset"], np.float32), np.asarray(data["scale"], np.float32))
