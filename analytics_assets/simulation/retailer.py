"""A fashion retailer whose truth is known: who buys, how often, until when, and how much.

The purchase process is the one that the customer lifetime value models assume, so that what a model says can be held
against what was planted:

* purchases: MBG/NBD (Batislam, Denizel and Filiztekin 2007, "Empirical validation and comparison of models for customer
  base analysis"). A customer buys once on acquisition, then at a Poisson rate lambda per week, lambda ~ Gamma(r,
  alpha); after every purchase, the first included, the customer drops out with probability p ~ Beta(a, b) and never
  buys again.
* spend: Gamma-Gamma (Fader and Hardie 2013, "The Gamma-Gamma model of monetary value"). An order's total is
  Gamma(p, nu), nu ~ Gamma(q, gamma) per customer; p / nu is the customer's mean spend.

What is in a basket does not touch these laws. It has two planted truths of its own: a favourite collection, and habits, articles that
wear out and that a customer buys anew with the next order once they are due.

Seasons and growth act on acquisition and on visits, not on the purchases after the first, unless
`Retailer.season_on_orders` says so.

Here: what decides a company, the order in which it happens, and the truth that is planted. What is sold is in `assortment.py`, who buys
what and when in `shopping.py`, what is seen of people beside their orders in `browsing.py`, how it is written down in `kissmetrics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from analytics_assets.simulation import browsing, shopping
from analytics_assets.simulation.assortment import COLLECTIONS, Assortment
from analytics_assets.simulation.business_days import Bools, BusinessDays, Ints
from analytics_assets.simulation.shopping import HOLDOUT_DAYS, Pace, People

# Relative weight of each local hour of the day: quiet nights, a lunch peak, the evening on the sofa.
HOUR_WEIGHTS = np.array(
    [9, 5, 3, 2, 2, 3, 7, 14, 22, 28, 32, 34, 38, 36, 32, 31, 33, 36, 40, 47, 54, 52, 39, 21], dtype=np.float64
)


@dataclass(frozen=True)
class Retailer:
    """Everything that decides a company; the same values always make the same company.

    Raises `ValueError`, naming the parameter, for values that no company can have.
    """

    first_day: date = date(2025, 10, 1)
    """First business day, local; the company opens on it."""
    last_day: date = date(2026, 9, 30)
    """Last business day, local and inclusive."""
    time_zone: str = "Europe/London"
    """IANA name of the zone in which days begin and hours have their weights."""
    currency: str = "GBP"
    """ISO 4217; amounts are in hundredths of it ("pence")."""
    seed: int = 1
    """Seed of every random choice."""

    customers: int = 21_800
    """People acquired in the window: each buys at least once and has a named identity."""
    growth: float = 1.5
    """Acquisitions per day, as a ratio to those a year earlier."""
    christmas_lift: float = 1.3
    """Height of the season's peak on 8 December, above 1 = an ordinary day."""
    summer_lift: float = 0.35
    """Height of the summer sale's peak on 1 July, above 1 = an ordinary day."""
    season_on_orders: bool = False
    """Let the season speed up and slow down repeat purchases too; then truth and model no longer share one law."""

    purchase_r: float = 0.75
    """Shape of the Gamma law of purchase rates."""
    purchase_alpha: float = 9.0
    """Rate of the Gamma law of purchase rates, in weeks: the mean customer buys r / alpha times a week."""
    dropout_a: float = 0.9
    """First parameter of the Beta law of dropout probabilities."""
    dropout_b: float = 2.4
    """Second parameter of the Beta law of dropout probabilities: the mean is a / (a + b)."""
    spend_p: float = 6.25
    """Shape of an order's total given its customer."""
    spend_q: float = 3.74
    """Shape of the Gamma law of nu over customers; above 2, so that mean spend has a variance."""
    spend_gamma: float = 26.0
    """Rate of the Gamma law of nu, in currency units: mean spend is p * gamma / (q - 1)."""
    lines_per_order: float = 2.4
    """Mean item lines of an order before its total bounds them."""

    products: int = 2_000
    """Articles in the catalogue, each of one size; 200 to 20,000."""
    popularity: float = 0.9
    """Zipf exponent: an article's weight is rank ** -popularity."""
    taste: float = 0.5
    """Probability that an article is chosen within the person's favourite collection: what affinity has to find."""
    habits: float = 0.35
    """Probability that a customer has habits: one to three of the cheapest tenth of articles, bought again and again."""
    habit_days: float = 45.0
    """Mean days until such an article is due again; it differs between customers by a Gamma law of shape 4."""
    habit_strength: float = 0.8
    """Probability that an article that is due, or was never bought, is in the customer's next order."""
    return_probability: float = 0.12
    """Probability that an order is returned, wholly or in part."""

    guest_share: float = 0.03
    """Guest checkouts, as a share of `customers`: one order each under an anonymous id that nothing ties to a name."""
    visitors_per_customer: float = 1.8
    """People who visit and never buy, per customer."""
    several_devices: float = 0.3
    """Probability that a customer uses two or three devices, each with an anonymous id of its own."""
    sign_up_first: float = 0.2
    """Probability that a customer signs up, and is named, up to two weeks before the first purchase."""
    visits_per_week: float = 0.05
    """Visits a week without an order that every customer makes until some weeks after dropping out."""
    visits_per_order: float = 1.2
    """Visits without an order, per expected order, on top of `visits_per_week`."""
    consent_share: float = 0.8
    """Probability that a customer consents to e-mail when first named; all others say no."""
    withdrawal_share: float = 0.05
    """Probability that one who consented withdraws it, some weeks or months later."""
    midnight_share: float = 0.002
    """Share of orders placed in the last two seconds of their day, so that item lines fall on the next."""

    def __post_init__(self) -> None:
        """Check every parameter."""
        if self.last_day < self.first_day:
            raise ValueError(f"last_day {self.last_day} is before first_day {self.first_day}")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"time_zone {self.time_zone!r} is not an IANA time zone") from error
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if not 200 <= self.products <= 20_000:
            raise ValueError(f"products must be from 200 to 20,000, not {self.products}")
        for name in (
            "customers",
            "growth",
            "purchase_r",
            "purchase_alpha",
            "dropout_a",
            "dropout_b",
            "spend_p",
            "spend_gamma",
            "habit_days",
        ):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {getattr(self, name)}")
        if not 2 < self.spend_q < np.inf:
            raise ValueError(f"spend_q must be above 2 and finite, not {self.spend_q}")
        if not 1 <= self.lines_per_order < np.inf:
            raise ValueError(f"lines_per_order must be 1 or more and finite, not {self.lines_per_order}")
        for name in (
            "taste",
            "habits",
            "habit_strength",
            "return_probability",
            "several_devices",
            "sign_up_first",
            "midnight_share",
            "guest_share",
            "consent_share",
            "withdrawal_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name in (
            *("christmas_lift", "summer_lift", "popularity"),
            *("visitors_per_customer", "visits_per_week", "visits_per_order"),
        ):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be 0 or more and finite, not {getattr(self, name)}")

    @property
    def days(self) -> int:
        """Business days in the window."""
        return (self.last_day - self.first_day).days + 1


