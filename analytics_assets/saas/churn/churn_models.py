"""`churn_models`: the model of the day, how it was tested, and which one serves."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.saas.churn.backtest import EVERYBODY, NotEnoughHistory, Refit, Serving, Test
from analytics_assets.saas.churn.features import COLUMNS, KINDS, Kind
from analytics_assets.saas.churn.histories import Histories
from analytics_assets.saas.churn.models import Model, log_odds
from analytics_assets.saas.churn.refits import Refits
from analytics_assets.saas.churn.stored import ModelFileError, load, store
from analytics_assets.saas.churn.tables import CHURN_BACKTESTS, CHURN_MODELS, CHURN_OUTCOMES, CHURN_TRAINING_SET
from analytics_assets.warehouse.engine import attach
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Work

# Odds of churn over those of everybody from which a subject is in the high band; one over it is the edge of the low one.
HIGH_ODDS = 3.0


def churn_models(work: Work) -> Mapping[str, pa.Table]:
    """The model of the day: refitted on the day's training set, tested where the future is known, and let serve only if it deserves it.

    Candidates are a logistic regression on logarithms, conservative boosted trees, and the mean of both. They are tested at up to three
    cut-offs a whole horizon apart, each time fitted on windows that had ended by then; the earlier tests choose the candidate,
    the newest is the one that the gate reads. A refit passes when it is calibrated there (mean distance over
    ten groups at most five points beyond chance, two where a sigmoid is better by more than chance), better than the base rate, and no
    worse than the last refit that passed (AUC within .01, Brier score within 2 %). Otherwise the last refit that passed serves: the
    newest of the starts of three months whose labels had all ended before the tested window, made again from data. Where the day's training
    set teaches nothing (fewer than 20 left, or stayed), it is looked for in all months before, and a check warns. While no refit could be
    tested yet, the newest serves untested: `accepted` is false, and a check warns. `reason` says it in words. A day that had a model is not
    replaced by one without: the run fails, and models and scores stand.

    `churn_backtests` has every test by segment, `churn_outcomes` what became of each band: one without a row had nobody
    at that test. The model that serves lies in `models/`.

    Read it as: may I believe today's scores, and how far? AUC says how well they rank, calibration whether 20 % means one in five.
    """
    window = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(CHURN_TRAINING_SET, window, in_memory=True)
    histories = Histories(work)
    refits = Refits(histories)
    rows: dict[str, list[dict[str, Any]]] = {CHURN_MODELS.name: [], CHURN_BACKTESTS.name: [], CHURN_OUTCOMES.name: []}
    without_model = [pl.DataFrame(schema=_WITHOUT_MODEL)]
    for day in work.days:
        for kind in KINDS:
            if kind not in histories.kinds:
                without_model.append(_without_model(day, kind, f"no record tells of {kind}s", False))
                continue
            learned_from = _training_rows_of(work, kind, day)
            try:
                served = refits.serving(kind, day, learned_from)
            except NotEnoughHistory as error:
                reason = f"not enough history: {error}"
                rows[CHURN_MODELS.name].append(_no_model(day, kind, reason))
                without_model.append(_without_model(day, kind, reason, learned_from["churned"].n_unique() == 2))
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
    work.connection.register("without_model", pl.concat(without_model).to_arrow())
    # For the audit alone: nothing is computed from what is published.
    standing = work.platform.lake.pin(CHURN_MODELS)
    attach(work.connection, standing, f"as_of_date <= '{work.window.last_day}'", name="published_models")
    return {table.name: _table(table, rows[table.name]) for table in (CHURN_MODELS, CHURN_BACKTESTS, CHURN_OUTCOMES)}


_WITHOUT_MODEL = {"as_of_date": pl.Date, "kind": pl.String, "reason": pl.String, "two_classes": pl.Boolean}


def _without_model(day: date, kind: Kind, reason: str, two_classes: bool) -> pl.DataFrame:
    """A day and kind that no model can be made for, and whether its training set has both classes."""
    return pl.DataFrame([(day, kind, reason, two_classes)], schema=_WITHOUT_MODEL, orient="row")


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


def _card(work: Work, refit: Refit) -> dict[str, Any]:
    model, newest = refit.model, refit.newest
    return {
        "model_id": model.model_id,
        "kind": refit.kind,
        "algorithm": model.candidate,
        "inputs": list(model.inputs),
        "training_rows": refit.rows,
        "training_digest": model.training_digest,
        "churn_rate": model.base_rate,
        "trained_until": refit.trained_until.isoformat(),
        "newest_test": {"cut_off": newest.cut_off.isoformat(), **newest.metrics[EVERYBODY].__dict__} if newest else None,
        "settings": work.settings.churn.model_dump(),
    }


def bands_of(probability: np.ndarray, base_rate: float) -> np.ndarray:
    """The band of each probability: by its odds over those of the base rate."""
    odds = np.exp(log_odds(probability) - log_odds(np.array(base_rate)))
    return np.where(odds >= HIGH_ODDS, "high", np.where(odds <= 1 / HIGH_ODDS, "low", "medium")).astype(object)


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
