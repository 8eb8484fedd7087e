"""Steps that depend on one another, run as processes: in order, several at a time, resumable, surviving a kill.

A step is a command line with a folder of its own.  What it finished with is written to `steps/<name>.json`, so a
step that is done is never run again; one that was interrupted is started again with the same command, which goes
on where it was (toddle's own commands do, by `--resume`).
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from toddle.core.errors import InputError, nearest, problem
from toddle.core.files import write_json_atomic, write_text_atomic
from toddle.core.process import prepare_child
from toddle.core.reading import read_json, read_text
from toddle.runs.steps_board import StepBoard, last_line

__all__ = [
    "Step",
    "check_steps",
    "is_done",
    "names_like",
    "on_device",
    "run_steps",
    "seconds_of",
    "still_needed",
    "toddle_step",
    "with_what_they_need",
]

POLL_SECONDS, SHOW_SECONDS = 0.1, 0.5
COMPUTING = {"pretrain", "sft", "finetune", "reward", "evaluate", "backbone"}
"""Commands with a `device`."""
PACKAGE = Path(__file__).parent.parent
GRACE_SECONDS = 60.0
"""How long an interrupted step may take to save its state before it is killed."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    In its arguments and settings `{out}` stands for its folder, `{folder}` for the folder of all steps, `{python}`
    for this interpreter, `{toddle}` for the folder of the package: its fingerprint is the same on every machine.
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
            "{out}": str(folder / self.name),
            "{folder}": str(folder),
            "{python}": sys.executable,
            "{toddle}": str(PACKAGE),
            "{settings}": str(folder / "steps" / f"{self.name}.yaml"),
        }

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
        """Return a digest of what the step does, wherever its folder is and whatever device computes it."""
        settings = {key: value for key, value in self.settings.items() if key != "device"}
        text = json.dumps([list(self.arguments), settings, list(self.after)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def toddle_step(
    name: str, command: str, settings: dict[str, Any], *, after: Iterable[str] = (), seconds: float = 60.0
) -> Step:
    """Return the step that runs `toddle <command>` with `settings` (fields of its Config).

    Its `out` is the step's own folder, unless settings say another place in it.
    """
    arguments = ("{python}", "-m", "toddle", *command.split(), "--config", "{settings}", "--resume")
    return Step(
        name=name, arguments=arguments, settings={"out": "{out}", **settings}, after=tuple(after), seconds=seconds
    )


def on_device(steps: Sequence[Step], device: str) -> list[Step]:
    """Return the steps with those toddle commands that have a `device` set to it."""
    return [
        replace(step, settings=step.settings | {"device": device})
        if "toddle" in step.arguments and COMPUTING & set(step.arguments)
        else step
        for step in steps
    ]


def is_done(step: Step, folder: Path) -> bool:
    """Whether the step has finished well.  Raises InputError when it did so with other settings than now."""
    mark = folder / "steps" / f"{step.name}.json"
    if not mark.exists():
        return False
    if read_json(mark, {"fingerprint": str})["fingerprint"] != step.fingerprint():
        raise InputError(
            f"{step.name}: was done with other settings than now; delete {folder / step.name} and {mark} to do it "
            "again, or choose another --out"
        )
    return True


def run_steps(
    steps: Sequence[Step],
    folder: Path,
    *,
    processes: int = 1,
    progress: Callable[[float, float, str], None] | None = None,
) -> dict[str, float]:
    """Run what is not done yet, at most `processes` at a time, each after what it depends on.

    Returns the seconds each step took (of finished steps, also of earlier calls).  `progress(share, left, text)` is
    called several times a second: share done, seconds left (estimated), what is running.
    Raises InputError naming the steps that failed and their logs; steps that do not depend on them are run first.
    Raises KeyboardInterrupt after SIGINT, SIGTERM or SIGHUP, when the steps under way have saved their state.
    """
    check_steps(steps)
    folder = folder.resolve()
    done = {step.name for step in steps if is_done(step, folder)}
    board = StepBoard(steps, processes)
    running: dict[str, _Process] = {}
    failed: dict[str, int] = {}
    heeded = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]  # nohup ignores one
    former = {number: signal.signal(number, _interrupt) for number in heeded}
    shown = float("-inf")
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
            if progress is not None and (not running or time.monotonic() > shown + SHOW_SECONDS):
                shown = time.monotonic()
                progress(*board.state(done, {name: process.state() for name, process in running.items()}))
            if not running and not any(set(s.after) <= done for s in steps if s.name not in done | failed.keys()):
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _stop_all(running)
        raise KeyboardInterrupt(f"stopped; the same command goes on where it was ({folder})") from None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        _stop_all(running)
    if failed:
        logs = {name: folder / "steps" / f"{name}.log" for name in failed}
        lines = (f"{n} failed with status {failed[n]}: {last_line(log)} (all in {log})" for n, log in logs.items())
        raise InputError("\n".join(lines))
    return {step.name: seconds_of(step, folder) for step in steps}


def _seconds_before(file: Path) -> float:
    """Return the seconds that earlier calls spent on a step.  A damaged file costs their record alone: 0."""
    try:
        seconds = float(read_text(file)) if file.exists() else 0.0
    except (InputError, ValueError):
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        print(f"{file}: no number of seconds; counted anew", file=sys.stderr)
        return 0.0
    return seconds


def seconds_of(step: Step, folder: Path) -> float:
    """Return how long a finished step took, over all calls."""
    return float(read_json(folder / "steps" / f"{step.name}.json", {"seconds": (int, float)})["seconds"])


def names_like(steps: Sequence[Step], patterns: Sequence[str]) -> set[str]:
    """Return the names of the steps that match a pattern; * stands for any letters, / among them."""
    return {step.name for step in steps if any(fnmatch.fnmatchcase(step.name, pattern) for pattern in patterns)}


def with_what_they_need(steps: Sequence[Step], patterns: Sequence[str]) -> list[Step]:
    """Return the steps whose names match a pattern (`sft/*`), and those they depend on, in order.

    Raises InputError for a pattern that no step matches.
    """
    for pattern in patterns:
        if not names_like(steps, [pattern]):
            known = {re.sub(r"seed\d+", "seed*", step.name) for step in steps}
            raise problem("only", "a pattern of step names", pattern, nearest(pattern, known))
    wanted = names_like(steps, patterns)
    for step in reversed(steps):
        if step.name in wanted:
            wanted |= set(step.after)
    return [step for step in steps if step.name in wanted]


def still_needed(steps: Sequence[Step], folder: Path, elsewhere: Container[str]) -> list[Step]:
    """Return the steps without those of `elsewhere` (done in another folder) that no step which is left comes after."""
    wanted: set[str] = set()
    for step in reversed(steps):
        if step.name in wanted or step.name not in elsewhere or is_done(step, folder):
            wanted |= {step.name, *step.after}
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
                arguments,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                preexec_fn=None if sys.platform == "win32" else prepare_child,
            )  # a session of its own: Ctrl-C reaches it through `stop`, once

    def state(self) -> tuple[float, str]:
        """Return the seconds it has run and the last line it printed."""
        return time.monotonic() - self.began, last_line(self.base.with_name(self.base.name + ".log"))

    def poll(self) -> int | None:
        """Return the exit status once it has ended; a good end is put on record."""
        status = self.child.poll()
        if status is not None:
            self._record(status)
        return status

    def _record(self, status: int) -> None:
        spent = self.base.with_name(self.base.name + ".seconds")
        before = _seconds_before(spent)
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
