"""A B2B software company whose truth is known: which accounts are healthy, which leave, when, and how it shows before.

What is planted, and what a product that reads the export has to find:

* Health: every account has a latent health, its own level with a slow random walk around it. People come and use more
  of the product the healthier their account is. How busy an account is otherwise (seats, events of a session, eagerness
  of its people) is drawn apart from health, so that no raw count ranks accounts by health.
* Churn: at the end of each paid term an account leaves with a probability that falls with its level of health. It
  cancels in the last days, or is just not billed again. `decay_days` before the term ends, health begins to decay by one
  of `contracts.DRIVERS`; a part leaves without a sign, and a part of those who stay decays for as long and comes back.
* Everything that must not be taken for ill health: weekends, hours of the day, the days between the years, outages,
  trials, small accounts, people who leave and are replaced, move to another account, or work for two.

Here: what decides a company, the order in which it happens, and the truth that is planted. How contracts begin, decay and end is in
`contracts.py`, who uses the product when in `product_use.py`, how it is written down in `kissmetrics_software.py`.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from analytics_assets.simulation import contracts, product_use
from analytics_assets.simulation.business_days import BusinessDays, Floats, Ints
from analytics_assets.simulation.contracts import HOLDOUT_DAYS, PLANS, Account
from analytics_assets.simulation.product_use import SIGNED_IN, SIGNED_UP, VISITED

# Relative weight of each local hour: an office's day with a lunch break, some evenings, hardly a night.
HOUR_WEIGHTS = np.array(
    [1, 0.5, 0.5, 0.5, 0.5, 1, 4, 14, 38, 58, 62, 58, 40, 46, 60, 60, 54, 40, 20, 11, 9, 7, 4, 2], dtype=np.float64
)
_STEMS = ("Nordwind", "Café Lumière", "Atlas", "Brücke", "Peña", "Harbour", "Quill", "Ångström", "Kestrel", "Résidence")
_KINDS = ("Studio", "Logistics", "GmbH", "& Söhne", "Partners", "Care", "Labs", "Énergie", "Foods", "Legal")


@dataclass(frozen=True)
class SoftwareCompany:
    """Everything that decides a company; the same values always make the same history.

    Raises `ValueError`, naming the parameter, for values that no company can have.
    """

    first_day: date = date(2025, 10, 1)
    """First business day, local: tracking begins on it."""
    last_day: date = date(2026, 9, 30)
    """Last business day, local and inclusive."""
    time_zone: str = "Europe/London"
    """IANA name of the zone in which days begin and hours have their weights."""
    currency: str = "GBP"
    """ISO 4217; amounts are in hundredths of it ("pence")."""
    seed: int = 1
    """Seed of every random choice."""

    accounts: int = 360
    """Accounts that ever begin in the window or before it."""
    founding_share: float = 0.6
    """Share of accounts that are customers before the first day; the others begin with a trial in the window."""
    seats_median: float = 6.0
    """Median seats of an account at its beginning; at least 1."""
    seats_spread: float = 0.8
    """Standard deviation of the logarithm of seats."""
    yearly_share: float = 0.3
    """Share of contracts that are billed by the year."""
    trial_days: int = 14
    """Length of a free trial."""
    trial_conversion: float = 0.6
    """Probability that the trial of an account of average health becomes a contract."""
    churn: float = 0.09
    """Probability that an account of average health leaves at the end of a month's term; of a year, the odds are `YEARLY` fold."""
    churn_slope: float = 5.0
    """How much the log odds of leaving fall from an account of no health to one of full health."""
    decay_days: int = 42
    """Days before the end of the last term at which decay begins; it is complete after two thirds of them."""
    cancel_share: float = 0.7
    """Probability that one who leaves cancels, up to three days before the end; the others are not billed again."""
    reprieved_share: float = 0.08
    """Share of the accounts that stay which decay for `decay_days` and recover."""
    expansion: float = 0.08
    """Probability a month that a fully healthy account buys more seats or a better plan."""
    turnover: float = 1.0
    """People who leave an account and are replaced, per seat and year."""
    moving_share: float = 0.2
    """Share of the people who leave that move to another account and keep their identity."""
    two_accounts_share: float = 0.01
    """Share of people who work for a second account as well."""
    anonymous_share: float = 0.3
    """Share of people who first came to the site without a name; all who start a trial did."""
    outages: int = 2
    """Outages, spread over the window, each from ten o'clock on a weekday."""
    outage_hours: int = 5
    """Hours of an outage; nearly nobody gets in."""
    lull: float = 0.3
    """How likely people come from 24 December to 1 January, beside other days."""
    grace_days: int = 7
    """Days after which a contract that is not billed again has ended, as `[subscriptions] grace_days` says."""

    def __post_init__(self) -> None:
        """Check every parameter."""
        if self.last_day < self.first_day:
            raise ValueError(f"last_day {self.last_day} is before first_day {self.first_day}")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"time_zone {self.time_zone!r} is not an IANA time zone") from error
        for name, least in (
            *(("accounts", 1), ("trial_days", 1), ("decay_days", 3)),
            *(("seed", 0), ("outages", 0), ("outage_hours", 0), ("grace_days", 0)),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name in (
            *("founding_share", "yearly_share", "trial_conversion", "churn", "cancel_share", "reprieved_share", "expansion"),
            *("moving_share", "two_accounts_share", "anonymous_share", "lull"),
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("seats_median", "seats_spread", "churn_slope", "turnover"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {getattr(self, name)}")

    @property
    def days(self) -> int:
        """Business days in the window."""
        return (self.last_day - self.first_day).days + 1


@dataclass(frozen=True)
class SoftwareHistory:
    """What happened at a software company. Times (`at`) are UTC epoch seconds, days count from 0 = the first day.

    `account`, `person` and `identity` are rows of `accounts`, `people` and `identities`. Frames of what happened end with
    the window; `accounts` knows of the `HOLDOUT_DAYS` after it too.
    """

    company: SoftwareCompany
    accounts: pl.DataFrame
    """One row per account: account_id, account_name, founding (bool), health_level (0 to 100, its own level without decay),
    owner (a person), months (of a term), trial_day (null: founding), billed_day (first bill; null: the trial came to
    nothing), driver (one of `contracts.DRIVERS`; null: does not leave by the end of the holdout), decay_day (when decay begins),
    recovered_day (of the reprieved: when health is back), canceled_day, paid_through_day (last day paid for of one who
    leaves), ended_day (the day of cancelling, or `grace_days` after the last day paid for)."""
    account_days: pl.DataFrame
    """One row per account and day of the window on which it exists: account, day, status (`unbilled`, `trial`, `active`,
    `canceled`, `lapsed`; a trial that came to nothing stays `trial`), plan, seats, mrr_pence (null unless active), health
    (0 to 100; null once nobody comes any more), members (people whose stint covers the day). Seats and plans are what
    the contract says; the export names those of founding accounts first with a bill or a person."""
    people: pl.DataFrame
    """One row per person: identity (the named one), device (an anonymous identity, or null). Some join after the window."""
    identities: pl.DataFrame
    """One row per identity: identity (the text), named (bool)."""
    stints: pl.DataFrame
    """One row per time that a person belongs to an account: person, account, first_day, end_day (day after the last;
    may lie after the window), second (bool: the person works for two accounts, so that every event names its account),
    rank (0 to 1: in this order people stop coming where the driver is `FEWER_USERS`; never the owner, who has 1)."""
    memberships: pl.DataFrame
    """One row per property set that says whose account a person is, sent at a stint's first event: identity, at, account, plan."""
    turns: pl.DataFrame
    """One row per turn of a contract: account, identity (the owner's), at, turn (one of `contracts.TURNS`), plan, seats, months,
    amount_pence (the price of the whole term, also of an upgrade; null for a trial and a cancellation)."""
    events: pl.DataFrame
    """One row per event that is no turn: identity, person, at, name, feature (the property, or null), account (whose it is;
    null for visits before the person had a name), names_account (bool). No two rows share identity, name and second."""
    aliases: pl.DataFrame
    """One row per device that was tied to a name: identity (the named one), alias (the anonymous one), at."""
    account_hours: pl.DataFrame
    """One row per account and hour with an event: account, hour (instant at which the business hour begins), events,
    active_users, features_used. Turns of contracts are nothing that its people do."""
    outages: pl.DataFrame
    """One row per outage: from_at, until_at."""
    first_instant: int
    """The instant at which the first day begins."""
    end_instant: int
    """The instant at which the last day has ended."""


def simulate(company: SoftwareCompany) -> SoftwareHistory:
    """Let the company live through its window, and its contracts through the `HOLDOUT_DAYS` after it. Pure: no clock, no files.

    The order of the rows of every frame is part of the result.
    """
    # A stream of random numbers for each part, so that a change of one part's parameters leaves those before it.
    seeds = np.random.SeedSequence([company.seed, 2]).spawn(6)
    streams = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
    calendar = BusinessDays(company.first_day, company.days + HOLDOUT_DAYS, ZoneInfo(company.time_zone), HOUR_WEIGHTS)
    accounts = contracts.accounts(company, streams[0])
    stints, owner, persons = product_use.stints(company, accounts, streams[1])
    decay, health = product_use.health(company, accounts, streams[2])
    latent = health * (1 - 0.85 * decay)
    identities, device = _identities(company, accounts, owner, persons, streams[3])
    turns = contracts.turns(company, calendar, accounts, owner, streams[3])
    outages = product_use.outages(company, calendar)
    used = product_use.used(company, calendar, accounts, stints, decay, health, outages, streams[4])
    used = product_use.begun_by_trial(used, turns, stints, owner)
    memberships = _memberships(calendar, used, turns, accounts)
    aliases = _aliases(calendar, memberships, device)
    events = _in_window(company, calendar, used, product_use.visits(company, calendar, stints, aliases, streams[5]))
    return SoftwareHistory(
        company=company,
        accounts=_account_truth(accounts, owner),
        account_days=_account_days(company, accounts, stints, latent),
        people=pl.DataFrame(
            {
                "identity": identities["identity"][:persons],
                "device": [identities["identity"][d] if d >= 0 else None for d in device.tolist()],
            },
            schema_overrides={"device": pl.String},
        ),
        identities=identities,
        stints=stints,
        memberships=memberships,
        turns=turns,
        events=events,
        aliases=aliases,
        account_hours=_account_hours(company, events),
        outages=outages,
        first_instant=int(calendar.starts[0]),
        end_instant=int(calendar.starts[company.days]),
    )


def _identities(
    company: SoftwareCompany, accounts: list[Account], owner: Ints, persons: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, Ints]:
    """Name people, and give some a device with an anonymous id (-1: none): all who start a trial, and some others."""
    comes_unnamed = rng.random(persons) < company.anonymous_share
    comes_unnamed[owner] = [not account.founding for account in accounts]
    raw = rng.bytes(20 * int(comes_unnamed.sum()))
    devices = [base64.b64encode(raw[start : start + 20]).decode() for start in range(0, len(raw), 20)]
    device = np.full(persons, -1)
    device[comes_unnamed] = persons + np.arange(len(devices))
    names = [f"user{number + 1}@office.test" for number in range(persons)]
    named = np.arange(persons + len(devices)) < persons
    return pl.DataFrame({"identity": names + devices, "named": named}), device


def _memberships(calendar: BusinessDays, used: pl.DataFrame, turns: pl.DataFrame, accounts: list[Account]) -> pl.DataFrame:
    """Say whose account a person is, and its plan, two seconds before the first event of each stint."""
    first = used.group_by("stint").agg(pl.col("at").min(), pl.col("person").first(), pl.col("account").first())
    opened = pl.DataFrame({"account": np.arange(len(accounts)), "opened": [account.turns[0][2] for account in accounts]})
    return (
        first.select(
            identity="person", at=pl.max_horizontal(pl.col("at") - 2, pl.lit(int(calendar.starts[0]))), account="account"
        )
        .sort("at", "identity", "account")
        .join_asof(turns.select("account", "at", "plan"), on="at", by="account", check_sortedness=False)
        .join(opened, on="account", maintain_order="left")
        .select("identity", "at", "account", plan=pl.coalesce("plan", "opened"))
    )


def _aliases(calendar: BusinessDays, memberships: pl.DataFrame, device: Ints) -> pl.DataFrame:
    """Tie each device to its person's name a second before the person's first membership is told."""
    known = memberships.group_by("identity").agg(pl.col("at").min())
    known = known.with_columns(alias=pl.Series(device).gather(known["identity"])).filter(pl.col("alias") >= 0)
    at = pl.max_horizontal(pl.col("at") - 1, pl.lit(int(calendar.starts[0])))
    return known.select("identity", "alias", at=at).sort("at", "identity")


def _in_window(company: SoftwareCompany, calendar: BusinessDays, used: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """All events of the window in order, each person's of one name once a second, as KISSmetrics counts them."""
    events = pl.concat([used.select(pl.col("person").alias("identity"), *visits.columns[1:]), visits])
    inside = (pl.col("at") >= int(calendar.starts[0])) & (pl.col("at") < int(calendar.starts[company.days]))
    return (
        events.filter(inside)
        .sort("at", "identity", "name", "account", "feature", "names_account", maintain_order=True)
        .unique(["identity", "name", "at"], keep="first", maintain_order=True)
    )


def _account_truth(accounts: list[Account], owner: Ints) -> pl.DataFrame:
    """The columns of `SoftwareHistory.accounts`."""
    days = ("trial_day", "billed_day", "decay_day", "recovered_day", "canceled_day", "paid_through_day", "ended_day")
    return pl.DataFrame(
        {
            "account_id": [account_id(n) for n in range(len(accounts))],
            "account_name": [f"{_STEMS[n % 10]} {_KINDS[n // 10 % 10]} {n + 1}" for n in range(len(accounts))],
            "founding": [account.founding for account in accounts],
            "health_level": [round(100 * account.level, 4) for account in accounts],
            "owner": owner,
            "months": [account.months for account in accounts],
            "driver": pl.Series([account.driver for account in accounts], dtype=pl.String),
            **{name: pl.Series([getattr(account, name) for account in accounts], dtype=pl.Int64) for name in days},
        }
    )


def account_id(number: int) -> str:
    """Give the id of account `number`, 0 = the first."""
    return f"A-{number + 1001}"


def _account_days(company: SoftwareCompany, accounts: list[Account], stints: pl.DataFrame, latent: Floats) -> pl.DataFrame:
    """The columns of `SoftwareHistory.account_days`."""
    frames = []
    for n, account in enumerate(accounts):
        day = np.arange(account.trial_day or 0, company.days)
        turned = [turn[0] for turn in account.turns]
        latest = np.maximum(np.searchsorted(turned, day, side="right") - 1, 0)
        billed = day >= (company.days if account.billed_day is None else account.billed_day)
        ended = day >= (company.days if account.ended_day is None else account.ended_day)
        open_status = "unbilled" if account.founding else "trial"
        gone = "lapsed" if account.canceled_day is None else "canceled"
        seats = np.array([turn[3] for turn in account.turns])[latest]
        plan = [account.turns[turn][2] for turn in latest]
        price = np.array([PLANS[name][account.months == 12] for name in plan], dtype=np.int64)
        frames.append(
            pl.DataFrame(
                {
                    "account": np.full(len(day), n),
                    "day": day,
                    "status": np.select([ended, billed], [gone, "active"], open_status).tolist(),
                    "plan": plan,
                    "seats": seats,
                    "mrr_pence": seats * price,
                    "health": np.round(100 * latent[n, day], 4),
                }
            ).with_columns(
                mrr_pence=pl.when(pl.col("status") == "active").then("mrr_pence"),
                health=pl.when(pl.col("day") < account.stop_day).then("health"),
            )
        )
    members = (
        stints.select("account", "person", day=pl.int_ranges("first_day", pl.min_horizontal("end_day", pl.lit(company.days))))
        .explode("day", empty_as_null=False)
        .group_by("account", "day")
        .agg(members=pl.col("person").n_unique().cast(pl.Int64))
    )
    days = pl.concat(frames).join(members, on=["account", "day"], how="left", maintain_order="left")
    return days.with_columns(pl.col("members").fill_null(0))


def _account_hours(company: SoftwareCompany, events: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SoftwareHistory.account_hours`."""
    used = events.filter(pl.col("account").is_not_null()).select(
        "account",
        "at",
        "person",
        feature=pl.coalesce("feature", pl.when(~pl.col("name").is_in([SIGNED_IN, SIGNED_UP, VISITED])).then("name")),
    )
    local = pl.from_epoch("at").dt.replace_time_zone("UTC").dt.convert_time_zone(company.time_zone)
    offset = (local.dt.base_utc_offset() + local.dt.dst_offset()).dt.total_seconds()
    return (
        used.with_columns(hour=pl.col("at") - (pl.col("at") + offset) % 3_600)
        .group_by("account", "hour")
        .agg(
            events=pl.len().cast(pl.Int64),
            active_users=pl.col("person").n_unique().cast(pl.Int64),
            features_used=pl.col("feature").drop_nulls().n_unique().cast(pl.Int64),
        )
        .sort("hour", "account")
        .with_columns(pl.from_epoch("hour").dt.replace_time_zone("UTC"))
    )
