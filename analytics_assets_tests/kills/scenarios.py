"""What is being killed: a piece of the platform's work each, from a home in which it is due to a home in which it is done.

The small ones are the moments at which something becomes visible, each by itself: commit and publication, staged rows, landing,
compaction, lists that go out, the home's memory, alerts. They take a fraction of a second, and every change of theirs can be killed.
The large ones are whole runs: Dagster's record of them changes files thousands of times, and a sample is killed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from analytics_assets.activation.generations import Channel, Generation
from analytics_assets.activation.sends import EMAIL_SENDS, SendRefused, mark_sent
from analytics_assets.definitions import PUBLISHED, build_definitions
from analytics_assets.events.loading import load, pin_export
from analytics_assets.events.tables import EXPORT_FILES, RECORDS, REJECTED_LINES
from analytics_assets.home import Home
from analytics_assets.make_run import make_run
from analytics_assets.operations.catch_up import end_dead_runs
from analytics_assets.operations.interruption import interruptible
from analytics_assets.operations.maintenance import maintain
from analytics_assets.operations.outbox import Alert, Outbox
from analytics_assets.operations.record import open_record
from analytics_assets.settings import parse_settings
from analytics_assets.terminal import console
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake, predicate_for
from analytics_assets.warehouse.publishing import publish
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform
from analytics_assets_tests.activation.conftest import DAYS, Shop
from analytics_assets_tests.conftest import AUTUMN, Company, at, autumn_files, event, item, make_company, write_export
from analytics_assets_tests.warehouse.conftest import DAILY, HOURLY, days, hours, rows_of, sale, tick

SETTINGS = parse_settings(AUTUMN, "analytics.toml")
# Hours are 25 on Sunday; the late order falls on it.
LATE_HOUR = "2011-10-30-20:00"


@dataclass(frozen=True)
class Scenario:
    """A piece of work: `due` makes a home in which it is to be done, `heal` is what is run after its death (the same again).

    `state` says what there is. In the end it must be what it is after undisturbed work; in between, whatever begins with `shown`
    must be as before or as after, whole.
    """

    name: str
    due: Callable[[Path], object]
    work: Callable[[Path], object]
    state: Callable[[Path], dict[str, Any]]
    heal: Callable[[Path], object] | None = None
    large: bool = False


def lake_of(folder: Path, *tables: Table) -> dict[str, Any]:
    """Rows and digest of every partition in the lake."""
    found = {}
    with engine() as connection:
        for table in tables:
            attach(connection, Lake(folder / "home" / "lake").pin(table))
            for partition, rows, digest in connection.sql(table.digest_select(table.name)).fetchall():
                found[f"shown in the lake: {table.name} {partition}"] = [rows, digest]
    return found


def database_of(folder: Path, *tables: Table) -> dict[str, Any]:
    """Rows and a fingerprint of what `analytics.duckdb` shows of each table, without what depends on the run."""
    found = {}
    with contextlib.closing(duckdb.connect(str(folder / "home" / "analytics.duckdb"), read_only=True)) as connection:
        for table in tables:
            columns = ", ".join(f'"{c.name}"' for c in table.published_columns if not c.run_dependent)
            query = f'SELECT count(*), coalesce(bit_xor(hash({columns})), 0) FROM "{table.name}"'
            found[f"shown in the database: {table.name}"] = [str(value) for value in connection.sql(query).fetchall()[0]]
    return found


# ------------------------------------------------------------------------------------------------ commit and publication


def _sell(folder: Path, *names: str) -> None:
    lake = Lake(folder / "home" / "lake")
    rows = rows_of(DAILY, [sale(name, day) for name in names for day in (1, 2)])
    lake.replace(DAILY, rows, predicate_for(DAILY, days(1, 2)), {})
    for hour in (3, 4):
        ticks = rows_of(HOURLY, [tick(hour, 10 * hour + len(names))])
        lake.replace(HOURLY, ticks, predicate_for(HOURLY, hours(hour, hour + 1)), {})
    publish(Home(folder / "home"), (DAILY, HOURLY))


def _sold(folder: Path) -> dict[str, Any]:
    return {**lake_of(folder, DAILY, HOURLY), **database_of(folder, DAILY, HOURLY)}


def _stage(folder: Path, *names: str) -> None:
    lake = Lake(folder / "home" / "lake")
    with contextlib.closing(lake.stage(DAILY)) as staged:
        for day in (1, 2):
            for name in names:
                staged.append(rows_of(DAILY, [sale(f"{name}{day}", day)]))
        lake.adopt(staged, days(1, 2), {})


def _compact(folder: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        maintain(Platform(SETTINGS, Home(folder / "home")), instance, datetime.now(UTC))


# ---------------------------------------------------------------------------------------------------------------- landing


def _export(folder: Path) -> Home:
    home = Home(folder / "home")
    write_export(folder / "export", autumn_files())
    pin_export(home, folder / "export", "kissmetrics")
    load(SETTINGS, home)
    late_order(folder)
    return home


def late_order(folder: Path) -> None:
    """A file that is received after the end: gus bought for 2.00 on Sunday at 20:00, and a broken line."""
    order = event("purchased", "gus@x.test", at("2011-10-30 20:00"), order_id="12", order_total="2.00")
    line = item("gus@x.test", at("2011-10-30 20:00:01"), "e5", "2.00", "1")
    write_export(folder / "export", {5: (at("2011-11-02 09:00"), [order, line, b'{"broken'])})


def _landed(folder: Path) -> dict[str, Any]:
    """What is landed, as a whole or a file at a time; every line of a file that is in the account is accounted for."""
    found = lake_of(folder, RECORDS, REJECTED_LINES, EXPORT_FILES)
    memory = json.loads((folder / "home" / "home.json").read_text())
    return {**found, "shown first day": memory["first_day"]}


# ------------------------------------------------------------------------------------------------------------ going out


def _let_out(day: date) -> Callable[[Path], None]:
    def let_out(folder: Path) -> None:
        channel = Channel(folder / "home" / "activation", days_kept=1)
        with channel.building() as built:
            (built / "customers.jsonl").write_text(f"{day}\n" * 3)
            (built / "products.jsonl").write_text(f"{day}\n")
            generation = channel.seal(built, day, {"customers.jsonl": 3, "products.jsonl": 1}, {"of": f"{day}"}, {})
        channel.show(generation)
        channel.show_as_current(generation)
        channel.write_status(day, day, day)

    return let_out


def _out(folder: Path) -> dict[str, Any]:
    """The generation to which each link leads, which is whole."""
    return _out_of(folder / "home" / "activation")


def _out_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for link in sorted(path for path in root.iterdir() if path.is_symlink() and path.name != ".link"):
        manifest = json.loads((link / "manifest.json").read_text())
        assert not Generation(DAYS[0], link, manifest).damaged_files()
        found[f"shown in {root.name}: {link.name}"] = manifest["generation"]
    status = json.loads((root / "status.json").read_text())
    return {**found, f"shown status of {root.name}": [status["state"], status["last_good_day"]]}


# ----------------------------------------------------------------------------------------------------- memory and alerts


def _remember(day: str) -> Callable[[Path], object]:
    return lambda folder: Home(folder / "home").remember(first_day=day, built_with={"orders": day})


def _memory(folder: Path) -> dict[str, Any]:
    return {"shown home.json": json.loads((folder / "home" / "home.json").read_text())}


NOON = datetime(2026, 3, 31, 12, 0, tzinfo=UTC)


def _tell(now: datetime, *names: str) -> Callable[[Path], None]:
    """Raise alerts and send what is due to an endpoint that accepts: a file."""

    def tell(folder: Path) -> None:
        outbox = Outbox(folder / "home" / "alerts.sqlite")
        for name in names:
            with outbox.together():
                if outbox.seen_first(f"run of {name}", now):
                    number = outbox.raise_alert(Alert(name, "late", "error", "orders", name), now)
                    outbox.address(number, "raised", ["A#1", "B#1"], now)
        for address in outbox.due(now):
            messages = outbox.take(address, now)
            with open(folder / f"accepted by {address}", "a") as endpoint:
                endpoint.writelines(f"{message.alert.key}\n" for message in messages)
            outbox.delivered(messages, now)

    return tell


def _told(folder: Path) -> dict[str, Any]:
    """What each endpoint was sent, a doubled message once, since its number tells; and what the outbox says of it."""
    found: dict[str, Any] = {f"sent to {path.name}": sorted({*path.read_text().split()}) for path in folder.glob("accepted by*")}
    for one in Outbox(folder / "home" / "alerts.sqlite").alerts():
        sent = [name for name in "AB" if one.alert.key in found.get(f"sent to accepted by {name}#1", [])]
        for name in "AB":
            # Nothing is called delivered that was not sent.
            assert f"raised: delivered, {name}#1" not in one.delivery or name in sent
        found[f"outbox: {one.alert.key}"] = one.delivery.count("delivered, ")
    return found


SMALL = [
    Scenario("commit and publication", lambda f: _sell(f, "a"), lambda f: _sell(f, "b", "c"), _sold),
    Scenario("first commit and publication", lambda f: None, lambda f: _sell(f, "a", "b"), lambda f: _sold(f) if (f / "home" / "analytics.duckdb").exists() else {}),
    Scenario("staged rows", lambda f: _stage(f, "a"), lambda f: _stage(f, "b", "c", "d"), lambda f: lake_of(f, DAILY)),
    Scenario("landing", _export, lambda f: load(SETTINGS, Home(f / "home")), _landed),
    Scenario("compaction", lambda f: _sell(f, "a", "b"), _compact, _sold),
    Scenario("generations", _let_out(DAYS[0]), _let_out(DAYS[1]), _out),
    Scenario("memory", _remember("2026-01-01"), _remember("2026-02-02"), _memory),
    Scenario("alerts", _tell(NOON, "a"), _tell(NOON, "b", "c"), _told, heal=_tell(NOON + timedelta(minutes=6), "b", "c")),
]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- whole runs


def company_in(folder: Path) -> Company:
    """The small shop whose export and home lie in a folder."""
    return Company(folder / "export", Home(folder / "home"), SETTINGS)


def _load_by_schedule(folder: Path) -> None:
    """Load as the daemon's hourly run does, which marks the hours that came in."""
    company = company_in(folder)
    pin_export(company.home, company.export, "kissmetrics")
    with company.instance() as instance:
        job = build_definitions(company.platform()).resolve_implicit_global_asset_job_def()
        job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("export_files")],
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )


