"""A run's folder: one writer, one config, clear refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from toddle.core.config import config, load_config
from toddle.core.errors import InputError, NaNError, problem
from toddle.core.types import BodySpec
from toddle.policies.gaussian import GaussianConfig, GaussianPolicy
from toddle.policies.store import save_policy
from toddle.recipes._reward import Rewarded
from toddle.runs.metrics import Metrics, read_metrics
from toddle.runs.run import RunFolder


@config
class Optim:
    """Nested."""

    rate: float = 1e-3


@config
class Config:
    """The run's config."""

    may_change: ClassVar[tuple[str, ...]] = ("threads",)
    out: Path = Path("a")
    threads: int = 1
    sizes: tuple[int, ...] = (8, 8)
    optim: Optim = Optim()


def test_config_and_command_are_saved(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "deep/run", Config(sizes=(4,))) as run:
        assert run.latest() is None and not run.finished
    assert load_config(Config, tmp_path / "deep/run/config.yaml") == Config(sizes=(4,))
    assert json.loads((tmp_path / "deep/run/run.json").read_text())["command"] == "test_run"


def begin(path: Path, settings: Config) -> None:
    with RunFolder.open(path, settings) as run:
        run.save_tree(0, {})


def test_a_second_run_needs_resume(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    with pytest.raises(InputError, match="already holds a run; --resume"):
        RunFolder.open(tmp_path, Config())
    RunFolder.open(tmp_path, Config(), resume=True).close()


def test_resume_of_nothing_begins(tmp_path: Path) -> None:
    RunFolder.open(tmp_path / "new", Config(), resume=True).close()


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    other = Config(sizes=(8, 16), optim=Optim(rate=0.1))
    with pytest.raises(InputError) as error:
        RunFolder.open(tmp_path, other, resume=True)
    text = str(error.value)
    assert "optim.rate was 0.001 and is 0.1" in text and "sizes.1 was 8 and is 16" in text and "\n" not in text


def test_a_field_that_a_later_version_added_counts_as_its_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path, Config(sizes=(4,)))
    (tmp_path / "config.yaml").write_text("out: a\nthreads: 1\nsizes: [4]\noptim: {}\n")  # as before `rate` existed
    with pytest.raises(InputError, match=r"another config: optim\.rate was 0\.001 and is 0\.1; use the same"):
        RunFolder.open(tmp_path, Config(sizes=(4,), optim=Optim(rate=0.1)), resume=True)
    with pytest.raises(InputError, match=r"another config: sizes\.0 was 4 and is 8; sizes\.1 was None and is 8; use"):
        RunFolder.open(tmp_path, Config(), resume=True)
    assert capsys.readouterr().err == ""
    RunFolder.open(tmp_path, Config(sizes=(4,)), resume=True).close()
    line = f"test_run: {tmp_path} is older than these settings, taken at their defaults: optim.rate = 0.001\n"
    assert capsys.readouterr().err == line
    RunFolder.open(tmp_path, Config(sizes=(4,)), resume=True).close()
    assert capsys.readouterr().err == ""  # now it is written down


def test_a_field_that_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("momentum: 0.9\n")
    with pytest.raises(InputError, match=r"another config: momentum was 0\.9 and is None; use"):
        RunFolder.open(tmp_path, Config(), resume=True)


