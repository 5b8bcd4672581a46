"""What goes out, `email_campaign` and `onsite_recommendations`: of which tables, into which files, and what makes it visible."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from analytics_assets.activation.campaign import (
    BUY_AGAIN_SHARE,
    Contacts,
    SuppressionError,
    broken_promises,
    csv_parts,
    make_campaign,
    read_suppressed,
)
from analytics_assets.activation.gate import (
    HeldBack,
    models_not_accepted,
    recommenders_tested,
)
from analytics_assets.activation.generations import Channel, Generation
from analytics_assets.activation.onsite import (
    CUSTOMERS_A_BLOCK,
    entries,
    onsite_channel,
    publish_to_redis,
    redis_url,
    write_lines,
)
from analytics_assets.activation.onsite import LOCK as ONSITE_LOCK
from analytics_assets.activation.sends import LOCK as EMAIL_LOCK
from analytics_assets.activation.sends import email_channel, last_send, made_with, sent_days
from analytics_assets.events.events import json_paths
from analytics_assets.events.tables import IDENTITIES, RECORDS, TRAITS
from analytics_assets.home import Home
from analytics_assets.retail.ltv.assets import CUSTOMER_LTV, LTV_BACKTESTS
from analytics_assets.retail.orders.assets import ORDER_ITEMS
from analytics_assets.retail.recommendations.tables import PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY, RECOMMENDATIONS
from analytics_assets.retail.segments.assets import CUSTOMER_SEGMENTS
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent
LISTS = ("buy_again", "discover")
# For the queries of the e-mail: what Python holds of a million customers takes 2 GB beside it.
MOST_MEMORY = "500MB"
# Picks of a million customers at once took 1.5 GB; 20,000 at a time took a tenth longer.
CUSTOMERS_PICKED_AT_ONCE = 100_000


@dataclass(frozen=True)
class Made:
    """What was written into a folder: rows of each file, facts that belong to the content, and figures for the asset's page."""

    rows: dict[str, int]
    content: dict[str, Any]
    figures: dict[str, Any]


def email_campaign(work: Work, day: date, folder: Path) -> Made:
    """The e-mail list of the next morning: who gets it, and which products stand in it.

    `recipients.csv` and `recipients.parquet` have one row per address: `email`, `external_id` (the customer), `segment`,
    `value_band`, `rec_count` and `rec_1_id`, `rec_1_name`, ... in the layout that Klaviyo and Braze import as it is; a CSV beyond
    50 MB goes on in `recipients-2.csv`. `delta` holds those whose row differs from the last one sent, `removed` those who got
    the last one and must not get this one, `holdout.parquet` the fixed share that is left out so that the effect can be measured.
    `manifest.json` has rows and SHA-256 of each file, how many were left out, and why, and of how many suppressions somebody is known.

    Value bands: of each currency the first tenth by lifetime value is high, the next three tenths medium; unknown where no forecast of the
    currency has passed its backtest. One product in four is for buying
    again, the others are new to the customer. Who has not consented, is suppressed or is held out is on no list. What people said
    of their address and their consent before the first day counts as what they said since.

    Read it as a proposal until `analytics-assets sent DATE` has recorded it: that is what the next delta compares with.
    """
    activation, names = work.settings.activation, work.settings.customers
    tested = [*_recommenders(work, day), *work.sql(_HERE / "ltv_models.sql", as_of=day).fetchall()]
    if reasons := models_not_accepted(tested, (*LISTS, f"lifetime value in {work.settings.business.currency}"), day):
        raise HeldBack(reasons)
    try:
        suppressed = read_suppressed(activation.suppression_file)
    except SuppressionError as error:
        raise HeldBack([str(error)]) from None
    work.bound_memory(MOST_MEMORY)
    rows = lambda file, **more: work.sql(_HERE / f"{file}.sql", as_of=day, **more).pl()  # noqa: E731
    early, said = _early_traits(work, day), ("trait", "value", "said_second")
    of_customers = early.drop_nulls("customer_id")
    contacts = Contacts(
        standing=rows("standing", currency=work.settings.business.currency),
        traits=pl.concat([rows("contact_traits"), of_customers.select("customer_id", *said)]),
        shared=pl.concat([rows("shared_traits"), early.filter(pl.col("customer_id").is_null()).select("identity", *said)]),
        identities=pl.concat(
            [
                rows("known_identities.duckdb", suppressed=sorted(suppressed.names)),
                of_customers.filter("is_stranger").select("customer_id", "identity").unique(),
            ]
        ),
        picks=_picks(work, day, activation.products_per_email),
        product_names=rows("product_names"),
        suppressed=suppressed.names,
    )
    last = last_send(work.platform, activation.campaign, day)
    campaign = make_campaign(contacts, last, activation, names)
    if broken := broken_promises(campaign.recipients, contacts, activation, names):
        raise HeldBack([f"the list would break a promise: {text}" for text in broken])
    files = {"holdout.parquet": campaign.holdout.height}
    _write_parquet(campaign.holdout, folder / "holdout.parquet")
    for stem, frame in (("recipients", campaign.recipients), ("delta", campaign.delta), ("removed", campaign.removed)):
        _write_parquet(frame, folder / f"{stem}.parquet")
        files[f"{stem}.parquet"] = frame.height
        for number, (part, text) in enumerate(csv_parts(frame), 1):
            name = f"{stem}.csv" if number == 1 else f"{stem}-{number}.csv"
            (folder / name).write_bytes(text)
            files[name] = part.height
    counts = {"recipients": campaign.recipients.height, "left_out": campaign.left_out}
    delta = {"changed_since_last_send": campaign.delta.height, "removed_since_last_send": campaign.removed.height}
    content = {
        "campaign": activation.campaign,
        **counts,
        "delta_since": last.day.isoformat() if last.day else None,
        "unchanged": campaign.recipients.height - campaign.delta.height,
        "suppression_file_sha256": suppressed.sha256,
        "suppressions": suppressed.entries,
        "suppressions_matched": campaign.suppressions_matched,
        "made_with": made_with(work.platform),
    }
    return Made(files, content, {"dagster/row_count": campaign.recipients.height, **counts, **delta})


