"""Labels: replayed from random records by plain Python, and what a build says of labels that know what they may not."""

import calendar
import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import dagster as dg
import polars as pl
import pytest

from analytics_assets.saas.accounts.standing import WHENEVER
from analytics_assets.saas.churn import histories
from analytics_assets.saas.churn.histories import Histories, Label
from analytics_assets.saas.churn.tables import CHURN_TRAINING_SET
from analytics_assets.settings import TrainingSet
from analytics_assets_tests.saas.churn.conftest import Company

HORIZON, GRACE, TRIAL = 30, timedelta(days=7), timedelta(days=30)
OWN = {
    subjects: TrainingSet(name="exports", subjects=subjects, events=("exported",), horizon_days=HORIZON)
    for subjects in ("accounts", "customers")
}
LABELS = {
    "churn of accounts": Label("account", HORIZON),
    "churn of customers": Label("customer", HORIZON),
    "events of accounts": Label("account", HORIZON, OWN["accounts"]),
    "events of customers": Label("customer", HORIZON, OWN["customers"]),
    "no events of accounts": Label("account", HORIZON, OWN["accounts"].model_copy(update={"absent": True})),
    "no events of customers": Label("customer", HORIZON, OWN["customers"].model_copy(update={"absent": True})),
}
SETTINGS = f"""[churn]
account_horizon_days = {HORIZON}
customer_horizon_days = {HORIZON}
"""
DAYS, ACCOUNTS = 170, 48


