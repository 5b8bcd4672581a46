"""The factor for level and season: what a past says of the windows to come, and what it does not."""

from datetime import date, timedelta

import numpy as np
import pytest

from analytics_assets.retail.ltv.season import EVEN, LARGEST_FACTOR, MONTH_DAYS, Season, Window, factor_for

DAY = date(2026, 9, 1)


def seen(ago: int, ratio: float, days: int = 60, error: float = 0.02) -> Window:
    """A window that began so many days before the day."""
    return Window(DAY - timedelta(days=ago), days, float(np.log(ratio)), error)


def christmas_years(ago_of_newest: int, years: int) -> list[Window]:
    """Windows of 30 days, 1.6 in the last weeks before Christmas and 0.95 else."""
    windows = []
    for ago in range(ago_of_newest, ago_of_newest + 365 * years, 30):
        start = DAY - timedelta(days=ago)
        middle = (start + timedelta(days=15)).timetuple().tm_yday
        windows.append(seen(ago, 1.6 if middle > 310 or middle < 5 else 0.95, days=30))
    return windows


def test_without_a_past_the_factor_is_one_and_in_doubt():
    found = factor_for([], DAY, 90)
    assert found.value == 1
    assert found.doubt > 0.1


def test_one_window_moves_it_part_of_the_way_and_more_of_them_further():
    one = factor_for([seen(60, 1.3)], DAY, 60).value
    four = factor_for([seen(60 * n, 1.3) for n in (1, 2, 3, 4)], DAY, 60).value
    assert 1 < one < four < 1.3


def test_what_single_customers_scatter_by_hides_what_the_business_does():
    clear, hidden = (factor_for([seen(60, 1.3, error=error)], DAY, 60).value for error in (0.02, 0.5))
    assert 1 < hidden < 1 + (clear - 1) / 3


def test_last_years_same_season_is_followed_and_another_season_is_not():
    windows = christmas_years(30, 2)
    before_christmas = date(2026, 11, 20)
    assert factor_for(windows, before_christmas, 30).value > 1.35
    assert factor_for(windows, date(2027, 4, 1), 30).value < 1.05


def test_a_season_averages_out_over_a_year():
    """Two of twelve windows at 1.6 and ten at 0.95 are 1.04 together."""
    assert factor_for(christmas_years(30, 2), DAY, 365).value == pytest.approx(1.04, abs=0.05)


def test_a_business_without_seasons_is_not_given_one():
    rng = np.random.default_rng(3)
    windows = [seen(30 * n, float(np.exp(rng.normal(0, 0.03))), days=30) for n in range(1, 25)]
    factors = [factor_for(windows, DAY + timedelta(days=ahead), 30).value for ahead in range(0, 365, 30)]
    assert max(abs(factor - 1) for factor in factors) < 0.03


def test_a_window_seen_twice_counts_hardly_more_than_once_where_it_overlaps():
    """Two windows 200 days apart say more of the level than two that share all but a week."""
    apart = factor_for([seen(60, 1.2), seen(260, 1.2)], DAY + timedelta(days=120), 60).doubt
    same = factor_for([seen(60, 1.2), seen(67, 1.2)], DAY + timedelta(days=120), 60).doubt
    assert apart < same


def test_the_factor_stays_within_its_bounds_whatever_was_seen():
    windows = [seen(60 * n, 50.0, error=0.001) for n in range(1, 7)]
    assert 1.5 < factor_for(windows, DAY, 60).value <= LARGEST_FACTOR
    windows = [seen(60 * n, 1 / 50, error=0.001) for n in range(1, 7)]
    assert 1 / LARGEST_FACTOR <= factor_for(windows, DAY, 60).value < 1 / 1.5


def test_a_window_that_had_not_ended_is_refused():
    with pytest.raises(ValueError, match="not known"):
        factor_for([seen(59, 1.2)], DAY, 60)


# December sells twice as much a day as any other month.
BUSY_DECEMBER = Season(tuple(float(days) for days in MONTH_DAYS * np.array([1] * 11 + [2])))


def test_a_season_has_the_pace_one_over_a_year_and_the_unit_of_its_sales_does_not_matter():
    day = date(2024, 12, 31)
    assert BUSY_DECEMBER.sales is not None
    assert BUSY_DECEMBER.weeks_until(day, 365) == pytest.approx(365 / 7, rel=0.001)
    assert BUSY_DECEMBER.weeks_until(day, 4 * 365 + 1) == pytest.approx((4 * 365 + 1) / 7)
    pence = Season(tuple(100 * month for month in BUSY_DECEMBER.sales))
    assert pence.pace(day, 400) == pytest.approx(BUSY_DECEMBER.pace(day, 400))


def test_a_day_of_a_month_twice_as_busy_counts_for_two():
    pace = BUSY_DECEMBER.pace(date(2025, 11, 29), 3)
    assert pace == pytest.approx(pace[0] * np.array([1, 2, 2]))
    assert BUSY_DECEMBER.weeks_until(date(2025, 11, 29), 1.5) == pytest.approx(2 * pace[0] / 7)


def test_without_a_season_weeks_are_those_of_the_calendar():
    assert EVEN.weeks_until(date(2025, 11, 30), 365) == 365 / 7
    assert EVEN.pace(date(2025, 11, 30), 3).tolist() == [1, 1, 1]
