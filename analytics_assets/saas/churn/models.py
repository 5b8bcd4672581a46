"""Candidates for the probability of churn, and what a model is: a function of its training rows alone.

* logistic: regression on standardised inputs (logarithms mostly, `features.py`), coefficients of the sign that sense tells
* boosted: conservative trees (learning rate .05, 150 trees, 15 leaves, 40 subjects a leaf), monotonic in the same inputs; library
  defaults overfit here
* mean: the mean of both on the scale of log-odds; on Telco .8502 AUC (5-fold) beside .8499 and .8454

Classes are never weighted: balanced weights took the calibration error from .013 to .133 on Telco. No sigmoid is put on top: of 23
refits (twelve simulated companies, CDNOW, Online Retail) the tests before asked for one in four of them, and the Brier score of what came was a
little higher with it each time. All fits run on one thread: trees stall when threads contend, and sums over threads depend on their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray

LOGISTIC, BOOSTED, MEAN = "logistic", "boosted", "mean"
# Simplest first: a tie goes to the first.
CANDIDATES = (LOGISTIC, BOOSTED, MEAN)
# Probabilities of 0 and 1 have no log-odds.
SMALLEST = 1e-6
STEPS = 50
# All that is learned is kept to a millionth. Processors add in different orders, so that coefficients differ between them: by up to
# 3e-12 where a search stops, by 3e-15 once `_polished`. Log-odds move by about a millionth for it, which no decision can see.
PLACES = 6
POLISHES = 3
# Standard errors from 0 beyond which a coefficient has a direction.
CHANCE = 3.0


@dataclass(frozen=True)
class Sigmoid:
    """What bends probabilities on the scale of log-odds: intercept + slope x. It measures how far they are from calibrated (Cox 1958)."""

    intercept: float
    slope: float

    def __call__(self, probability: Floats) -> Floats:
        """Probabilities that are bent so."""
        return probability_of(self.intercept + self.slope * log_odds(probability))


@dataclass(frozen=True)
class Pair:
    """Both fitted models; candidates are made of them."""

    logistic: Any
    boosted: Any

    def predict(self, candidate: str, inputs: Floats) -> Floats:
        """The probability that a candidate gives each subject."""
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(limits=1):
            return probability_of(self.log_odds(candidate, inputs))

    def log_odds(self, candidate: str, inputs: Floats) -> Floats:
        """The log-odds that a candidate gives each subject, on as many threads as the caller allows."""
        if not len(inputs):
            return np.empty(0)
        models = [model for model, left_out in ((self.logistic, BOOSTED), (self.boosted, LOGISTIC)) if candidate != left_out]
        found: Floats = np.mean([log_odds(model.predict_proba(inputs)[:, 1]) for model in models], axis=0)
        return found


def log_odds(probability: Floats) -> Floats:
    """ln(p / (1 - p)), p kept away from 0 and 1."""
    p = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return np.log(p / (1 - p))


def probability_of(odds: Floats) -> Floats:
    """The probability of log-odds."""
    return 1 / (1 + np.exp(-odds))


def fit(inputs: Floats, churned: Floats, signs: Sequence[int] | None = None, overlap: float = 1.0) -> Pair:
    """Fit both models on training rows, which must hold both classes, in a fixed order.

    Args:
        inputs: one row per subject and cut-off, one column per input; NaN where unknown.
        churned: 0 or 1 for each row.
        signs: of each input whether more of it may only raise (1) or lower (-1) the probability, or goes one way that sense does
            not tell (0): then that of the regression, and where it shows none beyond chance the input says nothing. Without signs
            inputs are free to go any way.
        overlap: how many rows, of overlapping windows, tell of one outcome. They count as one: what is learned from the same few leavers
            three times over is no surer for it.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from sklearn.impute import SimpleImputer  # type: ignore[import-untyped]
    from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        imputer = SimpleImputer(keep_empty_features=True).fit(inputs)
        imputer.statistics_ = np.round(imputer.statistics_, PLACES)
        scaler = StandardScaler().fit(imputer.transform(inputs))
        scaler.mean_, scaler.scale_ = np.round(scaler.mean_, PLACES), np.maximum(np.round(scaler.scale_, PLACES), 10.0**-PLACES)
        scaler.var_ = scaler.scale_**2
        standardised = scaler.transform(imputer.transform(inputs))
        mute = np.all(np.isnan(inputs), axis=0)
        if signs is None:
            ways = np.zeros(inputs.shape[1], dtype=np.int64)
        else:
            ways = _ways(standardised, churned, signs, overlap)
            mute |= ways == 0
        regression = _regression(np.where(mute, 0.0, standardised), churned, ways, overlap)
        boosted = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=150, max_leaf_nodes=15, min_samples_leaf=round(40 * overlap), early_stopping=False,
            random_state=0, monotonic_cst=ways.tolist(),
        )  # fmt: skip
        # A constant is never split on; what is known of nobody could not even be binned.
        boosted.fit(np.where(mute, 0.0, inputs), churned)
    boosted._baseline_prediction = np.round(boosted._baseline_prediction, PLACES)
    for trees in boosted._predictors:
        trees[0].nodes["value"] = np.round(trees[0].nodes["value"], PLACES)
    return Pair(make_pipeline(imputer, scaler, regression), boosted)


