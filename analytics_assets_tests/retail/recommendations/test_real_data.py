"""What the lists are worth on real purchases that no constant was chosen on, and on a simulated shop with planted tastes.

Differences below .01 are within the noise of these data sets.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.recommendations.assets import YARDSTICK
from analytics_assets.retail.recommendations.evaluation import quality
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets_tests.benchmarks.recommendations import measured, movielens, movielens_path, online_retail

ONLINE_RETAIL = Path(__file__).resolve().parents[4] / "shared" / "data" / "online_retail.parquet"


@pytest.mark.skipif(not ONLINE_RETAIL.exists(), reason="Online Retail is not beside the project")
def test_online_retail_is_foreseen_better_than_by_anything_that_was_tried_elsewhere():
    new_items, repeats = online_retail(ONLINE_RETAIL)
    for found in (new_items, repeats):
        assert found.customers > 400
        assert found.recall_at_20 > found.recall_to_beat
        assert found.ndcg_at_10 > found.ndcg_to_beat


@pytest.mark.skipif(not movielens_path(), reason="MovieLens 100K comes with the package recbole, which is not installed")
def test_movielens_is_foreseen_as_well_as_by_the_best_that_was_tried_elsewhere():
    found = movielens(movielens_path())
    assert found.customers == 943
    assert found.recall_at_20 > found.recall_to_beat - 0.01
    assert found.ndcg_at_10 > found.ndcg_to_beat - 0.01


def test_planted_tastes_are_found_half_the_way_to_lists_that_were_told_of_them():
    shop = Retailer(customers=8_000, products=400, taste=0.9, popularity=0.6, seed=7)
    company = simulate(shop)
    bought = company.items.join(company.transactions.with_row_index("transaction"), on="transaction")
    bought = bought.filter(~pl.col("refund") & (pl.col("identity") < shop.customers)).select(
        customer="identity", product="product", age=(shop.days - 1) - pl.col("day")
    )
    before, after = bought.filter(pl.col("age") >= 14).with_columns(age=pl.col("age") - 14), bought.filter(pl.col("age") < 14)
    found = measured(before, after, "discover")
    recall = dict(found.select("model", "recall_at_20").iter_rows())

    had = {customer: set(products) for customer, products in before.group_by("customer").agg("product").iter_rows()}
    new: dict[int, set[int]] = {}
    for customer, product in after.select("customer", "product").iter_rows():
        if product not in had.get(customer, {product}):
            new.setdefault(customer, set()).add(product)
    collection = company.catalogue["collection"].to_numpy()
    favourite = company.customers["favourite_collection"].to_list()
    sold = np.bincount(before["product"], minlength=shop.products)
    told = {}
    for customer in new:
        inside = np.where(collection == favourite[customer], sold, 0)
        score = shop.taste * inside / inside.sum() + (1 - shop.taste) * sold / sold.sum()
        told[customer] = [product for product in np.argsort(-score, kind="stable").tolist() if product not in had[customer]]
    best = quality(told, new, shop.products)
    assert best.customers == found["customers"][0] > 400
    assert recall[YARDSTICK] < best.recall_at_20 - 0.05
    assert recall["EASE + popular"] > (recall[YARDSTICK] + best.recall_at_20) / 2
