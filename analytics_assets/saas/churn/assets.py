"""Daily `churn_training_set`, `churn_models`, `churn_scores` and `training_sets`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.activation.generations import Channel
from analytics_assets.saas.churn.backtest import EVERYBODY, NotEnoughHistory, Refit, Serving, Test
from analytics_assets.saas.churn.features import COLUMNS, KINDS, Driver, Kind, inputs_of
from analytics_assets.saas.churn.histories import NO_LEAKS, Histories, Label
from analytics_assets.saas.churn.lifetime import expected_months, fit_by_length
from analytics_assets.saas.churn.models import Model, log_odds, population_stability, shares_in
from analytics_assets.saas.churn.plots import plot_models, plot_scores
from analytics_assets.saas.churn.refits import Refits
from analytics_assets.saas.churn.stored import ModelFileError, load, store
from analytics_assets.saas.churn.tables import (
    CHURN_BACKTESTS,
    CHURN_MODELS,
    CHURN_OUTCOMES,
    CHURN_SCORES,
    CHURN_TRAINING_SET,
    TRAINING_SETS,
)
from analytics_assets.settings import TrainingSet
from analytics_assets.warehouse.assets import Audit, Needs, Platform, Work, table_asset
from analytics_assets.warehouse.tables import Table

# Odds of churn over those of everybody from which a subject is in the high band; one over it is the edge of the low one.
HIGH_ODDS = 3.0
REASONS = 3
# Above .25 a population is commonly said to have changed (Siddiqi 2006, "Credit Risk Scorecards").
DRIFTED = 0.25
DAYS_KEPT = 30

_INPUTS = [
    Needs("orders", as_of=True),
    Needs("account_days", as_of=True),
    Needs("identities"),
    Needs("events", as_of=True, hourly=True),
]
_SETTINGS = ("churn", "accounts.are", "subscriptions.grace_days", "subscriptions.trial_days", "identity")
_POINT_IN_TIME = Audit(
    "point_in_time",
    "Features stay the same when all that happened, or was received, after the cut-off is taken from the inputs first.",
    'SELECT as_of_date, kind, cut_off, "column", subjects FROM leaks',
)


def churn_training_set(work: Work) -> Mapping[str, pa.Table]:
    """What was known of accounts and customers at earlier cut-offs, and who of them then left: what churn models learn from.

    An account churns when its contract or trial ends within `[churn] account_horizon_days`: cancelled, or not billed (again). A customer churns by
    not buying within `customer_horizon_days`. Features use what had happened and had been received by the end of the cut-off, with
    identities as they were known then; labels what had been received by the end of `as_of_date`, when their window had ended.

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
            leaks.append(histories.leaks(label, day))
            if kind in histories.kinds:
                cut_offs = rows["cut_off"].n_unique()
                work.metadata[f"{kind}s"] = (
                    f"{rows.height:,} rows of {cut_offs} cut-offs, {rows['churned'].sum() / rows.height:.1%} churned"
                    if rows.height
                    else "not enough history: no cut-off has subjects and an end yet"
                )
    work.connection.register("leaks", pl.concat(leaks).to_arrow())
    return {CHURN_TRAINING_SET.name: pa.concat_tables(found)}


