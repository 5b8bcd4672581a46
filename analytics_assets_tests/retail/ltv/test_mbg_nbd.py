"""MBG/NBD against the CDNOW sample, `lifetimes`, and customers simulated purchase by purchase."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from analytics_assets.retail.ltv import bg_nbd, gamma_gamma, mbg_nbd

CDNOW = bg_nbd.Parameters(0.5248, 6.183, 0.8914, 1.614, -9582.13, 2357)
FREQUENT = bg_nbd.Parameters(1.5, 4.0, 0.5, 4.0, 0.0, 1)
SPEND = gamma_gamma.Parameters(6.25, 3.74, 15.44, 0.0, 946)
HISTORIES = ([0, 0, 1, 2, 8], [0, 0, 1, 30.43, 20], [0, 35, 20, 38.86, 30])


def orders_only(orders):
    return orders[None]


@pytest.fixture(scope="module")
def fitted(cdnow):
    return mbg_nbd.fit(cdnow.frequency, cdnow.recency, cdnow.age)


def test_cdnow_parameters_are_the_known_ones(fitted):
    assert (round(fitted.r, 4), round(fitted.alpha, 3), round(fitted.a, 4), round(fitted.b, 3)) == (
        0.5248,
        6.183,
        0.8914,
        1.614,
    )
    assert fitted.log_likelihood == pytest.approx(-9582.13, abs=0.01)


def test_gradient_is_that_of_the_likelihood(cdnow):
    histories = bg_nbd.distinct_histories(cdnow.frequency, cdnow.recency, cdnow.age)
    likelihood = bg_nbd.LogLikelihood(histories, mbg_nbd.first_and_repeat_chances)
    at = np.log([0.4, 5.0, 0.7, 2.0])
    numeric = approx_fprime(at, lambda point: likelihood(point)[0], 1e-6)
    assert likelihood(at)[1] == pytest.approx(numeric, rel=1e-4, abs=0.05)


def test_lifetimes_finds_the_same_fit_and_the_same_forecasts(cdnow, fitted):
    lifetimes = pytest.importorskip("lifetimes", exc_type=ImportError)
    history = (cdnow.frequency, cdnow.recency, cdnow.age)
    other = lifetimes.ModifiedBetaGeoFitter().fit(*history)
    assert [fitted.r, fitted.alpha, fitted.a, fitted.b] == pytest.approx(
        [other.params_[name] for name in ("r", "alpha", "a", "b")], rel=1e-3
    )
    theirs = other.conditional_expected_number_of_purchases_up_to_time(39, *history)
    assert mbg_nbd.expected_purchases(fitted, 39, *history) == pytest.approx(np.asarray(theirs), rel=2e-3)
    assert mbg_nbd.probability_alive(fitted, *history) == pytest.approx(
        np.asarray(other.conditional_probability_alive(*history)), rel=1e-3
    )
    assert mbg_nbd.unconditional_purchases(fitted, [10, 39]) == pytest.approx(
        np.asarray(other.expected_number_of_purchases_up_to_time(np.array([10, 39]))), rel=1e-3
    )


@pytest.mark.parametrize("parameters", [CDNOW, FREQUENT], ids=["cdnow", "frequent"])
def test_future_purchases_agree_with_the_posterior_sampled_by_weights(parameters):
    """Draw (lambda, p) from the prior, weigh by the likelihood of the history, and let the future happen."""
    rng = np.random.default_rng(5)
    draws, weeks = 1_000_000, 26.0
    rate = rng.gamma(parameters.r, 1 / parameters.alpha, draws)
    p = rng.beta(parameters.a, parameters.b, draws)
    would_buy = rng.poisson(rate * weeks)
    buys = np.minimum(would_buy, rng.geometric(p))
    future = mbg_nbd.future_purchases(parameters, weeks, *HISTORIES, lambda n: np.stack((n, np.log(n))))
    for row, (x, t_x, T) in enumerate(zip(*HISTORIES, strict=True)):
        seen = rate**x * (1 - p) ** x
        alive = seen * (1 - p) * np.exp(-rate * T)
        total = np.sum(alive + seen * p * np.exp(-rate * t_x))
        log_buys = np.log(np.maximum(buys, 1))
        sampled = [np.sum(alive * value) / total for value in (1, buys > 0, buys, log_buys)]
        computed = [future.probability_alive[row], future.probability_some[row], *future.expectations[:, row]]
        assert computed == pytest.approx(sampled, rel=0.02), (x, t_x, T)


@pytest.mark.parametrize("parameters", [CDNOW, FREQUENT, bg_nbd.Parameters(1, 20, 100, 100, 0, 1)])
@pytest.mark.parametrize("weeks", [0.1, 13, 104])
def test_summed_expectation_equals_the_closed_form_from_new_to_heavy_buyers(parameters, weeks):
    frequency = np.array([0, 0, 0, 1, 10, 100, 300, 1000, 5000])
    age = np.array([0, 1, 50, 50, 52, 52, 2, 100, 100])
    history = (frequency, np.where(frequency > 0, age, 0), age)
    future = mbg_nbd.future_purchases(parameters, weeks, *history, orders_only)
    assert future.expectations[0] == pytest.approx(mbg_nbd.expected_purchases(parameters, weeks, *history), rel=1e-8)


def test_the_future_of_a_history_does_not_depend_on_the_others_in_the_batch():
    together = mbg_nbd.future_purchases(FREQUENT, 52, *HISTORIES, orders_only).expectations[0]
    alone = [
        mbg_nbd.future_purchases(FREQUENT, 52, [x], [t_x], [T], orders_only).expectations[0, 0]
        for x, t_x, T in zip(*HISTORIES, strict=True)
    ]
    assert together.tolist() == alone


def test_parameters_are_recovered_from_simulated_customers(simulate):
    cohort = simulate(FREQUENT, SPEND, 40_000, 104, 1)
    found = mbg_nbd.fit(cohort.frequency, cohort.recency, cohort.age)
    assert [found.r, found.alpha, found.a, found.b] == pytest.approx([1.5, 4.0, 0.5, 4.0], rel=0.05)


def test_the_prior_keeps_a_small_shop_off_the_bounds_and_moves_a_large_one_by_nothing(simulate):
    """Sixty customers who all buy alike, and 40,000 who do not."""
    x = np.tile([2.0, 3.0, 2.0], 20)
    history = (x, np.full(60, 8.0), np.full(60, 9.0))
    assert {"r", "a"} & set(mbg_nbd.fit(*history).at_bounds)
    assert mbg_nbd.fit(*history, with_prior=True).at_bounds == ()
    cohort = simulate(FREQUENT, SPEND, 40_000, 104, 1)
    history = (cohort.frequency, cohort.recency, cohort.age)
    found = [mbg_nbd.expected_purchases(mbg_nbd.fit(*history, with_prior=prior), 52, *history).sum() for prior in (False, True)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_one_time_buyers_may_have_left_and_are_less_alive_the_longer_they_are_silent():
    alive = mbg_nbd.probability_alive(CDNOW, [0, 0, 0], [0, 0, 0], [0, 10, 40])
    assert alive[0] == pytest.approx(1.614 / (1.614 + 0.8914))
    assert alive[0] > alive[1] > alive[2]


def test_order_of_rows_and_counts_change_nothing(cdnow):
    rows = np.random.default_rng(2).permutation(400)
    columns = [column[:400] for column in (cdnow.frequency, cdnow.recency, cdnow.age)]
    once = mbg_nbd.fit(*columns, np.full(400, 2))
    assert once == mbg_nbd.fit(*(np.concatenate((column[rows], column)) for column in columns))
