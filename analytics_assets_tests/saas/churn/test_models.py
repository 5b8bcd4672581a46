"""Candidates, calibration, tests and the gate, on rows whose law is known."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.optimize
from threadpoolctl import threadpool_limits

from analytics_assets.saas.churn import backtest
from analytics_assets.saas.churn.backtest import (
    EVERYBODY,
    NotEnoughHistory,
    compared,
    folds,
    metrics_of,
    refit,
    serving,
    verdict,
)
from analytics_assets.saas.churn.features import customer_drivers, input_names, inputs_of, signs_of
from analytics_assets.saas.churn.models import (
    BOOSTED,
    CANDIDATES,
    LOGISTIC,
    MEAN,
    deciles,
    fit,
    fit_sigmoid,
    log_odds,
    parameters_of,
    population_stability,
    probability_of,
    shares_in,
    stability_by_chance,
)
from analytics_assets.saas.churn.stored import ModelFileError, load, store

DRIVERS = customer_drivers()
DAY = date(2025, 12, 31)
STAND_INS = tuple(backtest.anchors(DAY - timedelta(days=30), date(2025, 1, 1)))


def rows_of(subjects: int, cut_offs: int, seed: int = 1, days_apart: int = 10, sense: float = 1.0) -> pl.DataFrame:
    """Customers whose churn follows a logistic law in recency and frequency, at cut-offs that end 30 days before DAY."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(cut_offs):
        recency, days = rng.integers(0, 200, subjects), rng.geometric(0.3, subjects)
        odds = sense * (0.9 * (np.log1p(recency) - 4) - 0.8 * (np.log1p(days) - 1))
        found.append(
            pl.DataFrame({
                "subject_id": [f"customer {place:05d}" for place in range(subjects)],
                "cut_off": [DAY - timedelta(days=30 + days_apart * number)] * subjects,
                "churned": rng.random(subjects) < probability_of(odds),
                "purchase_days": days, "recency_days": recency, "tenure_days": recency + 10 * (days - 1),
                "purchase_days_30": (recency < 30).astype(int), "purchase_days_90": (recency < 90).astype(int),
                "purchase_days_180": (recency < 180).astype(int), "refunds": 0, "relative_order_value": 1.0,
            })
        )  # fmt: skip
    return pl.concat(found)


@pytest.fixture(scope="module")
def made() -> backtest.Refit:
    """A refit on 12 cut-offs of 400 customers."""
    return refit(rows_of(400, 12), "customer", DAY, 30, DRIVERS)


def test_auc_brier_lift_and_calibration_by_brute_force():
    rng = np.random.default_rng(3)
    said, churned = np.round(rng.random(60), 1) * 0.8 + 0.1, (rng.random(60) < 0.4).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(said[churned == 1], said[churned == 0])]
    found = metrics_of(said, churned, 0.4)
    assert found.auc == pytest.approx(np.mean(pairs), abs=1e-6)
    assert found.brier == pytest.approx(np.mean([(p - y) ** 2 for p, y in zip(said, churned, strict=True)]), abs=1e-6)
    best = sorted(range(60), key=lambda place: -said[place])
    assert found.lift_top_decile == pytest.approx(np.mean(churned[best[:6]]) / churned.mean(), abs=1e-4)
    groups = [best[start : start + 6] for start in range(0, 60, 6)]
    assert found.calibration_error == pytest.approx(np.mean([abs(said[g].mean() - churned[g].mean()) for g in groups]), abs=1e-6)


def test_one_class_has_no_auc():
    found = metrics_of(np.array([0.1, 0.9]), np.array([0.0, 0.0]), 0.5)
    assert (found.auc, found.lift_top_decile, found.calibration_slope) == (None, None, None)


def test_a_sigmoid_finds_the_distortion_that_was_planted():
    rng = np.random.default_rng(5)
    truth = rng.normal(0, 1.5, 40_000)
    churned = (rng.random(40_000) < probability_of(truth)).astype(float)
    found = fit_sigmoid(probability_of((truth - 0.7) / 0.5), churned)
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(0.7, abs=0.04)


def test_tests_never_share_a_day_with_what_was_learned_nor_with_one_another():
    for horizon, apart in ((30, 10), (90, 30), (7, 3)):
        cut_offs = [DAY - timedelta(days=horizon + apart * number) for number in range(12)]
        found = folds(cut_offs, horizon)
        assert found[0][0] == max(cut_offs)
        for cut_off, ended in found:
            assert all(other + timedelta(days=horizon) <= cut_off for other in ended)
        tested = sorted(cut_off for cut_off, _ in found)
        assert all(b - a >= timedelta(days=horizon) for a, b in itertools.pairwise(tested))


