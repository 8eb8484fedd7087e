"""Any gymnasium environment as a batch: gymnasium's own numbers, every kind of space, one line for what cannot be."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from envs.odd_envs import Forgetful, Lights, PlainEnv
from toddle.core.errors import InputError
from toddle.envs.check_env import check_env
from toddle.envs.gymnasium_any import AnyGymnasiumEnv, body_name
from toddle.envs.gymnasium_spaces import GREY
from toddle.envs.make import family_of, make_env


def any_env(make: Any, worlds: int = 2, **options: Any) -> AnyGymnasiumEnv:
    return AnyGymnasiumEnv("mine", make, worlds, **({"max_episode_steps": 8} | options))


def with_spaces(observation: Any = None, action: Any = None) -> AnyGymnasiumEnv:
    return any_env(functools.partial(PlainEnv, observation, action))


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1", "InvertedPendulum-v5"]
)
def test_the_contract_holds(name: str) -> None:
    check_env(make_env(f"gymnasium/{name}", 3, seed=4, max_episode_steps=12))


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_equal_to_gymnasium_vectorised(name: str) -> None:
    """The first episodes of three worlds, ends and time limits included, are those of gymnasium's own vector."""
    env = make_env(f"gymnasium/{name}", 3)
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    other = gymnasium.make_vec(name, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    observation, _ = env.reset(seed=7)
    assert np.array_equal(observation, other.reset(seed=7)[0])
    rng, going = np.random.default_rng(0), np.ones(3, bool)
    while going.any():
        if env.discrete:
            given = rng.integers(0, env.discrete, 3)
            actions, theirs = given[:, None].astype(np.float32), given
        else:
            actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
            theirs = (2.0 * actions.astype(np.float64)).astype(np.float32)  # Pendulum's torque is within 2
        observation, reward, over, late, info = env.step(actions)
        expected, paid, fell, cut, told = other.step(theirs)
        assert np.array_equal(reward[going], paid[going])
        assert np.array_equal(over[going], fell[going]) and np.array_equal(late[going], (cut & ~fell)[going])
        for world in np.flatnonzero(going & (over | late)):
            assert np.array_equal(info["final_obs"][world], told["final_obs"][world])
        going &= ~(over | late)
        assert np.array_equal(observation[going], expected[going])
    assert late.any() == (name == "Pendulum-v1")


def test_actions_reach_the_environment_in_its_own_units() -> None:
    box = spaces.Box(np.array([[0.0, -4.0]]), np.array([[10.0, 4.0]]), dtype=np.float64)
    env = with_spaces(action=box)
    env.step(np.array([[0.5, -1.0], [3.0, 0.0]]))
    sent = [world.sent[0] for world in env._worlds]
    assert np.array_equal(sent, [[[7.5, -4.0]], [[10.0, 0.0]]]) and sent[0].dtype == np.float64
    lights = any_env(Lights)
    assert lights.discrete == 2 and lights.single_action_space == spaces.Box(0.0, 1.0, (1,), np.float32)


@pytest.mark.parametrize(
    ("space", "width", "cameras"),
    [
        (spaces.Box(-1, 1, (3,), np.float64), 3, ()),
        (spaces.Box(0, 255, (128,), np.uint8), 128, ()),
        (spaces.Box(-1, 1, (4, 5), np.float32), 20, ()),
        (spaces.Discrete(500), 500, ()),
        (spaces.MultiBinary(4), 4, ()),
        (spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,)))), 5, ()),
        (spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Dict(c=spaces.Discrete(3))), 5, ()),
        (spaces.Box(0, 255, (12, 10, 3), np.uint8), GREY * GREY, ("picture",)),
        (spaces.Box(0, 255, (1, 12, 10), np.uint8), GREY * GREY, ("picture",)),
        (spaces.Box(0, 255, (12, 10), np.uint8), GREY * GREY, ("picture",)),
        (spaces.Box(0, 1, (12, 10, 3), np.float32), GREY * GREY, ("picture",)),
        (
            spaces.Dict(
                state=spaces.Box(-1, 1, (2,)),
                eyes=spaces.Dict(
                    left=spaces.Box(0, 255, (12, 10, 3), np.uint8), right=spaces.Box(0, 255, (12, 10, 1), np.uint8)
                ),
            ),
            2,
            ("eyes_left", "eyes_right"),
        ),
    ],
)
def test_observations_of_every_kind(space: Any, width: int, cameras: tuple[str, ...]) -> None:
    env = with_spaces(space)
    assert (env.body_spec.proprio, env.cameras) == (width, cameras)
    check_env(env)
    if cameras:
        assert env.single_observation_space["images"].shape == (len(cameras), 3, 12, 10)


