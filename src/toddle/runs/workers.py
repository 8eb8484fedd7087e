"""Processes that only act: each has its share of the worlds and a copy of the policy, and fills its part of rollouts.

The process that learns starts them on its machine as `toddle <command> --config <its settings>`.  Each iteration it
sends what of the weights has changed since (at first what differs from those a worker was built with; of a policy whose
backbone is frozen or trained by LoRA the expert's and LoRA's alone), they act, and their parts are put side by side:
the rollout of one process with all worlds.  One that is lost is started again, with other seeds; the episodes it was in
are dropped.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toddle.core.device import CPU, to_device
from toddle.core.errors import EnvironmentFault, problem
from toddle.core.process import started
from toddle.core.protocols import Acting
from toddle.core.team import HOST, Place, placed, team
from toddle.runs.beside import brought, done
from toddle.runs.placing import RayPlaces, RayTask, places_of

__all__ = ["ASKED", "KEY", "LOST", "Crew", "act", "acts", "address_of", "check_addresses", "crew", "received", "send"]

ASKED = "TODDLE_WORKER"
"""Environment variable: where the learner listens, the key, and which of how many this worker is."""
KEY = "TODDLE_KEY"
"""Environment variable: the key of workers that join from other machines."""
LOST = (EOFError, OSError)  # the latter also where a message is cut short
GREETING = 10
"""Seconds in which one that connects must have said who it is."""
SILENCE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds of silence until a connection is asked whether it is there, between questions, and how many go unanswered."""
MOST_LOSSES = 20
"""Workers lost without an iteration in between at which the run ends."""


# ---- the worker ------------------------------------------------------------------------------------------------------
def acts() -> bool:
    """Whether this process is one that only acts."""
    return ASKED in os.environ


def act(config: Any, build: Callable[[Any], Any], unit: int = 1) -> None:
    """Be a worker until the learner lets go: build what learns with this one's worlds, and gather when it is said.

    unit: worlds are shared out in so many at once.
    """
    address, key, index, size, life = os.environ[ASKED].split()
    with placed(Place(int(index), int(size), config.worlds, unit)):
        made = build(replace(config, workers=1, seed=config.seed + 1_000_003 * int(life)))
        policy, sources = made.acting or made.policy, made.sources
        anew = set(range(len(sources)) if int(life) else ())
        try:  # the learner waits for a word of whoever has connected, so not before all is built
            link = Client(address_of(address, ASKED), authkey=bytes.fromhex(key))
            send(link, ("ready", int(index), digests(policy.state_dict())))
            while True:
                word, at, given = received(link)
                if word == "gather":
                    weights, told = given
                    if weights:
                        policy.load_state_dict({**policy.state_dict(), **weights})
                    with made.merged():
                        found = brought(sources[at], policy, told, dropped=at in anew)
                    answer: Any = to_device(found, CPU)
                    anew.discard(at)
                else:
                    answer = done(word, sources[at], given)
                send(link, answer)
        except LOST:
            return  # the learner has ended


def digests(weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return by name what tells weights apart."""
    return {
        name: blake2b(value.detach().to(CPU).contiguous().flatten().view(torch.uint8).numpy().data).digest()
        for name, value in weights.items()
    }


def address_of(text: str, field: str) -> tuple[str, int]:
    """Return (host, port) of HOST:PORT.  Raises InputError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise problem(field, "HOST:PORT", text)
    return host, int(port)


def _wait_at_most(link: socket.socket, seconds: int) -> None:
    """Let whoever reads from a connection wait no longer than this for what is sent; 0: for ever."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))


def _notice_silence(link: socket.socket) -> None:
    """Let a connection count as lost whose other machine says nothing any more, not even that it is there."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in SILENCE.items():
        if option := getattr(socket, name, None):  # Linux has them all
            link.setsockopt(socket.IPPROTO_TCP, option, value)


def send(link: Connection, what: Any) -> None:
    link.send_bytes(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))


def received(link: Connection) -> Any:
    return pickle.loads(link.recv_bytes())  # from a process that knows the key: this run's own


