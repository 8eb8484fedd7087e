"""Terms that learn from recorded episodes: what holds by construction, what training must bring, their folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toddle.algorithms.rewards.compose import LEARNED, Around, make_terms, parse_reward
from toddle.algorithms.rewards.learned import RecordedEpisode, shuffled_steps
from toddle.algorithms.rewards.rewind import RewindTerm, rewound, sampled
from toddle.algorithms.rewards.steps import Steps
from toddle.core.errors import InputError
from toddle.maths.ranks import spearman
from toddle.recipes._reward_episodes import steps_of_episode

SIZE = 4


def walk(length: int, draw: torch.Generator, *, far: float = 1.0) -> Tensor:
    """Features that go from 0 to `far` along the first number; the second waves, the others are noise and constant."""
    at = torch.linspace(0.0, far, length)
    noise = 0.05 * torch.randn(length, generator=draw)
    return torch.stack([at + 0.02 * noise, torch.sin(6.0 * at), noise, torch.ones(length)], 1)


def episodes(count: int, seed: int, **given: float) -> list[RecordedEpisode]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, 40, (count,), generator=draw).tolist()
    return [RecordedEpisode(walk(length, draw, **given), not given, "walk") for length in lengths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all terms, barely trained."""
    found = tmp_path_factory.mktemp("terms")
    for term in LEARNED.values():
        term.taught(episodes(4, 0), steps=20, seed=0).save(found, {"fingerprint": ""})
    return found


def steps() -> Steps:
    return steps_of_episode(episodes(1, 9)[0], SIZE)


@pytest.mark.parametrize("name", ["gvl", "rewind", "vlac", "classifier"])
def test_a_folder_gives_the_term_back(name: str, folder: Path) -> None:
    first, second = (LEARNED[name].load(folder) for _ in range(2))
    assert torch.equal(first.paid(steps()), second.paid(steps()))
    ((term, weight),) = make_terms(parse_reward(f"0.5*{name}:{folder}"), Around(named={}))
    assert weight == 0.5 and torch.equal(term.paid(steps()), first.paid(steps()))
    with pytest.raises(InputError, match="backbone abc"):
        LEARNED[name].load(folder, fingerprint="abc")
    wrong = steps_of_episode(RecordedEpisode(torch.zeros(9, SIZE + 1), True), SIZE)
    with pytest.raises(InputError, match="4 numbers"):
        first.paid(wrong)


def test_the_progress_of_a_step_is_minus_that_of_the_step_back(folder: Path) -> None:
    model = LEARNED["vlac"].load(folder).model
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 50, SIZE, generator=draw)
    assert torch.equal(model(a, b), -model(b, a)) and not model(a, a).any()
    order = LEARNED["gvl"].load(folder).model
    assert torch.equal(order.before(a, b), -order.before(b, a))


def test_the_likelihood_is_a_gaussians(folder: Path) -> None:
    model = LEARNED["viper"].taught(episodes(4, 0), steps=20, seed=0).model
    past = walk(3, torch.Generator().manual_seed(2))[None]
    with torch.no_grad():
        x = model.standard(past)
        mean = x[:, -1] + model.net(x.flatten(1))
        scale = torch.where(model.standard.scale > 0, 1.0 / model.standard.scale, 0.0)
        at = model.standard.mean + mean * scale
        off = at.clone()
        off[:, 0] += 2.0 * scale[0]  # two standard deviations of the features
        fell = model.log_density(past, at) - model.log_density(past, off)
    std = math.exp(model.log_std[0].clamp(-4.0, 2.0).item())
    assert float(fell) == pytest.approx(2.0**2 / (2.0 * std**2) / SIZE, rel=1e-3)


def test_a_likelihood_that_pays_more_for_standing_still_is_refused(folder: Path, tmp_path: Path) -> None:
    term = LEARNED["viper"].taught(episodes(4, 0), steps=20, seed=0)
    for still, refused in ((-0.01, False), (0.01, True)):
        term.model.still.fill_(still)
        term.save(tmp_path, {"fingerprint": ""})
        if not refused:
            LEARNED["viper"].load(tmp_path)
            continue
        with pytest.raises(InputError, match="pays less for standing still"):
            LEARNED["viper"].load(tmp_path)


