"""A run is a folder, and one process at a time may write into it.

config.yaml       the full config, loads back to an equal object
run.json          the command and the version that made it
metrics.jsonl     one line a step;  tensorboard/  shows the same
checkpoints/      step_00000010, ...: the newest two
nan/              the state before a step that gave a NaN (only then)
finished.json     written when the last step is done
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from toddle import __version__
from toddle.core.config import from_dict, save_config, to_dict
from toddle.core.errors import InputError, is_out_of_memory
from toddle.core.files import write_json_atomic
from toddle.core.protocols import Learner
from toddle.core.reading import read_bytes, read_json, read_yaml
from toddle.runs.checkpoint import load_state, save_state
from toddle.runs.metrics import Metrics

__all__ = ["RunFolder", "check_run"]

KEPT = 2
"""Checkpoints kept: the newest, and one more in case the newest is damaged later."""
READ = ("randomise", "stages")
"""Settings that name a file whose content is a setting too: a run goes on with the same content only.  So do those that
name a folder of weights (`--policy`, `--init`, ...).  What a config names otherwise is in its `also_read`, field ->
files or folders of cards."""


class RunFolder:
    """The folder of one run, locked while open.  Use `with RunFolder.open(...) as run:`."""

    path: Path
    metrics: Metrics
    """Where the run logs; opened at the step of the newest checkpoint."""

    def __init__(self, path: Path, lock: int, *, new: bool = False) -> None:
        self.path, self._lock, self._new = path, lock, new

    @classmethod
    def open(cls, path: Path, config: Any, *, resume: bool = False) -> RunFolder:
        """Begin a run in `path`, or with `resume` go on with the one there (a run that has not begun is begun).

        Raises InputError when another process writes there, when a run is there and `resume` is not set, or when
        its config differs from `config` (the fields are named; `out`, and what the config's class lists in
        `may_change`, may differ).  A field that a later version added counts as its default; one line says so.
        """
        path = Path(path)
        new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, _take_lock(path), new=new)
        try:
            run._begin(config, resume)
        except BaseException:
            os.close(run._lock)
            raise
        return run

    def _begin(self, config: Any, resume: bool) -> None:
        command = _check_free(self.path, config, resume)
        save_config(self.path / "config.yaml", config)
        facts = {"command": command, "version": __version__, "content": _content(config)}
        write_json_atomic(self.path / "run.json", facts)
        for leftover in (*self.path.glob("checkpoints/.step_*"), *self.path.glob(".nan.*")):  # of a kill while writing
            shutil.rmtree(leftover, ignore_errors=True)
        newest = self.latest()
        self.metrics = Metrics(self.path, resume_at=_step_of(newest) if newest else 0)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Let the folder go; one that is new, and in which nothing was done before an InputError, is taken away."""
        self.close()
        if self._new and isinstance(error, InputError) and _untouched(self.path):
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Close the log and let the folder go."""
        self.metrics.close()
        os.close(self._lock)

    def latest(self) -> Path | None:
        """Return the newest checkpoint (a `nan` state counts: resuming replays the step that failed), or None."""
        found = sorted((self.path / "checkpoints").glob("step_*"), key=_step_of)
        if (nan := self.path / "nan").is_dir() and (not found or _step_of(nan) >= _step_of(found[-1])):
            found.append(nan)
        return found[-1] if found else None

    def save_checkpoint(self, step: int, learner: Learner, meta: dict[str, Any] | None = None) -> Path:
        """Save the learner's state after `step` steps and drop all but the newest checkpoints."""
        return self.save_tree(step, learner.state_dict(), meta)

    def save_tree(self, step: int, tree: Any, meta: dict[str, Any] | None = None, *, nan: bool = False) -> Path:
        """Save a state tree as the checkpoint of `step` (with `nan`: as the state before the step that failed)."""
        folder = self.path / "nan" if nan else self.path / "checkpoints" / f"step_{step:08d}"
        save_state(folder, tree, {**(meta or {}), "step": step})
        if nan:
            write_json_atomic(self.path / "nan.json", {"step": step})
        else:
            for old in sorted(folder.parent.glob("step_*"), key=_step_of)[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        return folder

    def restore(self, learner: Learner) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint into `learner`; return (its step, its meta), or (0, {}) when there is none.

        Raises InputError when it is damaged, saying which folder to delete to go on from the one before, and when it
        is of a version whose learner kept other things.
        """
        folder = self.latest()
        if folder is None:
            return 0, {}
        try:
            tree, meta = load_state(folder)
        except InputError as error:
            others = [other.name for other in (self.path / "checkpoints").glob("step_*") if other != folder]
            after = f"to go on from {max(others)}" if others else "to begin the run anew"
            raise InputError(f"{error}; delete that folder {after}") from None
        try:
            learner.load_state_dict(tree)
        except (KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError) or is_out_of_memory(error):  # a worker was lost, say: it knows better
                raise
            what = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder}: its learner's state is not what this version keeps ({type(error).__name__}: {what}); "
                "begin the run anew, with another --out"
            ) from error
        return int(meta["step"]), meta

    @property
    def finished(self) -> bool:
        """Whether the run has made its last step."""
        return (self.path / "finished.json").exists()

    def finish(self, step: int) -> None:
        """Mark the run as finished after `step` steps."""
        write_json_atomic(self.path / "finished.json", {"step": step})


def check_run(path: Path, config: Any, *, resume: bool = False) -> None:
    """Raise InputError where `RunFolder.open` would refuse; nothing is made or written."""
    path = Path(path)
    if (path / ".lock").exists():
        os.close(_lock(path, os.O_RDONLY))
    _check_free(path, config, resume)


def _check_free(path: Path, config: Any, resume: bool) -> str:
    """Raise InputError unless a run of `config` may be begun, or gone on with, in `path`; return its command."""
    command = type(config).__module__.rsplit(".", 1)[-1]
    if (path / "run.json").exists() and not _untouched(path):
        if not resume:
            raise InputError(f"{path} already holds a run; --resume goes on with it, or choose another --out")
        _check_same_run(path, command, config)
    return command


def _step_of(checkpoint: Path) -> int:
    if checkpoint.name == "nan":
        try:
            return int(read_json(checkpoint.parent / "nan.json", {"step": int})["step"])
        except InputError:
            return -1  # killed between the state and its mark: the checkpoints stand
    return int(checkpoint.name.rsplit("_", 1)[-1])


def _untouched(path: Path) -> bool:
    """Whether the run in `path` failed before it did anything (an unknown task, say): it may be begun differently."""
    rest = [entry for entry in path.iterdir() if entry.name not in ("config.yaml", "run.json", ".lock")]
    return all(entry.name == "metrics.jsonl" and entry.stat().st_size == 0 for entry in rest)


def _take_lock(path: Path) -> int:
    """Lock the folder for this process.  The kernel drops the lock when the process dies, however it dies."""
    handle = _lock(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
    return handle


def _lock(path: Path, flags: int) -> int:
    handle = os.open(path / ".lock", flags, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(handle, 64).decode(errors="replace").strip()
        os.close(handle)
        raise InputError(f"{path} is in use by a run that is still going ({owner}); choose another --out") from None
    return handle


def _check_same_run(path: Path, command: str, config: Any) -> None:
    """Raise InputError unless the run in `path` was begun by the same command with the same config."""
    try:
        facts = read_json(path / "run.json", {"command": str})
        begun_by, content = facts["command"], facts.get("content")
        saved = read_yaml(path / "config.yaml")
    except InputError as error:
        raise InputError(f"{path}: the run in it cannot be read ({error}); choose another --out") from None
    if begun_by != command:
        raise InputError(f"{path} holds a run of '{begun_by}', not of '{command}'; choose another --out")
    free = {"out", *getattr(type(config), "may_change", ())}
    written, now = _flat(saved), _flat(to_dict(config))
    before = _flat(_completed(saved, type(config)))
    changed = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name.split(".")[0] not in free
    ]
    if changed:
        raise InputError(f"{path} was begun with another config: {'; '.join(changed)}; use the same, or another --out")
    now = _content(config)
    if isinstance(content, dict) and (other := [name for name in now if content.get(name, now[name]) != now[name]]):
        which = ", ".join(f"{name} ({getattr(config, name, None) or written[name]})" for name in other)
        raise InputError(f"{path} was begun with another content of {which}; use the same, or another --out")
    if added := [f"{name} = {before[name]!r}" for name in sorted(before.keys() - written.keys())]:
        print(
            f"{command}: {path} is older than these settings, taken at their defaults: {', '.join(added)}",
            file=sys.stderr,
        )


def _content(config: Any) -> dict[str, str]:
    """Return a hash of each file that settings name and whose content counts; of a folder, of the cards in it, which
    hold the hashes of its weights.  A folder that is gone has none."""
    named = {name: [path] for name in READ if (path := getattr(config, name, None)) is not None}
    named |= {name: paths for name, paths in getattr(config, "also_read", {}).items() if paths}
    found = {}
    for name, paths in named.items():
        files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
        found[name] = _hash(files)
    for name, value in _flat(to_dict(config)).items():
        if name != "out" and isinstance(value, str) and (cards := _cards(value.rpartition("=")[2])):
            found.setdefault(name, _hash(cards))
    return found


def _hash(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(map(read_bytes, files))).hexdigest()


def _cards(folder: str) -> list[Path]:
    """Return the cards with hashes of weights in a folder: of a policy, say, or of the run that made it."""
    if not folder or not os.path.isdir(folder):
        return []
    found = sorted(path for depth in ("*.json", "*/*.json", "*/base/*.json") for path in Path(folder).glob(depth))
    return [path for path in found if b'"sha256"' in read_bytes(path)]


def _completed(saved: Any, cls: type[Any]) -> Any:
    """Return a saved config with the fields it lacks at their defaults; unchanged when `cls` no longer reads it."""
    try:
        return to_dict(from_dict(cls, saved))
    except InputError:
        return saved  # a field is gone or has another type: the comparison names it


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists to {"a.b.0": leaf}."""
    if isinstance(value, dict) and value:
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}{name}.").items()}
    if isinstance(value, list) and value:
        return {k: v for index, item in enumerate(value) for k, v in _flat(item, f"{prefix}{index}.").items()}
    return {prefix[:-1]: value}
