"""Days of 23 and 25 hours, with late files and a night that could not wait, tick by tick; a whole week is `week.py` by hand."""

from datetime import date, datetime

import pytest

from analytics_assets_tests.operations.week import ZONE, simulate


def at_night_and_now_and_then(now: datetime) -> bool:
    """Loads from midnight to half past five, and every fourth hour of the day."""
    return now.astimezone(ZONE).hour < 6 or now.hour % 4 == 1


@pytest.mark.parametrize(("day", "hours"), [(date(2011, 10, 30), 25), (date(2012, 3, 25), 23)])
def test_on_the_day_on_which_the_clock_changes_every_partition_runs_when_it_must_and_once(
    tmp_path, day: date, hours: int
) -> None:
    count, wrong = simulate(tmp_path, day, 1, at_night_and_now_and_then, seed=1)
    assert wrong == []
    # Every hour of events and of usage, every day of five tables, and something again because it came late.
    assert count > 2 * hours + 5
