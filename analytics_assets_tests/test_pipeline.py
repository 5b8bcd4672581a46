"""The whole path from export to `analytics.duckdb`, on the small shop of `conftest.py` and on a month of Online Retail."""

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.events.tables import RECORDS
from analytics_assets.home import Home
from analytics_assets.operations.alerts import look_at_ended_runs
from analytics_assets.operations.catch_up import Stage, StepFailed, catch_up, events_to_run, run_stage
from analytics_assets.operations.outbox import Outbox
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.memory import PEAK_MEMORY

SHARED = Path(__file__).resolve().parents[2] / "shared"
AS_OF = (
    *("identities", "product_affinity", "customers"),
    *("ltv_hindsight", "cohort_retention", "customer_ltv", "customer_segments"),
    *("churn_training_set", "churn_models", "churn_scores", "health_outcomes", "falling_accounts"),
)
AS_OF_TABLES = (
    *("identities", "customers", "customer_ltv", "ltv_backtests"),
    *("customer_segments", "segment_movements", "cohort_retention"),
)
SATURDAY, SUNDAY, MONDAY, TUESDAY = (date(2011, 10, 29), date(2011, 10, 30), date(2011, 10, 31), date(2011, 11, 1))


# ---------------------------------------------------------------------------------------- what the shop sold, by hand


def test_orders_refunds_and_revenue_of_each_day(company) -> None:
    found = company.query(
        """SELECT order_date, count(*) FILTER (kind = 'order'), count(*) FILTER (kind = 'refund'), sum(net_revenue)
        FROM orders GROUP BY 1 ORDER BY 1"""
    )
    assert found == [
        (SATURDAY, 3, 0, Decimal("67.50")),
        (SUNDAY, 4, 1, Decimal("28.00")),
        (MONDAY, 3, 0, Decimal("12.67")),
        (TUESDAY, 1, 0, Decimal("4.00")),
    ]


def test_item_lines_find_their_order_across_the_hour_and_across_midnight(company) -> None:
    found = company.query(
        "SELECT order_date, order_id, line, product_id, quantity, price FROM order_items WHERE kind = 'order' ORDER BY ALL"
    )
    assert found == [
        (SATURDAY, "1", 1, "a1", 2, Decimal("10.0000")),
        (SATURDAY, "1", 2, "b2", 1, Decimal("10.0000")),
        (SATURDAY, "2", 1, "a1", 1, Decimal("12.5000")),
        (SATURDAY, "3", 1, "a1", 1, Decimal("10.0000")),
        (SATURDAY, "3", 2, "b2", 1, Decimal("15.0000")),
        (SUNDAY, "6", 1, "c3", 1, Decimal("20.0000")),
        (MONDAY, "7", 1, "d4", 2, Decimal("3.3330")),
    ]


def test_orders_count_their_lines_and_pieces(company) -> None:
    found = company.query(
        "SELECT order_id, item_lines, units FROM orders WHERE order_id IN ('1', '3', '4', '6') AND kind = 'order' ORDER BY 1"
    )
    assert found == [("1", 2, 3), ("3", 2, 2), ("4", 0, 0), ("6", 1, 1)]


def test_a_refund_is_a_negative_row_of_its_own_day_and_leaves_its_order_alone(company) -> None:
    found = company.query("SELECT order_date, kind, net_revenue, units FROM orders WHERE order_id = '1' ORDER BY 1")
    assert found == [(SATURDAY, "order", Decimal("30.00"), 3), (SUNDAY, "refund", Decimal("-10.00"), -1)]
    assert company.query("SELECT product_id, quantity, price FROM order_items WHERE kind = 'refund'") == [
        ("b2", -1, Decimal("10.0000"))
    ]


def test_an_item_line_keeps_the_category_that_it_names(company) -> None:
    assert company.query("SELECT DISTINCT product_id, category FROM order_items WHERE category IS NOT NULL") == [("a1", "Cups")]


def test_traits_keep_every_value_of_the_day_and_only_what_the_settings_name(company, lines) -> None:
    at = lines.at
    assert company.query("FROM traits ORDER BY first_second") == [
        (SATURDAY, "bob@x.test", "newsletter", value, at(f"2011-10-29 {when}"), at(f"2011-10-29 {when}"))
        for value, when in (("no", "11:00:30"), ("yes", "12:00:00"))
    ]


