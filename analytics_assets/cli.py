"""The command line, which the Makefile calls: `analytics-assets --help` names its commands."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.table import Table as Grid

from analytics_assets.home import Home, HomeError
from analytics_assets.make_run import make_run
from analytics_assets.operations.interruption import Interruption, interruptible
from analytics_assets.settings import PROJECT_ROOT, Settings, SettingsError, load_health, load_settings, settings_path
from analytics_assets.terminal import console, plain

if TYPE_CHECKING:
    import duckdb

    from analytics_assets.warehouse.tables import Table

FORMATS = ("kissmetrics",)
# With less room than this no commit and no page of Dagster's record fits.
NEARLY_FULL = 2 * 2**20


def main() -> None:
    """Run one command; every foreseeable mistake ends in one clear message and exit code 1."""
    parser = argparse.ArgumentParser(prog="analytics-assets", description="Event exports in, checked customer metrics out.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="load what is new and compute what is missing or older than its inputs")
    check = commands.add_parser(
        "check", help="read the settings and a sample of the export, say what would be found; writes nothing"
    )
    for command in (run, check):
        command.add_argument("--exports", default=os.environ.get("EXPORTS") or None, help="the export's folder")
        command.add_argument("--format", default=os.environ.get("FORMAT") or "kissmetrics", help="kissmetrics")
    accept = commands.add_parser("accept", help="read loaded files again, whether or not their content has changed")
    accept.add_argument("files", nargs="+", help="as named in export_files, for example revisions/12.json")
    sent = commands.add_parser("sent", help="record that the e-mail list of a day was handed over; it is never sent twice")
    sent.add_argument("day", type=_day, help="the list's business day, for example 2026-03-31")
    health = commands.add_parser("health", help="say what other health weights would change, now and in the past; writes nothing")
    health.add_argument("settings", type=Path, help="a file with the new [health]; whatever else it holds is left alone")
    alerts = commands.add_parser("alerts", help="what is wrong, since when, and who was told")
    alerts.add_argument("--all", action="store_true", help="what was wrong and is right again, too")
    alerts.add_argument("--retry", action="store_true", help="try again to deliver what no endpoint accepted")
    commands.add_parser("alive", help="for a watcher outside: one line, and exit code 1 when the platform does not do its work")
    versions = commands.add_parser("versions", help="the versions of a table, the last one first")
    versions.add_argument("table", help="for example orders")
    versions.add_argument("--newest", type=_count, default=10, metavar="N", help="how many (default 10)")
    restore = commands.add_parser("restore", help="put a table back to an earlier version, in a commit of its own")
    restore.add_argument("table", help="for example orders")
    restore.add_argument("version", type=_version, help="as `versions` lists it")
    ui = commands.add_parser("ui", help="Dagster's web server and daemon, on loopback")
    webserver = commands.add_parser("webserver", help="the web server alone, for systemd and the like")
    for command in (ui, webserver):
        command.add_argument(
            "--port", type=_port, default=os.environ.get("PORT") or "3000", help="0 to 65535 (default PORT, or 3000)"
        )
    webserver.add_argument("--host", default="127.0.0.1", help="an address to listen on; whoever reaches it may start runs")
    commands.add_parser("daemon", help="the daemon alone: what runs by itself runs by it")
    arguments = parser.parse_args()
    if getattr(arguments, "format", "kissmetrics") not in FORMATS:
        _stop(f"FORMAT={arguments.format}: there is no reader for it. Allowed: {', '.join(FORMATS)}.")

    try:
        if arguments.command == "run":
            with interruptible() as interruption:
                _obey(arguments, interruption)
        else:
            _obey(arguments, None)
    except KeyboardInterrupt:
        console.print("stopped; what was committed stands, and the same command goes on from there")
        # A thread that is still reading files would abort the interpreter as it ends.
        os._exit(130)


def _obey(arguments: argparse.Namespace, interruption: Interruption | None) -> None:
    from sqlalchemy.exc import OperationalError

    from analytics_assets.activation.sends import SendRefused
    from analytics_assets.events.kissmetrics_files import ExportError
    from analytics_assets.operations.catch_up import StepFailed
    from analytics_assets.operations.outbox import OutboxError
    from analytics_assets.saas.health.effect import NoUsage
    from analytics_assets.warehouse.lake import LakeError

    try:
        home = Home.from_environment()
    except HomeError as error:
        _stop(str(error))
    try:
        settings = load_settings()
        if interruption:
            make_run(settings, home, arguments.exports, arguments.format, interruption)
        elif arguments.command == "check":
            _check(settings, home, arguments.exports)
        elif arguments.command == "accept":
            _accept(settings, home, arguments.files)
        elif arguments.command == "sent":
            _sent(settings, home, arguments.day)
        elif arguments.command == "health":
            _health(settings, home, arguments.settings)
        elif arguments.command == "alerts":
            _alerts(settings, home, arguments.all, arguments.retry)
        elif arguments.command == "versions":
            _versions(settings, home, arguments.table, arguments.newest)
        elif arguments.command == "restore":
            _restore(settings, home, arguments.table, arguments.version)
        elif arguments.command == "alive":
            sys.exit(_alive(settings, home))
        elif arguments.command == "ui":
            sys.exit(_ui(home, arguments.port))
        else:
            _serve(home, _webserver(arguments.host, arguments.port) if arguments.command == "webserver" else _daemon())
    except Exception as error:
        if interruption and interruption():
            raise KeyboardInterrupt from None
        hint = _space_left(home, error)
        if isinstance(error, OperationalError):
            _stop(f"{home.dagster}: Dagster's record cannot be written: {error.orig}.{hint}")
        said = f"{str(error).removesuffix('.')}.{hint}" if hint else str(error)
        foreseen = (SettingsError, HomeError, LakeError, OutboxError, ExportError, StepFailed, SendRefused, NoUsage, OSError)
        if hint or isinstance(error, foreseen):
            _stop(said)
        raise


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-03-31") from None


def _version(text: str) -> int:
    return _number(text, "version of a table, such as 7: `analytics-assets versions TABLE` lists them")


def _count(text: str) -> int:
    return _number(text, "number of versions, such as 50")


def _port(text: str) -> int:
    return _number(text, "port, a number up to 65535", 65_535)


def _number(text: str, what: str, largest: int = sys.maxsize) -> int:
    if not text.isdecimal() or int(text) > largest:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")
    return int(text)


def _stop(message: str) -> NoReturn:
    console.print(f"[bold red]error:[/] {plain(message)}", highlight=False, soft_wrap=True)
    sys.exit(1)


def _space_left(home: Home, error: BaseException) -> str:
    """A hint when the home's disk is full, which shows itself in many other ways first; what did not fit may be gone again."""
    nearly_full = home.root.exists() and shutil.disk_usage(home.root).free <= NEARLY_FULL
    if not nearly_full and os.strerror(errno.ENOSPC) not in str(error):
        return ""
    return f" The disk of {home.root} is full: make room and run the same command again. What was committed stands."


