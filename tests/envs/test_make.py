"""Names of environments and what is said about wrong ones."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from toddle.core.errors import InputError
from toddle.envs.make import known_envs, make_env


def test_every_family_is_known() -> None:
    names = known_envs()
    assert len(names) == len(set(names))
    assert sum(name.startswith("metaworld/") for name in names) == 50
    assert sum(name.startswith("metaworld-state/") for name in names) == 50
    assert sum(name.startswith("libero/") for name in names) == 130
    assert {"gymnasium/Ant-v5", "goal/sawyer", "metaworld/reach-v3", "libero/libero_object/9"} <= set(names)


def test_made_by_name_with_options() -> None:
    env = make_env("gymnasium/Hopper-v5", 2, seed=3, threads=2, max_episode_steps=7)
    assert (env.name, env.num_envs, env.max_episode_steps, env.body) == ("gymnasium/Hopper-v5", 2, 7, "hopper")
    assert env.body_spec.proprio == 11 and env.body_spec.action == 3 and env.dt == pytest.approx(0.008)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnasium/HalfCheeta-v5", "did you mean 'gymnasium/HalfCheetah-v5'?"),
        ("metaworld/reach", "did you mean 'metaworld/reach-v3'?"),
        ("goal/sawyr", "did you mean 'goal/sawyer'?"),
        ("xyz", "names begin with dots/, fork/, goal/, gutter/, gymnasium/, imagined/, libero/, "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_env(name, 1)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "environments.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    pytest.importorskip("metaworld")
    for block in blocks:
        exec(block, {})
    assert capsys.readouterr().out.endswith(" False\n")


def test_unknown_option() -> None:
    with pytest.raises(InputError, match="did you mean 'max_episode_steps'"):
        make_env("gymnasium/Ant-v5", 1, max_episode_step=3)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "metaworld"] + ["toddle.envs.metaworld"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    with pytest.raises(InputError, match=r"needs the package metaworld; pip install 'toddle\[sim\]'$"):
        make_env("metaworld/reach-v3", 1)


class _Hidden:
    """An import finder that behaves as if metaworld were not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "metaworld":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
