"""The assets of the churn room: planted truth, planted leaks, and what happens when something is missing."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.tables import ACCOUNT_RECORDS
from analytics_assets.retail.ltv.shifted_beta_geometric import Parameters, survival
from analytics_assets.saas.accounts.standing import WHENEVER
from analytics_assets.saas.churn import backtest, histories
from analytics_assets.saas.churn.assets import BANDS_CAME_TRUE, THE_DAY_TAUGHT
from analytics_assets.saas.churn.churn_models import churn_models
from analytics_assets.saas.churn.churn_scores import churn_scores
from analytics_assets.saas.churn.lifetime import expected_months, fit_by_length, renewals_due
from analytics_assets.saas.churn.plots import plot_models, plot_scores
from analytics_assets.saas.churn.stored import load
from analytics_assets.saas.churn.tables import CHURN_MODELS, CHURN_SCORES, CHURN_TRAINING_SET, TRAINING_SETS
from analytics_assets.saas.churn.training_sets import churn_training_set, training_sets
from analytics_assets.warehouse.engine import engine, scan
from analytics_assets.warehouse.work import Work
from analytics_assets_tests.saas.churn.conftest import Company, Saas, simulate_saas

DAY = date(2025, 9, 8)


@pytest.fixture(scope="module")
def scored(saas: Saas) -> dict[str, pl.DataFrame]:
    """Training set, models and scores of the simulated company at DAY."""
    return saas.company.catch_up(DAY)


def test_planted_decay_is_the_strongest_reason_of_who_is_about_to_leave(saas: Saas, scored: dict[str, pl.DataFrame]):
    number = (DAY - saas.company.first_day).days
    rows = scored["churn_scores"].with_columns(place=pl.col("subject_id").str.slice(8).cast(pl.Int64))
    decaying = np.flatnonzero((saas.decay <= number - 7) & (saas.decay > number - 28) & (saas.left > number))
    of_decaying = rows.filter(pl.col("place").is_in(decaying))
    assert of_decaying.height > 20
    first = of_decaying["reasons"].str.split("; ").list.first()
    named = first.str.contains(r"^raises: (events|sessions|active users) down \d+ % in \d+ days \(usual: ").mean()
    assert named is not None
    assert named > 0.7
    assert (of_decaying["band"] == "high").mean() > 0.7
    steady = rows.filter(~pl.col("place").is_in(decaying))
    assert (steady["band"] == "high").mean() < 0.05


def test_scores_of_the_simulated_company_are_calibrated(saas: Saas, scored: dict[str, pl.DataFrame]):
    number = (DAY - saas.company.first_day).days
    rows = scored["churn_scores"]
    left = saas.left[rows["subject_id"].str.slice(8).cast(pl.Int64).to_numpy()]
    real = ((left > number) & (left <= number + 30)).astype(float)
    found = backtest.metrics_of(rows["probability"].to_numpy(), real, 0.5)
    assert found.calibration_error < 0.02 + found.chance_error
    assert found.auc is not None
    assert found.auc > 0.8


def test_the_same_day_gives_the_same_rows_and_model_alone_and_in_a_range(saas: Saas, scored: dict[str, pl.DataFrame]):
    again = saas.company.catch_up(DAY - timedelta(days=1), DAY)
    for name in ("churn_training_set", "churn_models", "churn_scores"):
        assert again[name].filter(pl.col("as_of_date") == DAY).equals(scored[name]), name


def test_a_damaged_model_file_is_told_and_the_model_made_again(saas: Saas, scored: dict[str, pl.DataFrame]):
    saas.company.put(CHURN_MODELS, scored["churn_models"].to_arrow().cast(CHURN_MODELS.arrow_schema()))
    model_id = scored["churn_scores"]["model_id"][0]
    file = saas.company.platform.home.root / "models" / f"{model_id}.skops"
    file.write_bytes(b"not a model")
    told = {}

    def compute(work):
        rows = churn_scores(work)
        told.update(work.metadata)
        return rows

    rows = saas.company.compute(compute, DAY)
    assert pl.DataFrame(rows["churn_scores"]).equals(scored["churn_scores"])
    assert "damaged or foreign" in told["model file of accounts"]
    assert load(file.parent, model_id).model_id == model_id, "it was replaced, as the message says"


def test_revenue_at_risk_and_expected_months_are_given_for_accounts(scored: dict[str, pl.DataFrame]):
    rows = scored["churn_scores"]
    assert rows["expected_months"].null_count() == 0
    by_hand = [Decimal(str(round(float(m) * p, 2))) for m, p in rows.select("mrr", "probability").rows()]
    assert rows["mrr_at_risk"].to_list() == pytest.approx(by_hand, abs=Decimal("0.01"))


def test_expected_months_follow_the_published_retention():
    # The high-end cohort of Fader and Hardie (2007), as contracts: who ended after t bills, and who still runs after 7.
    sizes = [1000, 869, 743, 653, 593, 551, 517, 491]
    ended = [(12, bills, True) for bills in range(1, 8) for _ in range(sizes[bills - 1] - sizes[bills])]
    running = [(12, 8, False)] * 491
    contracts = pl.DataFrame(ended + running, ["months", "bills", "ended"], orient="row").with_columns(
        ended_on=pl.when("ended").then(pl.lit(DAY)), months=pl.col("months").cast(pl.Float64)
    )
    fitted = fit_by_length(contracts)[12.0]
    assert (round(fitted.alpha, 3), round(fitted.beta, 3), round(fitted.log_likelihood, 1)) == (0.668, 3.806, -1611.2)
    # Published survival of the next five years, over that of the seventh: .491 of the cohort by the model's own .4917.
    years = np.array([0.460, 0.436, 0.414, 0.395, 0.378]).sum() / 0.4898
    assert expected_months(fitted, 12.0, np.array([7]))[0] / 12 == pytest.approx(years, abs=0.02)


def test_expected_months_take_the_probability_for_the_horizon_and_the_cohort_afterwards():
    cohort = Parameters(0.668, 3.806, 0.0, 1000.0)
    survive = survival(cohort, np.arange(70))
    # Two renewals so far; half stay over the one that is due: then as those with three.
    found = expected_months(cohort, 1.0, np.array([2]), np.array([0.5]), np.array([1]))[0]
    assert found == pytest.approx(0.5 * survive[3:63].sum() / survive[3], abs=1e-3)
    # A year's contract with no renewal in the horizon may be cancelled all the same; of two renewals due each takes its part.
    yearly = expected_months(cohort, 12.0, np.array([2]), np.array([0.9]), np.array([0]))[0]
    assert yearly == pytest.approx(12 * 0.9 * survive[3:8].sum() / survive[2], abs=1e-3)
    twice = expected_months(cohort, 1.0, np.array([2]), np.array([0.25]), np.array([2]))[0]
    assert twice == pytest.approx(0.5 + 0.25 * survive[4:63].sum() / survive[4], abs=1e-3)
    assert renewals_due(np.array([-3, 0, 29, 31, 400]), 1.0, 30).tolist() == [1, 1, 1, 0, 0]
    assert renewals_due(np.array([0, 10, 29]), 0.25, 30).tolist() == [4, 3, 1]
    assert renewals_due(np.array([25, 31]), 12.0, 30).tolist() == [1, 0]


def test_both_kinds_stand_side_by_side_and_a_home_without_either_is_empty(company: Company):
    for number in range(3):
        company.bought(f"customer {number}", date(2025, 1, 10), 30)
    company.told("boss", "acme", date(2025, 1, 15), "billed", amount=Decimal(60), months=Decimal(12))
    day = date(2025, 2, 1)
    company.write(day, day)
    found = company.catch_up(day)
    assert found["churn_training_set"].is_empty()
    rows = found["churn_scores"]
    assert rows["kind"].to_list() == ["account", "customer", "customer", "customer"]
    assert rows["band"].unique().to_list() == ["unknown"]
    assert rows["reasons"].str.starts_with("not enough history: no ").all()
    assert rows["mrr"].to_list() == [Decimal("5.00"), None, None, None]
    assert rows["currency"].to_list() == ["GBP", None, None, None]
    assert found["churn_models"]["model_id"].to_list() == ["none", "none"]


def test_amounts_of_a_contract_are_in_its_currency_and_a_trial_has_none(company: Company):
    bill = {"amount": Decimal(60), "months": Decimal(12)}
    company.told("a", "dollars", date(2025, 1, 15), "billed", currency="USD", **bill)
    company.told("b", "unsaid", date(2025, 1, 15), "billed", **bill)
    company.told("c", "moved", date(2025, 1, 10), "billed", currency="USD", **bill)
    company.told("c", "moved", date(2025, 1, 20), "upgraded", currency="EUR", amount=Decimal(120))
    company.told("d", "tries", date(2025, 1, 20), "trial")
    company.told("e", "tries again", date(2025, 1, 10), "billed", currency="USD", **bill)
    company.told("e", "tries again", date(2025, 1, 15), "canceled")
    company.told("e", "tries again", date(2025, 1, 20), "trial")
    day = date(2025, 2, 1)
    company.write(day, day)
    rows = company.catch_up(day)["churn_scores"]
    assert dict(rows.select("subject_id", pl.struct("currency", "mrr")).rows()) == {
        "dollars": {"currency": "USD", "mrr": Decimal("5.00")},
        "unsaid": {"currency": "GBP", "mrr": Decimal("5.00")},
        "moved": {"currency": "EUR", "mrr": Decimal("10.00")},
        "tries": {"currency": None, "mrr": None},
        "tries again": {"currency": None, "mrr": None},
    }


def test_an_empty_home_has_empty_tables(company: Company):
    for name, rows in company.catch_up(date(2025, 2, 1)).items():
        assert rows.is_empty(), name


def test_a_label_with_one_class_is_told(company: Company):
    for number in range(60):
        for month in range(1, 10):
            company.bought(f"customer {number}", date(2025, month, 1 + number % 28), 30)
    day = date(2025, 9, 28)
    company.write(day, day)
    found = company.catch_up(day)
    reason = found["churn_models"]["reason"][0]
    assert "known outcomes of customers within 90 days 0 are churn; a model needs at least 20 of both" in reason
    assert found["churn_scores"]["reasons"].str.contains("a model needs at least 20 of both").all()
    assert taught_nothing(found) == [(day, "customer", reason)]
    two_classes = found["churn_training_set"].with_columns(churned=pl.col("subject_id") == "customer 7")
    assert taught_nothing(found | {"churn_training_set": two_classes}) == [], "too few to learn from is nobody's mistake"


NOBODY_LEAVES = "[subscriptions]\ngrace_days = 90\n"


def lapsing(company: Company) -> date:
    """Accounts that are billed every month until they silently are not, the first of them for two months; 90 days of grace outlast the company."""
    for number in range(120):
        for bill in range(2 + number % 4):
            day = company.first_day + timedelta(days=number % 30 + 30 * bill)
            company.told("boss", f"account {number}", day, "billed", amount=Decimal(60), months=Decimal(1))
    day = company.first_day + timedelta(days=120)
    company.write(day - timedelta(days=1), day + timedelta(days=1))
    return day


def published(company: Company) -> dict[str, pl.DataFrame]:
    """Models and scores as they stand in the lake."""
    tables = (CHURN_MODELS, CHURN_SCORES)
    with engine() as connection:
        return {table.name: connection.sql(scan(company.platform.lake.pin(table))).pl() for table in tables}


def test_labels_made_one_class_by_a_setting_are_refused_and_the_last_good_scores_stand(
    company: Company, instance: dg.DagsterInstance
):
    day = lapsing(company)
    for asset in ("churn_training_set", "churn_models", "churn_scores"):
        assert outcome(company, asset, day, instance) == (True, "")
    good = published(company)
    assert good["churn_models"]["serves"].any() and good["churn_scores"]["probability"].null_count() == 0

    company.settings = NOBODY_LEAVES
    for one in (day, day + timedelta(days=1)):
        assert outcome(company, "churn_training_set", one, instance) == (True, "")
        success, why = outcome(company, "churn_models", one, instance)
        assert not success
        assert f"as_of_date {one}, kind account, reason not enough history: of " in why
        assert "known outcomes of accounts within 30 days 0 are churn" in why
        assert f"published_with_a_model {day}" in why
        assert "`grace_days`" in why and "`account_horizon_days`" in why and "scores_may_end = true" in why
        assert "The last good partition stands." in why
    for name, rows in published(company).items():
        assert rows.equals(good[name]), name

    company.settings = NOBODY_LEAVES + "[churn]\nscores_may_end = true\n"
    for one in (day + timedelta(days=1), day):
        for asset in ("churn_training_set", "churn_models", "churn_scores"):
            assert outcome(company, asset, one, instance) == (True, "")
    ended = published(company)
    assert not ended["churn_models"]["serves"].any() and ended["churn_scores"]["probability"].is_null().all()

    company.settings = NOBODY_LEAVES
    assert outcome(company, "churn_models", day, instance) == (True, ""), "what has ended is not lost again"


def test_a_range_without_a_model_is_refused_for_the_day_that_has_one(company: Company, instance: dg.DagsterInstance):
    day = lapsing(company)
    company.catch_up(day)
    company.settings = NOBODY_LEAVES
    company.put(CHURN_TRAINING_SET, company.compute(churn_training_set, day - timedelta(days=1), day)[CHURN_TRAINING_SET.name])
    for one in (day - timedelta(days=1), day):
        instance.report_runless_asset_event(dg.AssetMaterialization("churn_training_set", partition=one.isoformat()))
    before = published(company)
    success, why = outcome(company, "churn_models", day - timedelta(days=1), instance, last=day)
    assert not success and f"no_model_is_lost failed: as_of_date {day}, kind account" in why
    assert published(company)["churn_models"].equals(before["churn_models"])
    assert outcome(company, "churn_models", day - timedelta(days=1), instance) == (True, ""), "no day up to it has had a model"


@pytest.mark.parametrize("forgotten", ["kind", "account_id"])
def test_scores_of_nobody_do_not_replace_good_ones_while_a_model_serves(
    company: Company, instance: dg.DagsterInstance, forgotten: str
):
    """Names of bills and trials misspelt, or of the account: nothing else is made again, and nobody is there to be scored."""
    day = lapsing(company)
    for asset in ("churn_training_set", "churn_models", "churn_scores"):
        assert outcome(company, asset, day, instance) == (True, "")
    good = published(company)
    company.put(ACCOUNT_RECORDS, [record | {forgotten: None} for record in company.account_records])
    success, why = outcome(company, "churn_scores", day, instance)
    assert not success
    assert f"no_kind_is_lost failed: as_of_date {day}, kind account, model_that_serves " in why
    assert "[subscriptions]" in why and "`account_id`" in why and "scores_may_end = true" in why
    assert "The last good partition stands." in why
    for name, rows in published(company).items():
        assert rows.equals(good[name]), name

    company.settings = "[churn]\nscores_may_end = true\n"
    assert outcome(company, "churn_scores", day, instance) == (True, "")
    assert published(company)["churn_scores"].is_empty()


def test_accounts_that_are_told_of_no_more_keep_their_model(company: Company, instance: dg.DagsterInstance):
    """A property of another name: no record names an account, and the kind is gone."""
    day = lapsing(company)
    company.catch_up(day)
    company.put(ACCOUNT_RECORDS, [])
    company.put(CHURN_TRAINING_SET, [])
    instance.report_runless_asset_event(dg.AssetMaterialization("churn_training_set", partition=day.isoformat()))
    success, why = outcome(company, "churn_models", day, instance)
    assert not success and "kind account, reason no record tells of accounts" in why


def test_when_nobody_leaves_any_more_the_last_refit_that_passed_scores_and_says_why(tmp_path: Path):
    """Nobody has left for eight months: neither the day's labels nor those of the last three months have two classes."""
    company = simulate_saas(tmp_path, 400, 410, last_left=150).company
    day = company.first_day + timedelta(days=400)
    found = company.catch_up(day)
    (served,) = found["churn_models"].filter("serves").to_dicts()
    assert day - served["anchor"] > timedelta(days=200) and served["accepted"]
    assert re.match(
        r"stands in, since the day's refit failed: of \d+ known outcomes of accounts .* 0 are churn;", served["reason"]
    )
    scores = found["churn_scores"]
    assert scores["model_id"].unique().to_list() == [served["model_id"]]
    assert scores["probability"].null_count() == 0 and scores.height > 100
    # It is the refit that the day of its anchor had, and made again from data.
    (then,) = company.catch_up(served["anchor"])["churn_models"].filter("serves").to_dicts()
    assert (then["anchor"], then["model_id"]) == (served["anchor"], served["model_id"])
    assert taught_nothing(found) == [(day, "account", served["reason"])]
    assert taught_nothing(found | {"churn_models": pl.DataFrame([then], schema=found["churn_models"].schema)}) == []


