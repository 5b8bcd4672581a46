"""What a simulated retailer sells: names, prices, and how articles are chosen by price and taste."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from analytics_assets.simulation.business_days import Floats, Ints

if TYPE_CHECKING:
    from analytics_assets.simulation.retailer import Retailer

# Category: code, median list price in pence, spread of the logarithm, garments, sizes.
_LETTERS = ("XS", "S", "M", "L", "XL", "XXL")
_CATEGORIES: dict[str, tuple[str, int, float, tuple[str, ...], tuple[str, ...]]] = {
    "T-shirts": ("TS", 1900, 0.35, ("crew tee", "tee à rayures", "boxy tee", "vest top", "naïve print tee"), _LETTERS),
    "Accessories": (
        "AC",
        1100,
        0.55,
        ("béret", "ribbed socks", "foulard", "leather belt", "woolly hat", "café tote", "hair clip", "Fäustlinge"),
        ("one size", "Einheitsgröße"),
    ),
    "Shirts and blouses": (
        "SB",
        3400,
        0.30,
        ("oxford shirt", "broderie blouse", "linen shirt", "piqué polo"),
        _LETTERS,
    ),
    "Knitwear": (
        "KN",
        4500,
        0.35,
        ("crew jumper", "roll-neck", "crochet cardigan", "slipover", "Norwegerpulli"),
        _LETTERS,
    ),
    "Dresses": (
        "DR",
        4900,
        0.35,
        ("wrap dress", "robe d'été", "shirt dress", "slip dress", "soirée dress"),
        tuple(f"Größe {n}" for n in range(34, 47, 2)),
    ),
    "Skirts": (
        "SK",
        3500,
        0.30,
        ("pleated skirt", "denim skirt", "jupe évasée"),
        tuple(f"UK {n}" for n in range(6, 19, 2)),
    ),
    "Trousers": (
        "TR",
        4700,
        0.30,
        ("wide-leg trousers", "chinos", 'jeans 5-pocket "straight"', "cargo trousers"),
        tuple(f"W{n}" for n in range(26, 39, 2)),
    ),
    "Shoes": (
        "SH",
        7200,
        0.40,
        ("ballerina", "trainers", "ankle boots", "sandales à bride", "loafers"),
        tuple(f"EU {n}" for n in range(36, 46)),
    ),
    "Jackets": ("JA", 8900, 0.35, ("denim jacket", "blazer", "bomber", "Übergangsjacke"), _LETTERS),
    "Coats": ("CO", 15900, 0.30, ("wool coat", "trench", "puffer coat", "Lodenmantel"), _LETTERS),
}
_CATEGORY_SHARES = np.array([0.17, 0.18, 0.12, 0.11, 0.11, 0.07, 0.09, 0.07, 0.05, 0.03])
COLLECTIONS = ("Studio", "Küste", "Atelier", "Harbour", "North", "Señora", "Heritage", "Jour")
_COLOURS = (
    *("black", "navy", "white", "olive", "camel", "burgundy", "grey", "sky blue", "sand", "rust", "sage", "lilac"),
    *("café", "crème", "weiß"),
)


class Assortment:
    """The catalogue, and ways to choose from it: by price and taste for baskets, by taste alone for views."""

    def __init__(self, retailer: Retailer, rng: np.random.Generator) -> None:
        """Draw the articles."""
        n = retailer.products
        category = np.sort(rng.choice(len(_CATEGORIES), n, p=_CATEGORY_SHARES))
        collection = rng.integers(0, len(COLLECTIONS), n)
        weight: Floats = np.power(rng.permutation(n) + 1.0, -retailer.popularity, dtype=np.float64)
        names, skus = np.empty(n, object), np.empty(n, object)
        price = np.empty(n, dtype=np.int64)
        for number, (code, median, spread, garments, sizes) in enumerate(_CATEGORIES.values()):
            members = np.flatnonzero(category == number)
            # Every garment, colour and size of every collection is a different name: draw without replacement.
            variants = np.array([f"{g}, {c}, {s}" for g in garments for c in _COLOURS for s in sizes], object)
            for which in range(len(COLLECTIONS)):
                mine = members[collection[members] == which]
                if len(mine) > len(variants):
                    raise ValueError(f"products {n} is more than the names that there are for {COLLECTIONS[which]} {code}")
                names[mine] = f"{COLLECTIONS[which]} " + rng.choice(variants, len(mine), replace=False)
            skus[members] = [f"{code}-{k:05d}" for k in rng.choice(90_000, len(members), replace=False) + 10_000]
            price[members] = _charm_prices(np.exp(rng.normal(np.log(median), spread, len(members))))
        self.frame = pl.DataFrame(
            {
                "sku": skus.tolist(),
                "name": names.tolist(),
                "category": np.array(list(_CATEGORIES), object)[category].tolist(),
                "collection": np.array(COLLECTIONS, object)[collection].tolist(),
                "price_pence": price,
            }
        )
        self.price = price
        self._points = np.unique(price)
        self._edges = np.sqrt(self._points[1:] * self._points[:-1].astype(np.float64))
        point = np.searchsorted(self._points, price)
        self._by_price = _Ranges(point, collection, weight)
        self._by_taste = _Ranges(np.zeros(n, dtype=np.int64), collection, weight)
        self._taste = retailer.taste

    def priced(self, rng: np.random.Generator, pence: Floats, collection: Ints) -> Ints:
        """Choose an article for each line at the list price nearest to `pence`."""
        return self._by_price.choose(rng, np.searchsorted(self._edges, pence), collection, self._taste)

    def viewed(self, rng: np.random.Generator, collection: Ints) -> Ints:
        """Choose an article to look at for each person whose favourite collection is given."""
        return self._by_taste.choose(rng, np.zeros(len(collection), dtype=np.int64), collection, self._taste)


class _Ranges:
    """Articles ordered by (group, collection), so that any cell, and any group as a whole, is one range of weights."""

    def __init__(self, group: Ints, collection: Ints, weight: Floats) -> None:
        self._order = np.lexsort((collection, group))
        self._cumulative = np.concatenate(([0.0], np.cumsum(weight[self._order])))
        cells = (group * len(COLLECTIONS) + collection)[self._order]
        self._first = np.searchsorted(cells, np.arange((int(group.max()) + 1) * len(COLLECTIONS) + 1))

    def choose(self, rng: np.random.Generator, group: Ints, collection: Ints, taste: float) -> Ints:
        """Draw by weight from the collection with probability `taste`, else (or where it has none) from the group."""
        cell = group * len(COLLECTIONS) + collection
        low, high = self._first[cell], self._first[cell + 1]
        whole = (rng.random(len(group)) >= taste) | (low == high)
        low = np.where(whole, self._first[group * len(COLLECTIONS)], low)
        high = np.where(whole, self._first[(group + 1) * len(COLLECTIONS)], high)
        start, stop = self._cumulative[low], self._cumulative[high]
        place = np.searchsorted(self._cumulative, start + rng.random(len(group)) * (stop - start), side="right") - 1
        return self._order[np.clip(place, low, high - 1)]


def _charm_prices(pence: Floats) -> Ints:
    """Round to prices that shops ask: steps of 50p to 10.00, 1.00 to 40.00, 2.50 to 100.00, then 5.00, all less 5p."""
    step = np.select([pence < 1_000, pence < 4_000, pence < 10_000], [50, 100, 250], 500)
    return np.maximum(np.round(pence / step).astype(np.int64) * step, 200) - 5