def test_what_may_change_may_change(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    RunFolder.open(tmp_path, Config(threads=2, out=Path("b")), resume=True).close()
    assert load_config(Config, tmp_path / "config.yaml").threads == 2


def test_a_run_that_failed_before_it_did_anything_may_be_begun_differently(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, Config()).close()
    with RunFolder.open(tmp_path, Config(sizes=(4,))) as run:
        assert load_config(Config, tmp_path / "config.yaml") == Config(sizes=(4,))
        run.metrics.write(1, {"train/loss": 1.0})
    with pytest.raises(InputError, match="already holds a run"):
        RunFolder.open(tmp_path, Config())


def test_what_is_refused_after_the_folder_was_made_leaves_none(tmp_path: Path) -> None:
    def refused(path: Path) -> None:
        with RunFolder.open(path, Config()) as run:
            if path.name == "begun":
                run.save_tree(0, {})
            raise problem("policy", "one that fits", "another")

    (tmp_path / "mine").mkdir()
    for name, left in (("new", False), ("mine", True), ("begun", True)):
        with pytest.raises(InputError, match="policy"):
            refused(tmp_path / name)
        assert (tmp_path / name).exists() is left, name


@config
class Differing(Rewarded):
    """Settings that name a table, a plan, or what a reward reads."""

    out: Path = Path("a")
    randomise: Path | None = None
    stages: Path | None = None
    reward: str = "own"


@pytest.mark.parametrize(
    ("name", "kind"), [("randomise", "file"), ("stages", "file"), ("reward", "file"), ("reward", "folder")]
)
def test_a_file_that_was_edited_meanwhile_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    """A file that settings name; for a reward, the file of a term, or the card in its folder."""
    table, run = tmp_path / "table.yaml", tmp_path / "run"
    if name == "reward" and kind == "folder":
        (tmp_path / "term").mkdir()
        table = tmp_path / "term/card.json"
    table.write_text("friction: [0.5, 2.0]\n")
    term = f"gvl:{table.parent}" if kind == "folder" else f"pbrs:{table}"
    named = f"sparse+0.5*{term}+rnd" if name == "reward" else str(table)
    given: dict[str, Any] = {name: named if name == "reward" else table}
    settings = Differing(**given)
    begin(run, settings)  # type: ignore[arg-type]
    RunFolder.open(run, settings, resume=True).close()
    table.write_text("friction: [0.5, 3.0]\n")
    with pytest.raises(InputError, match=re.escape(f"another content of {name} ({named}); use the same")):
        RunFolder.open(run, settings, resume=True)
    (run / "run.json").write_text('{"command": "test_run"}')  # of a version that kept no hash
    RunFolder.open(run, settings, resume=True).close()


@config
class Beginning:
    """Settings that name policies."""

    out: Path = Path("a")
    init: Path = Path("b")
    policy: tuple[str, ...] = ()


@pytest.mark.parametrize("name", ["init", "policy.1"])
def test_weights_that_were_written_anew_meanwhile_are_refused(name: str, tmp_path: Path) -> None:
    """Of a run's policy, also where it is one of several with names; a folder that is gone asks for nothing."""
    folder, run = tmp_path / "trained", tmp_path / "run"
    small = GaussianConfig(bodies=(BodySpec(name="point", proprio=2, action=1, dt=0.1),), hidden=(4,))
    save_policy(folder / "policy", GaussianPolicy(small))
    named = folder if name == "init" else f"x=y={folder}"
    settings: Any = Beginning(init=folder) if name == "init" else Beginning(policy=("expert", str(named)))
    begin(run, settings)
    RunFolder.open(run, settings, resume=True).close()
    save_policy(folder / "policy", GaussianPolicy(replace(small, seed=1)))
    with pytest.raises(InputError, match=re.escape(f"another content of {name} ({named}); use the same")):
        RunFolder.open(run, settings, resume=True)
    shutil.rmtree(folder)
    RunFolder.open(run, settings, resume=True).close()


def test_another_command_is_refused(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    (tmp_path / "run.json").write_text('{"command": "sft"}')
    with pytest.raises(InputError, match="holds a run of 'sft', not of 'test_run'"):
        RunFolder.open(tmp_path, Config(), resume=True)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_run import Config
from toddle.runs.run import RunFolder
run = RunFolder.open(Path(sys.argv[1]), Config())
print("open", flush=True)
time.sleep(60)
"""


def test_a_live_folder_is_refused_and_a_stale_lock_is_no_obstacle(tmp_path: Path) -> None:
    code = HOLDER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == "open\n"
            with pytest.raises(InputError, match=f"in use by a run that is still going .process {holder.pid}."):
                RunFolder.open(tmp_path, Config(), resume=True)
        finally:
            holder.kill()
    RunFolder.open(tmp_path, Config(), resume=True).close()


def test_a_refused_run_lets_the_folder_go(tmp_path: Path) -> None:
    begin(tmp_path, Config())
    for _ in range(2):
        with pytest.raises(InputError, match="already holds"):
            RunFolder.open(tmp_path, Config())
    RunFolder.open(tmp_path, Config(), resume=True).close()


def test_metrics_are_named_and_finite(tmp_path: Path) -> None:
    log = Metrics(tmp_path)
    log.write(1, {"train/loss": 1})
    with pytest.raises(ValueError, match="group/name"):
        log.write(2, {"loss": 1.0})
    with pytest.raises(NaNError, match="train/loss is inf"):
        log.write(2, {"train/loss": float("inf")})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "train/loss": 1.0}]
