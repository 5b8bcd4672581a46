"""The level and the season of a whole business: what its owner knows of it, and by what factor its past says that forecasts were off.

The owner may know the year before a shop has seen one (`[ltv] season`). `Season` turns that into a clock on which customers buy at an
even pace: a day of a month twice as busy counts for two. Purchases are a Poisson process until a customer leaves, and customers
leave at purchases, so that on this clock MBG/NBD holds as it stands, and what is unlike the owner's year is left to the factor.

The models of this folder know no calendar, and their totals are off by what is common to all customers: a Christmas quarter brings
a third more than any of them says, and a shop may always sell somewhat more, or less, than they say. What is missing is seen by
forecasting from earlier cut-offs: each gives the logarithm of actual over expected revenue for a window of days. These are
averages over their windows of one course in time, and a misfit of each forecast's own:

    log(actual / expected) = level + average of season(t) over the window + misfit

a Gaussian process with a constant and a periodic covariance (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning",
equations 2.23, 2.24 and 4.31). Its mean over the window to be forecast is the logarithm of the factor. That one rule does
what is needed: without a past the factor is 1, with few windows it is drawn towards 1, last year's same season counts for more
than another season, a season averages out over a year, and what was seen over 60 days says less of the next 365. How strong
level, season and misfit are in this business is not known; the answers for several strengths are averaged by how well each explains
the ratios (Bayesian model averaging), so that a business without seasons is not given one.

Root mean square of log(actual / expected) without and with the factor: simulated shops with a season, 60 and 90 days, a year of
ratios .23 and .20 -> .11 and .10; without a season .05 and .04 -> .05 and .05; less than a year, CDNOW and Online Retail, cut-offs up
to summer, .08 to .11 -> .08 to .12. Without last year's window nothing but the owner can say that Christmas is coming.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from math import ceil

import numpy as np

from analytics_assets.retail.ltv.bg_nbd import Floats

# Standard deviations of the logarithm that are averaged over, equally likely at first. The strongest season is retail's: Christmas
# weeks sell half as much again as ordinary ones.
LEVELS = (0.0, 0.1)
SEASONS = (0.0, 0.1, 0.2, 0.4)
MISFITS = (0.05, 0.1, 0.2)
YEAR_DAYS = 365.25
# In units of the periodic covariance: weeks a month apart correlate by .35, two months apart by .02.
SEASON_LENGTH = 0.35
# More than the strongest season at one and a half standard deviations is no season but another business, or a closed shop: eleven
# days without a sale at the turn of the year made one forecast of Online Retail a tenth of what came true.
LARGEST_FACTOR = 2.0
# Points that stand for the days of a window.
POINTS = 16


MONTH_DAYS = np.array([31, 28.25, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@dataclass(frozen=True)
class Season:
    """How busy each month is: sales of an ordinary January to December, in any unit, evenly within a month; None: every day alike."""

    sales: tuple[float, ...] | None = None

    def pace(self, day: date, days: int) -> Floats:
        """How busy each of the `days` after the end of `day` is; 1 on average over a year."""
        if self.sales is None:
            return np.ones(days)
        per_day = np.array(self.sales) / MONTH_DAYS
        months = (np.datetime64(day) + np.arange(1, days + 1)).astype("datetime64[M]").astype(np.int64) % 12
        return per_day[months] * (YEAR_DAYS / sum(self.sales))

    def weeks_until(self, day: date, days: float) -> float:
        """Weeks of an even pace within the `days` after the end of `day`."""
        whole = ceil(days)
        passed = np.concatenate(([0.0], np.cumsum(self.pace(day, whole))))
        return float(np.interp(days, np.arange(whole + 1), passed)) / 7


EVEN = Season()


@dataclass(frozen=True)
class Window:
    """What came true over what was expected in the `days` after the end of `cut_off`.

    `log_ratio`: log of actual over expected. `sampling_error`: its standard deviation from the chance of single customers.
    """

    cut_off: date
    days: int
    log_ratio: float
    sampling_error: float


@dataclass(frozen=True)
class Factor:
    """Multiply expected totals by `value`; `doubt` is the standard deviation of its logarithm, level and season being unsure."""

    value: float
    doubt: float


def factor_for(seen: Sequence[Window], cut_off: date, days: int) -> Factor:
    """The factor for a forecast of the `days` after the end of `cut_off`, between 1/2 and 2; without windows it is 1.

    Ratios beyond these bounds count as the bounds. Raises ValueError for windows that end after the cut-off: not known by then.
    """
    if any((cut_off - window.cut_off).days < window.days for window in seen):
        raise ValueError("a window that ends after the cut-off is not known at the cut-off")
    largest = np.log(LARGEST_FACTOR)
    ratios = np.clip([window.log_ratio for window in seen], -largest, largest)
    chance = np.array([window.sampling_error**2 for window in seen])
    starts = [*((window.cut_off - cut_off).days for window in seen), 0]
    same_season = _same_season(starts, [*(window.days for window in seen), days])

    evidence, means, variances = [], [], []
    for level, season, misfit in product(LEVELS, SEASONS, MISFITS):
        covariance = level**2 + season**2 * same_season
        of_seen = covariance[:-1, :-1] + np.diag(chance + misfit**2)
        with_wanted = covariance[:-1, -1]
        weights = np.linalg.solve(of_seen, with_wanted)
        means.append(weights @ ratios)
        variances.append(covariance[-1, -1] - weights @ with_wanted)
        evidence.append(-(ratios @ np.linalg.solve(of_seen, ratios) + np.linalg.slogdet(of_seen)[1]) / 2)
    likely = np.exp(np.array(evidence) - np.max(evidence))
    likely /= likely.sum()
    mean = float(likely @ np.array(means))
    variance = float(likely @ (np.array(variances) + np.square(means))) - mean**2
    return Factor(float(np.exp(np.clip(mean, -largest, largest))), float(np.sqrt(max(variance, 0.0))))


def _same_season(starts: Sequence[int], days: Sequence[int]) -> Floats:
    """Periodic correlation of the averages over two windows, for each pair of windows."""
    within = (np.arange(POINTS) + 0.5) / POINTS
    points = (np.array(starts)[:, None] + np.array(days)[:, None] * within).ravel()
    apart = np.sin(np.pi * (points[:, None] - points) / YEAR_DAYS) / SEASON_LENGTH
    return np.exp(-2 * apart**2).reshape(len(days), POINTS, len(days), POINTS).mean(axis=(1, 3))
