"""The command line: help, overrides, files, one line for each mistake, a quick start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import tyro
from pydantic import Field

from toddle.cli import COMMANDS, _one_line, main, parse
from toddle.core.config import config, save_config
from toddle.core.errors import InputError
from toddle.recipes import doctor


@config
class Adam:
    """Adam."""

    rate: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""


@config
class Sgd:
    """Gradient descent."""

    momentum: float = 0.9
    """Momentum."""


@config
class Settings:
    """Train something."""

    out: Path = Path("runs/x")
    """Where the run is written."""
    envs: tuple[str, ...] = ("a", "b")
    """Environments."""
    optim: Adam = Adam()
    choice: Adam | Sgd = Adam()
    limit: float | None = None

    def __post_init__(self) -> None:
        if not self.envs:
            raise InputError("envs: expected at least one environment, got none")


@config
class Needy:
    """A config with a setting that must be given."""

    policy: Path
    """The policy's folder."""
    out: Path = Path("runs/y")


@config
class Read:
    """Read datasets."""

    dataset: tuple[Path, ...]
    rate: float = 1.0


@config
class ReadFirst:
    """Read datasets, which come first."""

    dataset: Annotated[tuple[Path, ...], tyro.conf.Positional]
    rate: float = 1.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toddle", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def refused(*arguments: str, kind: type = Settings) -> str:
    with pytest.raises(InputError) as error:
        parse("pretrain", kind, list(arguments))
    return str(error.value)


def test_overrides_of_nested_settings() -> None:
    options, settings = parse(
        "pretrain", Settings, ["--optim.rate", "0.1", "--envs", "q", "r", "s", "--limit", "2", "--dry-run"]
    )
    assert settings == Settings(optim=Adam(rate=0.1), envs=("q", "r", "s"), limit=2.0)
    assert options.dry_run and not options.resume


def test_a_union_is_chosen_by_name() -> None:
    _, settings = parse("pretrain", Settings, ["choice:sgd", "--choice.momentum", "0.5", "--out", "here"])
    assert settings == Settings(choice=Sgd(momentum=0.5), out=Path("here"))


def test_a_file_gives_the_defaults_and_options_override_it(tmp_path: Path) -> None:
    save_config(tmp_path / "a.yaml", Settings(optim=Adam(rate=0.5), envs=("z",), choice=Sgd(momentum=0.1)))
    _, settings = parse("pretrain", Settings, ["--config", str(tmp_path / "a.yaml"), "--optim.rate", "0.25"])
    assert settings == Settings(optim=Adam(rate=0.25), envs=("z",), choice=Sgd(momentum=0.1))
    _, needy = parse("pretrain", Needy, ["--policy", "p"])
    save_config(tmp_path / "b.yaml", needy)
    assert parse("pretrain", Needy, ["--config", str(tmp_path / "b.yaml")])[1] == Needy(policy=Path("p"))
    (tmp_path / "c.yaml").write_text("out: elsewhere\n")  # what must be given may be given beside the file
    wanted = Needy(policy=Path("q"), out=Path("elsewhere"))
    assert parse("pretrain", Needy, ["--config", str(tmp_path / "c.yaml"), "--policy", "q"])[1] == wanted
    with pytest.raises(InputError, match=r"c.yaml: policy: expected a value, got none"):
        parse("pretrain", Needy, ["--config", str(tmp_path / "c.yaml")])


def test_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    save_config(tmp_path / "config.yaml", Settings(envs=("z",)))
    options, settings = parse("pretrain", Settings, ["--resume", "--out", str(tmp_path)])
    assert options.resume and settings.envs == ("z",)
    assert parse("pretrain", Settings, ["--out", str(tmp_path)])[1].envs == ("a", "b")


@pytest.mark.parametrize("kind", [Read, ReadFirst])
@pytest.mark.parametrize(
    "typed",
    [
        "a b --rate 2",
        "--rate 2 --dataset a b",
        "--dataset a b --rate 2",
        "--rate 2 --data a b",
        "a b --rate=2",
        "--rate 2 --data=a b",
    ],
)
def test_datasets_come_first_or_by_name(kind: type, typed: str) -> None:
    """In every command, whichever of the two its settings have."""
    _, settings = parse("offline", kind, typed.split())
    assert settings == kind(dataset=(Path("a"), Path("b")), rate=2.0)


def test_every_mistake_is_one_line() -> None:
    text = refused("--optim.rrate", "3")
    assert text == "Unrecognized options: --optim.rrate, 3; did you mean --optim.rate?; see toddle pretrain --help"
    assert "could not convert string to float: 'abc'" in refused("--optim.rate", "abc")
    assert refused("--optim.rate", "-1") == ("toddle pretrain: optim.rate: Input should be greater than 0, got -1.0")
    assert refused("--envs") == "toddle pretrain: envs: expected at least one environment, got none"
    assert "--policy" in refused(kind=Needy) and "\n" not in refused(kind=Needy)


def test_a_box_without_utf_8_has_no_frame() -> None:
    rule = " " + "-" * 40
    box = [" Invalid choice", rule, "  invalid choice 'x' for argument '--by'.", " " + rule, "  For full helptext", ""]
    assert _one_line("\n".join(box)) == "invalid choice 'x' for argument '--by'."


def test_all_mistakes_of_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optim: {rat: 0.1}\nenvs: [1]\n")
    lines = refused("--config", str(tmp_path / "a.yaml")).splitlines()
    assert len(lines) == 2
    assert any("unknown key 'optim.rat'; did you mean 'rate'?" in line for line in lines)
    assert any("envs.0: Input should be a valid string, got 1" in line for line in lines)
    assert "does not exist" in refused("--config", str(tmp_path / "none.yaml"))


def test_help_names_every_command_quickly() -> None:
    """Only the standard library, tyro, pydantic and YAML are imported for help: no torch, no simulator."""
    code = (
        "import sys; from toddle.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'torch', 'mujoco', 'numpy', 'transformers', 'matplotlib', 'gymnasium'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_the_process_speaks_in_lines_not_tracebacks() -> None:
    typo = run("docter")
    assert typo.returncode == 2
    assert typo.stderr == "error: toddle: unknown command 'docter'; did you mean 'doctor'?\n"
    wrong = run("doctor", "--outt", "x")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: Unrecognized options: --outt")
    assert wrong.stderr.count("\n") == 1 and wrong.stdout == ""


def test_the_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TODDLE_DEBUG", "1")
    with pytest.raises(InputError):
        main(["docter"])


def test_version_and_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out.startswith("toddle 0.")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--dry-run"])
    assert end.value.code == 0
    assert "toddle doctor would:\n  1. " in capsys.readouterr().out


def test_doctor_advises_one_thread_beside_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's threads wait for each other by spinning: measured in docs/LOG.md."""
    check = next(item for item in doctor.CHECKS if item.__name__ == "_threads")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for load, advised in ((0.3, False), (1.9, True)):
        monkeypatch.setattr(doctor.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert ("OMP_NUM_THREADS=1" in check(doctor.Config()).remedy) is advised
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert check(doctor.Config()).fine
