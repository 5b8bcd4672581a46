"""`customer_ltv`, `ltv_backtests` and `ltv_hindsight` over a lake: grain, purity, late aliases, and what they say of themselves."""

import logging
import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.identities import identities
from analytics_assets.events.tables import IDENTITIES, RECORDS
from analytics_assets.home import Home
from analytics_assets.retail.customers.assets import CUSTOMERS, customers
from analytics_assets.retail.ltv import hindsight, refits
from analytics_assets.retail.ltv.assets import SERVED_BY_A_TESTED_MODEL, customer_ltv, plot_ranking
from analytics_assets.retail.ltv.backtest import Windows, came_true, known_at, scored
from analytics_assets.retail.ltv.hindsight import INTERVALS_HELD, TOTALS_CAME_TRUE, ltv_hindsight, plot_said_and_came_true
from analytics_assets.retail.ltv.refits import Refits, read_purchases
from analytics_assets.retail.ltv.season import Window as SeenWindow
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import parse_settings
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.work import Platform, Work
from analytics_assets_tests.conftest import in_memory

FIRST, LAST = date(2026, 1, 1), date(2026, 5, 4)
MERGED = ("first half", "second half")
DAYS = [LAST - timedelta(days=n) for n in reversed(range(5))]


class Shop:
    """A simulated shop's orders in a lake, with one customer of two halves that an alias joins on the last day but one."""

    def __init__(self, folder: Path) -> None:
        """Write records and orders, and who is who and bought what on the last five days."""
        text = (
            f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {FIRST}\nlast_day = {LAST}\n[ltv]\nhorizon_days = 60\n'
        )
        self.platform = Platform(parse_settings(text, "x"), Home(folder))
        company = simulate(Retailer(first_day=FIRST, last_day=LAST, time_zone="UTC", customers=1200, guest_share=0, seed=3))
        names = company.identities["identity"]
        orders = [
            self.order(names[who], FIRST + timedelta(days=day), Decimal(pence) / 100, currency)
            for who, day, pence in company.transactions.select("identity", "day", "total_pence").rows()
            for currency in (("GBP", "EUR") if who < 5 else ("GBP",))
        ]
        orders += [self.order(name, FIRST + timedelta(days=20 * n), Decimal(500), "GBP") for n in range(5) for name in MERGED]
        orders.append(self.order("returns only", LAST - timedelta(days=8), Decimal(-5), "GBP"))
        for number, order in enumerate(orders):
            order["event_id"] = order["order_id"] = f"o{number}"
        records = [self.record("event", order["identity"], None, order["order_date"]) for order in orders]
        records.append(self.record("alias", *MERGED, LAST - timedelta(days=1)))
        for number, record in enumerate(records):
            record |= {"line_number": number, "record_id": str(number)}
        for table, rows in ((ORDERS, orders), (RECORDS, records)):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            self.platform.lake.replace(table, pa.Table.from_pylist(full, schema=table.arrow_schema()), None, {})
        for table, function in ((IDENTITIES, identities), (CUSTOMERS, customers)):
            self.platform.lake.replace(table, self.compute(function, DAYS[0], LAST)[table.name], None, {})

    @staticmethod
    def order(who: str, day: date, amount: Decimal, currency: str) -> dict[str, Any]:
        """An order, or a refund if negative."""
        return {
            "order_date": day, "identity": who, "currency": currency, "kind": "refund" if amount < 0 else "order",
            "net_revenue": amount, "ordered_at": datetime.combine(day, time(12), UTC), "item_lines": 0, "units": 0,
        }  # fmt: skip

    @staticmethod
    def record(kind: str, identity: str, other: str | None, day: date) -> dict[str, Any]:
        """A record at noon."""
        return {
            "file": "1.json", "kind": kind, "identity": identity, "other_identity": other,
            "occurred_at": datetime.combine(day, time(12), UTC), "properties": "{}",
        }  # fmt: skip

    def work(self, connection: Any, first: date, last: date) -> Work:
        """A materialisation of a range of days."""
        begins = self.platform.clock.begins
        window = Window(first, last, begins(first), begins(last + timedelta(days=1)))
        return Work(self.platform, window, connection, logging.getLogger(__name__))

    def compute(self, function: Callable[[Work], Any], first: date, last: date) -> Any:
        """What an asset's function returns for a range of days."""
        with engine() as connection, closing(self.work(connection, first, last)) as work:
            return {name: in_memory(rows) for name, rows in function(work).items()}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def made(shop: Shop) -> dict[str, pl.DataFrame]:
    """The tables of all five days, computed in one go."""
    tables = shop.compute(customer_ltv, DAYS[0], LAST) | shop.compute(ltv_hindsight, DAYS[0], LAST)
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}


