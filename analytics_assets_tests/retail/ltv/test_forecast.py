"""The forecast: totals and interval coverage on simulated customers, discounting, joining back, and refusals."""

from dataclasses import fields, replace

import numpy as np
import pytest

from analytics_assets.retail.ltv import bg_nbd, forecast, gamma_gamma
from analytics_assets.retail.ltv.forecast import CustomerSummary, LtvModel, NotEnoughHistory
from analytics_assets.retail.ltv.future_purchases import FuturePurchases, future_purchases
from analytics_assets.retail.ltv.revenue_interval import RevenueOfBuyers, revenue_interval

CDNOW = LtvModel(bg_nbd.Parameters(0.525, 6.18, 0.89, 1.614, 0, 1), gamma_gamma.Parameters(6.25, 3.74, 15.44, 0, 1))
LOYAL = LtvModel(bg_nbd.Parameters(3, 6, 0.3, 6, 0, 1), gamma_gamma.Parameters(1.5, 2.3, 50, 0, 1))
HEAVY_TAILED = LtvModel(bg_nbd.Parameters(1.5, 4, 0.5, 4, 0, 1), gamma_gamma.Parameters(0.6, 1.6, 50, 0, 1))


def summary_of(cohort):
    return CustomerSummary(cohort.frequency, cohort.recency, cohort.age, cohort.frequency + 1, cohort.mean_spend)


def five_customers(**changes):
    columns = {
        "frequency": [0, 2, 2, 9, 0],
        "recency_weeks": [0, 30.43, 30.43, 30, 0],
        "age_weeks": [30, 38.86, 38.86, 31, 0],
        "purchase_days": [1, 3, 3, 10, 1],
        "mean_spend": [20.0, 35.0, np.nan, 50.0, -4.0],
    }
    return CustomerSummary(**{name: np.array(column) for name, column in (columns | changes).items()})


@pytest.fixture(scope="module")
def cdnow_summary(cdnow):
    return summary_of(cdnow)


@pytest.fixture(scope="module")
def cdnow_model(cdnow_summary):
    return forecast.fit(cdnow_summary)


@pytest.mark.parametrize(
    ("truth", "oldest", "horizon"),
    [(CDNOW, 78, 52), (CDNOW, 78, 13), (LOYAL, 52, 52), (HEAVY_TAILED, 52, 26)],
    ids=["cdnow, a year", "cdnow, a quarter", "loyal", "heavy-tailed spend"],
)
def test_interval_covers_80_percent_and_totals_are_unbiased_in_the_models_own_world(simulate, truth, oldest, horizon):
    cohort = simulate(truth.purchases, truth.spend, 40_000, oldest, horizon)
    predicted = forecast.forecast(truth, summary_of(cohort), horizon * 7)
    held = (cohort.later_spend >= predicted.expected_revenue_low) & (cohort.later_spend <= predicted.expected_revenue_high)
    likely_to_buy = predicted.expected_revenue_high > 0
    assert held[likely_to_buy].mean() == pytest.approx(0.8, abs=0.02)
    assert held.mean() == pytest.approx(predicted.interval_probability.mean(), abs=0.02)
    assert predicted.expected_orders.sum() == pytest.approx(cohort.later_purchases.sum(), rel=0.03)
    assert predicted.expected_revenue.sum() == pytest.approx(cohort.later_spend.sum(), rel=0.05)


def test_fitted_interval_covers_80_percent_too(simulate):
    cohort = simulate(CDNOW.purchases, CDNOW.spend, 20_000, 78, 26)
    summary = summary_of(cohort)
    predicted = forecast.forecast(forecast.fit(summary), summary, 26 * 7)
    likely_to_buy = predicted.expected_revenue_high > 0
    below, above = (
        cohort.later_spend < predicted.expected_revenue_low,
        cohort.later_spend > predicted.expected_revenue_high,
    )
    assert (below | above)[likely_to_buy].mean() == pytest.approx(0.2, abs=0.02)