def test_the_law_is_found_and_the_probabilities_are_right_to_two_points(made: backtest.Refit):
    fresh = rows_of(20_000, 1, seed=99)
    said = made.model.predict(inputs_of(DRIVERS, fresh))
    found = metrics_of(said, fresh["churned"].cast(pl.Float64).to_numpy(), made.model.base_rate)
    assert found.calibration_error < 0.02
    best = 0.9 * np.log1p(fresh["recency_days"].to_numpy()) - 0.8 * np.log1p(fresh["purchase_days"].to_numpy())
    possible = metrics_of(probability_of(best), fresh["churned"].cast(pl.Float64).to_numpy(), 0.5).auc
    assert found.auc is not None and possible is not None
    assert found.auc > possible - 0.005
    assert made.passed, made.reason


def test_the_same_rows_in_any_order_on_any_number_of_threads_are_the_same_model(made: backtest.Refit):
    rows = rows_of(400, 12).sample(fraction=1, shuffle=True, seed=4)
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            assert refit(rows, "customer", DAY, 30, DRIVERS).model.model_id == made.model.model_id
    other = rows.with_columns(churned=pl.when(pl.int_range(pl.len()) == 0).then(~pl.col("churned")).otherwise("churned"))
    assert refit(other, "customer", DAY, 30, DRIVERS).model.model_id != made.model.model_id


def test_processors_that_add_in_another_order_make_the_same_model_tests_and_scores():
    """OpenBLAS has a kernel per processor; without rounding each of these two has an id of its own."""
    code = (
        "from analytics_assets_tests.saas.churn.test_models import *\n"
        "made = refit(rows_of(400, 12), 'customer', DAY, 30, DRIVERS)\n"
        "said = made.model.predict(inputs_of(DRIVERS, rows_of(400, 1, seed=9))).tolist()\n"
        "print(made.model.model_id, [(test.candidate, test.metrics, test.said.tolist()) for test in made.tests], said)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "OPENBLAS_CORETYPE": kernel}, cwd=Path(__file__).parents[3],
            check=True, capture_output=True, text=True,
        ).stdout
        for kernel in ("Haswell", "Sandybridge")
    }  # fmt: skip
    assert len(told) == 1


@pytest.mark.parametrize("noise", [1e-11, 1e-6])
def test_where_exactly_a_search_stops_makes_no_other_model(monkeypatch: pytest.MonkeyPatch, noise: float):
    rows = rows_of(400, 6)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    before = parameters_of(LOGISTIC, fit(inputs, churned, signs_of(DRIVERS)))
    search, rng = scipy.optimize.minimize, np.random.default_rng(8)

    def stops_elsewhere(*arguments: Any, **more: Any) -> Any:
        found = search(*arguments, **more)
        found.x = np.where(found.x == 0, 0.0, found.x + rng.normal(0, noise, len(found.x)))
        return found

    monkeypatch.setattr(scipy.optimize, "minimize", stops_elsewhere)
    assert parameters_of(LOGISTIC, fit(inputs, churned, signs_of(DRIVERS))) == before


def test_the_candidate_is_not_chosen_by_the_newest_test(made: backtest.Refit):
    newest = max(test.cut_off for test in made.tests)
    # However good a candidate looks at the newest cut-off, the earlier ones decide.
    flattered = [
        replace(test, metrics={EVERYBODY: replace(test.metrics[EVERYBODY], brier=0.0)})
        if test.cut_off == newest and test.candidate == BOOSTED
        else test
        for test in made.tests
    ]
    assert backtest.winner(flattered) == backtest.winner(made.tests)


