"""`churn_training_set` and `training_sets`: what was known, and what followed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import date
from typing import Any

import polars as pl
import pyarrow as pa

from analytics_assets.activation.generations import Channel
from analytics_assets.saas.churn.features import COLUMNS, KINDS, Kind
from analytics_assets.saas.churn.histories import NO_LEAKS, Histories, Label
from analytics_assets.saas.churn.tables import CHURN_TRAINING_SET, TRAINING_SETS
from analytics_assets.settings import TrainingSet
from analytics_assets.warehouse.work import Work

DAYS_KEPT = 30
TOO_SHORT = "not enough history: no cut-off has subjects and an end yet"


def churn_training_set(work: Work) -> Mapping[str, pa.Table]:
    """What was known of accounts and customers at earlier cut-offs, and who of them then left: what churn models learn from.

    An account churns when its contract or trial ends within `[churn] account_horizon_days`: cancelled, or not billed (again). A customer churns by
    not buying within `customer_horizon_days`. Features use what had happened and had been received by the end of the cut-off, with
    identities as they were known then; labels what had been received by the end of `as_of_date`, when their window had ended, and
    identities as they were known by then. An account that by then is known to have ended by the cut-off already has nothing to foresee
    and no row. With every build both are made again from inputs that lack what they may not know; where any differs, the build is refused.

    Cut-offs lie a third of the horizon apart, the newest twelve whose window has ended, on a grid that is the same for all days.

    Read it as a table to learn from: a row per subject and cut-off. Split it by cut-off, a whole horizon apart, never by row.
    """
    histories = Histories(work)
    found, leaks = [CHURN_TRAINING_SET.arrow_schema().empty_table()], []
    for day in work.days:
        for kind in KINDS:
            label = histories.churn(kind)
            rows = histories.training_rows(label, day)
            found.append(work.rows_of(CHURN_TRAINING_SET, _padded(rows, day).to_arrow()))
            leaks.append(histories.leaks(label, day, rows))
            if kind in histories.kinds:
                cut_offs = rows["cut_off"].n_unique()
                work.metadata[f"{kind}s"] = (
                    f"{rows.height:,} rows of {cut_offs} cut-offs, {rows['churned'].sum() / rows.height:.1%} churned"
                    if rows.height
                    else TOO_SHORT
                )
    work.connection.register("leaks", pl.concat(leaks).to_arrow())
    return {CHURN_TRAINING_SET.name: pa.concat_tables(found)}


def _padded(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Rows with all columns of the table, those of the other kind NULL."""
    absent = [pl.lit(None).alias(name) for name in CHURN_TRAINING_SET.column_names if name not in rows.columns]
    return rows.with_columns(*absent).with_columns(as_of_date=pl.lit(day)).select(CHURN_TRAINING_SET.column_names)


def training_sets(work: Work) -> Mapping[str, pa.Table]:
    """Training sets for labels of your own, as the settings name them under `[[training_sets]]`.

    A label says whether one of the named events happened (or, `absent`, did not) within the horizon after the cut-off. An event is of
    the account that it names, else of the one that its person had named last at that second, as known by the end of `as_of_date`. Subjects,
    features, cut-offs and the leak check are those of `churn_training_set`. Each is written to `training_sets/NAME/DATE/` in the home:
    `training_set.parquet`, and `manifest.json` as its data card: what the columns mean, rows, share of positives, SHA-256.
    A set without rows, or whose labels are all the same, can teach nothing: it is not written and has no row, a check says why, and
    the files that were written last stay, also those of the same day where its labels have changed since.

    Read it as input for models of your own: whatever you fit on it has seen nothing that was not known at the cut-off.
    """
    histories = Histories(work)
    found, leaks = [], [NO_LEAKS]
    one_class = [pl.DataFrame(schema={"as_of_date": pl.Date, "name": pl.String, "why": pl.String})]
    for named in work.settings.training_sets:
        for day in work.days:
            label = Label("account" if named.subjects == "accounts" else "customer", named.horizon_days, named)
            rows = histories.training_rows(label, day)
            leaking = histories.leaks(label, day, rows)
            leaks.append(leaking)
            positives = int(rows["churned"].sum())
            work.metadata[f"label {named.name}"] = (
                f"{rows.height:,} rows, {positives / rows.height:.1%} positive" if rows.height else TOO_SHORT
            )
            if positives in (0, rows.height):
                why = _why_one_class(work, named, rows.height, positives) if rows.height else TOO_SHORT
                one_class.append(pl.DataFrame({"as_of_date": day, "name": named.name, "why": why}))
            # What leaks is not written either: the audit refuses it.
            elif leaking.is_empty():
                found.append(_write_training_set(work, named, label.kind, day, rows.drop("kind")))
    work.connection.register("leaks", pl.concat(leaks).to_arrow())
    work.connection.register("one_class", pl.concat(one_class).to_arrow())
    return {TRAINING_SETS.name: pa.Table.from_pylist(found, schema=TRAINING_SETS.arrow_schema())}


