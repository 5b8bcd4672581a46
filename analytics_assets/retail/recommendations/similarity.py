"""Item similarity: how much having bought one product speaks for another, as a sparse matrix of nearest products.

Rows are the products that were bought, columns those that they speak for; a customer's score of a product is the sum over
what they bought, and a prior that is the same for everybody. EASE serves catalogues up to `MOST_PRODUCTS_OF_EASE`, BM25
over co-purchases the larger ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_PRODUCTS_OF_EASE = 4_000
"""The inverse grows with the cube: one thread took 1.9 s for 4,000 products."""
REGULARISATION = 8.0
"""EASE's lambda, as a multiple of the mean diagonal of X'X. Few purchases want more of it: with 4, 6, 8 and 10 recall@20
was .152, .155, .156, .156 on earlier weeks of Online Retail and .216, .217, .215, .216 on an inner split of MovieLens 100K; with
6, 20 and 60 .142, .149, .142 at a simulated shop with two lines an order."""
NEIGHBOURS_OF_EASE = 400
"""All neighbours, 400, 200 and 100 of them: NDCG@10 .161, .159, .157, .151 on an inner split of MovieLens 100K; on earlier weeks
of Online Retail, where trends count more, .140 for all, 400 and 200."""
NEIGHBOURS_OF_BM25 = 50
"""On earlier weeks of Online Retail 20 and 100 neighbours scored the same within .005 recall; memory grows with their number."""
BM25_OF_ITSELF = 1 / 30
"""A product's mean similarity to itself, to bring BM25 to the scale of own purchases: with 1, 1/10, 1/30 and 1/100 recall@20 of
`buy_again` was .203, .254, .269 and .264 on earlier weeks of Online Retail."""
PRIOR = 0.3
"""Weight of a product's popularity, as the share of customers who have it. With 0, .1, .3 and 1 recall@20 was .136, .145, .149,
.144 at the simulated shop, where `popular` reached .130, and .151, .154, .155, .144 on earlier weeks of Online Retail."""
PRIOR_PRODUCTS = 100
"""Only the most popular products have a prior: that of the others is too small to bring them into a list."""
TREND_SMOOTHING = 10.0
"""Sales that every product is given at the average trend. 2, 10 and 30: recall@20 .153, .154, .148 on earlier weeks."""


def ease(bought: sp.csr_array) -> NDArray[np.float32]:
    """Embarrassingly shallow autoencoder (Steck 2019, equation 8): B = I - P diag(1 / P_jj), P = (X'X + lambda I)^-1.

    Args:
        bought: customers x products, weights from 0 to 1.

    Returns:
        Products x products, dense, zero on the diagonal; an all-zero matrix where nothing was bought.
    """
    from scipy.linalg.lapack import spotrf, spotri
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    gram = (bought.T @ bought).toarray().astype(np.float32)
    if not gram.any():
        return gram
    gram[np.diag_indices_from(gram)] += REGULARISATION * gram.trace() / len(gram)
    # BLAS adds up in another order with another number of threads, and the same day must give the same rows.
    with threadpool_limits(limits=1, user_api="blas"):
        factor, _ = spotrf(gram, lower=1, overwrite_a=1)
        inverse, _ = spotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def bm25(bought: sp.csr_array, neighbours: int = NEIGHBOURS_OF_BM25, threads: int = 2) -> sp.csr_array:
    """Item-item similarity of purchases weighted by Okapi BM25 (k1 = 100, b = .8; Robertson and Zaragoza 2009, equation 3.15).

    A customer is the document: long histories say less about each product, popular products less about taste. Cut to each
    product's nearest `neighbours`, and scaled to `BM25_OF_ITSELF`.
    """
    from sparse_dot_topn import sp_matmul_topn  # type: ignore[import-untyped]

    customers, products = bought.shape
    of_product = np.bincount(bought.indices, minlength=products)
    rarity = np.maximum(np.log(max(customers, 1)) - np.log1p(of_product), 0.0)
    length = np.asarray(bought.sum(axis=1)).ravel()
    norm = 100 * (0.2 + 0.8 * length / max(length.mean(), 1e-9))
    # Where it stands: ten million values take 80 MB each time.
    value, row = bought.data * 101, np.repeat(norm, np.diff(bought.indptr))
    row += bought.data
    value /= row
    value *= np.take(rarity, bought.indices, out=row)
    itself = np.bincount(bought.indices, np.square(value, out=row), products)
    del row
    weighted = sp.csr_matrix((value, bought.indices, bought.indptr), bought.shape)
    scale = BM25_OF_ITSELF / itself[itself > 0].mean() if itself.any() else 1.0
    nearest = sp_matmul_topn(weighted.T.tocsr(), weighted, top_n=neighbours + 1, threshold=0.0, n_threads=threads).tocoo()
    others = nearest.row != nearest.col
    return sp.csr_array((nearest.data[others] * scale, (nearest.row[others], nearest.col[others])), shape=(products, products))


def nearest(weights: NDArray[np.float32], neighbours: int = NEIGHBOURS_OF_EASE) -> sp.csr_array:
    """The `neighbours` strongest weights of each row, negative ones among them: they tell what does not follow."""
    products = len(weights)
    if products <= neighbours:
        return sp.csr_array(weights.astype(np.float64))
    columns = np.sort(np.argpartition(-np.abs(weights), neighbours - 1, axis=1)[:, :neighbours], axis=1)
    kept = np.take_along_axis(weights, columns, axis=1).astype(np.float64)
    found = sp.csr_array((kept.ravel(), columns.ravel(), np.arange(0, kept.size + 1, neighbours)), shape=(products, products))
    found.eliminate_zeros()
    return found


def trend(sold: Floats, sold_lately: Floats) -> Floats:
    """How a product sells of late beside its own past, 1 = as all products do on average.

    Args:
        sold: decayed sales of each product over the whole history.
        sold_lately: the same with a short half-life.
    """
    if not sold_lately.sum():
        return np.ones(len(sold))
    return (sold_lately * (sold.sum() / sold_lately.sum()) + TREND_SMOOTHING) / (sold + TREND_SMOOTHING)


@dataclass(frozen=True)
class Model:
    """What scores are made of: products x products, and what each product starts with, whoever the customer is."""

    similarity: sp.csr_array
    prior: Floats

    @classmethod
    def nothing(cls, products: int) -> Model:
        """The model that knows nothing: own history and popular products are left."""
        return cls(sp.csr_array((products, products)), np.zeros(products))


def candidates(bought: sp.csr_array, product_trend: Floats, with_ease: bool, threads: int = 2) -> dict[str, Model]:
    """The models that a night may choose from, by name, the usual winner first: of EASE or of BM25."""
    customers = bought.shape[0]
    share = np.asarray(bought.sum(axis=0)).ravel() / max(customers, 1)
    rising = share * product_trend
    if with_ease:
        name, weights = "EASE", ease(bought)
        plain, trended = nearest(weights), nearest(weights * product_trend.astype(np.float32))
    else:
        name, plain = "BM25", bm25(bought, threads=threads)
        trended = sp.csr_array((plain.data * product_trend[plain.indices], plain.indices, plain.indptr), plain.shape)
    return {
        f"{name} x trend + popular": Model(trended, _prior(rising)),
        f"{name} + popular": Model(plain, _prior(share)),
        name: Model(plain, np.zeros(len(share))),
    }


def _prior(share: Floats) -> Floats:
    """The weighed share of the most popular products, 0 for the others; ties: the smallest number."""
    prior = np.zeros(len(share))
    first = np.lexsort((np.arange(len(share)), -share))[:PRIOR_PRODUCTS]
    prior[first] = PRIOR * share[first]
    return prior
