"""Similarities against closed forms written another way, in dense NumPy."""

import numpy as np
import pytest
import scipy.sparse as sp

from analytics_assets.retail.recommendations.similarity import (
    BM25_OF_ITSELF,
    PRIOR,
    REGULARISATION,
    bm25,
    candidates,
    ease,
    nearest,
    trend,
)


def purchases(seed: int, customers: int = 60, products: int = 12, share: float = 0.3) -> sp.csr_array:
    rng = np.random.default_rng(seed)
    return sp.csr_array(np.where(rng.random((customers, products)) < share, rng.random((customers, products)), 0.0))


def test_ease_is_each_products_ridge_regression_on_all_the_others():
    bought = purchases(1)
    x = bought.toarray()
    ridge = REGULARISATION * np.mean(np.sum(x**2, axis=0))
    found = ease(bought)
    for product in range(x.shape[1]):
        others = np.arange(x.shape[1]) != product
        gram = x[:, others].T @ x[:, others] + ridge * np.eye(others.sum())
        assert found[others, product] == pytest.approx(np.linalg.solve(gram, x[:, others].T @ x[:, product]), abs=2e-6)
        assert found[product, product] == 0


def test_ease_of_a_product_that_nobody_bought_and_of_no_purchases_is_zero():
    bought = purchases(2).toarray()
    bought[:, 3] = 0
    found = ease(sp.csr_array(bought))
    assert not found[3].any()
    assert not found[:, 3].any()
    assert not ease(sp.csr_array((5, 4))).any()
    assert ease(sp.csr_array((5, 0))).shape == (0, 0)


def test_bm25_equals_the_formula_written_out():
    bought = purchases(3, customers=40, products=9)
    x = bought.toarray()
    customers = len(x)
    length = x.sum(axis=1)
    rarity = np.log(customers) - np.log(1 + (x > 0).sum(axis=0))
    weighted = np.zeros_like(x)
    for customer in range(customers):
        for product in np.flatnonzero(x[customer]):
            saturation = 100 * (1 - 0.8 + 0.8 * length[customer] / length.mean())
            weighted[customer, product] = x[customer, product] * 101 / (saturation + x[customer, product]) * rarity[product]
    together = weighted.T @ weighted
    expected = together * BM25_OF_ITSELF / np.mean(np.diag(together))
    np.fill_diagonal(expected, 0)
    assert bm25(bought, neighbours=8).toarray() == pytest.approx(expected)
    best = bm25(bought, neighbours=2).toarray()
    for row, full in zip(best, expected, strict=True):
        assert sorted(row[row > 0]) == pytest.approx(sorted(full)[-2:])


def test_bm25_does_not_depend_on_threads():
    bought = purchases(4, customers=400, products=50)
    one, two = (bm25(bought, neighbours=10, threads=threads) for threads in (1, 2))
    assert (one != two).nnz == 0


def test_bm25_without_purchases_knows_nothing():
    assert bm25(sp.csr_array((5, 4))).nnz == 0


def test_the_strongest_neighbours_of_a_row_are_kept_negative_ones_too():
    weights = np.array([[0.0, 0.5, -0.9, 0.1], [0.2, 0.0, 0.3, -0.1], [0.0, 0.0, 0.0, 0.7], [0.4, 0.4, 0.5, 0.0]], np.float32)
    kept = nearest(weights, 2).toarray()
    assert kept[:3] == pytest.approx(np.array([[0, 0.5, -0.9, 0], [0.2, 0, 0.3, 0], [0, 0, 0, 0.7]]))
    assert np.count_nonzero(kept[3]) == 2
    assert nearest(weights, 4).toarray() == pytest.approx(weights)


def test_trend_is_1_where_sales_are_as_ever_and_on_average_and_smoothed_for_rare_products():
    sold = np.array([100.0, 100.0, 1000.0, 0.1])
    lately = sold * np.array([0.1, 0.2, 0.1, 1.0])
    found = trend(sold, lately)
    assert found[1] > 1.5 > found[0]
    assert found[3] == pytest.approx(1, abs=0.1)
    assert trend(sold, 0.3 * sold) == pytest.approx(np.ones(4))
    assert trend(sold, 0 * sold) == pytest.approx(np.ones(4))


def test_candidates_weigh_similarity_and_prior_by_the_trend():
    bought = purchases(5)
    rising = np.linspace(0.5, 2, 12)
    models = candidates(bought, rising, with_ease=True)
    assert list(models) == ["EASE x trend + popular", "EASE + popular", "EASE"]
    trended, plain, bare = models.values()
    assert trended.similarity.toarray() == pytest.approx(plain.similarity.toarray() * rising, abs=1e-6)
    assert plain.prior == pytest.approx(PRIOR * bought.toarray().mean(axis=0))
    assert trended.prior == pytest.approx(plain.prior * rising)
    assert not bare.prior.any()


def test_models_of_bm25_have_a_prior_of_the_most_popular_products_only():
    bought = purchases(6, customers=50, products=400, share=0.1)
    models = candidates(bought, np.ones(400), with_ease=False)
    assert list(models) == ["BM25 x trend + popular", "BM25 + popular", "BM25"]
    prior, share = models["BM25 + popular"].prior, bought.toarray().mean(axis=0)
    first = np.argsort(-share)[:100]
    assert np.count_nonzero(prior) == 100
    assert prior[first] == pytest.approx(PRIOR * share[first])