# ---- the learner -----------------------------------------------------------------------------------------------------
class Crew:
    """The workers of a run."""

    def __init__(
        self,
        size: int,
        command: str,
        folder: Path,
        listen: str | None = None,
        places: RayPlaces | None = None,
        *,
        learner: int = 0,
        learners: int = 1,
        engine: bool = False,
    ) -> None:
        """Start them; each builds its worlds meanwhile.

        listen: HOST:PORT where they join from other machines, and none is started here.  places: where else than on
        this machine they are started.  learner: of several `learners` which one's they are.  engine: whether they only
        step worlds (`runs.engine`), so that one that is lost can be told again all that it was told.
        """
        self.engine = engine
        self.first, self.total = learner * size, learners * size
        self.size, self.command, self.folder, self.listens = size, command, folder, listen is not None
        self.key, self.lives, self.losses, self.places = secrets.token_bytes(16), [0] * size, 0, places
        own = (HOST if places is None else places.host, 0)
        self.server = socket.create_server(own if listen is None else address_of(listen, "listen"), backlog=size)
        self.server.settimeout(1.0)
        if self.listens:
            self.key = (os.environ.get(KEY) or secrets.token_hex(16)).encode()
            told = f"{KEY}={self.key.decode()} " if KEY not in os.environ else f"{KEY}=... "
            print(f"{size} workers are awaited: {told}toddle {command} --join {listen}", file=sys.stderr, flush=True)
        self.links: list[Connection | None] = [None] * size
        self.weights: dict[str, Tensor] = {}  # as they were last sent, on the CPU
        self.round, self.changed, self.has = 0, dict[str, int](), [0] * size  # the sending in which each last changed
        self.began: list[dict[str, bytes]] = [{} for _ in range(size)]  # digests of what each was built with
        self.own: dict[str, bytes] = {}  # of `weights`, once some worker is new in this round
        self.processes = [] if self.listens else [self._start(index) for index in range(size)]

    def _start(self, index: int) -> subprocess.Popen[bytes] | RayTask:
        host, port = self.server.getsockname()
        told = f"{host}:{port} {self.key.hex()} {self.first + index} {self.total} {self.lives[index]}"
        if self.places is not None:
            return self.places.start(self.command, self.folder / "config.yaml", {ASKED: told})
        return started(self.command, self.folder, {ASKED: told})

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
                word, who, *began = received(link)
                if word == "join":
                    self._place(link)
                    continue
            except (AuthenticationError, *LOST):  # a stranger, or a worker that has ended: which, its process says
                link.close()
                continue
            with socket.socket(fileno=os.dup(link.fileno())) as same:
                _wait_at_most(same, 0)
                _notice_silence(same)
            self.links[who - self.first], self.began[who - self.first] = link, began[0]
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
        if self.losses > MOST_LOSSES or (status > 0 and (self.engine or self.links[index] is None)):
            raise EnvironmentFault(f"worker {index} has ended with status {status}; what it said stands above")
        how = ": one that joins takes its place" if self.listens else f" (status {status}): it is started again"
        what = "and goes on where it was" if self.engine else "its episodes are dropped"
        print(f"worker {index} was lost{how}, {what}", file=sys.stderr)
        self.links[index], self.has[index] = None, 0
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

    def gather(self, at: int, policy: Acting, told: Any) -> list[Any]:
        """Send the workers what has changed of the weights, and let them act; return what they bring."""
        self.note(policy.state_dict())
        return self.ask(lambda index: ("gather", at, (self.patch(index), told)))

    def note(self, weights: Mapping[str, Tensor]) -> None:
        """Take in the weights as they are now."""
        self.round, self.own = self.round + 1, {}
        for name, value in weights.items():
            here, known = value.to(CPU), self.weights.get(name)
            if known is None or not torch.equal(known, here):
                self.weights[name], self.changed[name] = here.clone(), self.round

    def patch(self, index: int) -> dict[str, Tensor]:
        """Return which weights differ from what this worker has; it has them from now on."""
        given = {name: value for name, value in self.weights.items() if self.changed[name] > self.has[index]}
        if not self.has[index]:  # what is frozen, or read from a folder, it has already
            self.own, began = self.own or digests(self.weights), self.began[index]
            given = {name: value for name, value in given.items() if began.get(name) != self.own[name]}
        self.has[index] = self.round
        return given

    def close(self) -> None:
        """Let go of all of them."""
        for link in self.links:
            if link is not None:
                link.close()
        self.server.close()
        for process in self.processes:
            process.kill()  # it holds nothing open that could be cut short
            process.wait()


@contextmanager
def crew(config: Any, command: str, folder: Path) -> Iterator[Crew | None]:
    """Start the workers of the run in `folder` (whose config.yaml is there), and end them with it; one: none."""
    if config.workers == 1:
        yield None
        return
    with places_of(config) as places:
        size, own = config.workers // config.learners, {"learner": team().index, "learners": config.learners}
        made = Crew(size, command, folder, config.listen, places, **own, engine=config.acting == "engine")
        try:
            yield made
        finally:
            made.close()


def check_addresses(config: Any) -> None:
    """Raise InputError where what a command is told of workers on other machines does not fit."""
    for name, address in (("listen", config.listen), ("join", config.join)):
        if address is not None:
            address_of(address, name)
    if config.listen is not None and config.workers == 1 and not acts():
        raise problem("workers", "above 1 with listen", 1)
    if config.placement == "ray" and not acts():
        if config.workers == 1:
            raise problem("workers", "above 1 with placement ray", 1)
        if config.listen is not None:
            raise problem("listen", "nothing with placement ray", config.listen)
    if config.learners > 1 and (config.listen is not None or config.placement == "ray"):
        raise problem("learners", f"1 with {'listen' if config.listen else 'placement ray'}", config.learners)
