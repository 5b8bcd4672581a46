"""Why a subject has its probability: the drivers that set it apart from the others of the day, each told by one figure.

A driver's contribution is what the log-odds of the model change by when all of its inputs are set to those of the median subject of
the day (the rest left as it is); for the logistic model alone that is coefficient times distance, the exact Shapley value of a
linear model with that one subject to compare with (Lundberg and Lee 2017). A driver is told by the input that, set to the median
alone, changes most in the driver's direction. Models go one way in every input (`models.fit`), so that no reason says of more use
that it raises the risk, nor of a price that it does for who pays more and for who pays less; which side of the usual a figure lies on is
looked at all the same, since figures are rounded. A driver without a figure on its side, or with one that is not known, is no reason.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analytics_assets.saas.churn.features import EITHER, Driver, inputs_of
from analytics_assets.saas.churn.models import Floats, Model

REASONS = 3
# Odds that differ by less than a fifth are nothing to call about.
SMALLEST = 0.2
NOTHING = "nothing sets it apart"


def reasons_of(rows: pl.DataFrame, model: Model, drivers: tuple[Driver, ...]) -> pl.Series:
    """The three strongest reasons of each subject, strongest first: `raises` or `lowers`, its figure, and the usual one."""
    if rows.is_empty():
        return pl.Series([], dtype=pl.String)
    inputs = inputs_of(drivers, rows)
    usual = np.array([np.median(known) if len(known := column[~np.isnan(column)]) else np.nan for column in inputs.T])
    ends = np.cumsum([len(driver.inputs) for driver in drivers])
    groups = [list(range(end - len(driver.inputs), end)) for driver, end in zip(drivers, ends, strict=True)]
    of_driver = model.contributions(inputs, groups, usual)
    of_input = np.empty_like(inputs)
    for place, columns in enumerate(groups):
        alone = model.contributions(inputs, [[column] for column in columns], usual) if len(columns) > 1 else None
        of_input[:, columns] = of_driver[:, [place]] if alone is None else alone

    figures, texts = _told(rows, drivers)
    apart = _on_its_side(figures, texts, drivers, of_input)
    strength, told_by = np.zeros_like(of_driver), np.zeros(of_driver.shape, dtype=np.int64)
    for place, columns in enumerate(groups):
        same = np.sign(of_input[:, columns]) == np.sign(of_driver[:, [place]])
        by = np.where(same & apart[:, columns], np.abs(of_input[:, columns]), 0.0)
        told_by[:, place] = np.array(columns)[np.argmax(by, axis=1)]
        strength[:, place] = np.where(np.max(by, axis=1) > 0, np.abs(of_driver[:, place]), 0.0)
    strength[strength < SMALLEST] = 0.0
    order = np.argsort(-strength, axis=1, kind="stable")[:, :REASONS]
    reasons = []
    for places in order.T:
        everybody = np.arange(rows.height)
        column = np.where(strength[everybody, places] > 0, told_by[everybody, places], -1)
        text = pl.lit(None, pl.String)
        for number in range(inputs.shape[1]):
            text = pl.when(pl.lit(pl.Series(column)) == number).then(pl.col(f"{number}")).otherwise(text)
        direction = pl.Series(np.where(of_driver[everybody, places] > 0, "raises: ", "lowers: "))
        reasons.append(pl.lit(direction) + text)
    joined = pl.concat_str(reasons, separator="; ", ignore_nulls=True)
    return texts.select(pl.when(joined == "").then(pl.lit(NOTHING)).otherwise(joined).alias("reasons"))["reasons"]


def _told(rows: pl.DataFrame, drivers: tuple[Driver, ...]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of each input its figure less the usual one, and its text: columns `0`, `1`, ... in the order of the inputs."""
    told = [one for driver in drivers for one in driver.inputs.values()]
    figures = rows.select(one.figure.cast(pl.Float64).fill_nan(None).alias(f"{number}") for number, one in enumerate(told))
    usual = figures.median()
    written = [
        frame.select(one.told(pl.col(f"{number}")).alias(f"{number}") for number, one in enumerate(told))
        for frame in (figures, usual)
    ]
    texts = []
    for number, one in enumerate(told):
        own, others = pl.col(f"{number}"), written[1].item(0, number)
        before, after = one.words.split("{}")
        text = pl.concat_str(pl.lit(before), own, pl.lit(f"{after} (usual: {others})"))
        texts.append(pl.when(own != pl.lit(others, pl.String)).then(text).alias(f"{number}"))
    return figures.select(pl.col(name) - usual.item(0, name) for name in figures.columns), written[0].select(texts)


def _on_its_side(figures: pl.DataFrame, texts: pl.DataFrame, drivers: tuple[Driver, ...], of_input: Floats) -> np.ndarray:
    """Whether an input may be told: its text differs from the usual one, and its figure lies on the side that it speaks for."""
    signs = np.array([one.sign for driver in drivers for one in driver.inputs.values()])
    distance = figures.fill_null(float("nan")).to_numpy()
    speaks = (signs == EITHER) | np.isnan(distance) | (np.sign(distance) * signs == np.sign(of_input))
    return speaks & texts.select(pl.all().is_not_null()).to_numpy()
