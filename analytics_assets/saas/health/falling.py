"""Daily `falling_accounts`: whose health has fallen, since when, and how many new ones there are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.saas.accounts.assets import ACCOUNTS
from analytics_assets.saas.health.outcomes import latest_outcomes
from analytics_assets.saas.health.scoring import (
    WINDOW_DAYS,
    health_of_hours,
    judge_evenings,
    last_block,
    last_hour,
    measure,
    read_usage,
    score,
)
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

SINCE_DAYS = 14
"""How far back the beginning of a fall is looked for."""
DAYS_PLOTTED = 30

FALLING_ACCOUNTS = Table(
    name="falling_accounts",
    rows_are="account whose health is falling, and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end this holds."),
        Column("account_id", "VARCHAR", "The account."),
        Column("score", "DECIMAL(4,1)", "Health at the end of the day, as in `account_health`.", "points"),
        Column("trend", "DECIMAL(4,1)", "Score less the score 28 days ago: at most minus `[health] falling`.", "points"),
        Column("band", "VARCHAR", "`healthy`, `neutral` or `at risk`."),
        Column(
            "falling_since",
            "DATE",
            f"First day on which it had fallen so far, of this day and the {SINCE_DAYS} before: a shorter break makes it no new fall.",
        ),
        Column("mrr", "DECIMAL(18,2)", "Monthly recurring revenue; NULL unless it pays.", "currency", nullable=True),
        Column("currency", "VARCHAR", "Currency of the contract.", nullable=True),
        Column(
            "reasons",
            "VARCHAR",
            "What fell: the components that lost most points, at most three, the strongest first, each against the 14 days that ended 28 days ago.",
            nullable=True,
        ),
    ),
    key=("as_of_date", "account_id"),
    grain="day",
    partition_column="as_of_date",
)


def falling_accounts(work: Work) -> Mapping[str, pa.Table]:
    """Accounts to call before they are at risk: those whose health lost `[health] falling` points within 28 days.

    A fall shows weeks before a low score does. `falling_since` tells the new ones from those that were on the list in the two weeks
    before: a list to call from is today's, the new ones first, by what they pay. `reasons` say what fell, and by how much: the last 14
    days against the 14 that ended 28 days ago, as the points do. (Those of `account_health` are against the four weeks before the last
    14 days, so their percentages differ.) Who had been used for less than a fortnight by then is not on it. An account leaves it when its fall has stopped, or its contract has ended; without a band
    it is not on it.

    It is a reason to look, no verdict. At simulated companies of 60 to 600 accounts, with 15 points about three of four accounts that
    decay are on it two weeks before they end, but one in 17 steady accounts is on it too, and a steady one comes onto it anew every
    hundred days: at 60 accounts somebody is called without a cause every other day. With 20 points it is two of three, one in 38, and
    every 190 days. (`make bench ONLY=health` measures the first.) `churn_scores` says who of them is likely to leave.

    How far to believe it stands in `health_outcomes` under `falling`, and of the newest day that was there before it below: how many of the accounts that were
    falling `[churn] account_horizon_days` ago have ended since, beside all bands.

    The check `nobody_began_to_fall` names the new ones of the newest day that pay most: at most one alert a day, and none while
    it stays open. A route with `owners = ["team:customer-success"]` under `[[alerts.routes]]` takes it to those who call.
    """
    clock = work.platform.clock
    first = clock.begins(work.window.first_day - timedelta(days=SINCE_DAYS))
    read_usage(work, first, last_hour(work, work.window.last_day))
    known = f"as_of_date >= '{work.window.first_day - timedelta(days=1)}' AND as_of_date <= '{work.window.last_day}'"
    work.read(ACCOUNTS, known, in_memory=True)
    found: dict[date, pa.Table] = {}
    measured = len(work.days) + SINCE_DAYS
    measure(work, last_hour(work, work.window.last_day), measured)
    score(work, work.settings.health)
    judge_evenings(work, work.settings.health, work.days, last_block(measured))
    ends = [last_hour(work, day) for day in work.days]
    health = health_of_hours(work, work.settings.health, ends, last_block(measured)).to_arrow_table()
    for back, (day, end) in enumerate(zip(reversed(work.days), reversed(ends), strict=True)):
        work.connection.register("account_health", health.filter(pc.field("hour") == pa.scalar(end)))
        rows = work.sql(
            _HERE / "falling_accounts.sql",
            as_of=day, block=last_block(measured) - back, blocks=SINCE_DAYS + 1, falling=10 * work.settings.health.falling,
        )  # fmt: skip
        found[day] = work.rows_of(FALLING_ACCOUNTS, rows)
    newest = pl.DataFrame(found[work.window.last_day])
    began = newest.filter(pl.col("falling_since") == work.window.last_day)
    began = began.sort(pl.col("mrr").fill_null(0), "trend", "account_id", descending=[True, False, False])
    work.connection.register("began_to_fall", began.select("account_id", "score", "trend", "mrr", "reasons").to_arrow())
    work.metadata["accounts"] = f"{newest.height:,} are falling, {began.height:,} of them since this day"
    if known_outcomes := latest_outcomes(work, work.window.last_day):
        work.metadata["what became of those that were falling"] = dg.MetadataValue.md(known_outcomes)
    return {FALLING_ACCOUNTS.name: pa.concat_tables(found[day] for day in work.days)}


def plot_falling(work: Work, rows: pa.Table) -> bytes:
    """A PNG: accounts that are falling on each day of the window, those that began on the day set apart."""
    import altair as alt
    import vl_convert as vlc

    frame = pl.DataFrame(rows).with_columns(
        began=pl.when(pl.col("falling_since") == pl.col("as_of_date"))
        .then(pl.lit("since this day"))
        .otherwise(pl.lit("since an earlier day"))
    )
    counted = frame.group_by("as_of_date", "began").agg(accounts=pl.len()).sort("as_of_date", "began")
    recent = counted.filter(pl.col("as_of_date") > work.window.last_day - timedelta(days=DAYS_PLOTTED))
    bars = alt.Chart(recent, title=f"Accounts that lost {work.settings.health.falling:g} points in 28 days").mark_bar().encode(
        alt.X("as_of_date:O", title=None, timeUnit="utcyearmonthdate", axis=alt.Axis(format="%-d %b")),
        alt.Y("accounts:Q", title="accounts", axis=alt.Axis(tickMinStep=1)),
        alt.Color("began:N", title="falling"),
    )  # fmt: skip
    return vlc.vegalite_to_png(bars.properties(width=420, height=240).to_json(), scale=1.5)


def falling_accounts_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `falling_accounts`."""
    return table_asset(
        platform,
        (FALLING_ACCOUNTS,),
        falling_accounts,
        needs=[Needs("account_usage", hourly=True, back=WINDOW_DAYS + SINCE_DAYS), Needs("accounts", back=1)],
        audits=[
            Audit(
                "falls_are_falls",
                "Who is on the list lost as many points as the settings say, and not before it is looked for.",
                f"""SELECT as_of_date, account_id, trend, falling_since FROM rows WHERE trend > -{platform.settings.health.falling:g}
                OR falling_since > as_of_date OR falling_since < as_of_date - {SINCE_DAYS}""",
            )
        ],
        warnings=[
            Audit(
                "nobody_began_to_fall",
                f"No account's health began to fall on the newest day (by `[health] falling` = {platform.settings.health.falling:g} points "
                "in 28 days); those that pay most are named. No fault of the platform: somebody should call them.",
                "FROM began_to_fall",
            )
        ],
        settings=("health",),
        group="saas",
        owners=("team:customer-success",),
        plot=plot_falling,
        condition=condition,
    )
