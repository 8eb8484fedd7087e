"""Demonstrations as fine-tuning takes them: windows of datasets in memory, context from the feature cache.

Everything but the features is small and stacked once; a batch is a few gathers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.errors import problem
from toddle.data.augment import PictureAugmentation, augmented
from toddle.data.feature_cache import FeatureCache, picture_index
from toddle.data.windows import WindowDataset, views

__all__ = ["Demonstrations"]

Array = NDArray[Any]
NAMES = ("proprio", "previous_action", "action", "action_valid", "valid", "rows")


class Demonstrations:
    """Samples of one or several datasets of one body.

    body: id in the policy's banks.  caches: one a dataset, or None: then batches carry pictures and sentences.
    augment: then every decision is a sample once with its pictures themselves and once with each of their variants.
    Raises InputError when the datasets' sizes differ.
    """

    def __init__(
        self,
        windows: Sequence[WindowDataset],
        *,
        body: int = 0,
        cameras: Sequence[str] = ("close",),
        caches: Sequence[FeatureCache] | None = None,
        augment: PictureAugmentation | None = None,
    ) -> None:
        if not windows:
            raise problem("dataset", "at least one", "none")
        self.windows, self.body, self.cameras = list(windows), body, tuple(cameras)
        self.augment = augment or PictureAugmentation()
        parts = [_stack(window) for window in windows]
        for name in NAMES:
            shapes = {part[name].shape[1:] for part in parts}
            if len(shapes) > 1:
                raise problem(f"datasets: {name}", "one size for all datasets of a run", sorted(map(str, shapes)))
        self.arrays = {name: torch.cat([part[name] for part in parts]) for name in NAMES}
        self.source = np.concatenate([np.full(len(window), i) for i, window in enumerate(windows)])
        self.maps = None if caches is None else [cache.load() for cache in caches]
        self.pictures = np.concatenate(
            [picture_index(window.dataset, part["rows"].numpy()) for window, part in zip(windows, parts)]
        )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.augment.copies * len(self.source)

    @property
    def actions(self) -> Array:
        """All demonstrated actions inside their episodes, (N, A)."""
        found: Array = self.arrays["action"][:, 0].numpy()
        return found

    def proprio(self) -> torch.Tensor:
        """Return the present proprioception of all samples (N, O)."""
        return self.arrays["proprio"][:, -1]

    def batch(self, samples: Array) -> dict[str, Any]:
        """Return a batch of the samples (B,): observation (T, B, ...), action (B, H, A), mask (B, H)."""
        variants, samples = np.divmod(np.asarray(samples), len(self.source))
        rows = torch.from_numpy(samples)
        chosen = {name: values[rows] for name, values in self.arrays.items()}
        valid = chosen["valid"].T  # (T, B)
        before = torch.cat([torch.zeros_like(valid[:1]), valid[:-1]])
        observation: dict[str, Any] = {
            "proprio": chosen["proprio"].transpose(0, 1),
            "previous_action": chosen["previous_action"].transpose(0, 1).flatten(2),
            "first": valid & ~before,
            "body": torch.full(valid.shape, self.body, dtype=torch.int64),
        }
        observation |= self._cached(samples, variants) if self.maps is not None else self._pictures(samples, variants)
        return {"observation": observation, "action": chosen["action"], "mask": chosen["action_valid"]}

    def _cached(self, samples: Array, variants: Array) -> dict[str, Any]:
        assert self.maps is not None
        wanted = self.augment.copies * self.pictures[samples].T + variants  # (T, B)
        sources = self.source[samples]  # (B,)
        context: Array | None = None
        for source in np.unique(sources):
            features, real = self.maps[source]
            at = sources == source
            if context is None:
                context = np.empty((*wanted.shape, *features.shape[1:]), np.float32)
                mask = np.empty((*wanted.shape, *real.shape[1:]), bool)
            context[:, at], mask[:, at] = features[wanted[:, at]], real[wanted[:, at]]
        if context is None:
            raise problem("samples", "at least one", 0)
        return {"context": torch.from_numpy(context), "context_mask": torch.from_numpy(mask)}

    def _pictures(self, samples: Array, variants: Array) -> dict[str, Any]:
        """Pictures (T, B, cameras, 3, H, W) and the B sentences."""
        sizes = [window.dataset.picture_size(*self.cameras) for window in self.windows]
        size = max(height for height, _ in sizes), max(width for _, width in sizes)
        images, sentences = [], []
        for sample, variant in zip(samples, variants):
            dataset = self.windows[self.source[sample]].dataset
            rows = self.arrays["rows"][sample].numpy()
            seen = torch.from_numpy(views(dataset, self.cameras, rows, size))
            places = self.pictures[sample]
            images.append([augmented(p, self.augment, int(place), int(variant)) for p, place in zip(seen, places)])
            sentences.append(dataset.task_of(int(rows[-1])))
        return {"images": torch.stack([torch.stack(each) for each in images], 1), "instruction": sentences}


def _stack(window: WindowDataset) -> dict[str, torch.Tensor]:
    samples = [window[index] for index in range(len(window))]
    return {name: torch.stack([sample[name] for sample in samples]) for name in NAMES}
