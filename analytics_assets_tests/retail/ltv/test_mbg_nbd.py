"""MBG/NBD against the CDNOW sample, `lifetimes`, and customers simulated purchase by purchase."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from analytics_assets.retail.ltv import bg_nbd, gamma_gamma
from analytics_assets.retail.ltv.future_purchases import future_purchases

CDNOW = bg_nbd.Parameters(0.5248, 6.183, 0.8914, 1.614, -9582.13, 2357)
FREQUENT = bg_nbd.Parameters(1.5, 4.0, 0.5, 4.0, 0.0, 1)
SPEND = gamma_gamma.Parameters(6.25, 3.74, 15.44, 0.0, 946)
HISTORIES = ([0, 0, 1, 2, 8], [0, 0, 1, 30.43, 20], [0, 35, 20, 38.86, 30])


@pytest.fixture(scope="module")
def fitted(cdnow):
    return bg_nbd.fit(cdnow.frequency, cdnow.recency, cdnow.age)


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
    likelihood = bg_nbd.LogLikelihood(histories, bg_nbd.MBG_NBD)
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
    assert bg_nbd.expected_purchases(fitted, 39, *history) == pytest.approx(np.asarray(theirs), rel=2e-3)
    assert bg_nbd.probability_alive(fitted, *history) == pytest.approx(
        np.asarray(other.conditional_probability_alive(*history)), rel=1e-3
    )
    assert bg_nbd.unconditional_purchases(fitted, [10, 39]) == pytest.approx(
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
    x, t_x, T = (np.array(column, dtype=float) for column in HISTORIES)
    chance_of_alive = bg_nbd.probability_alive(parameters, x, t_x, T)
    future = future_purchases(parameters, weeks, x, T)
    for row, (x, t_x, T) in enumerate(zip(*HISTORIES, strict=True)):
        seen = rate**x * (1 - p) ** x
        alive = seen * (1 - p) * np.exp(-rate * T)
        total = np.sum(alive + seen * p * np.exp(-rate * t_x))
        log_buys = np.log(np.maximum(buys, 1))
        sampled = [np.sum(alive * value) / total for value in (1, buys > 0, buys, log_buys)]
        given_alive = [future.expectation(values)[row] for values in (1, future.count, np.log(future.count))]
        computed = chance_of_alive[row] * np.array([1, *given_alive])
        assert computed == pytest.approx(sampled, rel=0.02), (x, t_x, T)


@pytest.mark.parametrize(
    "parameters", [CDNOW, FREQUENT, bg_nbd.Parameters(1, 20, 100, 100, 0, 1), replace(FREQUENT, law=bg_nbd.BG_NBD)]
)
@pytest.mark.parametrize("weeks", [0.1, 13, 104])
def test_summed_expectation_equals_the_closed_form_from_new_to_heavy_buyers(parameters, weeks):
    frequency = np.array([0.0, 0, 0, 1, 10, 100, 300, 1000, 5000])
    age = np.array([0.0, 1, 50, 50, 52, 52, 2, 100, 100])
    future = future_purchases(parameters, weeks, frequency, age)
    closed = bg_nbd.purchases_while_alive(parameters, weeks, frequency, age)
    assert future.expectation(future.count) == pytest.approx(closed, rel=1e-8)


def test_the_future_of_a_history_does_not_depend_on_the_others_in_the_batch():
    x, _, T = (np.array(column, dtype=float) for column in HISTORIES)
    together = future_purchases(FREQUENT, 52, x, T)
    alone = [future_purchases(FREQUENT, 52, x[row : row + 1], T[row : row + 1]) for row in range(len(x))]
    assert together.expectation(together.count).tolist() == [future.expectation(future.count)[0] for future in alone]


def test_parameters_are_recovered_from_simulated_customers(simulate):
    cohort = simulate(FREQUENT, SPEND, 40_000, 104, 1)
    found = bg_nbd.fit(cohort.frequency, cohort.recency, cohort.age)
    assert [found.r, found.alpha, found.a, found.b] == pytest.approx([1.5, 4.0, 0.5, 4.0], rel=0.05)


def test_the_prior_keeps_a_small_shop_off_the_bounds_and_moves_a_large_one_by_nothing(simulate):
    """Sixty customers who all buy alike, and 40,000 who do not."""
    x = np.tile([2.0, 3.0, 2.0], 20)
    history = (x, np.full(60, 8.0), np.full(60, 9.0))
    assert {"r", "a"} & set(bg_nbd.fit(*history).at_bounds)
    assert bg_nbd.fit_likelier(*history).at_bounds == ()
    cohort = simulate(FREQUENT, SPEND, 40_000, 104, 1)
    history = (cohort.frequency, cohort.recency, cohort.age)
    found = [bg_nbd.expected_purchases(fit(*history), 52, *history).sum() for fit in (bg_nbd.fit, bg_nbd.fit_likelier)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_law_that_made_the_customers_is_found_and_in_doubt_it_is_mbg_nbd(simulate):
    """By MBG/NBD the next year of customers who do not leave after their first purchase is more than 5 % too low."""
    plain = bg_nbd.Parameters(0.6, 6.0, 0.8, 2.4, 0.0, 1, law=bg_nbd.BG_NBD)
    for truth in (plain, replace(plain, law=bg_nbd.MBG_NBD)):
        cohort = simulate(truth, SPEND, 20_000, 52, 52)
        history = (cohort.frequency, cohort.recency, cohort.age)
        found = bg_nbd.fit_likelier(*history)
        assert found.law == truth.law
        expected = bg_nbd.expected_purchases(found, 52, *history).sum()
        assert expected == pytest.approx(cohort.later_purchases.sum(), rel=0.05)
        modified = bg_nbd.expected_purchases(bg_nbd.fit(*history), 52, *history).sum()
        assert (modified < 0.95 * cohort.later_purchases.sum()) == (truth is plain)
    few = simulate(plain, SPEND, 150, 9, 1)
    assert bg_nbd.fit_likelier(few.frequency, few.recency, few.age).law == bg_nbd.MBG_NBD


def test_one_time_buyers_may_have_left_and_are_less_alive_the_longer_they_are_silent():
    alive = bg_nbd.probability_alive(CDNOW, [0, 0, 0], [0, 0, 0], [0, 10, 40])
    assert alive[0] == pytest.approx(1.614 / (1.614 + 0.8914))
    assert alive[0] > alive[1] > alive[2]


def test_order_of_rows_and_counts_change_nothing(cdnow):
    rows = np.random.default_rng(2).permutation(400)
    columns = [column[:400] for column in (cdnow.frequency, cdnow.recency, cdnow.age)]
    once = bg_nbd.fit(*columns, np.full(400, 2))
    assert once == bg_nbd.fit(*(np.concatenate((column[rows], column)) for column in columns))
