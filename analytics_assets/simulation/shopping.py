"""How people buy from a simulated retailer: who they are, when they order and drop out, what is in the basket, what they send back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics_assets.simulation.assortment import COLLECTIONS, Assortment
from analytics_assets.simulation.business_days import BusinessDays, Floats, Ints

if TYPE_CHECKING:
    from analytics_assets.simulation.retailer import Retailer

HOLDOUT_DAYS = 365
"""Days after the last day in which the same process runs on: the future that a model has to predict."""
ORDER_GAP_SECONDS = 120
"""Least seconds between the last item line of a person's order or refund and the next one."""
MOST_HABITS = 3
"""Articles that a customer buys again and again."""


class Pace:
    """The season: its height on each day, and the clock that runs faster when it is high."""

    def __init__(self, retailer: Retailer) -> None:
        """Draw the season over the window and the holdout."""
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


@dataclass(frozen=True)
class People:
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


def people(retailer: Retailer, pace: Pace, rng: np.random.Generator) -> People:
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
    return People(acquired, rate, dropout, nu, rng.integers(0, len(COLLECTIONS), n))


def transactions(
    retailer: Retailer,
    calendar: BusinessDays,
    pace: Pace,
    assortment: Assortment,
    people: People,
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


def habits(retailer: Retailer, assortment: Assortment, rng: np.random.Generator) -> pl.DataFrame:
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
    assortment: Assortment,
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
    assortment: Assortment,
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
