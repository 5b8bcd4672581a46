"""Why a subject has its probability: the drivers that set it apart from the others of the day, each told by one figure.

A driver's contribution is what the log-odds of the model change by when all of its inputs are set to those of the median subject of
the day (the rest left as it is); for the logistic model alone that is coefficient times distance, the exact Shapley value of a
linear model with that one subject to compare with (Lundberg and Lee 2017). The inputs of a driver go together (where people stop coming
events fall too), and which of them a model weighs is chance: a driver is told by the one that lies furthest from the usual, in standard
deviations of the training rows, on the side that the driver speaks for. Models go one way in every input (`models.fit`), so that no
reason says of more use that it raises the risk, nor of a price that it does for who pays more and for who pays less; which side of the
usual a figure lies on is looked at all the same, since figures are rounded. A driver without a figure on its side, or with one that is not
known, is no reason.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analytics_assets.saas.churn.features import EITHER, Driver, inputs_of
from analytics_assets.saas.churn.models import Floats, Model

REASONS = 3
# Odds that differ by less than a fifth are nothing to call about, and chance: models of four simulated companies with one law (240
# accounts, five months) agree on the direction of 60 % of what lies from .1 to .2, and of 86 % from .2 to .3. Above it 97 to 100 % of their
# high bands have three reasons, and 60 to 83 % of all accounts.
SMALLEST = 0.2
NOTHING = "nothing sets it apart"


def reasons_of(rows: pl.DataFrame, model: Model, drivers: tuple[Driver, ...]) -> pl.Series:
    """The reasons of each subject, at most three, strongest first: `raises` or `lowers`, its figure, and the usual one."""
    if rows.is_empty():
        return pl.Series([], dtype=pl.String)
    inputs = inputs_of(drivers, rows)
    usual = np.array([np.median(known) if len(known := column[~np.isnan(column)]) else np.nan for column in inputs.T])
    ends = np.cumsum([len(driver.inputs) for driver in drivers])
    groups = [list(range(end - len(driver.inputs), end)) for driver, end in zip(drivers, ends, strict=True)]
    of_driver = model.contributions(inputs, groups, usual)
    distance = np.nan_to_num((inputs - usual) / model.deviations)
    figures, texts = _told(rows, drivers)
    told = texts.select(pl.all().is_not_null()).to_numpy()
    signs = np.array([one.sign for driver in drivers for one in driver.inputs.values()])
    strength, told_by = np.zeros_like(of_driver), np.zeros(of_driver.shape, dtype=np.int64)
    for place, columns in enumerate(groups):
        # Above the usual (1) or below it lies what speaks for the driver; of an input that may go either way the side that it is on.
        side = np.where(signs[columns] == EITHER, np.sign(distance[:, columns]), signs[columns] * np.sign(of_driver[:, [place]]))
        speaks = told[:, columns] & (side * figures[:, columns] >= 0)
        by = np.where(speaks, np.maximum(side * distance[:, columns], 0.0), 0.0)
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


def _told(rows: pl.DataFrame, drivers: tuple[Driver, ...]) -> tuple[Floats, pl.DataFrame]:
    """Of each input its figure less the usual one (0: not known), and its text: columns `0`, `1`, ... in the order of the inputs."""
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
    apart = figures.select((pl.col(name) - usual.item(0, name)).fill_null(0) for name in figures.columns)
    return apart.to_numpy(), written[0].select(texts)
