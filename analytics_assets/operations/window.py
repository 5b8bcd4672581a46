"""The processing window: how the time at which the night ends moves, and when it will be later than it may be.

The time of a night is taken as level + slope x day + an effect of the weekday, with sudden shifts of the level (a new
machine, a new table) told apart from the slope. Everything is a median, so that a handful of odd nights does not matter:

- slope: Theil-Sen, the median of the slopes of all pairs of nights (Sen, JASA 63, 1968, eq. 2.5); with weekday effects only of
  pairs that lie whole weeks apart, the seasonal Kendall slope (Hirsch, Slack, Smith, Water Resources Research 18, 1982);
- a shift or the weekdays count when they lower the Laplace likelihood's Bayesian information criterion;
- uncertainty: residuals drawn anew (Efron's bootstrap) and everything fitted again; where nights resemble their neighbours the
  residuals are widened by what that does to the variance of a trend, (1 + r) / (1 - r).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

# A forecast from fewer nights than three of each weekday says more about chance than about the night.
FEWEST_NIGHTS = 21
NIGHTS_READ = 90
SHORTEST_SEGMENT = 10
MOST_SHIFTS = 3
# Parameters that a shift costs in the criterion: its height, its place, and the search for it. Weekdays cost their six effects.
SHIFT_COSTS = 5
WEEKDAYS_COST = 6
REDRAWS = 400
# What crosses later than this is no forecast any more.
HORIZON_DAYS = 730
INTERVAL = (0.1, 0.9)
# One-sided: a night that does not grow is said to grow one time in twenty.
SURE = 0.05

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Forecast:
    """How the night moves. Times are minutes after midnight on the business's clock, slopes minutes a day.

    `level` is the time at which a typical night ends now. `crosses_in` and its interval (80 %) are days after the newest night
    at which a night is first expected to end after the limit; None is not within two years, or not known to come nearer.
    `shifted_on` is the first night after the newest sudden shift, `shift` its minutes.
    """

    nights: int
    level: float
    slope: float
    slope_low: float
    slope_high: float
    grows: bool
    crosses_in: int | None
    crosses_low: int | None
    crosses_high: int | None
    shifted_on: date | None
    shift: float
    fitted: tuple[float, ...]

    def within(self, days: int) -> bool:
        """Whether a night is expected to end too late within so many days."""
        return self.crosses_in is not None and self.crosses_in <= days


@dataclass(frozen=True)
class _Fit:
    """Parameters of one or of many redrawn series: arrays with one entry a series."""

    slope: Floats
    level: Floats
    weekday: Floats
    residuals: Floats


def forecast(days: Sequence[date], minutes: Sequence[float], limit: float, seed: int = 0) -> Forecast | None:
    """When nights are first expected to end after `limit` minutes past midnight.

    Args:
        days: business days, ascending, each once; days without a night may be missing.
        minutes: when the night of each ended, in minutes after the midnight that ended the business day.
        limit: when it must have ended.
        seed: of the redraws.

    Returns:
        None with fewer than `FEWEST_NIGHTS` nights.
    """
    days, series = list(days)[-NIGHTS_READ:], np.asarray(minutes, dtype=np.float64)[-NIGHTS_READ:]
    if len(days) < FEWEST_NIGHTS:
        return None
    ordinal = np.array([day.toordinal() for day in days], dtype=np.int64)
    segments, weekly = _structure(ordinal, series)
    fit = _fit(ordinal, series[None, :], segments, weekly)
    redrawn = _fit(ordinal, _redraw(series, fit.residuals[0], segments, weekly, seed), segments, weekly)
    grows = bool(np.quantile(redrawn.slope, SURE) > 0)
    crossing = _crossing(fit, ordinal[-1], limit)[0]
    late_already = crossing <= 7
    low, high = np.quantile(_crossing(redrawn, ordinal[-1], limit), INTERVAL, method="nearest")
    known = (grows or late_already) and crossing <= HORIZON_DAYS
    first = int(np.argmax(segments == segments[-1]))
    shift = fit.level[0, segments[-1]] - fit.level[0, segments[-1] - 1] if segments[-1] else 0.0
    fitted = series - fit.residuals[0]
    return Forecast(
        nights=len(days),
        level=float(fit.level[0, -1] + fit.slope[0] * ordinal[-1]),
        slope=float(fit.slope[0]),
        slope_low=float(np.quantile(redrawn.slope, INTERVAL[0])),
        slope_high=float(np.quantile(redrawn.slope, INTERVAL[1])),
        grows=grows,
        crosses_in=int(crossing) if known else None,
        crosses_low=int(min(low, crossing)) if known else None,
        crosses_high=int(max(high, crossing)) if known and high <= HORIZON_DAYS else None,
        shifted_on=days[first] if segments[-1] else None,
        shift=float(shift),
        fitted=tuple(fitted.tolist()),
    )


def theil_sen(days: Sequence[date], values: Sequence[float]) -> float:
    """Median slope a day over all pairs; 0 for fewer than two days."""
    ordinal = np.array([day.toordinal() for day in days], dtype=np.int64)
    if len(ordinal) < 2:
        return 0.0
    return float(_slope(ordinal, np.asarray(values, dtype=np.float64)[None, :], np.zeros(len(ordinal), dtype=np.int64), False)[0])


def _structure(ordinal: Integers, series: Floats) -> tuple[Integers, bool]:
    """Segments between sudden shifts, numbered from 0, and whether weekdays differ."""
    segments = np.zeros(len(series), dtype=np.int64)
    weekly = _weekdays_differ(ordinal, series, segments)
    for _ in range(MOST_SHIFTS):
        better = _split(ordinal, series, segments, weekly)
        if better is None:
            break
        segments = better
        weekly = _weekdays_differ(ordinal, series, segments)
    return segments, weekly


def _weekdays_differ(ordinal: Integers, series: Floats, segments: Integers) -> bool:
    alike, apart = (_loss(_fit(ordinal, series[None, :], segments, weekly)) for weekly in (False, True))
    return 2 * len(series) * np.log(alike / apart) > WEEKDAYS_COST * np.log(len(series))


def _split(ordinal: Integers, series: Floats, segments: Integers, weekly: bool) -> Integers | None:
    """The segments with one more shift where that explains the nights better, else None."""
    best, best_loss = None, np.inf
    for place in range(SHORTEST_SEGMENT, len(series) - SHORTEST_SEGMENT + 1):
        candidate = segments + (np.arange(len(series)) >= place)
        candidate = np.unique(candidate, return_inverse=True)[1].astype(np.int64)
        if candidate[-1] == segments[-1] or np.bincount(candidate).min() < SHORTEST_SEGMENT:
            continue
        loss = _loss(_fit(ordinal, series[None, :], candidate, weekly))
        if loss < best_loss:
            best, best_loss = candidate, loss
    if best is None:
        return None
    # A busy stretch looks like a shift: nights that resemble their neighbours count as fewer.
    count = _independent(_fit(ordinal, series[None, :], best, weekly).residuals[0])
    gained = 2 * count * np.log(_loss(_fit(ordinal, series[None, :], segments, weekly)) / best_loss)
    return best if gained > SHIFT_COSTS * np.log(len(series)) else None


def _independent(residuals: Floats) -> float:
    """How many independent nights these are worth, by their first-order autocorrelation (Bayley, Hammersley 1946)."""
    scale = np.median(np.abs(residuals)) or 1.0
    clipped = np.clip(residuals / scale, -4, 4)
    if clipped.std() == 0:
        return float(len(residuals))
    alike = float(np.corrcoef(clipped[:-1], clipped[1:])[0, 1])
    # Of a short series it comes out too small (Kendall, Biometrika 41, 1954).
    alike = min(max(alike + (1 + 4 * alike) / len(residuals), 0.0), 0.9)
    return len(residuals) * (1 - alike) / (1 + alike)


def _loss(fit: _Fit) -> float:
    return float(max(np.abs(fit.residuals[0]).mean(), 1e-6))


def _fit(ordinal: Integers, series: Floats, segments: Integers, weekly: bool) -> _Fit:
    """Fit every row of `series` with the same segments."""
    slope = _slope(ordinal, series, segments, weekly)
    flat = series - slope[:, None] * ordinal
    weekday = np.zeros((len(series), 7))
    level = _levels(flat, segments)
    if weekly:
        # Median polish (Tukey): levels and weekdays take turns; three rounds settle what two leave.
        for _ in range(3):
            rest = flat - level[:, segments]
            for number in range(7):
                on = ordinal % 7 == number
                if on.any():
                    weekday[:, number] = np.median(rest[:, on], axis=1)
            weekday -= np.median(weekday, axis=1, keepdims=True)
            level = _levels(flat - weekday[:, ordinal % 7], segments)
    residuals = flat - weekday[:, ordinal % 7] - level[:, segments]
    return _Fit(slope, level, weekday, residuals)


def _levels(flat: Floats, segments: Integers) -> Floats:
    return np.stack([np.median(flat[:, segments == number], axis=1) for number in range(int(segments[-1]) + 1)], axis=1)


def _slope(ordinal: Integers, series: Floats, segments: Integers, weekly: bool) -> Floats:
    early, late = np.triu_indices(len(ordinal), k=1)
    apart = ordinal[late] - ordinal[early]
    comparable = segments[early] == segments[late]
    if weekly:
        comparable &= apart % 7 == 0
    early, late, apart = early[comparable], late[comparable], apart[comparable]
    return np.median((series[:, late] - series[:, early]) / apart, axis=1)


def _redraw(series: Floats, residuals: Floats, segments: Integers, weekly: bool, seed: int) -> Floats:
    """Series as they might have been: residuals drawn anew, widened by what fitting took out of them and by their likeness."""
    count = len(series)
    drawn = np.random.default_rng(seed).choice(residuals, size=(REDRAWS, count))
    parameters = 2 + int(segments[-1]) + 6 * weekly
    return (series - residuals) + drawn * np.sqrt(count / (count - parameters) * count / _independent(residuals))


def _crossing(fit: _Fit, newest: int, limit: float) -> Floats:
    """Days after the newest night until one is first expected after the limit; beyond the horizon, `HORIZON_DAYS + 1`."""
    ahead = np.arange(1, HORIZON_DAYS + 1)
    coming = newest + ahead
    expected = fit.level[:, -1:] + fit.slope[:, None] * coming + fit.weekday[:, coming % 7]
    late = expected > limit
    return np.where(late.any(axis=1), ahead[np.argmax(late, axis=1)], HORIZON_DAYS + 1).astype(np.float64)


@dataclass(frozen=True)
class Driver:
    """The asset whose seconds grow most, in seconds a night, and its share of all growth; rates are per night, 0.01 is 1 %."""

    asset: str
    seconds_a_night: float
    share: float
    rows_rate: float
    seconds_per_row_rate: float

    def __str__(self) -> str:
        """What grows, in words."""
        rows, each = self.rows_rate, self.seconds_per_row_rate
        why = f"its rows grow by {rows:.2%} a night" if rows >= each else f"its seconds per row grow by {each:.2%} a night"
        other = f"seconds per row by {each:.2%}" if rows >= each else f"rows by {rows:.2%}"
        return f"{self.asset}: {self.seconds_a_night:+.1f} s a night, {self.share:.0%} of the growth; {why} ({other})"


def driver(nights: Mapping[str, Sequence[tuple[date, float, int | None]]]) -> Driver | None:
    """The asset that drives the night; None where none grows.

    Args:
        nights: by asset, its (day, seconds, rows), ascending by day.
    """
    slopes = {
        asset: theil_sen([day for day, _, _ in each], [seconds for _, seconds, _ in each]) for asset, each in nights.items()
    }
    growth = sum(max(slope, 0.0) for slope in slopes.values())
    if growth <= 0:
        return None
    asset = max(sorted(slopes), key=lambda name: slopes[name])
    counted = [(day, seconds, rows) for day, seconds, rows in nights[asset] if rows and seconds > 0]
    when = [day for day, _, _ in counted]
    rows_rate = float(np.expm1(theil_sen(when, [float(np.log(rows)) for _, _, rows in counted])))
    each_rate = float(np.expm1(theil_sen(when, [float(np.log(seconds / rows)) for _, seconds, rows in counted])))
    return Driver(asset, slopes[asset], slopes[asset] / growth, rows_rate, each_rate)


def in_words(found: Forecast, limit: float, newest: date) -> str:
    """The forecast as one sentence."""
    ends = f"a typical night ends at {clock(found.level)}"
    moves = f", {found.slope:+.1f} min a night ({found.slope_low:+.1f} to {found.slope_high:+.1f})"
    shifted = f"; it moved by {found.shift:+.0f} min on {found.shifted_on}" if found.shifted_on else ""
    if found.crosses_in is None:
        return f"no night is expected to end after {clock(limit)}: {ends}{moves}{shifted}"
    high = "more than 730" if found.crosses_high is None else str(found.crosses_high)
    on = newest + timedelta(days=found.crosses_in + 1)
    return f"the night crosses {clock(limit)} in {found.crosses_in} days, on {on} ({found.crosses_low} to {high}): {ends}{moves}{shifted}"


def clock(minutes: float) -> str:
    """Minutes after midnight as a time of day."""
    whole = round(minutes)
    return f"{whole // 60 % 24:02}:{whole % 60:02}" + (f" (+{whole // 1440} d)" if whole >= 1440 else "")
