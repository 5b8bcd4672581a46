"""The simulated retailer keeps the laws that were planted, the calendar, and its own books."""

from __future__ import annotations

import base64
import re
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from analytics_assets.simulation.retailer import Company, Retailer, simulate
from analytics_assets.simulation.shopping import MOST_HABITS, ORDER_GAP_SECONDS

LONDON = ZoneInfo("Europe/London")


@pytest.fixture(scope="module")
def company() -> Company:
    return simulate(Retailer(customers=20_000, visitors_per_customer=0.1, visits_per_week=0.01, visits_per_order=0.1))


def assert_mean(values: np.ndarray, expected: float, tolerance: float = 0.0) -> None:
    """The mean is within four standard errors, and a tolerance for rounding, of what it should be."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error + tolerance, (values.mean(), expected, error)


def days_since(instant: int, column: pl.Series) -> np.ndarray:
    return (instant - column.dt.epoch("s").to_numpy()) / 86_400


def test_purchase_rates_have_the_planted_mean_and_variance(company: Company) -> None:
    r, alpha = company.retailer.purchase_r, company.retailer.purchase_alpha
    rate = company.customers["lambda_per_week"].to_numpy()
    assert_mean(rate, r / alpha)
    assert_mean((rate - r / alpha) ** 2, r / alpha**2)


def test_dropout_probabilities_have_the_planted_mean(company: Company) -> None:
    a, b = company.retailer.dropout_a, company.retailer.dropout_b
    assert_mean(company.customers["dropout_p"].to_numpy(), a / (a + b))


def test_share_that_drops_out_at_the_first_purchase_is_that_of_the_mbg_law(company: Company) -> None:
    a, b = company.retailer.dropout_a, company.retailer.dropout_b
    at_once = (company.customers["dropped_out_at"] == company.customers["acquired_at"]).fill_null(False)
    assert_mean(at_once.cast(pl.Float64).to_numpy(), a / (a + b))


def test_nobody_buys_after_dropping_out(company: Company) -> None:
    last = company.transactions.filter(~pl.col("refund")).group_by("identity").agg(pl.col("at").max())
    dropped = company.customers.with_row_index("identity").drop_nulls("dropped_out_at")
    joined = dropped.with_columns(pl.col("identity").cast(pl.Int64)).join(last, on="identity")
    assert joined.height == dropped.height
    assert (joined["dropped_out_at"].dt.epoch("s") == joined["at"]).all()
    assert (dropped["holdout_orders"] == 0).all()


def test_repeat_orders_meet_the_expectation_given_rate_and_dropout(company: Company) -> None:
    """E[repeats in t] = (1 - p) / p * (1 - exp(-lambda p t)): the MBG process with both parameters known."""
    customers = company.customers
    rate, p = customers["lambda_per_week"].to_numpy() / 7, customers["dropout_p"].to_numpy()
    expected = (1 - p) * -np.expm1(-rate * p * days_since(company.end_instant, customers["acquired_at"])) / p
    assert_mean(customers["orders"].to_numpy() - 1 - expected, 0)


def test_holdout_goes_on_with_the_same_process(company: Company) -> None:
    """Of those alive on the last day: E[orders in t] = (1 - exp(-lambda p t)) / p."""
    alive = company.customers.filter(pl.col("dropped_out_at").is_null())
    rate, p = alive["lambda_per_week"].to_numpy() / 7, alive["dropout_p"].to_numpy()
    assert_mean(alive["holdout_orders"].to_numpy() + np.expm1(-rate * p * 365) / p, 0)
    spend = alive["holdout_orders"].to_numpy() * alive["mean_spend"].to_numpy()
    assert_mean(alive["holdout_spend_pence"].to_numpy() / 100 - spend, 0, tolerance=0.01 * spend.mean())


def test_order_totals_follow_the_gamma_gamma_law(company: Company) -> None:
    """An order over its customer's mean is Gamma(p, p): mean 1, variance 1 / p. Price points may cost 1 %."""
    retailer = company.retailer
    orders = company.transactions.filter(~pl.col("refund") & (pl.col("identity") < retailer.customers))
    mean = company.customers["mean_spend"].gather(orders["identity"]).to_numpy()
    ratio = orders["total_pence"].to_numpy() / 100 / mean
    assert_mean(ratio, 1, tolerance=0.01)
    assert ratio.var() == pytest.approx(1 / retailer.spend_p, rel=0.1)
    first = orders.unique("identity", keep="first", maintain_order=True)
    expected = retailer.spend_p * retailer.spend_gamma / (retailer.spend_q - 1)
    assert_mean(first["total_pence"].to_numpy() / 100, expected, tolerance=0.01 * expected)


