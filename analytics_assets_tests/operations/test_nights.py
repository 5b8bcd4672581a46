"""From the record of runs to the check `window_holds`: which runs are a night, and what the check says of them."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from analytics_assets.definitions import build_platform
from analytics_assets.home import Home
from analytics_assets.operations.assets import minute_of_night, nights, plot_window, window_check
from analytics_assets.operations.run_history import BATCH_RUNS
from analytics_assets.settings import parse_settings

LONDON = ZoneInfo("Europe/London")
SETTINGS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2026-03-01\n'


@pytest.fixture
def platform(tmp_path):
    return build_platform(parse_settings(SETTINGS, "x"), Home(tmp_path))


def ran(asset: str, day: date, begins: str, minutes: float, *, run_id: str = "r", status: str = "success", partitions: int = 1):
    """A row of `batch_runs`: `begins` is on the clock in London on the morning after."""
    start = datetime.combine(day + timedelta(days=1), datetime.strptime(begins, "%H:%M").time(), LONDON)
    return {
        "asset": asset, "partition": day.isoformat(), "run_id": f"{run_id}-{asset}-{day}", "run_date": start.date(), "job": "j",
        "started_at": start, "finished_at": start + timedelta(minutes=minutes), "seconds": minutes * 60, "rows": 10,
        "attempts": 1, "status": status, "partitions": partitions, "run_retry": 0, "backfill": None, "cost": None,
    }  # fmt: skip


def store(platform, rows: list[dict]) -> None:
    platform.lake.replace(BATCH_RUNS, pa.Table.from_pylist(rows, schema=BATCH_RUNS.arrow_schema()), None, {})


def test_a_night_ends_with_its_last_table_and_counts_once(platform) -> None:
    day = date(2026, 3, 10)
    store(platform, [
        ran("orders", day, "00:10", 5), ran("customers", day, "00:15", 30),
        ran("customers", day, "03:00", 90, run_id="again"),
        ran("orders", day, "01:00", 99, status="failure"),
        ran("cohorts", day, "00:20", 300, partitions=30),
        ran("segments", day, "14:00", 10),
        ran("orders", day + timedelta(days=1), "09:00", 5),
    ])  # fmt: skip
    found = nights(platform)
    assert (found.days, found.minutes) == ((day,), (45.0,))
    assert found.of_asset == {"orders": [(day, 300.0, 10)], "customers": [(day, 1800.0, 10)]}


def test_hours_and_tables_without_partitions_are_no_night(platform) -> None:
    hour = ran("events", date(2026, 3, 10), "00:10", 1) | {"partition": "2026-03-10-23:00"}
    store(platform, [hour, ran("export_files", date(2026, 3, 10), "00:05", 1) | {"partition": None}])
    assert nights(platform).days == ()


@pytest.mark.parametrize(("day", "begins"), [("2026-03-28", "05:00"), ("2026-10-24", "05:00"), ("2026-06-01", "05:00")])
def test_the_deadline_is_on_the_clock_on_the_wall_also_when_it_changes(platform, day: str, begins: str) -> None:
    row = ran("orders", date.fromisoformat(day), begins, 0)
    assert minute_of_night(platform.clock, date.fromisoformat(day), row["started_at"]) == 300


def test_the_check_passes_until_the_night_outgrows_its_window_and_then_says_when_and_why(platform) -> None:
    days = [date(2026, 3, 1) + timedelta(days=number) for number in range(40)]
    steady = [ran("orders", day, "00:10", 10) for day in days]
    store(platform, steady + [ran("customers", day, "00:20", 60) for day in days])
    result, seen = window_check(platform, nights(platform))
    assert result.passed and "no night is expected to end after 06:00" in result.metadata["forecast"].value
    store(platform, steady + [ran("customers", day, "00:20", 281 + number) for number, day in enumerate(days)])
    result, seen = window_check(platform, nights(platform))
    # The newest ends at 00:20 + 320 min = 05:40.
    assert not result.passed and result.severity.value == "WARN" and seen.crosses_in == 21
    assert "crosses 06:00 in 21 days, on 2026-05-01" in result.metadata["forecast"].value
    assert result.metadata["driven by"].value.startswith(
        "customers: +60.0 s a night, 100% of the growth; its seconds per row grow"
    )
    assert plot_window(nights(platform), seen, platform.settings.operations).startswith(b"\x89PNG")


def test_few_nights_are_said_to_be_few(platform) -> None:
    store(platform, [ran("orders", date(2026, 3, 1), "00:10", 10)])
    result, seen = window_check(platform, nights(platform))
    assert result.passed and seen is None
    assert result.metadata["forecast"].value == "1 nights are recorded; a forecast needs 21"
