"""Point in time within one materialisation: features at a cut-off, labels after it, and the proof that the one knows nothing of the other.

Features of a cut-off use what had happened, and had been received, by its end; identities are those known then. Labels are what had
been received by the end of the day that asks (`as_of_date`), which is not before the end of their window; so are their identities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from analytics_assets.events.identities import People, people_until
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.saas.accounts.standing import WHENEVER, make_readable, parameters_of, people_of
from analytics_assets.saas.churn.backtest import ANCHORS, step_days, training_cut_offs
from analytics_assets.saas.churn.features import COLUMNS, Driver, Kind, account_drivers, customer_drivers
from analytics_assets.saas.usage.assets import ACCOUNT_DAYS
from analytics_assets.settings import TrainingSet
from analytics_assets.warehouse.engine import engine, run
from analytics_assets.warehouse.work import Work

_HERE = Path(__file__).parent
ACCOUNT_FEATURES, CUSTOMER_FEATURES = _HERE / "account_features.sql", _HERE / "customer_features.sql"

CUT_OFFS = 12
"""Cut-offs of a training set: four horizons and two thirds, enough for three tests whose windows do not overlap."""
USAGE_DAYS = 56
EVERYBODY = 2**62
_NOBODY_SEEN = pl.DataFrame(schema={"identity": pl.String, "first_seen_at": pl.Datetime("us", "UTC")})
NO_LEAKS = pl.DataFrame(
    schema={"column": pl.String, "subjects": pl.Int64, "cut_off": pl.Date, "kind": pl.String, "as_of_date": pl.Date}
)


@dataclass(frozen=True)
class Label:
    """What is to be foreseen: churn of a kind, or a label of one's own (`named`)."""

    kind: Kind
    horizon_days: int
    named: TrainingSet | None = None


