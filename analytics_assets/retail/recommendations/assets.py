"""Daily `recommendations`, with `product_recommendations` and `recommendation_quality` from the same computation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.orders.assets import ORDER_ITEMS, ORDERS
from analytics_assets.retail.recommendations.evaluation import Pairs, Quality, quality
from analytics_assets.retail.recommendations.lines import Bools, Ints, Lines
from analytics_assets.retail.recommendations.lists import OWN, POPULAR, SIMILAR, Histories, Kind, Lists, Scorer, make_lists
from analytics_assets.retail.recommendations.names import without_markup
from analytics_assets.retail.recommendations.promises import (
    EXCLUSIONS_ARE_KNOWN,
    GOES_WITH_UNNAMED,
    looked_at,
    named,
    prepare_promises,
    promises,
)
from analytics_assets.retail.recommendations.similarity import MOST_PRODUCTS_OF_EASE, Floats, Model, candidates, trend
from analytics_assets.retail.recommendations.tables import (
    PRODUCT_RECOMMENDATIONS,
    RECOMMENDATION_QUALITY,
    RECOMMENDATIONS,
    TABLES,
)
from analytics_assets.settings import Recommendations
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.memory import give_back
from analytics_assets.warehouse.staged import Staged
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
MOST_MEMORY = "600MB"
"""For the engine: beside it the histories and models of a million customers take 0.6 GB."""
KINDS: tuple[Kind, ...] = ("buy_again", "discover")
YARDSTICK = "popular"
GOES_WITH = pl.format("goes with {}", without_markup("name"))
"""The reason that names a product of the catalogue."""
BASIS = {OWN: "history", SIMILAR: "similarity", POPULAR: "popular"}


@dataclass(frozen=True)
class Night:
    """What is known at the end of a day: the products, what customers bought, and what may be recommended."""

    products: Ints
    """The number that each known product has in the catalogue."""
    histories: Histories
    offered: Bools
    nameable: Bools
    """What the settings do not exclude: a reason may name it."""
    popular: Ints
    """Offered products, those that sell best of late first."""
    trend: Floats
    """How each product sells of late beside its past."""
    with_ease: bool
    """Which family the candidates are of."""
    settings: Recommendations

    @cached_property
    def candidates(self) -> dict[str, Model]:
        """The models that there are, by name: made when they are asked for."""
        return candidates(self.histories.bought, self.trend, self.with_ease)

    @cached_property
    def nothing(self) -> Model:
        """The model that knows nothing."""
        return Model.nothing(len(self.products))

    def models(self, kind: Kind) -> dict[str, Model]:
        """The models of a list by name: the usual winner first, the yardstick last."""
        if kind == "discover":
            return {**self.candidates, YARDSTICK: self.nothing}
        with_history = {f"own history + {name}": model for name, model in self.candidates.items()}
        return {**with_history, "own history": self.nothing, YARDSTICK: self.nothing}

    def lists(self, chosen: Mapping[Kind, str], histories: Histories, with_reasons: bool = True) -> Iterator[dict[Kind, Lists]]:
        """The lists of some customers, each kind made with the model that was chosen for it."""
        models = {kind: self.models(kind)[name] for kind, name in chosen.items()}
        for model in {id(model): model for model in models.values()}.values():
            kinds = [kind for kind in chosen if models[kind] is model]
            known = histories
            if chosen[kinds[0]] == YARDSTICK:
                known = replace(histories, weight=np.zeros(len(histories.weight)))
            yield from make_lists(
                kinds, known, Scorer.of(model, self.offered), self.popular, self.settings.length, self.settings.rest_days,
                nameable=self.nameable if with_reasons else None,
            )  # fmt: skip


def night(lines: Lines, customers: int, excluded: Bools, settings: Recommendations, with_ease: bool) -> Night:
    """What was known of so many customers at the end of the day that the lines are counted from.

    Args:
        lines: products as the catalogue numbers them.
        customers: numbered from 0.
        excluded: of each product of the catalogue, whether the settings rule it out.
        settings: what must not stand in lists, and how far back histories reach.
        with_ease: which family the candidates are of.
    """
    products = lines.ordered(len(excluded))
    number = np.full(len(excluded), -1, np.int32)
    number[products] = np.arange(len(products))
    lines = lines.numbered(number)
    histories = Histories.of_lines((customers, len(products)), lines, HISTORY_HALF_LIFE_DAYS, settings.history_days)
    nameable = ~excluded[products]
    offered = (lines.newest(len(products)) < settings.assortment_days) & nameable
    sold, sold_lately = (
        lines.sold(len(products), half_life, settings.history_days)
        for half_life in (HISTORY_HALF_LIFE_DAYS, TREND_HALF_LIFE_DAYS)
    )
    popular = np.lexsort((np.arange(len(products)), -sold, -sold_lately))
    return Night(products, histories, offered, nameable, popular[offered[popular]], trend(sold, sold_lately), with_ease, settings)


def read_lines(work: Work, day: date, people: pl.DataFrame, catalogue: pl.DataFrame) -> Lines:
    """All order lines up to a day; customers are numbered as in `people`, products as in the `catalogue`."""
    for name, frame in (("listed_customers", people), ("catalogue", catalogue.select("product", "product_id"))):
        # Numbers of 32 bits: with ten million lines half the memory.
        work.connection.register(name, frame.with_columns(cs.integer().cast(pl.Int32)).to_arrow())
    lines = Lines.of(work.sql(_HERE / "lines.sql", as_of=day, until=day).to_arrow_table(), day)
    for name in ("listed_customers", "catalogue"):
        work.connection.unregister(name)
    return lines


def excluded(catalogue: pl.DataFrame, at_the_time: pl.DataFrame, settings: Recommendations) -> Bools:
    """Whether the settings rule each product of a catalogue out, itself or the category that it had `at_the_time`."""
    by_category = at_the_time.filter(pl.col("category").is_in(named(at_the_time["category"], settings.excluded_categories)))
    by_name = named(catalogue["product_id"], settings.excluded_products)
    return catalogue["product_id"].is_in([*by_name, *by_category["product_id"]]).to_numpy()


def evaluated(work: Work, day: date, lines: Lines, customers: int, catalogue: pl.DataFrame, with_ease: bool) -> pl.DataFrame:
    """How well each model's lists, made at earlier cut-offs, foresaw what was bought in the week after; one row per measurement.

    The lists are those that would have been sent: suppression included. Customers count who had bought before; what counts
    as bought is everything for `buy_again`, and what was new to the customer for `discover`.
    """
    settings, ruled_out = work.settings.recommendations, {}
    for days_ago in CUT_OFFS_DAYS_AGO:
        then = catalogue
        if settings.excluded_categories:
            then = work.sql(_HERE / "catalogue.sql", until=day - timedelta(days=days_ago)).pl()
        ruled_out[days_ago] = excluded(catalogue, then, settings)

    def of_cut_off(days_ago: int) -> list[tuple[Any, ...]]:
        known = night(lines.before(days_ago), customers, ruled_out[days_ago], settings, with_ease)
        if not len(known.products):
            return []
        after = lines.bought_after(days_ago, HOLDOUT_DAYS)
        rows = []
        for kind, found in measured_at(known, KINDS, Pairs.each_once(after.customer, _numbers(known, after.product))).items():
            yardstick = found[YARDSTICK].recall_at_20
            for model, result in found.items():
                lift = result.recall_at_20 / yardstick if yardstick else None
                until = day - timedelta(days=days_ago)
                rows.append((kind, model, until, HOLDOUT_DAYS, result.customers, result.recall_at_20, result.ndcg_at_10, result.coverage, lift))  # fmt: skip
        return rows

    # EASE holds BLAS to one thread, which counts for the process: without the outer limit the first to end would lift it for all.
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(2) as pool:
        rows = [row for of_one in pool.map(of_cut_off, CUT_OFFS_DAYS_AGO) for row in of_one]
    names = RECOMMENDATION_QUALITY.column_names[1:-2]
    types = [pl.String, pl.String, pl.Date, pl.Int64, pl.Int64, pl.Float64, pl.Float64, pl.Float64, pl.Float64]
    return pl.DataFrame(rows, dict(zip(names, types, strict=True)), orient="row")


def _numbers(known: Night, products: Ints) -> Ints:
    """The numbers of products of the catalogue among the known ones; below 0, and each its own, for those that came later."""
    place = np.minimum(np.searchsorted(known.products, products), len(known.products) - 1)
    return np.where(known.products[place] == products, place, -1 - products)


def measured_at(known: Night, kinds: Sequence[Kind], bought: Pairs) -> dict[Kind, dict[str, Quality]]:
    """The quality of each model for each list at one cut-off, of what was bought after it, in order of customer."""
    histories, offered = known.histories, int(known.offered.sum())
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
    customers, recently popular products complete the list. No reason names what the customer returned or the settings
    exclude: the strongest other source is named, or "what was bought" where there is none.

    Each night all models make the lists of 7, 30, 60 and 90 days ago anew and are held against the purchases of the week
    after (`recommendation_quality`); the best one makes the lists of the night. Only the identity map is today's.
    Read the lift over popular first: below 1, personal lists are not worth their trouble.
    """
    work.bound_memory(MOST_MEMORY)
    # A day alone reads the files where they lie: a copy of a large shop's lines would take a gigabyte.
    in_memory = len(work.days) > 1
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory)
    work.read(ORDER_ITEMS, f"order_date <= '{work.window.last_day}'", in_memory)
    as_of = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(IDENTITIES, as_of, in_memory)
    work.read(CUSTOMERS, as_of, in_memory)
    staged = {table.name: work.stage(table) for table in (RECOMMENDATIONS, PRODUCT_RECOMMENDATIONS)}
    qualities, spoken, some = [], [], []
    for day in work.days:
        people = work.sql(_HERE / "listed_customers.sql", as_of=day).pl().sort("customer")
        catalogue = work.sql(_HERE / "catalogue.sql", until=day).pl().sort("product")
        chosen, verdicts = _of_day(work, day, people, catalogue, staged)
        qualities.append(work.rows_of(RECOMMENDATION_QUALITY, verdicts.to_arrow()))
        spoken.append(catalogue.select("product_id", "category", as_of_date=pl.lit(day), reason=GOES_WITH))
        some.append(looked_at(day, people["customer_id"]))
    for kind in KINDS:
        work.metadata[kind] = chosen[kind][1]
    work.metadata["what the lists of earlier days would have hit"] = dg.MetadataValue.md(_honesty(verdicts))
    give_back()
    prepare_promises(work, pl.concat(spoken), pl.concat(some))
    return {**staged, RECOMMENDATION_QUALITY.name: pa.concat_tables(qualities)}