@dataclass(frozen=True)
class Company:
    """What happened at a retailer. Times are UTC epoch seconds, amounts pence, `identity` a row of `identities`.

    Every frame covers the window only, first day to last day; the days after it are in `customers`, in the columns
    that begin with `holdout_`.
    """

    retailer: Retailer
    catalogue: pl.DataFrame
    """One row per article: sku, name, category, collection, price_pence; `product` elsewhere is a row of it."""
    identities: pl.DataFrame
    """One row per identity: identity (the text), named (bool). Row n of the first `customers` is customer n."""
    customers: pl.DataFrame
    """One row per customer, by acquisition.

    `customer_id`; `acquired_at`; `lambda_per_week`; `dropout_p`; `dropped_out_at`, the purchase at which the customer
    dropped out, null if that was not in the window; `mean_spend`, the mean total of this customer's orders by the law,
    in currency units; `favourite_collection`; `orders` and `net_revenue_pence` of the window. Of the 365 days after the
    last day: `holdout_orders`; `holdout_spend_pence`, the orders alone; `holdout_net_revenue_pence`, the orders and the
    refunds that fall in those days, whenever ordered."""
    habits: pl.DataFrame
    """One row per customer and article that they buy again and again: identity, product, days until it is due anew."""
    transactions: pl.DataFrame
    """One row per order or refund: order_id, refund (bool), identity, at, day (0 = first day), lines, total_pence.
    A refund has the id of its order and a negative total."""
    items: pl.DataFrame
    """One row per item line: transaction (a row of `transactions`), line (0, 1, ...: it is written at `at` + line),
    product, quantity (negative for a return), price_pence. Quantity times price adds up to the transaction's total."""
    visits: pl.DataFrame
    """One row per event that is neither an order nor a refund: identity, kind (`browsing.VISITED`, ...), at, product (-1: none),
    referrer. No two rows share identity, kind and second."""
    aliases: pl.DataFrame
    """One row per device that was tied to a name: identity (the named one), alias (the anonymous one), at."""
    properties: pl.DataFrame
    """One row per property set for a person: identity, at, name, value."""
    first_instant: int
    """The instant at which the first day begins."""
    end_instant: int
    """The instant at which the last day has ended."""


