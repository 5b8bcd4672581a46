"""Retention by cohort: by hand, against plain loops on random shops, and through Dagster."""

import random
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.cohorts.assets import cohort_retention_asset
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.settings import FIRST_ORDER_MONTH

FIGURES = ("period", "customers", "active", "retention", "net_revenue", "cumulative_net_revenue_per_customer")


def cohort(rows: pl.DataFrame, name: str, by: str = FIRST_ORDER_MONTH, currency: str = "GBP") -> list[tuple]:
    chosen = rows.filter(pl.col("cohort_by") == by, pl.col("cohort") == name, pl.col("currency") == currency)
    return chosen.select(FIGURES).rows()


def money(*amounts: str) -> list[Decimal]:
    return [Decimal(amount) for amount in amounts]


# ------------------------------------------------------------------------------------------------------------ by hand


def test_a_cohort_by_month_comes_back_stays_away_and_comes_back(shop) -> None:
    """Three begin in January. One is back in February, nobody in March: a zero. Two in April, one of them twice."""
    for who, day, amount in [
        ("a", "2026-01-01", 10), ("b", "2026-01-15", 20), ("b", "2026-01-20", -5), ("c", "2026-01-31", 30),
        ("a", "2026-02-28", "7.50"), ("b", "2026-04-01", 3), ("c", "2026-04-02", 4), ("c", "2026-04-30", 5), ("d", "2026-04-30", 8),
    ]:  # fmt: skip
        shop.bought(who, day, amount)
    rows = shop.retention("2026-04-30")
    (m0, c0), (m1, c1), (m2, c2), (m3, c3) = (
        money("55", "18.33"), money("7.5", "20.83"), money("0", "20.83"), money("12", "24.83"),
    )  # fmt: skip
    assert cohort(rows, "2026-01") == [
        (0, 3, 3, 1.0, m0, c0), (1, 3, 1, 0.333333, m1, c1), (2, 3, 0, 0.0, m2, c2), (3, 3, 2, 0.666667, m3, c3),
    ]  # fmt: skip
    assert cohort(rows, "2026-04") == [(0, 1, 1, 1.0, *money("8", "8"))]
    assert rows["cohort"].unique().sort().to_list() == ["2026-01", "2026-04"]


@pytest.mark.parametrize(("last", "is_over"), [("2024-02-28", False), ("2024-02-29", True), ("2024-03-01", True)])
def test_a_running_month_is_empty_and_not_zero_up_to_its_last_day(shop, last: str, is_over: bool) -> None:
    shop.first_day = date(2024, 1, 1)
    shop.bought("a", "2024-01-05", 10)
    shop.bought("a", "2024-02-01", 20)
    _, february, *more = cohort(shop.retention(last), "2024-01")
    assert february == ((1, 1, 1, 1.0, *money("20", "30")) if is_over else (1, 1, None, None, None, None))
    assert more == ([(2, 1, None, None, None, None)] if last == "2024-03-01" else [])


def test_the_newest_cohort_stands_there_without_figures(shop) -> None:
    shop.bought("a", "2026-01-05", 10)
    assert cohort(shop.retention("2026-01-05"), "2026-01") == [(0, 1, None, None, None, None)]


def test_the_newest_cohort_grows_from_day_to_day(shop) -> None:
    for day in (5, 6, 7):
        shop.bought(f"customer {day}", date(2026, 1, day), 10)
    assert shop.retention("2026-01-05", "2026-01-07")["customers"].to_list() == [1, 2, 3]


def test_periods_go_on_over_the_end_of_the_year(shop) -> None:
    shop.first_day = date(2025, 11, 1)
    shop.bought("a", "2025-11-30", 1)
    shop.bought("a", "2026-02-01", 1)
    found = cohort(shop.retention("2026-02-28"), "2025-11")
    assert [(period, active) for period, _, active, *_ in found] == [(0, 1), (1, 0), (2, 0), (3, 1)]
    assert shop.retention("2026-12-31")["period"].max() == 13


def test_each_currency_has_its_own_first_order(shop) -> None:
    shop.bought("a", "2026-01-01", 10, "GBP")
    shop.bought("a", "2026-02-01", 900, "JPY")
    rows = shop.retention("2026-02-28")
    assert [row[:3] for row in cohort(rows, "2026-01")] == [(0, 1, 1), (1, 1, 0)]
    assert cohort(rows, "2026-02", currency="JPY") == [(0, 1, 1, 1.0, *money("900", "900"))]
    assert len(rows) == 3


