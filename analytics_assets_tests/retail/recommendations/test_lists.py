"""The lists against an oracle that scores every product of every customer one by one."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.retail.recommendations import lists as module
from analytics_assets.retail.recommendations.lists import OWN, POPULAR, SIMILAR, Histories, Lists, Scorer, make_lists
from analytics_assets.retail.recommendations.similarity import Model

KINDS = ("buy_again", "discover")


def together(parts: list[Lists]) -> Lists:
    names = ("customer", "rank", "product", "score", "basis", "source", "purchases", "last_day")
    return Lists(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def made(kind, histories, model, offered, *arguments, **others) -> Lists:
    """Where a reason may name any product, unless another choice is given."""
    others = {"nameable": np.ones(len(offered), bool), **others}
    return together([part[kind] for part in make_lists([kind], histories, Scorer.of(model, offered), *arguments, **others)])


def random_case(seed: int, customers: int = 25, products: int = 14, coarse: bool = False):
    """Histories, a model, and what is offered. Coarse numbers make ties."""
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((customers, products)) < rng.choice([0.02, 0.2, 0.6]))
    returned = rng.random(len(pairs)) < 0.15
    purchases = np.where(returned & (rng.random(len(pairs)) < 0.5), 0, rng.integers(1, 4, len(pairs)))
    weight = np.where(purchases > 0, rng.integers(0, 5, len(pairs)) / 4 if coarse else rng.random(len(pairs)) * 2, 0.0)
    last = np.where(purchases > 0, rng.integers(0, 8, len(pairs)), -1)
    histories = Histories.of((customers, products), pairs[:, 0], pairs[:, 1], weight, purchases, last, returned)
    similarity = np.where(rng.random((products, products)) < 0.4, rng.normal(0.05, 0.2, (products, products)), 0.0)
    if coarse:
        similarity = np.round(similarity * 4) / 4
    np.fill_diagonal(similarity, 0.0)
    prior = np.where(rng.random(products) < 0.5, rng.integers(0, 3, products) / 8, 0.0)
    offered = rng.random(products) < 0.8
    popular = rng.permutation(np.flatnonzero(offered))
    return histories, Model(sp.csr_array(similarity), prior), offered, popular


def oracle(kind, histories, model, offered, popular, length, rest_days, share, nameable):
    """Customer, rank, product, score, basis and the loudest source, one by one."""
    similarity = model.similarity.toarray()
    for customer in range(histories.shape[0]):
        mine = {int(histories.products[e]): e for e in range(histories.starts[customer], histories.starts[customer + 1])}
        scored, closed = [], set()
        for product in range(histories.shape[1]):
            entry = mine.get(product)
            bought = entry is not None and histories.purchases[entry] > 0
            gone = entry is not None and histories.returned[entry]
            gone |= bought and (kind == "discover" or histories.last_day[entry] < rest_days)
            if gone or not offered[product]:
                closed.add(product)
                continue
            said = {source: min(histories.weight[e], 1.0) * similarity[source, product] for source, e in mine.items()}
            weight = share if kind == "buy_again" else 1.0
            own = histories.weight[entry] if entry is not None and kind == "buy_again" else 0.0
            score = round(own + weight * (sum(said.values()) + model.prior[product]), 6)
            if score > 0:
                alike = score > 2 * weight * model.prior[product]
                basis = OWN if own > 0 else SIMILAR if alike else POPULAR
                named = {s: value for s, value in said.items() if value > 0 and nameable[s] and not histories.returned[mine[s]]}
                source = min((s for s in named if named[s] == max(named.values())), default=-1) if basis == SIMILAR else -1
                scored.append((-score, product, basis, source))
        chosen = [(product, -score, basis, source) for score, product, basis, source in sorted(scored)[:length]]
        there = {product for product, *_ in chosen} | closed
        fill = [product for product in popular if product not in there][: length - len(chosen)]
        for rank, row in enumerate([*chosen, *((int(p), 0.0, POPULAR, -1) for p in fill)], start=1):
            yield (customer, rank, *row)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["buy_again", "discover"]), st.booleans(), st.integers(1, 9), st.integers(0, 4))
def test_lists_equal_those_scored_one_by_one(seed: int, kind, coarse: bool, length: int, rest_days: int):
    histories, model, offered, popular = random_case(seed, coarse=coarse)
    nameable = np.random.default_rng(seed).random(len(offered)) < 0.7
    found = made(kind, histories, model, offered, popular, length, rest_days, share=2.0, nameable=nameable)
    expected = list(oracle(kind, histories, model, offered, popular, length, rest_days, 2.0, nameable))
    columns = (found.customer, found.rank, found.product, found.basis, found.source)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == [(c, r, p, b, s) for c, r, p, _, b, s in expected]
    assert found.score == pytest.approx([row[3] for row in expected], abs=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["buy_again", "discover"]))
def test_lists_of_a_model_whose_similarity_only_adds_equal_those_scored_one_by_one(seed: int, kind):
    """What is below the prior of enough products is left out before it is put in order."""
    histories, model, offered, popular = random_case(seed, products=90)
    model = Model(abs(model.similarity), np.where(np.arange(90) % 3, model.prior + 0.1 + np.arange(90) / 1000, 0.0))
    assert Scorer.of(model, np.ones(90, bool)).least(40) >= 0.1 - 1e-9
    found = made(kind, histories, model, offered, popular, 6, 2, share=2.0)
    expected = list(oracle(kind, histories, model, offered, popular, 6, 2, 2.0, np.ones(90, bool)))
    assert list(zip(found.customer.tolist(), found.product.tolist(), strict=True)) == [(row[0], row[2]) for row in expected]
    assert found.score == pytest.approx([row[3] for row in expected], abs=2e-6)


def test_own_purchases_say_how_often_and_when():
    histories = Histories.of(
        (1, 3), np.zeros(2, int), np.array([2, 0]), np.array([1.5, 0.4]), np.array([4, 1]), np.array([9, 30]), np.zeros(2, bool)
    )
    found = made("buy_again", histories, Model.nothing(3), np.ones(3, bool), np.array([1, 0, 2]), 3)
    assert found.product.tolist() == [2, 0, 1]
    assert found.purchases.tolist() == [4, 1, 0]
    assert found.last_day.tolist() == [9, 30, -1]
    assert found.basis.tolist() == [OWN, OWN, POPULAR]


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=30, deadline=None)
def test_both_lists_of_one_pass_are_those_of_two(seed: int, coarse: bool):
    histories, model, offered, popular = random_case(seed, coarse=coarse)
    both = list(make_lists(KINDS, histories, Scorer.of(model, offered), popular, 4, 2, nameable=np.ones(len(offered), bool)))
    for kind in KINDS:
        found, alone = together([part[kind] for part in both]), made(kind, histories, model, offered, popular, 4, 2)
        for name in ("customer", "rank", "product", "score", "basis", "source", "purchases", "last_day"):
            assert np.array_equal(getattr(found, name), getattr(alone, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_threads_change_nothing(kind, monkeypatch: pytest.MonkeyPatch):
    histories, model, offered, popular = random_case(11, customers=300)
    whole = made(kind, histories, model, offered, popular, 6, threads=1)
    monkeypatch.setattr(module, "CUSTOMERS_AT_ONCE", 7)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 12)
    arguments = (Scorer.of(model, offered), popular, 6)
    parts = [part[kind] for part in make_lists([kind], histories, *arguments, threads=2, nameable=np.ones(len(offered), bool))]
    assert len(parts) > 42
    for name in ("customer", "rank", "product", "score", "basis", "source"):
        assert np.array_equal(getattr(together(parts), name), getattr(whole, name)), name


def test_pieces_hold_every_customer_once_however_much_one_bought(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CUSTOMERS_AT_ONCE", 3)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 5)
    counts = [0, 2, 3, 1, 40, 0, 0, 0, 0, 5, 6]
    customers = np.repeat(np.arange(len(counts)), counts)
    ones = np.ones(len(customers))
    histories = Histories.of((11, 50), customers, np.concatenate([np.arange(n) for n in counts]), ones, ones, ones, ones < 0)
    pieces = list(histories.pieces())
    assert [start for start, _ in pieces] + [11] == [0] + [stop for _, stop in pieces]
    assert all(stop - start <= 3 for start, stop in pieces)
    assert all(stop - start == 1 or sum(counts[start:stop]) <= 5 for start, stop in pieces)


def test_only_keeps_the_given_customers_in_the_given_order():
    histories, *_ = random_case(3)
    chosen = np.array([7, 0, 24, 3])
    few = histories.only(chosen)
    assert few.matrix(few.weight).toarray() == pytest.approx(histories.matrix(histories.weight).toarray()[chosen])
    assert few.matrix(few.purchases).toarray() == pytest.approx(histories.matrix(histories.purchases).toarray()[chosen])


def test_a_customer_who_bought_all_popular_products_still_gets_a_full_list_to_discover():
    products = 400
    ones = np.ones(380)
    histories = Histories.of(
        (1, products), np.zeros(380, int), np.arange(380), ones, ones.astype(int), ones.astype(int), ones < 0
    )
    found = made("discover", histories, Model.nothing(products), np.ones(products, bool), np.arange(products), 20)
    assert found.product.tolist() == list(range(380, 400))


def test_making_lists_leaves_the_histories_as_they_were():
    histories, model, offered, popular = random_case(5)
    before = [np.copy(a) for a in (histories.starts, histories.products, histories.weight)]
    list(make_lists(KINDS, histories, Scorer.of(model, offered), popular, 5, nameable=np.ones(len(offered), bool)))
    assert all(
        np.array_equal(a, b) for a, b in zip(before, (histories.starts, histories.products, histories.weight), strict=True)
    )