def test_interval_has_its_atom_at_zero_where_buying_nothing_is_likely():
    """Customer 0 will hardly return (both bounds 0), 1 may (low 0), 3 surely will (low above 0)."""
    summary = five_customers(frequency=[0, 2, 2, 40, 0], recency_weeks=[0, 30.43, 30.43, 31, 0], purchase_days=[1, 3, 3, 41, 1])
    predicted = forecast.forecast(CDNOW, summary, 7 * 26)
    low, high = predicted.expected_revenue_low, predicted.expected_revenue_high
    assert (low[0], high[0]) == (0, 0)
    assert predicted.expected_revenue[0] > 0
    assert predicted.interval_probability[0] > 0.8 == predicted.interval_probability[1]
    assert low[1] == 0 < high[1]
    assert 0 < low[3] < predicted.expected_revenue[3] < high[3]


def test_where_more_orders_are_to_come_fewer_customers_are_told_that_they_will_buy_nothing():
    """The interval is that of a clock that runs half as fast again, about an expectation that is half as large again."""
    summary = five_customers(frequency=[0, 2, 2, 3, 0], recency_weeks=[0, 30.43, 30.43, 30, 0])
    plain, busy = (forecast.forecast(CDNOW, summary, 7 * 12, orders_factor=factor) for factor in (1.0, 1.5))
    longer = forecast.forecast(CDNOW, summary, 7 * 18)
    assert busy.expected_orders == pytest.approx(1.5 * plain.expected_orders)
    assert busy.expected_revenue == pytest.approx(1.5 * plain.expected_revenue)
    assert busy.interval_probability.tolist() == longer.interval_probability.tolist()
    assert busy.interval_probability[0] < plain.interval_probability[0]
    some = longer.expected_revenue_high > 0
    relative = busy.expected_revenue_high / busy.expected_revenue
    assert relative[some] == pytest.approx((longer.expected_revenue_high / longer.expected_revenue)[some])


def test_interval_widens_with_coverage():
    narrow = forecast.forecast(CDNOW, five_customers(), 365, coverage=0.5)
    wide = forecast.forecast(CDNOW, five_customers(), 365, coverage=0.95)
    assert wide.expected_revenue_high[3] > narrow.expected_revenue_high[3]
    assert wide.expected_revenue_low[3] <= narrow.expected_revenue_low[3]


def test_revenue_interval_is_the_exact_one_where_the_number_of_orders_is_certain():
    """One order for sure: revenue is a beta-prime(p, Q), here sampled."""
    p, shape = 2.0, 5.0
    rng = np.random.default_rng(6)
    revenue = rng.gamma(p, size=2_000_000) / rng.gamma(shape, size=2_000_000)
    once = FuturePurchases(1, np.zeros(1, np.intp), np.ones(1), np.ones(1))
    low, high, _ = revenue_interval(
        RevenueOfBuyers(once, p, np.array([shape])), np.zeros(1, np.intp), np.ones(1), 0.8, np.zeros(1)
    )
    assert [low[0], high[0]] == pytest.approx(np.quantile(revenue, [0.1, 0.9]), rel=0.005)


@pytest.mark.parametrize("model", [CDNOW, LOYAL, HEAVY_TAILED], ids=["cdnow", "loyal", "heavy-tailed spend"])
def test_quantiles_of_buyers_are_those_of_the_mixture_over_their_orders(model):
    """Sampled, at every tenth. One beta-prime in place of the mixture was up to .16 off its level."""
    rng = np.random.default_rng(7)
    p, q = model.spend.p, model.spend.q
    frequency, age = np.array([0.0, 0, 4, 40]), np.array([3.0, 60, 50, 90])
    shape = q + p * (frequency + 1)
    future = future_purchases(model.purchases, 52, frequency, age)
    buyers = RevenueOfBuyers(future, p, shape)
    levels = np.arange(1, 10) / 10
    for history in range(len(frequency)):
        rows = future.history == history
        orders = rng.choice(future.count[rows], 400_000, p=future.probability[rows] / future.probability[rows].sum())
        revenue = rng.gamma(p * orders) / rng.gamma(shape[history], size=len(orders))
        found = buyers.quantile(np.full(len(levels), history), levels)
        assert [np.mean(revenue <= bound) for bound in found] == pytest.approx(levels, abs=0.006)


def test_orders_revenue_and_alive_are_those_of_the_two_models():
    summary = five_customers()
    predicted = forecast.forecast(CDNOW, summary, 7 * 39)
    history = (summary.frequency, summary.recency_weeks, summary.age_weeks)
    orders = bg_nbd.expected_purchases(CDNOW.purchases, 39, *history)
    spend = gamma_gamma.expected_mean_spend(CDNOW.spend, [1, 3, 0, 10, 0], [20, 35, 0, 50, 0])
    assert predicted.expected_orders == pytest.approx(orders, rel=1e-8)
    assert predicted.expected_revenue == pytest.approx(orders * spend, rel=1e-8)
    assert predicted.probability_alive == pytest.approx(bg_nbd.probability_alive(CDNOW.purchases, *history))


