"""HIL-SERL: a person takes over where the policy goes wrong, and it learns from that (Luo et al. 2024)."""

from __future__ import annotations

from dataclasses import replace

from toddle.algorithms.intervention import PERSON, Intervened
from toddle.algorithms.soft_actor_critic import ONLINE
from toddle.core.config import config
from toddle.core.numbers import Share
from toddle.data.replay import Replay, Store
from toddle.experience.collect import Collector
from toddle.experience.guide import Person, PersonConfig
from toddle.experience.teacher import ExpertTeacher
from toddle.methods._base import Method, Preset, Start
from toddle.methods._steered import SMALL, SteeredSettings
from toddle.methods._vla import FLOWS
from toddle.policies.steered import SteeredConfig, SteeredPolicy

__all__ = ["METHOD", "HILSettings"]


@config
class HILSettings(SteeredSettings):
    """A residual over a frozen flow VLA, with a scripted person beside it."""

    person: PersonConfig = PersonConfig()
    """When the person takes over.  Until `sac.learn_after` decisions are kept the person acts alone."""
    person_share: Share = 0.5
    """Share of every batch that is the person's."""

    def _learner(
        self, start: Start, policy: SteeredPolicy, collector: Collector, store: Store, privileged: int
    ) -> Intervened:
        person = Person(ExpertTeacher(collector.env), collector.env, self.person)
        theirs = Store(store.capacity, *store.sizes, kind=self.replay.kind)
        replay = Replay({ONLINE: store, PERSON: theirs}, {ONLINE: 1.0 - self.person_share, PERSON: self.person_share})
        return Intervened(
            policy,
            collector,
            replay,
            self.sac,
            self.steering,
            seed=start.seed,
            privileged=privileged,
            person=person,
        )


METHOD = Method(
    name="vla-hil-serl",
    what="a residual over a frozen flow VLA, and a scripted person who takes over where it goes wrong",
    paper="HIL-SERL, Luo et al. 2024, arXiv 2410.21845",
    policies=", ".join((*FLOWS, "steered")),
    presets=(
        Preset(
            name="small",
            kinds=(*FLOWS, "steered"),
            source="HIL-SERL: half of a batch the person's, alpha from 0.01, entropy -1/2, 2 critics; ours: the rest",
            settings=HILSettings(
                steered=SteeredConfig(mode="residual", scale=1.0, steps=4, hidden=(128, 128), log_std=-1.0),
                sac=replace(SMALL, target_entropy=-0.5),
            ),
        ),
    ),
    deviations=(
        "the person is the environment's scripted expert, who holds one action for a whole chunk",
        "the policy corrects a frozen VLA; the paper's acts alone over a frozen ResNet",
        "demonstrations are what the person does first, in the run itself; no separate critic of the gripper",
    ),
)
