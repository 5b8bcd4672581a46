"""The files of `deploy/` as far as a machine without them can tell: systemd and compose accept them, and their commands exist."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[1]
DEPLOY = PROJECT / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("analytics-assets-*.service"))


@pytest.fixture(scope="module")
def units(tmp_path_factory) -> Path:
    """The units as installed, for a project that lies here."""
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(DEPLOY, folder, dirs_exist_ok=True)
    for file in (*folder.glob("*.service"), *folder.glob("*.service.d/*.conf")):
        file.write_text(file.read_text().replace("/opt/analytics-assets", str(PROJECT)))
    return folder


def systemd_analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze on this machine (Debian: apt-get install systemd)")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)


def test_systemd_finds_nothing_wrong_with_the_units(units) -> None:
    done = systemd_analyze("verify", *(str(units / name) for name in UNITS), str(units / "analytics-assets-alive.timer"))
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_that_is_taken_over_can_harm_little(units, unit) -> None:
    done = systemd_analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(units / unit))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_what_a_unit_starts_is_there(units, unit) -> None:
    line = next(line for line in (units / unit).read_text().splitlines() if line.startswith("ExecStart="))
    command = line.removeprefix("ExecStart=").split()
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_compose_accepts_its_file_and_needs_the_export(tmp_path) -> None:
    if not shutil.which("docker-compose"):
        pytest.skip("there is no docker-compose on this machine (Debian: apt-get install docker-compose)")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    shutil.copy(DEPLOY / "environment.example", tmp_path / "deploy" / "environment")
    (tmp_path / "deploy" / "postgres_password").write_text("x")
    command = ["docker-compose", "-f", str(tmp_path / "deploy" / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"EXPORTS": "/some/export"})
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert all(service["restart"] == "unless-stopped" and service["mem_limit"] for service in services.values())
    assert [service["command"][0] for name, service in sorted(services.items()) if "command" in service] == [
        "daemon",
        "webserver",
    ]
    assert str(services["webserver"]["ports"][0]).startswith("127.0.0.1")
    without = {name: value for name, value in os.environ.items() if name != "EXPORTS"}
    assert "the folder of the export" in subprocess.run(command, capture_output=True, text=True, env=without).stderr
