"""What lists are worth on real shops, and what making them costs beside the plain DuckDB way.

`online_retail` and `movielens` measure recall@20 and NDCG@10 on weeks that no constant was chosen on, `measure` the seconds.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from analytics_assets.retail.recommendations import assets
from analytics_assets.retail.recommendations.assets import Night
from analytics_assets.retail.recommendations.evaluation import Pairs
from analytics_assets.retail.recommendations.lists import Histories, Kind, Lists, Scorer, make_lists
from analytics_assets.retail.recommendations.similarity import candidates, trend
from analytics_assets.settings import Recommendations
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns

NO_SUPPRESSION = Recommendations(rest_days=0, assortment_days=3650)
"""The published protocols suppress nothing."""


@dataclass(frozen=True)
class Standing:
    """Recall@20 and NDCG@10 of the model that earlier days chose, on days that it never saw, beside the best known."""

    what: str
    model: str
    customers: int
    recall_at_20: float
    ndcg_at_10: float
    recall_to_beat: float
    ndcg_to_beat: float


def known_from(
    purchases: pl.DataFrame, settings: Recommendations = NO_SUPPRESSION
) -> tuple[Night, dict[str, int], dict[str, int]]:
    """What a night knows from purchases (customer, product, age in days), with the numbers of customers and products."""
    customers = {name: number for number, name in enumerate(sorted(purchases["customer"].unique().to_list()))}
    products = {name: number for number, name in enumerate(sorted(purchases["product"].unique().to_list()))}
    lines = (
        purchases.unique()
        .with_columns(
            pl.col("customer").replace_strict(customers, return_dtype=pl.Int64),
            pl.col("product").replace_strict(products, return_dtype=pl.Int64),
            sold=0.5 ** (pl.col("age") / assets.HISTORY_HALF_LIFE_DAYS),
            lately=0.5 ** (pl.col("age") / assets.TREND_HALF_LIFE_DAYS),
        )
        .sort("customer", "product", "age")
    )
    entries = lines.group_by("customer", "product", maintain_order=True).agg(
        weight=pl.col("sold").sum(), purchases=pl.len().cast(pl.Int64), last_day=pl.col("age").min().cast(pl.Int64)
    )
    columns = (entries[name].to_numpy() for name in ("customer", "product", "weight", "purchases", "last_day"))
    histories = Histories.of((len(customers), len(products)), *columns, np.zeros(len(entries), np.bool_))
    sold, lately = (np.bincount(lines["product"], lines[name], len(products)) for name in ("sold", "lately"))
    popular = np.lexsort((np.arange(len(products)), -lately))
    return (
        Night(
            np.arange(len(products)),
            histories,
            *2 * (np.ones(len(products), np.bool_),),
            popular,
            trend(sold, lately),
            True,
            settings,
        ),
        customers,
        products,
    )


def measured(before: pl.DataFrame, after: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    """The quality of every model whose lists are made of `before`, on the purchases of `after`, as `assets.choose` wants it."""
    known, customers, products = known_from(before)
    # What nobody had bought before is nobody's repeat: a number of its own for each.
    new = {name: -1 - number for number, name in enumerate(sorted(set(after["product"].to_list()) - set(products)))}
    later = after.filter(pl.col("customer").is_in(list(customers))).select(
        pl.col("customer").replace_strict(customers, return_dtype=pl.Int64),
        pl.col("product").replace_strict(products | new, return_dtype=pl.Int64),
    )
    bought = Pairs.each_once(later["customer"].to_numpy(), later["product"].to_numpy())
    found = assets.measured_at(known, [kind], bought)[kind]
    return pl.DataFrame(
        [(kind, model, q.customers, q.recall_at_20, q.ndcg_at_10) for model, q in found.items()],
        ["list", "model", "customers", "recall_at_20", "ndcg_at_10"],
        orient="row",
    )


def standing(what: str, kind: Kind, earlier: pl.DataFrame, last: pl.DataFrame, recall: float, ndcg: float) -> Standing:
    """What the model that is best on `earlier` measurements reaches on the `last` one."""
    model, _ = assets.choose(earlier, kind, last["model"].to_list())
    row = last.row(by_predicate=pl.col("model") == model, named=True)
    return Standing(what, model, row["customers"], row["recall_at_20"], row["ndcg_at_10"], recall, ndcg)


def online_retail(path: Path) -> Iterator[Standing]:
    """The last seven days of Online Retail; the model is chosen on the three weeks before them."""
    end = datetime(2011, 12, 9, 12, 50)
    bought = pl.read_parquet(path).filter(pl.col("CustomerID").is_not_null() & (pl.col("Quantity") > 0))
    bought = bought.filter(~pl.col("InvoiceNo").str.starts_with("C"))
    lines = bought.select(customer=pl.col("CustomerID").cast(pl.String), product="StockCode", at="InvoiceDate")

    def week(cut: datetime, kind: Kind) -> pl.DataFrame:
        before = lines.filter(pl.col("at") < cut).with_columns(age=(pl.lit(cut) - pl.col("at")).dt.total_days()).drop("at")
        return measured(before, lines.filter(pl.col("at").is_between(cut, cut + timedelta(days=7))), kind)

    goals: dict[Kind, tuple[str, float, float]] = {
        "discover": ("Online Retail, new items", 0.111, 0.081),
        "buy_again": ("Online Retail, repeats allowed", 0.287, 0.331),
    }
    for kind, (what, recall, ndcg) in goals.items():
        earlier = pl.concat([week(end - timedelta(days=7 * weeks), kind) for weeks in (2, 3, 4)])
        yield standing(what, kind, earlier, week(end - timedelta(days=7), kind), recall, ndcg)


def movielens(path: Path) -> Standing:
    """The last fifth of each user's ratings of MovieLens 100K; the model is chosen on the last fifth of what is before it.

    Many ratings are of the same second, and stand in the file's order here. Which of them are the last moves every figure: with others
    (by product, either way, or by chance) the very same EASE reaches a recall@20 from .196 to .216, and `popular` one from .097 to .112.
    """
    with open(path, newline="") as file:
        rows = [(int(u), int(i), float(t)) for u, i, _, t in list(csv.reader(file, delimiter="\t"))[1:]]
    ratings = pl.DataFrame(rows, ["customer", "product", "at"], orient="row").sort("customer", "at", maintain_order=True)

    def split(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        place = pl.int_range(pl.len()).over("customer")
        is_late = place >= pl.len().over("customer") - (pl.len().over("customer") * 0.2).ceil()
        return frame.filter(~is_late), frame.filter(is_late)

    before, after = split(ratings)
    ageless = [frame.select("customer", "product", age=pl.lit(0)) for frame in (*split(before), before, after)]
    earlier, last = measured(*ageless[:2], "discover"), measured(*ageless[2:], "discover")
    return standing("MovieLens 100K", "discover", earlier, last, 0.213, 0.209)


def movielens_path() -> Path | None:
    """Where the package `recbole` keeps MovieLens 100K, if it is installed."""
    package = find_spec("recbole")
    if not package or not package.origin:
        return None
    path = Path(package.origin).parent / "dataset_example" / "ml-100k" / "ml-100k.inter"
    return path if path.exists() else None


# Histories as the asset has them: ten products a customer, Zipf-like.
HISTORIES = """
CREATE TABLE histories AS
SELECT customer, product, min(age) AS age FROM (
    SELECT hash(i) % $customers AS customer, CAST(floor($products * pow((hash(i * 7) % 1000003) / 1000003, 2.2)) AS BIGINT) AS product,
        hash(i * 13) % 365 AS age
    FROM range($customers * 10) AS t(i)
) GROUP BY ALL ORDER BY customer, product
"""

# The way without a model: shrunk co-occurrence, the nearest 50, summed over what each customer bought.
BY_HAND = """
WITH sold AS (SELECT product, count(*) AS customers FROM histories GROUP BY product),
together AS (
    SELECT a.product, b.product AS related, count(*) AS customers
    FROM histories AS a JOIN histories AS b ON a.customer = b.customer AND a.product <> b.product GROUP BY ALL
),
nearest AS (
    SELECT t.product, t.related, t.customers / (sqrt(a.customers * b.customers) + 10) AS similarity
    FROM together AS t JOIN sold AS a ON a.product = t.product JOIN sold AS b ON b.product = t.related
    QUALIFY row_number() OVER (PARTITION BY t.product ORDER BY similarity DESC, t.related) <= 50
),
scored AS (
    SELECT h.customer, n.related AS product, sum(n.similarity) AS score
    FROM histories AS h JOIN nearest AS n ON n.product = h.product GROUP BY ALL
)
SELECT * FROM scored ANTI JOIN histories USING (customer, product)
QUALIFY row_number() OVER (PARTITION BY customer ORDER BY score DESC, product) <= 20
"""


def measure(repetitions: int, folder: Path, customers: int = 200_000, products: int = 50_000) -> Iterator[Comparison]:
    """Similarity and both lists of every customer, with reasons and fillers, beside the `discover` list alone in DuckDB."""
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = '{folder}'")
        connection.execute(HISTORIES, {"customers": customers, "products": products})
        columns = connection.sql("FROM histories ORDER BY customer, product").fetchnumpy()
        age = columns["age"].astype(np.int64)
        of_entry = (columns["customer"].astype(np.int64), columns["product"].astype(np.int64), 0.5 ** (age / 120))
        histories = Histories.of((customers, products), *of_entry, np.ones_like(age), age, np.zeros(len(age), np.bool_))

        def ours(_: int) -> float:
            return seconds_of(lambda: sum(len(part.rank) for part in _all_lists(histories)))

        def by_hand(_: int) -> float:
            return seconds_of(lambda: connection.sql(BY_HAND).to_arrow_table())

        what = f"lists of {customers:,} customers, {products:,} products"
        yield Comparison(what, "both lists", "discover in DuckDB", *taking_turns(ours, by_hand, repetitions), 1.0)


def _all_lists(histories: Histories) -> Iterator[Lists]:
    products = histories.shape[1]
    model = next(iter(candidates(histories.bought, np.ones(products), with_ease=False).values()))
    all_of_them = np.ones(products, np.bool_)
    for part in make_lists(assets.KINDS, histories, Scorer.of(model, all_of_them), np.arange(products), 20, nameable=all_of_them):
        yield from part.values()
