"""What no file of an OpenVLA says of how it was trained: settings that are asked for by name."""

from __future__ import annotations

from typing import Literal

from toddle.core.config import config
from toddle.core.numbers import Size
from toddle.models.vlms.pictures import PictureSettings

__all__ = ["Unsaid"]


@config
class Unsaid:
    """What no file of the weights says of how they were trained."""

    horizon: Size | None = None
    """H, actions of a chunk.  None: 1, which OpenVLA says one by one; of OpenVLA-OFT it must be given (LIBERO 8,
    Bridge 5, ALOHA 25)."""
    decoding: Literal["auto", "autoregressive", "parallel"] = "auto"
    """One word after the other, or all at once; auto: at once where the folder has OpenVLA-OFT's head.  OFT with a head
    of words (SimpleVLA-RL's) has no file that says so: give parallel."""
    attention: Literal["auto", "causal", "bidirectional"] = "auto"
    """Of parallel decoding, where it must be given: OpenVLA-OFT's own checkpoints see both ways."""
    unnorm_key: str = ""
    """Data set whose statistics apply, where the folder has several."""
    bounds: Literal["quantiles", "min_max"] = "quantiles"
    """What -1 and 1 stand for: the 1 % and 99 % quantiles, or the least and the greatest (OFT on ALOHA)."""
    gripper: Literal["as_said", "libero"] = "as_said"
    """libero: the last number, 0 closed and 1 open, becomes 1 and -1, as LIBERO takes it."""
    pictures: PictureSettings = PictureSettings()
    """What is done to pictures first."""
