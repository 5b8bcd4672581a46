"""What no list may ever break, as queries over the rows that return those which do.

The rows come in order of the table's key (`as_declared` proves it), so that most of it is told from the rows before, in one
pass: grouping 40 M rows into lists again took 50 s and nine gigabytes, this takes 2 s.
"""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import polars as pl

from analytics_assets.settings import Recommendations, normalised
from analytics_assets.warehouse.assets import Audit
from analytics_assets.warehouse.work import Work

_HERE = Path(__file__).parent

CUSTOMERS_LOOKED_AT = 20_000
"""Whose reasons are held against what they bought, each day others. Those of all of a million customers took 6 CPU seconds, of these 0.3."""
GOES_WITH_UNNAMED = "goes with what was bought"
"""The reason of what goes only with products that no reason may name."""

CLOSED_OF = {"buy_again": "at_rest", "discover": "true"}
"""Which rows of `closed` hold for a list."""

EXCLUSIONS_ARE_KNOWN = Audit(
    "exclusions_are_known",
    "Every name under `[recommendations] excluded_products` and `excluded_categories` is that of a product or category that was "
    "ever sold. One that is not excludes nothing: is it misspelt?",
    "FROM unknown_exclusions",
)


def named(names: Iterable[str | None], excluded: Iterable[str]) -> list[str]:
    """Those of some names that the settings exclude, as they are written there; `excluded` as the settings hold them."""
    if not (wanted := set(excluded)):
        return []
    return [name for name in set(names) if name is not None and normalised(name) in wanted]


