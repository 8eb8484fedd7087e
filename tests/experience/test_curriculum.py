"""Starts by their success: shares are drawn as they are, mastered ones are passed over, a killed run draws the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.algorithms.test_process_reward import HalfSeenEnv, policy

from tiny_env import StartsEnv
from toddle.core.errors import InputError
from toddle.core.seeding import numpy_generator
from toddle.envs.mixture import MixtureEnv
from toddle.experience.collect import CollectConfig, Collector
from toddle.experience.curriculum import StartCurriculum, StartCurriculumConfig, TaskCurriculum, TaskCurriculumConfig
from toddle.experience.episodes import EpisodesConfig, GroupCollector
from toddle.runs.checkpoint import copy_tree


def collector(worlds: int = 8, *, starts: int = 6, group: int = 2, **settings: Any) -> GroupCollector:
    config = EpisodesConfig(group=group, starts=starts, first_start=100, curriculum=StartCurriculumConfig(**settings))
    return GroupCollector(StartsEnv(worlds), config, seed=0)


def played(source: GroupCollector, times: int) -> list[list[int]]:
    """The seeds of each rollout's groups."""
    draw, found = source._draw, list[list[int]]()

    def kept(count: int) -> Any:
        seeds, names = draw(count)
        found.append(seeds.tolist())
        return seeds, names

    source._draw = kept  # type: ignore[method-assign]
    for _ in range(times):
        source.collect(policy(), None)
    source._draw = draw  # type: ignore[method-assign]
    return found


def test_without_one_starts_are_drawn_as_ever() -> None:
    source = collector()
    generator = numpy_generator(0, "starts", "tiny/reach", 0)
    assert source.curriculum is None
    assert played(source, 3) == [(100 + generator.choice(6, size=4, replace=False)).tolist() for _ in range(3)]


def test_starts_are_drawn_by_their_shares() -> None:
    """4,000 first draws of five starts; 0.02 is three deviations of the largest share."""
    curriculum = StartCurriculum(StartCurriculumConfig(kind="literal", floor=0.0), 5)
    curriculum.success[:] = (0.0, 0.25, 0.5, 0.75, 1.0)
    generator = np.random.default_rng(0)
    draws = np.array([curriculum.draw(3, generator) for _ in range(4000)])
    assert all(len(set(row)) == 3 for row in draws.tolist())
    shares = np.bincount(draws[:, 0], minlength=5) / len(draws)
    assert shares == pytest.approx([0.43, 0.26, 0.16, 0.10, 0.06], abs=0.02)
    many = np.bincount(curriculum.draw(13, generator), minlength=5)
    assert many.sum() == 13 and many.min() == 2 and many.max() == 3, "more than there are: each in turn"


def test_success_is_averaged_over_groups() -> None:
    curriculum = StartCurriculum(StartCurriculumConfig(kind="frontier"), 3)
    curriculum.note(np.array([1, 2, 1]), np.array([[True, True], [True, False], [False, False]]))
    assert curriculum.success.tolist() == pytest.approx([0.5, 0.9 * (0.9 * 0.5 + 0.1), 0.5])
    assert curriculum.mastered.tolist() == [False, False, False]
    curriculum.success[:] = (0.0, 0.5, 1.0)
    metrics = curriculum.metrics()
    assert metrics["curriculum/success_low"] == pytest.approx(0.1)
    assert metrics["curriculum/success_high"] == pytest.approx(0.9)
    assert 0.8 < metrics["curriculum/entropy"] < 1.0
    assert StartCurriculum(StartCurriculumConfig(), 3).metrics()["curriculum/entropy"] == pytest.approx(1.0)


def test_what_is_mastered_is_passed_over_three_times_and_then_tried_again() -> None:
    curriculum, generator = StartCurriculum(StartCurriculumConfig(skip_mastered=True), 2), np.random.default_rng(0)
    for _ in range(2):
        curriculum.note(np.array([1]), np.array([[True, True]]))
        start, passed = 0, 0
        while start == 0:
            (start,) = curriculum.draw(1, generator).tolist()
            passed += int(curriculum.metrics()["curriculum/passed_over"])
        assert passed == 3
    curriculum.note(np.array([0, 1]), np.ones((2, 2), bool))
    assert sorted(curriculum.draw(2, generator).tolist()) == [0, 1], "something must be played"


@pytest.mark.parametrize("settings", [{"kind": "literal", "tau": 0.1}, {"kind": "frontier", "skip_mastered": True}])
def test_a_killed_run_draws_the_same(settings: dict[str, Any]) -> None:
    whole, broken = collector(**settings), collector(**settings)
    played(whole, 3)
    broken.load_state_dict(copy_tree(whole.state_dict()))
    assert played(whole, 4) == played(broken, 4)
    assert whole.curriculum is not None and broken.curriculum is not None
    assert np.array_equal(whole.curriculum.success, broken.curriculum.success)
    assert len(set(whole.curriculum.success.tolist())) > 2, "some starts succeed and others do not"


def test_hard_starts_are_played_more() -> None:
    """Starts within reach of the target succeed whatever is done; with the literal form they are played less."""
    source = collector(worlds=4, starts=12, kind="literal", tau=0.3, ema=0.5)
    count = np.bincount(np.array(played(source, 60)).flatten() - 100, minlength=12)
    assert source.curriculum is not None
    easy = source.curriculum.success > 0.75
    assert easy.any() and not easy.all()
    assert count[~easy].mean() > 2 * count[easy].mean() and count.min() >= 1


