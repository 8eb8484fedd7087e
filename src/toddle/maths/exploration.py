"""What exploring asks of numbers: how loud noise is on the way to a chunk, and which experiments say most.

Sources: SIME (Jin et al. 2025, arXiv 2505.01396, and its released code), CADS (Sadat et al. 2024, arXiv 2310.17347),
SOE (arXiv 2509.19292), ASID (Memmel et al. 2024, arXiv 2404.12308), Fedorov (1972) for D-optimal designs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["When", "choose_experiments", "information_gain", "kl_from_normal", "noise_level", "signal_to_noise"]

When = Literal["early", "late"]
"""Where on the way from noise to a chunk the condition is noisy."""


def noise_level(step: int, steps: int, when: When) -> float:
    """Return the share, in (0, 1], of the noise on the condition at step 0 ... steps - 1 of a chain.

    early: 1 at the first step, where it is decided which way the chunk goes, 1 / steps at the last (CADS).
    late: the other way round, which SIME's released code does.
    """
    return (steps - step if when == "early" else step + 1) / steps


def kl_from_normal(mean: Tensor, std: Tensor) -> Tensor:
    """Return KL(N(mean, std^2) || N(0, 1)) in nats of each number (...)."""
    return 0.5 * (mean.square() + std.square() - 1.0) - std.log()


def signal_to_noise(mean: Tensor, std: Tensor) -> Tensor:
    """Return the variance of the means over the data, over the mean variance, of each latent number: (M, Z) -> (Z,)."""
    return mean.var(0, correction=0) / std.square().mean(0)


def information_gain(information: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    """Return log det(prior + information) - log det(prior), in nats: twice what is learned of the parameters.

    Both are (P, P), of parameters in the same units; `prior` is the inverse of what is thought of their covariance.
    """
    return float(np.linalg.slogdet(prior + information)[1] - np.linalg.slogdet(prior)[1])


def choose_experiments(
    informations: Sequence[NDArray[np.float64]], prior: NDArray[np.float64], count: int
) -> list[int]:
    """Return which `count` of N experiments to make, in the order in which they are chosen.

    informations: N arrays (G, P, P), the Fisher information of an experiment at each of G guesses of the parameters;
    the gain is the mean over the guesses.  Each time the one that adds most to what those before it say is taken; as
    the gain is submodular, what is reached is at least 1 - 1/e of the best set's (Nemhauser et al. 1978).
    """
    chosen: list[int] = []
    known = np.broadcast_to(prior, informations[0].shape).copy()
    for _ in range(min(count, len(informations))):
        left = [index for index in range(len(informations)) if index not in chosen]
        gains = [float(np.linalg.slogdet(known + informations[index])[1].mean()) for index in left]
        chosen.append(left[int(np.argmax(gains))])
        known += informations[chosen[-1]]
    return chosen
