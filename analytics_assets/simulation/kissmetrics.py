"""A simulated retailer as lines of a KISSmetrics raw data export, with the truth that a reader must find.

OUT/revisions/N.json         events, property sets and aliases, by receipt, 20,000 a file
OUT/truth.json               `Truth`
OUT/truth_customers.parquet  `Company.customers`

Beside the faults of `export_folder` there is one identity shared by many. What is simulated is decided in `retailer`,
not here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analytics_assets.simulation.browsing import ADDED, SIGNED_UP, VIEWED, VISITED
from analytics_assets.simulation.export_folder import (
    CompanyLines,
    Progress,
    json_text,
    lateness,
    money,
    repeat_and_break,
    write_folder,
    written,
)
from analytics_assets.simulation.retailer import Company

REVISION_LINES = 20_000
LATE_SHARE = 0.005
"""Share of lines, or of orders with their item lines, that are received late."""
SHARED_IDENTITY = "guest"
"""The identity that a careless shop gave to many customers."""
SHARED_BY = 60
"""Customers who are tied to it, or all if there are fewer."""
_LATE_SECONDS = (3_600, 7_200, 26 * 3_600, 72 * 3_600, 9 * 86_400, 60 * 86_400)


@dataclass(frozen=True)
class Truth:
    """What a correct reader finds in an export. Amounts are pence; days are business days in `time_zone`."""

    time_zone: str
    currency: str
    first_day: str
    last_day: str
    files: int
    lines: int
    """Every line of every file: events + property_sets + aliases + repeated_lines + broken_lines."""
    broken_lines: int
    """Lines to set aside, each time that they stand there."""
    repeated_lines: int
    """Further copies of a line, which must not count twice."""
    late_lines: int
    """Lines received later than they happened, further copies not counted."""
    octal_lines: int
    """Lines that are JSON only once their octal escapes are decoded, further copies not counted."""
    events: int
    """Lines with `_n`, orders and refunds among them, without repeats."""
    property_sets: int
    """Lines with neither `_n` nor `_p2`, item lines among them, without repeats."""
    aliases: int
    orders: int
    refunds: int
    order_item_lines: int
    """Item lines of orders and refunds."""
    returned_item_lines: int
    """Item lines of refunds alone."""
    identified_customers: int
    """Named identities with an order; the shared identity must not have merged any of them."""
    guest_orders: int
    """Orders under an anonymous id that nothing ties to a name."""
    net_revenue_pence: int
    guest_net_revenue_pence: int
    """The part of net revenue that belongs to no customer."""
    net_revenue_pence_by_day: dict[str, int]
    """Orders and refunds by their own day; item lines may lie on the next. Days without either are missing."""
    orders_by_day: dict[str, int]
    """Over the days of `net_revenue_pence_by_day`."""
    parameters: dict[str, Any]
    """The `Retailer`."""


def write_export(company: Company, out: Path, faults: bool = True, progress: Progress | None = None) -> Truth:
    """Write the export of this company alone to the folder `out`, as `write_folder` does, and give its truth."""
    if progress:
        progress("making lines", 0.0)
    lines, truth = company_lines(company, faults)
    if progress:
        progress("making lines", 1.0)
    write_folder(out, [lines], progress)
    return truth


def company_lines(company: Company, faults: bool = True) -> tuple[CompanyLines, Truth]:
    """Make the lines of the export and its truth. The same company and faults give the same bytes."""
    # A stream of its own beside those that `simulate` spawns from the seed, so that faults change no purchase.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([company.retailer.seed, 1])))
    lines, counts = _export_lines(company, faults, rng)
    files = [lines.slice(start, REVISION_LINES) for start in range(0, lines.height, REVISION_LINES)]
    truth = _truth(company, len(files), counts)
    texts = {"truth.json": json.dumps(asdict(truth), indent=1, ensure_ascii=False) + "\n"}
    return CompanyLines(files, texts | {"truth_customers.parquet": company.customers}), truth


def _export_lines(company: Company, faults: bool, rng: np.random.Generator) -> tuple[pl.DataFrame, dict[str, int]]:
    """Make every line of the export in order of receipt: line, received; and count what `Truth` counts in lines."""
    identity = pl.Series(list(map(json_text, company.identities["identity"])))
    # An order is late with all of its item lines, any other line alone. Lines received in the same second stay in this
    # order, so that an order's event comes before its first item line.
    orders = _transaction_lines(company, identity).with_columns(late=_lateness(company.transactions.height, faults, rng))
    items = _item_lines(company, identity, faults, rng)
    items = items.with_columns(late=orders["late"].gather(company.items["transaction"]))
    aliases, visits, sets = (
        frame.with_columns(late=_lateness(frame.height, faults, rng))
        for frame in (
            _alias_lines(company, identity, faults),
            _visit_lines(company, identity, faults, rng),
            _set_lines(company, identity, faults, rng),
        )
    )
    lines = pl.concat([aliases, visits, orders, sets, items])
    counts = {
        "aliases": aliases.height,
        "events": visits.height + orders.height,
        "property_sets": sets.height + items.height,
        "late_lines": int((lines["late"] > 0).sum()),
        "octal_lines": int(lines["octal"].sum()),
        "repeated_lines": 0,
        "broken_lines": 0,
    }
    lines = lines.select("line", received=pl.col("at") + pl.col("late"))
    if faults:
        lines, faulty = repeat_and_break(lines, rng)
        counts |= faulty
    return lines.sort("received", maintain_order=True), counts


def _lateness(rows: int, faults: bool, rng: np.random.Generator) -> np.ndarray:
    return lateness(rows, LATE_SHARE, _LATE_SECONDS, rng) if faults else np.zeros(rows, dtype=np.int64)


def _articles(company: Company, template: str) -> list[str]:
    """Fill a fragment of JSON with what it names of each article: sku, name, price, category."""
    rows = company.catalogue.select("sku", "name", "category", price=money(pl.col("price_pence"))).rows(named=True)
    return [template % {name: json_text(value) for name, value in row.items()} for row in rows]


def _alias_lines(company: Company, identity: pl.Series, faults: bool) -> pl.DataFrame:
    frame = company.aliases.select(
        "at", p=identity.gather(company.aliases["identity"]), p2=identity.gather(company.aliases["alias"])
    )
    if faults:
        # Customers from all over the window, tied to the shared identity some minutes after they were named.
        named = company.aliases.unique("identity", keep="first", maintain_order=True)
        sharing = named[np.unique(np.linspace(0, named.height - 1, min(SHARED_BY, named.height)).astype(np.int64))]
        at = np.minimum(sharing["at"].to_numpy() + 600, company.end_instant - 1)
        shared = pl.DataFrame({"at": at, "p": identity.gather(sharing["identity"])})
        frame = pl.concat([frame, shared.with_columns(p2=pl.lit(json_text(SHARED_IDENTITY)))])
    line = pl.format('{{"_p":{},"_p2":{},"_t":{}}}', "p", "p2", "at")
    return frame.select("at", line=line, octal=pl.lit(False))


def _set_lines(company: Company, identity: pl.Series, faults: bool, rng: np.random.Generator) -> pl.DataFrame:
    values = company.properties["value"].unique(maintain_order=True)
    row = company.properties["value"].replace_strict(values, pl.int_range(len(values), eager=True))
    value, octal = written([json_text(text) for text in values], row, faults, rng)
    frame = company.properties.select("at", "name", p=identity.gather(company.properties["identity"]), value=value)
    line = pl.format('{{"_p":{},"_t":{},"{}":{}}}', "p", "at", "name", "value")
    return frame.select("at", line=line, octal=octal)


def _item_lines(company: Company, identity: pl.Series, faults: bool, rng: np.random.Generator) -> pl.DataFrame:
    template = '"{0} sku":%(sku)s,"{0} product name":%(name)s,"category":%(category)s,"price":%(price)s'
    fragments = [*_articles(company, template.format("purchased")), *_articles(company, template.format("returned"))]
    items, of = company.items, company.items["transaction"]
    refund = company.transactions["refund"].gather(of).cast(pl.Int64)
    article, octal = written(fragments, items["product"] + company.catalogue.height * refund, faults, rng)
    frame = items.select(
        "quantity",
        at=company.transactions["at"].gather(of) + items["line"],
        p=identity.gather(company.transactions["identity"].gather(of)),
        article=article,
    )
    line = pl.format('{{"_p":{},"_t":{},{},"quantity":"{}"}}', "p", "at", "article", "quantity")
    return frame.select("at", line=line, octal=octal)


def _transaction_lines(company: Company, identity: pl.Series) -> pl.DataFrame:
    frame = company.transactions.with_columns(
        event=pl.when("refund").then(pl.lit("refunded")).otherwise(pl.lit("purchased")),
        p=identity.gather(company.transactions["identity"]),
        total=money(pl.col("total_pence")),
    )
    template = '{{"_n":"{}","_p":{},"_t":{},"order id":"{}","order total":"{}"}}'
    return frame.select("at", line=pl.format(template, "event", "p", "at", "order_id", "total"), octal=pl.lit(False))


def _visit_lines(company: Company, identity: pl.Series, faults: bool, rng: np.random.Generator) -> pl.DataFrame:
    fragments = [
        *_articles(company, ',"product viewed sku":%(sku)s,"product viewed name":%(name)s,"product viewed price":%(price)s'),
        *_articles(company, ',"product added sku":%(sku)s,"product added name":%(name)s,"product added price":%(price)s'),
        ',"url":"https://shop.test/","referrer":',
        "",
    ]
    articles = company.catalogue.height
    visits = company.visits.with_columns(
        p=identity.gather(company.visits["identity"]),
        event=pl.col("kind").replace_strict(
            {VISITED: "visited site", VIEWED: "viewed product", ADDED: "added to cart", SIGNED_UP: "signed up"}
        ),
        row=pl.col("product")
        + pl.col("kind").replace_strict({VISITED: 2 * articles + 1, VIEWED: 0, ADDED: articles, SIGNED_UP: 2 * articles + 2}),
        referrer=pl.format('"{}"', "referrer").fill_null(""),
    )
    properties, octal = written(fragments, visits["row"], faults, rng)
    line = pl.format('{{"_n":"{}","_p":{},"_t":{}{}{}}}', "event", "p", "at", "properties", "referrer")
    return visits.with_columns(properties=properties).select("at", line=line, octal=octal)


def _truth(company: Company, files: int, counts: dict[str, int]) -> Truth:
    """Sum up the company and the lines of its export."""
    retailer, transactions = company.retailer, company.transactions
    guests = transactions.filter(pl.col("identity") >= retailer.customers)
    by_day = transactions.group_by("day").agg(pl.col("total_pence").sum(), (~pl.col("refund")).sum().alias("orders")).sort("day")
    days = [(retailer.first_day + timedelta(day)).isoformat() for day in by_day["day"]]
    return Truth(
        time_zone=retailer.time_zone,
        currency=retailer.currency,
        first_day=retailer.first_day.isoformat(),
        last_day=retailer.last_day.isoformat(),
        files=files,
        lines=sum(counts[kind] for kind in ("events", "property_sets", "aliases", "repeated_lines", "broken_lines")),
        **counts,
        orders=transactions.filter(~pl.col("refund")).height,
        refunds=transactions.filter("refund").height,
        order_item_lines=company.items.height,
        returned_item_lines=company.items.filter(pl.col("quantity") < 0).height,
        identified_customers=company.customers.height,
        guest_orders=guests.filter(~pl.col("refund")).height,
        net_revenue_pence=int(transactions["total_pence"].sum()),
        guest_net_revenue_pence=int(guests["total_pence"].sum()),
        net_revenue_pence_by_day=dict(zip(days, by_day["total_pence"].to_list(), strict=True)),
        orders_by_day=dict(zip(days, by_day["orders"].to_list(), strict=True)),
        parameters=asdict(retailer) | {"first_day": retailer.first_day.isoformat(), "last_day": retailer.last_day.isoformat()},
    )
