"""The hand-written script of the benchmark makes the platform's rows: what is compared is the same work."""

from datetime import date
from pathlib import Path

import pytest

from analytics_assets.definitions import PUBLISHED
from analytics_assets.events.loading import load, pin_export
from analytics_assets.home import Home
from analytics_assets.settings import parse_settings
from analytics_assets.simulation.kissmetrics import write_export
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake
from analytics_assets_tests.benchmarks.batch import caught_up, write_by_hand
from analytics_assets_tests.benchmarks.by_hand import TABLES

SHOP = Retailer(first_day=date(2026, 3, 20), last_day=date(2026, 4, 5), customers=400)
SETTINGS = parse_settings(
    f"""[business]
    time_zone = "{SHOP.time_zone}"
    currency = "{SHOP.currency}"
    first_day = {SHOP.first_day}
    last_day = {SHOP.last_day}""",
    "the test's settings",
)
MADE = [table for table in PUBLISHED if table.name in TABLES]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """The home of a small shop, clocks going forward included, and the folder of the tables made by hand."""
    folder = tmp_path_factory.mktemp("by_hand")
    write_export(simulate(SHOP), folder / "export", faults=False)
    home, out = Home(folder / "home"), folder / "out"
    out.mkdir()
    pin_export(home, folder / "export", "kissmetrics")
    load(SETTINGS, home)
    caught_up(SETTINGS, home)
    write_by_hand(SETTINGS, home, out)
    return home, out


@pytest.mark.parametrize("table", MADE, ids=lambda table: table.name)
def test_the_script_by_hand_makes_the_same_rows(table, both):
    home, out = both
    with engine() as connection:
        attach(connection, Lake(home.lake).pin(table), name="platform")
        written = f"'{out / table.name}.parquet'"
        connection.execute(f"CREATE VIEW by_hand AS {table.typed_select(written)}")
        only_platform = connection.sql("FROM platform EXCEPT ALL FROM by_hand").limit(3).fetchall()
        only_by_hand = connection.sql("FROM by_hand EXCEPT ALL FROM platform").limit(3).fetchall()
        rows = connection.sql("SELECT count(*) FROM platform").fetchall()[0][0]
    assert (only_platform, only_by_hand) == ([], [])
    assert rows > 0
