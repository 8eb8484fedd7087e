"""The loop every training run goes through: step, log, checkpoint; stop well on Ctrl-C, on a kill and on a NaN."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toddle.core.errors import EnvironmentFault, NaNError
from toddle.core.protocols import Learner
from toddle.runs.checkpoint import copy_tree
from toddle.runs.metrics import CLOCK_GROUP, check_finite
from toddle.runs.run import RunFolder

__all__ = ["ProgressLine", "run_loop"]

SNAPSHOT_SHARE = 0.02
"""At most this share of the time goes into copies of the state that a NaN stop could need."""
LINE_SECONDS = 10.0
"""Seconds between two plain lines of progress where the output is not a terminal."""

OnIteration = Callable[[int, dict[str, float]], dict[str, float] | None]


def run_loop(
    learner: Learner,
    run: RunFolder,
    iterations: int,
    *,
    checkpoint_every: int,
    label: str = "train",
    show: tuple[str, ...] = (),
    on_iteration: OnIteration | None = None,
    enough: Callable[[], bool] | None = None,
) -> None:
    """Drive `learner` to `iterations` steps in all, going on from the newest checkpoint of `run`.

    `on_iteration(step, metrics)` is called after each step, before it is logged; what it returns is logged on the
    same line; it must not change the learner.  The run ends early where `enough()` says so after a step.  `show` names
    metrics to print beside the progress bar.  The learner of a finished run is restored all the same, so that what
    follows the loop can be done again.

    Raises NaNError when a step raises it or gives a metric that is not finite: the state before that step is saved
    in `nan/`, and resuming the run replays the step.  Raises EnvironmentFault when an environment raises, and
    KeyboardInterrupt after SIGINT, SIGTERM or SIGHUP, with a checkpoint saved.  The messages say how to go on.
    """
    step, meta = run.restore(learner)
    if run.finished:
        print(f"{label}: {run.path} is already finished ({step} steps)", file=sys.stderr)
        return
    if step == 0:
        run.save_checkpoint(0, learner)  # from here on there is always a state to go back to
    elapsed = float(meta.get("elapsed_seconds", 0.0))
    snapshot = _Snapshot(learner, step)
    with _Stop() as stop, ProgressLine(label, iterations, done=step) as bar:
        while step < iterations:
            snapshot.refresh(step)
            began = time.perf_counter()
            try:
                metrics = dict(learner.step())
                metrics |= (on_iteration(step + 1, metrics) if on_iteration else None) or {}
                check_finite(metrics)
            except NaNError as error:
                raise _save_before_nan(learner, run, snapshot, step, error) from None
            except EnvironmentFault as error:
                raise _save_before_fault(learner, run, snapshot, step, elapsed, error) from error
            step += 1
            seconds = time.perf_counter() - began
            elapsed += seconds
            metrics |= {f"{CLOCK_GROUP}/iteration_seconds": seconds, f"{CLOCK_GROUP}/elapsed_seconds": elapsed}
            run.metrics.write(step, metrics)
            bar.advance(step, {name: metrics[name] for name in show if name in metrics})
            last = step == iterations or (enough is not None and enough())
            if step % checkpoint_every == 0 or last or stop.asked:
                run.save_checkpoint(step, learner, {"elapsed_seconds": elapsed})
            if last:
                run.finish(step)
            if stop.asked:
                raise KeyboardInterrupt(f"stopped after step {step} of {iterations}; go on with --resume ({run.path})")
            if last:
                break


class _Snapshot:
    """A copy of the learner's state in memory, made again before a step as often as SNAPSHOT_SHARE allows.

    The state before any later step is found by making the steps since the copy once more: they are deterministic.
    """

    def __init__(self, learner: Learner, step: int) -> None:
        self.learner, self.step, self.next = learner, -1, 0.0
        self.tree: Any = None

    def refresh(self, step: int) -> None:
        began = time.perf_counter()
        if self.step >= 0 and began < self.next:
            return
        self.tree, self.step = copy_tree(self.learner.state_dict()), step
        now = time.perf_counter()
        self.next = now + (now - began) / SNAPSHOT_SHARE

    def go_back(self, step: int) -> None:
        """Bring the learner to its state before `step`.  Raises NaNError when a step on the way fails."""
        self.learner.load_state_dict(copy_tree(self.tree))
        for _ in range(self.step, step):
            self.learner.step()


def _state_before(learner: Learner, snapshot: _Snapshot, step: int) -> tuple[Any, int]:
    """Return the state before the step that failed, and after how many steps it is."""
    try:
        snapshot.go_back(step)
        return learner.state_dict(), step
    except (NaNError, EnvironmentFault):  # not deterministic after all: the last state known to be good
        return snapshot.tree, snapshot.step


def _save_before_fault(
    learner: Learner, run: RunFolder, snapshot: _Snapshot, step: int, elapsed: float, error: EnvironmentFault
) -> EnvironmentFault:
    """Save a checkpoint from before the step in which the environment raised, and return the error to raise."""
    tree, at = _state_before(learner, snapshot, step)
    run.save_tree(at, tree, {"elapsed_seconds": elapsed})
    return EnvironmentFault(f"step {step + 1}: {error}; --resume goes on from step {at} ({run.path})")


def _save_before_nan(learner: Learner, run: RunFolder, snapshot: _Snapshot, step: int, error: NaNError) -> NaNError:
    """Save the state before the step that failed and return the error to raise."""
    tree, at = _state_before(learner, snapshot, step)
    folder = run.save_tree(at, tree, nan=True)
    return NaNError(f"step {step + 1}: {error}; the state after step {at} is in {folder}; --resume replays from there")


class _Stop:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a wish to stop after the step under way; a second: at once."""

    asked = False

    def __enter__(self) -> _Stop:
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if (
                    number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
                ):  # under nohup it stays ignored
                    self._former[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once; --resume goes on from the last checkpoint")
        self.asked = True
        print("\nstopping after this step and a checkpoint; once more stops at once", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)


class ProgressLine:
    """A progress bar with an estimate of the time left on a terminal; elsewhere a plain line now and then."""

    def __init__(self, label: str, total: int, *, done: int = 0) -> None:
        self.label, self.total, self._start, self._done = label, total, time.monotonic(), done
        self._last = self._start
        console = Console(stderr=True)
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> ProgressLine:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, done: int, metrics: dict[str, float] | None = None) -> None:
        """Say that `done` of the total are done; `metrics` are printed beside."""
        note = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._last >= LINE_SECONDS or done == self.total:
            self._last = now
            rate = (now - self._start) / max(1, done - self._done)
            left = time.strftime("%H:%M:%S", time.gmtime(rate * (self.total - done)))
            print(f"{self.label}: {done}/{self.total}, {left} left  {note}".rstrip(), file=sys.stderr, flush=True)
