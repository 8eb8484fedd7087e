"""Processes that only act: each has its share of the worlds and a copy of the policy, and fills its part of rollouts.

The process that learns starts them on its machine as `toddle <command> --config <its settings>`.  Each iteration it
sends what of the weights has changed since (all of them at first; of a policy whose backbone is frozen or trained by
LoRA that is the expert's and LoRA's alone), they act, and their parts are put side by side: the rollout of one process
with all worlds.  One that is lost is started again, with other seeds; the episodes it was in are dropped.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from toddle.core.device import CPU, device_of, to_device
from toddle.core.errors import EnvironmentFault, problem
from toddle.core.process import prepare_child
from toddle.core.protocols import Acting, Critic
from toddle.core.team import HOST, Place, placed
from toddle.experience.collect import Collector
from toddle.experience.notes import Notes
from toddle.experience.rollout import Rollout
from toddle.runs.learners import merged_state, own_state

__all__ = ["ASKED", "KEY", "LOST", "Beside", "Crew", "act", "acts", "address_of", "beside", "brought", "check_sources"]
__all__ += ["crew", "done", "received", "send", "side_by_side"]

ASKED = "TODDLE_WORKER"
"""Environment variable: where the learner listens, the key, and which of how many this worker is."""
KEY = "TODDLE_KEY"
"""Environment variable: the key of workers that join from other machines."""
LOST = (EOFError, OSError)  # the latter also where a message is cut short
GREETING = 10
"""Seconds in which one that connects must have said who it is."""
MOST_LOSSES = 20
"""Workers lost without an iteration in between at which the run ends."""
OF_WORLDS = ("env", "actor", "generator", "episode_cost", "succeeded")
"""What of a collector's state is where the worlds are."""
FOR_EACH = ("group", "episode_return", "success")
"""What a rollout has for each world, not for each decision."""


# ---- the worker ------------------------------------------------------------------------------------------------------
def acts() -> bool:
    """Whether this process is one that only acts."""
    return ASKED in os.environ


def act(config: Any, build: Callable[[Any], Any]) -> None:
    """Be a worker until the learner lets go: build what learns with this one's worlds, and gather when it is said."""
    address, key, index, size, life = os.environ[ASKED].split()
    link = Client(address_of(address, ASKED), authkey=bytes.fromhex(key))
    with placed(Place(int(index), int(size), config.worlds)):
        made = build(replace(config, workers=1, seed=config.seed + 1_000_003 * int(life)))
        policy, sources = made.acting or made.policy, made.sources
        send(link, ("ready", int(index)))
        try:
            while True:
                word, at, given = received(link)
                if word == "gather":
                    policy.load_state_dict({**policy.state_dict(), **given})
                    answer: Any = brought(sources[at], sources[at].gather(policy))
                else:
                    answer = done(word, sources[at], given)
                send(link, answer)
        except LOST:
            return  # the learner has ended


def brought(source: Collector, steps: int) -> tuple[dict[str, Any], Notes, int]:
    """Return what a collector has gathered in `steps` control steps: its rollout's attributes, and what ended."""
    rollout, notes, source.notes = source.rollout, source.notes, Notes()
    return dict(vars(rollout)), notes, steps


def done(word: str, source: Collector, given: Any) -> dict[str, Any]:
    """Restore ("load") or return ("save") what of a collector's state is of its worlds."""
    if word == "load":
        source.load_state_dict({**source.state_dict(), **given})
    return {name: value for name, value in source.state_dict().items() if name in OF_WORLDS}


def address_of(text: str, field: str) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT.  Raises InputError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise problem(field, "HOST:PORT", text)
    return host, int(port)


