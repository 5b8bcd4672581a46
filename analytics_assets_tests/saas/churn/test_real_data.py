"""The models on data that others have measured: at least what any library or model tried here has reached (AUC)."""

from importlib.util import find_spec

import numpy as np
import pytest

from analytics_assets_tests.benchmarks import churn


def test_telco():
    if not churn.TELCO.exists():
        pytest.skip("the Telco data are not here: they lie in the folder shared beside the project")
    auc, brier, _ = churn.telco()
    assert auc > 0.8465
    assert brier < 0.1346


def test_online_retail():
    if not churn.ONLINE_RETAIL.exists():
        pytest.skip("the Online Retail data are not here: they lie in the folder shared beside the project")
    assert np.mean([tested[1] for tested in churn.rolling(churn.online_retail_purchases())]) > 0.7485


def test_cdnow():
    if find_spec("lifetimes") is None:
        pytest.skip("the CDNOW data come with the package lifetimes, which is not installed")
    tested = churn.rolling(churn.cdnow_purchases())
    assert np.mean([day[1] for day in tested]) > 0.7075
    # Those who have not bought for long are easily told: the harder half, too.
    assert np.mean([day[3] for day in tested]) > 0.7075
