"""`pbrs`: shaping by a potential: hand-written from distances, in a file, or learned by `toddle reward train`.

By default, where an environment names a tool, an object and a goal, how near the tool is to the object and the object
to its goal, worth half of a success at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from toddle.algorithms.potential_reward import PotentialReward
from toddle.algorithms.rewards.names import known_names, values_of
from toddle.algorithms.rewards.potential import PotentialTerm
from toddle.algorithms.rewards.steps import Seen, Steps, Term
from toddle.core.errors import problem
from toddle.core.reading import read_text
from toddle.core.types import Named
from toddle.maths.reward_expression import CHARACTERS, RewardExpression

__all__ = ["DISTANCE", "LearnedPotential", "WrittenPotential"]

DISTANCE = """
def potential(tool, object, goal):
    reach = 1.0 - tanh(5.0 * norm(tool - object))
    place = 1.0 - tanh(5.0 * norm(object - goal))
    return 0.2 * reach + 0.3 * place
"""


class WrittenPotential(PotentialTerm):
    """A potential that is written down."""

    name = "pbrs"

    def __init__(self, path: Path | None, named: Mapping[str, Named]) -> None:
        """path: a reward file that gives the potential; None: DISTANCE.  Raises InputError as `RewardExpression`."""
        if path is None and (lacking := {"tool", "object", "goal"} - set(named)):
            remedy = "write the potential as a file: pbrs:FILE.py"
            raise problem("reward: pbrs", f"an environment that names {', '.join(sorted(lacking))}", "none", remedy)
        text = DISTANCE if path is None else read_text(path, limit=4 * CHARACTERS)
        self.named = dict(named)
        self.reward = RewardExpression.read(text, known_names(named), where="pbrs" if path is None else str(path))

    def potential(self, seen: Seen) -> Tensor:
        """Return Phi (T, B)."""
        return self.reward(values_of(self.reward, self.named, seen))[0].unflatten(0, seen.state.shape[:2])


class LearnedPotential(Term):
    """The progress that a model of `toddle reward train --model.says order` (or steps-to-go) says, as a potential."""

    name, kind = "pbrs", "potential"

    def __init__(self, reward: PotentialReward) -> None:
        """reward: of weight 1 and form shaping."""
        self.reward = reward

    def paid(self, steps: Steps) -> Tensor:
        """Return the shaping (T, B)."""
        if steps.rollout is None:
            raise problem("reward: pbrs:FOLDER", "toddle reward evaluate, for recorded episodes", "toddle reward plot")
        return self.reward.reward(steps.rollout) * steps.rollout.reward_scale
