"""The ledger of what was handed over to people: the only state that is not computed from events."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime

import polars as pl

from analytics_assets.activation.campaign import LastSend, SuppressionError, read_suppressed, row_digests
from analytics_assets.activation.generations import Channel, Generation
from analytics_assets.home import Home
from analytics_assets.warehouse.engine import attach, declared, engine
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform

EMAIL_SENDS = Table(
    name="email_sends",
    rows_are="customer of a campaign that was handed over, those who were left out on purpose (the holdout) included",
    columns=(
        Column("as_of_date", "DATE", "Business day of the list."),
        Column("campaign", "VARCHAR", "The campaign's name."),
        Column("customer_id", "VARCHAR", "The customer.", personal=True),
        Column("arm", "VARCHAR", "`sent`, or `holdout`: who would have got it and did not, to compare with."),
        Column("address_hash", "VARCHAR", "SHA-256 of the address in lower case.", personal=True),
        Column("row_digest", "VARCHAR", "SHA-256 of the row as it was on the list."),
        Column("sent_at", "TIMESTAMPTZ", "When it was recorded that the list had been handed over.", run_dependent=True),
        Column("run_id", "VARCHAR", "The run that made the list.", run_dependent=True),
    ),
    key=("campaign", "as_of_date", "customer_id"),
    partition_column="as_of_date",
)

LOCK = "activation-email"
DAYS_KEPT = 90


class SendRefused(Exception):
    """A list must not go out, or not again; the message says why and what to do."""


def email_channel(home: Home) -> Channel:
    """`activation/email/` of a home."""
    return Channel(home.root / "activation" / "email", DAYS_KEPT)


def sent_days(platform: Platform, campaign: str) -> list[date]:
    """Business days of a campaign whose lists were handed over, oldest first."""
    with engine() as connection:
        attach(connection, platform.lake.pin(EMAIL_SENDS))
        found = connection.sql(
            "SELECT DISTINCT as_of_date FROM email_sends WHERE campaign = $campaign ORDER BY 1", params={"campaign": campaign}
        )
        return [day for (day,) in found.fetchall()]


def last_send(platform: Platform, campaign: str, before: date) -> LastSend:
    """The newest list of a campaign that was handed over, of a business day before `before`."""
    earlier = [day for day in sent_days(platform, campaign) if day < before]
    if not earlier:
        return LastSend(None, pl.DataFrame(schema={"address_hash": pl.String, "row_digest": pl.String}))
    with engine() as connection:
        attach(connection, platform.lake.pin(EMAIL_SENDS), f"as_of_date = '{earlier[-1]}'")
        rows = connection.sql(
            """SELECT address_hash, row_digest FROM email_sends
            WHERE campaign = $campaign AND as_of_date = $day AND arm = 'sent'""",
            params={"campaign": campaign, "day": earlier[-1]},
        ).pl()
    return LastSend(earlier[-1], rows)


# Of the list itself, of what its rows are computed from, and of the events behind them.
_SETTINGS = (
    *("activation", "customers", "ltv", "recommendations", "segments"),
    *("business.currency", "business.time_zone", "events", "identity", "items", "properties"),
)


def made_with(platform: Platform) -> str:
    """Changes when a setting that a list is made with, or the suppression file that they name, changes: part of a list's content."""
    try:
        suppression_digest = read_suppressed(platform.settings.activation.suppression_file).sha256
    except SuppressionError:
        suppression_digest = "unreadable"
    settings = platform.settings.fingerprint(*_SETTINGS)
    return hashlib.sha256(f"{settings} {suppression_digest}".encode()).hexdigest()[:12]


def mark_sent(platform: Platform, day: date) -> int:
    """Record that the list of a day has been handed over; every row of it and of its holdout goes to the ledger in one commit.

    Whoever comes second, in this process or another, is refused: the check and the commit are made under one lock, and the
    list of a day that is in the ledger is never made again.

    Returns:
        The number of recipients.

    Raises:
        SendRefused: there is no list, it is empty or damaged, was made with other settings or another suppression file, or
            a newer one of that day is held back; it was sent before, a later one was, or its delta was made against another
            send than the last.
    """
    with platform.home.lock(LOCK):
        channel = email_channel(platform.home)
        generation = channel.generation(day)
        if generation is None:
            raise SendRefused(f"There is no list for {day}: materialise email_campaign for that day first.")
        campaign = generation.manifest["campaign"]
        sent = sent_days(platform, campaign)
        if day in sent:
            raise SendRefused(f"The campaign {campaign} of {day} has been sent before. It is not sent twice.")
        if sent and sent[-1] > day:
            raise SendRefused(
                f"The campaign {campaign} of {sent[-1]} has been sent: the list of {day} is older and is not sent any more."
            )
        since = generation.manifest["delta_since"]
        if since != (sent[-1].isoformat() if sent else None):
            raise SendRefused(
                f"The delta of {day} says what changed since {since or 'nothing was sent'}, but {sent[-1]} has been sent since. "
                f"Materialise email_campaign for {day} again."
            )
        status = channel.status()
        if status and status["state"] == "held" and status["asked_for"] == day.isoformat():
            raise SendRefused(f"The list of {day} was to be made anew and is held back: {'; '.join(status['reasons'])}.")
        if generation.manifest["made_with"] != made_with(platform):
            raise SendRefused(
                f"The settings or the suppression file have changed since the list of {day} was made: materialise "
                f"email_campaign for {day} again, or `make run`."
            )
        if damaged := generation.damaged_files():
            raise SendRefused(
                f"The list of {day} is not as it was made ({', '.join(damaged)}): materialise email_campaign again."
            )
        rows = _ledger_rows(generation)
        recipients = rows.filter(arm="sent").height
        if not recipients:
            raise SendRefused(f"The list of {day} has no recipients: there is nothing to send.")
        with engine() as connection:
            connection.register("rows_of_the_list", rows.to_arrow())
            declared_rows = declared(connection, EMAIL_SENDS, connection.sql("FROM rows_of_the_list"))
        note = {"campaign": campaign, "as_of_date": day.isoformat(), "generation": generation.name}
        platform.lake.replace(EMAIL_SENDS, declared_rows, f"as_of_date = '{day}' AND campaign = '{campaign}'", note)
    platform.publish()
    return recipients


def _ledger_rows(generation: Generation) -> pl.DataFrame:
    arms = []
    for arm, file in (("sent", "recipients.parquet"), ("holdout", "holdout.parquet")):
        rows = pl.read_parquet(generation.folder / file)
        digests = row_digests(rows)
        arms.append(
            digests.select(pl.lit(arm).alias("arm"), rows["external_id"].alias("customer_id"), "address_hash", "row_digest")
        )
    return pl.concat(arms).with_columns(
        as_of_date=pl.lit(generation.day),
        campaign=pl.lit(generation.manifest["campaign"]),
        sent_at=pl.lit(datetime.now(UTC)),
        run_id=pl.lit(generation.manifest["run_id"]),
    )