def test_who_never_ordered_is_in_no_cohort_and_a_refund_before_the_first_order_is_put_down_in_period_0(shop) -> None:
    shop.bought("only back", "2026-01-01", -10)
    shop.bought("early back", "2026-01-01", -4)
    shop.bought("early back", "2026-02-01", 10)
    assert cohort(shop.retention("2026-02-28"), "2026-02") == [(0, 1, 1, 1.0, *money("6", "6"))]
    assert shop.retention("2026-02-28").height == 1


def test_a_month_with_a_refund_only_is_not_active(shop) -> None:
    shop.bought("a", "2026-01-01", 10)
    shop.bought("a", "2026-02-01", -10)
    assert cohort(shop.retention("2026-02-28"), "2026-01")[1] == (1, 1, 0, 0.0, *money("-10", "0"))


def test_visitors_without_a_name_are_no_customers(shop) -> None:
    shop.anonymous = {"visitor"}
    shop.bought("visitor", "2026-01-01", 10)
    assert shop.retention("2026-01-31").is_empty()


def test_a_cohort_by_trait_counts_only_those_whose_period_is_over(shop) -> None:
    """a and b began in January, c in February: at the end of March period 2 is over for a and b only."""
    shop.cohorts = ("country",)
    for who, day, amount in [("a", "2026-01-10", 10), ("b", "2026-01-20", 20), ("c", "2026-02-10", 40), ("x", "2026-03-05", 1),
                             ("a", "2026-03-01", 5), ("c", "2026-03-02", 8)]:  # fmt: skip
        shop.bought(who, day, amount)
    for who in "abc":
        shop.said(who, "2026-01-01", "Ireland")
    rows = shop.retention("2026-03-31")
    assert cohort(rows, "Ireland", "country") == [
        (0, 3, 3, 1.0, *money("70", "23.33")),
        (1, 3, 1, 0.333333, *money("8", "26")),
        (2, 2, 1, 0.5, *money("5", "17.5")),
    ]
    assert cohort(rows, "unknown", "country") == [(0, 1, 1, 1.0, *money("1", "1"))]
    rows = shop.retention("2026-03-30")
    assert cohort(rows, "Ireland", "country")[1:] == [(1, 2, 0, 0.0, *money("0", "15")), (2, 2, None, None, None, None)]


def test_the_earliest_value_over_all_identities_counts_and_ties_go_to_the_smallest(shop) -> None:
    shop.cohorts = ("country", "channel")
    shop.merged = {"a2": ("a", date(2026, 1, 1))}
    shop.bought("a", "2026-01-10")
    shop.said("a", "2026-01-05", "France", second=9)
    shop.said("a2", "2026-01-05", "Spain", second=8)
    shop.said("a2", "2026-01-07", "Italy", second=1)
    shop.said("a2", "2026-01-05", "shop", "channel")
    shop.said("a", "2026-01-05", "web", "channel")
    shop.said("a", "2026-01-04", "a trait nobody asked for", "plan")
    rows = shop.retention("2026-01-31").filter(pl.col("cohort_by") != FIRST_ORDER_MONTH)
    assert rows.select("cohort_by", "cohort").rows() == [("channel", "web"), ("country", "Spain")]


