"""Features of a frozen backbone on disk, so that fine-tuning never runs the backbone twice on a frame.

A cache is a folder named after what made it: the backbone's fingerprint, the dataset's key and the cameras.
    context.npy   (N, G, D) float16, memory-mapped
    mask.npy      (N, G) bool
    progress.json how many of the N pictures are done; replaced atomically after each block is on disk
A killed filling goes on after the last whole block; a folder of other features has another name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toddle.core.errors import InputError, problem
from toddle.core.files import write_atomic, write_json_atomic
from toddle.core.reading import read_json
from toddle.data.augment import PictureAugmentation, augmented
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.pictures import fit

__all__ = ["FeatureCache", "cache_dataset", "dataset_key"]

Array = NDArray[Any]


def dataset_key(path: Path) -> str:
    """Return 16 hex digits that change when a file of the dataset does (name, size and time of change)."""
    digest = hashlib.sha256(b"sentences are read whole")  # features of a time when they were cut are not these
    for file in sorted(Path(path).rglob("*")):
        if file.is_file():
            facts = file.stat()
            digest.update(f"{file.relative_to(path)}:{facts.st_size}:{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Context tokens of N pictures, memory-mapped from a folder.  Made by `open`, filled by `fill`, read by `get`."""

    def __init__(self, folder: Path, count: int, tokens: int, width: int) -> None:
        self.folder, self.count, self.tokens, self.width = folder, count, tokens, width
        self.done = 0

    @classmethod
    def open(cls, folder: Path, *, count: int, tokens: int, width: int) -> FeatureCache:
        """Open or create the cache of `count` pictures with (tokens, width) numbers each.

        Raises InputError when the folder holds a cache of another shape or a damaged one.
        """
        cache = cls(Path(folder), count, tokens, width)
        shape = {"count": count, "tokens": tokens, "width": width}
        progress = cache.folder / "progress.json"
        if progress.exists():
            try:
                found = read_json(progress)
                cache.done = int(found.pop("done"))
            except (ValueError, KeyError):
                raise InputError(f"feature cache: {progress} is damaged; delete {cache.folder}") from None
            if found != shape:
                raise InputError(f"feature cache: {cache.folder} holds {found}, not {shape}; delete it")
            for name, size in (("context.npy", count * tokens * width * 2), ("mask.npy", count * tokens)):
                file = cache.folder / name
                if not file.exists() or file.stat().st_size < size:
                    raise InputError(f"feature cache: {file} is missing or cut short; delete {cache.folder}")
            return cache
        for name, dtype, form in (
            ("context.npy", np.float16, (count, tokens, width)),
            ("mask.npy", np.bool_, (count, tokens)),
        ):
            write_atomic(cache.folder / name, partial(_allocate, dtype=dtype, shape=form))
        write_json_atomic(progress, {**shape, "done": 0})
        return cache

    def _map(self, mode: Literal["r", "r+"]) -> tuple[Array, Array]:
        context = np.load(self.folder / "context.npy", mmap_mode=mode)
        mask = np.load(self.folder / "mask.npy", mmap_mode=mode)
        return context, mask

    def fill(
        self,
        encode: Callable[[Array], tuple[Tensor, Tensor]],
        *,
        batch: int = 32,
        on_block: Callable[[int], None] | None = None,
    ) -> None:
        """Encode the pictures that are missing: `encode(indices)` returns context (n, G, D) and mask (n, G).

        One process fills at a time: a second one waits and finds it done.  Raises InputError on features that do not
        fit into float16 or are not finite.
        """
        with open(self.folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.done = int(read_json(self.folder / "progress.json", {"done": int})["done"])
            if self.done == self.count:
                return
            context_map, mask_map = self._map("r+")
            while self.done < self.count:
                indices = np.arange(self.done, min(self.count, self.done + batch))
                context, mask = encode(indices)
                half = context.detach().to("cpu", torch.float16)
                if not torch.isfinite(half).all():
                    raise InputError(
                        f"feature cache: features of pictures {indices[0]} to {indices[-1]} do not fit "
                        "into float16; check the backbone's weights"
                    )
                context_map[indices], mask_map[indices] = half.numpy(), mask.cpu().numpy()
                context_map.flush()  # type: ignore[attr-defined]
                mask_map.flush()  # type: ignore[attr-defined]
                self.done = int(indices[-1]) + 1
                shape = {"count": self.count, "tokens": self.tokens, "width": self.width}
                write_json_atomic(self.folder / "progress.json", {**shape, "done": self.done})
                if on_block:
                    on_block(self.done)

    def load(self) -> tuple[Array, Array]:
        """Return read-only maps of context (N, G, D) float16 and mask (N, G).  Raises InputError unless filled."""
        if self.done < self.count:
            raise InputError(f"feature cache: {self.folder} has {self.done} of {self.count} pictures; fill it first")
        return self._map("r")


def _reserve(file: int, start: int, end: int) -> None:
    """Take room on the disk: a hole would be filled through the map, where a full disk is SIGBUS, not an error."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, start, end - start)
        return
    zeros = bytes(2**20)  # macOS
    while start < end:
        start += os.pwrite(file, zeros[: end - start], start)


def _allocate(path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, *shape[1:]), dtype))
        np.lib.format.write_array_header_1_0(file, header | {"shape": shape})
        file.flush()
        size = file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            _reserve(file.fileno(), file.tell(), size)
        except OSError as error:
            room = f"{size / 2**20:,.0f} MiB for the features of {shape[0]} pictures"
            remedy = "free some space or give another folder (--cache)"
            raise problem(
                "cache", f"room under {path.parent} for {room}", error.strerror or str(error), remedy
            ) from None
        os.fsync(file.fileno())


def picture_index(dataset: LeRobotDataset, rows: Array) -> Array:
    """Return which new picture (0 .. N-1 over the dataset) is held at each of `rows` (any shape)."""
    counts = [-(-episode.length // dataset.image_stride) for episode in dataset.episodes]
    offset = np.concatenate([[0], np.cumsum(counts)])
    starts = np.array([episode.start for episode in dataset.episodes])
    place = dataset.places(rows)
    found: Array = offset[place] + (rows - starts[place]) // dataset.image_stride
    return found


def cache_dataset(
    root: Path,
    fingerprint: str,
    dataset: LeRobotDataset,
    cameras: Sequence[str],
    shape: tuple[int, int],
    encode: Callable[[Tensor, list[str]], tuple[Tensor, Tensor]],
    *,
    augment: PictureAugmentation | None = None,
    batch: int = 32,
    on_block: Callable[[int], None] | None = None,
) -> FeatureCache:
    """Return the filled cache of a dataset's pictures under `root`, encoding what is missing.

    With `augment` picture p is there `augment.copies` times, from number p * copies on, the picture itself first.

    shape: (G, D).  encode: pictures (n, cameras, 3, H, W) uint8 and n sentences -> context (n, G, D), mask (n, G).
    """
    rows, size = dataset.picture_rows(), dataset.picture_size(*cameras)
    name = f"{fingerprint}-{dataset_key(dataset.path)}-{'+'.join(cameras)}"
    settings = augment or PictureAugmentation()
    copies = settings.copies
    if copies > 1:
        name += "-" + hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        batch = -(-batch // copies) * copies  # a block begins with a picture itself
    cache = FeatureCache.open(Path(root) / name, count=copies * len(rows), tokens=shape[0], width=shape[1])
    streams: list[Iterator[Array]] = []

    def encode_rows(indices: Array) -> tuple[Tensor, Tensor]:
        if not streams:  # the cache asks for one picture after another: each episode is decoded once
            streams.extend(dataset.stream(camera, int(indices[0]) // copies) for camera in cameras)
        places = indices[::copies] // copies
        views = [torch.from_numpy(np.stack([fit(next(stream), size) for stream in streams])) for _ in places]
        pictures = [
            augmented(each, settings, int(place), variant)
            for place, each in zip(places, views, strict=True)
            for variant in range(copies)
        ]
        return encode(torch.stack(pictures), [dataset.task_of(int(row)) for row in rows[indices // copies]])

    cache.fill(encode_rows, batch=batch, on_block=on_block)
    return cache