class Histories:
    """What happened to accounts and customers up to the window's last day, read once; features and labels of any cut-off before."""

    def __init__(self, work: Work) -> None:
        """Read the inputs; nothing is computed yet."""
        self.work = work
        churn = work.settings.churn
        last = work.window.last_day
        horizon = max(
            churn.account_horizon_days, *(s.horizon_days for s in work.settings.training_sets if s.subjects == "accounts"), 0
        )
        work.read(ORDERS, f"order_date <= '{last}'", in_memory=True)
        work.read(ACCOUNT_RECORDS, f"event_date <= '{last}'", in_memory=True)
        # Anchors lie a horizon, a step and three months back, their oldest cut-off a horizon and all steps before that.
        self._read_usage_since(
            work.window.first_day - timedelta(days=2 * horizon + (CUT_OFFS + 1) * step_days(horizon) + 31 * ANCHORS + USAGE_DAYS)
        )
        self.people_are_accounts = work.settings.accounts.are == "people"
        # A shop has no accounts and most SaaS companies no orders: what a home lacks costs nothing.
        tables: dict[Kind, str] = {"account": "account_records", "customer": "orders"}
        self.kinds = [kind for kind, table in tables.items() if work.connection.sql(f"FROM {table} LIMIT 1").fetchall()]
        self._people: dict[Kind, People] = {}
        # Days ask for the maps of the same cut-offs.
        self._map = lru_cache(CUT_OFFS + 1)(self._map_of)
        self._accounts_of: date | None = None
        self._features: dict[tuple[Kind, date], pl.DataFrame] = {}
        self._leaks: dict[tuple[Kind, date], pl.DataFrame] = {}
        self._labels: dict[tuple[Label, date, date], pl.DataFrame] = {}

    def _read_usage_since(self, day: date) -> None:
        self._usage_since, last = day, self.work.window.last_day
        self.work.read(ACCOUNT_DAYS, f"event_date >= '{day}' AND event_date <= '{last}'", in_memory=True)

    def churn(self, kind: Kind) -> Label:
        """Churn of a kind, as the settings have it."""
        churn = self.work.settings.churn
        return Label(kind, churn.account_horizon_days if kind == "account" else churn.customer_horizon_days)

    def drivers(self, label: Label) -> tuple[Driver, ...]:
        """What models take of a row."""
        grace = self.work.settings.subscriptions.grace_days
        return account_drivers(label.horizon_days, grace) if label.kind == "account" else customer_drivers()

    def cut_offs(self, label: Label, day: date) -> list[date]:
        """The cut-offs of the training set of a day."""
        return training_cut_offs(day, label.horizon_days, self.work.platform.clock.first_day, CUT_OFFS)

    def end_of(self, day: date) -> datetime:
        """The instant at which a business day ends."""
        return self.work.platform.clock.begins(day + timedelta(days=1))

    def training_rows(self, label: Label, day: date) -> pl.DataFrame:
        """The training set as of the end of a day: `kind`, `cut_off`, `subject_id`, `churned`, `label_until` and the features.

        `churned` is the label. At most `[churn] training_subjects` subjects a cut-off, the same ones every day, without the accounts
        that are known by now to have ended by the cut-off.
        """
        cut_offs = self.cut_offs(label, day) if label.kind in self.kinds else []
        self._compute(label.kind, [cut_off for cut_off in cut_offs if (label.kind, cut_off) not in self._features])
        self._label(label, [cut_off for cut_off in cut_offs if (label, cut_off, day) not in self._labels], day)
        parts = [
            self._features[label.kind, cut_off]
            .join(
                self._labels[label, cut_off, day],
                on="subject_id",
                how="left" if label.kind == "customer" else "inner",
                maintain_order="left",
            )
            .with_columns(
                kind=pl.lit(label.kind),
                cut_off=pl.lit(cut_off),
                churned=self._is_churn(label),
                label_until=pl.lit(cut_off + timedelta(days=label.horizon_days)),
            )
            .drop("there")
            for cut_off in cut_offs
        ]
        return pl.concat(parts) if parts else _no_rows(label.kind)

    def everybody(self, kind: Kind, day: date) -> pl.DataFrame:
        """The features of all subjects at the end of a day, its `cut_off`, in order of `subject_id`: what is scored."""
        if kind not in self.kinds:
            return _no_rows(kind)
        return self._features_at(kind, day, EVERYBODY).with_columns(cut_off=pl.lit(day))

    def leaks(self, label: Label, day: date) -> pl.DataFrame:
        """Features that are not the same when everything after the cut-off, or received after it, is taken from the inputs first.

        One row per cut-off and column, with the number of subjects. Looks at the oldest and the newest cut-off of the day's
        training set, all of its subjects: the oldest has most of a future to leak.
        """
        cut_offs = self.cut_offs(label, day) if label.kind in self.kinds else []
        found = [
            self._leaks_at(label.kind, cut_off).with_columns(
                cut_off=pl.lit(cut_off), kind=pl.lit(label.kind), as_of_date=pl.lit(day)
            ).cast(NO_LEAKS.schema)
            for cut_off in sorted({*cut_offs[:1], *cut_offs[-1:]})
        ]  # fmt: skip
        return pl.concat([NO_LEAKS, *found])

    def _leaks_at(self, kind: Kind, cut_off: date) -> pl.DataFrame:
        if (kind, cut_off) not in self._leaks:
            with engine() as known:
                for name, when in (("orders", "order_date"), ("account_records", "event_date"), ("account_days", "event_date")):
                    by_then = (
                        "received_date <= $day" if name == "account_days"
                        else f"coalesce(received_at, {'ordered_at' if name == 'orders' else 'occurred_at'}) < $end_at"
                    )  # fmt: skip
                    query = f"SELECT * FROM {name} WHERE {when} <= $day AND {by_then}"
                    parameters = {"day": cut_off, "end_at": self.end_of(cut_off)}
                    used = {key: value for key, value in parameters.items() if f"${key}" in query}
                    known.register(name, self.work.connection.sql(query, params=used).to_arrow_table())
                truth = self._features_at(kind, cut_off, self.work.settings.churn.training_subjects, known)
            self._leaks[kind, cut_off] = _differences(self._features[kind, cut_off], truth)
        return self._leaks[kind, cut_off]

    def _map_of(self, kind: Kind, day: date) -> pl.DataFrame:
        """The map of a day, of those who ever named an account or ordered and of whoever is joined to them."""
        if kind not in self._people:
            asked = {
                "customer": "SELECT DISTINCT identity FROM orders",
                "account": "SELECT DISTINCT identity FROM account_records WHERE account_id IS NOT NULL OR $people_are_accounts",
            }[kind]
            parameters = {"people_are_accounts": self.people_are_accounts} if kind == "account" else None
            around = self.work.connection.sql(asked, params=parameters).pl()["identity"]
            self._people[kind] = people_until(self.work, self.work.window.last_day, around)
        rows, _ = self._people[kind].as_of(self.end_of(day))
        return rows

    def _compute(self, kind: Kind, cut_offs: Sequence[date]) -> None:
        for cut_off in cut_offs:
            self._features[kind, cut_off] = self._features_at(kind, cut_off, self.work.settings.churn.training_subjects)

    def _register(self, kind: Kind, day: date, connection: Any = None) -> None:
        """Make the map of a day, and what else features are made of, readable; of customers those with a named identity."""
        if kind == "account":
            self._register_accounts(day, connection)
        else:
            named = _named(self._map_for("customer", day, connection))
            (connection or self.work.connection).register("customers_then", named.to_arrow())

    def _map_for(self, kind: Kind, day: date, connection: Any = None) -> pl.DataFrame:
        """The map of a day; what leaks are told by (a connection of its own) makes it again, so that a map of another day shows."""
        known = self._map(kind, day)
        return known if connection is None else self._people[kind].as_of(self.end_of(day))[0]

    def _features_at(self, kind: Kind, cut_off: date, most: int, connection: Any = None) -> pl.DataFrame:
        self._register(kind, cut_off, connection)
        if kind == "account" and cut_off - timedelta(days=USAGE_DAYS) < self._usage_since:
            # A refit that stands in may be older than the anchors of most days.
            self._read_usage_since(cut_off - timedelta(days=USAGE_DAYS + 365))
        connection = connection or self.work.connection
        parameters = {
            "cut_off": cut_off, "end_at": self.end_of(cut_off), "most": most, "people_are_accounts": self.people_are_accounts,
        }  # fmt: skip
        file = ACCOUNT_FEATURES if kind == "account" else CUSTOMER_FEATURES
        rows = run(connection, file, parameters).pl()
        # Arrow carries what SUM makes of integers as decimals.
        typed = _no_rows(kind).select("subject_id", *(column.name for column in COLUMNS[kind])).schema
        return rows.select(pl.col(name).cast(kind_of) for name, kind_of in typed.items()).sort("subject_id")

    def _register_accounts(self, day: date, connection: Any = None) -> None:
        """Make readable what `standing.py` says of accounts as known at the end of a day."""
        if connection is None and self._accounts_of == day:
            return
        who = self._map_for("account", day, connection)
        if connection is None:
            connection, self._accounts_of = self.work.connection, day
        connection.register("first_seen", _NOBODY_SEEN.to_arrow())
        parameters = parameters_of(self.work.settings, day, self.end_of(day))
        make_readable(connection, who, parameters)

    def contracts(self, day: date) -> pl.DataFrame:
        """All paid contracts as known at the end of a day: `account_id`, `months`, `bills` and `ended_on`."""
        self._register_accounts(day)
        return self.work.connection.sql("SELECT account_id, months, renewals + 1 AS bills, ended_on FROM contracts").pl()

    def _label(self, label: Label, cut_offs: Sequence[date], day: date) -> None:
        if not cut_offs:
            return
        if label.kind == "customer":
            self.work.connection.register("customers_later", _named(self._map("customer", day)).to_arrow())
        else:
            self._register_accounts(day)
        if label.named:
            self._register_events(label.named, day)
        file = _HERE / f"{label.kind}_{'events' if label.named else 'labels'}.sql"
        for cut_off in cut_offs:
            if label.kind == "customer":
                self._register(label.kind, cut_off)
            until = cut_off + timedelta(days=label.horizon_days)
            rows = self.work.sql(
                file,
                cut_off=cut_off,
                label_until=until,
                known_before=self.end_of(day),
                people_are_accounts=self.people_are_accounts,
            ).pl()
            there = (rows if label.kind == "customer" else self._as_of_cut_off(rows, cut_off)).with_columns(there=pl.lit(True))
            if label.kind == "account":
                stood = self.work.sql(_HERE / "account_stood.sql", cut_off=cut_off).pl()
                there = self._as_of_cut_off(stood, cut_off).join(there, on="subject_id", how="left")
            self._labels[label, cut_off, day] = there

    def _as_of_cut_off(self, accounts: pl.DataFrame, cut_off: date) -> pl.DataFrame:
        """Accounts as the `subject_id` that they had at a cut-off: of a person that several had been by then, each."""
        if not self.people_are_accounts:
            return accounts.rename({"account_id": "subject_id"})
        then = people_of(
            self.work.connection, self._map("account", cut_off), parameters_of(self.work.settings, cut_off, WHENEVER)
        )
        later = self.work.connection.sql("SELECT identity, user_id AS account_id FROM people").pl()
        renamed = pl.DataFrame(then).select("identity", subject_id="user_id").join(later, on="identity")
        return renamed.join(accounts, on="account_id", how="semi").select("subject_id").unique()

    def _register_events(self, named: TrainingSet, day: date) -> None:
        self.work.read(EVENTS, f"event_date <= '{self.work.window.last_day}'")
        self.work.connection.register("named_events", pl.DataFrame({"name": named.events}).to_arrow())
        self.work.connection.register("label_events", self.work.sql(_HERE / "label_events.sql", as_of=day).to_arrow_table())

    def _is_churn(self, label: Label) -> pl.Expr:
        """Accounts churn when something happens (their contract ends), customers when nothing does (no purchase)."""
        there = pl.col("there").fill_null(False)
        absent = label.named.absent if label.named else label.kind == "customer"
        return ~there if absent else there


