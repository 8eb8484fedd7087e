"""`toddle record`: what is recorded is what happened, and a kill changes nothing but the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("metaworld", reason="metaworld is not installed")

from toddle.core.config import to_dict
from toddle.core.errors import InputError
from toddle.core.files import write_json_atomic
from toddle.core.reading import read_json
from toddle.core.rendering import FAST, MUJOCO, RenderVariation
from toddle.core.types import BodySpec
from toddle.data.layout import DEFAULT_FEATURES, DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.envs.make import make_env
from toddle.models.denoisers import MlpDenoiserConfig
from toddle.policies.denoising import DenoisingConfig, DenoisingPolicy
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes.record import Config, plan, run


def small(out: Path) -> Config:
    return Config(out=out, env=("metaworld/handle-press-v3",), episodes=3, image_size=32, seed=50, after_success=3)


def same(first: Path, second: Path) -> None:
    a, b = LeRobotDataset(first), LeRobotDataset(second)
    assert [span.facts for span in a.episodes] == [span.facts for span in b.episodes]
    for name in a.features:
        np.testing.assert_array_equal(b.column(name), a.column(name))
    every = np.arange(a.num_frames)
    np.testing.assert_array_equal(a.images("close", every), b.images("close", every))


def test_rows_replay_in_the_environment(tmp_path: Path) -> None:
    run(small(tmp_path), resume=False)
    data = LeRobotDataset(tmp_path)
    assert len(data.episodes) == 3
    assert (data.fps, data.image_stride, data.cameras) == (80, 4, ("close",))
    env = make_env("metaworld/handle-press-v3", 1, cameras=("close",), image_size=32)
    for span in data.episodes:
        rows = data.episode(span.index)
        observation, _ = env.reset(seed=[int(span.facts["seed"])])
        for row in range(span.length):
            np.testing.assert_array_equal(rows["observation.state"][row], observation["proprio"][0])
            if row % 4 == 0:
                error = data.images("close", np.array([span.start + row]))[0].astype(int) - observation["images"][0, 0]
                assert np.abs(error).mean() < 4  # video
            observation, reward, terminated, _, info = env.step(rows["action"][row][None])
            assert rows["next.reward"][row] == np.float32(reward[0])
            assert rows["next.success"][row] == info["success"][0]
            assert rows["next.terminated"][row] == terminated[0]
        assert rows["next.success"].sum() == 4  # success and three steps after it
        assert rows["next.done"].tolist() == [False] * (span.length - 1) + [True]


def exact(out: Path) -> Config:
    """PNG pictures: x264 was seen to encode equal frames a little differently now and then."""
    return replace(small(out), images="image")


def test_interrupted_and_resumed_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(exact(straight), resume=False)
    original, calls = DatasetWriter.add_episode, []

    def dies(self: DatasetWriter, *args: object) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "add_episode", dies)
        with pytest.raises(KeyboardInterrupt):
            run(exact(broken), resume=False)
    assert len(LeRobotDataset(broken).episodes) == 2
    with pytest.raises(InputError, match="--resume"):
        run(exact(broken), resume=False)
    run(exact(broken), resume=True)
    same(straight, broken)
    run(replace(exact(broken), episodes=4), resume=True)  # and more may be asked for
    assert len(LeRobotDataset(broken).episodes) == 4


def test_variation_is_seen_and_recorded_and_moves_nothing(tmp_path: Path) -> None:
    plain = replace(exact(tmp_path / "plain"), episodes=2)
    variation = RenderVariation(light_angle=40, light_brightness=0.3, multisampling=0.5)
    varied = replace(plain, out=tmp_path / "varied", variation=variation)
    assert "light angle 40" in plan(varied).steps[1] and plan(varied).seconds > plan(plain).seconds  # type: ignore[operator]
    for config in (plain, varied):
        run(config, resume=False)
    a, b = LeRobotDataset(plain.out), LeRobotDataset(varied.out)
    for name in a.features:
        np.testing.assert_array_equal(a.column(name), b.column(name))
    for span in a.episodes:
        first = np.array([span.start])
        assert (a.images("close", first) != b.images("close", first)).any()
    assert (a.render, a.variation) == (FAST, RenderVariation()) and (b.render, b.variation) == (FAST, variation)


def test_a_recording_of_before_goes_on(tmp_path: Path) -> None:
    run(exact(tmp_path), resume=False)
    info = read_json(tmp_path / "meta" / "info.json")
    assert info["toddle"].pop("render") == to_dict(FAST)
    write_json_atomic(tmp_path / "meta" / "info.json", info)
    run(replace(exact(tmp_path), episodes=4), resume=True)
    data = LeRobotDataset(tmp_path)
    assert len(data.episodes) == 4 and data.render is None
    with pytest.raises(InputError, match="toddle"):  # but not with another drawing
        DatasetWriter(tmp_path, replace(spec_of(data), render=MUJOCO), resume=True)


def spec_of(data: LeRobotDataset) -> DatasetSpec:
    features = {name: Feature(size=e["shape"][0], dtype=e["dtype"]) for name, e in data.features.items()}
    own = {name: feature for name, feature in features.items() if name not in DEFAULT_FEATURES}
    return DatasetSpec(
        fps=80, features=own, robot_type="sawyer", cameras={"close": (32, 32)}, images="image", image_stride=4
    )


def test_noise_moves_the_arm_and_keeps_the_experts_action(tmp_path: Path) -> None:
    calm, noisy = (
        replace(small(tmp_path / "a"), cameras=(), episodes=1),
        replace(small(tmp_path / "b"), cameras=(), episodes=1, noise=0.4),
    )
    for config in (calm, noisy):
        run(config, resume=False)
    a, b = (LeRobotDataset(config.out).column("observation.state") for config in (calm, noisy))
    rows = min(len(a), len(b))
    np.testing.assert_array_equal(a[0], b[0])
    assert np.abs(a[:rows] - b[:rows]).max() > 0.02
    env = make_env("metaworld/handle-press-v3", 1)
    env.reset(seed=[50])
    np.testing.assert_array_equal(LeRobotDataset(noisy.out).column("action")[0], env.expert_action()[0])


def test_a_policy_is_recorded_as_it_acts(tmp_path: Path) -> None:
    env = make_env("metaworld/handle-press-v3", 1)
    other = replace(env.body_spec, name="other", proprio=3, action=2)
    policy = GaussianPolicy(GaussianConfig(bodies=(other, env.body_spec), horizon=4, hidden=(8,), log_std=-1.0))
    save_policy(tmp_path / "policy", policy)
    config = replace(
        small(tmp_path / "data"),
        policy=str(tmp_path / "policy"),
        keep_failures=True,
        episodes=3,
        batch=2,
        max_episode_steps=10,
        deterministic=False,
    )
    run(config, resume=False)
    data = LeRobotDataset(config.out)
    assert [span.length for span in data.episodes] == [10, 10, 10]
    assert [span.facts["seed"] for span in data.episodes] == [50, 51, 52]
    env.reset(seed=[52])
    rows = data.episode(2)
    for row in range(10):
        state = env.current_observation()["proprio"][0]
        np.testing.assert_array_equal(rows["observation.state"][row], state)
        env.step(rows["action"][row][None])
    assert np.abs(np.diff(rows["action"], axis=0)).min() > 0  # drawn, not the mean
    save_policy(tmp_path / "alien", GaussianPolicy(GaussianConfig(bodies=(other,), hidden=(8,))))
    with pytest.raises(InputError, match="bank for the body 'sawyer'"):
        run(replace(config, out=tmp_path / "no", policy=str(tmp_path / "alien")), resume=False)


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'metaworld/reach-v3'"):
        run(replace(small(tmp_path), env=("metaworld/reech-v3",)), resume=False)
    with pytest.raises(InputError, match="scripted expert"):
        run(replace(small(tmp_path), env=("gymnasium/HalfCheetah-v5",), cameras=()), resume=False)
    with pytest.raises(InputError, match=r"0 of \d+ episodes of 'expert' succeeded"):
        run(replace(small(tmp_path / "short"), max_episode_steps=3), resume=False)
    few = replace(small(tmp_path / "few"), max_episode_steps=3, episodes=2, attempts=2, env=("metaworld/reach-v3",))
    with pytest.raises(InputError, match=r"0 of 4 episodes of 'expert' succeeded.*more attempts"):
        run(few, resume=False)
    with pytest.raises(InputError, match="executed: expected nothing without noise"):
        replace(small(tmp_path), executed=True)
    with pytest.raises(InputError, match="attempts: expected a whole number, at least 1"):
        replace(small(tmp_path), attempts=0)
    with pytest.raises(InputError, match="episodes: expected a whole number, at least 1"):
        replace(small(tmp_path), episodes=0)
    assert not (tmp_path / "data").exists()


def test_the_plan_says_what_would_happen(tmp_path: Path) -> None:
    shown = plan(small(tmp_path / "new"))
    assert any("3 episodes of metaworld/handle-press-v3" in step for step in shown.steps)
    assert shown.seconds
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_killed_for_real_and_resumed(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    arguments = ["--env", "metaworld/handle-press-v3", "--episodes", "12", "--image-size", "32", "--seed", "50"]
    command = [sys.executable, "-m", "toddle", "record", *arguments, "--out"]
    subprocess.run([*command, str(straight)], check=True, capture_output=True)
    for attempt in range(3):
        with subprocess.Popen([*command, str(broken), "--resume"], stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while not list(broken.glob(f"data/chunk-000/file-{3 * attempt + 2:03d}.parquet")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGKILL)
    subprocess.run([*command, str(broken), "--resume"], check=True, capture_output=True)
    same(straight, broken)


@pytest.mark.parametrize("env", ["goal/sawyer", "gymnasium/Pusher-v5", "fork/point"])
def test_any_environment_and_any_policy(tmp_path: Path, env: str) -> None:
    """Goal tracking, gymnasium and the fork have no pictures: a data set of numbers, here of a diffusion policy."""
    spec = make_env(env, 1).body_spec
    network = MlpDenoiserConfig(width=16)
    save_policy(tmp_path / "policy", DenoisingPolicy(DenoisingConfig(body=spec, network=network, executed=2)))
    config = Config(
        policy=str(tmp_path / "policy"),
        env=(env,),
        out=tmp_path / "data",
        episodes=1,
        batch=1,
        keep_failures=True,
        after_success=0,
    )
    run(config, resume=False)
    data = LeRobotDataset(config.out)
    assert len(data.episodes) == 1 and data.column("action").shape[1] == spec.action
    assert not [name for name in data.info["features"] if name.startswith("observation.images")]


def test_the_tools_path_is_recorded(tmp_path: Path) -> None:
    config = replace(small(tmp_path / "data"), episodes=1)
    run(config, resume=False)
    data = LeRobotDataset(config.out)
    path = data.episode(0)["observation.tool_position"]
    env = make_env(config.env[0], 1)
    env.reset(seed=[int(data.episodes[0].facts["seed"])])
    for row in range(3):  # before each action, as the state beside it
        np.testing.assert_allclose(path[row], env.tool_pose()["tool_position"][0], atol=1e-6)
        env.step(data.episode(0)["action"][row][None])
    assert 0.01 < float(np.linalg.norm(path[-1] - path[0])) < 1.5  # metres


def test_successes_are_asked_only_where_they_are_reported(tmp_path: Path) -> None:
    body = BodySpec(name="pendulum", proprio=3, action=1, dt=1 / 30)
    save_policy(tmp_path / "p", GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(4,))))
    given: Any = {"env": ("gymnasium/Pendulum-v1",), "policy": str(tmp_path / "p"), "cameras": (), "batch": 2}
    for act in (plan, run):
        with pytest.raises(InputError, match="keep_failures: expected True with gymnasium/Pendulum-v1"):
            act(Config(**given, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    plan(Config(**given, out=tmp_path / "out", keep_failures=True))


def test_a_wrong_policy_is_told_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        plan(Config(out=tmp_path / "out", policy=str(tmp_path / "none")))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "policy.json").write_text("{")
    with pytest.raises(InputError, match=r"policy.json"):
        plan(Config(out=tmp_path / "out", policy=str(tmp_path / "damaged")))
    assert not (tmp_path / "out").exists()
