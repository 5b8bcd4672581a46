"""Every figure of usage and membership against plain Python over the landed records, one event at a time."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from analytics_assets.events.events import events
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, PROPERTY_SETS
from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS, accounts
from analytics_assets.saas.usage import assets as usage
from analytics_assets.saas.usage.assets import ACCOUNT_DAYS, ACCOUNT_USAGE, account_days, account_usage
from analytics_assets.warehouse.lake import Window
from analytics_assets_tests.conftest import visitor

BLOCKED = {"guest"}
NO_FEATURES = {"visited site", "purchased"}
NO_USAGE = {"subscription billed", "payment failed"}


@dataclass
class Oracle:
    """Reads records, never tables: each question is asked anew of all records. Only what a day's map and members are is kept.

    Of what lies before the first day it knows the aliases alone.
    """

    company: Any
    people_are_accounts: bool = False
    feature_events: frozenset[str] = frozenset()
    maps: dict[date, dict[str, str]] = field(default_factory=dict)
    members_of: dict[tuple[date, date], dict[str, tuple[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.zone = self.company.platform.settings.business.zone
        self.day = cache(lambda when: when.astimezone(self.zone).date())
        first_day = self.company.first_day
        self.records = [r for r in self.company.records if r["kind"] != "alias" and self.day(r["occurred_at"]) >= first_day]
        self.aliases = [r for r in self.company.records if r["kind"] == "alias"]

    def hour(self, when: datetime) -> datetime:
        local = when.astimezone(self.zone)
        return when.astimezone(UTC) - timedelta(minutes=local.minute, seconds=local.second)

    def seen_until(self, day: date) -> list[dict[str, Any]]:
        """What happened up to the end of a day; an alias shows its first identity."""
        return [r for r in self.records + self.aliases if self.company.first_day <= self.day(r["occurred_at"]) <= day]

    def people(self, day: date) -> dict[str, str]:
        """Identity to person at the end of a day: called by the earliest name seen, else the smallest, else the smallest visitor's."""
        if day not in self.maps:
            end = self.company.platform.clock.begins(day + timedelta(days=1))
            seen: dict[str, datetime] = {}
            group: dict[str, set[str]] = {}
            known: set[str] = set()
            for record in self.seen_until(day):
                known.add(record["identity"])
                name = _name(record["identity"])
                seen[name] = min(seen.get(name, record["occurred_at"]), record["occurred_at"])
            for record in self.aliases:
                if (record["received_at"] or record["occurred_at"]) < end:
                    known |= {record["identity"], record["other_identity"]}
                    one, other = _name(record["identity"]), _name(record["other_identity"])
                    merged = group.get(one, {one}) | group.get(other, {other})
                    if {one, other} & BLOCKED:
                        continue
                    for member in merged:
                        group[member] = merged
            far = datetime.max.replace(tzinfo=UTC)

            def rank(name: str) -> tuple[bool, datetime, str]:
                return _is_visitor(name), far if _is_visitor(name) else seen.get(name, far), name

            self.maps[day] = {who: min(group.get(_name(who), {_name(who)}), key=rank) for who in known - BLOCKED}
        return self.maps[day]

    def people_during(self, day: date) -> dict[str, str]:
        """Who is one person with whom, and what they are called, is what was known by the evening before."""
        return self.people(day - timedelta(days=1))

    def received(self, record: dict[str, Any]) -> date:
        return self.day(record["received_at"] or record["occurred_at"])

    def namings(
        self, people: dict[str, str], who: str, first: date, last: date, until: datetime, known_by: date = date.max
    ) -> list[tuple[Any, ...]]:
        person = _person(people, who)
        return sorted(
            (r["occurred_at"], r["record_id"], self.account_named(r))
            for r in self.records
            if self.account_named(r) and r["identity"] not in BLOCKED
            and _person(people, r["identity"]) == person
            and first <= self.day(r["occurred_at"]) <= last and r["occurred_at"] <= until and self.received(r) <= known_by
        )  # fmt: skip

    @staticmethod
    def account_named(record: dict[str, Any]) -> str | None:
        return _property(record, "account id")

    def member_of(self, people: dict[str, str], who: str, evening: date, known_by: date) -> str | None:
        end = self.company.platform.clock.begins(evening + timedelta(days=1)) - timedelta(seconds=1)
        found = self.namings(people, who, self.company.first_day, evening, end, known_by)
        return found[-1][2] if found else None

    def members(self, evening: date, known_by: date = date.max) -> dict[str, tuple[str, str]]:
        """Identity to person and account, by the namings up to an evening that had been received by the end of a day."""
        if evening < self.company.first_day:
            return {}
        if (evening, known_by) not in self.members_of:
            people = self.people(evening)
            seen = {people.get(r["identity"]) for r in self.seen_until(evening)}
            last = {
                who: (person if person in seen else None)
                if self.people_are_accounts
                else self.member_of(people, who, evening, known_by)
                for who, person in people.items()
            }
            self.members_of[evening, known_by] = {who: (people[who], account) for who, account in last.items() if account}
        return self.members_of[evening, known_by]

    def member_rows(self, evening: date) -> list[tuple[Any, ...]]:
        """Each identity's account on the evening, and again on every later day on which a naming of its person was received."""
        people, rows = self.people(evening), []
        for who, person in people.items():
            named = [
                max(evening, self.received(r)) for r in self.records
                if self.account_named(r) and people.get(r["identity"]) == person
                and self.day(r["occurred_at"]) <= evening
            ]  # fmt: skip
            days = [evening] if self.people_are_accounts else sorted(set(named))
            for day, after in pairwise([*days, None]):
                if found := self.members(evening, day).get(who):
                    rows.append((evening, who, day, *found, after))
        return rows

    def located(self, day: date, known_by: date) -> list[dict[str, Any]]:
        """The events of a day that had been received by the end of another, each with person, account of the evening before and feature."""
        people = self.people_during(day)
        evening = dict(self.members(day - timedelta(days=1), known_by).values())
        found = []
        for record in self.records:
            if record["kind"] != "event" or record["name"] in NO_USAGE or max(day, self.received(record)) > known_by:
                continue
            if self.day(record["occurred_at"]) not in (day - timedelta(days=1), day):
                continue
            who, when = record["identity"], record["occurred_at"]
            found.append({
                "id": record["record_id"], "when": when, "who": who, "user": _person(people, who), "counts": self.day(when) == day,
                "named": self.account_named(record), "feature": self.feature(record),
                "evening": evening.get(_person(people, who)),
            })  # fmt: skip
        return found

    def feature(self, record: dict[str, Any]) -> str | None:
        if said := _property(record, "feature"):
            return said
        if self.feature_events:
            return record["name"] if record["name"] in self.feature_events else None
        return record["name"] if record["name"] not in NO_FEATURES else None

    def account(self, day: date, event: dict[str, Any], people: dict[str, str], known_by: date) -> str | None:
        if not self.people_are_accounts and event["named"]:
            return event["named"]
        if event["who"] in BLOCKED:
            return None
        if self.people_are_accounts:
            return event["user"]
        today = [
            (r["occurred_at"], r["record_id"], self.account_named(r))
            for r in self.records
            if self.account_named(r) and r["identity"] not in BLOCKED
            and _person(people, r["identity"]) == event["user"]
            and self.day(r["occurred_at"]) == day and r["occurred_at"] <= event["when"]
            and max(day, self.received(r)) <= known_by
        ]  # fmt: skip
        return max(today)[2] if today else event["evening"]

    def attributed(self, day: date, known_by: date = date.max) -> dict[str, list[dict[str, Any]]]:
        """Events of the day by account, as known by the end of another; each says whether it begins a session."""
        people = self.people_during(day)
        pause = timedelta(minutes=30)
        found = self.located(day, known_by)
        of_accounts: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in found:
            if not event["counts"]:
                continue
            account = self.account(day, event, people, known_by)
            if account is None:
                continue
            earlier = [
                e for e in found
                if e["user"] == event["user"] and _order(e) < _order(event) and e["when"] >= event["when"] - pause
            ]  # fmt: skip
            of_accounts[account].append(event | {"begins": not earlier})
        return of_accounts

    def usage_rows(self, day: date) -> list[tuple[Any, ...]]:
        """Each hour of an account in which it was used."""
        rows = []
        for account, of_day in self.attributed(day).items():
            for hour in {self.hour(e["when"]) for e in of_day}:
                found = [e for e in of_day if self.hour(e["when"]) == hour]
                rows.append((day, hour, account, *_counts(found), self.seats(account, hour)))
        return rows

    def day_rows(self, day: date) -> list[tuple[Any, ...]]:
        """Each account's figures of the day by the end of every day from then on, where they are not those of the day before."""
        rows, told = [], {}
        receipts = {max(day, self.received(r)) for r in self.records}
        for known_by in sorted(receipts):
            found = self.attributed(day, known_by)
            for account in {*found, *told}:
                of_day = found.get(account, [])
                events, users, features, sessions = _counts(of_day)
                hours = len({(e["user"], self.hour(e["when"])) for e in of_day})
                figures = (events, users, hours, features, sessions)
                if told.get(account) != figures:
                    rows.append((day, account, known_by, *figures))
                told[account] = figures
        return rows

    def seats(self, account: str, hour: datetime) -> int | None:
        """The seats named last on the day up to the end of the hour, else those of the evening before."""
        day = self.day(hour)
        members, people = self.members(day - timedelta(days=1)), self.people_during(day)
        told = []
        for r in self.records:
            if not _property(r, "seats") or self.day(r["occurred_at"]) != day:
                continue
            if r["occurred_at"] >= hour + timedelta(hours=1):
                continue
            who = r["identity"]
            event = {
                "named": self.account_named(r), "who": who, "user": _person(people, who), "when": r["occurred_at"],
                "evening": dict(members.values()).get(_person(people, who)),
            }  # fmt: skip
            if self.account(day, event, people, date.max) == account:
                told.append((r["occurred_at"], r["record_id"], int(_property(r, "seats") or 0)))
        return max(told)[2] if told else self.seats_in_the_evening(account, day - timedelta(days=1))

    def seats_in_the_evening(self, account: str, evening: date) -> int | None:
        if evening < self.company.first_day:
            return None
        people = self.people(evening)
        told = []
        for r in self.records:
            if not _property(r, "seats") or self.day(r["occurred_at"]) > evening:
                continue
            of = people.get(r["identity"]) if self.people_are_accounts else self.account_named(r)
            if of is None and not self.people_are_accounts and r["identity"] not in BLOCKED:
                named = self.namings(people, r["identity"], self.company.first_day, evening, r["occurred_at"])
                of = named[-1][2] if named else None
            if of == account:
                told.append((r["occurred_at"], r["record_id"], int(_property(r, "seats") or 0)))
        return max(told)[2] if told else None


