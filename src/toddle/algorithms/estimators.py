"""Where PPO's advantages come from: a critic's values (GAE), or the other episodes of the same start (groups)."""

from __future__ import annotations

import torch

from toddle.algorithms.parts import Estimator
from toddle.core.errors import problem
from toddle.core.team import team
from toddle.experience.rollout import Rollout
from toddle.maths.advantages import action_gae, gae, group_advantages, step_and_trajectory_advantages

__all__ = ["GAE", "ActionGAE", "BatchAdvantages", "GroupAdvantages", "ReturnsToGo", "StepAndTrajectoryAdvantages"]


class GAE(Estimator):
    """Generalised advantage estimation over a critic's values (Schulman et al. 2016, arXiv 1506.02438)."""

    def __init__(self, lam: float) -> None:
        self.lam = lam

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages, and returns-to-go as the critic's targets."""
        advantage = gae(
            rollout.reward,
            rollout.value,
            rollout.next_value,
            rollout.terminated,
            rollout.truncated,
            discount=rollout.discount,
            lam=self.lam,
        )
        rollout.advantage.copy_(advantage)
        rollout.target.copy_(advantage + rollout.value)
        return {}


class ActionGAE(Estimator):
    """GAE over single actions, by a critic that says a value for each of a chunk (RLinf-VLA, arXiv 2510.06710)."""

    def __init__(self, lam: float, discount: float) -> None:
        """lam, discount: of one control step."""
        self.lam, self.discount = lam, discount

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages and targets (T, B, H).  Raises InputError where rewards are not known action by action."""
        if rollout.made is None or rollout.gained is None:
            raise problem("value_per", "chunk, or a source that keeps the reward of every action", "action")
        advantage = action_gae(
            rollout.gained,
            rollout.value,
            rollout.next_value,
            rollout.made,
            rollout.terminated,
            rollout.truncated,
            discount=self.discount,
            lam=self.lam,
        )
        rollout.advantage.copy_(advantage)
        rollout.target.copy_(advantage + rollout.value)
        return {}


class GroupAdvantages(Estimator):
    """Each episode against the others that began at the same start; no critic.

    Every decision of an episode has its episode's advantage.  Groups whose episodes all came to the same teach nothing
    and are dropped (DAPO's dynamic sampling, arXiv 2503.14476, without drawing others in their place).
    """

    def __init__(
        self,
        *,
        leave_one_out: bool = False,
        scale: bool = True,
        by: str = "episode_return",
        uneven_in: str | None = None,
    ) -> None:
        """by: what is compared, `episode_return` or `success`.  uneven_in: in which of them the episodes of a group
        must differ to teach anything; None: in what is compared."""
        self.leave_one_out, self.scale, self.by = leave_one_out, scale, by
        self.uneven_in = uneven_in or by

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages and take dropped groups out of the mask.  Raises InputError where there are no groups."""
        known = {"success": rollout.success, "episode_return": rollout.episode_return}
        score, differ = known[self.by], known[self.uneven_in]
        if rollout.group is None or rollout.mask is None or score is None or differ is None:
            wanted = " and ".join(dict.fromkeys((self.by, self.uneven_in)))
            raise problem("source", f"whole episodes in groups that report {wanted}", "a rollout without them")
        advantage, uneven = group_advantages(
            score.float(), rollout.group, leave_one_out=self.leave_one_out, scale=self.scale
        )
        if self.uneven_in != self.by:
            uneven = group_advantages(differ.float(), rollout.group)[1]
        rollout.advantage.copy_(advantage.expand_as(rollout.advantage))
        rollout.mask = rollout.mask & uneven
        return {
            "group/dropped": float((~uneven).float().mean()),
            "group/decisions": float(rollout.mask.sum()),
            "group/spread": _spread(team().gather(score, 0)),
        }


class BatchAdvantages(Estimator):
    """Each episode against the mean of all others of its rollout, whatever their starts: REINFORCE's baseline."""

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages.  Raises InputError where episodes are not whole."""
        score = rollout.episode_return
        if rollout.mask is None or score is None:
            raise problem("source", "whole episodes", "a rollout of parts of them")
        first, _ = team().place(len(score))
        every = team().gather(score, 0)
        advantage, _ = group_advantages(every, torch.zeros_like(every, dtype=torch.int64), leave_one_out=True)
        rollout.advantage.copy_(advantage[first : first + len(score)].expand_as(rollout.advantage))
        return {"group/spread": _spread(every)}


class ReturnsToGo(Estimator):
    """Discounted sums of the rewards that follow, without a baseline: REINFORCE whose reward is its own (Generalist,
    arXiv 2509.15155, where a difference of steps to go makes the sum "better than staying")."""

    def __init__(self, discount: float) -> None:
        """discount: of a decision."""
        self.discount = discount

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages.  Raises InputError where episodes are not whole."""
        if rollout.mask is None:
            raise problem("source", "whole episodes", "a rollout of parts of them")
        running = torch.zeros_like(rollout.reward[0])
        for t in range(rollout.length - 1, -1, -1):
            running = torch.where(rollout.mask[t], rollout.reward[t] + self.discount * running, 0.0)
            rollout.advantage[t] = running
        return {"group/spread": float(rollout.advantage[rollout.mask].std())}


class StepAndTrajectoryAdvantages(Estimator):
    """Episodes of a start compared step by step and as wholes (TGRPO, Chen et al. 2025, arXiv 2506.08440)."""

    def __init__(self, *, step: float, trajectory: float) -> None:
        """step, trajectory: weights of the two comparisons, alpha_1 and alpha_2."""
        self.step, self.trajectory = step, trajectory

    def fill(self, rollout: Rollout) -> dict[str, float]:
        """Write advantages and take groups that teach nothing out of the mask.

        Raises InputError where there are no groups.
        """
        if rollout.group is None or rollout.mask is None or rollout.episode_return is None:
            raise problem("source", "whole episodes in groups", "a rollout without them")
        advantage, uneven = step_and_trajectory_advantages(
            rollout.reward,
            rollout.mask,
            rollout.episode_return,
            rollout.group,
            step=self.step,
            trajectory=self.trajectory,
        )
        rollout.advantage.copy_(advantage)
        rollout.mask = rollout.mask & uneven
        return {
            "group/dropped": float((~uneven).float().mean()),
            "group/decisions": float(rollout.mask.sum()),
        }


def _spread(score: torch.Tensor) -> float:
    """Return the standard deviation of the scores (B,) of episodes."""
    return float(torch.std(score.float())) if len(score) > 1 else 0.0
