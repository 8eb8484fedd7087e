"""Names of devices, and trees of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toddle.core.device import CPU, check_device_name, describe_devices, device_of, resolve_device, to_device
from toddle.core.errors import InputError
from toddle.core.seeding import rand, randint, randn, torch_generator


def test_what_is_there() -> None:
    assert resolve_device("cpu") == CPU == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert describe_devices().startswith("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_unknown_names_are_one_clear_line(name: str) -> None:
    with pytest.raises(InputError, match="device: expected cpu, cuda, cuda:<number> or auto, got"):
        check_device_name(name)


def test_mps_says_why_not() -> None:
    with pytest.raises(InputError, match="float64"):
        resolve_device("mps")


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"a device that is there, got 'cuda:99'; torch .* take --device cpu"):
        resolve_device("cuda:99")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as on a machine with two
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:0")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="sees 2 CUDA devices"):
        resolve_device("cuda:2")


def test_where_a_module_is() -> None:
    assert device_of(nn.Linear(1, 1)) == CPU and device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")) == torch.device("meta")  # buffers alone
    assert device_of(object()) == device_of(nn.ReLU()) == CPU


def test_trees_move_and_the_rest_of_them_stays() -> None:
    tree = {"a": torch.ones(2), "b": {"c": torch.zeros(1)}, "words": ["x"], "none": None}
    moved = to_device(tree, torch.device("meta"))
    assert moved["a"].is_meta and moved["b"]["c"].is_meta and moved["words"] is tree["words"]
    assert to_device(tree, CPU)["a"] is tree["a"]  # nothing is copied where nothing moves


def test_draws_are_those_of_the_cpu() -> None:
    """Whatever the device, the generator advances as on the CPU; these are torch's own numbers for it."""
    mine, torchs = torch_generator(3, "x"), torch_generator(3, "x")
    assert torch.equal(randn((2, 3), mine, CPU), torch.randn(2, 3, generator=torchs))
    assert torch.equal(rand((4,), mine, CPU), torch.rand(4, generator=torchs))
    assert randn((7,), mine, torch.device("meta")).is_meta
    torch.randn(7, generator=torchs)
    assert torch.equal(randint(9, (5,), mine, CPU), torch.randint(9, (5,), generator=torchs))
