"""The export of the software company says what its truth says: read back line by line, and by the product's own reader."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest

from analytics_assets.events import kissmetrics as reader
from analytics_assets.events.kissmetrics_files import list_files
from analytics_assets.simulation import kissmetrics, retailer, software
from analytics_assets.simulation.export_folder import write_folder
from analytics_assets.simulation.kissmetrics_software import company_lines, write_export
from analytics_assets.simulation.software import SoftwareCompany, simulate
from analytics_assets_tests.simulation.test_kissmetrics import Found, contents, pence, read

LONDON = ZoneInfo("Europe/London")
SMALL = SoftwareCompany(first_day=date(2026, 2, 15), last_day=date(2026, 4, 15), accounts=90, churn=0.2, cancel_share=0.5)
SHOP = retailer.Retailer(first_day=SMALL.first_day, last_day=SMALL.last_day, customers=900)
TURNS = {"trial started", "subscription billed", "subscription upgraded", "subscription downgraded", "subscription canceled"}
NO_FEATURE = {"signed in", "signed up", "visited site"}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "software"
    write_export(simulate(SMALL), out)
    return out


@pytest.fixture(scope="module")
def found(export: Path) -> Found:
    return read(export)


@pytest.fixture(scope="module")
def truth(export: Path) -> dict:
    return json.loads((export / "truth_software.json").read_text())


def test_truth_counts_lines_as_a_reader_finds_them(found: Found, truth: dict) -> None:
    assert {name: truth[name] for name in found.counts} == dict(found.counts)
    kinds = ("events", "aliases", "property_sets", "broken_lines", "repeated_lines")
    assert truth["lines"] == sum(truth[kind] for kind in kinds)
    assert all(truth[kind] > 0 for kind in (*kinds, "octal_lines", "late_lines"))
    assert truth["late_lines"] / truth["events"] == pytest.approx(0.01, rel=0.2)


def test_the_products_reader_sets_aside_only_the_broken_lines(export: Path, truth: dict) -> None:
    with duckdb.connect() as connection:
        landed = reader.read(connection, list_files(export))
    assert landed.rejected.num_rows == truth["broken_lines"]
    records = pl.from_arrow(landed.records)
    assert isinstance(records, pl.DataFrame)
    assert records.height == truth["lines"] - truth["broken_lines"]
    once = records.unique("record_id")
    assert records.height - once.height == truth["repeated_lines"]
    kinds = dict(once.group_by("kind").len().iter_rows())
    assert kinds == {"event": truth["events"], "set": truth["property_sets"], "alias": truth["aliases"]}
    assert (records["received_at"] >= records["occurred_at"]).all()


def test_usage_by_account_and_hour_is_what_a_reader_finds_event_by_event(export: Path, found: Found) -> None:
    """An event's account is the one that it names, else the one named last by the identity, or by whom its alias is."""
    named = {record["_p2"]: record["_p"] for record in found.records if "_p2" in record}
    tied_at = {record["_p2"]: record["_t"] for record in found.records if "_p2" in record}
    of_person: dict[str, str] = {}
    hours: dict[tuple[str, datetime], list] = defaultdict(lambda: [0, set(), set()])
    nobodys = 0
    for record in sorted(found.records, key=lambda record: (record["_t"], "_n" in record)):
        account = record.get("account id") or record.get("group - id")
        if account:
            of_person[record["_p"]] = account
        if "_n" not in record or record["_n"] in TURNS:
            continue
        person = record["_p"]
        if person in named and record["_t"] > tied_at[person]:
            person = named[person]
        account = account or of_person.get(person)
        if account is None:
            nobodys += 1
            continue
        local = datetime.fromtimestamp(record["_t"], LONDON)
        usage = hours[account, datetime.fromtimestamp(record["_t"] - local.minute * 60 - local.second, UTC)]
        usage[0] += 1
        usage[1].add(person)
        if record["_n"] not in NO_FEATURE:
            usage[2].add(record.get("feature", record["_n"]))
    rows = pl.read_parquet(export / "truth_account_hours.parquet")
    planted = {
        (r["account_id"], r["hour"]): [r["events"], r["active_users"], r["features_used"]] for r in rows.iter_rows(named=True)
    }
    assert planted == {key: [events, len(people), len(features)] for key, (events, people, features) in hours.items()}
    assert nobodys == json.loads((export / "truth_software.json").read_text())["events_without_account"] > 0


