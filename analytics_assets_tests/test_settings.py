"""What a person reads who made a mistake in `analytics.toml`, and what a change of it invalidates."""

import re
from datetime import date

import pytest

from analytics_assets.settings import Health, Settings, SettingsError, load_health, load_settings, parse_settings

GOOD = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\n'


def mistake(text: str) -> str:
    with pytest.raises(SettingsError) as error:
        parse_settings(text, "shop.toml")
    return str(error.value)


def test_the_smallest_file_is_enough() -> None:
    settings = parse_settings(GOOD, "shop.toml")
    assert settings.business.zone.key == "Europe/London"
    assert "purchased" in settings.events.purchase
    assert settings.business.first_day is None


def test_a_misspelt_setting_is_named_with_line_and_near_and_allowed_names() -> None:
    message = mistake(GOOD + '\n[events]\n# a comment\npurchse = ["bought"]\n')
    assert message.startswith("shop.toml:7:")
    assert "'events.purchse'" in message
    assert "Did you mean 'purchase'?" in message
    assert "Allowed here: purchase, refund." in message


def test_a_misspelt_table_is_named_with_line_and_near_and_allowed_names() -> None:
    message = mistake(GOOD + '[propertys]\nrevenue = ["total"]\n')
    assert message.startswith("shop.toml:4:")
    assert "Did you mean 'properties'?" in message
    assert (
        "Allowed here: accounts, activation, affinity, alerts, business, churn, customers, events, exports, health, identity, items, ltv, "
        "operations, properties, recommendations, segments, subscriptions, training_sets." in message
    )


def test_a_misspelt_required_key_is_told_twice_as_unknown_and_as_missing() -> None:
    message = mistake('[business]\ntimezone = "Europe/London"\ncurrency = "GBP"\n')
    assert "shop.toml:2: there is no setting 'business.timezone'. Did you mean 'time_zone'?" in message
    assert "shop.toml:1: 'business.time_zone' is missing, for example time_zone = \"Europe/London\"" in message


def test_every_mistake_is_told_at_once() -> None:
    message = mistake('[business]\ntime_zone = "Mars/Base"\ncurrency = "pounds"\n[items]\nwindow_minutes = 0\n')
    assert [line.split(":")[1] for line in message.splitlines()] == ["2", "3", "5"]


@pytest.mark.parametrize("written", ["true", '"30"'])
def test_true_and_a_number_in_quotes_are_no_number(written: str) -> None:
    weights = f"[health.weights]\nactive_users = {written}\nevents = 49\nfeatures = 20\nrecency = 15\nseats = 15\n"
    assert "shop.toml:5: health.weights.active_users: should be a number (found" in mistake(GOOD + weights)
    assert "shop.toml:5: items.window_minutes: should be a whole number (found" in mistake(
        GOOD + f"[items]\nwindow_minutes = {written}\n"
    )


def test_a_zone_whose_clocks_change_by_half_an_hour_is_refused_and_one_that_lies_half_an_hour_apart_is_not() -> None:
    message = mistake('[business]\ntime_zone = "Australia/Lord_Howe"\ncurrency = "AUD"\n')
    assert "shop.toml:2: business.time_zone: 'Australia/Lord_Howe' changes its clocks by half an hour" in message
    for name in ("Australia/Adelaide", "Asia/Kolkata"):
        assert parse_settings(f'[business]\ntime_zone = "{name}"\ncurrency = "AUD"\n', "shop.toml").business.time_zone == name


def test_a_health_of_its_own_is_read_from_a_file_with_nothing_else_or_with_whatever_else(tmp_path) -> None:
    file = tmp_path / "other.toml"
    for text in ("[health]\nhealthy = 75\n", GOOD.replace("London", "Nowhere") + "[health]\nhealthy = 75\n"):
        file.write_text(text)
        assert load_health(file) == Health(healthy=75)
    for text, told in (
        (GOOD, "other.toml:1: 'health' is missing, for example [health.weights] with five weights that sum to 100"),
        ("[health]\nhealty = 75\n", "other.toml:2: there is no setting 'health.healty'. Did you mean 'healthy'?"),
        ("[health.weights]\nseats = nan\n", "other.toml:2: health.weights.seats: should be a number (found nan)."),
    ):
        file.write_text(text)
        with pytest.raises(SettingsError, match=re.escape(told)):
            load_health(file)
    with pytest.raises(SettingsError, match="there is no such file. Write one with a table \\[health\\]"):
        load_health(tmp_path / "none.toml")


