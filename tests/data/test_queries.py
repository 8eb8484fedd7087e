"""Informative questions need fewer answers than any; the posterior is that of the answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.test_preferences import write

from toddle.data.judging import judge, scorer
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.preferences import Answer, AnswerFile, PairConfig
from toddle.data.queries import features_of, models, questions


def test_models_agree_with_answers_as_bayes_says() -> None:
    """In one dimension the models are 1 and -1; after n answers of a difference of 1, P(1) = sigmoid(n)."""
    for count, share in ((0, 0.5), (1, 0.7311), (3, 0.9526), (5, 0.9933)):
        found = models(np.ones((count, 1)), np.random.default_rng(0))
        assert (found > 0).mean() == pytest.approx(share, abs=0.05)


def test_informative_questions_tell_more_than_any(tmp_path: Path) -> None:
    """Somebody likes one direction of the last state: after eight answers the mean model points there better."""
    spec = DatasetSpec(
        fps=10,
        features={"observation.state": Feature(size=4), "action": Feature(size=1)},
        cameras={},
        robot_type="point",
    )
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "d", spec) as writer:
        for _ in range(40):
            state = np.cumsum(rng.normal(size=(5, 4)) * rng.choice([0.1, 3.0]), 0).astype(np.float32)
            writer.add_episode({"observation.state": state, "action": np.zeros(5, np.float32)}, {}, "go", {})
    dataset = LeRobotDataset(tmp_path / "d")
    cosines: dict[str, list[float]] = {"any": [], "informative": []}
    for seed in range(2):
        liked = np.random.default_rng(seed).normal(size=4)
        for choose, found in cosines.items():
            settings = PairConfig(choose=choose, near=40, seed=seed)  # type: ignore[arg-type]
            answers: list[Answer] = []
            asked = questions(dataset, settings, lambda answers=answers: answers)  # type: ignore[misc]
            for _ in range(8):
                pair = next(asked)
                first, second = features_of(dataset, pair)[:, 3:] @ liked
                answers.append(Answer(*pair, 1 if first > second else 2))
            pieces = features_of(dataset, [piece for each in answers for piece in (each.first, each.second)])
            scale = np.maximum(features_of(dataset, [a.first for a in answers]).std(0), 1e-6)
            sides = np.array([1.0 if each.answer == 1 else -1.0 for each in answers])[:, None]
            mean = models((pieces[0::2] - pieces[1::2]) / scale * sides, np.random.default_rng(seed)).mean(0)
            mean = mean[3:] / scale[3:]
            found.append(float(mean @ liked / np.linalg.norm(mean) / np.linalg.norm(liked)))
    assert np.mean(cosines["informative"]) > np.mean(cosines["any"]) > 0.3


def test_a_file_goes_on_with_the_same_questions(tmp_path: Path) -> None:

    dataset, settings = LeRobotDataset(write(tmp_path / "d")), PairConfig(choose="informative")
    score, given = scorer(dataset, "return"), []
    for name, counts in (("whole", (12,)), ("parts", (5, 12))):
        for count in counts:
            with AnswerFile(tmp_path / name, dataset, settings, "judge") as file:
                judge(dataset, file, settings, score, answers=count, error=0.2, seed=0)
                given.append(list(file.answers))
    assert given[0] == given[2] and len(given[0]) == 12