def test_contracts_are_what_their_turns_say(export: Path, found: Found, truth: dict) -> None:
    """Status, seats and recurring revenue of every account at the end of every fifth day, from the lines alone."""
    turns = sorted((r for r in found.records if r.get("_n") in TURNS), key=lambda r: r["_t"])
    kinds = Counter(r["_n"].removeprefix("subscription ").removesuffix(" started") for r in turns)
    assert truth["turns"] == dict(kinds)
    billed = [r for r in turns if r["_n"] == "subscription billed"]
    assert truth["billed_pence"] == sum(pence(r["subscription billing amount"]) for r in billed)
    lapsed_on = {
        account: on for account, canceled, on in
        pl.read_parquet(export / "truth_accounts.parquet").select("account_id", "canceled_on", "ended_on").iter_rows() if canceled is None
    }  # fmt: skip
    compared = Counter()
    for row in (
        pl.read_parquet(export / "truth_account_days.parquet").filter(pl.col("day").dt.day() % 5 == 0).iter_rows(named=True)
    ):
        so_far = [
            r
            for r in turns
            if r["account id"] == row["account_id"] and datetime.fromtimestamp(r["_t"], LONDON).date() <= row["day"]
        ]
        priced = [r for r in so_far if "subscription billing amount" in r]
        if not so_far:
            expected = "unbilled"
        elif so_far[-1]["_n"] == "subscription canceled":
            expected = "canceled"
        elif not priced:
            expected = "trial"
        else:
            on = lapsed_on.get(row["account_id"])
            expected = "lapsed" if on and on <= row["day"] else "active"
        assert row["status"] == expected
        if expected == "active":
            last = priced[-1]
            assert row["mrr_pence"] * int(last["subscription billing length"]) == pence(last["subscription billing amount"])
        if so_far:
            assert (str(row["seats"]), row["plan"]) == (so_far[-1]["seats"], so_far[-1]["subscription plan level"])
        compared[expected] += 1
    assert set(compared) == {"unbilled", "trial", "active", "canceled", "lapsed"}


def test_no_person_has_one_event_or_property_twice_in_a_second(found: Found) -> None:
    events = [(r["_p"], r["_n"], r["_t"]) for r in found.records if "_n" in r]
    properties = [(r["_p"], key, r["_t"]) for r in found.records if "_n" not in r for key in r if key[0] != "_"]
    assert len(set(events)) == len(events)
    assert len(set(properties)) == len(properties)


def test_events_are_not_the_shops_money(found: Found) -> None:
    """One home can hold both companies: nothing here is a purchase, a refund or an item."""
    names = {r["_n"] for r in found.records if "_n" in r}
    assert names >= TURNS | {"used feature", "viewed dashboard"} and not names & {
        "purchased",
        "refunded",
        "billed",
        "canceled order",
    }
    assert not {"order id", "order total", "billing amount", "revenue", "price", "quantity"} & {
        key for r in found.records for key in r
    }


def test_a_file_holds_what_was_received_on_one_business_day(export: Path, truth: dict) -> None:
    rows = list(csv.DictReader((export / "index.csv").open()))
    assert [row["filename"] for row in rows] == [f"revisions/{n}.json" for n in range(1, truth["files"] + 1)]
    days = [
        [datetime.fromtimestamp(int(row[name]), LONDON).date() for name in ("min_timestamp", "max_timestamp")] for row in rows
    ]
    assert all(first == last for first, last in days)
    assert [first for first, _ in days] == sorted({first for first, _ in days})
    assert days[0][0] == SMALL.first_day


def test_both_companies_make_one_export(tmp_path: Path, export: Path) -> None:
    shop, _ = kissmetrics.company_lines(retailer.simulate(SHOP))
    vendor, truth = company_lines(simulate(SMALL))
    write_folder(tmp_path / "both", [shop, vendor])
    kissmetrics.write_export(retailer.simulate(SHOP), tmp_path / "shop")
    alone = [data for folder in (tmp_path / "shop", export) for name, data in contents(folder).items() if "revisions" in name]
    both = contents(tmp_path / "both")
    assert Counter(data for name, data in both.items() if "revisions" in name) == Counter(alone)
    rows = list(csv.DictReader((tmp_path / "both/index.csv").open()))
    assert [row["filename"] for row in rows] == [f"revisions/{n + 1}.json" for n in range(len(alone))]
    received = [int(row["max_timestamp"]) for row in rows]
    assert received == sorted(received)
    for folder in (tmp_path / "shop", export):
        assert {name for name in contents(folder) if "truth" in name} <= set(both)
    with duckdb.connect() as connection:
        landed = reader.read(connection, list_files(tmp_path / "both"))
    shop_truth = json.loads((tmp_path / "both/truth.json").read_text())
    assert landed.rejected.num_rows == truth.broken_lines + shop_truth["broken_lines"]
    assert landed.records.num_rows + landed.rejected.num_rows == truth.lines + shop_truth["lines"]


def test_without_faults_every_line_is_json_once_and_on_time(tmp_path: Path) -> None:
    truth = write_export(simulate(replace(SMALL, accounts=25)), tmp_path / "clean", faults=False)
    lines = [line for n in range(truth.files) for line in (tmp_path / f"clean/revisions/{n + 1}.json").read_text().splitlines()]
    times = [json.loads(line)["_t"] for line in lines]
    assert times == sorted(times)
    assert len(set(lines)) == len(lines) == truth.lines == truth.events + truth.aliases + truth.property_sets
    assert (truth.broken_lines, truth.repeated_lines, truth.late_lines, truth.octal_lines) == (0, 0, 0, 0)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, export: Path) -> None:
    write_export(simulate(SMALL), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(export)
    write_export(software.simulate(replace(SMALL, seed=2)), tmp_path / "other")
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(export).items() if name in other)
