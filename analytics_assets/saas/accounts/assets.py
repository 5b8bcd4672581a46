"""Daily `accounts`, with `account_members` beside it."""

from __future__ import annotations

from analytics_assets.warehouse.tables import Column, Publication, Table

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
            "`trial`, `active` (paid), `canceled`, `lapsed` (not billed again), or `unbilled` (no turn of a contract is known).",
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
            "ended_on", "DATE", "Business day on which the contract was cancelled or, not billed again, ran out.", nullable=True
        ),
    ),
    key=("as_of_date", "account_id"),
    grain="day",
    partition_column="as_of_date",
)

ACCOUNT_MEMBERS = Table(
    name="account_members",
    rows_are="identity of a person who ever named an account, and day",
    columns=(
        _AS_OF,
        Column("identity", "VARCHAR", "Identity as it came with the export.", personal=True),
        Column("user_id", "VARCHAR", "The person: the identity's customer in the map of the day.", personal=True),
        Column("account_id", "VARCHAR", "The account that the person named last."),
    ),
    key=("as_of_date", "identity"),
    grain="day",
    partition_column="as_of_date",
    publication=Publication(as_view=True),
)
