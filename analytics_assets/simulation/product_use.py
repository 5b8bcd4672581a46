"""Who works for which account of a simulated software company, how healthy it is, and what people do with the product, hour by hour."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import BusinessDays, Floats, Ints
from analytics_assets.simulation.contracts import FAILED_ADOPTION, FEWER_USERS, TRIAL, USAGE_DECAY, Account

if TYPE_CHECKING:
    from analytics_assets.simulation.software import SoftwareCompany

BASIC_FEATURES = 2
WEEKDAY_WEIGHTS = np.array([1.0, 1.06, 1.06, 1.0, 0.86, 0.12, 0.10])
"""How likely people come on Monday, ..., Sunday, beside an ordinary weekday."""
# Feature: event, value of the property `feature` or none. Half are events of their own, half one event with a property.
FEATURES: tuple[tuple[str, str | None], ...] = (
    ("viewed dashboard", None),
    ("created task", None),
    ("used feature", "comments"),
    ("used feature", "search"),
    ("created report", None),
    ("used feature", "file upload"),
    ("used feature", "calendar"),
    ("exported data", None),
    ("used feature", "automation"),
    ("connected integration", None),
    ("used feature", "API"),
    ("used feature", "audit log"),
)
SIGNED_IN, SIGNED_UP, VISITED = "signed in", "signed up", "visited site"
"""Events that use no feature."""
_Stint = tuple[int, int, int, int, bool, float]
"""person, account, first_day, end_day, second, rank"""


def stints(company: SoftwareCompany, accounts: list[Account], rng: np.random.Generator) -> tuple[pl.DataFrame, Ints, int]:
    """Fill seats with people: give stints, the owner of each account, and how many people there are.

    A healthy account fills more of its seats. The owner holds the first place for good.
    """
    rows: list[_Stint] = []
    owner = np.zeros(len(accounts), dtype=np.int64)
    left: list[tuple[int, int, int]] = []  # person, account left, day
    persons = 0
    for n, account in enumerate(accounts):
        filled = min(1.0, 0.4 + 0.55 * account.level + rng.normal(0, 0.07))
        begin = 0 if account.trial_day is None else account.trial_day
        # How many places there are from each day on on which seats change.
        steps = [(begin, max(1, round(filled * account.turns[0][3])))]
        steps += [(day, max(1, round(filled * seats))) for day, _, _, seats, _, _ in account.turns[1:]]
        places = max(count for _, count in steps)
        for place in range(places):
            opened = next(day for day, count in steps if count > place)
            closed = next((day for day, count in steps if day > opened and count <= place), account.stop_day)
            if place == 0:
                owner[n] = persons
                rows.append((persons, n, begin, account.stop_day, False, 1.0))
                persons += 1
                continue
            day = opened if account.founding and opened == begin else opened + int(rng.exponential(2.0 + place))
            while day < min(closed, account.stop_day):
                stays = int(rng.exponential(365 / company.turnover)) + 14 if company.turnover else closed
                end = min(day + stays, closed, account.stop_day)
                rows.append((persons, n, day, end, False, float(rng.random())))
                if end < account.stop_day:
                    left.append((persons, n, end))
                persons += 1
                day = end + 1 + int(rng.exponential(5.0))
    hosts = _Hosts(accounts)
    for person, account_left, day in left:
        if rng.random() < company.moving_share:
            rows += hosts.join(person, account_left, day + int(rng.integers(2, 20)), False, rng)
    for person, account_now, begin, _, _, _ in list(rows):
        if rng.random() < company.two_accounts_share and person != owner[account_now]:
            rows += hosts.join(person, account_now, begin + int(rng.integers(2, 20)), True, rng)
    frame = pl.DataFrame(
        rows,
        schema={
            **dict.fromkeys(("person", "account", "first_day", "end_day"), pl.Int64),
            "second": pl.Boolean,
            "rank": pl.Float64,
        },
        orient="row",
    )
    # Who ever works for a second account must name the account with every event, in the first one too.
    frame = frame.filter(pl.col("first_day") < company.days).with_columns(pl.col("second").any().over("person"))
    return frame.sort("first_day", "account", "person", "end_day", maintain_order=True), owner, persons


class _Hosts:
    """The accounts that people may join from elsewhere: those that exist for another week and do not decay."""

    def __init__(self, accounts: list[Account]) -> None:
        never = 10**9
        self._begin = np.array([account.trial_day or 0 for account in accounts])
        self._stop = np.array([account.stop_day for account in accounts])
        self._decays = np.array([never if account.decay_day is None else account.decay_day for account in accounts])
        self._recovered = np.array([account.recovered_day or never for account in accounts])

    def join(self, person: int, away_from: int, day: int, second: bool, rng: np.random.Generator) -> list[_Stint]:
        """Let a person join one of them on that day; nowhere if there is none."""
        open_then = (self._begin <= day) & (day < self._stop - 7) & ~((self._decays <= day) & (day < self._recovered))
        open_then[away_from] = False
        hosts = np.flatnonzero(open_then)
        if not len(hosts):
            return []
        host = int(rng.choice(hosts))
        return [(person, host, day, int(self._stop[host]), second, float(rng.random()))]


def health(company: SoftwareCompany, accounts: list[Account], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Give each account's decay (0 to 1) and its health without it (0 to 1), by account and day of the window."""
    days = np.arange(company.days)
    level = np.array([account.level for account in accounts])
    # A walk that forgets half in about two weeks, with a standard deviation of .06.
    wander = np.empty((len(accounts), company.days))
    wander[:, 0] = rng.normal(0, 0.06, len(accounts))
    for day in range(1, company.days):
        wander[:, day] = 0.95 * wander[:, day - 1] + rng.normal(0, 0.06 * np.sqrt(1 - 0.95**2), len(accounts))
    decay = np.zeros((len(accounts), company.days))
    for n, account in enumerate(accounts):
        if account.decay_day is None:
            continue
        full = company.decay_days * 2 / 3 if account.billed_day is not None else company.trial_days / 2
        ramp = np.clip((days - account.decay_day) / full, 0, 1)
        if account.recovered_day is not None:
            ramp = np.minimum(ramp, np.clip((account.recovered_day + 7 - days) / 7, 0, 1))
        decay[n] = ramp
    return decay, np.clip(level[:, None] + wander, 0.05, 1.0)


