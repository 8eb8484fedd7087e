"""Search trees over candidates: which way is followed next, and what is thought of it, many worlds at once.

Sources: PUCT (Rosin 2011; Silver et al. 2017, Nature 550), with returns in units of the range found so far (MuZero,
Schrittwieser et al. 2020, arXiv 1911.08265).  Candidates are draws of the policy, so each has the same prior (Sampled
MuZero, Hubert et al. 2021, arXiv 2104.06303).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SearchTree", "puct"]


def puct(mean: Tensor, prior: Tensor | float, visits: Tensor, parent: Tensor, explore: float) -> Tensor:
    """Return mean + explore prior sqrt(parent) / (1 + visits), (..., K); parent (..., 1): visits of the node."""
    return mean + explore * prior * parent.sqrt() / (1.0 + visits)


class SearchTree:
    """B trees that grow alike: a round opens one node in each, and all its K candidates are followed.

    Node n is the one that was opened in round n; node 0 is the root.  Returns are counted from the root.
    """

    def __init__(self, worlds: int, candidates: int, rounds: int, device: torch.device | str = "cpu") -> None:
        """rounds: nodes that there will be at most."""
        shape = worlds, rounds, candidates
        self.visits = torch.zeros(shape, device=device)
        self.total = torch.zeros(shape, device=device)
        self.leads = torch.full(shape, -1, device=device)  # the node that an edge leads to
        self.low = torch.full((worlds,), torch.inf, device=device)  # the range of the returns found so far
        self.high = -self.low
        self.opened = 0
        self._path: list[tuple[Tensor, Tensor, Tensor]] = []  # (B,) node, edge, and whether the path is that long

    def _means(self, total: Tensor, visits: Tensor) -> Tensor:
        """Return mean returns (B, K) in units of the range found so far, in [0, 1]."""
        low, span = self.low[:, None], (self.high - self.low)[:, None]
        mean = (total / visits.clamp(min=1.0) - low) / torch.where(span > 0.0, span, 1.0)
        return torch.where(visits > 0.0, mean, 0.0)

    def select(self, explore: float) -> tuple[Tensor, Tensor, Tensor]:
        """Open a node in each tree: return the node (B,) and the edge (B,) that lead there, and its depth (B,).

        From the root the edge with the largest `puct` is taken until one leads to no node.  The first call opens the
        root, whose depth is 0 and to which nothing leads.
        """
        worlds = torch.arange(len(self.visits), device=self.visits.device)
        node = torch.zeros_like(worlds)
        found, edge, going = node.clone(), node.clone(), torch.full_like(worlds, self.opened > 0, dtype=torch.bool)
        self._path = []
        while bool(going.any()):
            visits = self.visits[worlds, node]
            means, prior = self._means(self.total[worlds, node], visits), 1.0 / visits.shape[1]
            score = puct(means, prior, visits, visits.sum(1, keepdim=True), explore)
            best = score.argmax(1)
            found, edge = torch.where(going, node, found), torch.where(going, best, edge)
            self._path.append((node, best, going))
            below = self.leads[worlds, node, best]
            going = going & (below >= 0)
            node = torch.where(going, below, node)
        if self.opened:
            self.leads[worlds, found, edge] = self.opened
        self.opened += 1
        depth = torch.stack([on.long() for *_, on in self._path]).sum(0) if self._path else torch.zeros_like(worlds)
        return found, edge, depth

    def back_up(self, returns: Tensor, doubted: Tensor | None = None) -> None:
        """Take the returns (B, K) of the candidates at the node opened last; each counts once for every edge above.

        doubted (B, K) bool: those of which nothing is believed count as the worst return that was found.
        """
        doubted = torch.zeros_like(returns, dtype=torch.bool) if doubted is None else doubted
        self.low = torch.minimum(self.low, torch.where(doubted, torch.inf, returns).amin(1))
        self.high = torch.maximum(self.high, torch.where(doubted, -torch.inf, returns).amax(1))
        worst = torch.where(self.low.isfinite(), self.low, 0.0)[:, None]
        returns = torch.where(doubted, worst, returns)
        self.total[:, self.opened - 1], self.visits[:, self.opened - 1] = returns, 1.0
        worlds = torch.arange(len(returns), device=returns.device)
        for node, edge, going in self._path:
            self.total[worlds, node, edge] += torch.where(going, returns.sum(1), 0.0)
            self.visits[worlds, node, edge] += going * returns.shape[1]

    def best(self) -> Tensor:
        """Return the edge (B,) of the root that was visited most, of equals that with the larger mean."""
        visits = self.visits[:, 0]
        return (visits + 0.5 * self._means(self.total[:, 0], visits)).argmax(1)
