"""What other weights and edges would have said of the past, before they are live. Writes nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl
from scipy.stats import rankdata

from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
from analytics_assets.saas.health.outcomes import ended_since
from analytics_assets.saas.health.scoring import (
    WINDOW_DAYS,
    health_of_hours,
    judge_evenings_before,
    last_block,
    last_hour,
    measure,
    read_usage,
    score,
)
from analytics_assets.saas.usage.assets import ACCOUNT_USAGE
from analytics_assets.settings import Health
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.work import Platform, Work

CUT_OFFS = 6
"""How many earlier days are looked back from, each a horizon before the next."""
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
NO_BAND = "no band"
"""Where accounts stand of which the settings' components say too little."""


class NoUsage(Exception):
    """There is no usage to score yet."""


@dataclass(frozen=True)
class Separation:
    """How well scores at the end of a day told the accounts that ended within the horizon from those that did not.

    Of the accounts that have a band with both settings. `auc_...` is the probability that an account that did not end had the higher score; NULL where all or none ended.
    """

    day: date
    accounts: int
    ended: int
    auc_now: float | None
    auc_new: float | None


@dataclass(frozen=True)
class Effect:
    """What changes at the newest hour, and how both settings did where the outcome is known.

    `accounts` have a band with either, `moves` counts them by band now and band with the new settings, or `NO_BAND`; `scores_...` are
    deciles, quartiles and median of those that have one with both.
    """

    hour: datetime
    accounts: int
    moves: dict[tuple[str, str], int]
    scores_now: tuple[float, ...]
    scores_new: tuple[float, ...]
    horizon_days: int
    separations: tuple[Separation, ...]


def weights_effect(platform: Platform, new: Health) -> Effect:
    """Compare another `[health]` with that of the platform, at the newest hour with usage and at earlier cut-offs.

    Raises:
        NoUsage: no hour of `account_usage` has rows yet.
    """
    with engine() as connection:
        attach(connection, platform.lake.pin(ACCOUNT_USAGE))
        ((newest,),) = connection.sql("SELECT max(hour) FROM account_usage").fetchall()
        if newest is None:
            raise NoUsage("account_usage has no rows yet: there is nothing that weights could change. Materialise it first.")
        work = Work(platform, platform.clock.window(newest, newest + timedelta(hours=1)), connection, logging.getLogger(__name__))
        day = platform.clock.day_of(newest)
        horizon = timedelta(days=platform.settings.churn.account_horizon_days)
        work.read(ACCOUNTS, in_memory=True)
        work.read(ACCOUNT_MEMBERS)

        read_usage(work, newest, newest)
        now, then = (_scored(work, health, newest) for health in (platform.settings.health, new))
        told = now.join(then, on="account_id", suffix="_new").filter(pl.any_horizontal(pl.col("band", "band_new").is_not_null()))
        both = told.drop_nulls(["band", "band_new"])
        bands = told.select(pl.col("band", "band_new").fill_null(NO_BAND))
        moves = bands.group_by("band", "band_new").len().sort("band", "band_new")
        ((last_known,),) = connection.sql(
            "SELECT max(as_of_date) FROM accounts WHERE as_of_date <= $day", params={"day": day}
        ).fetchall()
        separations = []
        for number in range(1, CUT_OFFS + 1):
            stood_on = last_known - number * horizon if last_known else platform.clock.first_day
            if stood_on - timedelta(days=WINDOW_DAYS - 1) < platform.clock.first_day:
                break
            separations.append(_separation(work, new, stood_on, stood_on + horizon))
    return Effect(
        hour=newest,
        accounts=len(told),
        moves={(old, changed): count for old, changed, count in moves.rows()},
        scores_now=_quantiles(both["score"]),
        scores_new=_quantiles(both["score_new"]),
        horizon_days=horizon.days,
        separations=tuple(separations),
    )


def _scored(work: Work, health: Health, hour: datetime) -> pl.DataFrame:
    judge_evenings_before(work, health, [hour])
    measure(work, hour, between=False)
    score(work, health)
    rows = health_of_hours(work, health, [hour], last_block()).pl()
    return rows.select("account_id", "band", pl.col("score").cast(pl.Float64))


def _quantiles(scores: pl.Series) -> tuple[float, ...]:
    return tuple(scores.quantile(q, "nearest") or 0.0 for q in QUANTILES) if len(scores) else ()


def _separation(work: Work, new: Health, stood_on: date, day: date) -> Separation:
    hour = last_hour(work, stood_on)
    read_usage(work, hour, hour)
    measure(work, hour)
    now, then = (ended_since(work, health, stood_on, day) for health in (work.settings.health, new))
    now, then = now.join(then, on="account_id", how="semi"), then.join(now, on="account_id", how="semi")
    return Separation(stood_on, len(now), int(now["ended"].sum()), auc(now), auc(then))


def auc(stood: pl.DataFrame) -> float | None:
    """The probability that an account that stayed scored higher than one that ended, equal scores counting half.

    Args:
        stood: rows of `ended_since`.
    """
    ended = stood["ended"].to_numpy() == 1
    few, many = int(ended.sum()), int((~ended).sum())
    if not few or not many:
        return None
    ranks = rankdata(stood["score"].cast(pl.Float64).to_numpy())
    return float((ranks[~ended].sum() - many * (many + 1) / 2) / (few * many))
