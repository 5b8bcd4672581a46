"""The window's forecast, on nights whose future is planted."""

from datetime import date, timedelta

import numpy as np
import pytest

from analytics_assets.operations.window import FEWEST_NIGHTS, Driver, clock, driver, forecast, in_words, theil_sen

FIRST = date(2026, 1, 5)
LIMIT = 360.0


def days(count: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(count)]


def noisy(values: np.ndarray, seed: int = 1, scale: float = 5.0) -> list[float]:
    return (values + np.random.default_rng(seed).normal(0, scale, len(values))).tolist()


def test_the_slope_is_the_median_of_all_pairs() -> None:
    assert theil_sen(days(4), [1.0, 3.0, 2.0, 10.0]) == np.median([2, 1 / 2, 3, -1, 7 / 2, 8])
    assert theil_sen([FIRST, FIRST + timedelta(days=4)], [1.0, 3.0]) == 0.5
    assert theil_sen(days(1), [7.0]) == 0.0


def test_a_line_without_noise_crosses_on_its_day() -> None:
    found = forecast(days(40), [300 + number for number in range(40)], LIMIT)
    assert found is not None and found.grows
    # The newest night ends at 339; 22 nights later one ends at 361.
    assert (found.crosses_in, found.crosses_low, found.crosses_high) == (22, 22, 22)
    assert (round(found.slope, 9), round(found.level, 6)) == (1.0, 339.0)
    assert found.within(22) and not found.within(21)


def test_the_interval_holds_the_planted_day_and_widens_with_the_noise() -> None:
    planted = 280 + 1.0 * np.arange(60)
    quiet, loud = (forecast(days(60), noisy(planted, scale=scale), LIMIT) for scale in (2.0, 12.0))
    assert quiet and loud and quiet.crosses_in and loud.crosses_in
    assert quiet.crosses_low <= 22 <= quiet.crosses_high
    assert loud.crosses_high - loud.crosses_low > quiet.crosses_high - quiet.crosses_low


@pytest.mark.parametrize("level", [100.0, 300.0, 340.0])
def test_nights_that_do_not_grow_cross_nothing(level: float) -> None:
    found = forecast(days(60), noisy(np.full(60, level)), LIMIT)
    assert found and found.crosses_in is None and not found.within(365)


def test_a_few_odd_nights_do_not_matter() -> None:
    planted = 200 + 1.0 * np.arange(60)
    odd = np.array(noisy(planted))
    odd[[50, 54, 57]] += 150
    found, clean = forecast(days(60), odd.tolist(), LIMIT), forecast(days(60), noisy(planted), LIMIT)
    assert found and clean and abs(found.slope - clean.slope) < 0.1 and abs(found.slope - 1) < 0.1


def test_a_sudden_shift_is_no_slope() -> None:
    shifted = np.where(np.arange(60) >= 40, 300.0, 240.0)
    found = forecast(days(60), noisy(shifted), LIMIT)
    assert found and found.crosses_in is None
    assert found.shifted_on == FIRST + timedelta(days=40) and abs(found.shift - 60) < 6


def test_the_longest_weekday_crosses_first() -> None:
    number = np.arange(63)
    sundays = np.where((number + FIRST.weekday()) % 7 == 6, 45.0, 0.0)
    found = forecast(days(63), (230 + number + sundays).tolist(), LIMIT)
    # Sunday the 91st day would end at 230 + 90 + 45 = 365; the Sunday before at 358.
    assert found and found.crosses_in == 90 - 62 and FIRST + timedelta(days=62 + found.crosses_in) == date(2026, 4, 5)


def test_a_night_that_is_late_already_says_so_without_growing() -> None:
    found = forecast(days(30), noisy(np.full(30, 420.0)), LIMIT)
    assert found and found.crosses_in == 1


def test_missing_nights_are_no_obstacle_and_too_few_are_no_forecast() -> None:
    some = [number for number in range(60) if number % 5]
    found = forecast([days(60)[number] for number in some], [300.0 + number for number in some], LIMIT)
    assert found and found.crosses_in == 2
    assert forecast(days(FEWEST_NIGHTS - 1), [300.0] * (FEWEST_NIGHTS - 1), LIMIT) is None
    assert forecast(days(FEWEST_NIGHTS), [300.0] * FEWEST_NIGHTS, LIMIT) is not None


def test_the_same_nights_make_the_same_forecast() -> None:
    series = noisy(280 + 1.0 * np.arange(60))
    assert forecast(days(60), series, LIMIT) == forecast(days(60), series, LIMIT)


def test_the_sentence_names_the_days() -> None:
    found = forecast(days(40), [300 + number for number in range(40)], LIMIT)
    assert found is not None
    assert in_words(found, LIMIT, days(40)[-1]) == (
        "the night crosses 06:00 in 22 days, on 2026-03-08 (22 to 22): a typical night ends at 05:39, +1.0 min a night (+1.0 to +1.0)"
    )
    assert (clock(0), clock(359.6), clock(1500)) == ("00:00", "06:00", "01:00 (+1 d)")


def growing(rows: list[int], seconds: list[float]) -> list[tuple[date, float, int | None]]:
    return list(zip(days(len(rows)), seconds, rows, strict=True))


def test_the_driver_is_what_grows_and_says_whether_rows_or_seconds_per_row_do() -> None:
    number = np.arange(30)
    flat = growing([1000] * 30, [50.0] * 30)
    more_rows = growing((1000 * 1.01**number).astype(int).tolist(), (10 * 1.01**number).tolist())
    slower = growing([1000] * 30, (10 * 1.03**number).tolist())
    found = driver({"flat": flat, "more_rows": more_rows})
    assert found and found.asset == "more_rows" and found.share == 1.0
    assert found.rows_rate == pytest.approx(0.01, abs=2e-4) and abs(found.seconds_per_row_rate) < 2e-4
    assert "its rows grow by 1.0" in str(found)
    found = driver({"flat": flat, "more_rows": more_rows, "slower": slower})
    assert found and found.asset == "slower" and found.seconds_per_row_rate == pytest.approx(0.03) and found.share < 1
    assert "its seconds per row grow by 3.00%" in str(found)
    assert driver({"flat": flat}) is None


def test_a_driver_without_rows_is_still_a_driver() -> None:
    found = driver({"a": [(day, 10.0 + number, None) for number, day in enumerate(days(25))]})
    assert found == Driver("a", 1.0, 1.0, 0.0, 0.0)