def _why_one_class(work: Work, named: TrainingSet, rows: int, positives: int) -> str:
    """Why all labels are the same, with the nearest names of events that there are for those that there are not."""
    told = work.connection.sql("SELECT DISTINCT name FROM events").pl()["name"].to_list()
    unknown = []
    for name in named.events:
        if name not in told:
            near = difflib.get_close_matches(name, told, n=1)
            unknown.append(f"no event is called {name!r}" + (f": is it {near[0]!r}?" if near else ""))
    did = "nobody" if (positives == 0) != named.absent else "everybody"
    happened = f"{did} did {' or '.join(map(repr, named.events))} within {named.horizon_days} days, in all {rows:,} rows"
    return "; ".join([happened, *unknown])


def _write_training_set(work: Work, named: TrainingSet, kind: Kind, day: date, rows: pl.DataFrame) -> dict[str, Any]:
    home = work.platform.home
    channel = Channel(home.root / "training_sets" / named.name, DAYS_KEPT)
    file = "training_set.parquet"
    rows = rows.rename({"churned": "label"}).select(
        "subject_id", "cut_off", "label_until", "label", pl.exclude("subject_id", "cut_off", "label_until", "label")
    )
    positives, cut_offs = int(rows["label"].sum()), sorted(rows["cut_off"].unique().to_list())
    card = {
        "name": named.name,
        "settings": named.model_dump(mode="json") | {"training_subjects": work.settings.churn.training_subjects},
        "rows_are": "subject and cut-off",
        "rows": rows.height,
        "positive_rate": round(positives / rows.height, 6),
        "cut_offs": [cut_off.isoformat() for cut_off in cut_offs],
        "columns": {
            "subject_id": f"The {kind}.",
            "cut_off": "Business day at whose end the features were known.",
            "label_until": "Last day of the horizon, not after as_of_date.",
            "label": f"Whether {'none' if named.absent else 'one'} of {', '.join(named.events)} happened within {named.horizon_days} days.",
            **{column.name: column.meaning for column in COLUMNS[kind]},
        },
        "point_in_time": "Recomputed from inputs that end at the cut-off, by occurrence and by receipt: no feature differed. "
        "Recomputed from what happened within the window and was received by the end of as_of_date: no label differed.",
        "identities": "Who is who as known at the cut-off (features) and at the end of as_of_date (labels).",
    }
    with home.lock("training_sets"), channel.building() as folder:
        rows.write_parquet(folder / file)
        generation = channel.seal(folder, day, {file: rows.height}, card, {})
        channel.show(generation)
    return {
        "as_of_date": day, "name": named.name, "subjects": named.subjects, "rows": rows.height, "positives": positives,
        "cut_offs": len(cut_offs), "folder": f"training_sets/{named.name}/{day}", "sha256": generation.manifest["files"][file]["sha256"],
    }  # fmt: skip