def test_an_unknown_time_zone_comes_with_suggestions() -> None:
    message = mistake(GOOD.replace("Europe/London", "Europe/Londn"))
    assert message.startswith("shop.toml:2:")
    assert "did you mean" in message and "Europe/London" in message.split("did you mean")[1]


@pytest.mark.parametrize("currency", ["gbp", "£", "POUND", ""])
def test_a_currency_that_is_no_code_is_refused_with_its_line(currency: str) -> None:
    message = mistake(GOOD.replace("GBP", currency))
    assert message.startswith("shop.toml:3: business.currency")
    assert repr(currency) in message


@pytest.mark.parametrize(
    "season",
    [
        *("[1, 2, 3]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]"),
        *("[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, inf]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, nan]"),
        *("'summer'", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 'busy']", "7", "[]"),
    ],
)
def test_a_season_that_is_not_twelve_sales_above_zero_is_refused_with_its_line(season: str) -> None:
    message = mistake(GOOD + f"[ltv]\nhorizon_days = 90\nseason = {season}\n")
    assert message.startswith("shop.toml:6: ltv.season: should be twelve sales above 0, those of an ordinary January")


def test_a_season_may_stand_on_several_lines_in_any_unit() -> None:
    sales = parse_settings(
        GOOD + "[ltv]\nseason = [\n 624_033, 533_091.5, 3, 4, 5, 6,\n 7, 8, 9, 10, 11, 12\n]\n", "x"
    ).ltv.season
    assert sales is not None and sales[:2] == (624033.0, 533091.5) and len(sales) == 12


def test_the_last_day_may_not_come_before_the_first() -> None:
    message = mistake(GOOD + "first_day = 2011-11-02\nlast_day = 2011-11-01\n")
    assert message.startswith("shop.toml:1: business")
    assert "last_day (2011-11-01) is before first_day (2011-11-02)" in message
    assert parse_settings(GOOD + "first_day = 2011-11-01\nlast_day = 2011-11-01\n", "shop.toml")


def test_days_are_toml_dates_or_text_and_an_empty_text_is_none() -> None:
    as_date = parse_settings(GOOD + "first_day = 2011-10-29\n", "shop.toml").business
    as_text = parse_settings(GOOD + 'first_day = "2011-10-29"\nlast_day = ""\n', "shop.toml").business
    assert as_date.first_day == as_text.first_day == date(2011, 10, 29)
    assert as_text.last_day is None


def test_a_day_that_is_none_is_refused_with_its_line() -> None:
    assert mistake(GOOD + 'first_day = "29 October"\n').startswith("shop.toml:4: business.first_day")


def test_a_file_without_business_shows_what_to_write() -> None:
    message = mistake("[events]\n")
    assert "'business' is missing" in message
    assert 'time_zone = "Europe/London"' in message and 'currency = "GBP"' in message


def test_text_that_is_no_toml_is_told_with_its_place() -> None:
    message = mistake("[business]\ntime_zone = Europe/London\n")
    assert message.startswith("shop.toml: not valid TOML") and "line 2" in message


def test_a_file_that_is_not_there_or_no_text_is_a_settings_error(tmp_path) -> None:
    with pytest.raises(SettingsError, match="there is no settings file.*ANALYTICS_CONFIG"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="binary.toml: cannot be read as UTF-8"):
        load_settings(tmp_path / "binary.toml")


