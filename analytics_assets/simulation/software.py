"""A B2B software company whose truth is known: which accounts are healthy, which leave, when, and how it shows before.

What is planted, and what a product that reads the export has to find:

* Health: every account has a latent health, its own level with a slow random walk around it. People come and use more
  of the product the healthier their account is. How busy an account is otherwise (seats, events of a session, eagerness
  of its people) is drawn apart from health, so that no raw count ranks accounts by health.
* Churn: at the end of each paid term an account leaves with a probability that falls with its level of health. It
  cancels in the last days, or is just not billed again. `decay_days` before the term ends, health begins to decay by one
  of `DRIVERS`; a part leaves without a sign, and a part of those who stay decays for as long and comes back.
* Everything that must not be taken for ill health: weekends, hours of the day, the days between the years, outages,
  trials, small accounts, people who leave and are replaced, move to another account, or work for two.

How the company is written down as an export is not decided here.
"""

from __future__ import annotations

import base64
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import BusinessDays, Floats, Ints

HOLDOUT_DAYS = 90
"""Days after the last day in which contracts run on: the future that a churn model has to predict."""
USAGE_DECAY, FEWER_USERS, FAILED_ADOPTION = "usage decay", "fewer users", "failed adoption"
DOWNGRADE, SUDDEN = "downgrade", "sudden"
DRIVERS = (USAGE_DECAY, FEWER_USERS, FAILED_ADOPTION, DOWNGRADE, SUDDEN)
"""How an account decays before it leaves: people do less; people stop coming; nobody ever gets beyond `BASIC_FEATURES`
features; seats are given up; not at all."""
DRIVER_SHARES = (0.34, 0.28, 0.16, 0.12, 0.10)
BASIC_FEATURES = 2
YEARLY = 2.5
"""Odds of leaving at the end of a year's term, beside those at the end of a month's."""

TRIAL, BILLED, UPGRADED, DOWNGRADED, CANCELED = "trial", "billed", "upgraded", "downgraded", "canceled"
TURNS = (TRIAL, BILLED, UPGRADED, DOWNGRADED, CANCELED)
"""Values of `turn` in `SoftwareHistory.turns`."""

# Relative weight of each local hour: an office's day with a lunch break, some evenings, hardly a night.
HOUR_WEIGHTS = np.array(
    [1, 0.5, 0.5, 0.5, 0.5, 1, 4, 14, 38, 58, 62, 58, 40, 46, 60, 60, 54, 40, 20, 11, 9, 7, 4, 2], dtype=np.float64
)
WEEKDAY_WEIGHTS = np.array([1.0, 1.06, 1.06, 1.0, 0.86, 0.12, 0.10])
"""How likely people come on Monday, ..., Sunday, beside an ordinary weekday."""

# Plan: pence a seat and month, billed by month and by year.
PLANS: dict[str, tuple[int, int]] = {"starter": (1_200, 1_000), "team": (2_500, 2_100), "business": (4_500, 3_800)}
_PLAN_SHARES = (0.5, 0.35, 0.15)

