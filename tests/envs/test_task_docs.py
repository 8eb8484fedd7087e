"""The code of docs/add_a_task.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toddle.envs import make


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(make, "ADDED", {})
    text = (Path(__file__).parents[2] / "docs" / "add_a_task.md").read_text()
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "docs/add_a_task.md", "exec"), scope)
    shown = capsys.readouterr().out
    assert "['move the white dot to the red mark']" in shown
    assert "torch.Size([2, 1, 3, 32, 32]) torch.Size([4, 2]) move the white dot" in shown
    with pytest.raises(ValueError, match="not taken"):
        make.add_env("mine/touch", make.ADDED["mine/touch"])
