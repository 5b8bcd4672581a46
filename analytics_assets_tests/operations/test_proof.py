"""The proof of idempotency: it passes on what is right, and finds what is not."""

import logging
from collections import defaultdict
from datetime import date

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.operations.proof import CHECK, compare, prove
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import predicate_for
from analytics_assets.warehouse.work import Computation

LOG = logging.getLogger(__name__)


def proved(company, seed: str = "x", count: int = 2):
    operations = company.settings.operations.model_copy(update={"proof_partitions": count})
    company.settings = company.settings.model_copy(update={"operations": operations})
    platform = company.platform()
    build_definitions(platform)
    with company.instance() as instance:
        found = prove(platform, instance, seed, LOG)
    proofs = defaultdict(list)
    for one in found:
        proofs[one.asset].append(one)
    return proofs


def tamper(company, day: date, sql: str) -> None:
    """Change the rows of a day in the lake behind everybody's back."""
    platform = company.platform()
    window = platform.clock.window(platform.clock.begins(day), platform.clock.begins(date.fromordinal(day.toordinal() + 1)))
    with engine() as connection:
        attach(connection, platform.lake.pin(ORDERS))
        rows = connection.sql(f"SELECT * REPLACE ({sql}) FROM orders WHERE order_date = '{day}'").to_arrow_table()
    platform.lake.replace(ORDERS, rows.cast(ORDERS.arrow_schema()), predicate_for(ORDERS, window), {})


def test_every_table_of_the_shop_computes_equal_whole_days_and_hours(branch) -> None:
    found = proved(branch, count=4)
    assert [one for each in found.values() for one in each if one.differences] == []
    assert {name: len(each) for name, each in found.items()} == dict.fromkeys(found, 4) | {
        "recommendations": 1,
        "training_sets": 1,
    }, "they fill the newest day"
    assert {"events", "orders", "customer_ltv", "recommendations"} <= found.keys()


def test_a_row_that_differs_is_found_and_named_and_nobodys_name_with_it(branch) -> None:
    versions = branch.versions()
    tamper(branch, date(2011, 10, 31), "CASE WHEN order_id = '7' THEN 9.99 ELSE net_revenue END AS net_revenue")
    versions["orders"] = branch.versions()["orders"]
    [one] = [one for one in proved(branch, count=4)["orders"] if one.differences]
    first, second = one.differences
    assert one.partition == "2011-10-31"
    assert first.startswith("orders, computed now only: 1 rows, such as ") and "Decimal('6.67')" in first
    assert second.startswith("orders, live only: 1 rows, such as ") and "Decimal('9.99')" in second
    assert "ann@x.test" not in first + second
    assert branch.versions() == versions, "nothing is written"


def test_a_day_that_is_known_to_be_older_than_its_input_is_left_out(branch) -> None:
    tamper(branch, date(2011, 10, 31), "9.99 AS net_revenue")
    with branch.instance() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("events", partition="2011-10-31-09:00"))
    compared = proved(branch, count=4)["orders"]
    assert [(one.partition, one.differences) for one in compared] == [("2011-10-29", ()), ("2011-10-30", ()), ("2011-11-01", ())]


def test_a_computation_that_depends_on_chance_is_found(branch) -> None:
    platform = branch.platform()
    build_definitions(platform)
    right = platform.computations["orders"]

    def by_chance(work):
        rows = right.compute(work)
        return rows | {"orders": rows["orders"].slice(1)}

    day = date(2011, 10, 29)
    window = platform.clock.window(platform.clock.begins(day), platform.clock.begins(date(2011, 10, 30)))
    assert compare(platform, right, window, LOG) == []
    [only_live] = compare(platform, Computation(right.tables, by_chance, right.fill), window, LOG)
    assert only_live.startswith("orders, live only: 1 rows")


def test_samples_differ_by_day_and_are_the_same_within_one(branch) -> None:
    chosen = {seed: proved(branch, seed, count=1)["events"][0].partition for seed in ("a", "b", "c", "a")}
    assert len(set(chosen.values())) > 1
    assert proved(branch, "a", count=1)["events"][0].partition == chosen["a"]


@pytest.mark.parametrize("broken", [False, True])
def test_the_check_shows_it_and_the_table_keeps_it(branch, broken: bool) -> None:
    for day in (date(2011, 10, 29), date(2011, 10, 30), date(2011, 10, 31), date(2011, 11, 1)):
        if broken:
            tamper(branch, day, "net_revenue + 1 AS net_revenue")
    definitions = build_definitions(branch.platform())
    with branch.instance() as instance:
        result = definitions.resolve_job_def("proof_of_idempotency").execute_in_process(instance=instance)
    [check] = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (CHECK, not broken)
    assert result.success, "a difference is an alert, it stops nothing"
    found = dict(branch.query("SELECT asset, equal FROM reproducibility"))
    assert found["orders"] is not broken and found["events"] and found.keys() >= {"customer_ltv", "identities"}
    if broken:
        assert "orders, live only" in str(check.metadata["differences"].value)
