"""Refits and their backtest: bookkeeping against brute force, no look into the future, candidates, the gate, and real data."""

import re
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from analytics_assets.retail.ltv import backtest, boosted_trees, forecast
from analytics_assets.retail.ltv.backtest import BOOSTED, MEAN, PROBABILISTIC, Refit, Trial, Windows, known_at, refit, summary_of
from analytics_assets.retail.ltv.forecast import CustomerSummary, NotEnoughHistory
from analytics_assets.retail.ltv.returns import probability_of_return, return_rates
from analytics_assets.retail.ltv.season import EVEN, MONTH_DAYS, Season
from analytics_assets_tests.benchmarks.ltv import ONLINE_RETAIL_2010

SCHEMA = {"customer_id": pl.String, "day": pl.Date, "purchase": pl.Boolean, "net_revenue": pl.Decimal(18, 2)}
FIRST = date(2025, 1, 1)


def frame(rows):
    return pl.DataFrame(rows, SCHEMA, orient="row").sort("customer_id", "day")


def random_purchases(customers=1500, days=200, seed=11):
    """Customers who join over time, buy at their own rates, leave, and return one in ten purchases two weeks later."""
    rng = np.random.default_rng(seed)
    rows = {}
    for number in range(customers):
        joined, rate = int(rng.integers(0, days)), rng.gamma(1.0, 1 / 15)
        left = joined + rng.exponential(150)
        spend = rng.gamma(4, 10)
        at = float(joined)
        while at < min(left, days):
            key = (f"c{number:04d}", int(at))
            amount = Decimal(f"{rng.gamma(5, spend / 5):.2f}") + 1
            bought, total = rows.get(key, (False, Decimal(0)))
            rows[key] = (True, total + amount)
            if rng.random() < 0.1:
                back = (key[0], int(at) + 14)
                bought, total = rows.get(back, (False, Decimal(0)))
                rows[back] = (bought, total - amount)
            at += max(rng.exponential(1 / rate), 1e-3)
    return frame([(who, FIRST + timedelta(days=day), bought, total) for (who, day), (bought, total) in rows.items()])


@pytest.fixture(scope="module")
def purchases():
    return random_purchases()


@pytest.fixture(scope="module")
def tested(purchases):
    return refit(purchases, FIRST + timedelta(days=180), 45, 0.8)


def test_what_is_known_and_what_came_true_are_those_of_brute_force(purchases):
    day, days = FIRST + timedelta(days=90), 30
    known = known_at(purchases, day)
    later = backtest.came_true(purchases, known, day, days)
    rows = purchases.rows()
    expected = []
    for who in sorted({who for who, at, bought, _ in rows if bought and at <= day}):
        own = [(at, bought, value) for name, at, bought, value in rows if name == who]
        bought_on = [at for at, bought, _ in own if bought and at <= day]
        window = [(bought, value) for at, bought, value in own if day < at <= day + timedelta(days=days)]
        expected.append((
            who,
            len(bought_on),
            (max(bought_on) - min(bought_on)).days,
            (day - min(bought_on)).days,
            sum((value for at, _, value in own if at <= day), Decimal(0)),
            sum(bought for bought, _ in window),
            float(sum((value for _, value in window), Decimal(0))),
        ))  # fmt: skip
    found = pl.concat([known, later], how="horizontal").rows()
    assert len(found) > 300
    assert [row[:6] for row in found] == [row[:6] for row in expected]
    assert [row[6] for row in found] == pytest.approx([row[6] for row in expected])


def test_a_customer_with_returns_only_is_not_known():
    rows = [("a", FIRST, True, Decimal(5)), ("b", FIRST, False, Decimal(-5)), ("c", FIRST + timedelta(days=1), True, Decimal(5))]
    assert known_at(frame(rows), FIRST)["customer_id"].to_list() == ["a"]


def test_the_clock_starts_at_the_end_of_the_first_day_and_the_last_purchase_lies_in_the_middle_of_its_day():
    """Bought on the 1st and the 3rd, on the 1st alone, on the 10th and the 20th (the day itself); in days of an even pace."""
    day = FIRST + timedelta(days=19)
    bought = [("a", 1), ("a", 3), ("b", 1), ("c", 10), ("c", 20)]
    known = known_at(frame([(who, FIRST + timedelta(days=on - 1), True, Decimal(5)) for who, on in bought]), day)
    found = summary_of(known, day)
    assert found.age_weeks * 7 == pytest.approx([19, 19, 10])
    assert found.recency_weeks * 7 == pytest.approx([1.5, 0, 9.5])


