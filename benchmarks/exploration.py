"""What exploring gives beside its controls: motions that tell physics, and episodes that teach a policy.

    python benchmarks/exploration.py asid [--draws 3]           prints a table of docs/exploration.md
    python benchmarks/exploration.py data --work runs/explored  prints another

asid: six motions of tabletop/push-cube that `toddle explore --method asid` chooses (once, without knowing the hidden
factors), and six that nobody chose, made with hidden friction and mass; white noise of a thousandth is added to what
was seen, and `toddle identify` finds the factors.

data: a policy of states imitates 12 demonstrations of tabletop/push-cube; it explores by `sime`, by `soe`, by `soe` in
drawn directions and by plain noise, or is only played again; policies imitate the demonstrations with the 40 episodes
that were kept.  All are evaluated on the same 100 seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toddle.core.reading import read_json
from toddle.envs.make import make_env
from toddle.experience.evaluate import evaluate
from toddle.experience.excitation import make_motions
from toddle.experience.identification import Recorded
from toddle.policies.store import load_policy
from toddle.recipes import explore as command
from toddle.recipes import identify, offline, record
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


def data(work: Path, updates: int) -> None:
    """Print what policies come to that learn from explored episodes too."""
    env_name, seeds = "tabletop/push-cube", list(range(100))

    def taught(name: str, *folders: Path) -> list[bool]:
        settings = offline.Config(dataset=(work / "demos", *folders), method="bc", updates=updates, out=work / name)
        offline.run(settings)
        env = make_env(env_name, 50, seed=0)
        found = [bool(one.success) for one in evaluate(load_policy(work / name), env, seeds=seeds)]
        env.close()
        return found

    record.run(record.Config(out=work / "demos", env=(env_name,), episodes=12, cameras=(), noise=0.3))
    base, learned = taught("base"), command.SoeConfig(dataset=(work / "demos",))
    print("| explored by | tries that succeeded | the policy that learned from it |\n|---|---|---|")
    print(f"| nothing | - | {sum(base)} |", flush=True)
    ways: dict[str, Any] = {
        "sime": {"method": "sime", "size": 0.3},
        "soe": {"method": "soe", "soe": learned},
        "soe, drawn directions": {"method": "soe", "soe": learned, "control": "shuffled"},
        "noise": {"method": "noise", "size": 0.3},
        "played again": {"method": "noise", "size": 0.0, "tries": 1, "keep": "successes", "batch": 20},
    }
    for name, given in ways.items():
        folder = work / f"{name.replace(', ', '_').replace(' ', '_')}_data"
        command.run(command.Config(policy=work / "base", env=env_name, episodes=40, out=folder, **given))
        told = read_json(folder / "explored.json")
        tried = told["tries"] * len(told["starts"])
        good = sum(start["successes"] for start in told["starts"])
        found = taught(folder.name.removesuffix("_data"), folder)
        apart = np.array(found, float) - np.array(base, float)
        gain, wide = 100 * apart.mean(), 196 * apart.std(ddof=1) / np.sqrt(len(apart))
        shown = f"{sum(found)} ({gain:+.0f}, {gain - wide:.0f} to {gain + wide:.0f})"
        print(f"| {name} | {good} of {tried} | {shown} |", flush=True)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("part", choices=["asid", "data"])
parser.add_argument("--draws", type=int, default=3)
parser.add_argument("--work", type=Path, default=Path("runs/exploration"))
parser.add_argument("--updates", type=int, default=1500)
given = parser.parse_args()
torch.set_num_threads(1)
torch.set_flush_denormal(True)
asid(given.draws) if given.part == "asid" else data(given.work, given.updates)
