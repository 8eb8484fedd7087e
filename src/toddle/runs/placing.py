"""Workers that Ray places on the machines of a cluster (https://docs.ray.io), in the place of processes of this one.

Each is a Ray task in which a worker's process runs, as the learner would have started it itself; the learner notices
that one is lost, and Ray finds the next a machine that is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toddle.core.errors import EnvironmentFault, InputError, problem
from toddle.core.process import prepare_child

__all__ = ["RayPlaces", "RayTask", "check_ray", "places_of", "worker_process"]


PASSED = ("PYTHONPATH", "MUJOCO_GL")
"""Environment variables of the learner that its workers have too."""


def worker_process(command: str, settings: str, environment: dict[str, str]) -> int:
    """Run a worker in a process of its own to its end; return its status.

    settings: of the run, as its config.yaml has them.  environment: says where the learner listens and who this is.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(settings)
        return subprocess.run(
            [sys.executable, "-m", "toddle", command, "--config", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **environment},
            preexec_fn=None if sys.platform == "win32" else prepare_child,
            check=False,
        ).returncode


def check_ray() -> None:
    """Raise InputError where Ray is not installed."""
    if find_spec("ray") is None:
        raise InputError("placement: package 'ray' is missing; install toddle[ray]")


@contextlib.contextmanager
def places_of(config: Any) -> Iterator[RayPlaces | None]:
    """Yield where the workers of a run are placed, as its settings say; None: on this machine."""
    if config.placement == "here":
        yield None
        return
    places = RayPlaces(config.workers, "cpu" if config.acting == "engine" else config.device)
    try:
        yield places
    finally:
        places.close()


class RayPlaces:
    """A connection to a Ray cluster: that of RAY_ADDRESS, or one that runs on this machine, else one of its own."""

    def __init__(self, workers: int, device: str) -> None:
        """Raises InputError where the cluster is too small for so many workers at once."""
        check_ray()
        import ray

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what has no GPU of Ray's sees them all
        self.ray, self.gpus = ray, int(device.startswith("cuda"))
        try:
            ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EnvironmentFault(f"placement: no Ray cluster can be reached: {error}") from error
        self.host = str(ray.util.get_node_ip_address())
        there = ray.cluster_resources()
        for kind, each in {"CPU": 1, "GPU": self.gpus}.items():
            if each * workers > there.get(kind, 0):
                self.close()
                raise problem("workers", f"at most {there.get(kind, 0):g}, the {kind}s of the Ray cluster", workers)

    def start(self, command: str, settings: Path, environment: dict[str, str]) -> RayTask:
        """Let a worker begin somewhere, with what is said to it in `environment`."""
        environment |= {name: os.environ[name] for name in PASSED if name in os.environ}
        run = self.ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=0)(worker_process)
        return RayTask(self.ray, run.remote(command, settings.read_text(), environment))

    def close(self) -> None:
        """Let go of the cluster; one of this process's own ends."""
        self.ray.shutdown()


class RayTask:
    """A worker that Ray has placed, as a `subprocess.Popen` is seen by the learner."""

    def __init__(self, ray: Any, task: Any) -> None:
        self.ray, self.task = ray, task

    def poll(self) -> int | None:
        """Return how it has ended; None: it has not."""
        return self.wait() if self.ray.wait([self.task], timeout=0)[0] else None

    def wait(self) -> int:
        """Wait for its end; return its status, as of SIGKILL where its machine or Ray's process there was lost."""
        try:
            return int(self.ray.get(self.task))
        except self.ray.exceptions.RayError:
            return -signal.SIGKILL

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.cancel(self.task, force=True)
