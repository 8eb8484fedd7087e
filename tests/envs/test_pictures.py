"""Pictures: drawn where something has moved and somebody looks, nowhere else."""

from __future__ import annotations

import numpy as np

from toddle.envs.pictures import Pictures


def test_a_picture_is_drawn_where_it_is_looked_at_and_the_world_has_moved() -> None:
    drawn: list[tuple[int, str]] = []

    def draw(world: int, camera: str, width: int, height: int) -> np.ndarray:
        drawn.append((world, camera))
        return np.full((height, width, 3), len(drawn), np.uint8)

    pictures = Pictures(3, ("near", "far"), 8, draw)
    everywhere, first = np.ones(3, bool), np.array([True, False, False])
    assert pictures.images(everywhere).shape == (3, *pictures.space.shape) == (3, 2, 3, 8, 8)
    assert drawn == [(w, camera) for w in range(3) for camera in ("near", "far")]
    pictures.images(everywhere)
    assert len(drawn) == 6, "nothing has moved"
    pictures.move(np.array([True, False, True]))
    seen = pictures.images(first)
    assert drawn[6:] == [(0, "near"), (0, "far")]
    assert (seen[2, 0] == 5).all(), "the last one that was drawn"
    seen[:] = 0
    assert pictures.images(everywhere).min() > 0 and drawn[8:] == [(2, "near"), (2, "far")]
