"""Daily `recommendations`, with `product_recommendations` and `recommendation_quality` from the same computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.orders.assets import ORDER_ITEMS, ORDERS
from analytics_assets.retail.recommendations.evaluation import Pairs, Quality, quality
from analytics_assets.retail.recommendations.lists import (
    OWN,
    POPULAR,
    SIMILAR,
    Bools,
    Histories,
    Ints,
    Kind,
    Lists,
    Scorer,
    make_lists,
)
from analytics_assets.retail.recommendations.promises import EXCLUSIONS_ARE_KNOWN, named, prepare_promises, promises
from analytics_assets.retail.recommendations.similarity import MOST_PRODUCTS_OF_EASE, Model, candidates, trend
from analytics_assets.settings import Recommendations
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Rows, Work

_HERE = Path(__file__).parent

HISTORY_HALF_LIFE_DAYS = 120.0
"""30, 60 and 120 days: recall@20 of `buy_again` .258, .261, .262 on earlier weeks of Online Retail."""
TREND_HALF_LIFE_DAYS = 7.0
"""5, 7, 10, 14 and 21 days: recall@20 of `discover` .155, .152, .151, .144, .139 on the same weeks."""
HOLDOUT_DAYS = 7
CUT_OFFS_DAYS_AGO = (7, 30, 60, 90)
EVALUATED_CUSTOMERS = 5_000
CUSTOMERS_TO_EVALUATE_WITH = 100_000
"""Beyond that many customers the evaluation is done in a shop of every n-th of them, so that it costs a fraction of the lists."""
FEWEST_TO_CHOOSE_BY = 100
"""With 100 customers a recall of .15 has a standard error of about .02: fewer cannot tell models apart."""
KINDS: tuple[Kind, ...] = ("buy_again", "discover")
YARDSTICK = "popular"
LINES_AT_ONCE = 1_000_000
BASIS = {OWN: "history", SIMILAR: "similarity", POPULAR: "popular"}

_AS_OF = Column("as_of_date", "DATE", "Business day at whose end this was computed.")
_RANK = Column("rank", "BIGINT", "Place in the list, from 1.")
_SCORE = Column("score", "DOUBLE", "What the order is by, comparable within one list only; 0 for what only fills the list.")
_BASIS = Column(
    "basis",
    "VARCHAR",
    "`history` (bought before), `similarity` (goes with what was bought) or `popular` (more than either, or it fills the list).",
)
_REASON = Column("reason", "VARCHAR", "Why the product is there, in words that a customer may read.")

RECOMMENDATIONS = Table(
    name="recommendations",
    rows_are="customer, list, rank and day",
    columns=(
        _AS_OF,
        Column("customer_id", "VARCHAR", "The customer.", personal=True),
        Column("list", "VARCHAR", "`buy_again` or `discover` (never bought before)."),
        _RANK,
        Column("product_id", "VARCHAR", "The product."),
        _SCORE,
        _BASIS,
        _REASON,
    ),
    key=("as_of_date", "list", "customer_id", "rank"),
    grain="day",
    partition_column="as_of_date",
)

PRODUCT_RECOMMENDATIONS = Table(
    name="product_recommendations",
    rows_are="product, rank and day",
    columns=(
        _AS_OF,
        Column("product_id", "VARCHAR", "The product whose page it is."),
        _RANK,
        Column("related_product_id", "VARCHAR", "The product to show there."),
        _SCORE,
        _BASIS,
        _REASON,
    ),
    key=("as_of_date", "product_id", "rank"),
    grain="day",
    partition_column="as_of_date",
)

RECOMMENDATION_QUALITY = Table(
    name="recommendation_quality",
    rows_are="list, model, cut-off and day",
    columns=(
        _AS_OF,
        Column("list", "VARCHAR", "`buy_again` or `discover`."),
        Column("model", "VARCHAR", "What the lists were made with; `popular` is the yardstick."),
        Column("cut_off", "DATE", "Day up to which purchases were known to the lists."),
        Column("days", "BIGINT", "Days after the cut-off whose purchases had to be foreseen.", "days"),
        Column("customers", "BIGINT", "Customers with a history who bought in those days.", "customers"),
        Column("recall_at_20", "DOUBLE", "Share of what they bought that stood in the first 20 places.", "0 to 1"),
        Column("ndcg_at_10", "DOUBLE", "The same for the first 10, earlier places counting more.", "0 to 1"),
        Column("coverage", "DOUBLE", "Share of the offered products that stood in any of these lists.", "0 to 1"),
        Column(
            "lift_over_popular",
            "DOUBLE",
            "Recall as a multiple of that of `popular`; NULL where that is 0.",
            "times",
            nullable=True,
        ),
        Column("chosen", "BOOLEAN", "Whether the lists of the day are made with this model."),
        Column("reason", "VARCHAR", "Why it was chosen, or not."),
    ),
    key=("as_of_date", "list", "model", "cut_off"),
    grain="day",
    partition_column="as_of_date",
)


@dataclass(frozen=True)
class Night:
    """What is known at the end of a day: the catalogue, what customers bought, and what may be recommended."""

    catalogue: pl.DataFrame
    histories: Histories
    offered: Bools
    popular: Ints
    """Offered products, those that sell best of late first."""
    candidates: Mapping[str, Model]
    settings: Recommendations

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """The candidates by name, and the yardstick, which knows nothing, last."""
        models = {**self.candidates, YARDSTICK: Model.nothing(len(self.catalogue))}
        return {name: Scorer.of(model, self.offered) for name, model in models.items()}

    def models(self, kind: Kind) -> dict[str, Scorer]:
        """The models of a list by name: the usual winner first, the yardstick last."""
        if kind == "discover":
            return self.scorers
        with_history = {f"own history + {name}": self.scorers[name] for name in self.candidates}
        return {**with_history, "own history": self.scorers[YARDSTICK], YARDSTICK: self.scorers[YARDSTICK]}

    def lists(self, chosen: Mapping[Kind, str], histories: Histories, with_reasons: bool = True) -> Iterator[dict[Kind, Lists]]:
        """The lists of some customers, each kind made with the model that was chosen for it."""
        models = {kind: self.models(kind)[name] for kind, name in chosen.items()}
        for model in {id(model): model for model in models.values()}.values():
            kinds = [kind for kind in chosen if models[kind] is model]
            known = histories
            if chosen[kinds[0]] == YARDSTICK:
                known = replace(histories, weight=np.zeros(len(histories.weight)))
            yield from make_lists(
                kinds, known, model, self.popular, self.settings.length, self.settings.rest_days, with_reasons=with_reasons
            )


def night(work: Work, as_of: date, until: date, people: pl.DataFrame, with_ease: bool | None = None) -> Night:
    """What was known at the end of `until` of the `people` (`customer`, `customer_id`), by the identities of `as_of`.

    `with_ease` says which family the candidates are of; None leaves it to the size of the catalogue.
    """
    settings = work.settings.recommendations
    parameters = {
        "as_of": as_of,
        "until": until,
        "first_day": until - timedelta(days=settings.history_days - 1),
        "history_half_life": HISTORY_HALF_LIFE_DAYS,
        "trend_half_life": TREND_HALF_LIFE_DAYS,
    }
    work.connection.register("listed_customers", people.to_arrow())
    catalogue = work.sql(_HERE / "catalogue.sql", **parameters).pl().sort("product")
    work.connection.register("catalogue", catalogue.to_arrow())
    lines = work.sql(_HERE / "history_lines.sql", as_of=as_of, until=until).to_arrow_reader(LINES_AT_ONCE)
    histories = Histories.of_lines(
        (len(people), len(catalogue)),
        ((batch[name].to_numpy() for name in ("customer", "product", "age", "returned")) for batch in lines),
        HISTORY_HALF_LIFE_DAYS,
        settings.history_days,
    )
    oldest = until - timedelta(days=settings.assortment_days - 1)
    offered = catalogue.select(
        (pl.col("last_date") >= oldest)
        & ~pl.col("product_id").is_in(named(catalogue["product_id"], settings.excluded_products))
        & ~pl.col("category").is_in(named(catalogue["category"], settings.excluded_categories)).fill_null(False)
    ).to_series().to_numpy()  # fmt: skip
    sold, sold_lately = (catalogue[column].to_numpy() / 1e6 for column in ("sold", "sold_lately"))
    popular = np.lexsort((catalogue["product"].to_numpy(), -sold, -sold_lately))
    if with_ease is None:
        with_ease = len(catalogue) <= MOST_PRODUCTS_OF_EASE
    models = candidates(histories.bought, trend(sold, sold_lately), with_ease)
    return Night(catalogue, histories, offered, popular[offered[popular]], models, settings)


def evaluated(work: Work, day: date, people: pl.DataFrame, with_ease: bool) -> pl.DataFrame:
    """How well each model's lists, made at earlier cut-offs, foresaw what was bought in the week after; one row per measurement.

    The lists are those that would have been sent: suppression included. Customers count who had bought before; what counts
    as bought is everything for `buy_again`, and what was new to the customer for `discover`.
    """
    some = people
    if len(people) > CUSTOMERS_TO_EVALUATE_WITH:
        step = -(-len(people) // CUSTOMERS_TO_EVALUATE_WITH)
        some = people.gather_every(step).with_columns(customer=pl.int_range(pl.len()))
        _keep_only_orders_of(work, day, some)
    rows = []
    for days_ago in CUT_OFFS_DAYS_AGO:
        until = day - timedelta(days=days_ago)
        known = night(work, day, until, some, with_ease)
        if not len(known.catalogue):
            break
        later = work.sql(
            _HERE / "later_purchases.sql", as_of=day, until=until, last_day=until + timedelta(days=HOLDOUT_DAYS)
        ).pl().sort("customer", "product_id")  # fmt: skip
        for kind, found in measured_at(known, KINDS, later).items():
            yardstick = found[YARDSTICK].recall_at_20
            for model, result in found.items():
                lift = result.recall_at_20 / yardstick if yardstick else None
                rows.append((kind, model, until, HOLDOUT_DAYS, result.customers, result.recall_at_20, result.ndcg_at_10, result.coverage, lift))  # fmt: skip
    work.connection.execute("SET search_path = 'main'")
    names = RECOMMENDATION_QUALITY.column_names[1:-2]
    types = [pl.String, pl.String, pl.Date, pl.Int64, pl.Int64, pl.Float64, pl.Float64, pl.Float64, pl.Float64]
    return pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row")


def _keep_only_orders_of(work: Work, day: date, some: pl.DataFrame) -> None:
    """Let the connection see, in front of all orders and lines, those of some customers."""
    work.connection.register("sampled_customers", some.to_arrow())
    work.connection.execute("CREATE SCHEMA IF NOT EXISTS sample")
    work.connection.execute(
        """CREATE OR REPLACE TABLE sample.orders AS FROM main.orders AS o SEMI JOIN (
            SELECT identity FROM identities JOIN sampled_customers USING (customer_id) WHERE as_of_date = $day
        ) AS i ON i.identity = o.identity""",
        {"day": day},
    )
    work.connection.execute(
        "CREATE OR REPLACE TABLE sample.order_items AS FROM main.order_items AS t SEMI JOIN sample.orders AS o ON o.event_id = t.event_id"
    )
    work.connection.execute("SET search_path = 'sample,main'")


def measured_at(known: Night, kinds: Sequence[Kind], later: pl.DataFrame) -> dict[Kind, dict[str, Quality]]:
    """The quality of each model for each list at one cut-off."""
    histories, offered = known.histories, int(known.offered.sum())
    # What the catalogue does not know yet is nobody's repeat: a number of its own for each.
    product = later.select(pl.col("product").fill_null(-1 - pl.int_range(pl.len()))).to_series().to_numpy()
    bought = Pairs(later["customer"].to_numpy(), product)
    buyers = np.unique(bought.customer)
    theirs = histories.only(buyers)
    there = theirs.purchases > 0
    before = Pairs(np.repeat(buyers, np.diff(theirs.starts))[there], theirs.products[there])
    asked, targets = {}, {}
    for kind in kinds:
        sought = bought.only(~bought.among(before)) if kind == "discover" else bought
        counted = np.intersect1d(sought.customer, before.customer)
        asked[kind] = counted[:: -(-len(counted) // EVALUATED_CUSTOMERS) or 1]
        targets[kind] = sought.of(asked[kind])
    everybody = np.unique(np.concatenate(list(asked.values())))
    some = histories.only(everybody)
    found: dict[Kind, dict[str, Quality]] = {kind: {} for kind in kinds}
    # A model of both kinds scores once for both.
    for models in zip_longest(*([(kind, model) for model in known.models(kind)] for kind in kinds)):
        chosen = dict(pair for pair in models if pair)
        made = list(known.lists(chosen, some, with_reasons=False))
        for kind, model in chosen.items():
            lists = Pairs.together([Pairs(everybody[part[kind].customer], part[kind].product) for part in made if kind in part])
            found[kind][model] = quality(lists.of(asked[kind]), targets[kind], offered)
    return found


def choose(measured: pl.DataFrame, kind: Kind, models: list[str]) -> tuple[str, str]:
    """The model with the best recall@20 over all cut-offs, each weighing as many customers as it has; and why.

    The first of `models` stays unless another one is better, and always while fewer than `FEWEST_TO_CHOOSE_BY` customers
    can tell. Several cut-offs together keep one odd week from changing everybody's lists.
    """
    weight = pl.col("customers").sum()
    means = (
        measured.filter(pl.col("list") == kind)
        .group_by("model", maintain_order=True)
        .agg(recall=(pl.col("recall_at_20") * pl.col("customers")).sum() / weight, customers=weight)
    )
    recall = {model: round(value, 6) for model, value, _ in means.iter_rows()}
    customers = max(means["customers"].to_list(), default=0)
    if customers < FEWEST_TO_CHOOSE_BY:
        reason = f"only {customers} customers bought in the weeks held out, {FEWEST_TO_CHOOSE_BY} are needed to choose"
        return models[0], f"{models[0]}: {reason}"
    best = max(models, key=lambda model: (recall[model], -models.index(model)))
    others = ", ".join(f"{model} {recall[model]:.3f}" for model in models if model != best)
    return best, f"{best}: best recall@20, {recall[best]:.3f} ({others}; {customers:,} customers)"


def recommendations(work: Work) -> Mapping[str, Rows]:
    """Two lists for every customer: what they may buy again, and what they may discover.

    `buy_again` follows the customer's own purchases, each halved in weight every 120 days, and a share of item similarity;
    `discover` follows similarity and holds nothing that the customer ever bought. Similarity is EASE (Steck 2019) for
    catalogues up to 4,000 products and BM25 over co-purchases beyond, weighed by how each product sells of late, on top of a
    little popularity. What was returned is never listed, nor what nobody bought in `[recommendations] assortment_days`, nor
    what the settings exclude, nor, in `buy_again`, what was bought in the last `rest_days`. Where scores run out, as for new
    customers, recently popular products complete the list.

    Each night all models make the lists of 7, 30, 60 and 90 days ago anew and are held against the purchases of the week
    after (`recommendation_quality`); the best one makes the lists of the night. Only the identity map is today's.
    Read the lift over popular first: below 1, personal lists are not worth their trouble.
    """
    # A day alone reads the files where they lie: a copy of a large shop's lines would take a gigabyte.
    in_memory = len(work.days) > 1
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory)
    work.read(ORDER_ITEMS, f"order_date <= '{work.window.last_day}'", in_memory)
    as_of = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(IDENTITIES, as_of, in_memory)
    work.read(CUSTOMERS, as_of, in_memory)
    staged = work.stage(RECOMMENDATIONS)
    pages: list[pa.Table] = []
    qualities: list[pa.Table] = []
    for day in work.days:
        people = work.sql(_HERE / "listed_customers.sql", as_of=day).pl().sort("customer")
        tonight = night(work, day, day, people)
        measured = evaluated(work, day, people, len(tonight.catalogue) <= MOST_PRODUCTS_OF_EASE)
        chosen = {kind: choose(measured, kind, list(tonight.models(kind))) for kind in KINDS}
        names = Names.of(tonight.catalogue, day)
        of_kind = {kind: work.stage(RECOMMENDATIONS) for kind in KINDS}
        for part in tonight.lists({kind: model for kind, (model, _) in chosen.items()}, tonight.histories):
            for kind, lists in part.items():
                of_kind[kind].append(_customer_rows(lists, people, names, kind))
        for kind in KINDS:
            staged.extend(of_kind[kind])
        of_pages = tonight.lists({"discover": chosen["discover"][0]}, _pages(len(tonight.catalogue)))
        pages.extend(_product_rows(part["discover"], names) for part in of_pages)
        verdicts = _verdicts(measured, chosen, day)
        qualities.append(work.rows_of(RECOMMENDATION_QUALITY, verdicts.to_arrow()))
    for kind in KINDS:
        work.metadata[kind] = chosen[kind][1]
    work.metadata["what the lists of earlier days would have hit"] = dg.MetadataValue.md(_honesty(verdicts))
    prepare_promises(work)
    return {
        RECOMMENDATIONS.name: staged,
        PRODUCT_RECOMMENDATIONS.name: pa.concat_tables([PRODUCT_RECOMMENDATIONS.arrow_schema().empty_table(), *pages]),
        RECOMMENDATION_QUALITY.name: pa.concat_tables(qualities),
    }


@dataclass(frozen=True)
class Names:
    """What stands in the rows of a day in place of numbers."""

    day: date
    products: pa.Array
    reasons: pa.Array
    """Of what is popular first, then of what goes with each product."""

    @classmethod
    def of(cls, catalogue: pl.DataFrame, day: date) -> Names:
        """The names of a catalogue."""
        names = catalogue.select("product_id", reason=pl.format("goes with {}", "name"))
        reasons = pl.concat([pl.Series(["popular these days"]), names["reason"].rename("")])
        return cls(day, names["product_id"].to_arrow().cast(pa.string()), reasons.to_arrow().cast(pa.string()))


def _customer_rows(lists: Lists, people: pl.DataFrame, names: Names, kind: Kind) -> pa.Table:
    """Lists with names in the place of numbers; each text stands there once."""
    first = lists.customer[0] if len(lists.customer) else 0
    customers = people["customer_id"][first : int(lists.customer[-1]) + 1 if len(lists.customer) else 0]
    columns = {
        **_columns(lists, names),
        "customer_id": _texts(customers.to_arrow().cast(pa.string()), lists.customer - first),
        "list": _texts(pa.array([kind]), np.zeros(len(lists.rank), np.int64)),
        "product_id": _texts(names.products, lists.product),
    }
    return pa.table({name: columns[name] for name in RECOMMENDATIONS.column_names})


def _product_rows(lists: Lists, names: Names) -> pa.Table:
    """The lists of pages with names in the place of numbers."""
    columns = {
        **_columns(lists, names),
        "product_id": _texts(names.products, lists.customer),
        "related_product_id": _texts(names.products, lists.product),
    }
    table = PRODUCT_RECOMMENDATIONS
    return pa.table({name: columns[name] for name in table.column_names}).cast(table.arrow_schema())


def _columns(lists: Lists, names: Names) -> dict[str, pa.Array]:
    own = lists.basis == OWN
    # Purchases and days are small numbers: a place for every pair of them takes a tenth of the time of sorting.
    days = int(lists.last_day.max(initial=0)) + 1
    pairs = lists.purchases[own] * days + lists.last_day[own]
    there = np.flatnonzero(np.bincount(pairs))
    said = [_bought(pair // days, names.day - timedelta(days=pair % days)) for pair in there.tolist()]
    reason = np.where(lists.basis == SIMILAR, lists.source + 1, 0)
    reason[own] = len(names.reasons) + np.searchsorted(there, pairs)
    return {
        "as_of_date": pa.array(np.full(len(lists.rank), np.datetime64(names.day))),
        "rank": pa.array(lists.rank),
        "score": pa.array(lists.score),
        "basis": _texts(pa.array([BASIS[basis] for basis in (OWN, SIMILAR, POPULAR)]), lists.basis),
        "reason": _texts(pa.concat_arrays([names.reasons, pa.array(said, pa.string())]), reason),
    }


def _bought(purchases: int, last: date) -> str:
    return f"bought on {last}" if purchases == 1 else f"bought {purchases} times, last on {last}"


def _texts(texts: pa.Array, places: Ints) -> pa.DictionaryArray:
    """The texts at these places, those that are used in their dictionary and no others."""
    used = np.bincount(places, minlength=len(texts)) > 0
    place = np.cumsum(used, dtype=np.int32) - 1
    return pa.DictionaryArray.from_arrays(pa.array(place[places]), texts.filter(pa.array(used)))


def _pages(products: int) -> Histories:
    """Each product as a customer who bought it alone: its list is what goes on its page."""
    one_each, ones = np.arange(products), np.ones(products, np.int64)
    return Histories((products, products), np.arange(products + 1), one_each, ones.astype(np.float64), ones, 0 * ones, ones < 0)


def _verdicts(measured: pl.DataFrame, chosen: Mapping[Kind, tuple[str, str]], day: date) -> pl.DataFrame:
    """The measurements as rows of the table, each with what was decided for its list."""
    models = {kind: model for kind, (model, _) in chosen.items()}
    reasons = {kind: reason for kind, (_, reason) in chosen.items()}
    return measured.with_columns(
        pl.col("recall_at_20", "ndcg_at_10", "coverage", "lift_over_popular").round(6),
        as_of_date=pl.lit(day),
        chosen=pl.col("model") == pl.col("list").replace_strict(models, return_dtype=pl.String),
        reason=pl.col("list").replace_strict(reasons, return_dtype=pl.String),
    )


def _honesty(verdicts: pl.DataFrame) -> str:
    """A table of the chosen models beside popular, newest cut-off first."""
    head = "| list | cut-off | model | customers | recall@20 | NDCG@10 | coverage | times popular |\n" + "|---" * 8 + "|"
    shown = verdicts.filter(pl.col("chosen") | (pl.col("model") == YARDSTICK)).sort(
        "list", "cut_off", "chosen", descending=[False, True, True]
    )
    lines = [
        f"| {r['list']} | {r['cut_off']} | {r['model']} | {r['customers']:,} | {r['recall_at_20']:.3f} | {r['ndcg_at_10']:.3f} | "
        f"{r['coverage']:.0%} | {'' if r['lift_over_popular'] is None else format(r['lift_over_popular'], '.2f')} |"
        for r in shown.iter_rows(named=True)
    ]
    return "\n".join([head, *lines])


TABLES = (RECOMMENDATIONS, PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY)


def recommendations_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `recommendations`, which also writes `product_recommendations` and `recommendation_quality`."""
    return table_asset(
        platform,
        TABLES,
        recommendations,
        needs=[Needs("orders", as_of=True), Needs("order_items", as_of=True), Needs("identities"), Needs("customers")],
        audits=promises(platform.settings.recommendations),
        warnings=[
            Audit(
                "better_than_popular",
                "On the newest week held out the chosen models found more of what was bought than popular products did.",
                f"""SELECT as_of_date, list, model, cut_off, customers, recall_at_20, lift_over_popular
                FROM rows_of_{RECOMMENDATION_QUALITY.name}
                WHERE chosen AND cut_off = as_of_date - {HOLDOUT_DAYS} AND customers >= {FEWEST_TO_CHOOSE_BY} AND lift_over_popular <= 1""",
            ),
            EXCLUSIONS_ARE_KNOWN,
        ],
        settings=("recommendations",),
        fill="newest",
        group="retail",
        condition=condition,
    )
