"""Hourly `account_health`: 0 to 100, why, and which way it goes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.saas.accounts.assets import ACCOUNTS
from analytics_assets.saas.health.outcomes import latest_outcomes
from analytics_assets.saas.health.scoring import (
    BAND_COVERAGE,
    BAND_DAYS,
    BANDS,
    WINDOW_DAYS,
    at_the_same_time,
    health_of_hours,
    hours_between,
    judge_evenings_before,
    last_block,
    measure,
    read_usage,
    score,
)
from analytics_assets.settings import Health
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Column, Publication, Table
from analytics_assets.warehouse.work import Platform, Work

ACCOUNTS_PLOTTED = 8
HOURS_AT_ONCE = 24 * 31
"""Each time of day of so many hours is computed at once: 2 M scores of 20,000 accounts, in 1.5 GB."""

ACCOUNT_HEALTH = Table(
    name="account_health",
    rows_are="account and hour, unless its contract had ended by the evening before",
    columns=(
        Column("event_date", "DATE", "Business day of the hour."),
        Column("hour", "TIMESTAMPTZ", "Instant at which the business hour begins; health is that at its end."),
        Column("account_id", "VARCHAR", "The account."),
        Column(
            "score", "DECIMAL(4,1)", "Health, higher is healthier; NULL where no component is known.", "points", nullable=True
        ),
        Column(
            "band",
            "VARCHAR",
            "`healthy`, `neutral` or `at risk`, as of the newest evening, this hour's if it ends a day; NULL (unknown) where no score of the "
            f"last 28 evenings had a coverage of {BAND_COVERAGE:g}, nor has this one.",
            nullable=True,
        ),
        Column(
            "trend",
            "DECIMAL(4,1)",
            "Score less the score 28 days ago; NULL where that is not known from a whole fortnight.",
            "points",
            nullable=True,
        ),
        Column(
            "components", "VARCHAR", "Points from each component, as JSON; their sum is the score. A missing one is left out."
        ),
        Column("coverage", "DECIMAL(4,3)", "Share of the weights whose figures are known.", "0 to 1"),
        Column(
            "reasons",
            "VARCHAR",
            "A fortnight without activity, then what costs most points; at most three. `hours of use`: the people of each hour, summed. Never NULL of a score that is not healthy or has fallen. "
            "`down 40 % in 14 days against the 28 before`: of these 42 days, the last 14 had 40 % less a day than the 28 (fewer where it is younger).",
            nullable=True,
        ),
    ),
    key=("hour", "account_id"),
    grain="hour",
    partition_column="event_date",
    publication=Publication(as_view=True),
)


def account_health(work: Work) -> Mapping[str, Staged]:
    """How healthy each account is: 0 to 100 points, from what its people did up to the end of the hour.

    Five components with the weights of `[health.weights]`. Activity is counted in days that end with the hour, so
    that weeks are whole and weekdays cancel: the last 14 of them are *now*, the 28 before them the account's own *past*.

    - `active_users`: people, counted hour by hour (one who comes in three hours counts three times): reasons call it hours of use.
    - `events`: what they did.
    - `features`: the most different features used in an hour of each day.
    - `recency`: how long nobody has done anything.
    - `seats`: the most people in one hour of the last 14 days, of the seats that the account has.

    Each is a third *own* and two thirds *peers*, 0 to 1. *Own*: now against the past, 1 where nothing fell beyond chance (two
    standard deviations of a count) and 0 where half is gone, or where now is nothing at all; the median account's change is taken
    out, so that no account is blamed for a holiday or an outage. A pause of three days, or of twice the usual gap, is none; seats are a share of one's own.
    *Peers*: the share of the other accounts with an event in the last 42 days that it is ahead of. Accounts with seats compare with
    one another: user-hours (for `seats` too) and events per seat, with four seats of average use added to each so that a few people
    do not make an extreme; features per square root of the seats, since a larger team shows more of them, but not in proportion.
    A part that cannot be known (less than 14 days of past, no seats, fewer than ten peers) is left out, the others weigh
    more, and `coverage` says how much of the weight is there. An account that was not used for 42 days has 0.

    At twenty simulated companies, on three days each, its rank correlation with the health that they really had was .59 (.52 to .67), .011
    above that of the best raw figure of the day (.021 below to .040 above, ahead on 45 of 60 days): user-hours of a seat rank almost as well.
    What the score adds is what it has lost, and why.

    Bands have the edges of `[health]`. A band is judged at the end of a business day, over the scores of the last 28 evenings, each
    computed again from usage: an edge is only crossed by one that lies `hysteresis` points beyond it. It holds until the next day ends,
    so the last hour of a day may move it, and no other; a steep fall shows at once in score, trend and reasons. Who had no band in the
    evening, or has just been silent for six weeks, is in the band of the hour's score. A score with a coverage below a fifth (an account
    of ten days, without ten others to compare it with) gives no band and moves none. Read the trend first, then the reasons; what became
    of accounts in each band stands in `health_outcomes`.
    """
    clock = work.platform.clock
    hours = hours_between(work.window.start, work.window.end)
    evenings = [clock.day_of(hour) - timedelta(days=1) for hour in hours]
    work.read(ACCOUNTS, f"as_of_date >= '{evenings[0]}' AND as_of_date <= '{evenings[-1]}'", in_memory=True)
    work.bound_memory()
    staged = work.stage(ACCOUNT_HEALTH)
    for first in range(0, len(hours), HOURS_AT_ONCE):
        at_once = hours[first : first + HOURS_AT_ONCE]
        read_usage(work, at_once[0], at_once[-1])
        judge_evenings_before(work, work.settings.health, at_once)
        for same_time in at_the_same_time(work, at_once):
            days = (clock.day_of(same_time[-1]) - clock.day_of(same_time[0])).days + 1
            measure(work, same_time[-1], days, between=False)
            score(work, work.settings.health)
            rows = work.rows_of(ACCOUNT_HEALTH, health_of_hours(work, work.settings.health, same_time, last_block(days)))
            for hour in same_time:
                of_hour = rows.filter(pc.field("hour") == pa.scalar(hour))
                staged.append(of_hour)
        staged.files()
    work.connection.register("evenings", pa.table({"hour": hours, "evening": evenings}))
    work.metadata["accounts by band in the last hour"] = dg.MetadataValue.md(_bands_page(work, of_hour))
    if known := latest_outcomes(work, evenings[-1]):
        work.metadata["what became of accounts in each band"] = dg.MetadataValue.md(known)
    return {ACCOUNT_HEALTH.name: staged}


def _bands_page(work: Work, rows: pa.Table) -> str:
    end = work.window.end.astimezone(work.settings.business.zone)
    of_band = pl.DataFrame(rows).group_by("band").agg(accounts=pl.len(), score=pl.col("score").cast(pl.Float64).mean())
    figures = {band: (accounts, score) for band, accounts, score in of_band.rows()}
    lines = [
        f"| {band} | {figures[band][0]:,} | {figures[band][1]:.1f} |" if band in figures else f"| {band} | 0 | |"
        for band in BANDS
    ]
    unknown = f"\n\n{figures[None][0]:,} accounts have no band: too little is known of them." if None in figures else ""
    table = "\n".join(["| band | accounts | mean score |", "|---|---:|---:|", *lines])
    return f"At {end:%Y-%m-%d %H:%M}, where this run ends:\n\n{table}{unknown}"


def plot_worst_accounts(work: Work, rows: pa.Table) -> bytes:
    """A PNG: scores of the accounts that lost most in 28 days, evening by evening up to the last hour, with the edges of the bands."""
    import altair as alt
    import vl_convert as vlc

    health = work.settings.health
    end = work.window.end.astimezone(work.settings.business.zone)
    bands = [f"healthy from {health.healthy:g}", f"at risk below {health.at_risk:g}"]
    edge = alt.Chart(pl.DataFrame({"score": [health.healthy, health.at_risk], "band": bands})).encode(alt.Y("score:Q"))
    edges = edge.mark_rule(strokeDash=[4, 4]) + edge.mark_text(align="left", dy=-6).encode(x=alt.value(4), text="band:N")
    lines = (
        alt.Chart(worst_accounts(work, rows), title=f"Health of the accounts that lost most in 28 days, to {end:%Y-%m-%d %H:%M}")
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            alt.X("day:Q", title="days before the end of the hour", scale=alt.Scale(domain=[-BAND_DAYS, 0])),
            alt.Y("score:Q", title="points", scale=alt.Scale(domain=[0, 100])),
            alt.Color("account:N", title="account", sort=None),
        )
    )
    return vlc.vegalite_to_png((lines + edges).properties(width=420, height=240).to_json(), scale=1.5)


def worst_accounts(work: Work, rows: pa.Table) -> pl.DataFrame:
    """The accounts that lost most in 28 days, the worst first: `account`, `day` (0 is the end of the last hour) and `score`.

    A score for each of the last 28 evenings, for the end of the hour, and for 28 days before that. Where people are accounts, no one is
    named: `account` is the place.
    """
    frame = pl.DataFrame(rows).with_columns(pl.col("score", "trend").cast(pl.Float64))
    last = frame.filter(pl.col("hour") == pl.col("hour").max(), pl.col("trend") < 0).sort("trend", "account_id")
    worst = last.head(ACCOUNTS_PLOTTED).with_row_index("place", 1)
    evening = work.platform.clock.begins(work.platform.clock.day_of(work.window.end))
    evenings = work.connection.sql(
        """SELECT account_id, -$since - evenings_before AS day, score / 10 AS score FROM evening_scores
        WHERE evenings_before < $days AND list_contains($worst, account_id)""",
        params={
            "since": (work.window.end - evening) / timedelta(days=1),
            "days": BAND_DAYS,
            "worst": worst["account_id"].to_list(),
        },
    ).pl()
    ends = [
        worst.select("account_id", day=pl.lit(0.0), score="score"),
        worst.select("account_id", day=pl.lit(float(-BAND_DAYS)), score=pl.col("score") - pl.col("trend")),
    ]
    account = pl.format("{}.", "place") if work.settings.accounts.are == "people" else pl.col("account_id")
    placed = pl.concat([evenings, *ends]).unique().join(worst.select("account_id", "place"), on="account_id")
    return placed.sort("place", "day").select(account=account, day="day", score="score")


def account_health_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The hourly asset `account_health`. Catching up fills the hours of the last 30 days."""
    return table_asset(
        platform,
        (ACCOUNT_HEALTH,),
        account_health,
        needs=[
            Needs("account_usage", hourly=True, back=24 * WINDOW_DAYS - 1),
            Needs("accounts", evening_before=True),
        ],
        audits=[
            Audit(
                "scores_are_possible",
                f"Scores lie between 0 and 100, coverage between 0 and 1, and who has a coverage of {BAND_COVERAGE:g} has a band.",
                f"""SELECT hour, account_id, score, band, coverage FROM rows
                WHERE score NOT BETWEEN 0 AND 100 OR coverage NOT BETWEEN 0 AND 1 OR score IS NULL AND band IS NOT NULL
                OR band IS NULL AND coverage >= {BAND_COVERAGE} OR band NOT IN {BANDS}""",
            ),
            Audit(
                "every_account_has_its_health",
                "An account of the evening before is in it, each hour, unless its contract had ended; then it is not.",
                # Rows are unique: as many as there must be, and none of an account that had ended, are exactly those.
                """WITH wanted AS (
                    SELECT e.hour, e.evening, count(a.account_id) FILTER (a.ended_on IS NULL) AS accounts
                    FROM evenings AS e LEFT JOIN accounts AS a ON a.as_of_date = e.evening GROUP BY ALL
                ),
                found AS (
                    SELECT r.hour, count(*) FILTER (a.ended_on IS NULL) AS accounts, min(a.account_id) FILTER (a.ended_on IS NOT NULL) AS ended
                    FROM rows AS r JOIN evenings AS e ON e.hour = r.hour
                    JOIN accounts AS a ON a.as_of_date = e.evening AND a.account_id = r.account_id GROUP BY ALL
                )
                SELECT w.hour, w.accounts AS wanted, coalesce(f.accounts, 0) AS found, f.ended AS account_id
                FROM wanted AS w LEFT JOIN found AS f ON f.hour = w.hour
                WHERE coalesce(f.accounts, 0) <> w.accounts OR f.ended IS NOT NULL""",
            ),
        ],
        warnings=[
            Audit(
                "every_component_is_known",
                "Each component with a weight is known for some account. `seats` needs a property that names them, under `[properties]`; "
                "where the export never does, give it the weight 0 under `[health.weights]`. The others need four weeks of usage, or "
                "ten other accounts, and come by themselves.",
                _unknown_components(platform.settings.health),
            )
        ],
        settings=("health",),
        group="saas",
        plot=plot_worst_accounts,
        fill="recent",
        condition=condition,
    )


def _unknown_components(health: Health) -> str:
    return " UNION ALL ".join(
        f"""SELECT '{component}' AS component FROM rows WHERE coverage > 0
        HAVING count(*) > 0 AND count(*) FILTER (contains(components, '"{component}"')) = 0"""
        for component, weight in health.weights
        if weight > 0
    )