def test_contributions_of_the_logistic_model_are_its_coefficients_times_the_distance_from_the_usual():
    rows = rows_of(500, 6)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    pair = fit(inputs, churned, signs_of(DRIVERS))
    model = replace(refit(rows, "customer", DAY, 30, DRIVERS).model, pair=pair, candidate=LOGISTIC)
    scaler, regression = model.pair.logistic.named_steps["standardscaler"], model.pair.logistic.named_steps["logisticregression"]
    usual = np.median(inputs, axis=0)
    by_hand = regression.coef_[0] / scaler.scale_ * (inputs - usual)
    found = model.contributions(inputs, [[column] for column in range(inputs.shape[1])], usual)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_without_signs_the_regression_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rows = rows_of(500, 6)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    imputer, scaler, ours = (step for _, step in fit(inputs, churned).logistic.steps)
    standardised = scaler.transform(imputer.transform(inputs))
    theirs = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-10).fit(standardised, churned)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(standardised), theirs.predict_proba(standardised), atol=1e-5)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_what_is_known_of_nobody_says_nothing_and_stops_nothing(candidate: str):
    """A company that names no seats or prices, and one that begins to."""
    rows = rows_of(400, 6)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    unknown = np.column_stack([inputs, np.full(len(inputs), np.nan)])
    pair = fit(unknown, churned, [*signs_of(DRIVERS), 0])
    said = pair.predict(candidate, unknown)
    np.testing.assert_allclose(said, fit(inputs, churned, signs_of(DRIVERS)).predict(candidate, inputs), atol=1e-5)
    np.testing.assert_allclose(pair.predict(candidate, np.column_stack([inputs, np.arange(len(inputs))])), said, atol=1e-9)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_what_sense_tells_no_way_of_goes_one_way_or_says_nothing(candidate: str):
    """Of two prices the one raises the risk at both ends, more at the upper one, and the other says nothing."""
    rows = rows_of(400, 6)
    rng = np.random.default_rng(9)
    inputs = np.column_stack([inputs_of(DRIVERS, rows), rng.normal(0, 1, (rows.height, 2))])
    price = inputs[:, -2]
    churned = (rng.random(rows.height) < probability_of(-2 + np.where(price > 0, 2 * price, -price))).astype(float)
    pair = fit(inputs, churned, [*signs_of(DRIVERS), 0, 0])
    ladder = np.linspace(-3, 3, 25)
    said = []
    for place in (-2, -1):
        more = np.repeat(inputs[:40], len(ladder), axis=0)
        more[:, place] = np.tile(ladder, 40)
        said.append(pair.predict(candidate, more).reshape(40, -1))
    assert np.all(np.diff(said[0], axis=1) >= -1e-9)
    assert np.all(said[0][:, -1] > said[0][:, 0] + 0.1)
    np.testing.assert_allclose(said[1], said[1][:, :1].repeat(25, axis=1), atol=1e-12)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_rows_that_tell_of_one_outcome_three_times_make_no_surer_model(candidate: str):
    rows = rows_of(300, 2)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    once = fit(inputs, churned, signs_of(DRIVERS)).predict(candidate, inputs)
    thrice = fit(np.tile(inputs, (3, 1)), np.tile(churned, 3), signs_of(DRIVERS), overlap=3.0).predict(candidate, inputs)
    np.testing.assert_allclose(thrice, once, atol=1e-4)


@pytest.mark.parametrize("candidate", CANDIDATES)
def test_no_model_learns_that_what_is_good_raises_the_risk(candidate: str):
    """Labels against all sense (sense = -1: who bought yesterday leaves), and of each input more and less than there is."""
    rows = rows_of(400, 6, sense=-1.0)
    inputs, churned = inputs_of(DRIVERS, rows), rows["churned"].cast(pl.Float64).to_numpy()
    signs = signs_of(DRIVERS)
    sensible, free = fit(inputs, churned, signs), fit(inputs, churned)
    against_sense = 0
    for column, sign in enumerate(signs):
        more = inputs.copy()
        more[:, column] += 1.5
        by = [log_odds(pair.predict(candidate, more)) - log_odds(pair.predict(candidate, inputs)) for pair in (sensible, free)]
        if sign:
            assert np.all(by[0] * sign >= -1e-9), input_names(DRIVERS)[column]
            against_sense += int(np.any(by[1] * sign < -1e-9))
    assert against_sense > 3


def test_labels_that_are_nearly_all_the_same_teach_nothing_and_are_told_so():
    rows = rows_of(200, 6).with_columns(churned=pl.lit(False))
    with pytest.raises(NotEnoughHistory, match="of 1200 known outcomes of customers within 30 days 0 are churn"):
        refit(rows, "customer", DAY, 30, DRIVERS)


