"""`toddle report`: one self-contained page of what runs came to."""

from __future__ import annotations

from pathlib import Path

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.core.plan import Plan
from toddle.reporting.report import write_report
from toddle.reporting.run_data import cells_of, find_runs

__all__ = ["Config", "plan", "run"]


@config
class Config:
    """Write one page of results: learning curves, success with intervals, conversion, smoothness, videos, settings.

    Example: toddle report --runs runs/demo
    """

    runs: tuple[Path, ...]
    """Run folders, or folders that hold run folders; several are compared."""
    out: Path | None = None
    """The page, a file that ends in .html, or the folder it goes into; by default the first folder of runs."""
    title: str = "Results"
    """Title of the page."""
    reference: str | None = None
    """Candidate the others are compared with; by default the last one evaluated."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise problem("runs", "at least one run folder", "none")


def _page(config: Config) -> Path:
    given = config.out or config.runs[0]
    return given if given.suffix.lower() in (".html", ".htm") else given / "report.html"


def plan(config: Config) -> Plan:
    """Say what the page would show."""
    runs = find_runs(config.runs)
    cells = len(cells_of(runs))
    steps = [f"read {run.path} ({run.command})" for run in runs]
    steps.append(f"write {_page(config)} with {cells} evaluation cells")
    return Plan(steps=steps, memory_bytes=2**28, seconds=10.0)


def run(config: Config, *, resume: bool = False) -> None:
    """Write the page; `resume` means nothing here, it is always made anew."""
    print(write_report(config.runs, _page(config), title=config.title, reference=config.reference))