def test_the_environment_names_the_file(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.toml").write_text(GOOD.replace("GBP", "EUR"))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(tmp_path / "mine.toml"))
    assert load_settings().business.currency == "EUR"


def test_names_are_compared_without_letter_case_and_stray_spaces_and_one_name_needs_no_list() -> None:
    settings = parse_settings(
        GOOD + '[events]\npurchase = " Placed  ORDER "\n[properties]\nrevenue = ["Total", "GROSS"]\n', "shop.toml"
    )
    assert settings.events.purchase == ("placed order",)
    assert settings.properties.revenue == ("total", "gross")


def test_an_empty_name_is_refused() -> None:
    assert mistake(GOOD + '[events]\npurchase = ["purchased", ""]\n').startswith("shop.toml:5: events.purchase")


def test_a_pattern_that_is_none_is_refused() -> None:
    assert "is no regular expression" in mistake(GOOD + '[identity]\nanonymous_pattern = "["\n')


def test_the_fingerprint_changes_with_the_named_settings_and_no_others() -> None:
    def of(text: str, *names: str) -> str:
        return parse_settings(GOOD + text, "shop.toml").fingerprint(*names)

    longer = "[items]\nwindow_minutes = 90\n"
    assert of("", "items") != of(longer, "items")
    assert of("", "items", "events") == of("", "events", "items")
    assert of("", "events", "business.currency", "ltv") == of(longer, "events", "business.currency", "ltv")
    assert of("", "business.currency") != parse_settings(GOOD.replace("GBP", "EUR"), "x").fingerprint("business.currency")
    assert of("", "business.currency") == of("first_day = 2011-10-29\n", "business.currency")


def test_equal_settings_have_equal_fingerprints_however_they_are_written() -> None:
    assert Settings.model_validate({"business": {"time_zone": "Europe/London", "currency": "GBP"}}).fingerprint(
        "business", "events"
    ) == parse_settings(
        GOOD + '[events]\npurchase=["Purchased", "completed order","order completed","checkout complete","billed"]', "x"
    ).fingerprint("events", "business")


def test_a_mistake_in_one_of_several_rules_is_told_with_its_own_line() -> None:
    good, bad = '[[segments.rules]]\nname = "All"\nr = [1, 5]\n', '[[segments.rules]]\nname = "None"\nr = [5, 1]\n'
    assert mistake(GOOD + good + bad).startswith("shop.toml:7: segments.rules: r = [5, 1] holds no score")
    assert mistake(GOOD + good + bad.replace("[5, 1]", "[0, 5]")).startswith("shop.toml:9: segments.rules.r:")


def test_rules_that_leave_a_customer_without_a_segment_are_refused() -> None:
    message = mistake(GOOD + '[[segments.rules]]\nname = "Best"\nr = [5, 5]\n')
    assert "no rule holds r = 1, f = 1, m = 1; end with a rule that holds everyone" in message
    assert "(found" not in message


def test_every_trait_that_some_setting_names_is_kept_once() -> None:
    settings = parse_settings(GOOD + '[customers]\ncohorts = ["Country", "newsletter"]\nemail = "mail"\n', "shop.toml")
    assert settings.customers.traits == ("country", "newsletter", "mail", "email consent", "subscribed", "accepts marketing")


def test_a_cohort_by_the_property_whose_name_the_built_in_one_has_is_refused() -> None:
    message = mistake(GOOD + '[customers]\ncohorts = ["First Order Month"]\n')
    assert message.startswith("shop.toml:5: customers.cohorts: 'first order month' is the cohort that is always made")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '[identity]\nblocked = "guest"\n',
            'blocked: should be a list, such as ["one", "another"]',
        ),
        (
            '[[segments.rules]]\nname = "All"\nr = [4]\n',
            "rules.r: should be lowest and highest score, such as [4, 5] (found [4])",
        ),
        (
            '[[training_sets]]\nname = "a"\nsubjects = "accounts"\nevents = []\nhorizon_days = 30\n',
            'events: is empty: should name one at least, such as events = ["one"] (found [])',
        ),
        ("[churn]\naccount_horizon_days = 3\n", "account_horizon_days: should be 7 or more (found 3)"),
        ("[churn]\naccount_horizon_days = 9.5\n", "account_horizon_days: should be a whole number (found 9.5)"),
        ("[health]\nhealthy = 120\n", "healthy: should be less than 100 (found 120)"),
        ('[accounts]\nare = "groups"\n', "are: should be 'named' or 'people' (found 'groups')"),
        ("[health]\nweights = 3\n", "weights: should be a table: its settings stand below a line [health.weights] (found 3)"),
        ("[[training_sets]]\n", "'training_sets.subjects' is missing, for example subjects = \"accounts\""),
        ("[[segments.rules]]\nr = [1, 2]\n", "'segments.rules.name' is missing, for example name = …"),
        ('[training_sets]\nname = "a"\n', "training_sets: should be tables, each under [[training_sets]]"),
        ('[activation]\ncampaign = "Big Sale"\n', "campaign: should be lower-case letters, digits, - and _ (found 'Big Sale')"),
    ],
)
def test_what_a_setting_should_look_like_is_said_in_words(text: str, says: str) -> None:
    assert says in mistake(GOOD + text)


def test_a_wrong_entry_does_not_make_its_list_too_short() -> None:
    found = mistake(GOOD + '[[alerts.routes]]\nurls = "URLS"\nseverities = ["warn"]\n')
    assert found == "shop.toml:6: alerts.routes.severities: should be 'warning' or 'error' (found 'warn')."


def test_two_training_sets_of_one_name_are_refused() -> None:
    one = '[[training_sets]]\nname = "ups"\nsubjects = "accounts"\nevents = ["subscription upgraded"]\nhorizon_days = 30\n'
    assert parse_settings(GOOD + one, "x").training_sets[0].name == "ups"
    assert "training_sets: two are called ups" in mistake(GOOD + one + one)