def taught_nothing(found: dict[str, pl.DataFrame]) -> list[tuple]:
    """What the check `the_day_could_be_learned_from` finds in these tables."""
    with engine() as connection:
        for name, table in (("rows", "churn_models"), ("churn_training_set", "churn_training_set")):
            connection.register(name, found[table].to_arrow())
        return connection.sql(THE_DAY_TAUGHT.violations).fetchall()


def shop(company: Company) -> date:
    """Forty customers who buy now and then, some of it received late, so that a leak can show."""
    rng = np.random.default_rng(1)
    for number in range(40):
        for offset in sorted(rng.integers(0, 260, 8)):
            day = company.first_day + timedelta(days=int(offset))
            company.bought(f"customer {number}", day, 10, received=day + timedelta(days=int(rng.integers(0, 4)) * 5))
        company.bought(f"phone {number}", company.first_day + timedelta(days=20), 10)
        company.alias(f"customer {number}", f"phone {number}", company.first_day + timedelta(days=160))
        account = f"account {number}"
        company.told(f"{account} boss", account, company.first_day, "billed", amount=Decimal(60), months=Decimal(12))
        for offset in range(30, 260, 30):
            day = company.first_day + timedelta(days=offset)
            seats = {"seats": int(rng.integers(1, 9)), "amount": Decimal(60 + offset)}
            company.told(f"{account} boss", account, day, "upgraded", received=day + timedelta(days=offset % 60), **seats)
        for offset in range(0, 260, 3):
            day = company.first_day + timedelta(days=offset)
            company.used(account, day, int(rng.integers(1, 20)), received=day + timedelta(days=int(rng.integers(0, 3))))
    day = company.first_day + timedelta(days=259)
    company.write(day, day)
    return day


