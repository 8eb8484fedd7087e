"""Training samples of a dataset: the observations a policy decides on and the chunk of actions that followed.

A decision is made every `stride` rows (the actions a policy executes before it decides again); its window are the
`history` decisions up to it, the oldest first.  The chunk begins at the decision's row.

Of episodes in which a policy acted and a person took over (column INTERVENTION, of `toddle intervene`) the person's
decisions alone can be taken, each with what the person then did: HG-DAgger (arXiv 1810.02890).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from toddle.core.errors import problem
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.pictures import Size, fit

__all__ = ["INTERVENTION", "WindowDataset", "views"]

INTERVENTION = "intervention"
"""The column that says which control steps were a person's, where a policy made the others."""


class WindowDataset(Dataset[dict[str, Any]]):
    """One sample a decision: T = history, H = horizon, k = stride, A action, O proprioception.

    row              ()            its row in the dataset
    rows             (T,) int64    rows of the window (before the episode's start: its first row)
    valid            (T,) bool     False before the episode's start
    proprio          (T, O)        `observation.state`
    previous_action  (T, k, A)     what was executed before each decision; 0 before the episode's start
    action           (H, A)        the chunk; past the episode's end its last action is repeated
    action_valid     (H,) bool     False past the episode's end
    instruction      str
    images           (T, cameras, 3, H, W) uint8, where there are `cameras`
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        *,
        horizon: int,
        history: int = 1,
        stride: int | None = None,
        every: int | None = None,
        cameras: Sequence[str] = (),
        episodes: Sequence[int] | None = None,
        keep_tail: bool = True,
        person: bool = False,
        reaction: int = 0,
    ) -> None:
        """`stride` and `every` (rows between samples) default to the dataset's `image_stride`.

        A stride that is no multiple of `image_stride` would pair actions with held, older pictures: InputError.
        `keep_tail=False` leaves out samples whose chunk runs past the episode's end.
        `person`: of episodes with the column INTERVENTION take decisions within an intervention alone, whose chunk ends
        where it ends; its first `reaction` rows, in which a person finds the way, are left out.
        """
        self.dataset, self.horizon, self.history, self.cameras = dataset, horizon, history, tuple(cameras)
        self.stride = stride or dataset.image_stride
        self.every = every or dataset.image_stride
        for label, value in (("stride", self.stride), ("every", self.every)):
            if value % dataset.image_stride:
                raise problem(label, f"a multiple of the dataset's image_stride {dataset.image_stride}", value)
        for label, value in (("horizon", horizon), ("history", history)):
            if value < 1:
                raise problem(label, "at least 1", value)
        self._state, self._action = (
            torch.from_numpy(dataset.vector(name).astype(np.float32)) for name in ("observation.state", "action")
        )
        chosen = range(len(dataset.episodes)) if episodes is None else episodes
        spans = [dataset.episodes[number] for number in chosen]
        self._samples = [
            (row, span.start, span.stop)
            for span in spans
            for row in range(span.start, span.stop if keep_tail else span.stop - horizon + 1, self.every)
        ]
        if person and INTERVENTION in dataset.features:
            end = _ends(dataset.column(INTERVENTION).astype(bool), [span.stop for span in dataset.episodes], reaction)
            self._samples = [(row, start, int(end[row])) for row, start, _ in self._samples if end[row] > row]
            if not self._samples:
                raise problem(f"dataset: {dataset.path}", "a decision that a person made", "none", "leave it out")
        if not self._samples:
            raise problem("dataset", f"an episode of at least {horizon} rows", f"{len(spans)} shorter ones")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return the decision row of every sample, as a cache of features needs them."""
        return np.array([row for row, _, _ in self._samples])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample `index`."""
        row, start, stop = self._samples[index]
        wanted = row + self.stride * torch.arange(1 - self.history, 1)
        rows = wanted.clamp(min=start)
        ahead = row + torch.arange(self.horizon)
        sample: dict[str, Any] = {
            "row": torch.tensor(row),
            "rows": rows,
            "valid": wanted >= start,
            "proprio": self._state[rows],
            "previous_action": self._previous(wanted, start),
            "action": self._action[ahead.clamp(max=stop - 1)],
            "action_valid": ahead < stop,
            "instruction": self.dataset.task_of(row),
        }
        if self.cameras:
            sample["images"] = torch.from_numpy(views(self.dataset, self.cameras, rows.numpy()))
        return sample

    def _previous(self, wanted: Tensor, start: int) -> Tensor:
        """Return (T, k, A): the k actions before each of the rows `wanted`, zeros before the episode's start."""
        before = wanted[:, None] + torch.arange(-self.stride, 0)
        actions = self._action[before.clamp(min=start)]
        return torch.where((before >= start)[..., None], actions, torch.zeros(()))


def _ends(acted: NDArray[np.bool_], stops: list[int], reaction: int) -> NDArray[np.int64]:
    """Return, for each row of an intervention, the row behind its last; 0 elsewhere and in its first rows."""
    ends, end, boundaries = np.zeros(len(acted), np.int64), 0, set(stops)
    for row in range(len(acted) - 1, -1, -1):
        if row + 1 in boundaries or not acted[row + 1]:
            end = row + 1
        ends[row] = end if acted[row] else 0
    starts = {0, *boundaries}
    for row in np.flatnonzero(acted):
        if row in starts or not acted[row - 1]:
            ends[row : min(row + reaction, ends[row])] = 0
    return ends


def views(
    dataset: LeRobotDataset, cameras: Sequence[str], rows: NDArray[Any], size: Size | None = None
) -> NDArray[np.uint8]:
    """Return the pictures of several cameras at rows: (n, cameras, 3, H, W) uint8.

    All have `size`, by default the largest height and width among the cameras; smaller ones are scaled to fit, with
    black beside them.
    """
    size = size or dataset.picture_size(*cameras)
    found = [dataset.images(camera, rows) for camera in cameras]
    return np.stack([each if each.shape[2:] == size else np.stack([fit(p, size) for p in each]) for each in found], 1)