def looked_at(day: date, customers: pl.Series) -> pl.DataFrame:
    """The customers whose reasons are looked at on a day (as_of_date, customer_id): neighbours by id, so that few files are read."""
    parts = max(-(-len(customers) // CUSTOMERS_LOOKED_AT), 1)
    first = day.toordinal() % parts * CUSTOMERS_LOOKED_AT
    return pl.DataFrame({"customer_id": customers[first : first + CUSTOMERS_LOOKED_AT]}).with_columns(as_of_date=pl.lit(day))


def prepare_promises(work: Work, spoken: pl.DataFrame, looked_at: pl.DataFrame) -> None:
    """Make what the checks compare with: the tables `offer`, `closed`, `nameable` and `looked_at` of the window's days, and
    `unknown_exclusions`.

    Args:
        work: with the tables that lists are computed from.
        spoken: as_of_date, product_id, category and the reason that names the product.
        looked_at: as_of_date and customer_id of those whose reasons are looked at.
    """
    settings = work.settings.recommendations
    unknown, as_sold = [], {}
    for setting, column, wanted in (
        ("excluded_products", "product_id", settings.excluded_products),
        ("excluded_categories", "category", settings.excluded_categories),
    ):
        as_sold[setting] = named(_sold(work, column) if wanted else (), wanted)
        found = {normalised(name) for name in as_sold[setting]}
        unknown += [(setting, name) for name in wanted if name not in found]
    names = pl.DataFrame(unknown, {"setting": pl.String, "name": pl.String}, orient="row")
    work.connection.register("unknown_exclusions", names.to_arrow())
    work.connection.register("spoken", spoken.to_arrow())
    work.connection.register("looked_at", looked_at.to_arrow())
    for table, file in (("offer", "offer.duckdb.sql"), ("closed", "closed.duckdb.sql"), ("nameable", "nameable.sql")):
        rows = work.sql(
            _HERE / file,
            first_day=work.window.first_day,
            last_day=work.window.last_day,
            assortment_days=settings.assortment_days,
            rest_days=settings.rest_days,
            **as_sold,
        )
        rows.create(table)


def _sold(work: Work, column: str) -> pl.Series:
    """The products or categories that were sold up to the last day of the window, each once."""
    return work.connection.sql(
        f"SELECT DISTINCT {column} FROM order_items WHERE kind = 'order' AND quantity > 0 AND order_date <= $last_day",
        params={"last_day": work.window.last_day},
    ).pl()[column]


def promises(settings: Recommendations) -> list[Audit]:
    """The checks; they read what `prepare_promises` makes."""
    return [
        Audit(
            "lists_are_in_order",
            "Ranks run from 1 without a gap, no product stands twice, scores descend, and what has none says that it is popular.",
            " UNION ALL ".join(
                _disorder(*of_lists, settings.length)
                for of_lists in (
                    ("(FROM rows WHERE list = 'discover')", "as_of_date, list, customer_id", "product_id"),
                    ("(FROM rows WHERE list <> 'discover')", "as_of_date, list, customer_id", "product_id"),
                    ("rows_of_product_recommendations", "as_of_date, 'page', product_id", "related_product_id"),
                )
            ),
        ),
        Audit(
            "nothing_suppressed_is_listed",
            "No product that the customer returned; in `discover` none ever bought; in `buy_again` none bought in the days of rest.",
            " UNION ALL ".join(
                f"""SELECT l.* FROM (FROM rows WHERE list = '{name}') AS l
                SEMI JOIN (SELECT hash(as_of_date, customer, product) AS pair FROM closed WHERE {which}) AS c
                ON c.pair = hash(l.as_of_date, hash(l.customer_id), hash(l.product_id))"""
                for name, which in CLOSED_OF.items()
            ),
        ),
        Audit(
            "only_the_offer_is_listed",
            "Every listed product was sold within the assortment's days, and neither it nor its category is excluded.",
            """SELECT as_of_date, list, customer_id, product_id FROM rows
            ANTI JOIN (SELECT hash(as_of_date, product_id) AS offered FROM offer) ON offered = hash(as_of_date, product_id)
            UNION ALL SELECT p.as_of_date, 'page', p.product_id, p.related_product_id FROM rows_of_product_recommendations AS p
            ANTI JOIN offer AS o ON o.as_of_date = p.as_of_date AND o.product_id = p.related_product_id""",
        ),
        Audit(
            "every_list_is_full",
            "Each customer of the day has both lists at full length, or all that the offer holds for them.",
            f"""WITH wanted AS (
                SELECT DISTINCT c.as_of_date, k.list, c.customer_id
                FROM customers AS c, (VALUES ('buy_again'), ('discover')) AS k(list)
            ),
            short AS (
                FROM wanted ANTI JOIN (FROM rows WHERE rank = {settings.length}) USING (as_of_date, list, customer_id)
            ),
            found AS (
                SELECT as_of_date, list, customer_id, count(*) AS products
                FROM rows SEMI JOIN short USING (as_of_date, list, customer_id)
                GROUP BY ALL
            ),
            sizes AS (SELECT as_of_date, count(*) AS products FROM offer GROUP BY ALL),
            withheld AS (
                SELECT s.as_of_date, s.list, s.customer_id, count(DISTINCT c.product) AS products
                FROM short AS s JOIN closed AS c
                ON c.as_of_date = s.as_of_date AND (s.list = 'discover' OR c.at_rest) AND c.customer = hash(s.customer_id)
                SEMI JOIN offer AS o ON o.as_of_date = c.as_of_date AND hash(o.product_id) = c.product
                GROUP BY ALL
            )
            SELECT s.*, coalesce(f.products, 0) AS products FROM short AS s LEFT JOIN found AS f USING (as_of_date, list, customer_id)
            LEFT JOIN sizes AS z USING (as_of_date) LEFT JOIN withheld AS w USING (as_of_date, list, customer_id)
            WHERE coalesce(f.products, 0) <> least({settings.length}, coalesce(z.products, 0) - coalesce(w.products, 0))""",
        ),
        Audit(
            "reasons_name_what_was_kept",
            "No reason names a product that the customer never bought or returned, or that is excluded. Of many customers each day "
            f"others are looked at, {CUSTOMERS_LOOKED_AT:,} of them; of products all.",
            f"""WITH kept AS (
                SELECT as_of_date, customer, product FROM closed
                SEMI JOIN (SELECT as_of_date, hash(customer_id) AS customer FROM looked_at) USING (as_of_date, customer)
                GROUP BY ALL HAVING NOT bool_or(returned)
            ),
            may_be_said AS (
                SELECT l.as_of_date, l.customer_id, n.reason
                FROM kept AS k
                JOIN looked_at AS l ON l.as_of_date = k.as_of_date AND hash(l.customer_id) = k.customer
                JOIN nameable AS n ON n.as_of_date = k.as_of_date AND hash(n.product_id) = k.product
            )
            SELECT as_of_date, list, customer_id, product_id, reason FROM rows
            SEMI JOIN looked_at USING (as_of_date, customer_id)
            ANTI JOIN may_be_said USING (as_of_date, customer_id, reason)
            WHERE basis = 'similarity' AND reason <> '{GOES_WITH_UNNAMED}'
            UNION ALL SELECT as_of_date, 'page', product_id, related_product_id, reason FROM rows_of_product_recommendations
            ANTI JOIN nameable USING (as_of_date, product_id, reason)
            WHERE basis = 'similarity' AND reason <> '{GOES_WITH_UNNAMED}'""",
        ),
    ]


def _disorder(rows: str, owner: str, product: str, length: int) -> str:
    """A query for the rows that do not follow the row before them as they should; `owner` says whose list it is."""
    # Hashes of who owns a list and of what stands in it: comparing names took twice as long.
    twice = " OR ".join(f"(rank > {back} AND lag(product, {back}) OVER () = product)" for back in range(1, length))
    return f"""SELECT * EXCLUDE (whose, product, displaced, twice) FROM (
        SELECT *, {twice or "false"} AS twice,
            rank > 1 AND (lag(whose) OVER () IS DISTINCT FROM whose OR lag(rank) OVER () + 1 <> rank OR lag(score) OVER () < score) AS displaced
        FROM (SELECT ({owner}) AS owner, hash({owner}) AS whose, rank, score, basis, hash({product}) AS product FROM {rows})
    ) WHERE displaced OR twice OR rank NOT BETWEEN 1 AND {length} OR score < 0 OR (score = 0 AND basis <> 'popular')"""
