"""How far dependent steps are, and how long the rest will take."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

__all__ = ["StepBar", "StepBoard", "last_line", "makespan"]

OWN_ESTIMATE = re.compile(r"(\d+):(\d\d):(\d\d) left")
"""How toddle's own commands say how long they will take."""


class Timed(Protocol):
    """What is asked of a step."""

    @property
    def name(self) -> str:
        """Its unique name."""

    @property
    def after(self) -> tuple[str, ...]:
        """The steps it comes after."""

    @property
    def seconds(self) -> float:
        """How long it takes, roughly."""


def makespan(steps: Sequence[Timed], left: Mapping[str, float], processes: int) -> float:
    """Return the seconds until all is done, when each step still needs left[name] (absent: done).

    Steps start in their order as soon as what they come after is done and a process is free, as `run_steps` does;
    those that need least stand for the ones under way when they are first in the list.
    """
    waiting = [step for step in steps if step.name in left]
    done = {step.name for step in steps if step.name not in left}
    running: dict[str, float] = {}
    now = 0.0
    while waiting or running:
        for step in list(waiting):
            if len(running) < processes and set(step.after) <= done:
                running[step.name] = now + left[step.name]
                waiting.remove(step)
        if not running:
            break  # what is left comes after steps that are not in the list
        name = min(running, key=lambda key: running[key])
        now = max(now, running.pop(name))
        done.add(name)
    return now


class StepBoard:
    """Estimates from the steps' own numbers, corrected by how long finished and running ones really take."""

    def __init__(self, steps: Sequence[Timed], processes: int) -> None:
        self.steps, self.processes = steps, processes
        self.by_name = {step.name: step for step in steps}
        self.total = sum(step.seconds for step in steps) or 1.0
        self.slowness = 1.0

    def state(self, done: set[str], running: Mapping[str, tuple[float, str]]) -> tuple[float, float, str]:
        """Return the share done, the seconds left, and what is under way.

        `running` holds, by name, the seconds a step has run and the last line it printed; a line that says how long
        it will take is believed.
        """
        left, gained, ratios = {}, 0.0, []
        for name, (elapsed, line) in running.items():
            guess = self.by_name[name].seconds * self.slowness
            told = OWN_ESTIMATE.search(line)
            if told and elapsed > 5.0:
                hours, minutes, seconds = map(int, told.groups())
                left[name] = 3600.0 * hours + 60.0 * minutes + seconds
                ratios.append((elapsed + left[name]) / self.by_name[name].seconds)
            else:
                left[name] = max(guess - elapsed, 0.1 * guess)
            gained += self.by_name[name].seconds * elapsed / (elapsed + left[name] + 1e-9)
        if ratios:
            self.slowness = min(20.0, max(0.2, sum(ratios) / len(ratios)))
        for step in self.steps:
            if step.name not in done and step.name not in running:
                left[step.name] = step.seconds * self.slowness
        order = sorted(self.steps, key=lambda step: step.name not in running)  # what runs stands first
        share = (sum(self.by_name[name].seconds for name in done) + gained) / self.total
        texts = [f"{name} ({line[:60]})" if line else name for name, (_, line) in running.items()]
        return min(1.0, share), makespan(order, left, self.processes), "; ".join(texts)


def last_line(log: Path) -> str:
    """Return the last line a step printed, without the marks of a progress bar; empty where there is none."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return re.sub("[━╸╺]", "", lines[-1]) if lines else ""


class StepBar:
    """Shows `run_steps`' progress: a bar with a time estimate on a terminal, elsewhere a line now and then."""

    LINE_SECONDS = 20.0

    def __init__(self, label: str) -> None:
        self.label, self._last = label, float("-inf")
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]} left  {task.fields[text]}"),
                console=console,
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
