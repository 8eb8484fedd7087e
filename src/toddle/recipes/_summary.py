"""What an evaluation says when it ends: a line a cell, and `summary.json`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from toddle.core.files import write_json_atomic
from toddle.core.types import EpisodeResult
from toddle.reporting.episode_log import summarise

__all__ = ["write_summary"]


def write_summary(folder: Path, table: dict[tuple[str, str, str], list[EpisodeResult]]) -> None:
    """Write `summary.json` of cells (candidate, env, condition), and print a line for each."""
    from toddle.reporting.report import percent  # matplotlib takes long to import
    from toddle.reporting.walking import walking_report

    rows = []
    for (candidate, env, condition), results in table.items():
        report = summarise(results)
        rows.append({"candidate": candidate, "env": env, "condition": condition, **report.to_json()})
        success = percent(report.success) if report.success else "not reported"
        success += f" ({report.protocol})" if report.protocol else ""
        print(
            f"{env}  {condition}  {candidate}: success {success}, return {report.episode_return.value:.4g}, "
            f"{report.length.value:.0f} steps, {1000 * report.seconds_per_decision:.1f} ms a decision",
            file=sys.stderr,
        )
    sys.stderr.write(walking_report(folder, table))
    write_json_atomic(folder / "summary.json", {"cells": rows, "written": time.strftime("%Y-%m-%d %H:%M:%S")})
