"""What models know of a subject: the columns of a training set, what is made of them, and how a reason reads.

A driver is one thing that people would name as a reason. Its inputs are the numbers that models take of it, logarithms
of counts mostly: doubling a small count means as much as doubling a large one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from analytics_assets.warehouse.tables import Column

Kind = Literal["account", "customer"]
KINDS: tuple[Kind, ...] = ("account", "customer")
# Segments in which a backtest is shown beside the whole.
RECENCY_BANDS = (30, 90, 180)


@dataclass(frozen=True)
class Driver:
    """A possible reason: the inputs that models take of it by name, and a sentence for a subject."""

    name: str
    inputs: Mapping[str, pl.Expr]
    words: pl.Expr


def _count(name: str, meaning: str, unit: str) -> Column:
    return Column(name, "BIGINT", meaning, unit, nullable=True)


_TRIAL = Column("trial", "BIGINT", "1 on trial, 0 under a paid contract.", "0 or 1", nullable=True)
ACCOUNT_COLUMNS = (
    _TRIAL,
    Column("plan", "VARCHAR", "Latest plan named.", nullable=True),
    _count("seats", "Latest number of seats named.", "seats"),
    Column("mrr", "DECIMAL(18,2)", "Latest price over the months that it is for.", "currency", nullable=True),
    _count("account_age_days", "Days since the account was first named.", "days"),
    _count("renewals", "Bills of the present contract after the first.", "bills"),
    _count("days_to_renewal", "Days until the time that is paid for ends; negative within the days of grace.", "days"),
    _count("upgrades_90", "Upgrades in the last 90 days.", "upgrades"),
    _count("downgrades_90", "Downgrades in the last 90 days.", "downgrades"),
    *(_count(f"events_{days}", f"Events in the last {days} days.", "events") for days in (7, 14, 28, 56)),
    *(_count(f"user_days_{days}", f"Active users of each of the last {days} days, summed.", "days") for days in (14, 28, 56)),
    *(_count(f"feature_days_{days}", f"Features used on each of the last {days} days, summed.", "days") for days in (14, 28)),
    *(_count(f"sessions_{days}", f"Sessions begun in the last {days} days.", "sessions") for days in (14, 28)),
    _count("peak_users_28", "Active users of the busiest of the last 28 days.", "people"),
    _count("active_days_28", "Of the last 28 days those with an event.", "days"),
    _count("idle_days", "Days since the last event, 56 at most.", "days"),
)
CUSTOMER_COLUMNS = (
    _count("purchase_days", "Days with an order of more than 0.", "days"),
    _count("recency_days", "Days since the last of them.", "days"),
    _count("tenure_days", "Days since the first of them.", "days"),
    *(_count(f"purchase_days_{days}", f"Of the last {days} days those with an order.", "days") for days in (30, 90, 180)),
    _count("refunds", "Refunds in the customer's main currency.", "refunds"),
    Column("monetary", "DECIMAL(18,2)", "Orders less refunds in the customer's main currency.", "currency", nullable=True),
    Column("currency", "VARCHAR", "The currency in which the customer ordered most often.", nullable=True),
    Column(
        "relative_order_value",
        "DOUBLE",
        "Net revenue of an order over that of everybody's in the currency.",
        "ratio",
        nullable=True,
    ),
)
COLUMNS: dict[Kind, tuple[Column, ...]] = {"account": ACCOUNT_COLUMNS, "customer": CUSTOMER_COLUMNS}


def _log(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Float64).clip(lower_bound=0).log1p()


def _trend(name: str, days: int) -> pl.Expr:
    """Logarithm of the last days over the same number of days before them, each with 1 added."""
    earlier = pl.col(f"{name}_{2 * days}") - pl.col(f"{name}_{days}")
    return _log(f"{name}_{days}") - earlier.cast(pl.Float64).clip(lower_bound=0).log1p()


def _change(what: str, name: str, days: int) -> pl.Expr:
    now, before = pl.col(f"{name}_{days}"), pl.col(f"{name}_{2 * days}") - pl.col(f"{name}_{days}")
    share = ((now / before - 1) * 100).round(0).cast(pl.Int64, strict=False)
    up_or_down = pl.when(share < 0).then(pl.lit("down")).otherwise(pl.lit("up"))
    return (
        pl.when(before > 0)
        .then(pl.format(what + " {} {} % in {} days", up_or_down, share.abs(), pl.lit(days)))
        .otherwise(pl.format(what + ": {} in {} days, none in the {} before", now, pl.lit(days), pl.lit(days)))
    )


def account_drivers(horizon_days: int, grace_days: int) -> tuple[Driver, ...]:
    """Drivers of an account: its contract, how much it is used, and where that is going."""
    due = pl.col("days_to_renewal") + grace_days <= horizon_days
    seat_use = pl.col("peak_users_28") / pl.col("seats")
    return (
        Driver(
            "trial",
            {"trial": pl.col("trial")},
            pl.when(pl.col("trial") == 1).then(pl.lit("on trial")).otherwise(pl.lit("paid contract")),
        ),
        Driver(
            "renewal",
            {
                "renewal_due": due.cast(pl.Float64).fill_null(0.0),
                "days_to_renewal": pl.col("days_to_renewal").clip(-30, 400) / 30,
            },
            pl.format("paid for another {} days", pl.col("days_to_renewal")).fill_null("no renewal date"),
        ),
        Driver(
            "loyalty",
            {"log_age": _log("account_age_days"), "log_renewals": _log("renewals")},
            pl.format("renewed {} times in {} days", pl.col("renewals"), pl.col("account_age_days")),
        ),
        Driver("price", {"log_mrr": _log("mrr")}, pl.format("pays {} a month", pl.col("mrr")).fill_null("pays nothing yet")),
        Driver(
            "changes of plan",
            {"upgrades": _log("upgrades_90"), "downgrades": _log("downgrades_90")},
            pl.format("{} upgrades, {} downgrades in 90 days", pl.col("upgrades_90"), pl.col("downgrades_90")),
        ),
        # Inputs that go together by nature are one driver: apart, a model plays them off against each other.
        Driver(
            "use",
            {
                "log_events": _log("events_28"),
                "log_sessions": _log("sessions_28"),
                "log_users": _log("user_days_28"),
                "active_days": pl.col("active_days_28"),
                "log_idle": _log("idle_days"),
            },
            pl.format(
                "{} events on {} of 28 days, last {} days ago", pl.col("events_28"), pl.col("active_days_28"), pl.col("idle_days")
            ),
        ),
        Driver(
            "trend of use",
            {
                "trend_events_7": _trend("events", 7),
                "trend_events_14": _trend("events", 14),
                "trend_events_28": _trend("events", 28),
                "trend_sessions": _trend("sessions", 14),
                "trend_users_14": _trend("user_days", 14),
                "trend_users_28": _trend("user_days", 28),
            },
            pl.format("{}, {}", _change("events", "events", 14), _change("active users", "user_days", 14)),
        ),
        Driver(
            "features",
            {
                "features": _log("feature_days_28") - _log("active_days_28"),
                "trend_features": _trend("feature_days", 14) - _trend("events", 14),
            },
            pl.format(
                "{} features a day, {}",
                (pl.col("feature_days_28") / pl.col("active_days_28").clip(1)).round(1),
                _change("features used", "feature_days", 14),
            ),
        ),
        Driver(
            "seats",
            {"seat_use": seat_use.clip(0, 2), "log_seats": _log("seats")},
            pl.format("{} of {} seats used", pl.col("peak_users_28"), pl.col("seats")).fill_null("no seats named"),
        ),
    )


def customer_drivers() -> tuple[Driver, ...]:
    """Drivers of a customer: recency, frequency, monetary, and how these go together."""
    repeat = pl.col("purchase_days") > 1
    gap = (pl.col("tenure_days") - pl.col("recency_days")) / (pl.col("purchase_days") - 1)
    recent = {f"log_days_{days}": _log(f"purchase_days_{days}") for days in (30, 90, 180)}
    return (
        Driver("recency", {"log_recency": _log("recency_days")}, pl.format("last purchase {} days ago", pl.col("recency_days"))),
        Driver(
            "frequency",
            {
                "log_purchases": _log("purchase_days"),
                "bought_once": (~repeat).cast(pl.Float64),
                "rate": _log("purchase_days") - _log("tenure_days"),
            },
            pl.format("bought on {} days", pl.col("purchase_days")),
        ),
        Driver(
            "recent purchases",
            recent,
            pl.format("bought on {} of the last 90 days", pl.col("purchase_days_90")),
        ),
        Driver(
            "rhythm",
            {"overdue": pl.when(repeat).then(_log("recency_days") - gap.cast(pl.Float64).log1p()).otherwise(0.0)},
            pl.when(repeat)
            .then(pl.format("bought every {} days before", gap.round(0).cast(pl.Int64, strict=False)))
            .otherwise(pl.lit("has no rhythm yet")),
        ),
        Driver("tenure", {"log_tenure": _log("tenure_days")}, pl.format("customer for {} days", pl.col("tenure_days"))),
        Driver("refunds", {"log_refunds": _log("refunds")}, pl.format("{} refunds", pl.col("refunds"))),
        Driver(
            "order value",
            {"log_order_value": pl.col("relative_order_value").clip(0.01, 100).log()},
            pl.format("orders are {} times the usual size", pl.col("relative_order_value").round(1)),
        ),
    )


def inputs_of(drivers: tuple[Driver, ...], rows: pl.DataFrame) -> np.ndarray:
    """The inputs of models: one row per subject, one column per input in the order of the drivers; NaN where unknown."""
    columns = [expression.cast(pl.Float64).alias(name) for driver in drivers for name, expression in driver.inputs.items()]
    return np.ascontiguousarray(rows.select(columns).fill_null(float("nan")).to_numpy().reshape(rows.height, len(columns)))


def input_names(drivers: tuple[Driver, ...]) -> list[str]:
    """Names of the columns of `inputs_of`."""
    return [name for driver in drivers for name in driver.inputs]


def segment_of(kind: Kind) -> pl.Expr:
    """The segment of a subject in which a backtest is shown: an account's plan, a customer's recency."""
    if kind == "account":
        return pl.concat_str(pl.lit("plan "), pl.col("plan").fill_null("unnamed"))
    band = pl.lit(f"last purchase more than {RECENCY_BANDS[-1]} days ago")
    for days in reversed(RECENCY_BANDS):
        band = pl.when(pl.col("recency_days") <= days).then(pl.lit(f"last purchase within {days} days")).otherwise(band)
    return band
