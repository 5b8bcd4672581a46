"""Customer lifetime value: purchases (MBG/NBD or BG/NBD) times spend (Gamma-Gamma) over a horizon, with an interval.

A customer's future does not depend on who they are but on a few numbers (x, t_x, T and purchase days); scoring is done
once per distinct combination and joined back. Times in the models are weeks; the horizon is in days.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from analytics_assets.retail.ltv import bg_nbd, gamma_gamma
from analytics_assets.retail.ltv.bg_nbd import Floats
from analytics_assets.retail.ltv.future_purchases import future_purchases
from analytics_assets.retail.ltv.revenue_interval import RevenueOfBuyers, revenue_interval

# Discounting is done in the middle of equal periods of at most two weeks. Against daily periods that is at most 0.002 %
# off at 10 % a year and 0.01 % at 50 % (three populations, 90 to 730 days); with four weeks it is 0.007 % and 0.03 %.
LONGEST_PERIOD_DAYS = 14

# On 200 random samples of the CDNOW customers with 30 repeat buyers, forecast revenue of all customers over 39 weeks
# scatters by 26 % (standard deviation) around that of the full fit; with 10 by 47 %, with 100 by 14 %.
FEWEST_REPEAT_BUYERS = 30


class NotEnoughHistory(ValueError):
    """Too few customers have bought again (with spend) to tell habits from chance."""


@dataclass(frozen=True)
class CustomerSummary:
    """What is known of each customer as of one day; arrays of one length, one row per customer.

    `frequency`: days with a repeat purchase (x). `recency_weeks`: first to last purchase (t_x, 0 without a repeat).
    `age_weeks`: first purchase to the day (T). `purchase_days`: days on which `mean_spend` was observed, x + 1 as a
    rule. `mean_spend`: net spend per purchase day, refunds deducted, in one currency; NaN or not positive: none known,
    and the customer is given the population's.

    Raises ValueError for impossible values: see `bg_nbd.checked_history`; purchase days below 1; an infinite spend.
    """

    frequency: Floats
    recency_weeks: Floats
    age_weeks: Floats
    purchase_days: Floats
    mean_spend: Floats

    def __post_init__(self) -> None:
        """Check the columns, and keep them as float arrays."""
        x, t_x, T = bg_nbd.checked_history(self.frequency, self.recency_weeks, self.age_weeks)
        n, m = (np.atleast_1d(np.asarray(c, dtype=np.float64)) for c in (self.purchase_days, self.mean_spend))
        if n.shape != x.shape or m.shape != x.shape:
            raise ValueError(f"purchase_days and mean_spend must have {len(x)} rows, not {n.shape} and {m.shape}")
        if not np.all(np.isfinite(n) & (n >= 1)):
            raise ValueError("purchase_days must be at least 1: a customer has bought at least once")
        if np.any(np.isinf(m)):
            raise ValueError("mean_spend must not be infinite")
        columns = ("frequency", "recency_weeks", "age_weeks", "purchase_days", "mean_spend")
        for name, column in zip(columns, (x, t_x, T, n, m), strict=True):
            object.__setattr__(self, name, column)

    @property
    def has_spend(self) -> NDArray[np.bool_]:
        """Whether a positive mean spend was observed."""
        return self.mean_spend > 0

    @cached_property
    def distinct(self) -> tuple[tuple[Floats, ...], NDArray[np.intp]]:
        """Distinct (x, t_x, T, purchase days with a known spend), and the place of each customer among them."""
        spend_days = np.where(self.has_spend, self.purchase_days, 0.0)
        return bg_nbd.distinct_rows(self.frequency, self.recency_weeks, self.age_weeks, spend_days)


@dataclass(frozen=True)
class LtvModel:
    """The two fitted models: how often, and how much."""

    purchases: bg_nbd.Parameters
    spend: gamma_gamma.Parameters


@dataclass(frozen=True)
class LtvForecast:
    """The forecast per customer, in the order of the input rows; revenue in the currency of the spend.

    The interval is that of one customer's revenue, not of its expectation. Where buying nothing is likelier than the
    lower tail (10 % for a coverage of 80 %), `expected_revenue_low` is 0 and what is not covered lies above
    `expected_revenue_high`, or below 0 with those who only send something back; where it is likelier than the coverage that nothing
    comes or goes, both are 0, although the expectation is not.
    `interval_probability` is what each interval states: the coverage, or P(nothing comes or goes) where that is more, or less than the
    coverage where more than the lower tail lies below 0. No interval of a customer from whom probably nothing comes holds just the coverage: nothing is one outcome, to be taken whole or left out. Those that do are drawn by lot (Geyer
    and Meeden 2005, "Fuzzy and randomized confidence intervals and p-values", Statistical Science 20) and would tell some who will
    probably buy nothing that they will buy, so each says what it holds instead.
    """

    probability_alive: Floats
    expected_orders: Floats
    expected_revenue: Floats
    expected_revenue_low: Floats
    expected_revenue_high: Floats
    interval_probability: Floats


def fit(summary: CustomerSummary, law: str | None = None) -> LtvModel:
    """Fit purchases on all customers, with a weak prior for the first months, and spend on the repeat buyers with observed spend, as in Fader and Hardie.

    Spend of one-time buyers is left out: revenue to come is from those who return, and they spend more (CDNOW, 182
    days of holdout: bias -7.0 % with repeat buyers, -7.7 % with all; mean absolute error 20.6 and 20.5).

    `law` is BG/NBD or MBG/NBD; without it, whichever the histories are evidence for (`bg_nbd.fit_likelier`).

    Raises NotEnoughHistory below 30 such repeat buyers, and ValueError if a fit does not converge.
    """
    repeats = (summary.frequency > 0) & summary.has_spend
    if np.count_nonzero(repeats) < FEWEST_REPEAT_BUYERS:
        raise NotEnoughHistory(
            f"{np.count_nonzero(repeats)} of {len(repeats)} customers have bought again with positive net spend; "
            f"lifetime value needs at least {FEWEST_REPEAT_BUYERS}"
        )
    (x, t_x, T, _), place = summary.distinct
    histories = (x, t_x, T, np.bincount(place))
    return LtvModel(
        purchases=bg_nbd.fit_likelier(*histories) if law is None else bg_nbd.fit(*histories, law=law, with_prior=True),
        spend=gamma_gamma.fit(summary.purchase_days[repeats], summary.mean_spend[repeats]),
    )


def calendar_weeks(days: float) -> float:
    """Weeks of the calendar: every day alike."""
    return days / 7


def forecast(
    model: LtvModel,
    summary: CustomerSummary,
    horizon_days: float,
    annual_discount_rate: float = 0.0,
    coverage: float = 0.8,
    weeks_until: Callable[[float], float] = calendar_weeks,
    orders_factor: float = 1.0,
    returns: Floats | None = None,
) -> LtvForecast:
    """Forecast orders (purchase days) and revenue of the next `horizon_days`, one row per customer.

    Expected revenue is E[N] times the expected spend. With a discount rate, each period's share of E[N] is discounted
    from its middle, and the interval is scaled alike; `expected_orders` is never discounted. A customer whose spend
    is unknown is given the population's mean. `weeks_until` tells the weeks of the models' clock within so many days from now
    (`season.py`), on which the summary must have been taken too.

    `orders_factor` multiplies expected orders and revenue. To the interval it is a clock that runs so much faster: where half as many
    orders again are to come, fewer customers buy nothing. With intervals that were only stretched, simulated shops had 2.2 to 3.7 %
    more buyers before Christmas among those from 0 to 0 than was stated, and so 0 to 0.7 %; after it 1.6 to 2.3 % and 0.4 to 0.8 % fewer.

    `returns` is the probability of each customer to send something back should they buy nothing (`returns.py`); None: nobody does.

    Raises ValueError unless the horizon is positive, the rate at least 0 and the coverage between 0 and 1.
    """
    if not 0 < horizon_days < np.inf:
        raise ValueError(f"horizon_days must be positive, not {horizon_days}")
    if not 0 <= annual_discount_rate < np.inf:
        raise ValueError(f"annual_discount_rate must be at least 0, not {annual_discount_rate}")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must lie between 0 and 1, not {coverage}")
    spend_days = np.where(summary.has_spend, summary.purchase_days, 0.0)
    (x, t_x, T, n), place = summary.distinct
    # Of those who are alive recency says nothing more: of a million customers of a year, 7,500 histories are left of 380,000.
    (x_alive, T_alive, n_alive), history = bg_nbd.distinct_rows(x, T, n)
    weeks = weeks_until(horizon_days)
    alive = bg_nbd.alive_now(model.purchases, x, t_x, T)
    future = future_purchases(model.purchases, orders_factor * weeks, x_alive, T_alive)
    buyers = RevenueOfBuyers(future, model.spend.p, model.spend.q + model.spend.p * n_alive)
    below = np.zeros(len(x))
    if returns is not None:
        below[place] = returns
        below *= 1 - alive * buyers.probability[history]
    low, high, holds = revenue_interval(buyers, history, alive, coverage, below)
    likely = future.expectation(future.count)
    orders = orders_factor * bg_nbd.purchases_while_alive(model.purchases, weeks, x_alive, T_alive)
    present = discount_factors(model.purchases, x_alive, T_alive, horizon_days, annual_discount_rate, weeks_until)
    stretched = (orders / likely * present)[history]
    orders, present = alive * orders[history], present[history]
    _, rate = gamma_gamma.posterior(model.spend, spend_days, summary.mean_spend)
    mean = gamma_gamma.expected_mean_spend(model.spend, spend_days, summary.mean_spend)
    return LtvForecast(
        probability_alive=alive[place],
        expected_orders=orders[place],
        expected_revenue=(orders * present)[place] * mean,
        expected_revenue_low=(low * stretched)[place] * rate,
        expected_revenue_high=(high * stretched)[place] * rate,
        interval_probability=holds[place],
    )


def discount_factors(
    purchases: bg_nbd.Parameters,
    frequency: Floats,
    age: Floats,
    horizon_days: float,
    annual_rate: float,
    weeks_until: Callable[[float], float] = calendar_weeks,
) -> Floats:
    """Present value of one expected order within the horizon, one row per history (weeks); 1 at a rate of 0.

    The sum over equal periods of (E[N(t_k)] - E[N(t_k-1)]) / (1 + rate)^(years to the middle), over E[N(t_K)]. Being
    alive now scales numerator and denominator alike, so recency does not matter.
    """
    if annual_rate == 0:
        return np.ones(len(frequency))
    ends = np.linspace(0, horizon_days, ceil(horizon_days / LONGEST_PERIOD_DAYS) + 1)
    expected = np.zeros(len(frequency))
    present = np.zeros(len(frequency))
    for start, end in pairwise(ends):
        until_end = bg_nbd.purchases_while_alive(purchases, weeks_until(end), frequency, age)
        present += (until_end - expected) / (1 + annual_rate) ** ((start + end) / 2 / 365.25)
        expected = until_end
    return present / expected
