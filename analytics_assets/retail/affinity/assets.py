"""Daily `product_affinity`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa

from analytics_assets.retail.orders.assets import ORDER_ITEMS
from analytics_assets.settings import Affinity
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

PRODUCT_AFFINITY = Table(
    name="product_affinity",
    rows_are="product, related product and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end this holds."),
        Column("product_id", "VARCHAR", "The product."),
        Column("related_product_id", "VARCHAR", "A product that was bought together with it."),
        Column("baskets", "BIGINT", "Baskets that hold both.", "baskets"),
        Column("support", "DOUBLE", "Share of all baskets that hold both.", "0 to 1"),
        Column("confidence", "DOUBLE", "Share of the product's baskets that hold the related product too.", "0 to 1"),
        Column("lift", "DOUBLE", "How many times more baskets hold both than chance would have it.", "times"),
        Column("lift_low", "DOUBLE", "What the lift is at least, in about 39 of 40 cases: the order of the ranks.", "times"),
        Column(
            "conviction",
            "DOUBLE",
            "How many times more often the product would come alone if it had no bond; NULL where it never came alone.",
            "times",
            nullable=True,
        ),
        Column("rank", "BIGINT", "Place of the related product, from 1: by `lift_low`, then baskets, then its id."),
    ),
    key=("as_of_date", "product_id", "related_product_id"),
    grain="day",
    partition_column="as_of_date",
)

CUT = """
SELECT count(*), count(*) FILTER (products > $cap), coalesce(max(products), 0)
FROM (
    SELECT count(DISTINCT product_id) AS products FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date BETWEEN $first_day AND $as_of
    GROUP BY event_id
)
"""


def product_affinity(work: Work) -> Mapping[str, pa.Table]:
    """Which products are bought together, and how much more often than chance would have it.

    Support, confidence and lift as Agrawal and Srikant (1994) and Brin et al. (1997) define them, over the baskets of the
    last `[affinity] history_days`; a pair counts from `minimum_baskets` on. Very large baskets (a wholesaler's) say little
    about taste and cost a lot: those above `basket_cap` are left out and counted on this page.

    Lift alone favours chance: among rare products a handful of baskets makes a lift of hundreds. The ranks follow the
    lower end of the lift's interval, (sqrt(baskets) - 1)² over the baskets that chance would make, which rare pairs must
    earn with more baskets. Read rank 1 as the product to show beside, and the lift as how much it is bound to it.
    """
    settings = work.settings.affinity
    first_day = work.window.first_day - timedelta(days=settings.history_days - 1)
    work.read(ORDER_ITEMS, f"order_date >= '{first_day}' AND order_date <= '{work.window.last_day}'", in_memory=True)
    days = []
    for day in work.days:
        span = {"first_day": day - timedelta(days=settings.history_days - 1), "as_of": day}
        limits = settings.model_dump(include={"basket_cap", "minimum_baskets", "related_products"})
        days.append(work.rows_of(PRODUCT_AFFINITY, work.sql(_HERE / "product_affinity.sql", **span, **limits)))
    cut = work.connection.sql(CUT, params={**span, "cap": settings.basket_cap}).fetchall()[0]
    baskets, left_out, largest = cut
    work.metadata["baskets"] = f"{baskets:,}, of which {left_out:,} above {settings.basket_cap} products left out"
    work.metadata["largest basket"] = f"{largest:,} products"
    work.metadata["minimum baskets of a pair"] = settings.minimum_baskets
    return {PRODUCT_AFFINITY.name: pa.concat_tables(days)}


def promises(settings: Affinity) -> list[Audit]:
    """What no row may ever break, as queries that return the rows which do."""
    return [
        Audit(
            "measures_are_possible",
            "Shares lie between 0 and 1, no lower end above its lift, no product related to itself, no pair below the minimum.",
            f"""SELECT * FROM rows WHERE support NOT BETWEEN 0 AND 1 OR confidence NOT BETWEEN 0 AND 1 OR lift <= 0
            OR lift_low > lift OR conviction < 0 OR product_id = related_product_id OR baskets < {settings.minimum_baskets}""",
        ),
        Audit(
            "ranks_have_no_gap",
            "Each product's ranks run from 1 without a gap, to the number that the settings allow at most.",
            f"""SELECT as_of_date, product_id FROM rows GROUP BY ALL
            HAVING min(rank) <> 1 OR max(rank) <> count(*) OR count(DISTINCT rank) <> count(*)
            OR count(*) > {settings.related_products}""",
        ),
    ]


def product_affinity_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `product_affinity`."""
    return table_asset(
        platform,
        (PRODUCT_AFFINITY,),
        product_affinity,
        needs=[Needs("order_items", as_of=True)],
        audits=promises(platform.settings.affinity),
        settings=("affinity",),
        group="retail",
        condition=condition,
    )
