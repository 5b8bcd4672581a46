"""Recall, NDCG and coverage, computed by hand."""

from math import log2

import numpy as np
import pytest

from analytics_assets.retail.recommendations.evaluation import Pairs, quality


def pairs(products: dict[int, list[int]]) -> Pairs:
    """Products by customer."""
    found = [(customer, product) for customer, some in products.items() for product in some]
    customers, numbers = np.array(found, np.int64).reshape(-1, 2).T
    return Pairs(customers, numbers)


def of_one(listed: list[int], bought: list[int]):
    return quality(pairs({0: listed}), pairs({0: bought}), offered=1)


def test_recall_is_the_share_of_what_was_bought_within_the_first_places():
    assert of_one([5, 1, 9, 2, 7], [1, 2, 3, 4]).recall_at_20 == 2 / 4
    assert of_one([*range(100, 119), 1, 2], [1, 2, 3, 4]).recall_at_20 == 1 / 4
    assert of_one([], [1]).recall_at_20 == 0


def test_ndcg_discounts_late_places_and_compares_with_the_best_possible_list():
    best = 1 + 1 / log2(3) + 1 / log2(4)
    assert of_one([5, 1, 9, 2], [1, 2, 3]).ndcg_at_10 == pytest.approx((1 / log2(3) + 1 / log2(5)) / best)
    assert of_one([1, 2], [1, 2]).ndcg_at_10 == pytest.approx(1)
    assert of_one(list(range(11)), [10]).ndcg_at_10 == 0
    assert of_one(list(range(20)), list(range(20))).ndcg_at_10 == pytest.approx(1)


def test_quality_is_the_mean_over_those_who_bought_and_a_missing_list_scores_nothing():
    found = quality(pairs({0: [1, 2], 1: [3], 3: [8]}), pairs({0: [1], 1: [4], 2: [1]}), offered=6)
    assert found.customers == 3
    assert found.recall_at_20 == pytest.approx(1 / 3)
    assert found.ndcg_at_10 == pytest.approx(1 / 3)
    assert found.coverage == 3 / 6


def test_what_no_catalogue_knows_is_found_in_no_list():
    assert quality(pairs({0: [1, 2], 1: [9]}), pairs({0: [1, -1], 1: [-3]}), offered=3).recall_at_20 == 1 / 4


def test_places_beyond_the_twentieth_cover_nothing():
    assert quality(pairs({0: list(range(30))}), pairs({0: [29]}), offered=40).coverage == 20 / 40


def test_nobody_bought_is_no_quality_and_no_error():
    found = quality(pairs({}), pairs({}), offered=0)
    assert (found.customers, found.recall_at_20, found.coverage) == (0, 0, 0)


def test_someone_who_bought_nothing_has_no_recall():
    with pytest.raises(ValueError, match="bought nothing"):
        quality(pairs({0: [1]}), pairs({1: [1]}), offered=1)