def _picks(work: Work, day: date, products: int) -> pl.DataFrame:
    """Of each customer with recommendations the products of the e-mail, in their order: customer_id, product_ids."""
    of_blocks = [pl.DataFrame(schema={"customer_id": pl.String, "product_ids": pl.List(pl.Categorical)})]
    for first, after in _blocks(work, day, CUSTOMERS_PICKED_AT_ONCE):
        picked = work.sql(
            _HERE / "picks.sql",
            as_of=day,
            products=products,
            buy_again_first=products // BUY_AGAIN_SHARE,
            first_id=first,
            next_first_id=after,
        ).pl()
        of_blocks.append(
            picked.sort("customer_id", "place")
            .group_by("customer_id", maintain_order=True)
            .agg(product_ids=pl.col("product_id").cast(pl.Categorical))
        )
    return pl.concat(of_blocks)


def _blocks(work: Work, day: date, customers: int) -> list[tuple[str, str | None]]:
    """First ids of each block of customers with recommendations and of the one after it."""
    found = work.sql(_HERE / "customer_blocks.sql", as_of=day, block_rows=customers).fetchall()
    firsts = [first for (first,) in found]
    return list(zip(firsts, [*firsts[1:], None], strict=False))


def _early_traits(work: Work, day: date) -> pl.DataFrame:
    """What was said before the first day, by `early_traits.duckdb.sql`: no partition holds it, and a refusal has no end."""
    clock, identity, names = work.platform.clock, work.settings.identity, work.settings.customers
    begins = clock.begins(clock.first_day)
    work.read(RECORDS, f"occurred_at < '{begins.isoformat()}'")
    traits = names.email + names.consent
    return work.sql(
        _HERE / "early_traits.duckdb.sql",
        as_of=day,
        traits=list(traits),
        paths=json_paths(traits),
        first_day_begins=begins,
        day_ends=clock.begins(day + timedelta(days=1)),
        blocked=list(identity.blocked),
        fold_email_case=identity.fold_email_case,
    ).pl()


def _write_parquet(frame: pl.DataFrame, file: Path) -> None:
    """Write a frame by way of memory: to Polars a full disk is an error in the data, which nobody would try again."""
    content = io.BytesIO()
    frame.write_parquet(content)
    file.write_bytes(content.getbuffer())


def onsite_recommendations(work: Work, day: date, folder: Path) -> Made:
    """Recommendations by key for the site: `customers.jsonl` and `products.jsonl`, a JSON object a line.

    A customer's line has both lists, best first, each product with its reason; a product's line has what to show beside it.
    `activation/onsite/current` leads to the newest generation and is switched in one step. Where ANALYTICS_REDIS_URL names a
    server, the same lines stand there under `analytics:onsite:<generation>:customer:<id>` and `…:product:<id>`, and
    `analytics:onsite:current` holds the generation to read; it moves once all keys are there. Keys live for
    `[activation] onsite_hours_to_live`: a site that finds none shows what it shows to strangers.

    Read `status.json` for the age of what is being served.
    """
    if reasons := models_not_accepted(_recommenders(work, day), LISTS, day):
        raise HeldBack(reasons)
    customers = (
        work.sql(_HERE / "customer_lists.duckdb.sql", as_of=day, first_id=first, next_first_id=after)
        for first, after in _blocks(work, day, CUSTOMERS_A_BLOCK)
    )
    products = work.sql(_HERE / "product_lists.duckdb.sql", as_of=day)
    rows = {
        "customers.jsonl": write_lines(customers, folder / "customers.jsonl"),
        "products.jsonl": write_lines([products], folder / "products.jsonl"),
    }
    if not all(rows.values()):
        raise HeldBack([f"{name} would be empty for {day}" for name, count in rows.items() if not count])
    return Made(rows, {}, {"dagster/row_count": sum(rows.values()), **rows})


