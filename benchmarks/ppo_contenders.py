"""PPO of toddle and of three peers behind one function: `make(name, setting)` returns what makes one iteration.

Run as a script it is a worker: `python ppo_contenders.py NAME SETTING_JSON` says its version, then makes as many
iterations as each line of stdin says and answers with [environment steps, CPU seconds, of them in MuJoCo (toddle
only)].  It imports a peer only when asked for it, so that each lives in a virtual environment of its own.  The same for
all: network, activation, worlds, steps, epochs, minibatches, optimiser and rate; observations are normalised by all, no
early stop.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

PACKAGES = {"toddle": "toddle", "sb3": "stable-baselines3", "skrl": "skrl", "rsl_rl": "rsl-rl-lib"}
GAMMA, LAM, RATE, CLIP = 0.99, 0.95, 3e-4, 0.2
Iteration = Callable[[], None]


def toddle(s: dict[str, Any]) -> Iteration:
    from toddle.algorithms.ppo import PPO, PPOConfig
    from toddle.envs.make import make_env
    from toddle.experience.collect import CollectConfig, Collector
    from toddle.policies.critic import CriticConfig, ValueNet
    from toddle.policies.gaussian import GaussianConfig, GaussianPolicy

    env, hidden = make_env(f"gymnasium/{s['task']}", s["worlds"], seed=0, threads=1), tuple(s["hidden"])
    policy = GaussianPolicy(GaussianConfig(bodies=(env.body_spec,), hidden=hidden, half_gradients=s.get("half", False)))
    critic = ValueNet(CriticConfig(inputs=(env.body_spec.proprio,), hidden=hidden, half_gradients=s.get("half", False)))
    config = PPOConfig(epochs=s["epochs"], minibatches=s["minibatches"], schedule="constant", target_kl=None)
    source = Collector(env, CollectConfig(length=s["steps"], discount=GAMMA), seed=0)
    return PPO(policy, critic, [source], config, iterations=1, seed=0).step


def sb3(s: dict[str, Any]) -> Iteration:
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make(s["task"]) for _ in range(s["worlds"])]), gamma=GAMMA)
    size = s["worlds"] * s["steps"] // s["minibatches"]
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=s["steps"],
        batch_size=size,
        n_epochs=s["epochs"],
        learning_rate=RATE,
        gamma=GAMMA,
        gae_lambda=LAM,
        clip_range=CLIP,
        policy_kwargs={"net_arch": list(s["hidden"])},
        device="cpu",
        seed=0,
    )
    _, callback = model._setup_learn(10**9)

    def iteration() -> None:  # one turn of OnPolicyAlgorithm.learn
        model.collect_rollouts(model.env, callback, model.rollout_buffer, n_rollout_steps=s["steps"])
        model.train()

    return iteration


def skrl(s: dict[str, Any]) -> Iteration:
    import gymnasium
    import torch
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.resources.preprocessors.torch import RunningStandardScaler
    from torch import nn

    env = wrap_env(gymnasium.make_vec(s["task"], num_envs=s["worlds"], vectorization_mode="sync"), verbose=False)

    def network(inputs: int, outputs: int) -> nn.Sequential:
        sizes, layers = [inputs, *s["hidden"]], []
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    class Policy(GaussianMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
            GaussianMixin.__init__(self)
            self.net = network(self.num_observations, self.num_actions)
            self.log_std = nn.Parameter(torch.zeros(self.num_actions))

        def compute(self, inputs: Any, role: str) -> Any:
            return self.net(inputs["observations"]), {"log_std": self.log_std}

    class Value(DeterministicMixin, Model):
        def __init__(self) -> None:
            Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space, device="cpu")
            DeterministicMixin.__init__(self)
            self.net = network(self.num_observations, 1)

        def compute(self, inputs: Any, role: str) -> Any:
            return self.net(inputs["observations"]), {}

    config = PPO_CFG(
        rollouts=s["steps"],
        learning_epochs=s["epochs"],
        mini_batches=s["minibatches"],
        discount_factor=GAMMA,
        gae_lambda=LAM,
        learning_rate=RATE,
        ratio_clip=CLIP,
        value_clip=0.0,
        grad_norm_clip=0.5,
        observation_preprocessor=RunningStandardScaler,
        observation_preprocessor_kwargs={"size": env.observation_space, "device": "cpu"},
        value_preprocessor=RunningStandardScaler,
        value_preprocessor_kwargs={"size": 1, "device": "cpu"},
    )
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    agent = PPO(
        models={"policy": Policy(), "value": Value()},
        memory=RandomMemory(memory_size=s["steps"], num_envs=s["worlds"]),
        cfg=config,
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
    )
    agent.init()
    agent.enable_training_mode(True)
    now = {"observations": env.reset()[0], "step": 0}

    def iteration() -> None:  # `steps` turns of Trainer.train
        for _ in range(s["steps"]):
            clock = {"timestep": now["step"], "timesteps": 10**9}
            agent.pre_interaction(**clock)
            with torch.no_grad():
                actions, _ = agent.act(now["observations"], None, **clock)
                after, rewards, terminated, truncated, infos = env.step(actions)
                agent.record_transition(
                    observations=now["observations"],
                    states=None,
                    actions=actions,
                    rewards=rewards,
                    next_observations=after,
                    next_states=None,
                    terminated=terminated,
                    truncated=truncated,
                    infos=infos,
                    **clock,
                )
            agent.post_interaction(**clock)
            now["observations"], now["step"] = after, now["step"] + 1

    return iteration


def rsl_rl(s: dict[str, Any]) -> Iteration:
    import gymnasium
    import numpy as np
    import torch
    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    inner = gymnasium.make_vec(s["task"], num_envs=s["worlds"], vectorization_mode="sync")

    class Env(VecEnv):
        num_envs, num_actions = s["worlds"], inner.single_action_space.shape[0]
        max_episode_length, device, cfg = 1000, "cpu", {}
        episode_length_buf = torch.zeros(s["worlds"], dtype=torch.long)

        def wrap(self, array: Any) -> TensorDict:
            return TensorDict({"policy": torch.from_numpy(array).float()}, batch_size=[self.num_envs])

        def get_observations(self) -> TensorDict:
            return self.wrap(inner.reset()[0]) if not hasattr(self, "last") else self.wrap(self.last)

        def step(self, actions: torch.Tensor) -> Any:
            low, high = inner.single_action_space.low, inner.single_action_space.high
            self.last, reward, terminated, truncated, _ = inner.step(np.clip(actions.numpy(), low, high))
            dones = torch.from_numpy(terminated | truncated).long()
            extras = {"time_outs": torch.from_numpy(truncated)}
            return self.wrap(self.last), torch.from_numpy(reward).float(), dones, extras

    model = {
        "class_name": "rsl_rl.models:MLPModel",
        "hidden_dims": list(s["hidden"]),
        "activation": "tanh",
        "obs_normalization": True,
    }
    actor = model | {"distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log"}}
    config = {
        "num_steps_per_env": s["steps"],
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": actor,
        "critic": model,
        "run_name": "",
        "experiment_name": "",
        "logger": "tensorboard",
        "algorithm": {
            "class_name": "rsl_rl.algorithms:PPO",
            "num_learning_epochs": s["epochs"],
            "num_mini_batches": s["minibatches"],
            "gamma": GAMMA,
            "lam": LAM,
            "learning_rate": RATE,
            "clip_param": CLIP,
            "schedule": "fixed",
            "max_grad_norm": 0.5,
            "use_clipped_value_loss": False,
            "entropy_coef": 0.0,
            "normalize_advantage_per_mini_batch": True,
            "rnd_cfg": None,
            "symmetry_cfg": None,
        },
    }
    runner = OnPolicyRunner(Env(), config, log_dir=None, device="cpu")
    return lambda: runner.learn(1)


def time_physics(step: Any) -> list[float]:
    """Add up the CPU seconds that toddle spends in MuJoCo, in the one number of the list returned."""
    pool, spent = step.__self__.sources[0].env.pool, [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            result = function(*arguments, **options)
            spent[0] += time.thread_time() - began
            return result

        return call

    pool.step = timed(pool.step)
    return spent


def serve(name: str, setting: dict[str, Any]) -> None:
    """Be a worker until stdin ends."""
    import torch

    torch.set_num_threads(1)
    answer, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115  # peers print
    iteration = {"toddle": toddle, "sb3": sb3, "skrl": skrl, "rsl_rl": rsl_rl}[name](setting)
    physics = time_physics(iteration) if name == "toddle" else [0.0]
    for _ in range(3):
        iteration()
    print(json.dumps(importlib.metadata.version(PACKAGES[name])), file=answer, flush=True)
    for line in sys.stdin:
        began, physics[0] = time.process_time(), 0.0
        for _ in range(int(line)):
            iteration()
        steps, seconds = int(line) * setting["worlds"] * setting["steps"], time.process_time() - began
        print(json.dumps([steps, seconds, physics[0]]), file=answer, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