def simulate(retailer: Retailer) -> Company:
    """Let the company live through its window and the 365 days after it. Pure: no clock, no files.

    The order of the rows of every frame is part of the result.
    """
    # A stream of random numbers for each part, so that a change of one part's parameters leaves those before it.
    seeds = np.random.SeedSequence(retailer.seed).spawn(8)
    streams = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
    calendar = BusinessDays(retailer.first_day, retailer.days + HOLDOUT_DAYS, ZoneInfo(retailer.time_zone), HOUR_WEIGHTS)
    first, end = int(calendar.starts[0]), int(calendar.starts[retailer.days])
    pace = Pace(retailer)
    assortment = Assortment(retailer, streams[0])
    people = shopping.people(retailer, pace, streams[1])
    habits = shopping.habits(retailer, assortment, streams[7])
    transactions, items = shopping.transactions(retailer, calendar, pace, assortment, people, habits, streams[2], streams[7])
    dropped_out = _dropped_out_at(transactions, people)
    customers = _customer_truth(retailer, calendar, people, transactions, dropped_out)

    transactions, items = _in_window(transactions, items, end)
    devices = browsing.devices(retailer, calendar, people, transactions, streams[3])
    visits = browsing.visits(retailer, calendar, pace, assortment, people, transactions, items, devices, dropped_out, streams[4])
    aliases, properties = browsing.named(retailer, transactions, devices, end, streams[5])
    properties = pl.concat([properties, browsing.consents(retailer, devices, end, streams[6])]).sort("at", "identity", "name")
    named = np.arange(len(devices.person) + retailer.customers) < retailer.customers
    identity = np.where(
        transactions["person"] < retailer.customers,
        transactions["person"],
        retailer.customers + devices.first[transactions["person"]],
    )
    return Company(
        retailer=retailer,
        catalogue=assortment.frame,
        identities=pl.DataFrame({"identity": [customer_id(n) for n in range(retailer.customers)] + devices.ids, "named": named}),
        customers=customers,
        habits=habits,
        transactions=pl.DataFrame(
            {
                "order_id": transactions["order_id"].tolist(),
                "refund": transactions["refund"],
                "identity": identity,
                "at": transactions["at"],
                "day": calendar.days(transactions["at"]),
                "lines": transactions["lines"],
                "total_pence": transactions["total"],
            }
        ),
        items=pl.DataFrame(items),
        visits=visits,
        aliases=aliases,
        properties=properties,
        first_instant=first,
        end_instant=end,
    )


def _in_window(
    transactions: dict[str, np.ndarray], items: dict[str, np.ndarray], end: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Leave out what begins after the window, and order by instant what stays: transactions, and their item lines."""
    kept = np.flatnonzero(transactions["at"] < end)
    kept = kept[np.lexsort((transactions["person"][kept], transactions["at"][kept]))]
    row = np.full(len(transactions["at"]), -1)
    row[kept] = np.arange(len(kept))
    items = items | {"transaction": row[items["transaction"]]}
    lines = np.flatnonzero(items["transaction"] >= 0)
    lines = lines[np.lexsort((items["line"][lines], items["transaction"][lines]))]
    return (
        {name: values[kept] for name, values in transactions.items()},
        {name: values[lines] for name, values in items.items()},
    )


def customer_id(number: int) -> str:
    """Give the named identity of customer `number`, 0 = the first acquired; .test is reserved (RFC 2606)."""
    return f"customer{number + 1}@shop.test"


def _dropped_out_at(transactions: dict[str, np.ndarray], people: People) -> Ints:
    """Give each person's last instant as a customer; the largest integer for those who stay through the holdout."""
    at = np.full(len(people.acquired), np.iinfo(np.int64).max)
    at[transactions["person"][transactions["last"]]] = transactions["at"][transactions["last"]]
    return at


def _customer_truth(
    retailer: Retailer, calendar: BusinessDays, people: People, transactions: dict[str, np.ndarray], dropped_out: Ints
) -> pl.DataFrame:
    """Sum up each customer; the columns are those of `Company.customers`."""
    n = retailer.customers
    end, horizon = calendar.starts[retailer.days], calendar.starts[-1]
    person, at, refund = transactions["person"], transactions["at"], transactions["refund"]
    mine = person < n

    def add_up(chosen: Bools, amounts: Ints) -> Ints:
        sums = np.zeros(n, dtype=np.int64)
        np.add.at(sums, person[mine & chosen], amounts[mine & chosen])
        return sums

    window, holdout, one = at < end, (at >= end) & (at < horizon), np.ones(len(at), dtype=np.int64)
    first_orders = np.flatnonzero(np.diff(person, prepend=-1) != 0)
    frame = pl.DataFrame(
        {
            "customer_id": [customer_id(k) for k in range(n)],
            "acquired_at": at[first_orders][:n],
            "lambda_per_week": people.rate[:n],
            "dropout_p": people.dropout[:n],
            "dropped_out_at": dropped_out[:n],
            "mean_spend": retailer.spend_p / people.nu[:n],
            "favourite_collection": np.array(COLLECTIONS, object)[people.favourite[:n]].tolist(),
            "orders": add_up(window & ~refund, one),
            "net_revenue_pence": add_up(window, transactions["total"]),
            "holdout_orders": add_up(holdout & ~refund, one),
            "holdout_spend_pence": add_up(holdout & ~refund, transactions["total"]),
            "holdout_net_revenue_pence": add_up(holdout, transactions["total"]),
        }
    )
    return frame.with_columns(
        pl.from_epoch("acquired_at").dt.replace_time_zone("UTC"),
        pl.from_epoch(pl.when(pl.col("dropped_out_at") < int(end)).then("dropped_out_at")).dt.replace_time_zone("UTC"),
    )
