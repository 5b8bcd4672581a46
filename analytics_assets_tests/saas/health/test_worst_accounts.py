"""The scores that the plot of account_health draws."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from analytics_assets.saas.health.assets import ACCOUNT_HEALTH, account_health, worst_accounts

DAYS = ("2026-03-01", "2026-03-31")
NOON = datetime(2026, 3, 30, 12, tzinfo=UTC)


@pytest.fixture
def falling(vendor):
    """In London, whose clock goes forward on 29 March: one account does ever less, one did and is silent, one is as ever."""
    vendor.zone = "Europe/London"
    vendor.used_daily("as ever", "2025-12-01", "2026-03-31", events=200, users=20)
    vendor.used_daily("less", "2025-12-01", "2026-03-10", events=200, users=20)
    vendor.used_daily("less", "2026-03-11", "2026-03-31", events=60, users=6)
    vendor.used_daily("silent", "2025-12-01", "2026-02-15", events=200, users=20)
    for name in ("as ever", "less", "silent"):
        vendor.account(name, DAYS, "2025-12-01")
    vendor.open()
    return vendor


def drawn(vendor, hour: datetime) -> pl.DataFrame:
    def computed(work):
        return worst_accounts(work, account_health(work)[ACCOUNT_HEALTH.name].reader().read_all())

    return vendor.compute(computed, hour, hour + timedelta(hours=1))


def test_the_scores_drawn_are_those_of_the_evenings_of_the_hour_and_of_28_days_before(falling) -> None:
    found = drawn(falling, NOON)
    assert found["account"].unique(maintain_order=True).to_list() == ["less", "silent"]
    scores = {name: dict(of_account.select("day", "score").rows()) for (name,), of_account in found.group_by("account")}
    clock = falling.platform.clock

    def score_at(hour: datetime) -> dict[str, float]:
        return dict(falling.health(hour).select("account_id", pl.col("score").cast(pl.Float64)).rows())

    end = NOON + timedelta(hours=1)
    # At the same time on the clock, which was an hour back then.
    before = NOON - timedelta(days=28) + timedelta(hours=1)
    evening = clock.begins(date(2026, 3, 30)) - timedelta(hours=1)
    for hour, day in ((NOON, 0), (before, -28), (evening, (evening + timedelta(hours=1) - end) / timedelta(days=1))):
        assert near(scores["less"], day) == score_at(hour)["less"], hour
    assert len(scores["less"]) == 28 + 2
    assert scores["silent"][0] == 0 and len(scores["silent"]) < 28 + 2


def near(scores: dict[float, float], day: float) -> float:
    """The score of a day, whose place is a fraction."""
    (found,) = (score for place, score in scores.items() if place == pytest.approx(day))
    return found


def test_where_people_are_accounts_the_plot_names_nobody(falling) -> None:
    falling.settings = '[accounts]\nare = "people"\n'
    assert drawn(falling, NOON)["account"].unique(maintain_order=True).to_list() == ["1.", "2."]
