"""Columns of a wrong type: a dataset is read as it was, or refused in one line that names the column."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_dataset import write_toy_dataset

from toddle.core.errors import InputError
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.parquet import read_columns, write_columns

WRONG: dict[str, Callable[[int], list[Any]]] = {
    "text": lambda rows: [f"row {row}" for row in range(rows)],
    "lists of other lengths": lambda rows: [[0.0] * (1 + row % 3) for row in range(rows)],
    "nothing": lambda rows: [None] * rows,
    "a gap": lambda rows: [None if row == 1 else 0.0 for row in range(rows)],
    "records": lambda rows: [{"a": row} for row in range(rows)],
    "bytes": lambda rows: [bytes([row % 256]) for row in range(rows)],
}
FILES = {
    "data": "data/**/*.parquet",
    "episodes": "meta/episodes/**/*.parquet",
    "tasks": "meta/tasks.parquet",
}


def everything(folder: Path) -> Any:
    data = LeRobotDataset(folder)
    rows = {
        name: data.column(name) for name, entry in data.features.items() if entry["dtype"] not in ("image", "video")
    }
    sentences = [data.task_of(int(span.start)) for span in data.episodes]
    pictures = {camera: data.images(camera, np.arange(2)) for camera in data.cameras}
    return rows, sentences, pictures, [(span.start, span.stop) for span in data.episodes]


QUICK = [kind if kind in ("text", "a gap") else pytest.param(kind, marks=pytest.mark.slow) for kind in WRONG]


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("where", FILES)
def test_a_column_of_a_wrong_type_is_named(tmp_path: Path, where: str, kind: str) -> None:
    folder = write_toy_dataset(tmp_path / "data")
    file = sorted(folder.glob(FILES[where]))[0]
    whole, refused = everything(folder), 0
    columns = read_columns(file)
    index = "__index_level_0__" if where == "tasks" else None
    for name, values in columns.items():
        if kind == "text" and name == index:
            continue  # text is what it is
        write_columns(file, columns | {name: WRONG[kind](len(values))}, index=index)
        try:
            found = everything(folder)
        except InputError as error:
            refused += 1
            said = str(error)
            assert name in said or name.split("/")[0] in said or name == index, (name, said)
            assert "\n" not in said and len(said) < 600, said
        else:
            np.testing.assert_equal(found, whole, err_msg=f"{name} was taken")
    assert refused, "something needs the columns"
