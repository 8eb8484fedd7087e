"""The page: its numbers are those of the folders, it needs nothing from outside, and it says what did not work."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toddle.core.errors import InputError
from toddle.core.types import EpisodeResult
from toddle.maths.intervals import Interval
from toddle.reporting.curves import curricula_of, values_of
from toddle.reporting.episode_log import EpisodeLog, summarise
from toddle.reporting.plots import COLOURS, colours_of, curve_panels, interval_bars, smooth
from toddle.reporting.report import EMBEDDED_BYTES, write_report
from toddle.reporting.run_data import find_runs


def make_run(folder: Path, command: str, metrics: list[dict[str, float]] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"command": command, "version": "0"}))
    (folder / "config.yaml").write_text("seed: 12345\nnote: <script>\n")
    if metrics:
        lines = [json.dumps({"step": i} | line) for i, line in enumerate(metrics)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def add_episodes(folder: Path, candidate: str, env: str, wins: int, total: int = 40, video: str | None = None) -> None:
    log = EpisodeLog(folder / "episodes.jsonl")
    for seed in range(total):
        info = {"no_ops": 2} | ({"video": video} if video and seed == 0 else {})
        log.append(
            {"candidate": candidate, "env": env, "condition": "plain"},
            EpisodeResult(
                seed=seed,
                success=seed < wins,
                episode_return=1.0,
                length=10,
                seconds=2.0,
                seconds_per_decision=0.004,
                info=info,
            ),
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run(tmp_path / "pretrain", "pretrain", [{"goal/success": i / 100, "time/x": 1.0} for i in range(100)])
    make_run(tmp_path / "sft_good", "sft", [{"loss/flow": 1.0 / (i + 1)} for i in range(50)])
    transfer = make_run(tmp_path / "transfer", "transfer")
    table = {"level_A": 0.0, "parts": [{"part": "trunk", "kept": 1234567, "distance": 0.0}]}
    (transfer / "transfer.json").write_text(json.dumps(table))
    run = make_run(tmp_path / "evaluate", "evaluate")
    (run / "videos").mkdir()
    (run / "videos" / "film.mp4").write_bytes(b"not really a film")
    add_episodes(run, "good", "metaworld/reach-v3", 32, video="film.mp4")
    add_episodes(run, "base", "metaworld/reach-v3", 10)
    add_episodes(run, "good", "metaworld/push-v3", 12)
    add_episodes(run, "base", "metaworld/push-v3", 12)
    return tmp_path


def test_numbers_reach_the_page(folder: Path) -> None:
    page = write_report([folder], folder / "report.html", title="A & B", reference="base").read_text()
    assert "<h1>A &amp; B</h1>" in page
    assert "80 % [65, 90]" in page  # 32 of 40: Wilson .652 to .895
    assert "25 % [14, 40]" in page  # 10 of 40: Wilson .142 to .402
    assert "+55 [37, 68] points" in page  # 22 of 40 gained: 22/42 +- 1.96 sqrt(23 - 22^2 / 42) / 42
    assert "good on metaworld/push-v3 (plain): not resolved" in page
    assert "good on metaworld/reach-v3" not in page.split("What did not work", 2)[2].split("</section>")[0]
    assert "1,234,567" in page and "level A" in page
    assert "seed: 12345" in page and "&lt;script&gt;" in page and "<script" not in page
    assert "pretrain: the run is not finished" in page
    assert "goal/success" in page and "loss/flow" in page and "time/x" not in page


def result(seed: int, length: int, **info: Any) -> EpisodeResult:
    info = {"horizon": 300, "published_horizon": 500} | info
    numbers = {"episode_return": 0.0, "seconds": 1.0, "seconds_per_decision": 0.1}
    return EpisodeResult(seed=seed, success=True, length=length, info=info, **numbers)


def test_success_at_the_last_step_and_the_horizon_stand_beside_success(tmp_path: Path) -> None:
    to_the_end = [result(seed, 300, terminated=False, success_at_end=seed < 1) for seed in range(4)]
    assert summarise(to_the_end).protocol == (
        "25 % at the last step, at most 300 steps (the benchmark's own limit: 500)"
    )
    stopped = summarise([result(seed, 90, terminated=True, success_at_end=True) for seed in range(4)])
    assert stopped.protocol == "episodes end at success, at most 300 steps (the benchmark's own limit: 500)"
    assert summarise([replace(result(0, 9), info={})]).protocol == ""  # files of before say nothing
    log = EpisodeLog(make_run(tmp_path / "evaluate", "evaluate") / "episodes.jsonl")
    for each in to_the_end:
        log.append({"candidate": "a", "env": "metaworld/lever-pull-v3", "condition": "plain"}, each)
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "25 % at the last step, at most 300 steps" in page and "500)" in page


def test_the_page_stands_alone(folder: Path) -> None:
    page = write_report([folder], folder / "report.html").read_text()
    assert base64.b64encode(b"not really a film").decode() in page
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>|rdf:\w+="[^"]*"', "", page)
    assert "http" not in re.sub(r"<metadata>.*?</metadata>", "", without_namespaces, flags=re.S)


def test_the_page_is_reproducible(folder: Path) -> None:
    first = write_report([folder], folder / "a.html").read_text()
    assert first == write_report([folder], folder / "b.html").read_text()


def test_large_videos_are_linked(folder: Path) -> None:
    (folder / "evaluate" / "videos" / "film.mp4").write_bytes(bytes(EMBEDDED_BYTES + 1))
    page = write_report([folder], folder / "pages" / "report.html").read_text()
    assert 'src="../evaluate/videos/film.mp4"' in page


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")
    with pytest.raises(InputError, match="holds no run"):
        write_report([tmp_path], tmp_path / "report.html")


def test_smoothing_keeps_length_level_and_ends() -> None:
    assert smooth(np.full(100, 3.0)).tolist() == pytest.approx([3.0] * 100)
    ramp = smooth(np.arange(100.0), 0.1)
    assert ramp == pytest.approx(np.arange(100.0))  # a centred mean does not lag
    assert smooth([1.0, 2.0]).tolist() == [1.0, 2.0]


def test_plots_hold_what_they_are_given() -> None:
    colours = colours_of(["a", "b"])
    assert colours == {"a": COLOURS[0], "b": COLOURS[1]}
    svg = interval_bars({"reach": {"a": Interval(0.5, 0.4, 0.6), "b": Interval(0.123, 0.1, 0.2)}}, colours, y_label="y")
    assert svg.startswith("<svg") and svg.endswith("</svg>")
    assert ">50<" in svg and ">12<" in svg and ">reach<" in svg
    assert colours["a"].lower() in svg and colours["b"].lower() in svg
    panel = curve_panels({"loss/x": {"a": [(0.0, 1.0), (1.0, 2.0)]}}, colours)
    assert ">loss/x<" in panel and ">b<" not in panel
    named = curve_panels({"loss/x": {"a": [(0.0, 1.0), (1.0, 2.0)]}}, colours, legend=["a", "b"])
    assert ">b<" in named and colours["b"].lower() in named


HOSTILE = """<script>alert(1)</script>'"><img src=x onerror=alert(1)>&amp;"""


