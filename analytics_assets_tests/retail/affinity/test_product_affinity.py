"""`product_affinity` against sets in Python, against Groceries, and on a shop whose pairs were planted."""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.home import Home
from analytics_assets.retail.affinity import assets
from analytics_assets.retail.affinity.assets import PRODUCT_AFFINITY, product_affinity, product_affinity_asset
from analytics_assets.retail.orders.assets import ORDER_ITEMS
from analytics_assets.settings import parse_settings
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets.warehouse.engine import engine, run
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.work import Platform, Work

SQL = Path(assets.__file__).parent / "product_affinity.sql"
GROCERIES = Path(__file__).resolve().parents[4] / "shared" / "data" / "groceries.csv"
DAY = date(2026, 3, 31)


def affinity(baskets: Iterable[Iterable[str]], minimum: int = 1, cap: int = 100, related: int = 1000) -> pl.DataFrame:
    """The rows for baskets that were all bought on one day; a product may be named twice."""
    lines = [(f"e{number:06}", product) for number, basket in enumerate(baskets) for product in basket]
    frame = pl.DataFrame(lines, {"event_id": pl.String, "product_id": pl.String}, orient="row")
    return affinity_of(
        frame.with_columns(kind=pl.lit("order"), quantity=pl.lit(1), order_date=pl.lit(DAY)), minimum, cap, related
    )


def affinity_of(lines: pl.DataFrame, minimum: int = 1, cap: int = 100, related: int = 1000, history: int = 365) -> pl.DataFrame:
    with engine() as connection:
        connection.register("order_items", lines.to_arrow())
        limits = {"minimum_baskets": minimum, "basket_cap": cap, "related_products": related}
        rows = run(connection, SQL, {"as_of": DAY, "first_day": DAY - timedelta(days=history - 1), **limits})
        return rows.pl().sort("product_id", "rank")


def oracle(
    baskets: list[list[str]], minimum: int, cap: int
) -> dict[tuple[str, str], tuple[int, float, float, float, float | None]]:
    """Baskets, support, confidence, lift and conviction of every directed pair, by counting sets."""
    sets = [set(basket) for basket in baskets if 0 < len(set(basket)) <= cap]
    alone = Counter(product for basket in sets for product in basket)
    together = Counter(pair for basket in sets for pair in permutations(basket, 2))
    found = {}
    for (one, other), count in together.items():
        if count < minimum:
            continue
        confidence, expected = count / alone[one], alone[other] / len(sets)
        conviction = None if count == alone[one] else (1 - expected) / (1 - confidence)
        found[one, other] = (count, count / len(sets), confidence, confidence / expected, conviction)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7), max_size=40),
    st.integers(1, 4),
    st.integers(2, 6),
)
def test_measures_equal_those_counted_with_sets(baskets: list[list[str]], minimum: int, cap: int):
    found = affinity(baskets, minimum, cap)
    expected = oracle(baskets, minimum, cap)
    rows = {(row["product_id"], row["related_product_id"]): row for row in found.iter_rows(named=True)}
    assert rows.keys() == expected.keys()
    for pair, (count, support, confidence, lift, conviction) in expected.items():
        row = rows[pair]
        assert row["baskets"] == count
        assert [row["support"], row["confidence"], row["lift"]] == pytest.approx([support, confidence, lift], abs=1e-6)
        assert (row["conviction"] is None) == (conviction is None)
        assert conviction is None or row["conviction"] == pytest.approx(conviction, abs=1e-6)
        assert row["lift_low"] == pytest.approx(lift * (math.sqrt(count) - 1) ** 2 / count, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7), min_size=1, max_size=40), st.integers(1, 3))
def test_ranks_follow_the_lower_end_of_the_lift_and_keep_the_best(baskets: list[list[str]], related: int):
    everything, best = affinity(baskets), affinity(baskets, related=related)
    for (_,), rows in everything.group_by("product_id", maintain_order=True):
        keys = list(rows.select(-pl.col("lift_low"), -pl.col("baskets"), "related_product_id").iter_rows())
        assert keys == sorted(keys)
        assert rows["rank"].to_list() == list(range(1, len(rows) + 1))
    assert best.equals(everything.filter(pl.col("rank") <= related))