def _ways(standardised: Floats, churned: Floats, signs: Sequence[int], overlap: float) -> Floats:
    """The signs, and of inputs without one that of their coefficient in a regression, 0 where it is within `CHANCE` standard errors of 0."""
    found = np.array(signs, dtype=np.int64)
    regression = _regression(standardised, churned, signs, overlap)
    x = np.column_stack([standardised, np.ones(len(standardised))])
    weights = np.append(regression.coef_[0], regression.intercept_)
    free = np.append(found == 0, True) | (weights != 0)
    errors = np.full(len(weights), np.inf)
    errors[free] = np.sqrt(np.diag(np.linalg.inv(_curvature(weights, x, overlap)[np.ix_(free, free)])))
    sure = np.abs(weights) > CHANCE * errors
    return np.where(found == 0, np.where(sure, np.sign(weights), 0)[:-1], found).astype(np.int64)


def _regression(standardised: Floats, churned: Floats, signs: Sequence[int] | Floats, overlap: float) -> Any:
    """Logistic regression with the L2 penalty of scikit-learn's (C = 1), and coefficients that keep to their signs."""
    from scipy.optimize import minimize
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    x = np.column_stack([standardised, np.ones(len(standardised))])
    penalised = _penalised(x)

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = x @ weights
        value = np.sum(np.logaddexp(0, odds) - churned * odds) / overlap + np.sum(penalised * weights**2) / 2
        return float(value) / len(x), (x.T @ (probability_of(odds) - churned) / overlap + penalised * weights) / len(x)

    bounds = [(0.0 if sign > 0 else None, 0.0 if sign < 0 else None) for sign in (*signs, 0)]
    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    regression = LogisticRegression(C=1.0)
    regression.classes_, regression.n_features_in_ = np.array([0.0, 1.0]), standardised.shape[1]
    weights = np.round(_polished(found.x, x, churned, signs, overlap), PLACES)
    regression.coef_, regression.intercept_ = weights[None, :-1], weights[-1:]
    return regression


def _penalised(x: Floats) -> Floats:
    """Which weights are held small: all but the intercept, the last."""
    return np.append(np.ones(x.shape[1] - 1), 0.0)


def _curvature(weights: Floats, x: Floats, overlap: float) -> Floats:
    """Second derivatives of the penalised loss."""
    expected = probability_of(x @ weights)
    found: Floats = (x * (expected * (1 - expected))[:, None]).T @ x / overlap + np.diag(_penalised(x))
    return found


def _polished(weights: Floats, x: Floats, churned: Floats, signs: Sequence[int] | Floats, overlap: float) -> Floats:
    """The optimum near weights, by Newton's method on those that their sign does not hold at 0.

    A search stops up to 1e-4 before it, and where exactly depends on the processor.
    """
    free = np.append(np.array(signs) == 0, True) | (weights != 0)
    for _ in range(POLISHES):
        slope = x.T @ (probability_of(x @ weights) - churned) / overlap + _penalised(x) * weights
        weights = weights.copy()
        weights[free] -= np.linalg.solve(_curvature(weights, x, overlap)[np.ix_(free, free)], slope[free])
    against_sense = np.append(np.array(signs) * weights[:-1] < 0, False)
    return np.where(against_sense, 0.0, weights)