def test_a_picture_arrives_as_it_was() -> None:
    one = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    for space, given, expected in (
        (spaces.Box(0, 255, (12, 10, 3), np.uint8), one, one.transpose(2, 0, 1)),
        (spaces.Box(0, 255, (3, 12, 10), np.uint8), one.transpose(2, 0, 1), one.transpose(2, 0, 1)),
        (spaces.Box(0, 255, (12, 10), np.uint8), one[..., 0], np.stack([one[..., 0]] * 3)),
        (spaces.Box(0, 1, (12, 10, 3), np.float32), (one / 255).astype(np.float32), one.transpose(2, 0, 1)),
    ):
        env = with_spaces(space)
        assert np.array_equal(env._seen.images(given)[0], expected)
    grey = with_spaces(spaces.Box(0, 255, (32, 32, 3), np.uint8))._seen.proprio(np.full((32, 32, 3), 51, np.uint8))
    assert np.allclose(grey, 0.2)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Sequence(spaces.Discrete(2)), None, "observations of mine: expected Box, Discrete"),
        (spaces.Graph(spaces.Discrete(2), None), None, "observations of mine: expected Box, Discrete"),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), None, "expected 1 or 3 channels in the picture 'picture'"),
        (
            spaces.Dict(a=spaces.Box(0, 255, (9, 9, 3), np.uint8), b=spaces.Box(0, 255, (8, 8, 3), np.uint8)),
            None,
            "expected pictures of one size",
        ),
        (None, spaces.MultiDiscrete([2, 3]), "actions of mine: expected Box of floats"),
        (None, spaces.MultiBinary(3), "actions of mine: expected Box of floats"),
        (None, spaces.Dict(a=spaces.Discrete(2)), "actions of mine: expected Box of floats"),
        (None, spaces.Box(0, 4, (1,), np.int64), "actions of mine: expected Box of floats"),
        (None, spaces.Box(np.array([-1, -np.inf]), np.array([1, np.inf])), "no finite bounds of action 1"),
    ],
)
def test_what_cannot_be_mapped_is_one_line(observation: Any, action: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        with_spaces(observation, action)
    assert message in str(caught.value) and "\n" not in str(caught.value) and "wrapper" in str(caught.value)


def test_a_limit_is_its_own_or_asked_for() -> None:
    assert make_env("gymnasium/CartPole-v1", 1).max_episode_steps == 500
    env = make_env("gymnasium/CartPole-v1", 1, max_episode_steps=5000)
    assert env.max_episode_steps == 5000 and env._worlds[0].spec.max_episode_steps == 5000
    with pytest.raises(InputError, match="max_episode_steps: expected a limit for mine, which has none"):
        any_env(PlainEnv, max_episode_steps=None)


def test_facts_of_an_episode() -> None:
    env = any_env(PlainEnv, 2, max_episode_steps=5)
    assert env.dt == pytest.approx(0.1) and env.body == "mine"
    info = env.step_chunk(np.zeros((2, 3, 1), np.float32))[4]
    assert info["success"].dtype == bool and np.array_equal(info["cost"], [3.0, 3.0])
    assert env.render_worlds([1, 0], 64, 48).shape == (2, 48, 64, 3)


def test_one_that_does_not_repeat_itself_begins_anew_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    env = any_env(Forgetful, 3)
    env.reset(seed=0)
    env.step_chunk(np.zeros((3, 2, 1), np.float32), active=np.array([True, True, False]))
    state = env.state_dict()
    env.load_state_dict(state)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "2 of 3 worlds do not repeat themselves" in said
    assert env._length.tolist() == [0, 0, 0] and env._episode.tolist() == [1, 1, 0]


class Raising(PlainEnv):
    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment
        if moment == "while being made":
            raise OSError("no\nlicence")

    def reset(self, **options: Any) -> Any:
        if self.moment == "in reset":
            raise SystemExit("no licence")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        raise ZeroDivisionError("no licence")


@pytest.mark.parametrize("moment", ["while being made", "in reset", "in step"])
def test_what_an_environment_raises_is_one_line(moment: str) -> None:
    with pytest.raises(InputError, match=f"'mine' raised .*Error|SystemExit {moment}: no licence") as caught:
        any_env(lambda: Raising(moment)).step(np.zeros((2, 1)))
    assert "\n" not in str(caught.value)


def test_the_same_world_twice_is_refused() -> None:
    one = PlainEnv()
    with pytest.raises(InputError, match="a new one at every call"):
        any_env(lambda: one)


def test_an_observation_that_is_not_in_its_space() -> None:
    class Longer(PlainEnv):
        def _see(self) -> Any:
            return np.zeros(2)

    with pytest.raises(InputError, match="observations of mine: expected 1 numbers, as its space says, got 2"):
        any_env(Longer)


def test_names_of_bodies() -> None:
    assert body_name("CartPole-v1") == "cartpole"
    assert body_name("ALE/Pong-v5") == "ale_pong"
    assert body_name("my_package.my_env:make") == "my_package_my_env_make"


def test_ids_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered under a namespace, and by a module that is imported for it."""
    gymnasium.register("toddle-tests/Lights-v0", "envs.odd_envs:Lights", max_episode_steps=5)
    try:
        for name in ("gymnasium/toddle-tests/Lights-v0", "gymnasium/envs.odd_envs:toddle-tests/Lights-v0"):
            assert family_of(name).name == "gymnasium"
            env = make_env(name, 2)
            assert (env.name, env.body, env.max_episode_steps) == (name, "toddle_tests_lights", 5)
        with pytest.raises(InputError, match="did you mean 'gymnasium/toddle-tests/Lights-v0'"):
            family_of("gymnasium/toddle-tests/Light-v0")
    finally:
        del gymnasium.registry["toddle-tests/Lights-v0"]
    with pytest.raises(InputError, match="expected a module that can be imported before ':Pong-v5', got 'no_such'"):
        family_of("gymnasium/no_such:Pong-v5")
    with pytest.raises(InputError, match=r"Box2D is not installed|CarRacing"):
        make_env("gymnasium/CarRacing-v3", 1).step(np.full((1, 3), np.nan))
