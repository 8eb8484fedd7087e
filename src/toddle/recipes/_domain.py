"""What commands share of domain randomisation: a table from a file."""

from __future__ import annotations

from pathlib import Path

from toddle.core.config import config, from_dict
from toddle.core.reading import read_yaml
from toddle.envs.domain import DomainTable

__all__ = ["DomainSettings", "read_table"]


@config
class DomainSettings:
    """What differs from episode to episode."""

    randomise: Path | None = None
    """YAML table of what differs from episode to episode: masses, friction, gains, delays, looks
    (docs/randomisation.md)."""


def read_table(path: Path | None) -> DomainTable | None:
    """Return the table in a file, None without one.  Raises InputError for what is unknown or has a wrong value."""
    return None if path is None else from_dict(DomainTable, read_yaml(path), where=str(path))
