"""The accounts of a simulated software company: how they begin, what they pay, how they decay, and which leave when."""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import BusinessDays, Ints

if TYPE_CHECKING:
    from analytics_assets.simulation.software import SoftwareCompany

HOLDOUT_DAYS = 90
"""Days after the last day in which contracts run on: the future that a churn model has to predict."""
USAGE_DECAY, FEWER_USERS, FAILED_ADOPTION = "usage decay", "fewer users", "failed adoption"
DOWNGRADE, SUDDEN = "downgrade", "sudden"
DRIVERS = (USAGE_DECAY, FEWER_USERS, FAILED_ADOPTION, DOWNGRADE, SUDDEN)
"""How an account decays before it leaves: people do less; people stop coming; nobody ever gets beyond `BASIC_FEATURES`
features; seats are given up; not at all."""
DRIVER_SHARES = (0.34, 0.28, 0.16, 0.12, 0.10)
YEARLY = 2.5
"""Odds of leaving at the end of a year's term, beside those at the end of a month's."""
TRIAL, BILLED, UPGRADED, DOWNGRADED, CANCELED = "trial", "billed", "upgraded", "downgraded", "canceled"
TURNS = (TRIAL, BILLED, UPGRADED, DOWNGRADED, CANCELED)
"""Values of `turn` in `SoftwareHistory.turns`."""

# Plan: pence a seat and month, billed by month and by year.
PLANS: dict[str, tuple[int, int]] = {"starter": (1_200, 1_000), "team": (2_500, 2_100), "business": (4_500, 3_800)}
_PLAN_SHARES = (0.5, 0.35, 0.15)


@dataclass
class Account:
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
        """Begin without a turn."""
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


def accounts(company: SoftwareCompany, rng: np.random.Generator) -> list[Account]:
    """Draw every account and live through its contract, to the end of the holdout."""
    horizon = company.days + HOLDOUT_DAYS
    level = rng.beta(5.0, 2.2, company.accounts)
    founding = rng.random(company.accounts) < company.founding_share
    seats = np.exp(rng.normal(np.log(max(company.seats_median, 1.0)), company.seats_spread, company.accounts))
    accounts = []
    for n in range(company.accounts):
        account = Account(
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


def _begins(company: SoftwareCompany, account: Account, rng: np.random.Generator) -> bool:
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


def _runs_on(company: SoftwareCompany, account: Account, horizon: int, rng: np.random.Generator) -> None:
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


def _expands(account: Account, rng: np.random.Generator) -> None:
    plans = list(PLANS)
    better = plans.index(account.plan) + 1
    if better < len(plans) and rng.random() < 0.25:
        account.plan = plans[better]
    else:
        account.seats += max(1, round(account.seats * rng.uniform(0.15, 0.5)))


def _leaves(
    company: SoftwareCompany,
    account: Account,
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


def turns(
    company: SoftwareCompany, calendar: BusinessDays, accounts: list[Account], owner: Ints, rng: np.random.Generator
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
