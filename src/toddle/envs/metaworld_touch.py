"""Meta-World's scenes with a goal item: "the hand at the object".  The goal-tracking expert's job, with pictures.

What the expert of `goal/sawyer` has learned works here as it is: the body, the actions and the goal's token are the
same.  The pictures and the task's sentence are those the vision-language-action model will be fine-tuned on.  So an
RL policy can be measured in the VLA's own scenes, and can record approaches for the VLA to be grounded on, without a
demonstration (docs/conversion.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from toddle.core.errors import problem
from toddle.core.goal import CURRENT_ERROR, FAMILIES, FAMILY, GOAL_FEATURES, PART, TARGET, TIME_TO_GO, TOLERANCE, WEIGHT
from toddle.envs.base import Array, Obs
from toddle.envs.bodies import part_offset
from toddle.envs.bodies.sawyer import CENTRE, LENGTH, SAWYER
from toddle.envs.metaworld import MetaWorldEnv

__all__ = ["MetaWorldTouchEnv", "approach"]

THINGS = {
    "assembly": "ring of the wrench",
    "basketball": "basketball",
    "bin-picking": "cube",
    "box-close": "lid",
    "button": "button",
    "coffee-button": "button of the coffee machine",
    "coffee": "mug",
    "dial": "dial",
    "disassemble": "ring of the wrench",
    "door-lock": "lock",
    "door-unlock": "lock",
    "door": "door",
    "drawer": "green drawer",
    "faucet": "faucet",
    "hammer": "hammer",
    "hand-insert": "block",
    "handle": "handle",
    "lever": "lever",
    "peg": "peg",
    "pick-out-of-hole": "cylinder",
    "pick-place": "red cylinder",
    "plate": "plate",
    "push-back": "block",
    "push": "red cylinder",
    "reach": "red cylinder",
    "shelf": "blue cube",
    "soccer": "ball",
    "stick": "stick",
    "sweep": "cube",
    "window": "window",
}
"""What the hand is moved to, by how a task's name begins; the longest beginning counts."""

REACHED = 0.14
"""Distance of the hand from the object in L (7 cm): objects keep the hand's own frame some centimetres away."""
STAY = 4
"""Control steps it must stay there: passing by is not success."""
SECONDS_TO_GO = 1.2
"""Shown as the time to go, always: the shortest that a goal is given in goal tracking."""


def approach(task: str) -> str:
    """Return what is done in touch/<task>, in words."""
    thing = THINGS[max((name for name in THINGS if task.startswith(name)), key=len)]
    return f"move the hand to the {thing}"


class MetaWorldTouchEnv(MetaWorldEnv):
    """N worlds of one task's scene; `name` is touch/<task>.

    Observations: those of `MetaWorldEnv`, and `goal` (N, 1, GOAL_FEATURES) float32 with `goal_mask` (N, 1) bool: the
    key point "hand" at the object's position.  Success: within REACHED for STAY control steps.  Rewards are the
    task's own, and mean nothing here.
    """

    def __init__(self, task: str, num_envs: int = 1, *, own_sentence: bool = False, **options: Any) -> None:
        """Take the options of `MetaWorldEnv`; raises InputError on unknown names.

        `own_sentence`: the sentence says what is done here (`approach`); else it is the task's.
        """
        if own_sentence and options.get("paraphrases"):
            raise problem("own_sentence", "no paraphrases with it", "both")
        self._near = np.zeros(num_envs, np.int64)
        self._hand = part_offset(SAWYER.name) + len(SAWYER.joints) + [p.name for p in SAWYER.key_points].index("hand")
        super().__init__(task.removeprefix("touch/"), num_envs, **options)
        self.name = f"touch/{self.task}"
        if own_sentence:
            self.instruction = [approach(self.task)] * num_envs
        assert isinstance(self.single_observation_space, spaces.Dict)
        goal: dict[str, spaces.Space[Any]] = {
            "goal": spaces.Box(-np.inf, np.inf, (1, GOAL_FEATURES), np.float32),
            "goal_mask": spaces.Box(0, 1, (1,), np.bool_),
        }
        self.single_observation_space = spaces.Dict({**self.single_observation_space.spaces, **goal})
        self._allocate()

    def _reset_worlds(self, mask: Array, seeds: list[int | None] | None) -> None:
        super()._reset_worlds(mask, seeds)
        self._near[mask] = 0

    def _step_worlds(self, action: Array, active: Array) -> tuple[Array, Array, Array]:
        before = self._success.copy()
        reward, terminated, truncated = super()._step_worlds(action, active)
        poses = self.object_poses()
        near = np.linalg.norm(poses["hand"] - poses["object"], axis=1) <= REACHED * LENGTH
        self._near = np.where(active, np.where(near, self._near + 1, 0), self._near)
        self._success_now = self._near >= STAY
        self._success = before | (self._success_now & active)
        if self.terminate_on_success:
            terminated = self._success & active
        return reward, terminated, truncated & ~terminated

    def _observe(self) -> Obs:
        observation = super()._observe()
        poses, n = self.object_poses(), self.num_envs
        goal = np.zeros((n, 1, GOAL_FEATURES), np.float32)
        goal[:, 0, PART] = self._hand
        goal[:, 0, FAMILY] = np.eye(len(FAMILIES))[FAMILIES.index("key_point")]
        goal[:, 0, TARGET.start : TARGET.start + 3] = (poses["object"] - np.asarray(CENTRE)) / LENGTH
        goal[:, 0, CURRENT_ERROR.start : CURRENT_ERROR.start + 3] = (poses["object"] - poses["hand"]) / LENGTH
        goal[:, 0, TOLERANCE], goal[:, 0, WEIGHT] = 0.1, 1.0
        goal[:, 0, TIME_TO_GO] = SECONDS_TO_GO / SAWYER.time
        return observation | {"goal": goal, "goal_mask": np.ones((n, 1), bool)}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the worlds, and how long each hand has been near."""
        return super().state_dict() | {"near": self._near.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self._near[:] = np.asarray(state["near"])
