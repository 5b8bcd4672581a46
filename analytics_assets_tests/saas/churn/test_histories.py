"""What is known at a cut-off, and what came of it: hand-written histories with every figure worked out by hand."""

from datetime import date, timedelta
from decimal import Decimal

import polars as pl
import pytest

from analytics_assets.saas.churn.backtest import step_days, training_cut_offs
from analytics_assets.saas.churn.histories import Histories, Label
from analytics_assets.settings import TrainingSet
from analytics_assets_tests.saas.churn.conftest import Company

CUT_OFF = date(2025, 3, 31)


def features(company: Company, kind: str, day: date) -> dict[str, dict]:
    """Features of all subjects at the end of a day, by subject."""
    company.write(day, day)
    rows = company.compute(lambda work: Histories(work).everybody(kind, day), day)
    return {row["subject_id"]: row for row in rows.to_dicts()}


def labels(company: Company, label: Label, cut_off: date, day: date) -> dict[str, bool]:
    """Labels of a cut-off as known at the end of a day, by subject."""
    company.write(day, day)

    def compute(work):
        histories = Histories(work)
        histories.cut_offs = lambda *_: [cut_off]
        return histories.training_rows(label, day)

    return dict(company.compute(compute, day).select("subject_id", "churned").rows())


def test_customer_features_by_hand(company: Company):
    company.bought("ann", date(2025, 1, 10), 30)
    company.bought("ann", date(2025, 3, 11), 50)
    company.bought("ann", date(2025, 3, 11), 10)
    company.bought("ann", date(2025, 3, 20), -5)
    company.bought("bob", date(2025, 3, 31), 15)
    company.bought("cat", date(2025, 4, 1), 99)
    found = features(company, "customer", CUT_OFF)
    assert set(found) == {"ann", "bob"}
    ann = found["ann"]
    assert (ann["purchase_days"], ann["recency_days"], ann["tenure_days"]) == (2, 20, 80)
    assert (ann["purchase_days_30"], ann["purchase_days_90"], ann["purchase_days_180"]) == (1, 2, 2)
    assert (ann["refunds"], ann["monetary"], ann["currency"]) == (1, Decimal("85.00"), "GBP")
    # All orders: (85 + 15) / 4 = 25; ann's: 85 / 3.
    assert ann["relative_order_value"] == pytest.approx(85 / 3 / 25, abs=1e-6)
    assert found["bob"]["recency_days"] == 0


def test_an_order_that_had_not_been_received_is_not_known(company: Company):
    company.bought("ann", date(2025, 1, 10), 30)
    company.bought("ann", date(2025, 3, 30), 50, received=date(2025, 4, 1))
    company.bought("bob", date(2025, 3, 30), 50, received=date(2025, 4, 1))
    assert {name: row["purchase_days"] for name, row in features(company, "customer", CUT_OFF).items()} == {"ann": 1}
    assert {name: row["purchase_days"] for name, row in features(company, "customer", date(2025, 4, 1)).items()} == {
        "ann": 2,
        "bob": 1,
    }


def test_a_merge_is_known_from_its_alias_on_and_its_purchases_count_for_the_label(company: Company):
    company.bought("ann", date(2025, 1, 10), 30)
    company.bought("phone", date(2025, 1, 20), 30)
    company.alias("ann", "phone", date(2025, 4, 10))
    company.bought("phone", date(2025, 4, 20), 30)
    assert {name: row["purchase_days"] for name, row in features(company, "customer", CUT_OFF).items()} == {"ann": 1, "phone": 1}
    found = labels(company, Label("customer", 30), CUT_OFF, date(2025, 4, 30))
    assert found == {"ann": False, "phone": False}


def test_customers_churn_by_not_buying_within_the_horizon_as_known_when_it_is_asked(company: Company):
    for name in ("ann", "bob", "cat", "dan"):
        company.bought(name, date(2025, 1, 10), 30)
    company.bought("ann", date(2025, 4, 30), 5)
    company.bought("bob", date(2025, 5, 1), 5)
    company.bought("cat", date(2025, 4, 10), -5)
    company.bought("dan", date(2025, 4, 10), 5, received=date(2025, 5, 2))
    label = Label("customer", 30)
    assert labels(company, label, CUT_OFF, date(2025, 5, 1)) == {"ann": False, "bob": True, "cat": True, "dan": True}
    assert labels(company, label, CUT_OFF, date(2025, 5, 2))["dan"] is False


