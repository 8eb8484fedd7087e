"""The house keeps its floors: imports point down, files and functions stay small.  Waivers may only shrink."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "toddle"
FLOORS = {
    "core": 0, "maths": 1, "models": 2, "envs": 2, "data": 2, "policies": 3,
    "algorithms": 4, "transfer": 4, "training": 4, "recipes": 5, "cli": 6, "__main__": 7, "__init__": 0,
}
HEAVY = {
    "transformers", "peft", "metaworld", "libero", "robosuite", "mani_skill", "ray", "av", "wandb", "tensorboard",
    "pyarrow",
}
MAX_FILE, MAX_FUNCTION = 350, 60
FILE_WAIVERS: dict[str, int] = {}
FUNCTION_WAIVERS: dict[str, int] = {}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def imported(path: Path) -> list[str]:
    """Every module `path` imports, function-level imports too."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def violations(home: str, names: list[str]) -> list[str]:
    """The imports among `names` that do not point down from the room `home`."""
    bad = []
    for name in names:
        parts = name.split(".")
        if parts[0] != "toddle" or len(parts) < 2 or parts[1] not in FLOORS or parts[1] == home:
            continue
        if FLOORS[parts[1]] >= FLOORS[home]:
            bad.append(name)
    return bad


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    assert violations(room(path), imported(path)) == []


def test_an_upward_or_sideways_import_is_caught() -> None:
    assert violations("maths", ["toddle.models.trunk.Trunk"]) == ["toddle.models.trunk.Trunk"]
    assert violations("envs", ["toddle.data.rollout.Rollout"]) == ["toddle.data.rollout.Rollout"]
    assert violations("envs", ["toddle.core.types.Observation", "toddle.envs.base.Obs"]) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_WAIVERS.get(name, MAX_FILE)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_WAIVERS.get(f"{name}:{node.name}", MAX_FUNCTION), f"{node.name}: {length} lines"


def test_waivers_are_needed() -> None:
    for name, allowed in FILE_WAIVERS.items():
        assert MAX_FILE < len((ROOT / name).read_text().splitlines()) == allowed, f"shrink the waiver of {name}"


def test_heavy_packages_are_imported_in_few_files() -> None:
    """Each optional or heavy package has at most one file that imports it (backbones and pi0 share transformers)."""
    users: dict[str, set[str]] = {}
    for path in FILES:
        for name in imported(path):
            if (top := name.split(".")[0]) in HEAVY:
                users.setdefault(top, set()).add(str(path.relative_to(ROOT)))
    limits = {"transformers": 3, "pyarrow": 2, "av": 1}
    crowded = {top: files for top, files in users.items() if len(files) > limits.get(top, 1)}
    assert crowded == {}


def test_maths_is_pure() -> None:
    """No module, no device, no global randomness in maths."""
    for path in (ROOT / "maths").glob("*.py"):
        text = path.read_text()
        for word in ("nn.Module", "manual_seed", "cuda", "np.random.seed"):
            assert word not in text, f"{path.name}: {word}"
