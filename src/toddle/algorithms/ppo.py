"""PPO for decisions made of links: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", arXiv 1707.06347.

    equation                                        where
    (7)  clipped surrogate                          maths.objectives.clipped_surrogate
    (9)  value term                                 maths.objectives.clipped_value_loss (a critic of its own: no c_1)
    (9)  entropy bonus, c_2                         PPOConfig.entropy, Scorable.score
    (11) advantage estimate (GAE, arXiv 1506.02438) algorithms.estimators.GAE, maths.advantages.gae
    algorithm 1, the loop                           PPO.step
    section 4, KL as a signal for the rate          PPO._set_rates (`adaptive`)

Written once for every policy: it sees a chain of L links through `Scorable.score` and nothing of how it was drawn.
Other parts (`algorithms.parts`) make other methods of it: advantages from groups, no critic, guidance, costs.
Deviations from the paper:
 1. Epochs stop early when the estimated KL from the behaviour policy exceeds `kl_stop` x `target_kl`; most
    implementations do, and goal tracking without it drifted (KL 0.07 an iteration).
 2. Policy and critic are separate, each with an optimiser and a gradient-norm limit of its own, so that the value
    loss can neither crowd out the policy's gradient nor move a trunk that is to be transferred.
 3. Advantages are standardised within a minibatch, and the clip range may differ above and below (DAPO, arXiv
    2503.14476) and between links (DPPO, arXiv 2409.00588).
 4. Several environments: each has a rollout; every update averages their gradients with equal weight, whatever
    their numbers of worlds.
 5. Time limits bootstrap from the final observation (arXiv 1712.00378).
 6. Observations are normalised by running moments that take a rollout in AFTER its updates, so that it is scored under
    the statistics it was drawn with; the first iteration sees raw observations.
 7. Rewards are divided by the running deviation of discounted returns ONCE A ROLLOUT (`experience.collect`), not at
    every step.
From stable-baselines3's PPO it differs by 2 (there one limit over both networks together), 6 (there at every step,
before it is used) and 7; with these three swapped, two iterations of 20 updates end at its weights to 1e-6 of the way
they went (tests/algorithms/test_sb3_parity.py).  Returns of both over 15 seeds: docs/benchmarks/ppo_learning.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from toddle.algorithms.estimators import GAE
from toddle.algorithms.parts import Auxiliary, Engine, Estimator, Optimiser, RewardTerm, Source, drawn
from toddle.algorithms.safety import CostConstraint
from toddle.algorithms.together import everyones, explained_variance, pooled, standardised
from toddle.core.config import config
from toddle.core.device import device_of
from toddle.core.errors import NaNError, problem
from toddle.core.numbers import Count, NonNegative, Positive, Share, Whole
from toddle.core.protocols import Critic, Module, Scorable
from toddle.core.seeding import torch_generator
from toddle.core.team import team
from toddle.core.types import Observation
from toddle.experience.rollout import Minibatch, Rollout
from toddle.maths.objectives import (
    Aggregate,
    Ratio,
    clipped_surrogate,
    clipped_value_loss,
    decision_weights,
    kl_k3,
    link_clips,
    link_discounts,
    link_log_ratio,
    links_where,
    mean_where,
)
from toddle.models.compiled import check_compilable, compiling
from toddle.models.recompute import recomputing
from toddle.optim.flat_adam import FlatAdam
from toddle.optim.schedules import cosine_factor

__all__ = ["PPO", "PPOConfig"]


@config
class PPOConfig:
    """Proximal policy optimisation."""

    epochs: Count = 5
    """Passes over each rollout."""
    minibatches: Count = 4
    """Updates in one pass; each takes a share of every rollout."""
    learning_rate: Positive = 3e-4
    """Adam's rate for the policy at the start."""
    critic_learning_rate: Positive = 3e-4
    """Adam's rate for the critic at the start."""
    schedule: Literal["constant", "cosine", "adaptive"] = "cosine"
    """Both rates: constant; falling to `final_rate` by a half cosine over the run; or steered by the KL of each
    iteration (a factor 1.5 up or down when it leaves [target_kl / 2, 2 target_kl])."""
    final_rate: Share = 0.05
    """Share of the rates that is left at the end of a cosine."""
    lam: Share = 0.95
    """lambda of generalised advantage estimation."""
    clip_low: Positive = 0.2
    """The ratio is held above 1 - clip_low."""
    clip_high: Positive = 0.2
    """The ratio is held below 1 + clip_high."""
    dual_clip: Positive | None = None
    """With a negative advantage a ratio counts at most this many times (above 1; pi_RL takes 3); None: no limit."""
    ratio: Ratio = "sum"
    """How the links of a decision form its ratio."""
    aggregate: Aggregate = "link"
    """What counts alike in the policy's loss: every link (token), every decision, every trajectory (an episode, or the
    part of it in the rollout) whatever its length, or every trajectory by the sum of its links."""
    link_discount: Share = 1.0
    """Weight of the advantage falls by this factor a link, counted back from the last (only with `per_link`)."""
    link_clip_first: Positive | None = None
    """Clip range of the first link; grows to clip_low / clip_high at the last (only with `per_link`)."""
    value_clip: Positive | None = None
    """Hold the critic within this of its former value; None switches it off."""
    policy_weight: NonNegative = 1.0
    """Weight of the clipped surrogate; 0 leaves the auxiliary losses alone (imitation of successes, say)."""
    entropy: NonNegative = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: Positive = 0.5
    """Limit of the gradient's norm, for the policy and the critic apart."""
    target_kl: Positive | None = 0.02
    """Wanted KL of an iteration in nats; None switches the stop off."""
    kl_stop: Positive = 1.5
    """Stop the epochs when the KL exceeds this many times `target_kl`."""
    normalise_advantages: bool = True
    """Standardise advantages within a minibatch."""
    adam_epsilon: Positive = 1e-5
    """Adam's epsilon."""
    critic_warm_up: Whole = 0
    """First iterations in which the critic alone learns (for a policy that starts from imitation)."""
    rescore: bool = False
    """Take the old log-densities from the learner, not from acting: where these differ in precision or by an engine."""
    accumulate: Count = 1
    """Parts of a minibatch that are computed one after the other, which takes so much less memory for activations."""
    checkpointing: bool = False
    """Keep what goes into each block alone and compute the rest again in the backward pass: about a third more time, a
    fraction of the memory for activations."""
    bf16: bool = False
    """Score in bfloat16 (autocast) where it learns, the old log-densities too; weights and their steps stay float32."""
    compile: bool = False
    """Compile the policy's transformer blocks for the passes that learn (torch.compile; docs/devices.md)."""

    def __post_init__(self) -> None:
        if self.schedule == "adaptive" and self.target_kl is None:
            raise problem("target_kl", "a number, because the schedule is adaptive", None)
        if self.dual_clip is not None and self.dual_clip <= 1.0:
            raise problem("dual_clip", "a number above 1", self.dual_clip)