def test_account_features_by_hand(company: Company):
    company.told("boss", "acme", date(2025, 1, 5), plan="basic", seats=4)
    company.told("boss", "acme", date(2025, 1, 31), "billed", amount=Decimal(60), months=Decimal(1))
    company.told("boss", None, date(2025, 2, 28), "billed", amount=Decimal(60), months=Decimal(1))
    company.told("boss", "acme", date(2025, 3, 10), "upgraded", amount=Decimal(90), plan="pro", seats=8)
    company.told("boss", "acme", date(2025, 3, 28), "billed", amount=Decimal(90), months=Decimal(1), received=date(2025, 4, 2))
    for day, events in (
        (date(2025, 3, 31), 5),
        (date(2025, 3, 24), 7),
        (date(2025, 3, 10), 11),
        (date(2025, 2, 5), 13),
        (date(2025, 2, 3), 99),
    ):
        company.used("acme", day, events, users=2)
    company.used("acme", date(2025, 3, 31), 40, received=date(2025, 4, 1), users=9)
    # Less was known of the 24th at first, and more of the 10th, whose people were partly another account's; on the 29th all were.
    company.used("acme", date(2025, 3, 24), 3, users=1)
    company.account_days[1]["received_date"] = date(2025, 3, 26)
    company.used("acme", date(2025, 3, 10), 50, users=8)
    company.account_days[2]["received_date"] = date(2025, 3, 12)
    company.used("acme", date(2025, 3, 29), 6)
    company.used("acme", date(2025, 3, 29), 0, received=date(2025, 3, 30), users=0)
    acme = features(company, "account", CUT_OFF)["acme"]
    assert (acme["trial"], acme["plan"], acme["seats"], acme["mrr"]) == (0, "pro", 8, Decimal("90.00"))
    # Billed on 02-28 for a month: paid through 03-28, three days ago; the bill of 03-28 is not known yet.
    assert (acme["account_age_days"], acme["renewals"], acme["days_to_renewal"], acme["upgrades_90"]) == (85, 1, -3, 1)
    assert [acme[f"events_{days}"] for days in (7, 14, 28, 56)] == [5, 12, 23, 36]
    assert (acme["user_days_14"], acme["user_days_56"], acme["peak_users_28"], acme["active_days_28"], acme["idle_days"]) == (
        4,
        8,
        2,
        3,
        0,
    )


def test_subjects_are_accounts_under_contract_and_churn_when_it_ends(company: Company):
    bill = {"amount": Decimal(60), "months": Decimal(1)}
    for name in ("stays", "cancels", "lapses", "comes back", "left before", "cancels later"):
        company.told(f"{name}'s", name, date(2025, 3, 15), "billed", **bill)
    # Thirty days of trial: not billed by 04-30 and 04-29.
    company.told("t", "on trial", date(2025, 3, 31), "trial")
    company.told("e", "trial expires", date(2025, 3, 30), "trial")
    company.told("p", "trial is billed", date(2025, 3, 20), "trial")
    company.told("p", "trial is billed", date(2025, 4, 19), "billed", **bill)
    company.told("x", "expired before", date(2025, 2, 28), "trial")
    company.told("u", "trial cancels", date(2025, 3, 20), "trial")
    company.told("v", "never billed", date(2025, 3, 20), plan="pro")
    company.told("u", "trial cancels", date(2025, 4, 2), "canceled")
    company.told("s", "left before", date(2025, 3, 30), "canceled")
    company.told("s", "stays", date(2025, 4, 20), "billed", **bill)
    company.told("c", "cancels", date(2025, 4, 15), "canceled")
    # Paid through 04-15 and seven days of grace: a bill on 04-22 renews, one on 04-23 is a new contract.
    company.told("b", "comes back", date(2025, 4, 23), "billed", **bill)
    company.told("l", "cancels later", date(2025, 4, 22), "billed", **bill)
    company.told("l", "cancels later", date(2025, 5, 1), "canceled")
    found = labels(company, Label("account", 30), CUT_OFF, date(2025, 5, 5))
    assert found == {
        "stays": False, "cancels": True, "lapses": True, "comes back": True, "cancels later": False,
        "on trial": False, "trial expires": True, "trial is billed": False, "trial cancels": True,
    }  # fmt: skip


