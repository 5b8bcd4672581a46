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
`Retailer.season_on_orders` says so. How a company is written down as an export is not decided here.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import date, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import Bools, BusinessDays, Floats, Ints

HOLDOUT_DAYS = 365
"""Days after the last day in which the same process runs on: the future that a model has to predict."""
ORDER_GAP_SECONDS = 120
"""Least seconds between the last item line of a person's order or refund and the next one."""
MOST_HABITS = 3
"""Articles that a customer buys again and again."""
VISITED, VIEWED, ADDED, SIGNED_UP = 0, 1, 2, 3
"""Values of `kind` in `Company.visits`."""

# Relative weight of each local hour of the day: quiet nights, a lunch peak, the evening on the sofa.
HOUR_WEIGHTS = np.array(
    [9, 5, 3, 2, 2, 3, 7, 14, 22, 28, 32, 34, 38, 36, 32, 31, 33, 36, 40, 47, 54, 52, 39, 21], dtype=np.float64
)

# Category: code, median list price in pence, spread of the logarithm, garments, sizes.
_LETTERS = ("XS", "S", "M", "L", "XL", "XXL")
_CATEGORIES: dict[str, tuple[str, int, float, tuple[str, ...], tuple[str, ...]]] = {
    "T-shirts": ("TS", 1900, 0.35, ("crew tee", "tee à rayures", "boxy tee", "vest top", "naïve print tee"), _LETTERS),
    "Accessories": (
        "AC",
        1100,
        0.55,
        ("béret", "ribbed socks", "foulard", "leather belt", "woolly hat", "café tote", "hair clip", "Fäustlinge"),
        ("one size", "Einheitsgröße"),
    ),
    "Shirts and blouses": (
        "SB",
        3400,
        0.30,
        ("oxford shirt", "broderie blouse", "linen shirt", "piqué polo"),
        _LETTERS,
    ),
    "Knitwear": (
        "KN",
        4500,
        0.35,
        ("crew jumper", "roll-neck", "crochet cardigan", "slipover", "Norwegerpulli"),
        _LETTERS,
    ),
    "Dresses": (
        "DR",
        4900,
        0.35,
        ("wrap dress", "robe d'été", "shirt dress", "slip dress", "soirée dress"),
        tuple(f"Größe {n}" for n in range(34, 47, 2)),
    ),
    "Skirts": (
        "SK",
        3500,
        0.30,
        ("pleated skirt", "denim skirt", "jupe évasée"),
        tuple(f"UK {n}" for n in range(6, 19, 2)),
    ),
    "Trousers": (
        "TR",
        4700,
        0.30,
        ("wide-leg trousers", "chinos", 'jeans 5-pocket "straight"', "cargo trousers"),
        tuple(f"W{n}" for n in range(26, 39, 2)),
    ),
    "Shoes": (
        "SH",
        7200,
        0.40,
        ("ballerina", "trainers", "ankle boots", "sandales à bride", "loafers"),
        tuple(f"EU {n}" for n in range(36, 46)),
    ),
    "Jackets": ("JA", 8900, 0.35, ("denim jacket", "blazer", "bomber", "Übergangsjacke"), _LETTERS),
    "Coats": ("CO", 15900, 0.30, ("wool coat", "trench", "puffer coat", "Lodenmantel"), _LETTERS),
}
_CATEGORY_SHARES = np.array([0.17, 0.18, 0.12, 0.11, 0.11, 0.07, 0.09, 0.07, 0.05, 0.03])
_COLLECTIONS = ("Studio", "Küste", "Atelier", "Harbour", "North", "Señora", "Heritage", "Jour")
_COLOURS = (
    *("black", "navy", "white", "olive", "camel", "burgundy", "grey", "sky blue", "sand", "rust", "sage", "lilac"),
    *("café", "crème", "weiß"),
)
_COUNTRIES = ("United Kingdom", "Ireland", "France", "Germany", "España", "Österreich", "Türkiye")
_COUNTRY_SHARES = np.array([0.74, 0.08, 0.05, 0.05, 0.04, 0.03, 0.01])
_REFERRERS = ("", "www.google.com", "www.instagram.com", "newsletter.shop.test", "www.bing.com")
_REFERRER_SHARES = np.array([0.38, 0.34, 0.14, 0.11, 0.03])


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
    """One row per event that is neither an order nor a refund: identity, kind (`VISITED`, ...), at, product (-1: none),
    referrer. No two rows share identity, kind and second."""
    aliases: pl.DataFrame
    """One row per device that was tied to a name: identity (the named one), alias (the anonymous one), at."""
    properties: pl.DataFrame
    """One row per property set for a person: identity, at, name, value."""
    first_instant: int
    """The instant at which the first day begins."""
    end_instant: int
    """The instant at which the last day has ended."""


