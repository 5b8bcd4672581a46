"""The graph as it is meant to be: a change of assets, dependencies, checks or schedules shows in this file's diff."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.definitions import PUBLISHED, build_definitions, build_platform
from analytics_assets.events.tables import RECORDS
from analytics_assets.home import Home
from analytics_assets.settings import parse_settings

SETTINGS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n'
HOUR, DAY = "HourlyPartitionsDefinition", "DailyPartitionsDefinition"

GRAPH = {
    "export_files": ([], "NoneType", "events"),
    "raw_event_hours": (["export_files"], HOUR, "events"),
    "events": (["raw_event_hours"], HOUR, "events"),
    "traits": (["events"], DAY, "events"),
    "identities": (["events"], DAY, "events"),
    "order_items": (["events"], DAY, "retail"),
    "orders": (["events", "order_items"], DAY, "retail"),
    "customers": (["identities", "orders"], DAY, "retail"),
    "customer_ltv": (["customers", "identities", "orders"], DAY, "retail"),
    "ltv_hindsight": (["identities", "orders"], DAY, "retail"),
    "customer_segments": (["customers", "identities", "orders"], DAY, "retail"),
    "cohort_retention": (["customers", "identities", "orders"], DAY, "retail"),
    "product_affinity": (["order_items"], DAY, "retail"),
    "recommendations": (["customers", "identities", "order_items", "orders"], DAY, "retail"),
    "email_campaign": (
        ["customer_ltv", "customer_segments", "identities", "order_items", "recommendations", "traits"],
        DAY,
        "activation",
    ),
    "onsite_recommendations": (["recommendations"], DAY, "activation"),
    "accounts": (["events"], DAY, "saas"),
    "account_usage": (["accounts", "events"], HOUR, "saas"),
    "account_days": (["accounts", "events"], DAY, "saas"),
    "account_health": (["account_usage", "accounts"], HOUR, "saas"),
    "health_outcomes": (["account_usage", "accounts"], DAY, "saas"),
    "falling_accounts": (["account_usage", "accounts"], DAY, "saas"),
    "churn_training_set": (["account_days", "events", "identities", "orders"], DAY, "saas"),
    "churn_models": (["account_days", "churn_training_set", "events", "identities", "orders"], DAY, "saas"),
    "churn_scores": (["account_days", "churn_models", "events", "identities", "orders"], DAY, "saas"),
    "training_sets": (["account_days", "events", "identities", "orders"], DAY, "saas"),
    "batch_runs": ([], "NoneType", "operations"),
    "alerts": ([], "NoneType", "operations"),
    "reproducibility": ([], "NoneType", "operations"),
}
# Of each table the declarations that it has had since homes are migrated, oldest first.
DECLARATIONS = {
    "records": ["7b93b10e"],
    "export_files": ["ca96cf1d"],
    "rejected_lines": ["cf8e9e29"],
    "incomplete_hours": ["c05a5cfe"],
    "property_sets": ["0e8261e5"],
    "account_records": ["d6f83f8a"],
    "events": ["135514e2"],
    "traits": ["2dfc1714", "dce85860"],
    "identities": ["18543b85"],
    "orders": ["e8d396f7"],
    "order_items": ["7fe2d861"],
    "customers": ["1a3f9aa0"],
    "customer_ltv": ["e07904ec", "4d55b563"],
    "customer_segments": ["023c473a"],
    "cohort_retention": ["9a659e9c"],
    "product_affinity": ["918d27e0"],
    "recommendations": ["81c0d7a4"],
    "accounts": ["0162e06c"],
    "account_usage": ["0737f4c7"],
    "account_days": ["b3864fea"],
    "account_health": ["682b5127"],
    "churn_training_set": ["b65c5880"],
    "churn_models": ["99d1e542"],
    "churn_scores": ["7f3fc511", "91c839b8"],
    "ltv_backtests": ["accd0654", "b278a82c"],
    "ltv_hindsight": ["193a494d", "fef079c7"],
    "segment_movements": ["145b4028"],
    "product_recommendations": ["7ffb0046"],
    "recommendation_quality": ["50e33565"],
    "email_sends": ["9c98e039"],
    "account_members": ["ce3aa19a", "00e32c7d"],
    "health_outcomes": ["d20d4b2b"],
    "falling_accounts": ["789af442"],
    "churn_backtests": ["60e34ae8"],
    "churn_outcomes": ["581a7ee9"],
    "training_sets": ["6397a200"],
    "batch_runs": ["71a2abe8", "c4709581"],
    "alerts": ["283f50d2"],
    "reproducibility": ["9e59c14d"],
}
CHECKS = {
    "export_files": {"every_file_is_there", "every_line_accounted_for", "few_lines_rejected", "new_lines_were_read"},
    "events": {"as_declared", "inputs_ready", "is_fresh", "is_up_to_date", "hours_were_in", "orders_have_amounts"},
    "traits": {"as_declared", "inputs_ready", "is_fresh"},
    "identities": {"as_declared", "inputs_ready", "is_fresh", "customers_resolve_to_themselves"},
    "order_items": {"as_declared", "inputs_ready", "is_fresh"},
    "orders": {"as_declared", "inputs_ready", "is_fresh", "refunds_are_negative", "every_order_has_an_amount"},
    "customers": {"as_declared", "inputs_ready", "is_fresh", "every_order_has_an_identity"},
    "customer_ltv": {
        *("as_declared", "inputs_ready", "is_fresh"),
        *("every_customer_is_valued", "figures_are_possible", "served_by_a_tested_model"),
    },
    "ltv_hindsight": {"as_declared", "inputs_ready", "intervals_held", "shares_are_shares", "totals_came_true"},
    "customer_segments": {
        *("as_declared", "inputs_ready", "is_fresh"),
        *("every_customer_has_a_segment", "movement_is_usual", "scores_are_possible"),
    },
    "cohort_retention": {"as_declared", "inputs_ready", "is_fresh", "every_customer_is_in_a_cohort", "retention_is_a_share"},
    "product_affinity": {"as_declared", "inputs_ready", "is_fresh", "measures_are_possible", "ranks_have_no_gap"},
    "recommendations": {
        *("as_declared", "inputs_ready", "is_fresh", "better_than_popular", "exclusions_are_known"),
        *("every_list_is_full", "lists_are_in_order", "nothing_suppressed_is_listed", "only_the_offer_is_listed"),
        "reasons_name_what_was_kept",
    },
    "email_campaign": {"is_current", "may_go_out", "reaches_somebody", "suppressions_last"},
    "onsite_recommendations": {"is_current", "may_go_out"},
    "accounts": {"as_declared", "inputs_ready", "is_fresh", "contracts_are_possible", "members_belong_to_accounts"},
    "account_usage": {"as_declared", "inputs_ready", "is_fresh"},
    "account_days": {"as_declared", "inputs_ready", "is_fresh"},
    "account_health": {
        *("as_declared", "inputs_ready", "is_fresh"),
        *("scores_are_possible", "every_account_has_its_health", "every_component_is_known"),
    },
    "health_outcomes": {"as_declared", "inputs_ready", "rates_are_shares", "at_risk_ends_more_often"},
    "falling_accounts": {"as_declared", "inputs_ready", "is_fresh", "falls_are_falls", "nobody_began_to_fall"},
    "churn_training_set": {"as_declared", "inputs_ready", "is_fresh", "labels_have_ended", "point_in_time"},
    "churn_models": {
        *("as_declared", "inputs_ready", "is_fresh"),
        *(
            "no_label_is_seen_twice",
            "one_model_serves",
            "no_model_is_lost",
            "served_by_an_accepted_model",
            "the_day_could_be_learned_from",
            "bands_came_true",
        ),
    },
    "churn_scores": {
        *("as_declared", "inputs_ready", "is_fresh"),
        *("scores_are_possible", "no_kind_is_lost", "inputs_are_those_learned_from", "scores_are_those_learned_from"),
    },
    "training_sets": {"as_declared", "inputs_ready", "point_in_time", "labels_have_two_classes"},
    "batch_runs": {"window_holds"},
    "reproducibility": {"recomputes_equal"},
}
SCHEDULES = {
    ("freshness_hourly", "20 * * * *", "Europe/London", "RUNNING"),
    ("lake_maintenance_weekly", "0 12 * * 0", "Europe/London", "RUNNING"),
    ("load_exports_hourly", "5 * * * *", "Europe/London", "RUNNING"),
    ("proof_daily", "0 11 * * *", "Europe/London", "RUNNING"),
    ("record_hourly", "40 * * * *", "Europe/London", "RUNNING"),
}
SENSORS = {("alerts", "RUNNING"), ("automation", "RUNNING"), ("publish_leftovers", "RUNNING")}
JOBS = {"daily_metrics", "freshness", "lake_maintenance", "load_exports", "proof_of_idempotency", "record"}
AUTOMATED = GRAPH.keys() - {"export_files", "raw_event_hours", "batch_runs", "alerts", "reproducibility"}


@pytest.fixture(scope="module")
def definitions(tmp_path_factory) -> dg.Definitions:
    return build_definitions(build_platform(parse_settings(SETTINGS, "x"), Home(tmp_path_factory.mktemp("nothing") / "home")))


def test_dagster_finds_nothing_wrong(definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_assets_dependencies_partitions_and_groups(definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {
        node.key.to_user_string(): (
            sorted(parent.to_user_string() for parent in node.parent_keys), type(node.partitions_def).__name__, node.group_name,
        )
        for node in graph.asset_nodes
    }  # fmt: skip
    assert found == GRAPH


def test_all_partitions_are_those_of_the_business(definitions) -> None:
    for node in definitions.resolve_asset_graph().asset_nodes:
        if node.partitions_def:
            assert node.partitions_def.timezone == "Europe/London"
            assert node.partitions_def.get_first_partition_key() in ("2011-10-29", "2011-10-29-00:00")


def test_checks(definitions) -> None:
    found: dict[str, set[str]] = {}
    for key in definitions.resolve_asset_graph().asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert found == CHECKS


def test_schedules_sensors_and_jobs(definitions) -> None:
    repository = definitions.get_repository_def()
    assert {
        (s.name, s.cron_schedule, s.execution_timezone, s.default_status.value) for s in repository.schedule_defs
    } == SCHEDULES
    assert {(sensor.name, sensor.default_status.value) for sensor in repository.sensor_defs} == SENSORS
    assert {job.name for job in repository.get_all_jobs()} - {"__ASSET_JOB"} == JOBS


def test_what_has_inputs_is_automated(definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert {node.key.to_user_string() for node in graph.asset_nodes if node.automation_condition} == AUTOMATED


def test_as_of_tables_depend_on_every_earlier_day(definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for child, parent in (("customers", "orders"), ("customer_ltv", "orders"), ("identities", "events")):
        mapping = graph.get(dg.AssetKey(child)).partition_mappings[dg.AssetKey(parent)]
        assert isinstance(mapping, dg.TimeWindowPartitionMapping) and mapping.start_offset <= -4_000


def test_every_asset_has_a_page_an_owner_and_its_columns(definitions) -> None:
    for node in definitions.resolve_asset_graph().asset_nodes:
        assert node.description and len(node.description) > 60, node.key
        if node.is_materializable:
            assert node.owners, node.key
            assert node.metadata["dagster/column_schema"].columns, node.key


def test_every_check_says_what_it_checks(definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.asset_check_keys:
        assert graph.get_check_spec(key).description, key


@pytest.mark.parametrize("table", [*PUBLISHED, RECORDS], ids=lambda table: table.name)
def test_every_column_has_a_meaning_and_every_amount_a_unit(table) -> None:
    assert table.rows_are and set(table.key) <= set(table.column_names)
    for column in table.published_columns:
        assert column.meaning.endswith("."), column.name
        assert column.unit or not column.type.startswith("DECIMAL"), column.name
    assert len(set(table.column_names)) == len(table.column_names)


@pytest.mark.parametrize("table", [*PUBLISHED, RECORDS], ids=lambda table: table.name)
def test_a_changed_declaration_has_a_higher_schema_version(table) -> None:
    stored = [(c.name, c.type) for c in table.columns], table.partition_column
    now, known = hashlib.sha256(repr(stored).encode()).hexdigest()[:8], DECLARATIONS.get(table.name, [])
    assert known[-1:] == [now], (
        f"{table.name}: columns, types or partitioning have changed. Homes are migrated by schema_version: set it to {len(known) + 1} in the "
        f"declaration and add {now!r} to DECLARATIONS in {Path(__file__).name}."
    )
    assert table.schema_version == len(known)


def test_published_tables_have_at_least_the_columns_that_others_rely_on() -> None:
    promised = {
        "export_files": "file sha256 lines events property_sets aliases repeated_lines rejected_lines first_event_at last_event_at loaded_at",
        "rejected_lines": "file line_number reason line",
        "identities": "as_of_date identity kind customer_id",
        "traits": "event_date identity trait value first_second last_second",
        "events": "event_id identity name occurred_at received_at account_id properties",
        "orders": "order_id kind identity customer_id ordered_at order_date currency net_revenue item_lines units",
        "order_items": "order_id kind order_date line product_id product_name category quantity price",
        "customers": "as_of_date customer_id first_order_date last_order_date orders currency net_revenue",
        "customer_ltv": "as_of_date customer_id orders currency net_revenue probability_alive expected_orders expected_revenue "
        "expected_revenue_low expected_revenue_high interval_probability lifetime_value horizon_days model",
        "customer_segments": "as_of_date customer_id recency_days frequency monetary r f m segment previous_segment",
        "cohort_retention": "as_of_date cohort period customers active retention net_revenue",
        "product_affinity": "as_of_date product_id related_product_id baskets support confidence lift rank",
        "recommendations": "as_of_date customer_id list rank product_id score reason",
        "churn_training_set": "as_of_date subject_id churned label_until",
        "churn_models": "as_of_date model_id algorithm auc brier lift_top_decile accepted reason",
        "churn_scores": "as_of_date subject_id probability band reasons model_id",
        "account_usage": "hour account_id events active_users features_used",
        "account_health": "hour account_id score band trend components coverage reasons",
        "batch_runs": "asset partition run_id started_at seconds rows attempts status",
    }
    found = {table.name: {column.name for column in table.published_columns} for table in PUBLISHED}
    assert promised.keys() <= found.keys()
    assert {name: sorted(set(columns.split()) - found[name]) for name, columns in promised.items()} == {
        name: [] for name in promised
    }


def test_the_database_has_the_published_tables_with_a_comment_on_every_column(company) -> None:
    found = company.query(
        "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal AND schema_name = 'main'"
    )
    assert {(table, column) for table, column, _ in found} == {
        (table.name, column.name) for table in PUBLISHED for column in table.published_columns
    }
    assert [(table, column) for table, column, comment in found if not comment] == []


def test_loading_the_code_location_imports_no_heavy_library_and_writes_nothing(tmp_path) -> None:
    (tmp_path / "analytics.toml").write_text(SETTINGS)
    program = (
        "import sys; from analytics_assets.definitions import defs, build_definitions, build_platform\n"
        "build_definitions(build_platform()).get_repository_def()\n"
        "print(sorted({'sklearn', 'altair', 'apprise', 'pyspark', 'vl_convert', 'matplotlib', 'sqlglot'} & set(sys.modules)))"
    )
    environment = os.environ | {"ANALYTICS_CONFIG": str(tmp_path / "analytics.toml"), "ANALYTICS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "[]\n"
    assert not (tmp_path / "home").exists()
