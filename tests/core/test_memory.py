"""What is free: of the machine, of control groups, of `ulimit -v`; what does not fit is one line before it is taken."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from toddle.core import memory
from toddle.core.errors import InputError
from toddle.core.memory import check_memory, free_memory, resident, size_text, weights_that_fit


def group(path: Path, limit: str, taken: int, files: dict[str, int], version: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for name, value in zip(names, (limit, str(taken)), strict=True):
        (path / name).write_text(f"{value}\n")
    (path / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in files.items()))


@pytest.mark.parametrize(("version", "stat"), [(1, "total_inactive_file"), (2, "inactive_file")])
def test_every_control_group_above_counts_and_cached_files_do_not(tmp_path: Path, version: int, stat: str) -> None:
    root = tmp_path / "memory" if version == 1 else tmp_path
    group(root / "a/b", "1000", 400, {stat: 100}, version)
    group(root / "a", "max" if version == 2 else "9223372036854771712", 5000, {}, version)
    group(root, "900", 600, {stat: 200}, version)
    left = memory._left_by_groups(tmp_path, "/a/b", version)
    assert 700 in left and 500 in left and min(left) == 500
    assert min(memory._left_by_groups(tmp_path, "/not/mounted/here", version)) == 500, "a container's own root"
    assert memory._left_by_groups(tmp_path / "nowhere", "/a", version) == []


def test_a_limit_of_the_shell_counts() -> None:
    code = (
        "import resource, toddle.core.memory as m; free = m.free_memory()\n"
        "taken = m._numbers(m.Path('/proc/self/status'), 1024)['VmSize']\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, taken + 2**28)); print(free, m.free_memory())"
    )
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert before > 2**28 and 2**27 < after <= 2**28


def test_what_does_not_fit_is_one_line() -> None:
    check_memory(free_memory() / 2, "half", "")
    line = "memory: a rollout takes about 3.0 GiB, and 512.0 MiB are free; take less"
    with pytest.raises(InputError) as error:
        check_memory(3 * 2**30, "a rollout", "take less", free=2**29)
    assert str(error.value) == line
    assert size_text(5 * 2**41) == "10.0 TiB"


def test_weights_are_refused_before_they_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the sum counts: the second of two layers that would fit alone."""
    monkeypatch.setattr(memory, "free_memory", lambda: 2**26)
    filled: list[int] = []
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: filled.append(self.in_features))
    with weights_that_fit(4.0):
        nn.Linear(1024, 3 * 1024)  # 12 MiB, and 48 with what training keeps
        with pytest.raises(InputError, match=r"memory: a network of more than 5,\d+,\d+ weights .* 64.0 MiB are free"):
            nn.Linear(1025, 2 * 1024)
    assert filled == [1024]
    nn.Linear(1026, 5 * 1024)  # outside nothing is counted
    assert filled == [1024, 1026]


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say it")
def test_what_the_process_holds_grows_with_what_it_fills() -> None:
    gc.collect()  # what earlier tests have left is not to be let go in between
    before = resident()
    held = torch.ones(2**26)  # 256 MiB
    assert before > 50 * 2**20 and resident() - before > 200 * 2**20 and len(held)


def test_frozen_weights_are_kept_once_and_weights_on_no_device_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * memory.NOTABLE)
    weight = torch.zeros(memory.NOTABLE // 4 + 1)
    with weights_that_fit(4.0):
        held = nn.ParameterList([nn.Parameter(torch.empty(10 * memory.NOTABLE, device="meta"))])
        held.append(nn.Parameter(weight, requires_grad=False))
    with pytest.raises(InputError, match="memory: a network of more than"), weights_that_fit(4.0):
        held.append(nn.Parameter(weight))


def test_what_the_allocator_says_becomes_the_same_line_and_other_errors_pass() -> None:
    with pytest.raises(InputError, match="memory: a network does not fit"), weights_that_fit():
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match="mat1"), weights_that_fit():
        torch.zeros(2, 3) @ torch.zeros(2, 3)
