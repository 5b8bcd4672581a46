"""The SQL behind the lists against plain Python on random orders."""

from collections import defaultdict
from datetime import date, timedelta
from math import floor
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.retail.recommendations import assets, lists
from analytics_assets.retail.recommendations.evaluation import Pairs
from analytics_assets.retail.recommendations.lines import Lines
from analytics_assets.retail.recommendations.lists import Histories
from analytics_assets.warehouse.engine import engine, run

HERE = Path(assets.__file__).parent
AS_OF = date(2026, 3, 31)


@pytest.fixture(params=range(4))
def shop_at(request):
    """Random orders, lines and identities, and the parameters of a night at an earlier day."""
    rng = np.random.default_rng(request.param)
    orders, items = [], []
    for number in range(250):
        day = AS_OF - timedelta(days=int(rng.integers(90)))
        kind = "refund" if rng.random() < 0.2 else "order"
        orders.append((day, f"e{number:03}", kind, f"i{rng.integers(12)}"))
        for line in range(int(rng.integers(4))):
            product = f"p{rng.integers(9)}"
            name = f"{product} v{rng.integers(3)}" if rng.random() < 0.7 else None
            category = f"c{rng.integers(3)}" if rng.random() < 0.5 else None
            quantity = -1 if kind == "refund" else int(rng.choice([-1, 1, 2], p=[0.1, 0.5, 0.4]))
            items.append((day, f"e{number:03}", kind, line + 1, product, name, category, quantity))
    identities = [(AS_OF, f"i{n}", f"c{n // 2}" if n < 9 else None) for n in range(12)]
    identities += [(AS_OF - timedelta(days=1), f"i{n}", "yesterday's") for n in range(12)]
    until = AS_OF - timedelta(days=int(rng.integers(30)))
    parameters = {
        "as_of": AS_OF,
        "until": until,
    }
    return orders, items, identities, parameters


def rows_of(shop_at, file: str) -> pa.Table:
    orders, items, identities, parameters = shop_at
    with engine() as connection:
        for name, rows, columns in (
            ("orders", orders, ["order_date", "event_id", "kind", "identity"]),
            (
                "order_items",
                items,
                ["order_date", "event_id", "kind", "line", "product_id", "product_name", "category", "quantity"],
            ),
            ("identities", identities, ["as_of_date", "identity", "customer_id"]),
            ("listed_customers", [(n, f"c{n}") for n in range(5)], ["customer", "customer_id"]),
        ):
            frame = pl.DataFrame(rows, columns, orient="row", infer_schema_length=None)
            connection.register(name, frame.to_arrow())
        connection.register("catalogue", run(connection, HERE / "catalogue.sql", parameters).to_arrow_table())
        return run(connection, HERE / f"{file}.sql", parameters).to_arrow_table()


def sold_lines(shop_at):
    _, items, _, parameters = shop_at
    return [line for line in items if line[2] == "order" and line[7] > 0 and line[0] <= parameters["until"]]


HISTORY_DAYS = 40


def weight(day: date, until: date, half_life: float) -> int:
    age = (until - day).days
    return floor(1_000_000 * 0.5 ** (age / half_life)) if age < HISTORY_DAYS else 0


def test_the_catalogue_holds_every_product_ever_ordered_with_its_newest_name_and_category(shop_at):
    lines = sold_lines(shop_at)
    expected = []
    for number, product in enumerate(sorted({line[4] for line in lines})):
        mine = [line for line in lines if line[4] == product]
        names = sorted((line[0], line[5]) for line in mine if line[5])
        categories = sorted((line[0], line[6]) for line in mine if line[6])
        expected.append((number, product, names[-1][1] if names else product, categories[-1][1] if categories else None))
    assert sorted(map(tuple, (row.values() for row in rows_of(shop_at, "catalogue").to_pylist()))) == expected


def owners(shop_at) -> dict[str, int]:
    """The customer's number of each event, by the identities of the day."""
    orders, _, identities, _ = shop_at
    customer = {identity: int(name[1:]) for day, identity, name in identities if day == AS_OF and name}
    return {event: customer[identity] for _, event, _, identity in orders if identity in customer}