def test_whatever_comes_from_data_is_text(tmp_path: Path) -> None:
    """Names of runs, candidates, tasks, conditions, films, facts, settings and tables: none becomes a tag."""
    name = HOSTILE.replace("/", "")  # of a folder
    run = make_run(tmp_path / name, "evaluate", [{"loss/flow": 1.0}, {"loss/flow": 0.5}])
    (run / "config.yaml").write_text(f"note: {json.dumps(HOSTILE)}\n")
    (run / "videos").mkdir()
    (run / "videos" / f"{name}.mp4").write_bytes(b"film")
    add_episodes(run, HOSTILE, HOSTILE, 3, total=5, video=f"{name}.mp4")
    add_episodes(run, "base", HOSTILE, 1, total=5)
    other = make_run(tmp_path / "transfer", "transfer")
    (other / "transfer.json").write_text(json.dumps({HOSTILE: HOSTILE, "parts": [{"part": HOSTILE, "kept": HOSTILE}]}))
    page = write_report([tmp_path], tmp_path / "report.html", title=HOSTILE, lead=HOSTILE, reference="base").read_text()
    assert page.count("&lt;script&gt;") > 10, "it is shown in many places"
    tags = re.findall(r"<[a-zA-Z/][^>]*>", page)
    assert not [tag for tag in tags if re.match(r"</?(script|img)", tag, re.IGNORECASE)]
    values = re.compile(r"""\s[\w:-]+=(?:"[^"]*"|'[^']*')""")
    bare = [values.sub("", tag) for tag in tags]
    assert not [tag for tag in bare if "onerror" in tag or "alert" in tag], "no quote ends an attribute"


def test_a_fine_tuning_is_compared_with_what_it_was_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "rl", "finetune")
    add_episodes(run, "before", "metaworld/push-v3", 10)
    add_episodes(run, "after", "metaworld/push-v3", 32)
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "before (reference)" in page and "+55 [37, 68] points" in page
    other = make_run(tmp_path / "rl2", "finetune")  # the same names and seeds: they must not be taken together
    add_episodes(other, "before", "metaworld/push-v3", 10)
    add_episodes(other, "after", "metaworld/push-v3", 12)
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert (
        "rl before (reference)" in page and "rl2 after" in page and "40 episodes" in page and "80 episodes" not in page
    )


def test_a_curriculum_is_drawn_over_training(tmp_path: Path) -> None:
    lines = [
        {
            "rollout/total_steps": 100.0 * i,
            "episode/success": 0.5,
            "curriculum/entropy": 1.0,
            "curriculum/share/dots-one": 0.3 + 0.02 * i,
            "curriculum/success/dots-one": 0.5 - 0.02 * i,
            "curriculum/share/dots-reach": 0.7 - 0.02 * i,
        }
        for i in range(5)
    ]
    run = make_run(tmp_path / "rl", "finetune", lines)
    found = curricula_of(find_runs([run]))
    assert found["share of the draws"]["dots-reach"] == [(100.0 * i, 0.7 - 0.02 * i) for i in range(5)]
    assert set(found) == {"share of the draws", "success lately"} and len(found["share of the draws"]) == 2
    html = write_report([run], tmp_path / "page.html").read_text()
    assert "share of the draws" in html and "dots-reach" in html and html.count("<svg") == 2
    assert "curriculum/entropy" not in html
    plain = make_run(tmp_path / "plain", "finetune", [{"episode/success": 0.5}] * 3)
    assert curricula_of(find_runs([plain])) == {}


def test_values_are_drawn_beside_the_return_reached(tmp_path: Path) -> None:
    lines = [{"offline/value": -9.0 + i, "offline/return": -5.0, "offline/bound_rate": 0.5} for i in range(4)]
    run = make_run(tmp_path / "calibrated", "offline", lines)
    found = values_of(find_runs([run]))
    assert [y for _, y in found["value and return"]["value"]] == [-9.0, -8.0, -7.0, -6.0]
    assert found["value and return"]["return"][0][1] == -5.0 and "bound_rate" in found["values below the return"]
    html = write_report([run], tmp_path / "page.html").read_text()
    assert "the return reached from there on" in html and "Learning from datasets alone" in html
    imitation = make_run(tmp_path / "bc", "offline", [{"offline/return": -5.0}] * 2)
    assert values_of(find_runs([imitation])) == {}
