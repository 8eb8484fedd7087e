"""Imitation of successes beside RL (`toddle finetune --imitation.weight`): its settings, and what they are built of."""

from __future__ import annotations

from pathlib import Path

from toddle.algorithms.own_successes import OwnSuccesses, OwnSuccessesConfig
from toddle.core.config import changes, config, to_dict
from toddle.core.errors import problem
from toddle.core.protocols import Explorable
from toddle.core.team import team
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.recipes import sft
from toddle.recipes._sft_data import check_fits, open_datasets

__all__ = ["ImitationSettings"]


@config
class ImitationSettings(OwnSuccessesConfig):
    """Imitation of the policy's own successful episodes, and of demonstrations, beside RL."""

    dataset: tuple[Path, ...] = ()
    """Demonstrations that are imitated beside own successes: those the policy was fine-tuned on."""
    cache: Path = Path(".cache/features")
    """Where their features are kept, as `toddle sft --cache`."""

    def __post_init__(self) -> None:
        """Check that nothing is given without effect."""
        own = {name: value for name, value in to_dict(self).items() if name != "weight"}
        given = changes({name: to_dict(ImitationSettings.__dataclass_fields__[name].default) for name in own}, own)
        if not self.weight and given:
            raise problem("weight", "above 0", self.weight, f"imitation.{given[0][0]} has no effect without")
        if self.turns and self.least_weight is not None:
            raise problem("imitation.least_weight", "none with imitation.turns", self.least_weight)
        if not self.turns and (found := [name for name, _, _ in given if name in ("updates", "learning_rate")]):
            raise problem("imitation.turns", "at least 1", self.turns, f"imitation.{found[0]} has no effect without")

    def lines(self) -> list[str]:
        """Return what a plan says of it."""
        if not self.weight:
            return []
        shown = sum(len(dataset.episodes) for dataset in self._datasets())
        beside = f" and {shown} demonstrated episodes" if shown else ""
        if self.turns:
            how = f"{self.updates} updates after every {self.turns} iterations"
        elif self.least_weight is not None:
            how = f"weight from {self.weight:g} to {self.least_weight:g} as successes get more"
        else:
            how = f"weight {self.weight:g}"
        return [f"imitate own successes{beside}, {how}"]

    def _datasets(self) -> list[LeRobotDataset]:
        return open_datasets(self.dataset) if self.dataset else []

    def parts(self, policy: Explorable, seed: int) -> list[OwnSuccesses]:
        """Return the auxiliary loss, none or one.  Raises InputError where the demonstrations do not fit the policy."""
        if not self.weight:
            return []
        demonstrations = None
        if self.dataset:
            datasets = self._datasets()
            check_fits(policy, datasets)
            with team().first_alone():  # it makes the cache
                demonstrations = sft.make_data(sft.Config(dataset=self.dataset, cache=self.cache), policy, datasets)
        return [OwnSuccesses(policy, self, demonstrations=demonstrations, seed=seed)]
