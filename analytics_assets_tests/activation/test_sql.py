"""Each SQL file of the room against plain loops on random rows, and its rules by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import analytics_assets.activation
from analytics_assets.warehouse.engine import engine, run

FOLDER = Path(analytics_assets.activation.__file__).parent
DAY, OTHER = date(2026, 3, 3), date(2026, 3, 2)


def query(file: str, tables: dict[str, list[dict[str, Any]]], **parameters: Any) -> list[tuple]:
    with engine() as connection:
        for name, rows in tables.items():
            connection.register(name, pa.Table.from_pylist(rows))
        everybody = {"first_id": "", "next_first_id": None}
        return run(connection, FOLDER / file, {"as_of": DAY, **everybody, **parameters}).fetchall()


def values(customers: dict[tuple[str, str], tuple[int, int]], day: date = DAY) -> list[dict[str, Any]]:
    """Rows of customer_ltv: (customer, currency) to (orders, lifetime value)."""
    return [
        {"as_of_date": day, "customer_id": who, "currency": currency, "orders": orders, "lifetime_value": Decimal(value)}
        for (who, currency), (orders, value) in customers.items()
    ]


def standing(ltv: list[dict[str, Any]], unproved: tuple[str, ...] = ()) -> dict[str, tuple]:
    """Of each customer segment, band, place and how many; no forecast of the `unproved` currencies passed, or none was tested."""
    tests = [
        {"as_of_date": day, "currency": currency, "chosen": chosen, "accepted": accepted}
        for currency in {row["currency"] for row in ltv} - {"untested"}
        for day, chosen, accepted in ((DAY, True, currency not in unproved), (DAY, False, True), (OTHER, True, True))
    ]
    segments = [
        {
            "as_of_date": row["as_of_date"],
            "customer_id": row["customer_id"],
            "currency": row["currency"],
            "segment": f"in {row['currency']}",
        }
        for row in ltv
    ]
    tables = {"customer_ltv": ltv, "customer_segments": segments, "ltv_backtests": tests}
    found = query("standing.sql", tables, currency="GBP")
    assert len({row[0] for row in found}) == len(found)
    return {row[0]: row[1:] for row in found}


def test_the_first_tenth_is_high_the_next_three_medium() -> None:
    found = standing(values({(f"c{n:02}", "GBP"): (1, 100 - n) for n in range(20)}))
    assert [found[f"c{n:02}"][1] for n in range(20)] == ["high"] * 2 + ["medium"] * 6 + ["low"] * 12


def test_equal_values_share_a_band_and_worth_nothing_is_low() -> None:
    found = standing(values({(f"c{n}", "GBP"): (1, 50) for n in range(9)} | {("d", "GBP"): (1, 10)}))
    assert {found[f"c{n}"][1] for n in range(9)} == {"high"} and found["d"][1] == "low"
    assert standing(values({("a", "GBP"): (1, 0), ("b", "GBP"): (1, -5)})) == {
        "a": ("in GBP", "low", 1, 2),
        "b": ("in GBP", "low", 2, 2),
    }


def test_no_band_is_told_of_a_currency_whose_forecast_has_not_passed() -> None:
    ltv = values({(f"{currency}{n}", currency): (1, 100 - n) for currency in ("GBP", "EUR", "untested") for n in range(20)})
    found = standing(ltv, unproved=("EUR",))
    assert {row[1] for who, row in found.items() if who.startswith("GBP")} == {"high", "medium", "low"}
    assert {row[1] for who, row in found.items() if not who.startswith("GBP")} == {"unknown"}


def test_the_main_currency_has_most_orders_then_is_the_businesss_then_the_first() -> None:
    ltv = values({
        ("a", "GBP"): (1, 9), ("a", "EUR"): (2, 9), ("b", "EUR"): (2, 9), ("b", "GBP"): (2, 9), ("c", "USD"): (1, 9), ("c", "EUR"): (1, 9),
    })  # fmt: skip
    assert {who: row[0] for who, row in standing(ltv).items()} == {"a": "in EUR", "b": "in GBP", "c": "in EUR"}


@pytest.mark.parametrize("seed", range(5))
def test_standing_against_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ltv: dict[tuple[str, str], tuple[int, int]] = {
        (f"c{rng.integers(60)}", str(rng.choice(["GBP", "EUR", "USD"]))): (int(rng.integers(1, 4)), int(rng.integers(-3, 25)))
        for _ in range(100)
    }
    noise = values({(who, "GBP"): (9, 999) for who, _ in ltv}, OTHER)
    expected = {}
    for who in {who for who, _ in ltv}:
        mine = [currency for other, currency in ltv if other == who]
        main = min(mine, key=lambda currency: (-ltv[who, currency][0], currency != "GBP", currency))
        worths = [value for (_, currency), (_, value) in ltv.items() if currency == main]
        worth = ltv[who, main][1]
        place = 1 + sum(other > worth for other in worths)
        share = (place - 1) / len(worths)
        band = "low" if worth <= 0 or share >= 0.4 else "high" if share < 0.1 else "medium"
        expected[who] = (f"in {main}", band, place, len(worths))
    assert standing(values(ltv) + noise) == expected


def recommended(lists: dict[tuple[str, str], list[str]], day: date = DAY, basis: str = "history") -> list[dict[str, Any]]:
    return [
        {
            "as_of_date": day,
            "customer_id": who,
            "list": name,
            "rank": rank,
            "product_id": product,
            "basis": basis,
            "reason": f"r{rank}",
        }
        for (who, name), products in lists.items()
        for rank, product in enumerate(products, 1)
    ]


def picks(lists: dict[tuple[str, str], list[str]], products: int, buy_again_first: int) -> dict[str, list[str]]:
    rows = recommended(lists) + recommended({("a", "discover"): ["noise"]}, OTHER)
    found: dict[str, list[str]] = defaultdict(list)
    for who, place, product in sorted(
        query("picks.sql", {"recommendations": rows}, products=products, buy_again_first=buy_again_first)
    ):
        found[who].append(product)
        assert place == len(found[who])
    return dict(found)


def test_a_quarter_buys_again_then_discover_then_the_rest_each_product_once() -> None:
    lists = {("a", "buy_again"): ["b1", "b2", "b3"], ("a", "discover"): ["d1", "b1", "d2"]}
    assert picks(lists, 4, 1) == {"a": ["b1", "d1", "d2", "b2"]}
    assert picks(lists, 8, 2) == {"a": ["b1", "b2", "d1", "d2", "b3"]}
    assert picks(lists, 2, 0) == {"a": ["d1", "b1"]}


def test_only_what_was_really_bought_before_comes_first() -> None:
    rows = recommended({("a", "buy_again"): ["b1"]}, basis="similarity") + recommended({("a", "discover"): ["d1"]})
    assert sorted(query("picks.sql", {"recommendations": rows}, products=4, buy_again_first=1)) == [
        ("a", 1, "d1"),
        ("a", 2, "b1"),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_picks_against_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lists = {
        (f"c{n}", name): [f"p{number}" for number in rng.permutation(12)[: rng.integers(0, 9)]]
        for n in range(30)
        for name in ("buy_again", "discover")
    }
    expected = {}
    for who in {who for who, _ in lists}:
        again, new = lists[who, "buy_again"], lists[who, "discover"]
        order = list(dict.fromkeys([*again[:2], *new, *again[2:]]))[:6]
        if order:
            expected[who] = order
    assert picks(lists, 6, 2) == expected


def identities(pairs: list[tuple[str, str, str | None]], day: date = DAY) -> list[dict[str, Any]]:
    return [{"as_of_date": day, "identity": identity, "kind": kind, "customer_id": who} for identity, kind, who in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_contact_traits_against_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = {f"i{n}": None if n == 0 else f"c{n % 7}" for n in range(20)}
    rows = [
        {
            "event_date": DAY + timedelta(int(rng.integers(-3, 3))), "identity": f"i{rng.integers(25)}", "trait": str(rng.choice(["email", "vip"])),
            "value": str(rng.choice(["x", "y"])), "last_second": int(rng.integers(100)),
        }
        for _ in range(200)
    ]  # fmt: skip
    expected: dict[tuple[str, str, str], int] = {}
    for row in rows:
        who = owner.get(row["identity"])
        if who and row["event_date"] <= DAY:
            key = (who, row["trait"], row["value"])
            expected[key] = max(expected.get(key, -1), row["last_second"])
    maps = identities([(one, "named", who) for one, who in owner.items()]) + identities([("i1", "named", "nobody")], OTHER)
    found = query("contact_traits.sql", {"traits": rows, "identities": maps})
    assert {row[:3]: row[3] for row in found} == expected and len(found) == len(expected)


def test_what_blocked_identities_said_by_the_day_is_kept_apart() -> None:
    said = [
        ("a@x.test", "no", DAY, 5),
        ("a@x.test", "no", OTHER, 3),
        ("a@x.test", "yes", DAY + timedelta(1), 9),
        ("b", "no", DAY, 1),
    ]
    rows = [
        {"event_date": day, "identity": one, "trait": "newsletter", "value": value, "last_second": second}
        for one, value, day, second in said
    ]
    maps = identities([("a@x.test", "blocked", None), ("b", "named", "b")]) + identities([("b", "blocked", None)], OTHER)
    tables = {"traits": rows, "identities": maps}
    assert query("shared_traits.sql", tables) == [("a@x.test", "newsletter", "no", 5)]
    assert query("contact_traits.sql", tables) == [("b", "newsletter", "no", 1)]


def test_named_identities_of_the_day_are_known_and_anonymous_ones_that_are_suppressed() -> None:
    maps = identities(
        [("a@x.test", "named", "c1"), ("b@x.test", "anonymous", "c1"), ("c", "named", "c1"), ("test@x.test", "blocked", None)]
    )
    old = identities([("d@x.test", "named", "c1")], OTHER)
    file, tables = "known_identities.duckdb.sql", {"identities": maps + old}
    assert query(file, tables, suppressed=[]) == [("c1", "a@x.test"), ("c1", "c")]
    names = ["b@x.test", "c", "d@x.test", "test@x.test"]
    assert query(file, tables, suppressed=names) == [("c1", "a@x.test"), ("c1", "b@x.test"), ("c1", "c")]
    upper = identities([(" Guest7 ", "anonymous", "c1")])
    assert query(file, {"identities": upper}, suppressed=["guest7"]) == [("c1", " Guest7 ")]


def test_a_product_has_the_name_of_its_latest_sold_line_by_the_day() -> None:
    lines = [
        ("p1", "old", OTHER, "order", 1),
        ("p1", "new", DAY, "order", 1),
        ("p1", "later", DAY + timedelta(1), "order", 1),
        ("p2", "b", DAY, "order", 1),
        ("p2", "a", DAY, "order", 1),
        ("p3", None, DAY, "order", 1),
        ("p4", "chain", OTHER, "order", 1),
        ("p4", "", DAY, "order", 1),
        ("p4", " ", DAY, "order", 1),
        ("p4", "damages", DAY, "order", -150),
        ("p4", "sent back", DAY, "refund", -1),
    ]
    columns = ("product_id", "product_name", "order_date", "kind", "quantity")
    rows = [dict(zip(columns, line, strict=True)) for line in lines]
    assert sorted(query("product_names.sql", {"order_items": rows})) == [("p1", "new"), ("p2", "b"), ("p4", "chain")]


@pytest.mark.parametrize("block_rows", [1, 2, 3, 7, 100])
def test_blocks_of_customers_are_whole_and_say_the_same_as_one(block_rows: int) -> None:
    lists = {
        (f"c{n}", name): ["p1", "p2"] for n in range(7) for name in ("buy_again", "discover") if n != 3 or name == "discover"
    }
    tables = {"recommendations": recommended(lists) + recommended({("z", "discover"): ["p1"]}, OTHER)}
    firsts = [first for (first,) in query("customer_blocks.sql", tables, block_rows=block_rows)]
    assert len(firsts) == -(-7 // block_rows)
    blocks = zip(firsts, [*firsts[1:], None], strict=False)
    lines = [
        json.loads(line)
        for first, after in blocks
        for (line,) in query("customer_lists.duckdb.sql", tables, first_id=first, next_first_id=after)
    ]
    assert [line["customer_id"] for line in lines] == [f"c{n}" for n in range(7)]
    assert lines[3]["buy_again"] == []
    assert lines[0]["discover"] == [{"product_id": f"p{n}", "basis": "history", "reason": f"r{n}"} for n in (1, 2)]


def test_only_what_serves_the_day_stands_for_it() -> None:
    quality = [
        {
            "as_of_date": day,
            "list": "discover",
            "model": model,
            "cut_off": OTHER,
            "customers": 5,
            "recall_at_20": recall,
            "chosen": chosen,
        }
        for day, model, recall, chosen in (
            (DAY, "ease", 0.5, True), (DAY, "bm25", 0.4, False), (DAY, "popular", 0.25, False),
            (OTHER, "bm25", 0.6, True), (OTHER, "popular", 0.1, False),
        )
    ]  # fmt: skip
    assert query("chosen_recommenders.sql", {"recommendation_quality": quality}) == [("discover", "ease", OTHER, 5, 0.5, 0.25)]
    tests = [
        {"as_of_date": day, "currency": currency, "chosen": chosen, "accepted": accepted, "reason": reason}
        for day, currency, chosen, accepted, reason in (
            (DAY, "GBP", False, True, "a"), (DAY, "GBP", True, False, "b"), (DAY, "EUR", True, True, "c"), (OTHER, "GBP", True, True, "d"),
        )
    ]  # fmt: skip
    assert sorted(query("ltv_models.sql", {"ltv_backtests": tests})) == [
        ("lifetime value in EUR", True, "c"),
        ("lifetime value in GBP", False, "b"),
    ]