@pytest.mark.parametrize(("slope", "shift", "passes"), [(1.0, 0.0, True), (1.0, 1.2, False), (2.5, 0.0, False)])
def test_a_model_that_cries_wolf_or_is_too_sure_of_itself_does_not_pass(
    made: backtest.Refit, slope: float, shift: float, passes: bool
):
    newest = made.newest
    assert newest is not None
    said = probability_of(slope * log_odds(newest.said) + shift)
    loud = replace(newest, said=said, metrics={EVERYBODY: metrics_of(said, newest.churned, 0.99)})
    passed, reason = verdict(replace(made, tests=tuple(loud if t is newest else t for t in made.tests)))
    assert passed == passes
    assert passes or "not calibrated" in reason


def test_a_model_no_better_than_the_base_rate_does_not_pass():
    found = refit(rows_of(400, 12, sense=0.0), "customer", DAY, 30, DRIVERS)
    assert not found.passed
    assert "no better than giving everybody the same" in found.reason


def test_a_worse_refit_gives_way_to_the_last_one_that_passed(made: backtest.Refit):
    rows = rows_of(400, 12)
    newest = rows.filter(pl.col("cut_off") == rows["cut_off"].max())
    # Learned from labels that say nothing: as if collecting had broken down.
    tests = refit(rows.with_columns(churned=pl.col("churned").shuffle(seed=1)), "customer", DAY, 30, DRIVERS).tests
    true = newest.sort("subject_id")["churned"].cast(pl.Float64).to_numpy()
    broken = replace(
        made,
        tests=tuple(
            replace(t, churned=true, metrics={EVERYBODY: metrics_of(t.said, true, 0.5)})
            if t.cut_off == DAY - timedelta(days=30)
            else t
            for t in tests
        ),
        model=replace(made.model, training_digest="broken"),
    )
    accepted, reason = compared(broken, made, newest, DRIVERS)
    assert not accepted
    assert "worse than the last refit that passed" in reason
    found = serving(lambda: broken, lambda anchor: replace(made, anchor=anchor), STAND_INS, newest, DRIVERS)
    assert found.refit.anchor == date(2025, 12, 1)
    assert found.accepted
    assert "stands in, since worse than" in found.reason


def test_a_refit_that_cannot_be_made_gives_way_to_the_last_one_that_passed(made: backtest.Refit):
    def nothing() -> backtest.Refit:
        raise NotEnoughHistory("of 500 known outcomes 0 are churn")

    found = serving(nothing, lambda anchor: replace(made, anchor=anchor), STAND_INS, rows_of(400, 1), DRIVERS)
    assert found.refit.anchor == date(2025, 12, 1)
    assert "the day's refit failed: of 500 known outcomes 0 are churn" in found.reason


def test_where_the_day_teaches_nothing_the_last_refit_that_passed_serves_however_old(made: backtest.Refit):
    def nothing() -> backtest.Refit:
        raise NotEnoughHistory("of 500 known outcomes 0 are churn")

    def refit_at(anchor: date) -> backtest.Refit:
        if anchor > date(2025, 10, 1):
            return nothing()
        return replace(made, anchor=anchor, passed=anchor == date(2025, 5, 1))

    found = serving(nothing, refit_at, STAND_INS, rows_of(400, 1), DRIVERS)
    assert (found.refit.anchor, found.accepted, len(found.examined)) == (date(2025, 5, 1), True, 6)
    bad = replace(made, passed=False, reason="not calibrated")
    assert serving(lambda: bad, refit_at, STAND_INS, rows_of(400, 1), DRIVERS).refit is bad
    with pytest.raises(NotEnoughHistory, match="0 are churn"):
        serving(nothing, lambda anchor: nothing(), STAND_INS, rows_of(400, 1), DRIVERS)


def test_refits_stand_in_from_the_starts_of_months_back_to_the_first_day():
    found = list(backtest.anchors(date(2025, 3, 9), date(2024, 11, 1)))
    assert found == [date(2025, 3, 1), date(2025, 2, 1), date(2025, 1, 1), date(2024, 12, 1)]


def test_where_nothing_passed_the_newest_serves_and_is_not_accepted(made: backtest.Refit):
    bad = replace(made, passed=False, reason="not calibrated")
    found = serving(lambda: bad, lambda anchor: replace(bad, anchor=anchor), STAND_INS, rows_of(400, 1), DRIVERS)
    assert found.refit is bad
    assert not found.accepted
    assert len(found.examined) == 4