# Feature: event, value of the property `feature` or none. Half are events of their own, half one event with a property.
FEATURES: tuple[tuple[str, str | None], ...] = (
    ("viewed dashboard", None),
    ("created task", None),
    ("used feature", "comments"),
    ("used feature", "search"),
    ("created report", None),
    ("used feature", "file upload"),
    ("used feature", "calendar"),
    ("exported data", None),
    ("used feature", "automation"),
    ("connected integration", None),
    ("used feature", "API"),
    ("used feature", "audit log"),
)
SIGNED_IN, SIGNED_UP, VISITED = "signed in", "signed up", "visited site"
"""Events that use no feature."""
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
    nothing), driver (one of `DRIVERS`; null: does not leave by the end of the holdout), decay_day (when decay begins; null: none),
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
    """One row per turn of a contract: account, identity (the owner's), at, turn (one of `TURNS`), plan, seats, months,
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


@dataclass
class _Account:
    """An account's contract, in days from the first day; drawn account by account because each turn hangs on the last."""

    level: float
    founding: bool
    months: int
    plan: str
    seats: int
    trial_day: int | None = None
    trial_end: int | None = None
    billed_day: int | None = None
    driver: str | None = None
    decay_day: int | None = None
    recovered_day: int | None = None
    canceled_day: int | None = None
    paid_through_day: int | None = None
    stop_day: int = 0
    """First day on which nobody comes any more; the end of the holdout for those who stay."""
    ended_day: int | None = None

    def __post_init__(self) -> None:
        self.turns: list[tuple[int, str, str, int, int, int | None]] = []
        """day, turn, plan, seats, months, amount_pence."""

    def bill(self, day: int, months: int) -> None:
        """The term's price is paid."""
        self.turn(day, BILLED, months)

    def turn(self, day: int, turn: str, months: int) -> None:
        """Note a turn at today's plan and seats; the price is that of the whole term."""
        priced = turn not in (TRIAL, CANCELED)
        amount = months * self.seats * PLANS[self.plan][self.months == 12] if priced else None
        self.turns.append((day, turn, self.plan, self.seats, months, amount))


