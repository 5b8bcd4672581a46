"""The forecast beside simulated companies whose future is known: totals, intervals, ranking, and a season to be found."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.ltv.backtest import Refit, came_true, covered, known_at, refit, scored, serving, summary_of
from analytics_assets.retail.ltv.forecast import fit, forecast
from analytics_assets.retail.ltv.season import EVEN, Season
from analytics_assets.simulation.retailer import Company, Retailer, simulate

FIRST, LAST = date(2025, 11, 1), date(2026, 4, 1)


def purchases_of(company: Company) -> pl.DataFrame:
    """What named customers bought and returned, as the backtest takes it."""
    first, customers = company.retailer.first_day, company.retailer.customers
    named = company.identities.head(customers).with_row_index("identity_row").rename({"identity": "customer_id"})
    return (
        company.transactions.join(
            named.with_columns(pl.col("identity_row").cast(pl.Int64)), left_on="identity", right_on="identity_row"
        )
        .group_by("customer_id", day=(pl.lit(first) + pl.duration(days=pl.col("day"))).cast(pl.Date))
        .agg(purchase=(~pl.col("refund")).any(), net_revenue=(pl.col("total_pence").sum() / 100).round(2).cast(pl.Decimal(18, 2)))
        .sort("customer_id", "day")
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def forecast_and_truth(request) -> pl.DataFrame:
    """One row per customer: the forecast of the next 365 days on the day of a refit, and what came true, returns taken off."""
    company = simulate(Retailer(customers=27_000, first_day=FIRST, last_day=LAST, time_zone="UTC", seed=request.param))
    purchases = purchases_of(company)
    known = known_at(purchases, LAST)
    found, _ = scored(refit(purchases, LAST, 365, 0.8), known, LAST, 365, 0.0, 0.8)
    forecast = known.select("customer_id").with_columns(
        expected_orders=pl.Series(found.expected_orders),
        expected_revenue=pl.Series(found.expected_revenue),
        low=pl.Series(found.expected_revenue_low),
        high=pl.Series(found.expected_revenue_high),
    )
    return forecast.join(company.customers, on="customer_id").with_columns(revenue=pl.col("holdout_net_revenue_pence") / 100)


def test_expected_orders_of_the_next_year_are_within_ten_percent_of_what_came_true(forecast_and_truth: pl.DataFrame) -> None:
    """The size of the company that `make run` simulates; a fit on a third of it scatters by about 4 %."""
    found = forecast_and_truth
    assert found["expected_orders"].sum() == pytest.approx(found["holdout_orders"].sum(), rel=0.10)


def test_expected_revenue_of_the_next_year_is_within_ten_percent_of_what_came_true(forecast_and_truth: pl.DataFrame) -> None:
    """Returns of what had been bought before are in the truth: without the factor it is 9 to 20 % too high."""
    found = forecast_and_truth
    assert found["expected_revenue"].sum() == pytest.approx(found["revenue"].sum(), rel=0.10)


def test_eight_of_ten_customers_end_up_inside_their_interval(forecast_and_truth: pl.DataFrame) -> None:
    """Within two points of what is stated. The interval knows chance but not the doubt about the fit, which is common to all."""
    inside = forecast_and_truth.select(pl.col("revenue").is_between(pl.col("low") - 0.005, pl.col("high") + 0.005).mean()).item()
    assert inside == pytest.approx(0.8, abs=0.02)


def test_customers_ranked_in_the_best_tenth_bring_several_times_their_share(forecast_and_truth: pl.DataFrame) -> None:
    ranked = forecast_and_truth.sort("expected_revenue", descending=True)
    best = ranked.head(len(ranked) // 10)
    assert best["revenue"].sum() > 2.5 * ranked["revenue"].sum() / 10


@pytest.fixture(scope="module")
def seasonal() -> pl.DataFrame:
    """Purchases of two and a half years in which the season speeds up and slows down repeat purchases, peaking on 8 December."""
    shop = Retailer(
        customers=6_000, first_day=date(2024, 4, 1), last_day=date(2026, 12, 31), time_zone="UTC", seed=4, season_on_orders=True
    )
    return purchases_of(simulate(shop))


def of_the_next_60_days(purchases: pl.DataFrame, anchor: date, season: Season = EVEN) -> tuple[float, float, float]:
    """The factor, and the bias without and with it."""
    found = refit(purchases, anchor, 60, 0.8, season)
    known = known_at(purchases, anchor)
    said, factors = scored(found, known, anchor, 60, 0.0, 0.8)
    actual = came_true(purchases, known, anchor, 60)["revenue"].sum()
    total = float(np.sum(said.expected_revenue))
    return factors.revenue.value, total / factors.revenue.value / actual - 1, total / actual - 1


def test_the_christmas_of_last_year_is_recovered_and_gone_after_it(seasonal: pl.DataFrame) -> None:
    before, without, with_it = of_the_next_60_days(seasonal, date(2026, 11, 1))
    assert before > 1.2
    assert without < -0.2
    assert abs(with_it) < 0.12
    after, without, with_it = of_the_next_60_days(seasonal, date(2026, 1, 1) + timedelta(days=31))
    assert after < 0.9
    assert without > 0.1
    assert abs(with_it) < 0.12


def test_intervals_know_that_christmas_is_busy_and_january_is_not(seasonal: pl.DataFrame) -> None:
    """Within two points, also of those told 0 to 0. Stretched intervals of an even clock were 2 to 4 points off, before it and after."""
    for anchor in (date(2026, 11, 1), date(2026, 2, 1)):
        known = known_at(seasonal, anchor)
        said, factors = scored(refit(seasonal, anchor, 60, 0.8), known, anchor, 60, 0.0, 0.8)
        assert abs(factors.orders.value - 1) > 0.1
        actual = came_true(seasonal, known, anchor, 60)["revenue"].to_numpy()
        assert covered(said, actual) == pytest.approx(np.mean(said.interval_probability), abs=0.02)
        nothing = said.expected_revenue_high == 0
        assert np.mean(actual[nothing] == 0) == pytest.approx(np.mean(said.interval_probability[nothing]), abs=0.02)


def planted_season(shop: Retailer) -> Season:
    """What the owner of a simulated shop would tell: its heights of the year, a month's days added up."""
    days = [date(2025, 1, 1) + timedelta(days=n) for n in range(365)]
    from_christmas, from_summer = (
        np.array([min(abs((day - date(year, *peak)).days) for year in (2024, 2025, 2026)) for day in days])
        for peak in ((12, 8), (7, 1))
    )
    height = (
        1
        + shop.christmas_lift * np.exp(-((from_christmas / 14) ** 2) / 2)
        + shop.summer_lift * np.exp(-((from_summer / 18) ** 2) / 2)
    )
    return Season(tuple(np.bincount([day.month - 1 for day in days], height)))


