"""What exploring gives beside its controls: motions that tell physics, and episodes that teach a policy.

    python benchmarks/exploration.py asid [--draws 3]     prints a table of docs/exploration.md

asid: six motions of tabletop/push-cube that `toddle explore --method asid` chooses (once, without knowing the hidden
factors), and six that nobody chose, made with hidden friction and mass; white noise of a thousandth is added to what
was seen, and `toddle identify` finds the factors.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from toddle.experience.excitation import make_motions
from toddle.experience.identification import Recorded
from toddle.recipes import explore as command
from toddle.recipes import identify
from toddle.recipes._explore_asid import check, deviations, find_motions
from toddle.recipes._recording import make_recorded

NOISE = 1e-3
MOTIONS = 6


def asid(draws: int) -> None:
    """Print what is found of hidden factors from chosen motions and from others."""
    given = command.Config(method="asid", env="tabletop/push-cube", episodes=MOTIONS)
    motions = dict(zip(("chosen", "unchosen"), find_motions(given), strict=True))
    for name, found in motions.items():
        expected = ", ".join(f"{key} {100 * value:.2f} %" for key, value in deviations(given.asid, found).items())
        print(f"{name}: deviations to be expected {expected}", flush=True)
    print("| hidden friction, mass | motions | friction | mass | explained |\n|---|---|---|---|---|")
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        hidden = np.exp(generator.uniform(np.log(0.5), np.log(2.0), 2))
        for name, found in motions.items():
            with tempfile.TemporaryDirectory() as folder:
                table = Path(folder) / "t.yaml"
                table.write_text(f"friction: [{hidden[0]}, {hidden[0]}]\nobject_mass: [{hidden[1]}, {hidden[1]}]\n")
                recorded = command._as_recorded(
                    command.Config(method="asid", env=given.env, episodes=MOTIONS, randomise=table), ()
                )
                env = make_recorded(recorded, given.env)
                made = make_motions(env, found, image_stride=4, steps=given.asid.steps)
                env.close()
            episodes = [Recorded(one.seed, one.columns["action"], one.columns["observation.state"]) for one in made]
            settings = check(given)
            replays = identify.replays_of(settings, episodes)
            replays.measured += NOISE * generator.normal(size=replays.measured.shape)
            twin, explained = identify.seek(settings, replays)
            replays.env.close()
            shown = [f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})" for one in twin.values()]
            print(
                f"| {hidden[0]:.3f}, {hidden[1]:.3f} | {name} | {shown[0]} | {shown[1]} | {100 * explained:.1f} % |",
                flush=True,
            )


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("part", choices=["asid"])
parser.add_argument("--draws", type=int, default=3)
given = parser.parse_args()
asid(given.draws)