def test_population_stability_is_nothing_for_the_same_and_large_for_another():
    rng = np.random.default_rng(2)
    values = np.append(rng.normal(size=5000), np.full(500, np.nan))
    edges, shares = deciles(values)
    assert shares.sum() == pytest.approx(1)
    assert shares[-1] == pytest.approx(500 / 5500)
    assert population_stability(shares, shares_in(edges, values)) == 0
    assert population_stability(shares, shares_in(edges, rng.permutation(values)[:2000])) < 0.05
    assert population_stability(shares, shares_in(edges, values + 1)) > 0.25


def test_samples_of_one_population_exceed_what_chance_does_once_in_a_thousand_times():
    rng = np.random.default_rng(3)
    beyond = 0
    for _ in range(2000):
        edges, shares = deciles(rng.normal(size=150))
        beyond += population_stability(shares, shares_in(edges, rng.normal(size=150))) > stability_by_chance(10, 150)
    assert 0 <= beyond <= 12


@pytest.mark.parametrize("candidate", [LOGISTIC, BOOSTED, MEAN])
def test_a_stored_model_says_the_same_when_it_is_read(made: backtest.Refit, candidate: str, tmp_path):
    model = replace(made.model, candidate=candidate)
    store(tmp_path, model, {"model_id": model.model_id})
    again = load(tmp_path, model.model_id)
    inputs = inputs_of(DRIVERS, rows_of(300, 1, seed=8))
    assert again.model_id == model.model_id
    np.testing.assert_array_equal(again.predict(inputs), model.predict(inputs))
    np.testing.assert_array_equal(log_odds(again.predict(inputs)), log_odds(model.predict(inputs)))


def test_missing_damaged_swapped_and_foreign_files_are_refused_by_name(made: backtest.Refit, tmp_path):
    import skops.io

    model, other = made.model, replace(made.model, candidate=LOGISTIC, training_digest="other")
    with pytest.raises(ModelFileError, match=f"{model.model_id}.skops: there is no such file"):
        load(tmp_path, model.model_id)
    path = store(tmp_path, model, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=f"{model.model_id}.skops: damaged or foreign"):
        load(tmp_path, model.model_id)
    path.write_bytes(store(tmp_path, other, {}).read_bytes())
    with pytest.raises(ModelFileError, match=f"holds the model {other.model_id}"):
        load(tmp_path, model.model_id)
    path.write_bytes(skops.io.dumps(np.random.default_rng))
    with pytest.raises(ModelFileError, match="damaged or foreign"):
        load(tmp_path, model.model_id)
    # What is damaged is written anew.
    store(tmp_path, model, {})
    assert load(tmp_path, model.model_id).model_id == model.model_id


def test_a_damaged_or_missing_card_is_named_and_written_anew(made: backtest.Refit, tmp_path):
    model = made.model
    card = store(tmp_path, model, {}).with_suffix(".json")
    whole = card.read_text()
    card.write_text(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match=f"{card.name}: damaged or foreign .* are replaced"):
        load(tmp_path, model.model_id)
    card.unlink()
    with pytest.raises(ModelFileError, match=f"{card.name}: there is no such file"):
        load(tmp_path, model.model_id)
    store(tmp_path, model, {})
    assert load(tmp_path, model.model_id).model_id == model.model_id


@pytest.mark.parametrize("suffix", ["skops", "json"])
def test_a_folder_in_the_place_of_a_model_is_told_and_nothing_is_left_behind(made: backtest.Refit, tmp_path, suffix: str):
    model = made.model
    (tmp_path / f"{model.model_id}.{suffix}").mkdir()
    with pytest.raises(ModelFileError, match=f"{model.model_id}.{suffix}: a folder lies where .* Move it away"):
        store(tmp_path, model, {})
    assert {path.name for path in tmp_path.iterdir()} <= {f"{model.model_id}.{suffix}", f"{model.model_id}.skops"}


def test_a_file_with_another_base_rate_or_other_edges_is_refused(made: backtest.Refit, tmp_path):
    model = made.model
    changed = replace(model, base_rate=0.9, edges=tuple(edges + 1 for edges in model.edges))
    assert changed.model_id == model.model_id
    store(tmp_path / "changed", changed, {})
    store(tmp_path, model, {})
    (tmp_path / f"{model.model_id}.skops").write_bytes((tmp_path / "changed" / f"{model.model_id}.skops").read_bytes())
    with pytest.raises(ModelFileError, match="is not the file that its card tells of"):
        load(tmp_path, model.model_id)
    store(tmp_path, model, {})
    assert load(tmp_path, model.model_id).base_rate == model.base_rate
