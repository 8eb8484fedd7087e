"""What a failure is worth beside the successes of its task: SRPO (arXiv 2511.15605), from embeddings of episodes.

    d_i = distance of failure i to the nearest success of its task, in dimensions of equal spread
    z_i = (d_i - min d) / (max d - min d) over the task's failures
    r_i = 0.6 sigmoid(10 (1/2 - z_i))           a success: 1          a task without a success: 0

Deviation: the nearest success stands in for the nearest of DBSCAN's centres, which at the paper's width of 1408 finds
no cluster at its own settings, so that one mean is left that may lie between two ways of doing the task.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["success_reference_rewards"]

SHARE, STEEPNESS = 0.6, 10.0


def success_reference_rewards(embedding: Tensor, success: Tensor, task: Tensor) -> Tensor:
    """Return the rewards (N,) of episodes with embeddings (N, D), success (N,) bool and task (N,) int.

    Where all failures of a task lie equally far (or there is one), z is 1/2.
    """
    rewards = success.to(embedding.dtype)
    for number in task.unique():
        won, lost = (task == number) & success, (task == number) & ~success
        if not bool(won.any()) or not bool(lost.any()):
            continue
        own = embedding[won | lost]
        spread = own.std(0, unbiased=False).clamp(min=1e-6)
        distance = torch.cdist(embedding[lost] / spread, embedding[won] / spread).amin(1)
        low, high = distance.amin(), distance.amax()
        place = torch.full_like(distance, 0.5) if high - low < 1e-6 else (distance - low) / (high - low)
        rewards[lost] = SHARE * torch.sigmoid(STEEPNESS * (0.5 - place))
    return rewards