def outcome(company: Company, asset: str, day: date, instance: dg.DagsterInstance, last: date | None = None) -> tuple[bool, str]:
    """Whether the asset was materialised, and why not."""
    result = company.materialize(asset, day, instance, last)
    failures = [event.step_failure_data.user_failure_data.description for event in result.all_events if event.is_step_failure]
    return result.success, " ".join(map(str, failures))


def test_a_sound_build_passes(company: Company, instance: dg.DagsterInstance):
    day = shop(company)
    for asset in ("churn_training_set", "churn_models", "churn_scores"):
        assert outcome(company, asset, day, instance) == (True, "")
    assert company.platform.lake.pin(CHURN_SCORES).version is not None


LEAKS = {
    "a feature from the future": (
        "CUSTOMER_FEATURES",
        "o.order_date <= $cut_off AND COALESCE(o.received_at, o.ordered_at) < $end_at",
        "$end_at IS NOT NULL",
    ),
    "a late order": ("CUSTOMER_FEATURES", " AND COALESCE(o.received_at, o.ordered_at) < $end_at", " AND $end_at IS NOT NULL"),
    "use in the future": (
        "ACCOUNT_FEATURES",
        "event_date <= $cut_off\n        AND received_date <= $cut_off\n        AND",
        "TRUE AND",
    ),
    "late use": ("ACCOUNT_FEATURES", "        AND received_date <= $cut_off\n", ""),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_refused(leak: str, company: Company, instance: dg.DagsterInstance, monkeypatch, tmp_path: Path):
    day = shop(company)
    name, sound, leaky = LEAKS[leak]
    text = getattr(histories, name).read_text()
    assert sound in text
    file = tmp_path / "leaky.sql"
    file.write_text(text.replace(sound, leaky))
    monkeypatch.setattr(histories, name, file)
    success, why = outcome(company, "churn_training_set", day, instance)
    assert not success
    assert "point_in_time failed" in why
    assert "The last good partition stands." in why
    assert company.platform.lake.pin(CHURN_TRAINING_SET).version is None


def _later_contracts(monkeypatch) -> None:
    sound = histories.parameters_of
    monkeypatch.setattr(
        histories, "parameters_of", lambda settings, day, end: sound(settings, day + timedelta(days=40), WHENEVER)
    )


def _late_contracts(monkeypatch) -> None:
    sound = histories.parameters_of
    monkeypatch.setattr(histories, "parameters_of", lambda settings, day, end: sound(settings, day, WHENEVER))


def _later_identities(monkeypatch) -> None:
    sound = histories.Histories._map_of
    monkeypatch.setattr(histories.Histories, "_map_of", lambda self, kind, day: sound(self, kind, day + timedelta(days=150)))


@pytest.mark.parametrize("plant", [_later_contracts, _late_contracts, _later_identities])
def test_contracts_and_merges_that_were_not_known_at_the_cut_off_are_refused(
    plant: Callable[[pytest.MonkeyPatch], None], company: Company, monkeypatch
):
    day = shop(company)
    leaks = lambda work: churn_training_set(work) and work.connection.sql("FROM leaks").fetchall()  # noqa: E731
    assert company.compute(leaks, day) == []
    plant(monkeypatch)
    assert company.compute(leaks, day) != []


def test_a_label_whose_window_has_not_ended_is_refused(company: Company, instance: dg.DagsterInstance, monkeypatch):
    day = shop(company)
    sound = histories.training_cut_offs
    monkeypatch.setattr(histories, "training_cut_offs", lambda day, *rest: sound(day + timedelta(days=40), *rest))
    success, why = outcome(company, "churn_training_set", day, instance)
    assert not success
    assert "labels_have_ended failed" in why


def test_a_test_that_overlaps_with_what_was_learned_is_refused(
    saas: Saas, scored: dict[str, pl.DataFrame], instance, monkeypatch
):
    company = saas.company
    company.put(CHURN_TRAINING_SET, scored["churn_training_set"].to_arrow().cast(CHURN_TRAINING_SET.arrow_schema()))
    monkeypatch.setattr(
        backtest, "folds", lambda cut_offs, _: [(max(cut_offs), [cut_off for cut_off in cut_offs if cut_off < max(cut_offs)])]
    )
    partition = dg.AssetMaterialization(dg.AssetKey("churn_training_set"), partition=DAY.isoformat())
    instance.report_runless_asset_event(partition)
    before = company.platform.lake.pin(CHURN_MODELS).version
    success, why = outcome(company, "churn_models", DAY, instance)
    assert not success
    assert "no_label_is_seen_twice failed" in why
    assert company.platform.lake.pin(CHURN_MODELS).version == before


def test_a_named_training_set_is_written_with_its_card(company: Company):
    company.settings = '[[training_sets]]\nname = "reviews"\nsubjects = "customers"\nevents = ["reviewed"]\nhorizon_days = 30\n'
    for number in range(40):
        company.did(f"customer {number}", "reviewed", date(2025, 5, 10))
    day = shop(company)
    rows = pl.DataFrame(company.compute(training_sets, day)[TRAINING_SETS.name]).to_dicts()
    assert len(rows) == 1
    folder = company.platform.home.root / rows[0]["folder"]
    written = pl.read_parquet(folder / "training_set.parquet")
    card = json.loads((folder / "manifest.json").read_text())
    assert hashlib.sha256((folder / "training_set.parquet").read_bytes()).hexdigest() == rows[0]["sha256"]
    assert card["files"]["training_set.parquet"] == {
        "rows": written.height, "bytes": (folder / "training_set.parquet").stat().st_size, "sha256": rows[0]["sha256"],
    }  # fmt: skip
    assert card["positive_rate"] == round(rows[0]["positives"] / rows[0]["rows"], 6)
    assert set(card["columns"]) == set(written.columns)
    inside = (pl.col("cut_off") < date(2025, 5, 10)) & (pl.col("label_until") >= date(2025, 5, 10))
    assert written.filter(pl.col("label") != inside).is_empty()
    assert rows[0]["positives"] > 0
    assert (written["label_until"] <= day).all()
    again = pl.DataFrame(company.compute(training_sets, day)[TRAINING_SETS.name]).to_dicts()
    assert again == rows


def test_a_named_training_set_of_one_class_is_told_and_the_last_one_stays(company: Company, instance: dg.DagsterInstance):
    named = '[[training_sets]]\nname = "reviews"\nsubjects = "customers"\nevents = ["EVENT"]\nhorizon_days = 30\n'
    for number in range(40):
        company.did(f"customer {number}", "reviewed", date(2025, 5, 10))
    day = shop(company)
    written = company.platform.home.root / "training_sets" / "reviews"
    company.settings = named.replace("EVENT", "reviewed")
    assert company.compute(training_sets, day)[TRAINING_SETS.name].num_rows == 1
    good = sorted(path.read_bytes() for path in written.rglob("*.parquet"))

    company.settings = named.replace("EVENT", "reveiwed")
    result = company.materialize("training_sets", day, instance)
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "labels_have_two_classes"]
    assert result.success and not check.passed and check.severity == dg.AssetCheckSeverity.WARN
    assert "nobody did 'reveiwed' within 30 days" in check.metadata["found"].value[0]
    assert "no event is called 'reveiwed': is it 'reviewed'?" in check.metadata["found"].value[0]
    assert sorted(path.read_bytes() for path in written.rglob("*.parquet")) == good


