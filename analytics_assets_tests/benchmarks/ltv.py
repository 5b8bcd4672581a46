"""Fitting the purchase models beside the package `lifetimes`, on CDNOW and on many simulated customers."""

import csv
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from analytics_assets.retail.ltv import bg_nbd, mbg_nbd
from analytics_assets.retail.ltv.bg_nbd import Floats
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns

CUSTOMERS = 100_000
REPETITIONS_OF_MANY = 3
"""`lifetimes` takes long on many customers."""

Histories = tuple[Floats, Floats, Floats]
"""Frequency, recency and age of each customer, in weeks."""


def measure(repetitions: int) -> Iterator[Comparison]:
    """Fit BG/NBD and MBG/NBD on both."""
    from lifetimes import BetaGeoFitter, ModifiedBetaGeoFitter

    pairs = ((bg_nbd, BetaGeoFitter), (mbg_nbd, ModifiedBetaGeoFitter))
    for name, histories, times in (
        ("CDNOW", cdnow(), repetitions),
        (f"{CUSTOMERS:,} customers", simulated(), REPETITIONS_OF_MANY),
    ):
        for ours, theirs in pairs:

            def fit_ours(_: int, model=ours, histories=histories) -> float:
                return seconds_of(lambda: model.fit(*histories))

            def fit_theirs(_: int, fitter=theirs, histories=histories) -> float:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return seconds_of(lambda: fitter().fit(*histories))

            model = ours.__name__.rsplit(".", 1)[1]
            yield Comparison(f"LTV fit, {name}", model, theirs.__name__, *taking_turns(fit_ours, fit_theirs, times))


def cdnow() -> Histories:
    """The CDNOW sample of 2,357 customers as `lifetimes` brings it."""
    package = find_spec("lifetimes")
    assert package and package.origin
    path = Path(package.origin).parent / "datasets" / "cdnow_customers_summary.csv"
    with open(path, newline="") as file:
        rows = [(float(row["frequency"]), float(row["recency"]), float(row["T"])) for row in csv.DictReader(file)]
    frequency, recency, age = np.array(rows).T
    return frequency, recency, age


def simulated() -> Histories:
    """Customers of a simulated retailer at the end of its year."""
    retailer = Retailer(customers=CUSTOMERS)
    bought = simulate(retailer).transactions.filter(~pl.col("refund") & (pl.col("identity") < retailer.customers))
    habits = bought.group_by("identity").agg(
        frequency=pl.col("day").n_unique() - 1.0, first=pl.col("day").min(), last=pl.col("day").max()
    )
    weeks = habits.sort("identity").select(
        "frequency",
        recency=(pl.col("last") - pl.col("first")) / 7,
        age=(retailer.days - 1 - pl.col("first")) / 7,
    )
    frequency, recency, age = weeks.cast(pl.Float64).to_numpy().T.copy()
    return frequency, recency, age
