"""Components of tokens: numpy's singular vectors are the judge."""

from __future__ import annotations

import numpy as np
import torch

from toddle.models.components import TokenComponents


def test_they_are_the_singular_vectors_of_the_rows_that_are_asked_for() -> None:
    draw = np.random.default_rng(0)
    scales = np.array([9.0, 5.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.1])
    values = (draw.normal(size=(500, 8)) * scales) @ np.linalg.qr(draw.normal(size=(8, 8)))[0] + 2.0
    context = np.zeros((500, 3, 4), np.float32)
    context[:, [0, 2]] = values.reshape(500, 2, 4)
    rows = np.arange(0, 500, 2)
    found = TokenComponents.of(context, [True, False, True], 3, rows)
    kept = context[rows][:, [0, 2]].reshape(250, 8).astype(np.float64)
    _, sizes, vectors = np.linalg.svd(kept - kept.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found.directions.numpy() @ vectors[:3].T), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.told(context, rows), (sizes[:3] ** 2).sum() / (sizes**2).sum(), rtol=1e-4)
    numbers = found.numbers(torch.from_numpy(context))
    assert numbers.shape == (500, 3) and len(found) == 3
    again = found.context(numbers).numpy()
    best = ((kept - kept.mean(0)) @ vectors[:3].T) @ vectors[:3] + kept.mean(0)
    np.testing.assert_allclose(again[rows][:, [0, 2]].reshape(250, 8), best, atol=5e-3)
    assert not again[:, 1].any() and np.allclose(found.numbers(torch.from_numpy(again)), numbers, atol=1e-4)
    assert len(TokenComponents.of(context[:2], [True, False, True], 30, np.arange(2))) == 2
