"""Steps that depend on one another, run as processes: in order, several at a time, resumable, surviving a kill.

A step is a command line with a folder of its own.  What it finished with is written to `steps/<name>.json`, so a
step that is done is never run again; one that was interrupted is started again with the same command, which goes
on where it was (toddle's own commands do, by `--resume`).
"""

from __future__ import annotations

import ctypes
import fcntl
import fnmatch
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_json_atomic, write_text_atomic

__all__ = ["Step", "StepBar", "check_steps", "is_done", "run_steps", "seconds_of", "toddle_step", "with_what_they_need"]

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""How long an interrupted step may take to save its state before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    In its arguments and settings `{out}` stands for its folder, `{folder}` for the folder of all steps, `{python}`
    for this interpreter.
    """

    name: str
    """Unique; may hold slashes; also the step's folder below the folder of all."""
    arguments: tuple[str, ...]
    """The command line."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Written to `steps/<name>.yaml`, which `{settings}` in the arguments stands for."""
    after: tuple[str, ...] = ()
    """Names of the steps that must be done before."""
    seconds: float = 60.0
    """How long it takes, roughly, on one core."""

    def filled(self, folder: Path) -> tuple[list[str], dict[str, Any]]:
        """Return the command line and the settings with the folders filled in."""
        names = {
            "{out}": str(folder / self.name), "{folder}": str(folder),
            "{python}": sys.executable, "{settings}": str(folder / "steps" / f"{self.name}.yaml"),
        }  # fmt: skip

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                for key, path in names.items():
                    value = value.replace(key, path)
                return value
            if isinstance(value, dict):
                return {key: fill(item) for key, item in value.items()}
            return [fill(item) for item in value] if isinstance(value, list | tuple) else value

        return fill(list(self.arguments)), fill(self.settings)

    def fingerprint(self) -> str:
        """Return a digest of what the step does, wherever its folder is."""
        text = json.dumps([list(self.arguments), self.settings, list(self.after)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def toddle_step(
    name: str, command: str, settings: dict[str, Any], *, after: Iterable[str] = (), seconds: float = 60.0
) -> Step:
    """Return the step that runs `toddle <command>` with `settings` (fields of its Config; `out` is filled in)."""
    arguments = ("{python}", "-m", "toddle", command, "--config", "{settings}", "--resume")
    return Step(
        name=name, arguments=arguments, settings={**settings, "out": "{out}"}, after=tuple(after), seconds=seconds
    )


def is_done(step: Step, folder: Path) -> bool:
    """Whether the step has finished well.  Raises InputError when it did so with other settings than now."""
    mark = folder / "steps" / f"{step.name}.json"
    if not mark.exists():
        return False
    if json.loads(mark.read_text())["fingerprint"] != step.fingerprint():
        raise InputError(
            f"{step.name}: was done with other settings than now; delete {folder / step.name} and {mark} to do it "
            "again, or choose another --out"
        )
    return True


def run_steps(
    steps: Sequence[Step], folder: Path, *, processes: int = 1,
    progress: Callable[[float, float, str], None] | None = None,
) -> dict[str, float]:
    """Run what is not done yet, at most `processes` at a time, each after what it depends on.

    Returns the seconds each step took (of finished steps, also of earlier calls).  `progress(share, left, text)` is
    called several times a second: share done, seconds left (estimated), what is running.
    Raises InputError naming the steps that failed and their logs; steps that do not depend on them are run first.
    Raises KeyboardInterrupt after SIGINT or SIGTERM, when the steps under way have saved their state.
    """
    check_steps(steps)
    folder = folder.resolve()
    done = {step.name for step in steps if is_done(step, folder)}
    board = _Board(steps, folder, done, progress)
    running: dict[str, _Process] = {}
    failed: dict[str, int] = {}
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while True:
            for step in steps:
                ready = step.name not in done | running.keys() | failed.keys() and set(step.after) <= done
                if ready and len(running) < processes:
                    running[step.name] = _Process(step, folder)
            for name, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[name]
                    done.add(name) if status == 0 else failed.__setitem__(name, status)
            board.show(done, running)
            if not running and not any(set(s.after) <= done for s in steps if s.name not in done | failed.keys()):
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _stop_all(running)
        raise KeyboardInterrupt(f"stopped; the same command goes on where it was ({folder})") from None
    finally:
        signal.signal(signal.SIGTERM, former)
        _stop_all(running)
    if failed:
        lines = [f"{name} failed with status {failed[name]}: {_last_line(folder, name)}" for name in failed]
        raise InputError("\n".join(lines))
    return {step.name: seconds_of(step, folder) for step in steps}


def seconds_of(step: Step, folder: Path) -> float:
    """Return how long a finished step took, over all calls."""
    return float(json.loads((folder / "steps" / f"{step.name}.json").read_text())["seconds"])


def with_what_they_need(steps: Sequence[Step], patterns: Sequence[str]) -> list[Step]:
    """Return the steps whose names match a pattern (`sft/*`), and those they depend on, in order.

    Raises InputError for a pattern that no step matches.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatch(step.name, pattern) for step in steps):
            raise problem("only", "a pattern of step names", pattern, nearest(pattern, [step.name for step in steps]))
    wanted = {step.name for step in steps if any(fnmatch.fnmatch(step.name, pattern) for pattern in patterns)}
    for step in reversed(steps):
        if step.name in wanted:
            wanted |= set(step.after)
    return [step for step in steps if step.name in wanted]


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def check_steps(steps: Sequence[Step]) -> None:
    """Raise InputError unless names are unique and each step stands after those it depends on."""
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise InputError(f"steps: the name '{max(names, key=names.count)}' is used twice")
    seen: set[str] = set()
    for step in steps:
        for other in step.after:
            if other not in names:
                raise InputError(f"step '{step.name}': comes after unknown '{other}'; {nearest(other, names)}")
            if other not in seen:
                raise InputError(f"step '{step.name}': '{other}' must stand before it in the list")
        seen.add(step.name)


def _last_line(folder: Path, name: str) -> str:
    log = folder / "steps" / f"{name}.log"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return f"{lines[-1].strip() if lines else 'it printed nothing'} (all of it in {log})"


class _Process:
    """A step under way."""

    def __init__(self, step: Step, folder: Path) -> None:
        self.step, self.folder, self.began = step, folder, time.monotonic()
        self.base = folder / "steps" / step.name
        arguments, settings = step.filled(folder)
        (folder / step.name).mkdir(parents=True, exist_ok=True)
        _wait_for_former(folder / step.name)
        self.base.parent.mkdir(parents=True, exist_ok=True)
        if settings:
            write_text_atomic(self.base.with_name(self.base.name + ".yaml"), yaml.safe_dump(settings, sort_keys=False))
        environment = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
        with open(self.base.with_name(self.base.name + ".log"), "ab") as log:
            self.child = subprocess.Popen(
                arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )  # a session of its own: Ctrl-C reaches it through `stop`, once

    def poll(self) -> int | None:
        """Return the exit status once it has ended; a good end is put on record."""
        status = self.child.poll()
        if status is not None:
            self._record(status)
        return status

    def _record(self, status: int) -> None:
        spent = self.base.with_name(self.base.name + ".seconds")
        before = float(spent.read_text()) if spent.exists() else 0.0
        total = before + time.monotonic() - self.began
        write_text_atomic(spent, f"{total:.3f}")
        if status == 0:
            facts = {"seconds": total, "fingerprint": self.step.fingerprint()}
            write_json_atomic(self.base.with_name(self.base.name + ".json"), facts)

    def wait(self) -> None:
        """Wait for it to end by itself; kill it when it does not."""
        try:
            self._record(self.child.wait(GRACE_SECONDS))
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def _wait_for_former(folder: Path) -> None:
    """Wait for the process of a killed runner that is still saving its state (it holds the lock of its run folder)."""
    if not (folder / ".lock").exists():
        return
    with open(folder / ".lock") as lock:
        for _ in range(round(GRACE_SECONDS / POLL_SECONDS)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return  # closing the file lets it go
            except OSError:
                time.sleep(POLL_SECONDS)


def _stop_all(running: dict[str, _Process]) -> None:
    """Ask what is under way to save and end, and wait for it."""
    stopped = [process for process in running.values() if process.child.poll() is None]
    for process in stopped:
        process.child.send_signal(signal.SIGINT)
    for process in stopped:
        process.wait()


def _die_with_parent() -> None:
    """In the child, before its program starts: be ended when this process is killed (Linux)."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class _Board:
    """How far the steps are, by their estimates, corrected by how long the finished ones took."""

    def __init__(
        self, steps: Sequence[Step], folder: Path, done: set[str], progress: Callable[[float, float, str], None] | None
    ) -> None:
        self.steps, self.folder, self.progress = {step.name: step for step in steps}, folder, progress
        self.total = sum(step.seconds for step in steps) or 1.0
        self.began = time.monotonic()
        self.at_start = sum(self.steps[name].seconds for name in done)
        self._next = 0.0

    def show(self, done: set[str], running: dict[str, _Process]) -> None:
        """Call `progress`."""
        if self.progress is None:
            return
        now = time.monotonic()
        if now < self._next and running:
            return
        self._next = now + 0.5
        finished = sum(self.steps[name].seconds for name in done)
        under_way = sum(
            min(0.95 * process.step.seconds, now - process.began) for process in running.values()
        )
        share = min(1.0, (finished + under_way) / self.total)
        elapsed, gained = now - self.began, finished + under_way - self.at_start
        rate = gained / elapsed if gained > 0 and elapsed > 5.0 else float(max(1, len(running)))
        texts = [f"{name} ({line})" if (line := _tail(self.folder, name)) else name for name in running]
        self.progress(share, (1.0 - share) * self.total / rate, "; ".join(texts))


def _tail(folder: Path, name: str, most: int = 60) -> str:
    """The last line a running step printed."""
    try:
        with open(folder / "steps" / f"{name}.log", "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return lines[-1].replace("━", "").replace("╸", "").replace("╺", "")[:most] if lines else ""


class StepBar:
    """Shows `run_steps`' progress: a bar with a time estimate on a terminal, elsewhere a line now and then."""

    LINE_SECONDS = 20.0

    def __init__(self, label: str) -> None:
        self.label, self._last = label, float("-inf")
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[left]} left  {task.fields[text]}"), console=console,
            )
            self._task = self._bar.add_task(label, total=1.0, left="", text="")

    def __enter__(self) -> StepBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, share: float, left: float, text: str) -> None:
        """Show that `share` is done, `left` seconds are left (estimated) and `text` is under way."""
        clock = time.strftime("%H:%M:%S", time.gmtime(left))
        if self._bar:
            self._bar.update(self._task, completed=share, left=clock, text=text)
        elif time.monotonic() - self._last > self.LINE_SECONDS or share >= 1.0:
            self._last = time.monotonic()
            print(f"{self.label}: {100 * share:.0f} %, {clock} left  {text}".rstrip(), file=sys.stderr, flush=True)
