"""Write, audit, publish: only audited rows become visible, and only faults that may pass are tried again."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import date

import dagster as dg
import pyarrow as pa
import pytest
from deltalake.exceptions import DeltaError

from analytics_assets.home import Home
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse import assets
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.lake import Lake, LakeError, predicate_for
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

SETTINGS = '[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = 2011-11-01\nlast_day = 2011-11-04\n'
USUAL = Audit("usual", "A price above a thousand is unusual.", "SELECT sale_id, amount FROM rows WHERE amount > 1000")
FREE_ONLY = Audit("paid_for", "Nothing is given away.", "SELECT sale_id, amount FROM rows WHERE amount <= 0")


class Shop:
    """An asset `sales` whose rows the test sets, and what came of its runs."""

    def __init__(self, home: Home, shelf, instance: dg.DagsterInstance) -> None:
        self.shelf, self.instance = shelf, instance
        self.platform = Platform(parse_settings(SETTINGS, "x"), home, [shelf.daily])
        self.rows: list[dict] = []
        self.fault: list[BaseException] = []
        self.calls = 0
        self.meanwhile: list[Callable[[], object]] = []
        self.staged = False
        self.fault_after_staging: BaseException | None = None
        self.told: list[str] = []

        def sales(work) -> dict[str, pa.Table]:
            """Sales of the day."""
            self.calls += 1
            if self.fault:
                raise self.fault.pop()
            if self.meanwhile:
                self.meanwhile.pop()()
            if not self.staged:
                return {"sales": shelf.rows_of(shelf.daily, self.rows)}
            rows = work.stage(shelf.daily)
            for row in self.rows:
                rows.append(shelf.rows_of(shelf.daily, [row]))
            if self.fault_after_staging:
                raise self.fault_after_staging
            return {"sales": rows}

        sale_table = table_asset(self.platform, (shelf.daily,), sales, audits=[FREE_ONLY], warnings=[USUAL], group="shop")

        @dg.asset(deps=["sales"], partitions_def=self.platform.clock.days)
        def told() -> None:
            self.told.append("told")

        self.assets = [sale_table, told]

    def run(
        self, *rows: dict, first: str = "2011-11-01", last: str | None = None, fault: BaseException | None = None
    ) -> dg.ExecuteInProcessResult:
        self.rows, self.fault, self.calls = list(rows), [fault] if fault else [], 0
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        return dg.materialize(self.assets, instance=self.instance, tags=tags, raise_on_error=False)

    @property
    def version(self) -> int | None:
        return Lake(self.platform.home.lake).pin(self.shelf.daily).version

    def stored(self) -> list[str]:
        from analytics_assets.warehouse.engine import attach, engine

        with engine() as connection:
            attach(connection, Lake(self.platform.home.lake).pin(self.shelf.daily))
            return [row[0] for row in connection.sql("SELECT sale_id FROM sales ORDER BY 1").fetchall()]

    def files(self) -> int:
        return len(list((self.platform.home.lake / "sales").rglob("*.parquet")))

    def materialised(self) -> set[str]:
        return set(self.instance.get_materialized_partitions(dg.AssetKey("sales")))


@pytest.fixture
def shop(tmp_path, shelf, monkeypatch):
    monkeypatch.setattr(assets, "RETRIES", dg.RetryPolicy(max_retries=3, delay=0.01))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Shop(Home(tmp_path / "home"), shelf, instance)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    found = event.step_failure_data.user_failure_data
    return str(found.description if found else event.step_failure_data.error)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def retries(result: dg.ExecuteInProcessResult) -> int:
    return sum(event.event_type_value == "STEP_RESTARTED" for event in result.all_events)


def test_rows_that_pass_are_committed_recorded_and_published(shop, shelf) -> None:
    result = shop.run(shelf.sale("a"), shelf.sale("b"))
    assert result.success and shop.stored() == ["a", "b"]
    assert checks(result) == {"inputs_ready": True, "as_declared": True, "paid_for": True, "usual": True}
    assert shop.materialised() == {"2011-11-01"} and shop.told == ["told"]
    assert shop.platform.home.database.exists()
    (event,) = result.asset_materializations_for_node("sales")
    assert event.metadata["dagster/row_count"].value == 2
    assert event.metadata["delta_version"].value == shop.version
    assert event.metadata["dagster/partition_row_count"].value == 2


def test_a_failed_audit_leaves_the_last_good_partition_and_stops_at_the_first_attempt(shop, shelf) -> None:
    shop.run(shelf.sale("good"))
    version = shop.version
    shop.told.clear()
    result = shop.run(shelf.sale("fine"), shelf.sale("bad", amount=-1))
    assert not result.success
    assert shop.calls == 1 and retries(result) == 0
    assert checks(result) == {"inputs_ready": True, "as_declared": True, "paid_for": False}
    assert result.asset_materializations_for_node("sales") == []
    assert shop.version == version and shop.stored() == ["good"]
    assert shop.told == []
    assert "2011-11-01" in failure(result) and "paid_for failed: sale_id bad, amount -1.00" in failure(result)
    assert "last good partition stands" in failure(result)


def test_a_warning_is_shown_and_stops_nothing(shop, shelf) -> None:
    result = shop.run(shelf.sale("dear", amount=1001))
    assert result.success and shop.stored() == ["dear"] and shop.told == ["told"]
    assert checks(result) == {"inputs_ready": True, "as_declared": True, "paid_for": True, "usual": False}
    (warned,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "usual"]
    assert warned.severity == dg.AssetCheckSeverity.WARN and warned.metadata["means"].value == USUAL.means
    assert warned.metadata["found"].value == ["sale_id dear, amount 1001.00"]


def test_a_further_table_is_held_to_its_declaration_too(shop, shelf) -> None:
    def both(work) -> dict[str, pa.Table]:
        """Sales and ticks."""
        ticks = shelf.rows_of(shelf.hourly, [shelf.tick(3, 1), shelf.tick(4, 1)])
        return {"sales": shelf.rows_of(shelf.daily, [shelf.sale("a")]), "ticks": ticks}

    asset = table_asset(shop.platform, (shelf.daily, shelf.hourly), both, group="shop")
    result = dg.materialize([asset], instance=shop.instance, partition_key="2011-11-01", raise_on_error=False)
    assert "ticks: key not unique: 1" in failure(result)
    assert shop.version is None


def test_a_failed_audit_of_a_new_partition_is_recorded_and_materialises_nothing(shop, shelf) -> None:
    assert not shop.run(shelf.sale("bad", amount=0)).success
    assert shop.materialised() == set() and shop.version is None and not shop.platform.home.database.exists()
    key = dg.AssetCheckKey(dg.AssetKey("sales"), "paid_for")
    record = shop.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.status.value == "FAILED"


def test_a_range_is_all_or_nothing_and_its_failure_names_it(shop, shelf) -> None:
    rows = [shelf.sale("a", 1), shelf.sale("b", 2, amount=-1), shelf.sale("c", 3)]
    result = shop.run(*rows, first="2011-11-01", last="2011-11-03")
    assert not result.success and shop.stored() == [] and shop.materialised() == set()
    assert "2011-11-01 to 2011-11-03" in failure(result)


def test_a_range_materialises_each_of_its_days_also_the_empty_ones(shop, shelf) -> None:
    result = shop.run(shelf.sale("a", 1), shelf.sale("b", 3), first="2011-11-01", last="2011-11-03")
    assert result.success and shop.materialised() == {"2011-11-01", "2011-11-02", "2011-11-03"}
    counts = {
        event.partition: event.metadata["dagster/partition_row_count"].value
        for event in result.asset_materializations_for_node("sales")
    }
    assert counts == {"2011-11-01": 1, "2011-11-02": 0, "2011-11-03": 1}


@pytest.mark.parametrize(
    ("rows", "violation"),
    [
        ([{"sale_id": None}], "NULL in sale_id"),
        ([{"sale_id": "a"}, {"sale_id": "b", "day": 2}], "outside the partition"),
        ([{"sale_id": "a"}, {"sale_id": "a", "amount": 2}], "key not unique: a"),
    ],
    ids=["null", "out-of-window", "duplicate-key"],
)
def test_rows_that_are_not_as_declared_are_refused(shop, shelf, rows: list[dict], violation: str) -> None:
    result = shop.run(*(shelf.sale(**row) for row in rows))
    assert not result.success and shop.calls == 1
    assert checks(result) == {"inputs_ready": True, "as_declared": False}
    assert violation in failure(result) and "2011-11-01" in failure(result)
    assert shop.version is None


def test_null_is_fine_where_the_declaration_says_so(shop, shelf) -> None:
    assert shop.run(shelf.sale("a", shop=None, till=None, amount=None)).success


def test_staged_rows_are_held_to_the_same_and_recorded_as_the_same(shop, shelf) -> None:
    rows = [shelf.sale("a", 1), shelf.sale("b", 1), shelf.sale("c", 3)]
    digests = []
    for shop.staged in (False, True):
        result = shop.run(*rows, first="2011-11-01", last="2011-11-03")
        assert result.success and shop.stored() == ["a", "b", "c"] and shop.version == 1
        digests.append({
            event.partition: (event.metadata["dagster/partition_row_count"].value, event.metadata["digest"].value)
            for event in result.asset_materializations_for_node("sales")
        })  # fmt: skip
    assert digests[0] == digests[1]
    assert shop.files() == 2, "equal rows are not written again, nor left behind"
    assert shop.run(*rows[:2], shelf.sale("d", 3), first="2011-11-01", last="2011-11-03").success
    assert shop.version == 2 and shop.stored() == ["a", "b", "d"]
    assert not shop.run(shelf.sale("e", 1, amount=-1)).success
    assert shop.version == 2 and shop.stored() == ["a", "b", "d"] and shop.files() == 4, "the refused rows are gone"


@pytest.mark.parametrize(
    ("rows", "violation"),
    [
        ([{"sale_id": None}], "NULL in sale_id"),
        ([{"sale_id": "a", "day": 2}], "outside the partition"),
        ([{"sale_id": "a"}, {"sale_id": "a", "amount": 2}], "key not unique, or out of order: a"),
        ([{"sale_id": "a"}, {"sale_id": "b"}, {"sale_id": "a", "amount": 2}], "key not unique, or out of order: a"),
    ],
    ids=["null", "out-of-window", "duplicate-key", "duplicate-key-far-apart"],
)
def test_staged_rows_that_are_not_as_declared_are_refused(shop, shelf, rows: list[dict], violation: str) -> None:
    shop.staged = True
    result = shop.run(*(shelf.sale(**row) for row in rows))
    assert not result.success and violation in failure(result)
    assert shop.version is None and shop.files() == 0


def test_a_staged_day_must_come_in_one_piece(shop, shelf) -> None:
    """Within a day the key rises and no two rows that follow one another are equal: that alone would not show the second "a"."""
    shop.staged = True
    apart = [shelf.sale("a", 1), shelf.sale("b", 1), shelf.sale("b", 2), shelf.sale("a", 1, amount=2)]
    result = shop.run(*apart, first="2011-11-01", last="2011-11-02")
    assert not result.success and "key not unique, or out of order: 2011-11-01" in failure(result)
    assert shop.version is None and shop.files() == 0


def test_what_was_staged_before_a_fault_is_deleted(shop, shelf) -> None:
    shop.staged, shop.fault_after_staging = True, KeyError("colour")
    assert not shop.run(shelf.sale("a")).success
    assert shop.version is None and shop.files() == 0


def test_a_fault_that_may_pass_is_tried_again(shop, shelf) -> None:
    result = shop.run(shelf.sale("a"), fault=OSError("the disk hiccups"))
    assert result.success and shop.calls == 2 and retries(result) == 1
    assert shop.stored() == ["a"]


@pytest.mark.parametrize(
    "fault",
    [OSError("the disk hiccups"), DeltaError("Failed to parse parquet: External: No space left on device (os error 28)")],
    ids=["of-python", "of-delta"],
)
def test_a_fault_in_the_commit_is_tried_again(shop, shelf, monkeypatch, fault: Exception) -> None:
    replace, faults = Lake.replace, [fault]

    def flaky(*arguments) -> int:
        if faults:
            raise faults.pop()
        return replace(*arguments)

    monkeypatch.setattr(Lake, "replace", flaky)
    result = shop.run(shelf.sale("a"))
    assert result.success and retries(result) == 1 and shop.stored() == ["a"]


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(("day", "overtaken"), [(1, True), (2, False)], ids=["the-same-day", "another-day"])
def test_who_was_overtaken_while_computing_computes_again(shop, shelf, day: int, overtaken: bool, staged: bool) -> None:
    """The other run may have read newer inputs: older rows must not take the place of its rows."""
    shop.run(shelf.sale("before"))

    def other_run() -> None:
        rows = shelf.rows_of(shelf.daily, [shelf.sale("other", day=day)])
        Lake(shop.platform.home.lake).replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(day, day)), {})
        shop.rows = [shelf.sale("newer")] if overtaken else shop.rows

    shop.meanwhile, shop.staged = [other_run], staged
    result = shop.run(shelf.sale("older"))
    assert result.success and retries(result) == overtaken and shop.calls == 1 + overtaken
    assert shop.stored() == (["newer"] if overtaken else ["older", "other"])


def test_another_run_that_writes_the_same_rows_overtakes_nobody(shop, shelf) -> None:
    def other_run() -> None:
        for rows in ([shelf.sale("other")], [shelf.sale("before")]):
            lake = Lake(shop.platform.home.lake)
            lake.replace(shelf.daily, shelf.rows_of(shelf.daily, rows), predicate_for(shelf.daily, shelf.days(1, 1)), {})

    shop.run(shelf.sale("before"))
    shop.meanwhile = [other_run]
    assert retries(shop.run(shelf.sale("mine"))) == 0 and shop.stored() == ["mine"]


def test_a_bug_is_not_tried_again_and_is_told(shop, shelf) -> None:
    result = shop.run(shelf.sale("a"), fault=KeyError("colour"))
    assert not result.success and shop.calls == 1 and retries(result) == 0
    assert failure(result) == "sales: KeyError: 'colour'"


def test_equal_rows_are_not_written_again_in_any_order(shop, shelf) -> None:
    shop.run(shelf.sale("a"), shelf.sale("b"))
    version = shop.version
    result = shop.run(shelf.sale("b"), shelf.sale("a"))
    assert result.success and shop.version == version
    assert result.asset_materializations_for_node("sales")[0].metadata["unchanged"].value is True
    assert shop.run(shelf.sale("a")).success
    assert shop.version == version + 1 and shop.stored() == ["a"]


def test_a_partition_that_becomes_empty_is_cleared(shop, shelf) -> None:
    shop.run(shelf.sale("a", 1), shelf.sale("b", 2), first="2011-11-01", last="2011-11-02")
    assert shop.run(first="2011-11-02").success
    assert shop.stored() == ["a"]


def test_another_partition_is_not_touched(shop, shelf) -> None:
    shop.run(shelf.sale("a", 1))
    shop.run(shelf.sale("b", 2), first="2011-11-02")
    assert shop.stored() == ["a", "b"]


def test_missing_inputs_fail_by_name_and_before_anything_is_computed(shop, shelf) -> None:
    calls = []

    def report(work) -> dict[str, pa.Table]:
        """Read the sales."""
        calls.append(work.window.first_day)
        return {"sales": shelf.rows_of(shelf.daily, [])}

    made = table_asset(shop.platform, (type(shelf.daily)(**{**shelf.daily.__dict__, "name": "report"}),), report,
                       needs=[Needs("sales", as_of=True)], group="shop")  # fmt: skip
    shop.run(shelf.sale("a", 1))
    shop.run(shelf.sale("c", 3), first="2011-11-03")
    result = dg.materialize([made], partition_key="2011-11-03", instance=shop.instance, raise_on_error=False)
    assert not result.success and calls == []
    assert checks(result) == {"inputs_ready": False}
    assert "report 2011-11-03: inputs are not there yet (sales: 1 of 3 partitions, first 2011-11-02)" in failure(result)


def test_inputs_of_the_same_day_need_only_that_day(shop, shelf) -> None:
    def report(work) -> dict[str, pa.Table]:
        """Nothing."""
        return {"report": shelf.rows_of(shelf.daily, [])}

    made = table_asset(
        shop.platform,
        (type(shelf.daily)(**{**shelf.daily.__dict__, "name": "report"}),),
        report,
        needs=[Needs("sales")],
        group="shop",
    )
    shop.run(shelf.sale("c", 3), first="2011-11-03")
    assert dg.materialize([made], partition_key="2011-11-03", instance=shop.instance, raise_on_error=False).success
    assert not dg.materialize([made], partition_key="2011-11-02", instance=shop.instance, raise_on_error=False).success


def made_by_an_earlier_version(shop, shelf) -> Lake:
    """Two days of sales that had no number yet."""
    earlier = replace(shelf.daily, columns=tuple(c for c in shelf.daily.columns if c.name != "sale_id"), key=("day",))
    lake = Lake(shop.platform.home.lake)
    rows = shelf.rows_of(earlier, [shelf.sale("a", 1), shelf.sale("b", 2)])
    lake.replace(earlier, rows, predicate_for(earlier, shelf.days(1, 2)), {})
    return lake


def test_no_partition_gets_a_column_that_the_others_lack_and_may_not(shop, shelf) -> None:
    before = made_by_an_earlier_version(shop, shelf).pin(shelf.daily).version
    refused = shop.run(shelf.sale("a", 1))
    assert "sales was made by an earlier version, without sale_id: `make run` computes all of it anew" in failure(refused)
    assert (retries(refused), shop.calls, shop.version) == (0, 0, before)
    assert shop.run(shelf.sale("a", 1), shelf.sale("b", 2), last="2011-11-02").success
    assert shop.stored() == ["a", "b"]
    assert shop.run(shelf.sale("c", 1)).success
    assert shop.stored() == ["b", "c"]


def test_nothing_is_computed_from_rows_that_lack_what_may_not_be_null(shop, shelf) -> None:
    lake = made_by_an_earlier_version(shop, shelf)
    with engine() as connection:
        work = Work(shop.platform, shelf.days(1, 2), connection, None)
        with pytest.raises(LakeError, match="sales was made by an earlier version, without sale_id: `make run`"):
            work.read(shelf.daily)
        optional = replace(shelf.daily, columns=tuple(replace(c, nullable=True) for c in shelf.daily.columns))
        work.pins["sales"] = lake.pin(optional)
        work.read(optional)
        assert connection.sql("SELECT sale_id, shop FROM sales").fetchall() == [(None, "north"), (None, "north")]


def test_previews_do_not_show_who_somebody_is(shelf) -> None:
    table = Table(
        "people",
        "person",
        (
            Column("email", "VARCHAR", "Address.", personal=True),
            Column("account_id", "VARCHAR", "The account."),
            Column("orders", "BIGINT", "Orders."),
        ),
        ("email",),
    )
    rows = pa.table({"email": ["ann@x.test"], "account_id": ["Acme"], "orders": [3]})
    shown = assets._preview(table, rows, people_are_accounts=False)
    assert "ann@x.test" not in shown and "| Acme | 3 |" in shown and "email" in shown
    shown = assets._preview(table, rows, people_are_accounts=True)
    assert "Acme" not in shown and "| 3 |" in shown and shown.endswith("who somebody is: email, account_id.")


def test_a_check_names_nobody_by_address(shop, shelf) -> None:
    result = shop.run(shelf.sale("ann.lee@x.test", amount=-1))
    [found] = [e.metadata["violations"].value for e in result.get_asset_check_evaluations() if e.check_name == "paid_for"]
    assert "‹address›" in found[0] and "ann.lee" not in found[0]
    assert "‹address›" in failure(result) and "ann.lee" not in failure(result)


def test_a_check_tells_nothing_of_columns_that_say_who_somebody_is(shop, shelf, monkeypatch) -> None:
    for hidden, told in (([], "sale_id ann, amount -1.00"), (["sale_id"], "sale_id …, amount -1.00")):
        monkeypatch.setattr(Table, "personal_columns", lambda _table, _people, hidden=hidden: hidden)
        result = shop.run(shelf.sale("ann", amount=-1))
        [found] = [e.metadata["violations"].value for e in result.get_asset_check_evaluations() if e.check_name == "paid_for"]
        assert found == [told] and told in failure(result)
        result = shop.run(shelf.sale("ann"), shelf.sale("ann"))
        assert ("key not unique: " + ("…" if hidden else "ann")) in failure(result)


def test_what_is_more_than_the_memory_lies_in_the_home_while_it_is_needed(shop, shelf) -> None:
    with engine() as connection, closing(Work(shop.platform, shelf.days(1, 1), connection, None)) as work:
        work.bound_memory("30MB")
        connection.execute("CREATE TABLE more AS SELECT hash(i) AS a, hash(a) AS b FROM range(4_000_000) AS t(i)")
        put_down = [path for (path,) in connection.sql("SELECT path FROM duckdb_temporary_files()").fetchall()]
        assert put_down and all(path.startswith(f"{shop.platform.home.spill}/") for path in put_down)
        assert connection.sql("SELECT count(DISTINCT a // 1000), count(b) FROM more").fetchall()[0][1] == 4_000_000
    assert not list(shop.platform.home.spill.glob("*"))


def test_days_of_a_window(shop, shelf) -> None:
    with engine() as connection:
        work = Work(shop.platform, shelf.days(1, 3), connection, None)
        assert work.days == [date(2011, 11, 1), date(2011, 11, 2), date(2011, 11, 3)]


def test_a_range_shows_its_newest_partition_once_and_on_that_partition(shop, shelf) -> None:
    result = shop.run(shelf.sale("a", 1, amount=11), shelf.sale("b", 3, amount=33), first="2011-11-01", last="2011-11-03")
    shown = {event.partition: event.metadata.get("preview") for event in result.asset_materializations_for_node("sales")}
    assert [day for day, preview in shown.items() if preview] == ["2011-11-03"]
    assert "2011-11-03" in shown["2011-11-03"].value and "2011-11-01" not in shown["2011-11-03"].value
