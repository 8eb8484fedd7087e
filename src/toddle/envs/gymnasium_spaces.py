"""What gymnasium's spaces mean here: observations as `proprio` and `images`, actions in [-1, 1] or as a number.

Observations: pictures (uint8, or floats from 0 to 1 or 255, of 1 or 3 channels) become `images`; everything else that
gymnasium can flatten (Box, Discrete as one-hot, dictionaries and tuples of them) becomes `proprio`.  An observation of
pictures alone has a small grey copy of the first one as `proprio`, so that policies of states have something to see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space
from PIL import Image

from toddle.core.errors import problem
from toddle.envs.base import Array

__all__ = ["GREY", "ActionMap", "ObservationMap", "fitted"]

GREY = 16
"""Side of the grey copy of a picture, in pixels."""
SMALLEST = 8
"""Pixels a side from which an array of 1 or 3 channels is taken for a picture."""


def _is_picture(space: spaces.Space[Any]) -> bool:
    """Whether it is an array (height, width), (height, width, channels) or (channels, height, width) of pixels."""
    if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3):
        return False
    floats = space.dtype is not None and space.dtype.kind == "f"
    pixels = space.dtype == np.uint8 or (floats and space.low.min() == 0 and space.high.max() in (1, 255))
    if len(space.shape) == 2:
        return space.dtype == np.uint8 and min(space.shape) >= SMALLEST
    return bool(pixels and sorted(space.shape)[1] >= SMALLEST)


def _pictures(space: spaces.Space[Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], spaces.Box]]:
    """The pictures of a space, dictionaries within dictionaries included, each with its keys."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _pictures(part, (*path, key))
    elif isinstance(space, spaces.Box) and _is_picture(space):
        yield path, space


def _numbers(space: spaces.Space[Any]) -> spaces.Space[Any] | None:
    """The space without its pictures; None where nothing is left."""
    if isinstance(space, spaces.Dict):
        parts = {key: left for key, part in space.spaces.items() if (left := _numbers(part)) is not None}
        return spaces.Dict(parts) if parts else None
    return None if _is_picture(space) else space


def _only(space: spaces.Space[Any], value: Any) -> Any:
    """The parts of an observation that are in a space that `_numbers` returned."""
    if isinstance(space, spaces.Dict):
        return {key: _only(part, value[key]) for key, part in space.spaces.items()}
    return value


def fitted(picture: Array, width: int, height: int) -> Array:
    """Return a picture (H, W, 3) uint8 as (height, width, 3), its proportions kept, on black."""
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    canvas = Image.new("RGB", (width, height))
    canvas.paste(Image.fromarray(picture).resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)


