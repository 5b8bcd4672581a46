"""Daily `health_outcomes`: what became of the accounts in each band."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa

from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
from analytics_assets.saas.health.scoring import (
    BANDS,
    WINDOW_DAYS,
    health_of_hours,
    judge_evenings,
    last_block,
    last_hour,
    measure,
    read_usage,
    score,
)
from analytics_assets.settings import Health
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

FALLING = "falling"
"""Beside the bands: accounts that had lost `[health] falling` points in 28 days, whatever their band."""

HEALTH_OUTCOMES = Table(
    name="health_outcomes",
    rows_are="band, or those that were falling, and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end it is known what became of the accounts."),
        Column(
            "band",
            "VARCHAR",
            "`healthy`, `neutral` or `at risk`, as it would have been said `horizon_days` before; or `falling`: those that had lost "
            "`[health] falling` points in 28 days then, whatever their band.",
        ),
        Column("horizon_days", "BIGINT", "How long before that: `[churn] account_horizon_days`.", "days"),
        Column("accounts", "BIGINT", "Accounts that stood in the band then, and paid or were on trial.", "accounts"),
        Column("ended", "BIGINT", "How many of them have been cancelled, or not billed (again), since.", "accounts"),
        Column("rate", "DOUBLE", "Ended over accounts; NULL without accounts.", "0 to 1", nullable=True),
        Column("rate_low", "DOUBLE", "Lower end of the rate's 95 % interval (Wilson).", "0 to 1", nullable=True),
        Column("rate_high", "DOUBLE", "Upper end of the rate's 95 % interval (Wilson).", "0 to 1", nullable=True),
    ),
    key=("as_of_date", "band"),
    grain="day",
    partition_column="as_of_date",
)


def health_outcomes(work: Work) -> Mapping[str, pa.Table]:
    """What became of the accounts in each band, and of those that were falling, 30 days ago: how many of them have ended since.

    The bands are computed again from usage, for the last hour of the business day `[churn] account_horizon_days` ago, with the
    weights and edges that hold now; only accounts that `accounts` knew by then to pay or to be on trial count: the others have nothing that
    could end. An account ended if its contract was cancelled in between, or had not been billed again when the days of grace were over;
    a trial, if it was not billed. People who are accounts count under the name that they had then, whatever name a merger has given them
    since.

    Read the rates from top to bottom: they should rise from healthy to at risk, and the intervals say how far to believe it. The rate
    of `falling` is what an entry of `falling_accounts` is worth.
    A day too early to look back from has no rows.
    """
    horizon = timedelta(days=work.settings.churn.account_horizon_days)
    clock = work.platform.clock
    days = [day for day in work.days if day - horizon > clock.first_day]
    if days:
        read_usage(work, clock.begins(days[0] - horizon), clock.begins(days[-1] - horizon + timedelta(days=1)))
        known = f"as_of_date >= '{days[0] - horizon - timedelta(days=1)}' AND as_of_date <= '{days[-1]}'"
        work.read(ACCOUNTS, known, in_memory=True)
        work.read(ACCOUNT_MEMBERS, known)
    rows = [row for day in days for row in _outcomes_of(work, day, horizon)]
    if newest := [row for row in rows if row["as_of_date"] == days[-1]]:
        work.metadata["ended since"] = dg.MetadataValue.md(_page(newest))
    return {HEALTH_OUTCOMES.name: pa.Table.from_pylist(rows, schema=HEALTH_OUTCOMES.arrow_schema())}


def ended_since(work: Work, health: Health, stood_on: date, day: date) -> pl.DataFrame:
    """Each account's `band`, `score` and `trend` at the end of `stood_on`, and whether it `ended` from then to the end of `day` (0 or 1).

    Of those that paid or were on trial. Reads `health_points` of the last hour of `stood_on`, `accounts` and `account_members`.
    """
    score(work, health)
    judge_evenings(work, health, [stood_on], last_block())
    rows = health_of_hours(work, health, [last_hour(work, stood_on)], last_block())
    work.connection.register("account_health", rows.to_arrow_table())
    days = {"stood_on": stood_on, "evening": stood_on - timedelta(days=1), "as_of": day}
    return work.sql(_HERE / "ended_since.sql", **days, people_are_accounts=work.settings.accounts.are == "people").pl()


def wilson(ended: int, accounts: int) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927): right for few accounts and for rates near 0 too.

    Args:
        ended: how many of them ended.
        accounts: how many there were, at least one.
    """
    z_squared, rate = 3.8414588207, ended / accounts
    middle = rate + z_squared / (2 * accounts)
    half = math.sqrt(z_squared * (rate * (1 - rate) / accounts + z_squared / (4 * accounts**2)))
    low, high = ((middle + sign * half) / (1 + z_squared / accounts) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _outcomes_of(work: Work, day: date, horizon: timedelta) -> list[dict[str, Any]]:
    stood_on = day - horizon
    measure(work, last_hour(work, stood_on))
    stood = ended_since(work, work.settings.health, stood_on, day)
    rows = []
    falling = pl.col("trend").cast(pl.Float64) <= -work.settings.health.falling
    groups = {**{band: pl.col("band") == band for band in BANDS}, FALLING: falling}
    for band, inside in groups.items() if len(stood) else ():
        of_band = stood.filter(inside)["ended"]
        accounts, ended = len(of_band), int(of_band.sum())
        low, high = wilson(ended, accounts) if accounts else (None, None)
        rate = ended / accounts if accounts else None
        shares = {
            name: None if share is None else round(share, 6)
            for name, share in (("rate", rate), ("rate_low", low), ("rate_high", high))
        }
        counts = {"as_of_date": day, "band": band, "horizon_days": horizon.days, "accounts": accounts, "ended": ended}
        rows.append(counts | shares)
    return rows


def latest_outcomes(work: Work, evening: date) -> str | None:
    """The rates of the newest day of `health_outcomes` up to an evening, as a table in Markdown; None while there is none."""
    work.read(HEALTH_OUTCOMES, f"as_of_date <= '{evening}'")
    newest = work.connection.sql(
        "SELECT * FROM health_outcomes WHERE as_of_date = (SELECT max(as_of_date) FROM health_outcomes WHERE as_of_date <= $evening)",
        params={"evening": evening},
    ).pl()
    if newest.is_empty():
        return None
    rows = newest.sort(pl.col("band").replace_strict({band: place for place, band in enumerate((*BANDS, FALLING))})).to_dicts()
    days, day = rows[0]["horizon_days"], rows[0]["as_of_date"]
    return f"Ended in the {days} days up to {day}, by the band in which they stood before:\n\n{_page(rows)}"


def _page(rows: list[dict[str, Any]]) -> str:
    lines = ["| band | accounts | ended | rate | 95 % interval |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        rate = f"{row['rate']:.1%} | {row['rate_low']:.1%} to {row['rate_high']:.1%}" if row["accounts"] else " | "
        lines.append(f"| {row['band']} | {row['accounts']:,} | {row['ended']:,} | {rate} |")
    return "\n".join(lines)


def plot_outcomes(work: Work, rows: pa.Table) -> bytes:
    """A PNG: the share of each band's and of the falling accounts that ended within the horizon, with its interval, on the last day."""
    import altair as alt
    import vl_convert as vlc

    last = pl.DataFrame(rows).filter(pl.col("as_of_date") == work.window.last_day)
    groups = (*BANDS, FALLING)
    shown = pl.DataFrame({"band": groups}).join(last, on="band", how="left", maintain_order="left")
    bars = shown.select(
        "band",
        pl.col("rate", "rate_low", "rate_high").fill_null(0),
        counts=pl.format("{} of {}", pl.col("ended").fill_null(0), pl.col("accounts").fill_null(0)),
    )
    days = work.settings.churn.account_horizon_days
    title = alt.TitleParams(
        f"Ended within {days} days, by band {days} days before {work.window.last_day}", subtitle="lines: 95 % intervals"
    )
    base = alt.Chart(bars, title=title).encode(alt.X("band:N", title=None, sort=list(groups), axis=alt.Axis(labelAngle=0)))
    rates = base.mark_bar().encode(alt.Y("rate:Q", title="share of the accounts", axis=alt.Axis(format="%")))
    intervals = base.mark_rule(strokeWidth=2).encode(alt.Y("rate_low:Q"), alt.Y2("rate_high:Q"))
    counts = base.mark_text(dy=-7).encode(alt.Y("rate_high:Q"), text="counts:N")
    return vlc.vegalite_to_png((rates + intervals + counts).properties(width=420, height=240).to_json(), scale=1.5)


def health_outcomes_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `health_outcomes`."""
    back = WINDOW_DAYS + platform.settings.churn.account_horizon_days + 1
    return table_asset(
        platform,
        (HEALTH_OUTCOMES,),
        health_outcomes,
        needs=[Needs("account_usage", hourly=True, back=back), Needs("accounts", as_of=True)],
        audits=[
            Audit(
                "rates_are_shares",
                "No more have ended than there were, and the interval holds the rate.",
                """SELECT as_of_date, band, accounts, ended, rate, rate_low, rate_high FROM rows
                WHERE ended NOT BETWEEN 0 AND accounts OR rate NOT BETWEEN rate_low AND rate_high""",
            )
        ],
        warnings=[
            Audit(
                "at_risk_ends_more_often",
                "Healthy accounts did not end more often than those at risk, beyond what chance would do.",
                """SELECT h.as_of_date, h.rate, r.rate FROM rows AS h JOIN rows AS r ON h.as_of_date = r.as_of_date
                WHERE h.band = 'healthy' AND r.band = 'at risk' AND h.rate_low > r.rate_high""",
            )
        ],
        settings=("health", "churn.account_horizon_days"),
        group="saas",
        plot=plot_outcomes,
        condition=condition,
    )
