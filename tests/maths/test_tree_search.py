"""Search trees.  Expected values: PUCT by hand (mean 0, c 1.4, one visit above: 1.4 P), trees small enough to see."""

from __future__ import annotations

import pytest
import torch

from toddle.maths.tree_search import SearchTree, puct


def test_puct_prefers_what_is_likely_and_seldom_tried() -> None:
    nothing, one = torch.zeros(2), torch.ones(1)
    scores = puct(nothing, torch.tensor([0.7, 0.3]), nothing, one, 1.4)
    assert torch.allclose(scores, torch.tensor([0.98, 0.42]))
    assert puct(nothing, 0.5, torch.tensor([3.0, 1.0]), torch.tensor([4.0]), 1.0).tolist() == [0.25, 0.5]


def grown(rounds: int, explore: float) -> SearchTree:
    """Two trees: at the first, .6 and .5 are found at once, and .1 and .9 more beneath them; at the second nothing."""
    tree = SearchTree(2, 2, rounds)
    for turn in range(rounds):
        node, edge, depth = tree.select(explore)
        first = torch.tensor([0.6, 0.5])
        if turn == 0:
            assert depth.tolist() == [0, 0]
            returns = first
        else:
            assert node[0] == 0 and depth[0] == 1
            returns = (first + torch.tensor([0.1, 0.9]))[edge[0]].expand(2)
        tree.back_up(torch.stack([returns, torch.zeros(2)]))
    return tree


def test_a_tree_of_depth_two_finds_what_one_look_ahead_misses() -> None:
    assert grown(1, 1.4).best()[0] == 0
    tree = grown(3, 10.0)
    assert tree.visits.sum((1, 2)).tolist() == [10.0, 10.0]  # three nodes of two, two of them counted above too
    assert tree.visits[0, 0].tolist() == [3.0, 3.0] and tree.best()[0] == 1
    assert tree.total[0, 0].tolist() == pytest.approx([0.6 + 2 * 0.7, 0.5 + 2 * 1.4])
    assert torch.equal(tree.best(), grown(3, 10.0).best())


def test_a_chain_of_equals_goes_down_where_it_pays_and_every_round_counts_on_its_path() -> None:
    tree = SearchTree(1, 3, 4)
    for turn in range(4):
        _, edge, depth = tree.select(0.0)  # never explores: always on below the best
        assert int(depth) == turn and (turn == 0 or int(edge) == 2)
        tree.back_up(torch.tensor([[0.0, 0.0, 1.0 + turn]]))
    assert tree.visits[0, 0].tolist() == [1.0, 1.0, 10.0] and int(tree.best()) == 2


def test_what_is_doubted_counts_as_the_worst() -> None:
    tree, doubted = SearchTree(2, 3, 1), torch.tensor([[True, False, False], [True, True, True]])
    tree.select(1.0)
    tree.back_up(torch.tensor([[9.0, 2.0, 1.0], [9.0, 8.0, 7.0]]), doubted)
    assert tree.total[:, 0].tolist() == [[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]] and tree.best().tolist() == [1, 0]
