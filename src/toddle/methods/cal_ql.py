"""Cal-QL, online: a run of `toddle offline --method cal-ql` (or cql) goes on with what its policy does."""

from __future__ import annotations

from toddle.algorithms.offline import OfflineLearner
from toddle.algorithms.offline.cql import CQL, CalQL
from toddle.core.config import config
from toddle.methods._base import Method, Preset
from toddle.methods._continued import ContinuedSettings

__all__ = ["METHOD", "CalQLSettings"]


@config
class CalQLSettings(ContinuedSettings):
    """Cal-QL's online phase."""

    calibrate_online: bool = True
    """Whether what the episodes came to is the floor of the critics' push on the policy's actions (of a run of cal-ql);
    false: the plain push of CQL, as in CORL's online phase."""

    def known_runs(self) -> dict[str, type[OfflineLearner]]:
        """Return which runs of `toddle offline` it goes on from, by method, and how."""
        return {"cal-ql": CalQL if self.calibrate_online else CQL, "cql": CQL}


METHOD = Method(
    name="cal-ql",
    what="goes on online with calibrated Q-learning of toddle offline, critics and optimisers too",
    paper="Cal-QL, Nakamoto et al. 2023, arXiv 2303.05479",
    policies="squashed_gaussian (of toddle offline)",
    presets=(
        Preset(
            name="tasks",
            source="the authors' code: half of a batch old, half new, one update a step, the floor of real returns",
            settings=CalQLSettings(),
            common={"worlds": 1},
        ),
    ),
    deviations=(
        "all of what CORL calls calibration goes on online (CORL switches it off: --no-calibrate-online)",
        "statistics of states stay those of the data",
    ),
)
