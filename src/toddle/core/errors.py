"""Errors a user can act on: which field, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["EnvironmentFault", "InputError", "NaNError", "is_out_of_memory", "nearest", "problem"]


OUT_OF_MEMORY = re.compile(
    r"can(no|')t allocate memory|out of memory|could not allocate|failed to map segment|unable to mmap", re.IGNORECASE
)
"""How torch says it, on the CPU and on a GPU, and MuJoCo, the loader of libraries, and the reader of safetensors."""


class InputError(ValueError):
    """The user's input is wrong.  The command line prints it as one line and exits with status 2."""


class EnvironmentFault(InputError):
    """An environment raised an error.  The command line prints it as one line and exits with status 1."""

    @classmethod
    def of(cls, name: str, moment: str, error: BaseException, what: str = "environment") -> EnvironmentFault:
        """Say which environment raised what, and when ("in step")."""
        said = " ".join(str(error).split())[:300]
        text = f"{what}: '{name}' raised {type(error).__name__} {moment}" + (f": {said}" if said else "")
        return cls(f"{text} (TODDLE_DEBUG=1 shows where)")


class NaNError(RuntimeError):
    """A number that must be finite is not.  The run stops; the state it carries replays the step."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(str(error)))


def problem(field: str, expected: str, got: object, remedy: str = "") -> InputError:
    """Build the one-line error of the project: ``field: expected ..., got ...; remedy``."""
    text = f"{field}: expected {expected}, got " + (f"'{got}'" if isinstance(got, str | Path) else f"{got!r}")
    return InputError(f"{text}; {remedy}" if remedy else text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest known name, or a list of all names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(names)
