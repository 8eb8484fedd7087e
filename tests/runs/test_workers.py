"""Workers that only act are one process with all worlds; one that is killed is started again."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runs.test_learners import CAUSAL, SMALL, assert_alike, newest, of_vla, vla

from toddle.cli import main
from toddle.core.config import save_config
from toddle.core.team import ALONE, Place, placed, team
from toddle.policies.store import load_policy, meta_of, save_policy
from toddle.policies.vla import FlowVLA
from toddle.recipes import finetune, pretrain
from toddle.recipes._shared import process_lines
from toddle.runs import workers
from toddle.runs.beside import side_by_side
from toddle.runs.metrics import read_metrics
from toddle.runs.workers import KEY, Crew

__all__ = ["vla"]  # the fixture


def train(out: Path, workers: int, *, resume: bool = False, **settings: Any) -> Path:
    pretrain.run(pretrain.configure(SMALL | settings, workers=workers, out=out), resume=resume)
    return out


def test_parts_of_worlds_are_put_side_by_side() -> None:
    """What two places gather is, row for row, what one process gathers with all worlds."""
    config = pretrain.configure(SMALL)

    def gathered() -> Any:
        made = pretrain.build(config)
        source: Any = made.sources[0]
        with torch.no_grad():
            came = [source.gather(made.policy) for _ in range(2)]
        return source.rollout, came

    want, came = gathered()
    parts = []
    for index in range(2):
        with placed(Place(index, 2, 6)):
            parts.append(gathered())
    assert team() is ALONE
    found = side_by_side([vars(part) for part, _ in parts], torch.device("cpu"))
    assert found.worlds == 6
    for name, value in vars(want).items():
        if isinstance(value, torch.Tensor) and name != "final_at":
            torch.testing.assert_close(getattr(found, name), value, atol=1e-6, rtol=0.0)
    assert sorted(map(tuple, found.final_at.tolist())) == sorted(map(tuple, want.final_at.tolist()))
    for rollout, one in enumerate(came):
        two = [each[rollout] for _, each in parts]
        assert sum(each.steps for each in two) == one.steps
        two[0].notes.beside([two[1].notes])
        assert {key: sorted(value) for key, value in two[0].notes.ended.items()} == {
            key: sorted(value) for key, value in one.notes.ended.items()
        }


def test_parts_of_whole_episodes_are_those_of_one_process_again_and_again() -> None:
    """Parts end at different times, and the noise of the next rollout is that of one process all the same."""
    groups: Any = {"env": ["gymnasium/CartPole-v1"], "method": "grpo", "worlds": 4, "episodes": {"group": 2}}
    groups |= {"tokens": {"hidden": [8]}, "max_episode_steps": 40}
    config = pretrain.configure(groups)

    def source() -> Any:
        made = pretrain.build(config)
        return made.sources[0], made.policy

    one, leads, others, lengths = source(), source()[0], [], set[int]()
    for index in range(2):
        with placed(Place(index, 2, 4, 2)):
            others.append(source())
    for _ in range(3):
        with torch.no_grad():
            want, metrics = one[0].collect(one[1], None)
            told = leads.told()
            came = [each.gather(policy, told) for each, policy in others]
        leads.rollout = side_by_side([dict(vars(each.rollout)) for each, _ in others], torch.device("cpu"))
        found, again = leads.finish(None, came)
        assert again == metrics and torch.equal(found.mask, want.mask) and torch.equal(found.group, want.group)
        torch.testing.assert_close(found.chain[want.mask], want.chain[want.mask], atol=1e-6, rtol=0.0)
        lengths |= {abs(came[0].decisions - came[1].decisions)}
    assert max(lengths) > 0


class Waiting(Crew):
    """A crew whose worker is this test."""

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "60"])


def test_strangers_and_who_ends_while_it_says_hello_do_not_stop_the_learner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "GREETING", 1)
    crew, said = Waiting(1, "pretrain", tmp_path), list[bytes]()
    address = crew.server.getsockname()
    learner = threading.Thread(target=lambda: said.append(crew._link(0).recv_bytes()), daemon=True)
    learner.start()
    silent = socket.create_connection(address, timeout=20)  # and says nothing, for as long as the test lasts
    try:
        for answer in (b"", b"\0\0\0\x14hel", b"\0\0\0\5wrong"):  # none, of 20 bytes but cut short, of a stranger
            with socket.create_connection(address, timeout=20) as link:
                link.sendall(answer)
        with Client(address, authkey=crew.key) as worker:
            worker.send_bytes(pickle.dumps(("ready", 0, {})))
            worker.send_bytes(b"mine")
            learner.join(20)
        assert said == [b"mine"]
    finally:
        silent.close()
        crew.close()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, CAUSAL], ids=["mlp", "causal"])
def test_two_workers_are_one_process_with_all_worlds(settings: dict[str, Any], tmp_path: Path) -> None:
    one, two = train(tmp_path / "one", 1, **settings), train(tmp_path / "two", 2, **settings)
    assert_alike(one, two)
    (two / "finished.json").unlink()
    last = max((two / "checkpoints").glob("step_*"))
    last.rename(tmp_path / "last")
    assert_alike(one, train(two, 3, resume=True, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_two_workers_that_finetune_are_one_process_and_go_on_as_three(vla: Path, method: str, tmp_path: Path) -> None:
    settings = of_vla(vla, method) | {"imitation": {"weight": 1.0}, "worlds": 6}
    settings["steps"] = 288 if method == "ppo" else 144  # three iterations
    one, two = tmp_path / "one", tmp_path / "two"
    for count, out in enumerate((one, two), 1):
        finetune.run(finetune.configure(settings, workers=count, out=out))
    assert_alike(one, two)
    (two / "finished.json").unlink()
    max((two / "checkpoints").glob("step_*")).rename(tmp_path / "last")
    finetune.run(finetune.configure(settings, workers=3, out=two), resume=True)
    assert_alike(one, two)


@pytest.mark.slow
def test_of_lora_its_own_matrices_are_sent_and_each_worker_merges_them(
    vla: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first rollout needs no weights at all: workers have read the policy's folder."""
    plain, sent = load_policy(vla), list[set[str]]()
    policy = FlowVLA.from_config(replace(plain.config, backbone=replace(plain.config.backbone, lora_rank=2)))
    policy.load_state_dict({**policy.state_dict(), **plain.state_dict()})
    save_policy(tmp_path / "lora", policy, meta_of(vla))
    settings: Any = of_vla(tmp_path / "lora", "ppo") | {"imitation": {"weight": 0.0}, "critic": "state"}
    settings["ppo"] |= {"critic_warm_up": 0}
    finetune.run(finetune.configure(settings, out=tmp_path / "one"))
    patch = Crew.patch
    monkeypatch.setattr(Crew, "patch", lambda crew, index: sent.append(found := patch(crew, index)) or found)
    finetune.run(finetune.configure(settings, workers=2, out=tmp_path / "two"))
    assert_alike(tmp_path / "one", tmp_path / "two")
    assert not sent[0] and not sent[1] and len(sent) == 4
    learned = {f"vla.{name}" for name, value in policy.named_parameters() if value.requires_grad}
    assert any("lora" in name for name in sent[2]) and set(sent[2]) <= learned and set(sent[2]) == set(sent[3])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "sharding"), [("ppo", "none"), ("grpo", "full")])
