"""A policy is shown what it was taught with; what differs is told, and what cannot be is refused."""

from __future__ import annotations

from typing import Any

import pytest

from toddle.core.config import to_dict
from toddle.core.errors import InputError
from toddle.core.rendering import FAST, MUJOCO, RenderSettings
from toddle.envs.make import ADDED, add_env
from toddle.experience.taught import Taught, picture_options

TASK = "metaworld/push-v3"
META = Taught(size=(128, 128), render=MUJOCO).to_meta()


def options(meta: dict[str, Any], render: RenderSettings = RenderSettings(), env: str = TASK, **more: Any) -> Any:  # noqa: B008
    given: dict[str, Any] = {"own": ("close",), "image_size": 96} | more
    return picture_options(env, meta=meta, render=render, **given)


def test_the_environment_is_made_as_the_policy_was_taught() -> None:
    assert options(META) == ({"cameras": ("close",), "image_size": 128, "render": MUJOCO}, [])


def test_what_the_user_gives_wins_and_is_told() -> None:
    made, told = options(META, RenderSettings(shadows=False), cameras=("corner",))
    assert made["render"] == RenderSettings(shadows=False).over(MUJOCO)
    assert told[0] == "taught with the cameras close, shown corner"
    assert told[1].startswith("taught with shadows, reflections, 4 samples") and "shown no shadows" in told[1]
    assert len(told) == 2


def test_an_older_policy_is_shown_what_there_was_and_that_is_told() -> None:
    made, told = options({})
    assert made == {"cameras": ("close",), "image_size": 96, "render": FAST}
    assert told == [f"how the pictures it was taught with were drawn is not known; shown {FAST}"]


def test_a_policy_of_states_is_shown_and_told_nothing() -> None:
    assert options({}, own=()) == ({}, [])
    assert options({}, MUJOCO, own=(), env="goal/sawyer") == ({"render": MUJOCO}, [])  # its films


def test_an_environment_that_cannot_set_its_drawing_says_so() -> None:
    def build(num_envs: int, *, seed: int = 0, cameras: tuple[str, ...] = (), image_size: int = 96) -> Any:
        raise NotImplementedError

    add_env("mine/real", build)
    try:
        made, told = options(META, env="mine/real")
        assert made == {"cameras": ("close",), "image_size": 128}
        assert told == [f"taught with {MUJOCO}; mine/real cannot set how it draws"]
        with pytest.raises(InputError, match="render: expected nothing with mine/real, got 'shadows'"):
            options(META, RenderSettings(shadows=True), env="mine/real")
    finally:
        del ADDED["mine/real"]
    assert options(META, env="fork/point")[0] == {}  # it has no cameras that could be named


def test_pictures_that_are_not_square_are_told() -> None:
    meta = Taught(size=(48, 64), render=FAST).to_meta()
    assert meta == {"image_size": 48, "image_width": 64, "render": to_dict(FAST)} and Taught.of(meta).size == (48, 64)
    assert options(meta)[1] == [f"taught with pictures of 48 x 64, {TASK} draws 48 x 48"]


@pytest.mark.parametrize("damaged", [{"image_size": "x"}, {"image_size": 10**9}, {"render": 3}, {"render": {"sun": 1}}])
def test_a_damaged_card_is_one_line(damaged: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"policy\.json: meta: ") as caught:
        Taught.of(damaged)
    assert "\n" not in str(caught.value)
