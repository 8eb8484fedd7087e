"""The lerobot package itself reads our datasets (lerobot 0.4.4, the last for Python 3.11, in its own environment)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from toddle.data.layout import DatasetSpec, Feature
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.lerobot_writer import DatasetWriter
from toddle.data.subset import write_subset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TORCH = ["torch==2.13.0"]
BARE = ["lerobot==0.4.4", "torchvision==0.28.0"]  # --no-deps: lerobot asks for an older torch
NEEDS = [
    "datasets==4.8.5",
    "diffusers==0.35.2",
    "huggingface-hub==0.35.3",
    "av==15.1.0",
    "draccus==0.10.0",
    "deepdiff==8.6.2",
    "jsonlines",
    "gymnasium==1.4.0",
    "imageio",
    "termcolor",
    "packaging<26",
    "opencv-python-headless==4.12.0.88",
    "numpy==2.2.6",
    "num2words",
    "pyserial",
    "einops",
    "safetensors",
    "torchcodec>=0.11,<0.14",
    "accelerate>=1.10,<2",
]


@pytest.fixture(scope="session")
def lerobot_python() -> Path:
    """Python of an environment with lerobot; built once, in TODDLE_PARITY_ENV or the user's cache folder."""
    home = Path(os.environ.get("TODDLE_PARITY_ENV", Path.home() / ".cache/toddle/parity/lerobot-0.4.4"))
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        (home / "constraints.txt").write_text("torch==2.13.0\nnumpy==2.2.6\n")
        for arguments in (TORCH, ["--no-deps", *BARE], NEEDS):
            command = [str(python), "-m", "pip", "install", "-q", "-c", str(home / "constraints.txt"), *arguments]
            subprocess.run(command, check=True)
        (home / "ready").touch()
    return python


def write(path: Path, images: Literal["video", "image"]) -> None:
    features = {
        "observation.state": Feature(size=7),
        "action": Feature(size=3),
        "next.reward": Feature(size=1),
        "next.success": Feature(size=1, dtype="bool"),
    }
    spec = DatasetSpec(
        fps=20, features=features, cameras={"front": (32, 48)}, robot_type="arm", images=images, image_stride=2
    )
    rng = np.random.default_rng(0)
    with DatasetWriter(path, spec) as writer:
        for number, rows in enumerate((11, 6, 9)):
            columns: dict[str, Any] = {
                "observation.state": rng.normal(size=(rows, 7)),
                "action": rng.normal(size=(rows, 3)),
                "next.reward": rng.normal(size=rows),
                "next.success": np.arange(rows) == rows - 1,
            }
            ramp = np.add.outer(np.arange(32), np.arange(48))[None, None]
            shade = np.arange(-(-rows // 2))[:, None, None, None] * 11 + np.arange(3)[None, :, None, None] * 50
            pictures = ((ramp + shade + 30 * number) % 256).astype(np.uint8)
            writer.add_episode(columns, {"front": pictures}, f"task {number % 2}", {"seed": number})


@pytest.mark.parametrize("images", ["image", "video"])
def test_lerobot_reads_what_we_write(tmp_path: Path, lerobot_python: Path, images: Literal["video", "image"]) -> None:
    write(tmp_path / "data", images)
    script = Path(__file__).with_name("read_by_lerobot.py")
    command = [str(lerobot_python), str(script), str(tmp_path / "data"), str(tmp_path / "out.npz")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if images == "video" and "torchcodec" in done.stderr and "libav" in done.stderr:
        pytest.skip("lerobot decodes video with torchcodec, which needs the system's FFmpeg libraries")
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = np.load(tmp_path / "out.npz"), LeRobotDataset(tmp_path / "data")
    for name in ours.features:
        column = ours.column(name)
        if name != "action":
            np.testing.assert_array_equal(theirs[name].reshape(column.shape), column)
    assert theirs["task"].tolist() == [ours.task_of(row) for row in range(ours.num_frames)]
    assert theirs["ends"].tolist() == [span.stop for span in ours.episodes]
    assert (int(theirs["fps"]), str(theirs["robot"])) == (20, "arm")
    for span in ours.episodes:  # action chunks of 4 by their delta_timestamps, with their padding
        ahead = np.arange(span.start, span.stop)[:, None] + np.arange(4)
        expected = ours.column("action")[np.minimum(ahead, span.stop - 1)]
        np.testing.assert_array_equal(theirs["action"][span.start : span.stop], expected)
        np.testing.assert_array_equal(theirs["action_is_pad"][span.start : span.stop], ahead >= span.stop)
    pictures = theirs["observation.images.front"] * 255.0
    mine = ours.images("front", np.arange(ours.num_frames)).astype(float)
    assert np.abs(pictures - mine).max() <= (0.01 if images == "image" else 16.0)
    assert np.abs(pictures - mine).mean() <= (0.01 if images == "image" else 2.0)
    for name in ("mean", "std", "min", "max", "q01", "q99"):
        np.testing.assert_allclose(theirs[f"stats/action/{name}"], getattr(ours.statistics("action"), name))
        assert theirs[f"stats/observation.images.front/{name}"].shape == (3, 1, 1)


@pytest.mark.parametrize(("images", "video"), [("image", "auto"), ("video", "copy"), ("video", "encode")])
def test_lerobot_reads_a_subset(tmp_path: Path, lerobot_python: Path, images: Any, video: Any) -> None:
    """What `toddle quality --keep` writes: every column, sentence, end and picture as we read it."""
    write(tmp_path / "data", images)
    write_subset(tmp_path / "kept", [(LeRobotDataset(tmp_path / "data"), [0, 2])], video=video)
    script = Path(__file__).with_name("read_by_lerobot.py")
    command = [str(lerobot_python), str(script), str(tmp_path / "kept"), str(tmp_path / "out.npz")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if images == "video" and "torchcodec" in done.stderr and "libav" in done.stderr:
        pytest.skip("lerobot decodes video with torchcodec, which needs the system's FFmpeg libraries")
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = np.load(tmp_path / "out.npz"), LeRobotDataset(tmp_path / "kept")
    assert theirs["ends"].tolist() == [11, 20] == [episode.stop for episode in ours.episodes]
    for name in set(ours.features) - {"action"}:
        column = ours.column(name)
        np.testing.assert_array_equal(theirs[name].reshape(column.shape), column)
    assert theirs["task"].tolist() == [ours.task_of(row) for row in range(ours.num_frames)]
    pictures = theirs["observation.images.front"] * 255.0
    assert np.abs(pictures - ours.images("front", np.arange(20))).mean() <= (0.01 if images == "image" else 2.0)
