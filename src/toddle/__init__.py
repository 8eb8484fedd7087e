"""toddle: reinforcement learning and vision-language-action robot policies that teach each other.

What a script needs is here by name (`toddle.make_env`, `toddle.build`, `toddle.evaluate`, ...: docs/python_api.md), and
is imported when it is first asked for, so that `import toddle` alone is quick.

The floors, from the ground up: core; maths; models, optim, envs, data; policies; experience; algorithms, transfer,
runs; reporting, methods; recipes; cli.  A file imports only from floors below its own, or from its own folder:
`tests/test_architecture.py` enforces it.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    # environments
    "BatchedEnv": "toddle.envs.base",
    "add_env": "toddle.envs.make",
    "check_env": "toddle.envs.check_env",
    "known_envs": "toddle.envs.make",
    "make_env": "toddle.envs.make",
    # policies
    "Agent": "toddle.experience.actor",
    "check_policy": "toddle.policies.check_policy",
    "load_policy": "toddle.policies.store",
    "load_policy_and_env": "toddle.experience.taught",
    "save_policy": "toddle.policies.store",
    # evaluation and data
    "LeRobotDataset": "toddle.data.lerobot_dataset",
    "WindowDataset": "toddle.data.windows",
    "evaluate": "toddle.experience.evaluate",
    "summarise": "toddle.reporting.episode_log",
    # methods of learning
    "Auxiliary": "toddle.algorithms.parts",
    "Estimator": "toddle.algorithms.parts",
    "Method": "toddle.methods._base",
    "PPO": "toddle.algorithms.ppo",
    "PPOConfig": "toddle.algorithms.ppo",
    "PPOSettings": "toddle.methods.ppo",
    "Preset": "toddle.methods._base",
    "RewardTerm": "toddle.algorithms.parts",
    "Run": "toddle.methods._base",
    "Start": "toddle.methods._base",
    "build": "toddle.methods._base",
    "known_methods": "toddle.methods._base",
    # what they are made of
    "BodySpec": "toddle.core.types",
    "Decision": "toddle.core.types",
    "InputError": "toddle.core.errors",
    "Observation": "toddle.core.types",
    "Score": "toddle.core.types",
    "config": "toddle.core.config",
}
"""Name -> the module that it is imported from when it is asked for."""

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:  # the same for editors and type checkers
    from toddle.algorithms.parts import Auxiliary as Auxiliary
    from toddle.algorithms.parts import Estimator as Estimator
    from toddle.algorithms.parts import RewardTerm as RewardTerm
    from toddle.algorithms.ppo import PPO as PPO
    from toddle.algorithms.ppo import PPOConfig as PPOConfig
    from toddle.core.config import config as config
    from toddle.core.errors import InputError as InputError
    from toddle.core.types import BodySpec as BodySpec
    from toddle.core.types import Decision as Decision
    from toddle.core.types import Observation as Observation
    from toddle.core.types import Score as Score
    from toddle.data.lerobot_dataset import LeRobotDataset as LeRobotDataset
    from toddle.data.windows import WindowDataset as WindowDataset
    from toddle.envs.base import BatchedEnv as BatchedEnv
    from toddle.envs.check_env import check_env as check_env
    from toddle.envs.make import add_env as add_env
    from toddle.envs.make import known_envs as known_envs
    from toddle.envs.make import make_env as make_env
    from toddle.experience.actor import Agent as Agent
    from toddle.experience.evaluate import evaluate as evaluate
    from toddle.experience.taught import load_policy_and_env as load_policy_and_env
    from toddle.methods._base import Method as Method
    from toddle.methods._base import Preset as Preset
    from toddle.methods._base import Run as Run
    from toddle.methods._base import Start as Start
    from toddle.methods._base import build as build
    from toddle.methods._base import known_methods as known_methods
    from toddle.methods.ppo import PPOSettings as PPOSettings
    from toddle.policies.check_policy import check_policy as check_policy
    from toddle.policies.store import load_policy as load_policy
    from toddle.policies.store import save_policy as save_policy
    from toddle.reporting.episode_log import summarise as summarise


def __getattr__(name: str) -> Any:
    """Import one of the names above.  Raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'toddle' has no attribute {name!r}")
    import importlib

    globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
