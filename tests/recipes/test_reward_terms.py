"""toddle reward plot: what it says of terms, over recorded episodes and over policies that would cheat."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from toddle.cli import main
from toddle.recipes.reward_plot import measured


def toddle(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_a_term_is_worth_what_is_counted_by_hand() -> None:
    rising, mixed = [0.0, 0.5, 1.0], [0.0, 0.9, 0.4]
    over = [
        {"value": rising, "paid": [0.0], "success": True},
        {"value": mixed, "paid": [0.0], "success": True},  # its rank correlation with time is 0.5
        {"value": [0.7, 0.4], "paid": [0.0], "success": False},
    ]
    found = measured(over)
    assert found["order"] == pytest.approx(0.75) and found["pairs"] == pytest.approx(0.75)  # one below, one equal
    silent = measured([{"value": None, "paid": [1.0, 0.0], "success": True} for _ in range(2)])
    assert math.isnan(silent["order"]) and math.isnan(silent["pairs"])


@pytest.mark.slow
def test_recorded_fitted_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("metaworld")
    monkeypatch.chdir(tmp_path)
    record = ("record", "--env", "metaworld-state/reach-v3", "--cameras", "--image-stride", "1", "--batch", "4")
    assert toddle(*record, "--episodes", "8", "--out", "good") == 0
    failing = ("--noise", "1.5", "--executed", "--keep-failures", "--max-episode-steps", "30", "--seed", "9")
    assert toddle(*record, "--episodes", "8", *failing, "--out", "bad") == 0
    assert toddle("reward", "fit", "--dataset", "good", "bad", "--steps", "300", "--out", "terms") == 0
    reward = "sparse+pbrs+gvl:terms+rewind:terms+vlac:terms+0.01*viper:terms+classifier:terms+0.01*rnd+0.01*counts"
    plot = ("reward", "plot", "--reward", reward, "--dataset", "good", "bad", "--cheats", "2", "--out", "drawn")
    assert toddle(*plot) == 0
    found = json.loads((tmp_path / "drawn" / "terms.json").read_text())["terms"]
    assert len(found) == 8 and found["gvl"]["order"] > 0.8
    page = (tmp_path / "drawn" / "index.html").read_text()
    assert all(name in page for name in found) and "Oscillate" in page
    learn = ("pretrain", "--env", "metaworld-state/reach-v3", "--worlds", "4", "--steps", "500", "--reward", reward)
    assert toddle(*learn, "--out", "run") == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert all(math.isfinite(last[f"reward/{name}"]) for name in found)
