"""The study runner on a real study of seconds: gradient descent on linear regression at three learning rates."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import toddle
from toddle.core.errors import InputError
from toddle.maths.intervals import Interval
from toddle.recipes import demo
from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.study import Config, known_studies, load_study, plan, run, run_study
from toddle.reporting.study import Estimate, Outcome, effect, estimate, verdict
from toddle.runs.steps import check_steps

TINY = '''
"""Does a larger learning rate fit a line sooner?"""
import json
from pathlib import Path
from toddle.maths.intervals import Interval
from toddle.reporting.plots import colours_of, interval_bars
from toddle.runs.steps import Step
from toddle.runs.steps import Step, check_steps
from toddle.reporting.study import Estimate, Figure, Outcome, Study, effect

TRAIN = """
import json, sys, time, numpy as np
settings, out = sys.argv[1:]
import yaml; s = yaml.safe_load(open(settings))
g = np.random.default_rng(s['seed']); x = g.normal(size=(64, 3)); y = x @ [1.0, -2.0, 0.5] + 0.1 * g.normal(size=64)
w = np.zeros(3)
for _ in range(s['updates']): w -= s['rate'] * 2 / 64 * x.T @ (x @ w - y); time.sleep(s['pause'])
open(out + '/loss.json', 'w').write(json.dumps(float(np.mean((x @ w - y) ** 2))))
"""
RATES = {"low": 0.01, "high": 0.1, "same": 0.1}


def steps(scale):
    return [
        Step(name=f"{name}/seed{seed}", arguments=("{python}", "-c", TRAIN, "{settings}", "{out}"), seconds=1.0,
             settings={"rate": rate, "seed": seed, "updates": 20, "pause": scale["pause"]})
        for seed in range(scale["seeds"]) for name, rate in RATES.items()
    ]


def collect(scale, folder):
    files = {(n, s): folder / n / f"seed{s}" / "loss.json" for n in RATES for s in range(scale["seeds"])}
    return [{"rate": n, "seed": s, "loss": json.loads(f.read_text())} for (n, s), f in files.items() if f.exists()]


def losses(rows, name):
    return [row["loss"] for row in sorted(rows, key=lambda row: row["seed"]) if row["rate"] == name]


def gain(first, second):
    def measure(rows):
        a, b = losses(rows, first), losses(rows, second)
        return effect(b, a) if a and len(a) == len(b) else None
    return measure


def figures(rows):
    bars = {"loss": {n: Interval(*[sum(losses(rows, n)) / len(losses(rows, n))] * 3) for n in RATES if losses(rows, n)}}
    return [Figure(name="loss", svg=interval_bars(bars, colours_of(list(RATES)), y_label="loss", percent=False),
                   caption="Loss after 20 updates.")]


STUDY = Study(
    name="tiny", title="Learning rates", question="Does a larger learning rate fit a line sooner?",
    scales={"small": {"seeds": 3, "pause": 0.0}, "medium": {"seeds": 2, "pause": 0.2}}, steps=steps, collect=collect,
    labels=("rate", "seed"),
    outcomes=(
        Outcome(name="sooner", statement="loss falls by 0.1 more", measure=gain("high", "low"), line=0.1, alpha=0.05),
        Outcome(name="slower", statement="the low rate wins by 0.1", measure=gain("low", "high"), line=0.1, alpha=0.05),
        Outcome(name="twins", statement="equal rates differ", measure=gain("high", "same"), line=0.0, alpha=0.05),
        Outcome(name="absent", statement="never measured", measure=lambda rows: None, line=0.0),
    ),
    figures=figures, tables=lambda rows: [("Runs", ["rate", "n"], [[n, str(len(losses(rows, n)))] for n in RATES])],
    notes=("A rate of 1 diverges.",),
)
'''


@pytest.fixture
def study(tmp_path: Path) -> Any:
    (tmp_path / "tiny.py").write_text(TINY)
    spec = importlib.util.spec_from_file_location("tiny", tmp_path / "tiny.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STUDY


def settings(tmp_path: Path, **changes: Any) -> Config:
    return Config(name="tiny", out=tmp_path / "docs", runs=tmp_path / "runs", **changes)


def test_page_states_each_verdict(tmp_path: Path, study: Any) -> None:
    run_study(study, settings(tmp_path))
    folder = tmp_path / "docs" / "tiny"
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    page = (folder / "index.md").read_text()
    for name, judged in (("sooner", "passed"), ("slower", "failed"), ("absent", "not measured")):
        line = next(line for line in page.splitlines() if line.startswith(f"| **{name}**"))
        assert line.endswith(f"**{judged}** |")
    assert "- slower: failed." in page and "- A rate of 1 diverges." in page and "- sooner" not in page
    assert "9 of 9 runs done" in page and "toddle study tiny --scale small" in page
    assert "| low | 3 |" in page
    assert (folder / "loss.svg").read_text().startswith("<?xml")
    first = page
    (folder / "index.md").unlink()
    run_study(study, settings(tmp_path, page_only=True))
    assert (folder / "index.md").read_text() == first


def test_only_runs_a_part_and_again_runs_it_anew(tmp_path: Path, study: Any) -> None:
    run_study(study, settings(tmp_path, only=("high/*", "low/seed0")))
    assert "4 of 9 runs done" in (tmp_path / "docs" / "tiny" / "index.md").read_text()
    assert "not complete" in (tmp_path / "docs" / "tiny" / "index.md").read_text()
    result = tmp_path / "runs" / "tiny" / "small" / "high" / "seed0" / "loss.json"
    before = result.stat().st_mtime_ns
    run_study(study, settings(tmp_path, only=("high/*",)))
    assert result.stat().st_mtime_ns == before
    for pattern in ("high/*", "h*"):  # of whatever depth
        run_study(study, settings(tmp_path, only=(pattern,), again=True))
        assert result.stat().st_mtime_ns > before
        before = result.stat().st_mtime_ns
    with pytest.raises(InputError, match=r"only: .* known: high/seed\*, low/seed\*"):
        run_study(study, settings(tmp_path, only=("x",)))


def test_a_study_goes_on_from_its_data_where_the_runs_are_not(tmp_path: Path, study: Any) -> None:
    """Two machines, each with runs of its own, and one committed folder of data: together they are one whole study."""
    study = dataclasses.replace(
        study, scales={"small": {"seeds": 1, "pause": 0.0}, "medium": {"seeds": 2, "pause": 0.0}}
    )
    run_study(study, settings(tmp_path / "once", processes=3))
    run_study(study, settings(tmp_path, only=("high/*",)))
    here = {"runs": tmp_path / "other", "processes": 3}
    run_study(study, dataclasses.replace(settings(tmp_path), **here))
    made = tmp_path / "other/tiny/small"
    assert (made / "low/seed0").exists() and not (made / "high").exists()
    page, whole = tmp_path / "docs/tiny", tmp_path / "once/docs/tiny"
    assert "3 of 3 runs done" in (page / "index.md").read_text()

    def rows(folder: Path) -> set[str]:
        return set((folder / "data.jsonl").read_text().splitlines())

    assert rows(page) == rows(whole) and len(rows(page)) == 3
    (page / "data.jsonl").write_text(
        (page / "data.jsonl").read_text().replace('"high", "seed": 0, "loss": ', '"high", "seed": 0, "loss": 9')
    )
    assert rows(page) != rows(whole)
    run_study(study, dataclasses.replace(settings(tmp_path, only=("high/*",), again=True), **here))
    assert rows(page) == rows(whole) and (made / "high/seed0").exists()  # made anew here
    with pytest.raises(InputError, match="another scale than medium"):
        run_study(study, settings(tmp_path, scale="medium"))
    facts = json.loads((page / "study.json").read_text())
    (page / "study.json").write_text(json.dumps({name: value for name, value in facts.items() if name != "steps"}))
    with pytest.raises(InputError, match="whose data say which runs they come from"):
        run_study(study, settings(tmp_path))
    (page / "study.json").write_text(json.dumps(facts))
    changed = dataclasses.replace(
        study, steps=lambda scale: [dataclasses.replace(step, settings={}) for step in study.steps(scale)]
    )
    with pytest.raises(InputError, match="other settings than now"):
        run_study(changed, dataclasses.replace(settings(tmp_path), runs=tmp_path / "third"))


@pytest.mark.slow
def test_killed_and_started_again_it_equals_a_run_that_was_not(tmp_path: Path, study: Any) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import tiny;"
        "from toddle.recipes.study import Config, run_study; p = Path(sys.argv[1]);"
        "run_study(tiny.STUDY, Config(name='tiny', scale='medium', out=p / 'docs', runs=p / 'runs'))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL)
    done = tmp_path / "runs" / "tiny" / "medium" / "steps"
    until = time.monotonic() + 60
    while len(list(done.glob("*/*.json"))) < 1 and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = {path.parent.name + path.stem for path in done.glob("*/*.json")}
    assert 1 <= len(finished) < 6
    times = {path: path.stat().st_mtime_ns for path in done.glob("*/*.json")}
    run_study(study, settings(tmp_path, scale="medium"))
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())  # done once
    whole = settings(tmp_path / "other", scale="medium")
    run_study(study, whole)
    assert (tmp_path / "docs/tiny/data.jsonl").read_bytes() == (tmp_path / "other/docs/tiny/data.jsonl").read_bytes()


def test_verdicts_by_hand() -> None:
    def judge(value: float, low: float, high: float, p: float, **fields: Any) -> str:
        outcome = Outcome(name="x", statement="", measure=lambda rows: None, **fields)
        return verdict(outcome, Estimate(interval=Interval(value, low, high), p=p, p_flip=1.0))

    assert judge(6, 5.5, 9, p=0.01, line=5) == "passed"
    assert judge(6, -1, 12, p=0.2, line=5) == "not resolved"  # large, but not sure
    assert judge(3, 1, 7, p=0.8, line=5) == "not resolved"  # surely above 0, but perhaps too small
    assert judge(1, -1, 4, p=0.99, line=5) == "failed"  # an effect of 5 is excluded
    assert judge(0.2, 0.1, 0.3, p=0.01, line=1 / 3, at_most=True) == "passed"
    assert judge(0.2, 0.1, 0.5, p=0.1, line=1 / 3, at_most=True) == "not resolved"
    assert judge(0.5, 0.4, 0.6, p=0.99, line=1 / 3, at_most=True) == "failed"


def test_the_line_is_judged_and_not_zero() -> None:
    """Seeds at 6, 7, 8: surely above 0; above 5 with t = 2 sqrt(3), two degrees: p = 0.037; above 6 not surely."""
    found = estimate(effect([6.0, 7.0, 8.0]), 5.0)
    assert found.interval.value == 7.0 and found.units == "3 seeds"
    assert found.p == pytest.approx(0.0371, abs=1e-4)
    assert found.p_flip == pytest.approx(1 / 8)
    assert estimate(effect([6.0, 7.0, 8.0]), 6.0).p == pytest.approx(0.1127, abs=1e-4)
    assert estimate(effect([6.0, 7.0, 8.0]), 8.0, at_most=True).p == pytest.approx(0.1127, abs=1e-4)
    assert estimate(effect([[1.0, 2.0], [3.0, 4.0]])).units == "2 seeds x 2 tasks"
    with pytest.raises(InputError, match="paired values"):
        effect([1.0], [1.0, 2.0])


def test_a_part_that_measures_nothing_makes_no_page(tmp_path: Path, study: Any) -> None:
    silent = dataclasses.replace(study, collect=lambda scale, folder: [])
    run_study(silent, settings(tmp_path, only=("high/seed0",)))
    assert not (tmp_path / "docs").exists()
    with pytest.raises(InputError, match="run the study first"):
        run_study(silent, settings(tmp_path, page_only=True))


def test_unknown_study_and_scale(tmp_path: Path, study: Any) -> None:
    with pytest.raises(InputError, match="study"):
        plan(settings(tmp_path))
    with pytest.raises(InputError, match="did you mean 't0'"):
        run(Config(name="t00", page_only=True), resume=False)
    with pytest.raises(InputError, match="scale"):
        study.settings("lab")


@pytest.mark.parametrize("scale", ["small", pytest.param("medium", marks=pytest.mark.slow), "lab"])
@pytest.mark.parametrize("name", known_studies())
def test_every_study_file_plans_at_every_scale(name: str, scale: str) -> None:
    found = load_study(name)
    steps = found.steps(found.settings(scale))
    check_steps(steps)
    check_toddle_steps(steps, Path("somewhere"))
    told = json.dumps([step.settings for step in steps], default=str)
    assert str(Path(toddle.__file__).parent) not in told  # else what is done here were another thing elsewhere


def test_the_stages_of_the_demo_have_valid_settings() -> None:
    steps = demo.stages(demo.Config())
    check_steps(steps)
    check_toddle_steps(steps, Path("somewhere"))