def test_the_first_step_of_a_clip_teaches_progress_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it alone would be learned from its place; the loss is the same whatever is said there."""
    losses: list[float] = []

    def once(model: Any, loss: Any, steps: int, seed: int) -> None:
        for wrong in (0.0, 5.0):
            said = model.head.forward
            shift = torch.zeros(16, 1).index_fill(0, torch.tensor([0]), wrong)
            monkeypatch.setattr(model.head, "forward", lambda x, said=said, shift=shift: said(x) + shift)
            losses.append(float(loss(torch.Generator().manual_seed(0))))

    monkeypatch.setattr("toddle.algorithms.rewards.rewind.train", once)
    LEARNED["rewind"].taught(episodes(4, 0), steps=1, seed=0)
    assert losses[0] == losses[1] > 0.0


def test_a_clip_runs_backwards_and_its_targets_with_it() -> None:
    targets = (torch.tensor(rewound(5, 5, 2)) + 1) / 5
    assert targets.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.8, 0.6])
    assert sampled(3).tolist() == [0, 1, *[2] * 14] and sampled(31).tolist() == list(range(0, 31, 2))


def test_a_classifier_is_not_certain_on_the_way() -> None:
    """Trained on plain steps it is between 0.02 and 0.98 at less than a quarter of the steps of these."""
    term = LEARNED["classifier"].taught(episodes(20, 0) + episodes(8, 1, far=0.5), steps=200, seed=0)
    said = [value[:, 0] for one in episodes(8, 2) if (value := term.value(steps_of_episode(one, SIZE))) is not None]
    assert float(torch.cat([((one > 0.02) & (one < 0.98)).float() for one in said]).mean()) > 0.5
    assert min(spearman(one.numpy(), range(len(one))) for one in said) > 0.8


def test_progress_knows_nothing_of_what_comes_later(folder: Path) -> None:
    model = LEARNED["rewind"].load(folder).model
    clips = walk(16, torch.Generator().manual_seed(3))[None].requires_grad_()
    (gradient,) = torch.autograd.grad(model(clips)[0, 7], clips)
    assert not gradient[0, 8:].any() and gradient[0, 7].any() and gradient[0, 0].any()


def test_an_episode_is_worth_the_same_in_pieces(folder: Path) -> None:
    """A rollout ends within an episode; the next goes on with it."""
    for name in ("rewind", "viper"):
        term = LEARNED[name](LEARNED[name].taught(episodes(4, 0), steps=20, seed=0).model)
        whole, cut = steps(), 11
        paid = term.paid(whole)
        parts = []
        for rows in (slice(0, cut), slice(cut, None)):
            part = {
                key: value[rows] if isinstance(value, Tensor) else value
                for key, value in vars(whole).items()
                if key not in ("now", "following")
            }
            seen = {
                key: type(whole.now)(getattr(whole, key).features[rows], getattr(whole, key).state[rows])
                for key in ("now", "following")
            }
            parts.append(term.paid(Steps(**part, **seen)))
            term.load_state_dict(term.state_dict())
        assert torch.allclose(torch.cat(parts), paid, atol=1e-6)


@pytest.mark.slow
def test_what_is_learned_rises_in_new_successes_and_not_in_failures_or_controls() -> None:
    data, new, failed = episodes(20, 0) + episodes(8, 1, far=0.5), episodes(8, 2), episodes(8, 3, far=0.5)
    for name in ("gvl", "rewind", "vlac"):
        term = LEARNED[name].taught(data, steps=400, seed=0)
        control = LEARNED[name].taught(shuffled_steps(data, 0), steps=400, seed=0)
        ends = []
        for group in (new, failed):
            said = [term.value(steps_of_episode(one, SIZE)) for one in group]
            ends.append([float(one[-1, 0]) for one in said if one is not None])
        orders = []
        for one in new:
            for judge in (term, control):
                said = judge.value(steps_of_episode(one, SIZE))
                assert said is not None
                orders.append(spearman(said[:, 0].numpy(), range(len(said))))
        assert min(orders[::2]) > 0.9 > abs(sum(orders[1::2])) / len(new), name
        assert min(ends[0]) > max(ends[1]), name
    rewind = RewindTerm.taught(data, steps=400, seed=0)
    there = new[0].features[: len(new[0].features) // 2]
    back = torch.cat([there, there.flip(0)[1:]])
    said = rewind.value(steps_of_episode(RecordedEpisode(back, False), SIZE))
    assert said is not None and float(said[-1, 0]) < 0.5 * float(said[len(there) - 1, 0])
