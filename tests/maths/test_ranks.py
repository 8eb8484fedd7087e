"""Ranks against scipy and against counts made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from toddle.core.errors import InputError
from toddle.maths.ranks import area_under_roc, ranks, spearman


def test_equal_numbers_share_their_ranks() -> None:
    assert ranks([30.0, 10.0, 20.0, 10.0]).tolist() == [4.0, 1.5, 3.0, 1.5]


def test_spearman_is_scipys_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    for ties in (False, True):
        a, b = rng.normal(size=50), rng.normal(size=50)
        b = b + a
        if ties:
            a, b = a.round(), b.round()
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1.0)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_the_order_of_values_is_what_gvl_calls_it() -> None:
    """Rising 1, falling -1, up and down alike 0, ten up and five down 0.61; drawn ones deviate by 1 / sqrt(19)."""
    up_and_down, rewound = [*range(10), *range(9, -1, -1)], [*range(10), *range(8, 3, -1)]
    assert spearman(up_and_down, range(20)) == pytest.approx(0.0, abs=1e-12)
    assert spearman(rewound, range(15)) == pytest.approx(0.61, abs=0.005)
    assert spearman(np.exp(rewound), range(15)) == spearman(rewound, range(15))  # only the order counts
    rng = np.random.default_rng(2)
    drawn = [spearman(rng.permutation(20), range(20)) for _ in range(800)]
    assert np.std(drawn) == pytest.approx(0.2294, rel=0.08) and abs(np.mean(drawn)) < 0.03


def test_area_counts_pairs() -> None:
    """Positives 3 and 2, negatives 1 and 2: of four pairs three are in order and one is equal."""
    assert area_under_roc([3, 2, 1, 2], [True, True, False, False]) == pytest.approx(3.5 / 4)
    assert area_under_roc([0, 1], [True, False]) == 0.0
    assert math.isnan(area_under_roc([0, 1], [True, True]))


def test_area_is_scipys_mann_whitney() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=60).round(1), rng.random(60) < 0.3
    u = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert area_under_roc(scores, labels) == pytest.approx(u / (labels.sum() * (~labels).sum()))


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no NaN"):
        ranks([1.0, math.nan])
    with pytest.raises(InputError, match="for both"):
        spearman([1, 2], [1, 2, 3])