def test_an_order_without_an_amount_is_worth_its_lines_and_one_without_a_number_is_called_by_its_event(company) -> None:
    assert company.query("SELECT net_revenue FROM orders WHERE order_id = '7'") == [(Decimal("6.67"),)]
    assert company.query("SELECT net_revenue, order_id = event_id FROM orders WHERE identity = 'eve@x.test'") == [
        (Decimal("5.00"), True)
    ]


def test_an_amount_with_a_currency_sign_is_read(company) -> None:
    assert company.query("SELECT net_revenue, currency FROM orders WHERE order_id = '9'") == [(Decimal("1.00"), "GBP")]


def test_an_order_at_midnight_belongs_to_the_day_that_begins(company) -> None:
    assert company.query("SELECT order_date, ordered_at FROM orders WHERE identity = 'eve@x.test'") == [
        (MONDAY, datetime(2011, 10, 31, tzinfo=UTC))
    ]


def test_the_hour_that_comes_twice_is_two_hours_of_a_day_of_25(company) -> None:
    found = company.query(
        'SELECT hour, event_date FROM events WHERE properties LIKE \'%"order id":"4"%\' OR properties LIKE \'%"order id":"5"%\' ORDER BY 1'
    )
    assert found == [(datetime(2011, 10, 30, 0, tzinfo=UTC), SUNDAY), (datetime(2011, 10, 30, 1, tzinfo=UTC), SUNDAY)]
    with company.instance() as instance:
        keys = instance.get_materialized_partitions(dg.AssetKey("events"))
    by_day = defaultdict(int)
    for key in keys:
        by_day[key[:10]] += 1
    assert dict(by_day) == {"2011-10-29": 24, "2011-10-30": 25, "2011-10-31": 24, "2011-11-01": 24}


def test_every_line_is_accounted_for(company) -> None:
    found = company.query(
        "SELECT file, lines, events, property_sets, aliases, repeated_lines, rejected_lines FROM export_files ORDER BY revision"
    )
    assert found == [
        ("revisions/1.json", 14, 5, 6, 1, 1, 1),
        ("revisions/2.json", 14, 8, 3, 2, 1, 0),
        ("revisions/3.json", 5, 2, 0, 3, 0, 0),
        ("revisions/4.json", 1, 1, 0, 0, 0, 0),
    ]


def test_a_broken_line_is_kept_with_its_place_and_reason(company) -> None:
    ((file, line_number, reason, line),) = company.query("FROM rejected_lines")
    assert (file, line_number, line) == ("revisions/1.json", 8, b'{"_n":"purchased","_p":"ann@x.test","_t":13')
    assert reason.startswith("not valid JSON")


def test_a_repeated_line_counts_once_also_from_another_file(company) -> None:
    assert company.query("SELECT count(*), count(DISTINCT event_id) FROM events") == [(14, 14)]
    assert company.query("SELECT count(*) FROM events WHERE name = 'visited site'") == [(2,)]


def test_events_outside_the_business_days_are_landed_and_in_no_partition(company) -> None:
    parked = company.lake_query("SELECT identity FROM records WHERE identity IN ('old@x.test', 'zed@x.test') ORDER BY 1", RECORDS)
    assert parked == [("old@x.test",), ("zed@x.test",)]
    assert company.query("SELECT min(event_date), max(event_date) FROM events") == [(SATURDAY, TUESDAY)]
    assert company.query("SELECT count(*) FROM orders WHERE net_revenue > 100") == [(0,)]


def test_guest_merges_nobody(company) -> None:
    found = company.query(
        "SELECT identity, kind, customer_id FROM identities WHERE as_of_date = '2011-11-01' AND identity IN ('cat@x.test', 'dan@x.test', 'guest', 'Guest') ORDER BY 1"
    )
    assert found == [
        ("Guest", "blocked", None), ("cat@x.test", "named", "cat@x.test"), ("dan@x.test", "named", "dan@x.test"), ("guest", "blocked", None),
    ]  # fmt: skip


def test_customers_of_the_last_day(company) -> None:
    found = company.query(
        "SELECT customer_id, first_order_date, last_order_date, orders, refunds, net_revenue FROM customers WHERE as_of_date = '2011-11-01' ORDER BY 1"
    )
    assert found == [
        ("ann@x.test", SATURDAY, MONDAY, 2, 1, Decimal("26.67")),
        ("bob@x.test", SATURDAY, TUESDAY, 3, 0, Decimal("17.50")),
        ("cat@x.test", SATURDAY, SATURDAY, 1, 0, Decimal("25.00")),
        ("dan@x.test", SUNDAY, SUNDAY, 1, 0, Decimal("20.00")),
        ("eve@x.test", MONDAY, MONDAY, 1, 0, Decimal("5.00")),
        ("fay@x.test", SUNDAY, SUNDAY, 2, 0, Decimal("15.00")),
    ]


