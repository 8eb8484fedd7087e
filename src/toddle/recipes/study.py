"""`toddle study`: run a study (many runs with outcomes fixed beforehand) and write its page."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from toddle.core.config import config
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import nearest, problem
from toddle.core.numbers import Size
from toddle.core.plan import Plan
from toddle.core.reading import read_json
from toddle.recipes import studies
from toddle.recipes._step_checks import check_toddle_steps
from toddle.reporting.study import Study, write_page
from toddle.reporting.study_data import Record, gathered, read_record, read_rows, write_rows
from toddle.runs.run import RunFolder, check_run
from toddle.runs.steps import (
    Step,
    is_done,
    names_like,
    on_device,
    run_steps,
    seconds_of,
    still_needed,
    with_what_they_need,
)
from toddle.runs.steps_board import StepBar, makespan

__all__ = ["Config", "plan", "run", "run_study"]


@config
class Config:
    """Run a study: many runs, resumable, then a page that says passed, failed or not resolved for each outcome.

    Called again it goes on where it was.  Example: toddle study t0 --scale small --out runs/pages
    """

    may_change: ClassVar[tuple[str, ...]] = ("only", "part", "again", "processes", "page_only", "runs", "device")

    name: Annotated[str, tyro.conf.Positional]
    """The study: the name of a file in recipes/studies."""
    scale: Literal["small", "medium", "lab"] = "small"
    """How much is run: minutes to hours on two cores, a day on a workstation, a cluster."""
    out: Path = Path("docs/studies")
    """Where the study's folder with data, plots and page is written."""
    runs: Path = Path("runs/studies")
    """Where the runs themselves are kept."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    processes: Size = 2
    """Runs at the same time."""
    part: str | None = None
    """Run only this part of a study that has parts (t2: data, models, deployment) and what it needs."""
    only: tuple[str, ...] = ()
    """Run only the steps of these names (patterns such as 'sft/*') and what they need."""
    again: bool = False
    """With `only`: throw the results of these steps away first and run them again."""
    page_only: bool = False
    """Run nothing; rebuild the page from data.jsonl."""

    def __post_init__(self) -> None:
        check_device_name(self.device)
        if self.again and not self.only:
            raise problem("again", "the steps to run again in --only", "none")
        if self.part is not None and self.only:
            raise problem("part", "--part or --only, not both", self.part)


def known_studies() -> list[str]:
    """Return the names of the files in recipes/studies; those that begin with _ are parts of a study."""
    return [module.name for module in pkgutil.iter_modules(studies.__path__) if not module.name.startswith("_")]


def load_study(name: str) -> Study[Any]:
    """Return the study of a file in recipes/studies.  Raises InputError for an unknown name."""
    known = known_studies()
    if name not in known:
        raise problem("study", "a known study", name, nearest(name, known))
    study = importlib.import_module(f"{studies.__name__}.{name}").STUDY
    assert isinstance(study, Study)
    return study


def _folder(config: Config) -> Path:
    return config.runs / config.name / config.scale


def _chosen(study: Study[Any], steps: list[Step], config: Config) -> list[Step]:
    """Return the steps of --part or --only and what they need, or all.  Raises InputError for an unknown part."""
    if config.part is not None:
        if config.part not in study.parts:
            raise problem("part", f"a part of study {config.name} ({', '.join(study.parts) or 'none'})", config.part)
        return with_what_they_need(steps, (f"{config.part}/*",))
    return with_what_they_need(steps, config.only) if config.only else steps


def plan(config: Config) -> Plan:
    """Show how many runs there are, how long they take, and which are done."""
    study = load_study(config.name)
    resolve_device(config.device)
    steps = on_device(study.steps(study.settings(config.scale)), config.device)
    check_toddle_steps(steps, _folder(config))
    check_run(_folder(config), config, resume=True)
    page, selected = config.out / config.name, _chosen(study, steps, config)
    record = read_record(page, config.scale, steps)
    if config.again:
        record = _without(record, _to_forget(steps, selected, config))
    chosen = still_needed(selected, _folder(config), record)
    todo = [step for step in chosen if not is_done(step, _folder(config))]
    hours = sum(step.seconds for step in todo) / 3600
    lines = [f"{step.name}: about {step.seconds:.0f} s" for step in todo]
    if elsewhere := len(selected) - len(chosen):
        lines.append(f"{elsewhere} runs are not made again: {page} has what was measured by them")
    lines.append(
        f"{len(todo)} of {len(steps)} runs are to be done, {hours:.2f} process hours on {config.processes} processes"
    )
    lines += [f"judge '{outcome.name}': {outcome.statement}" for outcome in study.outcomes]
    lines.append(f"write {page}/index.md")
    seconds = makespan(chosen, {step.name: step.seconds for step in todo}, config.processes)
    return Plan(steps=lines, memory_bytes=config.processes * 2**30, seconds=seconds)


def run(config: Config, *, resume: bool = False) -> None:
    """Run what is not done yet and write the page; `resume` is always meant."""
    run_study(load_study(config.name), config)


def run_study(study: Study[Any], config: Config) -> None:
    """Run `study` as `config` says."""
    page = config.out / config.name
    if not config.page_only:
        resolve_device(config.device)
        settings = study.settings(config.scale)
        steps = on_device(study.steps(settings), config.device)
        check_toddle_steps(steps, _folder(config))
        with RunFolder.open(_folder(config), config, resume=True) as folder:
            record = read_record(page, config.scale, steps)
            chosen = _chosen(study, steps, config)
            if config.again:
                again = _to_forget(steps, chosen, config)
                record = _without(record, again)
                _forget(again, folder.path)
            chosen = still_needed(chosen, folder.path, record)
            try:
                with StepBar(f"study {config.name}") as bar:
                    run_steps(chosen, folder.path, processes=config.processes, progress=bar)
            finally:  # what is there is put on the page, whatever stopped the rest
                _write_data(study, settings, steps, record, config, folder.path)
        if not (page / "data.jsonl").exists():
            print("nothing is measured by these runs yet, so there is no page", file=sys.stderr)
            return
    for name, judged in write_page(study, page).items():
        print(f"{name}: {judged}", file=sys.stderr)
    print(page / "index.md")


def _to_forget(steps: list[Step], chosen: list[Step], config: Config) -> set[str]:
    """Return the names of the steps that --only names, and of all that depend on them."""
    named = names_like(chosen, config.only)
    for step in steps:
        if named & set(step.after):
            named.add(step.name)
    return named


def _forget(names: set[str], folder: Path) -> None:
    """Delete the results of these steps."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        for mark in (folder / "steps" / name).parent.glob(f"{Path(name).name}.*"):
            mark.unlink()


def _without(record: Record, names: set[str]) -> Record:
    return {name: mark for name, mark in record.items() if name not in names}


def _write_data(
    study: Study[Any], settings: Any, steps: list[Step], record: Record, config: Config, folder: Path
) -> None:
    """Write the rows of what is done in `folder`, beside those that are there already."""
    page, done = config.out / config.name, dict(record)
    seconds = (
        read_json(page / "study.json", {"seconds": (int, float)})["seconds"] if (page / "study.json").exists() else 0.0
    )
    for step in steps:
        if step.name not in record and (folder / "steps" / f"{step.name}.json").exists():
            done[step.name] = step.fingerprint()
            seconds += seconds_of(step, folder)
    rows = study.collect(settings, folder)
    if rows and (page / "data.jsonl").exists():
        rows = gathered(read_rows(page / "data.jsonl"), rows, study.labels)
    facts = {
        "study": config.name,
        "scale": config.scale,
        "runs_done": len(done),
        "runs_planned": len(steps),
        "seconds": seconds,
        "command": f"toddle study {config.name} --scale {config.scale}",
        "steps": {step.name: done[step.name] for step in steps if step.name in done},
    }
    if rows:
        write_rows(page, rows, facts)
