"""The benchmark's shop is one that the assets of today can read, and a night of it is measured whole."""

from pathlib import Path

from analytics_assets_tests.benchmarks import suite
from analytics_assets_tests.benchmarks.__main__ import NIGHT
from analytics_assets_tests.benchmarks.big_shop import BigShop


def test_a_night_of_a_small_big_shop_is_measured_asset_by_asset(tmp_path: Path):
    shop = BigShop(customers=300, products=60, lines=1_500, days=100)
    *rows, whole = suite.measure(shop, NIGHT, [shop.last_day], tmp_path, 1.3)
    names = [(row if isinstance(row, str) else row.what).partition(":")[0] for row in rows]
    assert names == 2 * [compute.__name__ for compute in NIGHT]
    assert whole.ours_seconds > 0
    assert whole.other_seconds > 0
