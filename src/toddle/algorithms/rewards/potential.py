"""Terms that pay gamma^k Phi(s') - Phi(s): Ng, Harada and Russell 1999 (`maths.potentials`).

At a true end Phi is 0; where an episode is cut it stays, as its value does.  The sum over an episode depends on its
ends alone, so nothing is earned by going back and forth, and the best policy stays what it was whatever Phi says.
"""

from __future__ import annotations

from torch import Tensor

from toddle.algorithms.rewards.steps import Seen, Steps, Term
from toddle.maths.potentials import potential_reward

__all__ = ["PotentialTerm"]


class PotentialTerm(Term):
    """A term that pays differences of a potential."""

    kind = "potential"

    def potential(self, seen: Seen) -> Tensor:
        """Return Phi (T, B) of what was seen."""
        raise NotImplementedError

    def potentials(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Return Phi (T, B) before and after each step."""
        return self.potential(steps.now), self.potential(steps.following)

    def paid(self, steps: Steps) -> Tensor:
        """Return the shaping (T, B)."""
        now, following = self.potentials(steps)
        return potential_reward(now, following, steps.terminated, steps.success, steps.discount, shaping=True)

    def value(self, steps: Steps) -> Tensor:
        """Return Phi before each step."""
        return self.potentials(steps)[0]