class _Assortment:
    """The catalogue, and ways to choose from it: by price and taste for baskets, by taste alone for views."""

    def __init__(self, retailer: Retailer, rng: np.random.Generator) -> None:
        n = retailer.products
        category = np.sort(rng.choice(len(_CATEGORIES), n, p=_CATEGORY_SHARES))
        collection = rng.integers(0, len(_COLLECTIONS), n)
        weight: Floats = np.power(rng.permutation(n) + 1.0, -retailer.popularity, dtype=np.float64)
        names, skus = np.empty(n, object), np.empty(n, object)
        price = np.empty(n, dtype=np.int64)
        for number, (code, median, spread, garments, sizes) in enumerate(_CATEGORIES.values()):
            members = np.flatnonzero(category == number)
            # Every garment, colour and size of every collection is a different name: draw without replacement.
            variants = np.array([f"{g}, {c}, {s}" for g in garments for c in _COLOURS for s in sizes], object)
            for which in range(len(_COLLECTIONS)):
                mine = members[collection[members] == which]
                if len(mine) > len(variants):
                    raise ValueError(f"products {n} is more than the names that there are for {_COLLECTIONS[which]} {code}")
                names[mine] = f"{_COLLECTIONS[which]} " + rng.choice(variants, len(mine), replace=False)
            skus[members] = [f"{code}-{k:05d}" for k in rng.choice(90_000, len(members), replace=False) + 10_000]
            price[members] = _charm_prices(np.exp(rng.normal(np.log(median), spread, len(members))))
        self.frame = pl.DataFrame(
            {
                "sku": skus.tolist(),
                "name": names.tolist(),
                "category": np.array(list(_CATEGORIES), object)[category].tolist(),
                "collection": np.array(_COLLECTIONS, object)[collection].tolist(),
                "price_pence": price,
            }
        )
        self.price = price
        self._points = np.unique(price)
        self._edges = np.sqrt(self._points[1:] * self._points[:-1].astype(np.float64))
        point = np.searchsorted(self._points, price)
        self._by_price = _Ranges(point, collection, weight)
        self._by_taste = _Ranges(np.zeros(n, dtype=np.int64), collection, weight)
        self._taste = retailer.taste

    def priced(self, rng: np.random.Generator, pence: Floats, collection: Ints) -> Ints:
        """Choose an article for each line at the list price nearest to `pence`."""
        return self._by_price.choose(rng, np.searchsorted(self._edges, pence), collection, self._taste)

    def viewed(self, rng: np.random.Generator, collection: Ints) -> Ints:
        """Choose an article to look at for each person whose favourite collection is given."""
        return self._by_taste.choose(rng, np.zeros(len(collection), dtype=np.int64), collection, self._taste)


class _Ranges:
    """Articles ordered by (group, collection), so that any cell, and any group as a whole, is one range of weights."""

    def __init__(self, group: Ints, collection: Ints, weight: Floats) -> None:
        self._order = np.lexsort((collection, group))
        self._cumulative = np.concatenate(([0.0], np.cumsum(weight[self._order])))
        cells = (group * len(_COLLECTIONS) + collection)[self._order]
        self._first = np.searchsorted(cells, np.arange((int(group.max()) + 1) * len(_COLLECTIONS) + 1))

    def choose(self, rng: np.random.Generator, group: Ints, collection: Ints, taste: float) -> Ints:
        """Draw by weight from the collection with probability `taste`, else (or where it has none) from the group."""
        cell = group * len(_COLLECTIONS) + collection
        low, high = self._first[cell], self._first[cell + 1]
        whole = (rng.random(len(group)) >= taste) | (low == high)
        low = np.where(whole, self._first[group * len(_COLLECTIONS)], low)
        high = np.where(whole, self._first[(group + 1) * len(_COLLECTIONS)], high)
        start, stop = self._cumulative[low], self._cumulative[high]
        place = np.searchsorted(self._cumulative, start + rng.random(len(group)) * (stop - start), side="right") - 1
        return self._order[np.clip(place, low, high - 1)]