def test_on_the_clock_of_a_season_a_day_of_a_busy_month_counts_for_several():
    """December sells four times as much a day as January; bought on 30 December and 2 January, now it is the evening of the 4th."""
    sales = tuple(MONTH_DAYS * np.array([1] * 11 + [4]))
    january = 365.25 / sum(sales)
    day = date(2026, 1, 4)
    known = known_at(frame([("a", date(2025, 12, 30), True, Decimal(5)), ("a", date(2026, 1, 2), True, Decimal(5))]), day)
    found = summary_of(known, day, Season(sales))
    assert found.age_weeks * 7 == pytest.approx([(4 + 1 + 1 + 1 + 1) * january])
    assert found.recency_weeks * 7 == pytest.approx([(4 + 1 + 0.5) * january])


def test_cut_offs_are_those_whose_windows_have_ended_with_half_as_long_a_past():
    found = backtest.cut_offs(FIRST, FIRST + timedelta(days=269), 90)
    assert [(FIRST + timedelta(days=269) - cut_off).days for cut_off in found] == [210, 180, 150, 120, 90]


def test_last_years_same_season_is_among_the_cut_offs():
    anchor = FIRST + timedelta(days=800)
    assert anchor - timedelta(days=365) in backtest.cut_offs(FIRST, anchor, 60)
    assert anchor - timedelta(days=730) in backtest.cut_offs(FIRST, anchor, 60)


def test_the_first_test_is_the_plain_forecast_beside_what_came_true(purchases, tested):
    """No window had ended before it, so that the factor is 1 and there are no trees."""
    first = tested.tests[0]
    known = known_at(purchases, first.cut_off)
    summary = summary_of(known, first.cut_off)
    returns = probability_of_return(return_rates(purchases, first.cut_off), backtest.days_since_last(known), 45)
    said = forecast.forecast(forecast.fit(summary), summary, 45, coverage=0.8, returns=returns)
    actual = backtest.came_true(purchases, known, first.cut_off, 45)["revenue"].to_numpy()
    inside = (actual >= said.expected_revenue_low - 0.005) & (actual <= said.expected_revenue_high + 0.005)
    assert first == Trial(
        cut_off=first.cut_off,
        candidate=PROBABILISTIC,
        customers=len(known),
        factor=1.0,
        expected_revenue=pytest.approx(said.expected_revenue.sum()),
        actual_revenue=pytest.approx(actual.sum()),
        mae=pytest.approx(np.abs(actual - said.expected_revenue).mean()),
        mae_of_equal_shares=pytest.approx(np.abs(actual - said.expected_revenue.mean()).mean()),
        coverage=pytest.approx(inside.mean()),
        stated=pytest.approx(said.interval_probability.mean()),
    )
    assert [test.candidate for test in tested.tests if test.cut_off == first.cut_off] == [PROBABILISTIC]


def test_later_tests_have_all_candidates_with_one_total(tested):
    newest = [test for test in tested.tests if test.cut_off == tested.tests[-1].cut_off]
    assert [test.candidate for test in newest] == [PROBABILISTIC, BOOSTED, MEAN]
    assert len({round(test.expected_revenue, 4) for test in newest}) == 1
    assert len({test.mae for test in newest}) == 3


def test_nothing_after_a_cut_off_changes_what_its_test_says(purchases, tested):
    """Labels end before the cut-off that they are learned for: the future is made ten times as large, cut-off by cut-off."""
    by_cut_off = {}
    for test in tested.tests:
        by_cut_off.setdefault(test.cut_off, []).append(test)
    assert len(by_cut_off) >= 4
    for cut_off, before in by_cut_off.items():
        later = pl.col("day") > cut_off
        inflated = purchases.with_columns(
            pl.when(later)
            .then(pl.col("net_revenue") * 10)
            .otherwise(pl.col("net_revenue"))
            .cast(pl.Decimal(18, 2))
            .alias("net_revenue")
        )
        after = [test for test in refit(inflated, tested.anchor, 45, 0.8).tests if test.cut_off == cut_off]
        assert [(t.candidate, t.factor, t.expected_revenue) for t in after] == [
            (t.candidate, t.factor, t.expected_revenue) for t in before
        ]
        assert [t.actual_revenue for t in after] == pytest.approx([10 * t.actual_revenue for t in before])


