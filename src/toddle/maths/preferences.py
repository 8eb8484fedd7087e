"""Which of two is preferred: the model of an answer, the losses that learn a policy from answers, and what to ask.

Notation: a pair is a winner w and a loser l; its margin m is how much more the policy has come to favour w over l than
its reference does,

    m = (log pi(w) - log pi_ref(w)) - (log pi(l) - log pi_ref(l)),

log-densities summed over a segment's decisions.  A flow has no density: minus its squared flow-matching error, summed
over the numbers of a chunk, stands for one (Diffusion-DPO), w and l drawn with the same noise and time.
Sources: Bradley and Terry 1952; DPO, Rafailov et al. 2023 (arXiv 2305.18290); conservative DPO, Mitchell 2023; IPO,
Azar et al. 2023 (arXiv 2310.12036); Diffusion-DPO, Wallace et al. 2023 (arXiv 2311.12908); GRAPE, Zhang et al. 2024
(arXiv 2411.19309); information gain, Biyik et al. 2019 (arXiv 1910.04365).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "bradley_terry",
    "dpo_loss",
    "external_log_reward",
    "information_gain",
    "ipo_loss",
    "margin",
    "trajectory_score",
]


def bradley_terry(first: Tensor, second: Tensor, beta: float = 1.0) -> Tensor:
    """Return the probability that the first is preferred, 1 / (1 + exp(-beta (first - second))), of rewards (...)."""
    return torch.sigmoid(beta * (first - second))


def margin(winner: Tensor, loser: Tensor, winner_reference: Tensor, loser_reference: Tensor) -> Tensor:
    """Return m (...) of log-densities (...) summed over segments, under the policy and under its reference."""
    return (winner - winner_reference) - (loser - loser_reference)


def dpo_loss(margin: Tensor, beta: float, *, smoothing: float = 0.0) -> Tensor:
    """Return -(1 - s) log sigmoid(beta m) - s log sigmoid(-beta m), of margins (...).

    smoothing: s, the share of answers that are held to be wrong; above 0 the loss has its least at a finite margin,
    log((1 - s) / s) / beta.
    """
    scaled = beta * margin
    return -(1.0 - smoothing) * F.logsigmoid(scaled) - smoothing * F.logsigmoid(-scaled)


def ipo_loss(margin: Tensor, beta: float) -> Tensor:
    """Return (m - 1 / (2 beta))^2, of margins (...): its least is at a finite margin however sure the answers are."""
    return (margin - 1.0 / (2.0 * beta)).square()


def external_log_reward(costs: Tensor, thresholds: Tensor | float = 0.0, weights: Tensor | float = 1.0) -> Tensor:
    """Return log R_ext (...) = -sum_s sum_j weight max(0, cost - threshold) of stage costs (..., S, J) (GRAPE).

    It is the logarithm, which does not underflow: R_ext itself is 0 in float64 from a cost of 745 on.
    """
    return -(weights * (costs - thresholds).clamp(min=0.0)).flatten(-2).sum(-1)


def trajectory_score(external: float, success: bool, weights: tuple[float, float] = (0.01, 1.0)) -> float:
    """Return the score by which GRAPE ranks trajectories, without the policy's own likelihood: more is better.

    external: `external_log_reward`; GRAPE's code subtracts it, so that more cost ranks higher there.
    """
    return weights[0] * external + weights[1] * success


def information_gain(probability: Tensor) -> Tensor:
    """Return the bits that an answer is expected to tell about which of M models is right, of each of N questions.

    probability: (M, N), that the first is preferred, under models that are equally likely.  By the older volume removal
    a pair of equals would be the best question; here it tells nothing.
    """

    def entropy(p: Tensor) -> Tensor:
        return -(torch.xlogy(p, p) + torch.xlogy(1.0 - p, 1.0 - p)) / torch.log(torch.tensor(2.0, dtype=p.dtype))

    return entropy(probability.mean(0)) - entropy(probability).mean(0)
