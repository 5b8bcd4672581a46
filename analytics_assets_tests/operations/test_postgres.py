"""The record in PostgreSQL, on a real server: the same tables come out, many write at once, and the password stays where it was."""

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.events.loading import pin_export
from analytics_assets.home import HomeError
from analytics_assets.operations.alive import look
from analytics_assets.operations.catch_up import catch_up, run_stage
from analytics_assets.operations.record import POSTGRES_URL, open_record, record_environment
from analytics_assets.operations.run_history import BATCH_RUNS, record_runs

PASSWORD = secrets.token_hex(16)
PROJECT = Path(__file__).parents[2]


def binaries() -> Path:
    """Where the newest PostgreSQL of this machine has its programs; Debian keeps them off the path."""
    found = shutil.which("initdb") or max(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)
    if not found:
        pytest.skip("there is no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    return Path(found).parent


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    programs = binaries()
    if importlib.util.find_spec("dagster_postgres") is None:
        pytest.skip("dagster-postgres is not installed: python3 analytics_assets/install.py --dev")
    # The server refuses to run as root, and its user must reach the folder.
    user = "nobody" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        cluster, password = Path(folder) / "cluster", Path(folder) / "password"
        password.write_text(PASSWORD)
        if user:
            for path in (folder, password):
                os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        run = {"user": user, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        # Nothing here must outlive a cut of power.
        initdb = [
            programs / "initdb",
            "-D",
            cluster,
            "-U",
            "analytics",
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--no-sync",
        ]
        subprocess.run(initdb, **run)
        control, options = (
            [programs / "pg_ctl", "-D", cluster],
            f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off",
        )
        subprocess.run([*control, "-o", options, "-l", Path(folder) / "log", "-w", "start"], **run)
        try:
            yield f"postgresql+psycopg2://analytics:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **run)


@pytest.fixture
def environment(monkeypatch) -> None:
    """What `open_record` puts into the environment of the tests is taken away again."""
    for name in ("DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE", "DAGSTER_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")


def test_the_same_tables_come_out_and_nothing_tells_the_password(
    url, environment, monkeypatch, company, new_company, lines
) -> None:
    monkeypatch.setenv(POSTGRES_URL, url)
    shop = new_company(lines.autumn())
    pin_export(shop.home, shop.export, "kissmetrics")
    with open_record(shop.home) as instance:
        run_stage(build_definitions(shop.platform()), instance, None)
        assert catch_up(shop.platform(), instance, lambda stage: None)
        again = catch_up(shop.platform(), instance, lambda stage: None)
        assert all(one.held_back for one in again), "what stands in the record is not computed again"
        recorded = record_runs(shop.platform(), instance)
        assert recorded == len(instance.get_runs()) > 3
        answer = look(shop.settings, shop.home, instance, datetime.now(UTC))
        assert "the daemon has never run here" in answer.line and "nothing has been loaded" not in answer.line
    ours, theirs = shop.digests(), company.digests()
    kept = {key for key in theirs if key[0] not in ("batch_runs", "alerts", "export_files")}
    assert {key: ours.get(key) for key in kept} == {key: theirs[key] for key in kept}
    assert shop.lake_query("SELECT count(*) FROM batch_runs", BATCH_RUNS) != [(0,)]
    assert not list(shop.home.dagster.rglob("*.db")), "there is no second record on SQLite"
    files = [path for path in shop.home.root.rglob("*") if path.is_file()]
    assert files and not [path for path in files if PASSWORD.encode() in path.read_bytes()]


WRITER = """
import sys
import dagster as dg
from analytics_assets.home import Home
from analytics_assets.operations.record import open_record
DAYS = dg.DailyPartitionsDefinition(start_date="2011-10-01", end_date="2011-11-10")

def made(number):
    @dg.asset(name=f"table_{number}", partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def asset() -> None: ...
    return asset

assets = [made(number) for number in range(2)]
job = dg.Definitions(assets, executor=dg.in_process_executor).resolve_implicit_global_asset_job_def()
with open_record(Home.from_environment()) as instance:
    sys.stdin.readline()
    tags = {"dagster/asset_partition_range_start": "2011-10-01", "dagster/asset_partition_range_end": "2011-11-09"}
    config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    assert job.execute_in_process(instance=instance, tags=tags, run_config=config).success
"""


def test_runs_that_write_at_once_are_all_recorded_whole(url, environment, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(POSTGRES_URL, url)
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "home"))
    home = build_platform().home
    with open_record(home) as instance:
        before = len(instance.get_runs())
        command = [sys.executable, "-W", "ignore", "-c", WRITER]
        writers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT) for _ in range(4)
        ]
        for writer in writers:
            assert writer.stdin
            print("go", file=writer.stdin, flush=True)
        said = [writer.communicate(timeout=300)[1] for writer in writers]
        assert [writer.returncode for writer in writers] == [0] * len(writers), said
        runs = [run for run in instance.get_runs() if run.job_name == "__ASSET_JOB"][: len(writers)]
        assert len(instance.get_runs()) == before + len(writers) and {run.status.value for run in runs} == {"SUCCESS"}
        for run in runs:
            made = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1000).records
            assert len({(one.asset_key, one.partition_key) for one in made}) == len(made) == 2 * 40
        for number in range(2):
            assert len(instance.get_materialized_partitions(dg.AssetKey(f"table_{number}"))) == 40


def test_a_server_that_is_not_there_is_said_without_the_password(environment, monkeypatch, tmp_path) -> None:
    binaries()
    arguments = {
        "ANALYTICS_HOME": str(tmp_path / "home"),
        POSTGRES_URL: f"postgresql+psycopg2://analytics:{PASSWORD}@127.0.0.1:1/x",
    }
    code = "import sys; sys.argv = ['analytics-assets', 'alive']\nfrom analytics_assets.cli import main\nmain()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=os.environ | arguments, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 1 and PASSWORD not in done.stdout + done.stderr
    assert "error:" in done.stdout and POSTGRES_URL in done.stdout and "Connection refused" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_without_its_packages_the_command_that_installs_them_is_named(environment, monkeypatch, new_company, lines) -> None:
    monkeypatch.setenv(POSTGRES_URL, "postgresql+psycopg2://analytics:x@db.test/dagster")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HomeError, match=r"install\.py --postgres"):
        record_environment(new_company(lines.autumn()).home)
