"""The code location: everything that Dagster shows and runs, built from the settings and the home."""

from __future__ import annotations

import warnings

import dagster as dg
from dagster_duckdb import DuckDBResource

from analytics_assets.activation.assets import email_campaign_asset, onsite_recommendations_asset
from analytics_assets.activation.checks import activation_checks
from analytics_assets.activation.sends import EMAIL_SENDS
from analytics_assets.events.events import events_asset
from analytics_assets.events.identities import identities_asset
from analytics_assets.events.loading import export_files_asset, raw_event_hours
from analytics_assets.events.tables import (
    ACCOUNT_RECORDS,
    EVENTS,
    EXPORT_FILES,
    IDENTITIES,
    PROPERTY_SETS,
    REJECTED_LINES,
    TRAITS,
)
from analytics_assets.events.traits import traits_asset
from analytics_assets.home import Home
from analytics_assets.operations.alerts import ALERTS
from analytics_assets.operations.assets import alerts_asset, batch_runs_asset, record_schedule
from analytics_assets.operations.automation import (
    automation_sensor,
    load_job,
    load_schedule,
    nightly_job,
    publish_sensor,
    when_inputs_changed,
)
from analytics_assets.operations.delivery import alerts_sensor
from analytics_assets.operations.freshness import freshness_checks, freshness_schedule
from analytics_assets.operations.maintenance import maintenance_job, maintenance_schedule
from analytics_assets.operations.outdated import up_to_date_check
from analytics_assets.operations.proof import REPRODUCIBILITY, proof_schedule, reproducibility_asset
from analytics_assets.operations.run_history import BATCH_RUNS
from analytics_assets.retail.affinity.assets import PRODUCT_AFFINITY, product_affinity_asset
from analytics_assets.retail.cohorts.assets import COHORT_RETENTION, cohort_retention_asset
from analytics_assets.retail.customers.assets import CUSTOMERS, customers_asset
from analytics_assets.retail.ltv.assets import CUSTOMER_LTV, LTV_BACKTESTS, customer_ltv_asset
from analytics_assets.retail.ltv.hindsight import LTV_HINDSIGHT, ltv_hindsight_asset
from analytics_assets.retail.orders.assets import ORDER_ITEMS, ORDERS, order_assets
from analytics_assets.retail.recommendations.assets import recommendations_asset
from analytics_assets.retail.recommendations.tables import PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY, RECOMMENDATIONS
from analytics_assets.retail.segments.assets import CUSTOMER_SEGMENTS, SEGMENT_MOVEMENTS, customer_segments_asset
from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS, accounts_asset
from analytics_assets.saas.churn.assets import churn_assets
from analytics_assets.saas.churn.tables import (
    CHURN_BACKTESTS,
    CHURN_MODELS,
    CHURN_OUTCOMES,
    CHURN_SCORES,
    CHURN_TRAINING_SET,
    TRAINING_SETS,
)
from analytics_assets.saas.health.assets import ACCOUNT_HEALTH, account_health_asset
from analytics_assets.saas.health.falling import FALLING_ACCOUNTS, falling_accounts_asset
from analytics_assets.saas.health.outcomes import HEALTH_OUTCOMES, health_outcomes_asset
from analytics_assets.saas.usage.assets import ACCOUNT_DAYS, ACCOUNT_USAGE, usage_assets
from analytics_assets.settings import Settings, load_settings
from analytics_assets.warehouse.incomplete import INCOMPLETE_HOURS
from analytics_assets.warehouse.work import Platform

WATCHED = [
    *(EVENTS, TRAITS, IDENTITIES),
    *(ORDERS, ORDER_ITEMS, CUSTOMERS, CUSTOMER_LTV, CUSTOMER_SEGMENTS, COHORT_RETENTION, PRODUCT_AFFINITY, RECOMMENDATIONS),
    *(ACCOUNTS, ACCOUNT_USAGE, ACCOUNT_DAYS, ACCOUNT_HEALTH, FALLING_ACCOUNTS, CHURN_TRAINING_SET, CHURN_MODELS, CHURN_SCORES),
]
PUBLISHED = [
    *(EXPORT_FILES, REJECTED_LINES, INCOMPLETE_HOURS, PROPERTY_SETS, ACCOUNT_RECORDS),
    *WATCHED,
    *(LTV_BACKTESTS, LTV_HINDSIGHT, SEGMENT_MOVEMENTS, PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY, EMAIL_SENDS),
    *(ACCOUNT_MEMBERS, HEALTH_OUTCOMES, CHURN_BACKTESTS, CHURN_OUTCOMES, TRAINING_SETS),
    *(BATCH_RUNS, ALERTS, REPRODUCIBILITY),
]


