"""The study `t2`: outcomes on made-up rows whose answer is known, its runs, its parts, and all of it at a tiny size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from toddle.core.errors import InputError
from toddle.recipes._step_checks import check_toddle_steps
from toddle.recipes.studies.t2 import PUSH, SCALES, STUDY, arms_of, steps
from toddle.recipes.study import Config, plan, run
from toddle.reporting.study import Row, judge
from toddle.reporting.study_data import read_rows
from toddle.runs.steps import check_steps

SLOW = pytest.mark.slow
BASES = {"bc": 0.3, "not steered": 0.3, "ppo": 0.9}
TINY = dataclasses.replace(
    SCALES["small"],
    seeds=1,
    tasks={PUSH: 0.3},
    trained={PUSH: 4000},
    recorded=12,
    updates=20,
    answers=3,
    judge="smoothness",
    episodes=4,
    learning={"hidden": [16], "offline": {"hidden": [16], "batch": 16}},
    agent={"worlds": 8, "collect": {"length": 16}, "critic_hidden": [16], "mlp": {"hidden": [16]}},
)


def rows(gain: float, cost: float, *, control: float = 0.0) -> list[Row]:
    """Methods that gain so much over their bases, and controls that gain so much."""
    found: list[Row] = []
    for part in STUDY.parts:
        for seed in range(5):
            for world in ("plain", "shifted") if part == "deployment" else ("plain",):
                for arm in arms_of(part):
                    fails = arm.endswith(("permuted", "shuffled"))
                    share = BASES.get(arm, 0.3 + (control if fails else gain) + 0.001 * seed)
                    if part == "deployment":
                        share = {"ppo": 0.9 if world == "plain" else 0.5, "lagrangian": 0.88}.get(arm, 0.5 + gain)
                    row: Row = {"kind": "arm", "part": part, "seed": seed, "task": PUSH, "world": world, "arm": arm}
                    row |= {"episodes": 1000, "successes": 1000 * share + seed % 2}
                    if part == "deployment":
                        row |= {
                            "cost": cost,
                            "cost while learning": (cost if arm == "lagrangian" else 10) + 0.01 * seed,
                        }
                    found.append(row)
    return found


def verdicts(data: list[Row]) -> dict[str, str]:
    return dict(judge(STUDY.outcomes, data)[1])


def test_verdicts_on_known_rows() -> None:
    assert set(verdicts(rows(0.2, 3.9)).values()) == {"passed"}
    worse = verdicts(rows(-0.2, 5.0))
    assert worse["iql"] == worse["vgps"] == worse["limit"] == worse["shifted"] == "failed"
    assert worse["iql, control"] == "not applicable" and worse["needed"] == "passed"
    same = verdicts(rows(0.2, 3.9, control=0.3))
    assert same["iql"] == "passed" and same["iql, control"] == same["dpo, control"] == "failed"
    assert set(verdicts([]).values()) == {"not measured"}
    ((_, _, lines),) = STUDY.tables(rows(0.2, 3.9))
    assert len(lines) == len(arms_of("data")) + len(arms_of("models")) + 2 * len(arms_of("deployment"))


@pytest.mark.parametrize("name", ["small", pytest.param("medium", marks=SLOW), pytest.param("lab", marks=SLOW)])
def test_the_runs_of_every_scale_fit_their_commands(name: str) -> None:
    scale = SCALES[name]
    tasks = {PUSH: 0.5} if name == "small" else scale.tasks
    found = steps(dataclasses.replace(scale, seeds=1, tasks=tasks))
    check_steps(found)
    check_toddle_steps(found, Path("runs"))


def test_a_part_is_run_with_what_it_needs(tmp_path: Path) -> None:
    def planned(**more: str) -> list[str]:
        return [line.split(":")[0] for line in plan(Config(name="t2", runs=tmp_path, out=tmp_path, **more)).steps]

    names = [name for name in planned(part="models") if "/seed0/" in name and "push-cube" in name]
    data = [name for name in names if name.startswith("data/")]
    assert {Path(name).name for name in data} == {"mixed", "bc", "iql"} and len(names) == len(data) + 3
    assert all(name.startswith("deployment/") for name in planned(part="deployment") if "/seed" in name)
    with pytest.raises(InputError, match=r"part: expected a part of study t2 \(data, models, deployment\), got 'all'"):
        planned(part="all")
    with pytest.raises(InputError, match="part: expected --part or --only, not both"):
        Config(name="t2", part="data", only=("data/*",))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDY.scales, "small", TINY)  # type: ignore[arg-type]
    run(Config(name="t2", runs=tmp_path / "runs", out=tmp_path / "docs"))
    found = read_rows(tmp_path / "docs/t2/data.jsonl")
    assert {(row["part"], row["arm"]) for row in found} == {(p, arm) for p in STUDY.parts for arm in arms_of(p)}
    assert all(row["cost"] >= 0 for row in found if row["part"] == "deployment")
    page = (tmp_path / "docs/t2/index.md").read_text()
    assert "vgps, control" in page and "0 of" not in page