def test_a_named_training_set_without_rows_is_told_and_not_written(company: Company, instance: dg.DagsterInstance):
    company.settings = '[[training_sets]]\nname = "reviews"\nsubjects = "customers"\nevents = ["reviewed"]\nhorizon_days = 365\n'
    result = company.materialize("training_sets", shop(company), instance)
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "labels_have_two_classes"]
    assert result.success and not check.passed and "not enough history" in check.metadata["found"].value[0]
    assert not (company.platform.home.root / "training_sets").exists()
    (event,) = result.asset_materializations_for_node("training_sets")
    assert event.metadata["dagster/row_count"].value == 0


def test_a_named_training_set_that_leaks_is_not_written(company: Company, monkeypatch, tmp_path: Path):
    company.settings = '[[training_sets]]\nname = "reviews"\nsubjects = "customers"\nevents = ["reviewed"]\nhorizon_days = 30\n'
    day = shop(company)
    file = tmp_path / "leaky.sql"
    _, sound, leaky = LEAKS["a late order"]
    file.write_text(histories.CUSTOMER_FEATURES.read_text().replace(sound, leaky))
    monkeypatch.setattr(histories, "CUSTOMER_FEATURES", file)
    leaks = []

    def compute(work):
        rows = training_sets(work)
        leaks.extend(work.connection.sql("FROM leaks").fetchall())
        return rows

    assert company.compute(compute, day)[TRAINING_SETS.name].num_rows == 0
    assert leaks
    assert not (company.platform.home.root / "training_sets").exists()


