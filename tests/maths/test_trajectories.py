"""DTW, clustering and the categorical projection against hand arithmetic."""

from __future__ import annotations

import numpy as np
import torch

from toddle.maths.categorical import expectation, project, smaller_distribution
from toddle.maths.trajectories import cluster_paths, dtw, mode_entropy, resample


def family(sign: float, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Paths from (0, 0) to (2, 0) round a wall, above (+1) or below (-1)."""
    t = np.linspace(0, 1, 20)
    base = np.stack([2 * t, sign * np.sin(np.pi * t)], 1)
    return [base + generator.normal(0, 0.05, base.shape) for _ in range(count)]


def test_dtw_by_hand() -> None:
    a, b = np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0]])
    assert dtw(a, b) == 1.0  # 0-0, 1-0 (or 1-2) costs 1, 2-2
    assert dtw(a, a) == 0.0
    assert dtw(a, b) == dtw(b, a)
    slow = np.repeat(a, 3, axis=0)
    assert dtw(a, slow) == 0.0  # the same path at another speed


def test_two_ways_round_a_wall_are_two_clusters() -> None:
    generator = np.random.default_rng(0)
    paths = family(1.0, 6, generator) + family(-1.0, 9, generator)
    distances = np.array([[dtw(p, q) for q in paths] for p in paths])
    labels = cluster_paths(distances)
    assert len(set(labels)) == 2
    assert len(set(labels[:6])) == 1 and len(set(labels[6:])) == 1 and labels[0] != labels[-1]
    one_way = family(1.0, 8, generator)
    distances = np.array([[dtw(p, q) for q in one_way] for p in one_way])
    assert len(set(cluster_paths(distances, most=3))) == 1  # noise alone is no structure


def test_resample_keeps_ends() -> None:
    path = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 1.0]])
    np.testing.assert_allclose(resample(path, 5), [[0, 1], [1, 2], [2, 3], [3, 2], [4, 1]])


def test_entropy_in_bits() -> None:
    assert mode_entropy(np.array([0, 1, 0, 1])) == 1.0
    assert mode_entropy(np.array([3, 3])) == 0.0


def test_projection_by_hand() -> None:
    atoms = torch.tensor([0.0, 1.0, 2.0])
    certain = torch.tensor([[0.0, 1.0, 0.0]])
    moved = project(certain, torch.tensor([0.25]), torch.tensor([0.5]), atoms)  # 0.25 + 0.5 * 1 = 0.75
    torch.testing.assert_close(moved, torch.tensor([[0.25, 0.75, 0.0]]))
    beyond = project(certain, torch.tensor([9.0]), torch.tensor([1.0]), atoms)
    torch.testing.assert_close(beyond, torch.tensor([[0.0, 0.0, 1.0]]))
    ended = project(certain, torch.tensor([1.0]), torch.tensor([0.0]), atoms)
    torch.testing.assert_close(ended, torch.tensor([[0.0, 1.0, 0.0]]))


def test_projection_keeps_mass_and_mean_inside_the_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(7, 11, generator=generator, dtype=torch.float64).softmax(-1)
    atoms = torch.linspace(0, 5, 11, dtype=torch.float64)
    reward, discount = torch.full((7,), 0.3, dtype=torch.float64), torch.full((7,), 0.9, dtype=torch.float64)
    moved = project(probability, reward, discount, atoms)
    torch.testing.assert_close(moved.sum(-1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(expectation(moved, atoms), 0.3 + 0.9 * expectation(probability, atoms))


def test_smaller_of_two_distributions_is_one_of_them() -> None:
    atoms = torch.tensor([0.0, 1.0])
    low, high = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])
    assert torch.equal(smaller_distribution(low, high, atoms), low)
    assert torch.equal(smaller_distribution(high, low, atoms), low)