def fit_sigmoid(probability: Floats, churned: Floats) -> Sigmoid:
    """Maximum likelihood by Newton's method, with the weak prior of Platt's targets, so that it exists for separated classes too."""
    positive, negative = float(np.sum(churned)), float(np.sum(1 - churned))
    target = np.where(churned > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    x = np.column_stack([np.ones(len(probability)), log_odds(probability)])

    def loss(parameters: Floats) -> float:
        odds = x @ parameters
        return float(np.sum(np.logaddexp(0, odds) - target * odds))

    parameters = np.array([0.0, 1.0])
    for _ in range(STEPS):
        expected = probability_of(x @ parameters)
        curvature = (x * (expected * (1 - expected))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, x.T @ (target - expected))
        if np.max(np.abs(step)) < 1e-10:
            break
        # A whole step can overshoot where most probabilities are near 0 or 1.
        while loss(parameters + step) > loss(parameters) and np.max(np.abs(step)) > 1e-12:
            step = step / 2
        parameters = parameters + step
    return Sigmoid(round(float(parameters[0]), PLACES), round(float(parameters[1]), PLACES))


@dataclass(frozen=True)
class Model:
    """A candidate that serves: fitted models, and what its training rows looked like.

    `edges` and `shares` of inputs and of its own scores on the training rows (deciles) are what drift is measured against; `unrest` is
    the largest population stability index of one of its cut-offs beside all of them: so much comes with a season, or with growing up.
    """

    candidate: str
    pair: Pair
    inputs: tuple[str, ...]
    base_rate: float
    training_digest: str
    edges: tuple[Floats, ...]
    shares: tuple[Floats, ...]
    unrest: tuple[float, ...]

    @property
    def model_id(self) -> str:
        """Sixteen hex digits over the fitted parameters and the digest of the training rows."""
        digest = hashlib.sha256(repr((self.candidate, self.inputs, self.training_digest)).encode())
        for values in parameters_of(self.candidate, self.pair):
            digest.update(values)
        return digest.hexdigest()[:16]

    @property
    def deviations(self) -> Floats:
        """The standard deviation of each input over the training rows; of one that was the same for all nothing is far: infinite."""
        scale: Floats = self.pair.logistic.named_steps["standardscaler"].scale_
        return np.where(scale > 10.0**-PLACES, scale, np.inf)

    def predict(self, inputs: Floats) -> Floats:
        """Probability of churn, rounded to six digits."""
        return np.round(self.pair.predict(self.candidate, inputs), PLACES)

    def contributions(self, inputs: Floats, groups: list[list[int]], usual: Floats) -> Floats:
        """By how much each group of inputs raises the log-odds of a subject: one column per group.

        The group is set to what is `usual` (one value per input, NaN for unknown), the rest left as it is; what the log-odds
        fall by is the group's contribution. For the logistic model alone that is coefficient times distance from the usual.
        """
        from threadpoolctl import threadpool_limits

        found = np.zeros((len(inputs), len(groups)))
        # To limit threads takes 3 to 12 ms: once, and not for each group.
        with threadpool_limits(limits=1):
            whole = self.pair.log_odds(self.candidate, inputs)
            for place, columns in enumerate(groups):
                same = (inputs[:, columns] == usual[columns]) | (np.isnan(inputs[:, columns]) & np.isnan(usual[columns]))
                apart = ~np.all(same, axis=1)
                without = inputs[apart]
                without[:, columns] = usual[columns]
                found[apart, place] = whole[apart] - self.pair.log_odds(self.candidate, without)
        return np.round(found, 9)


def parameters_of(candidate: str, pair: Pair) -> list[bytes]:
    """The bytes of everything that a candidate has learned."""
    found: list[bytes] = []
    if candidate != BOOSTED:
        imputer, scaler, regression = (step for _, step in pair.logistic.steps)
        learned = (imputer.statistics_, scaler.mean_, scaler.scale_, regression.coef_, regression.intercept_)
        found += [np.ascontiguousarray(values).tobytes() for values in learned]
    if candidate != LOGISTIC:
        found.append(np.ascontiguousarray(pair.boosted._baseline_prediction).tobytes())
        for trees in pair.boosted._predictors:
            # `gain` and counts are of the training, and the rest is all that a prediction reads.
            nodes = trees[0].nodes
            found += [
                np.ascontiguousarray(nodes[name]).tobytes()
                for name in ("value", "feature_idx", "num_threshold", "missing_go_to_left", "left", "right", "is_leaf")
            ]
    return found


def deciles(values: Floats) -> tuple[Floats, Floats]:
    """Edges of the deciles of what is known, each once, and the share of all values in each bin; the last is the unknown."""
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.linspace(0.1, 0.9, 9))) if len(known) else np.empty(0)
    return edges, shares_in(edges, values)


def shares_in(edges: Floats, values: Floats) -> Floats:
    """Share of values in each bin between the edges (an edge belongs to the bin below), and that of the unknown."""
    unknown = np.isnan(values)
    counts = np.bincount(np.searchsorted(edges, values[~unknown], side="left"), minlength=len(edges) + 1)
    return np.append(counts, np.sum(unknown)) / max(len(values), 1)


def stability_by_chance(bins: int, subjects: int) -> float:
    """The population stability index that two samples of one population exceed once in a thousand times.

    It is distributed as chi-squared over the number of subjects, for both samples (Yurdakul and Naranjo 2020).

    Args:
        bins: how many there are.
        subjects: in each of the samples.
    """
    from scipy.stats import chi2

    return float(chi2.ppf(0.999, bins - 1) * 2 / subjects)


def population_stability(expected: Floats, found: Floats) -> float:
    """Population stability index: sum of (q - p) ln(q / p) over bins; above .25 the population is said to have changed.

    Shares are kept above a ten-thousandth, so that an empty bin counts and does not make it infinite.
    """
    p, q = np.maximum(expected, 1e-4), np.maximum(found, 1e-4)
    return float(np.sum((q - p) * np.log(q / p)))
