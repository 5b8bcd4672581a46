"""Where accounts stand at the end of a day: their turns, contracts and trials, made readable on a connection."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from analytics_assets.settings import Settings
from analytics_assets.warehouse.engine import run

_HERE = Path(__file__).parent
WHENEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""Receipt before this instant: of all records."""


def parameters_of(settings: Settings, day: date, known_before: datetime) -> dict[str, Any]:
    """What the `.sql` files of this folder ask for, as of the end of a day and of what had been received before an instant."""
    return {
        "as_of": day,
        "known_before": known_before,
        "time_zone": settings.business.time_zone,
        "currency": settings.business.currency,
        "blocked": list(settings.identity.blocked),
        "fold_email_case": settings.identity.fold_email_case,
        "grace_days": settings.subscriptions.grace_days,
        "trial_days": settings.subscriptions.trial_days,
        "people_are_accounts": settings.accounts.are == "people",
    }


def people_of(connection: Any, who: pl.DataFrame, parameters: dict[str, Any]) -> pa.Table:
    """The rows of `people.sql`, of what `make_contracts_readable` takes."""
    connection.register("identities", who.with_columns(as_of_date=pl.lit(parameters["as_of"])).to_arrow())
    return run(connection, _HERE / "people.sql", parameters).to_arrow_table()


def make_contracts_readable(connection: Any, who: pl.DataFrame, parameters: dict[str, Any]) -> None:
    """Register `people`, `told`, `contracts` and `trials` of a day, as the files of these names say.

    Args:
        connection: where `account_records` and `first_seen` can be read.
        who: the day's map: `identity`, `kind`, `customer_id`.
        parameters: as `parameters_of` makes them.
    """
    connection.register("people", people_of(connection, who, parameters))
    _register(connection, parameters, "told", "contracts", "trials")


def make_standing_readable(connection: Any, parameters: dict[str, Any]) -> None:
    """Register `standing` of a day, as the file of this name says, where its contracts are readable."""
    _register(connection, parameters, "standing")


def _register(connection: Any, parameters: dict[str, Any], *names: str) -> None:
    for name in names:
        connection.register(name, run(connection, _HERE / f"{name}.sql", parameters).to_arrow_table())