def outages(company: SoftwareCompany, calendar: BusinessDays) -> pl.DataFrame:
    """Spread the outages over the window, each on a weekday."""
    begins = []
    for number in range(company.outages):
        day = round((number + 1) * company.days / (company.outages + 1))
        while (company.first_day + timedelta(day)).weekday() >= 5:
            day += 1
        if day < company.days:
            begins.append(int(calendar.starts[day]) + 10 * 3_600)
    ends = [begin + company.outage_hours * 3_600 for begin in begins]
    return pl.DataFrame({"from_at": begins, "until_at": ends}, schema={"from_at": pl.Int64, "until_at": pl.Int64})


def _adopted(company: SoftwareCompany, accounts: list[Account], rng: np.random.Generator) -> Ints:
    """How many features each account has taken up by each day of the window: the first at once, more the healthier it is."""
    days = np.arange(company.days)
    adopted = np.empty((len(accounts), company.days), dtype=np.int64)
    for n, account in enumerate(accounts):
        most = int(np.clip(round(2 + 10 * account.level * rng.uniform(0.75, 1.1)), 3, len(FEATURES)))
        gaps = rng.exponential(5.0 / account.level, len(FEATURES))
        if account.driver == FAILED_ADOPTION:
            most = BASIC_FEATURES
        began = -200.0 if account.trial_day is None else float(account.trial_day)
        gaps[:2] = 0
        adopted[n] = np.searchsorted(began + np.cumsum(gaps[:most]), days, side="right").clip(1, most)
    return adopted


