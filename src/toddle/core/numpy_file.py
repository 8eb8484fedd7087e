"""Arrays out of files that torch.save wrote, without running what such a file may ask for.

A pickle is a program.  LIBERO's initial states come as one; this reads them with an unpickler that knows numpy's arrays
alone, and refuses everything else by name.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from toddle.core.errors import InputError, problem

__all__ = ["load_array"]

LIMIT = 2**28
"""Largest file that is read, in bytes."""
_KNOWN = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # type: ignore[attr-defined]
}


class _Arrays(pickle.Unpickler):
    """An unpickler that makes numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes the bytes of an array
            return lambda text, encoding: text.encode("latin1")
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


def load_array(path: Path) -> np.ndarray:
    """Return the numeric array of a file that `torch.save(array, path)` or `pickle.dump` wrote.

    Raises InputError, one line, where the file is missing, too large, damaged, or holds or asks for anything else.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > LIMIT:
            raise problem(str(path), f"at most {LIMIT} bytes", size)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as box:
                names = [info for info in box.infolist() if info.filename.endswith("/data.pkl")]
                if len(names) != 1 or names[0].file_size > LIMIT:
                    raise problem(str(path), "one data.pkl in the archive", f"{len(names)}")
                data = box.read(names[0])
        else:
            data = path.read_bytes()
        found = _Arrays(io.BytesIO(data)).load()
    except InputError:
        raise
    except FileNotFoundError:
        raise problem(str(path), "a file of initial states", "none") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{path}: not an array that can be read safely: {' '.join(str(error).split())[:200]}"
        ) from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise problem(str(path), "a numeric array", type(found).__name__)
    return found
