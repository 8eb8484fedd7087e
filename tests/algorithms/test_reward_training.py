"""The reward model learns from pictures, its controls do not; resume is bitwise; numbers are those counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.test_progress import write_progress_dataset
from tests.policies.test_process_reward import tiny_model

from toddle.algorithms.reward_evaluation import beside_failures, judge, judge_progress, pooled, verdicts
from toddle.algorithms.reward_training import ProgressSamples, RewardTraining, RewardTrainingConfig
from toddle.core.errors import InputError
from toddle.data.feature_cache import cache_dataset
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.progress import LabelConfig, label_episodes, time_episodes
from toddle.runs.checkpoint import load_state, save_state, states_equal


def write_brightening(folder: Path, episodes: int = 6) -> Path:
    """Episodes of 10 to 15 pictures whose left half brightens with time: no path, no gripper, no success."""
    rng = np.random.default_rng(0)
    spec = DatasetSpec(
        fps=20,
        features={"observation.state": Feature(size=8), "action": Feature(size=3)},
        robot_type="toy",
        cameras={"close": (32, 32)},
        images="image",
    )
    with DatasetWriter(folder, spec) as writer:
        for number in range(episodes):
            steps = 10 + number
            pictures = rng.integers(0, 60, (steps, 3, 32, 32))
            pictures[..., :16] += np.linspace(0, 190, steps).astype(int)[:, None, None, None]
            columns = {
                "observation.state": rng.normal(size=(steps, 8)).astype(np.float32),
                "action": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
            }
            writer.add_episode(columns, {"close": pictures.astype(np.uint8)}, task="fill the glass")
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[ProgressSamples]:
    """Two of the toy dataset's episodes to train on, and the two others."""
    root = tmp_path_factory.mktemp("reward")
    dataset = LeRobotDataset(write_progress_dataset(root / "data", rests=(9, 12, 14, 11)))
    source = tiny_model().features
    cache = cache_dataset(root, source.fingerprint, dataset, ("close",), source.shape, source.encode)
    episodes = label_episodes(dataset, LabelConfig())
    return [ProgressSamples([(dataset, cache, part)]) for part in (episodes[:2], episodes[2:])]


def learner(samples: ProgressSamples, *, seed: int = 0, controls: int = 1, proprio: int = 0) -> RewardTraining:
    names = ["model", *(f"control_{i}" for i in range(controls))]
    models = {name: tiny_model(seed=i, proprio=proprio) for i, name in enumerate(names)}
    config = RewardTrainingConfig(steps=80, batch=32, learning_rate=5e-3)
    return RewardTraining(models, samples, config, seed=seed)


def test_it_learns_what_the_pictures_say_and_the_controls_do_not(samples: list[ProgressSamples]) -> None:
    train, held = samples
    made = learner(train, controls=2)
    rows = [made.step() for _ in range(80)]
    assert rows[0]["reward_model/loss"] > 0.5 > 0.2 > rows[-1]["reward_model/loss"]
    found = {name: judge(held.yes(model), held) for name, model in made.models.items()}
    assert found["model"]["area"]["value"] > 0.98 and found["model"]["recall"]["value"] >= 0.9
    controls = pooled([found[f"control_{i}"] for i in range(2)])
    assert controls["area"]["value"] < 0.7  # two kinds of pictures: far below is chance too
    assert sorted(made.labels["control_0"]) == sorted(train.labels)
    assert not np.array_equal(made.labels["control_0"], made.labels["control_1"])