def build_platform(settings: Settings | None = None, home: Home | None = None) -> Platform:
    """The platform of this environment; tests pass their own settings and home."""
    return Platform(settings or load_settings(), home or Home.from_environment(), PUBLISHED)


def build_definitions(platform: Platform, all_at_once: bool = True) -> dg.Definitions:
    """All assets, checks, jobs, schedules and sensors of one platform.

    Not `all_at_once` is for what runs in stages, between which not all can be up to date: without the check that looks whether it is.
    """
    inputs_changed = when_inputs_changed()
    identities_aside = when_inputs_changed("identities")
    accounts_aside = when_inputs_changed("accounts")
    hourly_accounts_aside = when_inputs_changed("accounts", by_the_hour=True)
    at_any_age = when_inputs_changed(at_any_age=True)
    hourly_usage = when_inputs_changed("accounts", by_the_hour=True, at_any_age=True)
    days_of_usage = when_inputs_changed("accounts", at_any_age=True)
    newest_day = when_inputs_changed("identities", lookback=None)
    load, maintenance = load_job(), maintenance_job(platform)
    hourly_checks = [*freshness_checks(platform, WATCHED), *activation_checks(platform)]
    if all_at_once:
        hourly_checks.append(up_to_date_check(platform))
    traits, identities = traits_asset(platform, at_any_age), identities_asset(platform, inputs_changed)
    order_items, orders = order_assets(platform, at_any_age)
    ltv, segments = customer_ltv_asset(platform, identities_aside), customer_segments_asset(platform, identities_aside)
    recommendations = recommendations_asset(platform, identities_aside)
    proof = reproducibility_asset(platform)
    record = [batch_runs_asset(platform), alerts_asset(platform)]
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [
        export_files_asset(platform),
        raw_event_hours(platform),
        events_asset(platform, at_any_age),
        traits,
        identities,
        order_items,
        orders,
        customers_asset(platform, identities_aside),
        ltv,
        ltv_hindsight_asset(platform, identities_aside),
        segments,
        cohort_retention_asset(platform, identities_aside),
        product_affinity_asset(platform, inputs_changed),
        recommendations,
        email_campaign_asset(platform, newest_day, [traits, identities, order_items, ltv, segments, recommendations]),
        onsite_recommendations_asset(platform, newest_day, [recommendations]),
        accounts_asset(platform, inputs_changed),
        *usage_assets(platform, hourly_usage, days_of_usage),
        account_health_asset(platform, hourly_accounts_aside),
        health_outcomes_asset(platform, accounts_aside),
        falling_accounts_asset(platform, accounts_aside),
        *churn_assets(platform, identities_aside, newest_day),
        *record,
        proof,
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=hourly_checks,
        jobs=[load, nightly_job(), maintenance],
        schedules=[
            load_schedule(platform, load),
            freshness_schedule(platform, hourly_checks),
            record_schedule(platform, record),
            proof_schedule(platform, proof),
            maintenance_schedule(platform, maintenance),
        ],
        sensors=[automation_sensor(), publish_sensor(platform), alerts_sensor(platform, assets)],
        resources={
            "published": DuckDBResource(database=str(platform.home.database), connection_config={"access_mode": "READ_ONLY"})
        },
        executor=dg.in_process_executor,
    )


def code_versions(platform: Platform) -> dict[str, str]:
    """Fingerprint of code and settings of each asset: a changed one invalidates the asset's partitions."""
    specs = build_definitions(platform).resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec.code_version for spec in specs if spec.code_version}


@dg.definitions
def defs() -> dg.Definitions:
    """What `workspace.yaml` and the `dg` command load."""
    # Dagster's notes on parameters that may still change are for us, not for who reads the daemon's log.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    return build_definitions(build_platform())
