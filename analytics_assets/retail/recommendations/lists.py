"""The lists: scores of similarity and own history, what must not stand in them left out, and filled up to their length.

Customers and products are row and column numbers here; `assets.py` gives them their names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from analytics_assets.retail.recommendations.lines import AGES, Bools, Ints, Lines, Numbers, worth
from analytics_assets.retail.recommendations.similarity import Floats, Model

Kind = Literal["buy_again", "discover"]

SHARE_OF_SIMILARITY = 3.0
"""Weight of similarity beside a purchase of today, in `buy_again`. 0, 1 and 3: recall@20 .241, .265, .270 on earlier weeks of
Online Retail."""
OWN, SIMILAR, POPULAR = 0, 1, 2
"""Why a product stands in a list: the customer bought it, it goes with what they bought, or, more than that, many buy it."""
SCORE_DIGITS = 6
CUSTOMERS_AT_ONCE = 20_000
ENTRIES_AT_ONCE = 200_000
PLACES_AT_ONCE = 4_000_000
"""Customers at a time, by what they bought: finding the reasons takes some 100 bytes for each entry and place of a list, and each
customer has as many places as the longest history has products."""
ENTRIES_SUMMED_AT_ONCE = 500_000
LENGTHS_OF_HISTORY = (8, 24, 72)
"""Histories are scored apart by their length: as many more of a row's best have to be kept as the longest has products."""
_SPARE = 10
"""Products scored beyond the length, so that those that tie once rounded are all there to be put in order."""
_NOWHERE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Histories:
    """What customers bought and returned: customers x products in compressed rows, one entry per pair, columns ascending."""

    shape: tuple[int, int]
    starts: Ints
    """Where each customer's entries begin, and one more for the end (CSR `indptr`)."""
    products: Numbers
    weight: Floats
    """Days with a purchase, each halved with age; 0 for what was only returned."""
    purchases: Numbers
    """Days with a purchase."""
    last_day: Numbers
    """Days from the latest purchase to the day of the lists; -1 for what was only returned."""
    returned: Bools

    @classmethod
    def of(cls, shape: tuple[int, int], customers: Ints, products: Ints, *columns: NDArray) -> Histories:
        """Put entries in order; `columns` are weight, purchases, last_day and returned, one value per entry."""
        order = np.argsort(customers * shape[1] + products)
        starts = np.concatenate(([0], np.cumsum(np.bincount(customers, minlength=shape[0]))))
        weight, purchases, last_day, returned = (column[order] for column in columns)
        return cls(shape, starts, products[order], weight, purchases, last_day, returned)

    @classmethod
    def of_lines(cls, shape: tuple[int, int], lines: Lines, half_life: float, history_days: int) -> Histories:
        """Sum up the order lines of customers.

        A purchase is a day on which the product was ordered. Its weight, in whole millionths, halves with `half_life` days and
        is 0 from `history_days` on.
        """
        # A line is one number, and a sort does what grouping would: a fifth of its memory. Nobody's are below 0.
        codes = lines.customer.astype(np.int64)
        for base, digit in ((shape[1], lines.product), (AGES, lines.age), (2, lines.returned)):
            codes *= base
            codes += digit
        codes.sort()
        codes = codes[np.searchsorted(codes, 0) :]
        codes = codes[_changes(codes)]
        first = np.append(np.flatnonzero(_changes(codes // (2 * AGES))), len(codes))
        weighs, entries = np.append(worth(half_life, history_days), 0), len(first) - 1
        customers, products = np.empty(entries, np.int32), np.empty(entries, np.int32)
        weight, purchases, newest = np.empty(entries), np.empty(entries, np.int16), np.empty(entries, np.int16)
        returned = np.empty(entries, np.bool_)
        # In parts: what is reckoned on the way would take twice the memory of what comes of it.
        for start in range(0, entries, ENTRIES_SUMMED_AT_ONCE):
            part = slice(start, min(start + ENTRIES_SUMMED_AT_ONCE, entries))
            mine, at = codes[first[part.start] : first[part.stop]], first[part] - first[part.start]
            customers[part], products[part] = np.divmod(mine[at] // (2 * AGES), shape[1])
            age, back = mine // 2 & AGES - 1, (mine & 1).astype(np.bool_)
            weight[part] = (
                np.add.reduceat(weighs[np.where(back, history_days, np.minimum(age, history_days))], at, dtype=np.int64) / 1e6
            )
            purchases[part] = np.add.reduceat(~back, at, dtype=np.int16)
            newest[part] = np.minimum.reduceat(np.where(back, AGES - 1, age), at)
            returned[part] = np.logical_or.reduceat(back, at)
        newest[purchases == 0] = -1
        starts = np.searchsorted(customers, np.arange(shape[0] + 1))
        return cls(shape, starts, products, weight, purchases, newest, returned)

    def only(self, customers: Ints) -> Histories:
        """The given customers, in the given order."""
        counts = np.diff(self.starts)[customers]
        starts = np.concatenate(([0], np.cumsum(counts)))
        return self._entries(starts, np.arange(starts[-1]) + np.repeat(self.starts[customers] - starts[:-1], counts))

    def where(self, kept: Bools) -> Histories:
        """The entries that are kept."""
        if kept.all():
            return self
        return self._entries(np.concatenate(([0], np.cumsum(kept)))[self.starts], np.flatnonzero(kept))

    def _entries(self, starts: Ints, chosen: slice | Ints) -> Histories:
        return Histories(
            (len(starts) - 1, self.shape[1]),
            starts,
            self.products[chosen],
            self.weight[chosen],
            self.purchases[chosen],
            self.last_day[chosen],
            self.returned[chosen],
        )

    def pieces(self, at_least: int = 1) -> Iterator[tuple[int, int]]:
        """Cut the customers into pieces of at most `CUSTOMERS_AT_ONCE` and, but for one customer, `ENTRIES_AT_ONCE` entries and
        `PLACES_AT_ONCE` places; into `at_least` so many where there are as many customers.
        """
        counts = np.diff(self.starts)
        most = min(CUSTOMERS_AT_ONCE, -(-self.shape[0] // at_least))
        start = 0
        while start < self.shape[0]:
            full = int(np.searchsorted(self.starts, self.starts[start] + ENTRIES_AT_ONCE, side="right")) - 1
            stop = min(max(full, start + 1), start + most, self.shape[0])
            while stop - start > 1 and (stop - start) * counts[start:stop].max() > PLACES_AT_ONCE:
                stop = start + (stop - start) // 2
            yield start, stop
            start = stop

    @property
    def owner(self) -> Ints:
        """The customer of each entry."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.starts))

    def matrix(self, values: NDArray) -> sp.csr_array:
        """Customers x products with one value per entry."""
        return sp.csr_array((values.astype(np.float64), self.products, self.starts), shape=self.shape)

    @property
    def bought(self) -> sp.csr_array:
        """The weights, at most 1 each and without zeros: what similarity is computed from and multiplied with."""
        there = self.weight > 0
        starts = np.concatenate(([0], np.cumsum(there)))[self.starts]
        products = self.products if there.all() else self.products[there]
        return sp.csr_array((np.minimum(self.weight[there], 1.0), products, starts), shape=self.shape)


def _changes(ordered: Ints) -> Bools:
    """Whether each value is another one than that before it."""
    return np.concatenate((np.ones(min(len(ordered), 1), np.bool_), ordered[1:] != ordered[:-1]))


@dataclass(frozen=True)
class Lists:
    """Rows of lists, in order of customer and rank."""

    customer: Ints
    rank: Ints
    product: Ints
    score: Floats
    """0 for what only fills the list."""
    basis: Ints
    """`OWN`, `SIMILAR` or `POPULAR`."""
    source: Ints
    """`SIMILAR`: of the products that a reason may name, the one that says it loudest, -1 where none does; -1 else."""
    purchases: Ints
    """`OWN`: days on which the customer bought the product; 0 else."""
    last_day: Ints
    """`OWN`: days from the latest of them to the day of the lists; -1 else."""

    @classmethod
    def in_order(cls, parts: Sequence[Lists]) -> Lists:
        """The lists of all parts, in order of customer."""
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([part.customer for part in parts]), kind="stable")
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts])[order] for f in fields(cls)))


@dataclass(frozen=True)
class Scorer:
    """A model of the products on offer, laid out once for all who are scored with it."""

    offered: Bools
    nearest: sp.csr_array
    """Similarity to what is offered."""
    prior: Floats
    right: sp.csr_matrix
    """Similarity, prior and identity, one upon the other."""
    falling_prior: Floats
    """The priors, highest first, where similarity only ever adds to them; else nothing."""

    @classmethod
    def of(cls, model: Model, offered: Bools) -> Scorer:
        """A model and whether each product may stand in a list."""
        said, products, prior = model.similarity, len(offered), model.prior * offered
        there = offered[said.indices] & (said.data != 0)
        starts = np.concatenate(([0], np.cumsum(there)))[said.indptr]
        known = np.flatnonzero(prior)
        right = sp.csr_matrix(
            (
                np.concatenate((said.data[there], prior[known], np.ones(products))),
                np.concatenate((said.indices[there], known, np.arange(products)), dtype=np.int32),
                np.concatenate((starts, starts[-1] + len(known) + np.arange(products + 1)), dtype=np.int32),
            ),
            shape=(2 * products + 1, products),
        )
        right.sort_indices()
        # The same memory: it is a third of what a model takes.
        nearest = sp.csr_array((right.data[: starts[-1]], right.indices[: starts[-1]], right.indptr[: products + 1]), said.shape)
        adds = nearest.data.min(initial=0.0) >= 0
        return cls(offered, nearest, prior, right, np.sort(prior)[::-1] if adds else np.empty(0))

    @cached_property
    def highest(self) -> float:
        """Most that one purchase may say."""
        return float(np.abs(self.nearest.data).max(initial=0.0))

    def least(self, places: int) -> float:
        """A score that the best `places` products of anybody are above."""
        return float(np.nextafter(self.falling_prior[places - 1], 0)) if places <= len(self.falling_prior) else 0.0


def make_lists(
    kinds: Sequence[Kind],
    histories: Histories,
    scorer: Scorer,
    popular: Ints,
    length: int,
    rest_days: int = 0,
    share: float = SHARE_OF_SIMILARITY,
    threads: int = 2,
    nameable: Bools | None = None,
) -> Iterator[dict[Kind, Lists]]:
    """Make the lists of each customer, some customers at a time.

    `discover` is scored by the model (similarity to what the customer bought, and prior), and never holds what they bought or
    returned. `buy_again` is scored by the decayed purchases of the product and `share` times the model; it never holds what
    was returned, nor what was bought in the last `rest_days`. Both hold offered products only, best score first, ties by
    number. Where fewer than `length` products have a score above 0, the first of `popular` follow.

    Args:
        kinds: which lists; one model scores a customer once for both.
        histories: customers x products.
        scorer: the model and the offer.
        popular: all offered products, most popular first.
        length: products in a list; fewer only where the offer ends.
        rest_days: days for which a bought product stays out of `buy_again`.
        share: weight of the model in `buy_again`.
        threads: threads of the product of matrices, and pieces of customers that are at work at a time; they do not change the result.
        nameable: the products that `source` may be, unless the customer returned them; without it no source is looked for.
    """
    smallest = 0.5 * 10**-SCORE_DIGITS / max(share, 1.0)

    def of_some(customers: Ints, mine: Histories) -> dict[Kind, Lists]:
        scored = _scored(mine, scorer, length + _SPARE, smallest, threads)
        places = {kind: _places(kind, mine, scored, scorer, length, rest_days, share) for kind in kinds}
        sources = None if nameable is None else _sources(mine, scorer.nearest, scored, list(places.values()), nameable)
        return {kind: _lists(customers, mine, found, sources, popular, length) for kind, found in places.items()}

    def of_piece(start: int, stop: int) -> dict[Kind, Lists]:
        length_of = np.digitize(np.diff(histories.starts[start : stop + 1]), LENGTHS_OF_HISTORY)
        alike = [start + np.flatnonzero(length_of == one) for one in np.unique(length_of)]
        parts = [of_some(customers, histories.only(customers)) for customers in alike]
        return {kind: Lists.in_order([part[kind] for part in parts]) for kind in kinds}

    pieces = histories.pieces(threads)
    with ThreadPoolExecutor(threads) as pool:
        coming = deque(pool.submit(of_piece, *piece) for piece in islice(pieces, threads))
        while coming:
            yield coming.popleft().result()
            coming.extend(pool.submit(of_piece, *piece) for piece in islice(pieces, 1))


@dataclass(frozen=True)
class _Scored:
    """What a model says of some customers: a score for each entry of their histories, and the best of the other products."""

    own: Floats
    """One for each entry."""
    starts: Ints
    """Where each customer's other products begin, and one more for the end."""
    customer: Ints
    product: Numbers
    score: Floats


def _scored(mine: Histories, scorer: Scorer, others: int, smallest: float, threads: int) -> _Scored:
    """Score as one product of matrices, [bought, 1, lift] x [similarity; prior; identity], of which each row's best are kept.

    What a customer has bought is lifted above everything else, so that it is there, whatever its score.
    """
    from sparse_dot_topn import sp_matmul_topn  # type: ignore[import-untyped]

    (customers, products), counts = mine.shape, np.diff(mine.starts)
    longest = int(counts.max(initial=0))
    # A power of two, so that taking it off again leaves the score to its last bits.
    lift = 2.0 ** np.ceil(np.log2(2 * (longest * scorer.highest + scorer.prior.max(initial=0.0)) + 2))
    of_prior = 2 * mine.starts[1:] + np.arange(customers) - counts
    first = np.arange(len(mine.products)) + mine.starts[:-1].repeat(counts) + mine.owner
    second = first + counts.repeat(counts) + 1
    columns, values = np.empty(2 * len(first) + customers, np.int32), np.empty(2 * len(first) + customers)
    columns[first], columns[of_prior], columns[second] = mine.products, products, products + 1 + mine.products
    values[first], values[of_prior], values[second] = np.minimum(mine.weight, 1.0), 1.0, lift
    starts = (2 * mine.starts + np.arange(customers + 1)).astype(np.int32)
    left = sp.csr_matrix((values, columns, starts), shape=(customers, scorer.right.shape[0]))
    kept = others + longest
    # It keeps Python's lock, so that pieces take turns with it: its own threads are the only ones that share its work.
    # What cannot be among a row's best need not be put in order with them.
    best = sp_matmul_topn(left, scorer.right, top_n=kept, threshold=max(smallest, scorer.least(kept)), n_threads=threads)

    lifted = best.data > lift / 2
    entries = sp.csr_array((best.data[lifted] - lift, best.indices[lifted], mine.starts), shape=mine.shape)
    entries.sort_indices()
    there = np.diff(best.indptr) - counts
    others_start = np.concatenate(([0], np.cumsum(there)))
    return _Scored(entries.data, others_start, np.repeat(np.arange(customers), there), best.indices[~lifted], best.data[~lifted])


@dataclass(frozen=True)
class _Places:
    """The scored places of one kind of list, in order of customer and rank."""

    customer: Ints
    product: Ints
    score: Floats
    entry: Ints
    """Which entry of the histories; -1: none."""
    other: Ints
    """Which of the other products; -1: none."""
    basis: Ints
    left_out: Bools
    """For each entry of the histories, whether it must not stand in the list."""


def _places(kind: Kind, mine: Histories, scored: _Scored, scorer: Scorer, length: int, rest_days: int, share: float) -> _Places:
    """The first `length` of each customer: best rounded score first, then the smallest number.

    Score and number become one integer, so that a plain sort of a dense table will do: a fifth of the time of a lexsort.
    """
    bought = mine.purchases > 0
    if kind == "discover":
        left_out, width, share = bought | mine.returned, 0, 1.0
    else:
        left_out, width = mine.returned | (bought & (mine.last_day < rest_days)), int(np.diff(mine.starts).max(initial=0))
    customers, products = mine.shape
    table = np.full((customers, width + max(np.diff(scored.starts).max(initial=0), 1)), _NOWHERE)

    def enter(starts: Ints, row: Ints, first: int, score: Floats, product: Ints, allowed: Bools | bool) -> None:
        steps = np.rint(score * 10**SCORE_DIGITS).astype(np.int64)
        table[row, first + np.arange(len(row)) - starts[row]] = np.where(
            allowed & (steps > 0), product - steps * products, _NOWHERE
        )

    if width:
        enter(
            mine.starts, mine.owner, 0, mine.weight + share * scored.own, mine.products, scorer.offered[mine.products] & ~left_out
        )
    enter(scored.starts, scored.customer, width, share * scored.score, scored.product, True)
    order = np.argsort(table, axis=1)[:, :length]
    keys = np.take_along_axis(table, order, axis=1)
    kept = keys < _NOWHERE
    customer, _ = np.nonzero(kept)
    column = order[kept]
    steps, product = np.divmod(keys[kept], products)
    score = -steps / 10**SCORE_DIGITS
    is_entry = column < width
    entry = np.where(is_entry, mine.starts[customer] + column, -1)
    other = np.where(is_entry, -1, scored.starts[customer] + column - width)
    own = is_entry.copy()
    own[is_entry] = mine.weight[entry[is_entry]] > 0
    similar = ~own & (score > 2 * share * scorer.prior[product])
    basis = np.where(own, OWN, np.where(similar, SIMILAR, POPULAR))
    return _Places(customer, product, score, entry, other, basis, left_out)


def _sources(
    mine: Histories, nearest: sp.csr_array, scored: _Scored, places: Sequence[_Places], nameable: Bools
) -> tuple[Ints, Ints]:
    """For each entry and each of the other products what `_loudest` says, looked for once where any list wants it; -1 else."""
    owner, named = mine.owner, mine.where(nameable[mine.products] & ~mine.returned & (mine.weight > 0))
    found = []
    for name, customer, product in (("entry", owner, mine.products), ("other", scored.customer, scored.product)):
        wanted = np.zeros(len(customer), np.bool_)
        for of_kind in places:
            at = getattr(of_kind, name)
            wanted[at[(of_kind.basis == SIMILAR) & (at >= 0)]] = True
        source = np.full(len(customer), -1)
        source[wanted] = _loudest(named, nearest, customer[wanted], product[wanted])
        found.append(source)
    return found[0], found[1]


def _lists(
    customers: Ints, mine: Histories, places: _Places, sources: tuple[Ints, Ints] | None, popular: Ints, length: int
) -> Lists:
    """The places with what is said of them, and what fills the lists that are too short."""
    source = np.full(len(places.customer), -1)
    if sources:
        for of_origin, at in zip(sources, (places.entry, places.other), strict=True):
            similar = (places.basis == SIMILAR) & (at >= 0)
            source[similar] = of_origin[at[similar]]
    own = places.basis == OWN
    purchases, last_day = np.zeros(len(own), np.int64), np.full(len(own), -1)
    purchases[own], last_day[own] = mine.purchases[places.entry[own]], mine.last_day[places.entry[own]]

    filler, filling = _fill(mine, places.left_out, places.customer, places.product, popular, length)
    added = len(filler)
    customer = np.concatenate((places.customer, filler))
    order = np.argsort(customer, kind="stable") if added else slice(None)
    customer = customer[order]
    counts = np.bincount(customer, minlength=mine.shape[0])
    return Lists(
        customers[customer],
        1 + np.arange(len(customer)) - np.repeat(np.cumsum(counts) - counts, counts),
        np.concatenate((places.product, filling))[order],
        np.concatenate((places.score, np.zeros(added)))[order],
        np.concatenate((places.basis, np.full(added, POPULAR)))[order],
        np.concatenate((source, np.full(added, -1)))[order],
        np.concatenate((purchases, np.zeros(added, np.int64)))[order],
        np.concatenate((last_day, np.full(added, -1)))[order],
    )


def _loudest(named: Histories, nearest: sp.csr_array, customer: Ints, product: Ints) -> Ints:
    """For each pair the customer's product that adds most to the score; ties: the smallest number; -1 where none adds anything."""
    counts = np.diff(named.starts)[customer]
    found, there = np.full(len(customer), -1), np.flatnonzero(counts)
    if not len(there):
        return found
    customer, product, counts = customer[there], product[there], counts[there]
    begins = np.cumsum(counts) - counts
    entry = np.arange(counts.sum()) + np.repeat(named.starts[customer] - begins, counts)
    source = named.products[entry]
    said = np.minimum(named.weight[entry], 1.0) * nearest[source, np.repeat(product, counts)]
    most = np.maximum.reduceat(said, begins)
    where = np.flatnonzero(said == np.repeat(most, counts))
    found[there] = np.where(most > 0, source[where[np.searchsorted(where, begins)]], -1)
    return found


def _fill(mine: Histories, left_out: Bools, customer: Ints, product: Ints, popular: Ints, length: int) -> tuple[Ints, Ints]:
    """The customers and products that complete lists which are too short, most popular first."""
    missing = length - np.bincount(customer, minlength=mine.shape[0])
    short, depth = np.flatnonzero(missing > 0), 4 * length
    fillers, fillings = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    if not len(short):
        return fillers[0], fillings[0]
    place = np.full(mine.shape[1], -1)
    place[popular] = np.arange(len(popular))
    rows = np.concatenate((mine.owner[left_out], customer))
    columns = place[np.concatenate((mine.products[left_out], product))]
    there = (columns >= 0) & (missing > 0)[rows]
    taken = sp.csr_array((np.ones(there.sum(), np.int8), (rows[there], columns[there])), shape=(mine.shape[0], len(popular)))
    while len(short):
        free = taken[short][:, :depth].toarray() == 0
        count = np.cumsum(free, axis=1)
        wanted = missing[short][:, np.newaxis]
        enough = (count[:, -1:] >= wanted)[:, 0] if free.shape[1] else np.zeros(len(short), np.bool_)
        enough |= depth >= len(popular)
        row, column = np.nonzero(free[enough] & (count[enough] <= wanted[enough]))
        fillers.append(short[enough][row])
        fillings.append(popular[column])
        short, depth = short[~enough], 4 * depth
    return np.concatenate(fillers), np.concatenate(fillings)