def test_only_the_history_up_to_the_day_and_only_what_was_bought_counts():
    lines = [
        ("kept", "a", "order", 1, DAY), ("kept", "b", "order", 2, DAY),
        ("first day", "a", "order", 1, DAY - timedelta(days=9)), ("first day", "b", "order", 1, DAY - timedelta(days=9)),
        ("before", "a", "order", 1, DAY - timedelta(days=10)), ("before", "b", "order", 1, DAY - timedelta(days=10)),
        ("later", "a", "order", 1, DAY + timedelta(days=1)), ("later", "b", "order", 1, DAY + timedelta(days=1)),
        ("refund", "a", "refund", -1, DAY), ("refund", "b", "refund", -1, DAY),
        ("taken off", "a", "order", -1, DAY), ("taken off", "b", "order", 1, DAY),
    ]  # fmt: skip
    frame = pl.DataFrame(lines, ["event_id", "product_id", "kind", "quantity", "order_date"], orient="row")
    found = affinity_of(frame, history=10)
    assert found.select("product_id", "related_product_id", "baskets", "support").rows() == [
        ("a", "b", 2, pytest.approx(2 / 3)), ("b", "a", 2, pytest.approx(2 / 3))
    ]  # fmt: skip


@pytest.mark.skipif(not GROCERIES.exists(), reason="the Groceries baskets are not beside the project")
def test_groceries_gives_the_150_published_pairs():
    with open(GROCERIES, newline="") as file:
        baskets = [[item for item in row if item] for row in csv.reader(file)]
    found = affinity(baskets, minimum=math.ceil(0.006 * len(baskets)))
    pairs = found.filter((pl.col("support") >= 0.006) & (pl.col("confidence") >= 0.25))
    assert len(baskets) == 9835
    assert len(pairs) == 150
    best = pairs.sort("lift", descending=True).row(0, named=True)
    assert (best["product_id"], best["related_product_id"]) == ("herbs", "root vegetables")
    assert best["lift"] == pytest.approx(3.95648, abs=5e-6)


def planted(strength: float, seed: int) -> tuple[list[list[str]], dict[str, str]]:
    """Baskets of a shop with a Zipf popularity, where each product brings its partner along with this probability."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1, 401) ** -0.9
    order = rng.permutation(400)
    partner = np.empty(400, np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    drawn = rng.choice(400, (12_000, 3), p=popularity / popularity.sum())
    sizes = rng.integers(1, 4, len(drawn))
    baskets = []
    for products, size in zip(drawn, sizes, strict=True):
        basket = set(products[:size].tolist())
        basket |= {int(partner[product]) for product in basket if rng.random() < strength}
        baskets.append([f"p{product}" for product in basket])
    return baskets, {f"p{product}": f"p{partner[product]}" for product in range(400)}


def test_the_lower_end_of_the_lift_finds_more_planted_partners_than_lift_confidence_or_chance():
    baskets, partners = planted(strength=0.02, seed=5)
    rows = affinity(baskets, minimum=2)
    rows = rows.with_columns(true=pl.col("related_product_id") == pl.col("product_id").replace_strict(partners))
    findable = rows.filter("true")["product_id"].to_list()
    hits = {
        measure: rows.filter(pl.col("product_id").is_in(findable))
        .sort("product_id", measure, "related_product_id", descending=[False, True, False])
        .group_by("product_id")
        .agg(pl.col("true").first())["true"]
        .mean()
        for measure in ("lift_low", "lift", "confidence")
    }
    assert len(findable) > 150
    assert hits["lift_low"] > 0.75
    assert hits["lift_low"] > hits["lift"] + 0.02 > hits["confidence"] + 0.3


def test_articles_of_a_collection_that_people_love_go_together():
    """Favourite collections are planted in the simulated shop: an eighth of the articles are of one's own, half of the best related."""
    shop = simulate(Retailer(customers=8_000, products=400, taste=0.9, popularity=0.6, seed=3, visitors_per_customer=0))
    orders = shop.transactions.with_row_index("transaction").filter(~pl.col("refund"))
    lines = shop.items.join(orders.with_columns(pl.col("transaction").cast(pl.Int64)), on="transaction").select(
        event_id=pl.col("transaction").cast(pl.String),
        product_id=pl.col("product").replace_strict(range(400), shop.catalogue["sku"]),
        kind=pl.lit("order"),
        quantity="quantity",
        order_date=pl.lit(DAY),
    )
    collection = pl.col("product_id", "related_product_id").replace_strict(shop.catalogue["sku"], shop.catalogue["collection"])
    found = affinity_of(lines, minimum=5).with_columns(collection)
    best = found.filter(pl.col("rank") == 1)
    assert len(best) > 100
    assert best.select((pl.col("product_id") == pl.col("related_product_id")).mean()).item() > 0.5


def test_among_rare_products_one_basket_is_not_taken_for_a_bond():
    chance = [["rare 1", "rare 2"]]
    bond = [["rare 3", "rare 4"]] * 8 + [["rare 3"], ["rare 4"]]
    rows = affinity([*chance, *bond, *[["bread"]] * 500])
    measures = {row["product_id"]: (row["lift"], row["lift_low"]) for row in rows.iter_rows(named=True)}
    assert measures["rare 1"][0] > measures["rare 3"][0]
    assert measures["rare 1"][1] < measures["rare 3"][1]


