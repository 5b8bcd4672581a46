"""A simulated software company as lines of a KISSmetrics raw data export, with the truth that a reader must find.

OUT/revisions/N.json                 events, property sets and aliases, by receipt, a file for each business day of receipt
OUT/truth_software.json              `SoftwareTruth`
OUT/truth_accounts.parquet           `SoftwareHistory.accounts`; its owner as the identity's text
OUT/truth_account_days.parquet       `SoftwareHistory.account_days`, by account_id
OUT/truth_account_hours.parquet      `SoftwareHistory.account_hours`, by account_id
OUT/truth_account_members.parquet    `SoftwareHistory.memberships`, by identity and account_id

A membership is a group call as it comes in through Segment: a property set `group - id`, `group - name`, `group - plan`.
Turns of contracts have the names of KISSmetrics' essentials for subscriptions. What is simulated is decided in
`software`, not here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import BusinessDays
from analytics_assets.simulation.contracts import BILLED, TRIAL, TURNS
from analytics_assets.simulation.export_folder import (
    CompanyLines,
    json_text,
    lateness,
    money,
    repeat_and_break,
    write_folder,
    written,
)
from analytics_assets.simulation.software import HOUR_WEIGHTS, SoftwareHistory

LATE_SHARE = 0.01
"""Share of events that a telephone without a connection sends later; turns, memberships and aliases come in at once."""
_LATE_SECONDS = (3_600, 7_200, 7_200, 26 * 3_600, 72 * 3_600, 9 * 86_400)
_TURN_EVENTS = {turn: "trial started" if turn == TRIAL else f"subscription {turn}" for turn in TURNS}


@dataclass(frozen=True)
class SoftwareTruth:
    """What a correct reader finds in the lines of a software company. Amounts are pence; days are business days."""

    time_zone: str
    currency: str
    first_day: str
    last_day: str
    files: int
    lines: int
    """Every line of the company's files: events + property_sets + aliases + repeated_lines + broken_lines."""
    broken_lines: int
    """Lines to set aside, each time that they stand there."""
    repeated_lines: int
    """Further copies of a line, which must not count twice."""
    late_lines: int
    """Lines received later than they happened, further copies not counted."""
    octal_lines: int
    """Lines that are JSON only once their octal escapes are decoded, further copies not counted."""
    events: int
    """Lines with `_n`, turns of contracts among them, without repeats."""
    property_sets: int
    """Memberships, without repeats."""
    aliases: int
    events_without_account: int
    """Visits of people before they had a name: in no account's usage."""
    turns: dict[str, int]
    """Turns of contracts by kind."""
    billed_pence: int
    """What was billed; prices of upgrades and downgrades are no cash."""
    accounts: int
    churned: dict[str, int]
    """Accounts whose contract ended in the window, by driver."""
    outages: list[tuple[int, int]]
    """First second and the second after the last of each outage."""
    parameters: dict[str, Any]
    """The `SoftwareCompany`."""


def write_export(history: SoftwareHistory, out: Path, faults: bool = True) -> SoftwareTruth:
    """Write the export of this company alone to the folder `out`, as `write_folder` does, and give its truth."""
    lines, truth = company_lines(history, faults)
    write_folder(out, [lines])
    return truth


def company_lines(history: SoftwareHistory, faults: bool = True) -> tuple[CompanyLines, SoftwareTruth]:
    """Make the lines of the export and its truth. The same history and faults give the same bytes."""
    company = history.company
    # A stream of its own beside those of `simulate`, so that faults change nothing that happened.
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([company.seed, 3])))
    lines, counts = _export_lines(history, faults, rng)
    # A repeated line of the last day may be received a day after the latest of late ones.
    days = company.days + max(_LATE_SECONDS) // 86_400 + 3
    calendar = BusinessDays(company.first_day, days, ZoneInfo(company.time_zone), HOUR_WEIGHTS)
    received_on = pl.Series("day", calendar.days(lines["received"].to_numpy()))
    files = lines.with_columns(received_on).partition_by("day", maintain_order=True, include_key=False)
    truth = _truth(history, len(files), counts)
    return CompanyLines(files, _truth_files(history, truth)), truth


def _export_lines(history: SoftwareHistory, faults: bool, rng: np.random.Generator) -> tuple[pl.DataFrame, dict[str, int]]:
    """Make every line in order of receipt: line, received; and count what `SoftwareTruth` counts in lines."""
    identity = pl.Series(list(map(json_text, history.identities["identity"])))
    account = pl.Series(list(map(json_text, history.accounts["account_id"])))
    aliases = _alias_lines(history, identity)
    memberships = _membership_lines(history, identity, account, faults, rng)
    turns = _turn_lines(history, identity, account)
    events = _event_lines(history, identity, account)
    if faults:
        events = events.with_columns(late=lateness(events.height, LATE_SHARE, _LATE_SECONDS, rng))
    # Lines received in the same second stay in this order, so that people are known before they do something.
    lines = pl.concat([aliases, memberships, turns, events])
    counts = {
        "aliases": aliases.height,
        "events": turns.height + events.height,
        "property_sets": memberships.height,
        "late_lines": int((lines["late"] > 0).sum()),
        "octal_lines": int(lines["octal"].sum()),
        "repeated_lines": 0,
        "broken_lines": 0,
    }
    lines = lines.select("line", received=pl.col("at") + pl.col("late"))
    if faults:
        lines, faulty = repeat_and_break(lines, rng)
        counts |= faulty
    return lines.sort("received", maintain_order=True), counts


