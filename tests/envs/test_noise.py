"""Noise between a policy and an environment: its size, its range, its streams; nothing at zero; resume is bitwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.envs.make import make_env
from toddle.envs.mixture import MixtureEnv
from toddle.envs.noise import Noise, NoiseConfig
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

ALL = np.ones(2, bool)


def noise(worlds: int = 2, seed: int = 0, **config: Any) -> Noise:
    return Noise(NoiseConfig(**config), worlds, np.array([-1.0, -2.0]), np.array([1.0, 2.0]), seed)


def test_its_size_and_its_range() -> None:
    """A tenth of half the range of each number; at 100 nearly all numbers are at either end."""
    zeros, start = np.zeros((2, 4000, 2), np.float32), np.zeros(2, np.int64)
    found = noise(action=0.1).on_actions(zeros, ALL, start)
    assert found.dtype == np.float32 and found.std((0, 1)) == pytest.approx([0.1, 0.2], rel=0.05)
    assert abs(found.mean()) < 0.01 and zeros.max() == 0.0
    wild = noise(action=100.0).on_actions(zeros, ALL, start)
    assert (np.abs(wild) <= [1.0, 2.0]).all() and (np.abs(wild) == [1.0, 2.0]).mean() > 0.95
    some = noise(action=0.1).on_actions(zeros, np.array([False, True]), start)
    assert not some[0].any() and some[1].any()
    seen = {"images": np.full((2, 1, 3, 64, 64), 128, np.uint8), "proprio": np.zeros((2, 5000))}
    shown = noise(pictures=0.1, proprio=0.3).on_observations(seen, np.array([True, False]), start)
    assert shown["images"][0].std() == pytest.approx(25.5, rel=0.05) and (shown["images"][1] == 128).all()
    assert shown["proprio"].std() == pytest.approx(0.3, rel=0.05) and seen["images"].max() == 128


def test_it_follows_from_seed_episode_and_control_step_alone() -> None:
    """Not from the batch, from the length of chunks, or from how often it is looked at."""
    one, four = noise(1, action=0.1, proprio=0.1), noise(4, seed=9, action=0.1, proprio=0.1)
    one.begin(np.ones(1, bool), [7])
    four.begin(np.ones(4, bool), [5, 6, 7, 8])
    zeros, step = np.zeros((4, 3, 2)), np.array([2, 0, 5, 9])
    chunk = four.on_actions(zeros, np.ones(4, bool), step)[2]
    for ahead in range(3):
        single = one.on_actions(zeros[:1, :1], np.ones(1, bool), np.array([5 + ahead]))[0, 0]
        assert np.array_equal(single, chunk[ahead])
    seen = np.zeros((4, 5))
    first = four.on_observations(seen, np.ones(4, bool), step)
    assert np.array_equal(four.on_observations(seen, np.ones(4, bool), step), first)
    assert np.array_equal(one.on_observations(seen[:1], np.ones(1, bool), step[2:3])[0], first[2])
    drawn = [first[2]]
    for _ in range(3):  # the next episodes of the seed, and other steps, are other draws
        one.begin(np.ones(1, bool), None)
        drawn.append(one.on_observations(seen[:1], np.ones(1, bool), step[2:3])[0])
    assert len({tuple(each) for each in drawn}) == 4


def play(env: Any, steps: int) -> list[Any]:
    found = []
    for t in range(steps):
        observed, reward, *_ = env.step_chunk(
            np.full((env.num_envs, 2, env.single_action_space.shape[0]), 0.1 * (t % 3))
        )
        found += [reward, *(observed[key] for key in sorted(observed))]
    return found


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_off_it_is_the_environment_itself_and_on_it_resumes() -> None:
    """Also in a mixture, whose parts are noisy alike."""
    config = NoiseConfig(action=0.3, pictures=0.1, proprio=0.05)

    def made(noise: NoiseConfig | None, mixed: bool = False) -> Any:
        options: dict[str, Any] = {"cameras": ("top",), "image_size": 16}
        env = make_env("dots/one", 3, noise=noise, **options)
        env = MixtureEnv([env, make_env("dots/one", 3, noise=noise, **options)]) if mixed else env
        env.reset(seed=4)
        return env

    plain, off = made(None), made(NoiseConfig())
    assert off.noise is None and same(play(plain, 5), play(off, 5))
    for mixed in (False, True):
        first, second = made(config, mixed), made(config, mixed)
        assert not same(play(made(None, mixed), 5), play(first, 5))
        play(second, 9)
        second.load_state_dict(first.state_dict())
        ours, again = first.current_observation(), second.current_observation()
        assert same([*ours.values()], [*again.values()]) and same(play(first, 12), play(second, 12))


def test_a_run_under_noise_goes_on_bitwise_and_other_worlds_do_not_matter() -> None:
    """A collector begins a resumed rollout at the observation of now; an end elsewhere changes nothing."""
    config = NoiseConfig(action=0.3, proprio=0.05)
    made = [Collector(make_env("fork/point", 3, noise=config), CollectConfig(length=20), seed=1) for _ in range(2)]
    policy = GaussianPolicy(GaussianConfig(bodies=(made[0].env.body_spec,), hidden=(8,)))
    made[0].collect(policy, None)
    made[1].load_state_dict(made[0].state_dict())
    whole, resumed = (each.collect(policy, None)[0].observation["proprio"] for each in made)
    assert torch.equal(whole, resumed)
    alone, beside = (make_env("dots/one", worlds, noise=config) for worlds in (1, 3))
    alone.reset(seed=[5])
    beside.reset(seed=[5, 6, 7])
    for _ in range(4):
        mine, theirs = (env.step(np.zeros((env.num_envs, 2)))[0]["proprio"] for env in (alone, beside))
        beside.reset(seed=[None, 1, None], options={"reset_mask": np.array([False, True, False])})
        assert np.array_equal(mine[0], theirs[0])


def test_clear_lines(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"noise\.action: expected 0 where actions are choices"):
        make_env("gymnasium/CartPole-v1", 1, noise=NoiseConfig(action=0.1))
    with pytest.raises(InputError, match=r"noise\.pictures: expected 0 where there are no pictures"):
        make_env("fork/point", 1, noise=NoiseConfig(pictures=0.1))
    with pytest.raises(SystemExit) as left:
        main(["pretrain", "--env", "fork/point", "--noise.action", "-1", "--out", str(tmp_path / "x"), "--dry-run"])
    assert left.value.code == 2 and "noise.action" in capsys.readouterr().err
