"""`toddle pretrain --method sac / rlpd`: from the command line to a policy that is played; resume; bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.cli import main
from toddle.core.config import from_dict, merged
from toddle.core.errors import InputError
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_writer import DatasetWriter
from toddle.policies.store import load_policy
from toddle.recipes import offline
from toddle.recipes.pretrain import build, configure, plan, run
from toddle.runs.checkpoint import states_equal
from toddle.runs.critics import load_critics
from toddle.runs.loop import run_loop
from toddle.runs.metrics import read_metrics
from toddle.runs.run import RunFolder

SMALL = {
    "critic_hidden": [8],
    "batch": 16,
    "rounds": 5,
    "learn_after": 12,
    "critics": 3,
    "ratio": 0.5,
    "actor_every": 2,
}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of ten rows with success in the last; four numbers of state, two of action."""
    folder = tmp_path_factory.mktemp("demos") / "data"
    features = {"observation.state": Feature(size=4), "action": Feature(size=2)}
    features["next.success"] = Feature(size=1, dtype="bool")
    with DatasetWriter(folder, DatasetSpec(fps=10, features=features, robot_type="point", cameras={})) as writer:
        for number in range(2):
            columns: dict[str, Any] = {"observation.state": np.full((10, 4), number, np.float32)}
            columns |= {"action": np.full((10, 2), 0.5, np.float32), "next.success": np.arange(10) == 9}
            writer.add_episode(columns, {}, "go", {"seed": number})
    return folder


def settings(out: Path, method: str = "sac", **changes: Any) -> Any:
    values: dict[str, Any] = {"out": str(out), "method": method, "env": ["fork/point"], "worlds": 4, "steps": 80}
    return configure(merged(values | {"hidden": [8], "sac": SMALL, "checkpoint_every": 1}, changes))


@pytest.mark.parametrize("keep", ["memory", "file"])
def test_two_halves_are_the_whole(tmp_path: Path, demonstrations: Path, keep: str) -> None:
    replay = {"keep": keep, "kind": "float16", "capacity": 50}
    changes: dict[str, Any] = {"method": "rlpd", "demonstrations": [str(demonstrations)], "replay": replay}
    run(settings(tmp_path / "whole", **changes))
    parts = settings(tmp_path / "parts", **changes)
    for until in (2, 4):
        learner = build(parts, folder=tmp_path / "parts").learner
        with RunFolder.open(tmp_path / "parts", parts, resume=until == 4) as folder:
            run_loop(learner, folder, until, checkpoint_every=1)
            if until == 2:
                (tmp_path / "parts/finished.json").unlink()
                learner.step()  # what is written after the checkpoint is written again
    whole = load_policy(tmp_path / "whole").state_dict()
    assert states_equal(dict(learner.policy.state_dict()), dict(whole))
    last = read_metrics(tmp_path / "whole")[-1]
    assert last["sac/offline_decisions"] == 20 and last["sac/online_decisions"] == 50 and last["sac/updates"] > 20


def test_a_run_is_planned_played_and_gone_on_from(tmp_path: Path, demonstrations: Path) -> None:
    config = settings(tmp_path / "run", "rlpd", demonstrations=[str(demonstrations)], replay={"keep": "file"})
    said = "\n".join(plan(config).steps)
    assert "keep the last 1,000,000 decisions, 45.8 MiB in files of 1,000,060 rows" in said
    assert "50% of each batch from 20 demonstrated ones" in said and not (tmp_path / "run").exists()
    run(config)
    arguments = ["--env", "fork/point", "--episodes", "2", "--videos", "0", "--out", str(tmp_path / "played")]
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--policy", str(tmp_path / "run"), *arguments])
    made = build(settings(tmp_path / "on", init=str(tmp_path / "run")))
    first, second = load_policy(tmp_path / "run").state_dict(), made.policy.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_offline_goes_on_online_with_its_policy_and_critics(tmp_path: Path, demonstrations: Path) -> None:
    few = {"updates_a_step": 2, "batch": 8, "hidden": (8,)}
    offline.run(
        from_dict(
            offline.Config,
            {"dataset": [str(demonstrations)], "out": str(tmp_path), "updates": 2, "hidden": [8], "offline": few}
            | {"reward_shift": -1.0},
        )
    )
    given = {"init": str(tmp_path), "critics": str(tmp_path), "demonstrations": [str(demonstrations)]}
    sac = {"critics": 2, "reward_shift": -1.0}
    learner: Any = build(settings(tmp_path / "on", sac=sac, **given)).learner
    stored, policy = load_critics(tmp_path), load_policy(tmp_path)
    assert states_equal(dict(learner.critics.state_dict())["weights.0"], stored.q.state_dict()["weights.0"])
    assert states_equal(dict(learner.slow.state_dict())["weights.0"], stored.slow.state_dict()["weights.0"])
    seen: Any = {"proprio": torch.ones(3, 4), "body": torch.zeros(3, dtype=torch.int64)}
    again = build(settings(tmp_path / "on", **given | {"demonstrations": [], "critics": None})).policy
    actions = [each.act(seen, deterministic=True)[0].action for each in (policy, again)]
    torch.testing.assert_close(*actions)
    assert learner.replay.stores["offline"].at(torch.arange(20)).reward.tolist() == [*[-1.0] * 9, 0.0] * 2
    learner.step()
    for wrong, wanted in (({"critics": 3}, "count: expected 2"), ({"reward_shift": 0.0}, "reward_shift: expected -1")):
        with pytest.raises(InputError, match=f"critics: {wanted}"):
            build(settings(tmp_path / "on", sac=sac | wrong, **given))


