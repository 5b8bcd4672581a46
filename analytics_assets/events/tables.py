"""The tables of the events room, from export files to identities."""

from __future__ import annotations

from analytics_assets.warehouse.tables import Column, Publication, Table

_FILE = Column("file", "VARCHAR", "Path of the export file, relative to the export folder.")

RECORDS = Table(
    name="records",
    rows_are="line of the export that could be read, each time it stands there",
    columns=(
        _FILE,
        Column(
            "revision",
            "BIGINT",
            "Number of the export file: files count in this order; NULL for a name without one.",
            nullable=True,
        ),
        Column("line_number", "BIGINT", "Line in the file, from 1."),
        Column("kind", "VARCHAR", "`event`, `set` (properties without an event) or `alias`."),
        Column("record_id", "VARCHAR", "MD5 of the record's meaning: equal for a line that is repeated."),
        Column("identity", "VARCHAR", "Whose record it is, as it came.", personal=True),
        Column("other_identity", "VARCHAR", "The second identity of an alias.", nullable=True, personal=True),
        Column("name", "VARCHAR", "The event's name, lower case.", nullable=True),
        Column("occurred_at", "TIMESTAMPTZ", "When it happened."),
        Column("received_at", "TIMESTAMPTZ", "When it had been received at the latest; unknown without an index.", nullable=True),
        Column("properties", "VARCHAR", "Properties as a JSON object, names lower case.", personal=True),
        Column("system", "VARCHAR", "Other underscore keys as a JSON object.", nullable=True, personal=True),
    ),
    key=("file", "line_number"),
    publication=None,
)

REJECTED_LINES = Table(
    name="rejected_lines",
    rows_are="line that could not be read, each time it stands there",
    columns=(
        _FILE,
        Column("line_number", "BIGINT", "Line in the file, from 1."),
        Column("reason", "VARCHAR", "Why it could not be read."),
        Column("line", "BLOB", "The line as it stands in the file.", personal=True),
    ),
    key=("file", "line_number"),
)

EXPORT_FILES = Table(
    name="export_files",
    rows_are="landed file",
    columns=(
        _FILE,
        Column(
            "revision",
            "BIGINT",
            "Number of the export file: files count in this order; NULL for a name without one.",
            nullable=True,
        ),
        Column("sha256", "VARCHAR", "SHA-256 of the file's bytes."),
        Column("bytes", "BIGINT", "Size of the file.", "bytes"),
        Column("modified_at", "TIMESTAMPTZ", "When the file was last written.", run_dependent=True),
        Column("lines", "BIGINT", "Lines: events + property sets + aliases + repeated + rejected.", "lines"),
        Column("events", "BIGINT", "Events, repeated lines not counted.", "lines"),
        Column("property_sets", "BIGINT", "Property sets, repeated lines not counted.", "lines"),
        Column("aliases", "BIGINT", "Aliases, repeated lines not counted.", "lines"),
        Column("repeated_lines", "BIGINT", "Lines that say what an earlier line said.", "lines"),
        Column("rejected_lines", "BIGINT", "Lines that could not be read.", "lines"),
        Column("first_event_at", "TIMESTAMPTZ", "Earliest time in the file.", nullable=True),
        Column("last_event_at", "TIMESTAMPTZ", "Latest time in the file.", nullable=True),
        Column("received_at", "TIMESTAMPTZ", "End of the file's time of receipt, from the index.", nullable=True),
        Column("loaded_at", "TIMESTAMPTZ", "When the file was loaded.", run_dependent=True),
    ),
    key=("file",),
)

_EVENT_DATE = Column("event_date", "DATE", "Business day of the event.")
_HOUR = Column("hour", "TIMESTAMPTZ", "Instant at which the business hour begins.")
_IDENTITY = Column("identity", "VARCHAR", "Whose it is, as it came with the export.", personal=True)
_WHEN = (
    Column("occurred_at", "TIMESTAMPTZ", "When it happened."),
    Column("occurred_second", "BIGINT", "The same in whole seconds since 1970.", "seconds"),
    Column(
        "received_at",
        "TIMESTAMPTZ",
        "When it had been received at the latest; NULL where the export does not say.",
        nullable=True,
    ),
)
_ACCOUNT = Column("account_id", "VARCHAR", "The account that the record names.", nullable=True)
_ITEM = (
    Column("product_id", "VARCHAR", "Product bought or returned.", nullable=True),
    Column("product_name", "VARCHAR", "Its name.", nullable=True),
    Column("category", "VARCHAR", "Its category, where the export names one.", nullable=True),
    Column("price", "DECIMAL(18,4)", "Price of one.", "currency", nullable=True),
    Column("quantity", "BIGINT", "How many.", "pieces", nullable=True),
)
_PROPERTIES = Column("properties", "VARCHAR", "All properties as a JSON object, names lower case.", personal=True)