def _charm_prices(pence: Floats) -> Ints:
    """Round to prices that shops ask: steps of 50p to 10.00, 1.00 to 40.00, 2.50 to 100.00, then 5.00, all less 5p."""
    step = np.select([pence < 1_000, pence < 4_000, pence < 10_000], [50, 100, 250], 500)
    return np.maximum(np.round(pence / step).astype(np.int64) * step, 200) - 5


class _Pace:
    """The season: its height on each day, and the clock that runs faster when it is high."""

    def __init__(self, retailer: Retailer) -> None:
        days = [retailer.first_day + timedelta(n) for n in range(retailer.days + HOLDOUT_DAYS)]
        christmas = np.array([_days_from(day, 12, 8) for day in days])
        summer = np.array([_days_from(day, 7, 1) for day in days])
        self.height: Floats = (
            1
            + retailer.christmas_lift * np.exp(-((christmas / 14) ** 2) / 2)
            + retailer.summer_lift * np.exp(-((summer / 18) ** 2) / 2)
        )
        self._clock = np.concatenate(([0.0], np.cumsum(self.height / self.height.mean())))

    def season_time(self, positions: Floats) -> Floats:
        """Turn day positions into season time, in days of mean height."""
        return np.interp(positions, np.arange(len(self._clock)), self._clock)

    def positions(self, season_time: Floats) -> Floats:
        """Turn season time into day positions."""
        return np.interp(season_time, self._clock, np.arange(len(self._clock)))


def _days_from(day: date, month: int, day_of_month: int) -> int:
    """Days from the nearest such day of any year, with a sign."""
    peaks = (date(year, month, day_of_month) for year in (day.year - 1, day.year, day.year + 1))
    return min(((day - peak).days for peak in peaks), key=abs)


def _within(counts: Ints) -> Ints:
    """Number the members of consecutive groups of these sizes: 0, 1, ... in each."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _after_each_other(person: Ints, wanted: Ints, lines: Ints) -> Ints:
    """Move instants so that a person's transactions are `ORDER_GAP_SECONDS` apart, from last line to next event.

    Rows are ordered by person and wanted instant. The earliest instants allowed are t'[i] = max(t[i], t'[i-1] +
    d[i-1]); with D the running sum of d, t' - D is the running maximum of t - D within a person.
    """
    busy = lines - 1 + ORDER_GAP_SECONDS
    before = np.cumsum(busy) - busy
    slack = wanted - before
    # A step between persons that is larger than any difference keeps one person's maximum from the next.
    step = int(np.ptp(slack)) + 1
    return np.maximum.accumulate(slack + person * step) - person * step + before


def simulate(retailer: Retailer) -> Company:
    """Let the company live through its window and the 365 days after it. Pure: no clock, no files.

    The order of the rows of every frame is part of the result.
    """
    # A stream of random numbers for each part, so that a change of one part's parameters leaves those before it.
    seeds = np.random.SeedSequence(retailer.seed).spawn(8)
    streams = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
    calendar = BusinessDays(retailer.first_day, retailer.days + HOLDOUT_DAYS, ZoneInfo(retailer.time_zone), HOUR_WEIGHTS)
    first, end = int(calendar.starts[0]), int(calendar.starts[retailer.days])
    pace = _Pace(retailer)
    assortment = _Assortment(retailer, streams[0])
    people = _people(retailer, pace, streams[1])
    habits = _habits(retailer, assortment, streams[7])
    transactions, items = _transactions(retailer, calendar, pace, assortment, people, habits, streams[2], streams[7])
    dropped_out = _dropped_out_at(transactions, people)
    customers = _customer_truth(retailer, calendar, people, transactions, dropped_out)

    transactions, items = _in_window(transactions, items, end)
    devices = _devices(retailer, calendar, people, transactions, streams[3])
    visits = _visits(retailer, calendar, pace, assortment, people, transactions, items, devices, dropped_out, streams[4])
    aliases, properties = _named(retailer, transactions, devices, end, streams[5])
    properties = pl.concat([properties, _consents(retailer, devices, end, streams[6])]).sort("at", "identity", "name")
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


@dataclass(frozen=True)
class _People:
    """Buyers and visitors: the customers by acquisition, then the guests, then those who never buy."""

    acquired: Floats
    """Day position of the first purchase, or of the first visit of those who never buy."""
    rate: Floats
    """Purchases per week; 0 for others than customers."""
    dropout: Floats
    """Probability of dropping out at a purchase; 1 for others than customers."""
    nu: Floats
    """Rate of the law of an order's total, per currency unit; 1 for those who never buy."""
    favourite: Ints
    """Favourite collection."""


