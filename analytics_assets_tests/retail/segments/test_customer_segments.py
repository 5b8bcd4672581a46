"""Scores, segments and movements: by hand, against plain loops on random shops, and through Dagster."""

import random
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
import polars as pl
import pytest

from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.segments import assets, clusters
from analytics_assets.retail.segments.assets import (
    CUSTOMER_SEGMENTS,
    SEGMENT_MOVEMENTS,
    customer_segments,
    customer_segments_asset,
    segment_of_scores,
)
from analytics_assets.settings import SegmentRule, Segments
from analytics_assets.simulation.retailer import Retailer, customer_id, simulate
from analytics_assets.warehouse.engine import engine


def scores(rows: pl.DataFrame) -> dict[str, tuple[int, int, int]]:
    return {who.removesuffix("@x.test"): (r, f, m) for who, r, f, m in rows.select("customer_id", "r", "f", "m").rows()}


# ------------------------------------------------------------------------------------------------- a shop whose truth is known


def test_segments_of_a_simulated_shop_say_what_was_planted_and_what_came_true(shop) -> None:
    """Of a year: who buys often and still comes, who does not, who used to and has gone; and in `m` who spends much an order."""
    first, last, customers = date(2025, 4, 1), date(2026, 3, 31), 3_000
    company = simulate(Retailer(first, last, "UTC", customers=customers, seed=3, visitors_per_customer=0))
    shop.first_day = first
    of_customers = company.transactions.filter(pl.col("identity") < customers)
    for identity, day, pence in of_customers.select("identity", "day", "total_pence").rows():
        shop.bought(customer_id(identity), first + timedelta(days=day), Decimal(pence) / 100)
    rows = shop.segments(last)["customer_segments"].join(company.customers, on="customer_id")
    assert len(rows) == customers

    means = (
        pl.len(),
        pl.col("lambda_per_week", "holdout_orders", "mean_spend").mean(),
        pl.col("dropped_out_at").is_null().mean().alias("alive"),
    )
    everybody = rows.select(*means).row(0, named=True)
    of = {row["segment"]: row for row in rows.group_by("segment").agg(*means).iter_rows(named=True)}
    assert all(of[name]["len"] > 50 for name in ("Champions", "Loyal", "At risk", "Cannot lose them", "Hibernating", "Lost"))
    assert max(of, key=lambda name: of[name]["holdout_orders"]) == "Champions"
    assert of["Champions"]["holdout_orders"] > 2 * everybody["holdout_orders"]
    assert of["Champions"]["alive"] > everybody["alive"] + 0.1
    for name in ("Hibernating", "Lost"):
        assert of[name]["holdout_orders"] < everybody["holdout_orders"] / 2
        assert of[name]["lambda_per_week"] < everybody["lambda_per_week"]
    for name in ("At risk", "Cannot lose them"):
        assert of[name]["lambda_per_week"] > everybody["lambda_per_week"]
        assert of[name]["alive"] < everybody["alive"] - 0.1
    by_money = rows.group_by("m").agg(pl.col("mean_spend").mean()).sort("m")["mean_spend"].to_list()
    assert by_money == sorted(by_money) and by_money[-1] > 2 * by_money[0]


# ------------------------------------------------------------------------------------------------------------ by hand


def test_ten_customers_get_the_scores_of_their_rank_and_ties_share_one(shop) -> None:
    """Seven of ten bought once: all have f = 1. The three with 2, 2 and 5 orders have rank 8, 8 and 10."""
    for number, (who, day) in enumerate(zip("abcdefg", [1, 2, 3, 4, 4, 4, 5], strict=True)):
        shop.bought(f"{who}@x.test", date(2026, 1, day), 10 + number)
    for who, amounts in (("h", ["1", "2"]), ("i", ["30", "30"]), ("j", ["50"] * 5)):
        for amount in amounts:
            shop.bought(f"{who}@x.test", "2026-01-10", amount)
    # Ordered later than a, b, ...: 9 8 7 4 4 4 3 0 0 0. Money: h 3, a 10, b 11, ..., g 16, i 60, j 250.
    assert scores(shop.segments("2026-01-10")["customer_segments"]) == {
        "a": (1, 1, 1), "b": (1, 1, 2), "c": (2, 1, 2), "d": (3, 1, 3), "e": (3, 1, 3),
        "f": (3, 1, 4), "g": (4, 1, 4), "h": (5, 4, 1), "i": (5, 4, 5), "j": (5, 5, 5),
    }  # fmt: skip