def test_totals_are_the_sums_of_their_lines_to_the_penny(company: Company) -> None:
    sums = (
        company.items.group_by("transaction")
        .agg((pl.col("quantity") * pl.col("price_pence")).sum().alias("sum"), pl.len().alias("n"))
        .sort("transaction")
    )
    assert sums["sum"].to_list() == company.transactions["total_pence"].to_list()
    assert sums["n"].to_list() == company.transactions["lines"].to_list()
    assert (company.items["price_pence"] == company.catalogue["price_pence"].gather(company.items["product"])).all()


def test_customer_truth_is_what_the_transactions_say(company: Company) -> None:
    mine = company.transactions.filter(pl.col("identity") < company.retailer.customers)
    sums = mine.group_by("identity").agg((~pl.col("refund")).sum(), pl.col("total_pence").sum()).sort("identity")
    assert sums["refund"].to_list() == company.customers["orders"].to_list()
    assert sums["total_pence"].to_list() == company.customers["net_revenue_pence"].to_list()


def test_habits_are_those_of_the_law(company: Company) -> None:
    retailer, habits = company.retailer, company.habits
    has = np.isin(np.arange(retailer.customers), habits["identity"])
    assert_mean(has.astype(float), retailer.habits)
    assert_mean(habits["days"].to_numpy(), retailer.habit_days, tolerance=0.5)
    assert habits["days"].min() >= 7  # type: ignore[operator]
    assert habits.select(pl.struct("identity", "product").is_unique().all()).item()
    each = habits.group_by("identity").len()["len"]
    assert each.max() == MOST_HABITS and each.min() == 1
    dearest = company.catalogue["price_pence"].sort()[retailer.products // 10 - 1]
    assert (company.catalogue["price_pence"].gather(habits["product"]) <= dearest).all()


def test_what_is_due_by_habit_is_in_the_next_order_as_often_as_planted(company: Company) -> None:
    """Counted from the purchases alone; among orders so dear that a cheap article never stays out for its price."""
    retailer = company.retailer
    orders = company.transactions.with_row_index("transaction").filter(
        ~pl.col("refund") & (pl.col("identity") < retailer.customers)
    )
    orders = orders.with_columns(pl.col("transaction").cast(pl.Int64))
    bought = company.items.select("transaction", "product", bought=True).unique()
    seen = (
        orders.join(company.habits, on="identity")
        .join(bought, on=["transaction", "product"], how="left", maintain_order="left")
        .sort("identity", "product", "at")
        .with_columns(since=pl.col("at") - pl.when("bought").then("at").forward_fill().shift(1).over("identity", "product"))
        .filter(pl.col("total_pence") > 10_000)
    )
    due = seen.filter((pl.col("since") / 86_400 > pl.col("days") + 1) | pl.col("since").is_null())
    early = seen.filter(pl.col("since") / 86_400 < pl.col("days") - 1)
    assert len(due) > 2_000 and len(early) > 500
    assert_mean(due["bought"].fill_null(False).cast(pl.Float64).to_numpy(), retailer.habit_strength)
    assert early["bought"].fill_null(False).mean() < 0.02  # type: ignore[operator]


def test_habits_change_neither_who_buys_nor_when_nor_for_how_much() -> None:
    one, other = simulate(Retailer(customers=2_000)), simulate(Retailer(customers=2_000, habits=0.0))
    law = ("customer_id", "lambda_per_week", "dropout_p", "mean_spend", "favourite_collection", "orders")
    assert one.customers.select(law).equals(other.customers.select(law))
    orders = [shop.transactions.filter(~pl.col("refund"))["total_pence"] for shop in (one, other)]
    assert orders[0].mean() == pytest.approx(orders[1].mean(), rel=0.01)
    assert len(other.habits) == 0 < len(one.habits)


def test_a_refund_returns_no_more_than_its_order_sold_and_comes_days_later(company: Company) -> None:
    transactions = company.transactions.with_row_index("transaction").with_columns(pl.col("transaction").cast(pl.Int64))
    items = company.items.join(transactions, on="transaction").group_by("order_id", "refund", "product")
    pieces = items.agg(pl.col("quantity").sum(), pl.col("at").first(), pl.col("identity").first())
    refunded = pieces.filter("refund").join(pieces.filter(~pl.col("refund")), on=["order_id", "product"], how="left")
    assert refunded.height > 1_000
    assert (-refunded["quantity"] <= refunded["quantity_right"]).all()
    assert (refunded["at"] > refunded["at_right"] + 86_400).all()
    assert (refunded["identity"] == refunded["identity_right"]).all()
    share = pieces.filter("refund")["order_id"].n_unique() / pieces.filter(~pl.col("refund"))["order_id"].n_unique()
    # Orders of the last weeks are returned after the window.
    assert 0.08 < share < company.retailer.return_probability


def test_orders_of_one_identity_never_overlap(company: Company) -> None:
    rows = company.transactions.sort("identity", "at")
    gap = (rows["at"] - (rows["at"] + rows["lines"] - 1).shift(1)).filter(rows["identity"] == rows["identity"].shift(1))
    assert gap.min() >= ORDER_GAP_SECONDS  # type: ignore[operator]


def test_moving_an_order_to_midnight_never_makes_it_later_than_the_next() -> None:
    """With every order moved, the one at which a customer dropped out is still the last."""
    shop = simulate(Retailer(customers=3_000, purchase_r=20.0, midnight_share=1.0))
    test_nobody_buys_after_dropping_out(shop)
    test_orders_of_one_identity_never_overlap(shop)


def test_some_item_lines_cross_midnight(company: Company) -> None:
    rows = company.transactions.select(
        begin=pl.from_epoch("at").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/London").dt.date(),
        end=pl.from_epoch(pl.col("at") + pl.col("lines") - 1)
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Europe/London")
        .dt.date(),
    )
    assert rows.filter(pl.col("begin") != pl.col("end")).height >= 10


def test_anonymous_ids_are_base64_of_twenty_bytes_and_names_are_reserved(company: Company) -> None:
    anonymous = company.identities.filter(~pl.col("named"))["identity"].to_list()
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{27}=", text) and len(base64.b64decode(text)) == 20 for text in anonymous)
    named = company.identities.filter("named")["identity"].to_list()
    assert named == company.customers["customer_id"].to_list()
    assert all(re.fullmatch(r"customer\d+@shop\.test", text) for text in named)
    assert company.identities["identity"].is_unique().all()


def test_every_customer_is_tied_to_a_device_before_the_first_order_and_no_guest_is(company: Company) -> None:
    first_alias = company.aliases.group_by("identity").agg(pl.col("at").min()).sort("identity")
    assert first_alias["identity"].to_list() == list(range(company.retailer.customers))
    assert (first_alias["at"] <= company.customers["acquired_at"].dt.epoch("s")).all()
    assert company.aliases["alias"].is_unique().all()
    assert company.aliases.height > 1.01 * company.retailer.customers
    guests = company.transactions.filter(pl.col("identity") >= company.retailer.customers)["identity"]
    assert guests.n_unique() == round(company.retailer.customers * company.retailer.guest_share)
    assert not guests.is_in(company.aliases["alias"].implode()).any()


def test_events_carry_the_anonymous_id_before_the_alias_and_not_after(company: Company) -> None:
    anonymous = company.visits.join(company.aliases, left_on="identity", right_on="alias")
    assert anonymous.height > 1_000
    assert (anonymous["at"] < anonymous["at_right"]).all()


def test_business_days_follow_the_clock_changes(company: Company) -> None:
    """26 October 2025 has 25 hours and 29 March 2026 has 23; both have orders, each on its own local day."""
    rows = company.transactions.select("at", "day").unique().rows()
    assert all(datetime.fromtimestamp(at, LONDON).date().toordinal() - date(2025, 10, 1).toordinal() == day for at, day in rows)
    days = {datetime.fromtimestamp(at, LONDON).date() for at, _ in rows}
    assert {date(2025, 10, 26), date(2026, 3, 29)} <= days
    assert company.first_instant == datetime(2025, 9, 30, 23, tzinfo=UTC).timestamp()
    assert company.end_instant == datetime(2026, 9, 30, 23, tzinfo=UTC).timestamp()


def test_the_repeated_hour_has_orders_twice_and_the_skipped_hour_none() -> None:
    def utc_hours(day: date) -> set[int]:
        shop = simulate(Retailer(first_day=day, last_day=day, customers=20_000, visitors_per_customer=0, visits_per_week=0))
        at = shop.transactions["at"]
        assert (at >= shop.first_instant).all() and (at < shop.end_instant).all()
        return set(((at - shop.first_instant) // 3_600).to_list())

    assert utc_hours(date(2025, 10, 26)) == set(range(25))
    assert utc_hours(date(2026, 3, 29)) == set(range(23))


def test_time_of_day_follows_the_local_clock(company: Company) -> None:
    local = pl.from_epoch(company.transactions["at"]).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/London")
    hours = local.dt.hour().value_counts().sort(local.name).get_column("count").to_list()
    assert len(hours) == 24
    assert max(hours[2:6]) * 5 < min(hours[19:22])


def test_acquisition_has_growth_and_a_christmas() -> None:
    shop = simulate(Retailer(customers=8_000, visitors_per_customer=0, visits_per_week=0, visits_per_order=0))
    month = dict(shop.customers["acquired_at"].dt.month().value_counts().rows())
    assert month[12] > 1.3 * month[10] and month[9] > 1.15 * month[10]


@pytest.mark.parametrize(("season_on_orders", "lift"), [(False, 1.0), (True, 1.6)])
def test_repeat_orders_have_a_season_only_if_asked_for(season_on_orders: bool, lift: float) -> None:
    """All are acquired in the first days and nobody drops out, so that orders from day 30 on show the season alone."""
    shop = simulate(Retailer(customers=4_000, growth=1e-300, dropout_a=1e-6, season_on_orders=season_on_orders))
    days = shop.transactions.filter(~pl.col("refund") & (pl.col("day") >= 30))["day"]
    december = days.is_between(61, 91).to_numpy().mean()
    even = 31 / 335
    assert abs(december - even) < 4 * np.sqrt(even / len(days)) if lift == 1 else december > lift * even


def test_four_in_five_consent_to_email_and_some_withdraw_it_later(company: Company) -> None:
    said = company.properties.filter(pl.col("name") == "email consent").sort("at")
    first = said.unique("identity", keep="first", maintain_order=True)
    assert set(first["identity"]) == set(range(company.retailer.customers))
    assert_mean((first["value"] == "yes").cast(pl.Float64).to_numpy(), 0.8)
    later = said.join(first, on=["identity", "at"], how="anti")
    assert (later["value"] == "no").all() and later["identity"].is_unique().all()
    assert set(later["identity"]) <= set(first.filter(value="yes")["identity"])
    assert 0.02 < later.height / company.retailer.customers < 0.8 * 0.05
    assert (later["at"] < company.end_instant).all()


def test_consent_is_drawn_beside_everything_else() -> None:
    one, other = simulate(Retailer(customers=200)), simulate(Retailer(customers=200, consent_share=0.1, withdrawal_share=1.0))
    for name in ("catalogue", "identities", "customers", "habits", "transactions", "items", "visits", "aliases"):
        assert getattr(one, name).equals(getattr(other, name)), name
    without = [shop.properties.filter(pl.col("name") != "email consent") for shop in (one, other)]
    assert without[0].equals(without[1])


def test_same_seed_same_company_and_another_seed_another() -> None:
    one, same, other = (simulate(Retailer(customers=200, seed=seed)) for seed in (1, 1, 2))
    for name in ("catalogue", "identities", "customers", "habits", "transactions", "items", "visits", "aliases", "properties"):
        assert getattr(one, name).equals(getattr(same, name)), name
        assert name == "properties" or not getattr(one, name).equals(getattr(other, name)), name


@pytest.mark.parametrize(
    "parameters",
    [
        {"customers": 1, "guest_share": 0.0, "visitors_per_customer": 0.0},
        {"customers": 50, "first_day": date(2026, 3, 29), "last_day": date(2026, 3, 29), "time_zone": "Asia/Kathmandu"},
        {"customers": 50, "habits": 1.0, "habit_days": 1.0, "habit_strength": 1.0, "purchase_r": 20.0},
        {"customers": 50, "return_probability": 0.0, "taste": 1.0, "several_devices": 1.0},
        {"customers": 50, "return_probability": 1.0, "visits_per_week": 0.0, "visits_per_order": 0.0},
        {"customers": 50, "time_zone": "Australia/Lord_Howe", "season_on_orders": True, "products": 200},
    ],
)
def test_extreme_companies_can_be_simulated(parameters: dict) -> None:
    shop = simulate(Retailer(**parameters))
    assert (shop.customers["orders"] >= 1).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last_day", date(2025, 9, 30)),
        ("time_zone", "Europe/Londn"),
        ("customers", 0),
        ("customers", -5),
        ("seed", -1),
        ("products", 10),
        ("growth", 0.0),
        ("purchase_r", 0.0),
        ("purchase_alpha", float("inf")),
        ("dropout_a", -1.0),
        ("spend_q", 2.0),
        ("lines_per_order", 0.5),
        ("taste", 1.5),
        ("habits", -0.1),
        ("habit_days", 0.0),
        ("habit_strength", 1.1),
        ("return_probability", -0.1),
        ("guest_share", float("nan")),
        ("consent_share", 1.1),
        ("visits_per_week", -1.0),
    ],
)
def test_impossible_parameters_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Retailer(**{name: value})  # type: ignore[arg-type]