def _name(identity: str) -> str:
    """E-mail addresses that differ in letter case only are one name."""
    return identity.lower() if "@" in identity else identity


def _is_visitor(name: str) -> bool:
    return len(name) == 28 and name.endswith("=")


def _person(people: dict[str, str], who: str) -> str:
    """Whose an identity is, also of one that is spelt as nobody spelt it by then."""
    return next((person for other, person in people.items() if _name(other) == _name(who)), _name(who))


def _order(event: dict[str, Any]) -> tuple[Any, ...]:
    """Events of one second count in one order: those that name an account first."""
    return event["when"], event["named"] is None, event["id"]


def _property(record: dict[str, Any], name: str) -> str | None:
    return _read(record["properties"]).get(name)


@cache
def _read(properties: str) -> dict[str, str]:
    return json.loads(properties)


def fill(company: Any, seed: int, size: int = 260) -> None:
    """Records at random: few people, accounts and minutes, so that everything that can happen together does.

    Two names of one newcomer are joined on the first day, and another newcomer spells one address in two ways, one of which never names an
    account. Nor do the others before the last day. The week before the first day tells the same things, some of it received since.
    It also joins visitors to several names each, of whom nobody knows more until the visitor comes back, and the names after it.
    """
    draw = random.Random(seed)
    clock = company.platform.clock
    start = int(clock.begins(company.first_day).timestamp())
    end = int(clock.begins(company.last_day + timedelta(days=1)).timestamp())
    newcomers = ["new here", "here anew", "New@here.test", "new@here.test"]
    people = [f"p{number}" for number in range(6)] + ["guest"] + newcomers
    company.alias(*newcomers[:2], start + 3600, None)
    for number in range(30):
        when = start - draw.randrange(1, 7 * 86400)
        received, who = draw.choice([None, when + 60, when + draw.randrange(9 * 86400)]), draw.choice(people)
        if number < 4:
            company.alias(who, draw.choice(people), when, received)
        elif number < 12:
            company.told(who, when, received, account_id=draw.choice("AB"), seats="77")
        else:
            company.event(who, when, "worked", received, account_id=draw.choice("AB"))
    edges = [int(clock.begins(company.first_day + timedelta(days=n)).timestamp()) for n in range(1, 3)]
    for _ in range(size):
        near = draw.choice(edges) + draw.randrange(-5400, 5400)
        when = min(max(draw.choice([near, draw.randrange(start, end)]) // 300 * 300 + draw.choice([0, 0, 1]), start), end - 1)
        received = draw.choice([None, when + 60, when + 60, when + draw.randrange(3 * 86400)])
        who, of = draw.choice(people), draw.choice("AB")
        kind = draw.random()
        unsaid = draw.random() < 0.6 or (who in newcomers and when < int(clock.begins(company.last_day).timestamp()))
        unsaid |= who == "New@here.test"
        said = {} if unsaid else {"account_id": of}
        if draw.random() < 0.08:
            said["seats"] = str(draw.randrange(1, 50))
        if kind < 0.03:
            company.alias(who, draw.choice(people), when, received)
        elif kind < 0.2:
            company.told(who, when, received, **said)
        else:
            if draw.random() < 0.2:
                said["feature"] = draw.choice(["search", "export"])
            name = draw.choice(["worked", "saved", "visited site", "subscription billed", "payment failed", "purchased"])
            company.event(who, when, name, received, **said)
    for number in range(6):
        names = [visitor(f"{seed} {number}"), *(f"{letter}{number}" for letter in draw.sample("uvwxyz", 3))]
        for one, other in pairwise(names):
            company.alias(one, other, start - draw.randrange(3600, 7 * 86400), None)
        when = draw.randrange(start, end - 12 * 3600)
        for who in (names[0], draw.choice(names), names[0], draw.choice(names), draw.choice(names)):
            said = draw.choice([{}, {"account_id": draw.choice("AB")}])
            company.event(who, when, "worked", draw.choice([None, when + 60, when + draw.randrange(2 * 86400)]), **said)
            when = min(when + draw.choice([600, 5000, 30000, 86400]), end - 1)


CLOCKS = {
    "London, 25 hours": ("Europe/London", date(2025, 10, 25)),
    "London, 23 hours": ("Europe/London", date(2026, 3, 28)),
    "Kolkata, half an hour": ("Asia/Kolkata", date(2026, 3, 1)),
    "St John's, half an hour and 25 hours": ("America/St_Johns", date(2025, 11, 1)),
}
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "accounts are named": ("", {}),
    "people are accounts": ('[accounts]\nare = "people"\n', {"people_are_accounts": True}),
    "features are listed": ('[accounts]\nfeature_events = ["Saved"]\n', {"feature_events": frozenset({"saved"})}),
}


@pytest.fixture(params=[(c, r, seed) for seed, (c, r) in enumerate((c, r) for c in CLOCKS for r in RULES)], ids=str)
def told(request, company) -> Oracle:
    clock, rules, seed = request.param
    company.zone, company.first_day = CLOCKS[clock]
    company.last_day = company.first_day + timedelta(days=2)
    company.more_settings, options = RULES[rules]
    fill(company, seed)
    company.materialise()
    return Oracle(company, **options)


def test_every_figure_equals_brute_force(told: Oracle) -> None:
    company = told.company
    days = [company.first_day + timedelta(days=n) for n in range(3)]
    members = [row for day in days for row in told.member_rows(day)]
    assert company.rows(ACCOUNT_MEMBERS, order="1, 2, 3") == sorted(members, key=lambda row: row[:3])
    by_hour = [row for day in days for row in told.usage_rows(day)]
    by_receipt = [row for day in days for row in told.day_rows(day)]
    assert len(by_hour) > 30 and len({row[2] for row in by_receipt}) > 3
    assert company.rows(ACCOUNT_USAGE, order="1, 2, 3") == sorted(by_hour, key=lambda row: row[:3])
    assert company.rows(ACCOUNT_DAYS) == sorted(by_receipt)


def _counts(found: list[dict[str, Any]]) -> tuple[int, int, int, int]:
    features = {e["feature"] for e in found} - {None}
    return len(found), len({e["user"] for e in found}), len(features), sum(e["begins"] for e in found)


def _cut(company: Any, draw: random.Random) -> list[Window]:
    """All hours in windows of one to twelve hours, in no order; the hours beside midnight stand alone."""
    hours, found = company.hours, []
    alone = {n for n in range(1, len(hours)) if hours[n].first_day != hours[n - 1].first_day}
    first = 0
    for n in range(1, len(hours) + 1):
        if (
            n == len(hours)
            or n in alone
            or n - 1 in alone
            or n + 1 in alone
            or n - first == draw.randrange(2, 13)
            or n - first == 12
        ):
            found.append(company.platform.clock.window(hours[first].start, hours[n - 1].end))
            first = n
    draw.shuffle(found)
    return found


@pytest.mark.parametrize(
    "told",
    [(clock, "accounts are named", 20 + n) for n, clock in enumerate(CLOCKS)]
    + [(clock, "people are accounts", 24 + n) for n, clock in enumerate(CLOCKS)],
    ids=str,
    indirect=True,
)
def test_hours_and_days_alone_in_any_order_equal_a_rebuild_from_nothing(told: Oracle, monkeypatch) -> None:
    company = told.company
    tables = (EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS, ACCOUNTS, ACCOUNT_MEMBERS, ACCOUNT_USAGE, ACCOUNT_DAYS)
    whole = {table.name: company.digests(table) for table in tables}
    for table in tables:
        company.platform.lake.replace(table, table.arrow_schema().empty_table(), None, {})
    hours = _cut(company, random.Random(5))
    days = [company.days(day, day) for day in (company.first_day + timedelta(days=n) for n in range(3))]
    for function, windows, written in (
        (events, hours, (EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS)),
        (accounts, days[::-1], (ACCOUNTS, ACCOUNT_MEMBERS)),
        (account_usage, hours[::-1], (ACCOUNT_USAGE,)),
        (account_days, days[::-1], (ACCOUNT_DAYS,)),
    ):
        for window in windows:
            company.write(company.compute(function, window), window, *written)
    assert {table.name: company.digests(table) for table in tables} == whole
    monkeypatch.setattr(usage, "DAYS_AT_ONCE", 1)
    company.write(company.compute(account_usage, company.all_days), company.all_days, ACCOUNT_USAGE)
    assert company.digests(ACCOUNT_USAGE) == whole[ACCOUNT_USAGE.name]


def test_a_record_that_leaves_its_account_unsaid_belongs_to_what_its_person_named_last_whatever_the_identity(
    company: Any,
) -> None:
    """Of three namings by one identity the middle one is redundant, unless another identity of the person names another account."""
    company.alias("p", "phone", "2026-03-01T08:00:00")
    company.told("p", "2026-03-01T09:00:00", account_id="A")
    for minute, who, of in ((0, "p", "A"), (10, "phone", "B"), (20, "p", "A"), (40, "p", "A"), (50, "phone", "B")):
        company.event(who, f"2026-03-02T09:{minute:02}:00", received=company.at("2026-03-02T10:00:00"), account_id=of)
    company.told("phone", "2026-03-02T09:30:00", seats="7")
    company.told("p", "2026-03-02T09:15:00", seats="9")
    company.materialise()
    assert company.rows(ACCOUNTS, "as_of_date = '2026-03-02'", "account_id, seats") == [("A", 7), ("B", 9)]
    assert company.rows(ACCOUNT_USAGE, columns="account_id, events, seats") == [("A", 3, 7), ("B", 2, 9)]


def test_seats_follow_who_was_who_the_evening_before_and_begin_a_day_as_accounts_ended_the_last(company: Any) -> None:
    """On the 2nd p, of A as far as is known, tells of five seats; at noon p is found to be the phone that had named B after p named A."""
    company.told("p", "2026-03-01T09:00:00", account_id="A", seats="3")
    company.told("phone", "2026-03-01T09:30:00", account_id="B")
    company.told("p", "2026-03-02T10:00:00", seats="5")
    company.alias("p", "phone", "2026-03-02T12:00:00")
    for day in (2, 3):
        for of in "AB":
            for hour in (9, 11, 23) if day == 2 else (0,):
                company.event(f"someone of {of}", f"2026-03-0{day}T{hour:02}:30:00", account_id=of)
    company.materialise()
    assert company.rows(ACCOUNTS, "as_of_date = '2026-03-02'", "account_id, seats") == [("A", 3), ("B", 5)]
    usage_rows = company.rows(ACCOUNT_USAGE, columns="account_id, day(hour), hour(hour), seats")
    assert usage_rows == [
        ("A", 2, 9, 3), ("A", 2, 11, 5), ("A", 2, 23, 5), ("A", 3, 0, 3), ("B", 2, 9, None), ("B", 2, 11, None), ("B", 2, 23, None),
        ("B", 3, 0, 5),
    ]  # fmt: skip


def test_a_person_of_two_names_is_one_account_from_the_first_day_on_which_either_is_seen(company: Any) -> None:
    """They were joined before `first_day`. The evening before they are seen there is no such account, in a range of days either.

    On that day they go by the smaller name, whoever of them came first: that is what was known.
    """
    company.more_settings = '[accounts]\nare = "people"\n'
    company.alias("ann", "phone", "2026-02-20T08:00:00")
    company.alias("bob", "desk", "2026-02-20T08:00:00")
    for day, one, other in ((1, "phone", "ann"), (2, "desk", "bob")):
        company.event(one, f"2026-03-0{day}T09:00:00")
        company.event(other, f"2026-03-0{day}T10:00:00")
    company.materialise()
    used = company.rows(ACCOUNT_DAYS, columns="day(event_date), account_id, events, active_users")
    assert used == [(1, "ann", 2, 1), (2, "bob", 2, 1)]
    assert company.rows(ACCOUNT_USAGE, columns="DISTINCT account_id") == [("ann",), ("bob",)]
    assert company.rows(ACCOUNTS, "as_of_date = '2026-03-01'", "account_id") == [("phone",)]
    assert company.rows(ACCOUNT_MEMBERS, "as_of_date = '2026-03-01'", "account_id, identity") == [
        ("phone", "ann"),
        ("phone", "phone"),
    ]


def test_what_a_newcomer_is_called_depends_on_nobody_who_comes_later(company: Any) -> None:
    """Two visitors, each of two names since before `first_day`, come on the 2nd; a name of theirs an hour later, or on the next day."""
    company.more_settings = '[accounts]\nare = "people"\n'
    company.last_day = date(2026, 3, 4)
    for number, comes in enumerate(("2026-03-02T10:10:00", "2026-03-03T10:10:00")):
        company.alias(visitor(f"{number}"), f"bob{number}", "2026-02-20T10:00:00")
        company.alias(f"ann{number}", f"bob{number}", "2026-02-20T10:00:00")
        company.event(visitor(f"{number}"), "2026-03-02T09:10:00")
        company.event(f"bob{number}", comes)
        company.event(visitor(f"{number}"), "2026-03-04T09:10:00")
    company.materialise()
    used = company.rows(ACCOUNT_DAYS, columns="day(event_date), account_id, events")
    # The name that was seen is not known before the evening of its day.
    assert used == [(2, "ann0", 2), (2, "ann1", 1), (3, "ann1", 1), (4, "bob0", 1), (4, "bob1", 1)]
    whole = company.digests(ACCOUNT_USAGE), company.digests(ACCOUNT_DAYS)
    for hour in company.hours:
        company.write(company.compute(account_usage, hour), hour, ACCOUNT_USAGE)
    for day in {hour.first_day for hour in company.hours}:
        window = company.days(day, day)
        company.write(company.compute(account_days, window), window, ACCOUNT_DAYS)
    assert (company.digests(ACCOUNT_USAGE), company.digests(ACCOUNT_DAYS)) == whole


def test_what_is_received_later_moves_no_row_of_an_earlier_receipt(company: Any) -> None:
    """On the 3rd the person works for A, as far as is known. That it had gone to B on the 2nd is heard on the 5th."""
    company.alias("p", "phone", "2026-03-01T08:00:00", received=company.at("2026-03-01T08:00:00"))
    company.told("p", "2026-03-01T09:00:00", received=company.at("2026-03-01T09:00:00"), account_id="A")
    for hour, received in ((9, "2026-03-03T09:00:01"), (10, "2026-03-04T10:00:00"), (11, "2026-03-06T11:00:00")):
        company.event("phone", f"2026-03-03T{hour:02}:00:00", received=company.at(received))
    company.materialise()
    before = company.rows(ACCOUNT_DAYS)
    assert [(row[1], row[2].day, row[3]) for row in before] == [("A", 3, 1), ("A", 4, 2), ("A", 6, 3)]
    company.told("phone", "2026-03-02T09:00:00", received=company.at("2026-03-05T09:00:00"), account_id="B")
    company.materialise()
    assert company.rows(ACCOUNT_DAYS, "received_date < '2026-03-05'") == before[:2]
    after = company.rows(
        ACCOUNT_DAYS, "received_date >= '2026-03-05'", "account_id, day(received_date), events, active_users, sessions"
    )
    assert after == [("A", 5, 0, 0, 0), ("B", 5, 2, 1, 2), ("B", 6, 3, 1, 3)]
    # Usage is what is known now.
    assert company.rows(ACCOUNT_USAGE, columns="DISTINCT account_id") == [("B",)]


@pytest.mark.parametrize("seed", range(3))
def test_days_are_the_same_however_the_lines_are_cut_into_files(company: Any, seed: int) -> None:
    """The same lines with the same instants of receipt, in one file as they came, and shuffled into five."""
    company.zone, company.first_day = CLOCKS["London, 25 hours"]
    company.last_day = company.first_day + timedelta(days=2)
    fill(company, 50 + seed)
    company.materialise()
    tables = (ACCOUNTS, ACCOUNT_MEMBERS, ACCOUNT_USAGE, ACCOUNT_DAYS)
    in_one_file = {table.name: company.digests(table) for table in tables}
    assert sum(rows for rows, _ in in_one_file[ACCOUNT_DAYS.name].values()) > 10
    draw = random.Random(seed)
    draw.shuffle(company.records)
    for number, record in enumerate(company.records):
        record |= {"file": f"{draw.randrange(5)}.json", "line_number": number}
    company.materialise()
    assert {table.name: company.digests(table) for table in tables} == in_one_file


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_receipt_are_those_of_an_export_that_ends_with_it(company: Any, seed: int) -> None:
    company.zone, company.first_day = CLOCKS["London, 23 hours"]
    company.last_day = company.first_day + timedelta(days=2)
    fill(company, 40 + seed)
    company.materialise()
    known_by = company.first_day + timedelta(days=1)
    rows = company.rows(ACCOUNT_DAYS, f"event_date <= '{known_by}' AND received_date <= '{known_by}'")
    end = company.platform.clock.begins(known_by + timedelta(days=1))
    all_records = len(company.records)
    company.records = [r for r in company.records if (r["received_at"] or r["occurred_at"]) < end]
    assert len(company.records) < 0.8 * all_records and len(rows) > 3
    company.materialise()
    assert company.rows(ACCOUNT_DAYS, f"event_date <= '{known_by}'") == rows


def test_bills_and_turns_of_a_contract_are_nobodys_activity_and_name_the_account_all_the_same(company: Any) -> None:
    """Its owner is billed and fails to pay in two hours of the night, and works in the morning without saying for whom."""
    company.event("owner", "2026-03-02T02:00:00", "subscription billed", account_id="A", seats="5")
    company.event("owner", "2026-03-02T03:00:00", "payment failed", account_id="A")
    company.event("owner", "2026-03-02T03:20:00", "worked")
    company.event("owner", "2026-03-02T04:00:00", "subscription upgraded", account_id="A", seats="9")
    company.materialise()
    rows = company.rows(
        ACCOUNT_USAGE, columns="extract(hour FROM hour), account_id, events, active_users, features_used, sessions, seats"
    )
    assert rows == [(3, "A", 1, 1, 1, 1, 5)]
    assert company.rows(ACCOUNT_DAYS, columns="account_id, events, user_hours") == [("A", 1, 1)]
    assert company.rows(ACCOUNTS, "as_of_date = '2026-03-02'", "account_id, status, seats") == [("A", "active", 9)]


def test_a_word_that_stands_for_nothing_names_no_account(company) -> None:
    for number, name in enumerate(["null", " None ", "undefined", "-1", " ", " A ", "A"]):
        company.event(f"p{number}", f"2026-03-02T10:0{number}:00", account_id=name)
    company.told("p0", "2026-03-02T11:00:00", account_id="NULL", seats="4")
    company.materialise()
    assert company.rows(ACCOUNT_USAGE, columns="account_id, events") == [("A", 2)]
    assert {row[0] for row in company.rows(ACCOUNTS, columns="account_id")} == {"A"}
