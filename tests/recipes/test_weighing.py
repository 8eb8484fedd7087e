"""`toddle sft --weigh.by`: what followed each row, the weights of chunks, how often they are drawn, and its control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.recipes.test_sft import setting

from toddle.algorithms.sft import SFT
from toddle.core.errors import InputError
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.returns import row_returns
from toddle.maths.energy_weights import effective_share
from toddle.policies.store import load_policy
from toddle.recipes._sft_data import open_datasets
from toddle.recipes._weighing import WeighConfig, shared_out
from toddle.recipes.sft import Config, make_data, make_learner, make_policy, plan, run

__all__ = ["setting"]
REWARDS = [1.0, 0.0, 2.0, 0.0]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of one sentence: success at row 3 of 6, none, success at row 1 of 4."""
    folder, rng = tmp_path_factory.mktemp("mixed") / "data", np.random.default_rng(0)
    spec = DatasetSpec(
        fps=20,
        features={
            "observation.state": Feature(size=5),
            "action": Feature(size=3),
            "next.success": Feature(size=1, dtype="bool"),
            "next.reward": Feature(size=1),
        },
        robot_type="toy",
        cameras={"close": (32, 32)},
        images="image",
    )
    with DatasetWriter(folder, spec) as writer:
        for length, won in ((6, 3), (4, None), (4, 1)):
            columns = {
                "observation.state": rng.normal(size=(length, 5)).astype(np.float32),
                "action": rng.uniform(-1, 1, (length, 3)).astype(np.float32),
                "next.success": np.arange(length) == (length if won is None else won),
                "next.reward": np.resize(REWARDS, length).astype(np.float32),
            }
            pictures = rng.integers(0, 256, (length, 3, 32, 32), dtype=np.uint8)
            writer.add_episode(columns, {"close": pictures}, "open the drawer")
    return folder


def test_returns_by_hand(mixed: Path) -> None:
    dataset = LeRobotDataset(mixed)
    success = [0.125, 0.25, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert row_returns(dataset, "success", 0.5).tolist() == success
    assert row_returns(dataset, "reward", 0.5)[6:10].tolist() == [1.5, 1.0, 2.0, 0.0]


def asked(setting: Config, mixed: Path, out: Path, **weigh: object) -> Config:
    return replace(setting, dataset=(mixed,), out=out, weigh=WeighConfig(by="success", **weigh))  # type: ignore[arg-type]


def test_chunks_are_drawn_as_they_weigh(setting: Config, mixed: Path, tmp_path: Path) -> None:
    config = asked(setting, mixed, tmp_path / "run", share=0.8)
    datasets = open_datasets(config.dataset)
    policy = make_policy(config, datasets)
    data = make_data(config, policy, datasets)
    weights = config.weigh.weights(data, datasets, seed=0)
    assert weights is not None and effective_share(weights) == pytest.approx(0.8, abs=1e-3)
    rows = data.arrays["rows"][:, -1].numpy()
    order = row_returns(datasets[0], "success", 0.99)[rows]
    assert (np.diff(weights[np.argsort(order, kind="stable")]) >= -1e-12).all()
    learner = SFT(policy, data, replace(config.sft, batch=20000), seed=0, weights=weights)
    drawn = np.bincount(learner._samples(), minlength=len(data)) / 20000
    np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.015)
    control = WeighConfig(by="success", share=0.8, shuffled=True).weights(data, datasets, seed=0)
    assert control is not None and not np.array_equal(control, weights)
    np.testing.assert_allclose(np.sort(control), np.sort(weights))


def test_the_command_weighs_and_says_so(setting: Config, mixed: Path, tmp_path: Path) -> None:
    config = asked(setting, mixed, tmp_path / "run")
    assert "draw chunks by their success: effectively 50 % of them" in plan(config).steps
    run(config)
    assert load_policy(config.out / "policy").kind == "flow_vla"


def test_what_is_beside_is_drawn_in_its_share_and_whole(setting: Config, mixed: Path, tmp_path: Path) -> None:
    """Two of the three episodes are demonstrations (six of 10 rows), all three are beside."""
    config = replace(setting, dataset=(mixed,), episodes=1, beside=(mixed,), beside_share=0.1, out=tmp_path / "run")
    learner, _, _ = make_learner(config)
    beside = learner.data.source == 1
    rows = [set(learner.data.arrays["rows"][beside == which, -1].tolist()) for which in (False, True)]
    assert max(rows[0]) < 6 < max(rows[1])  # the first episode alone, and all of them
    learner.config = replace(config.sft, batch=20000)
    drawn = beside[learner._samples() % len(beside)].mean()
    assert drawn == pytest.approx(0.1, abs=0.01)
    assert "draw 10 % of the decisions from what is beside" in plan(config).steps
    with pytest.raises(InputError, match="beside_share: expected above 0 and below 1, got 1"):
        replace(config, beside_share=1.0)
    with pytest.raises(InputError, match="beside_share: expected nothing without datasets"):
        replace(config, beside=())


def test_shares_by_hand() -> None:
    made = shared_out(np.array([1.0, 3.0, 1.0, 1.0, 3.0, 1.0]), np.array([False, False, True]), 0.2)
    np.testing.assert_allclose(made, [0.1, 0.3, 0.1, 0.1, 0.3, 0.1])


def test_clear_lines(setting: Config, mixed: Path) -> None:
    with pytest.raises(InputError, match=r"weigh\.by: expected success or reward, got 'nothing'; weigh\.share has no"):
        WeighConfig(share=0.3)
    with pytest.raises(InputError, match=r"weigh\.by success: expected a column next\.success"):
        plan(replace(setting, weigh=WeighConfig(by="success")))