@pytest.mark.parametrize("at_once", [7, 500_000])
def test_histories_count_days_of_purchase_and_know_what_was_returned(shop_at, at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lists, "ENTRIES_SUMMED_AT_ONCE", at_once)
    _, items, _, parameters = shop_at
    owner = owners(shop_at)
    catalogue = {product: number for number, product in enumerate(sorted({line[4] for line in sold_lines(shop_at)}))}
    days, returned = defaultdict(set), set()
    for day, event, kind, _, product, _, _, quantity in items:
        if event in owner and day <= parameters["until"] and product in catalogue:
            if kind == "refund":
                returned.add((owner[event], catalogue[product]))
            elif quantity > 0:
                days[owner[event], catalogue[product]].add(day)
    lines = Lines.of(rows_of(shop_at, "lines"), parameters["until"])
    found = Histories.of_lines((5, len(catalogue)), lines, 120.0, HISTORY_DAYS)
    pairs = sorted(days.keys() | returned)
    assert list(zip(found.owner.tolist(), found.products.tolist(), strict=True)) == pairs
    assert np.diff(found.starts).tolist() == [sum(customer == n for customer, _ in pairs) for n in range(5)]
    assert found.purchases.tolist() == [len(days[pair]) for pair in pairs]
    newest = [max(days[pair], default=None) for pair in pairs]
    assert found.last_day.tolist() == [-1 if day is None else (parameters["until"] - day).days for day in newest]
    assert found.returned.tolist() == [pair in returned for pair in pairs]
    assert found.weight.tolist() == [sum(weight(day, parameters["until"], 120) for day in days[pair]) / 1e6 for pair in pairs]


def test_nothing_bought_is_a_history_without_entries():
    nothing = np.empty(0, np.int32)
    found = Histories.of_lines((3, 2), Lines(nothing, nothing, nothing.astype(np.int16), nothing > 0), 120.0, HISTORY_DAYS)
    assert found.starts.tolist() == [0, 0, 0, 0]
    assert not len(found.products)


def lines_and_products(shop_at) -> tuple[Lines, list[str]]:
    """What the lines of the last day tell, and the ids of the products that they number."""
    shop_at[3]["until"] = AS_OF
    return Lines.of(rows_of(shop_at, "lines"), AS_OF), sorted({line[4] for line in sold_lines(shop_at)})


def test_sales_and_the_newest_of_them_are_those_that_were_known_at_an_earlier_day(shop_at):
    until = shop_at[3]["until"]
    sold = sold_lines(shop_at)
    lines, products = lines_and_products(shop_at)
    then = lines.before((AS_OF - until).days)
    assert [products[n] for n in then.ordered(len(products))] == sorted({line[4] for line in sold})
    for half_life in (120, 7):
        expected = [sum(weight(line[0], until, half_life) for line in sold if line[4] == product) / 1e6 for product in products]
        assert then.sold(len(products), half_life, HISTORY_DAYS).tolist() == expected
    newest = [min(((until - line[0]).days for line in sold if line[4] == product), default=2**15 - 1) for product in products]
    assert then.newest(len(products)).tolist() == newest


def test_what_was_bought_after_is_that_of_the_days_after_by_those_who_have_lists(shop_at):
    until, owner = shop_at[3]["until"], owners(shop_at)
    _, items, _, _ = shop_at
    expected = {
        (owner[event], product)
        for day, event, kind, _, product, _, _, quantity in items
        if event in owner and kind == "order" and quantity > 0 and until < day <= until + timedelta(days=7)
    }
    lines, products = lines_and_products(shop_at)
    after = lines.bought_after((AS_OF - until).days, 7)
    found = Pairs.each_once(after.customer, after.product)
    assert [
        (customer, products[n]) for customer, n in zip(found.customer.tolist(), found.product.tolist(), strict=True)
    ] == sorted(expected)


def test_a_sample_holds_the_lines_of_every_nth_customer_under_new_numbers(shop_at):
    lines, _ = lines_and_products(shop_at)
    some = lines.of_every(2)
    kept = [(c // 2, p, a, r) for c, p, a, r in rows(lines) if c in (0, 2, 4)]
    assert rows(some) == kept
    assert {c for c, *_ in kept} == {0, 1, 2}


def test_products_that_have_no_other_number_leave_with_their_lines(shop_at):
    lines, products = lines_and_products(shop_at)
    number = np.full(len(products), -1, np.int32)
    number[[2, 5]] = [0, 1]
    assert rows(lines.numbered(number)) == [(c, {2: 0, 5: 1}[p], a, r) for c, p, a, r in rows(lines) if p in (2, 5)]


def rows(lines: Lines) -> list[tuple]:
    columns = (lines.customer, lines.product, lines.age, lines.returned)
    return list(zip(*(column.tolist() for column in columns), strict=True))
