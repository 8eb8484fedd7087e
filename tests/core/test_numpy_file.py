"""Arrays are read; a file that would run code, or holds anything else, is refused and runs nothing."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.core.numpy_file import load_array


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.bool_])
def test_arrays_of_torch_and_of_pickle(tmp_path: Path, dtype: Any) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    torch.save(array, tmp_path / "zip")
    torch.save(array, tmp_path / "old", _use_new_zipfile_serialization=False)
    for protocol in (2, 4, 5):
        (tmp_path / f"p{protocol}").write_bytes(pickle.dumps(array, protocol=protocol))
    for name in ("zip", "p2", "p4"):
        np.testing.assert_array_equal(load_array(tmp_path / name), array)


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.target),))


def _planted(path: Path, target: Path, how: str) -> None:
    bomb: Any = _Bomb(target) if how != "array" else np.array([_Bomb(target)], dtype=object)
    if how == "torch":
        torch.save(bomb, path)
    else:
        path.write_bytes(pickle.dumps(bomb))


@pytest.mark.parametrize("how", ["torch", "pickle", "array"])
def test_a_planted_file_runs_nothing(tmp_path: Path, how: str) -> None:
    target = tmp_path / "ran"
    _planted(tmp_path / "file", target, how)
    with pytest.raises(InputError, match=r"cannot|safely|asks for") as caught:
        load_array(tmp_path / "file")
    assert "\n" not in str(caught.value) and not target.exists()
    if how == "torch":
        torch.load(tmp_path / "file", weights_only=False)  # the control: the file does run code
        assert target.exists()


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "list").write_bytes(pickle.dumps([1, 2]))
    (tmp_path / "empty").write_bytes(b"")
    whole = pickle.dumps(np.zeros(100))
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(tmp_path / "zip", "w") as box:
        box.writestr("a/other", "x")
    for name in ("text", "list", "empty", "cut", "zip", "missing"):
        with pytest.raises(InputError) as caught:
            load_array(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
