"""A company in a lake of its own: written accounts and orders, or simulated ones with planted reasons to leave."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.identities import identities
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, IDENTITIES, RECORDS
from analytics_assets.home import Home
from analytics_assets.operations.automation import when_inputs_changed
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.saas.churn.assets import churn_assets
from analytics_assets.saas.churn.churn_models import churn_models
from analytics_assets.saas.churn.churn_scores import churn_scores
from analytics_assets.saas.churn.tables import CHURN_BACKTESTS, CHURN_MODELS, CHURN_SCORES, CHURN_TRAINING_SET
from analytics_assets.saas.churn.training_sets import churn_training_set
from analytics_assets.saas.usage.assets import ACCOUNT_DAYS
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work


def noon(day: date) -> datetime:
    """Noon of a day in UTC."""
    return datetime.combine(day, time(12), UTC)


@dataclass
class Company:
    """What accounts and customers did, written down one by one or as frames; `write` puts it into the lake."""

    folder: Path
    settings: str = ""
    first_day: date = date(2025, 1, 1)
    time_zone: str = "UTC"
    orders: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    account_records: list[dict[str, Any]] = field(default_factory=list)
    account_days: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        """The company's platform."""
        text = (
            f'[business]\ntime_zone = "{self.time_zone}"\ncurrency = "GBP"\nfirst_day = {self.first_day}\nlast_day = 2030-12-31\n'
        )
        return Platform(parse_settings(text + self.settings, "x"), Home(self.folder))

    def bought(self, who: str, day: date, amount: Any, received: date | None = None, currency: str = "GBP") -> None:
        """One order; a negative amount is a refund."""
        number = len(self.orders)
        self.orders.append({
            "order_date": day, "event_id": f"e{number}", "order_id": f"o{number}", "identity": who, "currency": currency,
            "kind": "refund" if Decimal(str(amount)) < 0 else "order", "net_revenue": Decimal(str(amount)),
            "ordered_at": noon(day), "received_at": noon(received) if received else None, "item_lines": 0, "units": 0,
        })  # fmt: skip
        self.seen(who, day)

    def told(
        self, who: str, account: str | None, day: date, kind: str | None = None, received: date | None = None, **more: Any
    ) -> None:
        """A record of an account."""
        self.account_records.append({
            "event_date": day, "hour": noon(day), "record_id": f"r{len(self.account_records)}", "identity": who,
            "occurred_at": noon(day), "occurred_second": int(noon(day).timestamp()) + len(self.account_records),
            "received_at": noon(received) if received else None, "account_id": account, "kind": kind, **more,
        })  # fmt: skip
        self.seen(who, day)

    def used(self, account: str, day: date, events: int, received: date | None = None, users: int = 1) -> None:
        """A day on which an account was used."""
        self.account_days.append({
            "event_date": day, "account_id": account, "received_date": received or day, "events": events, "active_users": users,
            "user_hours": users, "features_used": 1, "sessions": 1,
        })  # fmt: skip

    def did(self, who: str, name: str, day: date, account: str | None = None, received: date | None = None) -> None:
        """One event."""
        self.events.append({
            "event_date": day, "hour": noon(day), "event_id": f"d{len(self.events)}", "identity": who, "name": name,
            "occurred_at": noon(day), "occurred_second": int(noon(day).timestamp()), "account_id": account,
            "received_at": noon(received) if received else None, "properties": "{}",
        })  # fmt: skip
        self.seen(who, day)

    def seen(self, who: str, day: date) -> None:
        """An identity is known from this day on."""
        self._record("event", who, None, day)

    def alias(self, one: str, other: str, day: date) -> None:
        """Two identities are known to be one person from this day on."""
        self._record("alias", one, other, day)

    def _record(self, kind: str, identity: str, other: str | None, day: date) -> None:
        number = len(self.records)
        self.records.append({
            "file": "1.json", "line_number": number, "kind": kind, "record_id": str(number), "identity": identity,
            "other_identity": other, "occurred_at": noon(day), "properties": "{}",
        })  # fmt: skip

    def write(self, first: date, last: date) -> None:
        """Write the inputs of the churn room for these days."""
        for table, rows in (
            (RECORDS, self.records), (ORDERS, self.orders), (ACCOUNT_RECORDS, self.account_records),
            (ACCOUNT_DAYS, self.account_days), (EVENTS, self.events),
        ):  # fmt: skip
            self.put(table, rows)
        self.put(IDENTITIES, self.compute(identities, first, last)[IDENTITIES.name])

    def put(self, table: Table, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Replace a table."""
        if isinstance(rows, list):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            rows = pa.Table.from_pylist(full, schema=table.arrow_schema())
        self.platform.lake.replace(table, rows, None, {})

    def compute(self, function: Callable[[Work], Any], first: date, last: date | None = None) -> Any:
        """What a function of a materialisation returns for a range of days."""
        last = last or first
        with engine() as connection:
            clock = self.platform.clock
            window = Window(first, last, clock.begins(first), clock.begins(last + timedelta(days=1)))
            return function(Work(self.platform, window, connection, logging.getLogger(__name__)))

    def catch_up(self, first: date, last: date | None = None) -> dict[str, pl.DataFrame]:
        """Training sets, models and scores of a range of days, each written to the lake."""
        found: dict[str, pl.DataFrame] = {}
        for function in (churn_training_set, churn_models, churn_scores):
            for name, rows in self.compute(function, first, last).items():
                found[name] = pl.DataFrame(rows)
                table = (
                    next(t for t in (CHURN_TRAINING_SET, CHURN_MODELS, CHURN_BACKTESTS, CHURN_SCORES) if t.name == name)
                    if name != "churn_outcomes"
                    else None
                )
                if table:
                    self.put(table, rows)
        return found

    def materialize(
        self, asset: str, day: date, instance: dg.DagsterInstance, last: date | None = None
    ) -> dg.ExecuteInProcessResult:
        """Run one asset through Dagster for a range of days, its inputs marked as there."""
        last = last or day
        platform = self.platform
        upstream = [
            dg.AssetSpec(name, partitions_def=platform.clock.hours if name == "events" else platform.clock.days)
            for name in ("orders", "account_days", "identities", "events")
        ]
        definitions = dg.Definitions(
            assets=[*upstream, *churn_assets(platform, when_inputs_changed(), when_inputs_changed())],
            executor=dg.in_process_executor,
        )
        for spec in upstream:
            end = platform.clock.begins(last + timedelta(days=1))
            keys = spec.partitions_def.get_partition_keys_in_time_window(
                dg.TimeWindow(platform.clock.begins(self.first_day), end)
            )
            there = instance.get_materialized_partitions(spec.key)
            for key in keys:
                if key not in there:
                    instance.report_runless_asset_event(dg.AssetMaterialization(spec.key, partition=key))
        job = definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset)],
            tags={"dagster/asset_partition_range_start": f"{day}", "dagster/asset_partition_range_end": f"{last}"},
            raise_on_error=False,
        )


@pytest.fixture
def company(tmp_path: Path) -> Company:
    """An empty company."""
    return Company(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's storage for one test."""
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@dataclass(frozen=True)
class Saas:
    """A simulated SaaS company, and for each account the day on which its use began to decay (none: never) and on which it left."""

    company: Company
    decay: np.ndarray
    left: np.ndarray


def simulate_saas(folder: Path, accounts: int, days: int, seed: int = 7, last_left: int = 10**6) -> Saas:
    """Accounts billed every month that leave for a reason: use decays over two weeks, and four in five of these cancel soon after.

    Price, seats and plan say nothing. One in 4,000 account days somebody leaves out of the blue. After the day `last_left` nobody does.
    """
    rng = np.random.default_rng(seed)
    company = Company(folder)
    never = 10**6
    start = rng.integers(0, days // 2, accounts)
    decay = start + 20 + rng.geometric(0.004, accounts)
    gives_up = rng.random(accounts) < 0.8
    left = np.minimum(
        np.where(gives_up, decay + rng.integers(12, 45, accounts), never), start + rng.geometric(1 / 4000, accounts)
    )
    left = np.where(left > last_left, never, left)
    decay = np.where(decay < left, decay, never)
    day = np.arange(days)[None, :]
    fading = np.clip(day - decay[:, None], 0, 25)
    recovered = ~gives_up[:, None] & (day > decay[:, None] + 25)
    level = np.where(recovered, 1.0, np.exp(-fading / 8))
    rate = rng.gamma(4, 6, accounts)[:, None] * level
    events = rng.poisson(rate) * ((day >= start[:, None]) & (day < left[:, None]))
    account, when = np.nonzero(events)
    count = events[account, when]
    users = np.minimum(count, 1 + rng.poisson(np.sqrt(count)))
    names = np.array([f"account {number:05d}" for number in range(accounts)])
    dates = np.array([company.first_day + timedelta(days=int(number)) for number in range(days)])
    frame = pl.DataFrame({
        "event_date": dates[when].tolist(), "account_id": names[account].tolist(), "events": count, "active_users": users,
        "user_hours": users, "features_used": 1 + rng.integers(0, 5, len(count)), "sessions": users,
    }).with_columns(received_date="event_date").select(ACCOUNT_DAYS.column_names)  # fmt: skip
    company.put(ACCOUNT_DAYS, frame.to_arrow().cast(ACCOUNT_DAYS.arrow_schema()))
    for number, name in enumerate(names):
        price = int(rng.integers(20, 200))
        until = min(days, left[number] + 1)
        for billed in range(start[number], until, 30):
            company.told(
                f"{name} admin", name, dates[billed], "billed", amount=Decimal(price), months=Decimal(1), plan="pro", seats=20
            )
        if left[number] < days:
            company.told(f"{name} admin", name, dates[left[number]], "canceled")
    company.put(RECORDS, company.records)
    company.put(ACCOUNT_RECORDS, company.account_records)
    return Saas(company, decay, left)


@pytest.fixture(scope="session")
def saas(tmp_path_factory: pytest.TempPathFactory) -> Saas:
    """1,500 accounts over 300 days."""
    return simulate_saas(tmp_path_factory.mktemp("saas"), 1500, 300)
