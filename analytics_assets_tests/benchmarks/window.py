"""The window's forecast on nights whose future is planted: false alarms, misses, and how far off the day of the crossing is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from analytics_assets.operations.window import HORIZON_DAYS, forecast

NIGHTS = 60
HISTORIES = 100
LIMIT = 360.0
WARN_DAYS = 30
FIRST = date(2026, 1, 5)
NOISE = 6.0

Noise = Callable[[np.random.Generator, int], np.ndarray]


def normal(generator: np.random.Generator, count: int) -> np.ndarray:
    """Minutes that nights of one machine differ by."""
    return generator.normal(0, NOISE, count)


def with_outliers(generator: np.random.Generator, count: int) -> np.ndarray:
    """One night in twelve is re-run, and ends up to three hours later."""
    return normal(generator, count) + (generator.random(count) < 1 / 12) * generator.uniform(30, 180, count)


def remembering(generator: np.random.Generator, count: int) -> np.ndarray:
    """A busy night follows a busy night: first-order autocorrelation 0.6."""
    noise = normal(generator, count)
    for place in range(1, count):
        noise[place] = 0.6 * noise[place - 1] + 0.8 * noise[place]
    return noise


@dataclass(frozen=True)
class Planted:
    """Nights with a known future: minutes a day, minutes of a weekday's extra, and a shift so many nights before the end."""

    what: str
    level: float
    slope: float = 0.0
    sunday: float = 0.0
    shift: float = 0.0
    shifted_before_end: int = 25
    noise: Noise = normal

    def truth(self, days: np.ndarray) -> np.ndarray:
        """The expected minute on days counted from the first."""
        weekday = np.where((days + FIRST.weekday()) % 7 == 6, self.sunday, 0.0)
        return self.level + self.slope * days + weekday + np.where(days >= NIGHTS - self.shifted_before_end, self.shift, 0.0)

    @property
    def crosses_in(self) -> int | None:
        """Days after the newest night until the expected minute first passes the limit."""
        late = self.truth(np.arange(NIGHTS, NIGHTS + HORIZON_DAYS)) > LIMIT
        return int(np.argmax(late)) + 1 if late.any() else None


PLANTED = (
    Planted("no trend", 300),
    Planted("no trend, nights re-run", 300, noise=with_outliers),
    Planted("no trend, busy nights in a row", 300, noise=remembering),
    Planted("no trend, Sundays 40 min longer", 300, sunday=40),
    Planted("a sudden hour, no trend", 240, shift=60),
    Planted("1 min a night: crosses in 21 days", 280, slope=1.0),
    Planted("1 min a night, nights re-run", 280, slope=1.0, noise=with_outliers),
    Planted("1 min a night, busy nights in a row", 280, slope=1.0, noise=remembering),
    Planted("1 min a night, Sundays 40 min longer", 250, slope=1.0, sunday=40),
    Planted("half a minute a night and a sudden 45", 240, slope=0.5, shift=45),
    Planted("1 min a night: crosses in 71 days", 230, slope=1.0),
)


@dataclass(frozen=True)
class Outcome:
    """What became of the histories of one plan. `error` is the median absolute error in days, `covered` the interval's share."""

    what: str
    truth: int | None
    warned: float
    should_warn: bool
    error: float | None
    covered: float | None


def by_forecast(days: list[date], minutes: np.ndarray, seed: int) -> tuple[int | None, int, int]:
    """Ours: days until the crossing, and the interval."""
    found = forecast(days, minutes.tolist(), LIMIT, seed)
    assert found is not None
    return found.crosses_in, found.crosses_low or 0, HORIZON_DAYS if found.crosses_high is None else found.crosses_high


def by_least_squares(days: list[date], minutes: np.ndarray, seed: int) -> tuple[int | None, int, int]:
    """The plain alternative: a line of least squares, whatever its error."""
    slope, level = np.polyfit(np.arange(len(days)), minutes, 1)
    late = level + slope * np.arange(len(days), len(days) + HORIZON_DAYS) > LIMIT
    return (int(np.argmax(late)) + 1 if late.any() else None), 0, 0


def outcome(planted: Planted, by: Callable[[list[date], np.ndarray, int], tuple[int | None, int, int]]) -> Outcome:
    """Forecast `HISTORIES` histories of a plan."""
    days = [FIRST + timedelta(days=number) for number in range(NIGHTS)]
    found = []
    for seed in range(HISTORIES):
        noise = planted.noise(np.random.default_rng([seed, len(planted.what)]), NIGHTS)
        found.append(by(days, planted.truth(np.arange(NIGHTS)) + noise, seed))
    truth = planted.crosses_in
    warned = sum(crossing is not None and crossing <= WARN_DAYS for crossing, _, _ in found) / HISTORIES
    told = [(crossing, low, high) for crossing, low, high in found if crossing is not None]
    errors = [abs(crossing - truth) for crossing, _, _ in told] if truth else []
    return Outcome(
        what=planted.what,
        truth=truth,
        warned=warned,
        should_warn=truth is not None and truth <= WARN_DAYS,
        error=float(np.median(errors)) if errors else None,
        covered=sum(low <= truth <= high for _, low, high in told) / len(told) if truth and told else None,
    )


def measure() -> Iterator[str]:
    """One line a plan: how often each side warns, and how far off it is."""
    for planted in PLANTED:
        ours, plain = outcome(planted, by_forecast), outcome(planted, by_least_squares)
        right = "should warn" if ours.should_warn else "should not warn"
        line = f"window, {planted.what}: {right}; warns {ours.warned:.0%}, least squares {plain.warned:.0%}"
        if ours.error is not None and ours.covered is not None and plain.error is not None:
            line += f"; off by {ours.error:.0f} days of {ours.truth}, least squares {plain.error:.0f}; interval (80 %) holds it {ours.covered:.0%}"
        yield line
