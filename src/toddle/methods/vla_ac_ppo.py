"""AC-PPO: PPO on chunks, and imitation of the policy's own shorter successes that fades (arXiv 2509.25718)."""

from __future__ import annotations

import dataclasses

from toddle.methods._base import Method, Preset, load_method

__all__ = ["METHOD"]

IMITATION = {"weight": 1.1, "least_weight": 0.1, "episodes": 32}
PPO = load_method("ppo", "finetune")


def _preset(name: str) -> Preset:
    """Return a preset of `ppo` with the paper's imitation."""
    found = PPO.preset([], started=True, name=name)
    source = "AC-PPO: 32 episodes a task, the shorter ones; ours: its weight, 1.1 - success, and PPO as preset "
    return dataclasses.replace(
        found,
        source=f"{source}{name} of ppo",
        common={"imitation": IMITATION},
    )


METHOD = Method(
    name="vla-ac-ppo",
    what="PPO on a VLA's chunks, and imitation of its own shorter successes whose weight falls as they get more",
    paper="AC-PPO with self behaviour cloning, arXiv 2509.25718 (abstract and summaries; no code was found)",
    policies=PPO.policies,
    deviations=("the paper's rule for the two weights was not to be had: 1.1 less the running share of successes",),
    presets=(_preset("flow"), _preset("tokens")),
)
