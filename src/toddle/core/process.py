"""What this process may take, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from toddle.core.errors import problem

__all__ = ["check_address_space", "imported", "prepare_child", "started", "well_ended"]

LIBRARIES = 800 * 2**20
"""Bytes of address space below which not even the libraries can be loaded."""


def check_address_space() -> None:
    """Raise InputError where `ulimit -v` is below what the libraries take: they end the process without a word."""
    with contextlib.suppress(ImportError):  # there is none on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY and limit < LIBRARIES:
            got = f"{limit // 2**20} MiB"
            raise problem("memory (ulimit -v)", f"at least {LIBRARIES // 2**20} MiB, for torch and MuJoCo", got)


def imported(module: str) -> Any:
    """Import a module of which the rest of the process consists.

    A third of the time would go into Python's search for garbage among what is loaded, where there is none: it waits
    until all is there, and what the first such module has loaded is left out of it for good.
    """
    searches = gc.isenabled()
    gc.disable()
    try:
        found = importlib.import_module(module)
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if searches:
            gc.enable()
    return found


def started(command: str, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command as another part of the run in `folder` (whose config.yaml is there), with more `environment`.

    It is in a session of its own: Ctrl-C is for the process that leads, which says when to end.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "toddle", command, "--config", str(folder / "config.yaml")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=None if sys.platform == "win32" else prepare_child,
    )


@contextlib.contextmanager
def well_ended() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end a command as Ctrl-C does: what it holds open is closed, and one line is said.

    Training loops and runners of steps have ways of their own to stop; what is ignored (SIGHUP under nohup) stays so.
    What fails in a thread (TensorBoard's, when the run's folder is deleted) is one line too.  A crash of native code
    says where Python was.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"stopped by {signal.Signals(number).name}; what is finished is kept")

    def tell(failed: threading.ExceptHookArgs) -> None:
        print(f"warning: a thread has ended: {failed.exc_value}", file=sys.stderr)

    with contextlib.suppress(OSError, AttributeError, ValueError):  # where stderr is no file
        faulthandler.enable()
    former, hook = {}, threading.excepthook
    threading.excepthook = tell
    if threading.current_thread() is threading.main_thread():
        heeded = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
        former = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        threading.excepthook = hook
        for number, handler in former.items():
            signal.signal(number, handler)


def prepare_child() -> None:
    """In the child, before its program starts: heed interrupts, and be ended when this process is killed (Linux).

    A shell starts what runs in the background (`nohup toddle study t0 &`) with interrupts ignored, and children inherit
    that: they could not be asked to save their state.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
