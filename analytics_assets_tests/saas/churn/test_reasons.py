"""Reasons: what is said of a subject, and that it never speaks against sense."""

import re
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from analytics_assets.saas.churn.backtest import refit
from analytics_assets.saas.churn.features import EITHER, account_drivers, customer_drivers, inputs_of, signs_of
from analytics_assets.saas.churn.models import CANDIDATES, Model, fit
from analytics_assets.saas.churn.reasons import NOTHING, reasons_of
from analytics_assets_tests.saas.churn.test_models import DAY, rows_of

ACCOUNTS = account_drivers(30, 7)


def accounts(number: int, seed: int = 1) -> pl.DataFrame:
    """Accounts whose figures are drawn apart from one another, so that they point every way."""
    rng = np.random.default_rng(seed)
    counts = {
        name: rng.integers(0, high, number)
        for name, high in (
            *(("events_7", 60), ("user_days_14", 50), ("feature_days_14", 60), ("sessions_14", 40)),
            *(("account_age_days", 900), ("renewals", 30), ("upgrades_90", 3), ("downgrades_90", 3)),
            *(("peak_users_28", 20), ("active_days_28", 29), ("idle_days", 30)),
        )
    }
    grown = {"events_14": "events_7", "events_28": "events_14", "events_56": "events_28", "user_days_28": "user_days_14",
             "user_days_56": "user_days_28", "feature_days_28": "feature_days_14", "sessions_28": "sessions_14"}  # fmt: skip
    for name, smaller in grown.items():
        counts[name] = counts[smaller] + rng.integers(0, 60, number)
    frame = pl.DataFrame(counts).with_columns(
        subject_id=pl.format("account {}", pl.int_range(pl.len())),
        trial=pl.Series(rng.integers(0, 2, number)),
        days_to_renewal=pl.Series(rng.integers(-6, 60, number)),
        mrr=pl.Series(rng.integers(10, 900, number)).cast(pl.Decimal(18, 2)),
        seats=pl.Series(rng.integers(0, 30, number)),
    )
    unknown = pl.Series(rng.random(number) < 0.2)
    return frame.with_columns(pl.when(~unknown).then(name).alias(name) for name in ("days_to_renewal", "mrr", "seats"))


def against_sense(drivers, rows: pl.DataFrame, texts: pl.Series) -> list[str]:
    """Reasons that say of a figure what cannot be, by the words alone: the figure beside the usual one, and `raises` or `lowers`."""
    found = []
    told = [one for driver in drivers for one in driver.inputs.values() if one.sign != EITHER and one.words != "{}"]
    figures = rows.select(one.figure.cast(pl.Float64).alias(str(place)) for place, one in enumerate(told))
    usual = figures.median().row(0)
    written = [r"(\S+( %| \d+ %)?)".join(map(re.escape, one.words.split("{}"))) + r" \(usual: " for one in told]
    for text, own in zip(texts, figures.rows(), strict=True):
        for reason in text.split("; "):
            for one, pattern, figure, others in zip(told, written, own, usual, strict=True):
                if re.match(pattern, reason[8:]):
                    raises = reason.startswith("raises: ")
                    if (figure - others) * one.sign * (1 if raises else -1) <= 0:
                        found.append(f"{reason}: {figure} beside {others}")
    return found


@pytest.fixture(scope="module")
def model() -> tuple[Model, pl.DataFrame]:
    """A model of accounts that leave by a law of their own, against sense in part, and other accounts."""
    rows = accounts(3000)
    odds = (
        (rows["events_14"] - 60) / 20 + (rows["idle_days"] - 15) / 10 - (rows["mrr"].cast(pl.Float64).fill_null(400) - 400) / 200
    )
    churned = np.random.default_rng(2).random(3000) < 1 / (1 + np.exp(-odds.to_numpy()))
    inputs = inputs_of(ACCOUNTS, rows)
    made = refit(rows_of(400, 12), "customer", date(2025, 12, 31), 30, customer_drivers()).model
    return replace(made, pair=fit(inputs, churned.astype(float), signs_of(ACCOUNTS))), accounts(800, seed=3)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_no_reason_says_that_more_use_raises_the_risk(model: tuple[Model, pl.DataFrame], candidate: str):
    rows = model[1]
    texts = reasons_of(rows, replace(model[0], candidate=candidate), ACCOUNTS)
    assert against_sense(ACCOUNTS, rows, texts) == []
    assert texts.str.contains("raises: ").mean() > 0.5
    assert texts.str.contains("lowers: ").mean() > 0.5
    swapped = texts.str.replace_all("raises", "RAISES").str.replace_all("lowers", "raises").str.replace_all("RAISES", "lowers")
    assert len(against_sense(ACCOUNTS, rows, swapped)) > 500


def test_a_reason_tells_the_figure_and_the_usual_one(model: tuple[Model, pl.DataFrame]):
    rows = rows_of(401, 1).with_columns(recency_days=pl.Series([20] * 400 + [190]), purchase_days=2, tenure_days=200)
    made = refit(rows_of(400, 12), "customer", DAY, 30, customer_drivers()).model
    texts = reasons_of(rows, made, customer_drivers())
    assert texts[0] == NOTHING
    assert "raises: days since the last purchase: 190 (usual: 20)" in texts[400].split("; ")


def test_what_is_not_known_is_told_in_words_alone(model: tuple[Model, pl.DataFrame]):
    texts = reasons_of(model[1].with_columns(mrr=pl.lit(None, pl.Decimal(18, 2))).vstack(model[1]), model[0], ACCOUNTS)
    assert texts.str.contains("pays nothing yet(;|$)").any()
    assert not texts.str.contains("pays nothing yet \\(").any()


def test_nobody_has_no_reasons(model: tuple[Model, pl.DataFrame]):
    assert reasons_of(accounts(0), model[0], ACCOUNTS).to_list() == []
