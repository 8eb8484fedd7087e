"""What domain randomisation costs: CPU time of a control step with a table and without, interleaved.

python benchmarks/randomisation.py        prints the ratios of docs/randomisation.md
"""

from __future__ import annotations

import time

import numpy as np

from toddle import make_env
from toddle.envs.domain import DomainTable

TABLE = DomainTable(
    object_mass=(0.5, 2.0),
    link_mass=(0.9, 1.1),
    friction=(0.5, 2.0),
    gains=(0.8, 1.2),
    damping=(0.8, 1.25),
    delay=(0.8, 0.15, 0.05),
    bias=0.005,
)
WORLDS, CHUNK, ROUNDS = 32, 8, 15

for name in ("tabletop/push-cube", "metaworld-state/push-v3", "gymnasium/Ant-v5"):
    envs = [make_env(name, WORLDS, max_episode_steps=10_000, randomise=table) for table in (None, TABLE)]
    actions = np.random.default_rng(0).uniform(-1, 1, (ROUNDS, WORLDS, CHUNK, *envs[0].single_action_space.shape))
    steps: list[list[float]] = [[], []]
    resets: list[list[float]] = [[], []]
    for each in actions.astype(np.float32):
        for env, stepped, reset in zip(envs, steps, resets, strict=True):
            began = time.process_time()
            env.reset(seed=0)
            middle = time.process_time()
            env.step_chunk(each)
            reset.append(middle - began)
            stepped.append(time.process_time() - middle)
    plain, drawn = (1e6 * np.median(part) / WORLDS / CHUNK for part in steps)
    begin, again = (1e3 * np.median(part) / WORLDS for part in resets)
    ratio = np.median(np.divide(steps[1], steps[0]))
    print(f"{name}: {plain:.0f} and {drawn:.0f} us a step, ratio {ratio:.3f}; reset {begin:.2f} and {again:.2f} ms")
