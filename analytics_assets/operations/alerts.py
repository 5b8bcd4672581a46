"""What is an alert, and when it is over.

Runs that have ended are looked at once each: a step that failed for good, a blocking check, a check that only warns (plain
Dagster is silent about those). What is wrong right now is looked at every time: a run that is later than its own history, a
daemon that is silent, `analytics.duckdb` behind the lake, an address that accepts nothing. Each alert says when it is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from analytics_assets.operations.outbox import Alert, Outbox
from analytics_assets.operations.run_history import BATCH_RUNS, OVERLAP, StepRun, ended_runs, steps_of
from analytics_assets.warehouse.assets import FILL, masked
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.publishing import is_behind
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform

ALERTS = Table(
    name="alerts",
    rows_are="thing that was or is wrong, from when it was seen until it was right again",
    columns=(
        Column("alert", "BIGINT", "Number of the alert; every message carries it."),
        Column("kind", "VARCHAR", "What is wrong, as the runbook lists it."),
        Column("severity", "VARCHAR", "`error` or `warning`."),
        Column("subject", "VARCHAR", "The asset, or the part of the platform."),
        Column("partition", "VARCHAR", "Hours or business days that are concerned; NULL where none are.", nullable=True),
        Column("owners", "VARCHAR", "Who looks after the asset; empty for the platform itself."),
        Column("text", "VARCHAR", "What was seen last. Addresses of people are masked."),
        Column("run_id", "VARCHAR", "The run in which it was seen last; NULL where it was not a run.", nullable=True),
        Column("raised_at", "TIMESTAMPTZ", "When it was seen first."),
        Column("seen_at", "TIMESTAMPTZ", "When it was seen last."),
        Column("times_seen", "BIGINT", "How often it was seen; only the first time was told.", "times"),
        Column("recovered_at", "TIMESTAMPTZ", "When it was right again; NULL while it stands.", nullable=True),
        Column("delivery", "VARCHAR", "What became of each message about it."),
    ),
    key=("alert",),
)

FAILED, BLOCKED, CHECK = "failed", "blocking check failed", "check failed"
STALE, HELD, REFUSED, WINDOW, DIFFERS = "stale", "activation blocked", "model refused", "processing window", "not reproducible"
INCOMPLETE, OUTDATED = "incomplete day", "outdated days"
LATE, DAEMON, PUBLICATION, UNDELIVERED, WATCHING = "late", "daemon dead", "publication behind", "undelivered", "watching failed"
KIND_OF_CHECK = {
    "hours_were_in": INCOMPLETE,
    "is_up_to_date": OUTDATED,
    "is_fresh": STALE,
    "is_current": STALE,
    "may_go_out": HELD,
    "served_by_a_tested_model": REFUSED,
    "better_than_popular": REFUSED,
    "served_by_an_accepted_model": REFUSED,
    "window_holds": WINDOW,
    "recomputes_equal": DIFFERS,
}
PLATFORM = "platform"
# What is looked at every time has keys that begin so.
_NOW = "now:"

# A run is late beyond median + 6 robust standard deviations of its past, half as long again, and two minutes more.
LATE_DEVIATIONS, LATE_SHARE, LATE_SECONDS = 6 * 1.4826, 1.5, 120.0
RUNS_COMPARED, FEWEST_COMPARED = 60, 5
SILENT_DAEMON = timedelta(minutes=10)
BEHIND_FOR = timedelta(minutes=5)
# Dagster begins a run anew within seconds, unless its backfill has ended, its job is gone, or the daemon is not there.
BEGUN_ANEW_WITHIN = timedelta(minutes=10)


def look_at_ended_runs(instance: dg.DagsterInstance, outbox: Outbox, specs: Sequence[dg.AssetSpec], now: datetime) -> int:
    """Raise and end alerts by what ended runs did, each run once, in the order in which they ended.

    A run that Dagster is to begin anew is looked at when it has been, or when it was waited for in vain.

    Returns:
        How many runs were looked at.
    """
    known = {spec.key.to_user_string(): spec for spec in specs}
    until = outbox.seen_until()
    looked_at, given_up = 0, False
    for record in ended_runs(instance, until - OVERLAP if until else None):
        waiting = record.dagster_run.is_complete_and_waiting_to_retry
        if waiting and now - record.update_timestamp < BEGUN_ANEW_WITHIN:
            continue
        steps = steps_of(instance, record.dagster_run)
        with outbox.together():
            if outbox.seen_first(record.dagster_run.run_id, record.update_timestamp):
                _look_at(record, steps, outbox, known)
                looked_at += 1
                given_up = given_up or waiting
            elif given_up:
                # It ended after the run that was waited for, and may have made what that one did not.
                _recover(record, steps, outbox, known)
    if newest := outbox.seen_until():
        outbox.forget_runs_before(newest - 2 * OVERLAP)
    return looked_at


def _look_at(record: RunRecord, steps: Mapping[str, StepRun], outbox: Outbox, known: Mapping[str, dg.AssetSpec]) -> None:
    run, at = record.dagster_run, record.update_timestamp
    # Dagster begins a run anew whose worker crashed; only the last of them is news.
    begun_anew = run.tags.get("dagster/will_retry") == "true" and not run.is_complete_and_waiting_to_retry
    for_good = run.status == DagsterRunStatus.FAILURE and not begun_anew
    died = for_good and not any(step.failure for step in steps.values())
    _recover(record, steps, outbox, known)
    for step in steps.values():
        spec = known.get(step.asset)
        owners = tuple(spec.owners) if spec else ()
        # A list that is held back night after night is one thing that is wrong: the next that goes out ends it.
        key = f"failed:{step.asset}" if _is_of_the_newest_day(spec) else f"failed:{step.asset}:{step.span}"
        if step.failure and for_good:
            outbox.raise_alert(_failure(key, step, run.run_id, owners), at)
        elif for_good and step.partitions and not step.made and (died or (step.begun and not step.ended)):
            text = f"{step.asset} {step.span or ''}: the run ended without a word: its worker was killed, or ran out of memory"
            outbox.raise_alert(Alert(key, FAILED, "error", step.asset, text, step.span, owners, run.run_id), at)
        for check in step.checks:
            if not (check.blocking and not check.passed):
                _look_at_check(check, step, run.run_id, owners, outbox, at)


def _recover(record: RunRecord, steps: Mapping[str, StepRun], outbox: Outbox, known: Mapping[str, dg.AssetSpec]) -> None:
    for step in steps.values():
        if step.made and not step.failure:
            _recover_partitions(step, outbox, record.update_timestamp, _is_of_the_newest_day(known.get(step.asset)))


def _is_of_the_newest_day(spec: dg.AssetSpec | None) -> bool:
    return spec is not None and spec.tags.get(FILL) == "newest"


def _failure(key: str, step: StepRun, run_id: str, owners: tuple[str, ...]) -> Alert:
    blocking = [check for check in step.checks if check.blocking and not check.passed]
    kind = KIND_OF_CHECK.get(blocking[0].check_name, BLOCKED) if blocking else FAILED
    attempts = f" ({len(step.begun)} attempts)" if len(step.begun) > 1 else ""
    text = masked(step.failure or "") + attempts
    return Alert(key, kind, "error", step.asset, text, step.span, owners, run_id)


def _recover_partitions(step: StepRun, outbox: Outbox, at: datetime, newer_will_do: bool) -> None:
    made = {key for key in step.made if key is not None}
    for standing in outbox.alerts(standing_only=True):
        alert = standing.alert
        if alert.subject != step.asset or not alert.key.startswith("failed:"):
            continue
        if alert.partition is None:
            outbox.recover(alert.key, at)
            continue
        first, _, last = alert.partition.partition(" to ")
        last = last or first
        whole = bool(made) and min(made) <= first and last <= max(made)
        if whole or (newer_will_do and made and max(made) >= last):
            outbox.recover(alert.key, at)


def _look_at_check(
    check: dg.AssetCheckEvaluation, step: StepRun, run_id: str, owners: tuple[str, ...], outbox: Outbox, at: datetime
) -> None:
    key = f"check:{step.asset}:{check.check_name}"
    said = check.metadata.get("partitions")
    span = str(said.value) if said else check.partition or step.span
    if check.passed:
        standing = next((one.alert for one in outbox.alerts(standing_only=True) if one.alert.key == key), None)
        # An older day that passes says nothing about the one that does not.
        if standing and (_last(span) or "~") >= (_last(standing.partition) or ""):
            outbox.recover(key, at)
        return
    told = {name: value.value for name, value in check.metadata.items() if name not in ("partitions", "plot", "means")}
    figures = ", ".join(
        f"{name}: {'; '.join(_told_once(value)) if isinstance(value, list) else value}" for name, value in told.items()
    )
    means = f". It checks: {check.metadata['means'].value}" if "means" in check.metadata else ""
    text = masked(f"{step.asset}{f' {span}' if span else ''}: {check.check_name} failed. {figures}{means}")
    severity = "error" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"
    kind = KIND_OF_CHECK.get(check.check_name, CHECK)
    if kind == STALE and any(one.alert.key == f"failed:{step.asset}" for one in outbox.alerts(standing_only=True)):
        # The list that should have gone out did not, and that is told.
        return
    outbox.raise_alert(Alert(key, kind, severity, step.asset, text, span, owners, run_id), at)


def _told_once(rows: Sequence[str]) -> list[str]:
    """Rows that differ in their day alone as one: a model that is refused is for the same reason on every day that it serves."""
    alike: dict[str, list[str]] = {}
    for row in rows:
        day, _, rest = row.partition(", ")
        alike.setdefault(rest if day.startswith("as_of_date ") else row, []).append(row)
    return [same[0] if len(same) == 1 else f"{same[0]} (and on {len(same) - 1} more days)" for same in alike.values()]


def _last(span: str | None) -> str | None:
    return span.partition(" to ")[2] or span if span else None


def on_the_wall(instant: datetime, platform: Platform) -> str:
    """An instant in words, on the clock of the business: that of partitions, and of every other time in a message."""
    return f"{instant.astimezone(platform.settings.business.zone):%Y-%m-%d %H:%M}"


def look_at_now(platform: Platform, instance: dg.DagsterInstance, outbox: Outbox, now: datetime) -> None:
    """Raise what is wrong at this moment, and end what is not any more."""
    wrong = [
        *late_runs(platform, instance, now),
        *silent_daemons(instance, now),
        *_publication(platform, outbox, now),
        *deaf_addresses(outbox),
    ]
    with outbox.together():
        for alert in wrong:
            outbox.raise_alert(alert, now)
        keys = {alert.key for alert in wrong}
        for standing in outbox.alerts(standing_only=True):
            alert = standing.alert
            if (alert.key.startswith(_NOW) and alert.key not in keys) or _after_the_last_day(alert, platform):
                outbox.recover(alert.key, now)


def _after_the_last_day(alert: Alert, platform: Platform) -> bool:
    """Whether an alert is of a day that is none: `last_day` was set too late and has been put back, and nothing can make such a day."""
    last_day, last = platform.settings.business.last_day, _last(alert.partition)
    return last_day is not None and last is not None and last[:10] > last_day.isoformat()


def late_runs(platform: Platform, instance: dg.DagsterInstance, now: datetime) -> list[Alert]:
    """Steps that are running now, for longer than their own history lets expect.

    A step over a range may take as long as its partitions one by one, which is longer than it does.
    """
    running: list[tuple[str, StepRun]] = []
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])):
        found = steps_of(instance, run).values()
        running += [(run.run_id, step) for step in found if step.begun and not step.ended and not step.made]
    if not running:
        return []
    past = _seconds_of_past_runs(platform)
    alerts = []
    for run_id, step in running:
        seconds = (now - min(step.begun)).total_seconds()
        usual = allowed_seconds(past.get(step.asset, ()))
        if usual is None or seconds <= usual[1] * len(step.partitions):
            continue
        expected, allowed = (each * len(step.partitions) for each in usual)
        text = (
            f"{step.asset} {step.span or ''} has been running for {seconds / 60:.0f} min; it usually takes {expected / 60:.1f} min "
            f"and never more than {allowed / 60:.1f} min is expected"
        )
        alerts.append(Alert(f"{_NOW}late:{run_id}:{step.asset}", LATE, "warning", step.asset, text, step.span, run_id=run_id))
    return alerts


def allowed_seconds(past: Sequence[float]) -> tuple[float, float] | None:
    """Usual seconds, and those beyond which a run is late; None where there is too little history to tell."""
    if len(past) < FEWEST_COMPARED:
        return None
    usual = median(past)
    deviation = median(abs(seconds - usual) for seconds in past)
    return usual, max(usual + LATE_DEVIATIONS * deviation, LATE_SHARE * usual, usual + LATE_SECONDS)


def _seconds_of_past_runs(platform: Platform) -> dict[str, list[float]]:
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        rows = connection.sql((Path(__file__).parent / "past_runs.sql").read_text(), params={"newest": RUNS_COMPARED}).fetchall()
    past: dict[str, list[float]] = {}
    for asset, seconds in rows:
        past.setdefault(asset, []).append(seconds)
    return past


def silent_daemons(instance: dg.DagsterInstance, now: datetime) -> list[Alert]:
    """One alert for all of the daemon that has run once and has not been heard of since; a home that never had one misses none."""
    beats = {kind: beat.timestamp for kind, beat in instance.get_daemon_heartbeats().items()}
    if not beats:
        return []
    required = sorted(instance.get_required_daemon_types())
    silent = [kind for kind in required if now.timestamp() - beats.get(kind, 0) > SILENT_DAEMON.total_seconds()]
    if not silent:
        return []
    heard = [beats[kind] for kind in silent if kind in beats]
    since = f"has been silent for {(now.timestamp() - min(heard)) / 60:.0f} min" if heard else "has never been heard of"
    part = "" if silent == required else f" ({', '.join(silent)})"
    text = f"Dagster's daemon{part} {since}. What it starts does not run. See its log, and restart it: `make ui`."
    return [Alert(f"{_NOW}daemon", DAEMON, "error", PLATFORM, text)]


def _publication(platform: Platform, outbox: Outbox, now: datetime) -> list[Alert]:
    if platform.hold_publishing or not is_behind(platform.home, platform.published_tables):
        outbox.take_note("behind_since", None)
        return []
    since = outbox.note("behind_since")
    if since is None:
        outbox.take_note("behind_since", now.isoformat())
        return []
    if now - datetime.fromisoformat(since) < BEHIND_FOR:
        return []
    shown = on_the_wall(datetime.fromisoformat(since), platform)
    text = f"analytics.duckdb has not shown the lake's newest commits since {shown}. Publishing fails: see the tick of publish_leftovers."
    return [Alert(f"{_NOW}publication", PUBLICATION, "error", PLATFORM, text)]


def deaf_addresses(outbox: Outbox) -> Iterable[Alert]:
    """One alert an address that accepts nothing."""
    for address, count in outbox.undelivered().items():
        text = f"{count} messages could not be delivered to {address}. When it works again: analytics-assets alerts --retry"
        yield Alert(f"{_NOW}undelivered:{address}", UNDELIVERED, "error", PLATFORM, text)


def look_at_deaf_addresses(outbox: Outbox, now: datetime) -> None:
    """Raise alerts of addresses that accept nothing, and end those of addresses that do again."""
    deaf = list(deaf_addresses(outbox))
    for alert in deaf:
        outbox.raise_alert(alert, now)
    for standing in outbox.alerts(standing_only=True):
        if standing.alert.kind == UNDELIVERED and standing.alert.key not in {alert.key for alert in deaf}:
            outbox.recover(standing.alert.key, now)


def rows_of_alerts(outbox: Outbox) -> list[dict[str, Any]]:
    """The rows of the table `alerts`."""
    return [
        {
            "alert": one.number,
            "kind": one.alert.kind,
            "severity": one.alert.severity,
            "subject": one.alert.subject,
            "partition": one.alert.partition,
            "owners": " ".join(one.alert.owners),
            "text": one.alert.text,
            "run_id": one.alert.run_id,
            "raised_at": one.raised_at,
            "seen_at": one.seen_at,
            "times_seen": one.times_seen,
            "recovered_at": one.recovered_at,
            "delivery": one.delivery,
        }
        for one in outbox.alerts()
    ]
