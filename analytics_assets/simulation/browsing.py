"""What a simulated retailer's tracker sees beside orders: devices, the names they are tied to, visits, what people say of themselves."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics_assets.simulation.assortment import Assortment
from analytics_assets.simulation.business_days import BusinessDays, Ints
from analytics_assets.simulation.shopping import Pace, People

if TYPE_CHECKING:
    from analytics_assets.simulation.retailer import Retailer

VISITED, VIEWED, ADDED, SIGNED_UP = 0, 1, 2, 3
"""Values of `kind` in `Company.visits`."""
_COUNTRIES = ("United Kingdom", "Ireland", "France", "Germany", "España", "Österreich", "Türkiye")
_COUNTRY_SHARES = np.array([0.74, 0.08, 0.05, 0.05, 0.04, 0.03, 0.01])
_REFERRERS = ("", "www.google.com", "www.instagram.com", "newsletter.shop.test", "www.bing.com")
_REFERRER_SHARES = np.array([0.38, 0.34, 0.14, 0.11, 0.03])


@dataclass(frozen=True)
class Devices:
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


def devices(
    retailer: Retailer,
    calendar: BusinessDays,
    people: People,
    transactions: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> Devices:
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
    return Devices(ids, owner, first, device, named_at, signed_up_at)


def named(
    retailer: Retailer, transactions: dict[str, np.ndarray], devices: Devices, end: int, rng: np.random.Generator
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


def consents(retailer: Retailer, devices: Devices, end: int, rng: np.random.Generator) -> pl.DataFrame:
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


def visits(
    retailer: Retailer,
    calendar: BusinessDays,
    pace: Pace,
    assortment: Assortment,
    people: People,
    transactions: dict[str, np.ndarray],
    items: dict[str, np.ndarray],
    devices: Devices,
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
