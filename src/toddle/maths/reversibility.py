"""What learning with irreversible states needs: where a stretch of states became stuck, and what being stuck is worth.

Xie et al. 2022, "When to Ask for Help: Proactive Interventions in Autonomous Reinforcement Learning" (arXiv
2210.10765).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["first_stuck", "held_back"]


def first_stuck(count: int, stuck: Callable[[int], bool]) -> tuple[int, int]:
    """Return the first of `count` states from which nothing leads back (`count`: none), and how often was asked.

    stuck(i) says it of state i.  What is stuck once is stuck for good, so that ceil(log2(count + 1)) questions do.
    """
    low, high, asked = 0, count, 0
    while low < high:
        middle, asked = (low + high) // 2, asked + 1
        low, high = (low, middle) if stuck(middle) else (middle + 1, high)
    return low, asked


def held_back(reward: Tensor, discount: Tensor, stuck: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return reward and discount (...) with which r + discount Q' is P r_min + (1 - P) (r + gamma Q').

    stuck: (...) P, the probability that the state come to is one that nothing leads out of; least: r_min.
    """
    return stuck * least + (1.0 - stuck) * reward, (1.0 - stuck) * discount
