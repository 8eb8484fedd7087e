"""The commands that README and docs/ show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def commands(page: Path) -> list[list[str]]:
    """Every `toddle ...` in the code of a page, in its order, without the word toddle; in README's text as well."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(r"^ {4}toddle ([a-z].*)$|`toddle ([a-z][^`]*)`", text, re.M)
    lines = [shlex.split(code or (inline if page == README else ""), comments=True) for code, inline in found]
    return [line for line in lines if line]