def months_later(day: date, months: int) -> date:
    """The same day of a later month, or its last day where it has none."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def simulate(company: SoftwareCompany) -> SoftwareHistory:
    """Let the company live through its window, and its contracts through the `HOLDOUT_DAYS` after it. Pure: no clock, no files.

    The order of the rows of every frame is part of the result.
    """
    # A stream of random numbers for each part, so that a change of one part's parameters leaves those before it.
    seeds = np.random.SeedSequence([company.seed, 2]).spawn(6)
    streams = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
    calendar = BusinessDays(company.first_day, company.days + HOLDOUT_DAYS, ZoneInfo(company.time_zone), HOUR_WEIGHTS)
    accounts = _accounts(company, streams[0])
    stints, owner, persons = _stints(company, accounts, streams[1])
    decay, health = _health(company, accounts, streams[2])
    latent = health * (1 - 0.85 * decay)
    identities, device = _identities(company, accounts, owner, persons, streams[3])
    turns = _turns(company, calendar, accounts, owner, streams[3])
    outages = _outages(company, calendar)
    used = _used(company, calendar, accounts, stints, decay, health, outages, streams[4])
    used = _begun_by_trial(used, turns, stints, owner)
    memberships = _memberships(calendar, used, turns, accounts)
    aliases = _aliases(calendar, memberships, device)
    events = _in_window(company, calendar, used, _visits(company, calendar, stints, aliases, streams[5]))
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


def _accounts(company: SoftwareCompany, rng: np.random.Generator) -> list[_Account]:
    """Draw every account and live through its contract, to the end of the holdout."""
    horizon = company.days + HOLDOUT_DAYS
    level = rng.beta(5.0, 2.2, company.accounts)
    founding = rng.random(company.accounts) < company.founding_share
    seats = np.exp(rng.normal(np.log(max(company.seats_median, 1.0)), company.seats_spread, company.accounts))
    accounts = []
    for n in range(company.accounts):
        account = _Account(
            level=float(level[n]),
            founding=bool(founding[n]),
            months=12 if rng.random() < company.yearly_share else 1,
            plan=str(rng.choice(list(PLANS), p=_PLAN_SHARES)),
            seats=int(np.clip(round(seats[n]), 1, 200)),
            stop_day=horizon,
        )
        if _begins(company, account, rng):
            _runs_on(company, account, horizon, rng)
        if account.driver is None and rng.random() < company.reprieved_share:
            begin = max(account.billed_day or 0, 0) + 7
            if account.billed_day is not None and begin + company.decay_days < horizon:
                account.decay_day = int(rng.integers(begin, horizon - company.decay_days))
                account.recovered_day = account.decay_day + company.decay_days
        accounts.append(account)
    return accounts


def _begins(company: SoftwareCompany, account: _Account, rng: np.random.Generator) -> bool:
    """Bill the first term that the export knows: of a founding account its next one, of others after the trial, if ever."""
    if account.founding:
        # Its bills went through another system until its day of the month comes for the first time; then it is billed for
        # what remains of its year, so that its renewal falls where it would have fallen.
        account.billed_day = int(rng.integers(0, 30))
        account.bill(account.billed_day, int(rng.integers(1, 13)) if account.months == 12 else 1)
        return True
    day = int(rng.integers(0, max(company.days - 1, 1)))
    while (company.first_day + timedelta(day)).weekday() >= 5 and day > 0:
        day -= 1
    account.trial_day, account.trial_end = day, day + company.trial_days
    account.turn(day, TRIAL, 0)
    odds = (
        company.trial_conversion / max(1 - company.trial_conversion, 1e-9) * np.exp(company.churn_slope * (account.level - 0.7))
    )
    if rng.random() >= odds / (1 + odds):
        account.decay_day = day
        account.stop_day = day + int(rng.integers(4, company.trial_days + 1))
        return False
    account.billed_day = account.trial_end
    account.bill(account.billed_day, account.months)
    return True


def _runs_on(company: SoftwareCompany, account: _Account, horizon: int, rng: np.random.Generator) -> None:
    """Renew the contract term by term, expanding on the way, until the account leaves or the holdout ends."""
    anchor = company.first_day + timedelta(account.turns[-1][0])
    months = account.turns[-1][4]
    bought = months
    begin = account.turns[-1][0]
    while True:
        due = (months_later(anchor, bought) - company.first_day).days
        odds = company.churn / max(1 - company.churn, 1e-9) * np.exp(-company.churn_slope * (account.level - 0.7))
        odds *= YEARLY if account.months == 12 else 1.0
        leaves = rng.random() < odds / (1 + odds)
        driver = str(rng.choice(DRIVERS, p=DRIVER_SHARES))
        if leaves and due < horizon:
            _leaves(company, account, driver, begin, due, months, rng)
            return
        for month_begin in range(begin + 1, min(due, horizon) - 2, 30):
            day = month_begin + int(rng.integers(0, min(30, max(due - month_begin - 1, 1))))
            if rng.random() < company.expansion * max(account.level - 0.4, 0) / 0.6 and day < due - 1:
                _expands(account, rng)
                account.turn(day, UPGRADED, months)
        if due >= horizon:
            return
        months = account.months
        bought += months
        account.bill(due, months)
        begin = due


def _expands(account: _Account, rng: np.random.Generator) -> None:
    plans = list(PLANS)
    better = plans.index(account.plan) + 1
    if better < len(plans) and rng.random() < 0.25:
        account.plan = plans[better]
    else:
        account.seats += max(1, round(account.seats * rng.uniform(0.15, 0.5)))


def _leaves(
    company: SoftwareCompany,
    account: _Account,
    driver: str,
    begin: int,
    due: int,
    months: int,
    rng: np.random.Generator,
) -> None:
    """End the contract with the term that is due, and let the decay before it begin."""
    given_up = max(begin + 1, due - company.decay_days + 2)
    if driver == DOWNGRADE and (account.seats < 3 or given_up >= due - 4):
        driver = USAGE_DECAY
    account.driver = driver
    account.decay_day = None if driver == SUDDEN else due - company.decay_days
    account.paid_through_day = due - 1
    if driver == DOWNGRADE:
        account.seats = max(1, round(account.seats * 0.6))
        account.turn(given_up, DOWNGRADED, months)
    if rng.random() < company.cancel_share:
        account.canceled_day = max(due - 1 - int(rng.integers(0, 3)), begin + 1)
        account.turn(account.canceled_day, CANCELED, months)
    account.stop_day = due if account.canceled_day is None else account.canceled_day
    account.ended_day = due - 1 + company.grace_days if account.canceled_day is None else account.canceled_day


_Stint = tuple[int, int, int, int, bool, float]
"""person, account, first_day, end_day, second, rank"""


def _stints(company: SoftwareCompany, accounts: list[_Account], rng: np.random.Generator) -> tuple[pl.DataFrame, Ints, int]:
    """Fill seats with people: give stints, the owner of each account, and how many people there are.

    A healthy account fills more of its seats. The owner holds the first place for good.
    """
    rows: list[_Stint] = []
    owner = np.zeros(len(accounts), dtype=np.int64)
    left: list[tuple[int, int, int]] = []  # person, account left, day
    persons = 0
    for n, account in enumerate(accounts):
        filled = min(1.0, 0.4 + 0.55 * account.level + rng.normal(0, 0.07))
        begin = 0 if account.trial_day is None else account.trial_day
        # How many places there are from each day on on which seats change.
        steps = [(begin, max(1, round(filled * account.turns[0][3])))]
        steps += [(day, max(1, round(filled * seats))) for day, _, _, seats, _, _ in account.turns[1:]]
        places = max(count for _, count in steps)
        for place in range(places):
            opened = next(day for day, count in steps if count > place)
            closed = next((day for day, count in steps if day > opened and count <= place), account.stop_day)
            if place == 0:
                owner[n] = persons
                rows.append((persons, n, begin, account.stop_day, False, 1.0))
                persons += 1
                continue
            day = opened if account.founding and opened == begin else opened + int(rng.exponential(2.0 + place))
            while day < min(closed, account.stop_day):
                stays = int(rng.exponential(365 / company.turnover)) + 14 if company.turnover else closed
                end = min(day + stays, closed, account.stop_day)
                rows.append((persons, n, day, end, False, float(rng.random())))
                if end < account.stop_day:
                    left.append((persons, n, end))
                persons += 1
                day = end + 1 + int(rng.exponential(5.0))
    hosts = _Hosts(accounts)
    for person, account_left, day in left:
        if rng.random() < company.moving_share:
            rows += hosts.join(person, account_left, day + int(rng.integers(2, 20)), False, rng)
    for person, account_now, begin, _, _, _ in list(rows):
        if rng.random() < company.two_accounts_share and person != owner[account_now]:
            rows += hosts.join(person, account_now, begin + int(rng.integers(2, 20)), True, rng)
    frame = pl.DataFrame(
        rows,
        schema={
            **dict.fromkeys(("person", "account", "first_day", "end_day"), pl.Int64),
            "second": pl.Boolean,
            "rank": pl.Float64,
        },
        orient="row",
    )
    # Who ever works for a second account must name the account with every event, in the first one too.
    frame = frame.filter(pl.col("first_day") < company.days).with_columns(pl.col("second").any().over("person"))
    return frame.sort("first_day", "account", "person", "end_day", maintain_order=True), owner, persons


class _Hosts:
    """The accounts that people may join from elsewhere: those that exist for another week and do not decay."""

    def __init__(self, accounts: list[_Account]) -> None:
        never = 10**9
        self._begin = np.array([account.trial_day or 0 for account in accounts])
        self._stop = np.array([account.stop_day for account in accounts])
        self._decays = np.array([never if account.decay_day is None else account.decay_day for account in accounts])
        self._recovered = np.array([account.recovered_day or never for account in accounts])

    def join(self, person: int, away_from: int, day: int, second: bool, rng: np.random.Generator) -> list[_Stint]:
        """Let a person join one of them on that day; nowhere if there is none."""
        open_then = (self._begin <= day) & (day < self._stop - 7) & ~((self._decays <= day) & (day < self._recovered))
        open_then[away_from] = False
        hosts = np.flatnonzero(open_then)
        if not len(hosts):
            return []
        host = int(rng.choice(hosts))
        return [(person, host, day, int(self._stop[host]), second, float(rng.random()))]


def _health(company: SoftwareCompany, accounts: list[_Account], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Give each account's decay (0 to 1) and its health without it (0 to 1), by account and day of the window."""
    days = np.arange(company.days)
    level = np.array([account.level for account in accounts])
    # A walk that forgets half in about two weeks, with a standard deviation of .06.
    wander = np.empty((len(accounts), company.days))
    wander[:, 0] = rng.normal(0, 0.06, len(accounts))
    for day in range(1, company.days):
        wander[:, day] = 0.95 * wander[:, day - 1] + rng.normal(0, 0.06 * np.sqrt(1 - 0.95**2), len(accounts))
    decay = np.zeros((len(accounts), company.days))
    for n, account in enumerate(accounts):
        if account.decay_day is None:
            continue
        full = company.decay_days * 2 / 3 if account.billed_day is not None else company.trial_days / 2
        ramp = np.clip((days - account.decay_day) / full, 0, 1)
        if account.recovered_day is not None:
            ramp = np.minimum(ramp, np.clip((account.recovered_day + 7 - days) / 7, 0, 1))
        decay[n] = ramp
    return decay, np.clip(level[:, None] + wander, 0.05, 1.0)


