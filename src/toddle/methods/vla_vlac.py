"""VLAC: PPO on a VLA paid by the change of the progress that a model sees (arXiv 2509.15937)."""

from __future__ import annotations

import dataclasses

from toddle.core.config import config, from_dict, to_dict
from toddle.core.errors import problem
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.methods._vla import VLAPPOSettings

__all__ = ["METHOD", "VLACSettings"]

PPO = load_method("ppo", "finetune")
REMEDY = (
    "toddle reward train --model.says order --dataset ... --out runs/order, then --process-reward.model runs/order "
    "--process-reward.form difference"
)


@config
class VLACSettings(VLAPPOSettings):
    """PPO on a VLA that is paid for steps forward and charged for steps back."""

    def build(self, start: Start) -> Run:
        """Build PPO.  Raises InputError where no model says how far the task is, or its progress is paid as shaping."""
        terms = start.parts.get("rewards", ())
        if not any(term.looks_at_ends for term in terms):
            raise problem("process_reward.model", "a model of the order of time with this method", "none", REMEDY)
        if any(term.shapes for term in terms):
            raise problem("process_reward.form", "difference with this method", "shaping", "or take --method rftf")
        return super().build(start)


def _preset(name: str) -> Preset:
    """Return a preset of `ppo` for this method."""
    found = PPO.preset([], started=True, name=name)
    return dataclasses.replace(
        found,
        source=f"VLAC: the change of progress as reward, beside success; PPO as preset {name} of ppo",
        settings=from_dict(VLACSettings, to_dict(found.settings)),
    )


METHOD = Method(
    name="vla-vlac",
    what="PPO on a VLA, paid besides success for each decision's change of the progress that a model sees",
    paper="VLAC, arXiv 2509.15937 (the released code is the model's; PPO's settings are ours)",
    policies=PPO.policies,
    deviations=(
        "the change is the difference of two answers about one picture each, antisymmetric by construction",
        "the model is a head on the frozen backbone, not the policy's own network",
        "the environment says when it is done; no person resets, demonstrates or leads the exploration",
    ),
    presets=(_preset("flow"), _preset("tokens"), _preset("tokens-alone")),
)
