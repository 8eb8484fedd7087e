"""A device that is not there: real numbers on the CPU behind a tensor type that says it is elsewhere.

`PRETEND` is a torch device of its own (PrivateUse1).  Its tensors hold a CPU tensor and compute with it, so results
are the CPU's (to rounding: torch chooses other kernels here and there) and whole training loops run, control flow and
all; but, as with a GPU, an operation that
mixes them with CPU tensors of more than zero dimensions raises, and so does `.numpy()`.  It is stricter than CUDA in
one thing: CPU indices into a tensor of the device are refused.  It knows nothing of a GPU's kernels, streams,
memory or rounding: those are for the tests marked gpu.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["PRETEND", "MixedDevices", "Pretend"]


class MixedDevices(RuntimeError):
    """Tensors of both devices went into one operation: somewhere a `.to(device)` or a `device=` is missing."""


class _Module:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """It has no generator of its own."""

    @staticmethod
    def get_rng_state(device: Any = 0) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = 0) -> None:
        """See manual_seed_all."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
PRETEND = torch.device("pretend", 0)
aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}
TOGETHER = {aten.cat.default, aten.stack.default}  # take no scalar of another device either


class Pretend(torch.Tensor):
    """A tensor on PRETEND; `held` is where its numbers are."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Pretend:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=PRETEND,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretend({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, new: Pretend) -> None:
        self.held = new.held
        torch.Tensor.data.__set__(self, new)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation on the CPU and dress what comes out."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    plain = [x for x in tensors if not isinstance(x, Pretend)]
    if func not in CROSSING and any(x.dim() or func in TOGETHER for x in plain):
        raise MixedDevices(f"{func}: tensors of {PRETEND} and of the CPU, {[tuple(x.shape) for x in plain]}")
    if func is aten._fused_sdp_choice.default:
        return 0  # attention by plain matrix products: the fused kernels are chosen by device
    target = kwargs.get("device")
    inside, named = tree_map_only(Pretend, lambda x: x.held, (args, kwargs))
    if target is not None:
        named = named | {"device": torch.device("cpu")}
    out = func(*inside, **named)
    if (target is not None and target.type == "cpu") or (
        tensors and not isinstance(tensors[0], Pretend) and func is aten.copy_.default
    ):
        return out
    mine = {id(x.held): x for x in tensors if isinstance(x, Pretend)} if func._schema.is_mutable else {}
    return tree_map_only(torch.Tensor, lambda x: mine.get(id(x)) if id(x) in mine else Pretend(x), out)


_library = torch.library.Library("_", "IMPL")
FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "randperm", "_to_copy")
"""torch makes these by resizing or filling an empty tensor, past the type: it would keep the shape of the empty one."""
_library.fallback(lambda op, *args, **kwargs: _compute(op, args, kwargs), "PrivateUse1")
_kernels = torch.library.Library("aten", "IMPL")
for _name in FACTORIES:
    _base, _, _overload = _name.partition(".")
    _op = getattr(getattr(aten, _base), _overload or "default")
    _kernels.impl(_name, lambda *args, _op=_op, **kwargs: _compute(_op, args, kwargs), "PrivateUse1")
