"""Metrics of a run: one JSON line a step in `metrics.jsonl` (the record), and TensorBoard beside it (a view of it).

A name is `group/name`.  The group `time` holds what depends on the clock; everything else of a resumed run is equal,
digit for digit, to the run that was never interrupted.  `docs/metrics.md` says what each name means.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from toddle.core.errors import NaNError
from toddle.core.files import write_text_atomic
from toddle.core.reading import read_json_lines

__all__ = ["CLOCK_GROUP", "Metrics", "check_finite", "last", "read_metrics"]

CLOCK_GROUP = "time"
"""The group whose values depend on the clock and differ between two equal runs."""
NAME = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9_.\-]+)+")


def check_finite(metrics: dict[str, float]) -> None:
    """Raise NaNError naming every metric that is NaN or infinite."""
    bad = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        raise NaNError(", ".join(bad))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file (or of the one in a run's folder), each {"step": ..., name: value}.

    A last line that was cut short by a kill is left out.
    """
    return read_json_lines(path if path.suffix == ".jsonl" else path / "metrics.jsonl", {"step": int})


def last(path: Path, name: str, *, default: float) -> float:
    """Return the last value that a run's metrics have of `name`."""
    return float(next((line[name] for line in reversed(read_metrics(path)) if name in line), default))


class Metrics:
    """Writes the metrics of one run's folder.

    `resume_at` is the step of the checkpoint the run goes on from: later lines are cut off, because those steps are
    about to be made again, and TensorBoard's files are written anew from what is left.
    """

    def __init__(self, folder: Path, *, resume_at: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] <= resume_at]
        write_text_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._board: Any = None
        self._board_folder = folder / "tensorboard"
        for line in kept:
            self._show(line)
        self._file = self.path.open("a")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line.  Raises NaNError when a value is not finite, ValueError for a name without a group."""
        for name in metrics:
            if not NAME.fullmatch(name):
                raise ValueError(f"metric '{name}': a name is group/name in lower case")
        values = {name: float(value) for name, value in metrics.items()}
        check_finite(values)
        line = {"step": step} | values
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes most of a second to import

            self._board = SummaryWriter(str(self._board_folder), flush_secs=30)
        for name, value in line.items():
            if name != "step":
                self._board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
