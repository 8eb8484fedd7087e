"""The goal item of Meta-World's scenes: what it says, and that only a policy that is told reaches the object."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="metaworld is not installed")

from toddle.core.errors import InputError
from toddle.core.goal import CURRENT_ERROR, PART, TARGET
from toddle.envs.check_env import check_env
from toddle.envs.goal.tracking import GoalTrackingEnv
from toddle.envs.make import make_env
from toddle.envs.metaworld_sentences import SENTENCES
from toddle.envs.metaworld_touch import MetaWorldTouchEnv, approach


def servo(observation: dict[str, np.ndarray], gain: float = 10.0) -> np.ndarray:
    """Move the hand along the error that the goal item shows; the gripper stays as it is."""
    error = observation["goal"][:, 0, CURRENT_ERROR.start : CURRENT_ERROR.start + 3]
    return np.concatenate([np.clip(gain * error, -1, 1), np.zeros((len(error), 1))], axis=1)


def test_the_item_says_where_the_object_is() -> None:
    env = MetaWorldTouchEnv("push-v3", 3, seed=4)
    observation, _ = env.reset(seed=[1, 2, 3])
    poses, goal = env.object_poses(), observation["goal"][:, 0]
    metres = 0.5 * goal[:, CURRENT_ERROR.start : CURRENT_ERROR.start + 3]
    np.testing.assert_allclose(poses["hand"] + metres, poses["object"], atol=1e-6)
    at_target = (0.0, 0.7, 0.25) + 0.5 * goal[:, TARGET.start : TARGET.start + 3]
    np.testing.assert_allclose(at_target, poses["object"], atol=1e-6)


def test_the_part_is_the_hand_of_goal_tracking() -> None:
    """The id must be the one the expert learned, or its embedding means another part of the body."""
    tracking = GoalTrackingEnv("sawyer", 1)
    assert tracking.reader.part_names[MetaWorldTouchEnv("reach-v3", 1)._hand] == "hand"
    assert MetaWorldTouchEnv("reach-v3", 1).reset()[0]["goal"][0, 0, PART] == tracking.reader.part_names.index("hand")


def test_a_servo_on_the_item_reaches_and_one_on_the_wrong_item_does_not() -> None:
    env = make_env("touch/push-v3", 8)
    for wrong in (False, True):
        observation, _ = env.reset(seed=list(range(8)))
        reached = np.zeros(8, bool)
        for _ in range(60):
            action = servo(observation)
            if wrong:
                action[:, :3] *= -1.0
            observation, _, _, _, info = env.step(action.astype(np.float32))
            reached |= info["success"]
        assert reached.all() if not wrong else not reached.any()


def test_it_can_say_what_is_done() -> None:
    assert make_env("touch/push-v3", 1, own_sentence=True).instruction == ["move the hand to the red cylinder"]
    assert make_env("touch/push-v3", 1).instruction == make_env("metaworld/push-v3", 1).instruction
    said = {task: approach(task) for task in SENTENCES}
    assert said["push-back-v3"].endswith(" block") and said["coffee-button-v3"].endswith("of the coffee machine")
    words = {word for sentences in SENTENCES.values() for sentence in sentences for word in sentence.split()}
    assert {word for sentence in said.values() for word in sentence.split()} <= words


def test_it_is_a_batched_environment_like_the_others() -> None:
    check_env(make_env("touch/drawer-open-v3", 2, seed=3, max_episode_steps=10))
    with pytest.raises(InputError, match="image_sise"):
        make_env("touch/push-v3", 1, image_sise=32)