def test_an_alias_counts_from_the_day_on_which_it_was_received(company, lines) -> None:
    late = lines.visitor("late")
    assert company.query(f"SELECT as_of_date, customer_id FROM identities WHERE identity = '{late}' ORDER BY 1") == [
        (SUNDAY, late), (MONDAY, late), (TUESDAY, "fay@x.test"),
    ]  # fmt: skip
    assert company.query("SELECT as_of_date FROM customers WHERE customer_id = 'fay@x.test'") == [(TUESDAY,)]
    assert company.query(f"SELECT DISTINCT customer_id FROM orders WHERE identity = '{late}'") == [("fay@x.test",)]


def test_named_and_anonymous_revenue_add_up_to_orders_on_every_day(company) -> None:
    found = company.query(
        """WITH days AS (SELECT DISTINCT as_of_date FROM identities)
        SELECT as_of_date, (SELECT sum(net_revenue) FROM customers c WHERE c.as_of_date = d.as_of_date),
            (SELECT sum(net_revenue) FROM orders WHERE order_date <= d.as_of_date) FROM days d ORDER BY 1"""
    )
    assert found == [
        (SATURDAY, Decimal("67.50"), Decimal("67.50")),
        (SUNDAY, Decimal("77.50"), Decimal("95.50")),
        (MONDAY, Decimal("90.17"), Decimal("108.17")),
        (TUESDAY, Decimal("109.17"), Decimal("112.17")),
    ]
    with company.instance() as instance:
        record = instance.fetch_materializations(dg.AssetKey("customers"), limit=1).records[0]
    assert record.asset_materialization.metadata["revenue GBP"].value == "109.17 named + 3.00 anonymous = 112.17"


def test_every_customer_has_a_lifetime_value_or_the_reason_for_none(company) -> None:
    found = company.query(
        "SELECT customer_id, lifetime_value, expected_revenue FROM customer_ltv WHERE as_of_date = '2011-11-01' ORDER BY 1"
    )
    assert [(who, value) for who, value, _ in found] == company.query(
        "SELECT customer_id, net_revenue FROM customers WHERE as_of_date = '2011-11-01' ORDER BY 1"
    )
    assert {expected for *_, expected in found} == {None}
    assert all(reason.startswith("not enough history") for (reason,) in company.query("SELECT DISTINCT model FROM customer_ltv"))


# ------------------------------------------------------------------------------------------ the same again, and late


def test_the_same_again_runs_nothing_and_changes_nothing(branch) -> None:
    versions, digests = branch.versions(), branch.digests()
    branch.load()
    assert [done for done in branch.catch_up() if not done.held_back] == []
    assert branch.versions() == versions
    assert branch.digests() == digests


def test_no_stage_looks_whether_all_is_up_to_date_which_it_cannot_be_yet(branch, lines) -> None:
    branch.add(5, *late_order(lines))
    branch.load()
    branch.catch_up()
    with branch.instance() as instance:
        run = next(run for run in instance.get_runs() if run.asset_selection == {dg.AssetKey("events")})
        events = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    made = {record.event_log_entry.dagster_event.asset_check_evaluation_data.check_name for record in events}
    assert "is_fresh" in made and "is_up_to_date" not in made


def test_a_day_that_was_made_under_other_settings_is_made_anew_when_they_come_back(branch) -> None:
    before, settings = branch.digests(), branch.settings
    named_otherwise = [rule.model_copy(update={"name": f"our {rule.name}"}) for rule in settings.segments.rules]
    segments = settings.segments.model_copy(update={"rules": tuple(named_otherwise)})
    branch.settings = settings.model_copy(update={"segments": segments})
    with branch.instance() as instance:
        run_stage(build_definitions(branch.platform()), instance, Stage(("customer_segments",), "2011-10-31", "2011-10-31", 1))
    assert branch.digests() != before
    branch.settings = settings
    ran = {name for done in branch.catch_up() for name in done.stage.assets}
    assert branch.digests() == before
    assert "customer_segments" in ran and "customers" not in ran
    assert [done for done in branch.catch_up() if not done.held_back] == []


