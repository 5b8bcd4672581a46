"""Churn candidates on real data, beside the best that any library or model tried has reached.

Everything is chosen before the tested labels: candidate and calibration by earlier cut-offs (rolling), or inside the fold (Telco).
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl

from analytics_assets.saas.churn.backtest import NotEnoughHistory, metrics_of, refit, step_days, training_cut_offs
from analytics_assets.saas.churn.features import customer_drivers, inputs_of
from analytics_assets.saas.churn.histories import CUSTOMER_FEATURES, CUT_OFFS, EVERYBODY
from analytics_assets.saas.churn.models import CANDIDATES, fit
from analytics_assets.warehouse.engine import engine, run
from analytics_assets_tests.benchmarks.ltv import ONLINE_RETAIL, cdnow_purchases, online_retail_purchases

HORIZON = 90
TELCO = ONLINE_RETAIL.parent / "telco_churn.csv"
ROLLING = 6
"""Tested days, 30 days apart, the newest being the last whose window lies inside the data."""


def accuracy() -> Iterator[str]:
    """A line per data set."""
    if TELCO.exists():
        auc, brier, chosen = telco()
        yield f"Churn, Telco, 5-fold: AUC {auc:.4f} (to beat: .8465), Brier {brier:.4f}; chosen inside the folds: {', '.join(chosen)}"
    cases = [("CDNOW", cdnow_purchases(), 0.7075)]
    if ONLINE_RETAIL.exists():
        cases.append(("Online Retail", online_retail_purchases(), 0.7485))
    for name, purchases, to_beat in cases:
        tested = rolling(purchases)
        days = f"{tested[0][0]} to {tested[-1][0]}"
        yield (
            f"Churn, {name}, no purchase in {HORIZON} days, {len(tested)} days {days}: "
            f"mean AUC {np.mean([t[1] for t in tested]):.4f} (to beat: {to_beat}), lowest {min(t[1] for t in tested):.4f}, "
            f"Brier {np.mean([t[2] for t in tested]):.4f}; of customers with a purchase in the last {HORIZON} days: "
            f"AUC {np.mean([t[3] for t in tested]):.4f}, Brier {np.mean([t[4] for t in tested]):.4f}"
        )


def telco() -> tuple[float, float, list[str]]:
    """Mean AUC and Brier score over five folds; the candidate of each fold is the best of three folds inside its training rows."""
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

    rows = pl.read_csv(TELCO, infer_schema_length=10_000)
    charges = pl.col("TotalCharges").cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False).fill_null(0)
    numbers = rows.select("tenure", "MonthlyCharges", charges).cast(pl.Float64).to_numpy()
    words = rows.drop("customerID", "Churn", "tenure", "MonthlyCharges", "TotalCharges").cast(pl.String).to_dummies().to_numpy()
    inputs, churned = (
        np.column_stack([numbers, np.log1p(numbers), words]).astype(float),
        (rows["Churn"] == "Yes").to_numpy().astype(float),
    )
    found, chosen = [], []
    for learned, tested in StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, churned):
        errors = dict.fromkeys(CANDIDATES, 0.0)
        for inner, held in StratifiedKFold(3, shuffle=True, random_state=0).split(inputs[learned], churned[learned]):
            pair = fit(inputs[learned][inner], churned[learned][inner])
            for candidate in CANDIDATES:
                errors[candidate] += float(np.sum((pair.predict(candidate, inputs[learned][held]) - churned[learned][held]) ** 2))
        chosen.append(min(CANDIDATES, key=errors.__getitem__))
        said = fit(inputs[learned], churned[learned]).predict(chosen[-1], inputs[tested])
        found.append(metrics_of(said, churned[tested], 0.0))
    return float(np.mean([m.auc for m in found])), float(np.mean([m.brier for m in found])), chosen


def rolling(purchases: pl.DataFrame) -> list[tuple[date, float, float, float, float]]:
    """Each tested day with AUC and Brier score of the day's refit, of everybody and of who bought in the last 90 days.

    At each day the product's refit is made of what was known then, and scores what came after.
    """
    bought = purchases.filter("purchase")
    first, last = bought["day"].min(), bought["day"].max()
    assert isinstance(first, date) and isinstance(last, date)
    drivers, snapshots, found = customer_drivers(), {}, []
    with engine() as connection:
        orders = bought.select(
            identity="customer_id", order_date="day", kind=pl.lit("order"), currency=pl.lit("X"), net_revenue="net_revenue",
            ordered_at=pl.col("day").cast(pl.Datetime("us", "UTC")), received_at=pl.lit(None, pl.Datetime("us", "UTC")),
        )  # fmt: skip
        connection.register("orders", orders.to_arrow())
        connection.register("customers_then", orders.select("identity", customer_id="identity").unique().to_arrow())

        def snapshot(cut_off: date) -> pl.DataFrame:
            if cut_off not in snapshots:
                end = datetime.fromisoformat(f"{cut_off + timedelta(days=1)}T00:00:00+00:00")
                rows = run(connection, CUSTOMER_FEATURES, {"cut_off": cut_off, "end_at": end, "most": EVERYBODY}).pl()
                later = bought.filter((pl.col("day") > cut_off) & (pl.col("day") <= cut_off + timedelta(days=HORIZON)))
                snapshots[cut_off] = rows.sort("subject_id").with_columns(
                    cut_off=pl.lit(cut_off), churned=~pl.col("subject_id").is_in(later["customer_id"].unique().implode())
                )
            return snapshots[cut_off]

        for back in range(ROLLING - 1, -1, -1):
            day = last - timedelta(days=HORIZON + back * step_days(HORIZON))
            cut_offs = training_cut_offs(day, HORIZON, first, CUT_OFFS)
            if not cut_offs:
                continue
            try:
                made = refit(pl.concat(map(snapshot, cut_offs)), "customer", day, HORIZON, drivers)
            except NotEnoughHistory:
                continue
            tested = snapshot(day)
            said, churned = made.model.predict(inputs_of(drivers, tested)), tested["churned"].cast(pl.Float64).to_numpy()
            recent = (tested["recency_days"] < HORIZON).to_numpy()
            whole, part = metrics_of(said, churned, 0.0), metrics_of(said[recent], churned[recent], 0.0)
            found.append((day, whole.auc or 0.0, whole.brier, part.auc or 0.0, part.brier))
    return found


if __name__ == "__main__":
    for line in accuracy():
        print(line, flush=True)
