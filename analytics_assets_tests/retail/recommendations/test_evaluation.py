"""Recall, NDCG and coverage, computed by hand."""

from math import log2

import pytest

from analytics_assets.retail.recommendations.evaluation import ndcg, quality, recall


def test_recall_is_the_share_of_what_was_bought_within_the_first_places():
    listed = [5, 1, 9, 2, 7]
    assert recall(listed, {1, 2, 3, 4}) == 2 / 4
    assert recall(listed, {1, 2, 3, 4}, at=3) == 1 / 4
    assert recall([], {1}) == 0


def test_ndcg_discounts_late_places_and_compares_with_the_best_possible_list():
    assert ndcg([5, 1, 9, 2], {1, 2, 3}) == pytest.approx((1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3) + 1 / log2(4)))
    assert ndcg([1, 2], {1, 2}) == 1
    assert ndcg(list(range(11)), {10}) == 0
    assert ndcg(list(range(20)), set(range(20))) == pytest.approx(1)


def test_quality_is_the_mean_over_those_who_bought_and_a_missing_list_scores_nothing():
    found = quality({0: [1, 2], 1: [3], 2: [8]}, {0: {1}, 1: {4}, 5: {1}}, offered=6)
    assert found.customers == 3
    assert found.recall_at_20 == pytest.approx(1 / 3)
    assert found.ndcg_at_10 == pytest.approx(1 / 3)
    assert found.coverage == 3 / 6


def test_places_beyond_the_twentieth_cover_nothing():
    assert quality({0: list(range(30))}, {0: {29}}, offered=40).coverage == 20 / 40


def test_nobody_bought_is_no_quality_and_no_error():
    found = quality({}, {}, offered=0)
    assert (found.customers, found.recall_at_20, found.coverage) == (0, 0, 0)


def test_someone_who_bought_nothing_has_no_recall():
    with pytest.raises(ValueError, match="bought nothing"):
        quality({0: [1]}, {0: set()}, offered=1)