def _recommenders(work: Work, day: date) -> list[tuple[str, bool, str]]:
    return recommenders_tested(work.sql(_HERE / "chosen_recommenders.sql", as_of=day).fetchall())


def _release_onsite(platform: Platform, generation: Generation) -> dict[str, Any]:
    channel, url = onsite_channel(platform.home), redis_url()
    served = "no (ANALYTICS_REDIS_URL is not set)"
    if url:
        leads = publish_to_redis(url, generation.name, entries(generation), platform.settings.activation.onsite_hours_to_live)
        served = "yes" if leads else "no: it serves a newer day"
    channel.show(generation)
    channel.show_as_current(generation)
    return {"served by Redis": served}


def _was_sent(platform: Platform, day: date) -> bool:
    """Whether a day's list, of the campaign that it was made for, has been handed over."""
    made = email_channel(platform.home).generation(day)
    campaign = made.manifest["campaign"] if made else platform.settings.activation.campaign
    return day in sent_days(platform, campaign)


def _release_email(platform: Platform, generation: Generation) -> dict[str, Any]:
    email_channel(platform.home).show(generation)
    return {}


@dataclass(frozen=True)
class Outlet:
    """One way out: what is written for a day, from which tables, and what makes it visible.

    `make` writes a day's folder and its docstring is the asset's page; `release` shows a sealed generation and gives figures
    for the page; a day that `is_final` is never made again. `day_tables` are read for the day alone, `history_tables` for all days
    up to it. `made_with` changes when something outside the tables and the settings does that the day is made with.
    """

    make: Callable[[Work, date, Path], Made]
    release: Callable[[Platform, Generation], dict[str, Any]]
    is_final: Callable[[Platform, date], bool]
    channel: Callable[[Home], Channel]
    lock: str
    made_with: Callable[[Platform], str]
    day_tables: tuple[Table, ...]
    history_tables: tuple[Table, ...]
    settings: tuple[str, ...]
    format: str
    columns: Mapping[str, str]

    @property
    def name(self) -> str:
        """The asset's name."""
        return self.make.__name__


EMAIL = Outlet(
    make=email_campaign,
    release=_release_email,
    is_final=_was_sent,
    channel=email_channel,
    lock=EMAIL_LOCK,
    made_with=made_with,
    day_tables=(CUSTOMER_LTV, LTV_BACKTESTS, CUSTOMER_SEGMENTS, RECOMMENDATIONS, RECOMMENDATION_QUALITY, IDENTITIES),
    history_tables=(TRAITS, ORDER_ITEMS),
    settings=("activation", "customers", "identity", "business.currency"),
    format="csv",
    columns={
        "email": "The address, lower case; each once.",
        "external_id": "The customer: the most valuable one with this address.",
        "segment": "RFM segment in the customer's main currency.",
        "value_band": "`high` (first tenth by lifetime value), `medium` (next three tenths), `low`, or `unknown`: no forecast of their currency has passed its backtest.",
        "rec_count": "How many products follow; loop over these and no further.",
        "rec_1_id": "The first product; `rec_2_id` ... alike.",
        "rec_1_name": "Its name, or its id where no order line names it; `rec_2_name` ... alike.",
    },
)
ONSITE = Outlet(
    make=onsite_recommendations,
    release=_release_onsite,
    is_final=lambda platform, day: False,
    channel=onsite_channel,
    lock=ONSITE_LOCK,
    made_with=lambda platform: "redis" if redis_url() else "files",
    day_tables=(RECOMMENDATIONS, PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY),
    history_tables=(),
    settings=("activation",),
    format="json",
    columns={
        "customer_id or product_id": "The key.",
        "buy_again, discover or related": "Products, best first, each with `product_id` and `reason`; a customer's with "
        "`basis` (`history`: bought before; `similarity`; `popular`).",
    },
)


NOBODY = {"nothing to send": "nobody has ordered yet: a company without a shop has nobody to send to"}


def has_no_customers(platform: Platform) -> bool:
    """Whether lifetime values were computed and no day has one."""
    pin = platform.lake.pin(CUSTOMER_LTV)
    with engine() as connection:
        attach(connection, pin)
        return pin.version is not None and not connection.sql("FROM customer_ltv LIMIT 1").fetchall()
