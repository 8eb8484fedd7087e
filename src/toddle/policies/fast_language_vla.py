"""FastLanguageVLA: a language model that says the frequencies of its chunk in its own words (FAST, arXiv 2501.09747).

What it reads and how it speaks are `LanguageVLA`'s, its words the same 256; what is said is `policies.speaking_fast`'s.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from toddle.core.config import config
from toddle.core.errors import problem
from toddle.models.fast import FastCode, FastTokenizer
from toddle.models.vlms.base import WORDS, SpeakingModel
from toddle.policies.language_vla import LanguageVLA, LanguageVLAConfig
from toddle.policies.prismatic_layouts import OFTParts
from toddle.policies.speaking_fast import SpeakingFast, check_ratio

__all__ = ["FastLanguageVLA", "FastLanguageVLAConfig", "fast_language_config"]


@config
class FastLanguageVLAConfig(LanguageVLAConfig):
    """A language model that says frequencies."""

    code: FastCode
    """What its words mean."""
    ratio_per: Literal["token", "action", "chunk"] = "chunk"
    """What one log-density is of: a word, or all of a decision."""

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        check_ratio(self.ratio_per)


def fast_language_config(plain: LanguageVLAConfig, code: FastCode) -> FastLanguageVLAConfig:
    """Return the config of one that says what a code means, with everything else as in `plain`."""
    return FastLanguageVLAConfig(**vars(plain) | {"code": code, "ratio_per": "chunk"})


class FastLanguageVLA(SpeakingFast, LanguageVLA):
    """A VLA whose decision is a sequence of a language model's words of different length."""

    kind: ClassVar[str] = "fast_language_vla"
    config: FastLanguageVLAConfig

    def __init__(self, config: FastLanguageVLAConfig, model: SpeakingModel, parts: OFTParts = OFTParts()) -> None:  # noqa: B008
        """Build on a loaded model.  Raises InputError for a model that says all at once, or more tokens than words."""
        super().__init__(config, model, parts)
        if self.config.decoding != "autoregressive":
            want = "autoregressive with FAST's tokens: how many are said shows as they are"
            raise problem("unsaid.decoding", want, self.config.decoding)
        code = FastTokenizer(config.code, self.config.horizon, config.body.action)
        if code.vocabulary > WORDS:
            raise problem("tokens.fast.vocabulary", f"at most {WORDS}, the words that say numbers", code.vocabulary)
        self.code = code

    def _logits(self, hidden: Tensor) -> Tensor:
        return super()._logits(hidden)[..., : self.code.vocabulary]
