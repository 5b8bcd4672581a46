"""The SQL behind the lists against plain Python on random orders."""

from collections import defaultdict
from datetime import date, timedelta
from math import floor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.recommendations import assets
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
        "first_day": until - timedelta(days=39),
        "last_day": until + timedelta(days=7),
        "history_half_life": 120.0,
        "trend_half_life": 7.0,
    }
    return orders, items, identities, parameters


def rows_of(shop_at, file: str) -> pl.DataFrame:
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
        return run(connection, HERE / f"{file}.sql", parameters).pl()


def sold_lines(shop_at):
    _, items, _, parameters = shop_at
    return [line for line in items if line[2] == "order" and line[7] > 0 and line[0] <= parameters["until"]]


def weight(day: date, parameters, half_life: float) -> int:
    age = (parameters["until"] - day).days
    return floor(1_000_000 * 0.5 ** (age / half_life)) if day >= parameters["first_day"] else 0


def test_the_catalogue_holds_every_product_ever_ordered_with_its_newest_name_and_its_sales(shop_at):
    parameters = shop_at[3]
    lines = sold_lines(shop_at)
    expected = []
    for number, product in enumerate(sorted({line[4] for line in lines})):
        mine = sorted((line for line in lines if line[4] == product), key=lambda line: line[0])
        names = sorted((line[0], line[5]) for line in mine if line[5])
        categories = sorted((line[0], line[6]) for line in mine if line[6])
        expected.append((
            number, product, names[-1][1] if names else product, categories[-1][1] if categories else None, mine[-1][0],
            sum(weight(line[0], parameters, 120) for line in mine), sum(weight(line[0], parameters, 7) for line in mine),
        ))  # fmt: skip
    assert rows_of(shop_at, "catalogue").sort("product").rows() == expected


def owners(shop_at) -> dict[str, int]:
    """The customer's number of each event, by the identities of the day."""
    orders, _, identities, _ = shop_at
    customer = {identity: int(name[1:]) for day, identity, name in identities if day == AS_OF and name}
    return {event: customer[identity] for _, event, _, identity in orders if identity in customer}


def test_histories_count_days_of_purchase_and_know_what_was_returned(shop_at):
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
    lines = rows_of(shop_at, "history_lines")
    columns = [lines[name].to_numpy() for name in ("customer", "product", "age", "returned")]
    parts = [[column[start : start + 50] for column in columns] for start in range(0, len(lines), 50)]
    found = Histories.of_lines((5, len(catalogue)), parts, 120.0, 40)
    pairs = sorted(days.keys() | returned)
    assert list(zip(found.owner.tolist(), found.products.tolist(), strict=True)) == pairs
    assert np.diff(found.starts).tolist() == [sum(customer == n for customer, _ in pairs) for n in range(5)]
    assert found.purchases.tolist() == [len(days[pair]) for pair in pairs]
    newest = [max(days[pair], default=None) for pair in pairs]
    assert found.last_day.tolist() == [-1 if day is None else (parameters["until"] - day).days for day in newest]
    assert found.returned.tolist() == [pair in returned for pair in pairs]
    assert found.weight.tolist() == [sum(weight(day, parameters, 120) for day in days[pair]) / 1e6 for pair in pairs]


def test_nothing_bought_is_a_history_without_entries():
    found = Histories.of_lines((3, 2), [], 120.0, 40)
    assert found.starts.tolist() == [0, 0, 0, 0]
    assert not len(found.products)


def test_later_purchases_are_those_of_the_days_after_with_products_that_may_be_new(shop_at):
    _, items, _, parameters = shop_at
    owner = owners(shop_at)
    catalogue = {product: number for number, product in enumerate(sorted({line[4] for line in sold_lines(shop_at)}))}
    expected = {
        (owner[event], product, catalogue.get(product))
        for day, event, kind, _, product, _, _, quantity in items
        if event in owner and kind == "order" and quantity > 0 and parameters["until"] < day <= parameters["last_day"]
    }
    found = rows_of(shop_at, "later_purchases").rows()
    assert set(found) == expected
    assert len(found) == len(expected)
