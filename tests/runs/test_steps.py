"""Steps: order, resumption, a kill in the middle, failures that do not take the rest along."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from toddle.core.errors import InputError
from toddle.runs.steps import Step, is_done, on_device, run_steps, toddle_step
from toddle.runs.steps_board import StepBoard, last_line, makespan

COUNT = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.open('a').write('ran\\n')"


def step(name: str, code: str = COUNT, after: tuple[str, ...] = (), **settings: object) -> Step:
    return Step(
        name=name,
        arguments=("{python}", "-c", code, "{out}/mark", "{settings}"),
        settings=dict(settings),
        after=after,
        seconds=0.1,
    )


def runs_of(folder: Path, name: str) -> int:
    mark = folder / name / "mark"
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def test_each_step_runs_once_in_order(tmp_path: Path) -> None:
    needs = "import sys, pathlib; assert pathlib.Path(sys.argv[1].replace('b/mark', 'a/mark')).exists();" + COUNT
    steps = [step("a"), step("b", needs, after=("a",)), step("deep/c")]
    shares: list[float] = []
    seconds = run_steps(steps, tmp_path, processes=2, progress=lambda share, left, text: shares.append(share))
    assert [runs_of(tmp_path, name) for name in ("a", "b", "deep/c")] == [1, 1, 1]
    assert set(seconds) == {"a", "b", "deep/c"} and min(seconds.values()) > 0
    assert shares[-1] == pytest.approx(1.0) and shares == sorted(shares)
    run_steps(steps, tmp_path)
    assert [runs_of(tmp_path, name) for name in ("a", "b", "deep/c")] == [1, 1, 1]


def test_a_failure_stops_only_what_depends_on_it(tmp_path: Path) -> None:
    steps = [step("bad", "print('the disk is full'); raise SystemExit(3)"), step("next", after=("bad",)), step("other")]
    with pytest.raises(InputError, match=r"bad failed with status 3: the disk is full"):
        run_steps(steps, tmp_path)
    assert runs_of(tmp_path, "other") == 1 and runs_of(tmp_path, "next") == 0
    with pytest.raises(InputError, match="bad failed"):
        run_steps(steps, tmp_path)  # a failed step is tried again, a finished one is not
    assert runs_of(tmp_path, "other") == 1


def test_changed_settings_are_noticed(tmp_path: Path) -> None:
    run_steps([step("a", rate=0.1)], tmp_path)
    assert is_done(step("a", rate=0.1), tmp_path)
    with pytest.raises(InputError, match="other settings"):
        run_steps([step("a", rate=0.2)], tmp_path)


def test_settings_are_filled_in(tmp_path: Path) -> None:
    one = toddle_step("x/y", "sft", {"policy": "{folder}/transfer", "seed": 3}, after=["transfer"])
    arguments, settings = one.filled(tmp_path)
    assert arguments == [sys.executable, "-m", "toddle", "sft", "--config", f"{tmp_path}/steps/x/y.yaml", "--resume"]
    assert settings == {"policy": f"{tmp_path}/transfer", "seed": 3, "out": f"{tmp_path}/x/y"}


def test_wrong_plans_are_refused(tmp_path: Path) -> None:
    for steps, message in (
        ([step("a"), step("a")], "used twice"),
        ([step("train"), step("b", after=("trian",))], "did you mean 'train'"),
        ([step("a", after=("b",)), step("b")], "must stand before"),
    ):
        with pytest.raises(InputError, match=message):
            run_steps(steps, tmp_path)


SLOW = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[1]); out.open('a').write('ran\\n')
state = out.with_name('state'); count = int(state.read_text()) if state.exists() else 0
try:
    while count < 20:
        time.sleep(0.05); count += 1
        if count % 5 == 0: state.write_text(str(count))
except KeyboardInterrupt:
    state.write_text(str(count)); out.with_name('saved').touch(); raise SystemExit(130)
"""
RUNNER = """
import sys; from pathlib import Path
from toddle.runs.steps import Step, run_steps
step = Step(name='slow', arguments=('{python}', '-c', sys.argv[2], '{out}/mark'), seconds=1)
try: run_steps([step], Path(sys.argv[1]))
except KeyboardInterrupt as error: print(error); sys.exit(130)
"""


