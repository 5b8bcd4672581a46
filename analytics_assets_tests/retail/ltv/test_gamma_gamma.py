"""Gamma-Gamma against note 025, `lifetimes`, and simulated spend."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from analytics_assets.retail.ltv import gamma_gamma


@pytest.fixture(scope="module")
def repeat_buyers(cdnow):
    again = cdnow.frequency > 0
    return cdnow.frequency[again], cdnow.mean_repeat_spend[again]


@pytest.fixture(scope="module")
def fitted(repeat_buyers):
    return gamma_gamma.fit(*repeat_buyers)


def test_cdnow_parameters_of_946_repeat_buyers_are_the_published_ones(fitted):
    assert fitted.customers == 946
    assert (round(fitted.p, 2), round(fitted.q, 2), round(fitted.v, 2)) == (6.25, 3.74, 15.44)


def test_gradient_is_that_of_the_likelihood(repeat_buyers):
    days, mean = repeat_buyers
    likelihood = gamma_gamma.LogLikelihood(days, mean, np.ones(len(days)))
    at = np.log([4.0, 3.0, 20.0])
    assert likelihood(at)[1] == pytest.approx(approx_fprime(at, lambda z: likelihood(z)[0], 1e-6), rel=1e-4, abs=0.05)


def test_lifetimes_finds_the_same_fit_and_the_same_mean_spend(repeat_buyers, fitted):
    lifetimes = pytest.importorskip("lifetimes", exc_type=ImportError)
    other = lifetimes.GammaGammaFitter().fit(*repeat_buyers)
    assert [fitted.p, fitted.q, fitted.v] == pytest.approx([other.params_[name] for name in "pqv"], rel=2e-3)
    assert gamma_gamma.expected_mean_spend(fitted, *repeat_buyers) == pytest.approx(
        np.asarray(other.conditional_expected_average_profit(*repeat_buyers)), rel=1e-3
    )


def test_mean_spend_agrees_with_the_posterior_sampled_by_weights():
    parameters = gamma_gamma.Parameters(6.25, 3.74, 15.44, 0, 946)
    rate = np.random.default_rng(3).gamma(parameters.q, 1 / parameters.v, 1_000_000)
    for days, mean in ((1, 20.0), (4, 60.0)):
        total = days * mean
        weight = np.exp(parameters.p * days * (np.log(rate * total) + 1) - rate * total)
        sampled = np.sum(weight * parameters.p / rate) / np.sum(weight)
        computed = gamma_gamma.expected_mean_spend(parameters, [days], [mean])[0]
        assert computed == pytest.approx(sampled, rel=0.01)


def test_unknown_spend_is_the_population_mean(fitted):
    unknown = gamma_gamma.expected_mean_spend(fitted, [0, 0], [np.nan, -3])
    assert unknown.tolist() == pytest.approx([fitted.population_mean] * 2)
    assert fitted.population_mean == pytest.approx(6.25 * 15.44 / 2.74, rel=0.005)


def test_parameters_are_recovered_from_simulated_spend():
    rng = np.random.default_rng(8)
    days = rng.geometric(0.3, 60_000)
    mean = rng.gamma(2.0 * days) / rng.gamma(3.0, 1 / 50, 60_000) / days
    found = gamma_gamma.fit(days, mean)
    assert [found.p, found.q, found.v] == pytest.approx([2.0, 3.0, 50.0], rel=0.05)


def test_currency_changes_v_alone(repeat_buyers, fitted):
    days, mean = repeat_buyers
    in_yen = gamma_gamma.fit(days, mean * 150)
    assert [in_yen.p, in_yen.q, in_yen.v] == pytest.approx([fitted.p, fitted.q, fitted.v * 150], rel=1e-6)
    assert in_yen.log_likelihood == pytest.approx(fitted.log_likelihood - 946 * np.log(150))


def test_order_of_rows_and_counts_change_nothing(repeat_buyers, fitted):
    days, mean = repeat_buyers
    shuffled = np.random.default_rng(4).permutation(len(days))
    assert gamma_gamma.fit(days[shuffled], mean[shuffled]) == fitted
    doubled = gamma_gamma.fit(days, mean, np.full(len(days), 2))
    expanded = gamma_gamma.fit(np.tile(days, 2), np.tile(mean, 2))
    assert [doubled.p, doubled.q, doubled.v] == pytest.approx([expanded.p, expanded.q, expanded.v], rel=1e-5)
    assert doubled.customers == expanded.customers


def test_a_single_price_for_everyone_is_what_everyone_is_expected_to_spend():
    found = gamma_gamma.fit(np.tile([1.0, 2, 5], 40), np.full(120, 9.99))
    assert gamma_gamma.expected_mean_spend(found, [0, 1, 5], [np.nan, 9.99, 9.99]) == pytest.approx(9.99, rel=0.01)


@pytest.mark.parametrize(
    ("customers", "days", "price"), [(30, 10, 9.99), (400, 6, 9.99), (400, 9, 1.0)], ids=["thirty", "six days", "nine days"]
)
def test_subscribers_of_one_price_are_fitted_although_no_search_along_a_line_ends_there(customers, days, price):
    """Every one of these stopped the whole night's forecast, as three in forty of shops whose customers spend alike within 3 % did."""
    purchase_days = np.full(customers, float(days))
    purchase_days[: customers // 3] = days - 1
    mean = np.round(purchase_days * price, 2) / purchase_days
    found = gamma_gamma.fit(purchase_days, mean)
    assert gamma_gamma.expected_mean_spend(found, purchase_days, mean) == pytest.approx(price, rel=1e-3)


@pytest.mark.parametrize("seed", [4, 16, 24])
def test_customers_who_spend_nearly_alike_are_fitted(seed):
    rng = np.random.default_rng(seed)
    purchase_days = rng.integers(2, 12, 300).astype(float)
    found = gamma_gamma.fit(purchase_days, 20 * (1 + 0.03 * rng.standard_normal(300)))
    assert found.population_mean == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1], [0]), "positive"),
        (([0], [1]), "positive"),
        (([1], [np.nan]), "positive"),
        (([1, 2], [1]), "one length"),
        (([], []), "no customers"),
        (([1], [1], [-1]), "counts must be positive"),
    ],
)
def test_impossible_spend_is_refused_by_name(columns, message):
    with pytest.raises(ValueError, match=message):
        gamma_gamma.fit(*columns)