def test_nothing_after_the_anchor_changes_a_refit(purchases, tested):
    known = purchases.filter(pl.col("day") <= tested.anchor)
    again = refit(known, tested.anchor, 45, 0.8)
    assert len(known) < len(purchases)
    assert replace(again, trees=None) == replace(tested, trees=None)


def test_the_order_of_the_rows_changes_nothing(purchases, tested):
    shuffled = purchases.sample(fraction=1.0, shuffle=True, seed=5)
    assert replace(refit(shuffled, tested.anchor, 45, 0.8), trees=None) == replace(tested, trees=None)


def test_a_horizon_beyond_the_history_is_tested_on_a_third_of_it_and_said_so(purchases):
    found = refit(purchases, FIRST + timedelta(days=119), 365, 0.8)
    assert found.tested_days == 40
    assert found.reason.endswith("not enough history to backtest 365 days; tested on 40 days")


def test_a_horizon_of_a_week_is_tested_on_a_week(purchases):
    found = refit(purchases, FIRST + timedelta(days=179), 7, 0.8)
    assert found.tested_days == 7
    assert len(found.tests) >= 6


def test_a_long_history_whose_customers_came_late_is_told_so_and_not_that_days_lack(purchases):
    late = purchases.filter(pl.col("day") >= FIRST + timedelta(days=170))
    first = late.head(1).with_columns(day=pl.lit(FIRST), customer_id=pl.lit("the first of all"))
    found = refit(
        pl.concat([first, late], how="vertical_relaxed").sort("customer_id", "day"), FIRST + timedelta(days=199), 30, 0.8
    )
    assert found.reason == "not enough history to backtest: at earlier days too few customers had bought"


def test_a_history_of_weeks_is_fitted_but_not_tested_nor_accepted(purchases):
    found = refit(purchases, FIRST + timedelta(days=40), 365, 0.8)
    assert (found.tests, found.accepted, found.candidate) == ((), False, PROBABILISTIC)
    assert found.reason == "not enough history to backtest: 41 days, and 365 to forecast"
    known = known_at(purchases, FIRST + timedelta(days=45))
    _, factors = backtest.scored(found, known, FIRST + timedelta(days=45), 365, 0.0, 0.8)
    assert factors.revenue.value == factors.orders.value == 1


def test_the_forecast_of_a_day_is_scaled_as_a_whole(purchases, tested):
    day = tested.anchor + timedelta(days=9)
    known = known_at(purchases, day)
    raw = forecast.forecast(tested.model, summary_of(known, day), 45, 0.0, 0.8)
    found, factors = backtest.scored(tested, known, day, 45, 0.0, 0.8)
    assert factors.revenue.value != 1
    assert found.expected_revenue.sum() == pytest.approx(raw.expected_revenue.sum() * factors.revenue.value)
    assert found.expected_orders == pytest.approx(raw.expected_orders * factors.orders.value)
    returns = probability_of_return(return_rates(purchases, tested.anchor), backtest.days_since_last(known), 45)
    busy = forecast.forecast(
        tested.model, summary_of(known, day), 45, 0.0, 0.8, orders_factor=factors.orders.value, returns=returns
    )
    assert found.interval_probability == pytest.approx(busy.interval_probability)
    assert factors.buyers.value > factors.revenue.value
    by_trees = found.expected_revenue / busy.expected_revenue / (factors.revenue.value / factors.orders.value)
    ratio = by_trees * factors.buyers.value / factors.orders.value
    assert found.expected_revenue_high == pytest.approx(busy.expected_revenue_high * ratio)