def _accept(settings: Settings, home: Home, files: list[str]) -> None:
    from analytics_assets.events.loading import load

    loaded = load(settings, home, accept=files)
    new = [name for name in loaded.files if name not in files]
    also = f"; loaded with them, since they were new: {', '.join(new)}" if new else ""
    console.print(
        f"loaded again: {', '.join(files)}{also} ({loaded.lines:,} lines in all). "
        "The daemon restates the hours of these lines after its next load, five past the hour; `make run` does at once, and also "
        "hours of which lines are gone and none came.",
        soft_wrap=True,
    )


def _sent(settings: Settings, home: Home, day: date) -> None:
    from analytics_assets.activation.sends import mark_sent
    from analytics_assets.definitions import build_platform

    recipients = mark_sent(build_platform(settings, home), day)
    console.print(f"recorded: the list of {day} was handed over to {recipients:,} recipients; it stands in email_sends")


def _health(settings: Settings, home: Home, new: Path) -> None:
    """Say what the [health] of another file would change."""
    from analytics_assets.definitions import build_platform
    from analytics_assets.saas.health.effect import QUANTILES, weights_effect

    effect = weights_effect(build_platform(settings, home), load_health(new))
    changed = sum(count for (now, then), count in effect.moves.items() if now != then)
    hour = effect.hour.astimezone(settings.business.zone)
    if not effect.accounts:
        console.print(f"{hour:%Y-%m-%d %H:%M}: no account has a band yet, since too little is known of them", highlight=False)
        return
    console.print(f"{hour:%Y-%m-%d %H:%M}: {changed:,} of {effect.accounts:,} accounts would change their band", highlight=False)
    for (now, then), count in effect.moves.items():
        if now != then:
            console.print(f"  {now} -> {then}: {count:,}", highlight=False)
    grid = Grid("score", *(f"{q:.0%} below" for q in QUANTILES), title="Distribution of the score", title_justify="left")
    grid.add_row("now", *(f"{points:.1f}" for points in effect.scores_now))
    grid.add_row("new", *(f"{points:.1f}" for points in effect.scores_new))
    console.print(grid)
    if not effect.separations:
        console.print(
            f"No day has {effect.horizon_days} days of outcome after it and 70 days of usage up to it: the past cannot tell yet."
        )
        return
    title = f"Told those that ended within {effect.horizon_days} days from those that did not (AUC, 0.5 is chance)"
    grid = Grid("at the end of", "accounts", "ended", "now", "new", title=title, title_justify="left")
    for one in effect.separations:
        figures = ("-" if auc is None else f"{auc:.3f}" for auc in (one.auc_now, one.auc_new))
        grid.add_row(f"{one.day}", f"{one.accounts:,}", f"{one.ended:,}", *figures)
    console.print(grid)


