"""`People` against a closure written by hand, and the rules that keep shared words from making one person of many."""

import itertools
import re
import sys
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.events.identities import People, people_around
from analytics_assets.settings import Identity

ANONYMOUS = "{:A>27}="
START = datetime(2011, 1, 1, tzinfo=UTC)


def anonymous(name: str) -> str:
    return ANONYMOUS.format(name)


def first_seen_and_aliases(seen: dict[str, int], aliases: list[tuple[str, ...]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `People` is made of; an alias without a day of its own is known from day 0."""
    instant = pl.Datetime("us", "UTC")
    first_seen = pl.DataFrame(
        {"identity": list(seen), "first_seen_at": [START + timedelta(days=day) for day in seen.values()]},
        schema={"identity": pl.String, "first_seen_at": instant},
    )
    pairs = pl.DataFrame(
        {
            "identity": [alias[0] for alias in aliases],
            "other_identity": [alias[1] for alias in aliases],
            "known_at": [START + timedelta(days=alias[2] if len(alias) > 2 else 0) for alias in aliases],
        },
        schema={"identity": pl.String, "other_identity": pl.String, "known_at": instant},
    )
    return first_seen, pairs


def resolve(
    seen: dict[str, int], aliases: list[tuple[str, ...]], rules: Identity, before: int = 99
) -> tuple[pl.DataFrame, list[str]]:
    """The map of everyone seen and aliased before a day."""
    return People(*first_seen_and_aliases(seen, aliases), rules).as_of(START + timedelta(days=before))


def people(seen: dict[str, int], aliases: list[tuple[str, str]], **rules) -> dict[str, str | None]:
    rows, _ = resolve(seen, aliases, Identity(**rules))
    assert rows["identity"].is_unique().all()
    return dict(zip(rows["identity"], rows["customer_id"], strict=True))


def kinds(seen: dict[str, int], aliases: list[tuple[str, str]], **rules) -> dict[str, str]:
    rows, _ = resolve(seen, aliases, Identity(**rules))
    return dict(zip(rows["identity"], rows["kind"], strict=True))


def test_a_chain_of_aliases_is_one_customer() -> None:
    a, b, c = anonymous("a"), anonymous("b"), anonymous("c")
    assert people({"ann": 5, a: 0, b: 1, c: 2}, [("ann", a), (a, b), (c, b)]) == {"ann": "ann", a: "ann", b: "ann", c: "ann"}


def test_addresses_are_spelt_as_the_statements_spell_them_in_every_letter() -> None:
    """Elsewhere SQL folds: of one letter that it lowers otherwise the audit refused the map of everybody."""
    letters = (chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000)
    addresses = [f"{letter}a{letter}@x.test" for letter in letters if letter.lower() != letter]
    found = people(dict.fromkeys(addresses, 0), [])
    with duckdb.connect() as connection:
        lower = connection.execute("SELECT list_transform($them, lambda a: lower(a))", {"them": addresses}).fetchall()[0][0]
    assert len(addresses) > 1000 and [found[address] for address in addresses] == lower
    assert people({"İBRAHİM@X.TEST": 0, "ibrahim@x.test": 1}, []) == dict.fromkeys(
        ["İBRAHİM@X.TEST", "ibrahim@x.test"], "ibrahim@x.test"
    )


def test_without_an_alias_nobody_is_joined() -> None:
    assert people({"ann": 1, "bob": 0}, []) == {"ann": "ann", "bob": "bob"}


@pytest.mark.parametrize("word", ["guest", "GUEST", " null ", "0"])
def test_a_blocked_word_in_the_middle_joins_nobody_and_is_nobody(word: str) -> None:
    seen: dict[str, int] = {"ann": 0, "bob": 1, word: 0}
    assert people(seen, [("ann", word), (word, "bob")]) == {"ann": "ann", "bob": "bob", word: None}
    assert kinds(seen, [("ann", word), (word, "bob")])[word] == "blocked"


def test_a_word_of_the_settings_is_blocked_and_the_defaults_are_replaced() -> None:
    found = people({"ann": 0, "bob": 1}, [("ann", "till"), ("till", "bob"), ("ann", "guest")], blocked=("till",))
    assert found == {"ann": "ann", "bob": "bob", "till": None, "guest": "ann"}


def test_an_identity_with_more_aliases_than_the_cap_joins_nobody_and_is_reported() -> None:
    visitors = [anonymous(str(number)) for number in range(4)]
    aliases = [("kiosk", visitor) for visitor in visitors]
    rows, shared = resolve({"kiosk": 0, **dict.fromkeys(visitors, 1)}, aliases, Identity(max_aliases=3))
    assert shared == ["kiosk"]
    found = dict(zip(rows["identity"], rows["customer_id"], strict=True))
    assert found == {"kiosk": None} | {visitor: visitor for visitor in visitors}


def test_an_identity_with_as_many_aliases_as_the_cap_is_a_person() -> None:
    visitors = [anonymous(str(number)) for number in range(3)]
    found = people({"ann": 0, **dict.fromkeys(visitors, 1)}, [("ann", visitor) for visitor in visitors], max_aliases=4)
    assert set(found.values()) == {"ann"}


def test_repeated_aliases_in_either_direction_do_not_count_towards_the_cap() -> None:
    a = anonymous("a")
    assert people({"ann": 0, a: 0}, [("ann", a), (a, "ann")] * 10, max_aliases=2) == {"ann": "ann", a: "ann"}


def test_a_chain_longer_than_the_cap_stays_apart_and_leaves_others_alone() -> None:
    chain = [f"user{number}" for number in range(6)]
    aliases = [*list(itertools.pairwise(chain)), ("ann", "anna")]
    rows, shared = resolve(dict.fromkeys([*chain, "ann", "anna"], 0), aliases, Identity(max_aliases=5))
    found = dict(zip(rows["identity"], rows["customer_id"], strict=True))
    assert {name: found[name] for name in chain} == {name: name for name in chain}
    assert found["ann"] == found["anna"] == "ann"
    assert sorted(shared) == chain


def test_an_alias_with_oneself_is_harmless() -> None:
    assert people({"ann": 0, "bob": 0}, [("ann", "ann")]) == {"ann": "ann", "bob": "bob"}


def test_letter_case_is_one_in_addresses_and_two_elsewhere() -> None:
    a, b = anonymous("a"), anonymous("b")
    seen: dict[str, int] = {"Bob@X.test": 1, "bob@x.test": 0, "Bob": 0, "bob": 0, a: 0, b: 0}
    found = people(seen, [("Bob@X.test", a), ("bob@x.test", b)])
    assert {found[name] for name in ("Bob@X.test", "bob@x.test", a, b)} == {"bob@x.test"}
    assert (found["Bob"], found["bob"]) == ("Bob", "bob")


def test_folding_of_addresses_can_be_switched_off() -> None:
    assert people({"Bob@X.test": 1, "bob@x.test": 0}, [], fold_email_case=False) == {
        "Bob@X.test": "Bob@X.test",
        "bob@x.test": "bob@x.test",
    }


def test_two_named_who_share_a_visitor_are_one_customer_called_by_the_earlier() -> None:
    shared = anonymous("shared")
    assert set(people({"ann": 9, "zoe": 3, shared: 0}, [("ann", shared), ("zoe", shared)]).values()) == {"zoe"}


def test_named_at_the_same_moment_the_smallest_wins() -> None:
    assert set(people({"zoe": 3, "ann": 3, "mia": 3}, [("zoe", "mia"), ("mia", "ann")]).values()) == {"ann"}


def test_an_anonymous_customer_is_called_by_the_smallest_identity_and_not_by_the_earliest() -> None:
    a, b = anonymous("a"), anonymous("b")
    first = min(a, b)
    assert set(people({max(a, b): 0, first: 9}, [(a, b)]).values()) == {first}


def test_an_alias_to_one_who_was_never_seen_is_in_the_map_and_comes_last_among_names() -> None:
    found = people({"zoe": 3}, [("zoe", "ann")])
    assert found == {"zoe": "zoe", "ann": "zoe"}
    assert people({}, [("zoe", anonymous("a"))]) == {"zoe": "zoe", anonymous("a"): "zoe"}


def test_nobody_at_all_is_an_empty_map() -> None:
    rows, shared = resolve({}, [], Identity())
    assert rows.columns == ["identity", "kind", "customer_id"] and rows.is_empty() and shared == []


NAMES = ["ann", "bob", "Cat@X.test", "cat@x.test", "dan@x.test", "guest", "NULL", *(anonymous(x) for x in "abcd")]


def oracle(seen: dict[str, int], aliases: list[tuple[str, str]], rules: Identity) -> dict[str, tuple[str, str | None]]:
    """Who is who by union-find, one rule after another."""
    everybody = sorted({*seen, *(name for pair in aliases for name in pair)})
    node = {name: name.lower() if "@" in name else name for name in everybody}
    nodes = sorted(set(node.values()))
    blocked = {name for name in nodes if name.strip().lower() in rules.blocked}
    edges = {frozenset((node[a], node[b])) for a, b in aliases if node[a] != node[b]}
    edges = {edge for edge in edges if not edge & blocked}
    blocked |= {name for name in nodes if sum(name in edge for edge in edges) > rules.max_aliases}
    edges = {edge for edge in edges if not edge & blocked}

    def groups(edges: set[frozenset[str]]) -> dict[str, frozenset[str]]:
        group = {name: frozenset([name]) for name in nodes}
        for edge in edges:
            a, b = edge
            union = group[a] | group[b]
            group |= dict.fromkeys(union, union)
        return group

    found = groups(edges)
    edges = {edge for edge in edges if all(len(found[name]) <= rules.max_aliases for name in edge)}
    found = groups(edges)
    first: dict[str, int] = {}
    for name, day in seen.items():
        first[node[name]] = min(first.get(node[name], day), day)

    def anonymous_name(name: str) -> bool:
        return re.search(rules.anonymous_pattern, name) is not None

    def customer(members: frozenset[str]) -> str:
        named = [name for name in members if not anonymous_name(name)]
        return min(named, key=lambda name: (first.get(name, 10**9), name)) if named else min(members)

    kind = {name: "blocked" if name in blocked else "anonymous" if anonymous_name(name) else "named" for name in nodes}
    return {name: (kind[node[name]], None if node[name] in blocked else customer(found[node[name]])) for name in everybody}


@settings(max_examples=200, deadline=None)
@given(
    seen=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=9),
    aliases=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 3)), max_size=30),
    around=st.lists(st.sampled_from(NAMES), max_size=3),
    cap=st.integers(2, 6),
    before=st.integers(1, 4),
)
def test_the_map_around_some_says_of_them_and_theirs_what_the_whole_map_says(seen, aliases, around, cap, before) -> None:
    rules, end = Identity(max_aliases=cap), START + timedelta(days=before)
    frames = first_seen_and_aliases(seen, aliases)
    whole = {row[0]: row for row in People(*frames, rules).as_of(end)[0].iter_rows()}
    part = {row[0]: row for row in people_around(pl.Series(around, dtype=pl.String), *frames, rules).as_of(end)[0].iter_rows()}
    wanted = {row[2] for name, row in whole.items() if name in around} - {None}

    def of_them(rows: dict[str, tuple[str, str, str | None]]) -> dict[str, tuple[str, str, str | None]]:
        return {name: row for name, row in rows.items() if row[2] in wanted}

    assert of_them(part) == of_them(whole)


@settings(max_examples=300, deadline=None)
@given(
    seen=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 3), max_size=9),
    aliases=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 3)), max_size=14),
    cap=st.integers(2, 6),
    before=st.integers(1, 4),
)
def test_any_aliases_resolve_as_union_find_does_on_what_was_known_by_then(seen, aliases, cap, before) -> None:
    rules = Identity(max_aliases=cap)
    rows, _ = resolve(seen, aliases, rules, before)
    found = {name: (kind, customer) for name, kind, customer in rows.iter_rows()}
    by_then = {name: day for name, day in seen.items() if day < before}
    assert found == oracle(by_then, [(one, other) for one, other, day in aliases if day < before], rules)
