"""Evaluation reckoned by hand: same seeds for all, frozen worlds, exact pushes, counted goals, resume."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.types import BodySpec, Decision, EpisodeResult, Score
from toddle.envs.base import BatchedEnv
from toddle.experience.evaluate import PushConfig, VideoRequest, evaluate
from toddle.reporting.episode_log import EpisodeLog, compare, read_episodes, score_of, summarise

SEEDS = [11, 3, 5, 28, 7]
LENGTHS = [7, 6, 8, 3, 3]  # seed % 7 + 3


class PointEnv(BatchedEnv):
    """World of seed s starts at s % 7 + 3; action 1 walks one down; at 0 or below it succeeds; 20 steps at most.

    `goals=True` makes it a goal-tracking environment instead: a goal ends every 4 steps, reached where x is even.
    """

    name, body, dt, max_episode_steps = "test/point", "point", 0.1, 20

    def __init__(self, num_envs: int, *, goals: bool = False) -> None:
        self.num_envs, self.goals = num_envs, goals
        self.single_observation_space = gymnasium.spaces.Dict(
            {"proprio": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)}
        )
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.x = np.zeros(num_envs)
        self.made = np.zeros(num_envs, dtype=int)
        self.instruction = ["walk to the origin"] * num_envs
        self.pushes: list[tuple[int, int]] = []
        self._allocate()

    def _reset_worlds(self, mask: Any, seeds: list[int | None] | None) -> None:
        assert seeds is not None
        for world in np.flatnonzero(mask):
            self.x[world] = int(seeds[world] or 0) % 7 + 3
            self.made[world] = 0

    def _step_worlds(self, action: Any, active: Any) -> Any:
        self.x[active] -= np.round(action[active, 0])
        self.made += active
        ended = (self.x <= 0) & (not self.goals)
        return -np.ones(self.num_envs), ended, self.made >= self.max_episode_steps

    def _observe(self) -> Any:
        return {"proprio": np.stack([self.x, self.made], axis=1).astype(np.float32)}

    def _infos(self) -> dict[str, Any]:
        if self.goals:
            return {
                "goal_done": (self.made % 4 == 0) & (self.made > 0),
                "goal_success": self.x % 2 == 0,
                "goal_error": np.abs(self.x),
                "success": np.ones(self.num_envs, bool),
            }
        tool = np.stack([self.x, 0 * self.x, 0 * self.x], axis=1)
        return {"success": self.x <= 0, "cost": (self.x > 5).astype(float), "tool_position": tool}

    def push(self, mask: Any, generator: np.random.Generator, strength: float = 1.0) -> None:
        for world in np.flatnonzero(mask):
            self.pushes.append((int(world), int(self.made[world])))
            self.x[world] += round(3 * strength)

    def render_worlds(self, worlds: list[int], width: int = 256, height: int = 256, camera: str | None = None) -> Any:
        return np.stack([np.full((height, width, 3), int(self.x[w]) + 100, np.uint8) for w in worlds])


class Walker:
    """Walks down one a step; with `noise` it stays where its draw says so.  Keeps what it was shown."""

    sequential = False
    bodies = (BodySpec(name="point", proprio=2, action=2, dt=0.1),)

    def __init__(self, horizon: int = 1, noise: bool = False) -> None:
        self.horizon, self.noise = horizon, noise
        self.seen: list[Any] = []

    def initial_memory(self, batch: int) -> Any:
        return {"decisions": torch.zeros(batch, dtype=torch.int64)}

    def act(
        self, observation: Any, memory: Any = None, *, generator: Any = None, deterministic: bool = False
    ) -> tuple[Decision, Any]:
        self.seen.append(observation)
        batch = len(observation["proprio"])
        action = torch.ones(batch, self.horizon, 2)
        if self.noise and not deterministic:
            action = torch.bernoulli(torch.full_like(action, 0.6), generator=generator)
        return Decision(action, action, torch.zeros(batch, 1)), memory

    def score(self, observation: Any, chain: Any) -> Score:
        raise AssertionError("evaluation never scores")


def timeless(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """The results without what the clock says."""
    return [dataclasses.replace(result, seconds=0.0, seconds_per_decision=0.0) for result in results]


@pytest.mark.parametrize("num_envs", [1, 2, 5, 8])
@pytest.mark.parametrize("horizon", [1, 3, 30])
def test_lengths_by_hand_for_any_number_of_worlds(num_envs: int, horizon: int) -> None:
    results = evaluate(Walker(horizon), PointEnv(num_envs), seeds=SEEDS)
    assert [r.seed for r in results] == SEEDS
    assert [r.length for r in results] == LENGTHS
    assert [r.episode_return for r in results] == [-length for length in LENGTHS]
    assert all(r.success and r.info["terminated"] for r in results)
    assert [r.cost for r in results] == [1.0, 0.0, 2.0, 0.0, 0.0]  # steps that end above 5
    assert [r.interventions for r in results] == [None] * 5
    assert all(r.seconds > 0 and r.seconds_per_decision > 0 for r in results)


def test_ended_worlds_stand_still() -> None:
    env = PointEnv(5)
    evaluate(Walker(2), env, seeds=SEEDS)
    assert env.made.tolist() == LENGTHS


def test_a_policy_that_never_arrives_is_truncated_and_fails() -> None:
    class Stander(Walker):
        def act(self, observation: Any, memory: Any = None, **options: Any) -> Any:
            decision, memory = super().act(observation, memory, **options)
            return dataclasses.replace(decision, action=decision.action * 0), memory

    (result,) = evaluate(Stander(), PointEnv(1), seeds=[0])
    assert (result.success, result.length, result.info["terminated"]) == (False, 20, False)
    assert result.info["no_ops"] == 20


def test_what_the_policy_is_shown() -> None:
    policy = Walker(2)
    evaluate(policy, PointEnv(2), seeds=[2, 4], body=3)  # 5 and 7 steps: 4 decisions
    assert [seen["first"].tolist() for seen in policy.seen] == [[True, True]] + [[False, False]] * 3
    assert policy.seen[0]["previous_action"].tolist() == [[0.0] * 4] * 2
    assert policy.seen[1]["previous_action"].tolist() == [[1.0] * 4] * 2
    assert policy.seen[0]["body"].tolist() == [3, 3]
    assert policy.seen[0]["instruction"] == ["walk to the origin"] * 2
    assert policy.seen[1]["proprio"].tolist() == [[3.0, 2.0], [5.0, 2.0]]


def test_actions_are_clipped_and_padding_is_cut() -> None:
    class Wide(Walker):
        def act(self, observation: Any, memory: Any = None, **options: Any) -> Any:
            decision, memory = super().act(observation, memory, **options)
            padded = torch.cat([5.0 * decision.action, torch.full_like(decision.action, 9.0)], dim=-1)
            return dataclasses.replace(decision, action=padded), memory

    policy = Wide(2)
    (found,) = evaluate(policy, PointEnv(1), seeds=[2])
    assert found.length == 5
    assert policy.seen[1]["previous_action"].tolist() == [[1.0] * 4]  # as executed, which is what training shows


def test_pushes_come_at_the_same_step_for_every_chunk_length() -> None:
    push = PushConfig(strength=1.0, first_step=2, last_step=6)
    moments = [push.step(seed) for seed in SEEDS]
    assert all(2 <= moment <= 6 for moment in moments) and len(set(moments)) > 1
    for horizon in (1, 4):
        env = PointEnv(5)
        results = evaluate(Walker(horizon), env, seeds=SEEDS, push=push)
        # an episode that is over by then is not pushed; each push costs three more steps
        pushed = [moment < length for moment, length in zip(moments, LENGTHS)]
        assert [r.info["pushed"] for r in results] == pushed
        assert [r.length for r in results] == [length + 3 * hit for length, hit in zip(LENGTHS, pushed)]
        assert sorted(env.pushes) == [(i, moments[i]) for i in range(5) if pushed[i]]


def test_goals_are_counted_within_chunks() -> None:
    (result,) = evaluate(Walker(10), PointEnv(1, goals=True), seeds=[1])  # x: 4 -> -16, goals at 0 -4 -8 -12 -16
    assert result.info["goals"] == 5 and result.info["goals_reached"] == 5 and result.success is None
    assert result.info["goal_error"] == pytest.approx((0 + 4 + 8 + 12 + 16) / 5)
    (odd,) = evaluate(Walker(10), PointEnv(1, goals=True), seeds=[0])  # x: 3 -> -17, odd at every goal
    assert odd.info["goals_reached"] == 0
    report = summarise([result, odd])
    assert report.success is not None and report.success.value == 0.5 and report.goals == 10
    assert (report.success.low, report.success.high) == (0.0, 1.0)  # two episodes: nothing is known


def test_noise_is_reproducible_and_resume_changes_nothing() -> None:
    whole = evaluate(Walker(2, noise=True), PointEnv(2), seeds=SEEDS, deterministic=False)
    again = evaluate(Walker(2, noise=True), PointEnv(2), seeds=SEEDS, deterministic=False)
    other = evaluate(Walker(2, noise=True), PointEnv(2), seeds=SEEDS, deterministic=False, noise_seed=1)
    assert timeless(whole) == timeless(again)
    assert [r.length for r in whole] != [r.length for r in other]
    some = {result.seed: result for result in (whole[0], whole[3])}  # one of each of the first two waves
    played: list[int] = []
    resumed = evaluate(
        Walker(2, noise=True),
        PointEnv(2),
        seeds=SEEDS,
        deterministic=False,
        done=some,
        on_episode=lambda result: played.append(result.seed),
    )
    assert timeless(resumed) == timeless(whole)
    assert sorted(played) == [3, 5, 7]


def test_videos_of_the_first_episodes(tmp_path: Path) -> None:
    films: dict[Path, tuple[Any, float]] = {}
    video = VideoRequest(
        write=lambda path, frames, rate: films.update({path: (frames, rate)}),
        path=lambda s: tmp_path / f"{s}.mp4",
        episodes=2,
        rate=5.0,
        width=8,
        height=4,
    )
    results = evaluate(Walker(3), PointEnv(4), seeds=SEEDS, video=video)
    assert set(films) == {tmp_path / "11.mp4", tmp_path / "3.mp4"}
    frames, rate = films[tmp_path / "11.mp4"]
    assert rate == pytest.approx(5.0)  # every second step of 0.1 s
    assert frames.shape == (4, 4, 8, 3)
    assert frames[:, 0, 0, 0].tolist() == [107, 105, 103, 101]
    assert [r.info.get("video") for r in results] == ["11.mp4", "3.mp4", None, None, None]


def test_seeds_must_differ() -> None:
    with pytest.raises(InputError, match="seeds"):
        evaluate(Walker(), PointEnv(1), seeds=[1, 1])


def test_log_survives_a_cut_line_and_knows_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    log = EpisodeLog(path)
    results = evaluate(Walker(), PointEnv(2), seeds=SEEDS)
    for result in results:
        log.append({"candidate": "walker", "env": "test/point"}, result)
    log.append({"candidate": "other", "env": "test/point"}, results[0])
    path.write_text(path.read_text() + '{"candidate": "walker", "see')
    again = EpisodeLog(path)
    assert list(again.done({"candidate": "walker", "env": "test/point"}).values()) == results
    assert again.done({"candidate": "nobody"}) == {}
    assert len(read_episodes(path)) == 6 == len(path.read_text().splitlines())
    path.write_text('{"cut\n' + json.dumps({"seed": 1}) + "\n")
    with pytest.raises(InputError, match="line 1"):
        read_episodes(path)


def result(seed: int, success: bool, length: int = 10) -> EpisodeResult:
    return EpisodeResult(
        seed=seed, success=success, episode_return=float(length), length=length, seconds=1.0, seconds_per_decision=0.1
    )


def test_report_by_hand() -> None:
    report = summarise([result(0, True, 10), result(1, True, 20), result(2, False, 60)])
    assert report.success is not None
    assert report.success == pytest.approx((2 / 3, 0.2077, 0.9385), abs=1e-4)  # Wilson, 2 of 3
    assert report.episode_return.value == 30.0 and report.length_of_successes == 15.0
    assert report.cost is None and report.interventions is None and report.goals is None
    assert json.loads(json.dumps(report.to_json()))["length"]["value"] == 30.0
    with pytest.raises(InputError):
        summarise([])


def test_report_of_goals_beside_episodes() -> None:
    goals = dataclasses.replace(result(0, False), success=None, info={"goals": 4, "goals_reached": 3})
    mixed = summarise([goals, result(1, True)])
    assert mixed.success is not None and mixed.success.value == pytest.approx((0.75 + 1.0) / 2)
    none = summarise([dataclasses.replace(goals, info={"goals": 0, "goals_reached": 0})])
    assert none.success is None


def test_comparison_pairs_the_seeds() -> None:
    good = [result(s, s != 3) for s in range(20)]
    bad = [result(s, s >= 10) for s in reversed(range(25))]
    comparison = compare(good, bad)
    assert comparison is not None and comparison.pairs == 20
    assert comparison.difference.value == pytest.approx((19 - 10) / 20)
    assert comparison.p < 0.01 and comparison.difference.low > 0
    assert compare(good, [result(99, True)]) is None
    assert score_of(result(0, False)) == 0.0


def test_smoothness_is_measured_along_the_way() -> None:
    (straight,) = evaluate(Walker(), PointEnv(1), seeds=[6])
    assert straight.info["action_change"] == 0.0 and straight.info["no_ops"] == 0
    assert straight.info["tool_squared_jerk"] == pytest.approx(0.0, abs=1e-9)
    (rough,) = evaluate(Walker(noise=True), PointEnv(1), seeds=[6], deterministic=False)
    assert rough.info["action_change"] > 0.0 and rough.info["tool_squared_jerk"] > 0.0
    assert np.isfinite(rough.info["tool_arc_length"])