@pytest.mark.parametrize("day", DAYS)
def test_a_day_alone_has_the_rows_that_it_has_within_a_range(shop, made, day):
    """The days lie on both sides of a month's start, whose refit they share, or do not."""
    alone = shop.compute(customer_ltv, day, day) | shop.compute(ltv_hindsight, day, day)
    for name, rows in alone.items():
        within = made[name].filter(pl.col("as_of_date") == day)
        assert pl.DataFrame(rows).rows() == within.rows(), name
        assert len(within) > 0


def test_days_are_served_by_the_refit_of_their_month(made):
    served = made["ltv_backtests"].filter("chosen").group_by("as_of_date", "currency").agg(pl.col("anchor").unique())
    pounds = dict(served.filter(pl.col("currency") == "GBP").select("as_of_date", "anchor").rows())
    assert pounds[DAYS[0]] == [date(2026, 4, 1)]
    assert pounds[LAST] == [date(2026, 5, 1)]


def test_every_customer_has_a_value_and_only_buyers_a_forecast(made):
    last = made["customer_ltv"].filter(pl.col("as_of_date") == LAST)
    only_returned = last.row(by_predicate=pl.col("customer_id") == "returns only", named=True)
    assert only_returned["expected_revenue"] is None
    assert only_returned["lifetime_value"] == Decimal("-5.00")
    assert only_returned["model"] == "no paid purchase yet"
    others = last.filter((pl.col("customer_id") != "returns only") & (pl.col("currency") == "GBP"))
    assert others["expected_revenue"].null_count() == 0
    (model,) = set(others["model"])
    assert model.endswith(", refit of 2026-05-01, backtest passed")


def test_a_currency_of_five_customers_has_no_forecast_but_a_reason(made):
    euros = made["customer_ltv"].filter((pl.col("currency") == "EUR") & (pl.col("as_of_date") == LAST))
    assert 0 < len(euros) <= 5
    assert euros["expected_revenue"].null_count() == len(euros)
    assert all(model.startswith("not enough history: ") for model in euros["model"])
    tested = made["ltv_backtests"].filter((pl.col("currency") == "EUR") & (pl.col("as_of_date") == LAST))
    assert tested.select("candidate", "chosen", "accepted").rows() == [("none", True, False)]


def test_exactly_one_candidate_of_one_refit_is_chosen_each_day_and_currency(made):
    chosen = made["ltv_backtests"].filter("chosen").unique(["as_of_date", "currency", "anchor", "candidate"])
    assert len(chosen) == len(made["ltv_backtests"].unique(["as_of_date", "currency"]))


def test_a_refit_that_failed_is_told_once_a_day_however_many_cut_offs_tested_it(made):
    tests = made["ltv_backtests"].with_columns(accepted=pl.lit(False))
    assert tests.filter("chosen", currency="GBP", as_of_date=LAST).height > 1
    with engine() as connection:
        connection.register("rows_of_ltv_backtests", tests.to_arrow())
        told = connection.sql(SERVED_BY_A_TESTED_MODEL.violations).fetchall()
    assert [row[:2] for row in told] == [(day, currency) for day in reversed(DAYS) for currency in ("EUR", "GBP")]


def test_an_alias_joins_two_customers_from_the_day_that_it_was_known_and_not_before(made):
    ids = {
        day: set(made["customer_ltv"].filter((pl.col("as_of_date") == day) & pl.col("customer_id").is_in(MERGED))["customer_id"])
        for day in DAYS
    }
    assert [len(ids[day]) for day in DAYS] == [2, 2, 2, 1, 1]


def test_refits_read_the_same_purchases_with_and_without_the_anchors_partition_of_identities(shop):
    """Within the window the map is read, outside of it made of the records; and the daily summary knows the same of everybody."""
    anchor = date(2026, 5, 1)
    found = []
    for first in (anchor, LAST):
        with engine() as connection:
            work = shop.work(connection, first, LAST)
            work.read(ORDERS)
            work.read(IDENTITIES)
            work.read(CUSTOMERS)
            found.append(read_purchases(work, anchor))
            summary = work.sql(Path(refits.__file__).parent / "summary.sql", as_of=anchor).pl()
    assert found[0].keys() == found[1].keys() == {"GBP", "EUR"}
    assert all(found[0][currency].equals(found[1][currency]) for currency in found[0])
    pounds = summary.filter((pl.col("currency") == "GBP") & pl.col("purchase_days").is_not_null())
    known = known_at(found[0]["GBP"], anchor)
    assert known.rows() == pounds.select(known.columns).rows()


def test_many_customers_are_sampled_whole_and_about_as_many_as_asked(shop, monkeypatch):
    with engine() as connection:
        work = shop.work(connection, LAST, LAST)
        work.read(ORDERS)
        work.read(IDENTITIES)
        everybody = read_purchases(work, LAST)["GBP"]
        monkeypatch.setattr(refits, "LARGEST_SAMPLE", 300)
        some = read_purchases(work, LAST)["GBP"]
    assert 240 < some["customer_id"].n_unique() < 360
    assert some.equals(everybody.filter(pl.col("customer_id").is_in(some["customer_id"].implode())))