@pytest.mark.parametrize("says", ["order", pytest.param("steps-to-go", marks=pytest.mark.slow)])
def test_progress_is_learned_from_time_and_not_from_shuffled_times(
    tmp_path_factory: pytest.TempPathFactory, says: Any
) -> None:
    """Pictures that brighten with time: in other episodes what is said rises from 0 to 1; resume is bitwise."""
    root = tmp_path_factory.mktemp("progress")
    dataset = LeRobotDataset(write_brightening(root / "data"))
    source = tiny_model().features
    cache = cache_dataset(root, source.fingerprint, dataset, ("close",), source.shape, source.encode)
    episodes = time_episodes(dataset)
    train, held = (ProgressSamples([(dataset, cache, part)]) for part in (episodes[:4], episodes[4:]))
    more = {"bins": 8} if says == "steps-to-go" else {}

    def made() -> RewardTraining:
        models = {name: tiny_model(seed=i, says=says, **more) for i, name in enumerate(("model", "control_0"))}
        return RewardTraining(models, train, RewardTrainingConfig(steps=steps, batch=32, learning_rate=rate), seed=0)

    steps, rate = (60, 5e-3) if says == "order" else (200, 1e-3)  # faster, it learns its four episodes by heart
    whole, again = made(), made()
    for _ in range(steps // 2):
        whole.step()
    save_state(root / "half", whole.state_dict())
    again.load_state_dict(load_state(root / "half")[0])
    for learner in (whole, again):
        for _ in range(steps // 2):
            learner.step()
        learner.calibrate()
    assert states_equal(whole.state_dict(), again.state_dict())
    found = {name: judge_progress(held.progress(model), held) for name, model in whole.models.items()}
    model, control = found["model"], found["control_0"]
    assert model["order"]["value"] > 0.8 and abs(model["begin"]["value"]) < 0.25 and model["end"]["value"] > 0.5
    assert control["order"]["value"] < 0.6 * model["order"]["value"]
    assert sorted(whole.labels["control_0"]) == sorted(train.to_success)


def test_failures_are_compared_pair_by_pair(samples: list[ProgressSamples]) -> None:
    good, bad = samples
    ends = np.flatnonzero(np.diff(good.episode, append=9)), np.flatnonzero(np.diff(bad.episode, append=9))
    won, lost = np.zeros(len(good)), np.zeros(len(bad))
    won[ends[0]], lost[ends[1]] = (1.0, 0.5), (0.7, 0.2)
    found = beside_failures(won, good, lost, bad)
    assert found["below"] == 0.75 and found["failures"]["end"] == pytest.approx(0.45)


def test_classes_weigh_the_same(samples: list[ProgressSamples]) -> None:
    """10 of 60 steps are labelled: yes weighs 60 / (2 * 10), no 60 / (2 * 50)."""
    assert samples[0].labels.sum() == 10 and len(samples[0]) == 60
    assert learner(samples[0]).weight.tolist() == pytest.approx([0.6, 3.0])


@pytest.mark.parametrize("proprio", [0, 8])
def test_train_four_equals_train_two_and_resume_two(
    samples: list[ProgressSamples], tmp_path: Path, proprio: int
) -> None:
    whole = learner(samples[0], proprio=proprio)
    rows = [whole.step() for _ in range(4)]
    first = learner(samples[0], proprio=proprio)
    assert [first.step() for _ in range(2)] == rows[:2]
    save_state(tmp_path / "state", first.state_dict())
    second = learner(samples[0], proprio=proprio)
    second.step()
    second.load_state_dict(load_state(tmp_path / "state")[0])
    assert [second.step() for _ in range(2)] == rows[2:]
    assert states_equal(second.state_dict(), whole.state_dict())


def test_steps_of_several_datasets_keep_their_pictures(samples: list[ProgressSamples], tmp_path: Path) -> None:
    """The answer to a step does not depend on what it is asked together with."""
    train, held = samples
    model = tiny_model()
    alone = np.concatenate([train.yes(model), held.yes(model)])
    dataset = LeRobotDataset(write_progress_dataset(tmp_path / "data", rests=(9, 12, 14, 11)))
    source = model.features
    caches = [
        cache_dataset(tmp_path / name, source.fingerprint, dataset, ("close",), source.shape, source.encode)
        for name in ("a", "b")
    ]
    parts = [(dataset, cache, [part]) for cache in caches for part in train.episodes[:1]]
    both = ProgressSamples([*parts, (dataset, caches[0], held.episodes)])
    expected = np.concatenate([alone[:30], alone[:30], alone[60:]])
    np.testing.assert_allclose(both.yes(model, batch=7), expected, atol=1e-6)


def test_numbers_are_those_of_a_count_by_hand(samples: list[ProgressSamples]) -> None:
    """Rests at steps 14 and 11: labels at 9 to 13 and 6 to 10, thirty steps each."""
    held = samples[1]
    yes = np.zeros(60)
    yes[[9, 10, 11, 12]] = 0.9  # four of five, in the first episode
    yes[[20, 21]] = 0.8  # two that are wrong
    yes[30 + np.array([6, 7, 25, 26])] = 0.7  # two of five, and two that are wrong, in the second
    found = judge(yes, held)
    assert found["episodes"] == 2 and found["steps"] == 60 and found["labelled_share"] == pytest.approx(10 / 60)
    assert found["precision"]["value"] == pytest.approx(6 / 10)
    assert found["recall"]["value"] == pytest.approx(6 / 10)
    assert found["specificity"]["value"] == pytest.approx(46 / 50)
    assert found["yes_share"]["value"] == pytest.approx(10 / 60)
    # pairs in order: first episode 4 of 5 above all 25, the fifth level with 23 and below 2; second alike, 2 and 3
    areas = [(4 * 25 + 23 / 2) / 125, (2 * (23 + 1) + 3 * 23 / 2) / 125]
    assert found["area"]["value"] == pytest.approx(np.mean(areas))
    first = judge(yes, held, [0])
    assert first["precision"] == {"value": pytest.approx(4 / 6), "low": None, "high": None}
    silent = judge(np.zeros(60), held)
    assert silent["precision"] is None and silent["order"] is None and silent["area"]["value"] == 0.5


def test_order_is_minus_one_where_the_answers_only_rise(samples: list[ProgressSamples]) -> None:
    rising = judge(np.tile(np.linspace(0, 1, 30), 2), samples[1])
    assert rising["order"]["value"] == pytest.approx(-1.0)


def test_controls_are_averaged_and_shares_stay_shares(samples: list[ProgressSamples]) -> None:
    """Recall 1 and 0, one step alone and all of them: Student's interval of two would reach far below 0."""
    everything, nothing = judge(np.ones(60), samples[1]), judge(np.zeros(60), samples[1])
    both = pooled([everything, nothing])
    assert both["number"] == 2 and both["recall"] == {"value": 0.5, "low": 0.0, "high": 1.0}
    for one in (both, pooled([nothing, everything])):  # one of them never says yes
        assert one["precision"] == {"value": pytest.approx(10 / 60), "low": None, "high": None}
        assert one["order"] is None and one["order_of_labels"]["value"] > 0


def area(value: float, low: float, high: float) -> dict[str, dict[str, float]]:
    return {"area": {"value": value, "low": low, "high": high}}


def test_verdicts() -> None:
    """The model gains 0.4 over chance for sure: controls must stay below 0.7."""
    good = area(0.95, 0.9, 1.0)
    assert verdicts(good, None) == ["the model: it tells steps apart better than chance"]
    assert "fail, as they must" in verdicts(good, area(0.52, 0.51, 0.53))[1]
    assert "do NOT fail" in verdicts(good, area(0.9, 0.8, 1.0))[1]
    assert "not resolved" in verdicts(good, area(0.6, 0.4, 0.8))[1]
    assert verdicts(area(0.6, 0.4, 0.8), good) == [
        "the model: not resolved whether it tells steps apart better than chance"
    ]


def test_labels_of_one_kind_teach_nothing(samples: list[ProgressSamples]) -> None:
    made = samples[0]
    kept, made.labels = made.labels, np.zeros_like(made.labels)
    with pytest.raises(InputError, match="labels: expected some steps of either kind, got '0 of 60"):
        learner(made)
    made.labels = kept
    with pytest.raises(InputError, match="episodes: expected at least one"):
        ProgressSamples([])