def test_two_learners_with_two_workers_each_are_one_process(
    vla: Path, method: str, sharding: str, tmp_path: Path
) -> None:
    settings = of_vla(vla, method) | {"imitation": {"weight": 0.0}, "worlds": 10}
    settings["steps"] = 480 if method == "ppo" else 240  # three iterations
    one, out = tmp_path / "one", tmp_path / "four"
    finetune.run(finetune.configure(settings, out=one))
    finetune.run(finetune.configure(settings, learners=2, workers=4, sharding=sharding, out=out))
    assert_alike(one, out)
    (out / "finished.json").unlink()
    max((out / "checkpoints").glob("step_*")).rename(tmp_path / "last")
    finetune.run(finetune.configure(settings, workers=3, out=out), resume=True)
    assert_alike(one, out)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "who"), [("ppo", "worker"), ("grpo", "worker"), ("ppo", "learner")])
def test_kills_while_workers_finetune(vla: Path, method: str, who: str, tmp_path: Path) -> None:
    """Of whole episodes a worker that is killed plays the same again; a learner that is killed goes on as if not."""
    settings = of_vla(vla, method) | {"steps": 640, "imitation": {"weight": 1.0}}
    one, out = tmp_path / "one", tmp_path / "two"
    finetune.run(finetune.configure(settings, out=one))
    config = finetune.configure(settings, workers=2, out=out)
    save_config(tmp_path / "settings.yaml", config)
    command = [sys.executable, "-m", "toddle", "finetune", "--config", str(tmp_path / "settings.yaml")]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 2):
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(run.pid if who == "learner" else int(found[0]), signal.SIGKILL)
    said = run.communicate(timeout=240)[1]
    if who == "learner":
        assert run.returncode == -signal.SIGKILL and not (out / "finished.json").exists()
        finetune.run(config, resume=True)
    else:
        assert run.returncode == 0 and "was lost (status -9): it is started again" in said, said
    if (method, who) == ("ppo", "worker"):
        assert len(read_metrics(out)) == len(read_metrics(one)) and newest(out)
    else:
        assert_alike(one, out)


