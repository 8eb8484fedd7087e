"""Pairs of pieces of a dataset, the file of answers, and the scripted judge."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.data.judging import check_differs, judge, nearness, scorer
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.preferences import Answer, AnswerFile, PairConfig, Segment, pairs, read_answers

EPISODES, ROWS = 12, 10


def write(path: Path) -> Path:
    """Twelve episodes of ten rows, of two tasks in turn, that begin at their number; the quicker ones succeed.

    Episode n is paid n a row, ends with success at row 4 where n is above 5, and its actions shake by n / 12.
    """
    features = {
        "observation.state": Feature(size=2),
        "action": Feature(size=1),
        "next.reward": Feature(size=1),
        "next.success": Feature(size=1, dtype="bool"),
    }
    with DatasetWriter(path, DatasetSpec(fps=10, features=features, cameras={}, robot_type="point")) as writer:
        for number in range(EPISODES):
            rows = np.arange(ROWS)
            columns = {
                "observation.state": np.stack([rows + 1.0 * number, 0 * rows], 1).astype(np.float32),
                "action": (number / EPISODES * (-1.0) ** rows).astype(np.float32),
                "next.reward": np.full(ROWS, number, np.float32),
                "next.success": (rows >= 4) & (number > 5),
            }
            writer.add_episode(columns, {}, ("go", "come")[number % 2], {"seed": number, "env": "line"})
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    return LeRobotDataset(write(tmp_path_factory.mktemp("preferences") / "d"))


def test_pairs_are_of_one_task_begin_near_and_come_again(dataset: LeRobotDataset) -> None:
    settings = PairConfig(near=2)
    found = list(itertools.islice(pairs(dataset, settings), 60))
    assert found == list(itertools.islice(pairs(dataset, settings), 60))
    assert found != list(itertools.islice(pairs(dataset, PairConfig(near=2, seed=1)), 60))
    for first, second in found:
        assert first.episode % 2 == second.episode % 2 and 0 < abs(first.episode - second.episode) <= 4
        assert (first.start, second.start) == (0, 0)
        assert [part.stop for part in (first, second)] == [5 if part.episode > 5 else 10 for part in (first, second)]
    assert {part.episode for pair in found[:EPISODES] for part in pair} == set(range(EPISODES))
    pieces = list(itertools.islice(pairs(dataset, PairConfig(rows=3, near=1)), 60))
    assert all(part.stop - part.start == 3 for pair in pieces for part in pair)
    starts = [[part.episode + part.start for part in pair] for pair in pieces]
    assert np.mean([first == second for first, second in starts]) > 0.8  # the same state, where others went there
    with pytest.raises(InputError, match="two episodes of one task of at least 11 rows, got 'none'"):
        next(pairs(dataset, PairConfig(rows=11)))


def test_a_file_of_answers_survives_a_kill_and_refuses_what_is_not_its_own(
    dataset: LeRobotDataset, tmp_path: Path
) -> None:
    path, settings = tmp_path / "more" / "answers.jsonl", PairConfig()
    questions = list(itertools.islice(pairs(dataset, settings), 3))
    with AnswerFile(path, dataset, settings, "me") as file:
        file.append(Answer(*questions[0], 1))
        file.append(Answer(*questions[1], 0))
        with pytest.raises(InputError, match="in use"):
            AnswerFile(path, dataset, settings, "me")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"first": [0, 0, 10], "sec')  # killed while writing
    with AnswerFile(path, dataset, settings, "me") as file:
        assert [each.answer for each in file.answers] == [1, 0]
        file.append(Answer(*questions[2], 2))
    assert path.read_bytes().startswith(whole)
    assert [(each.first, each.second) for each in read_answers(path, dataset)] == questions
    for wrong, by in ((PairConfig(near=3), "me"), (settings, "you")):
        with pytest.raises(InputError, match="with which it was begun"):
            AnswerFile(path, dataset, wrong, by)
    (tmp_path / "mine").write_text("no answers")
    with pytest.raises(InputError, match="expected a file of answers, or none"):
        AnswerFile(tmp_path / "mine", dataset, settings, "me")
    assert (tmp_path / "mine").read_text() == "no answers"
    lines = path.read_text().splitlines()
    for change, said in (
        ({"answer": 3}, "line 2: answer: expected 0, 1 or 2, got 3"),
        ({"first": [99, 0, 1]}, "line 2: first: expected an episode of the dataset, got 99"),
        ({"first": [0, 3, 11]}, "expected rows within episode 0, 0 to 10"),
        ({"second": [0, 1.5, 2]}, "three whole numbers"),
    ):
        path.write_text("\n".join([lines[0], json.dumps(json.loads(lines[1]) | change), *lines[2:]]) + "\n")
        with pytest.raises(InputError, match=said):
            read_answers(path, dataset)
    path.write_text(json.dumps(json.loads(lines[0]) | {"identity": "0" * 16}) + "\n")
    with pytest.raises(InputError, match="answers about"):
        read_answers(path, dataset)


def test_what_decides(dataset: LeRobotDataset, tmp_path: Path) -> None:
    early, late = Segment(2, 0, 10), Segment(8, 0, 5)
    scores = {by: [scorer(dataset, by)(part) for part in (early, late)] for by in ("success", "return", "length")}
    assert scores == {"success": [0.0, 1.0], "return": [20.0, 40.0], "length": [-10.0, -5.0]}
    smooth = scorer(dataset, "smoothness")
    assert [smooth(part) for part in (early, late)] == pytest.approx([-((2 * 2 / 12) ** 2), -((2 * 8 / 12) ** 2)])
    costs: dict[str, object] = {str(n): 1.0 * n for n in range(EPISODES)}
    costs["8"] = [[0.25, 0.0], [0.5, 1.0]]  # stages of two constraints
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"costs": costs}))
    assert [scorer(dataset, "cost-file", path)(part) for part in (early, late)] == [-2.0, -1.75]
    assert [scorer(dataset, "grape", path)(part) for part in (early, late)] == pytest.approx([-0.02, 0.9825])
    del costs["3"]
    path.write_text(json.dumps({"costs": costs}))
    with pytest.raises(InputError, match="costs: episode 3: expected a number, or a list of stages"):
        scorer(dataset, "cost-file", path)


def test_a_judge_is_wrong_as_often_as_it_is_told_and_goes_on(dataset: LeRobotDataset, tmp_path: Path) -> None:
    settings = PairConfig()

    def score(part: Segment) -> float:
        return float(part.episode)

    def answered(name: str, count: int, error: float) -> list[Answer]:
        with AnswerFile(tmp_path / name, dataset, settings, "judge") as file:
            assert judge(dataset, file, settings, score, answers=count, error=error, seed=0) == 0
            return file.answers

    right = answered("right", 200, 0.0)
    assert all(score(each.first) > score(each.second) if each.answer == 1 else True for each in right)
    assert 0.4 < np.mean([each.answer == 1 for each in right]) < 0.6
    some = answered("some", 200, 0.1)
    assert 0.05 < np.mean([a.answer != b.answer for a, b in zip(right, some, strict=True)]) < 0.15
    answered("parts", 70, 0.1)
    assert answered("parts", 200, 0.1) == some
    with AnswerFile(tmp_path / "none", dataset, settings, "judge") as file, pytest.raises(InputError, match="equals"):
        judge(dataset, file, settings, lambda segment: 0.0, answers=1, error=0.0, seed=0)
    with pytest.raises(InputError, match="equals"):
        check_differs(dataset, settings, lambda segment: 0.0)
    check_differs(dataset, settings, score)


def test_nearness_is_to_what_was_demonstrated_from_the_nearest_state(dataset: LeRobotDataset, tmp_path: Path) -> None:
    """Episode n acts n / 12 times (1, -1, ...) at states n to n + 9; the demonstration begins in state 3."""
    spec = DatasetSpec(
        fps=10,
        features={"observation.state": Feature(size=2), "action": Feature(size=1)},
        cameras={},
        robot_type="point",
    )

    def shown(name: str, tasks: tuple[str, ...] = ("go", "come")) -> LeRobotDataset:
        with DatasetWriter(tmp_path / name, spec) as writer:
            for task in tasks:
                columns = {
                    "observation.state": np.stack([np.arange(3, 9), np.zeros(6)], 1).astype(np.float32),
                    "action": np.array([0.5, -0.5, 0.0, 1.0, -1.0, 0.0], np.float32),
                }
                writer.add_episode(columns, {}, task, {"seed": 0, "env": "line"})
        return LeRobotDataset(tmp_path / name)

    demonstration = shown("shown")
    score = nearness(dataset, demonstration, 2)
    # at states 3, 3, 6, and 9, from which the nearest two rows are those from 7 on
    for episode, start, far in ((3, 0, 0.25), (0, 3, 0.5), (6, 0, 0.5), (9, 0, 1.25)):
        assert score(Segment(episode, start, start + 2)) == pytest.approx(-far), episode
    own = nearness(demonstration, demonstration, 2)
    assert all(own(Segment(0, start, start + 2)) == 0.0 for start in range(5))
    with pytest.raises(InputError, match=r"an episode of at least 2 rows of 'come', got 'none'"):
        nearness(dataset, shown("one", ("go",)), 2)
    with pytest.raises(InputError, match=r"an episode of at least 7 rows of '(go|come)'"):
        nearness(dataset, LeRobotDataset(tmp_path / "shown"), 7)