def _wait_at_most(link: socket.socket, seconds: int) -> None:
    """Let whoever reads from a connection wait no longer than this for what is sent; 0: for ever."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))


def send(link: Connection, what: Any) -> None:
    link.send_bytes(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))


def received(link: Connection) -> Any:
    return pickle.loads(link.recv_bytes())  # from a process that knows the key: this run's own


# ---- the learner -----------------------------------------------------------------------------------------------------
class Crew:
    """The workers of a run."""

    def __init__(self, size: int, command: str, folder: Path, listen: str | None = None) -> None:
        """Start them; each builds its worlds meanwhile.  listen: HOST:PORT where they join from other machines, and
        none is started here."""
        self.size, self.command, self.folder, self.listens = size, command, folder, listen is not None
        self.key, self.lives, self.losses = secrets.token_bytes(16), [0] * size, 0
        self.server = socket.create_server((HOST, 0) if listen is None else address_of(listen, "listen"), backlog=size)
        self.server.settimeout(1.0)
        if self.listens:
            self.key = (os.environ.get(KEY) or secrets.token_hex(16)).encode()
            told = f"{KEY}={self.key.decode()} " if KEY not in os.environ else f"{KEY}=... "
            print(f"{size} workers are awaited: {told}toddle {command} --join {listen}", file=sys.stderr, flush=True)
        self.links: list[Connection | None] = [None] * size
        self.sent: list[dict[str, Tensor]] = [{} for _ in range(size)]
        self.processes = [] if self.listens else [self._start(index) for index in range(size)]

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        host, port = self.server.getsockname()
        told = f"{host}:{port} {self.key.hex()} {index} {self.size} {self.lives[index]}"
        return subprocess.Popen(
            [sys.executable, "-m", "toddle", *self.command.split(), "--config", str(self.folder / "config.yaml")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, ASKED: told},
            start_new_session=True,
            preexec_fn=None if sys.platform == "win32" else prepare_child,
        )

    def _link(self, index: int) -> Connection:
        """Return the connection to a worker, once it has said that it is ready.  Raises EnvironmentFault."""
        while self.links[index] is None:
            try:
                came = self.server.accept()[0]
            except TimeoutError:
                for one, process in enumerate(self.processes):
                    if self.links[one] is None and process.poll() is not None:
                        self._lost(one)
                continue
            _wait_at_most(came, GREETING)
            link = Connection(came.detach())
            try:
                deliver_challenge(link, self.key)
                answer_challenge(link, self.key)
                word, who = received(link)
                if word == "join":
                    self._place(link)
                    continue
            except (AuthenticationError, *LOST):  # a stranger, or a worker that has ended: which, its process says
                link.close()
                continue
            with socket.socket(fileno=os.dup(link.fileno())) as same:
                _wait_at_most(same, 0)
            self.links[who] = link
        found = self.links[index]
        assert found is not None
        return found

    def _place(self, link: Connection) -> None:
        """Tell one that joins the settings, and which worker it is; None: there is no place."""
        free = [index for index in range(self.size) if self.links[index] is None]
        given = None
        if free:
            index = min(free, key=lambda one: self.lives[one])  # whoever was given a place may not have come
            given = ((self.folder / "config.yaml").read_text(), index, self.size, self.lives[index])
            self.lives[index] += 1
        send(link, given)
        link.close()

    def _lost(self, index: int) -> None:
        """Start a worker that was lost again.  Raises EnvironmentFault where they are lost again and again."""
        status = 0 if self.listens else self.processes[index].wait()
        self.losses += 1
        if self.losses > MOST_LOSSES or (status > 0 and self.links[index] is None):
            raise EnvironmentFault(f"worker {index} has ended with status {status}; what it said stands above")
        how = ": one that joins takes its place" if self.listens else f" (status {status}): it is started again"
        print(f"worker {index} was lost{how}, its episodes are dropped", file=sys.stderr)
        self.links[index], self.sent[index] = None, {}
        if not self.listens:
            self.lives[index] += 1
            self.processes[index] = self._start(index)

    def ask(self, given: Callable[[int], tuple[str, int, Any]]) -> list[Any]:
        """Say something to every worker, all before the first answers; return what they answer."""
        waiting, answers = list(range(self.size)), dict[int, Any]()
        while waiting:
            told = []
            for index in waiting:
                try:
                    send(self._link(index), given(index))
                    told.append(index)
                except LOST:
                    self._lost(index)
            for index in told:
                try:
                    answers[index] = received(self._link(index))
                except LOST:
                    self._lost(index)
            waiting = [index for index in waiting if index not in answers]
        self.losses = 0
        return [answers[index] for index in range(self.size)]

    def gather(self, at: int, policy: Acting) -> list[Any]:
        """Send the workers what has changed of the weights, and let them act; return what they bring."""
        weights = {name: value.to(CPU) for name, value in policy.state_dict().items()}  # once for all workers
        return self.ask(lambda index: ("gather", at, self.patch(index, weights)))

    def patch(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return which weights (on the CPU) differ from what this worker has."""
        known = self.sent[index]
        changed = {name: x for name, x in weights.items() if name not in known or not torch.equal(known[name], x)}
        self.sent[index] = known | {name: value.clone() for name, value in changed.items()}
        return changed

    def close(self) -> None:
        """Let go of all of them."""
        for link in self.links:
            if link is not None:
                link.close()
        self.server.close()
        for process in self.processes:
            process.kill()  # it holds nothing open that could be cut short
            process.wait()


