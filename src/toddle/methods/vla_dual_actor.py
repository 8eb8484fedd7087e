"""Dual-Actor: a person says what is off before taking over, and a second actor learns to hear it (arXiv 2509.13774)."""

from __future__ import annotations

from dataclasses import replace

from toddle.algorithms.dual_actor import DualActor, RefineConfig
from toddle.algorithms.intervention import PERSON
from toddle.algorithms.soft_actor_critic import ONLINE
from toddle.core.config import config
from toddle.data.replay import Replay, Store
from toddle.experience.collect import Collector
from toddle.experience.talking import TalkConfig, Talking
from toddle.experience.teacher import ExpertTeacher
from toddle.methods._base import Method, Preset, Start
from toddle.methods._steered import SMALL
from toddle.methods._vla import FLOWS
from toddle.methods.vla_hil_serl import HILSettings
from toddle.policies.steered import SteeredConfig, SteeredPolicy

__all__ = ["METHOD", "DualActorSettings"]


@config
class DualActorSettings(HILSettings):
    """Two actors over a frozen flow VLA, with a scripted person who speaks before it takes over."""

    person: TalkConfig = TalkConfig()
    """When the person speaks and takes over.  Until `sac.learn_after` decisions are kept it acts alone."""
    refine: RefineConfig = RefineConfig()
    """The second actor."""

    def _learner(
        self, start: Start, policy: SteeredPolicy, collector: Collector, store: Store, privileged: int
    ) -> DualActor:
        theirs = Store(store.capacity, *store.sizes, kind=self.replay.kind)
        return DualActor(
            policy,
            collector,
            Replay({ONLINE: store, PERSON: theirs}, {ONLINE: 1.0 - self.person_share, PERSON: self.person_share}),
            self.sac,
            self.steering,
            seed=start.seed,
            privileged=privileged,
            person=Talking(ExpertTeacher(collector.env), collector.env, self.person),
            refine=self.refine,
        )


METHOD = Method(
    name="vla-dual-actor",
    what="a residual over a frozen flow VLA, and a second actor that refines it by what a scripted person says",
    paper="Dual-Actor fine-tuning, arXiv 2509.13774",
    policies=", ".join((*FLOWS, "steered")),
    presets=(
        Preset(
            name="small",
            kinds=(*FLOWS, "steered"),
            source="ours, as of hil-serl; Dual-Actor: words by templates from the displacement",
            settings=DualActorSettings(
                steered=SteeredConfig(mode="residual", scale=1.0, steps=4, hidden=(128, 128), log_std=-1.0),
                sac=replace(SMALL, target_entropy=-0.5),
            ),
        ),
    ),
    deviations=(
        "the person is the environment's scripted expert; words are one of two for each motion, as numbers",
        "both actors add to a frozen VLA's chunk; in the paper the second shifts the noise of the first, a consistency "
        "policy; both climb the critics, with imitation's weight 1 and value's 0.1 in the second (ours)",
        "the second actor is kept for going on, and is not part of the policy that comes out",
    ),
)
