"""Daily `customer_segments` and `segment_movements`: RFM scores, named segments, clusters, and who moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import product
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from analytics_assets.events.identities import identities_as_of
from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.customers.assets import CUSTOMER_IDENTITIES, CUSTOMERS
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.retail.segments.clusters import Clusters, chain, cut_offs, features, states
from analytics_assets.settings import SegmentRule
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Rows, Work

_HERE = Path(__file__).parent

_AS_OF = Column("as_of_date", "DATE", "Business day at whose end this holds.")
_CURRENCY = Column("currency", "VARCHAR", "Currency of the amounts; customers are compared within it.")

CUSTOMER_SEGMENTS = Table(
    name="customer_segments",
    rows_are="customer and day (and currency, where a customer pays in several)",
    columns=(
        _AS_OF,
        Column("customer_id", "VARCHAR", "The customer.", personal=True),
        _CURRENCY,
        Column(
            "recency_days", "BIGINT", "Days since the last order; NULL for one who only ever sent back.", "days", nullable=True
        ),
        Column("frequency", "BIGINT", "Orders so far.", "orders"),
        Column("monetary", "DECIMAL(18,2)", "Orders so far less refunds.", "currency"),
        Column("r", "BIGINT", "Recency score: 5 is the most recent fifth, and all who ordered on its days.", "1 to 5"),
        Column("f", "BIGINT", "Frequency score: 5 is the most frequent fifth.", "1 to 5"),
        Column("m", "BIGINT", "Monetary score: 5 is the fifth that brought most.", "1 to 5"),
        Column("segment", "VARCHAR", "The first rule under `[segments] rules` that holds the scores."),
        Column(
            "previous_segment",
            "VARCHAR",
            "The segment at the end of the day before; NULL for who was no customer then.",
            nullable=True,
        ),
        Column(
            "cluster",
            "VARCHAR",
            "The nearest k-means cluster; NULL without an order, and before there was enough history.",
            nullable=True,
        ),
    ),
    key=("as_of_date", "customer_id", "currency"),
    grain="day",
    partition_column="as_of_date",
)

SEGMENT_MOVEMENTS = Table(
    name="segment_movements",
    rows_are="day, currency, segment of the day before and segment",
    columns=(
        _AS_OF,
        _CURRENCY,
        Column("previous_segment", "VARCHAR", "Segment at the end of the day before; NULL for new customers.", nullable=True),
        Column("segment", "VARCHAR", "Segment at the end of the day."),
        Column("customers", "BIGINT", "How many were in the one and are in the other.", "customers"),
    ),
    key=("as_of_date", "currency", "previous_segment", "segment"),
    grain="day",
    partition_column="as_of_date",
)

SEGMENT_OF_SCORES = Table(
    name="segment_of_scores",
    rows_are="combination of scores",
    columns=(
        Column("r", "BIGINT", "Recency score.", "1 to 5"),
        Column("f", "BIGINT", "Frequency score.", "1 to 5"),
        Column("m", "BIGINT", "Monetary score.", "1 to 5"),
        Column("segment", "VARCHAR", "The segment of customers with these scores."),
    ),
    key=("r", "f", "m"),
    publication=None,
)
"""The rules of the settings as a table. It is made for every computation and never stored."""

USUAL_DAYS = 7
# The usual share of moving customers is estimated from this many. Where 2 % move, a day's share is known to within 0.2 points,
# and the median of seven better still: enough to tell three times as many.
MOST_CUSTOMERS_FOR_THE_USUAL = 5_000
# Below five moves a day chance alone often triples them: P(more than 3 | 1 is usual) = 2 %, P(more than 15 | 5) = 0.007 %.
FEWEST_USUAL_MOVES = 5


def segment_of_scores(rules: Sequence[SegmentRule]) -> pa.Table:
    """The segment of each combination of scores, by the first rule that holds it; see `SEGMENT_OF_SCORES`."""
    rows = [
        {"r": r, "f": f, "m": m, "segment": rule.name}
        for r, f, m in product(range(1, 6), repeat=3)
        for rule in [next(rule for rule in rules if _holds(rule, r, f, m))]
    ]
    return pa.Table.from_pylist(rows, schema=SEGMENT_OF_SCORES.arrow_schema())


def _holds(rule: SegmentRule, r: int, f: int, m: int) -> bool:
    return all(low <= score <= high for score, (low, high) in ((r, rule.r), (f, rule.f), (m, rule.m)))


def clusters_as_of(work: Work, cut_off: date, first_order: date) -> dict[str, Clusters]:
    """The clusters that were fitted at the end of a cut-off, by currency, from `orders` and who was who by then.

    Every earlier cut-off is fitted again to hand on its labels. Nothing here depends on the day that asks.
    """
    people = identities_as_of(work, cut_off)
    named = people.filter((pl.col("kind") == "named") & pl.col("customer_id").is_not_null())
    numbered = named.select(pl.col("customer_id").unique().sort()).with_row_index("number").cast({"number": pl.Int64})
    identities = people.join(numbered, on="customer_id").select("identity", customer_id="number")
    work.connection.register("customer_identities", identities.to_arrow())
    months = work.sql(_HERE / "monthly_habits.sql", as_of=cut_off).pl()
    ends = cut_offs(first_order, cut_off)
    found = {
        str(currency): chain(states(rows, ends), work.settings.segments.clusters)
        for (currency,), rows in months.partition_by("currency", as_dict=True).items()
    }
    return {currency: clusters for currency, clusters in found.items() if clusters}


def with_clusters(rows: pl.DataFrame, clusters: Mapping[str, Clusters]) -> pl.DataFrame:
    """Rows of `customer_segments` with the column `cluster`."""
    parts = [rows.clear().with_columns(cluster=pl.lit(None, pl.String))]
    for (currency,), part in rows.partition_by("currency", as_dict=True, maintain_order=True).items():
        found = clusters.get(str(currency))
        bought = part.filter(pl.col("frequency") > 0) if found else part.clear()
        if found:
            habits = features(*(bought[name].cast(pl.Float64).to_numpy() for name in ("recency_days", "frequency", "monetary")))
            names = pl.Series([f"Cluster {number + 1}" for number in range(len(found.centroids))])
            parts.append(bought.with_columns(cluster=names.gather(found.nearest(habits))))
            part = part.filter(pl.col("frequency") == 0)
        parts.append(part.with_columns(cluster=pl.lit(None, pl.String)))
    return pl.concat(parts).sort("customer_id", "currency")


def customer_segments(work: Work) -> Mapping[str, Rows]:
    """How recently, how often and for how much each customer has bought, compared with everybody else, and what that makes them.

    Recency is the days since the last order, frequency the orders so far, monetary their amount less refunds. Each becomes
    a score from 1 to 5: score = 1 + floor(5 x (rank - 1) / n) among the n customers with an order in that currency. Equal
    values get equal scores (the rank is the smallest of theirs), so where 70 % have bought once, all of these have f = 1
    and nobody has f = 2 or 3. The first of the rules under `[segments]` that holds the three scores names the segment.
    Customers who only ever sent back (their orders lie before the first day) have 1, 1, 1, and are not among the n.

    `previous_segment` is computed from the orders of the day before with today's knowledge of who is who, so that a merge
    of two identities is no movement. `segment_movements` counts the moves; a warning says when more than usual have moved.

    `cluster` is the nearest of k-means centroids over the logarithms of the same three figures. They are fitted at the end of
    each quarter (the first time at the end of the first whole month) and frozen in between; labels are handed on.

    Read it as who to write to about what: the rules are meant to be changed, and the scores say why somebody is where.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    work.connection.register("segment_of_scores", segment_of_scores(work.settings.segments.rules))

    ((first_order,),) = work.connection.sql("SELECT min(order_date) FROM orders WHERE kind = 'order'").fetchall()
    frozen: dict[date, dict[str, Clusters]] = {}
    clusters: dict[str, Clusters] = {}
    segments, movements, usual = work.stage(CUSTOMER_SEGMENTS), [], []
    for day in work.each_day(IDENTITIES, CUSTOMERS):
        cut_off = max(cut_offs(first_order, day), default=None) if first_order else None
        if cut_off and cut_off not in frozen:
            frozen[cut_off] = clusters_as_of(work, cut_off, first_order)
        clusters = frozen[cut_off] if cut_off else {}
        found, moved, moved_before = _segments_of(work, day)
        rows = work.rows_of(CUSTOMER_SEGMENTS, with_clusters(found, clusters).to_arrow())
        segments.append(rows)
        movements.append(work.rows_of(SEGMENT_MOVEMENTS, moved.to_arrow()))
        usual.append(moved_before)
    work.connection.register("movement", movement(pl.concat(pl.DataFrame(m) for m in movements), pl.concat(usual)).to_arrow())

    work.metadata |= _matrices(pl.DataFrame(movements[-1]))
    work.metadata["clusters"] = dg.MetadataValue.md(_cluster_page(clusters, rows, cut_off))
    # An audit joins all days at once: 30 days of a million customers in 3.3 GB, so in 1.5 and two thirds more CPU time.
    work.bound_memory()
    return {CUSTOMER_SEGMENTS.name: segments, SEGMENT_MOVEMENTS.name: pa.concat_tables(movements)}