@pytest.mark.parametrize("named", [None, TrainingSet(name="x", subjects="accounts", events=("exported",), horizon_days=30)])
def test_an_account_that_had_ended_by_the_cut_off_is_left_out_once_that_is_known(company: Company, named):
    bill, before, later = {"amount": Decimal(60), "months": Decimal(12)}, date(2025, 3, 30), date(2025, 5, 3)
    for name in ("stays", "cancelled", "came back", "came back in time", "tried and stays"):
        company.told(name, name, date(2025, 3, 15), "trial" if name.startswith("tried") else "billed", **bill)
    for name in ("tried", "tried and billed"):
        company.told(name, name, date(2025, 3, 15), "trial")
    company.told("tried and billed", "tried and billed", date(2025, 3, 16), "billed", **bill)
    for name in ("cancelled", "came back", "came back in time", "tried", "tried and billed"):
        company.told(name, name, before, "canceled", received=later)
    company.told("came back in time", "came back in time", CUT_OFF, "billed", **bill)
    company.told("came back", "came back", date(2025, 4, 20), "billed", **bill)
    company.told("tried and stays", "tried and stays", date(2025, 4, 1), "billed", **bill)
    label, everybody = Label("account", 30, named), {"stays", "cancelled", "came back", "came back in time", "tried and stays"}
    assert set(labels(company, label, CUT_OFF, later - timedelta(days=1))) == everybody | {"tried", "tried and billed"}
    assert set(labels(company, label, CUT_OFF, later)) == {"stays", "came back in time", "tried and stays"}


def test_people_can_be_the_accounts(company: Company):
    company.settings = '[accounts]\nare = "people"\n'
    company.told("ann", None, date(2025, 3, 15), "billed", amount=Decimal(60), months=Decimal(12))
    assert features(company, "account", CUT_OFF)["ann"]["mrr"] == Decimal("5.00")


def test_a_label_of_ones_own_counts_named_events_of_the_subjects(company: Company):
    for name in ("acme", "beta", "gamma"):
        company.told(f"{name}'s boss", name, date(2025, 3, 15), "billed", amount=Decimal(60), months=Decimal(12))
    company.did("acme's boss", "exported", date(2025, 4, 5))
    company.did("stranger", "exported", date(2025, 4, 5), account="beta")
    company.did("gamma's boss", "exported", date(2025, 4, 15))
    company.did("gamma's boss", "other", date(2025, 4, 5))
    named = TrainingSet(name="x", subjects="accounts", events=("exported",), horizon_days=10)
    assert labels(company, Label("account", 10, named), CUT_OFF, date(2025, 4, 20)) == {
        "acme": True,
        "beta": True,
        "gamma": False,
    }
    absent = named.model_copy(update={"absent": True})
    assert labels(company, Label("account", 10, absent), CUT_OFF, date(2025, 4, 20)) == {
        "acme": False,
        "beta": False,
        "gamma": True,
    }


