"""How well hidden masses and frictions are found again: `toddle identify` on recordings with noise of the sensors.

    python benchmarks/identification.py [--draws 4]      prints the table of docs/identification.md

A draw is eight pushes of tabletop/push-cube by the scripted expert under noise, recorded with hidden factors; then
white noise of a thousandth (metres, radians and their speeds alike) is added to what was recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from toddle.recipes import identify as command
from toddle.recipes import record

NOISE = 1e-3

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--draws", type=int, default=4)
draws = parser.parse_args().draws
print("| hidden friction | found | hidden mass of the cube | found | explained |\n|---|---|---|---|---|")
for seed in range(draws):
    generator = np.random.default_rng(seed)
    hidden = np.exp(generator.uniform(np.log(0.5), np.log(2.0), 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "t.yaml").write_text(
            f"friction: [{hidden[0]}, {hidden[0]}]\nobject_mass: [{hidden[1]}, {hidden[1]}]\n"
        )
        made = record.Config(
            env=("tabletop/push-cube",),
            episodes=8,
            cameras=(),
            noise=0.3,
            executed=True,
            keep_failures=True,
            randomise=folder / "t.yaml",
            seed=1_000_000 + 100 * seed,
            out=folder / "data",
        )
        record.run(made)
        config = command.Config(dataset=folder / "data", steps=25)
        episodes = command._episodes(config)
        replays = command.replays_of(config, episodes)
        replays.measured += NOISE * generator.normal(size=replays.measured.shape)
        found, explained = command.seek(config, replays)
        replays.env.close()
    shown = [f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in found.values()]
    print(
        f"| {hidden[0]:.3f} | {shown[0]} | {hidden[1]:.3f} | {shown[1]} | {100 * explained:.1f} % |",
        flush=True,
    )
