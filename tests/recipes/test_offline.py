"""`toddle offline` from a dataset to a policy that is played; bad input in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from toddle.algorithms.offline import OfflineConfig, OfflineLearner
from toddle.algorithms.offline.learner import ConservativeConfig
from toddle.cli import main
from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.transitions import read_transitions
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.recipes import offline
from toddle.runs.checkpoint import load_state, states_equal
from toddle.runs.critics import load_critics


def write(path: Path, *, success: bool = True, size: float = 1.0, episodes: int = 4, paid: float = 1.0) -> Path:
    """Episodes of six rows on a line: state (position, row), reward `paid` times the row's number, success at row 3 of
    even ones."""
    features = {
        "observation.state": Feature(size=2),
        "action": Feature(size=1),
        "next.reward": Feature(size=1),
        "next.success": Feature(size=1, dtype="bool"),
    }
    with DatasetWriter(path, DatasetSpec(fps=10, features=features, cameras={}, robot_type="point")) as writer:
        for number in range(episodes):
            rows = np.arange(6)
            columns = {
                "observation.state": np.stack([rows + 10.0 * number, rows], 1).astype(np.float32),
                "action": (size * np.sin(rows + number)[:, None]).astype(np.float32)[:, 0],
                "next.reward": (paid * rows).astype(np.float32),
                "next.success": (rows == 3) & (number % 2 == 0) & success,
            }
            writer.add_episode(columns, {}, "go", {"seed": number, "env": "line"})
    return path


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["offline", *arguments])
    assert end.value.code == 2
    return capsys.readouterr().err.strip()


def test_an_episode_ends_at_success_and_its_last_row_is_left_out_otherwise(tmp_path: Path) -> None:
    data = read_transitions(LeRobotDataset(write(tmp_path / "d")), reward="recorded", scale=2.0, shift=1.0)
    rows = [0, 1, 2, 3, *range(5)] * 2  # up to the success at row 3, else all but the last
    assert data.observation[:, 1].tolist() == rows
    assert data.terminal.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0] * 2
    assert data.reward.tolist() == [2.0 * row + 1.0 for row in rows]
    alive = data.terminal == 0
    assert (data.following[alive] - data.observation[alive]).unique(dim=0).tolist() == [[1.0, 1.0]]
    paid = read_transitions(LeRobotDataset(tmp_path / "d"), reward="success", shift=-1.0, discount=0.5)
    assert (paid.reward + 1.0).tolist() == data.terminal.tolist()
    assert paid.returns.tolist() == [-1.75, -1.5, -1.0, 0.0, *[-2.0] * 5] * 2  # a failure is -1 / (1 - gamma)


def test_a_chunk_is_several_rows_of_one_episode(tmp_path: Path) -> None:
    """H 3: up to an end for good from every row (the last action again), else as long as the state after is known."""
    dataset = LeRobotDataset(write(tmp_path / "d", episodes=2))
    data = read_transitions(dataset, reward="recorded", discount=0.5, chunk=3)
    assert data.observation.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3], [10, 0], [11, 1], [12, 2]]
    assert data.terminal.tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert data.reward.tolist() == [0 + 0.5 + 0.5, 1 + 1 + 0.75, 2 + 1.5, 3, 1.0, 2.75, 2 + 1.5 + 1]
    assert data.following[data.terminal == 0].tolist() == [[3, 3], [13, 3], [14, 4], [15, 5]]
    acted = torch.from_numpy(dataset.vector("action"))[:, 0]
    assert torch.equal(data.action[2], acted[[2, 3, 3]]) and torch.equal(data.action[4], acted[[6, 7, 8]])


def done(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["offline", *arguments])
    return int(end.value.code or 0)


@pytest.mark.parametrize("method", ["iql", "cal-ql"])
def test_a_dataset_becomes_a_policy_and_a_stop_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    data, whole, parts = write(tmp_path / "d"), tmp_path / "whole", tmp_path / "parts"
    small = "--updates 40 --offline.updates-a-step 10 --offline.batch 8 --offline.hidden 8 --checkpoint-every 1"
    given = ("--dataset", str(data), "--method", method, *small.split())
    fresh = (*given, "--hidden", "8")
    assert done(*fresh, "--out", str(whole), "--dry-run") == 0 and not whole.exists()
    assert done(*fresh, "--out", str(whole)) == 0
    (body,) = load_policy(whole / "policy").bodies
    assert (body.name, body.proprio, body.action) == ("point", 2, 1)
    step = OfflineLearner.step

    def stopping(self: OfflineLearner) -> dict[str, float]:
        if self.updates == 20:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(OfflineLearner, "step", stopping)
        assert done(*fresh, "--out", str(parts)) == 130
    assert done(*fresh, "--out", str(parts), "--resume") == 0
    weights = [next((folder / "policy").glob("*.safetensors")).read_bytes() for folder in (whole, parts)]
    assert weights[0] == weights[1]
    found = load_critics(whole)
    assert found.facts == {"method": method, "updates": 40, "discount": 0.99, "chunk": 1} | {
        "reward": "success",
        "reward_scale": 1.0,
        "reward_shift": 0.0,
    }
    learned = load_state(max(whole.glob("checkpoints/*")))[0]
    assert states_equal(dict(found.q.state_dict()), learned["networks"]["q"])
    assert states_equal(dict(found.slow.state_dict()), learned["networks"]["slow"])
    assert states_equal(found.optimisers, learned["optimisers"])
    assert found.others.keys() == {"iql": {"v"}, "cal-ql": {"temperature"}}[method]
    assert found.q(torch.zeros(3, 2), torch.zeros(3, 1)).shape == (2, 3)
    onward = (*given, "--policy", str(whole / "policy"), "--out", str(tmp_path / "on"))
    assert done(*onward) == 0
    assert done(*onward[:-1], str(tmp_path / "other"), "--hidden", "16") == 2  # would be of no effect


@pytest.mark.parametrize(("temperature", "even"), [("100", True), ("0.1", False)])
def test_a_run_says_that_advantages_weighed_nothing(
    temperature: str, even: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--updates 40 --offline.updates-a-step 10 --offline.batch 8 --offline.hidden 8 --hidden 8"
    given = ("--dataset", str(write(tmp_path / "d")), "--offline.temperature", temperature, *small.split())
    assert done(*given, "--out", str(tmp_path / "run")) == 0
    assert ("try another --offline.temperature" in capsys.readouterr().err) is even


def test_samples_of_conservative_critics_are_in_the_forecast(tmp_path: Path) -> None:
    data, seconds = write(tmp_path / "d"), dict[int, float]()
    for samples in (1, 10):
        conservative = OfflineConfig(conservative=ConservativeConfig(samples=samples))
        config = offline.Config(dataset=(data,), method="cal-ql", offline=conservative, updates=1000)
        seconds[samples] = offline.plan(config).seconds or 0.0
    critics = 2 * (3 * 256 + 256 + 256 * 256 + 256 + 256 + 1)
    assert seconds[10] - seconds[1] == pytest.approx(1000 * 4e-11 * 256 * 3 * 9 * critics)


def test_imitation_has_no_critics_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    small = [
        "--updates",
        "1",
        "--offline.updates-a-step",
        "1",
        "--offline.batch",
        "4",
        "--offline.hidden",
        "4",
        "--hidden",
        "4",
    ]
    given = ("--dataset", str(write(tmp_path / "d")), *small)
    for method in ("bc", "awac", "reinbot", "arfm"):
        assert done(*given, "--method", method, "--out", str(tmp_path / method)) == 0
    assert load_policy(tmp_path / "reinbot").config.asks == "return"
    with pytest.raises(InputError, match="critics: expected a folder with critics/"):
        load_critics(tmp_path / "bc")
    tensors = tmp_path / "awac/critics/tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        load_critics(tmp_path / "awac")
    with pytest.raises(InputError, match="not critics"):
        load_critics(max((tmp_path / "bc").glob("checkpoints/*")))


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", str(tmp_path / "run"), "--dry-run")
    assert "success among its episodes" in failed(
        capsys, "--dataset", str(write(tmp_path / "none", success=False)), *out
    )
    assert "numbers from -1 to 1" in failed(capsys, "--dataset", str(write(tmp_path / "mm", size=40.0)), *out)
    wrong = ("--offline.expectile", "1.5")
    assert "offline.expectile: expected a number from 0 to 1" in failed(
        capsys, "--dataset", str(tmp_path / "mm"), *wrong, *out
    )
    assert "asks, guidance: expected nothing without" in failed(
        capsys, "--dataset", str(tmp_path / "mm"), "--asks", "return", *out
    )
    for more, methods in (("chunk", "co-rft"), ("pac.bins", "pac"), ("conservative.samples", "cql or cal-ql")):
        said = failed(capsys, "--dataset", str(tmp_path / "mm"), f"--offline.{more}", "5", *out)
        assert f"offline.{more}: expected nothing without --method {methods}" in said
    assert "at least one dataset" in failed(capsys, "--dataset", *out)
    policy = GaussianPolicy(GaussianConfig(bodies=(BodySpec(name="point", proprio=2, action=1, dt=0.1),), hidden=(8,)))
    save_policy(tmp_path / "blind", policy)
    blind = ("--features", str(tmp_path / "blind"))
    chunks = ("--dataset", str(write(tmp_path / "d")), "--method", "sarsa", *out)
    assert "offline.chunk: expected at most 6" in failed(capsys, *chunks, "--offline.chunk", "7")
    assert "decisions of 4 actions (--offline.chunk)" in failed(capsys, *chunks, "--policy", str(tmp_path / "blind"))
    endless = ("--dataset", str(write(tmp_path / "endless", success=False, paid=0.0)), "--method", "sarsa", *out)
    assert "dataset: expected rewards that differ" in failed(capsys, *endless, "--reward", "recorded")
    assert "features: expected a VLA" in failed(capsys, "--dataset", str(tmp_path / "none"), *blind, *out)
    assert not (tmp_path / "run").exists()
    data = LeRobotDataset(tmp_path / "none")
    del data.features["next.reward"]
    with pytest.raises(InputError, match="has no column"):
        read_transitions(data, reward="recorded")


def test_the_control_leaves_no_word_of_what_was_good(tmp_path: Path) -> None:
    """Rewards and ends lie elsewhere, together; states and actions are the same."""
    data = read_transitions(LeRobotDataset(write(tmp_path / "d", episodes=40)), reward="success", shift=-1.0)
    other = data.permuted(torch.Generator().manual_seed(0))
    assert torch.equal(other.observation, data.observation) and torch.equal(other.action, data.action)
    assert torch.equal(other.reward + 1.0, other.terminal) and other.terminal.sum() == data.terminal.sum()
    assert float((other.terminal * data.terminal).sum()) < 0.3 * float(data.terminal.sum())