def test_who_bought_every_day_and_is_silent_for_years_is_expected_to_bring_nothing(purchases, tested):
    """That they are still there is less likely than the smallest number says; 0 over 0 had no interval."""
    gone = known_at(purchases, tested.anchor).head(1).with_columns(purchase_days=900, recency_days=900, age_days=3000)
    assert tested.candidate != PROBABILISTIC
    said, _ = backtest.scored(tested, gone, tested.anchor + timedelta(days=5), 45, 0.0, 0.8)
    assert [column.tolist() for column in (said.expected_revenue, said.expected_revenue_low, said.expected_revenue_high)] == [
        [0]
    ] * 3
    assert said.interval_probability.tolist() == [1]


def a_test(cut_off=FIRST, candidate=PROBABILISTIC, expected=100.0, actual=100.0, mae=1.0, equal=2.0):
    return Trial(cut_off, candidate, 10, 1.0, expected, actual, mae, equal, 0.8, 0.8)


def test_the_smallest_error_wins_over_the_cut_offs_that_all_were_tested_at():
    later = FIRST + timedelta(days=30)
    tests = [a_test(mae=0.1), a_test(later, mae=2.0), a_test(later, BOOSTED, mae=1.5), a_test(later, MEAN, mae=1.8)]
    assert backtest.winner(tests) == BOOSTED
    assert backtest.winner(tests[:1]) == PROBABILISTIC


def test_a_lead_of_less_than_half_a_percent_is_a_tie_and_goes_to_the_simplest():
    tests = [a_test(mae=1.0), a_test(candidate=BOOSTED, mae=0.996), a_test(candidate=MEAN, mae=0.998)]
    assert backtest.winner(tests) == PROBABILISTIC
    assert backtest.winner([*tests[:2], a_test(candidate=MEAN, mae=0.9)]) == MEAN


@pytest.mark.parametrize(
    ("tests", "accepted", "reason"),
    [
        (
            [a_test(expected=124), a_test(expected=124)],
            True,
            "total [+]24%, error 1.00 per customer .equal shares: 2.00., 2 cut-offs",
        ),
        ([a_test(expected=160), a_test(expected=60)], True, "total [+]10%"),
        ([a_test(expected=126)], False, "off by more than 25%: total [+]26%"),
        ([a_test(expected=74)], False, "off by more than 25%: total -26%"),
        ([a_test(mae=2.0)], False, "no better than giving every customer the same"),
        ([a_test(actual=0.0)], False, "nothing was bought"),
    ],
)
def test_the_gate_lets_pass_what_is_within_a_quarter_and_better_than_equal_shares(tests, accepted, reason):
    found = backtest.verdict(tests)
    assert found[0] is accepted
    assert re.search(reason, found[1])


def serve(day, outcomes, untested=()):
    """Serve a day where each anchor's refit is accepted, is not, could not be tested, or (absent) cannot be fitted."""
    asked = []

    def refit_at(anchor):
        asked.append(anchor)
        if anchor not in outcomes:
            raise NotEnoughHistory("too early")
        tests = () if anchor in untested else (a_test(),)
        return Refit(anchor, EVEN, None, (), PROBABILISTIC, None, Windows(), 0, tests, outcomes[anchor], "")

    return backtest.serving(day, refit_at), asked


JULY, JUNE, MAY, APRIL = (date(2026, month, 1) for month in (7, 6, 5, 4))


def test_the_newest_refit_serves_if_it_passed_and_no_older_one_is_looked_at():
    served, asked = serve(date(2026, 7, 31), {JULY: True, JUNE: True})
    assert (served.refit.anchor, asked) == (JULY, [JULY])


def test_an_anchor_serves_its_own_day():
    assert serve(JULY, {JULY: True})[0].refit.anchor == JULY


def test_a_failed_refit_is_passed_over_for_the_newest_that_passed():
    served, _ = serve(date(2026, 7, 15), {JULY: False, JUNE: False, MAY: True, APRIL: True})
    assert served.refit.anchor == MAY
    assert [found.anchor for found in served.examined] == [JULY, JUNE, MAY]


def test_where_none_of_three_passed_the_newest_serves_and_is_not_accepted():
    served, asked = serve(date(2026, 7, 15), {JULY: False, JUNE: False, MAY: False, APRIL: True})
    assert (served.refit.anchor, served.refit.accepted, asked) == (JULY, False, [JULY, JUNE, MAY])