# ------------------------------------------------------------------------------------------------------------- the asset


@pytest.fixture
def shop(tmp_path: Path) -> Platform:
    """Random orders of March in a lake, one of them enormous."""
    rng = np.random.default_rng(2)
    lines: list[dict[str, Any]] = []
    for number in range(400):
        products = range(12) if number == 7 else rng.choice(9, rng.integers(1, 5), replace=False)
        order = {
            "order_date": date(2026, 3, 1) + timedelta(days=int(rng.integers(31))),
            "event_id": f"e{number}",
            "order_id": "1",
        }
        for line, product in enumerate(products):
            names = {"product_id": f"p{product}", "product_name": None, "category": None, "price": None}
            lines.append({**order, "kind": "order", "line": line + 1, "quantity": 1, **names})
    text = (
        '[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n[affinity]\nbasket_cap = 10\nminimum_baskets = 2\nrelated_products = 3'
    )
    platform = Platform(parse_settings(text, "x"), Home(tmp_path / "home"))
    platform.lake.replace(ORDER_ITEMS, pl.DataFrame(lines, infer_schema_length=None).pipe(as_declared), None, {})
    return platform


def as_declared(frame: pl.DataFrame) -> Any:
    with duckdb.connect() as connection:
        connection.register("lines", frame.to_arrow())
        return connection.sql(ORDER_ITEMS.typed_select("lines")).to_arrow_table().cast(ORDER_ITEMS.arrow_schema())


def computed(platform: Platform, first: date, last: date) -> tuple[pl.DataFrame, dict[str, Any]]:
    start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last + timedelta(days=1)))
    with engine() as connection:
        work = Work(platform, Window(first, last, start, end), connection, None)
        return pl.DataFrame(product_affinity(work)[PRODUCT_AFFINITY.name]), work.metadata


def test_a_day_alone_has_the_rows_that_it_has_in_a_range(shop: Platform):
    together, _ = computed(shop, date(2026, 3, 27), date(2026, 3, 31))
    by_day = together.partition_by("as_of_date", as_dict=True)
    assert len(by_day) == 5
    for (day,), rows in by_day.items():
        alone, _ = computed(shop, day, day)
        order = ["product_id", "rank"]
        assert alone.sort(order).equals(rows.sort(order))


def test_baskets_above_the_cap_are_left_out_and_counted(shop: Platform):
    rows, metadata = computed(shop, date(2026, 3, 31), date(2026, 3, 31))
    assert metadata["baskets"] == "400, of which 1 above 10 products left out"
    assert metadata["largest basket"] == "12 products"
    assert not set(rows["product_id"]) & {"p9", "p10", "p11"}


def audits(platform: Platform, rows: pl.DataFrame) -> set[str]:
    """Names of the asset's checks that object to the rows."""
    asset = product_affinity_asset(platform, None)
    names = {key.name for key in asset.check_keys}
    assert names >= {"measures_are_possible", "ranks_have_no_gap"}
    with engine() as connection:
        connection.register("rows", rows.to_arrow())
        return {a.name for a in assets.promises(platform.settings.affinity) if connection.sql(a.violations).fetchall()}


def test_checks_pass_what_was_computed_and_object_to_what_cannot_be(shop: Platform):
    rows, _ = computed(shop, date(2026, 3, 31), date(2026, 3, 31))
    assert not audits(shop, rows)
    first = pl.int_range(pl.len()) == 0
    broken = {
        "support": pl.when(first).then(1.5).otherwise("support").alias("support"),
        "confidence": pl.when(first).then(1.5).otherwise("confidence").alias("confidence"),
        "lift_low": pl.when(first).then(pl.col("lift") + 1).otherwise("lift_low").alias("lift_low"),
        "self": pl.when(first).then(pl.col("product_id")).otherwise("related_product_id").alias("related_product_id"),
        "baskets": pl.when(first).then(1).otherwise("baskets").alias("baskets"),
    }
    for name, change in broken.items():
        assert audits(shop, rows.with_columns(change)) == {"measures_are_possible"}, name
    assert audits(shop, rows.filter(pl.col("rank") != 2)) == {"ranks_have_no_gap"}
    assert audits(shop, rows.filter(pl.col("rank") != 1)) == {"ranks_have_no_gap"}


def test_random_baskets_have_related_products_in_both_directions():
    rng = np.random.default_rng(8)
    rows = affinity([[str(p) for p in rng.choice(6, 3)] for _ in range(80)])
    directions = defaultdict(set)
    for one, other, count in rows.select("product_id", "related_product_id", "baskets").iter_rows():
        directions[frozenset((one, other))].add(count)
    assert len(rows) == 2 * len(directions)
    assert all(len(counts) == 1 for counts in directions.values())
