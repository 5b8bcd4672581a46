"""Who is on the list, by hand and against plain loops on random people."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import date
from pathlib import Path

import hypothesis
import numpy as np
import polars as pl
import pytest
from hypothesis import strategies as st

from analytics_assets.activation.campaign import (
    Contacts,
    LastSend,
    Suppressed,
    SuppressionError,
    _all_alike,
    address_hash,
    alike,
    broken_promises,
    csv_parts,
    is_held_out,
    make_campaign,
    read_suppressed,
    row_digests,
)
from analytics_assets.settings import Activation, Customers

NOBODY = LastSend(None, pl.DataFrame(schema={"address_hash": pl.String, "row_digest": pl.String}))
PLAIN = Activation(products_per_email=2, holdout_share=0.0)
NAMES = Customers()
PRODUCTS = [("p1", "Tee"), ("p2", "Größe, M"), ("p3", '<script>"x"\n y')]


def contacts(
    people: list[tuple[str, int]],
    traits: list[tuple[str, str, str, int]] = (),
    identities: list[tuple[str, str]] = (),
    picks: list[tuple[str, int, str]] | None = None,
    suppressed: frozenset[str] = frozenset(),
    shared: list[tuple[str, str, str, int]] = (),
) -> Contacts:
    """People as (customer, place), traits as (customer, trait, value, second), of shared identities too; everybody has one product."""
    standing = pl.DataFrame(
        [(who, "Loyal", "high", place, len(people)) for who, place in people],
        schema=["customer_id", "segment", "value_band", "place", "customers"],
        orient="row",
    )
    return Contacts(
        standing,
        pl.DataFrame(
            list(traits),
            schema={"customer_id": pl.String, "trait": pl.String, "value": pl.String, "said_second": pl.Int64},
            orient="row",
        ),
        pl.DataFrame(
            list(shared),
            schema={"identity": pl.String, "trait": pl.String, "value": pl.String, "said_second": pl.Int64},
            orient="row",
        ),
        pl.DataFrame(list(identities), schema={"customer_id": pl.String, "identity": pl.String}, orient="row"),
        pl.DataFrame(
            picks if picks is not None else [(who, 1, "p1") for who, _ in people],
            schema={"customer_id": pl.String, "place": pl.Int64, "product_id": pl.String},
            orient="row",
        )
        .sort("customer_id", "place")
        .group_by("customer_id", maintain_order=True)
        .agg(product_ids="product_id"),
        pl.DataFrame(PRODUCTS, schema={"product_id": pl.String, "product_name": pl.String}, orient="row"),
        suppressed,
    )


def addresses(known: Contacts, activation: Activation = PLAIN) -> list[str]:
    return make_campaign(known, NOBODY, activation, NAMES).recipients["email"].to_list()


def yes(*who: str, second: int = 1) -> list[tuple[str, str, str, int]]:
    return [(one, "email consent", "yes", second) for one in who]


def test_one_row_per_address_of_the_most_valuable_customer() -> None:
    told = [("a", "email", "One@x.test", 1), ("b", "email", " one@X.test ", 1)]
    campaign = make_campaign(contacts([("a", 2), ("b", 1)], [*told, *yes("a", "b")]), NOBODY, PLAIN, NAMES)
    assert campaign.recipients.select("email", "external_id").rows() == [("one@x.test", "b")]
    assert campaign.left_out["address of another customer"] == 1


def test_equally_valuable_customers_are_told_apart_by_id() -> None:
    told = [(who, "email", "one@x.test", 1) for who in "ba"]
    campaign = make_campaign(contacts([("b", 1), ("a", 1)], [*told, *yes("a", "b")]), NOBODY, PLAIN, NAMES)
    assert campaign.recipients["external_id"].to_list() == ["a"]


def test_who_refuses_decides_for_all_with_the_address() -> None:
    told = [(who, "email", "one@x.test", 1) for who in "ab"]
    assert addresses(contacts([("a", 1), ("b", 2)], [*told, *yes("a")])) == ["one@x.test"]
    assert addresses(contacts([("a", 1), ("b", 2)], [*told, *yes("b")])) == ["one@x.test"]
    assert addresses(contacts([("a", 1), ("b", 2)], [*told, *yes("a"), ("b", "newsletter", "no", 1)])) == []


def test_who_never_bought_and_refuses_decides_for_the_address_too() -> None:
    refusal = [("visitor", "newsletter", "no", 1)]
    told = [("a", "email", "one@x.test", 1), ("visitor", "email", "one@x.test", 1), *yes("a")]
    assert addresses(contacts([("a", 1)], told)) == ["one@x.test"]
    assert addresses(contacts([("a", 1)], [*told, *refusal])) == []
    assert addresses(contacts([("a", 1)], [told[0], *yes("a"), *refusal], [("visitor", "One@x.test")])) == []


def test_the_latest_answer_counts_whatever_the_property_is_called() -> None:
    who = [("a@x.test", 1)]
    answers = [("a@x.test", "email consent", "yes", 5), ("a@x.test", "newsletter", "no", 7)]
    own = [("a@x.test", "a@x.test")]
    assert addresses(contacts(who, answers, own)) == []
    assert addresses(contacts(who, [*answers, ("a@x.test", "subscribed", "TRUE", 8)], own)) == ["a@x.test"]
    assert addresses(contacts(who, [*answers, ("a@x.test", "subscribed", "TRUE", 7)], own)) == [], (
        "in one second the refusal counts"
    )


def test_without_the_need_for_consent_only_refusals_keep_off() -> None:
    people, own = [("a@x.test", 1), ("b@x.test", 2)], [("a@x.test", "a@x.test"), ("b@x.test", "b@x.test")]
    known = contacts(people, [("b@x.test", "newsletter", "0", 1)], own)
    assert addresses(known) == []
    assert addresses(known, PLAIN.model_copy(update={"consent_required": False})) == ["a@x.test"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "n/a",
        "a@x",
        "a b@x.test",
        "a@x.test, b@x.test",
        "Ann <a@x.test>",
        "a@@x.test",
        "@x.test",
        "a@x..test",
        "\u200ba@x.test",
        "a\x1f@x.test",
        "a@x.te\u00adst",
        "'a@x.test'",
        "a@x.test?",
    ],
)
def test_what_is_no_address_gets_no_mail(value: str) -> None:
    assert addresses(contacts([("a", 1)], [("a", "email", value, 2), *yes("a")])) == []


def test_the_latest_address_that_is_one_counts_then_the_customers_own_name() -> None:
    own = [("c@x.test", "a@x.test"), ("c@x.test", "c@x.test")]
    told = [("c@x.test", "email", "old@x.test", 1), ("c@x.test", "e-mail", "new@x.test", 2), ("c@x.test", "email", "broken", 3)]
    assert addresses(contacts([("c@x.test", 1)], [*told, *yes("c@x.test")], own)) == ["new@x.test"]
    assert addresses(contacts([("c@x.test", 1)], yes("c@x.test"), own)) == ["c@x.test"]
    assert addresses(contacts([("c", 1)], yes("c"), [("c", "b@x.test"), ("c", "a@x.test")])) == ["a@x.test"]


def test_products_fill_their_columns_and_names_carry_no_markup() -> None:
    picks = [("a@x.test", 1, "p3"), ("b@x.test", 1, "p9"), ("b@x.test", 2, "p2")]
    people = ["a@x.test", "b@x.test"]
    known = contacts([(who, 1) for who in people], yes(*people), [(who, who) for who in people], picks)
    recipients = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    assert recipients.select("rec_count", "rec_1_id", "rec_1_name", "rec_2_id", "rec_2_name").rows() == [
        (1, "p3", '‹script›"x" y', None, None),
        (2, "p9", "p9", "p2", "Größe, M"),
    ]
    (text,) = [text for _, text in csv_parts(recipients)]
    assert text.decode().splitlines()[1] == '"a@x.test","a@x.test","Loyal","high",1,"p3","‹script›""x"" y",,'


def test_an_id_of_digits_stands_in_the_csv_as_text() -> None:
    known = contacts([("a@x.test", 1)], yes("a@x.test"), [("a@x.test", "a@x.test")], [("a@x.test", 1, "0130")])
    (text,) = [text for _, text in csv_parts(make_campaign(known, NOBODY, PLAIN, NAMES).recipients)]
    assert text.decode().splitlines()[1] == '"a@x.test","a@x.test","Loyal","high",1,"0130","0130",,'


def test_who_has_no_product_gets_no_mail() -> None:
    campaign = make_campaign(contacts([("a@x.test", 1)], yes("a@x.test"), [("a@x.test", "a@x.test")], []), NOBODY, PLAIN, NAMES)
    assert campaign.recipients.is_empty() and campaign.left_out["no products"] == 1


# ------------------------------------------------------------------------------------------------------------- holdout


def test_the_holdout_is_fixed_has_its_share_and_grows_with_it() -> None:
    customers = [f"customer {number}" for number in range(20_000)]
    small, large = ({who for who in customers if is_held_out(who, share)} for share in (0.05, 0.2))
    assert small < large
    assert abs(len(small) / 20_000 - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000)
    assert not any(is_held_out(who, 0.0) for who in customers)
    # Stored figures of other days must stay comparable: the hash never changes.
    assert [is_held_out(f"customer {number}", 0.5) for number in range(6)] == [
        int(hashlib.sha256(f"holdout customer {number}".encode()).hexdigest()[0], 16) < 8 for number in range(6)
    ]


def test_the_held_out_would_have_got_it_and_do_not() -> None:
    people = [f"c{number}@x.test" for number in range(40)]
    known = contacts([(who, 1) for who in people], yes(*people[:30]), [(who, who) for who in people])
    campaign = make_campaign(known, NOBODY, PLAIN.model_copy(update={"holdout_share": 0.5}), NAMES)
    held = [who for who in people[:30] if is_held_out(who, 0.5)]
    assert 5 < len(held) < 25
    assert campaign.holdout["email"].to_list() == sorted(held)
    assert campaign.recipients["email"].to_list() == sorted(set(people[:30]) - set(held))


# --------------------------------------------------------------------------------------------------------------- delta


def sent(campaign, day: date = date(2026, 3, 2)) -> LastSend:
    return LastSend(day, row_digests(campaign.recipients).select("address_hash", "row_digest"))


def test_the_delta_is_what_changed_or_is_new_and_removed_what_must_stop() -> None:
    people = ["a@x.test", "b@x.test", "c@x.test", "d"]
    own = [(who, who) for who in people[:3]]
    moved = [("d", "email", "d@old.test", 1)]
    first = make_campaign(
        contacts([(who, 1) for who in people], [*yes("a@x.test", "b@x.test", "d"), *moved], own), NOBODY, PLAIN, NAMES
    )
    assert first.delta.equals(first.recipients) and first.removed.is_empty()
    picks = [("a@x.test", 1, "p1"), ("c@x.test", 1, "p1"), ("d", 1, "p1")]
    answers = [
        *yes("a@x.test", "c@x.test", "d", second=2),
        ("b@x.test", "newsletter", "no", 9),
        *moved,
        ("d", "email", "d@new.test", 5),
    ]
    second = make_campaign(contacts([(who, 1) for who in people], answers, own, picks), sent(first), PLAIN, NAMES)
    assert second.recipients["email"].to_list() == ["a@x.test", "c@x.test", "d@new.test"]
    assert second.delta["email"].to_list() == ["c@x.test", "d@new.test"]
    assert second.removed.rows() == [("b@x.test", "b@x.test", "no consent"), ("d@old.test", "d", "no longer their address")]
    changed = make_campaign(
        contacts([("a@x.test", 1)], yes("a@x.test"), own, [("a@x.test", 1, "p2")]), sent(second), PLAIN, NAMES
    )
    assert changed.delta["email"].to_list() == ["a@x.test"]


def test_digests_tell_every_column_and_every_null_apart() -> None:
    base = {"email": "a@x.test", "one": "x", "two": None}
    others = [base, {**base, "one": "xy"}, {**base, "one": None, "two": "x"}, {**base, "two": ""}, {**base, "email": "b@x.test"}]
    frames = [pl.DataFrame([row], schema={"email": pl.String, "one": pl.String, "two": pl.String}) for row in others]
    assert len({row_digests(frame)["row_digest"][0] for frame in frames}) == len(others)
    assert row_digests(frames[0])["address_hash"].to_list() == [address_hash("a@x.test")]


# -------------------------------------------------------------------------------------------------------- random people


@pytest.mark.parametrize("seed", range(12))
def test_random_people_against_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    activation = Activation(products_per_email=2, holdout_share=0.3, consent_required=bool(seed % 2))
    people = [f"c{number}" for number in range(40)]
    buyers = people[:30]
    pool = [f"m{number}@x.test" for number in range(30)]
    traits = [
        (str(rng.choice(people)), str(rng.choice(["email", "e-mail"])), str(rng.choice([*pool, "none"])), int(rng.integers(6)))
        for _ in range(50)
    ] + [
        (str(rng.choice(people)), str(rng.choice(["newsletter", "email consent"])), str(rng.choice(["yes", "No", "TRUE"])), int(rng.integers(6)))
        for _ in range(70)
    ]  # fmt: skip
    identities = [(str(rng.choice(people)), str(rng.choice(pool))) for _ in range(25)]
    place = {who: int(rng.integers(1, 15)) for who in buyers}
    suppressed = frozenset(map(str, rng.choice([*people, *pool], 6)))
    products = {who: int(rng.integers(0, 3)) for who in people}
    picks = [(who, n, f"p{n}") for who in people for n in range(1, products[who] + 1)]
    shared = [(str(rng.choice(pool)), "newsletter", str(rng.choice(["yes", "No"])), int(rng.integers(6))) for _ in range(8)]
    known = contacts(list(place.items()), traits, identities, picks, suppressed, shared)
    campaign = make_campaign(known, NOBODY, activation, NAMES)

    address: dict[str, str] = {}
    for who in people:
        told = [(second, value) for other, name, value, second in traits if other == who and "mail" in name and "@" in value]
        named = [identity for other, identity in identities if other == who]
        if told:
            latest = max(second for second, _ in told)
            address[who] = min(value for second, value in told if second == latest)
        elif named:
            address[who] = min(named)
    names_of = {
        who: {who}
        | {value for other, name, value, _ in traits if other == who and "mail" in name}
        | {identity for other, identity in identities if other == who}
        for who in people
    }
    answer: dict[str, bool] = {}
    for who in people:
        said = [
            (second, value) for other, name, value, second in traits if other == who and name in ("newsletter", "email consent")
        ]
        if said:
            latest = max(second for second, _ in said)
            answer[who] = all(value.lower() in ("yes", "true") for second, value in said if second == latest)
    expected, reasons = {}, dict.fromkeys(campaign.left_out, 0)
    reasons["no address"] = sum(who not in address for who in buyers)
    newest = {one: max(second for other, _, _, second in shared if other == one) for one, *_ in shared}
    refused = {one for one, _, value, second in shared if value == "No" and second == newest[one]}
    closed = {name for who in people if names_of[who] & suppressed for name in names_of[who]}
    for one in {address[who] for who in buyers if who in address}:
        sharing = [who for who in address if address[who] == one]
        owners = sorted((who for who in sharing if who in place), key=lambda who: (place[who], who))
        reasons["address of another customer"] += len(owners) - 1
        if one in closed:
            reasons["suppressed"] += 1
        elif (one in refused or any(answer.get(who) is False for who in sharing)) or (
            activation.consent_required and not any(who in answer for who in sharing)
        ):
            reasons["no consent"] += 1
        elif not products[owners[0]]:
            reasons["no products"] += 1
        elif any(is_held_out(who, 0.3) for who in owners):
            reasons["holdout"] += 1
        else:
            expected[one] = owners[0]
    assert dict(campaign.recipients.select("email", "external_id").rows()) == expected
    assert campaign.left_out == reasons
    assert campaign.recipients.height + sum(reasons.values()) == len(buyers)
    assert broken_promises(campaign.recipients, known, activation, NAMES) == []


# ------------------------------------------------------------------------------------------------------------ promises


def test_each_broken_promise_is_counted() -> None:
    people = ["a@x.test", "b@x.test", "c@x.test", "d@x.test"]
    held = next(f"h{n}@x.test" for n in range(1000) if is_held_out(f"h{n}@x.test", 0.1))
    known = contacts(
        [(who, 1) for who in (*people, held)],
        [*yes("a@x.test", "b@x.test", held), ("c@x.test", "newsletter", "no", 1)],
        [(who, who) for who in (*people, held)],
        suppressed=frozenset({"b@x.test"}),
    )
    row = make_campaign(known, NOBODY, PLAIN, NAMES).recipients.head(1)
    assert row["email"].to_list() == ["a@x.test"]
    bad = [row.with_columns(email=pl.lit(who), external_id=pl.lit(who)) for who in (*people[1:], held)]
    activation = PLAIN.model_copy(update={"holdout_share": 0.1})
    found = [broken_promises(rows, known, activation, NAMES) for rows in bad]
    assert found == [["1 are suppressed"], ["1 refused"], ["1 never consented"], ["1 belong to the holdout"]]
    twice = broken_promises(pl.concat([row, row]), known, PLAIN, NAMES)
    assert twice == ["1 addresses stand there twice", "1 customers stand there twice"]
    assert broken_promises(row.with_columns(email=pl.lit("a@x.test b@x.test")), known, PLAIN, NAMES) == ["1 are no addresses"]
    shared = contacts([("a@x.test", 1)], [*yes("a@x.test"), ("v", "email", "a@x.test", 1), ("v", "newsletter", "no", 1)])
    assert broken_promises(row, shared, PLAIN, NAMES) == ["1 refused"]


# --------------------------------------------------------------------------------------------------------- suppression


@pytest.mark.parametrize("name", ["u5", " U20000", "ann@old.test", "Ann@New.test", "guest"])
def test_whoever_is_suppressed_stays_so_under_a_new_name_and_with_a_new_address(name: str) -> None:
    """u20000, a guest before, has been joined to u5; the wife, who shares the new address, is suppressed with him."""
    told = [("u5", "email", "ann@old.test", 5), ("u5", "e-mail", "Ann@New.test", 9), ("wife", "email", "ann@new.test", 9)]
    others = [("u6", "email", "other@x.test", 1), ("u6", "email", "wife", 0)]
    people = [("wife", 1), ("u5", 2), ("u6", 3)]
    traits = [*told, *others, *yes("u5", "wife", "u6")]
    known = contacts(people, traits, [("u5", "u5"), ("u5", "U20000 "), ("u5", "guest")], suppressed=frozenset())
    assert addresses(known) == ["ann@new.test", "other@x.test"]
    careless = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    knowing = dataclasses.replace(known, suppressed=frozenset({name.strip().lower()}))
    assert addresses(knowing) == ["other@x.test"]
    assert make_campaign(knowing, NOBODY, PLAIN, NAMES).suppressions_matched == 1
    assert broken_promises(careless, known, PLAIN, NAMES) == []
    assert broken_promises(careless, knowing, PLAIN, NAMES) == ["1 are suppressed"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_suppression_file_of_several_columns_is_refused_by_line(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"c1\n{separator.join(('c2', 'unsubscribed'))}\n", encoding="utf-8")
    with pytest.raises(SuppressionError, match=r"list\.txt:2: one address or customer id a line"):
        read_suppressed(file)
    file.write_text(f'c1\n"{separator.join(("Miller", "Ann"))}"\n', encoding="utf-8")
    assert separator.join(("miller", "ann")) in read_suppressed(file).names, "in quotation marks it is one name"


@pytest.mark.parametrize("composed", [True, False])
def test_an_accent_is_the_same_however_it_is_written(tmp_path: Path, composed: bool) -> None:
    """One code point, or a letter and a combining accent: they look alike, and are mostly the same mailbox."""
    ways = "jos\u00e9@x.test", "jose\u0301@x.test"
    told, written = ways if composed else ways[::-1]
    known = contacts([("u5", 1)], [("u5", "email", told, 1), *yes("u5")])
    assert addresses(known) == [ways[0]]
    file = tmp_path / "list.txt"
    file.write_text(written, encoding="utf-8")
    knowing = dataclasses.replace(known, suppressed=read_suppressed(file).names)
    careless = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    assert addresses(knowing) == []
    assert broken_promises(careless, knowing, PLAIN, NAMES) == ["1 are suppressed"]


SPELLINGS = [
    ("straße@x.test", "STRASSE@x.test"),
    ("οδός@x.test", "ΟΔΌΣ@X.test"),
    ("οδός@x.test", "οδόσ@x.test"),
    ("ann@bücher.test", "Ann@XN--bcher-KVA.test"),
    ("ann@shop.bücher.test", "ann@shop.xn--bcher-kva.test"),
    ("ann@faß.test", "ann@xn--fa-hia.test"),
    ("ann@x.test", "ａnn@x.test"),
    ("oﬃce@x.test", "office@x.test"),
]


@pytest.mark.parametrize(("told", "written"), [pair for both in SPELLINGS for pair in (both, both[::-1])])
def test_an_address_is_suppressed_refused_and_written_to_once_in_any_spelling(tmp_path: Path, told: str, written: str) -> None:
    people = [("u5", "email", told, 1), *yes("u5", "u6")]
    known = contacts([("u5", 1), ("u6", 2)], people)
    careless = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    assert careless["email"].to_list() == [told.lower()], "it is written to as it was told"
    file = tmp_path / "list.txt"
    file.write_text(written, encoding="utf-8")
    knowing = dataclasses.replace(known, suppressed=read_suppressed(file).names)
    assert addresses(knowing) == []
    assert make_campaign(knowing, NOBODY, PLAIN, NAMES).suppressions_matched == 1
    assert broken_promises(careless, knowing, PLAIN, NAMES) == ["1 are suppressed"]
    sharing = [*people, ("u6", "email", written, 1)]
    assert addresses(contacts([("u5", 1), ("u6", 2)], sharing)) == [told.lower()]
    twice = pl.concat([careless, careless.with_columns(email=pl.lit(written.lower()), external_id=pl.lit("u6"))])
    assert broken_promises(twice, contacts([("u5", 1)], sharing), PLAIN, NAMES) == ["1 addresses stand there twice"]
    refusing = contacts([("u5", 1)], [*sharing, ("u6", "newsletter", "no", 9)])
    assert addresses(refusing) == []
    assert broken_promises(careless, refusing, PLAIN, NAMES) == ["1 refused"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ann@x.test", "anne@x.test"),
        ("josé@x.test", "jose@x.test"),
        ("ann@bücher.test", "ann@bucher.test"),
        ("ann@xn--x.test", "ann@x.test"),
        ("xn--bcher-kva@x.test", "bücher@x.test"),
    ],
)
def test_addresses_that_are_not_alike_stay_two(one: str, other: str) -> None:
    assert alike(one) != alike(other)


@hypothesis.given(st.lists(st.one_of(st.none(), st.text(), st.sampled_from([name for both in SPELLINGS for name in both]))))
def test_names_are_alike_one_by_one_as_all_at_once(names: list[str | None]) -> None:
    together = _all_alike(pl.Series(names, dtype=pl.String)).to_list()
    assert together == [name if name is None else alike(name) for name in names]


@pytest.mark.parametrize("name", ["u5", "ann@new.test", "ann@old.test"])
def test_every_address_that_a_suppressed_customer_ever_told_is_closed_whoever_tells_it_later(name: str) -> None:
    told = [("u5", "email", "ann@old.test", 5), ("u5", "email", "ann@new.test", 9), ("u9", "email", " Ann@old.test", 20)]
    known = contacts([("u5", 1), ("u9", 2)], [*told, *yes("u5", "u9", second=20)])
    assert addresses(known) == ["ann@new.test", "ann@old.test"]
    careless = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    knowing = dataclasses.replace(known, suppressed=frozenset({name}))
    assert addresses(knowing) == []
    assert make_campaign(knowing, NOBODY, PLAIN, NAMES).left_out["suppressed"] == 2
    assert broken_promises(careless, knowing, PLAIN, NAMES) == ["2 are suppressed"]


def test_an_address_that_is_blocked_since_many_share_it_may_refuse_and_cannot_consent() -> None:
    """Who told the blocked address is written to there, unless it refused; agreeing for others is not its to do."""
    told = [("u5", "email", "Shared@x.test", 5), ("u6", "email", "other@x.test", 5)]
    people = [("u5", 1), ("u6", 2)]
    careless = make_campaign(contacts(people, [*told, *yes("u5", "u6")]), NOBODY, PLAIN, NAMES).recipients
    assert careless["email"].to_list() == ["other@x.test", "shared@x.test"]
    no, agreed = (" SHARED@x.test", "newsletter", "no", 7), ("shared@x.test", "email consent", "yes", 9)
    refusing = contacts(people, [*told, *yes("u5", "u6")], shared=[no])
    assert addresses(refusing) == ["other@x.test"]
    assert broken_promises(careless, refusing, PLAIN, NAMES) == ["1 refused"]
    assert addresses(contacts(people, [*told, *yes("u5", "u6")], shared=[no, (no[0], *agreed[1:])])) == [
        "other@x.test",
        "shared@x.test",
    ]
    silent = contacts(people, [*told, *yes("u6")], shared=[agreed])
    assert addresses(silent) == ["other@x.test"]
    assert broken_promises(careless, silent, PLAIN, NAMES) == ["1 never consented"]


def test_who_shares_the_address_by_name_alone_decides_for_it_in_the_check_too() -> None:
    own = [("a@x.test", "a@x.test"), ("visitor", "a@x.test")]
    known = contacts([("a@x.test", 1)], yes("a@x.test"), own)
    careless = make_campaign(known, NOBODY, PLAIN, NAMES).recipients
    for knowing in (
        contacts([("a@x.test", 1)], [*yes("a@x.test"), ("visitor", "newsletter", "no", 1)], own),
        contacts([("a@x.test", 1)], yes("a@x.test"), own, suppressed=frozenset({"visitor"})),
    ):
        assert addresses(knowing) == []
        (broken,) = broken_promises(careless, knowing, PLAIN, NAMES)
        assert broken in ("1 refused", "1 are suppressed")


# ----------------------------------------------------------------------------------------------------- files in and out


def test_a_suppression_file_is_read_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes('\ufeffAnn@X.test\r\n"bob@x.test"\r\n\r\n  Customer 7 \r\n'.encode())
    assert read_suppressed(file) == Suppressed(
        frozenset({"ann@x.test", "bob@x.test", "customer 7"}),
        3,
        hashlib.sha256(file.read_bytes()).hexdigest(),
    )
    assert read_suppressed(None) == Suppressed(frozenset(), 0, None)
    file.write_text("\nEmail\nann@x.test\nemail\n")
    assert read_suppressed(file).names == {"ann@x.test", "email"}, "a heading stands above, and nowhere else"


@pytest.mark.parametrize("content", ["", "\ufeff", "\r\n \n\t\n", '""\n', "external_id\n", '"Email"\n\n'])
def test_a_suppression_file_that_names_nobody_is_an_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SuppressionError, match=r"list\.txt names nobody; .* remove suppression_file under \[activation\]"):
        read_suppressed(file)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("'Ann@x.test'", "ann@x.test"),
        ("MailTo:bob@x.test", "bob@x.test"),
        (" <mailto:bob@x.test> ", "bob@x.test"),
        ("“ann@x.test”", "ann@x.test"),
        ("\"'ann@x.test'\"", "ann@x.test"),
        ("o'neil@x.test", "o'neil@x.test"),
        ("Ann@x.test.", "ann@x.test"),
        ("u 7.", "u 7."),
        ("'u 7'", "u 7"),
        ("'u 7'", "'u 7'"),
        ("twitter:@ann", "twitter:@ann"),
    ],
)
def test_an_entry_is_understood_with_what_people_put_around_it(tmp_path: Path, line: str, name: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(line, encoding="utf-8")
    found = read_suppressed(file)
    assert name in found.names and found.entries == 1


@pytest.mark.parametrize(
    "content",
    [
        b"email\nann@x.test,unsubscribed\n",
        b"x\na@x.test b@x.test",
        b"x\na@x.test;b@x.test",
        b"x\nann@x.test\tno",
        b"x\nmailto:a@x.test?subject=stop",
        b"x\n[a@x.test](mailto:a@x.test)",
        b"x\nAnn <a@x.test>",
        b"x\na@x.test\xe2\x80\x8b",
        b"x\na\xc2\xa0@x.test",
    ],
)
def test_a_suppression_file_with_more_than_addresses_is_refused_by_line_and_without_the_address(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    with pytest.raises(SuppressionError, match=r"list\.txt:2: one address") as error:
        read_suppressed(file)
    assert "x.test" not in str(error.value)


def test_an_unreadable_suppression_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"ann@x.test\n\xff\xfe")
    for file in (tmp_path / "gone.txt", tmp_path, tmp_path / "list.txt"):
        with pytest.raises(SuppressionError, match="cannot be read"):
            read_suppressed(file)


def test_a_long_csv_goes_on_in_further_parts_with_their_own_header() -> None:
    rows = pl.DataFrame({"email": [f"a{n}@x.test" for n in range(1000)]})
    parts = list(csv_parts(rows, limit=3000))
    assert len(parts) > 4 and all(len(text) <= 3000 and text.startswith(b'"email"\n') for _, text in parts)
    assert [line for _, text in parts for line in text.decode().replace('"', "").splitlines()[1:]] == rows["email"].to_list()
    assert pl.concat([part for part, _ in parts]).equals(rows)