def test_a_value_is_unknown_until_the_day_on_which_it_is_said_or_the_merge_that_brings_it(shop) -> None:
    shop.cohorts = ("country",)
    shop.merged = {"b2": ("b", date(2026, 1, 13))}
    shop.bought("a", "2026-01-10")
    shop.bought("b", "2026-01-10")
    shop.said("a", "2026-01-12", "France")
    shop.said("b2", "2026-01-01", "Spain")
    rows = shop.retention("2026-01-11", "2026-01-13").filter(pl.col("cohort_by") == "country")
    assert rows.select("as_of_date", "cohort", "customers").rows() == [
        (date(2026, 1, 11), "unknown", 2),
        (date(2026, 1, 12), "France", 1), (date(2026, 1, 12), "unknown", 1),
        (date(2026, 1, 13), "France", 1), (date(2026, 1, 13), "Spain", 1),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ by plain loops


def month_of(day: date) -> int:
    return 12 * day.year + day.month


def brute_force(shop, day: date) -> dict[tuple[str, str, str, int], tuple[Any, ...]]:
    """`FIGURES` after the period by cohort_by, cohort, currency and period, one customer and month after the other."""
    tomorrow = month_of(day + timedelta(days=1))
    baskets: dict[tuple[str, str], list[dict]] = {}
    for order in shop.orders:
        if order["order_date"] <= day:
            baskets.setdefault((shop.customer_of(order["identity"], day), order["currency"]), []).append(order)
    cells: dict[tuple[str, str, str, int], list[tuple[bool, bool, Decimal, Decimal]]] = {}
    for (customer, currency), orders in baskets.items():
        first = min((month_of(o["order_date"]) for o in orders if o["kind"] == "order"), default=None)
        if first is None:
            continue
        cohorts = {FIRST_ORDER_MONTH: f"{(first - 1) // 12}-{(first - 1) % 12 + 1:02}"}
        for trait in shop.cohorts:
            values = sorted(
                (t["first_second"], t["identity"], t["value"])
                for t in shop.traits
                if t["trait"] == trait and t["event_date"] <= day and shop.customer_of(t["identity"], day) == customer
            )
            cohorts[trait] = values[0][2] if values else "unknown"
        for period in range(month_of(day) - first + 1):
            inside = [o for o in orders if max(month_of(o["order_date"]) - first, 0) == period]
            upto = [o for o in orders if month_of(o["order_date"]) - first <= period]
            cell = (
                first + period < tomorrow,
                any(o["kind"] == "order" for o in inside),
                sum((o["net_revenue"] for o in inside), Decimal(0)),
                sum((o["net_revenue"] for o in upto), Decimal(0)),
            )
            for by, name in cohorts.items():
                cells.setdefault((by, name, currency, period), []).append(cell)
    found: dict[tuple[str, str, str, int], tuple[Any, ...]] = {}
    for key, customers in cells.items():
        over = [cell for cell in customers if cell[0]]
        if not over:
            found[key] = (len(customers), None, None, None, None)
            continue
        active = sum(cell[1] for cell in over)
        mean = sum(cell[3] for cell in over) / len(over)
        found[key] = (
            len(over), active, round(active / len(over), 6), sum(cell[2] for cell in over),
            (mean * 100 + Decimal("0.5")).to_integral_value(ROUND_FLOOR) / 100,
        )  # fmt: skip
    return found


def fill(shop, seed: int, people: int = 25, orders: int = 120, days: int = 170) -> None:
    chance = random.Random(seed)
    shop.cohorts = ("country", "channel")
    for _ in range(orders):
        who, day = f"p{int(people * chance.random() ** 1.5)}", date(2026, 1, 1) + timedelta(days=chance.randrange(days))
        amount = chance.choice([5, 10, Decimal("9.99"), Decimal("0.01")]) * (1 if chance.random() < 0.8 else -1)
        shop.bought(who, day, amount, chance.choice(["GBP", "GBP", "EUR"]))
    keys = {(f"p{chance.randrange(people)}", chance.randrange(days), chance.choice(shop.cohorts)) for _ in range(40)}
    for who, number, trait in sorted(keys):
        shop.said(who, date(2026, 1, 1) + timedelta(days=number), chance.choice("ABC"), trait, second=chance.randrange(2))
    for number in range(3):
        shop.merged[f"p{number * 7 + 1}"] = (f"p{number}", date(2026, 1, 1) + timedelta(days=chance.randrange(days)))


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_is_that_of_plain_loops_over_customers_and_months(shop, seed: int) -> None:
    fill(shop, seed)
    first, last = date(2026, 5, 29), date(2026, 6, 2)
    rows = shop.retention(first, last)
    for day in (first + timedelta(days=number) for number in range(5)):
        found = {
            (by, name, currency, period): tuple(row)
            for by, name, currency, period, *row in rows.filter(pl.col("as_of_date") == day)
            .select("cohort_by", "cohort", "currency", *FIGURES)
            .rows()
        }
        assert found == brute_force(shop, day)


def test_revenue_of_all_periods_is_that_of_the_customers_who_ordered(shop) -> None:
    fill(shop, 11)
    day = date(2026, 5, 31)
    rows = shop.retention(day)
    ordered = {
        (shop.customer_of(o["identity"], day), o["currency"])
        for o in shop.orders
        if o["kind"] == "order" and o["order_date"] <= day
    }
    for currency in ("EUR", "GBP"):
        total = sum(
            o["net_revenue"]
            for o in shop.orders
            if o["order_date"] <= day
            and o["currency"] == currency
            and (shop.customer_of(o["identity"], day), currency) in ordered
        )
        by = rows.filter(pl.col("currency") == currency).group_by("cohort_by").agg(pl.col("net_revenue").sum())
        assert dict(by.rows()) == {FIRST_ORDER_MONTH: total, "country": total, "channel": total}


def test_planted_rates_of_coming_back_are_recovered(shop) -> None:
    """Of those from Ireland 60 % order in each later month, of the others 20 %: within three standard errors of 400 people."""
    rng = np.random.default_rng(1)
    shop.cohorts = ("country",)
    for number in range(800):
        rate = 0.6 if number % 2 else 0.2
        start = int(rng.integers(0, 3))
        shop.said(str(number), "2026-01-01", "Ireland" if number % 2 else "Peru")
        shop.bought(str(number), date(2026, 1 + start, 15))
        for later in range(start + 1, 6):
            if rng.random() < rate:
                shop.bought(str(number), date(2026, 1 + later, int(rng.integers(1, 29))))
    rows = shop.retention("2026-06-30").filter(pl.col("cohort_by") == "country", pl.col("period") > 0)
    assert len(rows) == 10
    for name, rate in (("Ireland", 0.6), ("Peru", 0.2)):
        for customers, found in rows.filter(pl.col("cohort") == name).select("customers", "retention").rows():
            assert abs(found - rate) < 3 * (rate * (1 - rate) / customers) ** 0.5


# ------------------------------------------------------------------------------------------- the same day, however made


def test_a_day_alone_has_the_rows_that_it_has_in_a_range(shop) -> None:
    fill(shop, 7)
    first, last = date(2026, 5, 28), date(2026, 6, 3)
    shop.open(first, last)
    whole = shop.retention(first, last, opened=True)
    for day in (first, date(2026, 5, 31), last):
        assert shop.retention(day, opened=True).equals(whole.filter(pl.col("as_of_date") == day))


def test_what_happens_later_changes_nothing(shop) -> None:
    fill(shop, 8, days=120)
    before = shop.retention("2026-04-30")
    for number in range(25):
        shop.bought(f"p{number}", "2026-05-01", 999)
        shop.said(f"p{number}", "2026-05-01", "Z")
    assert shop.retention("2026-04-30").equals(before)


# ------------------------------------------------------------------------------------------------------ through Dagster


def materialize(shop, day: date) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        for need in ("orders", "traits", "identities", "customers"):
            for key in shop.platform.clock.days.get_partition_keys():
                if key == str(day) or (need in ("orders", "traits") and key < str(day)):
                    instance.report_runless_asset_event(dg.AssetMaterialization(need, partition=key))
        asset = cohort_retention_asset(shop.platform, dg.AutomationCondition.eager())
        return dg.materialize([asset], instance=instance, partition_key=str(day), raise_on_error=False)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def test_the_asset_passes_its_checks_and_shows_a_heat_map(shop) -> None:
    fill(shop, 1)
    day = date(2026, 5, 31)
    shop.open(day, day)
    result = materialize(shop, day)
    assert result.success
    assert checks(result) == {
        "inputs_ready": True, "as_declared": True, "retention_is_a_share": True, "every_customer_is_in_a_cohort": True,
    }  # fmt: skip
    (event,) = result.asset_materializations_for_node("cohort_retention")
    assert "data:image/png;base64" in event.metadata["plot"].value


def test_an_empty_day_has_a_plot_too(shop) -> None:
    day = date(2026, 1, 1)
    shop.open(day, day)
    assert materialize(shop, day).success


def test_a_customer_in_no_cohort_is_found(shop) -> None:
    fill(shop, 1)
    day = date(2026, 5, 31)
    shop.open(day, day)
    shop.write(CUSTOMERS, [
        {"as_of_date": day, "customer_id": "ghost", "orders": 1, "refunds": 0, "currency": "GBP", "net_revenue": Decimal(1)}
    ])  # fmt: skip
    result = materialize(shop, day)
    assert not result.success and not checks(result)["every_customer_is_in_a_cohort"]


def test_traits_are_needed_only_where_the_settings_name_cohorts(shop) -> None:
    for shop.cohorts in ((), ("country",)):
        asset = cohort_retention_asset(shop.platform, dg.AutomationCondition.eager())
        assert (dg.AssetKey("traits") in asset.asset_deps[dg.AssetKey("cohort_retention")]) == bool(shop.cohorts)