def _segments_of(work: Work, day: date) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Segments of the day, its movements, and (from a sample) those of the days before."""
    connection = work.connection
    first_day = day - timedelta(days=USUAL_DAYS + 1)

    def run(file: str | Path, **parameters: object) -> pa.Table:
        return work.sql(_HERE / file, as_of=day, first_day=first_day, **parameters).to_arrow_table()

    connection.register("customer_identities", run(CUSTOMER_IDENTITIES))
    connection.register("order_changes", run("order_changes.sql"))
    connection.register("rfm", run("rfm.sql", days_back=1))
    rows = pl.DataFrame(run("customer_segments.sql"))
    moved = rows.group_by("as_of_date", "currency", "previous_segment", "segment").agg(customers=pl.len())

    connection.register("order_changes", run("sampled_changes.sql", most_customers=MOST_CUSTOMERS_FOR_THE_USUAL))
    connection.register("rfm", run("rfm.sql", days_back=USUAL_DAYS + 1))
    before = pl.DataFrame(run("movements.sql")).filter(pl.col("reference_day") < day).with_columns(as_of_date=pl.lit(day))
    return rows, moved.sort("currency", "previous_segment", "segment"), before


def movement(moved: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """How many moved, and how many usually do: one row per day and currency.

    Args:
        moved: rows of `segment_movements`.
        before: the same with a column `reference_day` for the days before each day.

    Returns:
        `as_of_date`, `currency`, `customers` (of today and of the day before), `moved` of them, and `usual_share`, the
        median over the days before; days without customers do not count.
    """
    stayed = pl.col("previous_segment").is_not_null()
    counts = (
        pl.col("customers").filter(stayed).sum(),
        pl.col("customers").filter(stayed & (pl.col("previous_segment") != pl.col("segment"))).sum().alias("moved"),
    )
    today = moved.group_by("as_of_date", "currency").agg(counts)
    usual = (
        before.group_by("as_of_date", "currency", "reference_day")
        .agg(counts)
        .filter(pl.col("customers") > 0)
        .group_by("as_of_date", "currency")
        .agg(usual_share=(pl.col("moved") / pl.col("customers")).median())
    )
    return today.join(usual, on=["as_of_date", "currency"]).sort("as_of_date", "currency")


def _matrices(moved: pl.DataFrame) -> dict[str, dg.MetadataValue]:
    """For each currency the movements of a day as a table in Markdown, segments of the day before down the side."""
    pages: dict[str, dg.MetadataValue] = {}
    for (currency,), part in moved.partition_by("currency", as_dict=True, maintain_order=True).items():
        now = part["segment"].unique().sort().to_list()
        count = {
            (before, after): customers
            for before, after, customers in part.select("previous_segment", "segment", "customers").rows()
        }
        lines = ["| from \\ to | " + " | ".join(now) + " |", "|---|" + "---:|" * len(now)]
        for before in sorted({before for before, _ in count}, key=lambda name: (name is None, name or "")):
            cells = [f"{count[before, after]:,}" if (before, after) in count else "" for after in now]
            lines.append(f"| {before or '(new)'} | " + " | ".join(cells) + " |")
        pages[f"movements {currency}"] = dg.MetadataValue.md("\n".join(lines))
    return pages


def _cluster_page(clusters: Mapping[str, Clusters], rows: pa.Table, cut_off: date | None) -> str:
    """What the clusters are in days, orders and money, and how many customers are in them."""
    if not clusters:
        return "No clusters yet: they need four weeks of orders and 20 customers for each cluster."
    sizes = dict(pl.DataFrame(rows).group_by(pl.concat_str("currency", pl.lit(" "), "cluster")).len().iter_rows())
    lines = [
        f"Fitted at the end of {cut_off}. Figures are those of the centroid.",
        "",
        "| cluster | customers | days since the last order | orders | net revenue |",
        "|---|---:|---:|---:|---:|",
    ]
    for currency, found in sorted(clusters.items()):
        for number, (days, orders, revenue) in enumerate(found.in_business_units()):
            size = sizes.get(f"{currency} Cluster {number + 1}", 0)
            lines.append(f"| Cluster {number + 1} | {size:,} | {days:,.0f} | {orders:,.1f} | {revenue:,.2f} {currency} |")
    return "\n".join(lines)


def plot_segments(work: Work, rows: pa.Table) -> bytes:
    """A PNG: share of the customers and of the net revenue in each segment, last day, currency with most customers."""
    import altair as alt
    import vl_convert as vlc

    last = pl.DataFrame(rows).filter(pl.col("as_of_date") == work.window.last_day)
    currency = last["currency"].mode().sort().head(1)
    of_segment = (
        last.filter(pl.col("currency").is_in(currency.implode()))
        .group_by("segment")
        .agg(customers=pl.len(), revenue=pl.col("monetary").cast(pl.Float64).sum())
    )
    total = of_segment.select(pl.col("customers").sum(), pl.col("revenue").sum())
    shares = of_segment.select(
        "segment",
        (pl.col("customers") / max(total["customers"].item(), 1)).alias("customers"),
        (pl.col("revenue") / (total["revenue"].item() or 1.0)).alias("net revenue"),
    ).unpivot(index="segment", variable_name="of", value_name="share")
    order = [rule.name for rule in work.settings.segments.rules]
    chart = (
        alt.Chart(shares, title=f"Segments {' '.join(currency)} ({work.window.last_day})")
        .mark_bar()
        .encode(
            alt.X("share:Q", title="share", axis=alt.Axis(format="%")),
            alt.Y("segment:N", title=None, sort=order),
            alt.YOffset("of:N"),
            alt.Color("of:N", title="share of"),
        )
        .properties(width=420, height=alt.Step(12))
    )
    return vlc.vegalite_to_png(chart.to_json(), scale=1.5)


def customer_segments_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `customer_segments`, which writes `segment_movements` too."""
    times = platform.settings.segments.unusual_movement
    return table_asset(
        platform,
        (CUSTOMER_SEGMENTS, SEGMENT_MOVEMENTS),
        customer_segments,
        needs=[Needs("orders", as_of=True), Needs("identities"), Needs("customers")],
        audits=[
            Audit(
                "scores_are_possible",
                "Scores lie between 1 and 5, and only who never ordered has no recency.",
                """SELECT as_of_date, recency_days, frequency, r, f, m FROM rows
                WHERE r NOT BETWEEN 1 AND 5 OR f NOT BETWEEN 1 AND 5 OR m NOT BETWEEN 1 AND 5
                OR recency_days < 0 OR (recency_days IS NULL) <> (frequency = 0)""",
            ),
            Audit(
                "every_customer_has_a_segment",
                "The customers of the day are in it, each once for each currency, with the same orders and net revenue.",
                """SELECT coalesce(c.as_of_date, s.as_of_date), c.orders, s.frequency, c.net_revenue, s.monetary FROM customers AS c
                FULL JOIN rows AS s ON s.as_of_date = c.as_of_date AND s.customer_id = c.customer_id AND s.currency = c.currency
                WHERE c.orders IS DISTINCT FROM s.frequency OR c.net_revenue IS DISTINCT FROM s.monetary""",
            ),
        ],
        warnings=[
            Audit(
                "movement_is_usual",
                f"No more than {times:g} times as many customers changed their segment as in the median of the last {USUAL_DAYS} days.",
                f"""SELECT as_of_date, currency, customers, moved, usual_share FROM movement
                WHERE moved > {times} * greatest(usual_share * customers, {FEWEST_USUAL_MOVES})""",
            )
        ],
        settings=("segments",),
        group="retail",
        plot=plot_segments,
        condition=condition,
    )