EVENTS = Table(
    name="events",
    rows_are="event",
    columns=(
        _EVENT_DATE,
        _HOUR,
        Column("event_id", "VARCHAR", "MD5 of the event's meaning; the export itself has no ids."),
        _IDENTITY,
        Column("name", "VARCHAR", "The event's name, lower case."),
        *_WHEN,
        _ACCOUNT,
        Column("order_kind", "VARCHAR", "`order` or `refund` where the settings say so.", nullable=True),
        Column("order_id", "VARCHAR", "The shop's order number.", nullable=True),
        Column("revenue", "DECIMAL(18,2)", "Amount of the order or refund.", "currency", nullable=True),
        Column("currency", "VARCHAR", "Currency that the event names.", nullable=True),
        *_ITEM,
        Column("feature", "VARCHAR", "Feature of the product that the event says was used.", nullable=True),
        _PROPERTIES,
    ),
    key=("event_id",),
    grain="hour",
    partition_column="event_date",
    publication=Publication(as_view=True),
)

PROPERTY_SETS = Table(
    name="property_sets",
    rows_are="set of properties given to a person without an event",
    columns=(
        _EVENT_DATE,
        _HOUR,
        Column("set_id", "VARCHAR", "MD5 of the set's meaning."),
        _IDENTITY,
        *_WHEN,
        _ACCOUNT,
        Column("item_kind", "VARCHAR", "`order` for a bought item, `refund` for a returned one.", nullable=True),
        *_ITEM,
        _PROPERTIES,
    ),
    key=("set_id",),
    grain="hour",
    partition_column="event_date",
    publication=Publication(as_view=True),
)

ACCOUNT_RECORDS = Table(
    name="account_records",
    rows_are="event or property set that says something of an account",
    columns=(
        _EVENT_DATE,
        _HOUR,
        Column("record_id", "VARCHAR", "MD5 of the record's meaning."),
        _IDENTITY,
        *_WHEN,
        _ACCOUNT,
        Column(
            "kind",
            "VARCHAR",
            "`trial`, `billed`, `upgraded`, `downgraded`, `canceled`, or NULL for a record that tells of the account alone.",
            nullable=True,
        ),
        Column("plan", "VARCHAR", "Plan that the record names.", nullable=True),
        Column("seats", "BIGINT", "Seats that the record names.", "seats", nullable=True),
        Column(
            "amount",
            "DECIMAL(18,2)",
            "Price of the whole time that is paid for; NULL where none up to ten thousand million is said.",
            "currency",
            nullable=True,
        ),
        Column(
            "months", "DECIMAL(9,4)", "Time that is paid for; NULL where none up to ten years is said.", "months", nullable=True
        ),
        Column("currency", "VARCHAR", "Currency that the record names.", nullable=True),
    ),
    key=("record_id",),
    grain="hour",
    partition_column="event_date",
    publication=Publication(as_view=True),
)

IDENTITIES = Table(
    name="identities",
    rows_are="identity and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end the map holds."),
        Column("identity", "VARCHAR", "Identity as it came with the export.", personal=True),
        Column("kind", "VARCHAR", "`named`, `anonymous`, or `blocked` (a word that many people share, such as guest)."),
        Column(
            "customer_id",
            "VARCHAR",
            "The customer: the earliest named identity; NULL for a blocked one.",
            nullable=True,
            personal=True,
        ),
    ),
    key=("as_of_date", "identity"),
    grain="day",
    partition_column="as_of_date",
    publication=Publication(as_view=True),
)

TRAITS = Table(
    name="traits",
    rows_are="identity, business day, trait and value",
    schema_version=2,
    columns=(
        _EVENT_DATE,
        _IDENTITY,
        Column("trait", "VARCHAR", "Name of a property that the settings under `[customers]` keep, lower case."),
        Column("value", "VARCHAR", "A value that it was given on the day.", personal=True),
        Column("first_second", "BIGINT", "When it was first given on the day, in whole seconds since 1970.", "seconds"),
        Column("last_second", "BIGINT", "When it was last given on the day.", "seconds"),
    ),
    key=("event_date", "identity", "trait", "value"),
    grain="day",
    partition_column="event_date",
)
