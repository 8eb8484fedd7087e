"""What a command is about to do, as `--dry-run` shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a run with an estimate of its memory (bytes) and time (seconds; None where it is not known)."""

    steps: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    seconds: float | None = None
