"""Errors a user can act on: which field, what was expected, what came, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "NaNError", "nearest", "problem"]


class InputError(ValueError):
    """The user's input is wrong.  The command line prints it as one line and exits with status 2."""


class NaNError(RuntimeError):
    """A number that must be finite is not.  The run stops; the state it carries replays the step."""


def problem(field: str, expected: str, got: object, remedy: str = "") -> InputError:
    """Build the one-line error of the project: ``field: expected ..., got ...; remedy``."""
    text = (
        f"{field}: expected {expected}, got {got!r}"
        if not isinstance(got, str)
        else (f"{field}: expected {expected}, got '{got}'")
    )
    return InputError(f"{text}; {remedy}" if remedy else text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the closest known name, or a list of all names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(names)