def test_who_ordered_on_the_newest_day_is_recent_however_many_did(shop) -> None:
    """A shop's first day, and the day on which most are billed: a score of those below would call all of them lost."""
    for number in range(8):
        shop.bought(f"{number}@x.test", "2026-01-01", 10)
    assert set(shop.segments("2026-01-01")["customer_segments"]["segment"]) == {"New customers"}
    for number in range(6):
        shop.bought(f"{number}@x.test", "2026-02-01", 10)
    rows = shop.segments("2026-02-01")["customer_segments"].sort("customer_id")
    assert rows["r"].to_list() == [5] * 6 + [2] * 2


def test_recency_counts_from_the_last_order_and_money_is_net_of_refunds(shop) -> None:
    shop.bought("a@x.test", "2026-01-03", "10.10")
    shop.bought("a@x.test", "2026-01-05", "5.05")
    shop.bought("a@x.test", "2026-01-09", "-3.15")
    (row,) = shop.segments("2026-01-10")["customer_segments"].to_dicts()
    assert (row["recency_days"], row["frequency"], row["monetary"]) == (5, 2, Decimal("12.00"))


def test_who_only_sent_back_has_the_lowest_scores_and_shifts_nobody_elses(shop) -> None:
    for number in range(5):
        shop.bought(f"{number}@x.test", date(2026, 1, 1 + number), 10 + number)
    alone = scores(shop.segments("2026-01-10")["customer_segments"])
    for number in range(20):
        shop.bought(f"back{number}@x.test", "2026-01-06", -5)
    rows = shop.segments("2026-01-10")["customer_segments"]
    assert {who: found for who, found in scores(rows).items() if "back" not in who} == alone
    back = rows.filter(pl.col("customer_id") == "back7@x.test").to_dicts()[0]
    assert (back["recency_days"], back["frequency"], back["monetary"]) == (None, 0, Decimal("-5.00"))
    assert (back["r"], back["f"], back["m"], back["segment"], back["cluster"]) == (1, 1, 1, "Lost", None)


def test_customers_are_compared_within_their_currency(shop) -> None:
    for number in range(5):
        shop.bought(f"{number}@x.test", "2026-01-01", 10 + number)
        shop.bought(f"{number}@x.test", "2026-01-01", 5000 - number, "JPY")
    rows = shop.segments("2026-01-01")["customer_segments"].sort("currency", "customer_id")
    assert rows["currency"].to_list() == ["GBP"] * 5 + ["JPY"] * 5
    assert rows["m"].to_list() == [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]


