"""gymnasium's own tasks by the command line: they learn, go on after a stop, are evaluated; the rest is told."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from toddle.cli import main
from toddle.core.types import BodySpec
from toddle.methods._actors import CausalSettings
from toddle.policies.causal import CausalConfig, CausalPolicy, ExpertConfig
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.policies.tokens import TokenConfig, TokenPolicy
from toddle.recipes.pretrain import build, configure
from toddle.runs.checkpoint import copy_tree, states_equal

CARTPOLE = BodySpec(name="cartpole", proprio=4, action=1, dt=0.02)


def toddle(*arguments: str, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == status


def returns(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["episode/return"] for line in lines if "episode/return" in line]


def test_cartpole_learns(tmp_path: Path) -> None:
    """Discrete actions by the policy that is chosen for them: a pole falls after 22 steps by chance; 500 is the end."""
    toddle(
        *("pretrain", "--env", "gymnasium/CartPole-v1", "--worlds", "16", "--steps", "14400", "--critic-hidden", "64"),
        *("--out", str(tmp_path)),
    )
    told = returns(tmp_path)
    assert np.mean(told[:5]) < 40 and np.mean(told[-5:]) > 120
    assert json.loads((tmp_path / "policy/policy.json").read_text())["kind"] == "tokens"


def test_pictures_are_learned_from(tmp_path: Path) -> None:
    """An environment of pictures alone: which lamp is on decides what is right; by chance half of 8 are."""
    toddle(
        *("pretrain", "--env", "envs.odd_envs:Lights", "--max-episode-steps", "8", "--worlds", "16", "--steps", "6400"),
        *("--critic-hidden", "16", "--out", str(tmp_path)),
    )
    told = returns(tmp_path)
    assert np.mean(told[:2]) < 5.5 and np.mean(told[-3:]) > 7


def test_a_run_goes_on_bitwise() -> None:
    """Episodes are in the middle when the state is taken; they are played again in worlds that were made anew."""
    config = configure(env=["gymnasium/CartPole-v1"], worlds=4, critic_hidden=(8,), tokens={"hidden": (8,)})
    first = build(config).learner
    for _ in range(3):
        first.step()
    state = copy_tree(first.state_dict())
    expected = first.step()
    second = build(config).learner
    second.load_state_dict(state)
    assert second.step() == expected and states_equal(second.state_dict(), first.state_dict())


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained policy of tokens for CartPole, and one of another size under the same body's name."""
    folder = tmp_path_factory.mktemp("policies")
    save_policy(folder / "right", TokenPolicy(TokenConfig(body=CARTPOLE, bins=2, discrete=True)))
    wide = BodySpec(name="cartpole", proprio=5, action=1, dt=0.02)
    save_policy(folder / "wide", TokenPolicy(TokenConfig(body=wide, bins=2, discrete=True)))
    settings = CausalSettings()
    expert = ExpertConfig(trunk=settings.trunk, bodies=(CARTPOLE,))
    save_policy(folder / "causal", CausalPolicy(CausalConfig(expert=expert)))
    save_policy(folder / "gaussian", GaussianPolicy(GaussianConfig(bodies=(CARTPOLE,), hidden=(8,))))
    return folder


def test_evaluated_and_recorded(policies: Path, tmp_path: Path) -> None:
    task = ("--env", "gymnasium/CartPole-v1", "--episodes", "2")
    toddle("evaluate", "--policy", str(policies / "right"), *task, "--videos", "0", "--out", str(tmp_path / "out"))
    cells = json.loads((tmp_path / "out/summary.json").read_text())["cells"]
    assert len(cells) == 1 and cells[0]["episodes"] == 2
    record = ("--policy", str(policies / "right"), "--keep-failures", "--out", str(tmp_path / "data"))
    toddle("record", *task, *record)
    assert json.loads((tmp_path / "data/meta/info.json").read_text())["total_episodes"] == 2


CART = "--env gymnasium/CartPole-v1"
EVALUATE = f"evaluate {CART} --videos 0 --policy"
TRANSFER = "transfer --source {}/causal --vlm-width 8 --rollout-env"
REFUSED = [
    (f"pretrain {CART} --method dppo", "env: expected continuous actions with policies that denoise their actions"),
    (f"pretrain {CART} --method fpo", "env: expected continuous actions with policies that denoise their actions"),
    (f"pretrain {CART} --method ddiffpg", "env: expected continuous actions with method ddiffpg"),
    ("pretrain --env gymnasium/Pendulum-v1 --worlds 2 --method ddiffpg", "env: expected one that reports success"),
    (f"pretrain {CART} --policy mlp", "policy: expected tokens (or auto) where actions are discrete"),
    (f"pretrain {CART} --init {{}}/gaussian", "init: expected a policy of 2 actions"),
    ("pretrain --env gymnasium/CartPole-v7", "did you mean 'gymnasium/CartPole-v1'?"),
    ("pretrain --env gymnasium/GymV21Environment-v0", "raised "),
    ("pretrain --env goal/sawyer --max-episode-steps 9", "max_episode_steps: expected nothing with goal/sawyer"),
    ("pretrain --env goal/sawyer --reward sparse", "reward: expected nothing with goal/sawyer"),
    ("pretrain --env metaworld-state/reach-v3 --horizon-scale 10", "horizon_scale: expected nothing with metaworld-st"),
    ("record --env gymnasium/CartPole-v7", "did you mean 'gymnasium/CartPole-v1'?"),
    ("demo --tasks gymnasium/CartPole-v7", "step demos: environment: expected a known name"),
    (
        f"{TRANSFER} gymnasium/Pendulum-v7",
        "did you mean 'gymnasium/Pendulum",
    ),
    (
        f"{TRANSFER} gymnasium/Pendulum-v1",
        "policy: expected a bank for the",
    ),
    (f"{EVALUATE} {{}}/right --push", "push: expected an environment that can be pushed"),
    (f"{EVALUATE} {{}}/wide", "policy: expected the sizes of the body 'cartpole' in gymnasium/CartPole-v1"),
    ("evaluate --env gymnasium/CartPole-v7 --policy {}/right", "did you mean 'gymnasium/CartPole-v1'?"),
    (
        "evaluate --env gymnasium/Pendulum-v1 --videos 0 --policy {}/right",
        "expected a bank for the body 'pendulum'",
    ),
]


@pytest.mark.parametrize(("command", "expected"), REFUSED, ids=[command for command, _ in REFUSED])
def test_what_cannot_be_is_one_line_at_a_dry_run_too(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, expected: str
) -> None:
    arguments = [*command.format(policies).split(), "--out", str(tmp_path / "out")]
    for dry in (["--dry-run"], []):
        capsys.readouterr()
        toddle(*arguments, *dry, status=2)
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1 and expected in said[0], said


@pytest.mark.skipif(importlib.util.find_spec("pygame") is not None, reason="pygame is installed")
def test_pictures_that_cannot_be_drawn_are_told(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--policy", str(policies / "right"), "--env", "gymnasium/CartPole-v1", "--out", str(tmp_path))
    toddle("evaluate", *where, "--dry-run", status=2)
    assert "pygame is not installed" in (said := capsys.readouterr().err) and "--videos 0 films nothing" in said
