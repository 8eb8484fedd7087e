"""`toddle reward label`: label demonstrations with progress, and draw what the labels are made of."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.files import write_json_atomic
from toddle.core.numbers import Count, Whole
from toddle.core.plan import Plan
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import LabelConfig, LabelledEpisode, label_file, labels_of
from toddle.recipes.reward import check_datasets, labelled, summary
from toddle.reporting.process_reward import draw_episode, write_label_page
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """Label the steps of demonstrations that lead to a key frame, and draw them.

    Writes <out>/labels.json (what `toddle reward train --labels` takes), a picture strip with the curves of speed,
    gripper and labels for each episode, and the page index.html.
    Example: toddle reward label --dataset data/demos --label.still 0.6 --out runs/labels
    """

    dataset: tuple[Path, ...]
    """LeRobot datasets (v3.0), as `toddle record` writes them."""
    out: Path = Path("runs/reward_labels")
    """Folder of labels, strips and page."""
    label: LabelConfig = field(default_factory=LabelConfig)
    """How the labels are made."""
    strips: Whole = 12
    """Episodes to draw, spread evenly over the successes of each dataset."""
    pictures: Count = 10
    """Pictures in a strip."""
    camera: str | None = None
    """Camera of the strips; by default the dataset's first."""

    def __post_init__(self) -> None:
        check_datasets(self.dataset)


def _drawn(config: Config, dataset: LeRobotDataset, episodes: list[LabelledEpisode]) -> list[LabelledEpisode]:
    """Return the episodes to draw.  Raises InputError for a camera that is not there."""
    if not config.strips:
        return []
    camera = _camera(config, dataset)
    dataset.picture_size(camera)
    good = [one for one in episodes if one.success]
    count = min(config.strips, len(good))
    return [good[index * len(good) // count] for index in range(count)]


def _camera(config: Config, dataset: LeRobotDataset) -> str:
    if not dataset.cameras:
        raise problem(f"dataset: {dataset.path}", "a camera", "none", "draw nothing with --strips 0")
    return config.camera or dataset.cameras[0]


def plan(config: Config) -> Plan:
    """Label everything, which takes no time, and say what there is to draw."""
    found = labelled(config.dataset, config.label)
    drawn = sum(len(_drawn(config, dataset, episodes)) for dataset, episodes in found)
    steps = [f"label {summary(dataset, episodes)}" for dataset, episodes in found]
    steps += [f"draw {drawn} episodes", f"write {config.out / 'labels.json'} and {config.out / 'index.html'}"]
    return Plan(steps=steps, memory_bytes=2**29, seconds=2.0 + 1.0 * drawn)


def run(config: Config, *, resume: bool = False) -> None:
    """Label, draw what is not drawn yet, write the page."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        found = labelled(config.dataset, config.label)
        parts = [labels_of(dataset, episodes, config.label) for dataset, episodes in found]
        write_json_atomic(config.out / "labels.json", label_file(parts, config.label))
        drawn = [
            (number, dataset, one)
            for number, (dataset, episodes) in enumerate(found)
            for one in _drawn(config, dataset, episodes)
        ]
        strips = []
        with ProgressLine("strips", max(1, len(drawn))) as bar:
            for done, (number, dataset, one) in enumerate(drawn, start=1):
                path = config.out / "strips" / f"{number}_{one.number:06d}.png"
                if not path.exists():
                    draw_episode(path, dataset, one, _camera(config, dataset), config.label, config.pictures)
                strips.append((path, f"episode {one.number}: {one.task}"))
                bar.advance(done)
        lines = [summary(dataset, episodes) for dataset, episodes in found]
        write_label_page(config.out / "index.html", lines, strips, config.label)
        folder.finish(len(drawn))
    print("\n".join(lines))
    print(f"labels: {config.out / 'labels.json'}; page: {config.out / 'index.html'}")