def _of_day(
    work: Work, day: date, people: pl.DataFrame, catalogue: pl.DataFrame, staged: Mapping[str, Staged]
) -> tuple[dict[Kind, tuple[str, str]], pl.DataFrame]:
    """Append the lists of a day to what is staged; the model of each list with the reason, and the rows of `recommendation_quality`."""
    lines = read_lines(work, day, people, catalogue)
    with_ease = len(catalogue) <= MOST_PRODUCTS_OF_EASE
    settings = work.settings.recommendations
    step = max(-(-len(people) // CUSTOMERS_TO_EVALUATE_WITH), 1)
    some = lines.of_every(step) if step > 1 else lines
    tonight = night(lines, len(people), excluded(catalogue, catalogue, settings), settings, with_ease)
    # Models of a million customers are made without their lines, and before the evaluation, or they take 0.2 GB more.
    del lines
    models = {kind: list(tonight.models(kind)) for kind in KINDS}
    # Between the parts of the night: at a million customers 0.15 GB of the peak.
    give_back()
    measured = evaluated(work, day, some, -(-len(people) // step), catalogue, with_ease)
    give_back()
    chosen = {kind: choose(measured, kind, models[kind]) for kind in KINDS}
    names = Names.of(catalogue, day)
    of_kind = {kind: work.stage(RECOMMENDATIONS) for kind in KINDS}
    for part in tonight.lists({kind: model for kind, (model, _) in chosen.items()}, tonight.histories):
        for kind, lists in part.items():
            of_kind[kind].append(_customer_rows(lists, people, names, kind))
    for kind in KINDS:
        staged[RECOMMENDATIONS.name].extend(of_kind[kind])
    give_back()
    for part in tonight.lists({"discover": chosen["discover"][0]}, _pages(len(catalogue))):
        staged[PRODUCT_RECOMMENDATIONS.name].append(_product_rows(part["discover"], names))
    return chosen, _verdicts(measured, chosen, day)


@dataclass(frozen=True)
class Names:
    """What stands in the rows of a day in place of numbers."""

    day: date
    products: pa.Array
    reasons: pa.Array
    """Of what is popular first, then of what goes with no product that may be named, then with each product."""

    @classmethod
    def of(cls, catalogue: pl.DataFrame, day: date) -> Names:
        """The names of a catalogue."""
        names = catalogue.select("product_id", reason=GOES_WITH)
        reasons = pl.concat([pl.Series(["popular these days", GOES_WITH_UNNAMED]), names["reason"].rename("")])
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
    """The lists of pages with names in the place of numbers; each text stands there once."""
    columns = {
        **_columns(lists, names),
        "product_id": _texts(names.products, lists.customer),
        "related_product_id": _texts(names.products, lists.product),
    }
    return pa.table({name: columns[name] for name in PRODUCT_RECOMMENDATIONS.column_names})


def _columns(lists: Lists, names: Names) -> dict[str, pa.Array]:
    own = lists.basis == OWN
    # Purchases and days are small numbers: a place for every pair of them takes a tenth of the time of sorting.
    days = int(lists.last_day.max(initial=0)) + 1
    pairs = lists.purchases[own] * days + lists.last_day[own]
    there = np.flatnonzero(np.bincount(pairs))
    said = [_bought(pair // days, names.day - timedelta(days=pair % days)) for pair in there.tolist()]
    reason = np.where(lists.basis == SIMILAR, lists.source + 2, 0)
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
