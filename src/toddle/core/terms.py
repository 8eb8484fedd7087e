"""Sums in settings: `contact+2*force` is what is added up, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

from toddle.core.errors import nearest, problem

__all__ = ["parse_terms"]


def parse_terms(text: str, known: Sequence[str], field: str) -> dict[str, float]:
    """Return name -> weight of a sum such as `contact+2*force`; an empty text has none.

    Raises InputError, naming the field, for an unknown name, one that is said twice, and a weight that is no number
    above 0.
    """
    found: dict[str, float] = {}
    for part in text.split("+") if text.strip() else ():
        weight, star, name = part.strip().rpartition("*")
        name = name.strip()
        if name not in known:
            raise problem(field, f"a sum of {', '.join(known)}", text, nearest(name, known))
        if name in found:
            raise problem(field, "every name once", text, f"'{name}' is there twice; weigh it: 2*{name}")
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = math.nan
        if not 0.0 < value < math.inf:
            raise problem(field, "weights above 0", text, f"as in 2*{name}")
        found[name] = value
    return found
