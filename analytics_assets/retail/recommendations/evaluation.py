"""What lists are worth, measured on purchases that came after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analytics_assets.retail.recommendations.lines import Bools, Ints, Numbers
from analytics_assets.retail.recommendations.similarity import Floats

RECALL_AT = 20
NDCG_AT = 10


@dataclass(frozen=True)
class Pairs:
    """Products of customers, one value per pair; lists stand in order of their places."""

    customer: Ints
    """From 0, without a gap in what was bought."""
    product: Ints

    @classmethod
    def together(cls, parts: Sequence[Pairs]) -> Pairs:
        """The pairs of all parts, in their order."""
        nothing = np.empty(0, np.int64)
        return cls(*(np.concatenate((nothing, *(getattr(p, name) for p in parts))) for name in ("customer", "product")))

    @classmethod
    def each_once(cls, customer: Numbers, product: Numbers) -> Pairs:
        """Each pair once, in order of customer and product."""
        order = np.lexsort((product, customer))
        pairs = cls(customer[order].astype(np.int64), product[order].astype(np.int64))
        other = np.ones(len(order), np.bool_)
        other[1:] = (np.diff(pairs.customer) != 0) | (np.diff(pairs.product) != 0)
        return pairs.only(other)

    def only(self, chosen: Bools) -> Pairs:
        """Those that are chosen."""
        return Pairs(self.customer[chosen], self.product[chosen])

    def of(self, customers: Ints) -> Pairs:
        """Those of some customers, who are numbered anew in their order; `customers` ascend."""
        found = self.only(np.isin(self.customer, customers))
        return Pairs(np.searchsorted(customers, found.customer), found.product)

    def places(self) -> Ints:
        """How many pairs of the same customer stand before each; a customer's pairs stand together."""
        first = np.flatnonzero(np.diff(self.customer, prepend=-1))
        return np.arange(len(self.customer)) - np.repeat(first, np.diff(first, append=len(self.customer)))

    def among(self, others: Pairs) -> Bools:
        """Whether each pair is one of the others."""
        products = np.concatenate((self.product, others.product))
        lowest, width = products.min(initial=0), np.ptp(products) + 1 if len(products) else 1
        mine, theirs = (pairs.customer * width + pairs.product - lowest for pairs in (self, others))
        return np.isin(mine, theirs)


@dataclass(frozen=True)
class Quality:
    """Means over the customers who bought; `coverage` is the share of the offered products that stands in any of their lists.

    Recall is the share of what was bought that stands among the first 20 of the list; NDCG the normalised discounted cumulative
    gain with binary relevance (Järvelin and Kekäläinen 2002) over the first 10.
    """

    customers: int
    recall_at_20: float
    ndcg_at_10: float
    coverage: float


def quality(lists: Pairs, bought: Pairs, offered: int) -> Quality:
    """Compare lists with what was bought, over the customers of `bought`; one without a list scores 0.

    Raises:
        ValueError: a customer among those of `bought` bought nothing.
    """
    targets = np.bincount(bought.customer)
    customers = len(targets)
    if not customers:
        return Quality(0, 0.0, 0.0, 0.0)
    if not targets.all():
        raise ValueError("a customer who bought nothing has no recall")
    place, hit = lists.places(), lists.among(bought)

    def of_first(at: int, gain: Floats) -> Floats:
        counted = hit & (place < at)
        return np.bincount(lists.customer[counted], gain[place[counted]], customers).astype(np.float64)

    discount = 1 / np.log2(np.arange(2, NDCG_AT + 2))
    best = np.cumsum(discount)[np.minimum(targets, NDCG_AT) - 1]
    shown = np.unique(lists.product[(place < RECALL_AT) & (lists.customer < customers)])
    return Quality(
        customers,
        float(np.mean(of_first(RECALL_AT, np.ones(RECALL_AT)) / targets)),
        float(np.mean(of_first(NDCG_AT, discount) / best)),
        len(shown) / offered if offered else 0.0,
    )
