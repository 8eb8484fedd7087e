"""Training of a world model: the law of a known world is learned, the control does not learn it, resume is bitwise."""

from __future__ import annotations

import copy

import pytest
import torch

from tiny_world import TINY, recorded
from toddle.algorithms.world_model_evaluation import errors
from toddle.algorithms.world_model_training import WorldModelTraining, WorldModelTrainingConfig, open_loop
from toddle.data.recordings import Recordings
from toddle.models.world_model import WorldModel


def learner(steps: int, seed: int = 0, episodes: int = 40) -> WorldModelTraining:
    models = {name: WorldModel(TINY, 2, 1) for name in ("model", "control")}
    settings = WorldModelTrainingConfig(
        steps=steps, batch=32, roll_out=4, roll_outs=16, learning_rate=5e-3, noise=0.01, alarm=0.2
    )
    return WorldModelTraining(models, recorded(episodes), settings, seed=seed)


def test_windows_stay_within_their_episode() -> None:
    data = recorded(episodes=4, length=5)
    rows, own = data.windows(torch.tensor([0, 7, 9]), 2, 2)
    assert rows.tolist() == [[0, 0, 1, 2], [6, 7, 8, 9], [8, 9, 9, 9]]
    assert own.tolist() == [[False, True, True, True], [True] * 4, [True, True, False, False]]
    assert data.lengths.tolist() == [5] * 4 and data.episode.tolist()[4:6] == [0, 1]


def test_it_resumes_bitwise() -> None:
    whole, first, second = learner(4), learner(4), learner(4)
    metrics = [whole.step() for _ in range(4)]
    assert [first.step() for _ in range(2)] == metrics[:2]
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second.step() for _ in range(2)] == metrics[2:]
    for name, model in whole.models.items():
        assert all(torch.equal(v, second.models[name].state_dict()[k]) for k, v in model.state_dict().items())


def test_members_have_their_own_episodes_and_held_out_ones_are_in_none() -> None:
    made, data = learner(1), recorded()
    one, two = (set(data.episode[rows].tolist()) for rows in made.rows)
    assert one != two
    assert not (one | two) & set(torch.nonzero(data.held)[:, 0].tolist())


@pytest.mark.slow
def test_the_law_is_learned_and_the_control_does_not_learn_it() -> None:
    made = learner(400, episodes=160)
    for _ in range(400):
        made.step()
    levels = made.set_levels()
    data: Recordings = made.data
    told = {name: errors(model, data, thing=(0,)) for name, model in made.models.items()}
    assert told["model"]["error_over_copy"][0] < 0.2 < 0.6 < told["control"]["error_over_copy"][0]
    assert told["model"]["error_over_copy"][-1] < 0.3
    assert levels["model"]["success_f1"] > 0.8
    found = open_loop(made.models["model"], data, data.start[data.held], 12)
    assert float((found.outcome.reward - data.reward[found.rows]).abs().mean()) < 0.1
