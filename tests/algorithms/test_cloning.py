"""Cloning: the student becomes its teacher on the teacher's experience; with another's experience it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toddle.algorithms.cloning import Cloning, CloningConfig
from toddle.core.errors import InputError
from toddle.envs.make import make_env
from toddle.experience.collect import CollectConfig, Collector
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes.pretrain import build, configure
from toddle.runs.checkpoint import states_equal

TASK = "gymnasium/HalfCheetah-v5"


def pair(seed: int = 3) -> tuple[GaussianPolicy, GaussianPolicy, Collector]:
    env = make_env(TASK, 8)
    bodies = (env.body_spec,)
    teacher = GaussianPolicy(GaussianConfig(bodies=bodies, hidden=(16,), log_std=-1.0, seed=seed))
    with torch.no_grad():
        last = [parameter for parameter in teacher.parameters() if parameter.ndim > 1][-1]
        last.mul_(30.0)  # policies begin near the action 0; this one does something
    student = GaussianPolicy(GaussianConfig(bodies=bodies, hidden=(32,), log_std=-1.0, seed=0))
    return student, teacher, Collector(env, CollectConfig(length=16), seed=0)


def gap(student: GaussianPolicy, teacher: GaussianPolicy, observation: dict[str, torch.Tensor]) -> float:
    mine, theirs = (p.act(observation, deterministic=True)[0].action for p in (student, teacher))  # type: ignore[arg-type]
    return float((mine - theirs).square().mean() / theirs.square().mean())


def test_the_student_acts_as_its_teacher_where_the_teacher_goes() -> None:
    student, teacher, source = pair()
    learner = Cloning(student, teacher, source, CloningConfig(learning_rate=3e-3), iterations=40, seed=0)
    first = learner.step()["clone/loss"]
    assert source.rollout is not None
    held = {"proprio": source.rollout.observation["proprio"].flatten(0, 1).clone()}
    before = gap(student, teacher, held)
    for _ in range(39):
        last = learner.step()["clone/loss"]
    assert last < first and gap(student, teacher, held) < min(0.3, 0.5 * before)
    stranger = pair(seed=8)[1]
    assert gap(student, stranger, held) > 3 * gap(student, teacher, held)


def test_the_teacher_does_not_change_and_the_state_is_the_whole() -> None:
    student, teacher, source = pair()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    learner = Cloning(student, teacher, source, CloningConfig(), iterations=4, seed=0)
    learner.step()
    state = learner.state_dict()
    again = Cloning(*pair(), CloningConfig(), iterations=4, seed=0)
    again.load_state_dict(state)
    learner.step(), again.step()
    assert states_equal(learner.state_dict(), again.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_it_runs_from_the_command_and_says_what_does_not_fit(tmp_path: Path) -> None:
    _, teacher, _ = pair()
    save_policy(tmp_path / "teacher", teacher, {})
    settings = {
        "method": "clone",
        "policy": "mlp",
        "env": [TASK],
        "worlds": 4,
        "steps": 128,
        "collect": CollectConfig(length=16),
        "mlp": {"hidden": [8]},
    }
    made = build(configure(settings, teacher=tmp_path / "teacher"))
    assert made.iterations == 2 and np.isfinite(made.learner.step()["clone/loss"])
    with pytest.raises(InputError, match="teacher: expected a policy folder"):
        build(configure(settings))
    with pytest.raises(InputError, match="unknown key 'teacher'"):
        configure(method="ppo", teacher=tmp_path / "teacher")
    with pytest.raises(InputError, match="chunks of 2"):
        build(configure(settings, mlp={"horizon": 2}, teacher=tmp_path / "teacher"))
