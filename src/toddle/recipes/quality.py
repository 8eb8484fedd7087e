"""`toddle quality`: what demonstrations are worth, and a dataset of the better ones."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from toddle.core.config import config
from toddle.core.errors import InputError, problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.numbers import Whole
from toddle.core.plan import Plan
from toddle.core.reading import read_json, read_json_lines
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.picture_faults import Looked, look, picture_faults
from toddle.data.quality import METRICS, Judged, JudgedEpisode, QualityConfig, judge, sources
from toddle.data.subset import check_fits, encodes, write_subset
from toddle.recipes.reward import check_datasets
from toddle.reporting.quality import write_quality_page
from toddle.runs.loop import ProgressLine
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

WAYS = ("best", "all-but-worst")


@config
class Config:
    """Judge the episodes of LeRobot datasets, compare the datasets, and write a dataset of the better episodes.

    Writes <out>/index.html, a page with plots and the worst episodes, and <out>/quality.json, every number; with
    --keep <out> is itself a LeRobot dataset (v3.0) of the episodes that are kept.
    Example: toddle quality data/mine data/theirs --keep best 0.5 --out data/better
    """

    dataset: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """LeRobot datasets (v3.0), of `toddle record` or anyone else's."""
    out: Path = Path("runs/quality")
    """Folder of the page, the numbers, and the dataset that is kept."""
    keep: tuple[str, ...] = ()
    """`best SHARE`: that share of each task's episodes, by score; `all-but-worst SHARE`: all but that share.  Episodes
    with faults (no success, equal to another) go first."""
    judge: QualityConfig = field(default_factory=QualityConfig)
    """Where the datasets have what is judged."""
    worst: Whole = 6
    """Worst episodes of each dataset whose frames are on the page."""
    frames: Whole = 6
    """Frames of each of them; 0 draws none, and nothing is decoded."""
    camera: str | None = None
    """Camera of the frames; by default a dataset's first."""
    pictures: bool = False
    """Look at every picture of every camera too: black, frozen and late ones are faults.  It decodes all videos."""
    video: Literal["auto", "copy", "encode"] = "auto"
    """Videos of the kept dataset: copied as they are, or encoded anew without what is not kept; by default encoded
    where most of the copied pictures would be of no use."""

    def __post_init__(self) -> None:
        check_datasets(self.dataset)
        if self.keep and (len(self.keep) != 2 or self.keep[0] not in WAYS or not _is_share(self.keep[1])):
            raise problem(
                "keep", "best SHARE or all-but-worst SHARE, with a share between 0 and 1", " ".join(self.keep)
            )


def _is_share(text: str) -> bool:
    try:
        return 0.0 < float(text) < 1.0
    except ValueError:
        return False


def _opened(config: Config) -> list[LeRobotDataset]:
    """Open the datasets.  Raises InputError for one that is wrong, or not to be joined with the others."""
    datasets = [LeRobotDataset(folder) for folder in config.dataset]
    if config.keep:
        check_fits(datasets)
        if config.out.resolve() in [folder.resolve() for folder in config.dataset]:
            raise problem("out", "a folder other than the datasets'", config.out)
    for dataset in datasets:
        if config.worst and config.frames and dataset.cameras:
            dataset.picture_size(config.camera or dataset.cameras[0])
    return datasets


def plan(config: Config) -> Plan:
    """Open the datasets and say what would be judged and written."""
    datasets = _opened(config)
    found = sources(datasets, config.judge)
    rows = sum(dataset.num_frames for dataset in datasets)
    steps = [f"judge {len(d.episodes)} episodes ({d.num_frames} rows) of {d.path}" for d in datasets]
    steps += [f"{source.dataset.path}: {note}" for source in found for note in source.notes]
    drawn = config.worst * sum(bool(d.cameras) for d in datasets) if config.frames else 0
    seconds = 3.0 + rows / 20_000 + 0.2 * drawn
    if config.pictures:
        count = sum(dataset.num_pictures * len(dataset.cameras) for dataset in datasets)
        steps.append(f"decode {count:,} pictures and look for faults")
        seconds += 0.001 * count
    if drawn:
        steps.append(f"decode {config.frames} frames of each of the {drawn} worst episodes")
    if config.keep:
        kept = _kept(judge(found, config.judge), config)
        count = sum(len(places) for places in kept)
        how = "encoded anew" if encodes(list(zip(datasets, kept, strict=True)), config.video) else "copied"
        steps.append(f"write a dataset of {count} episodes into {config.out}, videos {how}")
        seconds += 0.1 * count
    steps.append(f"write {config.out / 'quality.json'} and {config.out / 'index.html'}")
    return Plan(steps=steps, memory_bytes=2**29 + 1000 * rows, seconds=seconds)


