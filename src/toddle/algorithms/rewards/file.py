"""`file:reward.py`: a reward that a person or a language model has written (`maths.reward_expression`).

Eureka (arXiv 2310.12931), Reward Translator (arXiv 2306.08647).  It is interpreted, never run.  Its parts are metrics
of their own, as Eureka reflects on them.  What it is told is what a step has led to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from toddle.algorithms.rewards.names import WRITTEN, known_names, look_up
from toddle.algorithms.rewards.steps import Steps, Term
from toddle.core.reading import read_text
from toddle.core.types import Named
from toddle.maths.reward_expression import CHARACTERS, RewardExpression

__all__ = ["FileTerm"]


class FileTerm(Term):
    """A reward read from a file."""

    kind = "judge"

    def __init__(self, path: Path, named: Mapping[str, Named]) -> None:
        """Raises InputError for a file that holds what is not in the tables."""
        text = read_text(path, limit=4 * CHARACTERS)
        self.name, self.named = "file", dict(named)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.reward = RewardExpression.read(text, (*known_names(named), *WRITTEN), where=str(path))
        self.parts: dict[str, float] = {}

    def paid(self, steps: Steps) -> Tensor:
        """Return what the file pays, (T, B)."""
        total, parts = self.reward(look_up(self.reward, self.named, steps))
        real = steps.real.flatten()
        self.parts = {name: float(value[real].mean()) for name, value in parts.items()}
        return total.unflatten(0, steps.first.shape)
