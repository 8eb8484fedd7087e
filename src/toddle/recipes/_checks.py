"""What `toddle doctor` finds: one line a check, and what to do about each that fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["Check", "show"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found.  `needed` items must be fine; for the others a failure is only a note."""

    item: str
    fine: bool
    found: str
    remedy: str = ""
    needed: bool = True


def show(checks: Sequence[Check], title: str, fit: str) -> bool:
    """Print the table of checks, and under it `fit` or what is to mend; return whether all that is needed is fine."""
    table = Table("", "item", "found", "remedy", title=title)
    for check in checks:
        mark = "[green]ok[/]" if check.fine else "[red]FAIL[/]" if check.needed else "[yellow]note[/]"
        table.add_row(mark, check.item, escape(check.found), "" if check.fine else escape(check.remedy))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    failed = [check.item for check in checks if check.needed and not check.fine]
    print(f"to mend: {', '.join(failed)}" if failed else fit)
    return not failed
