"""Order lines as numbers: read once, they tell what was known of a shop at the end of any earlier day, and what was bought after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Numbers = NDArray[np.signedinteger]
Bools = NDArray[np.bool_]

AGES = 2**15
"""More days than any history has."""


def worth(half_life: float, days: int) -> NDArray[np.int32]:
    """What a purchase of each age from 0 to `days` - 1 weighs, in whole millionths: these add up to the same sum in any order."""
    return np.floor(1e6 * 0.5 ** (np.arange(days) / half_life)).astype(np.int32)


@dataclass(frozen=True)
class Lines:
    """One value per line of an order, or of what was returned."""

    customer: Numbers
    """-1: nobody who has lists."""
    product: Numbers
    age: Numbers
    """Days from the line to the day that all of this was known at."""
    returned: Bools

    @classmethod
    def of(cls, table: pa.Table, day: date) -> Lines:
        """The rows of `lines.sql`, up to a day."""
        customer, product, returned = (table[name].to_numpy() for name in ("customer", "product", "returned"))
        # Dates are days since 1970.
        age = (day - date(1970, 1, 1)).days - table["order_date"].cast(pa.int32()).to_numpy()
        return cls(customer, product, age.astype(np.int16), returned)

    def only(self, chosen: Bools) -> Lines:
        """Those that are chosen."""
        if chosen.all():
            return self
        return Lines(self.customer[chosen], self.product[chosen], self.age[chosen], self.returned[chosen])

    def of_every(self, step: int) -> Lines:
        """Those of each `step`-th customer, who are numbered anew."""
        found = self.only((self.customer >= 0) & (self.customer % step == 0))
        return Lines(found.customer // step, found.product, found.age, found.returned)

    def before(self, days: int) -> Lines:
        """What was known so many days earlier."""
        found = self.only(self.age >= days)
        return Lines(found.customer, found.product, found.age - days, found.returned)

    def bought_after(self, days: int, within: int) -> Lines:
        """What customers ordered in the `within` days after the day that was so many days earlier."""
        return self.only((self.customer >= 0) & ~self.returned & (self.age < days) & (self.age >= days - within))

    def ordered(self, products: int) -> Ints:
        """The numbers, below `products`, of those that were ever ordered."""
        return np.flatnonzero(np.bincount(self.product[~self.returned], minlength=products))

    def numbered(self, number: Numbers) -> Lines:
        """Those of products that have another `number`, under it; -1: none."""
        product = number[self.product]
        return Lines(self.customer, product, self.age, self.returned).only(product >= 0)

    def sold(self, products: int, half_life: float, days: int) -> NDArray[np.float64]:
        """How often each product was ordered in the last `days`, each time halved with age."""
        lately = ~self.returned & (self.age < days)
        return np.bincount(self.product[lately], worth(half_life, days)[self.age[lately]], products) / 1e6

    def newest(self, products: int) -> NDArray[np.int16]:
        """The age of the newest order of each product."""
        age = np.full(products, AGES - 1, np.int16)
        np.minimum.at(age, self.product[~self.returned], self.age[~self.returned].astype(np.int16))
        return age
