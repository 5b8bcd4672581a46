"""Refits held against what came true: rolling cut-offs, metrics, the candidate that serves, and the gate.

A refit is a function of a training set: rows of cut-offs whose windows have ended. It is tested at cut-offs a whole horizon
apart, newest first, each time fitted on the cut-offs whose windows had ended by the one that is tested. So no label is seen
twice: windows that reach into the tested one invent .026 to .057 of AUC. The earlier tests choose the candidate; the
newest one, which chose nothing, is the one that the gate looks at. Where there is one test only, it must do both, and the refit says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice

import numpy as np
import polars as pl

from analytics_assets.saas.churn.features import Driver, Kind, input_names, inputs_of, measured, segment_of, signs_of
from analytics_assets.saas.churn.models import (
    CANDIDATES,
    PLACES,
    Floats,
    Model,
    Pair,
    deciles,
    fit,
    fit_sigmoid,
    log_odds,
    population_stability,
    shares_in,
)

FOLDS = 3
ANCHORS = 3
# Fewer of either class and neither a fit nor an AUC says anything.
FEWEST_OF_A_CLASS = 20
# A refit replaces another when it is not worse by more than these, or by no more than chance (twice the standard error of the
# difference on the same subjects). On CDNOW neighbouring refits differ by up to .005 and 1 %.
TOLERANCE_AUC = 0.01
TOLERANCE_BRIER = 0.02
# Distance of said from real churn, over ten groups of equal size, beyond what chance alone gives a perfect model; less is allowed where
# a sigmoid gains more (twice the log-likelihood) than of a perfect model once in a thousand tests (chi-squared, 2 degrees of freedom).
# At 320 accounts that sees a slope of .58 in 78 of 100 tests, where five points alone saw it in 5.
LARGEST_CALIBRATION_ERROR = 0.05
LARGEST_ERROR_OF_A_BENT_SCALE = 0.02
LARGEST_GAIN = 13.8
BINS = 10
EVERYBODY = "all"


class NotEnoughHistory(Exception):
    """Nothing can be learned yet; the message says what is lacking."""


@dataclass(frozen=True)
class Metrics:
    """How probabilities compare with what came true, of `subjects` of whom `churned` did.

    `brier_of_base_rate` is the Brier score of giving everybody the training rows' churn rate. `calibration_slope` is 1 for
    a calibrated model (below: too extreme), `calibration_error` the mean distance over ten groups of equal size, and
    `chance_error` what a perfectly calibrated model would show there. AUC and lift are NULL with one class only.
    """

    subjects: int
    churned: int
    auc: float | None
    brier: float
    brier_of_base_rate: float
    calibration_slope: float | None
    calibration_error: float
    chance_error: float
    lift_top_decile: float | None


@dataclass(frozen=True)
class Test:
    """One candidate at one earlier cut-off: metrics of everybody and of each segment, and what it said.

    `trained_until` is the end of the latest window that it was fitted on: never after the cut-off.
    """

    candidate: str
    cut_off: date
    trained_until: date
    metrics: dict[str, Metrics]
    said: Floats
    churned: Floats


@dataclass(frozen=True)
class Refit:
    """A fitted model as of the end of `anchor`, its tests (newest first), and whether it passed on its own."""

    kind: Kind
    anchor: date
    model: Model
    rows: int
    cut_offs: int
    trained_until: date
    tests: tuple[Test, ...]
    passed: bool
    reason: str

    @property
    def newest(self) -> Test | None:
        """The newest test of the candidate that serves."""
        return next((test for test in self.tests if test.candidate == self.model.candidate), None)


@dataclass(frozen=True)
class Serving:
    """The refit that serves a day, whether it was accepted, and why, of all that were looked at."""

    refit: Refit
    examined: tuple[Refit, ...]
    verdicts: tuple[tuple[bool, str], ...]

    @property
    def accepted(self) -> bool:
        """Whether the refit that serves passed the gate."""
        return next(verdict[0] for refit, verdict in zip(self.examined, self.verdicts, strict=True) if refit is self.refit)

    @property
    def reason(self) -> str:
        """Why this refit serves, in words."""
        return next(verdict[1] for refit, verdict in zip(self.examined, self.verdicts, strict=True) if refit is self.refit)


def step_days(horizon_days: int) -> int:
    """Days between neighbouring cut-offs: a third of the horizon, and no whole weeks, so that all weekdays come up."""
    step = -(-horizon_days // 3)
    return step + 1 if step % 7 == 0 else step


def training_cut_offs(day: date, horizon_days: int, first_day: date, most: int) -> list[date]:
    """The newest cut-offs whose windows had ended by a day, oldest first, each with a past at least as long as half the horizon.

    They lie on a grid that is counted from 1970-01-01 and not from the day: a cut-off's rows are the same whichever day
    asks for them, training sets of neighbouring days share them, and a refit of an earlier day saw a subset of what later ones see.
    """
    step = step_days(horizon_days)
    newest = (day - timedelta(days=horizon_days)).toordinal() // step * step
    found = [date.fromordinal(newest - step * number) for number in range(most) if newest - step * number > 0]
    return [cut_off for cut_off in reversed(found) if 2 * ((cut_off - first_day).days + 1) >= horizon_days]


def overlap(cut_offs: Sequence[date], horizon_days: int) -> float:
    """How many windows of a training set a day lies in: so many rows of a subject tell of one outcome."""
    return min(len(cut_offs), horizon_days / step_days(horizon_days))


def no_cut_off(horizon_days: int) -> str:
    """Why there is nothing to learn from."""
    return f"no cut-off yet with {-(-horizon_days // 2)} days before it and {horizon_days} after it (they lie {step_days(horizon_days)} days apart)"


def metrics_of(said: Floats, churned: Floats, base_rate: float) -> Metrics:
    """Compare probabilities with what came true."""
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    count, positive = len(churned), int(np.sum(churned))
    both = 0 < positive < count
    order = np.argsort(-said, kind="stable")
    error, chance = _calibration(said[order], churned[order])
    top = churned[order][: max(1, round(count / 10))]
    return Metrics(
        subjects=count,
        churned=positive,
        auc=round(float(roc_auc_score(churned, said)), 6) if both else None,
        brier=round(float(np.mean((said - churned) ** 2)), 6),
        brier_of_base_rate=round(float(np.mean((base_rate - churned) ** 2)), 6),
        calibration_slope=round(fit_sigmoid(said, churned).slope, 4) if both else None,
        calibration_error=round(error, 6),
        chance_error=round(chance, 6),
        lift_top_decile=round(float(np.mean(top)) / (positive / count), 4) if both else None,
    )


def _calibration(said: Floats, churned: Floats) -> tuple[float, float]:
    """Mean distance of said from real churn over groups of equal size (subjects in order), and its expectation by chance."""
    groups = [group for group in zip(np.array_split(said, BINS), np.array_split(churned, BINS), strict=True) if len(group[0])]
    distance = sum(abs(np.mean(p) - np.mean(y)) * len(p) for p, y in groups)
    # E|x| of a normal deviate is sqrt(2 / pi) of its standard deviation.
    chance = sum(np.sqrt(2 / np.pi * np.mean(p * (1 - p)) / len(p)) * len(p) for p, _ in groups)
    return float(distance / len(said)), float(chance / len(said))


def folds(cut_offs: Sequence[date], horizon_days: int) -> list[tuple[date, list[date]]]:
    """The tested cut-offs, newest first, each with those that it may be fitted on: their windows had ended by then."""
    found: list[tuple[date, list[date]]] = []
    for cut_off in sorted(cut_offs, reverse=True):
        ended = [other for other in cut_offs if other + timedelta(days=horizon_days) <= cut_off]
        if ended and len(found) < FOLDS and (not found or cut_off + timedelta(days=horizon_days) <= found[-1][0]):
            found.append((cut_off, ended))
    return found


def digest_of(rows: pl.DataFrame, inputs: Floats) -> str:
    """SHA-256 over what models learn from: cut-off, subject, label and inputs of each row, in order."""
    digest = hashlib.sha256(inputs.tobytes())
    digest.update(rows["churned"].cast(pl.UInt8).to_numpy().tobytes())
    digest.update(rows["cut_off"].cast(pl.Int32).to_numpy().tobytes())
    for subject in rows["subject_id"].to_list():
        digest.update(subject.encode() + b"\0")
    return digest.hexdigest()


def refit(rows: pl.DataFrame, kind: Kind, anchor: date, horizon_days: int, drivers: tuple[Driver, ...]) -> Refit:
    """Fit on all rows of a training set after testing on earlier cut-offs.

    Args:
        rows: `cut_off`, `subject_id`, `churned` and the columns of the kind; one row per cut-off and subject.
        kind: accounts or customers.
        anchor: the day at whose end all labels were known.
        horizon_days: length of the windows.
        drivers: what models take of a row.

    Raises:
        NotEnoughHistory: no window has ended yet, or (nearly) all labels are the same.
    """
    rows = rows.sort("cut_off", "subject_id")
    if rows.is_empty():
        raise NotEnoughHistory(f"no {kind} at a cut-off whose next {horizon_days} days have passed")
    inputs, churned = inputs_of(drivers, rows), rows["churned"].cast(pl.Float64).to_numpy()
    _both_classes(churned, kind, horizon_days)
    of_cut_off = rows["cut_off"].to_numpy()
    segments = rows.select(segment_of(kind).alias("segment"))["segment"].to_numpy()
    cut_offs = sorted(rows["cut_off"].unique().to_list())
    tests: list[Test] = []
    for cut_off, ended in folds(cut_offs, horizon_days):
        learned, tested = np.isin(of_cut_off, np.array(ended, dtype="datetime64[D]")), of_cut_off == np.datetime64(cut_off)
        try:
            _both_classes(churned[learned], kind, horizon_days)
        except NotEnoughHistory:
            break
        pair = fit(inputs[learned], churned[learned], signs_of(drivers), overlap(ended, horizon_days))
        tests += _tests(
            pair,
            inputs[tested],
            churned[tested],
            segments[tested],
            float(np.mean(churned[learned])),
            cut_off,
            max(ended) + timedelta(days=horizon_days),
        )
    candidate = winner(tests)
    pair = fit(inputs, churned, signs_of(drivers), overlap(cut_offs, horizon_days))
    columns = (*measured(drivers, rows).T, np.round(pair.predict(candidate, inputs), PLACES))
    model = _model(pair, candidate, columns, churned, of_cut_off, drivers, digest_of(rows, inputs))
    found = Refit(
        kind, anchor, model, rows.height, len(cut_offs), max(cut_offs) + timedelta(days=horizon_days), tuple(tests), False, ""
    )
    passed, reason = verdict(found)
    return Refit(**{**found.__dict__, "passed": passed, "reason": reason})


def _both_classes(churned: Floats, kind: Kind, horizon_days: int) -> None:
    positive = int(np.sum(churned))
    if min(positive, len(churned) - positive) < FEWEST_OF_A_CLASS:
        raise NotEnoughHistory(
            f"of {len(churned)} known outcomes of {kind}s within {horizon_days} days {positive} are churn; "
            f"a model needs at least {FEWEST_OF_A_CLASS} of both"
        )


def _tests(
    pair: Pair, inputs: Floats, churned: Floats, segments: np.ndarray, base_rate: float, cut_off: date, trained_until: date
) -> list[Test]:
    found = []
    for candidate in CANDIDATES:
        # As scores are: equal subjects are ties on every processor.
        said = np.round(pair.predict(candidate, inputs), PLACES)
        found.append(Test(candidate, cut_off, trained_until, _by_segment(said, churned, segments, base_rate), said, churned))
    return found


def _by_segment(said: Floats, churned: Floats, segments: np.ndarray, base_rate: float) -> dict[str, Metrics]:
    found = {EVERYBODY: metrics_of(said, churned, base_rate)}
    for segment in sorted(set(segments)):
        there = segments == segment
        found[str(segment)] = metrics_of(said[there], churned[there], base_rate)
    return found


def winner(tests: Sequence[Test]) -> str:
    """The candidate with the smallest Brier score over the tests before the newest (where there is one only, over that)."""
    newest = max((test.cut_off for test in tests), default=None)
    judged = [test for test in tests if test.cut_off != newest] or list(tests)
    if not judged:
        return CANDIDATES[0]
    return min(CANDIDATES, key=lambda name: sum(test.metrics[EVERYBODY].brier for test in judged if test.candidate == name))


def _model(
    pair: Pair,
    candidate: str,
    columns: tuple[Floats, ...],
    churned: Floats,
    of_cut_off: np.ndarray,
    drivers: tuple[Driver, ...],
    digest: str,
) -> Model:
    bins = [deciles(values) for values in columns]
    unrest = [
        max(population_stability(shares, shares_in(edges, values[of_cut_off == cut_off])) for cut_off in np.unique(of_cut_off))
        for values, (edges, shares) in zip(columns, bins, strict=True)
    ]
    return Model(
        candidate, pair, tuple(input_names(drivers)), float(np.mean(churned)), digest,
        tuple(edges for edges, _ in bins), tuple(shares for _, shares in bins), tuple(unrest),
    )  # fmt: skip


def verdict(found: Refit) -> tuple[bool, str]:
    """Whether a refit passes on its own: at its newest test calibrated, and better than giving everybody the same."""
    newest = found.newest
    if newest is None:
        return False, "not enough history to backtest: two horizons and a cut-off between them are needed"
    said = newest.metrics[EVERYBODY]
    if said.auc is None:
        return False, f"at the cut-off {newest.cut_off} all outcomes are the same"
    text = f"AUC {said.auc:.4f}, Brier {said.brier:.4f}, calibration error {said.calibration_error:.3f} at the cut-off {newest.cut_off}"
    if said.brier >= said.brier_of_base_rate:
        return False, f"no better than giving everybody the same probability (Brier {said.brier_of_base_rate:.4f}): {text}"
    is_bent = gain_by_sigmoid(newest.said, newest.churned) > LARGEST_GAIN
    largest = LARGEST_ERROR_OF_A_BENT_SCALE if is_bent else LARGEST_CALIBRATION_ERROR
    if said.calibration_error > largest + said.chance_error:
        return False, f"not calibrated: off by more than {largest:.0%} and chance: {text}"
    return True, text


def gain_by_sigmoid(said: Floats, churned: Floats) -> float:
    """Twice the log-likelihood that the best sigmoid of probabilities is ahead of them (the test of calibration of Cox 1958)."""
    odds = [log_odds(said), log_odds(fit_sigmoid(said, churned)(said))]
    as_it_is, best = (float(np.sum(churned * x - np.logaddexp(0, x))) for x in odds)
    return 2 * (best - as_it_is)


def anchors(cut_off: date, first_day: date) -> Iterator[date]:
    """The days whose refits may stand in: starts of months up to a cut-off, newest first, as far back as there are days.

    At that cut-off all that they learned from had ended, so that they can be held against a newer refit there.
    """
    anchor = cut_off.replace(day=1)
    while anchor > first_day:
        yield anchor
        anchor = (anchor - timedelta(days=1)).replace(day=1)


def serving(
    challenger: Callable[[], Refit],
    refit_at: Callable[[date], Refit],
    stand_ins: Iterable[date],
    tested: pl.DataFrame,
    drivers: tuple[Driver, ...],
) -> Serving:
    """The refit of the day if it passes the gate, else the last refit that passed.

    Args:
        challenger: makes the refit of the day; raises NotEnoughHistory.
        refit_at: makes the refit of an anchor; raises NotEnoughHistory.
        stand_ins: the anchors, newest first.
        tested: the day's training rows of the newest cut-off whose window has ended.
        drivers: what models take of a row.

    The gate: it passes on its own (`verdict`), and at its newest test it is no worse than the last refit that passed is on the
    same subjects. Beside a refit of the day the newest `ANCHORS` are looked at. Where none can be made, as where all labels of the day are
    the same, the last that passed is looked for however old it is. Where nothing passed, the newest refit serves and says so.
    Raises NotEnoughHistory where there is none.
    """
    examined: list[Refit] = []
    verdicts: list[tuple[bool, str]] = []
    lacking = None
    try:
        examined.append(challenger())
        verdicts.append((examined[0].passed, examined[0].reason))
    except NotEnoughHistory as error:
        lacking = error
    before = []
    for anchor in islice(stand_ins, ANCHORS) if examined else stand_ins:
        try:
            before.append(refit_at(anchor))
        except NotEnoughHistory:
            continue
        if before[-1].passed:
            break
    last_good = next((one for one in before if one.passed), None)
    if last_good and examined and examined[0].passed:
        verdicts[0] = compared(examined[0], last_good, tested, drivers)
    if examined and verdicts[0][0]:
        return Serving(examined[0], tuple(examined), tuple(verdicts))
    why = verdicts[0][1] if examined else f"the day's refit failed: {lacking}"
    examined += before
    verdicts += [(one.passed, f"stands in, since {why}; {one.reason}" if one is last_good else one.reason) for one in before]
    if not examined:
        raise lacking or NotEnoughHistory("nothing to learn from")
    return Serving(last_good or examined[0], tuple(examined), tuple(verdicts))


def compared(new: Refit, old: Refit, tested: pl.DataFrame, drivers: tuple[Driver, ...]) -> tuple[bool, str]:
    """Whether a refit is no worse at its newest test than an older one on the same subjects, and the words for it."""
    newest = new.newest
    assert newest is not None, "a refit that passed has a test"
    tested = tested.sort("subject_id")
    churned = tested["churned"].cast(pl.Float64).to_numpy()
    said = old.model.predict(inputs_of(drivers, tested))
    theirs, ours = metrics_of(said, churned, old.model.base_rate), newest.metrics[EVERYBODY]
    assert theirs.auc is not None and ours.auc is not None, "a refit that passed was tested on both classes"
    beside = f"{new.reason} (refit of {old.anchor}: AUC {theirs.auc:.4f}, Brier {theirs.brier:.4f})"
    squared = (newest.said - churned) ** 2 - (said - churned) ** 2
    brier_error = float(np.std(squared) / np.sqrt(len(squared)))
    ranks_worse = theirs.auc - ours.auc > max(TOLERANCE_AUC, 2 * _auc_difference_error(newest.said, said, churned))
    if ranks_worse or ours.brier - theirs.brier > max(TOLERANCE_BRIER * theirs.brier, 2 * brier_error):
        return False, f"worse than the last refit that passed: {beside}"
    return True, beside


def _auc_difference_error(one: Floats, other: Floats, churned: Floats) -> float:
    """Standard error of the difference of two AUCs on the same subjects (DeLong, DeLong and Clarke-Pearson 1988)."""
    from scipy.stats import rankdata

    variance = 0.0
    positive = churned > 0
    for mine, theirs in ((positive, ~positive), (~positive, positive)):
        # Share of the other class that lies below a subject, ties counting half.
        below = [(rankdata(said)[mine] - rankdata(said[mine])) / np.sum(theirs) for said in (one, other)]
        variance += float(np.var(below[0] - below[1], ddof=1)) / int(np.sum(mine))
    return float(np.sqrt(variance))