def _alerts(settings: Settings, home: Home, every: bool, retry: bool) -> None:
    """List alerts, those that stand first to last; deliver again what was undelivered."""
    from datetime import UTC, datetime

    from analytics_assets.definitions import build_platform
    from analytics_assets.operations.alerts import look_at_deaf_addresses, on_the_wall
    from analytics_assets.operations.delivery import deliver, outbox_of, send_by_apprise

    platform = build_platform(settings, home)
    outbox = outbox_of(platform)
    if retry:
        clock = lambda: datetime.now(UTC)  # noqa: E731
        due = outbox.try_again(clock())
        accepted, refused = deliver(outbox, settings.alerts, clock, send_by_apprise)
        look_at_deaf_addresses(outbox, clock())
        console.print(f"{due} messages were undelivered; {accepted} accepted now, {refused} not")
    found = outbox.alerts(standing_only=not every)
    for one in found:
        until = f" to {on_the_wall(one.recovered_at, platform)}" if one.recovered_at else ""
        since = on_the_wall(one.raised_at, platform)
        head = f"#{one.number} {one.alert.severity} {one.alert.kind}: {since}{until}, seen {one.times_seen}×"
        console.print(
            plain(f"{head}\n    {one.alert.text}\n    {one.delivery or 'nobody was told yet'}"), highlight=False, soft_wrap=True
        )
    if not found:
        console.print("nothing is wrong" if not every else "nothing was ever wrong")


def _declared_table(name: str) -> Table:
    from analytics_assets.definitions import PUBLISHED
    from analytics_assets.events.tables import RECORDS
    from analytics_assets.warehouse.lake import LakeError

    tables = {table.name: table for table in (RECORDS, *PUBLISHED)}
    if name not in tables:
        raise LakeError(f"there is no table {name}. There are {', '.join(sorted(tables))}.")
    return tables[name]


def _versions(settings: Settings, home: Home, name: str, newest: int) -> None:
    """List what was committed to a table."""
    from analytics_assets.definitions import build_platform

    grid = Grid("version", "committed (UTC)", "operation")
    grid.add_column("note", overflow="fold")
    for one in build_platform(settings, home).lake.versions(_declared_table(name), newest):
        grid.add_row(f"{one.number}", f"{one.at:%Y-%m-%d %H:%M:%S}", one.operation, plain(one.note))
    console.print(grid)


def _restore(settings: Settings, home: Home, name: str, version: int) -> None:
    """Put a table back, and publish it."""
    import dagster as dg
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

    from analytics_assets.definitions import build_platform
    from analytics_assets.operations.record import open_record

    platform, table = build_platform(settings, home), _declared_table(name)
    before = platform.lake.pin(table)
    now = platform.lake.restore(table, version)
    platform.publish()
    rows_before, rows = (pin.delta.count() if pin.delta else 0 for pin in (before, platform.lake.pin(table)))
    console.print(
        f"{name} is that of version {version} again, as version {now}, with {rows:,} rows where {rows_before:,} were; back to what it was: analytics-assets restore {name} {before.version}. "
        "Dagster does not know that rows are older: materialise the partitions that are to be computed anew.",
        soft_wrap=True,
    )
    with open_record(home) as instance:
        if at_work := instance.get_runs_count(dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES))):
            console.print(
                f"[yellow]{at_work} runs are under way:[/] what they commit to {name} from now on comes over the version that was put back. "
                "See `versions` when they have ended.",
                soft_wrap=True,
            )