def test_what_is_held_back_after_a_change_of_settings_is_tried_again_by_every_run(branch) -> None:
    activation = branch.settings.activation.model_copy(update={"products_per_email": 3})
    branch.settings = branch.settings.model_copy(update={"activation": activation})
    for _ in range(2):
        tried = [done for done in branch.catch_up() if "email_campaign" in done.stage.assets]
        assert [bool(done.held_back) for done in tried] == [True]
    kept = branch.platform().home.contents().built_with
    assert "email_campaign" not in kept and "recommendations" in kept


def test_new_lines_that_could_not_be_read_are_a_warning_until_a_load_without_any(branch, lines) -> None:
    at = lines.at("2011-11-01 12:00")
    outbox = Outbox(branch.home.alerts)

    def load(*added: bytes) -> list[str]:
        if added:
            branch.add(5, at, list(added))
        branch.load()
        with branch.instance() as instance:
            look_at_ended_runs(instance, outbox, [], datetime.now(UTC))
        return [one.alert.text for one in outbox.alerts(standing_only=True) if "new_lines_were_read" in one.alert.key]

    load()
    assert load() == [], "what was rejected long ago is no news"
    [text] = load(lines.event("visited site", "ann@x.test", at), b"{", b"[]")
    assert text.startswith(
        "export_files: new_lines_were_read failed. found: revisions/5.json: 2 lines were rejected, the first is line 2:"
    )
    assert load() == []


def test_who_is_killed_in_a_restatement_goes_on_where_it_was(branch) -> None:
    branch.home.remember(built_with=dict.fromkeys(branch.home.contents().built_with, "earlier code"))

    def catch_up_until(number: int) -> list[tuple[str, ...]]:
        begun = []

        def started(stage: Stage) -> None:
            begun.append(stage.assets)
            if len(begun) == number:
                raise KeyboardInterrupt

        with branch.instance() as instance, pytest.raises(KeyboardInterrupt):
            catch_up(branch.platform(), instance, started)
        return begun

    first, second = catch_up_until(2)
    assert first == ("events",)
    assert catch_up_until(1) == [second]
    built = branch.home.contents().built_with
    assert built["events"] != "earlier code" and {built[name] for name in second} == {"earlier code"}


def test_hours_that_were_committed_and_not_recorded_are_recorded_and_what_follows_from_them_runs(branch, tmp_path, lines) -> None:
    """`make run` was killed in between: the events were those of the landed records, and the day's orders never came."""
    order = lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_id="12", order_total="2.00")
    branch.add(5, lines.at("2011-11-02 09:00"), [order])
    undisturbed = branch.copy(tmp_path / "undisturbed")
    for company in (undisturbed, branch):
        company.load()
    record = shutil.copytree(branch.home.dagster, tmp_path / "record")
    with branch.instance() as instance:
        [stage] = events_to_run(branch.platform(), instance)
        run_stage(build_definitions(branch.platform()), instance, stage)
    shutil.rmtree(branch.home.dagster)
    shutil.copytree(record, branch.home.dagster)
    for company in (undisturbed, branch):
        company.catch_up()
    assert branch.digests() == undisturbed.digests()
    with branch.instance() as instance:
        assert events_to_run(branch.platform(), instance) == [], "once is enough"


def test_materialising_everything_again_writes_no_new_version(branch) -> None:
    versions, digests = branch.versions(), branch.digests()
    definitions = build_definitions(branch.platform())
    with branch.instance() as instance:
        run_stage(
            definitions,
            instance,
            Stage(("order_items", "orders", "identities", "customers", "customer_ltv"), "2011-10-29", "2011-11-01", 4),
        )
        run_stage(definitions, instance, Stage(("events",), "2011-10-30-00:00", "2011-10-30-05:00", 7))
        materialised = instance.fetch_materializations(dg.AssetKey("orders"), limit=1).records[0].asset_materialization
    assert materialised.metadata["unchanged"].value is True
    assert branch.versions() == versions
    assert branch.digests() == digests