def test_plots_are_pictures(saas: Saas, scored: dict[str, pl.DataFrame]):
    company = saas.company
    company.put(CHURN_TRAINING_SET, scored["churn_training_set"].to_arrow().cast(CHURN_TRAINING_SET.arrow_schema()))
    company.put(CHURN_MODELS, scored["churn_models"].to_arrow().cast(CHURN_MODELS.arrow_schema()))

    def picture(function, plot, main: str):
        def compute(work):
            rows: dict[str, pa.Table] = function(work)
            for name, table in rows.items():
                work.connection.register(f"rows_of_{name}", table)
            return plot(work, rows[main])

        return company.compute(compute, DAY)

    assert picture(churn_models, plot_models, "churn_models").startswith(b"\x89PNG")
    assert picture(churn_scores, plot_scores, "churn_scores").startswith(b"\x89PNG")


def test_nothing_of_another_day_is_needed_for_a_training_set(company: Company):
    day = shop(company)
    alone = company.compute(churn_training_set, day)[CHURN_TRAINING_SET.name]
    company.write(day - timedelta(days=5), day)
    ranged = pl.DataFrame(company.compute(churn_training_set, day - timedelta(days=5), day)[CHURN_TRAINING_SET.name])
    assert ranged.filter(pl.col("as_of_date") == day).equals(pl.DataFrame(alone))


