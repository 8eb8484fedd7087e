"""`toddle quality` on small datasets: what it finds, the dataset it writes, and what is wrong is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_dataset import write_foreign_dataset

from toddle.cli import main
from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.picture_faults import look, picture_faults
from toddle.data.quality import QualityConfig, judge, sources
from toddle.data.subset import write_subset

TASKS = ("open the drawer", "press the button")


def write(folder: Path, *, episodes: int = 6, tremor: float = 0.0, pause: int = 0, seed: int = 0, **spec: Any) -> Path:
    """Straight minimum-jerk motions of 40 rows at 20 rows a second, two tasks by turns.

    tremor: metres of a jitter at 5 Hz, pause: rows of standing still in the middle.
    """
    rng = np.random.default_rng(seed)
    features = {
        "observation.state": Feature(size=4),
        "observation.tool_position": Feature(size=3),
        "action": Feature(size=4),
        "next.success": Feature(size=1, dtype="bool"),
    }
    kind = DatasetSpec(**{"fps": 20, "features": features, "cameras": {"front": (16, 16)}, "robot_type": "toy", **spec})
    with DatasetWriter(folder, kind) as writer:
        for number in range(episodes):
            phase = np.linspace(0, 1, 40)
            phase = 10 * phase**3 - 15 * phase**4 + 6 * phase**5
            path = phase[:, None] * rng.uniform(0.2, 0.4, 3)
            path = np.concatenate([path[:20], np.repeat(path[20:21], pause, 0), path[20:]])
            path[:, 0] += tremor * np.sin(2 * np.pi * 5 * np.arange(len(path)) / 20 + rng.uniform(0, 6))
            move = np.diff(path, axis=0, append=path[-1:]) * 20
            grip = np.sign(phase.mean() - rng.uniform(0.2, 0.8)) * np.ones(len(path))
            columns = {
                "observation.state": np.insert(path, 3, 0.0, axis=1),
                "observation.tool_position": path,
                "action": np.insert(move, 3, grip, axis=1),
                "next.success": np.arange(len(path)) == len(path) - 1,
            }
            shade = np.arange(len(path))[:, None, None, None] * 4 + 10 * number
            pictures = np.broadcast_to(shade % 256, (len(path), 3, 16, 16)).astype(np.uint8)
            images = {camera: pictures for camera in kind.cameras}
            writer.add_episode(columns, images, TASKS[number % 2], {"env": f"toy/{number % 2}"})
    return folder


def run(*arguments: Any, status: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(["quality", *map(str, arguments)])
    assert end.value.code == status


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capsys.readouterr()
    run(*arguments, status=2)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("quality")
    return write(root / "still"), write(root / "shaky", tremor=0.01, pause=8, seed=1)


def test_what_is_worse_is_found_worse(both: tuple[Path, Path]) -> None:
    config = QualityConfig()
    judged = judge(sources([LeRobotDataset(folder) for folder in both], config), config)
    for name in ("seconds", "squared_jerk"):
        assert judged.mean(0, name) < judged.mean(1, name), name
    for name in ("log_jerk", "arc_length", "efficiency"):
        assert judged.mean(0, name) > judged.mean(1, name), name
    assert judged.score(0) > 0.6 > 0.4 > judged.score(1)
    assert judged.mean(0, "seconds") == pytest.approx(2.0) and judged.mean(0, "efficiency") == pytest.approx(1.0)
    assert {one.source for one in judged.ranked()[:4]} == {1}


def test_repeats_failures_and_drift_are_named(tmp_path: Path) -> None:
    dataset = LeRobotDataset(write(tmp_path / "data", episodes=30, cameras={}))
    twice = LeRobotDataset(shutil.copytree(dataset.path, tmp_path / "twice"))
    found = sources([dataset, twice], QualityConfig())
    judged = judge(found, QualityConfig())
    assert not any(one.faults for one in judged.of(0))
    assert all(one.faults == [f"equal to episode {one.number} of {dataset.path}"] for one in judged.of(1))
    state = twice.column("observation.state").copy()
    for episode in twice.episodes[20:]:  # a joint that slips by 1 mm a row in the last third
        state[episode.start : episode.stop, 1] += 0.001 * np.arange(episode.length)
    twice._columns["observation.state"] = state
    twice._columns["next.success"] = np.zeros(twice.num_frames, bool)
    (source,) = sources([twice], QualityConfig())
    judged = judge([source], QualityConfig())
    assert [note for note in source.notes if note.startswith("calibration: observation.state:1")]
    assert not [note for note in source.notes if note.startswith("calibration: observation.state:0")]
    assert all(one.faults == ["no success"] for one in judged.episodes)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(kept: LeRobotDataset, chosen: list[tuple[LeRobotDataset, int]], blur: int = 0) -> None:
    """The kept episodes are those chosen (dataset, place), in every column and picture."""
    assert len(kept.episodes) == len(chosen)
    for episode, (source, place) in zip(kept.episodes, chosen, strict=True):
        rows = np.arange(episode.start, episode.stop)
        theirs = np.arange(source.episodes[place].start, source.episodes[place].stop)
        for name in ("observation.state", "action", "next.success", "timestamp"):
            assert np.array_equal(kept.column(name)[rows], source.column(name)[theirs]), name
        apart = kept.images("front", rows).astype(int) - source.images("front", theirs)
        assert abs(apart).max() <= blur
        assert kept.task_of(int(rows[0])) == source.task_of(int(theirs[0]))
        assert episode.facts["env"] == source.episodes[place].facts["env"]
    assert kept.statistics("action").mean == pytest.approx(kept.column("action").mean(0), abs=1e-6)


@pytest.mark.parametrize(("images", "video", "blur"), [("video", "encode", 4), ("image", "auto", 0)])
def test_a_subset_holds_what_was_chosen_and_resumes(tmp_path: Path, images: str, video: Any, blur: int) -> None:
    parts = [LeRobotDataset(write(tmp_path / name, episodes=3, seed=ord(name), images=images)) for name in "ab"]
    write_subset(tmp_path / "out", [(parts[0], [0, 2]), (parts[1], [1])], video=video)
    same(LeRobotDataset(tmp_path / "out"), [(parts[0], 0), (parts[0], 2), (parts[1], 1)], blur)
    whole = files(tmp_path / "out")
    for leftover in ("meta/info.json", "meta/tasks.parquet", "data/chunk-000/file-001.parquet"):
        (tmp_path / "out" / leftover).unlink()  # as a kill before the end leaves it
    write_subset(tmp_path / "out", [(parts[0], [0, 2]), (parts[1], [1])], video=video)
    assert files(tmp_path / "out") == whole


def test_the_better_two_thirds_are_a_dataset(both: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*both, "--keep", "all-but-worst", "0.34", "--out", out, "--worst", "1"]
    run(*arguments, "--dry-run")
    assert not out.exists()
    run(*arguments)
    facts = json.loads((out / "quality.json").read_text())
    still, shaky = (LeRobotDataset(folder) for folder in both)
    chosen = [
        sorted(one["episode"] for one in facts["episodes"] if one["kept"] and one["dataset"] == str(folder))
        for folder in both
    ]
    assert chosen[0] == list(range(6)) and len(chosen[1]) == 2
    same(LeRobotDataset(out), [(still, number) for number in chosen[0]] + [(shaky, number) for number in chosen[1]])
    assert "<svg" in (out / "index.html").read_text()


def write_faults(folder: Path) -> Path:
    """Pictures grow brighter as the hand moves; one episode is black for a while, one frozen, one late by 3 rows."""
    spec = DatasetSpec(
        fps=20,
        robot_type="toy",
        images="image",
        cameras={"front": (16, 16)},
        features={"observation.tool_position": Feature(size=1), "action": Feature(size=1)},
    )
    way = np.cumsum(1.0 + np.sin(np.arange(40) / 2) ** 2)
    with DatasetWriter(folder, spec) as writer:
        for fault in ("none", "black", "frozen", "late"):
            shade = 30 + way * 3.0
            shade[10:20] = {"black": 0.0, "frozen": shade[10]}.get(fault, shade[10:20])
            shade = np.append([shade[0]] * 3, shade[:-3]) if fault == "late" else shade
            pictures = np.broadcast_to(shade[:, None, None, None], (40, 3, 16, 16)).astype(np.uint8)
            columns = {"observation.tool_position": way, "action": np.sin(np.arange(40.0))}
            writer.add_episode(columns, {"front": pictures}, fault)
    return folder


FAULTS = [
    [],
    ["front: 25% of the pictures are black"],
    ["front: 23% of the pictures are frozen"],  # 9 of 39
    ["front: pictures are late by about 0.15 s"],
]


def test_faults_of_pictures_are_found(tmp_path: Path) -> None:
    dataset = LeRobotDataset(write_faults(tmp_path / "data"))
    seen = [look(dataset, "front", place, "observation.tool_position") for place in range(4)]
    assert picture_faults(seen, "front", 1 / 20) == FAULTS


@pytest.mark.slow
def test_looking_at_pictures_goes_on_after_a_kill(tmp_path: Path) -> None:
    arguments = (write_faults(tmp_path / "data"), "--pictures", "--worst", "0", "--out", tmp_path / "page")
    run(*arguments)
    found = json.loads((tmp_path / "page/quality.json").read_text())
    assert sorted(one["faults"] for one in found["episodes"]) == sorted(FAULTS)
    seen = tmp_path / "page/pictures.jsonl"
    whole = seen.read_text()
    seen.write_text(whole[: len(whole) // 2])  # as a kill leaves it
    run(*arguments, "--resume")
    assert seen.read_text() == whole and json.loads((tmp_path / "page/quality.json").read_text()) == found


def test_others_datasets_are_judged_by_what_they_have(tmp_path: Path) -> None:
    folder = write_foreign_dataset(tmp_path / "foreign")
    judged = judge(sources([LeRobotDataset(folder)], QualityConfig()), QualityConfig())
    assert all("squared_jerk" not in one.metrics and "no_ops" in one.metrics for one in judged.episodes)
    assert any("--judge.path" in note for note in judged.sources[0].notes)
    source = LeRobotDataset(folder)
    write_subset(tmp_path / "kept", [(source, [0, 2, 3])])
    kept, wanted = LeRobotDataset(tmp_path / "kept"), [source.episodes[place] for place in (0, 2, 3)]
    rows = np.concatenate([np.arange(episode.start, episode.stop) for episode in wanted])
    assert np.array_equal(kept.column("action"), source.column("action")[rows])


def test_mistakes_are_one_line(tmp_path: Path, both: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out", "--dry-run")
    assert "best SHARE" in refused(capsys, both[0], "--keep", "best", "1.5", *out)
    assert "best SHARE" in refused(capsys, both[0], "--keep", "most", "0.5", *out)
    assert "got 'nowhere'" in refused(capsys, "nowhere", *out)
    assert "dataset: expected different ones" in refused(capsys, both[0], both[0], *out)
    assert "other than the datasets'" in refused(
        capsys, both[0], "--keep", "best", "0.5", "--out", both[0], "--dry-run"
    )
    assert "a place from -4 to 3" in refused(capsys, both[0], "--judge.gripper", "9", *out)
    assert "did you mean 'observation.state'" in refused(capsys, both[0], "--judge.path", "observation.stat:0", *out)
    other = write(tmp_path / "other", episodes=2, fps=10)
    assert "fps" in refused(capsys, both[0], other, "--keep", "best", "0.5", *out)
    assert not (tmp_path / "out").exists()
