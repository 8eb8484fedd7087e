"""What README and docs/ say can be done: every command is one that the command line takes, and links lead somewhere."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest

import toddle
from doc_commands import README, ROOT, commands
from toddle.cli import COMMANDS, read
from toddle.envs.make import family_of
from toddle.envs.own import is_own

PAGES = [README, *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "LOG.md")]
"""The log says what was."""
INPUTS = ("source", "dataset", "init", "like", "teacher", "policy", "runs", "warm_start")
"""Settings that name folders which must be there."""


@functools.cache
def settings(command: str, *arguments: str) -> Any:
    """The settings that a command line gives; pages show many of them more than once."""
    return read(command, list(arguments))[2]


def paths(value: Any) -> list[str]:
    parts = value if isinstance(value, tuple) else (value,)
    return [str(part).rpartition("=")[2] for part in parts if part is not None]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_command_is_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where a page's --config is
    for command, *arguments in commands(page):
        config = settings(command, *arguments)
        named = config.tasks if command == "demo" else getattr(config, "env", ())
        for name in [named] if isinstance(named, str) else named:
            if not is_own(name) and not name.startswith("imagined/"):  # the reader's file or model, which is not here
                family_of(name)


def test_readme_makes_what_it_uses() -> None:
    """Whoever follows README from the top finds each folder that a command asks for."""
    made, told = set[str](), commands(README)
    assert {command for command, *_ in told} == set(COMMANDS)
    for command, *arguments in told:
        config = settings(command, *arguments)
        names = [name for name in INPUTS if (command, name) != ("study", "runs")]  # where a study writes
        for path in (path for name in names for path in paths(getattr(config, name, None))):
            assert not path.startswith("runs/") or path.removesuffix("/policy") in made, f"{command}: {path}"
        made.add(str(getattr(config, "out", "")))
    assert {"runs/pretrain", "runs/transfer", "runs/demos", "runs/sft", "runs/evaluation"} <= made


def test_readme_python_names_what_there_is() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    compile(block, "README.md", "exec")
    assert {"build"} < set(re.findall(r"toddle\.(\w+)", block)) <= set(toddle.__all__)


def test_every_metric_that_code_names_is_explained() -> None:
    table = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    rooms = ("algorithms", "experience", "runs")
    texts = [path.read_text() for room in rooms for path in (ROOT / "src/toddle" / room).glob("*.py")]
    named = {name for text in texts for name in re.findall(r'"([a-z]+/[a-z_]+)"', text)}
    assert {"group/dropped", "cost/episode", "sft/cka"} < named <= set(table)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_and_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert re.match("https?:", target) or (page.parent / target).exists(), target
    for file in re.findall(r"`([a-z_]\w*/[\w/]+\.(?:py|sh))`", page.read_text()):
        assert (ROOT / file).exists() or (ROOT / "src/toddle" / file).exists(), file


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_tables_are_whole(page: Path) -> None:
    """A row without a heading above it is shown as text: one sentence in the middle of a table cuts it in two."""
    lines = page.read_text().split("\n")
    for number, (before, line, after) in enumerate(zip(["", *lines], lines, [*lines[1:], ""], strict=False), 1):
        if line.startswith("|") and not before.startswith("|"):
            assert re.fullmatch(r"\|[-| :]+\|", after), f"line {number} begins a table without a heading: {line[:60]}"
