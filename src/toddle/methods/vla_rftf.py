"""RFTF: PPO on a VLA with a reward learned from the order of time in demonstrations (arXiv 2505.19767)."""

from __future__ import annotations

import dataclasses

from toddle.core.config import config, from_dict, to_dict
from toddle.core.errors import problem
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.methods._vla import VLAPPOSettings

__all__ = ["METHOD", "RFTFSettings"]

PPO = load_method("ppo", "finetune")
REMEDY = "toddle reward train --model.says order --dataset ... --out runs/order"


@config
class RFTFSettings(VLAPPOSettings):
    """PPO on a VLA that is paid for progress."""

    def build(self, start: Start) -> Run:
        """Build PPO.  Raises InputError where no model says how far the task is."""
        if not any(term.looks_at_ends for term in start.parts.get("rewards", ())):
            raise problem("process_reward.model", "a model of the order of time with this method", "none", REMEDY)
        return super().build(start)


def _preset(name: str) -> Preset:
    """Return a preset of `ppo` for this method."""
    found = PPO.preset([], started=True, name=name)
    return dataclasses.replace(
        found,
        source=f"RFTF: differences of a value of time as reward, in Ng's form; PPO as preset {name} of ppo",
        settings=from_dict(RFTFSettings, to_dict(found.settings)),
    )


METHOD = Method(
    name="vla-rftf",
    what="PPO on a VLA, paid besides success for progress that a model of the order of time sees",
    paper="RFTF, arXiv 2505.19767 (abstract and summaries; no code was found)",
    policies=PPO.policies,
    deviations=(
        "shaping in Ng's form, so that the best policy stays what it was",
        "no balancing of successful and failed episodes in an update",
    ),
    presets=(_preset("flow"), _preset("tokens"), _preset("tokens-alone")),
)