class Restless(Company):
    """A company in whose accounts, customers and identities everything happens at random, near midnight, late, and again."""

    def __init__(self, folder: Path, seed: int, first_day: date, time_zone: str, people: bool) -> None:
        """Live `DAYS` days from the first one on."""
        settings = SETTINGS + ('[accounts]\nare = "people"\n' if people else "")
        super().__init__(folder, settings, first_day, time_zone)
        self.rng, self.zone = random.Random(seed), ZoneInfo(time_zone)
        self.last_day = first_day + timedelta(days=DAYS)
        for number in range(ACCOUNTS):
            self._live(number, people)
        for number in range(30):
            customer, tablet = f"customer {number}", f"tablet {number}"
            for offset in self.rng.sample(range(DAYS + 1), 6):
                self._at(offset, self.bought, customer, amount=self.rng.choice([20, 20, 20, 0, -5]))
            for offset in self.rng.sample(range(DAYS + 1), 3):
                self._at(offset, self.did, tablet, "exported")
            self._at(self.rng.randrange(DAYS), self.alias, customer, tablet)
            if number % 3 == 0:
                self._at(self.rng.randrange(DAYS), self.alias, customer, f"customer {(number + 7) % 30}")
        self.write(self.last_day, self.last_day)

    def _live(self, number: int, people: bool) -> None:
        account, another = (None, None) if people else (f"account {number}", f"account {(number + 1) % ACCOUNTS}")
        boss, phone, newcomer = (f"{who} {number}" for who in ("boss", "phone", "newcomer"))
        offset = self.rng.randrange(60)
        self._at(offset, self.told, boss, account)
        while offset <= DAYS:
            kind = self.rng.choices(["billed", "trial", "canceled", "upgraded"], [12, 2, 2, 1])[0]
            months, amount = Decimal(self.rng.choice([1, 1, 1, 3])), Decimal(self.rng.choice([60, 60, 60, 60, -5]))
            bill = {"amount": amount, "months": months} if kind == "billed" else {}
            self._at(offset, self.told, boss, account if self.rng.random() < 0.7 else None, kind=kind, **bill)
            # On the day that a bill is due, within and on the last day of grace, a day too late, and much too late.
            offset += self.rng.choice([30, 30, 30, 31, 36, 37, 38, 39, 3, 12, 55])
        for offset in self.rng.sample(range(DAYS + 1), 3):
            self._at(offset, self.did, self.rng.choice([boss, phone]), "exported")
        if not people:
            self._at(self.rng.randrange(DAYS), self.did, "stranger", "exported", account=another)
            self._at(self.rng.randrange(DAYS), self.told, boss, another)
            joined = self.rng.randrange(DAYS - 40)
            self._at(joined, self.told, newcomer, account)
            self._at(joined + self.rng.randrange(40), self.did, newcomer, "exported")
        self._at(self.rng.randrange(DAYS), self.alias, boss, phone)
        if number % 4 == 0:
            self._at(self.rng.randrange(DAYS), self.alias, boss, f"boss {number + 1}")

    def _at(self, offset: int, happen: Callable[..., None], *who: str | None, **more: Any) -> None:
        """Let something happen on a day, mostly within minutes of midnight, and be received then or up to weeks later."""
        day = self.first_day + timedelta(days=offset)
        tables = (self.orders, self.account_records, self.events, self.records)
        before = [len(table) for table in tables]
        happen(*who, day=day, **more)
        clock = self.rng.choice([time(0, 0), time(0, 7), time(1, 30), time(12), time(23, 53), time(23, 59, 59)])
        at = datetime.combine(day, clock, self.zone).astimezone(UTC)
        late = timedelta(days=self.rng.randrange(40))
        delay = self.rng.choice([None, None, timedelta(seconds=1), timedelta(minutes=9), late, late, late])
        for table, known in zip(tables, before, strict=True):
            for row in table[known:]:
                row["ordered_at" if table is self.orders else "occurred_at"] = at
                row["received_at"] = None if delay is None else at + delay
                if "occurred_second" in row:
                    row["occurred_second"] = int(at.timestamp())

    # What follows is the oracle: it reads the records above and nothing else of the project.

    def ends(self, day: date) -> datetime:
        """The instant at which a day ends."""
        return datetime.combine(day + timedelta(days=1), time(), self.zone).astimezone(UTC)

    def known(self, rows: list[dict[str, Any]], day: date, at: str = "occurred_at") -> list[dict[str, Any]]:
        """Rows that had been received by the end of a day."""
        return [row for row in rows if (row["received_at"] or row[at]) < self.ends(day)]

    def people(self, day: date) -> dict[str, frozenset[str]]:
        """By identity, all identities that are known by the end of a day to be the same person."""
        groups: dict[str, frozenset[str]] = {}
        for row in self.known(self.records, day):
            if row["kind"] == "alias":
                one, other = (groups.get(name, frozenset([name])) for name in (row["identity"], row["other_identity"]))
                groups |= dict.fromkeys(one | other, one | other)
        return groups

    def named_by(self, row: dict[str, Any], person: frozenset[str], known: list[dict[str, Any]]) -> str | None:
        """The account of a row: the one that it names, else the one that its person had named last at that second."""
        if row.get("account_id"):
            return row["account_id"]
        before = [
            r for r in known if r["account_id"] and r["identity"] in person and r["occurred_second"] <= row["occurred_second"]
        ]
        return max(before, key=lambda r: (r["occurred_second"], r["record_id"]))["account_id"] if before else None

    def subjects(self, rows: list[dict[str, Any]], day: date) -> list[tuple[dict[str, Any], Any]]:
        """Rows with the account of each (a person where people are accounts), as known by the end of a day."""
        people, known = self.people(day), self.known(self.account_records, day)
        of = lambda row: people.get(row["identity"], frozenset([row["identity"]]))  # noqa: E731
        if 'are = "people"' in self.settings:
            return [(row, of(row)) for row in rows]
        return [(row, self.named_by(row, of(row), known)) for row in rows]

    def stretches(self, day: date) -> dict[Any, list[tuple[date, date | None, bool]]]:
        """By account the contracts and trials that it had: first day, day on which it ended, whether it is over by what came after it."""
        turns: dict[Any, list[dict[str, Any]]] = {}
        for row, account in self.subjects(self.known(self.account_records, day), day):
            credit = row.get("amount") is not None and row["amount"] < 0
            if account is not None and row["kind"] in ("billed", "trial", "canceled") and not credit:
                turns.setdefault(account, []).append(row)
        return {
            account: _stretches(sorted(rows, key=lambda row: (row["occurred_second"], row["record_id"])), day)
            for account, rows in turns.items()
        }

    def label(self, label: Label, cut_off: date, day: date) -> tuple[set[Any], set[Any]]:
        """To whom it happened within the window, and which accounts stood at the cut-off, as known by the end of a day."""
        inside = lambda when: cut_off < when <= cut_off + timedelta(days=label.horizon_days)  # noqa: E731
        people = self.people(day)
        of = lambda name: people.get(name, frozenset([name]))  # noqa: E731
        if label.kind == "customer":
            rows = self.known(self.events, day) if label.named else self.known(self.orders, day, "ordered_at")
            did = {
                of(row["identity"])
                for row in rows
                if inside(row.get("order_date") or row["event_date"])
                and (row["name"] == "exported" if label.named else row["net_revenue"] > 0)
            }
            return did, set()
        stretches = self.stretches(day)
        stood = {
            account
            for account, found in stretches.items()
            if any(began <= cut_off and (end is None or end > cut_off) for began, end, _ in found)
        }
        if label.named:
            return {
                account for row, account in self.subjects(self.known(self.events, day), day) if inside(row["event_date"])
            }, stood
        ended = {account for account, found in stretches.items() if any(over and end and inside(end) for _, end, over in found)}
        canceled = {
            account
            for row, account in self.subjects(self.known(self.account_records, day), day)
            if row["kind"] == "canceled" and inside(row["event_date"])
        }
        return ended | canceled, stood