def test_people_without_a_name_are_no_customers(shop) -> None:
    shop.bought("2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "2026-01-01", 10)
    shop.bought("a@x.test", "2026-01-01", 10)
    assert shop.segments("2026-01-01")["customer_segments"]["customer_id"].to_list() == ["a@x.test"]


def test_the_previous_segment_is_yesterdays_and_nobodys_for_a_new_customer(shop) -> None:
    shop.settings = '[[segments.rules]]\nname = "Many"\nf = [3, 5]\n[[segments.rules]]\nname = "Rest"\n'
    for who in ("a", "b"):
        shop.bought(f"{who}@x.test", "2026-01-01", 10)
    shop.bought("b@x.test", "2026-01-03", 10)
    shop.bought("c@x.test", "2026-01-03", 10)
    found = shop.segments("2026-01-02", "2026-01-04")
    rows = (
        found["customer_segments"]
        .sort("as_of_date", "customer_id")
        .select("as_of_date", "customer_id", "segment", "previous_segment")
    )
    second, third, fourth = (date(2026, 1, day) for day in (2, 3, 4))
    assert rows.rows() == [
        (second, "a@x.test", "Rest", "Rest"), (second, "b@x.test", "Rest", "Rest"),
        (third, "a@x.test", "Rest", "Rest"), (third, "b@x.test", "Many", "Rest"), (third, "c@x.test", "Rest", None),
        (fourth, "a@x.test", "Rest", "Rest"), (fourth, "b@x.test", "Many", "Many"), (fourth, "c@x.test", "Rest", "Rest"),
    ]  # fmt: skip
    assert found["segment_movements"].filter(pl.col("as_of_date") == third).rows() == [
        (third, "GBP", None, "Rest", 1), (third, "GBP", "Rest", "Many", 1), (third, "GBP", "Rest", "Rest", 1),
    ]  # fmt: skip


def test_a_merge_of_two_identities_is_no_movement(shop) -> None:
    """On the day on which b turns out to be a, yesterday counts them as one already."""
    shop.settings = '[[segments.rules]]\nname = "Many"\nf = [3, 5]\n[[segments.rules]]\nname = "Rest"\n'
    for who in "abcde":
        shop.bought(f"{who}@x.test", "2026-01-01", 10)
    shop.alias("a@x.test", "b@x.test", "2026-01-05")
    rows = shop.segments("2026-01-04", "2026-01-05")["customer_segments"]
    before, after = (rows.filter(pl.col("as_of_date") == date(2026, 1, day)) for day in (4, 5))
    assert before["segment"].to_list() == ["Rest"] * 5
    assert dict(after.select("customer_id", "segment").rows())["a@x.test"] == "Many"
    assert after["segment"].to_list() == after["previous_segment"].to_list() and len(after) == 4


def test_the_first_rule_that_fits_names_each_of_the_125_combinations() -> None:
    rules = (SegmentRule(name="Good", r=(4, 5), m=(5, 5)), SegmentRule(name="Recent", r=(4, 5)), SegmentRule(name="Rest"))
    named = {(r, f, m): segment for r, f, m, segment in pl.DataFrame(segment_of_scores(rules)).rows()}
    assert len(named) == 125
    for r, f, m in product(range(1, 6), repeat=3):
        assert named[r, f, m] == ("Rest" if r < 4 else "Good" if m == 5 else "Recent")


# ------------------------------------------------------------------------------------------------------ by plain loops


def brute_force(shop, day: date, who_is: dict[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Figures, scores and segment of each customer and currency at the end of a day, one comparison after the other."""
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for order in shop.orders:
        if order["order_date"] > day or order["identity"] not in who_is:
            continue
        key = (who_is[order["identity"]], order["currency"])
        figures = known.setdefault(key, {"last": None, "frequency": 0, "monetary": Decimal(0)})
        figures["monetary"] += order["net_revenue"]
        if order["kind"] == "order":
            figures["frequency"] += 1
            figures["last"] = max(figures["last"] or order["order_date"], order["order_date"])
    for (_, currency), figures in known.items():
        others = [other for (_, c), other in known.items() if c == currency and other["frequency"]]
        figures |= {"r": 1, "f": 1, "m": 1}
        if figures["frequency"]:
            figures["r"] = 5 - 5 * sum(other["last"] > figures["last"] for other in others) // len(others)
            for score, name in (("f", "frequency"), ("m", "monetary")):
                figures[score] = 1 + 5 * sum(other[name] < figures[name] for other in others) // len(others)
        figures["segment"] = next(
            rule.name
            for rule in Segments().rules
            if all(low <= figures[s] <= high for s, (low, high) in (("r", rule.r), ("f", rule.f), ("m", rule.m)))
        )
    return known


def fill(shop, seed: int, people: int = 30, orders: int = 150, days: int = 40) -> None:
    """Orders that tie in day, number and amount, some of them refunds, in two currencies, with people who merge."""
    chance = random.Random(seed)
    for _ in range(orders):
        who, day = f"p{int(people * chance.random() ** 2)}@x.test", date(2026, 1, 20) + timedelta(days=chance.randrange(days))
        amount = chance.choice([5, 10, 10, 20, Decimal("9.99")]) * (1 if chance.random() < 0.85 else -1)
        shop.bought(who, day, amount, chance.choice(["GBP", "GBP", "EUR"]))
    for _ in range(4):
        one, other = chance.sample(range(people), 2)
        shop.alias(f"p{one}@x.test", f"p{other}@x.test", str(date(2026, 2, 10) + timedelta(days=chance.randrange(12))))


@pytest.mark.parametrize("seed", range(4))
def test_every_figure_is_that_of_plain_loops_over_the_orders(shop, seed: int) -> None:
    fill(shop, seed)
    first, last = date(2026, 2, 12), date(2026, 2, 20)
    found = shop.segments(first, last)
    maps = shop.compute(_maps, first, last)
    moved = Counter()
    for day in (first + timedelta(days=n) for n in range(9)):
        today, yesterday = (brute_force(shop, d, maps[day]) for d in (day, day - timedelta(days=1)))
        rows = found["customer_segments"].filter(pl.col("as_of_date") == day)
        assert len(rows) == len(today)
        for row in rows.to_dicts():
            key = row["customer_id"], row["currency"]
            expected = today[key]
            assert row["recency_days"] == (expected["last"] and (day - expected["last"]).days)
            assert {k: row[k] for k in ("frequency", "monetary", "r", "f", "m", "segment")} == {
                k: expected[k] for k in ("frequency", "monetary", "r", "f", "m", "segment")
            }
            assert row["previous_segment"] == (yesterday[key]["segment"] if key in yesterday else None)
            moved[day, row["currency"], row["previous_segment"], row["segment"]] += 1
    assert {row[:4]: row[4] for row in found["segment_movements"].rows()} == moved


def _maps(work) -> dict[date, dict[str, str]]:
    from analytics_assets.events.tables import IDENTITIES

    work.read(IDENTITIES)
    found: dict[date, dict[str, str]] = {day: {} for day in work.days}
    for day, identity, customer in work.connection.sql("SELECT as_of_date, identity, customer_id FROM identities").fetchall():
        found[day][identity] = customer
    return found


def test_the_usual_share_is_the_median_of_the_seven_days_before(shop) -> None:
    fill(shop, seed=9)
    day = date(2026, 2, 20)
    shop.open(day, day)
    with engine() as connection:
        customer_segments(shop.work(connection, day, day))
        found = {row[1]: row[2:] for row in connection.sql("FROM movement").fetchall()}
    people = shop.compute(_maps, day, day)[day]
    states = [brute_force(shop, day - timedelta(days=n), people) for n in range(9)]
    for currency in ("EUR", "GBP"):
        shares = []
        for after, before in pairwise(states):
            both = [key for key in before if key[1] == currency]
            shares.append((len(both), sum(before[key]["segment"] != after[key]["segment"] for key in both)))
        assert found[currency][:2] == shares[0]
        assert found[currency][2] == pytest.approx(median(moved / both for both, moved in shares[1:]))


def test_a_day_on_which_everybody_was_new_says_nothing_about_what_is_usual() -> None:
    day = date(2026, 1, 4)
    moves = {"as_of_date": day, "currency": "GBP", "previous_segment": ["A", "A", None], "segment": ["A", "B", "B"]}
    before = pl.concat([
        pl.DataFrame(moves | {"customers": customers, "reference_day": date(2026, 1, number)})
        for number, customers in ((1, [0, 0, 9]), (2, [6, 4, 1]), (3, [8, 2, 5]))
    ])  # fmt: skip
    found = assets.movement(pl.DataFrame(moves | {"customers": [30, 10, 7]}), before)
    assert found.rows() == [(day, "GBP", 40, 10, pytest.approx(0.3))]


def test_the_sample_has_all_changes_of_evenly_spread_customers_of_each_currency(shop) -> None:
    with engine() as connection:
        connection.execute(
            """CREATE TABLE order_changes AS SELECT printf('%04d', n) AS customer_id, currency, DATE '2026-01-01' + CAST(day AS INTEGER) AS changed_on,
            NULL::DATE AS last_order_date, 1 AS orders, 1.00 AS net_revenue FROM range(1000) AS t(n), range(2) AS d(day),
            (VALUES ('GBP', 1000), ('EUR', 30)) AS c(currency, customers) WHERE n < customers"""
        )
        work = shop.work(connection, date(2026, 1, 1), date(2026, 1, 1))
        sample = work.sql(Path(assets.__file__).parent / "sampled_changes.sql", most_customers=40).pl()
    assert (sample.group_by("customer_id", "currency").len()["len"] == 2).all()
    pounds, euros = (sorted({int(row[0]) for row in sample.rows() if row[1] == currency}) for currency in ("GBP", "EUR"))
    assert len(euros) == 30 and len(pounds) == 40
    assert {later - earlier for earlier, later in pairwise(pounds)} == {25}


def test_clusters_learned_from_a_part_of_the_customers_are_those_of_all(shop, monkeypatch) -> None:
    """Two kinds of customers: one large order, or many small ones."""
    shop.settings = "[segments]\nclusters = 2\n"
    chance = random.Random(1)
    for number in range(400):
        kind, orders, prices = ("one", 1, (400, 500)) if number % 2 else ("many", 9, (5, 10))
        for _ in range(orders):
            shop.bought(f"{kind}{number}@x.test", date(2026, 1, 1 + chance.randrange(28)), chance.randrange(*prices))
    whole = shop.segments("2026-02-02")["customer_segments"].sort("customer_id")
    assert set(zip(whole["customer_id"].str.slice(0, 3), whole["cluster"], strict=True)) == {
        ("one", "Cluster 1"),
        ("man", "Cluster 2"),
    }
    monkeypatch.setattr(clusters, "MOST_CUSTOMERS", 99)
    assert shop.segments("2026-02-02", opened=True)["customer_segments"].sort("customer_id").equals(whole)


# ------------------------------------------------------------------------------------------- the same day, however made


def test_a_day_alone_has_the_rows_that_it_has_in_a_range(shop) -> None:
    """The range crosses the end of a quarter, where clusters are refitted, and merges that become known."""
    fill(shop, seed=3, people=150, orders=600, days=80)
    shop.settings = "[segments]\nclusters = 3\n"
    first, last = date(2026, 3, 25), date(2026, 4, 3)
    shop.open(first, last)
    tables = (CUSTOMER_SEGMENTS, SEGMENT_MOVEMENTS)
    whole = shop.segments(first, last, opened=True)
    for day in (first, date(2026, 3, 30), date(2026, 3, 31), last):
        alone = shop.segments(day, opened=True)
        for table in tables:
            expected = whole[table.name].filter(pl.col("as_of_date") == day)
            key = list(table.key)
            assert alone[table.name].sort(key).equals(expected.sort(key)), (day, table.name)
    assert whole["customer_segments"]["cluster"].n_unique() >= 3


def test_what_happens_later_changes_nothing(shop) -> None:
    fill(shop, seed=5, people=150, orders=600, days=80)
    shop.settings = "[segments]\nclusters = 3\n"
    before = shop.segments("2026-04-03")["customer_segments"].sort("customer_id", "currency")
    for number in range(40):
        shop.bought(f"p{number}@x.test", "2026-04-04", 999)
    shop.alias("p1@x.test", "p2@x.test", "2026-04-04")
    assert before["cluster"].null_count() < len(before)
    assert shop.segments("2026-04-03")["customer_segments"].sort("customer_id", "currency").equals(before)


def test_a_shop_without_orders_has_no_segments(shop) -> None:
    found = shop.segments("2026-01-01")
    assert found["customer_segments"].is_empty() and found["segment_movements"].is_empty()


# ------------------------------------------------------------------------------------------------------ through Dagster


def materialize(shop, day: date) -> dg.ExecuteInProcessResult:
    shop.open(day, day)
    with dg.DagsterInstance.ephemeral() as instance:
        for need in ("orders", "identities", "customers"):
            for key in shop.platform.clock.days.get_partition_keys():
                if key == str(day) or (need == "orders" and key < str(day)):
                    instance.report_runless_asset_event(dg.AssetMaterialization(need, partition=key))
        asset = customer_segments_asset(shop.platform, dg.AutomationCondition.eager())
        return dg.materialize([asset], instance=instance, partition_key=str(day), raise_on_error=False)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def steady(shop, days: int) -> None:
    """Hundred customers, of whom five come each day, always with the same amount."""
    for number in range(100):
        shop.bought(f"p{number}@x.test", date(2026, 1, 1) + timedelta(days=number % 20), 10)
    for number in range(days):
        for place in range(5):
            shop.bought(f"p{(number * 5 + place) % 100}@x.test", date(2026, 1, 21) + timedelta(days=number), 10)


def test_the_asset_passes_its_checks_and_shows_movements_clusters_and_a_plot(shop) -> None:
    steady(shop, 20)
    result = materialize(shop, date(2026, 2, 9))
    assert result.success
    assert checks(result) == {
        "inputs_ready": True, "as_declared": True, "scores_are_possible": True, "every_customer_has_a_segment": True,
        "movement_is_usual": True,
    }  # fmt: skip
    (event,) = result.asset_materializations_for_node("customer_segments")
    assert event.metadata["dagster/row_count"].value == 100
    matrix = event.metadata["movements GBP"].value.splitlines()
    assert matrix[0].startswith("| from \\ to |")
    moves = sum(int(cell) for line in matrix[2:] for cell in line.split("|")[2:-1] if cell.strip())
    assert moves == 100
    assert "Cluster 1" in event.metadata["clusters"].value
    assert "data:image/png;base64" in event.metadata["plot"].value
    with engine() as connection:
        from analytics_assets.warehouse.engine import attach

        attach(connection, shop.platform.lake.pin(SEGMENT_MOVEMENTS))
        assert connection.sql("SELECT sum(customers) FROM segment_movements").fetchall() == [(100,)]


def test_a_jump_of_movements_warns_and_stops_nothing(shop) -> None:
    """On a day on which sixty of a hundred buy at once, far more change their segment than on any day before."""
    steady(shop, 19)
    for number in range(60):
        for _ in range(1 + number % 4):
            shop.bought(f"p{(number * 7) % 100}@x.test", "2026-02-09", 40)
    result = materialize(shop, date(2026, 2, 9))
    assert result.success
    (warned,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "movement_is_usual"]
    assert not warned.passed and warned.severity == dg.AssetCheckSeverity.WARN


def test_a_day_without_customers_passes_too(shop) -> None:
    result = materialize(shop, date(2026, 1, 1))
    assert result.success and checks(result)["movement_is_usual"]


def test_a_customer_without_a_segment_is_found(shop, monkeypatch) -> None:
    steady(shop, 5)
    day = date(2026, 1, 25)
    real = shop.open

    def open_with_one_more(first: date, last: date) -> None:
        real(first, last)
        shop.write(CUSTOMERS, [
            {"as_of_date": day, "customer_id": "ghost", "orders": 1, "refunds": 0, "currency": "GBP", "net_revenue": Decimal(1)}
        ])  # fmt: skip

    monkeypatch.setattr(shop, "open", open_with_one_more)
    result = materialize(shop, day)
    assert not result.success and not checks(result)["every_customer_has_a_segment"]
