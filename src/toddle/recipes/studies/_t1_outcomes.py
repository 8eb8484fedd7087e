"""Study `t1`: its outcomes, fixed before any run, and what a reader must know (the runs stand in t1.py)."""

from __future__ import annotations

from typing import Any

from toddle.recipes.studies import _t1_page as page
from toddle.reporting.study import Outcome

__all__ = ["NOTES", "OUTCOMES"]


def _ratio(name: str, statement: str, line: float, measure: Any) -> Outcome:
    return Outcome(name=name, statement=statement, line=line, measure=measure, at_most=True)


def _points(name: str, statement: str, measure: Any, **more: Any) -> Outcome:
    return Outcome(name=name, statement=statement, line=0.0, measure=measure, scale=100, unit="points", **more)


PERCENT: dict[str, Any] = {"scale": 100, "unit": "%"}
OUTCOMES = (
    _points(
        "vla human",
        "success of the VLA of diffusion's episodes minus that of the human's (table I)",
        page.higher("vla", "diffusion", "human"),
    ),
    _points(
        "vla gaussian",
        "the same minus that of the Gaussian's, drawn with its noise (table I)",
        page.higher("vla", "diffusion", "gaussian drawn"),
    ),
    _points(
        "vla mean",
        "the same minus that of the Gaussian's mean; not surely above 0: the mean closes the gap",
        page.higher("vla", "diffusion", "gaussian mean"),
    ),
    _points(
        "unseen",
        "mixed episodes minus the better of human and diffusion, on tasks never seen (table II: direction)",
        page.mixed_gain,
    ),
    _ratio(
        "jerk human",
        "mean squared jerk of diffusion's episodes over the human's (figure 6)",
        1.0,
        page.ratio("squared_jerk", "human"),
    ),
    _ratio("jerk gaussian", "the same over the Gaussian's, drawn", 0.5, page.ratio("squared_jerk", "gaussian drawn")),
    _ratio(
        "variance",
        "variance of diffusion's actions over the least of the others' (figure 7)",
        1.0,
        page.ratio("variance", "human", "gaussian drawn", "gaussian mean"),
    ),
    _ratio("shorter", "length of diffusion's episodes over the human's", 1.0, page.ratio("seconds", "human")),
    Outcome(
        name="no-ops of RL",
        statement="rows that move nothing, in the episodes of RL that has most of them",
        line=1e-3,
        measure=page.most_no_ops,
        at_most=True,
        **PERCENT,
    ),
    Outcome(
        name="no-ops of the human",
        statement="the same in the human's",
        line=1e-3,
        measure=page.number("data", "human", "no_ops"),
        **PERCENT,
    ),
    Outcome(
        name="latency",
        statement="time of a decision with 50 steps of DDPM over that with 5 of DDIM",
        line=8.0,
        measure=page.slower("ddpm 50"),
    ),
    *(
        _points(name, f"success of diffusion RL minus that with {what}", page.higher("policy", "diffusion", name))
        for name, what in (
            ("ddpm 50", "50 steps of DDPM"),
            ("fixed rate", "a constant rate"),
            ("few worlds", "2 worlds in place of 16"),
        )
    ),
)
NOTES = (
    "The human is a stand-in: a scripted expert with detours, pauses and a tremor (docs/data_quality.md), which no "
    "outcome can make a person of. All episodes are played from state and drawn afterwards; the VLA sees pictures.",
    "While learning, each of the 5 DDIM steps is drawn with a deviation of at least 0.1, because DDIM without noise "
    "has no density. `diffusion` plays without it (eta 0), `diffusion drawn` with it.",
    "A source that did not come to its successes in 20 times as many plays is under `What failed`; its suite has no "
    "VLA of that source in that seed, and differences are over the others.",
    "What is run so far: two seeds of window-open-v3, chosen because its episodes come fastest, up to the episodes "
    "themselves; no VLA. Diffusion RL learned at a rate of 3e-4 there; it is 1e-4 since (docs/LOG.md).",
    "Mixed data are half the human's episodes and half of diffusion's. For the unseen tasks VLAs are trained on all "
    "suites but the held-out one; LIBERO is not part of this study.",
)
