"""Small runs of every command, and the hashes of what they wrote: is a change of the code a change of the numbers?

    python scripts/reference_runs.py record FILE        run everything and write the hashes to FILE
    python scripts/reference_runs.py compare FILE       run everything and name what differs from FILE

Hashes hold on one machine with one version of torch alone (another processor rounds differently), so record them with
the code before the change first, in a worktree of its own, with PYTHONPATH on its `src`.
Wall-clock seconds, versions and paths are left out of what is hashed; settings are too, as their names may change.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import safetensors.numpy

SMALL = "--worlds 8 --checkpoint-every 100"
PPO = "--ppo.epochs 4 --ppo.minibatches 2 --ppo.learning-rate 5e-4 --ppo.critic-learning-rate 2e-3 --ppo.lam 0.8"
CHEETAH = f"--env gymnasium/HalfCheetah-v5 {SMALL} --steps 1600"
FLOW = (
    f"{CHEETAH} --denoising.network mlp --collect.length 8 --collect.discount 0.98 --ppo.epochs 3 --ppo.minibatches 3"
)
RUNS = {
    "ppo-causal": f"pretrain --env goal/sawyer {SMALL} --steps 6000",
    "ppo-bodies": f"pretrain --env goal/sawyer goal/ant {SMALL} --steps 6000",
    "ppo-mlp": f"pretrain --policy mlp {CHEETAH} {PPO} --ppo.target-kl 0.1 --collect.discount 0.96 --collect.length 17",
    "clone": f"pretrain --method clone --teacher ppo-causal/policy --env goal/sawyer {SMALL} --steps 3000",
    "dppo": f"pretrain --method dppo {FLOW}",
    "dppo-trunk": f"pretrain --method dppo --env goal/sawyer {SMALL} --steps 3000",
    "reinflow": f"pretrain --method reinflow {FLOW}",
    "flow-sde": f"pretrain --method flow-sde {FLOW}",
    "flow-noise": f"pretrain --method flow-noise {FLOW}",
    "fpo": f"pretrain --method fpo {FLOW}",
    "ddiffpg": f"pretrain --method ddiffpg --env fork/point {SMALL} --steps 2400 --ddiffpg.warm-up 4",
    "record": "record --env metaworld/reach-v3 metaworld/drawer-open-v3 --episodes 2",
    "record-state": "record --env metaworld-state/window-close-v3 --episodes 3",
    "record-policy": "record --policy ppo-causal/policy --env touch/push-v3 --keep-failures --episodes 1",
    "warm-dppo": "pretrain --method dppo --env metaworld-state/window-close-v3 --warm-start record-state "
    f"--imitation.steps 50 --denoising.network mlp {SMALL} --steps 1600 --collect.length 8",
    "transfer": "transfer --source ppo-causal",
    "sft": "sft --dataset record --init transfer --sft.steps 12 --sft.batch 4",
    "evaluate": "evaluate --policy sft --env metaworld/reach-v3 --episodes 3 --push --videos 1",
    "evaluate-goals": "evaluate --policy ppo-causal --env goal/sawyer --episodes 3 --videos 0",
}
AFTER = ("clone", "record-policy", "warm-dppo", "transfer", "sft", "evaluate", "evaluate-goals")
"""Runs that need others, in their order."""
CLOCKS = {"seconds", "seconds_per_decision", "written", "source", "dataset", "version"}


def digest(*parts: bytes) -> str:
    """Return a short hash."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:16]


def plain(value: Any) -> Any:
    """Leave out what differs from one run to the next."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in CLOCKS and not k.startswith("time/")}
    return [plain(item) for item in value] if isinstance(value, list) else value


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of the content of every file a run wrote that holds numbers."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors" and "checkpoints" not in name:
            tensors = sorted(safetensors.numpy.load_file(path).items())
            found[name] = digest(*(np.ascontiguousarray(value).tobytes() for _, value in tensors))
        elif path.name in ("metrics.jsonl", "episodes.jsonl"):
            rows = [json.dumps(plain(json.loads(line)), sort_keys=True) for line in path.read_text().splitlines()]
            found[name] = digest("\n".join(rows).encode())
        elif path.suffix == ".parquet" and "data" in path.parts:
            table = pyarrow.parquet.read_table(path).to_pydict()
            found[name] = digest(*(f"{key}{table[key]}".encode() for key in sorted(table)))
        elif path.suffix == ".mp4":
            found[name] = digest(path.read_bytes())
        elif path.name in ("transfer.json", "summary.json"):
            found[name] = digest(json.dumps(plain(json.loads(path.read_text())), sort_keys=True).encode())
    return found


def run_all() -> dict[str, dict[str, str]]:
    """Run everything, two at a time where nothing depends on it, and return the hashes by run and file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def one(name: str) -> None:
            command = [sys.executable, "-m", "toddle", *RUNS[name].split(), "--out", name]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            print(f"{name}: {'done' if done.returncode == 0 else done.stderr[-800:]}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, [name for name in RUNS if name not in AFTER]))
        for name in AFTER:
            one(name)
        return {name: hashes(folder / name) for name in RUNS}


def main(mode: str, file: str) -> int:
    """Record or compare; 1 where something differs."""
    found = run_all()
    if mode == "record":
        Path(file).write_text(json.dumps(found, indent=1) + "\n")
        return 0
    known = json.loads(Path(file).read_text())
    different = 0
    for name, files in known.items():
        changed = [key for key in files if found.get(name, {}).get(key) != files[key]]
        different += bool(changed)
        print(
            f"{name}: {'the same (' + str(len(files)) + ' files)' if not changed else 'differs: ' + ', '.join(changed)}"
        )
    return min(different, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
