"""How `toddle finetune` evaluates before and after RL, on the same seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toddle.algorithms.world_model_evaluation import starts_of
from toddle.core.config import config
from toddle.core.numbers import Count, Whole
from toddle.core.types import EpisodeResult
from toddle.envs.imagined import ImaginedEnv
from toddle.experience.actor import body_in
from toddle.experience.evaluate import evaluate
from toddle.methods._actors import label_of
from toddle.methods._base import Run
from toddle.recipes._finetune_envs import films, make_seen, real_of
from toddle.reporting.episode_log import EpisodeLog
from toddle.runs.loop import ProgressLine

__all__ = ["BeforeAndAfter", "evaluation_worlds", "measure", "shown"]


@config
class BeforeAndAfter:
    """Evaluation before and after RL, on the same seeds."""

    episodes: Count = 20
    """Evaluation episodes of each environment before and after, on seeds from 0."""
    videos: Whole = 1
    """Episodes filmed of each environment, before and after."""
    recorded: Path | None = None
    """Folder of an evaluation of this policy (`toddle evaluate`): where what it does here lies outside, nothing is
    trained, for something differs (pictures, sizes, normalisation, steps of the flow)."""


def evaluation_worlds(config: Any) -> int:
    return int(min(config.evaluation_worlds, config.evaluation.episodes))


def measure(
    config: Any, label: str, made: Run, meta: dict[str, Any], folder: Path
) -> dict[tuple[str, str, str], list[EpisodeResult]]:
    """Evaluate through RL's own way of acting, without its noise; episodes that are on disk are not run again.  Beside
    a learned model stands the environment that it is of, from the same starts."""
    policy = made.acting or made.policy
    log, seeds = EpisodeLog(folder / "episodes.jsonl"), list(range(config.evaluation.episodes))
    real = real_of(config.env)
    names = list(dict.fromkeys([*real.values(), *config.env]))
    others = len(log) - sum(len(log.done({"candidate": label, "env": name})) for name in names)
    table: dict[tuple[str, str, str], list[EpisodeResult]] = {}
    with ProgressLine(label, len(seeds) * len(names)) as bar:
        for name in names:
            labels = {"candidate": label, "env": name, "condition": "plain"}
            known = log.done(labels)

            def finished(result: EpisodeResult, labels: dict[str, str] = labels) -> None:
                log.append(labels, result)
                bar.advance(len(log) - others)

            results = [known[seed] for seed in seeds if seed in known]
            if len(results) < len(seeds):
                env = make_seen(config, name, evaluation_worlds(config), 0, policy, meta)
                if isinstance(env, ImaginedEnv):
                    own = make_seen(config, real[name], evaluation_worlds(config), 0, policy, meta)
                    env.fixed = starts_of(own, seeds, env, policy)
                    own.close()
                with made.merged():
                    results = evaluate(
                        policy,
                        env,
                        seeds=seeds,
                        body=body_in(policy, env),
                        done=known,
                        on_episode=finished,
                        video=None if name in real else films(config, folder / "videos", f"{label}-{label_of(name)}"),
                    )
                env.close()
            table[label, name, "plain"] = results
    return table


def shown(config: Any) -> list[str]:
    """Return the environments whose pictures the policy sees: of a learned model the one that it is of."""
    real = real_of(config.env)
    return [real.get(name, name) for name in config.env]