def _due_load(folder: Path) -> None:
    write_export(folder / "export", autumn_files())
    _load_by_schedule(folder)
    late_order(folder)


def _loaded(folder: Path) -> dict[str, Any]:
    with company_in(folder).instance() as instance:
        wanted = dg.AssetRecordsFilter(dg.AssetKey("raw_event_hours"), asset_partitions=[LATE_HOUR])
        marks = len(instance.fetch_materializations(wanted, limit=5).records)
    return {**_landed(folder), **database_of(folder, EXPORT_FILES, REJECTED_LINES), "late hour marked again": marks > 1}


def _due_run(folder: Path) -> None:
    company = make_company(folder, autumn_files(), AUTUMN, in_memory=False)
    company.load()
    company.catch_up()
    late_order(folder)


def _make_run(folder: Path) -> None:
    company = company_in(folder)
    console.quiet = True
    with interruptible() as interruption:
        make_run(company.settings, company.home, str(company.export), "kissmetrics", interruption)


# Every run adds to the others.
_COMPUTED: Sequence[Table] = [table for table in PUBLISHED if table.name not in ("batch_runs", "alerts", "reproducibility")]


def _everything(folder: Path) -> dict[str, Any]:
    with open_record(Home(folder / "home")) as instance:
        at_work = [run.run_id for run in instance.get_runs() if not run.is_finished]
    return {**lake_of(folder, RECORDS, *_COMPUTED), **database_of(folder, *_COMPUTED), **_memory(folder), "runs at work": at_work}


