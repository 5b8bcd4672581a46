"""An export says what its truth says: read back, line by line, by a reader that shares no code with the writer."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from analytics_assets.simulation.kissmetrics import REVISION_LINES, write_export
from analytics_assets.simulation.retailer import Retailer, simulate

SMALL = Retailer(customers=900)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "faulty"
    write_export(simulate(SMALL), out)
    return out


@dataclass
class Found:
    """What the reader finds; the names are those of truth.json."""

    counts: Counter[str] = field(default_factory=Counter)
    records: list[dict] = field(default_factory=list)


def decoded(line: bytes) -> tuple[dict | None, bool]:
    """Give the record of a line, or None, and whether octal escapes had to be decoded for it."""
    try:
        record, octal = json.loads(line), False
    except ValueError:
        mended = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line)
        try:
            record, octal = json.loads(mended), True
        except ValueError:
            return None, False
    good = (
        isinstance(record, dict)
        and isinstance(record.get("_p"), str)
        and type(record.get("_t")) is int
        and record["_t"] < 2**40
        and record.get("_p2") != ""
    )
    return (record if good else None), octal


def read(folder: Path) -> Found:
    """Read every file in numeric order."""
    found, seen = Found(), set()
    for path in sorted((folder / "revisions").iterdir(), key=lambda path: int(path.stem)):
        found.counts["files"] += 1
        data = path.read_bytes()
        assert data.endswith(b"\n")
        for line in data[:-1].split(b"\n"):
            found.counts["lines"] += 1
            record, octal = decoded(line)
            if record is None:
                found.counts["broken_lines"] += 1
                continue
            key = json.dumps(record, sort_keys=True)
            if key in seen:
                found.counts["repeated_lines"] += 1
                continue
            seen.add(key)
            found.counts["octal_lines"] += octal
            found.counts["events" if "_n" in record else "aliases" if "_p2" in record else "property_sets"] += 1
            found.records.append(record)
    return found


@pytest.fixture(scope="module")
def found(export: Path) -> Found:
    return read(export)


@pytest.fixture(scope="module")
def truth(export: Path) -> dict:
    return json.loads((export / "truth.json").read_text())


def pence(text: str) -> int:
    assert re.fullmatch(r"-?\d+\.\d\d", text)
    return int(text.replace(".", ""))


def transactions_with_lines(found: Found) -> list[tuple[dict, list[dict]]]:
    """Give each item line to the last order or refund, at or before it, of the same person."""
    by_person: dict[str, list[dict]] = defaultdict(list)
    for record in found.records:
        if record.get("_n") in ("purchased", "refunded") or "quantity" in record:
            by_person[record["_p"]].append(record)
    joined: list[tuple[dict, list[dict]]] = []
    for records in by_person.values():
        for record in sorted(records, key=lambda record: (record["_t"], "_n" not in record)):
            if "_n" in record:
                joined.append((record, []))
            else:
                joined[-1][1].append(record)
    return joined


def test_truth_counts_lines_as_a_reader_finds_them(found: Found, truth: dict) -> None:
    assert {name: truth[name] for name in found.counts} == dict(found.counts)
    kinds = ("events", "aliases", "property_sets", "broken_lines", "repeated_lines")
    assert truth["lines"] == sum(truth[kind] for kind in kinds)
    assert all(truth[kind] > 0 for kind in (*kinds, "octal_lines", "late_lines"))


def test_faults_have_about_their_shares(truth: dict) -> None:
    assert truth["repeated_lines"] / truth["lines"] == pytest.approx(0.003, rel=0.35)
    assert truth["late_lines"] / truth["lines"] == pytest.approx(0.005, rel=0.35)


def test_truth_has_the_orders_and_revenue_of_the_events(found: Found, truth: dict) -> None:
    zone = ZoneInfo("Europe/London")
    revenue: Counter[str] = Counter()
    orders: Counter[str] = Counter()
    refunds = 0
    for record in found.records:
        if record.get("_n") in ("purchased", "refunded"):
            day = datetime.fromtimestamp(record["_t"], zone).date().isoformat()
            revenue[day] += pence(record["order total"])
            orders[day] += record["_n"] == "purchased"
            refunds += record["_n"] == "refunded"
            assert (pence(record["order total"]) < 0) == (record["_n"] == "refunded")
    assert truth["net_revenue_pence_by_day"] == dict(sorted(revenue.items()))
    assert truth["orders_by_day"] == {day: orders[day] for day in sorted(revenue)}
    assert truth["net_revenue_pence"] == sum(revenue.values())
    assert (truth["orders"], truth["refunds"]) == (sum(orders.values()), refunds)
    assert min(revenue) >= "2025-10-01" and max(revenue) <= "2026-09-30"


def test_item_lines_add_up_to_their_order_to_the_penny(found: Found, truth: dict) -> None:
    lines = returned = 0
    for event, items in transactions_with_lines(found):
        refund = event["_n"] == "refunded"
        assert [item["_t"] - event["_t"] for item in items] == list(range(len(items)))
        assert sum(pence(item["price"]) * int(item["quantity"]) for item in items) == pence(event["order total"])
        assert all(("returned sku" if refund else "purchased sku") in item for item in items)
        assert all((int(item["quantity"]) < 0) == refund and pence(item["price"]) > 0 for item in items)
        lines += len(items)
        returned += len(items) * refund
    assert (truth["order_item_lines"], truth["returned_item_lines"]) == (lines, returned)


def test_item_lines_name_the_category_of_their_article(found: Found) -> None:
    category = dict(simulate(SMALL).catalogue.select("sku", "category").iter_rows())
    items = [item for _, items in transactions_with_lines(found) for item in items]
    assert {"purchased sku", "returned sku"} <= {key for item in items for key in item}
    for item in items:
        assert item["category"] == category[item.get("purchased sku") or item["returned sku"]]


def test_truth_has_the_customers_of_the_export(export: Path, found: Found, truth: dict) -> None:
    orders: Counter[str] = Counter()
    revenue: Counter[str] = Counter()
    aliased = {record["_p2"] for record in found.records if "_p2" in record}
    for record in found.records:
        if record.get("_n") in ("purchased", "refunded"):
            orders[record["_p"]] += record["_n"] == "purchased"
            revenue[record["_p"]] += pence(record["order total"])
    named = {person for person in orders if "@" in person}
    customers = pl.read_parquet(export / "truth_customers.parquet")
    assert len(named) == truth["identified_customers"] == customers.height
    guests = {person for person in orders if "@" not in person}
    assert guests and not guests & aliased
    assert truth["guest_orders"] == sum(orders[person] for person in guests)
    assert truth["guest_net_revenue_pence"] == sum(revenue[person] for person in guests)
    for customer, n, net in customers.select("customer_id", "orders", "net_revenue_pence").iter_rows():
        assert (orders[customer], revenue[customer]) == (n, net)


def test_the_shared_identity_would_merge_many_and_no_other_alias_any(found: Found) -> None:
    sharers = defaultdict(set)
    for record in found.records:
        if "_p2" in record:
            sharers[record["_p2"]].add(record["_p"])
    assert len(sharers.pop("guest")) == 60
    assert {len(people) for people in sharers.values()} == {1}
    assert all(re.fullmatch(r"[A-Za-z0-9+/]{27}=", alias) for alias in sharers)


def test_no_person_has_one_event_or_property_twice_in_a_second(found: Found) -> None:
    """KISSmetrics' older rule drops such lines, whatever their other values: no export may depend on it."""
    events = [(r["_p"], r["_n"], r["_t"]) for r in found.records if "_n" in r]
    properties = [(r["_p"], key, r["_t"]) for r in found.records if "_n" not in r for key in r if key[0] != "_"]
    assert len(set(events)) == len(events)
    assert len(set(properties)) == len(properties)