def test_in_its_first_weeks_a_shop_is_its_own_anchor():
    day = date(2026, 7, 15)
    assert serve(day, {day: False})[0].refit.anchor == day
    with pytest.raises(NotEnoughHistory):
        serve(day, {})


def test_while_no_refit_of_a_months_start_can_be_tested_mondays_are_anchors():
    """Its history doubles within the month: what was fitted on the first is worse than what could be fitted this week."""
    wednesday, monday = date(2026, 7, 15), date(2026, 7, 13)
    served, _ = serve(wednesday, {monday: False, JULY: False, JUNE: False}, untested=(JULY, JUNE))
    assert served.refit.anchor == monday
    served, _ = serve(wednesday, {monday: False, JULY: False, JUNE: False}, untested=(JUNE,))
    assert served.refit.anchor == JULY
    served, _ = serve(date(2026, 7, 4), {JULY: False}, untested=(JULY,))
    assert served.refit.anchor == JULY


def test_trees_find_who_was_misjudged_and_keep_the_total():
    """Frequent buyers bring twice, all others half of what was expected; the level of the lesson itself is not learned."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 12, 6000).astype(float)
    known = CustomerSummary(x, np.where(x > 0, 5.0, 0.0), np.full(6000, 20.0), x + 1, np.full(6000, 30.0))
    expected = 10.0 + 5 * x
    truth = expected * np.where(x >= 6, 2.0, 0.5)
    actual = 3 * truth * rng.gamma(1.0, 1.0, 6000)
    trees = boosted_trees.learn([boosted_trees.Lesson(known, expected, actual)])
    found = expected * boosted_trees.corrections(trees, known, expected)
    assert found.sum() == pytest.approx(expected.sum())
    ratio = found / (truth * expected.sum() / truth.sum())
    assert ratio[x >= 6].mean() == pytest.approx(1, abs=0.1)
    assert ratio[x < 6].mean() == pytest.approx(1, abs=0.2)


def test_there_are_no_trees_without_anything_to_learn_from():
    """Nothing came in; or of so many customers that every third is learned from, one brought something, and is not among them."""
    for customers, revenue in ((5, 0.0), (25_000, 9.0)):
        known = CustomerSummary(np.zeros(customers), np.zeros(customers), *(np.ones(customers) for _ in range(3)))
        actual = np.where(np.arange(customers) == 1, revenue, 0.0)
        assert boosted_trees.learn([boosted_trees.Lesson(known, np.ones(customers), actual)]) is None
    assert boosted_trees.learn([]) is None


def published_as_of(purchases, day, horizon, season=EVEN):
    """Mean absolute error, bias and candidate of what a day's forecast would have been."""
    served = backtest.serving(day, lambda anchor: refit(purchases, anchor, horizon, 0.8, season))
    known = known_at(purchases, day)
    found, _ = backtest.scored(served.refit, known, day, horizon, 0.0, 0.8)
    actual = backtest.came_true(purchases, known, day, horizon)["revenue"].to_numpy()
    return np.abs(actual - found.expected_revenue).mean(), found.expected_revenue.sum() / actual.sum() - 1, served.refit.candidate


def test_cdnow_half_a_year_ahead_is_as_good_as_the_best_model_known(cdnow_purchases):
    """In its error, known to a tenth, and in its total, which was 6 % too low."""
    error, bias, candidate = published_as_of(cdnow_purchases, date(1997, 12, 31), 182)
    assert round(error, 1) <= 20.7
    assert abs(bias) <= 0.06
    assert candidate == PROBABILISTIC


def test_online_retail_before_its_first_christmas_is_better_than_the_best_model_known(online_retail_purchases):
    """Per customer; the total is two fifths too low, since nothing that had happened by then says that Christmas is coming."""
    error, _, candidate = published_as_of(online_retail_purchases, date(2011, 9, 10), 90)
    assert error <= 638.5
    assert candidate == BOOSTED


def test_online_retail_is_within_ten_percent_of_its_first_christmas_if_the_owner_tells_last_years_sales(online_retail_purchases):
    """The sales of 2010 are over nine months before the day."""
    _, bias, _ = published_as_of(online_retail_purchases, date(2011, 9, 10), 90, ONLINE_RETAIL_2010)
    assert abs(bias) <= 0.10
