"""`--env module:name`: a file of the user's own, in the current folder, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toddle.cli import main
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.windows import WindowDataset
from toddle.envs.check_env import check_env
from toddle.envs.make import family_of, make_env

WORLD = """
import gymnasium
import numpy as np


class Hold(gymnasium.Env):
    '''A point on a line is to be held at 0.'''
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,), np.float32)

    def __init__(self, render_mode=None, gain=0.1):
        self.render_mode, self.gain = render_mode, gain

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-1.0, 1.0, 1)
        return self.x.copy(), {}

    def step(self, action):
        self.x = self.x + self.gain * action
        return self.x.copy(), -abs(float(self.x[0])), False, False, {"success": abs(float(self.x[0])) < 0.1}

    def render(self):
        return np.full((32, 32, 3), int(255 * abs(self.x[0]) % 256), np.uint8)


def make(gain: float = 0.1):
    return gymnasium.wrappers.TimeLimit(Hold("rgb_array", gain), 20)


class Broken(Hold):
    def step(self, action):
        raise ZeroDivisionError("too far")


def broken():
    raise RuntimeError("no licence\\nfound")


def batched(num_envs, *, seed=0, limit=6):
    from toddle.envs.gymnasium_any import AnyGymnasiumEnv
    return AnyGymnasiumEnv("inner", Hold, num_envs, seed=seed, max_episode_steps=limit, body="mine")


def fewer(num_envs):
    return batched(num_envs + 1)


def vector():
    return gymnasium.vector.SyncVectorEnv([Hold, Hold])


def nothing():
    return None


number = 3
"""
BODY = """
import mujoco
from toddle.envs.bodies.body import Body, KeyPoint

XML = '''
<mujoco><compiler angle="radian"/><option timestep="0.005" integrator="implicitfast"/><worldbody><body name="upper">
<joint name="hinge" axis="0 1 0" range="-2 2" limited="true" armature="0.05" damping="0.5"/>
<geom type="capsule" fromto="0 0 0 0.4 0 0" size="0.03" mass="1"/><site name="tip" pos="0.4 0 0"/></body></worldbody>
<actuator><position joint="hinge" kp="150" kv="15" ctrlrange="-2 2" forcerange="-60 60"/></actuator></mujoco>'''
ARM = Body(name="stick", build=lambda: mujoco.MjModel.from_xml_string(XML), joints=("hinge",),
           key_points=(KeyPoint(name="tip", objects=("tip",)),), root="fixed", length=0.4, frame_skip=4)
