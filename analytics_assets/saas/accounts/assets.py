"""Daily `accounts`, with `account_members` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from analytics_assets.events.identities import FIRST_SEEN, maps_as_of
from analytics_assets.events.tables import ACCOUNT_RECORDS
from analytics_assets.saas.accounts.standing import WHENEVER, make_contracts_readable, make_standing_readable, parameters_of
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Column, Publication, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

_AS_OF = Column("as_of_date", "DATE", "Business day at whose end this holds.")
_ACCOUNT = Column("account_id", "VARCHAR", "The account.")

ACCOUNTS = Table(
    name="accounts",
    rows_are="account and day",
    columns=(
        _AS_OF,
        _ACCOUNT,
        Column("first_seen_date", "DATE", "Business day on which a record first named it."),
        Column(
            "status",
            "VARCHAR",
            "`trial`, `active` (paid), `canceled`, `lapsed` (not billed again), `expired` (a trial that came to nothing), or `unbilled` "
            "(no turn of a contract is known).",
        ),
        Column("plan", "VARCHAR", "Latest plan named.", nullable=True),
        Column("seats", "BIGINT", "Latest number of seats named.", "seats", nullable=True),
        Column("currency", "VARCHAR", "Currency of the contract.", nullable=True),
        Column(
            "mrr", "DECIMAL(18,2)", "Monthly recurring revenue: price over months; NULL unless active.", "currency", nullable=True
        ),
        Column("billed_since", "DATE", "Business day on which the present contract was first billed.", nullable=True),
        Column("renewals", "BIGINT", "Bills of the present contract after the first.", "bills"),
        Column("paid_through", "DATE", "Last business day that is paid for.", nullable=True),
        Column(
            "ended_on",
            "DATE",
            "Business day on which the contract or trial was cancelled or, not billed (again), had run out.",
            nullable=True,
        ),
    ),
    key=("as_of_date", "account_id"),
    grain="day",
    partition_column="as_of_date",
    publication=Publication(as_view=True),
)

ACCOUNT_MEMBERS = Table(
    name="account_members",
    rows_are="identity of a person who ever named an account, day, and day of receipt",
    columns=(
        _AS_OF,
        Column("identity", "VARCHAR", "Identity as it came with the export.", personal=True),
        Column(
            "received_date",
            "DATE",
            "The day; of namings that were received after it the business day by whose end they had been.",
        ),
        Column("user_id", "VARCHAR", "The person: the identity's customer in the map of the day.", personal=True),
        Column("account_id", "VARCHAR", "The account that the person named last, of what had been received by then."),
        Column("superseded_date", "DATE", "`received_date` of the row that takes its place; NULL for the newest.", nullable=True),
    ),
    key=("as_of_date", "identity", "received_date"),
    grain="day",
    partition_column="as_of_date",
    publication=Publication(as_view=True),
    schema_version=2,
)


def accounts(work: Work) -> Mapping[str, Staged]:
    """Every account that has been named up to the end of the day, and where its contract stands that evening.

    A contract begins with a bill and ends when it is cancelled, or `[subscriptions] grace_days` after the time that was paid for
    when it is not billed again; a bill after its end begins another. Monthly recurring revenue is price over months: an upgrade or
    a downgrade tells a new price for the same length, a bill without a length is for one month. A trial that was not billed
    `[subscriptions] trial_days` after it began has ended on the next day: it is `expired`. A record that names no account
    belongs to the one that its person named last. `account_members` beside it says who belongs to which account: now in the
    rows without a `superseded_date`, and before them as it was known until a late naming came. Nothing that was told before `[business]
    first_day` counts: a company that was billed the month before is `unbilled` until its next bill.

    Read it as the customer list of an evening: who pays how much, until when, and who has left.
    """
    work.read(ACCOUNT_RECORDS, f"event_date <= '{work.window.last_day}'", in_memory=True)
    people_are_accounts = work.settings.accounts.are == "people"
    work.bound_memory()
    staged = {table.name: work.stage(table) for table in (ACCOUNT_MEMBERS, ACCOUNTS)}
    naming = work.connection.sql("SELECT DISTINCT identity FROM account_records WHERE account_id IS NOT NULL").pl()["identity"]
    # Most homes are shops that name no account: they need no map of who is who, and the others one of those who named any.
    days = work.days if people_are_accounts or len(naming) else []
    maps = maps_as_of(work, days, around=None if people_are_accounts else naming) if days else ()
    for day, (who, _) in zip(days, maps, strict=True):
        parameters = parameters_of(work.settings, day, WHENEVER)
        if day == days[0]:
            work.connection.register("first_seen", _first_seen(work, people_are_accounts))
            work.connection.register("namings", work.sql(_HERE / "namings.sql", **parameters).to_arrow_table())
        make_contracts_readable(work.connection, who, parameters)
        make_standing_readable(work.connection, parameters)
        for table in (ACCOUNT_MEMBERS, ACCOUNTS):
            rows = work.rows_of(table, work.sql(_HERE / f"{table.name}.sql", **parameters).order(", ".join(table.key)))
            staged[table.name].append(rows)
    if days:
        statuses = pl.DataFrame(rows)["status"].value_counts()
        work.metadata |= {f"accounts {status}": count for status, count in sorted(statuses.rows())}
    return staged


def _first_seen(work: Work, wanted: bool) -> pa.Table:
    """When each identity was first seen, where that is when an account was."""
    clock = work.platform.clock
    begin = clock.begins(clock.first_day)
    return work.sql(FIRST_SEEN, start_at=begin, end_at=work.window.end if wanted else begin).to_arrow_table()


def accounts_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `accounts`, with `account_members` beside it; filled for all days, since usage of every hour needs it."""
    return table_asset(
        platform,
        (ACCOUNTS, ACCOUNT_MEMBERS),
        accounts,
        needs=[Needs("events", as_of=True, hourly=True)],
        audits=[
            Audit(
                "contracts_are_possible",
                "An account that pays is paid for or within its grace days, one that has ended ended by the day, and only those have an end.",
                """SELECT as_of_date, account_id, status FROM rows
                WHERE (status IN ('canceled', 'lapsed', 'expired')) <> (ended_on IS NOT NULL) OR ended_on > as_of_date
                OR (status IN ('active', 'lapsed')) > (paid_through IS NOT NULL) OR billed_since > as_of_date OR first_seen_date > as_of_date""",
            ),
            Audit(
                "members_belong_to_accounts",
                "Every account that somebody belongs to is in the table.",
                """SELECT m.as_of_date, m.account_id FROM rows_of_account_members AS m
                ANTI JOIN rows AS r ON r.as_of_date = m.as_of_date AND r.account_id = m.account_id""",
            ),
        ],
        settings=("accounts.are", "subscriptions.grace_days", "subscriptions.trial_days", "identity", "business.currency"),
        group="saas",
        fill="all",
        condition=condition,
    )
