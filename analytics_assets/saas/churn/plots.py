"""Plots on the pages of the churn room, as PNG: a row for each kind, since a shop has a hundred times as many customers as a vendor accounts."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from analytics_assets.saas.churn.features import KINDS, Kind
from analytics_assets.warehouse.work import Work

_BANDS = ["low", "medium", "high"]
_COLOURS = ["#4c78a8", "#f2cf5b", "#e45756"]
_BINS = 20


def plot_models(work: Work, rows: pa.Table) -> bytes:
    """Of the window's last day: real churn beside what was said, over tenths of the subjects, and real churn of each band.

    Both are of the newest test of the model that serves, so of an earlier cut-off; the titles say which, and of how many subjects.
    A band that nobody was in is drawn, too.
    """
    import altair as alt

    outcomes = pl.DataFrame(work.connection.sql("FROM rows_of_churn_outcomes").pl()).filter(
        pl.col("as_of_date") == work.window.last_day
    )
    percent, churn = alt.Axis(format="%"), work.settings.churn
    horizons: dict[Kind, int] = {"account": churn.account_horizon_days, "customer": churn.customer_horizon_days}
    parts = []
    for kind in KINDS:
        of_kind = outcomes.filter(pl.col("kind") == kind)
        if of_kind.is_empty():
            continue
        tenths = of_kind.filter(pl.col("subjects_are").str.starts_with("tenth"))
        bands = pl.DataFrame({"subjects_are": _BANDS}).join(
            of_kind.select("subjects_are", "subjects", "came_true"), on="subjects_are", how="left", maintain_order="left"
        ).with_columns(pl.col("subjects", "came_true").fill_null(0))  # fmt: skip
        came_true = f"churned within {horizons[kind]} days"
        most = max(0.1, *(tenths[name].max() or 0.0 for name in ("said", "came_true")))
        right = alt.Chart(pl.DataFrame({"said": [0.0, most], "came_true": [0.0, most]})).mark_line(
            color="grey", strokeDash=[4, 4]
        )
        found = alt.Chart(tenths).mark_line(point=True)
        reliability = alt.layer(right, found).encode(
            alt.X("said:Q", title=f"said, by tenths (about {tenths['subjects'].sum() // 10:,} {kind}s each)", axis=percent),
            alt.Y("came_true:Q", title=came_true, axis=percent),
        )
        by_band = alt.Chart(bands).encode(
            alt.X("subjects_are:N", title="band", sort=_BANDS, axis=alt.Axis(labelAngle=0)),
            alt.Y("came_true:Q", title=came_true, axis=percent),
            text=alt.Text("count:N"),
        ).transform_calculate(count=f"format(datum.subjects, ',') + ' {kind}s'")  # fmt: skip
        counted = by_band.mark_bar().encode(_band_colour("subjects_are")) + by_band.mark_text(dy=-7)
        whose = f"{kind.capitalize()}s of {of_kind['cut_off'][0]}"
        parts.append(
            _sized(reliability, f"{whose}: said, and what came true") | _sized(counted, f"{whose}: what came true, by band")
        )
    return _png(parts, f"Models of {work.window.last_day} at their newest test")


def plot_scores(work: Work, rows: pa.Table) -> bytes:
    """Of the window's last day: subjects by probability, and how many in each band the day before are in which today."""
    import altair as alt

    today = pl.DataFrame(rows).filter((pl.col("as_of_date") == work.window.last_day) & pl.col("probability").is_not_null())
    before = work.connection.sql("FROM scores_of_the_day_before").pl()
    # Columns of a join may lie in different parts, some of them empty: Polars panics where it makes text of these.
    moved = today.join(before, on=["kind", "subject_id"]).filter(pl.col("band") != pl.col("band_before")).rechunk()
    moves = moved.group_by("kind", move=pl.format("{} to {}", "band_before", "band")).len("subjects").sort("move")
    order = [f"{old} to {new}" for new in reversed(_BANDS) for old in _BANDS if old != new]
    # A probability of 1 lies in the last bin.
    low = (pl.col("probability") * _BINS).floor().clip(0, _BINS - 1) / _BINS
    spread = today.group_by("kind", "band", low=low).len("subjects").sort("kind", "low", "band")
    spread = spread.with_columns(high=pl.col("low") + 1 / _BINS)
    parts = []
    for kind in KINDS:
        of_kind, moves_of_kind = spread.filter(pl.col("kind") == kind), moves.filter(pl.col("kind") == kind)
        if of_kind.is_empty():
            continue
        bars = alt.Chart(of_kind).mark_bar().encode(
            alt.X("low:Q", bin="binned", title="probability of churn", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            alt.X2("high"),
            alt.Y("subjects:Q", title=f"{kind}s", axis=alt.Axis(tickMinStep=1)),
            _band_colour("band"),
        )  # fmt: skip
        counted = alt.Chart(moves_of_kind).encode(alt.X("subjects:Q", axis=None), alt.Y("move:N", title=None, sort=order))
        by_move = counted.mark_bar(size=16) + counted.mark_text(align="left", dx=4).encode(text="subjects:Q")
        nothing = alt.Chart(pl.DataFrame({"text": ["none"]})).mark_text().encode(text="text:N")
        parts.append(
            _sized(bars, f"{kind.capitalize()}s by probability")
            | _sized(
                nothing if moves_of_kind.is_empty() else by_move,
                f"{kind.capitalize()}s that changed their band since the day before",
            )
        )
    return _png(parts, f"Scores of {work.window.last_day}")


def _band_colour(name: str) -> Any:
    import altair as alt

    return alt.Color(
        f"{name}:N",
        title="band, by odds beside those of everybody of the kind: a third or less, between, three times or more",
        scale=alt.Scale(domain=_BANDS, range=_COLOURS),
        legend=alt.Legend(titleLimit=0),
    )


def _sized(chart: Any, title: str) -> Any:
    import altair as alt

    return chart.properties(title=alt.TitleParams(title, fontSize=11), width=270, height=170)


def _png(parts: list[Any], title: str) -> bytes:
    """The rows one below the other, or a sentence where there is nothing to draw."""
    import altair as alt
    import vl_convert as vlc

    nothing = alt.Chart(pl.DataFrame({"text": ["nothing to show"]})).mark_text().encode(text="text:N")
    chart = alt.vconcat(*(parts or [_sized(nothing, "")])).properties(title=title)
    # Beside the plots it is cut off on the page of a small screen.
    return vlc.vegalite_to_png(chart.configure_legend(orient="bottom").to_json(), scale=1.5)