def test_a_label_of_ones_own_for_accounts_counts_who_joined_them_after_the_cut_off(company: Company):
    for name in ("acme", "beta", "gamma", "delta"):
        company.told(f"{name}'s boss", name, date(2025, 3, 15), "billed", amount=Decimal(60), months=Decimal(12))
    company.told("new at acme", "acme", date(2025, 4, 3))
    company.did("new at acme", "exported", date(2025, 4, 5))
    company.did("boss's phone", "exported", date(2025, 4, 5))
    company.alias("beta's boss", "boss's phone", date(2025, 4, 6))
    # Who moves takes what they do from then on along, not what they had done.
    company.did("gamma's boss", "exported", date(2025, 4, 5))
    company.told("gamma's boss", "delta", date(2025, 4, 8))
    # Neither who names the account only afterwards, nor who is not yet known to have named it.
    company.did("too early", "exported", date(2025, 4, 5))
    company.told("too early", "delta", date(2025, 4, 6))
    company.told("not known", "delta", date(2025, 4, 4), received=date(2025, 4, 21))
    company.did("not known", "exported", date(2025, 4, 5))
    named = TrainingSet(name="x", subjects="accounts", events=("exported",), horizon_days=10)
    expected = {"acme": True, "beta": True, "gamma": True, "delta": False}
    assert labels(company, Label("account", 10, named), CUT_OFF, date(2025, 4, 20)) == expected
    expected["delta"] = True
    assert labels(company, Label("account", 10, named), CUT_OFF, date(2025, 4, 21)) == expected


@pytest.mark.parametrize("named", [None, TrainingSet(name="x", subjects="accounts", events=("canceled",), horizon_days=30)])
def test_where_people_are_accounts_labels_follow_whoever_gets_another_name_after_the_cut_off(company: Company, named):
    company.settings = '[accounts]\nare = "people"\n'
    company.seen("ann", date(2025, 1, 1))
    for name in ("tablet", "bob"):
        company.told(name, None, date(2025, 3, 15), "billed", amount=Decimal(60), months=Decimal(12))
    company.alias("tablet", "ann", date(2025, 4, 5))
    company.told("ann", None, date(2025, 4, 7), "canceled")
    company.did("ann", "canceled", date(2025, 4, 7))
    assert labels(company, Label("account", 30, named), CUT_OFF, date(2025, 5, 1)) == {"tablet": True, "bob": False}


def test_a_label_of_ones_own_for_customers_follows_later_merges(company: Company):
    for name in ("ann", "bob"):
        company.bought(name, date(2025, 1, 10), 30)
    company.did("tablet", "reviewed", date(2025, 4, 5))
    company.alias("bob", "tablet", date(2025, 4, 6))
    named = TrainingSet(name="x", subjects="customers", events=("reviewed",), horizon_days=10)
    assert labels(company, Label("customer", 10, named), CUT_OFF, date(2025, 4, 20)) == {"ann": False, "bob": True}


def test_no_more_than_the_wanted_subjects_are_taken_and_always_the_same(company: Company):
    company.settings = "[churn]\ntraining_subjects = 100\n"
    for number in range(150):
        company.bought(f"customer {number}", date(2025, 1, 10), 30)
    day = date(2025, 10, 1)
    company.write(day, day)
    rows = company.compute(lambda work: Histories(work).training_rows(Label("customer", 90), day), day)
    by_cut_off = rows.group_by("cut_off").agg(pl.len(), pl.col("subject_id").sort())
    assert by_cut_off.height > 1
    assert by_cut_off["len"].unique().to_list() == [100]
    assert by_cut_off["subject_id"].n_unique() == 1


@pytest.mark.parametrize("horizon", [7, 30, 42, 63, 90, 365])
def test_cut_offs_lie_on_one_grid_whose_windows_have_ended_and_meet_every_weekday(horizon: int):
    first, day = date(2015, 1, 1), date(2025, 5, 5)
    today, tomorrow = (training_cut_offs(d, horizon, first, 12) for d in (day, day + timedelta(days=1)))
    assert len(today) == 12
    assert all(cut_off + timedelta(days=horizon) <= day for cut_off in today)
    assert today[-1] + timedelta(days=horizon + step_days(horizon)) > day
    assert set(today[1:]) <= set(tomorrow)
    assert len({cut_off.weekday() for cut_off in today}) == 7


def test_a_cut_off_needs_a_past_of_half_a_horizon():
    assert training_cut_offs(date(2025, 7, 5), 90, date(2025, 1, 1), 12)[0] >= date(2025, 2, 14)
    assert training_cut_offs(date(2025, 3, 1), 90, date(2025, 1, 1), 12) == []
