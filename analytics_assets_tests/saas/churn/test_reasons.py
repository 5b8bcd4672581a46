"""Reasons: what is said of a subject, and that it never speaks against sense."""

import re
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from analytics_assets.saas.churn.backtest import refit
from analytics_assets.saas.churn.features import EITHER, account_drivers, customer_drivers, input_names, inputs_of, signs_of
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
        cut_off=pl.lit(date(2025, 12, 31)),
        trial=pl.Series(rng.integers(0, 2, number)),
        days_to_renewal=pl.Series(rng.integers(-6, 60, number)),
        mrr=pl.Series(rng.integers(10, 900, number)).cast(pl.Decimal(18, 2)),
        seats=pl.Series(rng.integers(0, 30, number)),
    )
    unknown = pl.Series(rng.random(number) < 0.2)
    return frame.with_columns(pl.when(~unknown).then(name).alias(name) for name in ("days_to_renewal", "mrr", "seats"))


def against_sense(drivers, rows: pl.DataFrame, texts: pl.Series) -> list[str]:
    """Reasons that say of a figure what cannot be, by the words alone: the figure beside the usual one, and `raises` or `lowers`.

    What may go either way must go the same way for everybody.
    """
    found, ways = [], {}
    told = [one for driver in drivers for one in driver.inputs.values() if one.words != "{}"]
    figures = rows.select(one.figure.cast(pl.Float64).alias(str(place)) for place, one in enumerate(told))
    usual = figures.median().row(0)
    written = [r"(none for )?(\S+( %| \d+ %)?)".join(map(re.escape, one.words.split("{}"))) + r" \(usual: " for one in told]
    for text, own in zip(texts, figures.rows(), strict=True):
        for reason in text.split("; "):
            for one, pattern, figure, others in zip(told, written, own, usual, strict=True):
                if re.match(pattern, reason[8:]):
                    way = np.sign(figure - others) * (1 if reason.startswith("raises: ") else -1)
                    if way != (one.sign if one.sign != EITHER else ways.setdefault(one.words, way)):
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


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_of_figures_that_fall_together_the_one_furthest_from_the_usual_is_told_whichever_the_model_weighs(candidate: str):
    """Those who leave do less: 200 since fewer people come, who do as much as ever, and 200 since as many do less. Events tell the model."""
    rng = np.random.default_rng(6)
    rows = accounts(2000, seed=6).with_columns(account_age_days=400, trial=0, days_to_renewal=20, mrr=None, seats=None)
    cause = np.repeat(["", "people stop", "people do less"], [1600, 200, 200])
    before = rng.integers(60, 100, 2000)
    users = np.where(cause == "people stop", before // 4, before - rng.integers(0, 9, 2000))
    events = np.where(cause == "", 5 * users, 5 * before // 4 + rng.integers(0, 20, 2000))
    rows = rows.with_columns(
        user_days_14=users, user_days_28=before + users, user_days_56=4 * before,
        events_7=rng.binomial(events, 0.5), events_14=events, events_28=5 * before + events, events_56=20 * before,
    )  # fmt: skip
    same = [c for c in rows.columns if c not in ("subject_id", "cut_off") and not c.startswith(("user_days", "events"))]
    rows = rows.with_columns(pl.col(name).first() for name in same)
    made = refit(rows_of(400, 12), "customer", date(2025, 12, 31), 30, customer_drivers()).model
    pair = fit(inputs_of(ACCOUNTS, rows), (cause != "").astype(float), signs_of(ACCOUNTS))
    texts = reasons_of(rows, replace(made, pair=pair, candidate=candidate), ACCOUNTS)
    first = (
        texts.str.split("; ")
        .list.eval(pl.element().filter(pl.element().str.starts_with("raises: ") & pl.element().str.contains(" down ")))
        .list.first()
    )
    assert first.filter(pl.Series(cause == "people stop")).str.starts_with("raises: active users down ").mean() > 0.9
    assert first.filter(pl.Series(cause == "people do less")).str.starts_with("raises: events down ").mean() > 0.9


def test_a_trend_that_rounds_to_nothing_is_unchanged_and_neither_up_nor_down():
    (trend,) = (driver.inputs["trend_events_14"] for driver in ACCOUNTS if driver.name == "trend of use")
    told = pl.DataFrame({"figure": [-0.4, 0.0, 0.4, -0.6, 12.0]}).select(trend.told(pl.col("figure"))).to_series()
    assert told.to_list() == ["unchanged", "unchanged", "unchanged", "down 1 %", "up 12 %"]


def test_a_reason_tells_the_figure_and_the_usual_one(model: tuple[Model, pl.DataFrame]):
    rows = rows_of(401, 1).with_columns(recency_days=pl.Series([20] * 400 + [190]), purchase_days=2, tenure_days=200)
    made = refit(rows_of(400, 12), "customer", DAY, 30, customer_drivers()).model
    texts = reasons_of(rows, made, customer_drivers())
    assert texts[0] == NOTHING
    assert "raises: days since the last purchase: 190 (usual: 20)" in texts[400].split("; ")


def test_what_is_not_known_is_no_reason_and_the_usual_is_that_of_those_who_have_one(model: tuple[Model, pl.DataFrame]):
    unknown = model[1].with_columns(mrr=pl.lit(None, pl.Decimal(18, 2)))
    texts = reasons_of(pl.concat([unknown, unknown, model[1]]), model[0], ACCOUNTS)
    assert not texts[: 2 * unknown.height].str.contains("pays|not known").any()
    told = texts[2 * unknown.height :].str.extract(r"pays \d+ a month \(usual: ([0-9.]+)\)").drop_nulls().cast(float)
    assert told.len() > 100
    assert told.n_unique() == 1
    assert abs(told[0] - float(model[1]["mrr"].cast(float).median())) < 0.06


def test_a_young_account_is_told_by_the_week_and_has_no_trend(model: tuple[Model, pl.DataFrame]):
    """Named ten days ago, and since then on every day as much as others."""
    rows = accounts(200, seed=4).with_columns(
        account_age_days=9, events_7=7, events_14=10, events_28=10, events_56=10, active_days_28=10, idle_days=0
    )
    rows = rows.with_columns(account_age_days=pl.when(pl.int_range(pl.len()) < 100).then(400).otherwise("account_age_days"))
    rows = rows.with_columns(
        pl.when(pl.col("account_age_days") == 400).then(more).otherwise(name).alias(name)
        for name, more in (("events_14", 14), ("events_28", 28), ("events_56", 56), ("active_days_28", 28))
    )
    named = input_names(ACCOUNTS)
    inputs = dict(zip(named, inputs_of(ACCOUNTS, rows).T, strict=True))
    for name in ("log_events", "active_days", "trend_events_7"):
        known = inputs[name][~np.isnan(inputs[name])]
        np.testing.assert_allclose(known, 0, atol=1e-9)
    assert np.isnan(inputs["trend_events_14"]).tolist() == [False] * 100 + [True] * 100
    assert np.isnan(inputs["trend_events_7"]).tolist() == [False] * 100 + [True] * 100
    assert not reasons_of(rows, model[0], ACCOUNTS).str.contains("events|days used").any()


def test_what_happens_to_everybody_is_no_reason_and_moves_no_score(model: tuple[Model, pl.DataFrame]):
    """A week of holidays: all do half of what they did."""
    rows = accounts(300, seed=5).with_columns(events_7=40, events_14=pl.lit(80) + pl.int_range(pl.len()) % 7)
    half = rows.with_columns(events_7=pl.col("events_7") // 2, events_14=pl.col("events_14") - pl.col("events_7") // 2)
    both = [inputs_of(ACCOUNTS, one)[:, input_names(ACCOUNTS).index("trend_events_7")] for one in (rows, half)]
    np.testing.assert_allclose(np.nan_to_num(both[0]), np.nan_to_num(both[1]), atol=0.02)


def test_nobody_has_no_reasons(model: tuple[Model, pl.DataFrame]):
    assert reasons_of(accounts(0), model[0], ACCOUNTS).to_list() == []
