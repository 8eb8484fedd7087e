"""iRe-VLA: RL and imitation of demonstrations and own successes take turns (Guo et al. 2025, arXiv 2501.16664)."""

from __future__ import annotations

import dataclasses

from toddle.methods._base import Method, Preset, load_method

__all__ = ["METHOD"]

IMITATION = {"weight": 1.0, "turns": 5, "updates": 200, "episodes": 200, "choose": "all", "demonstrated": 0.5}
PPO = load_method("ppo", "finetune")


def _preset(name: str, base: str) -> Preset:
    """Return a preset of `ppo` in which imitation has turns of its own."""
    found = PPO.preset([], started=True, name=base)
    source = "iRe-VLA: RL, then SFT on demonstrations and all successes, half and half; ours: five iterations and "
    return dataclasses.replace(
        found,
        name=name,
        source=f"{source}200 updates a turn, PPO as preset {base} of ppo",
        common={"imitation": IMITATION},
    )


METHOD = Method(
    name="vla-ire-vla",
    what="PPO on a VLA in turns with supervised learning on demonstrations and all successes so far",
    paper="iRe-VLA, arXiv 2501.16664",
    policies=PPO.policies,
    deviations=(
        "both turns train what learns in the VLA; the paper freezes its backbone in RL and trains it in the other turn",
        "PPO, as in the paper's simulations by other accounts; the survey's table says SAC with demonstrations",
    ),
    presets=(_preset("flow", "pi-rl"), _preset("tokens", "tokens-alone")),
)
