"""What became of accounts in each band, the effect of other weights, and both assets through Dagster."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from analytics_assets.saas.health.assets import account_health_asset
from analytics_assets.saas.health.effect import NO_BAND, NoUsage, auc, weights_effect
from analytics_assets.saas.health.outcomes import HEALTH_OUTCOMES, health_outcomes_asset, latest_outcomes, wilson
from analytics_assets.saas.health.scoring import COMPONENTS
from analytics_assets.settings import Health, HealthWeights

SPAN = ("2026-02-27", "2026-03-31")


def company(vendor) -> None:
    """Twelve steady accounts, of which one ends; three that stopped on 5 February, of which two end, one of them too early to count."""
    for number in range(12):
        vendor.used_daily(f"steady{number:02}", "2026-01-01", "2026-03-31", events=50 + number, users=20 + number, features=4)
        vendor.account(f"steady{number:02}", SPAN, "2026-01-01", ended_on="2026-03-20" if number == 6 else None)
    for name, ended in (("stopped a", "2026-03-02"), ("stopped b", None), ("stopped c", "2026-03-01")):
        vendor.used_daily(name, "2026-01-01", "2026-02-05", events=50, users=20, features=4)
        vendor.account(name, SPAN, "2026-01-01", ended_on=ended)
    vendor.open()


def test_rates_count_who_stood_in_the_band_and_has_ended_since(vendor) -> None:
    company(vendor)
    found = {row["band"]: row for row in vendor.outcomes(date(2026, 3, 31)).to_dicts()}
    # 15 accounts on 1 March, no seats. Steady n: own 1; 3 + n of 14 others do less, features tie with 11: p = (3 + n) / 14 and
    # 8.5 / 14. (50 (1 + 2p) / 3 + 20 (1 + 17 / 14) / 3 + 15) / 0.85 = 63.0, 65.8, 68.6, 71.4, 74.2, ... While the stopped ones were
    # used as well (to 5 February), features tied with all 14, 1.7 points less: 2 had 66.9, below 67; 3 never had 73, and 69.7 at
    # first, below 70; 4 has 74.2 now. So 0 to 3 are neutral, 4 to 11 healthy, of which 6 ended. Stopped: 1.7, by recency's peers.
    counts = {band: (row["accounts"], row["ended"]) for band, row in found.items()}
    # On 1 February the stopped ones were used as ever: they are the falling ones.
    assert counts == {"healthy": (8, 1), "neutral": (4, 0), "at risk": (2, 1), "falling": (2, 1)}
    assert found["at risk"]["rate"] == 0.5 and found["neutral"]["rate"] == 0


def test_people_count_by_who_paid_then_whatever_name_a_merger_has_given_them_since(vendor) -> None:
    """Twelve pay under a new address; on 20 March an alias joins the old one, seen once, whose name they take; two of them end."""
    vendor.settings = '[accounts]\nare = "people"\n'
    for number in range(12):
        old, new = f"a{number:02}", f"b{number:02}"
        ended = "2026-03-25" if number >= 10 else None
        vendor.used_daily(new, "2026-01-01", "2026-03-20", events=50 + number, users=1, features=4)
        vendor.used(old, datetime(2026, 1, 1, 12, tzinfo=UTC))
        for name, status in ((old, "unbilled"), (new, "active")):
            vendor.account(name, ("2026-02-27", "2026-03-19"), "2026-01-01", status=status)
            vendor.member(name, ("2026-02-27", "2026-03-19"), name)
            vendor.member(name, ("2026-03-20", "2026-03-31"), old)
        vendor.account(old, ("2026-03-20", "2026-03-31"), "2026-01-01", ended_on=ended)
    vendor.open()
    found = vendor.outcomes(date(2026, 3, 31))
    assert (found.filter(pl.col("band") != "falling")["accounts"].sum(), found["ended"].sum()) == (12, 2)
    # The once-seen addresses stand at risk, with a score of 0, and never paid.
    assert found.filter(band="at risk")["accounts"].item() == 0


def test_who_had_nothing_that_could_end_is_not_counted(vendor) -> None:
    company(vendor)
    vendor.used_daily("free", "2026-01-01", "2026-02-05", events=50, users=20, features=4)
    vendor.account("free", SPAN, "2026-01-01", status="unbilled")
    vendor.used_daily("on trial", "2026-01-01", "2026-02-05", events=50, users=20, features=4)
    vendor.account("on trial", SPAN, "2026-01-01", status="trial", ended_on="2026-03-05")
    vendor.open()
    at_risk = vendor.outcomes(date(2026, 3, 31)).filter(band="at risk")
    assert at_risk.select("accounts", "ended").row(0) == (3, 2)


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for ended, accounts, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(ended, accounts) == pytest.approx((low, high), abs=5e-5)


def test_a_day_too_early_to_look_back_from_has_no_rows(vendor) -> None:
    company(vendor)
    assert vendor.outcomes(date(2026, 1, 30)).is_empty()


def test_auc_counts_pairs() -> None:
    stood = pl.DataFrame({"score": [10, 20, 20, 30, 40], "ended": [1, 0, 1, 0, 0]})
    # Against 10: 3 of 3; against 20: half, and two.
    assert auc(stood) == (3 + 2.5) / 6
    assert auc(stood.filter(ended=0)) is None


def test_the_effect_of_new_weights_is_told_without_writing(vendor) -> None:
    company(vendor)
    platform = vendor.platform
    for health, changed in ((Health(), 0), (Health(healthy=95, at_risk=80), 1)):
        effect = weights_effect(platform, health)
        assert effect.hour == datetime(2026, 3, 31, 12, tzinfo=UTC) and effect.accounts == 12
        assert (sum(count for (old, new), count in effect.moves.items() if old != new) > 0) == changed
    assert effect.separations == ()
    assert [path.name for path in platform.home.lake.iterdir() if path.is_dir()].count("account_health") == 0


def test_the_effect_on_the_past_is_an_auc_for_each_cut_off(vendor) -> None:
    vendor.first_day = date(2025, 12, 1)
    company(vendor)
    (told,) = weights_effect(vendor.platform, vendor.platform.settings.health).separations
    # On 1 March, 70 days had passed; one of twelve steady ones and one of two that stopped ended.
    assert (told.day, told.accounts, told.ended) == (date(2026, 3, 1), 14, 2)
    # Against stopped a: stopped b is equal, 11 steady ones are above; against steady 6 those from 7 to 11.
    assert told.auc_now == told.auc_new == (11.5 + 5) / (12 * 2)


def test_accounts_that_lose_their_band_are_told_and_the_past_compares_the_same_accounts(vendor) -> None:
    """With seats alone, who named none has no score: 11 steady ones, and one that stopped. Of two that named 20, one ended."""
    vendor.first_day = date(2025, 12, 1)
    for name, users, ended in (("full", 20, None), ("half empty", 10, "2026-03-10")):
        vendor.used_daily(name, "2026-01-01", "2026-03-31", events=50, users=users, features=4, seats=20)
        vendor.account(name, SPAN, "2026-01-01", seats=20, ended_on=ended)
    company(vendor)
    weights = dict.fromkeys(COMPONENTS, 0) | {"seats": 100}
    effect = weights_effect(vendor.platform, Health(weights=HealthWeights(**weights)))
    lost = sum(count for (_, new), count in effect.moves.items() if new == NO_BAND)
    assert (effect.accounts, lost, sum(effect.moves.values())) == (13, 12, 13)
    (told,) = effect.separations
    assert (told.accounts, told.ended, told.auc_now, told.auc_new) == (2, 1, 1, 1)


def test_an_effect_without_usage_is_refused(vendor) -> None:
    with pytest.raises(NoUsage, match="account_usage has no rows yet"):
        weights_effect(vendor.platform, vendor.platform.settings.health)


# ------------------------------------------------------------------------------------------------------ through Dagster


def materialize(vendor, asset: dg.AssetsDefinition, key: str, without: str = "") -> dg.ExecuteInProcessResult:
    clock = vendor.platform.clock
    end = datetime(2026, 4, 1, tzinfo=UTC)
    upstream = {
        "account_usage": list(clock.hour_keys(clock.begins(clock.first_day), end).values()),
        "accounts": [(clock.first_day + timedelta(days=n)).isoformat() for n in range((date(2026, 4, 1) - clock.first_day).days)],
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for name, keys in upstream.items():
            for one in keys:
                if one != without:
                    instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=one))
        return dg.materialize([asset], instance=instance, partition_key=key, raise_on_error=False)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {found.check_name: found.passed for found in result.get_asset_check_evaluations()}


def test_health_passes_its_checks_warns_of_a_component_that_nobody_has_and_shows_a_plot(vendor) -> None:
    vendor.first_day = date(2026, 3, 1)
    company(vendor)
    result = materialize(vendor, account_health_asset(vendor.platform, dg.AutomationCondition.eager()), "2026-03-31-12:00")
    assert result.success
    assert checks(result) == {
        "inputs_ready": True, "as_declared": True, "scores_are_possible": True, "every_account_has_its_health": True,
        "every_component_is_known": False,
    }  # fmt: skip
    (event,) = result.asset_materializations_for_node("account_health")
    assert "data:image/png;base64" in event.metadata["plot"].value
    # Twelve have points (6 has ended since, but was used), the stopped ones are silent. Now p = n / 11, features 0.5:
    # (50 (1 + 2p) / 3 + 20 x 2 / 3 + 15) / 0.85 = 52.9, 56.5, 60.1, 63.6, 67.2, 70.8, ...; until 18 March 63.0, 65.8, 68.6, 71.4,
    # 74.2, ... as above. 3 was below 67 since, 4 above 73 before and not below 67: healthy are 4, 5 and 7 to 11.
    bands = event.metadata["accounts by band in the last hour"].value
    assert "| healthy | 7 |" in bands and "| neutral | 4 |" in bands and "| at risk | 1 | 0.0 |" in bands


def test_health_waits_for_the_evening_before_and_not_for_the_same_day(vendor) -> None:
    vendor.first_day = date(2026, 3, 29)
    company(vendor)
    asset = account_health_asset(vendor.platform, dg.AutomationCondition.eager())
    assert materialize(vendor, asset, "2026-03-31-12:00", without="2026-03-31").success
    assert not materialize(vendor, asset, "2026-03-31-12:00", without="2026-03-30").success
    assert not materialize(vendor, asset, "2026-03-31-12:00", without="2026-03-29-05:00").success


def test_outcomes_pass_their_checks_and_show_a_plot(vendor) -> None:
    vendor.first_day = date(2026, 2, 27)
    company(vendor)
    result = materialize(vendor, health_outcomes_asset(vendor.platform, dg.AutomationCondition.eager()), "2026-03-31")
    assert result.success and all(checks(result).values())
    (event,) = result.asset_materializations_for_node("health_outcomes")
    assert "| healthy | 8 | 1 |" in event.metadata["ended since"].value and "data:image/png" in event.metadata["plot"].value


def test_the_page_of_health_says_what_became_of_accounts_in_each_band(vendor) -> None:
    company(vendor)
    vendor.write(HEALTH_OUTCOMES, vendor.outcomes(date(2026, 3, 30), date(2026, 3, 31)).to_arrow())
    told = vendor.compute(
        lambda work: (latest_outcomes(work, date(2026, 3, 31)), latest_outcomes(work, date(2026, 3, 29))),
        datetime(2026, 4, 1, tzinfo=UTC),
        datetime(2026, 4, 1, 1, tzinfo=UTC),
    )
    assert told[0].startswith("Ended in the 30 days up to 2026-03-31") and "| healthy | 8 | 1 | 12.5%" in told[0]
    assert [line.split(" | ")[0] for line in told[0].splitlines()[-4:]] == ["| healthy", "| neutral", "| at risk", "| falling"]
    assert told[1] is None
