"""The package as a user gets it: the wheel builds, carries its data, and runs from a new virtual environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from toddle.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DATA = (".safetensors", ".json", ".xml", ".typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-qq", "-w", str(target)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (built,) = target.glob("toddle-*.whl")
    return built


def test_the_wheel_carries_all_code_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as box:
        inside = set(box.namelist())
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src/toddle").rglob("*")
        if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts
    }
    assert sources - inside == set()
    assert wheel.stat().st_size < 20e6, "weights in the wheel stay small"


def test_the_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """A new environment holds the wheel; a .pth lends it this environment's dependencies, but not the checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    site = tmp_path / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-qq", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = tmp_path / "bin/python"
    where = [str(python), "-c", "import toddle; print(toddle.__file__)"]
    assert str(site) in subprocess.run(where, check=True, capture_output=True, text=True).stdout
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for command in ([str(python), "-m", "toddle"], [str(python), str(site / "bin/toddle")]):
        done = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout == f"toddle {version}\n"


WITHOUT_EXTRAS = """
import sys
for extra in "transformers tokenizers peft huggingface_hub metaworld libero robosuite".split():
    sys.modules[extra] = None
from toddle.cli import COMMANDS, main
for command in COMMANDS.keys() - {"backbone"}:  # its network is made of the extra vla
    try:
        main([command, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0, command
"""


def test_help_needs_no_extra() -> None:
    """As after a plain `pip install toddle`: whatever an extra brings cannot be imported."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("usage: ") == len(COMMANDS) - 1, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_installs_with_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    pip = [str(tmp_path / "bin/python"), "-m", "pip", "install", "-qq", "-c", str(ROOT / "constraints.txt")]
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    done = subprocess.run([str(tmp_path / "bin/toddle"), "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "this machine is fit" in done.stdout, done.stdout + done.stderr
    task = ["pretrain", "--env", "gymnasium/HalfCheetah-v5", "--policy", "mlp", "--steps", "256", "--worlds", "4"]
    for more in (["--dry-run"], []):
        command = [str(tmp_path / "bin/toddle"), *task, *more]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runs/pretrain/policy/policy.json").exists()


def test_pins_cover_every_dependency() -> None:
    """Whatever the project asks for has its tested version in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[<>=\[]", text)[0].replace("_", "-").lower() for part in asked for text in part}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].replace("_", "-").lower() for line in pins}
    assert names - pinned == {"toddle"}
