"""The study `rlvla`: outcomes on made-up rows whose answer is known, and its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from toddle.cli import main
from toddle.recipes.studies.rlvla import ARMS, AXES, SCALES, STUDY, steps
from toddle.reporting.study import Row, judge, write_page
from toddle.reporting.study_data import write_rows
from toddle.runs.steps import check_steps


def rows(**success: float) -> list[Row]:
    """Every cell of the small scale, with a spread of a point over seeds, which all arms share."""
    return [
        {"seed": seed, "arm": arm, "condition": condition, "axis": axis, "success": success[arm] + 0.01 * seed}
        for seed in range(SCALES["small"].seeds)
        for arm in ARMS
        for condition, axis in AXES.items()
    ]


def test_verdicts_on_known_rows(tmp_path: Path) -> None:
    good = rows(sft=0.3, ppo=0.6, grpo=0.5, dpo=0.4)
    assert set(dict(judge(STUDY.outcomes, good)[1]).values()) == {"passed"}
    assert set(dict(judge(STUDY.outcomes, rows(sft=0.6, ppo=0.3, grpo=0.5, dpo=0.4))[1]).values()) == {"failed"}
    facts = {"study": "rlvla", "scale": "small", "runs_done": 3, "runs_planned": 43, "seconds": 60.0, "command": "x"}
    write_rows(tmp_path, good, facts)
    write_page(STUDY, tmp_path)
    assert "| ppo | 61 [59, 63] |" in (tmp_path / "index.md").read_text()


def test_its_runs_are_commands_that_toddle_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("metaworld")
    found = steps(SCALES["small"])
    check_steps(found)
    assert len(found) == 1 + SCALES["small"].seeds * (1 + 2 + 3 + 2 * len(ARMS))
    with pytest.raises(SystemExit, match="0"):
        main(["study", "rlvla", "--dry-run", "--runs", str(tmp_path)])
    assert "seed2/dpo" in capsys.readouterr().out
