"""Record what stable-baselines3's own PPO does in two iterations of a tiny problem: the expected values of
tests/algorithms/test_sb3_parity.py.

    python -m venv /tmp/sb3 && /tmp/sb3/bin/pip install torch==2.13.0 stable-baselines3==2.9.2 safetensors==0.8.0
    /tmp/sb3/bin/python scripts/record_sb3_update.py tests/algorithms/data/sb3_update.safetensors

Everything recorded is stable-baselines3's: its policy and critic, VecNormalize, rollouts with time limits, GAE and
updates.  Shapes: T steps, B worlds, I iterations, E epochs, O numbers observed, A acted; all float32 but for the orders
of minibatches (int64) and flags (bool).  Observations and rewards are as VecNormalize gave them, `final` the normalised
observation in which an episode ended (0 elsewhere).  Weights have stable-baselines3's names and are written before the
first iteration (`weights/0/...`) and after each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from safetensors.numpy import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

STEPS, WORLDS, ITERATIONS, LIMIT = 24, 4, 2, 7
SETTINGS = {
    "gamma": 0.97,
    "gae_lambda": 0.9,
    "clip_range": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "learning_rate": 3e-3,
    "n_epochs": 5,
    "batch_size": 24,
}
HIDDEN = [12, 9]


class Push(gymnasium.Env[Any, Any]):
    """A point that is pushed towards a target; an episode ends where it leaves the field, or after LIMIT steps."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.target, self.effort, self.step_count = *self.np_random.uniform(-1, 1, (2, 2)), 0.0, 0
        return self._seen(), {}

    def _seen(self) -> Any:
        return np.concatenate([self.place, self.target, [self.effort]])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        self.place = self.place + 0.3 * action[:2]
        self.effort = float(action[2])
        reward = -float(np.linalg.norm(self.place - self.target)) - 0.1 * self.effort**2
        fell = bool(np.abs(self.place).max() > 1.3)
        return self._seen(), reward, fell, self.step_count >= LIMIT and not fell, {}


class Watch(BaseCallback):
    """Keeps what the environment said at each step, before stable-baselines3 adds the value of a cut episode's end."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        now, dones = self.locals, np.asarray(self.locals["dones"])
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in now["infos"]])
        final = np.zeros_like(now["new_obs"], dtype=np.float32)
        for world in np.flatnonzero(dones):
            final[world] = now["infos"][world]["terminal_observation"]
        self.rows.append(
            {
                "reward": now["rewards"].copy(),
                "terminated": dones & ~cut,
                "truncated": dones & cut,
                "final": final,
                "next": now["new_obs"].copy(),
            }
        )
        return True


class Recorded(PPO):
    """stable-baselines3's PPO, which writes down what goes into `train` and what comes out."""

    found: dict[str, Any]
    watch: Watch
    iteration = 0

    def keep_weights(self) -> None:
        for name, value in self.policy.state_dict().items():
            self.found[f"weights/{self.iteration}/{name}"] = value.detach().numpy().copy()

    def train(self) -> None:
        buffer, rows = self.rollout_buffer, self.watch.rows
        held = {name: getattr(buffer, name) for name in ("actions", "log_probs", "values", "advantages", "returns")} | {
            name: np.stack([row[name] for row in rows]) for name in ("reward", "terminated", "truncated", "final")
        }
        held["observation"] = np.concatenate([buffer.observations, rows[-1]["next"][None]])  # (T + 1, B, O)
        state = np.random.get_state()  # noqa: NPY002 (the buffer is about to draw its orders from this generator)
        orders = np.stack([np.random.permutation(STEPS * WORLDS) for _ in range(self.n_epochs)])  # noqa: NPY002
        np.random.set_state(state)  # noqa: NPY002
        held["order"] = orders % STEPS * WORLDS + orders // STEPS  # theirs counts by world, ours by step
        for name, value in held.items():
            kind = {"f": np.float32, "i": np.int64, "b": np.bool_}[np.asarray(value).dtype.kind]
            self.found[f"{name}/{self.iteration}"] = np.ascontiguousarray(value, dtype=kind).copy()
        rows.clear()
        super().train()
        for name in ("policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction"):
            number = self.logger.name_to_value[f"train/{name}"]
            self.found[f"{name}/{self.iteration}"] = np.array(number, np.float32)
        self.iteration += 1
        self.keep_weights()


def main(path: Path) -> None:
    torch.set_num_threads(1)
    env = VecNormalize(DummyVecEnv([Push] * WORLDS), gamma=SETTINGS["gamma"])
    policy = {"net_arch": HIDDEN, "log_std_init": -0.5}
    model = Recorded("MlpPolicy", env, n_steps=STEPS, seed=0, device="cpu", policy_kwargs=policy, **SETTINGS)
    model.found, model.watch = {}, Watch()
    model.keep_weights()
    model.learn(STEPS * WORLDS * ITERATIONS, callback=model.watch)
    about = {"settings": SETTINGS, "hidden": HIDDEN, "iterations": ITERATIONS}
    versions = {"stable_baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    save_file(model.found, path, metadata={"about": json.dumps(about | versions)})
    print(path, f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
