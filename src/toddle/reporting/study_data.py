"""A study's data: its rows and the record of the runs they come from, gathered over calls and machines.

`data.jsonl` has the rows; `study.json` says which runs they come from (`steps`: name and fingerprint), and is
committed beside them.  So whoever has these two files goes on without the folders of the runs themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toddle.core.errors import InputError, problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.reading import read_json, read_json_lines
from toddle.reporting.run_data import environment
from toddle.runs.steps import Step

__all__ = ["Record", "Row", "gathered", "read_record", "read_rows", "write_rows"]

Row = dict[str, Any]
"""One measurement: what it belongs to (condition, seed, ...) and numbers."""
Record = dict[str, str]
"""Runs that are done: the fingerprints of their steps by name."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a data file.  Raises InputError when it is missing or damaged."""
    if not path.exists():
        raise InputError(f"study: {path} does not exist; run the study first")
    return read_json_lines(path)


def read_record(folder: Path, scale: str, steps: Sequence[Step]) -> Record:
    """Return which of the steps the data in `folder` come from; empty where there are no data.

    Raises InputError where the data are of another scale, of a step that had other settings, or do not say what of.
    """
    file = folder / "study.json"
    if not file.exists():
        return {}
    facts = read_json(file, {"scale": str})
    if facts["scale"] != scale:
        raise problem("out", f"a place without data of another scale than {scale}", f"{folder} ({facts['scale']})")
    if not isinstance(record := facts.get("steps"), dict):
        want = "a place whose data say which runs they come from (study.json: steps)"
        raise problem("out", want, str(folder), "give another one: what is there would be mixed with other runs'")
    own = {step.name: step.fingerprint() for step in steps if step.name in record}
    for name, fingerprint in own.items():
        if record[name] != fingerprint:
            raise InputError(f"{name}: the data in {folder} were made with other settings than now; give another --out")
    return own


def gathered(kept: Sequence[Row], rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """Return `rows`, and what of `kept` they do not measure anew: rows with the same `labels` measure the same."""

    def of(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in labels)

    new = {of(row): row for row in rows}
    assert len(new) == len(rows), "two rows with the same labels"
    return list(({of(row): row for row in kept} | new).values())


def write_rows(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write `data.jsonl` and `study.json` (scale, runs done, seconds, environment)."""
    lines = environment().splitlines()
    if (folder / "study.json").exists():  # gathered in several environments: all are named
        lines = list(dict.fromkeys([*read_json(folder / "study.json", {}).get("environment", []), *lines]))
    write_text_atomic(folder / "data.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    write_json_atomic(folder / "study.json", {**facts, "environment": lines})