def test_day_by_day_in_another_order_equals_one_run(company, new_company, lines) -> None:
    other = new_company(lines.autumn())
    other.load()
    definitions = build_definitions(other.platform())
    with other.instance() as instance:
        for first, last in (("2011-10-31-00:00", "2011-11-01-23:00"), ("2011-10-29-00:00", "2011-10-30-23:00")):
            run_stage(definitions, instance, Stage(("events",), first, last, 0))
        for day in ("2011-10-31", "2011-10-29", "2011-11-01", "2011-10-30"):
            run_stage(definitions, instance, Stage(("order_items", "orders", "traits"), day, day, 1))
        for day in ("2011-11-01", "2011-10-29", "2011-10-31", "2011-10-30"):
            run_stage(definitions, instance, Stage(("accounts",), day, day, 1))
        for day in ("2011-11-01", "2011-10-30", "2011-10-29", "2011-10-31"):
            run_stage(definitions, instance, Stage(("account_usage",), f"{day}-00:00", f"{day}-23:00", 24))
            run_stage(definitions, instance, Stage(("account_days",), day, day, 1))
        for day in ("2011-11-01", "2011-10-30", "2011-10-29", "2011-10-31"):
            run_stage(definitions, instance, Stage(AS_OF, day, day, 1))
        run_stage(definitions, instance, Stage(("account_health",), "2011-10-29-00:00", "2011-11-01-23:00", 97))
        run_stage(definitions, instance, Stage(("recommendations", "training_sets"), "2011-11-01", "2011-11-01", 1))
    assert other.digests() == company.digests()


def late_order(lines) -> tuple[int, list[bytes]]:
    """A file that is received after the end: gus bought for 2.00 on Sunday at 20:00."""
    at = lines.at
    return at("2011-11-02 09:00"), [
        lines.event("purchased", "gus@x.test", at("2011-10-30 20:00"), order_id="12", order_total="2.00"),
        lines.item("gus@x.test", at("2011-10-30 20:00:01"), "e5", "2.00", "1"),
    ]


def test_a_late_file_restates_its_hours_and_days_and_equals_a_load_from_nothing(company, branch, new_company, lines) -> None:
    before = company.digests()
    branch.add(5, *late_order(lines))
    branch.load()
    ran = {name: (done.stage.first, done.stage.last) for done in branch.catch_up() for name in done.stage.assets}
    del ran["events"]
    assert ran == {
        **dict.fromkeys(("order_items", "traits", "orders"), ("2011-10-30", "2011-10-30")),
        **dict.fromkeys(("accounts", "account_days", *AS_OF), ("2011-10-30", "2011-11-01")),
        **dict.fromkeys(("account_usage", "account_health"), ("2011-10-30-00:00", "2011-11-01-23:00")),
        **dict.fromkeys(
            ("recommendations", "training_sets", "email_campaign", "onsite_recommendations"), ("2011-11-01", "2011-11-01")
        ),
    }
    after = branch.digests()
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    hour = datetime(2011, 10, 30, 20, tzinfo=UTC)
    assert {key for key in changed if key[1] is not None} == {
        ("events", hour), ("property_sets", hour), ("orders", SUNDAY), ("order_items", SUNDAY),
        *((table, day) for table in AS_OF_TABLES for day in (SUNDAY, MONDAY, TUESDAY)),
        *((table, TUESDAY) for table in ("recommendations", "product_recommendations")),
    }  # fmt: skip
    assert branch.query("SELECT sum(net_revenue) FROM orders WHERE order_date = '2011-10-30'") == [(Decimal("30.00"),)]

    anew = new_company(lines.autumn() | {5: late_order(lines)}, name="anew")
    anew.load()
    anew.catch_up()
    assert anew.digests() == after


def test_a_late_event_restates_its_own_hour_and_no_other(branch, lines) -> None:
    branch.add(5, *late_order(lines))
    branch.load()
    with branch.instance() as instance:
        stages = events_to_run(branch.platform(), instance)
    assert [(stage.first, stage.last) for stage in stages] == [("2011-10-30-20:00", "2011-10-30-20:00")]


def test_a_late_event_in_the_last_second_of_a_day_does_not_restate_the_next_day(branch, lines) -> None:
    when = lines.at("2011-10-30 23:59:59")
    branch.add(5, lines.at("2011-11-02 09:00"), [lines.event("purchased", "gus@x.test", when, order_id="12", order_total="2.00")])
    branch.load()
    stages = [(done.stage.first, done.stage.last) for done in branch.catch_up() if "orders" in done.stage.assets]
    assert stages == [("2011-10-30", "2011-10-30")]


def test_a_late_item_line_after_midnight_restates_the_day_of_its_order(branch, lines) -> None:
    branch.add(5, lines.at("2011-11-02 09:00"), [lines.item("cat@x.test", lines.at("2011-10-30 00:00:02"), "f6", "1.00", "1")])
    branch.load()
    assert branch.catch_up()
    found = branch.query("SELECT product_id FROM order_items WHERE order_id = '3' ORDER BY line")
    assert found == [("a1",), ("b2",), ("f6",)]


