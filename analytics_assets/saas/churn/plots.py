"""Plots on the pages of the churn room, as PNG."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from analytics_assets.saas.churn.features import KINDS
from analytics_assets.warehouse.work import Work

_BANDS = ["low", "medium", "high"]


def plot_models(work: Work, rows: pa.Table) -> bytes:
    """Of the window's last day: real churn beside what was said, over tenths of the subjects, and real churn of each band."""
    import altair as alt

    outcomes = pl.DataFrame(work.connection.sql("FROM rows_of_churn_outcomes").pl()).filter(
        pl.col("as_of_date") == work.window.last_day
    )
    tenths = outcomes.filter(pl.col("subjects_are").str.starts_with("tenth"))
    bands = outcomes.filter(pl.col("subjects_are").is_in(_BANDS))
    percent = alt.Axis(format="%")
    most = max(0.1, *(tenths[name].max() or 0.0 for name in ("said", "came_true")))
    right = alt.Chart(pl.DataFrame({"said": [0.0, most], "came_true": [0.0, most]})).mark_line(color="grey", strokeDash=[4, 4])
    found = alt.Chart(tenths).mark_line(point=True).encode(alt.Color("kind:N", title=None))
    reliability = alt.layer(right, found).encode(
        alt.X("said:Q", title="probability said, by tenths of the subjects", axis=percent),
        alt.Y("came_true:Q", title="really churned", axis=percent),
    )
    by_band = alt.Chart(bands).mark_bar().encode(
        alt.X("subjects_are:N", title="band", sort=_BANDS, axis=alt.Axis(labelAngle=0)), alt.Y("came_true:Q", title="really churned", axis=percent),
        alt.XOffset("kind:N"), alt.Color("kind:N", title=None),
    )  # fmt: skip
    return _png(
        _drawn(reliability, tenths, f"Reliability ({work.window.last_day})") | _drawn(by_band, bands, "Real churn by band")
    )


def plot_scores(work: Work, rows: pa.Table) -> bytes:
    """Of the window's last day: subjects by probability, and how many in each band the day before are in which today."""
    import altair as alt

    today = pl.DataFrame(rows).filter((pl.col("as_of_date") == work.window.last_day) & pl.col("probability").is_not_null())
    before = work.connection.sql("FROM scores_of_the_day_before").pl()
    # Columns of a join may lie in different parts, some of them empty: Polars panics where it makes text of these.
    moved = today.join(before, on=["kind", "subject_id"]).filter(pl.col("band") != pl.col("band_before")).rechunk()
    order = [f"{kind}: {old} to {new}" for kind in KINDS for new in reversed(_BANDS) for old in _BANDS if old != new]
    moves = moved.group_by(move=pl.format("{}: {} to {}", "kind", "band_before", "band")).len("subjects").sort("move")
    spread = alt.Chart(today.group_by(tenth=(pl.col("probability") * 20).floor() / 20, kind="kind").len("subjects").sort("kind", "tenth")).mark_bar().encode(
        alt.X("tenth:Q", title="probability of churn", axis=alt.Axis(format="%")), alt.Y("subjects:Q", title="subjects", scale=alt.Scale(type="symlog")), alt.Color("kind:N", title=None)
    )  # fmt: skip
    counted = alt.Chart(moves).encode(alt.X("subjects:Q", axis=None), alt.Y("move:N", title=None, sort=order))
    by_move = counted.mark_bar(size=20) + counted.mark_text(align="left", dx=4).encode(text="subjects:Q")
    return _png(
        _drawn(spread, today, f"Scores ({work.window.last_day})") | _drawn(by_move, moves, "What moved since the day before")
    )


def _drawn(chart: Any, rows: pl.DataFrame, title: str) -> Any:
    """The chart, or a sentence where there is nothing to draw."""
    import altair as alt

    if rows.is_empty():
        chart = alt.Chart(pl.DataFrame({"text": ["nothing to show"]})).mark_text().encode(text="text:N")
    return chart.properties(title=title, width=260, height=220)


def _png(chart: Any) -> bytes:
    import vl_convert as vlc

    # Beside the plots it is cut off on the page of a small screen.
    return vlc.vegalite_to_png(chart.configure_legend(orient="bottom").to_json(), scale=1.5)