def _on_time(frame: pl.DataFrame, line: pl.Expr) -> pl.DataFrame:
    return frame.select("at", line=line, octal=pl.lit(False), late=pl.lit(0, pl.Int64))


def _alias_lines(history: SoftwareHistory, identity: pl.Series) -> pl.DataFrame:
    frame = history.aliases.select(
        "at", p=identity.gather(history.aliases["identity"]), p2=identity.gather(history.aliases["alias"])
    )
    return _on_time(frame, pl.format('{{"_p":{},"_p2":{},"_t":{}}}', "p", "p2", "at"))


def _membership_lines(
    history: SoftwareHistory, identity: pl.Series, account: pl.Series, faults: bool, rng: np.random.Generator
) -> pl.DataFrame:
    told = history.memberships
    names, octal = written(list(map(json_text, history.accounts["account_name"])), told["account"], faults, rng)
    frame = told.select(
        "at", "plan", p=identity.gather(told["identity"]), account=account.gather(told["account"]), name=names, octal=octal
    )
    line = pl.format(
        '{{"_p":{},"_t":{},"group - id":{},"group - name":{},"group - plan":"{}"}}', "p", "at", "account", "name", "plan"
    )
    return frame.select("at", line=line, octal="octal", late=pl.lit(0, pl.Int64))


def _turn_lines(history: SoftwareHistory, identity: pl.Series, account: pl.Series) -> pl.DataFrame:
    turns = history.turns
    frame = turns.with_columns(
        event=pl.col("turn").replace_strict(_TURN_EVENTS),
        p=identity.gather(turns["identity"]),
        account=account.gather(turns["account"]),
        # Trials and cancellations have no price.
        price=pl.format(
            ',"subscription billing amount":"{}","subscription billing length":"{}"', money(pl.col("amount_pence")), "months"
        ).fill_null(""),
    )
    template = '{{"_n":"{}","_p":{},"_t":{},"account id":{},"subscription plan level":"{}","seats":"{}"{}}}'
    return _on_time(frame, pl.format(template, "event", "p", "at", "account", "plan", "seats", "price"))


def _event_lines(history: SoftwareHistory, identity: pl.Series, account: pl.Series) -> pl.DataFrame:
    events = history.events
    frame = events.with_columns(
        p=identity.gather(events["identity"]),
        account=pl.when("names_account").then(pl.format(',"account id":{}', account.gather(events["account"]))).fill_null(""),
        feature=pl.format(',"feature":"{}"', "feature").fill_null(""),
    )
    return _on_time(frame, pl.format('{{"_n":"{}","_p":{},"_t":{}{}{}}}', "name", "p", "at", "account", "feature"))


def _truth(history: SoftwareHistory, files: int, counts: dict[str, int]) -> SoftwareTruth:
    """Sum up the history and the lines of its export."""
    company, turns = history.company, history.turns
    churned = history.accounts.filter(pl.col("ended_day") < company.days)
    return SoftwareTruth(
        time_zone=company.time_zone,
        currency=company.currency,
        first_day=company.first_day.isoformat(),
        last_day=company.last_day.isoformat(),
        files=files,
        lines=sum(counts[kind] for kind in ("events", "property_sets", "aliases", "repeated_lines", "broken_lines")),
        **counts,
        events_without_account=history.events["account"].null_count(),
        turns={turn: turns.filter(pl.col("turn") == turn).height for turn in TURNS},
        billed_pence=int(turns.filter(pl.col("turn") == BILLED)["amount_pence"].sum()),
        accounts=history.accounts.height,
        churned=dict(churned.group_by("driver").len().sort("driver").iter_rows()),
        outages=history.outages.rows(),
        parameters=asdict(company) | {"first_day": company.first_day.isoformat(), "last_day": company.last_day.isoformat()},
    )


def _truth_files(history: SoftwareHistory, truth: SoftwareTruth) -> dict[str, str | pl.DataFrame]:
    """The files of the truth, with texts for row numbers and dates for day numbers."""
    identity, account, first_day = history.identities["identity"], history.accounts["account_id"], history.company.first_day
    dates = pl.Series([first_day + timedelta(n) for n in range(history.company.days)])
    day_columns = [name for name in history.accounts.columns if name.endswith("_day")]
    accounts = history.accounts.with_columns((pl.lit(first_day) + pl.duration(days=name)).alias(name) for name in day_columns)
    accounts = accounts.rename({name: name.removesuffix("day") + "on" for name in day_columns})
    days, hours, told = history.account_days, history.account_hours, history.memberships
    return {
        "truth_software.json": json.dumps(asdict(truth), indent=1, ensure_ascii=False) + "\n",
        "truth_accounts.parquet": accounts.with_columns(owner=identity.gather(accounts["owner"])),
        "truth_account_days.parquet": days.with_columns(
            account_id=account.gather(days["account"]), day=dates.gather(days["day"])
        ).drop("account"),
        "truth_account_hours.parquet": hours.with_columns(account_id=account.gather(hours["account"])).drop("account"),
        "truth_account_members.parquet": told.with_columns(
            pl.from_epoch("at").dt.replace_time_zone("UTC"),
            identity=identity.gather(told["identity"]),
            account_id=account.gather(told["account"]),
        ).drop("account"),
    }
