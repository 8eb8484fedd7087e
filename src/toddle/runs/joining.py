"""Workers on other machines: one joins the learner that listens at an address, and joins again when it is lost.

The learner sends its settings and says which of the workers it is; a process of this machine then acts as one that the
learner had started itself (`runs.workers`).
"""

from __future__ import annotations

import os
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

from toddle.core.errors import EnvironmentFault, problem
from toddle.runs.placing import worker_process
from toddle.runs.workers import ASKED, KEY, LOST, address_of, received, send

__all__ = ["join"]


def join(address: str, command: str) -> None:
    """Be a worker of the learner at HOST:PORT until it ends; start what acts again when that is lost.

    Raises InputError where no learner listens there or the key is another, EnvironmentFault where it has no place, or
    what acts ends with an error of its own.
    """
    place, key, joined = address_of(address, "join"), os.environ.get(KEY, ""), False
    while True:
        try:
            with Client(place, authkey=key.encode()) as link:
                send(link, ("join", None))
                given = received(link)
        except AuthenticationError:
            raise problem(f"environment variable {KEY}", "the key that the learner has printed", "another") from None
        except LOST as error:
            if joined:
                return  # the learner has ended
            raise problem("join", "a learner that listens (--listen)", f"{address}: {error}") from None
        if given is None:
            raise EnvironmentFault(f"join: the learner at {address} has all of its workers")
        joined, (settings, index, size, life) = True, given
        told = f"{address} {key.encode().hex()} {index} {size} {life}"
        status = worker_process(command, settings, {ASKED: told})
        if status == 0:
            return
        if status > 0:
            raise EnvironmentFault(f"worker {index} has ended with status {status}; what it said stands above")
        print(f"worker {index} was lost (status {status}): it joins again", file=sys.stderr)
