"""A checkpoint is whole or refused: round trip, every kind of damage, a full disk."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError
from toddle.runs.checkpoint import copy_tree, load_state, save_state, states_equal


def tree() -> dict[str, Any]:
    """One of everything a learner's state can hold."""
    generator = np.random.default_rng(3)
    generator.normal(size=5)
    shared = torch.arange(6, dtype=torch.float32)
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),  # integer keys
        "numpy": generator.bit_generator.state,  # integers of 128 bits
        "torch": torch.Generator().manual_seed(2**62).get_state(),
        "views": [shared[:3], shared.reshape(2, 3).T],  # shared memory, not contiguous
        "types": [torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(0, 4), torch.tensor([True, False])],
        "arrays": (np.float64(0.1), np.arange(6, dtype=np.uint64).reshape(3, 2).T, np.array(7), np.zeros((0, 3), bool)),
        "plain": {"none": None, "yes": True, "text": "a/b", "big": 2**130, "nan": float("nan"), "inf": -float("inf")},
        "slash": {"a/b": np.ones(1), "a": {"b": np.zeros(1)}},
        "$tensor": 5,
    }


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    before = tree()
    save_state(tmp_path / "state", before, {"step": 3})
    after, meta = load_state(tmp_path / "state")
    assert states_equal(before, after) and meta == {"step": 3}
    after["numpy"]["state"]["state"] += 1
    assert not states_equal(before, after)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"], "no temporary folder is left"


def test_an_empty_tree_and_a_bare_tensor_round_trip(tmp_path: Path) -> None:
    for value in ({}, [], torch.arange(3), None):
        save_state(tmp_path / "state", value)
        assert states_equal(load_state(tmp_path / "state")[0], value)


def test_a_copied_tree_does_not_follow_the_original() -> None:
    weights = torch.zeros(2)
    copied = copy_tree({"w": [weights]})
    weights += 1
    assert copied["w"][0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array(["a"]), lambda: None])
def test_what_is_not_state_is_refused_with_its_path(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="state/a/1"):
        save_state(tmp_path / "state", {"a": [0, value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "bit"])
def test_damage_gives_one_line(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "state"
    save_state(folder, tree())
    file = folder / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(data[: len(data) // 2])
    else:
        place = data.index(b"sha256") if name == "manifest.json" else len(data) // 2
        data[place] ^= 4
        file.write_bytes(data)
    with pytest.raises(InputError, match=name) as error:
        load_state(folder)
    assert "\n" not in str(error.value)


def test_any_flipped_bit_of_the_manifest_is_harmless_or_caught(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    before = {"w": torch.arange(3)}
    save_state(folder, before)
    data = (folder / "manifest.json").read_bytes()
    caught = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        (folder / "manifest.json").write_bytes(changed)
        try:
            assert states_equal(load_state(folder)[0], before)
        except InputError:
            caught += 1
    assert caught > 192, "the 3 x 64 digits of the sums at least"


def test_a_missing_folder_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_state(tmp_path / "nothing")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {})
    manifest = json.loads((tmp_path / "state/manifest.json").read_text())
    (tmp_path / "state/manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(InputError, match="expected format 1, got 2"):
        load_state(tmp_path / "state")


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from toddle.core.errors import InputError
from toddle.runs.checkpoint import save_state
sys.dont_write_bytecode = True  # Python would cut its own compiled modules short without a word
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_state(Path(sys.argv[1]), {"w": torch.ones(1_000_000)})
except InputError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    """The limit on file size makes the real writer fail as a full disk does, without needing one."""
    assert resource.RLIMIT_FSIZE is not None
    former = {"w": torch.arange(3)}
    save_state(tmp_path / "state", former)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "state")], capture_output=True, text=True, check=True
    )
    assert "the disk is full" in done.stdout and done.stdout.count("\n") == 1
    assert states_equal(load_state(tmp_path / "state")[0], former)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
