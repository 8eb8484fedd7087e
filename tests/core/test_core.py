"""Files are atomic, seeds give independent named streams, errors are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_atomic, write_json_atomic, write_text_atomic
from toddle.core.seeding import numpy_generator, seed_sequence, torch_generator


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"], "nothing is left behind"


def test_an_interrupt_leaves_the_old_file_too(tmp_path: Path) -> None:
    def interrupt(temporary: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "new", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_json_is_written_readable_by_all_and_refuses_nan(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "deep/a.json", {"x": [1, 0.5]})
    assert json.loads((tmp_path / "deep/a.json").read_text()) == {"x": [1, 0.5]}
    assert (tmp_path / "deep/a.json").stat().st_mode & 0o777 == 0o644
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "deep/a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "deep/a.json").read_text()) == {"x": [1, 0.5]}


def test_named_streams_repeat_and_are_independent() -> None:
    first, again = (numpy_generator(5, "env", 3).normal(size=20_000) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    others = [numpy_generator(5, "env", 4), numpy_generator(5, "policy", 3), numpy_generator(6, "env", 3)]
    for other in others:
        correlation = np.corrcoef(first, other.normal(size=20_000))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(20_000)


def test_streams_are_the_same_on_any_machine() -> None:
    """Fixed numbers: a change of the derivation would break the reproduction of every earlier run."""
    assert seed_sequence(0, "env", 1).spawn_key == (0xF34542F9, 1), "CRC-32 of the name, then the number"
    assert numpy_generator(0, "env", 1).integers(1000, size=4).tolist() == [898, 440, 123, 299]


def test_torch_streams_repeat_and_differ() -> None:
    first, again, other = (torch.randn(8, generator=torch_generator(7, name)) for name in ("a", "a", "b"))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_global_generators_are_left_alone() -> None:
    before_numpy, before_torch = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    numpy_generator(1, "a").normal()
    torch.randn(3, generator=torch_generator(1, "a"))
    np.testing.assert_array_equal(before_numpy, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before_torch, torch.get_rng_state())


def test_problem_is_one_line_with_field_expected_got_and_remedy() -> None:
    error = problem("num_envs", "a positive number", 0, "try 16")
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    assert str(error) == "num_envs: expected a positive number, got 0; try 16"
    assert str(problem("env", "a known task", "reech")) == "env: expected a known task, got 'reech'"


def test_nearest_names_one_or_all() -> None:
    assert nearest("reech-v3", ["reach-v3", "push-v3"]) == "did you mean 'reach-v3'?"
    assert nearest("zzz", ["push", "reach"]) == "known: push, reach"
