"""FastVLA: a VLA that says the frequencies of its chunk, in as many tokens as it takes (FAST, arXiv 2501.09747).

What it sees and how it decodes are `TokenVLA`'s; what is said, drawn and scored is `policies.speaking_fast`'s.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.models.backbones.base import Backbone
from toddle.models.fast import FastCode, FastTokenizer
from toddle.policies.speaking_fast import SpeakingFast, check_ratio
from toddle.policies.token_vla import TokenVLA, TokenVLAConfig

__all__ = ["FastVLA", "FastVLAConfig", "fast_config"]


@config
class FastVLAConfig(TokenVLAConfig):
    """A VLA of tokens of frequencies; `bins` is the number of different tokens."""

    code: FastCode
    """What its tokens mean."""
    ratio_per: Literal["token", "action", "chunk"] = "chunk"
    """What one log-density is of: a token, or all of a decision."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        super().__post_init__()
        if self.decoding != "autoregressive":
            raise problem("decoding", "autoregressive: how many tokens are said shows as they are", self.decoding)
        check_ratio(self.ratio_per)


def fast_config(plain: TokenVLAConfig, code: FastCode) -> FastVLAConfig:
    """Return the config of a VLA that says what a code means, with everything else as in `plain`."""
    known = FastTokenizer(code, plain.horizon, plain.body.action).vocabulary
    return FastVLAConfig(**vars(plain) | {"bins": known, "code": code, "ratio_per": "chunk"})


class FastVLA(SpeakingFast, TokenVLA):
    """A VLA whose decision is a sequence of tokens of different length."""

    kind: ClassVar[str] = "fast_vla"
    config: FastVLAConfig

    def __init__(self, config: FastVLAConfig, backbone: Backbone) -> None:
        """Build on a loaded backbone.  Raises InputError where `bins` is not the code's number of tokens."""
        code = FastTokenizer(config.code, config.horizon, config.body.action)
        if config.bins != code.vocabulary:
            raise problem("bins", f"{code.vocabulary}, the tokens of the code", config.bins)
        super().__init__(config, backbone)
        self.code = code