@pytest.mark.parametrize(
    ("band", "subjects", "said", "came_true", "told"),
    [
        ("low", 192, 0.0062, 0.0417, {"low", "all"}),
        ("low", 192, 0.0062, 0.0208, set()),
        ("medium", 33, 0.118, 0.303, set()),
        ("high", 20, 0.641, 0.65, set()),
        ("high", 20, 0.641, 0.0, {"high", "all"}),
        ("high", 2_000, 0.641, 0.6, set()),
        ("low", 200_000, 0.02, 0.024, set()),
        ("low", 200_000, 0.02, 0.03, {"low", "all"}),
    ],
)
def test_bands_that_came_true_other_than_they_said_are_told(
    band: str, subjects: int, said: float, came_true: float, told: set[str]
) -> None:
    """The first: 192 accounts of a low band that said 1.2 leavers, and 8 left."""
    row = {"as_of_date": date(2026, 3, 31), "kind": "account", "subjects": subjects, "said": said, "came_true": came_true}
    # Tenths are too small to be judged one by one, and count nobody twice.
    rows = [row | {"subjects_are": band}, row | {"subjects_are": "tenth 01"}]
    with engine() as connection:
        connection.register("rows_of_churn_outcomes", pl.DataFrame(rows).to_arrow())
        assert {found[2] for found in connection.sql(BANDS_CAME_TRUE.violations).fetchall()} == told


