"""The contenders of `off_policy.py`: each waits for numbers on its standard input and answers with a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

BATCH, STATES, ACTIONS, HIDDEN, ROWS = 256, 17, 6, [256, 256, 256], 100_000


def rows() -> dict[str, np.ndarray]:
    """Return the same random decisions for all."""
    g = np.random.default_rng(0)
    return {
        "observation": g.normal(size=(ROWS, STATES)).astype(np.float32),
        "action": g.uniform(-1, 1, (ROWS, ACTIONS)).astype(np.float32),
        "following": g.normal(size=(ROWS, STATES)).astype(np.float32),
        "reward": g.normal(size=ROWS).astype(np.float32),
    }


class Spaces(gymnasium.Env[Any, Any]):
    """What stable-baselines3 asks for before it learns: spaces."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATES,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        """Return anything."""
        return np.zeros(STATES, np.float32), {}


def sb3_speed(job: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    """Return what makes updates of stable-baselines3's SAC: gradient steps of its `train`, from its own buffer."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    nets = {"net_arch": HIDDEN, "n_critics": job["critics"]}
    model = SAC("MlpPolicy", Spaces(), policy_kwargs=nets, buffer_size=ROWS, batch_size=BATCH, device="cpu", seed=0)
    model.set_logger(Logger(None, []))
    buffer, data = model.replay_buffer, rows()
    assert buffer is not None
    buffer.observations[:, 0], buffer.next_observations[:, 0] = data["observation"], data["following"]
    buffer.actions[:, 0], buffer.rewards[:, 0] = data["action"], data["reward"]
    buffer.pos, buffer.full = 0, True

    def run(count: int) -> dict[str, float]:
        update = timed(lambda: model.train(count, BATCH))
        sampling = timed(lambda: [buffer.sample(BATCH) for _ in range(count)])
        return {"update": 1e3 * update / count, "sampling": 1e3 * sampling / count}

    return run


def toddle_speed(job: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    """Return what makes updates of toddle's learner, from its replay."""
    import toddle
    from toddle.data.replay import Decisions

    settings = {name: job[name] for name in ("critics", "subset", "layer_norm") if name in job}
    env = toddle.make_env("gymnasium/HalfCheetah-v5", 1)
    learner: Any = toddle.build(
        "sac",
        env,
        steps=1000,
        hidden=HIDDEN,
        replay={"capacity": ROWS},
        sac={"critic_hidden": HIDDEN, "batch": BATCH, **settings},
    ).learner
    data = {name: torch.from_numpy(value) for name, value in rows().items()}
    learner.replay.stores["online"].add(Decisions(**data, discount=torch.full((ROWS,), 0.99)))

    def draw(count: int) -> Any:
        return [learner.replay.draw(1, BATCH, learner.batches) for _ in range(count)]

    def run(count: int) -> dict[str, float]:
        update = timed(lambda: [learner.learn(learner.replay.draw(1, BATCH, learner.batches)) for _ in range(count)])
        return {"update": 1e3 * update / count, "sampling": 1e3 * timed(lambda: draw(count)) / count}

    return run


def timed(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of this process that a call takes."""
    began = time.process_time()
    call()
    return time.process_time() - began


def sb3_learning(job: dict[str, Any]) -> Callable[[int], float]:
    """Return what trains stable-baselines3's SAC, with its defaults, from a seed."""
    from stable_baselines3 import SAC

    def run(seed: int) -> float:
        model = SAC("MlpPolicy", job["task"], learning_starts=1000, device="cpu", seed=seed)
        model.learn(job["steps"])
        return played(job, lambda seen: model.predict(seen, deterministic=True)[0])

    return run


def toddle_learning(job: dict[str, Any]) -> Callable[[int], float]:
    """Return what trains toddle's SAC, with its defaults and one world, from a seed."""
    import toddle

    def run(seed: int) -> float:
        env = toddle.make_env(f"gymnasium/{job['task']}", 1, seed=seed)
        made = toddle.build("sac", env, steps=job["steps"], seed=seed)
        for _ in range(made.iterations):
            made.learner.step()
        high = gymnasium.make(job["task"]).action_space.high  # type: ignore[attr-defined]

        def act(seen: np.ndarray) -> np.ndarray:
            observation: Any = {"proprio": torch.from_numpy(seen)[None].float()}
            action: np.ndarray = made.policy.act(observation, deterministic=True)[0].action[0, 0].numpy()
            return action * high

        return played(job, act)

    return run


def played(job: dict[str, Any], act: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the mean return of episodes from fixed seeds, in gymnasium's own environment."""
    env, total = gymnasium.make(job["task"]), 0.0
    for episode in range(job["episodes"]):
        seen, _ = env.reset(seed=10_000 + episode)
        over = False
        while not over:
            seen, reward, terminated, truncated, _ = env.step(act(seen))
            total, over = total + float(reward), terminated or truncated
    return total / job["episodes"]


def main() -> None:
    """Say the versions, then answer every number."""
    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    makers = {
        ("speed", "sb3"): sb3_speed,
        ("speed", "toddle"): toddle_speed,
        ("learning", "sb3"): sb3_learning,
        ("learning", "toddle"): toddle_learning,
    }
    run: Callable[[int], Any] = makers[job["job"], job["kind"]](job)
    print(json.dumps({"torch": torch.__version__, "gymnasium": gymnasium.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), flush=True)


if __name__ == "__main__":
    main()
