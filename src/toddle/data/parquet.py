"""Parquet files as dictionaries of columns (pyarrow is imported here only).

A column is an array (N,) or (N, D), a list of strings, of lists, or of PNG bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from toddle.core.errors import InputError
from toddle.core.files import write_atomic

__all__ = ["column_names", "read_columns", "read_pngs", "write_columns"]

Array = NDArray[Any]
PNG = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the datasets library stores an image


def _array(column: Any) -> pa.Array:
    if isinstance(column, np.ndarray):
        if column.ndim == 1:
            return pa.array(column)
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape[1:])))
    if column and isinstance(column[0], bytes):
        return pa.array([{"bytes": picture, "path": None} for picture in column], PNG)
    return pa.array(column)


def _pandas_index(table: pa.Table, index: str) -> pa.Table:
    """Mark a column as the index that pandas restores when it reads the file."""
    plain = [name for name in table.column_names if name != index]
    columns = [
        {
            "name": None if name == index else name,
            "field_name": name,
            "metadata": None,
            "pandas_type": "unicode" if name == index else "int64",
            "numpy_type": "object" if name == index else "int64",
        }
        for name in (*plain, index)
    ]
    meta = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    return table.replace_schema_metadata({b"pandas": json.dumps(meta).encode()})


def write_columns(path: Path, columns: dict[str, Any], *, index: str | None = None) -> None:
    """Write the columns atomically; `index` names the column that is the table's index for pandas."""
    table = pa.table({name: _array(column) for name, column in columns.items()})
    if index is not None:
        table = _pandas_index(table, index)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="snappy"))


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"dataset: {path} is missing; record the dataset again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"dataset: {path} is not a parquet file ({' '.join(str(error).split())})") from None


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns.  Raises InputError when it is missing or damaged."""
    return list(_open(path).schema_arrow.names)


def read_columns(path: Path, names: list[str] | None = None) -> dict[str, Any]:
    """Read columns: numbers as arrays (N,) or (N, D), everything else as lists.

    Raises InputError when the file is missing or damaged, a column is not there, or rows of one differ in length.
    """
    file = _open(path)
    missing = sorted(set(names or []) - set(file.schema_arrow.names))
    if missing:
        raise InputError(f"dataset: {path} has no column '{missing[0]}'")
    table = file.read(columns=names).combine_chunks()
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column, kind = table.column(name), table.column(name).type
        if pa.types.is_fixed_size_list(kind) and not pa.types.is_nested(kind.value_type):
            values = pa.concat_arrays(column.chunks).flatten() if column.num_chunks else pa.array([], kind.value_type)
            columns[name] = values.to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
        elif pa.types.is_list(kind) and pa.types.is_primitive(kind.value_type) and not name.startswith("stats/"):
            rows = column.to_pylist()
            if len({len(row) for row in rows}) > 1:
                raise InputError(f"dataset: rows of column '{name}' of {path} differ in length")
            columns[name] = np.asarray(rows)
        elif pa.types.is_primitive(kind):
            columns[name] = column.to_numpy()
        else:
            columns[name] = column.to_pylist()
    return columns


def read_pngs(path: Path, name: str) -> list[bytes]:
    """Return the bytes of a column of embedded pictures."""
    return [row["bytes"] for row in read_columns(path, [name])[name]]