def test_customers_without_positive_net_spend_are_given_the_population_mean():
    predicted = forecast.forecast(CDNOW, five_customers(), 365)
    per_order = predicted.expected_revenue / predicted.expected_orders
    assert per_order[[2, 4]] == pytest.approx(CDNOW.spend.population_mean)


def test_rows_come_back_in_the_order_they_went_in(cdnow_summary, cdnow_model):
    shuffled = np.random.default_rng(9).permutation(len(cdnow_summary.age_weeks))
    columns = {field.name: getattr(cdnow_summary, field.name)[shuffled] for field in fields(CustomerSummary)}
    straight = forecast.forecast(cdnow_model, cdnow_summary, 90)
    mixed = forecast.forecast(cdnow_model, CustomerSummary(**columns), 90)
    for field in fields(straight):
        assert getattr(mixed, field.name).tolist() == getattr(straight, field.name)[shuffled].tolist()
    assert forecast.fit(CustomerSummary(**columns)) == cdnow_model


def test_discounting_by_periods_is_close_to_discounting_each_day_and_scales_the_interval():
    summary = five_customers()
    plain = forecast.forecast(CDNOW, summary, 364)
    discounted = forecast.forecast(CDNOW, summary, 364, annual_discount_rate=0.15)
    history = (summary.frequency, summary.recency_weeks, summary.age_weeks)
    days = np.arange(365)
    cumulative = np.array([bg_nbd.expected_purchases(CDNOW.purchases, day / 7, *history) for day in days])
    daily = np.diff(cumulative, axis=0) / 1.15 ** ((days[1:, None] - 0.5) / 365.25)
    present = daily.sum(axis=0) / cumulative[-1]
    assert discounted.expected_revenue == pytest.approx(plain.expected_revenue * present, rel=1e-4)
    assert discounted.expected_revenue_low == pytest.approx(plain.expected_revenue_low * present, rel=1e-4)
    assert discounted.expected_revenue_high == pytest.approx(plain.expected_revenue_high * present, rel=1e-4)
    assert discounted.expected_orders.tolist() == plain.expected_orders.tolist()


def test_spend_is_fitted_on_repeat_buyers_with_spend_and_purchases_on_everyone(cdnow_summary, cdnow_model):
    spend = cdnow_summary.mean_spend.copy()
    one_time = cdnow_summary.frequency == 0
    spend[one_time] *= 100
    assert forecast.fit(replace(cdnow_summary, mean_spend=spend)) == cdnow_model
    assert cdnow_model.purchases.customers == 2357
    assert cdnow_model.spend.customers == 946


def test_too_few_repeat_buyers_are_refused_with_their_number():
    frequency = np.array([0] * 500 + [1] * 29)
    recency = np.where(frequency > 0, np.arange(529) / 100, 0)
    summary = CustomerSummary(frequency, recency, np.full(529, 20.0), frequency + 1, np.arange(529) + 5.0)
    with pytest.raises(NotEnoughHistory, match=r"29 of 529 customers .* needs at least 30"):
        forecast.fit(summary)


def test_empty_summary_has_an_empty_forecast():
    nobody = CustomerSummary(*(np.array([]) for _ in range(5)))
    assert forecast.forecast(CDNOW, nobody, 90, annual_discount_rate=0.1).expected_revenue.shape == (0,)
    with pytest.raises(NotEnoughHistory):
        forecast.fit(nobody)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age_weeks": [1] * 5}, "recency must not exceed age"),
        ({"purchase_days": [0] * 5}, "purchase_days must be at least 1"),
        ({"purchase_days": [1]}, "must have 5 rows"),
        ({"mean_spend": [np.inf] * 5}, "infinite"),
    ],
)
def test_impossible_summaries_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        five_customers(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon_days": 0}, "horizon_days"),
        ({"horizon_days": 90, "annual_discount_rate": -0.1}, "annual_discount_rate"),
        ({"horizon_days": 90, "coverage": 1}, "coverage"),
    ],
)
def test_impossible_horizons_rates_and_coverages_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        forecast.forecast(CDNOW, five_customers(), **arguments)