def test_few_moves_among_thousands_of_subjects_are_drawn() -> None:
    """Columns of a join may lie in more parts than the others, some of them empty: Polars panicked over these."""
    subjects, day = [f"c{n}" for n in range(4_000)], date(2026, 3, 31)
    today = pl.DataFrame({"subject_id": subjects}).select(
        pl.lit(day).alias("as_of_date"), "subject_id", kind=pl.lit("customer"), probability=pl.lit(0.4), band=pl.lit("high")
    )
    before = today.select("kind", "subject_id", band_before=pl.Series(["high"] * 3_998 + ["low"] * 2))
    with engine() as connection:
        connection.register("scores_of_the_day_before", before.to_arrow())
        work = SimpleNamespace(window=SimpleNamespace(last_day=day), connection=connection)
        assert plot_scores(cast(Work, work), today.to_arrow()).startswith(b"\x89PNG")


def drawn(plot: Callable[[Work, pa.Table], bytes], work: SimpleNamespace, rows: pa.Table, monkeypatch) -> str:
    """What a plot hands over to be drawn."""
    handed: list[str] = []
    monkeypatch.setattr("vl_convert.vegalite_to_png", lambda chart, scale: handed.append(chart) or b"")
    plot(cast(Work, work), rows)
    return handed[0]