class PPO:
    """A learner: `step` gathers one rollout from each source and makes `epochs` x `minibatches` updates.

    `policy` and `critic` are modules; `critic` None: the estimator does without.  `iterations` is the length of the run
    (for the cosine).  `estimator` (default GAE), `rewards`, `auxiliaries` and `engine` (default: the policy acts) are
    its parts, `safety` a limit on costs; `optimiser` makes the optimiser of name -> (module, learning rate), by default
    `FlatAdam`.
    """

    def __init__(
        self,
        policy: Scorable,
        critic: Critic | None,
        sources: Sequence[Source],
        config: PPOConfig,
        *,
        iterations: int,
        seed: int,
        estimator: Estimator | None = None,
        rewards: Sequence[RewardTerm] = (),
        auxiliaries: Sequence[Auxiliary] = (),
        engine: Engine | None = None,
        safety: CostConstraint | None = None,
        cut_chunks: bool = False,
        optimiser: Callable[[dict[str, tuple[Module, float]]], Optimiser] | None = None,
    ) -> None:
        """Raises InputError when there is no source, no critic where one is needed, or they are on several devices."""
        if not sources:
            raise problem("sources", "at least one environment", "none")
        if critic is None and (estimator is None or config.critic_warm_up):
            raise problem("critic", "a critic, which GAE and critic_warm_up need", None)
        if config.compile:
            check_compilable(policy, "ppo.compile")
        self.policy, self.critic = policy, critic
        self.modules: dict[str, Module] = {"policy": policy} if critic is None else {"policy": policy, "critic": critic}
        for name, module in self.modules.items():
            if device_of(module) != device_of(policy):
                raise problem(name, f"the policy's device {device_of(policy)}", str(device_of(module)))
        self.sources, self.config, self.iterations = list(sources), config, iterations
        self.cut_chunks, self.safety = cut_chunks, safety
        if safety is not None and (len(sources) > 1 or team().size > 1):
            what = "several environments" if len(sources) > 1 else "several learners"
            raise problem("safety", f"none with {what}", "lagrangian")
        self.estimator = estimator or GAE(config.lam)
        self.rewards, self.auxiliaries, self.engine = list(rewards), list(auxiliaries), engine or Engine()
        rates = {"policy": config.learning_rate, "critic": config.critic_learning_rate}
        learning = {name: (module, rates[name]) for name, module in self.modules.items()}
        self.optimiser: Optimiser = (
            FlatAdam(learning, max_norm=config.max_grad_norm, epsilon=config.adam_epsilon)
            if optimiser is None
            else optimiser(learning)
        )
        self.team, self.scorer = team(), policy  # scorer: gives the old log-densities anew
        self.precision = torch.autocast(device_of(policy).type, torch.bfloat16, enabled=config.bf16)
        self.generator = torch_generator(seed, "ppo minibatches")
        self.iteration, self.adaptive_factor = 0, 1.0
        self._links: dict[int, tuple[Any, Any, Tensor | None]] = {}

    def step(self) -> dict[str, float]:
        """Do one iteration.  Raises NaNError naming what is not finite, before it reaches a parameter."""
        self._set_rates()
        if self.iteration == self.config.critic_warm_up > 0:
            self.optimiser.restart()  # else the policy's moments would be corrected for steps it never made
        with self.engine.acting(self.policy) as acting:
            gathered = [source.collect(acting, self.critic) for source in self.sources]
        rollouts, metrics = [rollout for rollout, _ in gathered], dict[str, float]()
        played = [rollout.mask for rollout in rollouts]  # before some of it is found to teach nothing
        for source, (rollout, facts) in zip(self.sources, gathered, strict=True):
            facts |= self._estimate(rollout)
            suffix = f"/{source.label}" if len(self.sources) > 1 else ""
            metrics |= {f"{name}{suffix}": value for name, value in facts.items()}
        for auxiliary in self.auxiliaries:
            metrics |= auxiliary.begin(rollouts, self.policy)
        metrics |= self._update(rollouts)
        for rollout, real in zip(rollouts, played, strict=True):
            self._normalise(everyones(self.team, rollout.observation, real))
        self.iteration += 1
        for auxiliary in self.auxiliaries:
            metrics |= auxiliary.finish(self.iteration)
        return metrics

    def _normalise(self, seen: Observation) -> None:
        """Take observations into the running statistics (not the policy's while only the critic learns)."""
        if self.critic is not None:
            self.critic.update_normaliser(seen)
        if not self._warming:
            self.policy.update_normaliser(seen)

    def _set_rates(self) -> None:
        config, factor = self.config, 1.0
        if config.schedule == "cosine":
            factor = cosine_factor(self.iteration, self.iterations, final=config.final_rate)
        elif config.schedule == "adaptive":
            factor = self.adaptive_factor
        self.optimiser.set_rates(factor)

    def _estimate(self, rollout: Rollout) -> dict[str, float]:
        """Add the reward terms, and fill in advantages and the critic's targets; return metrics."""
        metrics: dict[str, float] = {}
        for term in self.rewards:
            added = term.reward(rollout)
            rollout.reward += added
            if rollout.episode_return is not None:  # what groups compare
                rollout.episode_return += added.sum(0)
            metrics |= term.metrics()
        if not self.cut_chunks:
            rollout.steps = None
        links = self._rescore(rollout)
        metrics |= pooled(self.team, self.estimator.fill(rollout))
        if self.safety is not None:
            metrics |= self.safety.apply(rollout)
        ended = rollout.terminated | rollout.truncated
        rollout.weight = decision_weights(self.config.aggregate, links, ended, rollout.mask)
        real = slice(None) if rollout.mask is None else rollout.mask
        valued = slice(None) if rollout.valued is None else rollout.valued
        sums = [rollout.target[valued].sum(), rollout.advantage[valued].sum(), rollout.log_prob[real].sum()]
        if self.team.any(not bool(torch.isfinite(torch.stack(sums)).all())):
            for name in ("log_prob", "reward", "value", "next_value"):
                if not torch.isfinite(getattr(rollout, name)[real]).all():
                    raise NaNError(f"the rollout's {name} is not finite")
            raise NaNError("the rollout's advantages are not finite")
        return metrics

    @torch.no_grad()
    def _rescore(self, rollout: Rollout, worlds: int = 16) -> Tensor:
        """Take the learner's own log-densities, a few worlds at a time, where those of acting do not do: everywhere
        (`rescore`, `bf16`), or of chunks that were cut.  Return how many links of each decision count (T, B)."""
        config, whole = self.config, self.config.rescore or self.policy.sequential
        count = rollout.log_prob.shape[-1] if config.ratio == "per_link" else 1
        links = torch.full_like(rollout.reward, float(count))
        if rollout.real is not None and count > 1:
            links = rollout.real.sum(-1).to(links.dtype)
        chosen = torch.zeros_like(rollout.terminated)
        if rollout.steps is not None:
            chosen = rollout.steps < self.policy.horizon
        if config.rescore or config.bf16:
            chosen = torch.ones_like(chosen)
        rows = (chosen.any(0) if whole else chosen.flatten()).nonzero()[:, 0]
        for part in rows.split(worlds if whole else 256) if len(rows) else ():
            batch = rollout.part(part, whole=whole)
            with self.precision:
                score = self.scorer.score(batch.observation, batch.chain)
            real = None if score.real is None or count == 1 else score.real.sum(-1).float()
            for held, value in ((rollout.log_prob, score.log_prob), (links, real)):
                if value is not None and whole:
                    held[:, part] = value
                elif value is not None:
                    held.flatten(0, 1)[part] = value[0]
        return links

    def _update(self, rollouts: list[Rollout]) -> dict[str, float]:
        config, updates, kl = self.config, 0, 0.0
        sums: dict[str, float] = {}
        limit = math.inf if config.target_kl is None else config.kl_stop * config.target_kl
        real = [sum(self.team.objects(r.decisions)) for r in rollouts]
        counts = [
            min(config.minibatches, n) if r.mask is not None else config.minibatches for n, r in zip(real, rollouts)
        ]
        for _ in range(config.epochs if min(counts) else 0):  # no real decision is left: nothing to learn from
            batches = [r.minibatches(min(counts), self.policy.sequential, self.generator, self.team) for r in rollouts]
            for parts in zip(*batches, strict=True):
                facts = self._gradients(parts)
                if (kl := float(facts["kl"])) > limit:
                    break
                numbers = dict(zip(facts, torch.stack(list(facts.values())).tolist(), strict=True))
                numbers |= {f"{name}_gradient_norm": norm for name, norm in self.optimiser.clip().items()}
                self._check(numbers)
                self.optimiser.step()
                for name, value in numbers.items():
                    sums[name] = sums.get(name, 0.0) + value
                updates += 1
            if kl > limit:
                break
        self._adapt(kl)
        means = {name if "/" in name else f"ppo/{name}": value / updates for name, value in sums.items()}
        means |= {"ppo/last_kl": kl, "ppo/updates": float(updates)}
        means["ppo/learning_rate"] = self.optimiser.rate("policy")
        if self.critic is not None:
            means["ppo/explained_variance"] = sum(explained_variance(self.team, r) for r in rollouts) / len(rollouts)
        return means

    def _adapt(self, kl: float) -> None:
        if self._warming:  # the policy does not move: its KL of 0 says nothing of the rate
            return
        if self.config.schedule == "adaptive" and self.config.target_kl is not None:
            if kl > 2.0 * self.config.target_kl:
                self.adaptive_factor = max(self.adaptive_factor / 1.5, 1e-2)
            elif kl < 0.5 * self.config.target_kl:
                self.adaptive_factor = min(self.adaptive_factor * 1.5, 10.0)

    def _gradients(self, parts: Sequence[Minibatch]) -> dict[str, Tensor]:
        """Set the gradients of one update, the mean over bodies; return detached facts about it."""
        self.optimiser.zero_grad()
        total: dict[str, Tensor] = {}
        losses = [] if self._warming else self.auxiliaries
        for part in (piece for whole in parts for piece in drawn(losses, self._pieces(whole))):
            with recomputing(self.config.checkpointing), compiling(self.config.compile):
                loss, facts = self._loss(part)
            if len(parts) > 1:
                loss, facts = loss / len(parts), {name: value / len(parts) for name, value in facts.items()}
            if part.share != 1.0:
                loss, facts = loss * part.share, {name: value * part.share for name, value in facts.items()}
            loss.backward()
            total = {name: total[name] + value for name, value in facts.items()} if total else facts
        if self.team.size > 1:
            for gradient in self.optimiser.gradients():
                self.team.add(gradient)
            total = dict(zip(total, self.team.add(torch.stack(list(total.values()))), strict=True))
        return total

    def _pieces(self, part: Minibatch) -> list[Minibatch]:
        """Return the parts of a minibatch that are computed one after the other, their advantages standardised."""
        return self._standardised(part).split(self.config.accumulate)

    def _standardised(self, part: Minibatch) -> Minibatch:
        """Standardise a minibatch's advantages, where that is wanted."""
        mixed = self.safety is not None and self.safety.holds  # then they were standardised before they were mixed
        if self.config.normalise_advantages and not mixed and not self._warming:
            part.advantage = standardised(self.team, part, links_where(part.made, part.mask))
        return part

    @property
    def _warming(self) -> bool:
        """Whether the critic alone learns in this iteration."""
        return self.iteration < self.config.critic_warm_up

    def _loss(self, part: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask, valued = self.config, part.mask, links_where(part.made, part.mask)
        loss, facts = torch.zeros((), device=part.log_prob.device), dict[str, Tensor]()
        if self.critic is not None:
            value = self.critic.value(part.observation)
            loss = clipped_value_loss(value, part.target, part.value, config.value_clip, valued)
            facts["value_loss"] = loss.detach()
        if self._warming:
            none = torch.zeros((), device=loss.device)
            return loss, facts | dict.fromkeys(("policy_loss", "entropy", "kl", "clipped"), none)
        with self.precision:
            advantage, score = part.advantage, self.policy.score(part.observation, part.chain)
        log_ratio = link_log_ratio(score.log_prob, part.log_prob, config.ratio)
        if part.made is not None:  # an action's advantage is that of each of its links
            advantage = advantage.repeat_interleave(log_ratio.shape[-1] // advantage.shape[-1], -1)
        low, high, weight = self._link_settings(log_ratio.shape[-1], log_ratio.device)
        real = mask if score.real is None or config.ratio != "per_link" else links_where(score.real, mask)
        policy_loss, outside = clipped_surrogate(
            log_ratio, advantage, low, high, weight, real, part.weight, config.dual_clip
        )
        loss = config.policy_weight * policy_loss + loss
        entropy = mean_where(score.entropy, mask)
        if config.entropy:
            loss = loss - config.entropy * entropy
        for auxiliary in self.auxiliaries:
            term, found = auxiliary.loss(part, score)
            loss, facts = loss + term, facts | found
        with torch.no_grad():
            kl = kl_k3(log_ratio, real)
        facts |= {"policy_loss": policy_loss.detach(), "entropy": entropy.detach(), "kl": kl, "clipped": outside}
        return loss, facts

    def _link_settings(self, links: int, device: torch.device) -> tuple[Any, Any, Tensor | None]:
        """Clip range below and above and weight of each of `links` ratios (numbers where all are alike)."""
        config = self.config
        if config.ratio != "per_link":
            return config.clip_low, config.clip_high, None
        if links not in self._links:
            first = config.link_clip_first
            low, high = (
                link_clips(links, clip if first is None else first, clip).to(device)
                for clip in (config.clip_low, config.clip_high)
            )
            self._links[links] = (low, high, link_discounts(links, config.link_discount).to(device))
        return self._links[links]

    def _check(self, facts: dict[str, float]) -> None:
        """Stop on the first number that is not finite (a NaN anywhere in the losses shows in the gradients' norms)."""
        bad = [name for name, value in facts.items() if not math.isfinite(value)]
        if bad:
            raise NaNError(f"PPO iteration {self.iteration}: {', '.join(bad)} not finite")

    def _parts(self) -> dict[str, Any]:
        """Return everything with a state of its own, by name."""
        found: dict[str, Any] = {"optimiser": self.optimiser, "estimator": self.estimator}
        if self.safety is not None:
            found["safety"] = self.safety
        for name, parts in (("source", self.sources), ("reward", self.rewards), ("auxiliary", self.auxiliaries)):
            found |= {f"{name}_{index}": part for index, part in enumerate(parts)}
        return found

    def own_worlds(self) -> dict[str, int]:
        """Return which entries of the state are of this learner's worlds alone, and how many worlds these are."""
        return {f"source_{index}": source.worlds for index, source in enumerate(self.sources)}

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on."""
        state: dict[str, Any] = {name: dict(module.state_dict()) for name, module in self.modules.items()}
        state |= {name: part.state_dict() for name, part in self._parts().items()}
        state["generator"] = self.generator.get_state()
        return state | {"iteration": self.iteration, "adaptive_factor": self.adaptive_factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name, part in {**self.modules, **self._parts()}.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.iteration, self.adaptive_factor = int(state["iteration"]), float(state["adaptive_factor"])
