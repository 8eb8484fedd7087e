"""`import toddle`: quick, complete, and as docs/python_api.md shows it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toddle
from tiny_env import ReachEnv

ROOT = Path(__file__).parent.parent


def test_the_import_loads_nothing_heavy() -> None:
    heavy = {"torch", "mujoco", "numpy", "pydantic", "yaml"}
    code = f"import sys, toddle; dir(toddle); print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_every_name_is_there_and_no_other() -> None:
    for name in toddle.__all__:
        assert getattr(toddle, name) is not None
    assert set(toddle.__all__) <= set(dir(toddle)) and len(set(toddle.__all__)) == len(toddle.__all__)
    for name in ("make_envs", "_HOME", "pretrain"):
        with pytest.raises(AttributeError, match=f"module 'toddle' has no attribute '{name}'"):
            getattr(toddle, name)
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'toddle'"):
        exec("from toddle import nothing")


def test_type_checkers_are_told_the_same() -> None:
    """The imports below TYPE_CHECKING are those that are made when a name is asked for."""
    tree = ast.parse((ROOT / "src/toddle/__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    told = {alias.asname: node.module for node in imports for alias in node.names if alias.asname == alias.name}
    assert told == toddle._HOMES


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/python_api.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    scope: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/python_api.md", "exec", dont_inherit=True), scope)
    shown = capsys.readouterr().out
    assert "4096.0 control steps" in shown and "over 8 episodes" in shown and "3 episodes, 90 rows" in shown
    assert "torch.Size([16, 1, 4]) torch.Size([16, 4, 2])" in shown
    named = set(re.findall(r"toddle\.(\w+)", "\n".join(blocks))) - {"recipes"}
    assert named <= set(toddle.__all__), "only public names"
    assert not re.search(r"[ .]_[a-z]\w*", re.sub(r"__init__| _\b[ ,]", "", "\n".join(blocks))), "no private name"


def test_an_agent_plays_what_evaluate_plays() -> None:
    """Episodes of several decisions, ends included: the same returns, with memory and without."""
    for policy in ("mlp", "causal"):
        run = toddle.build("ppo", ReachEnv(4), steps=64, policy=policy)
        env = ReachEnv(3, limit=9)
        expected = [result.episode_return for result in toddle.evaluate(run.policy, env, seeds=[5, 6, 7])]
        agent = toddle.Agent(run.policy, env)
        observation, _ = env.reset(seed=[5, 6, 7])
        ended = np.zeros(3, bool)
        while not ended.any():
            observation, _, terminated, truncated, info = env.step_chunk(agent.act(observation))
            agent.ended(ended := terminated | truncated)
        assert ended.all() and np.allclose(info["episode_return"], expected, rtol=0, atol=0)


def test_build_refuses_what_does_not_fit(tmp_path: Path) -> None:
    env = ReachEnv(4)
    for given, expected in (
        ({"ppo": {"learning_rat": 1.0}}, r"ppo: unknown key 'ppo\.learning_rat'; did you mean 'learning_rate'"),
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"preset": "task"}, "did you mean 'tasks'"),
        ({"warm_start": tmp_path}, "folder: expected a folder in which the warm start is kept"),
        ({"device": "tpu"}, "device: expected cpu, cuda"),
    ):
        with pytest.raises(toddle.InputError, match=expected):
            toddle.build("ppo", env, **{"steps": 64, **given})
    with pytest.raises(toddle.InputError, match="did you mean 'ppo'"):
        toddle.build("pppo", env, steps=64)


def test_build_goes_on_from_a_policy() -> None:
    env = ReachEnv(8)
    first = toddle.build("ppo", env, steps=256, mlp={"hidden": [8]})
    second = toddle.build("ppo", env, steps=256, init=first.policy)
    assert second.policy is first.policy and first.policy.config.hidden == (8,)