"""
TRAIN = ["--worlds", "8", "--mlp.hidden", "16", "--critic-hidden", "16", "--collect.length", "16", "--steps"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a package and a module in it, of names that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks/__init__.py").write_text("")
    (tmp_path / "my_tasks/hold.py").write_text(WORLD)
    (tmp_path / "my_bodies.py").write_text(BODY)
    (tmp_path / "my_broken.py").write_text("import no_such_package\n")
    (tmp_path / "my_typo.py").write_text("def make(:\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0].startswith("my_")]:
        del sys.modules[name]


def toddle(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 0


def rewards(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["episode/return"] for line in lines if "episode/return" in line]


def test_it_trains_is_filmed_and_recorded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "my_tasks.hold:make"
    toddle("pretrain", "--env", name, *TRAIN, "12800", "--out", "run")
    before, after = np.mean(rewards(here / "run")[:3]), np.mean(rewards(here / "run")[-3:])
    assert before < -8 and after > -5, "standing still costs about 10, going to 0 at once about 1"
    toddle("evaluate", "--policy", "run/policy", "--env", name, "--episodes", "2", "--videos", "1", "--out", "tried")
    assert "success 100 %" in capsys.readouterr().err
    assert [path.name for path in (here / "tried/videos").iterdir()] == ["run-my-tasks.hold-make-plain-0.mp4"]
    toddle("record", "--policy", "run/policy", "--env", name, "--episodes", "2", "--out", "data")
    data = LeRobotDataset(here / "data")
    assert WindowDataset(data, horizon=2, history=1, cameras=[])[0]["action"].shape == (2, 1)


def test_a_body_is_an_environment(here: Path) -> None:
    assert make_env("my_bodies:ARM", 2, held_out=True).single_observation_space["goal"].shape[0] > 0
    toddle("pretrain", "--env", "my_bodies:ARM", "--policy", "mlp", *TRAIN, "256", "--out", "run")
    toddle(
        *[
            "evaluate",
            "--policy",
            "run/policy",
            "--env",
            "my_bodies:ARM",
            "--episodes",
            "1",
            "--videos",
            "0",
            "--push",
            "--out",
            "tried",
        ]
    )


def test_a_batch_of_ones_own(here: Path) -> None:
    env = make_env("my_tasks.hold:batched", 3, seed=4, limit=9)
    assert (env.name, env.body, env.max_episode_steps, env.num_envs) == ("my_tasks.hold:batched", "mine", 9, 3)
    check_env(env)
    assert family_of("my_tasks.hold:batched").options == ("limit",)
    assert family_of("my_tasks.hold:make").options == ("gain", "max_episode_steps")
    quick = make_env("my_tasks.hold:Hold", 2, gain=1.0, max_episode_steps=9)
    assert quick._worlds[0].gain == 1.0 and quick.render_worlds([1], 16, 16).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_task.hold:make", "expected a module before ':make', got 'my_task.hold'; looked for in "),
        ("my_tasks.holt:make", "expected a module before ':make', got 'my_tasks.holt'; looked for in "),
        ("my_tasks.hold:mak", "expected a name in my_tasks.hold, got 'mak'; did you mean 'make'?"),
        ("my_tasks.hold:number", "expected something to call that makes an environment, or a Body, got 'my_tasks"),
        ("my_tasks.hold:nothing", "expected a gymnasium environment of one world, or, called with num_envs, a Batched"),
        ("my_tasks.hold:vector", "got 'SyncVectorEnv'; what was called must return it"),
        ("my_tasks.hold:fewer", "expected 8 worlds, got 9; from my_tasks.hold:fewer"),
        ("my_tasks.hold:broken", "raised RuntimeError while being made: no licence found (TODDLE_DEBUG=1 shows where)"),
        ("my_tasks.hold:Broken", "max_episode_steps: expected a limit for my_tasks.hold:Broken, which has none of its"),
        ("my_broken:make", "raised ModuleNotFoundError while being imported: No module named 'no_such_package'"),
        ("my_typo:make", "raised SyntaxError while being imported: "),
        ("my_tasks/hold.py:make", "did you mean 'my_tasks.hold:make'?"),
        ("my_tasks.hold:", "expected module:name, such as my_package.my_env:make, got 'my_tasks.hold:'"),
        (":make", "expected module:name, such as my_package.my_env:make, got ':make'"),
        ("my_tasks.hold", "/; your own are module:name"),
    ],
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_what_is_wrong_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str, dry: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--env", name, *TRAIN, "256", "--out", "run", *dry])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and len(said) == 1 and expected in said[0]


def test_an_error_in_the_middle_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pretrain", "--env", "my_tasks.hold:Broken", "--max-episode-steps", "5", *TRAIN, "256", "--out", "run"])
    assert end.value.code == 1
    assert "'my_tasks.hold:Broken' raised ZeroDivisionError in step: too far" in capsys.readouterr().err


@pytest.mark.slow
def test_the_console_script_looks_in_the_current_folder(here: Path) -> None:
    """Its own folder is first in sys.path, not the one it is called in."""
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from toddle.cli import main; main()"
    command = [sys.executable, "-c", code, "pretrain", "--env", "my_tasks.hold:mak"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == 2 and "did you mean 'make'?" in done.stderr, "it was found: its names are known"
