"""The survey's page is what the table says, and every command of it is one that the command line takes."""

from __future__ import annotations

from typing import Any

import pytest

from doc_commands import ROOT
from toddle.cli import main
from toddle.methods._survey import systems

SYSTEMS = systems()
HERE = [system for system in SYSTEMS if system.command]


def test_the_page_is_the_table(capsys: Any) -> None:
    """toddle methods --survey > docs/survey.md makes it again."""
    with pytest.raises(SystemExit) as left:
        main(["methods", "--survey"])
    assert left.value.code == 0
    assert capsys.readouterr().out == (ROOT / "docs/survey.md").read_text()
    names = [system.name for system in SYSTEMS]
    assert len(names) == len(set(names)) and len({system.paper for system in SYSTEMS}) == len(names)


def test_nothing_is_measured_that_is_not_here() -> None:
    assert all(bool(system.command) == (system.measured != "not here") for system in SYSTEMS)


def test_papers_that_are_here_are_in_papers() -> None:
    """Every system with a command of its own has its number in PAPERS.md."""
    papers = (ROOT / "PAPERS.md").read_text()
    assert [system.name for system in HERE if system.paper not in papers] == []
