"""Upgrades a home that an earlier commit of this repository made, and compares it with one made from nothing.

`.venv/bin/python -m analytics_assets_tests.upgrade COMMIT` (a few minutes): the small shop of `conftest.py` is run by the code of that
commit and a list is noted in the ledger; then today's `analytics-assets run` is killed twice on the way and in the end let through. All
tables must be those of a new home, and the ledger as it was. By hand, since a checkout need not have the commit.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from analytics_assets.definitions import PUBLISHED
from analytics_assets.events.tables import RECORDS
from analytics_assets.settings import PROJECT_ROOT
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake
from analytics_assets_tests.conftest import AUTUMN, autumn_files, write_export

MAIN = "from analytics_assets.cli import main; main()"
SEND = """
import datetime
import pyarrow as pa
from analytics_assets.activation.sends import EMAIL_SENDS
from analytics_assets.home import Home
from analytics_assets.warehouse.lake import Lake

values = {"as_of_date": datetime.date(2011, 10, 31), "sent_at": datetime.datetime(2011, 11, 1, 9, tzinfo=datetime.UTC)}
row = {name: values.get(name, "weekly") for name in EMAIL_SENDS.column_names}
rows = pa.Table.from_pylist([row], schema=EMAIL_SENDS.arrow_schema())
Lake(Home.from_environment().lake).replace(EMAIL_SENDS, rows, "as_of_date = '2011-10-31'", {})
"""
LEDGER = "email_sends"
OF_RUNS = ("batch_runs", "alerts", "reproducibility")
SECONDS_BEFORE_KILLS = (15, 30)


def start(code: Path, home: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A program by the code in a folder on a home."""
    environment = os.environ | {
        "PYTHONPATH": str(code), "ANALYTICS_HOME": str(home), "ANALYTICS_CONFIG": str(home.parent / "analytics.toml"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    return subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program that must succeed."""
    if process.wait():
        sys.exit(f"failed: {process.args}")


def digests(home: Path) -> dict[tuple[str, str], tuple[int, str]]:
    """Rows and digest of every partition of every table but those that tell of runs."""
    found = {}
    with engine() as connection:
        for table in (RECORDS, *(table for table in PUBLISHED if table.name not in OF_RUNS)):
            attach(connection, Lake(home / "lake").pin(table))
            for partition, rows, digest in connection.sql(table.digest_select(f'"{table.name}"')).fetchall():
                found[table.name, str(partition)] = (rows, digest)
    return found


def main(commit: str) -> None:
    """Make, upgrade, compare; exit code 1 on a difference."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        earlier, old, new = folder / "earlier", folder / "old", folder / "new"
        subprocess.run(["git", "clone", "-q", str(PROJECT_ROOT), str(earlier)], check=True)
        subprocess.run(["git", "checkout", "-q", commit], cwd=earlier, check=True)
        export = write_export(folder / "export", autumn_files())
        (folder / "analytics.toml").write_text(AUTUMN)
        finish(start(earlier, old, MAIN, "run", "--exports", str(export)))
        finish(start(earlier, old, SEND))
        ledger = {key: value for key, value in digests(old).items() if key[0] == LEDGER}
        for seconds in SECONDS_BEFORE_KILLS:
            killed = start(PROJECT_ROOT, old, MAIN, "run")
            time.sleep(seconds)
            killed.kill()
            killed.wait()
        finish(start(PROJECT_ROOT, old, MAIN, "run"))
        finish(start(PROJECT_ROOT, new, MAIN, "run", "--exports", str(export)))
        upgraded, made = digests(old), digests(new)
        wrong = sorted(key for key in upgraded.keys() | made.keys() if upgraded.get(key) != (made | ledger).get(key))
        print(f"{commit}: {len(upgraded)} partitions, {len(ledger)} of them of the ledger; different: {wrong or 'none'}")
        sys.exit(bool(wrong) or not ledger)


if __name__ == "__main__":
    main(*sys.argv[1:])
