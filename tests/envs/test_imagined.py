"""The model as an environment: the contract, the law where the model is the law, and what doubt does."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tiny_world import STEP, TINY, Perfect, recorded, save
from toddle.core.errors import InputError
from toddle.core.tensors import save_tensors
from toddle.envs.check_env import check_env
from toddle.envs.imagined import COMPONENTS, ImaginedEnv
from toddle.envs.make import make_env
from toddle.models.components import TokenComponents
from toddle.models.world_model import WorldModel
from toddle.recipes._imagined import Played, gate_line, gated


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model, data = WorldModel(TINY, 2, 1), recorded()
    model.fit_statistics(data.state, data.state[1:12] - data.state[:11], data.reward)
    with torch.no_grad():
        for member in model.members:
            member.out.weight.normal_(std=0.3)  # type: ignore[union-attr, operator]
    save(tmp_path / "model", model, data)
    return tmp_path


def test_tokens_of_a_backbone_stand_in_the_place_of_pictures(tmp_path: Path) -> None:
    data, real = recorded(), [True, False, True]
    tokens = np.random.default_rng(0).normal(size=(len(data), 3, 4)).astype(np.float16)
    tokens[:, 1] = 0.0
    components = TokenComponents.of(tokens, real, 8, np.arange(len(data)))  # all there are: nothing is lost
    wide = replace(data, state=torch.cat([data.state, components.numbers(torch.from_numpy(tokens))], 1))
    model = WorldModel(TINY, 10, 1)
    model.fit_statistics(wide.state, wide.state[1:12] - wide.state[:11], wide.reward, 2)
    save(tmp_path, model, wide, middle=1.0)
    card = json.loads((tmp_path / "world_model.json").read_text())
    digest = save_tensors(tmp_path / COMPONENTS, components.tensors())
    card["meta"]["env"]["tokens"] = {"fingerprint": "eyes", "real": real, "width": 4, "sha256": digest}
    (tmp_path / "world_model.json").write_text(json.dumps(card))
    env = ImaginedEnv(tmp_path, 5)
    first, _ = env.reset(seed=0)
    for world, row in enumerate(env._row):
        np.testing.assert_allclose(first["context"][world], tokens[row], atol=1e-4)
    for seen in (first, env.step(np.zeros((5, 1), np.float32))[0]):
        assert seen["proprio"].shape == (5, 2) and env.body_spec.proprio == 2 and not seen["context"][:, 1].any()
        assert seen["context_mask"].tolist() == [real] * 5
    np.testing.assert_allclose(env.state_of(seen), env._seen.states[:, -1].numpy(), atol=1e-4)


def test_it_keeps_the_contract(folder: Path) -> None:
    env = make_env(f"imagined/{folder}", 3, max_episode_steps=8)
    check_env(env)
    assert env.body == "point" and env.body_spec.proprio == 2
    with pytest.raises(InputError, match=r"world model: expected a folder with world_model.json, .*nowhere"):
        make_env(f"imagined/{folder}/nowhere", 2)
    with pytest.raises(InputError, match="option"):
        make_env(f"imagined/{folder}", 2, cameras=("top",))


def perfect(folder: Path, **options: object) -> ImaginedEnv:
    env = ImaginedEnv(folder, 4, **options)  # type: ignore[arg-type]
    law = Perfect(TINY, 2, 1)
    law.fires.fill_(0.5)
    env.model = law
    return env


def test_a_perfect_model_is_the_environment(folder: Path) -> None:
    env = perfect(folder, terminate_on_success=True)
    env.fixed = {7: np.array([0.75, 3.0], np.float32)}
    observation, _ = env.reset(seed=[7, 1, 2, 3])
    x, alive, draw = observation["proprio"][:, 0].astype(float), np.ones(4, bool), np.random.default_rng(0)
    assert x[0] == 0.75
    returns = np.zeros(4)
    for step in range(12):
        action = draw.uniform(-1.5, 1.5, (4, 1))
        action[0] = 1.0
        before = alive.copy()
        x = np.where(alive, x + STEP * np.clip(action[:, 0], -1, 1), x)
        returns += np.where(alive, x, 0.0)
        observation, _, terminated, truncated, info = env.step_chunk(action[:, None], active=alive, reset_done=False)
        assert observation["proprio"][:, 0] == pytest.approx(x, abs=1e-5)
        assert terminated.tolist() == (before & (x > 1.0)).tolist()
        assert truncated.tolist() == (before & ~terminated & (step == 11)).tolist()
        assert info["episode_return"] == pytest.approx(returns, abs=1e-4)
        alive &= ~(terminated | truncated)
    assert not alive.any() and info["success"].tolist() == (x > 1.0).tolist() and info["success"][0]
    assert info["episode_length"][0] == 3  # 0.85, 0.95, 1.05


def test_doubt_cuts_the_episode_where_it_was_believed_last(folder: Path) -> None:
    env = make_env(f"imagined/{folder}", 4, reward="success")
    assert isinstance(env, ImaginedEnv)
    env.model.alarm.fill_(0.0)
    env.model.fires.fill_(0.0)  # it would say success at once
    before, _ = env.reset(seed=3)
    _, reward, terminated, truncated, info = env.step(np.ones((4, 1)))
    assert truncated.all() and not terminated.any() and info["doubted"].all() and (info["doubt"] > 0).all()
    assert not info["success"].any() and (reward == 0).all()
    assert np.array_equal(info["final_obs"]["proprio"], before["proprio"])
    env.settings["doubt"] = 0.0
    _, reward, _, truncated, info = env.step(np.ones((4, 1)))
    assert info["success"].all() and (reward == 1).all() and not truncated.any()


def test_doubt_costs_in_proportion_and_members_that_agree_cost_nothing(folder: Path) -> None:
    paid = {}
    for penalty in (0.0, 1.0, 2.5):
        env = ImaginedEnv(folder, 4)
        env.settings |= {"penalty": penalty, "doubt": 0.0}
        env.reset(seed=3)
        _, paid[penalty], _, _, info = env.step(np.full((4, 1), 0.5))
    assert (info["doubt"] > 0).all()
    assert paid[0.0] - paid[1.0] == pytest.approx(info["doubt"]) and (paid[0.0] - paid[2.5]) == pytest.approx(
        2.5 * info["doubt"]
    )
    certain = perfect(folder)
    certain.settings["penalty"] = 1e6
    certain.reset(seed=3)
    _, reward, _, _, info = certain.step(np.zeros((4, 1)))
    assert (info["doubt"] == 0).all() and np.abs(reward).max() < 2.0


def test_a_gate_takes_what_gains_in_the_model_and_says_what_that_is_worth() -> None:
    def results(*returns: float) -> list[Any]:
        return [SimpleNamespace(episode_return=value) for value in returns]

    old = Played("old", results(1.0, 2.0, 3.0), results(1.0, 2.0, 3.0))
    better = Played("better", results(2.0, 3.0, 5.0), results(3.0, 3.0, 5.0))
    fooled = Played("fooled", results(0.0, 1.0, 2.0), results(3.0, 3.0, 5.0))
    first, second = gated([old, better, fooled], 0.8)  # more than 1.6 of the first one's 2
    assert first["accepted"] and first["imagined"][0] == pytest.approx(5 / 3)
    assert first["real"][0] == pytest.approx(4 / 3)
    assert second["accepted"] and second["real"][0] == -1.0 and "accepted, return +1.67" in gate_line(second)
    assert not gated([old, better], 0.9)[0]["accepted"] and not gated([old, old], 0.0)[0]["accepted"]


def test_what_was_recorded_is_the_best_that_a_reference_pays(folder: Path) -> None:
    env, data = ImaginedEnv(folder, 6, seed=2, reward="reference"), recorded()
    env.settings["doubt"] = 0.0
    rows = env._row.copy()
    left = 11 - rows % 12
    for step in range(4):
        running = step <= left
        state = copy.deepcopy(env.state_dict())
        _, worse, *_ = env.step_chunk(np.full((6, 1, 1), -0.9), active=running, reset_done=False)
        env.load_state_dict(state)
        action = data.action[np.minimum(rows + step, len(data) - 1)].numpy()
        _, paid, _, truncated, _ = env.step_chunk(action[:, None], active=running, reset_done=False)
        assert (paid == 0.0).all() and (worse[running] < 0.0).all()  # exactly: the model's own errors cancel
        assert truncated.tolist() == (running & (step == left)).tolist()


def test_an_error_that_the_model_makes_everywhere_cancels_in_a_reference(folder: Path) -> None:
    """The law, and the law that drifts by 0.03: the distance is between two states that have both drifted."""
    paid = []
    for drift in (0.0, 0.03):
        env = ImaginedEnv(folder, 6, seed=2, reward="reference")
        law = Perfect(TINY, 2, 1)
        law.load_state_dict(env.model.state_dict())
        said = law.following
        law.following = lambda *seen, said=said, drift=drift: said(*seen) + drift  # type: ignore[method-assign, misc]
        env.model, env.settings["doubt"] = law, 0.0
        env.reset(seed=4)
        paid.append(env.step(np.full((6, 1), -0.9))[1])
    assert np.allclose(paid[0], paid[1], atol=1e-5) and np.max(paid[0]) < 0.0


def test_episodes_begin_where_recorded_ones_did_or_were(folder: Path) -> None:
    env, data = ImaginedEnv(folder, 200, seed=1), recorded()
    states = env.current_observation()["proprio"]
    training = {tuple(row) for row in data.state[~data.held[data.episode]].tolist()}
    assert all(tuple(row) in training for row in states.tolist())
    firsts = {tuple(row) for row in data.state[data.start].tolist()}
    share = np.mean([tuple(row) in firsts for row in states.tolist()])
    assert share == pytest.approx(0.5 + 0.5 / 12, abs=0.12)
    assert set(env._member.tolist()) == {0, 1}
