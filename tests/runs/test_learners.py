"""Several learners are one learner with all worlds: weights, worlds, metrics; and what happens when one is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.device_cases import PRETRAIN
from tests.policies.tiny_vla import tiny_backbone

from toddle.algorithms.sft import SFTConfig
from toddle.core.errors import EnvironmentFault, InputError
from toddle.core.team import ALONE, Group
from toddle.experience.worlds import merged_state, own_state
from toddle.methods._base import load_method
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.embedded import save_embedded
from toddle.models.trunk import TrunkConfig
from toddle.policies.store import load_policy
from toddle.recipes import finetune, pretrain, record, sft
from toddle.runs import learners as together
from toddle.runs.checkpoint import load_state
from toddle.runs.learners import follows
from toddle.runs.metrics import CLOCK_GROUP, read_metrics

SMALL: dict[str, Any] = {
    "env": ["fork/point"],
    "policy": "mlp",
    "mlp": {"hidden": [16]},
    "critic_hidden": [16],
    "worlds": 6,
    "steps": 384,
    "collect": {"length": 16},
    "checkpoint_every": 2,
}
CAUSAL: dict[str, Any] = SMALL | {
    "policy": "causal",
    "causal": {"trunk": {"width": 16, "depth": 2, "heads": 2, "context_width": 8}, "bank_hidden": 16},
}


def leaves(tree: Any, at: str = "") -> dict[str, Any]:
    """Return every array and number of a state tree by its path."""
    named = enumerate(tree) if isinstance(tree, list | tuple) else tree.items() if isinstance(tree, dict) else None
    if named is None:
        return {at: tree}
    return {key: leaf for name, value in named for key, leaf in leaves(value, f"{at}/{name}").items()}


def newest(out: Path) -> dict[str, Any]:
    return leaves(load_state(max((out / "checkpoints").glob("step_*")))[0])


KEY_BIASES = ("kv.bias", "qkv.bias")
"""A softmax does not see them: their gradients are rounding, which Adam makes into steps of the size of its rate."""


def assert_alike(one: Path, other: Path) -> None:
    """Weights, moments, worlds and metrics are equal to rounding."""
    here, there = newest(one), newest(other)
    assert here.keys() == there.keys()
    for name, value in here.items():
        if name.endswith(KEY_BIASES):
            continue
        if isinstance(value, torch.Tensor | np.ndarray | float):
            np.testing.assert_allclose(np.asarray(there[name]), np.asarray(value), atol=2e-6, rtol=1e-5, err_msg=name)
        else:
            assert there[name] == value, name
    for line, again in zip(read_metrics(one), read_metrics(other), strict=True):
        numbers = {key: value for key, value in line.items() if not key.startswith(CLOCK_GROUP)}
        assert {key: again[key] for key in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-4)


def train(out: Path, learners: int, *, resume: bool = False, **settings: Any) -> Path:
    pretrain.run(pretrain.configure(SMALL | settings, learners=learners, out=out), resume=resume)
    return out


def test_two_learners_are_one_with_all_worlds(tmp_path: Path) -> None:
    assert_alike(train(tmp_path / "one", 1), train(tmp_path / "two", 2))


@pytest.mark.slow
def test_a_policy_that_needs_whole_worlds_is_shared_too(tmp_path: Path) -> None:
    assert_alike(train(tmp_path / "one", 1, **CAUSAL), train(tmp_path / "three", 3, **CAUSAL))


@pytest.mark.slow
def test_two_with_a_part_of_each_weight_are_one_and_go_on_as_one_and_as_three(tmp_path: Path) -> None:
    settings = CAUSAL | {
        "steps": 2304,
        "ppo": {"accumulate": 2, "checkpointing": True},
        "checkpoint_every": 1,
    }  # three iterations
    one, two = train(tmp_path / "one", 1, **settings), train(tmp_path / "two", 2, sharding="full", **settings)
    assert_alike(one, two)
    weights = [load_policy(out / "policy").state_dict() for out in (one, two)]
    for name, value in weights[0].items():
        if not name.endswith(KEY_BIASES):
            torch.testing.assert_close(weights[1][name], value, atol=2e-6, rtol=1e-5)
    for learners, sharding in ((1, "none"), (3, "full")):
        out = tmp_path / str(learners)
        shutil.copytree(two, out)
        shutil.rmtree(max((out / "checkpoints").glob("step_*")))
        (out / "finished.json").unlink()
        assert_alike(one, train(out, learners, resume=True, sharding=sharding, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("learners", [1, 3])
def test_a_checkpoint_of_two_goes_on_in_one_and_in_three(learners: int, tmp_path: Path) -> None:
    whole, two = train(tmp_path / "whole", 1), train(tmp_path / "two", 2)
    (two / "finished.json").unlink()
    shutil.rmtree(max((two / "checkpoints").glob("step_*")))
    assert_alike(whole, train(two, learners, resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dppo", "fpo", "reinflow", "flow-sde", "flow-noise", "grpo", "rloo"])
def test_every_method_that_shares_is_one(name: str, tmp_path: Path) -> None:
    assert load_method(name).shared
    groups = {
        "episodes": {"group": 2},
        "worlds": 4,
        "ppo": {"minibatches": 2},
        "policy": "mlp",
        "mlp": {"hidden": [16]},
    }
    settings = PRETRAIN.get(name, groups) | {"method": name, "env": ["fork/point"], "checkpoint_every": 2}
    settings = {"worlds": 4, "steps": 96} | settings
    outs = [tmp_path / str(learners) for learners in (1, 2)]
    for learners, out in enumerate(outs, 1):
        pretrain.run(pretrain.configure(settings, learners=learners, out=out))
    assert_alike(*outs)


@pytest.fixture(scope="module")
def vla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VLA on an untrained tiny backbone and demonstrations of dots/one, taught in one process."""
    root = tmp_path_factory.mktemp("vla")
    save_embedded(root / "eyes", tiny_backbone())
    shown: Any = {"cameras": ("top",), "image_size": 32, "images": "image"}
    record.run(record.Config(out=root / "data", env=("dots/one",), episodes=3, **shown), resume=False)
    return teach(root, root / "one", learners=1)