@pytest.mark.parametrize("starts", [0, 2_000_000])
def test_it_is_over_starts_that_can_be_counted(starts: int) -> None:
    with pytest.raises(InputError, match=r"episodes\.starts: expected 1 to 1,000,000, for a curriculum"):
        collector(starts=starts, kind="frontier")


def test_it_needs_success() -> None:
    config = EpisodesConfig(group=2, starts=3, curriculum=StartCurriculumConfig(kind="frontier"))
    with pytest.raises(InputError, match="reports success"):
        GroupCollector(HalfSeenEnv(4), config, seed=0).collect(policy(), None)


# ---- over tasks ------------------------------------------------------------------------------------------------------
TASKS = ("tiny/a", "tiny/b", "tiny/c")


def test_every_task_keeps_its_floor_and_shares_sum_to_one() -> None:
    for kind, hardest in (("literal", 0), ("frontier", 1)):
        curriculum = TaskCurriculum(TaskCurriculumConfig(kind=kind, tau=0.01, floor=0.3), TASKS)  # type: ignore[arg-type]
        curriculum.success[:] = (0.0, 0.5, 1.0)
        metrics = curriculum.metrics()
        shares = [metrics[f"curriculum/share/{task.replace('/', '-')}"] for task in TASKS]
        assert sum(shares) == pytest.approx(1.0) and int(np.argmax(shares)) == hardest
        assert min(shares) == pytest.approx(0.1) and max(shares) == pytest.approx(0.8), "tau is low: all but the floors"
        draws = curriculum.draw(6000, np.random.default_rng(0))
        assert np.bincount(draws, minlength=3) / 6000 == pytest.approx(shares, abs=0.02)


def test_pairs_of_task_and_start_keep_the_tasks_floor() -> None:
    curriculum = TaskCurriculum(TaskCurriculumConfig(kind="literal", tau=0.01, floor=0.3), TASKS, starts=4)
    curriculum.success[:] = np.repeat((0.0, 0.9, 1.0), 4)
    curriculum.note(np.array([5]), np.array([[True, False]]))  # start 1 of the second task
    assert curriculum.success[5] == pytest.approx(0.9 * 0.9 + 0.1 * 0.5)
    metrics = curriculum.metrics()
    shares = [metrics[f"curriculum/share/{task.replace('/', '-')}"] for task in TASKS]
    assert sum(shares) == pytest.approx(1.0) and min(shares) == pytest.approx(0.1)
    assert metrics["curriculum/success/tiny-b"] == pytest.approx((3 * 0.9 + 0.86) / 4)
    assert len(set(curriculum.draw(12, np.random.default_rng(0)).tolist())) == 12


class Named(StartsEnv):
    """Starts by seed, under a name; the task `easy` is reached from everywhere."""

    def __init__(self, name: str, worlds: int) -> None:
        super().__init__(worlds, limit=6)
        self.name = name

    def _infos(self) -> dict[str, Any]:
        return {"success": np.full(self.num_envs, self.name == "tiny/easy")}


def sources(kind: str, worlds: int = 8, **more: Any) -> list[Any]:
    """Both ways to gather experience in two tasks that share the worlds."""
    tasks = TaskCurriculumConfig(kind=kind)  # type: ignore[arg-type]

    def env() -> MixtureEnv:
        return MixtureEnv([Named("tiny/easy", worlds), Named("tiny/hard", worlds)])

    episodes = EpisodesConfig(group=2, starts=3, first_start=100)
    return [
        Collector(env(), CollectConfig(length=9), seed=0, tasks=tasks),
        GroupCollector(env(), EpisodesConfig(group=2), seed=0, tasks=tasks),
        GroupCollector(env(), episodes, seed=0, tasks=tasks),
    ]


@pytest.mark.parametrize("which", range(3))
def test_what_fails_is_practised_more_and_a_killed_run_draws_the_same(which: int) -> None:
    source, again = sources("literal")[which], sources("literal")[which]
    for _ in range(12):
        _, metrics = source.collect(policy(), None)
    assert metrics["curriculum/success/tiny-easy"] > 0.5 > metrics["curriculum/success/tiny-hard"]
    assert metrics["curriculum/share/tiny-hard"] > 0.55
    state = copy_tree(source.state_dict())
    plain, further = [], []
    for each, found in ((source, plain), (again, further)):
        if each is again:
            each.load_state_dict(state)
        for _ in range(3):
            rollout, facts = each.collect(policy(), None)
            found.append((rollout.observation["proprio"].clone(), each.env.task.copy(), facts))
    for (seen, task, facts), (seen_too, task_too, facts_too) in zip(plain, further, strict=True):
        assert torch.equal(seen, seen_too) and task.tolist() == task_too.tolist() and facts == facts_too


def test_a_group_is_of_one_task_and_one_start() -> None:
    source = sources("uniform")[2]
    for _ in range(3):
        rollout, _ = source.collect(policy(), None)
        first = rollout.observation["proprio"][0]
        for group in rollout.group.unique():
            members = rollout.group == group
            assert len(set(source.env.task[members.numpy()].tolist())) == 1
            assert torch.equal(first[members], first[members][:1].expand_as(first[members]))
    given = EpisodesConfig(group=2, starts=3, curriculum=StartCurriculumConfig(kind="frontier"))
    with pytest.raises(InputError, match=r"episodes\.curriculum\.kind: expected uniform beside tasks\.kind"):
        GroupCollector(source.env, given, seed=0, tasks=TaskCurriculumConfig(kind="uniform"))
