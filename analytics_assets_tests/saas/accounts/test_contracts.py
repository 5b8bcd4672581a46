"""Contracts: hand-computed tables, and plain Python over turns at random."""

import calendar
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from analytics_assets.events.events import events
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, PROPERTY_SETS
from analytics_assets.saas.accounts.assets import ACCOUNTS, accounts

NAMES = {"billed": "subscription billed", "trial": "trial started", "canceled": "subscription canceled"} | {
    kind: f"subscription {kind}" for kind in ("upgraded", "downgraded")
}

TRIAL = timedelta(days=30)
Turn = tuple[str, str] | tuple[str, str, dict[str, str]]


def price(amount: Any = None, months: Any = None, currency: str | None = None) -> dict[str, str]:
    """What a bill or a change of plan says; nothing of what is not given."""
    said = {"subscription_billing_amount": amount, "subscription_billing_length": months, "currency": currency}
    return {name: str(value) for name, value in said.items() if value is not None}


def land(company: Any, account: str, *turns: Turn) -> None:
    """Turns of one account: local day (or day and time), kind, what it says."""
    for day, kind, *said in turns:
        when = day if "T" in day else f"{day}T12:00:00"
        company.event("billing", when, NAMES[kind], account_id=account, **(said[0] if said else {}))


def contracts(company: Any, first: date, last: date) -> dict[tuple[date, str], dict[str, Any]]:
    """`accounts` of every day and account, computed in one run."""
    company.land()
    before = company.days(company.first_day, last)
    company.write(company.compute(events, before), before, EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS)
    rows = company.compute(accounts, company.days(first, last))[ACCOUNTS.name].to_pylist()
    return {(row["as_of_date"], row["account_id"]): row for row in rows}


@pytest.fixture
def on(company: Any) -> Callable[..., tuple[Any, ...]]:
    """The contract of account A on an evening after these turns: status, MRR, billed since, renewals, paid through, ended on."""
    company.first_day, company.last_day = date(2025, 1, 1), date(2027, 12, 31)

    def evening(day: str, *turns: Turn, grace: int = 7) -> tuple[Any, ...]:
        company.more_settings = f"[subscriptions]\ngrace_days = {grace}\n"
        land(company, "A", *turns)
        as_of = date.fromisoformat(day)
        row = contracts(company, as_of, as_of)[as_of, "A"]
        shown = [row["status"], row["mrr"], row["billed_since"], row["renewals"], row["paid_through"], row["ended_on"]]
        return tuple(str(value) if isinstance(value, (Decimal, date)) else value for value in shown)

    return evening


JANUARY = ("2026-01-10", "billed", price(120, 1))
ACTIVE = ("active", "120.00", "2026-01-10", 0, "2026-02-10", None)