def _named(who: pl.DataFrame) -> pl.DataFrame:
    """The identities of customers with at least one named identity."""
    named = pl.col("customer_id").is_in(pl.col("customer_id").filter(pl.col("kind") == "named").implode())
    return who.filter(named).select("identity", "customer_id")


_TYPES: dict[str, Any] = {"BIGINT": pl.Int64, "DOUBLE": pl.Float64, "VARCHAR": pl.String, "DECIMAL(18,2)": pl.Decimal(18, 2)}


def _no_rows(kind: Kind) -> pl.DataFrame:
    features = {column.name: _TYPES[column.type] for column in COLUMNS[kind]}
    return pl.DataFrame(
        schema={
            "subject_id": pl.String,
            **features,
            "kind": pl.String,
            "cut_off": pl.Date,
            "churned": pl.Boolean,
            "label_until": pl.Date,
        }
    )


def _differences(found: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Columns in which two sets of features differ, and for how many subjects; a subject of one side only counts in `subject_id`."""
    both = found.join(truth, on="subject_id", how="full", suffix="_known")
    apart = {"subject_id": both.select(pl.col("subject_id").is_null() | pl.col("subject_id_known").is_null()).to_series().sum()}
    inside = both.filter(pl.col("subject_id").is_not_null() & pl.col("subject_id_known").is_not_null())
    for name in found.columns[1:]:
        apart[name] = inside.select(pl.col(name).ne_missing(pl.col(f"{name}_known")).sum()).item()
    return pl.DataFrame({"column": list(apart), "subjects": list(apart.values())}).filter(pl.col("subjects") > 0)