@pytest.fixture(scope="module")
def with_lora(vla: Path) -> Path:
    """The same with LoRA on the backbone, whose matrices each learner keeps whole."""
    return teach(vla.parent, vla.parent / "lora", lora_rank=2)


EITHER = pytest.mark.parametrize("kind", ["vla", "with_lora"])


def teach(root: Path, out: Path, lora_rank: int = 0, **changes: Any) -> Path:
    own = {key: changes.pop(key) for key in ("learners", "sharding", "checkpoint_every") if key in changes}
    resume = changes.pop("resume", False)
    trunk = TrunkConfig(width=16, depth=2, heads=2, context_width=16, modulation="residual")
    sft.run(
        sft.Config(
            dataset=(root / "data",),
            out=out,
            cache=root / "cache",
            backbone=BackboneConfig(name=str(root / "eyes"), lora_rank=lora_rank),
            cameras=("top",),
            expert=sft.FreshExpert(trunk=trunk, horizon=4, executed=4, steps=3),
            sft=SFTConfig(**({"steps": 4, "batch": 9} | changes)),
            **own,
        ),
        resume=resume,
    )
    return out


@pytest.mark.slow
@EITHER
def test_sft_of_two_learners_is_that_of_one(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    vla, rank = request.getfixturevalue(kind), 2 * (kind == "with_lora")
    torch.rand(3)  # learners do not draw LoRA's matrices from wherever their own global generators stand
    assert_alike(vla, teach(vla.parent, tmp_path / "two", learners=2, lora_rank=rank))


@pytest.mark.slow
@EITHER
def test_two_learners_with_a_part_of_each_weight_are_one_and_go_on_as_one_and_as_three(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    vla: Path = request.getfixturevalue(kind)
    parts = {"sharding": "full", "checkpointing": True, "lora_rank": 2 * (kind == "with_lora")}
    two = teach(vla.parent, tmp_path / "two", learners=2, checkpoint_every=2, **parts)
    assert_alike(vla, two)
    weights = [load_policy(out / "policy").state_dict() for out in (vla, two)]
    for name, value in weights[0].items():
        if not name.endswith(KEY_BIASES):
            torch.testing.assert_close(weights[1][name], value, atol=2e-6, rtol=1e-5)
    for learners, sharding in ((1, "none"), (3, "full")):
        out = tmp_path / str(learners)
        shutil.copytree(two, out)
        shutil.rmtree(max((out / "checkpoints").glob("step_*")))
        (out / "finished.json").unlink()
        again = parts | {"learners": learners, "sharding": sharding, "checkpoint_every": 2, "resume": True}
        assert_alike(vla, teach(vla.parent, out, **again))


@pytest.mark.slow
def test_a_batch_in_parts_is_the_batch(vla: Path, tmp_path: Path) -> None:
    assert_alike(vla, teach(vla.parent, tmp_path / "parts", accumulate=4))


def of_vla(vla: Path, method: str) -> dict[str, Any]:
    """Return settings of a finetuning in 4 worlds that ends soon."""
    more: dict[str, Any] = {"collect": {"length": 4}}
    if method != "ppo":  # without a dense reward episodes of a group would all fail, and teach nothing
        more = {"episodes": {"group": 2}, "reward": "dense"}
    more |= {"max_episode_steps": 8, "evaluation": {"episodes": 2, "videos": 0}, "checkpoint_every": 1}
    steps = {"steps": 128 if method == "ppo" else 64, "worlds": 4, "ppo": {"minibatches": 2, "epochs": 2}}
    return {"policy": vla, "env": ["dots/one"], "method": method, **steps, **more}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo", "tgrpo", "reinforce"])
def test_finetuning_of_two_learners_is_that_of_one(vla: Path, method: str, tmp_path: Path) -> None:
    settings = of_vla(vla, method) | {"imitation": {"weight": 0.0}}
    outs = [tmp_path / str(learners) for learners in (1, 2)]
    for learners, out in enumerate(outs, 1):
        finetune.run(finetune.configure(settings, learners=learners, out=out))
    assert_alike(*outs)
    assert read_metrics(outs[0])[-1]["ppo/updates"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "imitation"),
    [
        ("ppo", {"batch": 7, "least_weight": 0.1}),
        ("grpo", {"batch": 2, "demonstrated": 0.5}),  # of one decision of each kind no learner but one has a part
        ("ppo", {"batch": 6, "turns": 1, "updates": 3}),
    ],
)
def test_learners_that_imitate_beside_rl_are_one_and_go_on_as_one_and_as_three(
    vla: Path, method: str, imitation: dict[str, Any], tmp_path: Path
) -> None:
    """Own successes and demonstrations; each minibatch in two parts, which are not those of one learner."""
    shown = {"dataset": (vla.parent / "data",), "cache": vla.parent / "cache"}
    settings = of_vla(vla, method) | {"imitation": {"weight": 1.0, **shown, **imitation}, "worlds": 6}
    if method == "ppo":
        settings |= {"steps": 384, "max_episode_steps": 20}  # four iterations; some episodes go on over a checkpoint
    settings["ppo"] |= {"accumulate": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    finetune.run(finetune.configure(settings, out=one))
    finetune.run(finetune.configure(settings, learners=2, out=two))
    assert_alike(one, two)
    assert any(line.get("imitation/loss") for line in read_metrics(one))
    assert method == "grpo" or max(line["imitation/held"] for line in read_metrics(one)) > 0
    for learners in (1, 3) if "least_weight" in imitation else ():
        out = tmp_path / str(learners)
        shutil.copytree(two, out)
        shutil.rmtree(max((out / "checkpoints").glob("step_*")))
        (out / "finished.json").unlink()
        finetune.run(finetune.configure(settings, learners=learners, out=out), resume=True)
        assert_alike(one, out)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [("ppo", "vla"), ("grpo", "vla"), ("ppo", "with_lora")])
def test_finetuning_of_two_with_a_part_of_each_weight_is_that_of_one(
    method: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """And its checkpoint goes on in one learner with all weights, and in three with a part of each."""
    vla: Path = request.getfixturevalue(kind)
    settings = of_vla(vla, method) | {"imitation": {"weight": 0.0}, "worlds": 6}
    settings["steps"] = 288 if method == "ppo" else 144
    settings["ppo"] |= {"accumulate": 2, "checkpointing": True, "critic_warm_up": int(method == "ppo")}
    one, two = tmp_path / "one", tmp_path / "two"
    finetune.run(finetune.configure(settings, out=one))
    finetune.run(finetune.configure(settings, learners=2, sharding="full", out=two))
    assert_alike(one, two)
    weights = [load_policy(out / "policy").state_dict() for out in (one, two)]
    for name, value in weights[0].items():
        if not name.endswith(KEY_BIASES):
            torch.testing.assert_close(weights[1][name], value, atol=2e-6, rtol=1e-5)
    start = load_policy(vla / "policy").state_dict()
    assert all((weights[1][name] - start[name]).any() for name in start if "lora_B" in name)
    for learners, sharding in ((1, "none"), (3, "full")):
        out = tmp_path / str(learners)
        shutil.copytree(two, out)
        shutil.rmtree(max((out / "checkpoints").glob("step_*")))
        (out / "finished.json").unlink()
        finetune.run(finetune.configure(settings, learners=learners, sharding=sharding, out=out), resume=True)
        assert_alike(one, out)


def moved(start: Path, out: Path) -> torch.Tensor:
    """Return how far the policy's weights have gone, as one vector."""
    first, last = (load_policy(folder / "policy").state_dict() for folder in (start, out))
    return torch.cat([(last[name] - first[name]).flatten().float() for name in first if not name.endswith(KEY_BIASES)])


@pytest.mark.slow
def test_parts_of_weights_that_travel_in_bfloat16(vla: Path, tmp_path: Path) -> None:
    """Two learners with a part of each weight go where one goes that computes in bfloat16, and that where float32 goes,
    but for rounding; metrics are alike."""
    settings = of_vla(vla, "ppo") | {"imitation": {"weight": 0.0}, "worlds": 6, "steps": 288}
    outs, parts = [tmp_path / name for name in ("float32", "one", "two")], {"learners": 2, "sharding": "full"}
    for out, more in zip(outs, ({}, {}, parts), strict=True):
        ppo = settings["ppo"] | {"bf16": out.name != "float32"}
        finetune.run(finetune.configure(settings, ppo=ppo, out=out, **more))
    exact, one, two = (moved(vla, out) for out in outs)
    assert 0 < (one - exact).norm() < 0.1 * exact.norm() and 0 < (two - one).norm() < 0.1 * one.norm()
    shown = [teach(vla.parent, tmp_path / f"sft{n}", bf16=True, **more) for n, more in enumerate(({}, parts))]
    losses = [[line["sft/loss"] for line in read_metrics(out)] for out in (vla, *shown)]
    assert losses[0] != losses[1] != losses[2]
    assert losses[1] == pytest.approx(losses[0], rel=0.02) and losses[2] == pytest.approx(losses[1], rel=0.02)


def child_of(parent: int) -> int:
    """Wait for a learner that the process has started; return its id."""
    for _ in range(600):
        found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
        if found.split():
            return int(found.split()[0])
        time.sleep(0.1)
    raise AssertionError("no learner was started")


@pytest.mark.slow
@pytest.mark.parametrize("who", ["leader", "other"])
def test_a_killed_learner_ends_the_run_which_goes_on_as_if_it_had_not(who: str, tmp_path: Path) -> None:
    whole, out = train(tmp_path / "whole", 1, steps=960), tmp_path / "two"
    options = "--env fork/point --policy mlp --mlp.hidden 16 --critic-hidden 16 --worlds 6 --steps 960 --learners 2"
    more = ["--collect.length", "16", "--checkpoint-every", "2", "--out", str(out)]
    command = [sys.executable, "-m", "toddle", "pretrain", *options.split(), *more]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    other = child_of(run.pid)
    while not list((out / "checkpoints").glob("step_00000002")):
        time.sleep(0.01)
    os.kill(run.pid if who == "leader" else other, signal.SIGKILL)
    said = run.communicate()[1]
    if who == "other":
        assert run.returncode == 1
        assert "error: learner 1 was killed by SIGKILL; --resume goes on from the last checkpoint" in said
        assert "Traceback" not in said
    for _ in range(100):  # whichever was left has ended by itself
        if not Path(f"/proc/{other}").exists() or "Z" in Path(f"/proc/{other}/stat").read_text().split()[2]:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the other learner is still there")
    assert not (out / "finished.json").exists()
    assert_alike(whole, train(out, 2, resume=True, steps=960))


@pytest.mark.slow
def test_a_learner_that_is_lost_while_it_restores_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(tmp_path / "two", 2)
    (out / "finished.json").unlink()
    load, times = together.Led.load_state_dict, list[int]()

    def killing(led: Any, state: dict[str, Any]) -> None:
        times.append(child_of(os.getpid()))
        if len(times) == 2:  # the first one gives all the leader's weights; this is the checkpoint
            os.kill(times[-1], signal.SIGKILL)
        load(led, state)

    monkeypatch.setattr(together.Led, "load_state_dict", killing)
    with pytest.raises(EnvironmentFault, match="learner 1 was killed by SIGKILL; --resume goes on"):
        train(out, 2, resume=True)
    assert len(times) == 2
    monkeypatch.undo()
    assert_alike(train(tmp_path / "one", 1), train(out, 2, resume=True))


@pytest.mark.slow
def test_learners_that_torchrun_starts_are_one(tmp_path: Path) -> None:
    options = "--env fork/point --policy mlp --mlp.hidden 16 --critic-hidden 16 --worlds 6 --steps 384 --learners 2"
    more = ["--collect.length", "16", "--checkpoint-every", "2", "--out", str(tmp_path / "two")]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "toddle", "pretrain"]
    subprocess.run([*start, *options.split(), *more], check=True, capture_output=True, timeout=120)
    assert_alike(train(tmp_path / "one", 1), tmp_path / "two")


def test_other_learners_than_were_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert follows(4)
    with pytest.raises(InputError, match="as many as were started"):
        follows(2)


def test_worlds_are_shared_out_and_put_together_again() -> None:
    """Failures by kind of goal are of none of the worlds, though there are as many kinds as worlds."""
    goals = {"failures": np.arange(5.0), "visited": {"rows": np.arange(5.0)}}
    whole = {
        "env": {"at": np.arange(10.0).reshape(5, 2), "names": list("abcde")} | goals,
        "seen": 7,
        "g": torch.arange(64),
    }
    parts = [own_state(whole, own, 5) for own in (range(0, 2), range(2, 5))]
    assert parts[1]["env"]["names"] == ["c", "d", "e"] and parts[0]["env"]["at"].tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert torch.equal(parts[0]["g"], whole["g"])  # type: ignore[arg-type]
    assert parts[0]["env"]["failures"].tolist() == parts[1]["env"]["visited"]["rows"].tolist() == [0, 1, 2, 3, 4]
    again = merged_state(parts, [2, 3])
    assert again["env"]["failures"].shape == (5,)
    assert np.array_equal(again["env"]["at"], whole["env"]["at"]) and again["env"]["names"] == whole["env"]["names"]  # type: ignore[index]


def test_shares_cover_everything_once() -> None:
    for size, total, unit in ((3, 64, 1), (4, 6, 1), (2, 24, 8), (3, 24, 8)):
        group = Group.__new__(Group)
        group.size, found = size, []
        for group.index in range(size):
            found.append(group.share(total, unit))
        assert [thing for share in found for thing in share] == list(range(total))
        assert max(map(len, found)) - min(map(len, found)) <= unit and all(len(share) % unit == 0 for share in found)
    assert ALONE.share(5) == range(5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"learners": 7}, "at most 6"), ({"method": "sac", "env": ["fork/point"], "learners": 2}, "method sac")],
)
def test_what_cannot_be_shared_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        pretrain.configure(settings, worlds=6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "sharding: expected none with one learner"),
        ({"learners": 2, "imitation": {"weight": 0.0}, "ppo": {"compile": True}}, "none with ppo.compile"),
        ({"learners": 2, "imitation": {"weight": 1.0}}, "sharding: expected none with imitation"),
    ],
)
def test_weights_that_cannot_be_shared_out_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        finetune.configure(settings, sharding="full")
    with pytest.raises(InputError, match="sharding: expected none with method dppo"):
        pretrain.configure(method="dppo", env=["fork/point"], learners=2, sharding="full")


@pytest.mark.slow
def test_learners_whose_episodes_end_at_different_times_are_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"env": ["gymnasium/CartPole-v1"], "method": "grpo", "worlds": 4, "steps": 640}
    settings |= {"tokens": {"hidden": [8]}, "max_episode_steps": 40, "episodes": {"group": 2}}
    settings["ppo"] = {"aggregate": "decision"}
    for learners in (1, 2):
        pretrain.run(pretrain.configure(settings, learners=learners, out=tmp_path / str(learners)))
    assert_alike(tmp_path / "1", tmp_path / "2")
