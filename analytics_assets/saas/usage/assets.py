"""Hourly `account_usage` and daily `account_days`."""

from __future__ import annotations

from analytics_assets.warehouse.tables import Column, Publication, Table

_EVENT_DATE = Column("event_date", "DATE", "Business day of the events.")
_ACCOUNT = Column("account_id", "VARCHAR", "The account of the people, as it was at that time.")
_EVENTS = Column("events", "BIGINT", "What its people did.", "events")
_FEATURES = Column("features_used", "BIGINT", "Different features that they used.", "features")
_SESSIONS = Column(
    "sessions", "BIGINT", "Sessions begun: a person's first event after a pause (`[accounts] session_minutes`).", "sessions"
)

ACCOUNT_USAGE = Table(
    name="account_usage",
    rows_are="account and hour in which it was used",
    columns=(
        _EVENT_DATE,
        Column("hour", "TIMESTAMPTZ", "Instant at which the business hour begins."),
        _ACCOUNT,
        _EVENTS,
        Column("active_users", "BIGINT", "Different people who did something.", "people"),
        _FEATURES,
        _SESSIONS,
        Column("seats", "BIGINT", "Seats that the account had; NULL where none were named.", "seats", nullable=True),
    ),
    key=("hour", "account_id"),
    grain="hour",
    partition_column="event_date",
)

ACCOUNT_DAYS = Table(
    name="account_days",
    rows_are="account, business day, and day on which its events had been received",
    columns=(
        _EVENT_DATE,
        _ACCOUNT,
        Column(
            "received_date",
            "DATE",
            "Business day by whose end the events had been received; that of the event where the export does not say.",
        ),
        _EVENTS,
        Column("active_users", "BIGINT", "Different people who did something.", "people"),
        Column("user_hours", "BIGINT", "Pairs of person and hour with an event.", "hours"),
        _FEATURES,
        _SESSIONS,
    ),
    key=("event_date", "account_id", "received_date"),
    grain="day",
    partition_column="event_date",
    publication=Publication(as_view=True),
)
