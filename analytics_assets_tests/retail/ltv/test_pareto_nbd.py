"""Pareto/NBD against Fader and Hardie's note 009 and Schmittlein, Morrison and Colombo (1987), `lifetimes`, and quadrature."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime

from analytics_assets.retail.ltv.bg_nbd import Histories, distinct_histories
from analytics_assets_tests.retail.ltv import pareto_nbd

PUBLISHED = pareto_nbd.Parameters(0.553, 10.578, 0.606, 11.669, -9595.0, 2357)


@pytest.fixture(scope="module")
def fitted(cdnow):
    return pareto_nbd.fit(cdnow.frequency, cdnow.recency, cdnow.age)


def test_cdnow_parameters_are_the_published_ones(fitted):
    """beta came out as 11.669 with an optimiser that stopped .001 before the maximum."""
    assert (round(fitted.r, 3), round(fitted.alpha, 3), round(fitted.s, 3)) == (0.553, 10.578, 0.606)
    assert fitted.beta == pytest.approx(11.669, abs=0.0015)
    assert round(fitted.log_likelihood, 1) == -9595.0
    assert fitted.customers == 2357


def test_gradient_is_that_of_the_likelihood(cdnow):
    likelihood = pareto_nbd.LogLikelihood(distinct_histories(cdnow.frequency, cdnow.recency, cdnow.age))
    at = np.log([0.4, 5.0, 0.7, 20.0])
    numeric = approx_fprime(at, lambda point: likelihood(point)[0], 1e-6)
    assert likelihood(at)[1] == pytest.approx(numeric, rel=1e-4, abs=0.05)


def test_lifetimes_forecasts_the_same(cdnow, fitted):
    lifetimes = pytest.importorskip("lifetimes", exc_type=ImportError)
    history = (cdnow.frequency, cdnow.recency, cdnow.age)
    other = lifetimes.ParetoNBDFitter().fit(*history)
    assert [fitted.r, fitted.alpha, fitted.s, fitted.beta] == pytest.approx(
        [other.params_[name] for name in ("r", "alpha", "s", "beta")], rel=1e-3
    )
    theirs = other.conditional_expected_number_of_purchases_up_to_time(39, *history)
    assert pareto_nbd.expected_purchases(fitted, 39, *history) == pytest.approx(np.asarray(theirs), rel=2e-3)
    assert pareto_nbd.probability_alive(fitted, *history) == pytest.approx(
        np.asarray(other.conditional_probability_alive(*history)), rel=1e-3
    )
    assert pareto_nbd.unconditional_purchases(fitted, [5, 39]) == pytest.approx(
        np.asarray(other.expected_number_of_purchases_up_to_time(np.array([5, 39]))), rel=1e-3
    )


@pytest.mark.parametrize(("x", "t_x", "T"), [(0, 0, 38.86), (2, 30.43, 38.86), (26, 30.86, 31), (200, 30, 90)])
def test_integral_over_the_time_of_leaving_is_exact_from_new_to_heavy_buyers(x, t_x, T):
    r, alpha, s, beta = 0.553, 10.578, 0.606, 11.669
    one = Histories(*(np.array([float(value)]) for value in (x, t_x, T, 1)))
    _, logs = pareto_nbd.LogLikelihood(one).terms(np.log([r, alpha, s, beta]))
    at_last = (r + x) * np.log(alpha + t_x)
    exact, _ = quad(
        lambda u: s * np.exp(at_last - (r + x) * np.log(alpha + u) - (s + 1) * np.log(beta + u)),
        t_x,
        T,
        points=[t_x + (T - t_x) / 100, t_x + (T - t_x) / 10],
        epsabs=0,
        epsrel=1e-12,
        limit=200,
    )
    assert np.exp(logs[0, 1:] + at_last).sum() == pytest.approx(exact, rel=1e-9)


def test_expectation_is_continuous_where_s_is_one():
    def expected(s):
        return pareto_nbd.expected_purchases(pareto_nbd.Parameters(0.5, 10, s, 12, 0, 1), 39, [0, 3], [0, 20], [30, 30])

    assert expected(1.0) == pytest.approx((expected(0.999) + expected(1.001)) / 2, rel=1e-5)


def test_who_never_leaves_buys_at_the_poisson_rate():
    stays = pareto_nbd.Parameters(2, 10, 1e-3, 1e5, 0, 1)
    assert pareto_nbd.unconditional_purchases(stays, [20])[0] == pytest.approx(2 / 10 * 20, rel=1e-4)


def test_silence_makes_a_frequent_buyer_less_alive_than_a_rare_one():
    alive = pareto_nbd.probability_alive(PUBLISHED, [1, 20], [10, 10], [40, 40])
    assert alive[1] < 0.01 < alive[0]
