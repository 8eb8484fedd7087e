"""`toddle reward fit`: train terms of a composed reward, and their controls, on recorded episodes."""

from __future__ import annotations

import time
from dataclasses import field
from pathlib import Path

from toddle.algorithms.rewards.compose import LEARNED
from toddle.algorithms.rewards.learned import shuffled_steps
from toddle.core.config import config
from toddle.core.errors import nearest, problem
from toddle.core.numbers import Count, Seed
from toddle.core.plan import Plan
from toddle.core.types import FeatureSource
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.progress import time_episodes
from toddle.models.backbones.base import BackboneConfig
from toddle.models.backbones.load import load_backbone
from toddle.recipes._reward_episodes import recorded
from toddle.recipes.reward import check_datasets
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run", "source_of"]


@config
class Config:
    """Train terms of a composed reward on recorded successes, and failures where there are any.

    Writes <out>/<term>, which `--reward sparse+<term>:<out>` pays, and <out>/control/<term>, the same trained on steps
    in a random order, which must be worth nothing.
    Example: toddle reward fit --dataset data/demos data/failures --out runs/terms
    """

    dataset: tuple[Path, ...]
    """LeRobot datasets (v3.0), as `toddle record` writes them (`--keep-failures` for failures)."""
    out: Path = Path("runs/terms")
    """Folder of the terms."""
    terms: tuple[str, ...] = tuple(LEARNED)
    """Which terms to train."""
    features: str = "state"
    """What they read: state, the numbers of observation.state; or backbone, the features of a frozen backbone and them,
    for VLAs."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The frozen backbone."""
    cameras: tuple[str, ...] = ("close",)
    """Cameras whose pictures it reads."""
    every: Count = 1
    """Steps between two that are learned from (with pictures, pictures); about as far apart as decisions will be."""
    steps: Count = 2000
    """Steps of training of each."""
    cache: Path = Path(".cache/features")
    """Where features of the frozen backbone are kept."""
    seed: Seed = 0
    """Seed of fresh weights and of the order of samples."""

    def __post_init__(self) -> None:
        check_datasets(self.dataset)
        if self.features not in ("state", "backbone"):
            raise problem("features", "state or backbone", self.features)
        for name in self.terms:
            if name not in LEARNED:
                raise problem("terms", f"some of {', '.join(LEARNED)}", name, nearest(name, LEARNED))
        if not self.terms or len(set(self.terms)) < len(self.terms):
            raise problem("terms", f"some of {', '.join(LEARNED)}, each once", " ".join(self.terms) or "none")


def source_of(features: str, backbone: BackboneConfig, cameras: tuple[str, ...]) -> FeatureSource | None:
    """Return what makes the features of pictures, None where states are read."""
    if features == "state":
        return None
    model = load_backbone(backbone)
    return FeatureSource(model.fingerprint(), (model.tokens(len(cameras)), model.width), model.encode)


def plan(config: Config) -> Plan:
    """Open the datasets and say what will be trained."""
    lines, rows = list[str](), 0
    for folder in config.dataset:
        dataset = LeRobotDataset(folder)
        dataset.vector("observation.state")
        if config.features == "backbone":
            dataset.picture_size(*config.cameras)
        episodes = time_episodes(dataset)
        rows += sum(len(one.rows) for one in episodes)
        lines.append(f"read {folder}: {sum(one.success for one in episodes)} successes of {len(episodes)} episodes")
    if not any(one.success for folder in config.dataset for one in time_episodes(LeRobotDataset(folder))):
        raise problem("dataset", "an episode that succeeded", "none")
    source_of(config.features, config.backbone, config.cameras)
    lines.append(f"train {', '.join(config.terms)} for {config.steps} steps, and a control of each")
    return Plan(
        steps=[*lines, f"write {config.out}"],
        memory_bytes=2**29 + 4000 * rows,
        seconds=0.004 * config.steps * 2 * len(config.terms),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Train, save; what is there already is not trained again."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        source = source_of(config.features, config.backbone, config.cameras)
        episodes = recorded(
            config.dataset, source=source, cameras=config.cameras, cache=config.cache, every=config.every
        )
        facts = {
            "fingerprint": "" if source is None else source.fingerprint,
            "cameras": list(config.cameras) if source is not None else [],
            "datasets": [str(path) for path in config.dataset],
            "episodes": len(episodes),
            "steps": config.steps,
        }
        began, kinds = time.perf_counter(), {"": episodes, "control": shuffled_steps(episodes, config.seed)}
        with ProgressLine("reward fit", len(kinds) * len(config.terms)) as bar:
            for index, (where, chosen) in enumerate(kinds.items()):
                for number, name in enumerate(config.terms):
                    if not (config.out / where / name / "term.json").exists():
                        trained = LEARNED[name].taught(chosen, steps=config.steps, seed=config.seed)
                        trained.save(config.out / where, facts | {"shuffled": bool(where)})
                    bar.advance(index * len(config.terms) + number + 1)
        folder.finish(len(config.terms))
    said = f"{len(config.terms)} terms and their controls, {time.perf_counter() - began:.0f} s"
    print(f"{config.out}: {said}; draw them: toddle reward plot --reward {config.terms[0]}:{config.out}")