def run(config: Config, *, resume: bool = False) -> None:
    """Judge, write the dataset that is kept, and the page."""
    datasets = _opened(config)
    found = sources(datasets, config.judge)
    with RunFolder.open(config.out, config, resume=resume) as folder:
        judged = judge(found, config.judge)
        if config.pictures:
            _look(config, judged)
        kept = _kept(judged, config) if config.keep else None
        facts = _facts(judged, kept)
        if kept is not None:
            _write_kept(config, datasets, kept)
        write_json_atomic(config.out / "quality.json", facts)
        worst = {
            source: [one for one in judged.ranked() if one.source == source][: config.worst]
            for source in range(len(datasets))
        }
        write_quality_page(
            config.out / "index.html", judged, worst, frames=config.frames, camera=config.camera, kept=kept
        )
        folder.finish(len(judged.episodes))
    for source, facts_of in zip(judged.sources, facts["datasets"], strict=True):
        print(
            f"{source.dataset.path}: {facts_of['episodes']} episodes, score {facts_of['score']:.2f}, "
            f"{facts_of['faults']} with faults"
        )
        for note in source.notes:
            print(f"  {note}")
    if kept is not None:
        print(f"kept: {sum(map(len, kept))} episodes in {config.out}")
    print(f"numbers: {config.out / 'quality.json'}; page: {config.out / 'index.html'}")


def _look(config: Config, judged: Judged) -> None:
    """Look at the pictures of every episode and note their faults; what a killed call has seen is in a file."""
    file = config.out / "pictures.jsonl"
    lines = read_json_lines(file)
    write_text_atomic(file, "".join(json.dumps(line) + "\n" for line in lines))  # without one that was cut short
    known = {(line["source"], line["camera"], line["place"]): line["seen"] for line in lines}
    total = sum(len(source.dataset.episodes) * len(source.dataset.cameras) for source in judged.sources)
    with file.open("a") as log, ProgressLine("pictures", max(1, total), done=len(known)) as bar:
        for number, source in enumerate(judged.sources):
            episodes, dataset = judged.of(number), source.dataset
            for camera in dataset.cameras:
                for place in range(len(dataset.episodes)):
                    if (key := (number, camera, place)) not in known:
                        known[key] = dataclasses.asdict(look(dataset, camera, place, source.path))
                        line = {"source": number, "camera": camera, "place": place, "seen": known[key]}
                        log.write(json.dumps(line) + "\n")
                        log.flush()
                        bar.advance(len(known))
                seen = [Looked(**known[number, camera, place]) for place in range(len(dataset.episodes))]
                seconds = dataset.image_stride / dataset.fps
                for one, faults in zip(episodes, picture_faults(seen, camera, seconds), strict=True):
                    one.faults += faults


def _kept(judged: Judged, config: Config) -> list[list[int]]:
    """Return for each dataset the places of the episodes to keep: of each task the share that was asked for."""
    way, share = config.keep[0], float(config.keep[1])
    chosen: list[JudgedEpisode] = []
    for task in judged.tasks:
        ranked = [one for one in judged.ranked() if one.task == task]
        # rounded so that neither way keeps nothing of a task
        count = math.ceil(share * len(ranked)) if way == "best" else len(ranked) - math.floor(share * len(ranked))
        chosen += ranked[len(ranked) - count :]
    return [sorted(one.place for one in chosen if one.source == source) for source in range(len(judged.sources))]


def _write_kept(config: Config, datasets: Sequence[LeRobotDataset], kept: Sequence[Sequence[int]]) -> None:
    """Write the dataset; a call that was killed must have begun with the same episodes."""
    record = {
        str(d.path): [d.episodes[place].index for place in places] for d, places in zip(datasets, kept, strict=True)
    }
    path = config.out / "kept.json"
    if path.exists() and read_json(path) != record:
        raise InputError(f"{config.out} was begun with other episodes than these; choose another --out")
    write_json_atomic(path, record)
    with ProgressLine("episodes", max(1, sum(map(len, kept)))) as bar:
        write_subset(config.out, list(zip(datasets, kept, strict=True)), video=config.video, tell=bar.advance)


def _facts(judged: Judged, kept: Sequence[Sequence[int]] | None) -> dict[str, Any]:
    """Return everything as JSON values."""
    datasets = []
    for number, source in enumerate(judged.sources):
        own = judged.of(number)
        datasets.append(
            {
                "path": str(source.dataset.path),
                "episodes": len(own),
                "rows": sum(one.rows for one in own),
                "score": judged.score(number),
                "faults": sum(bool(one.faults) for one in own),
                "metrics": {
                    name: judged.mean(number, name) for name in METRICS if math.isfinite(judged.mean(number, name))
                },
                "action_variance": {task: float(values.mean()) for task, values in judged.variance[number].items()},
                "modes": judged.modes[number],
                "notes": source.notes,
            }
        )
    episodes = [
        {
            "dataset": str(judged.sources[one.source].dataset.path),
            "episode": one.number,
            "task": one.task,
            "score": one.score,
            "success": one.success,
            "faults": one.faults,
            "kept": None if kept is None else one.place in kept[one.source],
            **one.metrics,
        }
        for one in judged.ranked()
    ]
    return {"rate": judged.rate, "datasets": datasets, "episodes": episodes}
