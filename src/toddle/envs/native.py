"""MuJoCo's C functions called from compiled code: the loop over worlds runs without Python and without its lock.

Everything is an address: `MjModel._address` and `MjData._address` are the C structs, the address of a field is that
of its numpy view, and a C function of the signature f(model, data) is its address in the library that the `mujoco`
package itself loaded.  numba turns the loop into machine code once and keeps it in its cache.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from toddle.core.errors import problem

__all__ = ["Crew", "Job", "Table", "function_address"]

Table = NDArray[np.int64]
SPINS = 50_000
"""Looks at the others' progress before the caller sleeps: some 50 us, while the last worlds are being finished."""
_STOP, _JOB, _TICKET, _GATE, _CALLED = 0, 8, 128, 256, 384
"""Where a crew's words stand, in bytes; two cache lines apart where several threads count."""
_OPEN, _ASLEEP = 1 << 32, 1 << 33
"""Bits of the word at `_GATE`, whose lower half counts the followers inside: there is work; the leader sleeps."""


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


def _thread_function(name: str) -> int:
    return int(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0)


_ACQUIRE, _RELEASE = _thread_function("PyThread_acquire_lock"), _thread_function("PyThread_release_lock")


@intrinsic
def _call(context: Any, function: Any, model: Any, data: Any) -> Any:
    """Call void function(model, data), all three given as addresses (or any other C function of two words)."""

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
def _add(context: Any, address: Any, amount: Any) -> Any:
    """Add `amount` to the int64 at `address` atomically and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _swap(context: Any, address: Any, value: Any) -> Any:
    """Set the int64 at `address` to `value` atomically and return what it was."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("xchg", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _load(context: Any, address: Any) -> Any:
    """Return the int64 at `address` as other threads have left it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(types.int64), generate


@njit(nogil=True, cache=True)
def _row(table, index):  # type: ignore[no-untyped-def]  # compiled: numba infers the types
    """Word `index` of the int64 array at the address `table`."""
    return _load(table + 8 * index)


@njit(nogil=True, cache=True)
def _run_worlds(job, counter) -> None:  # type: ignore[no-untyped-def]
    """Do the job at the address `job` (see `Job`) world by world until the counter has run through its worlds.

    Any number of threads may do so at once.  For each world: call the functions `before`, copy the rows of `scatter`
    into it, call function k of `program` `repeats[k]` times, copy the rows of `gather` out.
    """
    count, worlds, models, datas, total = _row(job, 0), _row(job, 1), _row(job, 2), _row(job, 3), _row(job, 4)
    before, before_count = _row(job, 5), _row(job, 6)
    program, repeats, program_count = _row(job, 7), _row(job, 8), _row(job, 9)
    scatter, scatter_bytes, scatter_count = _row(job, 10), _row(job, 11), _row(job, 12)
    gather, gather_bytes, gather_count = _row(job, 13), _row(job, 14), _row(job, 15)
    while True:
        ticket = _add(counter, 1)
        if ticket >= count:
            return
        world = _row(worlds, ticket)
        model, data = _row(models, world), _row(datas, world)
        for k in range(before_count):
            _call(_row(before, k), model, data)
        for k in range(scatter_count):
            at = 2 * k * total + world
            _copy(_row(scatter, at), _row(scatter, at + total), _row(scatter_bytes, k))
        for k in range(program_count):
            function = _row(program, k)
            for _ in range(_row(repeats, k)):
                _call(function, model, data)
        for k in range(gather_count):
            at = 2 * k * total + world
            _copy(_row(gather, at), _row(gather, at + total), _row(gather_bytes, k))


@njit(nogil=True, cache=True)
def _lead(control, job, others, starts, end, acquire, release) -> None:  # type: ignore[no-untyped-def]
    """Do `job` with up to `others` followers: wake them, work too, return when no world is being worked on.

    A follower that wakes too late to find work is not waited for.  Args: control: address of a crew's words; starts:
    of an array of locks, one a follower; end: of the leader's lock; acquire, release: of the functions of locks.
    """
    gate = control + _GATE
    _swap(control + _JOB, job)
    _swap(control + _TICKET, 0)
    _add(gate, _OPEN)
    for k in range(others):
        if _swap(control + _CALLED + 8 * k, 1) == 0:  # else a call of an earlier job has not reached it yet
            _call(release, _row(starts, k), 0)
    _run_worlds(job, control + _TICKET)
    if _add(gate, -_OPEN) == _OPEN:
        return
    for _ in range(SPINS):
        if _load(gate) == 0:
            return
    _add(gate, _ASLEEP)
    while _load(gate) != _ASLEEP:  # a look again after each wake-up: a call may come twice
        _call(acquire, end, 1)
    _add(gate, -_ASLEEP)


@njit(nogil=True, cache=True)
def _follow(control, index, start, end, acquire, release) -> None:  # type: ignore[no-untyped-def]
    """Follower `index` of a crew: sleep until called, go in, work where the gate was open, go out; until it stops."""
    gate = control + _GATE
    while True:
        _call(acquire, start, 1)
        _swap(control + _CALLED + 8 * index, 0)
        if _load(control + _STOP):
            return
        if _add(gate, 1) & _OPEN:
            _run_worlds(_load(control + _JOB), control + _TICKET)
        if _add(gate, -1) == _ASLEEP + 1:
            _call(release, end, 0)


class Job:
    """What is to be done in some of N worlds, as words that compiled code reads by address."""

    def __init__(
        self,
        models: Table,
        datas: Table,
        before: Table,
        scatter: tuple[Table, Table],
        program: Table,
        gather: tuple[Table, Table],
    ) -> None:
        """Keep the arrays and write down where they are.

        Args: models, datas (N,) addresses; before (P,), program (K,) function addresses; scatter, gather: (F, 2, N)
            target and source addresses of rows copied into and out of worlds, and (F,) their sizes in bytes.
        """
        total = models.size
        self.worlds, self.repeats = np.arange(total), np.ones(program.size, dtype=np.int64)
        self._kept = [models, datas, before, program, *scatter, *gather]
        parts: list[Table | int] = [
            total,
            self.worlds,
            models,
            datas,
            total,
            before,
            before.size,
            program,
            self.repeats,
            program.size,
            *scatter,
            scatter[1].size,
            *gather,
            gather[1].size,
        ]
        self._words = np.array([part if isinstance(part, int) else part.ctypes.data for part in parts], dtype=np.int64)
        self.address = self._words.ctypes.data

    def choose(self, worlds: Table) -> None:
        """Do the job in these worlds (W,) from now on."""
        self._words[0] = worlds.size
        self.worlds[: worlds.size] = worlds


class Crew:
    """T threads that live as long as the pool: the caller's own and T - 1 others that wait for work."""

    def __init__(self, threads: int) -> None:
        self._words = np.zeros(_CALLED // 8 + threads, dtype=np.int64)
        self._starts, self._end = np.array([_new_lock() for _ in range(threads - 1)], np.int64), _new_lock()
        self._followers = threads - 1
        self._fixed = self._starts.ctypes.data, self._end, _ACQUIRE, _RELEASE
        self._address = self._words.ctypes.data
        for index in range(self._followers):
            kept = (self._words, self._starts, index, self._end)
            threading.Thread(target=_serve, args=kept, daemon=True, name="toddle-physics").start()

    def run(self, job: Job, others: int) -> None:
        """Do `job` in this thread and in up to `others` more; return when it is done."""
        _lead(self._address, job.address, min(others, self._followers), *self._fixed)

    def close(self) -> None:
        """Let the threads end."""
        self._words[_STOP] = 1
        for start in self._starts[: self._followers].tolist():
            ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(start))
        self._followers = 0

    def __del__(self) -> None:
        self.close()


def _new_lock() -> int:
    """Return the address of a new lock that is taken: who acquires it sleeps until somebody releases it.

    It is never freed (some 32 bytes): a thread that is late may still look at it.
    """
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    lock = allocate()
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(lock), 1)
    return int(lock)


def _serve(words: Table, starts: Table, index: int, end: int) -> None:
    """Work for a crew until it closes.  Holds the crew's words, so that they outlive it."""
    _follow(words.ctypes.data, index, int(starts[index]), end, _ACQUIRE, _RELEASE)