@pytest.mark.slow
def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = "--env fork/point --policy mlp --mlp.hidden 16 --critic-hidden 16 --worlds 6 --steps 4000"
    arguments = [*settings.split(), "--collect.length", "16", "--workers", "2", "--out", str(out)]
    run = subprocess.Popen([sys.executable, "-m", "toddle", "pretrain", *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 2):
        time.sleep(0.2)
    found = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 2
    os.kill(int(found[0]), signal.SIGKILL)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0 and "was lost (status -9): it is started again" in said, said
    lines = read_metrics(out)
    assert len(lines) == round(4000 / 96) and lines[-1]["rollout/total_steps"] == 96 * len(lines)
    assert newest(out)


@pytest.mark.slow
def test_workers_join_by_address_and_a_killed_one_joins_again(tmp_path: Path) -> None:
    """A stranger is told so; of two that join one is killed, joins again, and the run comes to its end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    out, environment = tmp_path / "run", {**os.environ, KEY: "a word"}
    settings = "--env fork/point --policy mlp --mlp.hidden 16 --critic-hidden 16 --worlds 6 --steps 4000"

    def start(given: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "toddle", "pretrain", *given.split()]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment, **more})

    learner = start(f"{settings} --collect.length 16 --workers 2 --listen {at} --out {out}")
    assert learner.stderr is not None and "2 workers are awaited" in learner.stderr.readline()
    stranger = start(f"--join {at}", **{KEY: "another"}).communicate(timeout=240)[1]
    assert f"error: environment variable {KEY}: expected the key" in stranger and stranger.count("\n") == 1, stranger
    joined = [start(f"--join {at}") for _ in range(2)]
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(read_metrics(out)) > 2):
        time.sleep(0.2)
    who = subprocess.run(["pgrep", "-P", str(joined[0].pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(who[0]), signal.SIGKILL)
    said = learner.communicate(timeout=400)[1]
    assert learner.returncode == 0 and "was lost: one that joins takes its place" in said, said
    assert "was lost (status -9): it joins again" in joined[0].communicate(timeout=60)[1]
    joined[1].communicate(timeout=60)
    assert [each.returncode for each in joined] == [0, 0]
    lines = read_metrics(out)
    assert len(lines) == round(4000 / 96) and lines[-1]["rollout/total_steps"] == 96 * len(lines)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--listen here --workers 2", "listen: expected HOST:PORT, got 'here'"),
        ("--listen 127.0.0.1:99", "workers: expected above 1 with listen, got 1"),
        ("--workers 3 --learners 2", "workers: expected a multiple of the 2 learners, got 3"),
        ("--workers 2 --learners 2 --listen 127.0.0.1:99", "learners: expected 1 with listen, got 2"),
        ("--workers 2 --method ddiffpg", "workers: expected 1 with method ddiffpg"),
        ("--workers 4 --method grpo --episodes.group 2", "workers: expected at most 3, the number of groups of worlds"),
    ],
)
def test_what_workers_cannot_do_is_told(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "--env", "fork/point", "--worlds", "6", *given.split(), "--dry-run"])
    found = capsys.readouterr().err
    assert stopped.value.code == 2 and said in found and found.count("\n") == 1, found


def test_a_plan_says_which_processes_there_are() -> None:
    assert process_lines(pretrain.configure(SMALL)) == []
    assert process_lines(pretrain.configure(SMALL, learners=2, workers=4)) == [
        "2 processes learn",
        "4 other processes act",
    ]
    joined = pretrain.configure(SMALL, workers=2, listen="127.0.0.1:99")
    assert process_lines(joined) == ["2 other processes act; they join 127.0.0.1:99"]
