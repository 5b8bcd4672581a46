"""A sample of what `python -m analytics_assets_tests.kills` and `python -m analytics_assets_tests.kills.crowd` try at length."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: object) -> str:
    """What a program of this folder says at its end, after it found nothing wrong. It forks, so it needs a process without threads."""
    command = [sys.executable, "-W", "ignore", "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="only Linux lets a process be stopped at each change that it makes",
)
def test_kill_9_at_any_change_of_files_leaves_nothing_torn_lost_or_doubled(tmp_path) -> None:
    assert run("analytics_assets_tests.kills", tmp_path, "--kills", 3).endswith("24 kills, 0 wrong")


def test_eight_writers_four_readers_and_maintenance_see_no_error_and_lose_nothing(tmp_path) -> None:
    assert run("analytics_assets_tests.kills.crowd", tmp_path, 3) == "0 errors"
