"""The ledger: what was sent is known, once, and decides what the next delta is."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from analytics_assets.activation.campaign import address_hash
from analytics_assets.activation.sends import EMAIL_SENDS, SendRefused, last_send, mark_sent, sent_days
from analytics_assets.warehouse.engine import attach, engine

DAY, NEXT, LATER = date(2026, 3, 3), date(2026, 3, 4), date(2026, 3, 5)


def ledger(shop) -> list[tuple]:
    with engine() as connection:
        attach(connection, shop.platform.lake.pin(EMAIL_SENDS))
        return connection.sql("SELECT as_of_date, customer_id, arm, address_hash FROM email_sends ORDER BY ALL").fetchall()


def test_the_ledger_knows_who_was_sent_what_and_who_was_left_out(evening) -> None:
    evening.settings_text = evening.settings_text.replace("holdout_share = 0", "holdout_share = 0.5")
    evening.run("email_campaign")
    held, on_it = evening.manifest("email")["left_out"]["holdout"], evening.list_of()
    assert held and on_it.height == 3 - held
    assert mark_sent(evening.platform, DAY) == 3 - held
    rows = ledger(evening)
    assert {row[1] for row in rows if row[2] == "sent"} == set(on_it["external_id"])
    assert len([row for row in rows if row[2] == "holdout"]) == held
    assert {row[3] for row in rows if row[2] == "sent"} == {address_hash(address) for address in on_it["email"]}


def test_a_campaign_is_not_sent_twice(evening) -> None:
    evening.run("email_campaign")
    mark_sent(evening.platform, DAY)
    with pytest.raises(SendRefused, match="nightly of 2026-03-03 has been sent before"):
        mark_sent(evening.platform, DAY)
    assert len(ledger(evening)) == 3


def test_a_sent_list_stays_even_when_the_campaign_has_another_name_now(evening) -> None:
    evening.run("email_campaign")
    mark_sent(evening.platform, DAY)
    evening.settings_text += 'campaign = "extra"\n'
    assert evening.run("email_campaign", day=DAY, last=NEXT).success
    assert (evening.manifest("email")["campaign"], evening.manifest("email", NEXT)["campaign"]) == ("nightly", "extra")
    assert evening.list_of(NEXT, "delta").height == 3, "nothing of this campaign has been sent"
    assert mark_sent(evening.platform, NEXT) == 3
    assert (sent_days(evening.platform, "nightly"), sent_days(evening.platform, "extra")) == ([DAY], [NEXT])


PROCESS = """
import sys
from datetime import date
from pathlib import Path
from analytics_assets.activation.sends import SendRefused, mark_sent
from analytics_assets.home import Home
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.work import Platform
platform = Platform(parse_settings(sys.argv[2], "x"), Home(Path(sys.argv[1])), [])
print("ready", flush=True)
sys.stdin.readline()
try:
    print("sent", mark_sent(platform, date(2026, 3, 3)))
except SendRefused:
    print("refused")
