"""Parquet files as dictionaries of columns (pyarrow is imported here only, when it is needed).

A column is an array (N,) or (N, ...), a list of strings, of lists, or of PNG bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toddle.core.errors import InputError
from toddle.core.files import write_atomic
from toddle.core.lazy import Lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
else:
    pa, pc, pq = Lazy("pyarrow"), Lazy("pyarrow.compute"), Lazy("pyarrow.parquet")

__all__ = ["column_names", "read_columns", "read_pictures", "take_rows", "write_columns"]

Array = NDArray[Any]


def _array(column: Any) -> pa.Array:
    if isinstance(column, np.ndarray):
        if column.ndim == 1:
            return pa.array(column)
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(column.shape[1:])))
    if column and isinstance(column[0], bytes):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the datasets library stores an image
        return pa.array([{"bytes": picture, "path": None} for picture in column], kind)
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


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise InputError(f"dataset: {path} is missing; copy or record the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"dataset: {path} is not a parquet file ({_brief(error)})") from None


def column_names(path: Path) -> list[str]:
    """Return the names of a file's columns.  Raises InputError when it is missing or damaged."""
    return list(_open(path).schema_arrow.names)


def read_columns(path: Path, names: list[str] | None = None) -> dict[str, Any]:
    """Read columns: numbers as arrays (N,), or (N, ...) where all rows are lists of the same lengths; else as lists.

    Raises InputError when the file is missing or damaged, or a column is not there.
    """
    file = _open(path)
    missing = sorted(set(names or []) - set(file.schema_arrow.names))
    if missing:
        raise InputError(f"dataset: {path} has no column '{missing[0]}'")
    try:
        table = file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"dataset: {path} cannot be read ({_brief(error)})") from None
    return {name: _values(table.column(name)) for name in table.column_names}


def _values(column: Any) -> Any:
    """Return a column as an array, where it is numbers in rows of one shape, else as a list."""
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = values.storage if isinstance(values.type, pa.BaseExtensionType) else values
    shape = [len(values)]
    while (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        lengths = pc.list_value_length(values).unique().to_pylist()
        if values.null_count or len(lengths) > 1:
            return column.to_pylist()
        fixed = pa.types.is_fixed_size_list(values.type)
        shape.append(lengths[0] if lengths else values.type.list_size if fixed else 0)
        values = values.flatten()
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        return column.to_pylist()
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def read_pictures(path: Path, name: str, rows: Array) -> Iterator[Any]:
    """Yield the entries of a column of pictures at `rows` of a file: {"bytes": ..., "path": ...}, or bytes.

    Only the parts of the file that hold them are read.  Raises InputError as `read_columns` does.
    """
    file = _open(path)
    if name not in file.schema_arrow.names:
        raise InputError(f"dataset: {path} has no column '{name}'")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *groups])
    held, column = -1, None
    for row in rows:
        group = int(np.searchsorted(starts, row, side="right")) - 1
        if group != held:
            try:
                held, column = group, file.read_row_group(group, columns=[name]).column(0)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"dataset: {path}: column '{name}' cannot be read ({_brief(error)})") from None
        yield column[int(row - starts[group])].as_py()  # type: ignore[index]


def take_rows(
    path: Path, parts: Sequence[tuple[Path, Array]], replaced: Mapping[str, Any], *, without: Sequence[str] = ()
) -> None:
    """Write rows of files, one part after another, as one file, atomically: every column as it is stored.

    parts: (file, its rows).  replaced: name -> values of all rows, in the type that the column has in the first file
    that has it, or a new column.  A column that some files lack is empty there.  without: columns whose names begin so
    are left out.
    """
    tables = [_open(file).read().take(pa.array(rows)) for file, rows in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    for name, values in replaced.items():
        place = table.schema.get_field_index(name)
        if place < 0:
            table = table.append_column(name, _array(values))
        else:
            kind = table.schema.field(place)
            listed = not pa.types.is_primitive(kind.type)  # a number as a list of one
            table = table.set_column(place, kind, _array(values[:, None] if listed else values).cast(kind.type))
    table = table.drop_columns([name for name in table.column_names if name.startswith(tuple(without))])
    table = table.replace_schema_metadata(tables[0].schema.metadata)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="snappy"))
