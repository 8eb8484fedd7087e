"""`toddle prefer train`: a policy learns from answers about pairs of pieces of a dataset."""

from __future__ import annotations

import sys
from dataclasses import field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch

from toddle.algorithms.preference import Likelihood, Preference, PreferenceConfig, StateLikelihood, VLALikelihood
from toddle.core.config import config
from toddle.core.device import check_device_name, resolve_device
from toddle.core.errors import problem
from toddle.core.memory import weights_that_fit
from toddle.core.numbers import Count, Seed
from toddle.core.plan import Plan
from toddle.core.protocols import Acting, Explorable, Imitating
from toddle.core.seeding import numpy_generator
from toddle.data.lerobot_dataset import LeRobotDataset
from toddle.data.preferences import Answer, Segment, read_answers
from toddle.policies.store import load_policy, meta_of, save_policy
from toddle.recipes import sft
from toddle.recipes._sft_data import check_fits
from toddle.runs.loop import run_loop
from toddle.runs.metrics import last
from toddle.runs.run import RunFolder

__all__ = ["Config", "plan", "run"]

STATES = {"gaussian": True, "squashed_gaussian": True, "tokens": True, "denoising": False, "fpo": False}
"""Kinds of policies of states, and whether their decisions have exact densities."""
FALLEN = -0.3
"""Log-density of a winner's decision, beside the reference's, below which it is said that winners lost too."""
VLAS = (
    *("flow_vla", "diffusion_vla", "pi0", "pi05", "smolvla"),
    *("token_vla", "fast_vla", "language_vla", "fast_language_vla"),
)


@config
class Config:
    """Learn a policy from answers about which of two pieces of a dataset is better.

    `--method` is dpo, ipo or tpo for policies with densities (Gaussians, tokens), flow-dpo for diffusion and flows; of
    states, or VLAs.
    Writes <out>/policy: evaluate it beside the policy it began from.
    Example: toddle prefer train --policy runs/bc --dataset data/plays --answers runs/answers.jsonl --out runs/preferred
    """

    may_change: ClassVar[tuple[str, ...]] = ("device",)

    policy: Path
    """Folder of the policy to go on from; as it is then, it is the reference."""
    dataset: Path
    """LeRobot dataset (v3.0) that the answers are about."""
    answers: Path
    """File of answers, of `toddle prefer judge` or `toddle prefer ask`; equal ones (0) are left out."""
    out: Path = Path("runs/preferred")
    """The run's folder; the policy is in its `policy/`."""
    method: Literal["dpo", "ipo", "tpo", "flow-dpo"] = "dpo"
    """How it learns."""
    answers_as: Literal["given", "shuffled", "swapped"] = "given"
    """given; or a control that should fail: shuffled among the pairs, or each the other way round."""
    cache: Path = Path(".cache/features")
    """Where a VLA's features of the frozen backbone are kept, as `toddle sft --cache`."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """The algorithm."""
    checkpoint_every: Count = 100
    """Updates between two checkpoints."""
    device: str = "cpu"
    """Where the networks compute: cpu, cuda, cuda:<number>, or auto (CUDA where there is one)."""
    seed: Seed = 0
    """Seed of batches, noise and shuffled answers."""

    def __post_init__(self) -> None:
        check_device_name(self.device)


def _answers(config: Config, dataset: LeRobotDataset) -> list[tuple[Segment, Segment]]:
    """Return (winner, loser) of every pair of which one was preferred."""
    given: list[Answer] = [each for each in read_answers(config.answers, dataset) if each.answer]
    if not given:
        raise problem(str(config.answers), "an answer that prefers one piece", "none")
    first_wins = np.array([each.answer == 1 for each in given])
    if config.answers_as == "swapped":
        first_wins = ~first_wins
    elif config.answers_as == "shuffled":
        first_wins = numpy_generator(config.seed, "shuffled answers").permutation(first_wins)
    return [
        (each.first, each.second) if wins else (each.second, each.first)
        for each, wins in zip(given, first_wins, strict=True)
    ]


def _learner(config: Config) -> Preference:
    """Read everything and build the learner.  Raises InputError where policy, dataset and answers do not fit."""
    device = resolve_device(config.device)
    dataset = LeRobotDataset(config.dataset)
    decided = _answers(config, dataset)
    with weights_that_fit(3.0):
        policy = load_policy(config.policy, device)
        vla = policy.kind in VLAS
        if not vla and policy.kind not in STATES:
            raise problem("policy", f"one of kind {', '.join((*STATES, *VLAS))}", policy.kind)
        reference: Acting = policy.frozen_copy() if vla else load_policy(config.policy, device)
    pieces = [winner for winner, _ in decided] + [loser for _, loser in decided]
    likelihood: Likelihood
    if vla:
        likelihood, chosen = _of_vla(config, policy, dataset, pieces)
    else:
        likelihood, chosen = _of_states(policy, dataset, pieces, device)
    for piece, samples in zip(pieces, chosen, strict=True):
        if not len(samples):
            wanted = f"pieces of at least {policy.horizon} rows, a decision of the policy"
            raise problem(str(config.answers), wanted, piece.stop - piece.start)
    half, settings = len(decided), config.preference
    sides = chosen[:half], chosen[half:]
    return Preference(policy, reference, likelihood, *sides, settings, method=config.method, seed=config.seed)


def _of_states(
    policy: Imitating, dataset: LeRobotDataset, pieces: list[Segment], device: torch.device
) -> tuple[StateLikelihood, list[np.ndarray]]:
    """Return the decisions of pieces for a policy of states: one every `horizon` rows."""
    body = _body(policy, dataset)
    state, action = (torch.from_numpy(dataset.vector(n).astype(np.float32)) for n in ("observation.state", "action"))
    begin = {episode.index: episode.start for episode in dataset.episodes}
    rows = [
        begin[piece.episode] + np.arange(piece.start, piece.stop - policy.horizon + 1, policy.horizon)
        for piece in pieces
    ]
    chosen = np.concatenate(rows)
    ends = np.array([episode.stop for episode in dataset.episodes])[dataset.places(chosen)]
    ahead = np.minimum(chosen[:, None] + np.arange(policy.chunk_size), ends[:, None] - 1)
    likelihood = StateLikelihood(state[chosen].to(device), action[ahead].to(device), body, exact=STATES[policy.kind])
    return likelihood, np.split(np.arange(len(chosen)), np.cumsum([len(each) for each in rows])[:-1])


def _of_vla(
    config: Config, policy: Explorable, dataset: LeRobotDataset, pieces: list[Segment]
) -> tuple[VLALikelihood, list[np.ndarray]]:
    """Return the decisions of pieces for a VLA: those of fine-tuning, counted from the episode's first row."""
    check_fits(policy, [dataset])
    data = sft.make_data(sft.Config(dataset=(config.dataset,), cache=config.cache), policy, [dataset])
    rows, begin = data.windows[0].rows, {episode.index: episode.start for episode in dataset.episodes}
    chosen = [
        np.flatnonzero(
            (rows >= begin[piece.episode] + piece.start) & (rows + policy.horizon <= begin[piece.episode] + piece.stop)
        )
        for piece in pieces
    ]
    policy.begin_step(1.0)
    return VLALikelihood(data, policy.horizon, exact=policy.exact), chosen


