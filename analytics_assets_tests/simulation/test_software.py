"""The simulated software company keeps what was planted: churn, decay before it, the week, outages, contracts, people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from analytics_assets.simulation.contracts import (
    DOWNGRADE,
    FAILED_ADOPTION,
    FEWER_USERS,
    HOLDOUT_DAYS,
    PLANS,
    SUDDEN,
    USAGE_DECAY,
    months_later,
)
from analytics_assets.simulation.product_use import WEEKDAY_WEIGHTS
from analytics_assets.simulation.software import SoftwareCompany, SoftwareHistory, simulate

LONDON = ZoneInfo("Europe/London")
COMPANY = SoftwareCompany(first_day=date(2025, 11, 1), last_day=date(2026, 3, 31), accounts=1_500)
LULL = range((date(2025, 12, 24) - COMPANY.first_day).days, (date(2026, 1, 1) - COMPANY.first_day).days + 1)


@pytest.fixture(scope="module")
def history() -> SoftwareHistory:
    return simulate(COMPANY)


@pytest.fixture(scope="module")
def accounts(history: SoftwareHistory) -> pl.DataFrame:
    return history.accounts.with_row_index("account").with_columns(pl.col("account").cast(pl.Int64))


@pytest.fixture(scope="module")
def work(history: SoftwareHistory) -> pl.DataFrame:
    """What people do at work, with the local day, weekday and hour of each event."""
    local = pl.from_epoch("at").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/London")
    return history.events.filter(
        pl.col("account").is_not_null() & ~pl.col("name").is_in(["visited site", "signed up"])
    ).with_columns(
        day=(local.dt.date() - COMPANY.first_day).dt.total_days(),
        weekday=local.dt.weekday() - 1,
        hour=local.dt.hour().cast(pl.Int64),
    )


def assert_share(hits: np.ndarray, probability: np.ndarray) -> None:
    """As many hits as the probabilities add up to, within four standard deviations."""
    assert abs(hits.sum() - probability.sum()) < 4 * np.sqrt((probability * (1 - probability)).sum())


def test_accounts_leave_with_the_planted_odds(history: SoftwareHistory, accounts: pl.DataFrame) -> None:
    """Every term that ends before the holdout does is one draw, of odds churn / (1 - churn) * exp(-slope * (level - .7))."""
    horizon = COMPANY.days + HOLDOUT_DAYS
    terms, probabilities = [], []
    founded = accounts.filter(pl.col("billed_day").is_not_null())
    first_bills = dict(
        history.turns.filter(pl.col("turn") == "billed").group_by("account").agg(pl.col("months").first()).iter_rows()
    )
    for account, level, months, billed, through in founded.select(
        "account", "health_level", "months", "billed_day", "paid_through_day"
    ).iter_rows():
        if account not in first_bills:
            continue
        anchor, bought = COMPANY.first_day + timedelta(billed), first_bills[account]
        odds = 0.09 / 0.91 * np.exp(-5.0 * (level / 100 - 0.7)) * (2.5 if months == 12 else 1.0)
        while (due := (months_later(anchor, bought) - COMPANY.first_day).days) < horizon:
            terms.append(through == due - 1)
            probabilities.append(odds / (1 + odds))
            if through == due - 1:
                break
            bought += months
    assert len(terms) > 4_000
    assert_share(np.array(terms), np.array(probabilities))


def test_trials_become_contracts_with_the_planted_odds(accounts: pl.DataFrame) -> None:
    trials = accounts.filter(~pl.col("founding"))
    odds = 0.6 / 0.4 * np.exp(5.0 * (trials["health_level"].to_numpy() / 100 - 0.7))
    assert_share(trials["billed_day"].is_not_null().to_numpy(), odds / (1 + odds))
    assert (trials["billed_day"] - trials["trial_day"]).drop_nulls().unique().to_list() == [14]


def test_leavers_have_a_driver_and_one_way_of_ending(accounts: pl.DataFrame) -> None:
    left = accounts.filter(pl.col("ended_day").is_not_null())
    assert set(left["driver"]) == {USAGE_DECAY, FEWER_USERS, FAILED_ADOPTION, DOWNGRADE, SUDDEN}
    assert accounts.filter(pl.col("ended_day").is_null())["driver"].null_count() == accounts.height - left.height
    canceled, lapsed = left.filter(pl.col("canceled_day").is_not_null()), left.filter(pl.col("canceled_day").is_null())
    assert_share(np.ones(canceled.height), np.full(left.height, COMPANY.cancel_share))
    assert (canceled["ended_day"] == canceled["canceled_day"]).all()
    assert (canceled["paid_through_day"] - canceled["canceled_day"]).is_between(0, 2).all()
    assert (lapsed["ended_day"] - lapsed["paid_through_day"] == COMPANY.grace_days).all()
    assert (left.filter(pl.col("driver") == SUDDEN)["decay_day"].null_count()) == left.filter(pl.col("driver") == SUDDEN).height
    decayed = left.filter(pl.col("driver") != SUDDEN)
    assert (decayed["paid_through_day"] + 1 - decayed["decay_day"] == COMPANY.decay_days).all()


def test_latent_health_falls_before_the_end_and_only_where_it_was_planted(
    history: SoftwareHistory, accounts: pl.DataFrame
) -> None:
    days = history.account_days.join(accounts, on="account").with_columns(off=pl.col("health") - pl.col("health_level"))
    steady = days.filter(pl.col("decay_day").is_null())["off"].drop_nulls()
    # A level is the mean of a walk that is cut at 5 and 100.
    assert steady.mean() == pytest.approx(0, abs=1.0) and steady.std() == pytest.approx(6, rel=0.1)
    decaying = days.filter(pl.col("driver").is_not_null() & (pl.col("driver") != SUDDEN))
    last_fortnight = decaying.filter(pl.col("paid_through_day") - pl.col("day") <= 12).select(
        pl.col("health") / pl.col("health_level")
    )
    assert last_fortnight["health"].mean() == pytest.approx(0.15, abs=0.02)
    before = decaying.filter(pl.col("day") < pl.col("decay_day"))
    assert before["off"].mean() == pytest.approx(0, abs=1.0)


def users_a_weekday(work: pl.DataFrame, accounts: pl.DataFrame, driver: str | None, from_end: range) -> pl.DataFrame:
    """Per account of a driver: person-days, people and events in the days that end so many days before the last paid one."""
    chosen = accounts.filter(pl.col("driver").eq_missing(driver) & (pl.col("paid_through_day") < COMPANY.days))
    chosen = chosen.filter(pl.col("paid_through_day") - from_end.stop >= pl.max_horizontal("billed_day", pl.lit(0)))
    before = pl.col("paid_through_day") - pl.col("day")
    done = chosen.join(work, on="account").filter(before.is_between(from_end.start, from_end.stop - 1))
    counts = done.group_by("account").agg(
        events=pl.len(), person_days=pl.struct("person", "day").n_unique(), people=pl.col("person").n_unique(),
        features=pl.struct("name", "feature").n_unique(),
    )  # fmt: skip
    return chosen.select("account").join(counts, on="account", how="left").fill_null(0)


@pytest.mark.parametrize(
    ("driver", "what", "least", "most"),
    [
        (USAGE_DECAY, "events", 0.1, 0.5),
        (FEWER_USERS, "people", 0.15, 0.6),
        (DOWNGRADE, "person_days", 0.1, 0.6),
        (SUDDEN, "events", 0.75, 1.25),
    ],
)
def test_decay_shows_in_what_its_driver_names(
    work: pl.DataFrame, accounts: pl.DataFrame, driver: str, what: str, least: float, most: float
) -> None:
    """The last two weeks before the end beside two weeks before decay began, lulls left out."""
    busy = work.filter(~pl.col("day").is_in([*LULL, *range(LULL.start - 1, LULL.start)]))
    late = users_a_weekday(busy, accounts, driver, range(3, 17))
    early = users_a_weekday(busy, accounts, driver, range(45, 59))
    both = late.join(early, on="account", suffix="_early")
    assert both.height >= 12
    assert least < both[what].sum() / both[f"{what}_early"].sum() < most


def test_failed_adoption_never_gets_beyond_two_features(work: pl.DataFrame, accounts: pl.DataFrame) -> None:
    used = (
        work.filter(pl.col("name") != "signed in")
        .group_by("account")
        .agg(pl.struct("name", "feature").n_unique().alias("features"))
    )
    used = used.join(accounts, on="account")
    assert used.filter(pl.col("driver") == FAILED_ADOPTION)["features"].max() <= 2
    others = used.filter(pl.col("driver").is_null() & pl.col("founding"))
    assert others["features"].quantile(0.05) >= 3


def test_no_raw_count_ranks_accounts_by_health_as_well_as_what_it_is_made_of(
    history: SoftwareHistory, work: pl.DataFrame
) -> None:
    """Who comes, for the seats paid for, says more of health than events, people or features do."""
    day = 130
    state = history.account_days.filter((pl.col("day") == day) & (pl.col("status") == "active") & pl.col("health").is_not_null())
    counts = work.filter(pl.col("day").is_between(day - 13, day)).group_by("account").agg(
        events=pl.len(), people=pl.col("person").n_unique(), person_days=pl.struct("person", "day").n_unique()
    )  # fmt: skip
    both = (
        state.join(counts, on="account", how="left").fill_null(0).with_columns(per_seat=pl.col("person_days") / pl.col("seats"))
    )
    rank = {name: spearmanr(both["health"], both[name])[0] for name in ("events", "people", "person_days", "per_seat")}
    assert all(0 < rank[name] < 0.5 for name in ("events", "people", "person_days"))
    assert rank["per_seat"] > 0.55


def test_the_week_and_the_hours_have_their_weights(work: pl.DataFrame) -> None:
    """Person-days of each weekday beside Monday's; sessions by hour. Outages and the days between the years are left out."""
    out = [(begin // 86_400) for begin in simulate(replace(COMPANY, accounts=5)).outages["from_at"]]
    first = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp()) // 86_400
    plain = work.filter(~pl.col("day").is_in([*LULL, *(day - first for day in out)]))
    person_days = plain.select("person", "account", "day", "weekday").unique().group_by("day", "weekday").len()
    by_weekday = person_days.group_by("weekday").agg(pl.col("len").mean()).sort("weekday")["len"].to_numpy()
    assert by_weekday / by_weekday[0] == pytest.approx(WEEKDAY_WEIGHTS / WEEKDAY_WEIGHTS[0], rel=0.06)
    by_hour = plain.group_by("hour").len().sort("hour")["len"].to_numpy() / plain.height
    # Most events come in the hour of their session, the others in the next.
    assert by_hour[9:17].sum() == pytest.approx(438 / 592, abs=0.02)
    assert by_hour[0:6].sum() < 0.02


def test_nearly_nobody_gets_in_during_an_outage_and_no_account_is_spared(history: SoftwareHistory, work: pl.DataFrame) -> None:
    assert history.outages.height == 2
    for begin, end in history.outages.iter_rows():
        assert datetime.fromtimestamp(begin, LONDON).hour == 10 and datetime.fromtimestamp(begin, LONDON).weekday() < 5
        during = work.filter((pl.col("at") >= begin) & (pl.col("at") < end))
        usual = work.filter((pl.col("at") >= begin - 7 * 86_400) & (pl.col("at") < end - 7 * 86_400))
        assert usual.height > 1_000 and during.height < 0.04 * usual.height
        assert during.group_by("account").len()["len"].max() <= 10


def test_bills_follow_their_terms_and_prices(history: SoftwareHistory, accounts: pl.DataFrame) -> None:
    turns = history.turns.join(
        accounts.select("account", term="months", through="paid_through_day"), on="account", maintain_order="left"
    )
    priced = turns.filter(pl.col("amount_pence").is_not_null())
    for plan, seats, months, amount, term in priced.select("plan", "seats", "months", "amount_pence", "term").iter_rows():
        assert amount == seats * PLANS[plan][term == 12] * months
    assert turns.filter(pl.col("amount_pence").is_null())["turn"].unique().sort().to_list() == ["canceled", "trial"]
    for account, rows in turns.filter(pl.col("turn") == "billed").partition_by("account", as_dict=True).items():
        days = [datetime.fromtimestamp(at, LONDON).date() for at in rows["at"]]
        months = rows["months"].to_list()
        due = [months_later(days[0], sum(months[:n])) for n in range(len(days) + 1)]
        assert days == due[:-1], account
        # The next bill would be due after the window, or the account left with its last term.
        through = rows["through"][0]
        assert due[-1] > COMPANY.last_day or through == (due[-1] - COMPANY.first_day).days - 1


def test_days_of_accounts_are_what_their_turns_say(history: SoftwareHistory, accounts: pl.DataFrame) -> None:
    """Status, plan, seats and recurring revenue at the end of a day, replayed from the turns one by one."""
    turns = defaultdict(list)
    for row in history.turns.iter_rows(named=True):
        turns[row["account"]].append((datetime.fromtimestamp(row["at"], LONDON).date(), row))
    truth = {row["account"]: row for row in accounts.iter_rows(named=True)}
    seen = 0
    for row in history.account_days.filter(pl.col("account") % 15 == 0).iter_rows(named=True):
        today = COMPANY.first_day + timedelta(row["day"])
        so_far = [turn for on, turn in turns[row["account"]] if on <= today]
        kinds = [turn["turn"] for turn in so_far]
        priced = [turn for turn in so_far if turn["amount_pence"] is not None]
        ended = truth[row["account"]]["ended_day"]
        if "canceled" in kinds:
            expected = "canceled"
        elif priced:
            expected = "lapsed" if ended is not None and ended <= row["day"] else "active"
        else:
            expected = "trial" if kinds else "unbilled"
        assert row["status"] == expected
        assert row["mrr_pence"] == (priced[-1]["amount_pence"] // priced[-1]["months"] if expected == "active" else None)
        if so_far:
            assert (row["plan"], row["seats"]) == (so_far[-1]["plan"], so_far[-1]["seats"])
        seen += 1
    assert seen > 10_000


def test_events_lie_in_a_stint_of_their_person(history: SoftwareHistory, work: pl.DataFrame) -> None:
    inside = work.join(history.stints, on=["person", "account"], suffix="_stint").filter(
        (pl.col("day") >= pl.col("first_day")) & (pl.col("day") < pl.col("end_day"))
    )
    assert inside.select("identity", "name", "at").unique().height == work.height


def test_people_move_to_other_accounts_and_some_work_for_two(history: SoftwareHistory, work: pl.DataFrame) -> None:
    people = history.stints.group_by("person").agg(pl.len(), pl.col("second").any())
    assert_share(people["second"].to_numpy(), np.full(people.height, COMPANY.two_accounts_share))
    # One who left long enough before the last day had the time to move; some find no account that exists then.
    left = history.stints.filter(~pl.col("second")).sort("first_day").group_by("person", maintain_order=True).agg(
        pl.col("account").n_unique(), pl.col("end_day").first(), first_account=pl.col("account").first()
    )  # fmt: skip
    stop = history.stints.group_by("account").agg(pl.col("end_day").max().alias("stop"))
    left = left.join(stop, left_on="first_account", right_on="account")
    left = left.filter((pl.col("end_day") < pl.col("stop")) & (pl.col("end_day") < COMPANY.days - 20))
    assert_share((left["account"] > 1).to_numpy(), np.full(left.height, COMPANY.moving_share))
    both = work.join(people.filter("second").select("person"), on="person", how="semi")
    assert both["names_account"].all()
    assert both.group_by("person").agg(pl.col("account").n_unique()).filter(pl.col("account") > 1).height > 50


def test_an_account_is_that_which_its_person_named_last(history: SoftwareHistory) -> None:
    """What an event does not say can be known from what was said of its person at or before its second."""
    said = pl.concat(
        [
            history.memberships.select(person="identity", at="at", said="account"),
            history.events.filter("names_account").select("person", "at", said="account"),
        ]
    ).sort("at")
    silent = history.events.filter(pl.col("account").is_not_null() & ~pl.col("names_account")).sort("at")
    known = silent.join_asof(said, on="at", by="person", check_sortedness=False)
    assert known.height > 50_000 and (known["said"] == known["account"]).all()
    # An unnamed visit is some account's only from the second day after the name was tied to it.
    nobodys = history.events.filter(pl.col("account").is_null())
    tied = nobodys.join(history.aliases, left_on="identity", right_on="alias", suffix="_alias")
    assert tied.height == nobodys.height > 1_000 and (tied["at"] < tied["at_alias"]).all()
    later = history.events.join(history.aliases, left_on="identity", right_on="alias", suffix="_alias")
    later = later.filter(pl.col("account").is_not_null())
    assert later.height > 200 and (later["at"] - later["at_alias"] > 86_400).all()


def test_nobody_comes_after_the_end_or_before_the_trial(
    history: SoftwareHistory, accounts: pl.DataFrame, work: pl.DataFrame
) -> None:
    spans = work.group_by("account").agg(
        pl.col("day").min().alias("first"), pl.col("day").max().alias("last"), pl.col("at").min()
    )
    spans = spans.join(accounts, on="account")
    ended = spans.filter(pl.col("ended_day").is_not_null())
    assert ended.height > 300
    assert (ended["last"] <= ended["paid_through_day"]).all()
    assert (ended.filter(pl.col("canceled_day").is_not_null()).select(pl.col("last") < pl.col("canceled_day")))["last"].all()
    trials = history.turns.filter(pl.col("turn") == "trial").select("account", trial_at="at")
    begun = spans.join(trials, on="account")
    assert begun.height > 300 and (begun["at"] > begun["trial_at"]).all()


def test_members_are_the_people_whose_stint_covers_the_day(history: SoftwareHistory) -> None:
    day = 77
    people = defaultdict(set)
    for person, account, first, end in history.stints.select("person", "account", "first_day", "end_day").iter_rows():
        if first <= day < end:
            people[account].add(person)
    found = dict(history.account_days.filter(pl.col("day") == day).select("account", "members").iter_rows())
    assert {account: n for account, n in found.items() if n} == {account: len(who) for account, who in people.items()}


def test_hours_of_accounts_are_those_of_the_business(history: SoftwareHistory) -> None:
    """In a zone of half hours, over a change of clocks, counted event by event."""
    company = replace(
        COMPANY, accounts=40, time_zone="Australia/Lord_Howe", first_day=date(2026, 3, 20), last_day=date(2026, 4, 20)
    )
    half = simulate(company)
    zone = ZoneInfo("Australia/Lord_Howe")
    counts: dict[tuple[int, datetime], list[set]] = defaultdict(lambda: [set(), set(), set()])
    rows = half.events.filter(pl.col("account").is_not_null())
    for n, (account, at, person, name, feature) in enumerate(
        rows.select("account", "at", "person", "name", "feature").iter_rows()
    ):
        local = datetime.fromtimestamp(at, zone)
        hour = datetime.fromtimestamp(at - local.minute * 60 - local.second, UTC)
        told = counts[account, hour]
        told[0].add(n)
        told[1].add(person)
        if name not in ("signed in", "signed up", "visited site"):
            told[2].add(feature or name)
    found = {(account, hour): counted for account, hour, *counted in half.account_hours.iter_rows()}
    assert found == {key: [len(told) for told in sets] for key, sets in counts.items()}
    assert {hour.minute for _, hour in found} == {0, 30}


def test_same_seed_gives_the_same_history_and_another_seed_another() -> None:
    small = replace(COMPANY, accounts=60)
    one, again, other = simulate(small), simulate(small), simulate(replace(small, seed=2))
    for name in (
        "accounts",
        "account_days",
        "stints",
        "memberships",
        "turns",
        "events",
        "aliases",
        "account_hours",
        "identities",
    ):
        assert getattr(one, name).equals(getattr(again, name))
        assert not getattr(one, name).equals(getattr(other, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_day": date(2025, 10, 31)}, "last_day 2025-10-31 is before first_day"),
        ({"time_zone": "Mars/Olympus"}, "'Mars/Olympus' is not an IANA time zone"),
        ({"accounts": 0}, "accounts must be 1 or more, not 0"),
        ({"churn": 1.5}, "churn must be from 0 to 1, not 1.5"),
        ({"seats_spread": -1.0}, "seats_spread must be 0 or more and finite"),
        ({"decay_days": 2}, "decay_days must be 3 or more, not 2"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
    ],
)
def test_impossible_companies_are_refused_by_parameter(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(COMPANY, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"accounts": 1},
        {"first_day": date(2026, 3, 31), "accounts": 30},
        {"founding_share": 0.0, "accounts": 30},
        {"founding_share": 1.0, "anonymous_share": 0.0, "accounts": 30},
        {"churn": 0.0, "trial_conversion": 1.0, "accounts": 30},
        {"churn": 1.0, "trial_conversion": 0.0, "accounts": 30},
        {"turnover": 0.0, "two_accounts_share": 0.0, "outages": 0, "accounts": 30},
    ],
)
def test_extreme_companies_live_too(changes: dict) -> None:
    history = simulate(replace(COMPANY, **changes))
    assert history.account_days.height > 0
    assert history.account_hours["events"].sum() == history.events["account"].count()