def _padded(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Rows with all columns of the table, those of the other kind NULL."""
    absent = [pl.lit(None).alias(name) for name in CHURN_TRAINING_SET.column_names if name not in rows.columns]
    return rows.with_columns(*absent).with_columns(as_of_date=pl.lit(day)).select(CHURN_TRAINING_SET.column_names)


def churn_models(work: Work) -> Mapping[str, pa.Table]:
    """The model of the day: refitted on the day's training set, tested where the future is known, and let serve only if it deserves it.

    Candidates are a logistic regression on logarithms, conservative boosted trees, and the mean of both. They are tested at up to three
    cut-offs a whole horizon apart, each time fitted on windows that had ended by then; the earlier tests choose the candidate and whether
    a sigmoid calibrates it, the newest is the one that the gate reads. A refit passes when it is calibrated there (mean distance over
    ten groups at most five points beyond chance), better than the base rate, and no worse than the last refit that passed
    (AUC within .01, Brier score within 2 %). Otherwise the last refit that passed serves: the newest of the starts of three months whose labels
    had all ended before the tested window, made again from data. `reason` says it in words.

    `churn_backtests` has every test by segment, `churn_outcomes` what became of each band. The model that serves lies in `models/`.

    Read it as: may I believe today's scores, and how far? AUC says how well they rank, calibration whether 20 % means one in five.
    """
    window = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(CHURN_TRAINING_SET, window, in_memory=True)
    histories = Histories(work)
    refits = Refits(histories)
    rows: dict[str, list[dict[str, Any]]] = {CHURN_MODELS.name: [], CHURN_BACKTESTS.name: [], CHURN_OUTCOMES.name: []}
    for day in work.days:
        for kind in histories.kinds:
            try:
                served = refits.serving(kind, day, _training_rows_of(work, kind, day))
            except NotEnoughHistory as error:
                reason = f"not enough history: {error}"
                rows[CHURN_MODELS.name].append(_no_model(day, kind, reason))
                work.metadata[f"{kind}s"] = reason
                continue
            same = {"as_of_date": day, "kind": kind}
            rows[CHURN_MODELS.name] += [same | row for row in _model_rows(served)]
            for one in served.examined:
                rows[CHURN_BACKTESTS.name] += [
                    same | {"anchor": one.anchor} | row for test in one.tests for row in _test_rows(test)
                ]
            rows[CHURN_OUTCOMES.name] += [same | row for row in _outcomes(served.refit)]
            _store(work, refits, served.refit)
            work.metadata[f"{kind}s"] = f"{served.refit.model.candidate}, refit of {served.refit.anchor}: {served.reason}"
    return {table.name: _table(table, rows[table.name]) for table in (CHURN_MODELS, CHURN_BACKTESTS, CHURN_OUTCOMES)}


def _table(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in table.column_names} for row in rows], table.arrow_schema())


def _training_rows_of(work: Work, kind: Kind, day: date) -> pl.DataFrame:
    rows = work.connection.sql(
        "SELECT * FROM churn_training_set WHERE as_of_date = $day AND kind = $kind", params={"day": day, "kind": kind}
    ).to_arrow_table()
    names = ["subject_id", *(column.name for column in COLUMNS[kind]), "kind", "cut_off", "churned", "label_until"]
    return pl.DataFrame(pl.from_arrow(rows)).select(names)


def _models_folder(work: Work) -> Any:
    return work.platform.home.root / "models"


def _store(work: Work, refits: Refits, refit: Refit) -> None:
    if refit.model.model_id not in refits.stored:
        store(_models_folder(work), refit.model, _card(work, refit))
        refits.stored[refit.model.model_id] = refit.model


def _no_model(day: date, kind: Kind, reason: str) -> dict[str, Any]:
    return {
        "as_of_date": day, "kind": kind, "anchor": day, "model_id": "none", "algorithm": "none", "training_rows": 0,
        "serves": False, "accepted": False, "reason": reason,
    }  # fmt: skip


def _model_rows(served: Serving) -> list[dict[str, Any]]:
    found: dict[date, dict[str, Any]] = {}
    for one, (accepted, reason) in zip(served.examined, served.verdicts, strict=True):
        # The day itself may be the start of a month: one refit, looked at once.
        found.setdefault(one.anchor, {
            "anchor": one.anchor,
            "model_id": one.model.model_id,
            "algorithm": one.model.candidate,
            "training_rows": one.rows,
            "trained_until": one.trained_until,
            "cut_off": one.newest.cut_off if one.newest else None,
            **(one.newest.metrics[EVERYBODY].__dict__ if one.newest else {}),
            "serves": one is served.refit,
            "accepted": accepted,
            "reason": reason,
        })  # fmt: skip
    return list(found.values())


def _test_rows(test: Test) -> list[dict[str, Any]]:
    where = {"candidate": test.candidate, "cut_off": test.cut_off, "trained_until": test.trained_until}
    return [where | {"segment": segment} | metrics.__dict__ for segment, metrics in test.metrics.items()]


def _outcomes(refit: Refit) -> list[dict[str, Any]]:
    """What became of each band and of each tenth at the refit's newest test."""
    newest = refit.newest
    if newest is None:
        return []
    order = np.argsort(newest.said, kind="stable")
    tenths = np.empty(len(order), dtype=object)
    for number, places in enumerate(np.array_split(order, 10), 1):
        tenths[places] = f"tenth {number:02d}"
    return [
        {
            "subjects_are": str(name),
            "cut_off": newest.cut_off,
            "subjects": int(there.sum()),
            "said": round(float(np.mean(newest.said[there])), 6),
            "came_true": round(float(np.mean(newest.churned[there])), 6),
        }
        for groups in (bands_of(newest.said, refit.model.base_rate), tenths)
        for name in sorted(set(groups))
        for there in [groups == name]
    ]


def bands_of(probability: np.ndarray, base_rate: float) -> np.ndarray:
    """The band of each probability: by its odds over those of the base rate."""
    odds = np.exp(log_odds(probability) - log_odds(np.array(base_rate)))
    return np.where(odds >= HIGH_ODDS, "high", np.where(odds <= 1 / HIGH_ODDS, "low", "medium")).astype(object)


def _card(work: Work, refit: Refit) -> dict[str, Any]:
    model, newest = refit.model, refit.newest
    return {
        "model_id": model.model_id,
        "kind": refit.kind,
        "algorithm": model.candidate,
        "calibration": {"intercept": model.sigmoid.intercept, "slope": model.sigmoid.slope},
        "inputs": list(model.inputs),
        "training_rows": refit.rows,
        "training_digest": model.training_digest,
        "churn_rate": model.base_rate,
        "trained_until": refit.trained_until.isoformat(),
        "newest_test": {"cut_off": newest.cut_off.isoformat(), **newest.metrics[EVERYBODY].__dict__} if newest else None,
        "settings": work.settings.churn.model_dump(),
    }


def churn_scores(work: Work) -> Mapping[str, pa.Table]:
    """How likely each account and each customer is to leave within the horizon, why, and what is at stake.

    The probability is calibrated: of a hundred subjects with 20 %, about twenty leave. Bands compare odds with those of everybody: `high` is
    three times, `low` a third of them. A reason is a driver (`features.py`) whose inputs, set to the median of the training rows, change the
    log-odds of the serving model most; `raises` and `lowers` say in which direction. The three strongest stand there, strongest first.

    For accounts MRR at risk is probability times monthly recurring revenue, and the expected months come from a shifted
    beta-geometric over the renewals of contracts of the same length (Fader and Hardie 2007), whatever the model says of the account.

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
            if model:
                drift.append(_drift(model, inputs_of(drivers, rows), scored, kind, day))
                counts = dict(scored["band"].value_counts().rows())
                work.metadata[f"{kind}s"] = ", ".join(
                    f"{counts[band]:,} {band}" for band in ("high", "medium", "low") if band in counts
                )
            else:
                work.metadata[f"{kind}s"] = reason
            if model and day == work.window.last_day:
                # Scored with the same model, so that what moved is what subjects did.
                yesterday = score(histories.everybody(kind, day - timedelta(days=1)), model, drivers)
                before.append(yesterday.select(pl.lit(kind).alias("kind"), "subject_id", band_before="band"))
            if kind == "account":
                scored = _with_revenue(scored, rows, histories.contracts(day))
            found.append(_table_of_scores(work, scored, kind, day))
    work.connection.register("drift", pl.concat(drift).to_arrow())
    work.connection.register("scores_of_the_day_before", pl.concat(before).to_arrow())
    return {CHURN_SCORES.name: pa.concat_tables(found)}


_DRIFT = {"as_of_date": pl.Date, "kind": pl.String, "of": pl.String, "stability_index": pl.Float64}


def serving_model(work: Work, refits: Refits, kind: Kind, day: date) -> tuple[str, Model | None]:
    """The model that `churn_models` lets serve the day, and why there is none where there is none.

    A stored file that is missing, damaged or foreign is said on the asset's page, and the model is made again from the data.
    """
    row = work.connection.execute(
        "SELECT model_id, reason FROM churn_models WHERE as_of_date = $day AND kind = $kind ORDER BY serves DESC, anchor DESC LIMIT 1",
        {"day": day, "kind": kind},
    ).fetchall()
    if not row or row[0][0] == "none":
        return (row[0][1] if row else "no model of the day"), None
    ((model_id, reason),) = row
    if model_id in refits.stored:
        return reason, refits.stored[model_id]
    try:
        refits.stored[model_id] = load(_models_folder(work), model_id)
        return reason, refits.stored[model_id]
    except ModelFileError as error:
        work.log.warning(str(error))
        work.metadata[f"model file of {kind}s"] = str(error)
    served = refits.serving(kind, day)
    if served.refit.model.model_id != model_id:
        raise ValueError(
            f"{day}: churn_models says that {model_id} serves {kind}s, and the data now give {served.refit.model.model_id}. "
            "Materialise churn_training_set and churn_models of the day again."
        )
    _store(work, refits, served.refit)
    return reason, served.refit.model


def score(rows: pl.DataFrame, model: Model, drivers: tuple[Driver, ...]) -> pl.DataFrame:
    """Probability, band and reasons of each subject: `subject_id`, `probability`, `band`, `reasons`, `model_id`."""
    inputs = inputs_of(drivers, rows)
    probability = model.predict(inputs)
    return pl.DataFrame({
        "subject_id": rows["subject_id"],
        "probability": probability,
        "band": pl.Series(bands_of(probability, model.base_rate).tolist(), dtype=pl.String),
        "reasons": _reasons(rows, model, drivers, inputs),
        "model_id": pl.Series([model.model_id] * rows.height, dtype=pl.String),
    })  # fmt: skip


def _reasons(rows: pl.DataFrame, model: Model, drivers: tuple[Driver, ...], inputs: np.ndarray) -> pl.Series:
    if rows.is_empty():
        return pl.Series([], dtype=pl.String)
    ends = np.cumsum([len(driver.inputs) for driver in drivers])
    groups = [list(range(end - len(driver.inputs), end)) for driver, end in zip(drivers, ends, strict=True)]
    contribution = model.contributions(inputs, groups)
    order = np.argsort(-np.abs(contribution), axis=1, kind="stable")[:, :REASONS]
    words = rows.select(driver.words.fill_null("unknown").alias(driver.name) for driver in drivers).to_numpy()
    strength = np.take_along_axis(contribution, order, axis=1)
    said = np.take_along_axis(words, order, axis=1)
    texts = [
        "; ".join(f"{'raises' if by > 0 else 'lowers'}: {text}" for by, text in zip(strengths, texts, strict=True) if by != 0)
        for strengths, texts in zip(strength, said, strict=True)
    ]
    return pl.Series([text or "nothing sets it apart" for text in texts], dtype=pl.String)


def _unscored(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    return rows.select(
        "subject_id",
        probability=pl.lit(None, pl.Float64),
        band=pl.lit("unknown"),
        reasons=pl.lit(reason),
        model_id=pl.lit("none"),
    )


def _drift(model: Model, inputs: np.ndarray, scored: pl.DataFrame, kind: Kind, day: date) -> pl.DataFrame:
    """Population stability index of each input and of the scores beside the training rows."""
    values = (*inputs.T, scored["probability"].to_numpy())
    found = [
        population_stability(shares, shares_in(edges, column))
        for column, edges, shares in zip(values, model.edges, model.shares, strict=True)
    ]
    names = [*model.inputs, "probability"]
    return pl.DataFrame({"of": names, "stability_index": np.round(found, 4)}).select(
        as_of_date=pl.lit(day), kind=pl.lit(kind), of="of", stability_index="stability_index"
    )


def _with_revenue(scored: pl.DataFrame, rows: pl.DataFrame, contracts: pl.DataFrame) -> pl.DataFrame:
    """Add `mrr`, `mrr_at_risk` and `expected_months` to the scores of accounts."""
    fitted = fit_by_length(contracts)
    running = contracts.filter(pl.col("ended_on").is_null()).select("account_id", pl.col("months").cast(pl.Float64))
    with_length = rows.select("subject_id", "mrr", "renewals").join(
        running, left_on="subject_id", right_on="account_id", how="left", maintain_order="left"
    )
    months = np.full(rows.height, np.nan)
    for length, parameters in fitted.items():
        there = (with_length["months"] == length).fill_null(False).to_numpy()
        if there.any():
            months[there] = expected_months(parameters, length, with_length["renewals"].to_numpy()[there])
    at_risk = (with_length["mrr"].cast(pl.Float64) * scored["probability"]).round(2).cast(pl.Decimal(18, 2))
    return scored.with_columns(mrr=with_length["mrr"], mrr_at_risk=at_risk, expected_months=pl.Series(months).fill_nan(None))


def _table_of_scores(work: Work, scored: pl.DataFrame, kind: Kind, day: date) -> pa.Table:
    absent = [pl.lit(None).alias(name) for name in CHURN_SCORES.column_names if name not in scored.columns]
    full = scored.with_columns(*absent).with_columns(as_of_date=pl.lit(day), kind=pl.lit(kind))
    return work.rows_of(CHURN_SCORES, full.select(CHURN_SCORES.column_names).to_arrow())


def training_sets(work: Work) -> Mapping[str, pa.Table]:
    """Training sets for labels of your own, as the settings name them under `[[training_sets]]`.

    A label says whether one of the named events happened (or, `absent`, did not) within the horizon after the cut-off. Subjects,
    features, cut-offs and the leak check are those of `churn_training_set`. Each is written to `training_sets/NAME/DATE/` in the home:
    `training_set.parquet`, and `manifest.json` as its data card: what the columns mean, rows, share of positives, SHA-256.

    Read it as input for models of your own: whatever you fit on it has seen nothing that was not known at the cut-off.
    """
    histories = Histories(work)
    found, leaks = [], [NO_LEAKS]
    for named in work.settings.training_sets:
        for day in work.days:
            label = Label("account" if named.subjects == "accounts" else "customer", named.horizon_days, named)
            rows = histories.training_rows(label, day)
            leaking = histories.leaks(label, day)
            leaks.append(leaking)
            # What leaks is not written: the audit refuses it, and what was written last stays.
            if leaking.is_empty():
                found.append(_write_training_set(work, named, label.kind, day, rows.drop("kind")))
    work.connection.register("leaks", pl.concat(leaks).to_arrow())
    return {TRAINING_SETS.name: _table(TRAINING_SETS, found)}


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
        "positive_rate": round(positives / rows.height, 6) if rows.height else None,
        "cut_offs": [cut_off.isoformat() for cut_off in cut_offs],
        "columns": {
            "subject_id": f"The {kind}.",
            "cut_off": "Business day at whose end the features were known.",
            "label_until": "Last day of the horizon, not after as_of_date.",
            "label": f"Whether {'none' if named.absent else 'one'} of {', '.join(named.events)} happened within {named.horizon_days} days.",
            **{column.name: column.meaning for column in COLUMNS[kind]},
        },
        "point_in_time": "Recomputed from inputs that end at the cut-off, by occurrence and by receipt: no feature differed.",
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


def churn_assets(
    platform: Platform, condition: dg.AutomationCondition, newest_day: dg.AutomationCondition
) -> list[dg.AssetsDefinition]:
    """The daily assets `churn_training_set`, `churn_models`, `churn_scores` and `training_sets` (the newest day only)."""
    return [
        table_asset(
            platform,
            (CHURN_TRAINING_SET,),
            churn_training_set,
            needs=_INPUTS,
            audits=[
                Audit(
                    "labels_have_ended",
                    "The window of every label begins after its cut-off, is a whole horizon, and had ended by as_of_date.",
                    f"""SELECT as_of_date, kind, cut_off, label_until FROM rows WHERE label_until > as_of_date OR label_until <>
                    cut_off + CASE kind WHEN 'account' THEN {platform.settings.churn.account_horizon_days}
                    ELSE {platform.settings.churn.customer_horizon_days} END""",
                ),
                _POINT_IN_TIME,
            ],
            settings=_SETTINGS,
            group="saas",
            condition=condition,
        ),
        table_asset(
            platform,
            (CHURN_MODELS, CHURN_BACKTESTS, CHURN_OUTCOMES),
            churn_models,
            needs=[*_INPUTS, Needs("churn_training_set")],
            audits=[
                Audit(
                    "no_label_is_seen_twice",
                    "What a test or the day is scored with had learned from windows that ended by then only.",
                    """SELECT as_of_date, kind, cut_off, trained_until FROM rows_of_churn_backtests WHERE trained_until > cut_off
                    UNION ALL SELECT as_of_date, kind, as_of_date, trained_until FROM rows WHERE trained_until > as_of_date""",
                ),
                Audit(
                    "one_model_serves",
                    "No more than one refit serves a kind on a day.",
                    "SELECT as_of_date, kind, count(*) FROM rows WHERE serves GROUP BY as_of_date, kind HAVING count(*) > 1",
                ),
            ],
            warnings=[
                Audit(
                    "served_by_an_accepted_model",
                    "The model that serves passed the gate; if none did, the newest serves all the same, and its reason says so.",
                    "SELECT as_of_date, kind, anchor, reason FROM rows WHERE serves AND NOT accepted",
                ),
            ],
            settings=_SETTINGS,
            group="saas",
            plot=plot_models,
            condition=condition,
        ),
        table_asset(
            platform,
            (CHURN_SCORES,),
            churn_scores,
            needs=[*_INPUTS, Needs("churn_models")],
            audits=[
                Audit(
                    "scores_are_possible",
                    "Probabilities lie between 0 and 1, no more is at risk than is paid, and only without a model there is no score.",
                    """SELECT as_of_date, kind, subject_id, probability FROM rows WHERE probability NOT BETWEEN 0 AND 1 OR isnan(probability)
                    OR mrr_at_risk > mrr OR expected_months < 0 OR (probability IS NULL) <> (model_id = 'none')""",
                )
            ],
            warnings=[
                Audit(
                    "inputs_are_those_learned_from",
                    f"No input differs from the training rows by a population stability index above {DRIFTED}; ages and renewals, "
                    "which only grow, are left out.",
                    f"""SELECT * FROM drift WHERE "of" NOT IN ('probability', 'log_age', 'log_renewals', 'log_tenure')
                    AND stability_index > {DRIFTED} ORDER BY stability_index DESC""",
                ),
                Audit(
                    "scores_are_those_learned_from",
                    f"The scores do not differ from those of the training rows by a population stability index above {DRIFTED}.",
                    f"SELECT * FROM drift WHERE \"of\" = 'probability' AND stability_index > {DRIFTED}",
                ),
            ],
            settings=_SETTINGS,
            group="saas",
            plot=plot_scores,
            condition=condition,
        ),
        table_asset(
            platform,
            (TRAINING_SETS,),
            training_sets,
            needs=_INPUTS,
            audits=[_POINT_IN_TIME],
            settings=(*_SETTINGS, "training_sets"),
            group="saas",
            fill="newest",
            condition=newest_day,
        ),
    ]
