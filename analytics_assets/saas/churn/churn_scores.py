"""`churn_scores`: who may leave, why, and what is at stake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.saas.churn.churn_models import bands_of, serving_model
from analytics_assets.saas.churn.features import Driver, Kind, inputs_of, measured
from analytics_assets.saas.churn.histories import Histories
from analytics_assets.saas.churn.lifetime import expected_months, fit_by_length, renewals_due
from analytics_assets.saas.churn.models import Model, population_stability, shares_in, stability_by_chance
from analytics_assets.saas.churn.reasons import reasons_of
from analytics_assets.saas.churn.refits import Refits
from analytics_assets.saas.churn.tables import CHURN_MODELS, CHURN_SCORES
from analytics_assets.warehouse.work import Work


def churn_scores(work: Work) -> Mapping[str, pa.Table]:
    """How likely each account and each customer is to leave within the horizon, why, and what is at stake.

    The probability is calibrated: of a hundred subjects with 20 %, about twenty leave. A model of few who left can be too sure
    of itself, so that more of the low band leave than it says: the check `bands_came_true` of `churn_models` warns where its newest test
    shows that, and `churn_outcomes` has what came true. Bands compare odds with those of everybody of the
    kind: `high` is three times, `low` a third of them. Where most customers leave, many a `low` one does. A reason is a driver
    (`reasons.py`) by which the subject stands apart from the median one of the day: `raises` or `lowers` the risk, the figure that tells most, and the usual one in brackets. The three strongest stand there, strongest
    first; fewer where nothing else changes the odds by a fifth, which is rare in the high band. Models can only learn that less use, a fall, or a long silence raises the risk, never the other way round; a price or the
    number of seats may go either way.

    A company too young for a backtest is scored by a model that nothing has tested: its probabilities rank, and promise no more.
    `accepted` in `churn_models` is false for such a day, and the check `served_by_an_accepted_model` warns.

    For accounts MRR at risk is probability times monthly recurring revenue, in the contract's currency. The expected months take the
    probability for the horizon, and from then on a shifted beta-geometric over the renewals of contracts of the same length (Fader and Hardie 2007).

    Where a model serves a kind and nobody of it is there to be scored, the run fails, and the scores stand.

    Read it as a list to call from, by MRR at risk; the reasons say what to talk about, not what to change: they are no causes.
    """
    window = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(CHURN_MODELS, window, in_memory=True)
    histories = Histories(work)
    refits = Refits(histories)
    found, drift = [CHURN_SCORES.arrow_schema().empty_table()], [pl.DataFrame(schema=_DRIFT)]
    before = [pl.DataFrame(schema={"kind": pl.String, "subject_id": pl.String, "band_before": pl.String})]
    for day in work.days:
        for kind in histories.kinds:
            rows = histories.everybody(kind, day)
            reason, model = serving_model(work, refits, kind, day)
            drivers = histories.drivers(histories.churn(kind))
            scored = score(rows, model, drivers) if model else _unscored(rows, reason)
            if model and rows.height:
                drift.append(_drift(model, measured(drivers, rows), scored, kind, day))
                counts = dict(scored["band"].value_counts().rows())
                work.metadata[f"{kind}s"] = ", ".join(
                    f"{counts[band]:,} {band}" for band in ("high", "medium", "low") if band in counts
                )
            else:
                work.metadata[f"{kind}s"] = reason
            if model and day == work.window.last_day:
                # Scored with the same model, so that what moved is what subjects did.
                yesterday = histories.everybody(kind, day - timedelta(days=1))
                bands = _bands(model, model.predict(inputs_of(drivers, yesterday)))
                before.append(yesterday.select(pl.lit(kind).alias("kind"), "subject_id", band_before=bands))
            if kind == "account":
                scored = _with_revenue(scored, rows, histories.contracts(day), histories.churn(kind).horizon_days)
            found.append(_table_of_scores(work, scored, kind, day))
    serving = work.connection.sql(f"SELECT as_of_date, kind, model_id FROM churn_models WHERE serves AND {window}")
    work.connection.register("serving_models", serving.to_arrow_table())
    work.connection.register("drift", pl.concat(drift).to_arrow())
    work.connection.register("scores_of_the_day_before", pl.concat(before).to_arrow())
    return {CHURN_SCORES.name: pa.concat_tables(found)}


_DRIFT = {
    "as_of_date": pl.Date,
    "kind": pl.String,
    "of": pl.String,
    "stability_index": pl.Float64,
    "by_chance": pl.Float64,
    "unrest": pl.Float64,
}


def score(rows: pl.DataFrame, model: Model, drivers: tuple[Driver, ...]) -> pl.DataFrame:
    """Probability, band and reasons of each subject: `subject_id`, `probability`, `band`, `reasons`, `model_id`."""
    probability = model.predict(inputs_of(drivers, rows))
    return pl.DataFrame({
        "subject_id": rows["subject_id"],
        "probability": probability,
        "band": _bands(model, probability),
        "reasons": reasons_of(rows, model, drivers),
        "model_id": pl.Series([model.model_id] * rows.height, dtype=pl.String),
    })  # fmt: skip


def _bands(model: Model, probability: np.ndarray) -> pl.Series:
    return pl.Series(bands_of(probability, model.base_rate).tolist(), dtype=pl.String)


def _unscored(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select(
        "subject_id",
        probability=pl.lit(None, pl.Float64),
        band=pl.lit("unknown"),
        reasons=pl.lit(reason),
        model_id=pl.lit("none"),
    )


def _drift(model: Model, measures: np.ndarray, scored: pl.DataFrame, kind: Kind, day: date) -> pl.DataFrame:
    """Population stability index of each input and of the scores beside the training rows, and what chance and the seasons make of it."""
    values = (*measures.T, scored["probability"].to_numpy())
    found = [
        population_stability(shares, shares_in(edges, column))
        for column, edges, shares in zip(values, model.edges, model.shares, strict=True)
    ]
    names = [*model.inputs, "probability"]
    by_chance = [stability_by_chance(max(2, int(np.sum(shares > 0))), scored.height) for shares in model.shares]
    return pl.DataFrame(
        {
            "of": names,
            "stability_index": np.round(found, 4),
            "by_chance": np.round(by_chance, 4),
            "unrest": np.round(model.unrest, 4),
        }
    ).select(
        as_of_date=pl.lit(day),
        kind=pl.lit(kind),
        of="of",
        stability_index="stability_index",
        by_chance="by_chance",
        unrest="unrest",
    )


def _with_revenue(scored: pl.DataFrame, rows: pl.DataFrame, contracts: pl.DataFrame, horizon_days: int) -> pl.DataFrame:
    """Add `currency`, `mrr`, `mrr_at_risk` and `expected_months` to the scores of accounts; without a score the cohort alone is expected."""
    fitted = fit_by_length(contracts)
    running = contracts.filter(pl.col("ended_on").is_null()).select("account_id", "currency", pl.col("months").cast(pl.Float64))
    with_length = rows.select("subject_id", "mrr", "renewals").join(
        running, left_on="subject_id", right_on="account_id", how="left", maintain_order="left"
    )
    months, renewals = np.full(rows.height, np.nan), rows["renewals"].cast(pl.Int64).to_numpy()
    stays = 1 - scored["probability"].fill_null(0.0).to_numpy()
    days_to_renewal = rows["days_to_renewal"].fill_null(0).to_numpy()
    for length, parameters in fitted.items():
        there = (with_length["months"] == length).fill_null(False).to_numpy()
        if there.any():
            due = (
                renewals_due(days_to_renewal[there], length, horizon_days) * scored["probability"].is_not_null().to_numpy()[there]
            )
            months[there] = expected_months(parameters, length, renewals[there], stays[there], due)
    at_risk = (with_length["mrr"].cast(pl.Float64) * scored["probability"]).round(2).cast(pl.Decimal(18, 2))
    return scored.with_columns(
        with_length["currency"], with_length["mrr"], mrr_at_risk=at_risk, expected_months=pl.Series(months).fill_nan(None)
    )


def _table_of_scores(work: Work, scored: pl.DataFrame, kind: Kind, day: date) -> pa.Table:
    absent = [pl.lit(None).alias(name) for name in CHURN_SCORES.column_names if name not in scored.columns]
    full = scored.with_columns(*absent).with_columns(as_of_date=pl.lit(day), kind=pl.lit(kind))
    return work.rows_of(CHURN_SCORES, full.select(CHURN_SCORES.column_names).to_arrow())
