"""What lists are worth, measured on purchases that came after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

RECALL_AT = 20
NDCG_AT = 10


@dataclass(frozen=True)
class Quality:
    """Means over the customers who bought; `coverage` is the share of the offered products that stands in any of their lists."""

    customers: int
    recall_at_20: float
    ndcg_at_10: float
    coverage: float


def recall(listed: Sequence[int], bought: Set[int], at: int = RECALL_AT) -> float:
    """Share of what was bought that stands among the first `at` of the list."""
    return sum(product in bought for product in listed[:at]) / len(bought)


def ndcg(listed: Sequence[int], bought: Set[int], at: int = NDCG_AT) -> float:
    """Normalised discounted cumulative gain with binary relevance (Järvelin and Kekäläinen 2002), over the first `at`."""
    discount = 1 / np.log2(np.arange(2, at + 2))
    gained = sum(discount[place] for place, product in enumerate(listed[:at]) if product in bought)
    return float(gained / discount[: min(at, len(bought))].sum())


def quality(lists: Mapping[int, Sequence[int]], bought: Mapping[int, Set[int]], offered: int) -> Quality:
    """Compare lists with what was bought, over the customers of `bought`; one without a list scores 0.

    Raises:
        ValueError: somebody in `bought` bought nothing.
    """
    if not all(bought.values()):
        raise ValueError("a customer who bought nothing has no recall")
    customers = sorted(bought)
    shown = {product for customer in customers for product in lists.get(customer, ())[:RECALL_AT]}
    recalls = [recall(lists.get(customer, ()), bought[customer]) for customer in customers]
    gains = [ndcg(lists.get(customer, ()), bought[customer]) for customer in customers]
    return Quality(
        len(customers),
        float(np.mean(recalls)) if customers else 0.0,
        float(np.mean(gains)) if customers else 0.0,
        len(shown) / offered if offered else 0.0,
    )