def _months_later(day: date, months: int) -> date:
    month = day.month - 1 + months
    year, month = day.year + month // 12, month % 12 + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def _stretches(turns: list[dict[str, Any]], day: date) -> list[tuple[date, date | None, bool]]:
    """Contracts and trials of turns in order, up to a day: the first day, the day on which it was over, and whether it was not followed."""
    found: list[tuple[date, date | None, bool]] = []
    paid: tuple[date, date] | None = None
    tried: date | None = None
    for turn in (*turns, None):
        today = turn["event_date"] if turn else day + timedelta(days=1)
        # A contract is over on the last day of grace, a trial on the day after its last.
        if paid and (lapsed := paid[1] + GRACE) < today:
            found.append((paid[0], lapsed, True))
            paid = None
        if tried and tried + TRIAL + timedelta(days=1) <= today - timedelta(days=not turn):
            found.append((tried, tried + TRIAL + timedelta(days=1), True))
            tried = None
        if turn is None:
            found += [(began, None, False) for began in (paid and paid[0], tried) if began]
        elif turn["kind"] == "billed":
            through = _months_later(today, int(turn["months"]))
            paid = (paid[0], max(paid[1], through)) if paid else (today, through)
            found += [(tried, today, False)] if tried else []
            tried = None
        elif turn["kind"] == "canceled":
            found += [(began, today, True) for began in (paid and paid[0], tried) if began]
            paid = tried = None
        elif paid is None:
            found += [(tried, today, False)] if tried else []
            tried = today
    return found


@pytest.mark.parametrize("people", [False, True])
@pytest.mark.parametrize(
    ("seed", "first_day", "time_zone"),
    # The clock is put forward on 2025-03-30 in London, back on 2025-11-02 in New York, on 2025-04-06 in Sydney.
    [
        (1, date(2024, 12, 20), "Europe/London"),
        (2, date(2025, 7, 25), "America/New_York"),
        (3, date(2024, 12, 1), "Australia/Sydney"),
    ],
)
def test_labels_are_those_of_the_records_replayed_and_no_honest_build_is_refused(
    seed: int, first_day: date, time_zone: str, people: bool, tmp_path: Path
):
    company = Restless(tmp_path, seed, first_day, time_zone, people)
    days = [company.last_day - timedelta(days=back) for back in (25, 9, 0)]

    def compare(work):
        found = Histories(work)
        subjects = lru_cache(None)(lambda kind, cut_off: found.everybody(kind, cut_off)["subject_id"].to_list())
        for (name, label), day in itertools.product(LABELS.items(), days):
            rows = found.training_rows(label, day)
            assert rows["cut_off"].n_unique() > 6
            assert 0 < rows["churned"].sum() < rows.height
            assert found.leaks(label, day, rows).is_empty(), (name, day)
            absent = label.named.absent if label.named else label.kind == "customer"
            persons = company.people(day) if people or label.kind == "customer" else {}
            for (cut_off,), of_cut_off in rows.group_by("cut_off"):
                happened, stood = company.label(label, cast(date, cut_off), day)
                keys = {
                    subject: persons.get(subject, frozenset([subject])) if people or label.kind == "customer" else subject
                    for subject in subjects(label.kind, cut_off)
                }
                expected = {
                    subject: (key in happened) != absent
                    for subject, key in keys.items()
                    if label.kind == "customer" or key in stood
                }
                assert dict(of_cut_off.select("subject_id", "churned").rows()) == expected, (name, cut_off, day)

    company.compute(compare, days[0], days[-1])


