"""MuJoCo's C functions called from compiled code: the loop over worlds runs without Python and without its lock.

Everything is an address: `MjModel._address` and `MjData._address` are the C structs, the address of a field is that
of its numpy view, and a C function of the signature f(model, data) is its address in the library that the `mujoco`
package itself loaded.  numba turns the loop into machine code once and keeps it in its cache.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mujoco
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from toddle.core.errors import problem

__all__ = ["Crew", "function_address", "run_worlds"]

Table = NDArray[np.int64]


def _library() -> ctypes.CDLL:
    folder = Path(mujoco.__file__).parent
    found = sorted([*folder.glob("libmujoco*.so*"), *folder.glob("libmujoco*.dylib"), *folder.glob("mujoco.dll")])
    if not found:
        raise problem("mujoco", "its C library in the package's folder", "none", "install mujoco from its wheel")
    return ctypes.CDLL(str(found[0]))


def function_address(name: str) -> int:
    """Return the address of MuJoCo's C function `name`, which must have the signature void f(mjModel*, mjData*)."""
    try:
        function = getattr(_library(), name)
    except AttributeError:
        raise problem("mujoco function", "a function of MuJoCo's C library", name) from None
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


@intrinsic
def _call(context: Any, function: Any, model: Any, data: Any) -> Any:
    """Call void function(model, data), all three given as addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), [word, word]).as_pointer())
        builder.call(pointer, [args[1], args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _copy(context: Any, target: Any, source: Any, size: Any) -> Any:
    """Copy `size` bytes between two addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        target, source = builder.inttoptr(args[0], byte), builder.inttoptr(args[1], byte)
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _take_ticket(context: Any, counter: Any) -> Any:
    """Add 1 to the int64 at the address `counter` atomically and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        return builder.atomic_rmw("add", builder.inttoptr(args[0], word.as_pointer()), word(1), "seq_cst")

    return types.int64(types.int64), generate


@njit(nogil=True, cache=True)
def run_worlds(  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    counter, worlds, models, datas, before, scatter, scatter_bytes, program, repeats, gather, gather_bytes
) -> None:  # fmt: skip
    """Work on worlds until the counter has run through `worlds`; any number of threads may do so at once.

    For each world: call the functions `before`, copy the rows of `scatter` into it, call function k of `program`
    `repeats[k]` times, copy the rows of `gather` out.  Worlds share nothing, so the order cannot change a result.

    Args: counter: address of an int64 that starts at 0; worlds (W,) indices; models, datas (N,) addresses;
        before (P,), program (K,) function addresses; repeats (K,); scatter, gather (F, 2, N) target and source
        addresses; scatter_bytes, gather_bytes (F,) sizes.
    """
    while True:
        ticket = _take_ticket(counter)
        if ticket >= worlds.size:
            return
        world = worlds[ticket]
        model, data = models[world], datas[world]
        for k in range(before.size):
            _call(before[k], model, data)
        for field in range(scatter_bytes.size):
            _copy(scatter[field, 0, world], scatter[field, 1, world], scatter_bytes[field])
        for k in range(program.size):
            for _ in range(repeats[k]):
                _call(program[k], model, data)
        for field in range(gather_bytes.size):
            _copy(gather[field, 0, world], gather[field, 1, world], gather_bytes[field])


Done = SimpleQueue[BaseException | None]
Tasks = SimpleQueue[tuple[Callable[[], None], Done] | None]


def _serve(tasks: Tasks) -> None:
    while (work := tasks.get()) is not None:
        task, done = work
        try:
            task()
            done.put(None)
        except BaseException as error:
            done.put(error)


class Crew:
    """T threads that live as long as the pool: the caller's own and T - 1 others that wait for work."""

    def __init__(self, threads: int) -> None:
        self._tasks: list[Tasks] = [SimpleQueue() for _ in range(threads - 1)]
        for tasks in self._tasks:
            threading.Thread(target=_serve, args=(tasks,), daemon=True, name="toddle-physics").start()

    def run(self, task: Callable[[], None], others: int) -> None:
        """Run `task` in this thread and in up to `others` more; return when all have returned."""
        done: Done = SimpleQueue()  # a new one each time: an interrupted run cannot answer for the next
        used = self._tasks[:others]
        for tasks in used:
            tasks.put((task, done))
        try:
            task()
        finally:
            errors = [done.get() for _ in used]
        for error in errors:
            if error is not None:
                raise error

    def close(self) -> None:
        """Let the threads end."""
        for tasks in self._tasks:
            tasks.put(None)
        self._tasks = []

    def __del__(self) -> None:
        self.close()
