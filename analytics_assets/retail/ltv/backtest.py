"""Refits of the forecast, each held against what came true before it: candidates, the winner, and whether it may serve.

A refit belongs to an anchor, a day. It is a function of the purchases up to the end of the anchor and of nothing else, so that all
days that it serves share it. Its candidates forecast from earlier cut-offs, whose windows had ended by the anchor:

* probabilistic: MBG/NBD or BG/NBD x Gamma-Gamma (`forecast.py`)
* boosted trees: the same, redistributed between customers (`boosted_trees.py`)
* mean of both

all multiplied by the factor for level and season (`season.py`), which at each cut-off knows only windows that had ended by it,
like the trees. Only the law of purchases is chosen at the anchor (`bg_nbd.fit_likelier`), for all cut-offs: a level that is learned
from forecasts by one law does not fit those by the other (CDNOW: -10 % where its first months chose for themselves, -5 % so). The
candidate with the smallest mean absolute error wins, the simplest of those within half a percent of it.

Purchases are a frame with one row per customer and day: `customer_id`, `day`, `purchase` (an order of more than 0 on that day)
and `net_revenue` (DECIMAL: orders less refunds of that day, in one currency).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics_assets.retail.ltv.bg_nbd import Floats
from analytics_assets.retail.ltv.boosted_trees import Lesson, corrections, learn
from analytics_assets.retail.ltv.forecast import CustomerSummary, LtvForecast, LtvModel, NotEnoughHistory, fit, forecast
from analytics_assets.retail.ltv.returns import probability_of_return, return_rates
from analytics_assets.retail.ltv.season import EVEN, Factor, Season, Window, factor_for

PROBABILISTIC, BOOSTED, MEAN = "probabilistic", "boosted trees", "mean of both"
# Simplest first: a tie goes to the first. Less than half a percent is one: by so much do trees win, or lose, by chance in simulated
# shops whose law is the probabilistic one.
CANDIDATES = (PROBABILISTIC, BOOSTED, MEAN)
TIE = 0.005

# Two whole weeks; less is the chance of a few days, and tested only where no more are to be forecast.
FEWEST_DAYS = 14
# Cut-offs lie a third of the tested days apart, so that the fourth is the first whose window had ended by the newest one.
RECENT_CUT_OFFS = 6
EARLIER_YEARS = 3
ANCHORS = 3
# Off a Christmas quarter, totals of CDNOW and Online Retail came out 2 to 24 % below what came true, and 40 to 45 % in their first
# one. Beyond a quarter the totals are of no use for a budget, whatever the ranking is worth.
LARGEST_BIAS = 0.25


@dataclass(frozen=True)
class Trial:
    """What a candidate would have said at the end of `cut_off` of the next days, and what came true.

    `factor` is what was known then for level and season, and is in `expected_revenue`. `mae`: mean absolute error of a customer's
    revenue; `mae_of_equal_shares`: that of giving every customer the same share of the expected total. `coverage`: share of
    customers inside their interval; `stated`: what the intervals said of that.
    """

    cut_off: date
    candidate: str
    customers: int
    factor: float
    expected_revenue: float
    actual_revenue: float
    mae: float
    mae_of_equal_shares: float
    coverage: float
    stated: float


@dataclass(frozen=True)
class Factors:
    """What a day's totals are multiplied by, and, `buyers`, the intervals: what is sent back by those who buy nothing lowers the
    total, and not what a buyer brings. In simulated shops of two months that is 6 % of the total of 90 days, and 10 % of that of 30.
    """

    revenue: Factor
    orders: Factor
    buyers: Factor


@dataclass(frozen=True)
class Windows:
    """What came true over what was expected, by earlier cut-off: of revenue, of orders, and of the revenue of those who ordered."""

    revenue: tuple[Window, ...] = ()
    orders: tuple[Window, ...] = ()
    buyers: tuple[Window, ...] = ()

    def seen_a_year_before(self, day: date) -> bool:
        """Whether any of them began a year before the day, or earlier."""
        return any(day - window.cut_off >= timedelta(days=365) for window in self.revenue)

    def factors(self, day: date, days: int) -> Factors:
        """The factors for a forecast of the `days` after the end of `day`, from the windows that had ended by it."""
        found = (
            factor_for([window for window in windows if window.cut_off + timedelta(days=window.days) <= day], day, days)
            for windows in (self.revenue, self.orders, self.buyers)
        )
        return Factors(*found)


@dataclass(frozen=True)
class Refit:
    """A model as of the end of `anchor`: which candidate serves, what it has learned, and how it did.

    `tested_days` is 0, and `tests` are empty, where history is too short for any test; `accepted` is false then.
    """

    anchor: date
    season: Season
    model: LtvModel
    return_rates: tuple[float, ...]
    candidate: str
    trees: Any
    windows: Windows
    tested_days: int
    tests: tuple[Trial, ...]
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Serving:
    """The refit that serves a day, and all that were looked at for it, newest first."""

    refit: Refit
    examined: tuple[Refit, ...]


@dataclass(frozen=True)
class _Snapshot:
    """A model as of a cut-off, its forecast before any factor, and what came true in the tested days."""

    cut_off: date
    known: CustomerSummary
    model: LtvModel
    returns: Floats
    found: LtvForecast
    actual_orders: Floats
    actual_revenue: Floats


def known_at(purchases: pl.DataFrame, day: date) -> pl.DataFrame:
    """What is known at the end of a day: one row per customer who has bought by then, in order of `customer_id`.

    Columns: `purchase_days`, `recency_days` (first to last purchase), `age_days` (first purchase to the day), `net_revenue`.
    """
    bought = pl.col("day").filter("purchase")
    return (
        purchases.filter(pl.col("day") <= day)
        .group_by("customer_id")
        .agg(
            purchase_days=pl.col("purchase").sum().cast(pl.Int64),
            recency_days=(bought.max() - bought.min()).dt.total_days(),
            age_days=(pl.lit(day) - bought.min()).dt.total_days(),
            net_revenue=pl.col("net_revenue").sum(),
        )
        .filter(pl.col("purchase_days") > 0)
        .sort("customer_id")
    )


def days_since_last(known: pl.DataFrame) -> NDArray[np.int64]:
    """Days since the last purchase of the customers of `known_at`."""
    return (known["age_days"] - known["recency_days"]).to_numpy()


def came_true(purchases: pl.DataFrame, known: pl.DataFrame, day: date, days: int) -> pl.DataFrame:
    """What the customers of `known` did in the `days` after `day`: `orders` (purchase days) and `revenue`, in the same order."""
    later = (
        purchases.filter((pl.col("day") > day) & (pl.col("day") <= day + timedelta(days=days)))
        .group_by("customer_id")
        .agg(orders=pl.col("purchase").sum().cast(pl.Float64), revenue=pl.col("net_revenue").sum().cast(pl.Float64))
    )
    return (
        known.select("customer_id")
        .join(later, on="customer_id", how="left", maintain_order="left")
        .fill_null(0.0)
        .drop("customer_id")
    )


def summary_of(known: pl.DataFrame, day: date, season: Season = EVEN) -> CustomerSummary:
    """The rows of `known_at` the day as the models take them, on the clock of the season.

    Days are known and not instants: what a customer buys again on the first day is not seen, so that the clock starts at that
    day's end, and the last purchase is taken to lie in the middle of its day. With whole days in place of that, recency and age of
    a customer who bought today are equal, as if they had been seen to buy again at once, and nobody seems to leave: simulated
    shops of 80,000 customers in their first two months were forecast 13 to 17 % too high, and so 1 to 6 %, like with exact
    instants (-1 to 3 %); after a year 1 %.
    """
    days = known["purchase_days"].cast(pl.Float64).to_numpy()
    age, recency = known["age_days"].to_numpy(), known["recency_days"].to_numpy()
    oldest = int(np.max(age, initial=0))
    passed = np.concatenate(([0.0], np.cumsum(season.pace(day - timedelta(days=oldest + 1), oldest + 1)[::-1])))
    since_last = (passed[age - recency] + passed[age - recency + 1]) / 2
    return CustomerSummary(
        frequency=days - 1,
        recency_weeks=np.where(days > 1, passed[age] - since_last, 0.0) / 7,
        age_weeks=passed[age] / 7,
        purchase_days=days,
        mean_spend=known["net_revenue"].cast(pl.Float64).to_numpy() / days,
    )


def cut_offs(first_day: date, anchor: date, days: int) -> list[date]:
    """The cut-offs whose next `days` had ended by the anchor, oldest first: recent ones, and the anchor's season a year ago and more.

    A cut-off needs a past at least half as long as the `days`.
    """
    step = -(-days // 3)
    ago = {days + step * n for n in range(RECENT_CUT_OFFS)} | {365 * n for n in range(1, EARLIER_YEARS + 1) if 365 * n >= days}
    found = (anchor - timedelta(days=n) for n in sorted(ago, reverse=True))
    return [cut_off for cut_off in found if 2 * ((cut_off - first_day).days + 1) >= days]


def refit(purchases: pl.DataFrame, anchor: date, horizon_days: int, coverage: float, season: Season = EVEN) -> Refit:
    """Fit on all purchases up to the end of `anchor`, after testing on what was known at earlier cut-offs.

    Tests reach as far as the horizon, or over a third of the history where that is shorter: the trees need a past, a window to
    learn from, and a later one to be tested on. Raises NotEnoughHistory where not even the anchor can be fitted.
    """
    model, rates = fit(summary_of(known_at(purchases, anchor), anchor, season)), return_rates(purchases, anchor)
    first_day: date = purchases.select(pl.col("day").min()).item()
    history = (anchor - first_day).days + 1
    tested_days = min(horizon_days, history // 3)
    snapshots = []
    if tested_days >= min(FEWEST_DAYS, horizon_days):
        for cut_off in cut_offs(first_day, anchor, tested_days):
            try:
                snapshots.append(_snapshot(purchases, cut_off, tested_days, coverage, season, model.purchases.law))
            except NotEnoughHistory:
                continue
    if not snapshots:
        long_enough = tested_days >= min(FEWEST_DAYS, horizon_days)
        lacking = (
            "at earlier days too few customers had bought" if long_enough else f"{history} days, and {horizon_days} to forecast"
        )
        reason = f"not enough history to backtest: {lacking}"
        return Refit(anchor, season, model, rates, PROBABILISTIC, None, Windows(), 0, (), False, reason)

    windows = _windows(snapshots, tested_days)
    tests = [test for snapshot in snapshots for test in _tests(snapshot, snapshots, windows, tested_days, coverage, season)]
    candidate = winner(tests)
    trees = None if candidate == PROBABILISTIC else learn(_lessons(snapshots))
    accepted, reason = verdict([test for test in tests if test.candidate == candidate])
    if tested_days < horizon_days:
        reason += f"; not enough history to backtest {horizon_days} days; tested on {tested_days} days"
    return Refit(anchor, season, model, rates, candidate, trees, windows, tested_days, tuple(tests), accepted, reason)


def winner(tests: Sequence[Trial]) -> str:
    """The candidate with the smallest mean absolute error over the cut-offs at which all were tested; ties: the simplest.

    Trees need an earlier cut-off to learn from; where no cut-off has one, only the probabilistic candidate was tested, and wins.
    """
    errors = {(test.cut_off, test.candidate): test.mae for test in tests}
    by_all = sorted({test.cut_off for test in tests if (test.cut_off, BOOSTED) in errors})
    if not by_all:
        return PROBABILISTIC
    sums = {candidate: sum(errors[cut_off, candidate] for cut_off in by_all) for candidate in CANDIDATES}
    return next(candidate for candidate in CANDIDATES if sums[candidate] <= min(sums.values()) * (1 + TIE))


def verdict(tests: Sequence[Trial]) -> tuple[bool, str]:
    """Whether a candidate may serve, and why: over all its tests, the total within 25 %, and better than equal shares of it."""
    expected, actual = sum(test.expected_revenue for test in tests), sum(test.actual_revenue for test in tests)
    if actual <= 0:
        return False, "nothing was bought in the tested days"
    bias = expected / actual - 1
    customers = sum(test.customers for test in tests)
    error, equal = (
        sum(e * test.customers for test, e in zip(tests, errors, strict=True)) / customers
        for errors in ([test.mae for test in tests], [test.mae_of_equal_shares for test in tests])
    )
    found = f"total {bias:+.0%}, error {error:.2f} per customer (equal shares: {equal:.2f}), {len(tests)} cut-offs"
    if abs(bias) > LARGEST_BIAS:
        return False, f"the total was off by more than {LARGEST_BIAS:.0%}: {found}"
    if error >= equal:
        return False, f"no better than giving every customer the same: {found}"
    return True, found


def anchors(day: date) -> list[date]:
    """The days whose refits may serve `day`, newest first: the start of its month, and of the two months before."""
    found = [day.replace(day=1)]
    while len(found) < ANCHORS:
        found.append((found[-1] - timedelta(days=1)).replace(day=1))
    return found


def serving(day: date, refit_at: Callable[[date], Refit]) -> Serving:
    """The newest refit that passed its backtest; where none did, the newest one.

    `refit_at` raises NotEnoughHistory for an anchor that cannot be fitted. Where none can be tested (a shop's first weeks, in which
    its history doubles within the month) the newest Monday is the anchor too, and where that cannot be fitted, the day itself; what
    that raises is passed on.
    """
    examined: list[Refit] = []
    for anchor in anchors(day):
        try:
            examined.append(refit_at(anchor))
        except NotEnoughHistory:
            break
        if examined[-1].accepted:
            return Serving(examined[-1], tuple(examined))
    if not any(found.tests for found in examined):
        monday = day - timedelta(days=day.weekday())
        try:
            examined = [refit_at(max(monday, anchors(day)[0]))]
        except NotEnoughHistory:
            examined = [refit_at(day)]
    return Serving(examined[0], tuple(examined))


def scored(
    found: Refit, rows: pl.DataFrame, day: date, horizon_days: int, annual_discount_rate: float, coverage: float
) -> tuple[LtvForecast, Factors]:
    """The forecast that a refit makes at the end of a day, its anchor or later, one row per customer of `rows` (as of `known_at`)."""
    known = summary_of(rows, day, found.season)
    weeks_until = partial(found.season.weeks_until, day)
    factors = found.windows.factors(day, horizon_days)
    returns = probability_of_return(found.return_rates, days_since_last(rows), horizon_days)
    busy = factors.orders.value
    raw = forecast(found.model, known, horizon_days, annual_discount_rate, coverage, weeks_until, busy, returns)
    return _multiplied(raw, factors, found.candidate, found.trees, known), factors


def covered(found: LtvForecast, actual_revenue: Floats) -> float:
    """Share of customers whose revenue lies in their interval, half a cent allowed for rounding."""
    low, high = found.expected_revenue_low - 0.005, found.expected_revenue_high + 0.005
    return float(np.mean((actual_revenue >= low) & (actual_revenue <= high)))


def _multiplied(raw: LtvForecast, factors: Factors, candidate: str, trees: Any, known: CustomerSummary) -> LtvForecast:
    """A candidate's forecast, of one in which orders alone are multiplied already.

    Each interval is stretched as the trees stretch its customer's expectation, and by what buyers brought over what was expected.
    """
    shares: Floats | float = 1.0
    if candidate != PROBABILISTIC:
        shares = corrections(trees, known, raw.expected_revenue)
        shares = shares if candidate == BOOSTED else (1 + shares) / 2
    busy = factors.orders.value
    stretched = shares * (factors.buyers.value / busy)
    return replace(
        raw,
        expected_revenue=raw.expected_revenue * shares * (factors.revenue.value / busy),
        expected_revenue_low=raw.expected_revenue_low * stretched,
        expected_revenue_high=raw.expected_revenue_high * stretched,
    )


def _snapshot(purchases: pl.DataFrame, cut_off: date, days: int, coverage: float, season: Season, law: str) -> _Snapshot:
    known = known_at(purchases, cut_off)
    summary = summary_of(known, cut_off, season)
    later = came_true(purchases, known, cut_off, days)
    model = fit(summary, law)
    returns = probability_of_return(return_rates(purchases, cut_off), days_since_last(known), days)
    found = forecast(model, summary, days, 0.0, coverage, partial(season.weeks_until, cut_off), returns=returns)
    return _Snapshot(cut_off, summary, model, returns, found, later["orders"].to_numpy(), later["revenue"].to_numpy())


def _windows(snapshots: Sequence[_Snapshot], days: int) -> Windows:
    """The windows in which something came true."""

    def of(quantity: Callable[[_Snapshot], tuple[Floats, Floats]]) -> tuple[Window, ...]:
        windows = []
        for snapshot in snapshots:
            expected, actual = quantity(snapshot)
            total = float(np.sum(actual))
            if total > 0:
                error = float(np.sqrt(np.sum((actual - expected) ** 2))) / total
                windows.append(Window(snapshot.cut_off, days, float(np.log(total / np.sum(expected))), error))
        return tuple(windows)

    return Windows(
        revenue=of(lambda s: (s.found.expected_revenue, s.actual_revenue)),
        orders=of(lambda s: (s.found.expected_orders, s.actual_orders)),
        buyers=of(lambda s: (s.found.expected_revenue, np.where(s.actual_orders > 0, s.actual_revenue, 0))),
    )


def _ended(snapshots: Sequence[_Snapshot], cut_off: date, days: int) -> list[_Snapshot]:
    """The snapshots whose windows had ended by the end of the cut-off."""
    return [snapshot for snapshot in snapshots if snapshot.cut_off + timedelta(days=days) <= cut_off]


def _lessons(snapshots: Sequence[_Snapshot]) -> list[Lesson]:
    return [Lesson(s.known, s.found.expected_revenue, s.actual_revenue) for s in snapshots]


def _tests(
    at: _Snapshot,
    snapshots: Sequence[_Snapshot],
    windows: Windows,
    days: int,
    coverage: float,
    season: Season,
) -> list[Trial]:
    factors = windows.factors(at.cut_off, days)
    busy = factors.orders.value
    raw = at.found
    if busy != 1:
        raw = forecast(at.model, at.known, days, 0.0, coverage, partial(season.weeks_until, at.cut_off), busy, at.returns)
    trees = learn(_lessons(_ended(snapshots, at.cut_off, days)))
    actual = at.actual_revenue
    tests = []
    for candidate in CANDIDATES if trees else (PROBABILISTIC,):
        said = _multiplied(raw, factors, candidate, trees, at.known)
        revenue = said.expected_revenue
        tests.append(
            Trial(
                cut_off=at.cut_off,
                candidate=candidate,
                customers=len(actual),
                factor=factors.revenue.value,
                expected_revenue=float(np.sum(revenue)),
                actual_revenue=float(np.sum(actual)),
                mae=float(np.mean(np.abs(actual - revenue))),
                mae_of_equal_shares=float(np.mean(np.abs(actual - np.mean(revenue)))),
                coverage=covered(said, actual),
                stated=float(np.mean(said.interval_probability)),
            )
        )
    return tests