def test_a_test_is_drawn_with_its_own_day_and_its_subjects_and_not_as_one_of_the_day(monkeypatch) -> None:
    day, cut_off = date(2026, 3, 31), date(2026, 2, 23)
    groups = [("low", 200), ("high", 40), *((f"tenth {n:02d}", 24) for n in range(1, 11))]
    outcomes = pl.DataFrame([
        {"as_of_date": day, "kind": "account", "subjects_are": name, "cut_off": cut_off, "subjects": n, "said": 0.1, "came_true": 0.2}
        for name, n in groups
    ])  # fmt: skip
    churn = SimpleNamespace(account_horizon_days=30, customer_horizon_days=90)
    with engine() as connection:
        connection.register("rows_of_churn_outcomes", outcomes.to_arrow())
        work = SimpleNamespace(window=SimpleNamespace(last_day=day), connection=connection, settings=SimpleNamespace(churn=churn))
        text = drawn(plot_models, work, outcomes.to_arrow(), monkeypatch)
    assert "Accounts of 2026-02-23: said, and what came true" in text
    assert "Models of 2026-03-31 at their newest test" in text
    assert "churned within 30 days" in text and "about 24 accounts each" in text
    assert "Customers" not in text
    chart = json.loads(text)
    bands = chart["datasets"][chart["vconcat"][0]["hconcat"][1]["data"]["name"]]
    assert [(band["subjects_are"], band["subjects"], band["came_true"]) for band in bands] == [
        ("low", 200, 0.2), ("medium", 0, 0.0), ("high", 40, 0.2),
    ], "a band that nobody was in is drawn too"  # fmt: skip


def test_probabilities_are_drawn_from_0_to_1_and_kinds_apart(monkeypatch) -> None:
    day = date(2026, 3, 31)
    rows = pl.DataFrame(
        {"subject_id": ["a", "b", "c"], "kind": ["account", "account", "customer"], "probability": [0.0, 1.0, 0.96]}
    ).with_columns(as_of_date=pl.lit(day), band=pl.lit("high"))
    with engine() as connection:
        connection.register("scores_of_the_day_before", rows.select("kind", "subject_id", band_before="band").to_arrow())
        work = SimpleNamespace(window=SimpleNamespace(last_day=day), connection=connection)
        chart = json.loads(drawn(plot_scores, work, rows.to_arrow(), monkeypatch))
    bars = [row["hconcat"][0] for row in chart["vconcat"]]
    assert [bar["title"]["text"] for bar in bars] == ["Accounts by probability", "Customers by probability"]
    assert [bar["encoding"]["x"]["scale"]["domain"] for bar in bars] == [[0, 1], [0, 1]]
    bins = [[(round(one["low"], 9), one["subjects"]) for one in chart["datasets"][bar["data"]["name"]]] for bar in bars]
    assert bins == [[(0.0, 1), (0.95, 1)], [(0.95, 1)]]
