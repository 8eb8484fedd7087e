"""Which pair to ask about next: any, or the one of several whose answer is expected to tell most.

What somebody prefers is taken to be linear in a few numbers of a piece (its length, how large its actions are, how much
they change, the state it ends in), as DemPref and APReL do; models of it are unit vectors, kept in proportion to how
well they agree with the answers so far.  The next question is the one with the most information gain, in bits, among
`CANDIDATES`.
Sources: Palan et al. 2019 (arXiv 1906.08928), whose volume removal would ask about equals; Biyik et al. 2019 (arXiv
1910.04365).  Deviation: models are drawn anew and weighted for each question, in place of a Markov chain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import Answer, PairConfig, Segment, pairs
from toddle.maths.preferences import bradley_terry, information_gain

__all__ = ["features_of", "models", "questions"]

Array = NDArray[Any]
Pair = tuple[Segment, Segment]
CANDIDATES, DRAWN, KEPT = 20, 4000, 500
BETA = 1.0
"""How sure answers are of a difference of one standard deviation."""


def questions(dataset: LeRobotDataset, settings: PairConfig, known: Callable[[], Sequence[Answer]]) -> Iterator[Pair]:
    """Yield what to ask, without end, the same for the same answers; `known` are those given when it is asked for."""
    drawn = pairs(dataset, settings)
    if settings.choose == "any":
        yield from drawn
    first = list(itertools.islice(drawn, 4 * CANDIDATES))
    numbers = features_of(dataset, [piece for pair in first for piece in pair])
    scale = np.maximum(numbers.std(0), 1e-6)
    pool = itertools.chain(first, drawn)
    for number in itertools.count():
        answers = [each for each in known() if each.answer]
        said = _differences(dataset, [(each.first, each.second) for each in answers]) / scale
        sides = np.array([1.0 if each.answer == 1 else -1.0 for each in answers])
        found = models(said * sides[:, None], numpy_generator(settings.seed, "models", number))
        offered = list(itertools.islice(pool, CANDIDATES))
        better = torch.from_numpy(found @ (_differences(dataset, offered) / scale).T)
        yield offered[int(information_gain(bradley_terry(better, torch.zeros(()), BETA)).argmax())]


def models(preferred: Array, generator: np.random.Generator) -> Array:
    """Return `KEPT` unit vectors (KEPT, F) as likely as the answers make them.

    preferred: (N, F) numbers of what was preferred minus those of the other.
    """
    drawn = generator.normal(size=(DRAWN, preferred.shape[1]))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    weight = -np.logaddexp(0.0, -BETA * drawn @ preferred.T).sum(1)
    weight = np.exp(weight - weight.max())
    found: Array = drawn[generator.choice(DRAWN, KEPT, p=weight / weight.sum())]
    return found


def features_of(dataset: LeRobotDataset, pieces: Sequence[Segment]) -> Array:
    """Return the numbers (N, F) of pieces."""
    state, action = (dataset.vector(name).astype(np.float64) for name in ("observation.state", "action"))
    begin = {episode.index: episode.start for episode in dataset.episodes}
    rows = []
    for piece in pieces:
        start, stop = begin[piece.episode] + piece.start, begin[piece.episode] + piece.stop
        own = action[start:stop]
        change = np.square(np.diff(own, axis=0)).mean() if len(own) > 1 else 0.0
        rows.append([stop - start, np.square(own).mean(), change, *state[stop - 1]])
    return np.array(rows, np.float64).reshape(len(rows), 3 + state.shape[1])


def _differences(dataset: LeRobotDataset, asked: Sequence[Pair]) -> Array:
    """Return the numbers (N, F) of the first pieces minus those of the second."""
    first, second = (features_of(dataset, [pair[side] for pair in asked]) for side in (0, 1))
    return first - second
