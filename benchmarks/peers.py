"""Virtual environments of the peers, one each under .cache/, made when they are missing."""

from __future__ import annotations

import os
import platform
import subprocess
import venv
from pathlib import Path

__all__ = ["ROOT", "machine", "peer_python"]

ROOT = Path(__file__).parent.parent
COMMON = ["numpy==2.3.5", "gymnasium[mujoco]==1.4.0", "mujoco==3.3.0"]
PEERS = {
    "sb3": ["stable-baselines3==2.9.2"],
    "skrl": ["skrl==2.1.1"],
    "rsl_rl": ["rsl-rl-lib==5.5.1"],
}


def peer_python(name: str) -> str:
    """Return the Python of a peer's own environment, made when it is missing."""
    folder = ROOT / ".cache" / name
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.exists():
        print(f"installing {name} into its own environment ...", flush=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "torch==2.13.0"], check=True)  # alone and first: the same build as toddle's
        subprocess.run([*pip, "torch==2.13.0", *COMMON, *PEERS[name]], check=True)
        done.touch()
    return str(python)


def machine() -> str:
    """Describe the machine without naming it."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}"
