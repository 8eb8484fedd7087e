"""Whether a body can meet its walking goals, and what the reward pays for it: the best sinusoids, without learning.

    python benchmarks/walking_gaits.py --body ant --speeds 0.15 0.3

For each forward speed (in sqrt(g L)) the cross-entropy method (Rubinstein 1999) searches an offset, an amplitude and a
phase for every servo and one frequency, by the part of the reward that the goal pays; the action knows nothing of the
state.  It prints what standing still is paid, what the best gait is paid, and how fast that one goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from toddle.envs.goal.walking import WalkingEnv


@dataclass(frozen=True)
class Config:
    """Search gaits."""

    body: str = "ant"
    """A body with feet."""
    speeds: tuple[float, ...] = (0.15, 0.3)
    """Forward speeds, in sqrt(g L)."""
    candidates: int = 48
    """Gaits of a generation."""
    generations: int = 14
    """Generations."""
    seconds: float = 3.6
    """Simulated seconds of a trial, of which the last two thirds count."""
    seed: int = 0
    """Of the search and of the worlds."""


def command(env: WalkingEnv, speed: float) -> None:
    """Ask every world for this forward speed until the trial ends."""
    goals = env.goals
    goals.present[:], goals.weight[:], goals.target[:] = False, 0.0, 0.0
    goals.part[:, 0], goals.present[:, 0], goals.weight[:, 0] = env.reader.slots[2][0], True, 1.0
    goals.target[:, 0, 0], goals.left[:] = speed, 10**6


def trial(env: WalkingEnv, gaits: np.ndarray, speed: float, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return what the goal paid a step, 0 for those that fell, and the mean forward speed; gaits (N, 3 A + 1)."""
    env.reset(seed=config.seed)
    command(env, speed)
    count, actions = round(config.seconds / env.dt), gaits.shape[1] // 3
    offset, size, phase = (gaits[:, i * actions : (i + 1) * actions] for i in range(3))
    paid, moved, standing = np.zeros(len(gaits)), np.zeros(len(gaits)), np.ones(len(gaits), bool)
    for step in range(count):
        turn = gaits[:, -1:] * step * env.dt / env.description.time
        _, _, fell, _, info = env.step(offset + size * np.sin(turn + phase))
        standing &= ~fell
        if fell.any():
            command(env, speed)
        if step >= count // 3:
            paid += info["reward/goal"]
            moved += env._velocity[:, 0]
    kept = count - count // 3
    return np.where(standing, paid / kept, 0.0), moved / kept


def main(config: Config) -> None:
    """Search and print."""
    env = WalkingEnv(config.body, config.candidates, held_out=True, pushes=None, recovery_fraction=0.0)
    actions, generator = env.single_action_space.shape[0], np.random.default_rng(config.seed)
    for speed in config.speeds:
        mean = np.repeat([0.0, 0.3, 0.0, 2.0], [actions, actions, actions, 1])
        spread = np.repeat([0.2, 0.3, 2.0, 0.6], [actions, actions, actions, 1])
        still = trial(env, np.zeros((config.candidates, 3 * actions + 1)), speed, config)[0].mean()
        best = (0.0, 0.0, 0.0)
        for _ in range(config.generations):
            gaits = mean + spread * generator.normal(size=(config.candidates, len(mean)))
            paid, moved = trial(env, gaits, speed, config)
            order = np.argsort(-paid)[: max(2, config.candidates // 6)]
            best = max(best, (float(paid[order[0]]), float(moved[order[0]]), float(gaits[order[0], -1])))
            mean, spread = gaits[order].mean(axis=0), 0.9 * gaits[order].std(axis=0) + 0.1 * spread
        print(
            f"{config.body}, speed {speed}: standing is paid {still:.2f}, the best gait {best[0]:.2f}; it goes "
            f"{best[1]:.3f}, {best[2]:.2f} rad in sqrt(L / g)",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