def test_names_beyond_ascii_read_the_same_escaped_or_not(found: Found) -> None:
    names = {r["purchased product name"] for r in found.records if "purchased product name" in r}
    assert names <= set(simulate(SMALL).catalogue["name"])
    assert any("Größe" in name for name in names) and any('"' in name for name in names)


def test_index_and_files_are_in_order_of_receipt(export: Path, truth: dict) -> None:
    rows = list(csv.DictReader((export / "index.csv").open()))
    assert list(rows[0]) == ["filename", "min_timestamp", "max_timestamp", "min_utc_date", "max_utc_date"]
    assert [row["filename"] for row in rows] == [f"revisions/{n}.json" for n in range(1, truth["files"] + 1)]
    sizes = [len((export / row["filename"]).read_bytes().split(b"\n")) - 1 for row in rows]
    assert sizes[:-1] == [REVISION_LINES] * (len(rows) - 1)
    for row in rows:
        assert datetime.fromtimestamp(int(row["min_timestamp"]), UTC).strftime("%Y-%m-%d %H:%M GMT") == row["min_utc_date"]
        assert datetime.fromtimestamp(int(row["max_timestamp"]), UTC).strftime("%Y-%m-%d %H:%M GMT") == row["max_utc_date"]
    bounds = [int(row[name]) for row in rows for name in ("min_timestamp", "max_timestamp")]
    assert bounds == sorted(bounds)
    # Nothing is read before it happened; what was late stands in a later file than its own time, or the last.
    late = 0
    for row in rows:
        for line in (export / row["filename"]).read_bytes().split(b"\n"):
            record, _ = decoded(line)
            if record is not None:
                assert record["_t"] <= int(row["max_timestamp"])
                late += record["_t"] < int(row["min_timestamp"])
    assert late > 0


def test_without_faults_every_line_is_json_once_and_on_time(tmp_path: Path) -> None:
    company = simulate(replace(SMALL, customers=150))
    truth = write_export(company, tmp_path / "clean", faults=False)
    lines = [line for n in range(truth.files) for line in (tmp_path / f"clean/revisions/{n + 1}.json").read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    assert len(set(lines)) == len(lines) == truth.lines == truth.events + truth.aliases + truth.property_sets
    assert (truth.broken_lines, truth.repeated_lines, truth.late_lines, truth.octal_lines) == (0, 0, 0, 0)
    times = [record["_t"] for record in records]
    assert times == sorted(times)
    assert not any(record.get("_p2") == "guest" for record in records)
    faulty = write_export(company, tmp_path / "faulty")
    assert faulty.net_revenue_pence_by_day == truth.net_revenue_pence_by_day


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, export: Path) -> None:
    write_export(simulate(SMALL), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(export)
    write_export(simulate(replace(SMALL, seed=2)), tmp_path / "other")
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(export).items() if name in other)


def test_a_killed_run_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    company, out = simulate(replace(SMALL, customers=100)), tmp_path / "out"

    def killed(what: str, share: float) -> None:
        if what == "writing files":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_export(company, out, progress=killed)
    assert not out.exists()
    # The next run clears what was left, and shows its progress to the end.
    told: list[tuple[str, float]] = []
    write_export(company, out, progress=lambda what, share: told.append((what, share)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert told[0] == ("making lines", 0.0) and told[-1] == ("writing files", 1.0)


def test_an_export_is_never_written_over(tmp_path: Path) -> None:
    company = simulate(replace(SMALL, customers=20))
    (tmp_path / "empty").mkdir()
    write_export(company, tmp_path / "empty")
    with pytest.raises(FileExistsError, match="empty"):
        write_export(company, tmp_path / "empty")
