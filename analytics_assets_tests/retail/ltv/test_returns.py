"""How often somebody who buys nothing more sends something back, and that intervals know of it."""

import random
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.ltv.backtest import came_true, covered, days_since_last, known_at, refit, scored
from analytics_assets.retail.ltv.future_purchases import FuturePurchases
from analytics_assets.retail.ltv.returns import probability_of_return, return_rates
from analytics_assets.retail.ltv.revenue_interval import RevenueOfBuyers, revenue_interval
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets_tests.retail.ltv.test_planted_truth import purchases_of

FIRST = date(2026, 1, 1)


def of(rows: list[tuple[str, int, int]]) -> pl.DataFrame:
    """Purchases and returns: customer, day from 0, amount."""
    columns = [
        {"customer_id": who, "day": FIRST + timedelta(days=day), "purchase": amount > 0, "net_revenue": Decimal(amount)}
        for who, day, amount in rows
    ]
    schema = {"customer_id": pl.String, "day": pl.Date, "purchase": pl.Boolean, "net_revenue": pl.Decimal(18, 2)}
    return pl.DataFrame(columns, schema).sort("customer_id", "day")


def test_returns_are_counted_by_days_since_the_last_purchase_over_spells_seen_that_far() -> None:
    """Spells by the end of day 5: ann 1 day (she buys again on day 2) and 3, bob 4, cat 0. After that nobody knows."""
    rows = [("ann", 0, 9), ("ann", 2, 9), ("ann", 4, -5), ("bob", 1, 9), ("bob", 2, -9), ("bob", 3, -1), ("cat", 5, 9)]
    late = [("ann", 6, -9), ("bob", 7, 9), ("dan", 4, -3)]
    assert return_rates(of(rows + late), FIRST + timedelta(days=5)) == (1 / 3, 2 / 2, 0, 0)
    assert return_rates(of([("cat", 5, 9)]), FIRST + timedelta(days=5)) == ()
    assert return_rates(of([]), FIRST) == ()


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_those_of_plain_loops(seed: int) -> None:
    chance = random.Random(seed)
    days = {(f"c{chance.randrange(6)}", chance.randrange(30)): chance.choice([5, 5, -3, -5]) for _ in range(60)}
    last, returned, seen = 25, {}, {}
    for who in {who for who, _ in days}:
        since = None
        for day in range(last + 1):
            amount = days.get((who, day))
            if amount and amount > 0:
                since = day
            elif since is not None:
                seen[day - since] = seen.get(day - since, 0) + 1
                returned[day - since] = returned.get(day - since, 0) + (amount is not None)
    expected = [returned[lag] / seen[lag] for lag in sorted(seen)]
    assert return_rates(of([(*key, amount) for key, amount in days.items()]), FIRST + timedelta(days=last)) == tuple(expected)


def test_who_bought_long_ago_sends_nothing_back_and_rates_add_up_over_the_horizon() -> None:
    found = probability_of_return((0.1, 0.2, 0.0), np.array([0, 1, 2, 3, 400]), 2)
    assert found == pytest.approx([-np.expm1(-0.3), -np.expm1(-0.2), 0, 0, 0])
    assert probability_of_return((), np.array([0, 7]), 30).tolist() == [0, 0]


def test_an_interval_that_begins_at_nothing_reaches_further_up_for_those_below_it() -> None:
    """P(some), P(below 0), and what the interval must hold: between them lies P(nothing comes or goes)."""
    some, below = np.array([0.5, 0.5, 0.3, 0.25, 0.95, 0.6]), np.array([0.0, 0.05, 0.05, 0.02, 0.05, 0.25])
    once = RevenueOfBuyers(FuturePurchases(1, np.zeros(1, np.intp), np.ones(1), np.ones(1)), 1.0, np.full(1, 4.0))
    low, high, holds = revenue_interval(once, np.zeros(6, np.intp), some, 0.75, below)
    assert holds == pytest.approx([0.75, 0.75, 0.75, 0.75, 0.75, 0.875 - 0.25])
    assert low[:4].tolist() == [0] * 4 and low[4] > 0 and np.all(high > 0)
    # Given a purchase, revenue is beta-prime(1, 4): P(revenue <= z) = 1 - (1 + z) ** -4.
    inside = some * ((1 + low) ** -4.0 - (1 + high) ** -4.0) + np.where(low > 0, 0, 1 - some - below)
    points = once.log_revenue[0]
    assert once.held[0] == pytest.approx(1 - (1 + np.exp(points)) ** -4.0, abs=1e-12)
    # Straight lines between points h apart miss by no more than h ** 2 / 8 times the largest second derivative, which of
    # 1 - (1 + exp(x)) ** -4 is .2091.
    missed = np.diff(points).max() ** 2 / 8 * 0.2092
    assert np.all(np.abs(inside - holds) < some * missed * np.where(low > 0, 2, 1))
    nothing = revenue_interval(once, np.zeros(1, np.intp), np.array([0.1]), 0.75, np.array([0.04]))
    assert [float(part[0]) for part in nothing] == [0, 0, pytest.approx(0.86)]


def test_intervals_of_young_shops_hold_what_they_state_although_two_in_a_hundred_only_send_back() -> None:
    """Shops of two months whose next 90 days are known; without returns they held 2.3 in a hundred fewer than stated."""
    opened, now = date(2025, 11, 1), date(2025, 12, 31)
    missed, below, foreseen = [], [], []
    for seed in range(401, 407):
        shop = Retailer(
            customers=8_000,
            first_day=opened,
            last_day=date(2026, 3, 31),
            time_zone="UTC",
            seed=seed,
            visitors_per_customer=0,
            visits_per_week=0,
            visits_per_order=0,
        )
        purchases = purchases_of(simulate(shop))
        known = known_at(purchases, now)
        served = refit(purchases.filter(pl.col("day") <= now), now, 90, 0.8)
        said, _ = scored(served, known, now, 90, 0.0, 0.8)
        actual = came_true(purchases, known, now, 90)["revenue"].to_numpy()
        missed.append(covered(said, actual) - np.mean(said.interval_probability))
        below.append(np.mean(actual < 0))
        foreseen.append(np.mean(probability_of_return(served.return_rates, days_since_last(known), 90) * (1 - _buys(actual))))
    assert np.mean(below) > 0.015
    assert np.mean(foreseen) == pytest.approx(np.mean(below), rel=0.25)
    assert abs(np.mean(missed)) < 0.012


def _buys(actual: np.ndarray) -> float:
    """Share of customers who brought something."""
    return float(np.mean(actual > 0))
