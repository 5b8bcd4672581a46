"""Customers to test lifetime value with: CDNOW as published, and simulated ones whose truth is known."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.ltv import bg_nbd, gamma_gamma
from analytics_assets.retail.ltv.bg_nbd import Floats
from analytics_assets_tests.benchmarks import ltv as benchmark


@dataclass(frozen=True)
class Cohort:
    """One row per customer; weeks. `mean_repeat_spend` is NaN without a repeat purchase; `later_*` is the holdout."""

    frequency: Floats
    recency: Floats
    age: Floats
    mean_spend: Floats
    mean_repeat_spend: Floats
    later_purchases: Floats
    later_spend: Floats


@pytest.fixture(scope="session")
def cdnow() -> Cohort:
    """CDNOW sample: calibration to 1997-09-30, holdout to 1998-06-30 (39 weeks), same-day purchases merged."""
    package = find_spec("lifetimes")
    if package is None or package.origin is None:
        pytest.skip("the CDNOW data come with the package lifetimes, which is not installed")
    spent: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    for line in (Path(package.origin).parent / "datasets" / "CDNOW_sample.txt").read_text().splitlines():
        _, customer, day, _, amount = line.split()
        spent[customer][date(int(day[:4]), int(day[4:6]), int(day[6:]))] += float(amount)
    now = date(1997, 9, 30)
    rows = []
    for amounts in spent.values():
        days = sorted(amounts)
        seen = [day for day in days if day <= now]
        later = [amounts[day] for day in days if day > now]
        values = [amounts[day] for day in seen]
        repeat_mean = np.mean(values[1:]) if len(values) > 1 else np.nan
        weeks = ((seen[-1] - seen[0]).days / 7, (now - seen[0]).days / 7)
        rows.append((len(seen) - 1, *weeks, np.mean(values), repeat_mean, len(later), sum(later)))
    return Cohort(*np.array(rows, dtype=np.float64).T)


Simulate = Callable[[bg_nbd.Parameters, gamma_gamma.Parameters, int, float, float], Cohort]


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """Customers of a BG/NBD or MBG/NBD and Gamma-Gamma world, purchase by purchase; the holdout is the horizon after now."""

    def simulated(
        purchases: bg_nbd.Parameters, spend: gamma_gamma.Parameters, customers: int, oldest: float, horizon: float
    ) -> Cohort:
        rng = np.random.default_rng(20240229)
        rate = rng.gamma(purchases.r, 1 / purchases.alpha, customers)
        last_purchase = rng.geometric(rng.beta(purchases.a, purchases.b, customers)) + (purchases.law == bg_nbd.BG_NBD)
        spend_rate = rng.gamma(spend.q, 1 / spend.v, customers)
        age = np.floor(rng.uniform(0, oldest * 7, customers)) / 7
        repeats, recency, later, time = (np.zeros(customers) for _ in range(4))
        made = np.ones(customers)
        active = np.flatnonzero(made < last_purchase)
        while len(active):
            time[active] += rng.exponential(1 / rate[active])
            made[active] += 1
            before = active[time[active] <= age[active]]
            repeats[before] += 1
            recency[before] = time[before]
            active = active[time[active] <= age[active] + horizon]
            later[active] += time[active] > age[active]
            active = active[made[active] < last_purchase[active]]
        mean = rng.gamma(spend.p * (repeats + 1)) / spend_rate / (repeats + 1)
        some = later > 0
        later_spend = np.zeros(customers)
        later_spend[some] = rng.gamma(spend.p * later[some]) / spend_rate[some]
        return Cohort(repeats, recency, age, mean, np.full(customers, np.nan), later, later_spend)

    return simulated


@pytest.fixture(scope="session")
def cdnow_purchases() -> pl.DataFrame:
    """All customers of CDNOW, to 1998-06-30."""
    if find_spec("lifetimes") is None:
        pytest.skip("the CDNOW data come with the package lifetimes, which is not installed")
    return benchmark.cdnow_purchases()


@pytest.fixture(scope="session")
def online_retail_purchases() -> pl.DataFrame:
    """UCI Online Retail, to 2011-12-09."""
    if not benchmark.ONLINE_RETAIL.exists():
        pytest.skip("the Online Retail data are not here: they lie in the folder shared beside the project")
    return benchmark.online_retail_purchases()
