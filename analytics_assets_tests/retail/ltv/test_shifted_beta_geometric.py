"""sBG against Fader and Hardie (2007), and customers who renew, or do not, period by period."""

import numpy as np
import pytest

from analytics_assets.retail.ltv import shifted_beta_geometric as sbg

HIGH_END = [1000, 869, 743, 653, 593, 551, 517, 491]


def test_high_end_cohort_is_the_published_one():
    fitted = sbg.fit(HIGH_END)
    assert (round(fitted.alpha, 3), round(fitted.beta, 3)) == (0.668, 3.806)
    assert round(fitted.log_likelihood, 1) == -1611.2


def test_the_next_five_years_are_the_published_ones():
    assert sbg.survival(sbg.fit(HIGH_END), range(8, 13)).round(3).tolist() == [0.460, 0.436, 0.414, 0.395, 0.378]


def test_survival_is_the_product_of_the_retentions():
    fitted = sbg.fit(HIGH_END)
    assert np.cumprod(sbg.retention(fitted, np.arange(1, 9))) == pytest.approx(sbg.survival(fitted, np.arange(1, 9)))
    assert sbg.survival(fitted, 0)[0] == 1


def test_parameters_are_recovered_from_simulated_customers():
    rng = np.random.default_rng(7)
    last = rng.geometric(rng.beta(1.5, 6.0, 200_000))
    fitted = sbg.fit([np.count_nonzero(last > t) for t in range(9)])
    assert [fitted.alpha, fitted.beta] == pytest.approx([1.5, 6.0], rel=0.05)


def test_one_rate_for_all_is_found_though_alpha_and_beta_run_off():
    fitted = sbg.fit([10_000 * 0.8**t for t in range(6)])
    assert sbg.retention(fitted, [1, 10]) == pytest.approx([0.8, 0.8], abs=0.001)


@pytest.mark.parametrize("sizes", [[100], [100, 101], [0, 0], [100, 100], [100, np.nan], [100, 50, -1]])
def test_impossible_cohorts_are_refused(sizes):
    with pytest.raises(ValueError, match="cohort"):
        sbg.fit(sizes)


def test_the_top_of_a_flat_ridge_is_found_whatever_the_rounding():
    lost, still_there = np.array([18, 15, 12, 3, 0]), np.array([8, 16, 7, 111, 4, 0])
    fitted = sbg.fit_contracts(lost, still_there)
    # The same contracts, summed in numbers that round otherwise.
    again = sbg.fit_contracts(lost * 0.1, still_there * 0.1)
    assert (again.alpha, again.beta) == (fitted.alpha, fitted.beta)
    assert fitted.log_likelihood > -155.511