class Gathering(Protocol):
    """Several that gather, each with its share of the worlds: workers, or halves in this process."""

    size: int

    def gather(self, at: int, policy: Acting) -> list[Any]:
        """Let each gather from its part of environment `at`; return what they bring (`brought`)."""

    def ask(self, given: Callable[[int], tuple[str, int, Any]]) -> list[Any]:
        """Say to each (word, environment, state), "save" or "load"; return their states (`done`)."""


class Beside:
    """A source of experience whose worlds are others'; `inner` is the collector that it stands for."""

    def __init__(self, inner: Collector, at: int, crew: Gathering) -> None:
        self.inner, self.at, self.crew, self.label, self.worlds = inner, at, crew, inner.label, inner.worlds
        self.shares = [len(Place(index, crew.size, inner.worlds).share(inner.worlds)) for index in range(crew.size)]

    def collect(self, policy: Acting, critic: Critic | None) -> tuple[Rollout, dict[str, float]]:
        """Let the workers act, and put what they bring side by side."""
        parts = self.crew.gather(self.at, policy)
        self.inner.rollout = side_by_side([part for part, _, _ in parts], device_of(policy))
        self.inner.notes.beside(notes for _, notes, _ in parts)
        return self.inner.finish(critic, sum(steps for _, _, steps in parts))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of one collector with all worlds."""
        parts = self.crew.ask(lambda index: ("save", self.at, None))
        return {**self.inner.state_dict(), **merged_state(parts, self.shares)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it; each worker takes its own worlds."""
        self.inner.load_state_dict(state)
        whole = {name: state[name] for name in OF_WORLDS if name in state}

        def own(index: int) -> tuple[str, int, Any]:
            share = Place(index, self.crew.size, self.worlds).share(self.worlds)
            return "load", self.at, own_state(whole, share, self.worlds)

        self.crew.ask(own)


def side_by_side(parts: Sequence[dict[str, Any]], device: torch.device) -> Rollout:
    """Return one rollout of several (their attributes), whose worlds follow one another."""
    whole, first = Rollout.__new__(Rollout), parts[0]
    said = list(dict.fromkeys(sentence for part in parts for sentence in part["sentences"]))
    numbers = {sentence: index for index, sentence in enumerate(said)}
    starts = [sum(part["worlds"] for part in parts[:index]) for index in range(len(parts))]
    for part, start in zip(parts, starts, strict=True):
        if "task" in part["_observation"] and part["sentences"]:
            seen = part["_observation"]
            own = torch.tensor([numbers[sentence] for sentence in part["sentences"]], device=seen["task"].device)
            part["_observation"] = {**seen, "task": own[seen["task"]]}
        part["final_at"] = part["final_at"] + part["final_at"].new_tensor([0, start])
    for name, value in first.items():
        others = [part[name] for part in parts]
        if name in ("finals", "final_at"):
            others = [each for each, part in zip(others, parts, strict=True) if part["finals"] is not None]
            value = others[0] if others else value
        setattr(whole, name, to_device(_joined(name, value, others), device))
    whole.worlds, whole.sentences, whole._numbers = sum(part["worlds"] for part in parts), said, numbers
    return whole


def _joined(name: str, first: Any, values: Sequence[Any]) -> Any:
    if isinstance(first, dict) and name != "_numbers":
        return {key: _joined(name, value, [each[key] for each in values]) for key, value in first.items()}
    if isinstance(first, Tensor) and values:
        return torch.cat(list(values), 0 if name in ("finals", "final_at", *FOR_EACH) else 1)
    if name == "finals" and isinstance(first, list):
        return [sentence for each in values for sentence in each]
    return first


@contextmanager
def crew(workers: int, command: str, folder: Path, listen: str | None = None) -> Iterator[Crew | None]:
    """Start the workers of the run in `folder` (whose config.yaml is there), and end them with it; one: none."""
    if workers == 1:
        yield None
        return
    made = Crew(workers, command, folder, listen)
    try:
        yield made
    finally:
        made.close()


def beside(made: Any, crew: Crew | None) -> Any:
    """Return what a method has built, whose learner takes its experience from the workers."""
    if crew is not None:
        made.learner.sources = [Beside(source, index, crew) for index, source in enumerate(made.sources)]
    return made


def check_sources(workers: int, sources: Sequence[Any], method: str) -> None:
    """Raise InputError where the experience is not gathered by a collector."""
    if workers > 1 and not all(isinstance(source, Collector) for source in sources):
        raise problem("workers", f"1 with method {method}", workers, "docs/scaling.md lists what workers are for")
