"""The network of a world model: what a step may see, what a fresh one says, its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny_world import TINY, recorded, save
from toddle.core.errors import InputError
from toddle.models.world_model import WorldModel, load_world_model


def woken(window: int = 3) -> WorldModel:
    """A model whose output layers are not zero."""
    model = WorldModel(type(TINY)(**{**TINY.__dict__, "window": window}), 2, 1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("out.weight"):
                value.normal_(generator=torch.Generator().manual_seed(1))
    return model


def test_a_fresh_model_says_that_nothing_changes() -> None:
    states = torch.randn(5, 2, 2)
    said = WorldModel(TINY, 2, 1).following(states, torch.randn(5, 2, 1), torch.ones(5, 2).bool())
    assert torch.equal(said, states[:, -1].expand(2, 5, 2))


def test_a_step_sees_itself_and_earlier_ones_that_are_real() -> None:
    model, real = woken(), torch.ones(4, 3).bool()
    states, actions = torch.randn(4, 3, 2), torch.randn(4, 3, 1)
    plain = model.changes(0, states, actions, real)
    for changed in (states, actions):
        other = changed.clone()
        other[:, 2] += 1.0
        pair = (other, actions) if changed is states else (states, other)
        assert torch.equal(model.changes(0, *pair, real)[:, :2], plain[:, :2])  # the future: exactly nothing
        other = changed.clone()
        other[:, 0] += 1.0
        pair = (other, actions) if changed is states else (states, other)
        assert not torch.allclose(model.changes(0, *pair, real)[:, 2], plain[:, 2])
        absent = real.clone()
        absent[:, 0] = False
        unseen = model.changes(0, *pair, absent)[:, 1:]
        assert torch.equal(unseen, model.changes(0, states, actions, absent)[:, 1:])


def test_what_never_changed_stays_and_nothing_leaves_the_recorded_range() -> None:
    model, data = woken(2), recorded()
    model.fit_statistics(data.state, data.state[1:12] - data.state[:11], data.reward)
    states = data.state[:8].view(4, 2, 2)
    for _ in range(30):
        said = model.following(states, torch.ones(4, 2, 1), torch.ones(4, 2).bool())
        states = torch.cat([states[:, 1:], said[0][:, None]], 1)
    assert (states[..., 1] == 3.0).all() and (states[..., 0].abs() < 2.0).all()
    assert torch.equal(model.doubt(said[:1]), torch.zeros(4)) and (model.doubt(said) > 0).any()


def test_a_folder_holds_it_and_says_what_is_wrong(tmp_path: Path) -> None:
    model = woken(2)
    save(tmp_path / "run" / "model", model, recorded())
    again, meta = load_world_model(tmp_path / "run")
    assert meta["env"]["body"] == "point"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    with pytest.raises(InputError, match="toddle worldmodel train"):
        load_world_model(tmp_path)