class ObservationMap:
    """Reads observations of one space."""

    def __init__(self, name: str, space: spaces.Space[Any]) -> None:
        """`name` is the environment's, for errors.  Raises InputError for a space that cannot be mapped."""
        self.name = name
        self._pictures = [(path, box) for path, box in _pictures(space)]
        self.cameras = tuple("_".join(path) or "picture" for path, _ in self._pictures)
        sizes = {self._size(camera, box) for camera, (_, box) in zip(self.cameras, self._pictures)}
        if len(sizes) > 1:
            found = ", ".join(f"{camera} {box.shape}" for camera, (_, box) in zip(self.cameras, self._pictures))
            raise problem(f"observations of {name}", "pictures of one size", found, "resize them with a wrapper")
        self._numbers = _numbers(space)
        self.width = GREY * GREY
        if self._numbers is not None:
            try:
                flat: spaces.Space[Any] = flatten_space(self._numbers)
            except NotImplementedError:  # a kind of space that gymnasium does not know
                flat = self._numbers
            if not isinstance(flat, spaces.Box):
                takes = "Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple of them, or pictures"
                raise problem(f"observations of {name}", takes, str(space), "flatten them with a wrapper")
            self.width = int(flat.shape[0])
        parts: dict[str, spaces.Space[Any]] = {"proprio": spaces.Box(-np.inf, np.inf, (self.width,), np.float32)}
        for height, width in sizes:
            parts["images"] = spaces.Box(0, 255, (len(self.cameras), 3, height, width), np.uint8)
        self.space = spaces.Dict(parts) if sizes else parts["proprio"]

    def _size(self, camera: str, box: spaces.Box) -> tuple[int, int]:
        """Height and width; InputError where a picture has neither 1 nor 3 channels."""
        shape = box.shape
        if len(shape) == 2 or shape[2] in (1, 3):
            return shape[0], shape[1]
        if shape[0] in (1, 3):
            return shape[1], shape[2]
        remedy = "frames on top of each other, or depth, need a wrapper"
        raise problem(f"observations of {self.name}", f"1 or 3 channels in the picture '{camera}'", str(shape), remedy)

    def images(self, raw: Any) -> Array:
        """Return (cameras, 3, H, W) uint8."""
        return np.stack([self._picture(raw, path, box) for path, box in self._pictures])

    def _picture(self, raw: Any, path: tuple[str, ...], box: spaces.Box) -> Array:
        for key in path:
            raw = raw[key]
        picture = np.asarray(raw)
        if picture.shape != box.shape:
            raise problem(f"observations of {self.name}", f"a picture {box.shape}, as its space says", picture.shape)
        if picture.dtype != np.uint8:
            picture = np.clip(picture * (255.0 / box.high.max()), 0, 255).round().astype(np.uint8)
        if picture.ndim == 2:
            picture = picture[None]
        elif picture.shape[2] in (1, 3):
            picture = picture.transpose(2, 0, 1)
        return np.broadcast_to(picture, (3, *picture.shape[1:]))

    def proprio(self, raw: Any) -> Array:
        """Return (O,) float32."""
        if self._numbers is None:
            grey = Image.fromarray(self._picture(raw, *self._pictures[0]).mean(0).astype(np.uint8))
            return np.asarray(grey.resize((GREY, GREY), Image.Resampling.BOX), np.float32).ravel() / 255.0
        row = np.asarray(flatten(self._numbers, _only(self._numbers, raw)), np.float32)
        if row.shape != (self.width,):
            raise problem(f"observations of {self.name}", f"{self.width} numbers, as its space says", row.size)
        return row


class ActionMap:
    """Turns actions (A,) of this project into those of one space."""

    def __init__(self, name: str, space: spaces.Space[Any]) -> None:
        """`name` is the environment's, for errors.  Raises InputError for a space that cannot be mapped."""
        self._of = space
        self.discrete: int | None = None
        field, takes = f"actions of {name}", "Box of floats with finite bounds, or Discrete"
        if isinstance(space, spaces.Discrete):
            self.discrete = int(space.n)
            self.space = spaces.Box(0.0, self.discrete - 1.0, (1,), np.float32)
            return
        if not isinstance(space, spaces.Box) or space.dtype is None or space.dtype.kind != "f":
            raise problem(field, takes, str(space), "change them with a wrapper (gymnasium.ActionWrapper)")
        unbounded = [str(i) for i in np.flatnonzero(~(np.isfinite(space.low) & np.isfinite(space.high)).ravel())]
        if unbounded:
            what = f"no finite bounds of action {', '.join(unbounded[:8])}"
            raise problem(field, takes, what, "bound them with a wrapper (gymnasium.wrappers.RescaleAction)")
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.space = spaces.Box(-1.0, 1.0, (int(np.prod(space.shape)),), np.float32)

    def native(self, action: Array) -> Any:
        """Return the space's own action of one (A,) of this project, which is clipped to its bounds."""
        if isinstance(self._of, spaces.Discrete):
            return int(self._of.start) + int(np.clip(np.rint(action[0]), 0, self._of.n - 1))
        share = (np.clip(action.astype(np.float64), -1.0, 1.0).reshape(self._low.shape) + 1.0) / 2.0
        return (self._low + share * (self._high - self._low)).astype(self._of.dtype)
