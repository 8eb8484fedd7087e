"""RobustVLA: PPO under noise, with penalties on sensitivity and on drift between updates (arXiv 2511.01331)."""

from __future__ import annotations

import dataclasses

from toddle.algorithms.sensitivity import Sensitivity
from toddle.core.config import config, from_dict, merged, to_dict
from toddle.core.errors import problem
from toddle.core.numbers import Positive
from toddle.methods._base import Method, Preset, Run, Start, load_method
from toddle.methods._vla import VLAPPOSettings

__all__ = ["METHOD", "RobustVLASettings"]

PPO = load_method("ppo", "finetune")


@config
class RobustVLASettings(VLAPPOSettings):
    """PPO on a VLA that is held insensitive to what it sees."""

    sensitivity: Positive = 0.01
    """Weight of the penalty on sensitivity, which is 1 at the start."""
    aside: Positive = 0.05
    """The step aside by which sensitivity is measured, as a share of the features' root mean square."""

    def build(self, start: Start) -> Run:
        """Build PPO with the penalty.  Raises InputError where rollouts keep no features."""
        vla = start.init
        if not vla.context_width or self.collect.keep == "pictures":
            raise problem("collect.keep", "features of a frozen backbone with this method", self.collect.keep)
        term = Sensitivity(weight=self.sensitivity, step=self.aside, seed=start.seed)
        parts = dict(start.parts) | {"auxiliaries": [*start.parts.get("auxiliaries", ()), term]}
        return super().build(dataclasses.replace(start, parts=parts))


def _preset(name: str) -> Preset:
    """Return a preset of `ppo` under noise with both penalties."""
    found = PPO.preset([], started=True, name=name)
    plain = merged(to_dict(found.settings), {"reference": {"weight": 0.1, "refresh": 1}})
    source = "RobustVLA: noise of 0.1 on actions, penalties on sensitivity and drift; ours: their weights, 0.05 on "
    return dataclasses.replace(
        found,
        source=f"{source}pictures, PPO as preset {name} of ppo",
        common=dict(found.common) | {"noise": {"action": 0.1, "pictures": 0.05}},
        settings=from_dict(RobustVLASettings, plain),
    )


METHOD = Method(
    name="vla-robust-vla",
    what="PPO on a VLA under noise, held insensitive to its features and near what it was an iteration before",
    paper="RobustVLA, arXiv 2511.01331 (notes and reviews; no code was found)",
    policies=PPO.policies,
    deviations=(
        "sensitivity as the Fisher information of the decision in the frozen backbone's features, by a step aside",
        "drift as the KL divergence to the policy of the iteration before",
        "no curriculum of noise",
    ),
    presets=(_preset("flow"), _preset("tokens")),
)