def test_a_file_that_changed_after_loading_is_an_error_that_names_the_way_out_and_changes_nothing(branch, lines) -> None:
    versions, digests = branch.versions(), branch.digests()
    file = branch.export / "revisions" / "2.json"
    file.write_bytes(file.read_bytes().replace(b'"20.00"', b'"21.00"'))
    branch.add(
        5,
        lines.at("2011-11-02 09:00"),
        [lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_total="2.00")],
    )
    with pytest.raises(StepFailed) as error:
        branch.load()
    assert "revisions/2.json: the content has changed since it was loaded" in str(error.value)
    assert "analytics-assets accept revisions/2.json" in str(error.value)
    assert "Nothing was loaded" in str(error.value)
    assert (branch.versions(), branch.digests()) == (versions, digests)


def test_a_file_that_was_only_touched_is_the_same_file(branch) -> None:
    versions = branch.versions()
    (branch.export / "revisions" / "1.json").touch()
    branch.load()
    assert branch.versions() == versions


# ------------------------------------------------------------------------------------------------- what stops a run


def test_a_purchase_that_no_event_is_called_names_the_setting_and_the_frequent_events(new_company, lines) -> None:
    files = {1: (lines.at("2011-10-29 23:59:59"), [
        lines.event(name, f"{number}@x.test", lines.at("2011-10-29 10:00") + number) for number, name in enumerate(["Bought", "Bought", "Looked"])
    ])}  # fmt: skip
    made = new_company(files, lines.settings.replace("2011-11-01", "2011-10-29"))
    made.load()
    with pytest.raises(StepFailed) as error:
        made.catch_up()
    message = str(error.value)
    assert "None of the 3 events is a purchase, and no record names an account: `purchase` under [events]" in message
    assert "'purchased'" in message
    assert "most frequent events are 'bought', 'looked'" in message
    with made.instance() as instance:
        assert not instance.get_materialized_partitions(dg.AssetKey("orders"))


def test_an_export_outside_the_business_days_names_both(new_company, lines) -> None:
    files = {
        1: (
            lines.at("2011-10-29 12:00"),
            [lines.event("purchased", "ann@x.test", lines.at("2011-10-29 10:00"), order_total="1.00")],
        )
    }
    made = new_company(files, lines.settings.replace("2011-10-29", "2012-11-01").replace("2011-11-01", "2012-11-01"))
    made.load()
    with pytest.raises(StepFailed) as error:
        made.catch_up()
    message = str(error.value)
    assert "No event lies between first_day (2012-11-01) and last_day (2012-11-01)" in message
    assert "2011-10-29" in message and "[business]" in message


# ------------------------------------------------------------------------------------------------ the day of 23 hours


def test_a_day_of_23_hours_has_its_events_in_the_right_hours(new_company, lines) -> None:
    """On 2011-03-27 London's clock goes from 00:59:59 to 02:00."""
    at = lines.at
    files = {1: (at("2011-03-28 01:00"), [
        lines.event("purchased", f"{number}@x.test", at(when), order_id=str(number), order_total="1.00")
        for number, when in enumerate(["2011-03-26 23:59:59", "2011-03-27 00:00", "2011-03-27 00:59:59", "2011-03-27 02:00", "2011-03-27 23:59:59", "2011-03-28 00:00"])
    ])}  # fmt: skip
    made = new_company(files, lines.settings.replace("2011-10-29", "2011-03-27").replace("2011-11-01", "2011-03-27"))
    made.load()
    made.catch_up()
    assert made.query("SELECT hour FROM events ORDER BY occurred_at") == [
        (datetime(2011, 3, 27, 0, tzinfo=UTC),), (datetime(2011, 3, 27, 0, tzinfo=UTC),),
        (datetime(2011, 3, 27, 1, tzinfo=UTC),), (datetime(2011, 3, 27, 22, tzinfo=UTC),),
    ]  # fmt: skip
    assert made.query("SELECT order_date, count(*) FROM orders GROUP BY 1") == [(date(2011, 3, 27), 4)]
    with made.instance() as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("events"))) == 23


def test_every_table_tells_what_memory_it_took(company) -> None:
    with company.instance() as instance:
        for name in ("export_files", "events", "orders", "customer_ltv"):
            made = instance.fetch_materializations(dg.AssetKey(name), limit=1).records[0].asset_materialization
            assert made.metadata[PEAK_MEMORY].value > 50 * 2**20, "Python and DuckDB alone take more"


# ------------------------------------------------------------------------------------------------------- real exports