def test_a_forecast_that_knows_no_season_says_so_until_it_is_told_or_seen(shop):
    """The shop is four months old."""
    told = parse_settings(
        f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {FIRST}\n[ltv]\nhorizon_days = 60\nseason = {[1] * 11 + [2]}\n',
        "x",
    )
    for settings, unknown in ((shop.platform.settings, True), (told, False)):
        with engine() as connection:
            work = shop.work(connection, LAST, LAST)
            work.platform = Platform(settings, shop.platform.home)
            customer_ltv(work)
        assert ("No season is in it" in work.metadata["forecast in GBP"]) == unknown
    year_old, younger = (Windows(revenue=(SeenWindow(LAST - timedelta(days=ago), 60, 0.0, 0.1),)) for ago in (365, 364))
    assert (year_old.seen_a_year_before(LAST), younger.seen_a_year_before(LAST)) == (True, False)


@pytest.mark.parametrize("days_ago", hindsight.DAYS_AGO)
def test_hindsight_is_what_the_earlier_day_would_have_said_beside_what_came_true(shop, made, days_ago):
    found = made["ltv_hindsight"].filter(
        (pl.col("as_of_date") == LAST) & (pl.col("currency") == "GBP") & (pl.col("days_ago") == days_ago)
    )
    with engine() as connection:
        work = shop.work(connection, LAST, LAST)
        work.read(ORDERS)
        work.read(IDENTITIES)
        purchases = read_purchases(work, LAST)["GBP"]
        then = LAST - timedelta(days=days_ago)
        served = Refits(work).serving(then, "GBP", days_ago).refit
    known = known_at(purchases, then)
    said, _ = scored(served, known, then, days_ago, 0.0, 0.8)
    actual = came_true(purchases, known, then, days_ago)
    row = found.row(0, named=True)
    assert row["customers"] == len(known)
    assert float(row["expected_revenue"]) == pytest.approx(said.expected_revenue.sum(), abs=0.01)
    assert float(row["actual_revenue"]) == pytest.approx(actual["revenue"].sum(), abs=0.01)
    assert row["actual_orders"] == actual["orders"].sum()
    assert row["stated_coverage"] == pytest.approx(said.interval_probability.mean(), abs=1e-6)
    assert row["bias"] == pytest.approx(float(row["expected_revenue"] / row["actual_revenue"]) - 1, abs=1e-5)
    assert row["model"] == f"{served.candidate}, refit of {served.anchor}"
    assert served.anchor <= then


@pytest.mark.parametrize(
    ("bias", "expected", "warns"), [(0.26, 126, True), (-0.26, 74, True), (0.25, 125, False), (None, 100, True), (None, 0, False)]
)
def test_totals_that_did_not_come_true_are_told_nothing_at_all_included(made, bias: float | None, expected: int, warns: bool):
    row = made["ltv_hindsight"].head(1).with_columns(bias=pl.lit(bias, pl.Float64), expected_revenue=pl.lit(Decimal(expected)))
    with engine() as connection:
        connection.register("rows", row.to_arrow())
        assert bool(connection.sql(TOTALS_CAME_TRUE.violations).fetchall()) == warns


@pytest.mark.parametrize(
    ("coverage", "customers", "warns"),
    [(0.68, 2_300, True), (0.92, 2_300, True), (0.76, 2_300, False), (0.80, 2_300, False), (0.68, 60, False), (0.50, 60, True)],
)
def test_intervals_that_held_other_than_they_stated_are_told(made, coverage: float, customers: int, warns: bool):
    row = made["ltv_hindsight"].head(1)
    row = row.with_columns(coverage=pl.lit(coverage), stated_coverage=pl.lit(0.80), customers=pl.lit(customers))
    with engine() as connection:
        connection.register("rows", row.to_arrow())
        assert bool(connection.sql(INTERVALS_HELD.violations).fetchall()) == warns


def test_a_day_too_early_to_look_back_from_has_no_row_and_still_a_plot(shop):
    with engine() as connection:
        work = shop.work(connection, FIRST, FIRST)
        rows = ltv_hindsight(work)["ltv_hindsight"]
        assert rows.num_rows == 0
        assert plot_said_and_came_true(work, rows).startswith(b"\x89PNG")


def test_plots_are_images_and_metadata_are_sentences(shop):
    for function, plot, key, text in (
        (customer_ltv, plot_ranking, "forecast in GBP", "backtest passed: total"),
        (ltv_hindsight, plot_said_and_came_true, "GBP, 30 days ago", r"% ended up inside their interval \((8|9)\d% stated\)"),
    ):
        with engine() as connection, closing(shop.work(connection, LAST, LAST)) as work:
            rows = in_memory(function(work)[function.__name__])
            assert plot(work, rows).startswith(b"\x89PNG")
            assert re.search(text, work.metadata[key])