def _evening(folder: Path) -> Shop:
    (folder / "home" / "dagster").mkdir(parents=True, exist_ok=True)
    instance = dg.DagsterInstance.local_temp(str(folder / "home" / "dagster"), overrides={"telemetry": {"enabled": False}})
    return Shop(folder, instance=instance)


def _due_lists(folder: Path) -> None:
    shop = _evening(folder)
    shop.inputs()
    for asset in ("email_campaign", "onsite_recommendations"):
        assert shop.run(asset, day=DAYS[2]).success
    mark_sent(shop.platform, DAYS[2])


def _send(folder: Path) -> None:
    shop = _evening(folder)
    end_dead_runs(shop.instance)
    for asset in ("onsite_recommendations", "email_campaign"):
        assert shop.run(asset, day=DAYS[3]).success
    with contextlib.suppress(SendRefused):
        mark_sent(shop.platform, DAYS[3])


def _sent(folder: Path) -> dict[str, Any]:
    activation = folder / "home" / "activation"
    return {**lake_of(folder, EMAIL_SENDS), **_out_of(activation / "email"), **_out_of(activation / "onsite")}


LARGE = [
    Scenario("hourly load", _due_load, _load_by_schedule, _loaded, large=True),
    Scenario("lists and their ledger", _due_lists, _send, _sent, large=True),
    Scenario("make run", _due_run, _make_run, _everything, large=True),
]