def _identities(
    company: SoftwareCompany, accounts: list[_Account], owner: Ints, persons: int, rng: np.random.Generator
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


def _turns(
    company: SoftwareCompany, calendar: BusinessDays, accounts: list[_Account], owner: Ints, rng: np.random.Generator
) -> pl.DataFrame:
    """Turns of contracts as instants: bills in the early morning by the billing system, the others at work."""
    rows = [(n, *turn) for n, account in enumerate(accounts) for turn in account.turns if turn[0] < company.days]
    schema = {
        **{"account": pl.Int64, "day": pl.Int64, "turn": pl.String, "plan": pl.String},
        **{"seats": pl.Int64, "months": pl.Int64, "amount_pence": pl.Int64},
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    day = frame["day"].to_numpy()
    at_work = calendar.instants(day + rng.uniform(0.35, 0.9, len(day)))
    at_night = calendar.starts[day] + 3 * 3_600 + rng.integers(0, 7_200, len(day))
    at = np.where(frame["turn"].to_numpy() == BILLED, at_night, at_work)
    return frame.select(
        "account",
        identity=owner[frame["account"].to_numpy()],
        at=at,
        turn="turn",
        plan="plan",
        seats="seats",
        months="months",
        amount_pence="amount_pence",
    ).sort("at", "account")


def _outages(company: SoftwareCompany, calendar: BusinessDays) -> pl.DataFrame:
    """Spread the outages over the window, each on a weekday."""
    begins = []
    for number in range(company.outages):
        day = round((number + 1) * company.days / (company.outages + 1))
        while (company.first_day + timedelta(day)).weekday() >= 5:
            day += 1
        if day < company.days:
            begins.append(int(calendar.starts[day]) + 10 * 3_600)
    ends = [begin + company.outage_hours * 3_600 for begin in begins]
    return pl.DataFrame({"from_at": begins, "until_at": ends}, schema={"from_at": pl.Int64, "until_at": pl.Int64})


def _adopted(company: SoftwareCompany, accounts: list[_Account], rng: np.random.Generator) -> Ints:
    """How many features each account has taken up by each day of the window: the first at once, more the healthier it is."""
    days = np.arange(company.days)
    adopted = np.empty((len(accounts), company.days), dtype=np.int64)
    for n, account in enumerate(accounts):
        most = int(np.clip(round(2 + 10 * account.level * rng.uniform(0.75, 1.1)), 3, len(FEATURES)))
        gaps = rng.exponential(5.0 / account.level, len(FEATURES))
        if account.driver == FAILED_ADOPTION:
            most = BASIC_FEATURES
        began = -200.0 if account.trial_day is None else float(account.trial_day)
        gaps[:2] = 0
        adopted[n] = np.searchsorted(began + np.cumsum(gaps[:most]), days, side="right").clip(1, most)
    return adopted


def _used(
    company: SoftwareCompany,
    calendar: BusinessDays,
    accounts: list[_Account],
    stints: pl.DataFrame,
    decay: Floats,
    health: Floats,
    outages: pl.DataFrame,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Let people work: one row per event of a stint, `session` telling the sessions apart."""
    account = stints["account"].to_numpy()
    # Those who are reprieved, and trials that come to nothing, decay by either of the two most frequent drivers.
    driver = np.array([a.driver or (USAGE_DECAY if n % 2 else FEWER_USERS) for n, a in enumerate(accounts)], object)
    # By account, apart from its health: how eager its people are, and how many clicks they need for their work.
    eager = np.clip(rng.normal(1.0, 0.15, len(accounts)), 0.6, 1.4)
    clicks = np.exp(rng.normal(np.log(1.9), 0.35, len(accounts)))
    adopted = _adopted(company, accounts, rng)
    habit = rng.uniform(0.7, 1.3, stints.height)

    dates = [company.first_day + timedelta(n) for n in range(company.days)]
    pace = WEEKDAY_WEIGHTS[[day.weekday() for day in dates]]
    quiet = np.array([(day.month, day.day) >= (12, 24) or (day.month, day.day) == (1, 1) for day in dates])
    pace = np.where(quiet, pace * company.lull, pace)

    days = np.arange(company.days)
    # How much less likely people come, and how much less they do, when decay is complete.
    comes_less = np.select([driver == USAGE_DECAY, driver == FEWER_USERS, driver == FAILED_ADOPTION], [0.45, 0.1, 0.6], 0.6)
    does_less = np.where(driver == USAGE_DECAY, 0.85, 0.2)
    present = (0.12 + 0.5 * health) * (1 - comes_less[:, None] * decay) * eager[:, None] * pace
    comes = present[account] * habit[:, None]
    inside = (days >= stints["first_day"].to_numpy()[:, None]) & (days < stints["end_day"].to_numpy()[:, None])
    stopped = (driver == FEWER_USERS)[account][:, None] & (stints["rank"].to_numpy()[:, None] < 0.8 * decay[account])
    stint, day = np.nonzero((rng.random(comes.shape) < comes) & inside & ~stopped)

    sessions = 1 + (rng.random(len(stint)) < 0.15)
    stint, day = np.repeat(stint, sessions), np.repeat(day, sessions)
    who = account[stint]
    began = calendar.instants(day + rng.random(len(day)))
    mean = clicks[who] * (1 - does_less[who] * decay[who, day])
    signs_in = rng.random(len(stint)) < 0.5
    length = 1 + rng.poisson(mean) + signs_in
    session = np.repeat(np.arange(len(stint)), length)
    place = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    gap = np.where(place == 0, 0, 5 + np.floor(rng.exponential(80, len(session)))).astype(np.int64)
    run = np.cumsum(gap)
    at = began[session] + run - np.repeat(run[np.cumsum(length) - length], length)
    # Features that were taken up early are used most.
    taken = adopted[who, day][session]
    feature = np.floor(taken * rng.random(len(session)) ** 1.6).astype(np.int64)
    feature = np.where(signs_in[session] & (place == 0), -1, feature)

    down = np.zeros(len(at), dtype=np.bool_)
    for begin, end in outages.iter_rows():
        down |= (at >= begin) & (at < end)
    kept = (at < calendar.starts[day[session] + 1]) & ~(down & (rng.random(len(at)) < 0.98))
    event = np.array([SIGNED_IN, *(name for name, _ in FEATURES)], object)
    value = np.array([None, *(text for _, text in FEATURES)], object)
    # The web client names the account with every event, the mobile one leaves it to what was said of the person before.
    names = stints["second"].to_numpy()[stint] | (rng.random(len(stint)) < 0.6)
    frame = pl.DataFrame(
        {
            "stint": stint[session],
            "person": stints["person"].to_numpy()[stint][session],
            "at": at,
            "name": event[feature + 1].tolist(),
            "feature": value[feature + 1].tolist(),
            "account": who[session],
            "names_account": names[session],
        },
        schema_overrides={"feature": pl.String},
    )
    return frame.filter(pl.Series(kept))


def _begun_by_trial(used: pl.DataFrame, turns: pl.DataFrame, stints: pl.DataFrame, owner: Ints) -> pl.DataFrame:
    """Let the owners of new accounts sign up seconds before the trial, and nobody be there before it."""
    trials = turns.filter(pl.col("turn") == TRIAL).select("account", trial_at="at")
    owners = pl.DataFrame({"account": np.arange(len(owner)), "person": owner})
    opening = stints.with_row_index("stint").join(trials, on="account").join(owners, on=["account", "person"])
    signed_up = opening.select(
        pl.col("stint").cast(pl.Int64),
        "person",
        at=pl.col("trial_at") - 20,
        name=pl.lit(SIGNED_UP),
        feature=pl.lit(None, pl.String),
        account="account",
        names_account=pl.lit(False),
    )
    later = used.join(trials, on="account", how="left", maintain_order="left")
    later = later.filter(pl.col("trial_at").is_null() | (pl.col("at") > pl.col("trial_at"))).drop("trial_at")
    return pl.concat([later, signed_up])


def _memberships(calendar: BusinessDays, used: pl.DataFrame, turns: pl.DataFrame, accounts: list[_Account]) -> pl.DataFrame:
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


def _visits(
    company: SoftwareCompany, calendar: BusinessDays, stints: pl.DataFrame, aliases: pl.DataFrame, rng: np.random.Generator
) -> pl.DataFrame:
    """Let people visit the site without a name: before they have one, which is nobody's account, and some of them afterwards."""
    named_at = aliases["at"].to_numpy()
    before = np.repeat(np.arange(aliases.height), rng.integers(1, 5, aliases.height))
    before_at = named_at[before] - 60 - np.floor(rng.exponential(4 * 86_400, len(before))).astype(np.int64)

    # Afterwards only those who only ever belong to one account, from the second day on: until the evening before, nobody
    # could know whose visit it is.
    single = stints.group_by("person").agg(pl.len(), pl.col("account").first(), pl.col("end_day").max())
    later = aliases.join(single.filter(pl.col("len") == 1), left_on="identity", right_on="person", maintain_order="left")
    later = later.filter(pl.Series(rng.random(later.height) < 0.4))
    after = np.repeat(np.arange(later.height), rng.integers(1, 4, later.height))
    from_day = (calendar.days(later["at"].to_numpy()) + 2)[after]
    days = np.minimum(later["end_day"].to_numpy(), company.days)[after] - from_day
    possible = days > 0
    after, from_day, days = after[possible], from_day[possible], days[possible]
    after_at = calendar.instants(from_day + np.floor(rng.random(len(after)) * days) + rng.random(len(after)))
    return pl.DataFrame(
        {
            "identity": np.concatenate((aliases["alias"].to_numpy()[before], later["alias"].to_numpy()[after])),
            "person": np.concatenate((aliases["identity"].to_numpy()[before], later["identity"].to_numpy()[after])),
            "at": np.concatenate((before_at, after_at)),
            "name": [VISITED] * (len(before) + len(after)),
            "feature": pl.Series([None] * (len(before) + len(after)), dtype=pl.String),
            "account": [None] * len(before) + later["account"].gather(after).to_list(),
            "names_account": [False] * (len(before) + len(after)),
        },
        schema_overrides={"account": pl.Int64},
    )


def _in_window(company: SoftwareCompany, calendar: BusinessDays, used: pl.DataFrame, visits: pl.DataFrame) -> pl.DataFrame:
    """All events of the window in order, each person's of one name once a second, as KISSmetrics counts them."""
    events = pl.concat([used.select(pl.col("person").alias("identity"), *visits.columns[1:]), visits])
    inside = (pl.col("at") >= int(calendar.starts[0])) & (pl.col("at") < int(calendar.starts[company.days]))
    return (
        events.filter(inside)
        .sort("at", "identity", "name", "account", "feature", "names_account", maintain_order=True)
        .unique(["identity", "name", "at"], keep="first", maintain_order=True)
    )


def _account_truth(accounts: list[_Account], owner: Ints) -> pl.DataFrame:
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


def _account_days(company: SoftwareCompany, accounts: list[_Account], stints: pl.DataFrame, latent: Floats) -> pl.DataFrame:
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
