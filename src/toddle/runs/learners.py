"""Several learners of one run: one leads and keeps the run's folder, the others do as it does.

The leader starts the others on its own machine, each a process `toddle <command> --config <its settings>`; where RANK
and WORLD_SIZE are set (torchrun, a cluster's scheduler) they are there already, on any machine.  The leader drives its
learner as ever (`runs.loop`); each call is told to the others first, who make it too and meet it in sums and gathers.
A checkpoint is that of one learner with all worlds, so any number of learners goes on from it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist

from toddle.core.errors import EnvironmentFault, InputError, NaNError, problem
from toddle.core.process import started
from toddle.core.protocols import Learner
from toddle.core.team import ALONE, HOST, Team, joined, rank_asked
from toddle.experience.worlds import merged_state, own_state

__all__ = ["SharedLearner", "check_learners", "follow", "follows", "leading", "led"]

END, STEP, SAVE, LOAD = "end", "step", "save", "load"
GRACE_SECONDS = 60.0
"""How long the others may take to end."""


class SharedLearner(Learner, Protocol):
    """A learner that several processes can be, with equal weights in each."""

    def own_worlds(self) -> dict[str, int]:
        """Return which entries of the state are of this learner's worlds alone, and how many worlds these are."""


def check_learners(learners: int, things: int, what: str, name: str = "learners") -> None:
    """Raise InputError where there are more learners than things to share out; one alone shares nothing."""
    if learners > max(things, 1):
        raise problem(name, f"at most {things}, the number of {what}", learners)


def follows(learners: int) -> bool:
    """Whether this process is one of several learners and not the first.

    Raises InputError where others were started (by torchrun, say) than the settings have.
    """
    started = os.environ["WORLD_SIZE"] if rank_asked() is not None else str(learners)
    if started != str(learners):
        raise problem("learners", f"{started}, as many as were started (WORLD_SIZE)", learners)
    return learners > 1 and (rank_asked() or 0) > 0


# ---- the leader ------------------------------------------------------------------------------------------------------
@contextmanager
def leading(learners: int, command: str, folder: Path) -> Iterator[Team]:
    """Start the other learners of the run in `folder` (whose config.yaml is there), and be the first until this ends.

    Raises EnvironmentFault where one of them has ended before its time.
    """
    if learners == 1:
        yield ALONE
        return
    if rank_asked() is not None:
        with joined(learners) as team:
            yield team
            team.said(END)
        return
    store = dist.TCPStore(HOST, 0, learners, is_master=True, wait_for_workers=False)
    others = [_start(index, learners, store.port, command, folder) for index in range(1, learners)]
    try:
        with joined(learners, store) as team:
            yield team
            team.said(END)
        for process in others:
            process.wait(GRACE_SECONDS)
    except (RuntimeError, ConnectionError) as error:
        raise _lost(others, folder, error) from error
    finally:
        for process in others:
            process.kill()  # it holds nothing open that could be cut short
            process.wait()


def _start(index: int, learners: int, port: int, command: str, folder: Path) -> subprocess.Popen[bytes]:
    place = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": learners, "MASTER_ADDR": HOST, "MASTER_PORT": port}
    return started(command, folder, {**{name: str(value) for name, value in place.items()}, "TODDLE_STORE": "1"})


def _lost(others: Sequence[subprocess.Popen[bytes]], folder: Path, error: Exception) -> Exception:
    """Return what to raise: which learner has ended, or, where all are there, the error itself."""
    if isinstance(error, NaNError):
        return error
    for index, process in enumerate(others, 1):
        try:
            status = process.wait(2.0)
        except subprocess.TimeoutExpired:
            continue
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return EnvironmentFault(f"learner {index} {how}; --resume goes on from the last checkpoint ({folder})")
    return error


class Led:
    """The leader's learner: what is done to it is done to all."""

    def __init__(self, learner: SharedLearner, team: Team) -> None:
        """Give every learner the first one's state (imitation before RL is done by it alone)."""
        self.learner, self.team = learner, team
        if team.size > 1:
            self.load_state_dict(self.state_dict())

    def step(self) -> dict[str, float]:
        """Make a step, all together."""
        self.team.said(STEP)
        return self.learner.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of one learner with all worlds."""
        self.team.said(SAVE)
        return _whole(self.learner, self.team)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; each learner takes its own worlds."""
        try:
            self.team.said(LOAD)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        _restore(self.learner, self.team, state)


def led(learner: Any, team: Team) -> Any:
    """Return the learner for the loop to drive: itself where there is one, else all of them."""
    return learner if team.size == 1 else Led(learner, team)


# ---- the others ------------------------------------------------------------------------------------------------------
def follow(build: Callable[[], Any], learners: int) -> None:
    """Be one of the others: build the learner, and do what the first does until it lets go.

    Ends with an InputError where the first has ended.
    """
    store = None
    if os.environ.get("TODDLE_STORE"):  # started by `leading`, whose store has no rendezvous of its own
        store = dist.TCPStore(HOST, int(os.environ["MASTER_PORT"]), learners, is_master=False)
    try:
        with joined(learners, store) as team:
            learner = build()
            while (word := team.said(None)) != END:
                _do(word, learner, team)
    except (RuntimeError, ConnectionError) as error:
        if isinstance(error, NaNError):
            raise
        said = " ".join(str(error).split())[:200]
        raise InputError(f"learner {rank_asked()}: the others cannot be reached any more ({said})") from error


def _do(word: str, learner: Any, team: Team) -> None:
    if word == STEP:
        try:
            learner.step()
        except NaNError:
            return  # all have met it, and the leader says how to go on
    elif word == SAVE:
        _whole(learner, team)
    else:
        _restore(learner, team, None)


# ---- one state of all ------------------------------------------------------------------------------------------------
def _whole(learner: SharedLearner, team: Team) -> dict[str, Any]:
    """Return the learner's state with all learners' worlds in it."""
    state, own = learner.state_dict(), learner.own_worlds()
    for name, worlds in own.items():
        parts = team.objects((state[name], worlds))
        state[name] = merged_state([part for part, _ in parts], [count for _, count in parts])
    return state


def _restore(learner: SharedLearner, team: Team, state: dict[str, Any] | None) -> None:
    """Let a learner restore its own of the first one's state.

    Raises ConnectionError where another cannot be reached, which is no fault of the state.
    """
    try:
        state = team.said(state)
        places = {name: (*team.place(worlds), worlds) for name, worlds in learner.own_worlds().items()}
    except RuntimeError as error:
        raise ConnectionError(str(error)) from error
    assert state is not None
    own = dict(state)
    for name, (first, total, worlds) in places.items():
        own[name] = own_state(state[name], range(first, first + worlds), total)
    learner.load_state_dict(own)