class Plant:
    """A mistake in what labels are made of: another text of a statement, or other parameters of it."""

    def __init__(self, file: str, sound: str = "", leaky: str = "", **days: int) -> None:
        """Say `leaky` where a file says `sound`, or move a parameter by so many days."""
        self.file, self.sound, self.leaky, self.days = file, sound, leaky, days

    def into(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Make the mistake."""
        run = histories.run

        def mistaken(connection: Any, file: Path, parameters: dict[str, Any]) -> Any:
            if file.name != self.file:
                return run(connection, file, parameters)
            text = file.read_text()
            assert self.sound in text
            (folder / self.file).write_text(text.replace(self.sound, self.leaky))
            moved = {name: parameters[name] + timedelta(days=days) for name, days in self.days.items()}
            return run(connection, folder / self.file, parameters | moved)

        monkeypatch.setattr(histories, "run", mistaken)


def _contracts_of_whenever(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sound = histories.parameters_of
    monkeypatch.setattr(
        histories, "parameters_of", lambda settings, day, end: sound(settings, day, WHENEVER if day == BUILT else end)
    )


def _people_of_later(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sound = Histories._map_for
    later = lambda day: day + timedelta(days=20) if day == BUILT else day  # noqa: E731
    monkeypatch.setattr(Histories, "_map_for", lambda self, kind, day, inputs: sound(self, kind, later(day), inputs))


def _windows_that_have_not_ended(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sound = histories.training_cut_offs
    monkeypatch.setattr(histories, "training_cut_offs", lambda day, *rest: sound(day + timedelta(days=20), *rest))


def _shorter_windows(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(Label, "until", lambda self, cut_off: cut_off + timedelta(days=self.horizon_days - 1))


def _outcome_among_features(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sound = Histories._labelled

    def mistaken(self, label: Label, *rest: Any) -> pl.DataFrame:
        return sound(self, label, *rest).with_columns(
            pl.when("churned").then(999).otherwise(TOLD[label.kind]).alias(TOLD[label.kind])
        )

    monkeypatch.setattr(Histories, "_labelled", mistaken)


def _labels_of_another_cut_off(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    sound = Histories._labelled

    def mistaken(self, label: Label, cut_off: date, outcome: Any) -> pl.DataFrame:
        earlier = self._outcome(label, cut_off - timedelta(days=10), BUILT, self._all)
        return sound(self, label, cut_off, dataclasses.replace(outcome, happened=earlier.happened))

    monkeypatch.setattr(Histories, "_labelled", mistaken)


def _received(table: str, at: str) -> tuple[str, str]:
    return f"COALESCE({table}.received_at, {table}.{at}) < $known_before", "$known_before IS NOT NULL"


BUILT = date(2025, 5, 20)
TOLD = {"account": "idle_days", "customer": "recency_days"}
"""A feature that a mistake tells the label by."""
OF_ACCOUNTS, OF_CUSTOMERS = ("churn_training_set", "account", ["churned"]), ("churn_training_set", "customer", ["churned"])
OWN_OF_ACCOUNTS, OWN_OF_CUSTOMERS = (
    ("training_sets", kind, ["label exports", "label silence"]) for kind in ("account", "customer")
)
PLANTS = {
    "contracts that end after the window": (OF_ACCOUNTS, Plant(
        "account_labels.sql", "ended_on <= $label_until", "ended_on <= CAST($label_until AS DATE) + 30").into),
    "contracts that ended before the cut-off": (OF_ACCOUNTS, Plant(
        "account_labels.sql", "ended_on > $cut_off", "ended_on > CAST($cut_off AS DATE) - 30").into),
    "cancellations before the cut-off": (OF_ACCOUNTS, Plant(
        "account_labels.sql", "event_date > $cut_off", "event_date > CAST($cut_off AS DATE) - 30").into),
    "another end of the window of accounts": (OF_ACCOUNTS, Plant("account_labels.sql", label_until=30).into),
    "another cut-off of accounts": (OF_ACCOUNTS, Plant("account_labels.sql", cut_off=-30).into),
    "contracts known by records that come later": (OF_ACCOUNTS, _contracts_of_whenever),
    "accounts that stand later": (("churn_training_set", "account", ["subject_id"]), Plant("account_stood.sql", cut_off=20).into),
    "orders after the window": (OF_CUSTOMERS, Plant(
        "customer_labels.sql", "o.order_date <= $label_until", "o.order_date <= CAST($label_until AS DATE) + 30").into),
    "orders before the cut-off": (OF_CUSTOMERS, Plant(
        "customer_labels.sql", "o.order_date > $cut_off", "o.order_date > CAST($cut_off AS DATE) - 30").into),
    "orders that come later": (OF_CUSTOMERS, Plant("customer_labels.sql", *_received("o", "ordered_at")).into),
    "another end of the window of customers": (OF_CUSTOMERS, Plant("customer_labels.sql", label_until=30).into),
    "another cut-off of customers": (OF_CUSTOMERS, Plant("customer_labels.sql", cut_off=-30).into),
    "orders known later": (OF_CUSTOMERS, Plant("customer_labels.sql", known_before=20).into),
    "customers of later": (OF_CUSTOMERS, _people_of_later),
    **{
        f"{asset}: {into.__name__} of {kind}": ((asset, kind, [told or name]), into)
        for asset, kind, (name, *_) in (OF_ACCOUNTS, OF_CUSTOMERS, OWN_OF_ACCOUNTS)
        for into, told in ((_outcome_among_features, TOLD[kind]), (_labels_of_another_cut_off, None))
    },
}  # fmt: skip
for _own in (OWN_OF_ACCOUNTS, OWN_OF_CUSTOMERS):
    _file = f"{_own[1]}_events.sql"
    PLANTS |= {
        f"{_file}: events after the window": (_own, Plant(
            _file, "e.event_date <= $label_until", "e.event_date <= CAST($label_until AS DATE) + 30").into),
        f"{_file}: events before the cut-off": (_own, Plant(
            _file, "e.event_date > $cut_off", "e.event_date > CAST($cut_off AS DATE) - 30").into),
        f"{_file}: events that come later": (_own, Plant(_file, *_received("e", "occurred_at")).into),
        f"{_file}: people of later": (_own, _people_of_later),
    }  # fmt: skip
PLANTS |= {
    f"{into.__name__} of {kind}": (("training_sets", kind, ["label_until"]), into)
    for into in (_windows_that_have_not_ended, _shorter_windows)
    for kind in ("account", "customer")
}
_LATE_NAMES = "account_events.sql: names of accounts that come later"
PLANTS[_LATE_NAMES] = (OWN_OF_ACCOUNTS, Plant("account_events.sql", *_received("r", "occurred_at")).into)
# Nobody names an account where people are accounts; who is who then says who stood.
OF_NAMED_ACCOUNTS = {_LATE_NAMES, "account_events.sql: people of later"}
PLANTS["people who are accounts of later"] = (("churn_training_set", "account", ["subject_id"]), _people_of_later)
OF_PEOPLE = {"people who are accounts of later"}
CASES = [
    (people, name)
    for people in (False, True)
    for name, ((_, kind, _), _) in PLANTS.items()
    if name not in (OF_NAMED_ACCOUNTS if people else OF_PEOPLE) and (kind == "account" or not people)
]


@pytest.fixture(scope="module")
def restless(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Restless, dg.DagsterInstance]]:
    """Twenty days more of a company than are built, with accounts or with people as accounts, and Dagster's storage."""
    first_day = BUILT + timedelta(days=20 - DAYS)
    company = Restless(tmp_path_factory.mktemp("restless"), 4, first_day, "Europe/London", request.param)
    with dg.DagsterInstance.ephemeral() as instance:
        yield company, instance


def own_sets(company: Restless, kind: str) -> str:
    """The company's settings with a label for events and one for their absence."""
    sets = (
        f'[[training_sets]]\nname = "{name}"\nsubjects = "{kind}s"\nevents = ["exported"]\nhorizon_days = {HORIZON}\nabsent = {absent}\n'
        for name, absent in (("exports", "false"), ("silence", "true"))
    )
    return company.settings + "".join(sets)


@pytest.mark.parametrize(("restless", "plant"), CASES, indirect=["restless"])
def test_a_build_whose_labels_know_what_they_may_not_is_refused(
    plant: str, restless: tuple[Restless, dg.DagsterInstance], monkeypatch, tmp_path: Path
):
    company, instance = restless
    (asset, kind, columns), into = PLANTS[plant]
    into(monkeypatch, tmp_path)
    monkeypatch.setattr(company, "settings", own_sets(company, kind))
    result = company.materialize(asset, BUILT, instance)
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "point_in_time"]
    violations = "\n".join(check.metadata["violations"].value)
    assert not result.success and not check.passed
    for column in columns:
        assert re.search(rf"kind {kind}, cut_off \d+-\d+-\d+, column {column}, subjects \d+", violations), violations
    assert company.platform.lake.pin(CHURN_TRAINING_SET).version is None
    assert not (company.platform.home.root / "training_sets").exists()
