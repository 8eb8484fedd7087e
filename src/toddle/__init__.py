"""toddle: reinforcement learning and vision-language-action robot policies that teach each other.

The floors, from the ground up: core, maths, (models, envs, data), policies, (algorithms, transfer, training),
recipes, cli.  A floor imports only floors below it; `tests/test_architecture.py` enforces it.
"""

__version__ = "0.1.0"