def _body(policy: Imitating, dataset: LeRobotDataset) -> int:
    """Return the id of the dataset's body in the policy's banks.  Raises InputError where it has none of its sizes."""
    names = [body.name for body in policy.bodies]
    body = names.index(str(dataset.robot_type)) if str(dataset.robot_type) in names else 0
    sizes = dataset.vector("observation.state").shape[1], dataset.vector("action").shape[1]
    own = policy.bodies[body].proprio, policy.bodies[body].action
    if sizes != own:
        raise problem(
            "policy",
            f"one of {sizes[0]} numbers and actions of {sizes[1]}, as {dataset.path}",
            f"{own[0]} and {own[1]}",
        )
    return body


def plan(config: Config) -> Plan:
    """Read the data, load the policy twice, and say what will be done."""
    learner = _learner(config)
    weights = sum(p.numel() for p in learner.policy.parameters())
    settings = config.preference
    decisions = settings.batch * learner.rows.shape[1]
    return Plan(
        steps=[
            f"read {learner.pairs} answers{'' if config.answers_as == 'given' else f', {config.answers_as},'} about "
            f"{config.dataset}, pieces of {learner.real.sum(1).min()} to {learner.real.sum(1).max()} decisions",
            f"make {settings.updates} updates of {min(settings.batch, learner.pairs)} pairs by {config.method}, "
            f"with {weights:,} weights",
            f"write {config.out / 'policy'}",
        ],
        memory_bytes=5 * 10**8 + 24 * weights,
        seconds=settings.updates * (3e-3 + 12e-11 * weights * decisions),
    )


def run(config: Config, *, resume: bool = False) -> None:
    """Learn and save."""
    with RunFolder.open(config.out, config, resume=resume) as folder:
        learner = _learner(config)
        run_loop(
            learner,
            folder,
            config.preference.updates,
            checkpoint_every=config.checkpoint_every,
            label="prefer",
            show=("prefer/loss", "prefer/accuracy"),
        )
        if learner.policy.kind in STATES:
            policy: Imitating = learner.policy  # type: ignore[assignment]
            policy.finish_imitation()
        facts = {"method": config.method, "from": str(config.policy), "answers": learner.pairs}
        save_policy(config.out / "policy", learner.policy, meta_of(config.policy) | facts)
    if (winner := last(config.out, "prefer/winner", default=0.0)) < FALLEN and not config.preference.imitate:
        print(
            f"winners became less likely too (prefer/winner {winner:.2f}), and the policy may be worse for it; "
            "try --preference.imitate 1, or fewer updates",
            file=sys.stderr,
        )
    print(f"policy: {config.out / 'policy'}; measure it beside {config.policy}: toddle evaluate")