"""


def test_of_several_processes_at_once_exactly_one_sends(evening) -> None:
    evening.run("email_campaign")
    command = [sys.executable, "-c", PROCESS, str(evening.root / "home"), evening.settings_text]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    started = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * 4
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(process.communicate()[0].strip() for process in started) == ["refused"] * 3 + ["sent 3"]
    assert len(ledger(evening)) == 3


def test_a_list_that_was_sent_is_never_replaced(evening) -> None:
    evening.run("email_campaign")
    mark_sent(evening.platform, DAY)
    before = evening.manifest("email")
    for row in evening.rows["customer_segments"]:
        row["segment"] = "At risk"
    evening.run("customer_segments")
    assert evening.run("email_campaign").success
    assert evening.manifest("email") == before and set(evening.list_of()["segment"]) == {"Loyal"}


def test_the_delta_of_the_next_day_has_only_what_changed_since_the_send(evening) -> None:
    evening.run("email_campaign", day=DAY)
    mark_sent(evening.platform, DAY)
    for row in evening.rows["customer_segments"]:
        if row["customer_id"] == "dan" and row["as_of_date"] == NEXT:
            row["segment"] = "At risk"
    evening.rows["traits"].append(
        {"event_date": NEXT, "identity": "bob@x.test", "trait": "email consent", "value": "no", "last_second": 900}
    )
    evening.run("customer_segments", "traits", day=NEXT)
    evening.run("email_campaign", day=NEXT)
    assert evening.list_of(NEXT)["external_id"].to_list() == ["ann@x.test", "dan"]
    assert evening.list_of(NEXT, "delta")["external_id"].to_list() == ["dan"]
    assert evening.list_of(NEXT, "removed").rows() == [("bob@x.test", "bob@x.test", "no consent")]
    manifest = evening.manifest("email", NEXT)
    assert (manifest["delta_since"], manifest["unchanged"], manifest["files"]["removed.csv"]["rows"]) == ("2026-03-03", 1, 1)


def test_what_was_not_sent_changes_no_delta(evening) -> None:
    evening.run("email_campaign", day=DAY, last=NEXT)
    assert evening.list_of(NEXT, "delta").height == 3
    assert last_send(evening.platform, "nightly", NEXT).day is None


def test_an_older_list_is_not_sent_after_a_newer_one(evening) -> None:
    evening.run("email_campaign", day=DAY, last=NEXT)
    mark_sent(evening.platform, NEXT)
    with pytest.raises(SendRefused, match="2026-03-04 has been sent: the list of 2026-03-03 is older"):
        mark_sent(evening.platform, DAY)


def test_a_delta_against_another_send_than_the_last_is_refused_until_it_is_made_anew(evening) -> None:
    evening.run("email_campaign", day=DAY, last=LATER)
    mark_sent(evening.platform, DAY)
    with pytest.raises(SendRefused, match="what changed since nothing was sent, but 2026-03-03 has been sent since"):
        mark_sent(evening.platform, LATER)
    evening.run("email_campaign", day=LATER)
    assert mark_sent(evening.platform, LATER) == 3


def test_a_list_that_is_missing_empty_or_changed_is_refused(shop) -> None:
    with pytest.raises(SendRefused, match="no list for 2026-03-03"):
        mark_sent(shop.platform, DAY)
    shop.rows["traits"] = [row for row in shop.rows["traits"] if row["trait"] == "email"]
    shop.inputs()
    shop.run("email_campaign")
    with pytest.raises(SendRefused, match="no recipients"):
        mark_sent(shop.platform, DAY)
    with open(shop.folder("email") / "recipients.csv", "a") as file:
        file.write("mallory@x.test\n")
    with pytest.raises(SendRefused, match=r"not as it was made \(recipients\.csv\)"):
        mark_sent(shop.platform, DAY)
    assert ledger(shop) == []


def test_a_list_made_with_other_settings_or_another_suppression_file_is_refused_until_it_is_made_anew(evening, tmp_path) -> None:
    file = tmp_path / "suppressed.txt"
    file.write_text("nobody@x.test\n")
    evening.settings_text += f'suppression_file = "{file}"\n'
    evening.run("email_campaign")
    file.write_text("ann@x.test\n")
    with pytest.raises(SendRefused, match="the suppression file have changed since the list of 2026-03-03 was made"):
        mark_sent(evening.platform, DAY)
    evening.settings_text = evening.settings_text.replace("products_per_email = 4", "products_per_email = 3")
    file.write_text("nobody@x.test\n")
    with pytest.raises(SendRefused, match="settings or the suppression file have changed"):
        mark_sent(evening.platform, DAY)
    file.unlink()
    assert not evening.run("email_campaign").success
    with pytest.raises(SendRefused, match=r"made anew and is held back: .*suppressed.txt cannot be read"):
        mark_sent(evening.platform, DAY)
    file.write_text("ann@x.test\n")
    assert evening.run("email_campaign").success
    assert mark_sent(evening.platform, DAY) == 2


@pytest.mark.parametrize(
    "changed",
    ["[ltv]\nhorizon_days = 90\n", '[recommendations]\nexcluded_products = ["p1"]\n', '[events]\npurchase = ["bought"]\n'],
)
def test_a_list_of_tables_that_are_outdated_by_a_setting_is_refused(evening, changed: str) -> None:
    evening.run("email_campaign")
    evening.settings_text += changed
    with pytest.raises(SendRefused, match="settings or the suppression file have changed since the list of 2026-03-03 was made"):
        mark_sent(evening.platform, DAY)


def test_a_changed_suppression_file_or_a_new_redis_makes_what_is_out_old(evening, tmp_path, monkeypatch) -> None:
    def versions() -> list[str]:
        assets = evening.assets()
        return [assets[name].code_versions_by_key[assets[name].key] for name in ("email_campaign", "onsite_recommendations")]

    file = tmp_path / "suppressed.txt"
    file.write_text("nobody@x.test\n")
    evening.settings_text += f'suppression_file = "{file}"\n'
    email, onsite = versions()
    file.write_text("ann@x.test\n")
    monkeypatch.setenv("ANALYTICS_REDIS_URL", "redis://127.0.0.1:1/0")
    changed_email, changed_onsite = versions()
    assert email != changed_email and onsite != changed_onsite
    monkeypatch.setenv("ANALYTICS_REDIS_URL", "redis://:secret@127.0.0.1:2/0")
    assert versions() == [changed_email, changed_onsite], "the address is no part of it"


def test_a_crash_before_the_commit_leaves_nothing_and_the_send_can_be_repeated(evening, monkeypatch) -> None:
    from analytics_assets.warehouse.lake import Lake

    evening.run("email_campaign")
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            mark_sent(evening.platform, DAY)
    assert ledger(evening) == []
    assert mark_sent(evening.platform, DAY) == 3
