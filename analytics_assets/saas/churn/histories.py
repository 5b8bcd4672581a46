"""Point in time within one materialisation: features at a cut-off, labels after it, and the proof that neither knows what it may not.

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
from analytics_assets.saas.accounts.standing import (
    WHENEVER,
    make_contracts_readable,
    make_standing_readable,
    parameters_of,
    people_of,
)
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

    def until(self, cut_off: date) -> date:
        """The last day of the window that begins after a cut-off."""
        return cut_off + timedelta(days=self.horizon_days)

    @property
    def is_absence(self) -> bool:
        """Whether it is true of those to whom nothing happens: accounts churn when their contract ends, customers by not buying."""
        return self.named.absent if self.named else self.kind == "customer"


@dataclass(frozen=True)
class Outcome:
    """Of a cut-off those to whom it happened within the window, and the accounts that stood at its end (empty of customers)."""

    happened: pl.Series
    stood: pl.Series


@dataclass
class _Inputs:
    """What can be read on a connection: what happened by the end of a day, `until`, and had been received by the end of one, `known_by`."""

    connection: Any
    until: date
    known_by: date
    accounts_as_of: date | None = None


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
        self._all = _Inputs(work.connection, last, last)
        self._features: dict[tuple[Kind, date], pl.DataFrame] = {}
        self._true_features: dict[tuple[Kind, date], pl.DataFrame] = {}
        self._outcomes: dict[tuple[Label, date, date], Outcome] = {}
        self._label_seen: set[tuple[Label, date]] = set()

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
        for cut_off in cut_offs:
            if (label.kind, cut_off) not in self._features:
                most = self.work.settings.churn.training_subjects
                self._features[label.kind, cut_off] = self._features_at(label.kind, cut_off, most, self._all)
        if label.named and cut_offs:
            self._register_events(label.named, day)
        for cut_off in cut_offs:
            if (label, cut_off, day) not in self._outcomes:
                self._outcomes[label, cut_off, day] = self._outcome(label, cut_off, day, self._all)
        parts = [self._labelled(label, cut_off, self._outcomes[label, cut_off, day]) for cut_off in cut_offs]
        return pl.concat(parts) if parts else _no_rows(label.kind)

    def _labelled(self, label: Label, cut_off: date, outcome: Outcome) -> pl.DataFrame:
        rows = self._features[label.kind, cut_off]
        if label.kind == "account":
            rows = rows.filter(pl.col("subject_id").is_in(outcome.stood.implode()))
        happened = pl.col("subject_id").is_in(outcome.happened.implode())
        return rows.with_columns(
            kind=pl.lit(label.kind),
            cut_off=pl.lit(cut_off),
            churned=~happened if label.is_absence else happened,
            label_until=pl.lit(label.until(cut_off)),
        )

    def everybody(self, kind: Kind, day: date) -> pl.DataFrame:
        """The features of all subjects at the end of a day, its `cut_off`, in order of `subject_id`: what is scored."""
        if kind not in self.kinds:
            return _no_rows(kind)
        return self._features_at(kind, day, EVERYBODY, self._all).with_columns(cut_off=pl.lit(day))

    def leaks(self, label: Label, day: date, rows: pl.DataFrame) -> pl.DataFrame:
        """What a day's training rows tell and may not know: one row per cut-off and column, with the number of subjects.

        Features are made again from inputs without all that happened, or was received, after the cut-off; labels from inputs without
        what happened outside of their window, or was received after the day; `rows` must say the same. Accounts have a row by what had
        happened by the cut-off, and then nothing has happened to them yet. A window is a whole horizon and has ended. Differences of a
        label count for the column `churned`, or `label NAME` if it is one's own.

        Looks at the oldest cut-off, which has most of a future to leak, and at the newest, of which most was received late and which has
        most of a past. Of several days the labels of a cut-off are looked at as of the first, after which most was received.
        """
        cut_offs = self.cut_offs(label, day) if label.kind in self.kinds else []
        parts = []
        for cut_off in sorted({*cut_offs[:1], *cut_offs[-1:]}):
            of_cut_off = rows.filter(pl.col("cut_off") == cut_off)
            apart = [_differences(of_cut_off, self._features_known(label.kind, cut_off))]
            if (label, cut_off) not in self._label_seen:
                self._label_seen.add((label, cut_off))
                apart.append(self._label_leaks(label, cut_off, day, of_cut_off, has_most_past=cut_off == cut_offs[-1]))
            parts += [
                pl.DataFrame({"column": list(one), "subjects": list(one.values())}).with_columns(cut_off=pl.lit(cut_off))
                for one in apart
            ]
        whole = pl.col("cut_off") + pl.duration(days=label.horizon_days)
        other = rows.filter((pl.col("label_until") > day) | (pl.col("label_until") != whole))
        windows = other.group_by("cut_off").agg(pl.lit("label_until").alias("column"), subjects=pl.len().cast(pl.Int64))
        found = pl.concat([*parts, windows.select("column", "subjects", "cut_off")]).filter(pl.col("subjects") > 0)
        found = found.group_by("column", "cut_off", maintain_order=True).agg(pl.col("subjects").max())
        return found.with_columns(kind=pl.lit(label.kind), as_of_date=pl.lit(day)).select(NO_LEAKS.columns).cast(NO_LEAKS.schema)

    def _features_known(self, kind: Kind, cut_off: date) -> pl.DataFrame:
        """The features of a cut-off, made from inputs that end with it."""
        if (kind, cut_off) not in self._true_features:
            tables = ("orders",) if kind == "customer" else ("account_records", "account_days")
            with engine() as connection:
                known = self._known(tables, connection, cut_off, cut_off)
                most = self.work.settings.churn.training_subjects
                self._true_features[kind, cut_off] = self._features_at(kind, cut_off, most, known)
        return self._true_features[kind, cut_off]

    def _label_leaks(self, label: Label, cut_off: date, day: date, rows: pl.DataFrame, has_most_past: bool) -> dict[str, int]:
        """Of a cut-off's rows: how many labels differ from those of inputs that have the window alone, and how many rows there may not be."""
        until = label.until(cut_off)
        counted = ("label_events",) if label.named else ("orders",) if label.kind == "customer" else ()
        accounts = ("account_records",) if label.kind == "account" else ()
        subjects = self._features_known(label.kind, cut_off)["subject_id"]
        with engine() as connection:
            self._known(counted, connection, until, day, after=cut_off)
            within = self._outcome(label, cut_off, day, self._known(accounts, connection, until, day))
            stood = [within.stood]
            too_early = 0
            if accounts and has_most_past:
                before = self._outcome(label, cut_off, day, self._known((*counted, *accounts), connection, cut_off, day))
                stood.append(before.stood)
                too_early = len(before.happened)
        happened = pl.col("subject_id").is_in(within.happened.implode())
        others = rows.filter(pl.col("churned") == (happened if label.is_absence else ~happened)).height
        expected = [subjects.filter(subjects.is_in(one.implode())) for one in stood] if accounts else [subjects]
        # Who is in no row shows a mistake too: those whom it touches are few.
        made = self._outcomes[label, cut_off, day]
        others = max(others, _apart(made.happened, within.happened), too_early)
        missed = max(_apart(rows["subject_id"], one) for one in expected)
        return {
            f"label {label.named.name}" if label.named else "churned": others,
            "subject_id": max(missed, *(_apart(made.stood, one) for one in stood)),
        }

    def _known(self, tables: Sequence[str], connection: Any, until: date, known_by: date, after: date = date.min) -> _Inputs:
        """Inputs on a connection of their own: what happened after one day and by the end of another, and had been received by a third."""
        for name in tables:
            when, at = ("order_date", "ordered_at") if name == "orders" else ("event_date", "occurred_at")
            received = (
                "received_date <= $known_by" if name == "account_days" else f"coalesce(received_at, {at}) < $received_before"
            )
            query = f"SELECT * FROM {name} WHERE {when} > $after AND {when} <= $until AND {received}"
            parameters = {"after": after, "until": until, "known_by": known_by, "received_before": self.end_of(known_by)}
            used = {key: value for key, value in parameters.items() if f"${key}" in query}
            connection.register(name, self.work.connection.sql(query, params=used).to_arrow_table())
        return _Inputs(connection, until, known_by)

    def _map_of(self, kind: Kind, day: date) -> pl.DataFrame:
        """The map of a day, of those who ever named an account or ordered and of whoever is joined to them; only named customers."""
        if kind not in self._people:
            asked = {
                "customer": "SELECT DISTINCT identity FROM orders",
                "account": "SELECT DISTINCT identity FROM account_records WHERE account_id IS NOT NULL OR $people_are_accounts",
            }[kind]
            parameters = {"people_are_accounts": self.people_are_accounts} if kind == "account" else None
            around = self.work.connection.sql(asked, params=parameters).pl()["identity"]
            self._people[kind] = people_until(self.work, self.work.window.last_day, around)
        return self._map_as_of(kind, day)

    def _map_as_of(self, kind: Kind, day: date) -> pl.DataFrame:
        rows, _ = self._people[kind].as_of(self.end_of(day))
        return _named(rows) if kind == "customer" else rows

    def _map_for(self, kind: Kind, day: date, inputs: _Inputs) -> pl.DataFrame:
        """The map of a day; what leaks are told by makes it again, and no later one than is known, so that a map of another day shows."""
        if inputs is self._all:
            return self._map(kind, day)
        return self._map_as_of(kind, min(day, inputs.known_by))

    def _features_at(self, kind: Kind, cut_off: date, most: int, inputs: _Inputs) -> pl.DataFrame:
        connection = inputs.connection
        if kind == "account":
            make_standing_readable(connection, self._register_accounts(cut_off, inputs))
            if cut_off - timedelta(days=USAGE_DAYS) < self._usage_since:
                # A refit that stands in may be older than the anchors of most days.
                self._read_usage_since(cut_off - timedelta(days=USAGE_DAYS + 365))
        else:
            self._register_customers("customers_then", cut_off, inputs)
        parameters = {
            "cut_off": cut_off, "end_at": self.end_of(cut_off), "most": most, "people_are_accounts": self.people_are_accounts,
        }  # fmt: skip
        file = ACCOUNT_FEATURES if kind == "account" else CUSTOMER_FEATURES
        rows = run(connection, file, parameters).pl()
        # Arrow carries what SUM makes of integers as decimals.
        typed = _no_rows(kind).select("subject_id", *(column.name for column in COLUMNS[kind])).schema
        return rows.select(pl.col(name).cast(kind_of) for name, kind_of in typed.items()).sort("subject_id")

    def _register_customers(self, name: str, day: date, inputs: _Inputs) -> None:
        inputs.connection.register(name, self._map_for("customer", day, inputs).to_arrow())

    def _register_accounts(self, day: date, inputs: _Inputs) -> dict[str, Any]:
        """Make readable what `standing.py` says of contracts as known at the end of a day; the parameters that say so."""
        parameters = parameters_of(self.work.settings, min(day, inputs.until), self.end_of(min(day, inputs.known_by)))
        if inputs.accounts_as_of != day:
            inputs.connection.register("first_seen", _NOBODY_SEEN.to_arrow())
            make_contracts_readable(inputs.connection, self._map_for("account", day, inputs), parameters)
            inputs.accounts_as_of = day
        return parameters

    def contracts(self, day: date) -> pl.DataFrame:
        """All paid contracts as known at the end of a day: `account_id`, `months`, `bills`, `ended_on` and `currency`."""
        self._register_accounts(day, self._all)
        return self.work.connection.sql(
            "SELECT account_id, months, renewals + 1 AS bills, ended_on, currency FROM contracts"
        ).pl()

    def _outcome(self, label: Label, cut_off: date, day: date, inputs: _Inputs) -> Outcome:
        """What became of the subjects of a cut-off within the window, as known at the end of a day."""
        if label.kind == "customer":
            self._register_customers("customers_then", cut_off, inputs)
            self._register_customers("customers_later", day, inputs)
        else:
            self._register_accounts(day, inputs)
        parameters = {
            "cut_off": cut_off,
            "label_until": label.until(cut_off),
            "known_before": self.end_of(day),
            "people_are_accounts": self.people_are_accounts,
        }
        file = _HERE / f"{label.kind}_{'events' if label.named else 'labels'}.sql"
        happened = run(inputs.connection, file, parameters).pl().to_series()
        if label.kind == "customer":
            return Outcome(happened, pl.Series(dtype=pl.String))
        stood = run(inputs.connection, _HERE / "account_stood.sql", parameters).pl().to_series()
        if self.people_are_accounts:
            then = self._subjects_of_people(cut_off, inputs)
            happened, stood = (
                then.filter(pl.col("account_id").is_in(accounts.implode()))["subject_id"].unique()
                for accounts in (happened, stood)
            )
        return Outcome(happened, stood)

    def _subjects_of_people(self, cut_off: date, inputs: _Inputs) -> pl.DataFrame:
        """The `subject_id` that people had at a cut-off, by their `account_id` of later: of one that several had been by then, each."""
        then = people_of(
            inputs.connection, self._map_for("account", cut_off, inputs), parameters_of(self.work.settings, cut_off, WHENEVER)
        )
        later = inputs.connection.sql("SELECT identity, user_id AS account_id FROM people").pl()
        return pl.DataFrame(then).select("identity", subject_id="user_id").join(later, on="identity").drop("identity").unique()

    def _register_events(self, named: TrainingSet, day: date) -> None:
        self.work.read(EVENTS, f"event_date <= '{self.work.window.last_day}'")
        self.work.connection.register("named_events", pl.DataFrame({"name": named.events}).to_arrow())
        self.work.connection.register("label_events", self.work.sql(_HERE / "label_events.sql", as_of=day).to_arrow_table())


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


def _differences(rows: pl.DataFrame, truth: pl.DataFrame) -> dict[str, int]:
    """For how many subjects of training rows each feature differs from the truth, and how many it does not have."""
    both = rows.join(truth, on="subject_id", how="inner", suffix="_known")
    apart = both.select(pl.col(name).ne_missing(pl.col(f"{name}_known")).sum() for name in truth.columns[1:]).row(0, named=True)
    return {"subject_id": rows.height - both.height, **apart}


def _apart(found: pl.Series, truth: pl.Series) -> int:
    """How many subjects one of two sets lacks."""
    return len({*found} ^ {*truth})
