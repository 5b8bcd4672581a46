"""Hourly events: the records of an hour, each once, with the properties that the settings name as columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa

from analytics_assets.events.kissmetrics_line import json_text
from analytics_assets.events.loading import hours_in
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, EXPORT_FILES, PROPERTY_SETS, RECORDS
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.incomplete import INCOMPLETE_HOURS
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent


def events(work: Work) -> Mapping[str, pa.Table]:
    """What people did, hour by hour: one row per event.

    A line that the export repeats counts once. Events keep the identity that they came with; who that is, is the business
    of `identities`. The properties that the settings name (order id, revenue, product, ...) stand in columns of their own.
    Property sets that came without an event (item lines of orders among them) stand beside it in `property_sets`, and what
    both say of accounts and their contracts in `account_records`. A word of `[identity] blocked`, such as null, names
    no account.

    Read it as the log that every other number is computed from: if a figure looks wrong, look here first.
    """
    # Before the records are read: what is said here to have been received is among them.
    incomplete = _incomplete_hours(work)
    rows = rows_between(work, work.window.start, work.window.end)
    return rows | {ACCOUNT_RECORDS.name: _account_records(work, rows), INCOMPLETE_HOURS.name: incomplete}


def _incomplete_hours(work: Work) -> pa.Table:
    """Hours of the window that are not in yet."""
    work.read(EXPORT_FILES)
    (through,) = work.connection.sql("SELECT max(coalesce(received_at, last_event_at)) FROM export_files").fetchall()[0]
    clock, start = work.platform.clock, work.window.start
    if through:
        start = max(start, hours_in(work.platform, through))
    rows = [
        {"event_date": clock.day_of(hour), "hour": hour, "received_until": through}
        for hour in clock.hour_keys(start, work.window.end)
    ]
    return pa.Table.from_pylist(rows, schema=INCOMPLETE_HOURS.arrow_schema())


def rows_between(work: Work, start: datetime, end: datetime) -> dict[str, pa.Table]:
    """Events and property sets that occurred from `start` to `end`, straight from the landed records, by table name."""
    work.read(RECORDS, f"occurred_at >= '{start.isoformat()}' AND occurred_at < '{end.isoformat()}'")
    work.connection.execute((_HERE / "amounts.duckdb.sql").read_text(encoding="utf-8"))
    names = work.settings.properties
    parameters = {
        "start_at": start,
        "end_at": end,
        "time_zone": work.settings.business.time_zone,
        "purchase": list(work.settings.events.purchase),
        "refund": list(work.settings.events.refund),
        "blocked": list(work.settings.identity.blocked),
        "any_product_id": json_paths(names.returned_product_id + names.purchased_product_id),
        "any_product_name": json_paths(names.returned_product_name + names.purchased_product_name),
        **{name: json_paths(value) for name, value in names},
    }
    return {
        table.name: work.rows_of(table, work.sql(_HERE / f"{table.name}.duckdb.sql", **parameters))
        for table in (EVENTS, PROPERTY_SETS)
    }


def _account_records(work: Work, rows: Mapping[str, pa.Table]) -> pa.Table:
    """What events and property sets say of accounts."""
    for table in (EVENTS, PROPERTY_SETS):
        work.connection.register(f"new_{table.name}", rows[table.name])
    names, turns = work.settings.properties, work.settings.subscriptions
    found = work.sql(
        _HERE / "account_records.duckdb.sql",
        trial=list(turns.trial),
        billed=list(turns.billed),
        upgraded=list(turns.upgraded),
        downgraded=list(turns.downgraded),
        canceled=list(turns.canceled),
        plan_or_seats=_any_key(names.plan + names.seats),
        **{name: json_paths(value) for name, value in names},
    )
    return work.rows_of(ACCOUNT_RECORDS, found)


def _any_key(names: tuple[str, ...]) -> str:
    """A regular expression that is found in JSON texts with one of these keys, and in few others: a look before parsing."""
    keys = (re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", json_text(name)) for name in names)
    return f"(?:{'|'.join(keys)}):" if names else "^$"


def json_paths(names: tuple[str, ...]) -> list[str]:
    """JSON paths of properties, since a property's name may begin with `$` or `/`, which would be read as a path."""
    return ['$."' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names]


def events_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The hourly asset `events`, with `property_sets`, `account_records` and `incomplete_hours` beside it."""
    return table_asset(
        platform,
        (EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS, INCOMPLETE_HOURS),
        events,
        extra_deps=[dg.AssetDep("raw_event_hours")],
        audits=[
            Audit(
                "orders_have_amounts",
                "Fewer than half of the purchases and refunds lack a readable amount; else `revenue` under [properties] names another property.",
                """SELECT name, count(*) AS events FROM rows WHERE order_kind IS NOT NULL GROUP BY name
                HAVING count(*) >= 20 AND count(revenue) * 2 < count(*)""",
            )
        ],
        warnings=[
            Audit(
                "hours_were_in",
                "The export had been received past the end of the hours. Else they were taken with what there was, since the night "
                "waits until `[operations] night_starts_by` only; they are computed again when they are in.",
                """SELECT count(*) || ' hours were computed before they were in, the first ' || min(hour) || '; received until ' ||
                coalesce(CAST(min(received_until) AS VARCHAR), 'never') AS found FROM rows_of_incomplete_hours HAVING count(*) > 0""",
            )
        ],
        settings=("events", "properties", "subscriptions", "identity.blocked"),
        group="events",
        condition=condition,
    )