@pytest.mark.parametrize(
    ("what", "day", "turns", "expected"),
    [
        ("a bill", "2026-01-10", [JANUARY], ACTIVE),
        ("a renewal in time", "2026-02-10", [JANUARY, ("2026-02-10", "billed", price(120, 1))],
         ("active", "120.00", "2026-01-10", 1, "2026-03-10", None)),
        ("a renewal on the last day of grace", "2026-02-17", [JANUARY, ("2026-02-17", "billed", price(120, 1))],
         ("active", "120.00", "2026-01-10", 1, "2026-03-17", None)),
        ("a bill after the grace days begins another contract", "2026-02-18", [JANUARY, ("2026-02-18", "billed", price(120, 1))],
         ("active", "120.00", "2026-02-18", 0, "2026-03-18", None)),
        ("a year, paid at once", "2026-01-10", [("2026-01-10", "billed", price(1200, 12))],
         ("active", "100.00", "2026-01-10", 0, "2027-01-10", None)),
        ("a year that ends in a leap day's month", "2026-01-10", [("2025-02-28", "billed", price(1200, 36))],
         ("active", "33.33", "2025-02-28", 0, "2028-02-28", None)),
        ("half a month is fifteen days", "2026-01-11", [("2026-01-10", "billed", price(100, "0.5"))],
         ("active", "200.00", "2026-01-10", 0, "2026-01-25", None)),
        ("a month and a third", "2026-01-11", [("2026-01-10", "billed", price(100, "1.3333"))],
         ("active", "75.00", "2026-01-10", 0, "2026-02-20", None)),
        ("no length is one month", "2026-01-10", [("2026-01-10", "billed", price(100))],
         ("active", "100.00", "2026-01-10", 0, "2026-02-10", None)),
        ("no amount: paid for, price unknown", "2026-01-10", [("2026-01-10", "billed", price(None, 1))],
         ("active", None, "2026-01-10", 0, "2026-02-10", None)),
        ("no amount on a renewal: the price stays", "2026-02-10", [JANUARY, ("2026-02-10", "billed", price(None, 1))],
         ("active", "120.00", "2026-01-10", 1, "2026-03-10", None)),
        ("the 31st of a shorter month", "2026-01-31", [("2026-01-31", "billed", price(120, 1))],
         ("active", "120.00", "2026-01-31", 0, "2026-02-28", None)),
        ("an upgrade is a new price for the same length", "2026-02-01",
         [("2026-01-10", "billed", price(1200, 12)), ("2026-01-20", "upgraded", price(2400))],
         ("active", "200.00", "2026-01-10", 0, "2027-01-10", None)),
        ("an upgrade with a length", "2026-02-01",
         [("2026-01-10", "billed", price(1200, 12)), ("2026-01-20", "upgraded", price(150, 1))],
         ("active", "150.00", "2026-01-10", 0, "2027-01-10", None)),
        ("a downgrade", "2026-01-20", [JANUARY, ("2026-01-20", "downgraded", price(60))],
         ("active", "60.00", "2026-01-10", 0, "2026-02-10", None)),
        ("an upgrade before a bill without an amount", "2026-01-10",
         [("2026-01-05", "upgraded", price(99)), ("2026-01-10", "billed", price(None, 1))],
         ("active", "99.00", "2026-01-10", 0, "2026-02-10", None)),
        ("an upgrade without an amount changes nothing", "2026-01-20", [JANUARY, ("2026-01-20", "upgraded")], ACTIVE),
        ("cancelled at once", "2026-01-20", [JANUARY, ("2026-01-20", "canceled")],
         ("canceled", None, "2026-01-10", 0, "2026-02-10", "2026-01-20")),
        ("not yet cancelled", "2026-01-19", [JANUARY, ("2026-01-20", "canceled")], ACTIVE),
        ("cancelled twice: the first time counts", "2026-01-30",
         [JANUARY, ("2026-01-20", "canceled"), ("2026-01-25", "canceled")],
         ("canceled", None, "2026-01-10", 0, "2026-02-10", "2026-01-20")),
        ("cancelled in the grace days", "2026-03-01", [JANUARY, ("2026-02-14", "canceled")],
         ("canceled", None, "2026-01-10", 0, "2026-02-10", "2026-02-14")),
        ("cancelled after it had lapsed: lapsed", "2026-03-01", [JANUARY, ("2026-02-20", "canceled")],
         ("lapsed", None, "2026-01-10", 0, "2026-02-10", "2026-02-17")),
        ("cancelled, billed again: another contract", "2026-01-25",
         [JANUARY, ("2026-01-20", "canceled"), ("2026-01-25", "billed", price(90, 1))],
         ("active", "90.00", "2026-01-25", 0, "2026-02-25", None)),
        ("cancelled, billed again without an amount: the old price is not the new contract's", "2026-01-25",
         [JANUARY, ("2026-01-20", "canceled"), ("2026-01-25", "billed", price(None, 1))],
         ("active", None, "2026-01-25", 0, "2026-02-25", None)),
        ("the evening before it lapses", "2026-02-16", [JANUARY], ACTIVE),
        ("lapsed", "2026-02-17", [JANUARY], ("lapsed", None, "2026-01-10", 0, "2026-02-10", "2026-02-17")),
        ("a trial only", "2026-01-20", [("2026-01-10", "trial")], ("trial", None, None, 0, None, None)),
        ("a trial, cancelled", "2026-01-20", [("2026-01-10", "trial"), ("2026-01-15", "canceled")],
         ("canceled", None, None, 0, None, "2026-01-15")),
        ("a trial on its last day", "2026-02-09", [("2026-01-10", "trial")], ("trial", None, None, 0, None, None)),
        ("a trial that was not billed", "2026-02-10", [("2026-01-10", "trial")],
         ("expired", None, None, 0, None, "2026-02-10")),
        ("a trial cancelled after it had expired", "2026-02-20", [("2026-01-10", "trial"), ("2026-02-10", "canceled")],
         ("expired", None, None, 0, None, "2026-02-10")),
        ("a trial begun again", "2026-02-10", [("2026-01-10", "trial"), ("2026-02-09", "trial")],
         ("trial", None, None, 0, None, None)),
        ("a bill after an expired trial", "2026-01-20", [("2025-12-01", "trial"), JANUARY], ACTIVE),
        ("a trial, then a bill", "2026-01-20", [("2026-01-05", "trial"), JANUARY], ACTIVE),
        ("a trial of another plan while it pays", "2026-01-20", [JANUARY, ("2026-01-15", "trial")], ACTIVE),
        ("a trial after it had been cancelled", "2026-01-25",
         [JANUARY, ("2026-01-15", "canceled"), ("2026-01-20", "trial")], ("trial", None, None, 0, None, None)),
        ("a trial after it had lapsed", "2026-03-01", [JANUARY, ("2026-02-20", "trial")], ("trial", None, None, 0, None, None)),
        ("a credit note is no bill", "2026-01-20", [JANUARY, ("2026-01-15", "billed", price(-120, 1))], ACTIVE),
        ("a credit note alone", "2026-01-20", [("2026-01-15", "billed", price(-120, 1))], ("unbilled", None, None, 0, None, None)),
        ("a bill of nothing is one", "2026-01-10", [("2026-01-10", "billed", price(0, 1))],
         ("active", "0.00", "2026-01-10", 0, "2026-02-10", None)),
        ("two bills on one day: the later price, a renewal", "2026-01-10",
         [("2026-01-10T10:00:00", "billed", price(120, 1)), ("2026-01-10T11:00:00", "billed", price(130, 1))],
         ("active", "130.00", "2026-01-10", 1, "2026-02-10", None)),
        ("a short bill inside a paid year does not shorten it", "2026-03-01",
         [("2026-01-10", "billed", price(1200, 12)), ("2026-02-01", "billed", price(50, 1))],
         ("active", "50.00", "2026-01-10", 1, "2027-01-10", None)),
        ("cents are rounded half up", "2026-01-10", [("2026-01-10", "billed", price("0.05", 2))],
         ("active", "0.03", "2026-01-10", 0, "2026-03-10", None)),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)  # fmt: skip
def test_contract_by_hand(on: Any, what: str, day: str, turns: list[Turn], expected: tuple[Any, ...]) -> None:
    assert on(day, *turns) == expected, what


@pytest.mark.parametrize(("day", "status"), [("2026-02-09", "active"), ("2026-02-10", "lapsed")])
def test_without_grace_days_a_contract_ends_on_the_last_day_that_is_paid_for(on: Any, day: str, status: str) -> None:
    assert on(day, JANUARY, grace=0)[0] == status


def test_without_grace_days_a_bill_on_the_last_day_renews_and_one_on_the_next_does_not(on: Any) -> None:
    assert on("2026-02-10", JANUARY, ("2026-02-10", "billed", price(120, 1)), grace=0)[2:4] == ("2026-01-10", 1)


def test_a_bill_a_day_after_the_last_paid_one_begins_another_contract_without_grace_days(on: Any) -> None:
    assert on("2026-02-11", JANUARY, ("2026-02-11", "billed", price(120, 1)), grace=0)[2:4] == ("2026-02-11", 0)


def test_currency_is_that_of_the_contract_and_accounts_of_two_currencies_stand_apart(company: Any) -> None:
    company.last_day = date(2026, 3, 31)
    land(company, "A", ("2026-03-02", "billed", price(10, 1, "usd")), ("2026-03-03", "upgraded", price(20)))
    land(company, "B", ("2026-03-02", "billed", price(10, 1)))
    land(company, "C", ("2026-03-02", "billed", price(10, 1, "USD")), ("2026-03-03", "billed", price(11, 1, "GBP")))
    found = contracts(company, date(2026, 3, 5), date(2026, 3, 5)).values()
    assert sorted((row["account_id"], row["currency"], str(row["mrr"])) for row in found) == [
        ("A", "USD", "20.00"),
        ("B", "EUR", "10.00"),
        ("C", "GBP", "11.00"),
    ]


def test_a_record_received_late_counts_on_the_day_it_happened(company: Any) -> None:
    late = int(datetime(2026, 3, 20, tzinfo=UTC).timestamp())
    land(company, "A", ("2026-03-02", "billed", price(10, 1)))
    company.event("billing", "2026-03-04T12:00:00", NAMES["canceled"], received=late, account_id="A")
    found = contracts(company, date(2026, 3, 3), date(2026, 3, 5))
    assert [row["status"] for row in found.values()] == ["active", "canceled", "canceled"]


def test_plan_and_seats_are_those_named_last_and_an_account_is_known_from_its_first_record(company: Any) -> None:
    company.told("p", "2026-03-02T09:00:00", account_id="A", plan="small", seats="5")
    company.told("p", "2026-03-04T09:00:00", seats="8")
    company.told("p", "2026-03-04T10:00:00", account_id="A", seats="-3")
    found = contracts(company, date(2026, 3, 1), date(2026, 3, 4))
    assert [
        (str(day), row["plan"], row["seats"], row["status"], str(row["first_seen_date"])) for (day, _), row in found.items()
    ] == [
        ("2026-03-02", "small", 5, "unbilled", "2026-03-02"),
        ("2026-03-03", "small", 5, "unbilled", "2026-03-02"),
        ("2026-03-04", "small", 8, "unbilled", "2026-03-02"),
    ]


# --- plain Python over turns at random --------------------------------------------------------------------------------


def months_on(day: date, months: Decimal) -> date:
    """So many months after a day; what is left of a month in thirtieths."""
    for _ in range(int(months)):
        first = day.replace(day=1) + timedelta(days=31)
        day = first.replace(day=1)
    return day + timedelta(days=int((30 * (months % 1)).quantize(Decimal(1), ROUND_HALF_UP)))


def paid_until(day: date, months: Decimal) -> date:
    """The same day of the month, so many whole months on, or its last; then thirtieths."""
    month = months_on(day.replace(day=1), Decimal(int(months)))
    same = min(day.day, calendar.monthrange(month.year, month.month)[1])
    return months_on(month.replace(day=same), months % 1)


def told_one_by_one(records: list[dict[str, Any]], as_of: date, grace: int) -> tuple[Any, ...]:
    """A contract's state machine: reads the turns of one account in the order of time and remembers little."""
    contract: dict[str, Any] | None = None
    trial: date | None = None
    left: date | None = None
    expired: date | None = None
    waiting: list[tuple[Any, Any]] = []
    for record in sorted(records, key=lambda r: (r["second"], r["id"])):
        day, kind = record["day"], record["kind"]
        if day > as_of or (kind == "billed" and record["amount"] is not None and record["amount"] < 0):
            continue
        if trial and day > trial + TRIAL:
            trial, expired = None, trial + TRIAL + timedelta(days=1)
        over = contract and (contract["canceled"] or day > contract["paid"] + timedelta(days=grace))
        if kind == "billed":
            months = record["months"] or Decimal(1)
            if contract is None or over:
                contract = {"since": day, "bills": 0, "paid": day, "length": months, "price": None, "canceled": None}
                for amount, length in waiting:
                    contract["price"] = amount, length or months
            waiting = []
            contract["bills"] += 1
            contract["paid"] = max(contract["paid"], paid_until(day, months))
            contract["length"] = months
            if record["amount"] is not None:
                contract["price"] = record["amount"], months
            trial, left, expired = None, None, None
        elif kind in ("upgraded", "downgraded"):
            if record["amount"] is not None and contract is not None and not contract["canceled"]:
                contract["price"] = record["amount"], record["months"] or contract["length"]
            if record["amount"] is not None:
                waiting.append((record["amount"], record["months"]))
        elif kind == "trial" and (contract is None or over):
            trial, left, expired = day, None, None
        elif kind == "canceled":
            waiting = []
            if expired:
                continue
            if trial or contract is None:
                trial, left = None, left or day
            elif left:
                continue
            elif not contract["canceled"] and day <= contract["paid"] + timedelta(days=grace):
                contract["canceled"] = day
    if trial and as_of > trial + TRIAL:
        trial, expired = None, trial + TRIAL + timedelta(days=1)
    if expired:
        return "expired", None, None, 0, None, expired
    return _state(contract, trial is not None, left, as_of, grace)


def _state(contract: dict[str, Any] | None, trial: bool, left: date | None, as_of: date, grace: int) -> tuple[Any, ...]:
    if left or trial or contract is None:
        return ("canceled" if left else "trial" if trial else "unbilled"), None, None, 0, None, left
    ends = contract["paid"] + timedelta(days=grace)
    known = contract["since"], contract["bills"] - 1, contract["paid"]
    if contract["canceled"]:
        return "canceled", None, *known, contract["canceled"]
    if ends <= as_of:
        return "lapsed", None, *known, ends
    mrr = contract["price"] and (contract["price"][0] / contract["price"][1]).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return "active", mrr, *known, None


@pytest.mark.parametrize("grace", [0, 7])
def test_contracts_equal_turns_told_one_by_one(company: Any, grace: int) -> None:
    company.more_settings = f"[subscriptions]\ngrace_days = {grace}\n"
    company.first_day, company.last_day = date(2026, 1, 1), date(2026, 6, 30)
    draw = random.Random(grace)
    told: dict[str, list[dict[str, Any]]] = {}
    kinds = ["billed"] * 6 + ["trial", "canceled", "upgraded", "downgraded"]
    for _ in range(900):
        account, day, hour = f"A{draw.randrange(90)}", draw.randrange(170), draw.randrange(8, 12)
        when = datetime(2026, 1, 1, hour, tzinfo=UTC) + timedelta(days=day)
        amount = draw.choice([None, -5, 0, 10, 10, 120, 100])
        months = draw.choice([None, "0.5", 1, 1, 1, "1.25", 3])
        kind = draw.choice(kinds)
        land(company, account, (when.isoformat()[:19], kind, price(amount, months)))
        told.setdefault(account, []).append({
            "second": when, "day": when.date(), "kind": kind, "id": company.records[-1]["record_id"],
            "amount": None if amount is None else Decimal(amount), "months": None if months is None else Decimal(months),
        })  # fmt: skip
    first, last = date(2026, 6, 1), date(2026, 6, 20)
    found = contracts(company, first, last)
    wrong = {}
    for number in range((last - first).days + 1):
        as_of = first + timedelta(days=number)
        for account, records in told.items():
            if all(record["day"] > as_of for record in records):
                continue
            row = found.pop((as_of, account))
            ours = (row["status"], row["mrr"], row["billed_since"], row["renewals"], row["paid_through"], row["ended_on"])
            if ours != (theirs := told_one_by_one(records, as_of, grace)):
                wrong[as_of, account] = ours, theirs
    assert not found
    assert not wrong


def test_many_days_in_one_run_equal_day_by_day(company: Any) -> None:
    land(
        company, "A", ("2026-03-02", "trial"), ("2026-03-05", "billed", price(10, "0.1")), ("2026-03-20", "billed", price(12, 1))
    )
    first, last = date(2026, 3, 1), date(2026, 3, 31)
    whole = contracts(company, first, last)
    alone = [company.compute(accounts, company.days(day, day))[ACCOUNTS.name].to_pylist() for day, _ in sorted(whole)]
    assert [row for rows in alone for row in rows] == [whole[key] for key in sorted(whole)]
    # Seven days of grace after the 8th: lapsed on the 15th, billed again on the 20th.
    statuses = [whole[day, "A"]["status"] for day, _ in sorted(whole)]
    assert statuses == ["trial"] * 3 + ["active"] * 10 + ["lapsed"] * 5 + ["active"] * 12