def _alive(settings: Settings, home: Home) -> int:
    """Say in one line whether the platform does its work."""
    from datetime import UTC, datetime

    from analytics_assets.operations.alive import look
    from analytics_assets.operations.record import open_record

    with open_record(home) as instance:
        found = look(settings, home, instance, datetime.now(UTC))
    console.print(plain(found.line), highlight=False, soft_wrap=True)
    return 0 if found.alive else 1


def _check(settings: Settings, home: Home, exports: str | None) -> None:
    """Say what a run would find; writes nothing."""
    import duckdb

    from analytics_assets.events.kissmetrics import sample
    from analytics_assets.events.kissmetrics_files import list_files
    from analytics_assets.events.loading import export_folder

    folder = Path(exports).expanduser().resolve() if exports else export_folder(settings, home)[0]
    files = list_files(folder)
    business = settings.business
    console.print(
        f"settings  {settings_path()}: {business.time_zone}, {business.currency}, {business.first_day or 'first day of the export'} to {business.last_day or 'now'}",
        soft_wrap=True,
    )
    size = sum(file.size for file in files)
    console.print(
        f"export    {folder}: {len(files):,} files, {size / 2**20:,.1f} MiB, {files[0].name} to {files[-1].name}", soft_wrap=True
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        landed = sample(connection, files)
        connection.register("records", landed.records)
        total, low, high = connection.sql("SELECT count(*), min(occurred_at), max(occurred_at) FROM records").fetchall()[0]
        names = connection.sql(
            "SELECT name, count(*) FROM records WHERE kind = 'event' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 15"
        ).fetchall()
        keys = connection.sql(
            "SELECT k, count(*) FROM (SELECT unnest(json_keys(properties)) AS k FROM records) GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 30"
        ).fetchall()
        every_name = {name for (name,) in connection.sql("SELECT DISTINCT name FROM records WHERE kind = 'event'").fetchall()}
        every_key = {key for (key,) in connection.sql("SELECT DISTINCT unnest(json_keys(properties)) FROM records").fetchall()}
        told_early = _told_before(connection, settings, business.first_day) if business.first_day else (0, None)
    console.print(
        f"sample    {total + landed.rejected.num_rows:,} lines, {landed.rejected.num_rows:,} of them unreadable, {low} to {high}"
    )
    for row in landed.rejected.slice(0, 3).to_pylist():
        console.print(f"          {row['file']}:{row['line_number']}: {plain(row['reason'])}", soft_wrap=True)
    console.print("events    " + ", ".join(f"{plain(name)} ({count:,})" for name, count in names), soft_wrap=True)
    console.print("properties " + ", ".join(f"{plain(name)} ({count:,})" for name, count in keys), soft_wrap=True)
    missing = []
    days = [day for day in (business.first_day, business.last_day) if day]
    if total and days and (low.date() > max(days) + timedelta(days=1) or high.date() < min(days) - timedelta(days=1)):
        missing.append(f"first_day and last_day under [business] miss the export, which runs from {low} to {high}")
    accounts = settings.accounts.are == "people" or not every_key.isdisjoint(settings.properties.account_id)
    meanings = [(f"[events] {kind}", names) for kind, names in settings.events]
    meanings += [(f"[subscriptions] {kind}", names) for kind, names in settings.subscriptions if isinstance(names, tuple)]
    for label, wanted in meanings:
        found = [name for name in wanted if name in every_name]
        console.print(
            f"{plain(label)}: {', '.join(found) if found else 'none of ' + ', '.join(wanted) + ' occurs in the sample'}",
            soft_wrap=True,
        )
        if not found and label == "[events] purchase" and not accounts:
            missing.append(f"{label} names no event of the sample, and no record names an account")
        if len(found) > 1:
            console.print(
                f"  [yellow]{' and '.join(found)} both occur: if they tell of the same money, name only one, or it counts twice[/]"
            )
    for table, named in (("properties", settings.properties), ("customers", settings.customers)):
        for name, wanted in named:
            found = [key for key in wanted if key in every_key]
            console.print(f"{plain(f'[{table}]')} {name}: {', '.join(found) or '-'}")
    if told_early[1]:
        console.print(
            f"  [yellow]{told_early[0]:,} records of the sample, since {told_early[1]:%Y-%m-%d}, tell of accounts before first_day "
            f"({business.first_day}) and are not used: contracts, seats and members are known from the first that is told since. An earlier "
            "first_day knows them[/]",
            soft_wrap=True,
        )
    sells = not every_name.isdisjoint(settings.events.purchase)
    if sells and settings.activation.consent_required and every_key.isdisjoint(settings.customers.consent):
        console.print("  [yellow]no property tells of consent: nobody will stand on the e-mail list[/]")
    if missing:
        console.print(
            f"[bold red]error:[/] {plain('; '.join(missing))}. `make run` would stop before orders.",
            soft_wrap=True,
        )
        sys.exit(1)


def _told_before(connection: duckdb.DuckDBPyConnection, settings: Settings, day: date) -> tuple[int, datetime | None]:
    """How many of `records` before a business day tell of an account, its plan, seats or contract, and when the first of them was."""
    from analytics_assets.events.events import json_paths

    names = settings.properties
    turns = [name for _, kind in settings.subscriptions if isinstance(kind, tuple) for name in kind]
    return connection.sql(
        """SELECT count(*), min(occurred_at) FROM records WHERE kind <> 'alias' AND occurred_at < $begins AND (list_contains($turns, name)
        OR len(list_filter(json_extract_string(properties, $said), lambda v: v <> '')) > 0)""",
        params={
            "begins": datetime(day.year, day.month, day.day, tzinfo=settings.business.zone),
            "turns": turns,
            "said": json_paths((names.account_id if settings.accounts.are == "named" else ()) + names.plan + names.seats),
        },
    ).fetchall()[0]


def _ui(home: Home, port: int) -> int:
    """Run the web server and the daemon until one of them ends or somebody stops them."""
    from analytics_assets.operations.record import open_record

    commands = {"web server": _webserver("127.0.0.1", port), "daemon": _daemon()}
    environment = _environment_of_programs(home)
    console.print(
        f"http://127.0.0.1:{port}  (Ctrl-C stops the web server and the daemon; runs at work go on to their end)", soft_wrap=True
    )
    for ended_by in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended_by, lambda *_: sys.exit(0))
    # Sessions of their own: a terminal's Ctrl-C would reach the runs at work as well, and they would fail.
    processes = {
        name: subprocess.Popen(command, env=environment, cwd=PROJECT_ROOT, start_new_session=True)
        for name, command in commands.items()
    }
    try:
        while True:
            for name, process in processes.items():
                if process.poll() is not None:
                    _stop(
                        f"the {name} ended with {process.returncode}, and the other was stopped: see above, and start both again"
                    )
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
    # Who stopped the daemon misses none: its last signs of life would be an alert of the next `make run`.
    with open_record(home) as instance:
        instance.run_storage.wipe_daemon_heartbeats()
    return 0


def _serve(home: Home, command: list[str]) -> NoReturn:
    """Become the web server or the daemon, so that a supervisor watches, limits and restarts each by itself."""
    environment = _environment_of_programs(home)
    os.chdir(PROJECT_ROOT)
    os.execve(command[0], command, environment)


_PROGRAMS = Path(sys.executable).parent
_WORKSPACE = ["-w", str(PROJECT_ROOT / "workspace.yaml")]


def _webserver(host: str, port: int) -> list[str]:
    return [str(_PROGRAMS / "dagster-webserver"), "-h", host, "-p", str(port), *_WORKSPACE]


def _daemon() -> list[str]:
    return [str(_PROGRAMS / "dagster-daemon"), "run", *_WORKSPACE]


def _environment_of_programs(home: Home) -> dict[str, str]:
    from analytics_assets.operations.record import record_environment

    return os.environ | record_environment(home)
