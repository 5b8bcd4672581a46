"""From inputs to what lies in the folders, through Dagster."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.activation.generations import Channel
from analytics_assets.activation.sends import mark_sent
from analytics_assets.warehouse.incomplete import INCOMPLETE_HOURS

DAY, NEXT = date(2026, 3, 3), date(2026, 3, 4)
EARLY_DAY = date(2026, 2, 3)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_list_of_a_day_as_klaviyo_and_braze_read_it(evening) -> None:
    result = evening.run("email_campaign")
    assert result.success
    text = (evening.folder("email") / "recipients.csv").read_text(encoding="utf-8")
    products = '"p1","Product 1","p5","Product 5","p6","Product 6","p7","Product 7"\n'
    assert text == (
        '"email","external_id","segment","value_band","rec_count",'
        '"rec_1_id","rec_1_name","rec_2_id","rec_2_name","rec_3_id","rec_3_name","rec_4_id","rec_4_name"\n'
        f'"ann@x.test","ann@x.test","Loyal","high",4,{products}'
        f'"bob@x.test","bob@x.test","Loyal","medium",4,{products}'
        f'"dan@mail.test","dan","Loyal","low",4,{products}'
    )
    as_parquet = pl.read_parquet(evening.folder("email") / "recipients.parquet")
    assert as_parquet.equals(pl.read_csv(text.encode(), schema=as_parquet.schema))


def test_the_manifest_says_what_is_in_every_file_and_why_others_are_not(evening) -> None:
    result = evening.run("email_campaign")
    manifest = evening.manifest("email")
    files = manifest["files"]
    assert set(files) | {"manifest.json"} == set(contents(evening.folder("email")))
    for name, said in files.items():
        data = (evening.folder("email") / name).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (said["sha256"], said["bytes"])
    assert files["recipients.csv"]["rows"] == files["recipients.parquet"]["rows"] == files["delta.csv"]["rows"] == 3
    assert manifest["left_out"] == {
        "no address": 1, "address of another customer": 0, "suppressed": 0, "no consent": 2, "no products": 0, "holdout": 0,
    }  # fmt: skip
    assert (manifest["schema_version"], manifest["campaign"], manifest["as_of_date"]) == (1, "nightly", "2026-03-03")
    assert (manifest["run_id"], manifest["data_through"]) == (result.run_id, "2026-03-04T00:00:00+00:00")
    assert manifest["inputs"]["recommendations"] == 1 and manifest["generation"].startswith("2026-03-03-")


def test_the_same_day_twice_is_the_same_to_the_byte(evening) -> None:
    evening.run("email_campaign", "onsite_recommendations")
    before = {channel: contents(evening.folder(channel)) for channel in ("email", "onsite")}
    evening.run("email_campaign", "onsite_recommendations")
    assert {channel: contents(evening.folder(channel)) for channel in ("email", "onsite")} == before


def test_alone_or_in_a_range_a_day_is_the_same(evening, tmp_path) -> None:
    evening.run("email_campaign", "onsite_recommendations")
    alone = {channel: evening.manifest(channel)["files"] for channel in ("email", "onsite")}
    twin = type(evening)(tmp_path / "twin")
    twin.inputs()
    assert twin.run("email_campaign", "onsite_recommendations", day=date(2026, 3, 1), last=date(2026, 3, 5)).success
    assert {channel: twin.manifest(channel)["files"] for channel in ("email", "onsite")} == alone


def test_consent_withdrawn_on_the_day_counts_on_that_day_and_not_before(shop) -> None:
    shop.rows["traits"].append(
        {"event_date": DAY, "identity": "ann@x.test", "trait": "newsletter", "value": "no", "last_second": 200}
    )
    shop.inputs()
    shop.run("email_campaign", day=date(2026, 3, 2), last=DAY)
    assert "ann@x.test" in shop.list_of(date(2026, 3, 2))["email"]
    assert "ann@x.test" not in shop.list_of(DAY)["email"]


def test_who_says_yes_and_no_in_one_second_has_refused(shop) -> None:
    said = {"event_date": DAY, "identity": "ann@x.test", "trait": "newsletter", "last_second": 200}
    shop.rows["traits"] += [said | {"value": "no"}, said | {"value": "yes"}]
    shop.inputs()
    shop.run("email_campaign")
    assert shop.list_of()["email"].to_list() == ["bob@x.test", "dan@mail.test"]


def test_an_address_that_was_told_and_replaced_within_a_day_closes_whoever_told_it(shop, tmp_path) -> None:
    said = {"event_date": DAY, "identity": "ann@x.test", "trait": "email"}
    shop.rows["traits"] += [
        said | {"value": "old@x.test", "first_second": 150, "last_second": 150},
        said | {"value": "new@x.test", "first_second": 200, "last_second": 200},
    ]
    shop.inputs()
    shop.run("email_campaign")
    assert shop.list_of()["email"].to_list() == ["bob@x.test", "dan@mail.test", "new@x.test"]
    (tmp_path / "suppressed.txt").write_text("old@x.test\n")
    shop.settings_text += f'suppression_file = "{tmp_path / "suppressed.txt"}"\n'
    shop.run("email_campaign")
    assert shop.list_of()["email"].to_list() == ["bob@x.test", "dan@mail.test"]


@pytest.mark.parametrize(
    ("who", "said", "refused"),
    [
        ("ann@x.test", {}, "ann@x.test"),
        ("ANN@x.test", {}, "ann@x.test"),
        ("ann's old account", {"email": " Ann@X.test"}, "ann@x.test"),
        ("Shared@x.test", {}, "shared@x.test"),
        ("dan@mail.test", {}, "dan@mail.test"),
        ("Bob@x.test", {}, "shared@x.test"),
    ],
)
def test_who_refused_before_the_first_day_has_refused(shop, who: str, said: dict[str, str], refused: str) -> None:
    """Under the name of now, in another spelling, or under a name that was never seen since."""
    shop.settings_text += "consent_required = false\n"
    shop.rows["traits"] = [row for row in shop.rows["traits"] if row["trait"] == "email"]
    shop.rows["traits"].append(
        {"event_date": DAY, "identity": "bob@x.test", "trait": "email", "value": "shared@x.test", "last_second": 150}
    )
    shop.rows["identities"].append({"as_of_date": DAY, "identity": "shared@x.test", "kind": "blocked", "customer_id": None})
    shop.inputs()
    everybody = ["ann@x.test", "cat@x.test", "dan@mail.test", "fay@x.test", "shared@x.test"]
    for received, counts in ((NEXT, False), (DAY, True), (None, True)):
        shop.landed([(who, EARLY_DAY, received, {"newsletter": "no", **said})])
        shop.run("email_campaign")
        assert shop.list_of()["email"].to_list() == [one for one in everybody if one != refused or not counts]


def test_what_was_said_before_the_first_day_is_older_than_what_was_said_since(shop) -> None:
    """Ann and Eve agreed, and Eve told her address; Cat and Fay agreed too, and refused later: Cat since the first day, Fay before it."""
    shop.rows["traits"] = [row for row in shop.rows["traits"] if row["identity"] not in ("ann@x.test", "eve")]
    seconds = datetime(2026, 3, 1, 9, tzinfo=UTC).timestamp()
    for row in shop.rows["traits"]:
        row["last_second"] = int(seconds)
    shop.landed(
        [
            ("ann@x.test", EARLY_DAY, None, {"newsletter": "yes"}),
            ("eve", EARLY_DAY, None, {"newsletter": "yes", "email": "eve@x.test"}),
            ("bob@x.test", EARLY_DAY, None, {"newsletter": "no"}),
            ("cat@x.test", EARLY_DAY, None, {"newsletter": "yes"}),
            ("fay@x.test", EARLY_DAY, None, {"subscribed": "yes"}),
            ("fay@x.test", EARLY_DAY + timedelta(1), None, {"newsletter": "no"}),
        ]
    )
    shop.inputs()
    shop.run("email_campaign")
    assert shop.list_of()["email"].to_list() == ["ann@x.test", "bob@x.test", "dan@mail.test", "eve@x.test"]


def test_what_many_said_under_one_word_before_the_first_day_is_nobodys(shop, tmp_path) -> None:
    told = [(" Guest ", EARLY_DAY, None, {"email": f"{who}@x.test", "newsletter": "no"}) for who in ("ann", "fay", "bob")]
    (tmp_path / "suppressed.txt").write_text("fay@x.test\n")
    shop.settings_text += f'suppression_file = "{tmp_path / "suppressed.txt"}"\n'
    shop.landed(told)
    shop.inputs()
    shop.run("email_campaign")
    assert shop.list_of()["email"].to_list() == ["ann@x.test", "bob@x.test", "dan@mail.test"]


def test_no_address_in_what_dagster_keeps_or_in_the_manifest(evening) -> None:
    evening.run("email_campaign", "onsite_recommendations")
    records = evening.instance.fetch_materializations(dg.AssetKey("email_campaign"), limit=10).records
    assert records
    for text in (
        *(str(record.event_log_entry) for record in records),
        json.dumps(evening.manifest("email")),
        json.dumps(evening.status("email")),
    ):
        assert "@x.test" not in text and "Mail.Test" not in text


def test_a_dead_input_day_holds_the_list_and_the_last_one_stands(shop, why_of) -> None:
    shop.inputs(last=DAY)
    shop.run("email_campaign", "onsite_recommendations", day=DAY)
    before = contents(shop.folder("email"))
    message = why_of(shop.run("email_campaign", day=NEXT))
    assert "recommendations: 2026-03-04 has not been computed; the newest day is 2026-03-03" in message
    assert "What is out is of 2026-03-03." in message
    assert not shop.folder("email", NEXT).exists() and contents(shop.folder("email")) == before
    status = shop.status("email")
    assert (status["state"], status["last_good_day"], status["asked_for"], status["age_in_days"]) == (
        "held",
        "2026-03-03",
        "2026-03-04",
        2,
    )
    assert any("recommendations" in reason for reason in status["reasons"])


def test_a_night_that_did_not_wait_sends_nothing_until_its_day_is_whole(evening, why_of) -> None:
    lake = evening.platform.lake
    hour = datetime(2026, 3, 3, 23, tzinfo=UTC)
    row = {"event_date": DAY, "hour": hour, "received_until": hour + timedelta(minutes=9)}
    lake.replace(INCOMPLETE_HOURS, pa.Table.from_pylist([row], schema=INCOMPLETE_HOURS.arrow_schema()), None, {})
    says = "2026-03-03 was computed without its last 1 hour: the export had been received until 2026-03-03 23:09"
    for name in ("email_campaign", "onsite_recommendations"):
        assert says in why_of(evening.run(name))
        assert evening.run(name, day=date(2026, 3, 2)).success
    assert evening.status("email")["state"] == "held" and says in evening.status("email")["reasons"]
    lake.replace(INCOMPLETE_HOURS, INCOMPLETE_HOURS.arrow_schema().empty_table(), None, {})
    assert evening.run("email_campaign", "onsite_recommendations").success


def test_the_hold_is_lifted_when_the_day_comes_and_kept_when_an_older_one_does(shop) -> None:
    shop.inputs(last=DAY)
    shop.run("email_campaign", day=NEXT)
    since = shop.status("email")["since"]
    shop.run("email_campaign", day=DAY)
    held = shop.status("email")
    assert (held["state"], held["since"], held["asked_for"], held["last_good_day"]) == ("held", since, "2026-03-04", "2026-03-03")
    assert held["reasons"]
    shop.inputs(first=NEXT)
    shop.run("email_campaign", day=date(2026, 3, 5))
    assert (shop.status("email")["state"], shop.status("email")["reasons"]) == ("current", [])


def test_what_is_out_and_old_is_seen_by_the_check(evening) -> None:
    evening.run("email_campaign", "onsite_recommendations", day=DAY)
    definitions = dg.Definitions(assets=list(evening.assets().values()), asset_checks=checks(evening))
    assert outcome(definitions, evening) == {"email_campaign": False, "onsite_recommendations": False}
    assert (evening.status("onsite")["state"], evening.status("onsite")["age_in_days"]) == ("old", 2)
    evening.run("email_campaign", "onsite_recommendations", day=date(2026, 3, 5))
    assert outcome(definitions, evening) == {"email_campaign": True, "onsite_recommendations": True}


def test_a_company_in_which_nobody_ever_ordered_sends_nothing_and_is_not_red(shop) -> None:
    for table in ("customer_ltv", "recommendations", "product_recommendations", "customer_segments"):
        shop.rows[table] = []
    shop.inputs()
    result = shop.run("email_campaign", "onsite_recommendations")
    assert result.success and {found.passed for found in result.get_asset_check_evaluations()} == {True}
    definitions = dg.Definitions(assets=list(shop.assets().values()), asset_checks=checks(shop))
    assert outcome(definitions, shop) == {"email_campaign": True, "onsite_recommendations": True}
    assert not shop.folder("email").parent.exists()


@pytest.mark.parametrize(
    ("lines", "passes"),
    [("ann@x.test\nbob@x.test\ndan\n", False), ("ann@x.test\nbob@x.test\n", True)],
    ids=["everybody", "all but one"],
)
def test_a_list_that_reaches_nobody_goes_out_and_is_told(evening, tmp_path, lines: str, passes: bool) -> None:
    """It must go out: whoever got the last one and is suppressed now stands in `removed`."""
    assert evening.run("email_campaign", day=date(2026, 3, 2)).success
    mark_sent(evening.platform, date(2026, 3, 2))
    (tmp_path / "suppressed.txt").write_text(lines)
    evening.settings_text += f'suppression_file = "{tmp_path / "suppressed.txt"}"\n'
    result = evening.run("email_campaign", day=DAY)
    assert result.success and evening.list_of(name="removed").height == len(lines.split())
    (told,) = [found for found in result.get_asset_check_evaluations() if found.check_name == "reaches_somebody"]
    assert told.passed == passes and not told.blocking
    assert {name: value.value for name, value in told.metadata.items()}["suppressed"] == len(lines.split())


def checks(shop):
    from analytics_assets.activation.checks import activation_checks

    return activation_checks(shop.platform)


def outcome(definitions, shop) -> dict[str, bool]:
    keys = [dg.AssetCheckKey(dg.AssetKey(name), "is_current") for name in ("email_campaign", "onsite_recommendations")]
    job = dg.define_asset_job("look", selection=dg.AssetSelection.checks(*keys))
    job_definition = dg.Definitions(assets=definitions.assets, asset_checks=definitions.asset_checks, jobs=[job]).resolve_job_def(
        "look"
    )
    result = job_definition.execute_in_process(instance=shop.instance)
    return {found.asset_key.to_user_string(): found.passed for found in result.get_asset_check_evaluations()}


def test_a_missing_suppression_file_lets_nothing_out_and_names_it(evening, tmp_path, why_of) -> None:
    evening.settings_text += f'suppression_file = "{tmp_path / "gone.txt"}"\n'
    message = why_of(evening.run("email_campaign"))
    assert "gone.txt cannot be read (FileNotFoundError)" in message
    assert not evening.folder("email").exists() and evening.status("email")["state"] == "held"


def test_an_emptied_suppression_file_lets_nothing_out_and_one_cut_short_is_told(evening, tmp_path, why_of) -> None:
    file = tmp_path / "suppressed.txt"
    evening.settings_text += f'suppression_file = "{file}"\n'

    def told(lines: str, day: date) -> tuple[bool, int | None, int | None, int | None]:
        file.write_text(lines)
        result = evening.run("email_campaign", day=day)
        assert result.success
        (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "suppressions_last"]
        assert not found.blocking
        return found.passed, *(found.metadata[name].value if name in found.metadata else None for name in said)

    said = "before", "now", "of somebody who is known"
    assert told("ann@x.test\nbob@x.test\nnobody\n", date(2026, 3, 2)) == (True, None, None, 2)
    assert told("ann@x.test\nbob@x.test\n", DAY) == (True, 3, 2, 2)
    before = contents(evening.folder("email"))
    file.write_text("")
    message = why_of(evening.run("email_campaign"))
    assert "suppressed.txt names nobody; put its entries back" in message
    assert contents(evening.folder("email")) == before and evening.status("email")["state"] == "held"
    assert told("dan\n", DAY) == (False, 3, 1, 1)
    assert told("dan\n", NEXT) == (True, 1, 1, 1)
    assert told("nobody\n", NEXT) == (False, 1, 1, 0), "what names nobody who is known may be no list of people"
    evening.settings_text = evening.settings_text.replace(f'suppression_file = "{file}"\n', "")
    assert told("", date(2026, 3, 5)) == (False, 1, 0, None)


def test_suppressed_addresses_and_customers_are_on_no_list(evening, tmp_path) -> None:
    file = tmp_path / "suppressed.txt"
    file.write_text("\ufeffANN@x.test\n\ndan\nnobody@x.test\n", encoding="utf-8")
    evening.settings_text += f'suppression_file = "{file}"\n'
    evening.run("email_campaign")
    assert evening.list_of()["email"].to_list() == ["bob@x.test"]
    manifest = evening.manifest("email")
    assert manifest["left_out"]["suppressed"] == 2
    assert (manifest["suppressions"], manifest["suppressions_matched"]) == (3, 2)
    assert manifest["suppression_file_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("listed", "refuses_at", "on_the_list"),
    [
        ("nobody", None, True),
        ("ann@x.test", None, False),
        ("ann@old.test", None, False),
        ("guest 7", None, False),
        ("bob@x.test", None, False),
        ("nobody", 90, True),
        ("nobody", 160, False),
    ],
)
def test_an_alias_takes_no_suppression_and_no_refusal_away(
    shop, tmp_path, listed: str, refuses_at: int | None, on_the_list
) -> None:
    """Ann, a guest before, is found to be Bob, who has ordered earlier: the list of the next day names him."""
    for row in shop.rows["identities"]:
        if row["identity"] == "ann@x.test" and row["as_of_date"] == NEXT:
            row["customer_id"] = "bob@x.test"
    shop.rows["identities"].append({"as_of_date": NEXT, "identity": "guest 7", "kind": "anonymous", "customer_id": "bob@x.test"})
    shop.rows["customer_ltv"] = [
        row for row in shop.rows["customer_ltv"] if (row["customer_id"], row["as_of_date"]) != ("ann@x.test", NEXT)
    ]
    told = [("email", "ann@old.test", 120), ("email", "ann@real.test", 150)]
    told += [("newsletter", "no", refuses_at)] if refuses_at else []
    shop.rows["traits"] += [
        {"event_date": date(2026, 3, 1 + n), "identity": "ann@x.test", "trait": trait, "value": value, "last_second": second}
        for n, (trait, value, second) in enumerate(told)
    ]
    shop.inputs()
    (tmp_path / "suppressed.txt").write_text(listed)
    shop.settings_text += f'suppression_file = "{tmp_path / "suppressed.txt"}"\n'
    assert shop.run("email_campaign", day=NEXT).success
    assert ("ann@real.test" in shop.list_of(NEXT)["email"]) == on_the_list
    assert shop.list_of(NEXT)["email"].to_list()[-1] == "dan@mail.test"


def test_a_full_disk_leaves_the_last_list_whole_and_is_seen(evening, monkeypatch) -> None:
    """The kernel says that there is no room, whatever writes: to Polars that would be an error in the data, and final."""
    building = Channel.building
    monkeypatch.setattr("analytics_assets.activation.assets.RETRIES", dg.RetryPolicy(max_retries=1, delay=0))
    for channel, asset, files in (
        ("email", "email_campaign", ("holdout.parquet", "recipients.parquet", "recipients.csv", "manifest.json")),
        ("onsite", "onsite_recommendations", ("customers.jsonl",)),
    ):
        evening.run(asset, day=date(2026, 3, 2))
        before = contents(evening.folder(channel, date(2026, 3, 2)))
        for file in files:

            @contextlib.contextmanager
            def no_room(self: Channel, file: str = file) -> Iterator[Path]:
                with building(self) as folder:
                    (folder / file).symlink_to("/dev/full")
                    yield folder

            monkeypatch.setattr(Channel, "building", no_room)
            result = evening.run(asset, day=DAY)
            assert not result.success and len([e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]) == 1, file
            assert not evening.folder(channel).exists() and contents(evening.folder(channel, date(2026, 3, 2))) == before
            assert not (evening.folder(channel).parent / "generations" / ".building").exists()
            status = evening.status(channel)
            assert (status["state"], status["asked_for"], status["reasons"]) == ("held", f"{DAY}", ["No space left on device"])
        monkeypatch.setattr(Channel, "building", building)
        assert evening.run(asset, day=DAY).success and evening.status(channel)["reasons"] == []


def test_a_fault_that_nobody_foresaw_stands_in_the_status_without_its_words(evening, monkeypatch) -> None:
    evening.run("email_campaign", day=date(2026, 3, 2))

    def broken(*_args: object) -> None:
        raise ValueError("ann@x.test")

    monkeypatch.setattr("analytics_assets.activation.outlets.make_campaign", broken)
    assert not evening.run("email_campaign", day=DAY).success
    status = evening.status("email")
    assert (status["state"], status["reasons"], status["last_good_day"]) == ("held", ["ValueError: see the run"], "2026-03-02")


def test_the_site_has_every_customer_and_product_by_key(evening) -> None:
    evening.run("onsite_recommendations")
    folder = evening.folder("onsite")
    lines = [json.loads(line) for line in (folder / "customers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["customer_id"] for line in lines] == ["ann@x.test", "bob@x.test", "cat@x.test", "dan", "eve", "fay@x.test"]
    assert lines[0]["buy_again"] == [{"product_id": f"p{n}", "basis": "history", "reason": "popular"} for n in range(1, 5)]
    assert [entry["product_id"] for entry in lines[0]["discover"]] == ["p5", "p6", "p7", "p8"]
    products = [json.loads(line) for line in (folder / "products.jsonl").read_text(encoding="utf-8").splitlines()]
    assert products == [{"product_id": "p1", "related": [{"product_id": f"p{n}", "reason": "bought with it"} for n in (2, 3)]}]
    assert (folder.parent / "current").resolve() == folder.resolve()


def test_current_never_goes_back_and_three_days_are_kept(evening) -> None:
    evening.run("onsite_recommendations", day=date(2026, 3, 1), last=date(2026, 3, 5))
    root = evening.folder("onsite").parent
    assert sorted(link.name for link in root.iterdir() if link.is_symlink()) == [
        "2026-03-03",
        "2026-03-04",
        "2026-03-05",
        "current",
    ]
    assert len(list((root / "generations").iterdir())) == 3
    evening.run("onsite_recommendations", day=DAY)
    assert (root / "current").resolve().name.startswith("2026-03-05")


def test_an_empty_list_for_the_site_is_held_back(shop, why_of) -> None:
    shop.rows["product_recommendations"] = []
    shop.inputs()
    assert "products.jsonl would be empty" in why_of(shop.run("onsite_recommendations"))


def test_a_broken_promise_is_found_in_the_finished_list(evening, monkeypatch, why_of) -> None:
    import analytics_assets.activation.outlets as outlets

    make = outlets.make_campaign

    def careless(*arguments):
        campaign = make(*arguments)
        return type(campaign)(**{**vars(campaign), "recipients": pl.concat([campaign.recipients, campaign.recipients])})

    monkeypatch.setattr(outlets, "make_campaign", careless)
    message = why_of(evening.run("email_campaign"))
    assert "the list would break a promise: 3 addresses stand there twice" in message and "@" not in message
    assert not evening.folder("email").exists()


def test_a_list_that_forgets_who_refused_before_the_first_day_breaks_a_promise(shop, monkeypatch, why_of) -> None:
    import analytics_assets.activation.outlets as outlets

    make = outlets.make_campaign

    def careless(contacts: outlets.Contacts, *others):
        return make(dataclasses.replace(contacts, traits=contacts.traits.filter(pl.col("value") != "never")), *others)

    monkeypatch.setattr(outlets, "make_campaign", careless)
    shop.rows["traits"] = [row for row in shop.rows["traits"] if row["identity"] not in ("bob@x.test", "dan")]
    told = {"bob@x.test": "bob@x.test", "dan's old account": "dan@mail.test", "dan": "dan@mail.test"}
    shop.landed([(who, EARLY_DAY, None, {"newsletter": "never", "email": address}) for who, address in told.items()])
    shop.settings_text += "consent_required = false\n"
    shop.inputs()
    assert "the list would break a promise: 2 refused" in why_of(shop.run("email_campaign"))
