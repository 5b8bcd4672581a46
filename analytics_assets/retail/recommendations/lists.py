"""The lists: scores of similarity and own history, what must not stand in them left out, and filled up to their length.

Customers and products are row and column numbers here; `assets.py` gives them their names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from analytics_assets.retail.recommendations.similarity import Floats, Model

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Kind = Literal["buy_again", "discover"]

SHARE_OF_SIMILARITY = 3.0
"""Weight of similarity beside a purchase of today, in `buy_again`. 0, 1 and 3: recall@20 .241, .265, .270 on earlier weeks of
Online Retail."""
OWN, SIMILAR, POPULAR = 0, 1, 2
"""Why a product stands in a list: the customer bought it, it goes with what they bought, or, more than that, many buy it."""
SCORE_DIGITS = 6
CUSTOMERS_AT_ONCE = 20_000
ENTRIES_AT_ONCE = 200_000
"""Customers at a time, by what they bought: finding the reasons takes some 100 bytes for each entry and place of a list."""
_FORBIDDEN = -1e9
_SPARE = 10
"""Products scored beyond the length, so that those that tie once rounded are all there to be put in order."""


@dataclass(frozen=True)
class Histories:
    """What customers bought and returned: customers x products in compressed rows, one entry per pair, columns ascending."""

    shape: tuple[int, int]
    starts: Ints
    """Where each customer's entries begin, and one more for the end (CSR `indptr`)."""
    products: Ints
    weight: Floats
    """Days with a purchase, each halved with age; 0 for what was only returned."""
    purchases: Ints
    """Days with a purchase."""
    last_day: Ints
    """Days from the latest purchase to the day of the lists; -1 for what was only returned."""
    returned: Bools

    @classmethod
    def of(cls, shape: tuple[int, int], customers: Ints, products: Ints, *columns: NDArray) -> Histories:
        """Put entries in order; `columns` are weight, purchases, last_day and returned, one value per entry."""
        order = np.argsort(customers * shape[1] + products)
        starts = np.concatenate(([0], np.cumsum(np.bincount(customers, minlength=shape[0]))))
        weight, purchases, last_day, returned = (column[order] for column in columns)
        return cls(shape, starts, products[order], weight, purchases, last_day, returned)

    def rows(self, start: int, stop: int) -> Histories:
        """The customers from `start` up to `stop`."""
        first, last = self.starts[start], self.starts[stop]
        return self._entries(self.starts[start : stop + 1] - first, slice(first, last))

    def only(self, customers: Ints) -> Histories:
        """The given customers, in the given order."""
        counts = np.diff(self.starts)[customers]
        starts = np.concatenate(([0], np.cumsum(counts)))
        return self._entries(starts, np.arange(starts[-1]) + np.repeat(self.starts[customers] - starts[:-1], counts))

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

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Cut the customers into pieces of at most `CUSTOMERS_AT_ONCE` and, but for one customer, `ENTRIES_AT_ONCE` entries."""
        start = 0
        while start < self.shape[0]:
            full = int(np.searchsorted(self.starts, self.starts[start] + ENTRIES_AT_ONCE, side="right")) - 1
            stop = min(max(full, start + 1), start + CUSTOMERS_AT_ONCE, self.shape[0])
            yield start, stop
            start = stop

    def matrix(self, values: NDArray) -> sp.csr_array:
        """Customers x products with one value per entry."""
        return sp.csr_array((values.astype(np.float64), self.products, self.starts), shape=self.shape)

    @property
    def bought(self) -> sp.csr_array:
        """The weights, at most 1 each and without zeros: what similarity is computed from and multiplied with."""
        # A copy, since SciPy's matrix shares the entries' places and drops zeros where it stands.
        found = self.matrix(np.minimum(self.weight, 1.0)).copy()
        found.eliminate_zeros()
        return found


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
    """`SIMILAR`: the bought product that says it loudest; -1 else."""
    purchases: Ints
    """`OWN`: days on which the customer bought the product; 0 else."""
    last_day: Ints
    """`OWN`: days from the latest of them to the day of the lists; -1 else."""


def make_lists(
    kind: Kind,
    histories: Histories,
    model: Model,
    offered: Bools,
    popular: Ints,
    length: int,
    rest_days: int = 0,
    share: float = SHARE_OF_SIMILARITY,
    threads: int = 2,
) -> Iterator[Lists]:
    """Make one list for each customer, some customers at a time.

    `discover` is scored by the model (similarity to what the customer bought, and prior), and never holds what they bought or
    returned. `buy_again` is scored by the decayed purchases of the product and `share` times the model; it never holds what
    was returned, nor what was bought in the last `rest_days`. Both hold offered products only, best score first, ties by
    number. Where fewer than `length` products have a score above 0, the first of `popular` follow.

    Args:
        kind: which list.
        histories: customers x products.
        model: see `similarity.py`.
        offered: whether each product may stand in a list.
        popular: all offered products, most popular first.
        length: products in a list; fewer only where the offer ends.
        rest_days: days for which a bought product stays out of `buy_again`.
        share: weight of the model in `buy_again`.
        threads: threads of the product of matrices; they do not change the result.
    """
    from sparse_dot_topn import sp_matmul_topn  # type: ignore[import-untyped]

    allowed = sp.diags_array(offered.astype(np.float64))
    nearest = sp.csr_array(model.similarity @ allowed)
    nearest.eliminate_zeros()
    nearest.sort_indices()
    weight = share if kind == "buy_again" else 1.0
    prior = weight * model.prior * offered
    # Scores and what rules products out are one product of matrices: [bought, own, 1] x [nearest; identity; prior].
    identity = allowed if kind == "buy_again" else sp.eye_array(len(offered))
    right = sp.csr_matrix(sp.vstack((weight * nearest, identity, sp.csr_array(prior[np.newaxis])), format="csr"))

    def of_piece(start: int, stop: int) -> Lists:
        mine = histories.rows(start, stop)
        bought = mine.purchases > 0
        if kind == "discover":
            left_out = bought | mine.returned
            own = mine.matrix(_FORBIDDEN * left_out)
        else:
            left_out = mine.returned | (bought & (mine.last_day < rest_days))
            own = mine.matrix(np.where(left_out, _FORBIDDEN, mine.weight))
        left = sp.hstack((mine.bought, own, np.ones((stop - start, 1))), format="csr")
        smallest = 0.5 * 10**-SCORE_DIGITS
        best = sp_matmul_topn(sp.csr_matrix(left), right, top_n=length + _SPARE, threshold=smallest, n_threads=threads)
        return _lists(start, mine, best, nearest, prior, left_out, popular, length)

    pieces = histories.pieces()
    with ThreadPoolExecutor(threads) as pool:
        coming = deque(pool.submit(of_piece, *piece) for piece in islice(pieces, threads))
        while coming:
            yield coming.popleft().result()
            coming.extend(pool.submit(of_piece, *piece) for piece in islice(pieces, 1))


def _lists(
    first: int,
    mine: Histories,
    best: sp.csr_matrix,
    nearest: sp.csr_array,
    prior: Floats,
    left_out: Bools,
    popular: Ints,
    length: int,
) -> Lists:
    """Order what was scored, cut it, say why it is there, and fill what is missing."""
    customer, product, score = _ranked(best, length)

    entries = mine.matrix((mine.weight > 0) * np.arange(1, len(mine.products) + 1))
    entry = _values(entries, customer, product).astype(np.int64) - 1
    own = entry >= 0
    similar = ~own & (score > 2 * prior[product])
    basis = np.where(own, OWN, np.where(similar, SIMILAR, POPULAR))
    source = np.full(len(customer), -1)
    source[similar] = _loudest(mine, nearest, customer[similar], product[similar])
    purchases, last_day = np.zeros(len(customer), np.int64), np.full(len(customer), -1)
    purchases[own], last_day[own] = mine.purchases[entry[own]], mine.last_day[entry[own]]

    filler, filling = _fill(mine, left_out, customer, product, popular, length)
    added = len(filler)
    customer = np.concatenate((customer, filler))
    order = np.argsort(customer, kind="stable")
    customer = customer[order]
    return Lists(
        first + customer,
        1 + np.arange(len(customer)) - np.searchsorted(customer, customer),
        np.concatenate((product, filling))[order],
        np.concatenate((score, np.zeros(added)))[order],
        np.concatenate((basis, np.full(added, POPULAR)))[order],
        np.concatenate((source, np.full(added, -1)))[order],
        np.concatenate((purchases, np.zeros(added, np.int64)))[order],
        np.concatenate((last_day, np.full(added, -1)))[order],
    )


def _ranked(best: sp.csr_matrix, length: int) -> tuple[Ints, Ints, Floats]:
    """The first `length` of each row: best rounded score first, then the smallest number.

    Score and number become one integer, so that a plain sort of a dense table will do: a fifth of the time of a lexsort.
    """
    counts = np.diff(best.indptr)
    row = np.repeat(np.arange(len(counts)), counts)
    steps, products = np.rint(best.data * 10**SCORE_DIGITS).astype(np.int64), best.shape[1]
    keys = np.full((len(counts), max(counts.max(initial=0), 1)), np.iinfo(np.int64).max)
    keys[row, np.arange(len(row)) - best.indptr[row]] = best.indices - steps * products
    keys.sort(axis=1)
    keys = keys[:, :length]
    kept = keys < np.iinfo(np.int64).max
    customer, _ = np.nonzero(kept)
    steps, product = np.divmod(keys[kept], products)
    return customer, product, -steps / 10**SCORE_DIGITS


def _values(matrix: sp.csr_array, rows: Ints, columns: Ints) -> Floats:
    """The values at these places; SciPy gives a sparse matrix for no places."""
    return matrix[rows, columns] if len(rows) else np.empty(0)


def _loudest(mine: Histories, nearest: sp.csr_array, customer: Ints, product: Ints) -> Ints:
    """For each pair the product, of those that the customer bought, that adds most to the score; ties: the smallest number."""
    if not len(customer):
        return np.empty(0, np.int64)
    counts = np.diff(mine.starts)[customer]
    begins = np.cumsum(counts) - counts
    entry = np.arange(counts.sum()) + np.repeat(mine.starts[customer] - begins, counts)
    source = mine.products[entry]
    said = np.minimum(mine.weight[entry], 1.0) * _values(nearest, source, np.repeat(product, counts))
    loudest = said == np.repeat(np.maximum.reduceat(said, begins), counts)
    where = np.flatnonzero(loudest)
    return source[where[np.searchsorted(where, begins)]]


def _fill(mine: Histories, left_out: Bools, customer: Ints, product: Ints, popular: Ints, length: int) -> tuple[Ints, Ints]:
    """The customers and products that complete lists which are too short, most popular first."""
    place = np.full(mine.shape[1], -1)
    place[popular] = np.arange(len(popular))
    owner = np.repeat(np.arange(mine.shape[0]), np.diff(mine.starts))[left_out]
    rows = np.concatenate((owner, customer))
    columns = place[np.concatenate((mine.products[left_out], product))]
    there = columns >= 0
    taken = sp.csr_array((np.ones(there.sum(), np.int8), (rows[there], columns[there])), shape=(mine.shape[0], len(popular)))
    missing = length - np.bincount(customer, minlength=mine.shape[0])
    short, depth = np.flatnonzero(missing > 0), 4 * length
    fillers, fillings = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
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