@pytest.fixture(scope="session")
def online_retail(tmp_path_factory, make_company_in):
    """A month of Online Retail with the faults of real exports, and the truth about it."""
    if not (SHARED / "tools" / "kissmetrics_export.py").exists():
        pytest.skip(f"the Online Retail export is made by {SHARED / 'tools'}, which is not beside this project")
    folder = tmp_path_factory.mktemp("online_retail")
    subprocess.run(
        [sys.executable, str(SHARED / "tools" / "kissmetrics_export.py"), "--source", str(SHARED / "data" / "online_retail.parquet"),
         "--out", str(folder / "made"), "--from", "2011-10-20", "--to", "2011-11-20"],
        check=True, capture_output=True,
    )  # fmt: skip
    truth = json.loads((folder / "made" / "truth.json").read_text())
    days = sorted(truth["revenue_pence_by_london_day"])
    settings = f'[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = {days[0]}\nlast_day = {days[-1]}\n'
    company = make_company_in(folder, {}, settings)
    company.export.joinpath("index.csv").unlink()
    company.export.joinpath("revisions").rmdir()
    company.export.rmdir()
    (folder / "made").rename(company.export)
    company.load()
    company.catch_up()
    return company, truth


def test_online_retail_every_line_is_what_it_is(online_retail) -> None:
    company, truth = online_retail
    ((lines, events, sets, aliases, repeated, rejected),) = company.query(
        "SELECT sum(lines), sum(events), sum(property_sets), sum(aliases), sum(repeated_lines), sum(rejected_lines) FROM export_files"
    )
    assert (lines, rejected, repeated) == (truth["lines"], truth["broken_lines"], truth["repeated_lines"])
    assert (events, sets, aliases) == (truth["events"], truth["property_sets"], truth["aliases"])
    assert company.query("SELECT count(*) FROM rejected_lines") == [(truth["broken_lines"],)]


def test_online_retail_revenue_and_orders_of_every_day_to_the_penny(online_retail) -> None:
    company, truth = online_retail
    found = company.query(
        "SELECT CAST(order_date AS VARCHAR), CAST(sum(net_revenue) * 100 AS BIGINT), count(*) FILTER (kind = 'order') FROM orders GROUP BY 1"
    )
    assert {day: pence for day, pence, _ in found} == truth["revenue_pence_by_london_day"]
    assert {day: orders for day, _, orders in found} == truth["orders_by_london_day"]
    assert sum(orders for *_, orders in found) == truth["orders"]


def test_online_retail_every_item_line_finds_its_order_and_adds_up_within_a_penny(online_retail) -> None:
    company, truth = online_retail
    assert company.query("SELECT count(*), (SELECT sum(item_lines) FROM orders) FROM order_items") == [
        (truth["order_item_lines"], truth["order_item_lines"])
    ]
    off = company.query(
        """SELECT o.order_id, any_value(o.net_revenue), sum(i.quantity * i.price) FROM orders AS o LEFT JOIN order_items AS i USING (event_id)
        GROUP BY ALL HAVING abs(coalesce(sum(i.quantity * i.price), 0) - any_value(o.net_revenue)) > 0.01"""
    )
    assert off == []


def test_online_retail_every_identified_customer_is_one_customer(online_retail) -> None:
    company, truth = online_retail
    ((customers, top),) = company.query(
        "SELECT count(DISTINCT customer_id), max(as_of_date) FROM customers WHERE as_of_date = (SELECT max(as_of_date) FROM customers)"
    )
    assert customers == truth["identified_customers"]
    revenue = dict(
        company.query(f"SELECT customer_id, CAST(net_revenue * 100 AS BIGINT) FROM customers WHERE as_of_date = '{top}'")
    )
    assert {who: revenue[who] for who in truth["top_customers_pence"]} == truth["top_customers_pence"]


def test_the_vendors_sample_loads_whole(new_company, lines) -> None:
    sample = SHARED / "data" / "kissmetrics_sample"
    if not sample.exists():
        pytest.skip(f"the sample is not beside this project ({sample})")
    made = new_company({})
    made.export.joinpath("index.csv").unlink()
    (made.export / "revisions" / "300.json").write_bytes((sample / "revisions" / "300.json").read_bytes())
    made.load()
    assert made.query("SELECT lines, events, property_sets + aliases + repeated_lines, rejected_lines FROM export_files") == [
        (6354, 6354, 0, 0)
    ]


# ------------------------------------------------------------------------------------------------- a software company