def start(folder: Path, background: bool = False) -> subprocess.Popen[bytes]:
    """Run the slow step; in the `background` as a shell does it, with interrupts ignored."""
    runner = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + RUNNER.lstrip()  # nohup ignores it
    if background:
        runner = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + runner
    child = subprocess.Popen([sys.executable, "-c", runner, str(folder), SLOW], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while runs_of(folder, "slow") == 0 and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.15)
    return child


def alive(pid: str) -> bool:
    """Whether it runs: not gone, and not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("background", "number"), [(False, signal.SIGTERM), (True, signal.SIGTERM), (False, signal.SIGHUP)]
)
def test_interrupted_it_saves_and_goes_on(tmp_path: Path, background: bool, number: signal.Signals) -> None:
    runner = start(tmp_path, background)
    runner.send_signal(number)
    assert runner.wait(20) == 130
    assert (tmp_path / "slow" / "saved").exists() and not (tmp_path / "steps" / "slow.json").exists()
    slow = Step(name="slow", arguments=("{python}", "-c", SLOW, "{out}/mark"), seconds=1)
    total = run_steps([slow], tmp_path)["slow"]
    assert runs_of(tmp_path, "slow") == 2
    assert json.loads((tmp_path / "steps" / "slow.json").read_text())["seconds"] == total > 1.0  # both calls counted


@pytest.mark.skipif(sys.platform != "linux", reason="a killed parent ends its children on Linux only")
def test_killed_it_leaves_no_child_behind_and_goes_on(tmp_path: Path) -> None:
    runner = start(tmp_path)
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    assert len(children) == 1
    runner.kill()
    runner.wait()
    until = time.monotonic() + 10
    while alive(children[0]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(children[0])
    slow = Step(name="slow", arguments=("{python}", "-c", SLOW, "{out}/mark"), seconds=1)
    run_steps([slow], tmp_path)
    assert runs_of(tmp_path, "slow") == 2 and (tmp_path / "slow" / "state").read_text() == "20"


def test_makespan_by_hand() -> None:
    """a 6 and b 4 run side by side, then c 3 (after a), d 5 (after b) and e 1 (after all): 6, 4, 9, 9, 10."""
    steps = [step("a"), step("b"), step("c", after=("a",)), step("d", after=("b",)), step("e", after=("c", "d"))]
    left = {"a": 6.0, "b": 4.0, "c": 3.0, "d": 5.0, "e": 1.0}
    assert makespan(steps, left, 2) == 10.0
    assert makespan(steps, left, 1) == 19.0
    assert makespan(steps, {"d": 5.0, "e": 1.0}, 2) == 6.0  # the others are done
    assert makespan(steps, {}, 2) == 0.0


def test_the_board_believes_what_a_step_says_of_itself() -> None:
    steps = [step("a"), step("b", after=("a",))]  # 0.1 s each by estimate
    board = StepBoard(steps, 1)
    assert board.state(set(), {})[:2] == pytest.approx((0.0, 0.2))
    share, left, text = board.state(set(), {"a": (10.0, "pretrain: 1/4, 00:00:30 left  loss 1")})
    assert share == pytest.approx(0.5 * 10 / 40)
    assert left == pytest.approx(30.0 + 0.1 * 20.0)  # b is taken to be slow too, by at most 20
    assert text == "a (pretrain: 1/4, 00:00:30 left  loss 1)"
    assert board.state({"a", "b"}, {})[:2] == (1.0, 0.0)


def test_last_line_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\n\nrecording \u2501\u2501\u2501 4/4\n\n")
    assert last_line(tmp_path / "log") == "recording  4/4"
    assert last_line(tmp_path / "none") == ""


def test_a_device_goes_to_the_commands_that_compute_and_leaves_what_is_done_done() -> None:
    steps = [toddle_step("a", "pretrain", {"steps": 1}), toddle_step("b", "record", {}), step("c")]
    moved = on_device(steps, "cuda:1")
    assert [one.settings.get("device") for one in moved] == ["cuda:1", None, None]
    assert [one.fingerprint() for one in moved] == [one.fingerprint() for one in steps]
    other = toddle_step("a", "pretrain", {"steps": 2})
    assert other.fingerprint() != steps[0].fingerprint()


@pytest.mark.parametrize("text", ["", "soon", "-3", "nan", "\x00\xff"])
def test_a_damaged_record_of_seconds_costs_only_the_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "quick.seconds").write_text(text)
    quick = Step(name="quick", arguments=("{python}", "-c", "pass"), seconds=1)
    assert 0 < run_steps([quick], tmp_path)["quick"] < 20