def used(
    company: SoftwareCompany,
    calendar: BusinessDays,
    accounts: list[Account],
    stints: pl.DataFrame,
    decay: Floats,
    health: Floats,
    outages: pl.DataFrame,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Let people work: one row per event of a stint, `session` telling the sessions apart."""
    account = stints["account"].to_numpy()
    # Those who are reprieved, and trials that come to nothing, decay by either of the two most frequent drivers.
    driver = np.array([a.driver or (USAGE_DECAY if n % 2 else FEWER_USERS) for n, a in enumerate(accounts)], object)
    # By account, apart from its health: how eager its people are, and how many clicks they need for their work.
    eager = np.clip(rng.normal(1.0, 0.15, len(accounts)), 0.6, 1.4)
    clicks = np.exp(rng.normal(np.log(1.9), 0.35, len(accounts)))
    adopted = _adopted(company, accounts, rng)
    habit = rng.uniform(0.7, 1.3, stints.height)

    dates = [company.first_day + timedelta(n) for n in range(company.days)]
    pace = WEEKDAY_WEIGHTS[[day.weekday() for day in dates]]
    quiet = np.array([(day.month, day.day) >= (12, 24) or (day.month, day.day) == (1, 1) for day in dates])
    pace = np.where(quiet, pace * company.lull, pace)

    days = np.arange(company.days)
    # How much less likely people come, and how much less they do, when decay is complete.
    comes_less = np.select([driver == USAGE_DECAY, driver == FEWER_USERS, driver == FAILED_ADOPTION], [0.45, 0.1, 0.6], 0.6)
    does_less = np.where(driver == USAGE_DECAY, 0.85, 0.2)
    present = (0.12 + 0.5 * health) * (1 - comes_less[:, None] * decay) * eager[:, None] * pace
    comes = present[account] * habit[:, None]
    inside = (days >= stints["first_day"].to_numpy()[:, None]) & (days < stints["end_day"].to_numpy()[:, None])
    stopped = (driver == FEWER_USERS)[account][:, None] & (stints["rank"].to_numpy()[:, None] < 0.8 * decay[account])
    stint, day = np.nonzero((rng.random(comes.shape) < comes) & inside & ~stopped)

    sessions = 1 + (rng.random(len(stint)) < 0.15)
    stint, day = np.repeat(stint, sessions), np.repeat(day, sessions)
    who = account[stint]
    began = calendar.instants(day + rng.random(len(day)))
    mean = clicks[who] * (1 - does_less[who] * decay[who, day])
    signs_in = rng.random(len(stint)) < 0.5
    length = 1 + rng.poisson(mean) + signs_in
    session = np.repeat(np.arange(len(stint)), length)
    place = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    gap = np.where(place == 0, 0, 5 + np.floor(rng.exponential(80, len(session)))).astype(np.int64)
    run = np.cumsum(gap)
    at = began[session] + run - np.repeat(run[np.cumsum(length) - length], length)
    # Features that were taken up early are used most.
    taken = adopted[who, day][session]
    feature = np.floor(taken * rng.random(len(session)) ** 1.6).astype(np.int64)
    feature = np.where(signs_in[session] & (place == 0), -1, feature)

    down = np.zeros(len(at), dtype=np.bool_)
    for begin, end in outages.iter_rows():
        down |= (at >= begin) & (at < end)
    kept = (at < calendar.starts[day[session] + 1]) & ~(down & (rng.random(len(at)) < 0.98))
    event = np.array([SIGNED_IN, *(name for name, _ in FEATURES)], object)
    value = np.array([None, *(text for _, text in FEATURES)], object)
    # The web client names the account with every event, the mobile one leaves it to what was said of the person before.
    names = stints["second"].to_numpy()[stint] | (rng.random(len(stint)) < 0.6)
    frame = pl.DataFrame(
        {
            "stint": stint[session],
            "person": stints["person"].to_numpy()[stint][session],
            "at": at,
            "name": event[feature + 1].tolist(),
            "feature": value[feature + 1].tolist(),
            "account": who[session],
            "names_account": names[session],
        },
        schema_overrides={"feature": pl.String},
    )
    return frame.filter(pl.Series(kept))


def begun_by_trial(used: pl.DataFrame, turns: pl.DataFrame, stints: pl.DataFrame, owner: Ints) -> pl.DataFrame:
    """Let the owners of new accounts sign up seconds before the trial, and nobody be there before it."""
    trials = turns.filter(pl.col("turn") == TRIAL).select("account", trial_at="at")
    owners = pl.DataFrame({"account": np.arange(len(owner)), "person": owner})
    opening = stints.with_row_index("stint").join(trials, on="account").join(owners, on=["account", "person"])
    signed_up = opening.select(
        pl.col("stint").cast(pl.Int64),
        "person",
        at=pl.col("trial_at") - 20,
        name=pl.lit(SIGNED_UP),
        feature=pl.lit(None, pl.String),
        account="account",
        names_account=pl.lit(False),
    )
    later = used.join(trials, on="account", how="left", maintain_order="left")
    later = later.filter(pl.col("trial_at").is_null() | (pl.col("at") > pl.col("trial_at"))).drop("trial_at")
    return pl.concat([later, signed_up])


def visits(
    company: SoftwareCompany, calendar: BusinessDays, stints: pl.DataFrame, aliases: pl.DataFrame, rng: np.random.Generator
) -> pl.DataFrame:
    """Let people visit the site without a name: before they have one, which is nobody's account, and some of them afterwards."""
    named_at = aliases["at"].to_numpy()
    before = np.repeat(np.arange(aliases.height), rng.integers(1, 5, aliases.height))
    before_at = named_at[before] - 60 - np.floor(rng.exponential(4 * 86_400, len(before))).astype(np.int64)

    # Afterwards only those who only ever belong to one account, from the second day on: until the evening before, nobody
    # could know whose visit it is.
    single = stints.group_by("person").agg(pl.len(), pl.col("account").first(), pl.col("end_day").max())
    later = aliases.join(single.filter(pl.col("len") == 1), left_on="identity", right_on="person", maintain_order="left")
    later = later.filter(pl.Series(rng.random(later.height) < 0.4))
    after = np.repeat(np.arange(later.height), rng.integers(1, 4, later.height))
    from_day = (calendar.days(later["at"].to_numpy()) + 2)[after]
    days = np.minimum(later["end_day"].to_numpy(), company.days)[after] - from_day
    possible = days > 0
    after, from_day, days = after[possible], from_day[possible], days[possible]
    after_at = calendar.instants(from_day + np.floor(rng.random(len(after)) * days) + rng.random(len(after)))
    return pl.DataFrame(
        {
            "identity": np.concatenate((aliases["alias"].to_numpy()[before], later["alias"].to_numpy()[after])),
            "person": np.concatenate((aliases["identity"].to_numpy()[before], later["identity"].to_numpy()[after])),
            "at": np.concatenate((before_at, after_at)),
            "name": [VISITED] * (len(before) + len(after)),
            "feature": pl.Series([None] * (len(before) + len(after)), dtype=pl.String),
            "account": [None] * len(before) + later["account"].gather(after).to_list(),
            "names_account": [False] * (len(before) + len(after)),
        },
        schema_overrides={"account": pl.Int64},
    )