@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_first_christmas_is_foreseen_if_the_owner_tells_of_it_and_only_then(seed: int) -> None:
    shop = Retailer(
        customers=6_000,
        first_day=date(2026, 2, 1),
        last_day=date(2026, 12, 31),
        time_zone="UTC",
        seed=seed,
        season_on_orders=True,
    )
    purchases = purchases_of(simulate(shop))
    _, _, untold = of_the_next_60_days(purchases, date(2026, 11, 1))
    _, _, told = of_the_next_60_days(purchases, date(2026, 11, 1), planted_season(shop))
    assert untold < -0.25
    assert abs(told) < 0.1


def test_a_season_that_is_told_wrong_is_overruled_by_what_was_seen_in_earlier_years(seasonal: pl.DataFrame) -> None:
    """Told Christmas in June: a third of the error at least is made up after two Novembers."""
    told = planted_season(Retailer()).sales
    assert told is not None
    summer_christmas = Season(told[6:] + told[:6])
    factor, without, with_it = of_the_next_60_days(seasonal, date(2026, 11, 1), summer_christmas)
    assert factor > 1.1
    assert without < -0.2
    assert abs(with_it) < abs(without) * 2 / 3


def test_a_shop_of_two_months_is_forecast_without_bias() -> None:
    """Orders of the next 90 days, the mean of three shops. With recency and age in whole days they were 13 to 17 % too high."""
    opened, now = date(2025, 11, 1), date(2025, 12, 31)
    biases = []
    for seed in (1, 2, 3):
        company = simulate(
            Retailer(
                customers=60_000,
                first_day=opened,
                last_day=date(2026, 3, 31),
                time_zone="UTC",
                seed=seed,
                visitors_per_customer=0,
            )
        )
        purchases = purchases_of(company)
        known = known_at(purchases, now)
        summary = summary_of(known, now)
        expected = forecast(fit(summary), summary, 90).expected_orders.sum()
        biases.append(expected / came_true(purchases, known, now, 90)["orders"].sum() - 1)
    assert abs(np.mean(biases)) < 0.05


def test_over_shops_and_days_coverage_is_within_two_points_of_what_the_intervals_state() -> None:
    """Shops of 8,000 customers, in their first and second year, on the days of refits and a month after them.

    What all customers of a shop have in common moves a single day by one to two points (standard deviation), by four while the shop
    has five months and a thousand customers, whose habits are in doubt; over shops that evens out (twelve: .001 off). The shorter
    the horizon, the more customers will probably buy nothing, and the more end up inside: .80 a year ahead, .86 in 90 days, .92 in 30.
    """
    found = []
    for seed in (1, 2, 3):
        shop = Retailer(
            customers=8_000,
            first_day=date(2025, 4, 1),
            last_day=date(2027, 6, 30),
            time_zone="UTC",
            seed=seed,
            visitors_per_customer=0,
            visits_per_week=0,
            visits_per_order=0,
        )
        purchases = purchases_of(simulate(shop))
        for day, days in (
            (date(2025, 9, 1), 365), (date(2026, 2, 1), 365), (date(2026, 4, 30), 365),
            (date(2026, 2, 28), 90), (date(2026, 11, 15), 90), (date(2027, 3, 31), 90),
            (date(2026, 8, 1), 30), (date(2027, 3, 31), 30),
        ):  # fmt: skip

            def refit_at(anchor: date, purchases: pl.DataFrame = purchases, days: int = days) -> Refit:
                return refit(purchases, anchor, days, 0.8)

            known = known_at(purchases, day)
            said, _ = scored(serving(day, refit_at).refit, known, day, days, 0.0, 0.8)
            actual = came_true(purchases, known, day, days)["revenue"].to_numpy()
            found.append((covered(said, actual), np.mean(said.interval_probability), days))
    inside, stated, horizon = np.array(found).T
    for days in (30, 90, 365):
        assert np.mean(inside[horizon == days]) == pytest.approx(np.mean(stated[horizon == days]), abs=0.02)