def test_a_company_without_purchases_whose_accounts_come_as_group_calls(tmp_path, lines, new_company) -> None:
    at = lines.at
    bills = {"acme": ("300", "12"), "slip": ("99999999999999", "99999")}
    found = [
        line
        for name, (amount, months) in bills.items()
        for line in (
            lines.traits(f"ann@{name}.test", at("2011-10-29 09:00"), **{"group - id": name, "group - seats": "5"}),
            lines.event(
                "subscription billed",
                f"ann@{name}.test",
                at("2011-10-29 09:00:01"),
                **{"subscription billing amount": amount, "subscription billing length": months},
            ),
            lines.event("exported a report", f"ann@{name}.test", at("2011-10-31 10:30")),
        )
    ]
    company = new_company({1: (at("2011-11-02 09:00"), found)}, name="software")
    company.load()
    done = company.catch_up()
    assert [one.stage.assets for one in done if one.held_back] == []
    assert company.query("SELECT count(*) FROM orders UNION ALL SELECT count(*) FROM customer_ltv") == [(0,), (0,)]
    assert company.query("SELECT account_id, status, seats, mrr FROM accounts WHERE as_of_date = '2011-11-01' ORDER BY 1") == [
        ("acme", "active", 5, Decimal("25.00")),
        ("slip", "active", 5, None),
    ]
    assert company.query(
        "SELECT DISTINCT account_id, events, active_users, features_used, seats FROM account_usage WHERE event_date = '2011-10-31' ORDER BY 1"
    ) == [(name, 1, 1, 1, 5) for name in bills]
    assert company.query("SELECT count(DISTINCT account_id) FROM account_health") == [(2,)]


# ----------------------------------------------------------------------------------------------- before the first run


def check(folder: Path, settings: str, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Whether `analytics-assets check` passes, and what it says."""
    from analytics_assets.cli import _check

    try:
        _check(parse_settings(settings, "x"), Home(folder / "home"), str(folder / "export"))
        passed = True
    except SystemExit:
        passed = False
    return passed, " ".join(capsys.readouterr().out.split())


def test_check_wants_a_purchase_or_an_account(tmp_path, lines, new_company, capsys) -> None:
    at = lines.at("2011-10-30 20:00")
    bill = lines.event("subscription billed", "ann@x.test", at, account_id="acme")
    visit = lines.event("visited site", "ann@x.test", at)
    for name, line in (("software", bill), ("neither", visit)):
        new_company({1: (at, [line])}, name=name)
    passed, said = check(tmp_path / "software", lines.settings, capsys)
    assert passed and "[subscriptions] billed: subscription billed" in said and "[properties] account_id: account id" in said
    passed, said = check(tmp_path / "neither", lines.settings, capsys)
    assert not passed
    assert "[events] purchase names no event of the sample, and no record names an account. `make run` would stop" in said
    assert not (tmp_path / "neither" / "home").exists()


def test_check_says_what_is_told_of_accounts_before_the_first_day(tmp_path, lines, new_company, capsys) -> None:
    bills = [
        lines.event("subscription billed", "ann@x.test", lines.at(f"2011-{when}"), account_id="acme", amount="9.00")
        for when in ("10-28 23:59", "10-29 00:01", "10-30 20:00")
    ]
    new_company({1: (lines.at("2011-10-30 20:00"), bills)}, name="early")
    _, said = check(tmp_path / "early", lines.settings, capsys)
    assert "1 records of the sample, since 2011-10-28, tell of accounts before first_day (2011-10-29) and are not used" in said
    new_company({1: (lines.at("2011-10-30 20:00"), bills[1:])}, name="since")
    assert "tell of accounts before" not in check(tmp_path / "since", lines.settings, capsys)[1]


def test_check_says_whether_anybody_will_be_written_to(tmp_path, lines, new_company, capsys) -> None:
    at = lines.at("2011-10-30 20:00")
    sold = lines.event("purchased", "ann@x.test", at, order_id="1", order_total="5.00")
    told = {"silent": lines.traits("ann@x.test", at, opted="yes"), "asked": lines.traits("ann@x.test", at, newsletter="yes")}
    for name, line in told.items():
        new_company({1: (at, [sold, line])}, name=name)
    passed, said = check(tmp_path / "silent", lines.settings, capsys)
    assert passed and "[customers] consent: -" in said
    assert "no property tells of consent: nobody will stand on the e-mail list" in said
    passed, said = check(tmp_path / "asked", lines.settings, capsys)
    assert passed and "[customers] consent: newsletter" in said and "nobody" not in said
    assert "nobody" not in check(tmp_path / "silent", lines.settings + "[activation]\nconsent_required = false\n", capsys)[1]
