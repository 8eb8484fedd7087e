"""The pictures of a dataset's cameras: decoded when they are asked for, kept where they fit into memory.

A camera whose new pictures all fit into what is left of the budget keeps what was decoded; of another only what is
asked for is decoded each time.  `stream` walks through all pictures of a camera and decodes each episode once,
whatever fits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from toddle.core.errors import InputError, problem
from toddle.core.reading import inside, read_bytes
from toddle.data.metadata import Camera, Episode
from toddle.data.parquet import read_pictures
from toddle.data.video import DepthError, read_frames

__all__ = ["Pictures", "fit"]

Array = NDArray[Any]
Size = tuple[int, int]
TOLERANCE = 0.25
"""Of a frame: how far a picture's time may be from the row's."""


def fit(picture: Array, size: Size) -> Array:
    """Scale a picture (3, H, W) uint8 to fit into size (height, width): its aspect is kept, the rest is black."""
    height, width = picture.shape[1:]
    if (height, width) == size:
        return picture
    scale = min(size[0] / height, size[1] / width)
    new = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize(
        new[::-1], Image.Resampling.BILINEAR
    )
    result = np.zeros((3, *size), np.uint8)
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2
    result[:, top : top + new[0], left : left + new[1]] = np.asarray(scaled).transpose(2, 0, 1)
    return result


class Pictures:
    """The new pictures of every episode: number i of an episode is at its row i * stride.

    times: the rows' seconds since their episode began, (N,).  place: row -> (file of rows, row in it), for pictures
    that lie in the rows.  budget: bytes of decoded pictures that are kept.
    """

    def __init__(
        self,
        root: Path,
        cameras: dict[str, Camera],
        episodes: Sequence[Episode],
        *,
        times: Array,
        fps: float,
        stride: int,
        place: Callable[[Array], list[tuple[Path, Array]]],
        budget: int,
    ) -> None:
        self.root, self.cameras, self.episodes = root, cameras, list(episodes)
        self.times, self.fps, self.stride, self._place, self._room = times, fps, stride, place, budget
        self._sizes: dict[str, Size] = {}
        self._kept: dict[str, dict[int, Array] | None] = {}

    def count(self, number: int) -> int:
        """Return how many new pictures episode `number` (its place) has."""
        return -(-self.episodes[number].length // self.stride)

    def size(self, camera: str) -> Size:
        """Return height and width of a camera's first picture, which its others are scaled to where they differ.

        Raises InputError for a camera that gives no colour pictures.
        """
        if camera not in self._sizes:
            known = self.cameras[camera]
            if known.depth:
                raise _no_colours(known.key, "a depth map, as info.json says")
            self._sizes[camera] = next(self._decode(camera, 0, np.zeros(1, np.int64))).shape[1:]
        return self._sizes[camera]

    def at(self, camera: str, number: int, wanted: Array) -> Array:
        """Return pictures `wanted` (n,) of episode `number`, in any order: (n, 3, H, W) uint8."""
        kept = self._keeps(camera)
        if kept is None:
            chosen, back = np.unique(wanted, return_inverse=True)
            return np.stack(list(self._fitted(camera, number, chosen)))[back]
        if number not in kept:
            kept[number] = np.stack(list(self._fitted(camera, number, np.arange(self.count(number)))))
        return kept[number][wanted]

    def stream(self, camera: str, first: int = 0) -> Iterator[Array]:
        """Yield the new pictures (3, H, W) of all episodes in their order, from picture number `first` of all."""
        for number in range(len(self.episodes)):
            count = self.count(number)
            if first < count:
                yield from self._fitted(camera, number, np.arange(first, count))
            first = max(0, first - count)

    def _keeps(self, camera: str) -> dict[int, Array] | None:
        """Return where a camera's pictures are kept by episode, or None where they do not fit."""
        if camera not in self._kept:
            height, width = self.size(camera)
            need = 3 * height * width * sum(map(self.count, range(len(self.episodes))))
            fits = need <= self._room
            self._room -= need if fits else 0
            self._kept[camera] = {} if fits else None
        return self._kept[camera]

    def _fitted(self, camera: str, number: int, wanted: Array) -> Iterator[Array]:
        size = self.size(camera)
        return (fit(picture, size) for picture in self._decode(camera, number, wanted))

    def _decode(self, camera: str, number: int, wanted: Array) -> Iterator[Array]:
        """Yield pictures `wanted` (ascending) of an episode as they are stored, (3, H, W)."""
        known, episode = self.cameras[camera], self.episodes[number]
        rows = episode.start + wanted * self.stride
        where = f"dataset: episode {episode.index}"
        if known.video:
            path, start = episode.videos[camera]
            try:
                yield from read_frames(path, start + self.times[rows], tolerance=TOLERANCE / self.fps, where=where)
            except DepthError as error:
                raise _no_colours(known.key, str(error)) from None
            return
        for file, lines in self._place(rows):
            for stored in read_pictures(file, known.key, lines):
                yield self._open(stored, known.key, f"{where}: {known.key}")

    def _open(self, stored: Any, key: str, where: str) -> Array:
        """Decode a picture of the rows: its bytes, or the name of a file in the dataset."""
        content = stored.get("bytes") if isinstance(stored, dict) else stored
        if not isinstance(content, bytes):
            name = stored.get("path") if isinstance(stored, dict) and content is None else None
            if not name or not isinstance(name, str):
                raise problem(where, "a picture in every row", "none" if content is None else type(content).__name__)
            content = read_bytes(inside(self.root, name, where))
        try:
            picture = Image.open(io.BytesIO(content))
            if picture.mode.startswith(("I", "F")):
                raise _no_colours(key, f"pictures of mode {picture.mode}, such as depth in 16 bits")
            return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}: a picture cannot be read ({' '.join(str(error).split())[:160]})") from None


def _no_colours(key: str, got: str) -> InputError:
    remedy = "choose other cameras, or store it scaled to 8 bits as a camera of its own"
    return problem(f"dataset: {key}", "pictures of 8-bit colours", got, remedy)