FEW = {"updates_a_step": 2, "batch": 8, "hidden": (8,), "conservative": {"samples": 2}}


def continued(tmp_path: Path, data: Path, of: str, **changes: Any) -> Any:
    """Settings that go on from a run of `toddle offline`, which is made here; a step is five decisions a world."""
    given = {"dataset": [str(data)], "out": str(tmp_path / "off"), "updates": 4, "hidden": [8]}
    given |= {"method": of, "offline": FEW, "reward_shift": -1.0}
    if not (tmp_path / "off").exists():
        offline.run(from_dict(offline.Config, given))
    pace = {"rounds": 5, "learn_after": 12, "ratio": 0.25}
    more = {"init": str(tmp_path / "off"), "demonstrations": [str(data)], "online": pace, "offline": FEW}
    values = {"out": str(tmp_path / "on"), "method": of, "env": ["fork/point"], "worlds": 4, "steps": 240}
    return configure(merged(values | more | {"max_episode_steps": 6, "checkpoint_every": 1}, changes))


@pytest.mark.parametrize("method", ["cal-ql", "conrft"])
def test_a_run_goes_on_online_from_the_same_folder(tmp_path: Path, demonstrations: Path, method: str) -> None:
    config = continued(tmp_path, demonstrations, method, out=str(tmp_path / "whole"))
    learner: Any = build(config).learner
    stored = load_critics(tmp_path / "off")
    networks, optimisers = learner.offline.state_dict()["networks"], learner.offline.state_dict()["optimisers"]
    assert states_equal(networks["policy"], dict(load_policy(tmp_path / "off").state_dict()))
    assert states_equal(networks["slow"], dict(stored.slow.state_dict()))
    assert states_equal(optimisers, stored.optimisers) and optimisers["q"]["steps"] == 4
    assert all(states_equal(networks[name], state) for name, state in stored.others.items())
    demonstrated = learner.replay.stores["offline"].at(torch.arange(10))
    assert demonstrated.reward.tolist() == [*[-1.0] * 9, 0.0] and demonstrated.returns[8] == -1.0
    run(config)
    parts = replace(config, out=tmp_path / "parts")
    for until in (4, 12):  # in the midst of episodes
        half: Any = build(parts, folder=tmp_path / "parts").learner
        with RunFolder.open(tmp_path / "parts", parts, resume=until == 12) as folder:
            run_loop(half, folder, until, checkpoint_every=1)
            if until == 4:
                (tmp_path / "parts/finished.json").unlink()
                half.step()
    assert states_equal(dict(half.policy.state_dict()), dict(load_policy(tmp_path / "whole").state_dict()))
    last = read_metrics(tmp_path / "whole")[-1]
    assert last["offline/updates"] > 20 and ("offline/gap" in last) == (method == "cal-ql")
    kept = half.replay.stores["online"].at(torch.arange(6))
    assert last["offline/online_decisions"] % 6 == 0 and set(kept.reward.tolist()) <= {-1.0, 0.0}
    assert bool((kept.returns == -100.0).all()) == bool((kept.reward == -1.0).all())
    said = "\n".join(plan(replace(config, out=tmp_path / "planned")).steps)
    assert "50% of each batch from 20 demonstrated ones" in said


def test_only_a_fitting_run_is_gone_on_from(tmp_path: Path, demonstrations: Path) -> None:
    def refused(wanted: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=wanted):
            build(continued(tmp_path, demonstrations, "cal-ql", **changes))

    refused("init: expected a policy of kind consistency, which this method trains", method="conrft")
    refused("demonstrations: expected the datasets of the run", demonstrations=[])
    refused("not alike: factor", offline={"conservative": {"gap": 0.8}})
    refused("init: expected a run of toddle offline", init=None)
    refused("folder with critics/", critics=str(demonstrations))
    plain: Any = build(continued(tmp_path, demonstrations, "cal-ql", calibrate_online=False)).learner
    values, batch = torch.zeros(2, 8, 6), plain.offline.data.at(torch.arange(8))
    assert torch.equal(plain.offline.bounded(values, replace(batch, returns=torch.ones(8))), values)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"method": "rlpd"}, "demonstrations: expected at least one dataset with method rlpd"),
        ({"env": ["fork/point", "gutter/flat"]}, "env: expected one environment without goal items"),
        ({"env": ["gymnasium/CartPole-v1"]}, "env: expected continuous actions with off-policy learning"),
        (
            {"env": ["gymnasium/HalfCheetah-v5"]},
            "demonstrations: expected 17 numbers of state and 6 of action, got '4 and 2'",
        ),
        ({"replay": {"capacity": 11}}, "learn_after: expected at most the 11 decisions"),
        ({"sac": {"subset": 4}}, "subset: expected at most the 3 critics"),
        ({"terminate_on_success": True}, "terminate_on_success"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, demonstrations: Path, changes: dict[str, Any], wanted: str
) -> None:
    given = {} if changes.get("method") == "rlpd" else {"demonstrations": [str(demonstrations)]}
    with pytest.raises(InputError, match=wanted) as error:
        plan(settings(tmp_path, **given, **changes))
    assert "\n" not in str(error.value)
