"""BG/NBD against Fader, Hardie and Lee (2005), `lifetimes`, and its own definition."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.special import hyp2f1

from analytics_assets.retail.ltv import bg_nbd

PUBLISHED = bg_nbd.Parameters(0.243, 4.414, 0.793, 2.426, -9582.4, 2357, law=bg_nbd.BG_NBD)


@pytest.fixture(scope="module")
def fitted(cdnow):
    return bg_nbd.fit(cdnow.frequency, cdnow.recency, cdnow.age, law=bg_nbd.BG_NBD)


def test_cdnow_parameters_are_the_published_ones(fitted):
    assert (round(fitted.r, 3), round(fitted.alpha, 3), round(fitted.a, 3), round(fitted.b, 3)) == (
        0.243,
        4.414,
        0.793,
        2.426,
    )
    assert round(fitted.log_likelihood, 1) == -9582.4
    assert fitted.customers == 2357
    assert fitted.at_bounds == ()


def test_conditional_expectation_of_the_published_example(fitted):
    assert round(float(bg_nbd.expected_purchases(fitted, 39, [2], [30.43], [38.86])[0]), 3) == 1.226


def test_cumulative_repeat_purchases_to_week_78_are_four_percent_short(cdnow, fitted):
    expected = bg_nbd.unconditional_purchases(fitted, cdnow.age + 39).sum()
    actual = cdnow.frequency.sum() + cdnow.later_purchases.sum()
    assert round(expected / actual - 1, 2) == -0.04


def test_holdout_zero_class_and_correlation_are_the_published_ones(cdnow, fitted):
    expected = bg_nbd.expected_purchases(fitted, 39, cdnow.frequency, cdnow.recency, cdnow.age)
    once = cdnow.frequency == 0
    assert round(expected[once].mean(), 2) == 0.23
    assert round(cdnow.later_purchases[once].mean(), 2) == 0.24
    assert round(np.corrcoef(expected, cdnow.later_purchases)[0, 1], 3) == 0.626


@pytest.mark.parametrize("parameters", [(0.3, 5.0, 0.7, 2.0), (2.0, 1.0, 3.0, 0.2)])
def test_gradient_is_that_of_the_likelihood(cdnow, parameters):
    histories = bg_nbd.distinct_histories(cdnow.frequency, cdnow.recency, cdnow.age)
    likelihood = bg_nbd.LogLikelihood(histories, bg_nbd.BG_NBD)
    at = np.log(parameters)
    numeric = approx_fprime(at, lambda point: likelihood(point)[0], 1e-6)
    assert likelihood(at)[1] == pytest.approx(numeric, rel=1e-4, abs=0.05)


def test_lifetimes_finds_the_same_fit_and_the_same_forecasts(cdnow, fitted):
    lifetimes = pytest.importorskip("lifetimes", exc_type=ImportError)
    other = lifetimes.BetaGeoFitter().fit(cdnow.frequency, cdnow.recency, cdnow.age)
    assert [fitted.r, fitted.alpha, fitted.a, fitted.b] == pytest.approx(
        [other.params_[name] for name in ("r", "alpha", "a", "b")], rel=1e-3
    )
    history = (cdnow.frequency, cdnow.recency, cdnow.age)
    theirs = other.conditional_expected_number_of_purchases_up_to_time(39, *history)
    assert bg_nbd.expected_purchases(fitted, 39, *history) == pytest.approx(np.asarray(theirs), rel=2e-3)
    assert bg_nbd.probability_alive(fitted, *history) == pytest.approx(
        np.asarray(other.conditional_probability_alive(*history)), rel=1e-3
    )


def test_transformed_expectation_equals_equation_10_as_published():
    x, t_x, T, t = 3.0, 20.0, 35.0, 39.0
    r, alpha, a, b = 0.243, 4.414, 0.793, 2.426
    first = (a + b + x - 1) / (a - 1)
    second = 1 - ((alpha + T) / (alpha + T + t)) ** (r + x) * hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + T + t))
    published = first * second / (1 + a / (b + x - 1) * ((alpha + T) / (alpha + t_x)) ** (r + x))
    assert bg_nbd.expected_purchases(PUBLISHED, t, [x], [t_x], [T])[0] == pytest.approx(published, rel=1e-10)


def test_expectation_is_continuous_where_a_is_one():
    def expected(a):
        parameters = bg_nbd.Parameters(0.5, 6, a, 2, 0, 1, law=bg_nbd.BG_NBD)
        return bg_nbd.expected_purchases(parameters, 52, [0, 3, 40], [0, 20, 30], [30, 30, 30])

    assert expected(1.0) == pytest.approx((expected(0.999) + expected(1.001)) / 2, rel=1e-5)


def test_expectation_of_heavy_buyers_is_finite_and_at_most_what_their_rate_gives():
    frequency = np.array([300.0, 1000.0, 5000.0])
    expected = bg_nbd.expected_purchases(PUBLISHED, 104, frequency, np.full(3, 50), np.full(3, 50))
    assert np.all(expected > 0)
    assert np.all(expected <= (PUBLISHED.r + frequency) / (PUBLISHED.alpha + 50) * 104)


def test_counts_stand_for_repeated_rows(cdnow, fitted):
    first = slice(0, 300)
    counts = np.arange(300) % 4 + 1
    columns = (cdnow.frequency[first], cdnow.recency[first], cdnow.age[first])
    assert bg_nbd.fit(*columns, counts) == bg_nbd.fit(*(np.repeat(column, counts) for column in columns))


def test_order_of_rows_changes_nothing(cdnow, fitted):
    shuffled = np.random.default_rng(1).permutation(len(cdnow.age))
    assert bg_nbd.fit(cdnow.frequency[shuffled], cdnow.recency[shuffled], cdnow.age[shuffled], law=bg_nbd.BG_NBD) == fitted


def test_distinct_rows_come_ascending_and_join_back():
    columns = (np.array([2.0, 0, 2, 0]), np.array([1.0, 5, 1, 4]))
    distinct, place = bg_nbd.distinct_rows(*columns)
    assert [column.tolist() for column in distinct] == [[0, 0, 2], [4, 5, 1]]
    assert place.tolist() == [2, 1, 2, 0]


def test_parameter_without_an_optimum_stops_at_its_bound_and_is_named():
    """Nobody ever leaves: a goes to 0."""
    frequency = np.arange(1.0, 60.0)
    fitted = bg_nbd.fit(frequency, np.full(59, 30.0), np.full(59, 30.0))
    assert "a" in fitted.at_bounds or "b" in fitted.at_bounds
    assert bg_nbd.probability_alive(fitted, [10], [30], [30])[0] > 0.99


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (([-1], [0], [1]), "frequency must be finite and not negative"),
        (([1], [-1], [1]), "recency must be finite and not negative"),
        (([1], [1], [np.nan]), "age must be finite and not negative"),
        (([1.5], [1], [2]), "whole number"),
        (([1], [3], [2]), "recency must not exceed age"),
        (([0], [1], [2]), "recency must be 0"),
        (([1, 2], [1], [2]), "one length"),
        (([], [], []), "no customers"),
        (([1], [1], [2], [0]), "counts must be positive"),
    ],
)
def test_impossible_histories_are_refused_by_name(history, message):
    with pytest.raises(ValueError, match=message):
        bg_nbd.fit(*history)


def test_fit_that_does_not_converge_is_an_error():
    def rising_without_end(point):
        return float(np.sin(50 * point).sum()), np.ones(1)

    with pytest.raises(ValueError, match="did not converge on 1 customers"):
        bg_nbd.bounded_maximum(rising_without_end, 1, np.array([2.0]), np.array([1.0]), np.array([9.0]))


def test_fit_that_stops_before_the_gradient_has_vanished_is_taken_up_again_from_there(monkeypatch):
    """A valley of Rosenbrock's form, so narrow that one run of the optimiser ends in it."""

    def valley(log_parameters):
        x, y = log_parameters
        return -(1e8 * (y - x * x) ** 2 + (1 - x) ** 2), np.array([4e8 * x * (y - x * x) + 2 * (1 - x), -2e8 * (y - x * x)])

    bounds = (np.exp([-1.2, 1.0]), np.exp([-5.0, -5.0]), np.exp([5.0, 5.0]))
    found, _ = bg_nbd.bounded_maximum(valley, 1.0, *bounds)
    assert np.log(found) == pytest.approx([1, 1])
    monkeypatch.setattr(bg_nbd, "STARTS", 1)
    with pytest.raises(ValueError, match="did not converge"):
        bg_nbd.bounded_maximum(valley, 1.0, *bounds)