def _people(retailer: Retailer, pace: _Pace, rng: np.random.Generator) -> _People:
    """Draw who they are, and when they first come: more each year, and more in season."""
    guests = round(retailer.customers * retailer.guest_share)
    visitors = round(retailer.customers * retailer.visitors_per_customer)
    n = retailer.customers + guests + visitors
    weight = pace.height[: retailer.days] * retailer.growth ** (np.arange(retailer.days) / 365)
    share = np.concatenate(([0.0], np.cumsum(weight))) / weight.sum()
    acquired = np.interp(rng.random(n), share, np.arange(retailer.days + 1))
    # An interpolation may round up to the end of the last day, which is no longer in the window.
    acquired = np.minimum(acquired, np.nextafter(float(retailer.days), 0))
    acquired[: retailer.customers].sort()
    rate, dropout, nu = np.zeros(n), np.ones(n), np.ones(n)
    rate[: retailer.customers] = rng.gamma(retailer.purchase_r, 1 / retailer.purchase_alpha, retailer.customers)
    dropout[: retailer.customers] = rng.beta(retailer.dropout_a, retailer.dropout_b, retailer.customers)
    buyers = retailer.customers + guests
    nu[:buyers] = rng.gamma(retailer.spend_q, 1 / retailer.spend_gamma, buyers)
    return _People(acquired, rate, dropout, nu, rng.integers(0, len(_COLLECTIONS), n))


def _transactions(
    retailer: Retailer,
    calendar: BusinessDays,
    pace: _Pace,
    assortment: _Assortment,
    people: _People,
    habits: pl.DataFrame,
    rng: np.random.Generator,
    of_habits: np.random.Generator,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Let people buy and send back, in the window and the holdout.

    Gives one row per order or refund by person and instant, and one per item line, ordered alike. `last` says that the
    customer dropped out at this order.
    """
    horizon = float(retailer.days + HOLDOUT_DAYS)
    buyers = retailer.customers + round(retailer.customers * retailer.guest_share)
    # Purchases of one who never drops out: a Poisson number of uniform instants. Dropping out cuts them at the k-th
    # purchase, k ~ Geometric(p), the first purchase being number 1.
    clock = pace.season_time if retailer.season_on_orders else np.positive
    begin, stop = clock(people.acquired[:buyers]), float(clock(np.array([horizon]))[0])
    repeats = rng.poisson(people.rate[:buyers] / 7 * (stop - begin))
    until = rng.geometric(np.maximum(people.dropout[:buyers], 1e-12))
    person = np.repeat(np.arange(buyers), repeats)
    moment = begin[person] + rng.random(len(person)) * (stop - begin[person])
    moment = moment[np.lexsort((moment, person))]
    kept = _within(repeats) + 2 <= until[person]
    person, moment = person[kept], moment[kept]
    if retailer.season_on_orders:
        moment = pace.positions(moment)
    position = np.concatenate((people.acquired[:buyers], np.minimum(moment, np.nextafter(horizon, 0))))
    person = np.concatenate((np.arange(buyers), person))
    order = np.lexsort((position, person))
    person, position = person[order], position[order]
    orders = len(person)
    bought = np.bincount(person, minlength=buyers)
    last = _within(bought) + 1 == until[person]

    target = rng.gamma(retailer.spend_p, 1 / people.nu[person]) * 100
    by_habit = _by_habit(retailer, assortment, habits, person, position, target, of_habits)
    basket = _basket(retailer, assortment, people.favourite[person], target, by_habit, rng)

    at = calendar.instants(position)
    # Only the last of a person's orders on a day may move to its end: moved past the next it would change their order,
    # and the order at which the customer drops out would no longer be the last.
    day = np.floor(position).astype(np.int64)
    alone = np.append((person[1:] != person[:-1]) | (day[1:] != day[:-1]), True)
    moved = alone & (rng.random(orders) < retailer.midnight_share)
    at = np.where(moved, calendar.starts[day + 1] - rng.integers(1, 3, orders), at)

    returned = _returns(retailer, basket, orders, rng)
    back = np.unique(returned["transaction"])
    later = position[back] + 2 + np.minimum(rng.exponential(9, len(back)), 60)
    inside = later < horizon
    back, later = back[inside], later[inside]
    returned = {name: values[np.isin(returned["transaction"], back)] for name, values in returned.items()}
    returned["transaction"] = orders + np.searchsorted(back, returned["transaction"])

    items = {name: np.concatenate((basket[name], returned[name])) for name in basket}
    lines = np.bincount(items["transaction"], minlength=orders + len(back))
    pence = items["quantity"] * items["price_pence"]
    total = np.zeros(orders + len(back), dtype=np.int64)
    np.add.at(total, items["transaction"], pence)
    rows = {
        "person": np.concatenate((person, person[back])),
        "at": np.concatenate((at, calendar.instants(later))),
        "refund": np.arange(orders + len(back)) >= orders,
        "source": np.concatenate((np.arange(orders), back)),
        "last": np.concatenate((last, np.zeros(len(back), dtype=np.bool_))),
        "lines": lines,
        "total": total,
    }
    order = np.lexsort((rows["source"], rows["refund"], rows["at"], rows["person"]))
    rows = {name: values[order] for name, values in rows.items()}
    rows["at"] = _after_each_other(rows["person"], rows["at"], rows["lines"])
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    items["transaction"] = place[items["transaction"]]
    by = np.lexsort((items["line"], items["transaction"]))

    # Order numbers count up in the order in which orders come in, over all people; a refund has its order's number.
    came = np.argsort(np.lexsort((rows["person"], rows["at"], rows["refund"])))
    number = np.empty(orders, dtype=np.int64)
    number[rows["source"][~rows["refund"]]] = came[~rows["refund"]]
    rows["order_id"] = np.array([str(100_001 + n) for n in number[rows["source"]].tolist()], object)
    return rows, {name: values[by] for name, values in items.items()}


def _habits(retailer: Retailer, assortment: _Assortment, rng: np.random.Generator) -> pl.DataFrame:
    """Give some customers habits; the columns are those of `Company.habits`."""
    wear_out = np.argsort(assortment.price, kind="stable")[: retailer.products // 10]
    having = np.flatnonzero(rng.random(retailer.customers) < retailer.habits)
    customer = np.repeat(having, rng.integers(1, MOST_HABITS + 1, len(having)))
    rows = pl.DataFrame(
        {
            "identity": customer,
            "product": rng.choice(wear_out, len(customer)),
            "days": np.maximum(rng.gamma(4, retailer.habit_days / 4, len(customer)), 7),
        }
    )
    return rows.unique(["identity", "product"], keep="first", maintain_order=True)


def _by_habit(
    retailer: Retailer,
    assortment: _Assortment,
    habits: pl.DataFrame,
    person: Ints,
    position: Floats,
    target: Floats,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:
    """The order (a row of `person`, by person and instant) and the article of each line that is bought by habit.

    An article stays out where it would take more than half of what the total leaves, so that the total keeps its law.
    """
    first = np.searchsorted(person, np.arange(retailer.customers + 1))
    left = target.copy()
    found = []
    for number in range(MOST_HABITS):
        mine = habits.filter(pl.int_range(pl.len()).over("identity") == number)
        customer, product, days = (mine[name].to_numpy() for name in ("identity", "product", "days"))
        price, bought_at = assortment.price[product], np.full(len(mine), -np.inf)
        for nth in range(int(np.max(np.diff(first)[customer], initial=0))):
            order = np.minimum(first[customer] + nth, len(person) - 1)
            due = (first[customer] + nth < first[customer + 1]) & (position[order] - bought_at >= days)
            due &= (rng.random(len(mine)) < retailer.habit_strength) & (price <= left[order] / 2)
            bought_at[due] = position[order[due]]
            left[order[due]] -= price[due]
            found.append((order[due], product[due]))
    orders, products = (np.concatenate(part) for part in zip(*found, strict=True)) if found else (np.empty(0, np.int64),) * 2
    return orders, products


def _basket(
    retailer: Retailer,
    assortment: _Assortment,
    favourite: Ints,
    target: Floats,
    by_habit: tuple[Ints, Ints],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Fill baskets whose list prices come near each target, in pence: a line is the article priced nearest to its part.

    What is bought by habit comes last, its price taken off the target. A target is met within some per cent, without bias: totals
    keep the Gamma law, and prices are the catalogue's.
    """
    orders, habitual = by_habit
    target = target - np.bincount(orders, assortment.price[habitual], len(target))
    most = np.floor(target / 800).astype(np.int64) + 1
    least = np.ceil(target / 18_000).astype(np.int64)
    lines = np.maximum(np.minimum(1 + rng.poisson(retailer.lines_per_order - 1, len(target)), most), least)
    transaction = np.repeat(np.arange(len(target)), lines)
    part = rng.uniform(0.4, 1.6, len(transaction))
    part = part / np.bincount(transaction, part, len(target))[transaction] * target[transaction]
    quantity = rng.choice(3, len(transaction), p=[0.9, 0.08, 0.02]) + 1
    quantity = np.minimum(quantity, np.maximum(1, part // 400)).astype(np.int64)
    product = assortment.priced(rng, part / quantity, favourite[transaction])
    transaction, product = np.concatenate((transaction, orders)), np.concatenate((product, habitual))
    quantity = np.concatenate((quantity, np.ones(len(orders), dtype=np.int64)))
    by = np.argsort(transaction, kind="stable")
    return {
        "transaction": transaction[by],
        "line": _within(np.bincount(transaction)),
        "product": product[by],
        "quantity": quantity[by],
        "price_pence": assortment.price[product[by]],
    }


def _returns(retailer: Retailer, basket: dict[str, np.ndarray], orders: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Choose the lines that are sent back, at least one of a returned order and of each line some or all pieces.

    `transaction` is still the row of the order.
    """
    sent_back = (rng.random(orders) < retailer.return_probability)[basket["transaction"]]
    lines = np.bincount(basket["transaction"], minlength=orders)
    sure = np.floor(rng.random(orders) * lines).astype(np.int64)[basket["transaction"]] == basket["line"]
    chosen = sent_back & (sure | (rng.random(len(sure)) < 0.4))
    rows = {name: values[chosen] for name, values in basket.items()}
    rows["quantity"] = -(1 + np.floor(rng.random(len(rows["quantity"])) * rows["quantity"]).astype(np.int64))
    rows["line"] = _within(np.unique(rows["transaction"], return_counts=True)[1])
    return rows


def _dropped_out_at(transactions: dict[str, np.ndarray], people: _People) -> Ints:
    """Give each person's last instant as a customer; the largest integer for those who stay through the holdout."""
    at = np.full(len(people.acquired), np.iinfo(np.int64).max)
    at[transactions["person"][transactions["last"]]] = transactions["at"][transactions["last"]]
    return at


def _customer_truth(
    retailer: Retailer, calendar: BusinessDays, people: _People, transactions: dict[str, np.ndarray], dropped_out: Ints
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
            "favourite_collection": np.array(_COLLECTIONS, object)[people.favourite[:n]].tolist(),
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


@dataclass(frozen=True)
class _Devices:
    """Browsers and telephones, each with an anonymous id, by person."""

    ids: list[str]
    """Base64 of 20 random bytes: 28 characters, the last "="."""
    person: Ints
    """Whose it is."""
    first: Ints
    """Each person's first device."""
    of_transaction: Ints
    """The device on which each order was placed; the person's first for a refund."""
    named_at: Ints
    """The instant from which events carry the person's name; the largest integer for never."""
    signed_up_at: Ints
    """The instant at which each customer signed up before the first order; the largest integer for the others."""


def _devices(
    retailer: Retailer,
    calendar: BusinessDays,
    people: _People,
    transactions: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> _Devices:
    """Give people devices, and say when each is tied to a name: at sign-up, or seconds before the first order on it."""
    n, never = retailer.customers, np.iinfo(np.int64).max
    counts = np.ones(len(people.acquired), dtype=np.int64)
    counts[:n] += (rng.random(n) < retailer.several_devices) * rng.integers(1, 3, n)
    first = np.cumsum(counts) - counts
    owner = np.repeat(np.arange(len(counts)), counts)
    raw = rng.bytes(20 * len(owner))
    ids = [base64.b64encode(raw[start : start + 20]).decode() for start in range(0, len(raw), 20)]

    person, refund = transactions["person"], transactions["refund"]
    opening = np.full(len(counts), never)
    np.minimum.at(opening, person, transactions["at"])
    elsewhere = ~refund & (transactions["at"] > opening[person]) & (rng.random(len(person)) < 0.5)
    device = first[person] + elsewhere * np.floor(rng.random(len(person)) * counts[person]).astype(np.int64)

    named_at = np.full(len(owner), never)
    orders = ~refund & (person < n)
    np.minimum.at(named_at, device[orders], np.maximum(transactions["at"][orders] - 5, calendar.starts[0]))
    position = people.acquired[:n] - rng.uniform(0.02, 14, n)
    early = np.flatnonzero((rng.random(n) < retailer.sign_up_first) & (position > 0))
    signed_up_at = np.full(n, never)
    signed_up_at[early] = np.minimum(calendar.instants(position[early]), opening[early] - 60)
    named_at[first[:n]] = np.minimum(named_at[first[:n]], signed_up_at)
    return _Devices(ids, owner, first, device, named_at, signed_up_at)


def _named(
    retailer: Retailer, transactions: dict[str, np.ndarray], devices: _Devices, end: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tie devices to names, and set what the shop knows of customers: country, plan, for some a better plan later."""
    n = retailer.customers
    tied = np.flatnonzero(devices.named_at < np.iinfo(np.int64).max)
    tied = tied[np.lexsort((tied, devices.named_at[tied]))]
    aliases = pl.DataFrame({"identity": devices.person[tied], "alias": n + tied, "at": devices.named_at[tied]})
    since = devices.named_at[devices.first[:n]]
    country = np.array(_COUNTRIES, object)[rng.choice(len(_COUNTRIES), n, p=_COUNTRY_SHARES)]
    upgrade = since + 86_400 + np.floor(rng.exponential(120 * 86_400, n)).astype(np.int64)
    better = np.flatnonzero((rng.random(n) < 0.08) & (upgrade < end))
    everyone = np.arange(n)
    sets = pl.DataFrame(
        {
            "identity": np.concatenate((everyone, everyone, better)),
            "at": np.concatenate((since + 1, since + 2, upgrade[better])),
            "name": ["country"] * n + ["plan"] * (n + len(better)),
            "value": country.tolist() + ["basic"] * n + ["plus"] * len(better),
        }
    )
    return aliases, sets.sort("at", "identity", "name")


def _consents(retailer: Retailer, devices: _Devices, end: int, rng: np.random.Generator) -> pl.DataFrame:
    """Ask every customer for consent to e-mail as soon as they are named, and let some withdraw it later."""
    n = retailer.customers
    asked = devices.named_at[devices.first[:n]] + 3
    consents = rng.random(n) < retailer.consent_share
    withdrawn = asked + 86_400 + np.floor(rng.exponential(60 * 86_400, n)).astype(np.int64)
    leavers = np.flatnonzero(consents & (rng.random(n) < retailer.withdrawal_share) & (withdrawn < end))
    return pl.DataFrame(
        {
            "identity": np.concatenate((np.arange(n), leavers)),
            "at": np.concatenate((asked, withdrawn[leavers])),
            "name": ["email consent"] * (n + len(leavers)),
            "value": np.where(consents, "yes", "no").tolist() + ["no"] * len(leavers),
        }
    )


def _visits(
    retailer: Retailer,
    calendar: BusinessDays,
    pace: _Pace,
    assortment: _Assortment,
    people: _People,
    transactions: dict[str, np.ndarray],
    items: dict[str, np.ndarray],
    devices: _Devices,
    dropped_out: Ints,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Let people look around, before most orders, in between and without ever buying; gives `Company.visits`.

    A session is one `VISITED`, then views, some of them `ADDED` to the cart seconds later. Before an order it ends a
    minute or so before it, having seen and added what is bought. Sessions begin with the season's pace.
    """
    n = retailer.customers
    # Sessions without an order. Customers look in from two weeks before they first buy until some weeks after they drop
    # out, those who never buy mostly once. Intervals are in season time, in which visits are evenly spread.
    window = float(retailer.days)
    gone = calendar.days(np.minimum(dropped_out[:n], calendar.starts[-1] - 1)) + 1 + rng.exponential(21, n)
    begin = pace.season_time(np.maximum(people.acquired[:n] - 14, 0))
    stop = pace.season_time(np.minimum(gone, window))
    weekly = retailer.visits_per_week + retailer.visits_per_order * people.rate[:n]
    looks = rng.poisson(weekly / 7 * np.maximum(stop - begin, 0))
    looker = np.repeat(np.arange(n), looks)
    positions = pace.positions(begin[looker] + rng.random(len(looker)) * (stop - begin)[looker])
    never = np.arange(n + round(n * retailer.guest_share), len(people.acquired))
    again = np.repeat(never, rng.poisson(0.4, len(never)))
    positions = np.concatenate((positions, people.acquired[never], people.acquired[again] + rng.exponential(12, len(again))))
    looker = np.concatenate((looker, never, again))
    looker, positions = looker[positions < window], positions[positions < window]
    owned = np.bincount(devices.person)[looker]
    device = devices.first[looker] + np.floor(rng.random(len(looker)) * owned).astype(np.int64)
    signers = np.flatnonzero(devices.signed_up_at < np.iinfo(np.int64).max)
    starts = np.concatenate((calendar.instants(positions), devices.signed_up_at[signers] - 150))
    looker = np.concatenate((looker, signers))
    device = np.concatenate((device, devices.first[signers]))
    browsing = len(looker)

    # Sessions that lead to an order: nine in ten; the rest was bought in an app that does not say what was looked at.
    led = np.flatnonzero(~transactions["refund"] & (rng.random(len(transactions["at"])) < 0.9))
    looker = np.concatenate((looker, transactions["person"][led]))
    device = np.concatenate((device, devices.of_transaction[led]))
    sessions = len(looker)

    # Views: chance ones in every session, and each item line's article in the session of its order, in shuffled order.
    extra = 1 + rng.poisson(1.6, sessions)
    view_session = np.repeat(np.arange(sessions), extra)
    view_product = assortment.viewed(rng, people.favourite[looker[view_session]])
    view_added = rng.random(len(view_session)) < 0.1
    session_of = np.full(len(transactions["at"]), -1)
    session_of[led] = np.arange(browsing, sessions)
    wanted = session_of[items["transaction"]] >= 0
    view_session = np.concatenate((view_session, session_of[items["transaction"]][wanted]))
    view_product = np.concatenate((view_product, items["product"][wanted]))
    view_added = np.concatenate((view_added, np.ones(int(wanted.sum()), dtype=np.bool_)))
    order = np.lexsort((rng.random(len(view_session)), view_session))
    view_session, view_product, view_added = view_session[order], view_product[order], view_added[order]
    # At least eight seconds apart, so that what is added 3 to 6 seconds after a view comes before the next view.
    gap = 8 + np.floor(rng.exponential(35, len(view_session))).astype(np.int64)
    run = np.cumsum(gap)
    views = np.bincount(view_session, minlength=sessions)
    since = run - np.repeat(np.concatenate(([0], run))[np.cumsum(views) - views], views)
    length = np.bincount(view_session, gap, sessions).astype(np.int64)
    starts = np.concatenate((starts, transactions["at"][led] - length[browsing:] - rng.integers(30, 150, sessions - browsing)))
    view_at = starts[view_session] + since

    added = np.flatnonzero(view_added)
    rows = {
        "person": np.concatenate((looker, looker[view_session], looker[view_session][added], signers)),
        "device": np.concatenate((device, device[view_session], device[view_session][added], devices.first[signers])),
        "kind": np.repeat([VISITED, VIEWED, ADDED, SIGNED_UP], [sessions, len(view_at), len(added), len(signers)]),
        "at": np.concatenate((starts, view_at, view_at[added] + rng.integers(3, 7, len(added)), devices.signed_up_at[signers])),
        "product": np.concatenate((np.full(sessions, -1), view_product, view_product[added], np.full(len(signers), -1))),
    }
    named = (rows["person"] < n) & (rows["at"] >= devices.named_at[rows["device"]])
    referrer = np.full(len(named), None, object)
    referrer[:sessions] = np.array(_REFERRERS, object)[rng.choice(len(_REFERRERS), sessions, p=_REFERRER_SHARES)]
    frame = pl.DataFrame(
        {
            "identity": np.where(named, rows["person"], n + rows["device"]),
            "kind": rows["kind"],
            "at": rows["at"],
            "product": rows["product"],
            "referrer": referrer.tolist(),
        },
        schema_overrides={"referrer": pl.String},
    )
    inside = (pl.col("at") >= int(calendar.starts[0])) & (pl.col("at") < int(calendar.starts[retailer.days]))
    # KISSmetrics counts a person's event of one name once a second; so do we, where two of a person's sessions meet.
    return (
        frame.filter(inside).unique(["identity", "kind", "at"], keep="first", maintain_order=True).sort("at", "identity", "kind")
    )
