"""What the business calls things: `analytics.toml`, read once, checked, and every mistake named with its line.

The defaults read the naming conventions of KISSmetrics shops and of exports that came in through Segment, so that most
shops set only `[business]`. Where the data lies is the business of `home.py`.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from analytics_assets.settings_mistakes import explain

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class SettingsError(Exception):
    """A setting is missing, misspelt or out of range; the message names file, line and the allowed values."""


def normalised(name: str) -> str:
    """A name as names are compared: letter case and the number of spaces aside."""
    return " ".join(name.lower().split())


def _normalised_names(value: Any) -> Any:
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list):
        return tuple(normalised(name) if isinstance(name, str) else name for name in names)
    return names


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_normalised_names)]
# Pydantic would take true for 1 and "30" for 30.
Number = Annotated[float, Field(strict=True)]
Count = Annotated[int, Field(strict=True)]
OptionalDay = Annotated[date | None, BeforeValidator(_empty_is_none)]
OptionalTime = Annotated[time | None, BeforeValidator(_empty_is_none)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Business(_Table):
    """The business's clock and money.

    `first_day` and `last_day` bound the partitions. Without `first_day` the first load takes it from the export; without
    `last_day` the business is live and the clock on the wall decides which hours are over. Of what lies before `first_day` count
    aliases and refusals alone: customers, contracts, seats and members of accounts are known from what is told since.
    """

    time_zone: str
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="an ISO 4217 code such as EUR")]
    first_day: OptionalDay = None
    last_day: OptionalDay = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in available_timezones():
            near = difflib.get_close_matches(name, available_timezones(), n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(f"{name!r} is no IANA time zone such as 'Europe/London' or 'America/New_York'{hint}")
        zone, year = ZoneInfo(name), datetime.now(UTC).year
        january, july = (datetime(year, month, 1, tzinfo=zone).utcoffset() or timedelta() for month in (1, 7))
        if (january - july) % timedelta(hours=1):
            raise ValueError(f"{name!r} changes its clocks by half an hour, so that its hours overlap; name a neighbouring zone")
        return name

    @model_validator(mode="after")
    def _days_in_order(self) -> Business:
        if self.first_day and self.last_day and self.last_day < self.first_day:
            raise ValueError(f"last_day ({self.last_day}) is before first_day ({self.first_day})")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The business's time zone."""
        return ZoneInfo(self.time_zone)


class Events(_Table):
    """Which events mean money. Names are compared without regard to letter case."""

    purchase: Names = ("purchased", "completed order", "order completed", "checkout complete", "billed")
    refund: Names = ("refunded", "order refunded", "returned item")

    @model_validator(mode="after")
    def _one_meaning_each(self) -> Events:
        if both := sorted(set(self.purchase) & set(self.refund)):
            raise ValueError(f"{', '.join(map(repr, both))} cannot be a purchase and a refund")
        return self


class Properties(_Table):
    """Which properties hold what. Of several names the first that a record carries counts."""

    order_id: Names = ("order id", "order_id", "orderid")
    revenue: Names = ("order total", "billing amount", "billed amount", "revenue", "total")
    currency: Names = ("currency",)
    account_id: Names = ("account id", "account name", "group - id")
    purchased_product_id: Names = ("purchased sku", "purchased productid", "order completed - sku", "sku")
    purchased_product_name: Names = ("purchased product name", "order completed - name")
    product_category: Names = ("purchased category", "product category", "order completed - category", "category")
    returned_product_id: Names = ("returned sku", "returned productid", "order refunded - sku")
    returned_product_name: Names = ("returned product name", "order refunded - name")
    price: Names = ("price", "order completed - price", "order refunded - price")
    quantity: Names = ("quantity", "order completed - quantity", "order refunded - quantity")
    feature: Names = ("feature", "feature name")
    seats: Names = ("seats", "subscription seats", "group - seats")
    plan: Names = ("subscription plan level", "plan name", "billing plan", "plan", "group - plan")
    subscription_amount: Names = ("subscription billing amount", "billing amount", "billed amount")
    subscription_months: Names = ("subscription billing length",)


class Identity(_Table):
    """How identities become customers. A word in `blocked`, such as null, stands for nobody: it joins nobody and names no account."""

    anonymous_pattern: str = r"^[A-Za-z0-9+/]{27}=$"
    blocked: tuple[str, ...] = (
        "", "0", "-1", "anonymous", "distinct_id", "email", "false", "guest", "id", "missing", "n/a", "nan", "nil", "none",
        "null", "[object object]", "test", "true", "undefined", "unknown", "user",
    )  # fmt: skip
    fold_email_case: bool = True
    max_aliases: Annotated[Count, Field(ge=2, le=10_000)] = 100

    @field_validator("anonymous_pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        # The engine that applies it decides what is a regular expression.
        import polars as pl

        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern


class Items(_Table):
    """How item lines find their order: the person's latest purchase or refund at most this long before."""

    window_minutes: Annotated[Count, Field(ge=1, le=360)] = 60


class Accounts(_Table):
    """What an account is, and what counts as using a feature of the product.

    `are = "named"`: the account that a record names (`[properties] account_id`: a property, or a group call, which arrives as
    one; a word of `[identity] blocked` names none), else the one that its person named last. `are = "people"`: every person is
    an account. An event uses the feature that its property (`[properties] feature`) names; without one, an event named in
    `feature_events` is a feature of its own, and where that list is empty every event is that `not_features` does not name and
    that is no purchase or refund.

    What nobody does in the product is no usage: the turns of a contract (`[subscriptions]`), and events named in `not_usage`, which
    a billing system or a mailing sends.
    """

    are: Literal["named", "people"] = "named"
    feature_events: Names = ()
    not_features: Names = (
        "visited site",
        "page view",
        "ad campaign hit",
        "search engine hit",
        "signed up",
        "signed in",
        "signed out",
    )
    not_usage: Names = (
        "subscription started",
        "payment failed",
        "payment succeeded",
        "invoice paid",
        "subscription renewed",
        "subscription refunded",
        "trial ended",
    )
    session_minutes: Annotated[Count, Field(ge=1, le=60)] = 30


class Subscriptions(_Table):
    """Which events are turns in the life of a contract.

    A contract that was not cancelled ends `grace_days` after the time that was paid for, unless it is billed again; a trial that was
    not billed has ended `trial_days` after it began.
    """

    trial: Names = ("trial started", "subscription trial started")
    billed: Names = ("subscription billed",)
    upgraded: Names = ("subscription upgraded",)
    downgraded: Names = ("subscription downgraded",)
    canceled: Names = ("subscription canceled", "subscription cancelled", "account deleted")
    grace_days: Annotated[Count, Field(ge=0, le=90)] = 7
    trial_days: Annotated[Count, Field(ge=1, le=365)] = 30

    @model_validator(mode="after")
    def _one_meaning_each(self) -> Subscriptions:
        kinds = (self.trial, self.billed, self.upgraded, self.downgraded, self.canceled)
        names = [name for kind in kinds for name in set(kind)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(map(repr, twice))} can have one meaning only")
        return self


class HealthWeights(_Table):
    """Points that each component adds to an account's health at most; together 100."""

    active_users: Annotated[Number, Field(ge=0, le=100)] = 30
    events: Annotated[Number, Field(ge=0, le=100)] = 20
    features: Annotated[Number, Field(ge=0, le=100)] = 20
    recency: Annotated[Number, Field(ge=0, le=100)] = 15
    seats: Annotated[Number, Field(ge=0, le=100)] = 15

    @model_validator(mode="after")
    def _sum_to_100(self) -> HealthWeights:
        weights = self.model_dump()
        if abs(sum(weights.values()) - 100) > 1e-9:
            listed = " + ".join(f"{name} {weight:g}" for name, weight in weights.items())
            raise ValueError(f"the weights must sum to 100, but {listed} = {sum(weights.values()):g}")
        return self


class Health(_Table):
    """Account health, 0 to 100: weights of its components, and the bands.

    From `healthy` points on an account is healthy, below `at_risk` it is at risk, between them it is neutral; it leaves a band
    only when the score of an evening is `hysteresis` points beyond the edge. An account that loses `falling` points in 28 days
    is on the list `falling_accounts`, whatever its band.
    """

    weights: HealthWeights = HealthWeights()
    healthy: Annotated[Number, Field(gt=0, lt=100)] = 70
    at_risk: Annotated[Number, Field(gt=0, lt=100)] = 40
    hysteresis: Annotated[Number, Field(ge=0, le=20)] = 3
    falling: Annotated[Number, Field(ge=1, le=100)] = 15

    @model_validator(mode="after")
    def _bands_in_order(self) -> Health:
        if self.at_risk + 2 * self.hysteresis >= self.healthy:
            raise ValueError(
                f"at_risk ({self.at_risk:g}) and healthy ({self.healthy:g}) must lie more than twice the hysteresis apart"
            )
        return self


class Churn(_Table):
    """Churn within a horizon: accounts that cancel or are not renewed, customers who do not buy.

    `training_subjects` caps the subjects of one cut-off that models learn from (the same subjects every day). `scores_may_end`
    lets a day that no model can be made for, or that has nobody to score, replace one with scores; else it is refused, and they stand.
    """

    account_horizon_days: Annotated[Count, Field(ge=7, le=365)] = 30
    customer_horizon_days: Annotated[Count, Field(ge=7, le=365)] = 90
    training_subjects: Annotated[Count, Field(ge=100)] = 50_000
    scores_may_end: bool = False


class TrainingSet(_Table):
    """A training set for a label of one's own: did an `event` happen (or, `absent`, not happen) within the horizon?"""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower-case letters, digits and _")]
    subjects: Literal["accounts", "customers"]
    events: Annotated[Names, Field(min_length=1)]
    absent: bool = False
    horizon_days: Annotated[Count, Field(ge=1, le=365)]


class Ltv(_Table):
    """Customer lifetime value: horizon in days, discount rate a year (0 = none), share of outcomes inside the interval.

    `season` is what the owner knows of the year: sales of an ordinary January, February, ..., December, in any unit. Give last
    year's where the business has not yet seen a whole year with this project; what its own past says then corrects it.
    """

    horizon_days: Annotated[Count, Field(ge=7, le=1825)] = 365
    annual_discount_rate: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    interval_coverage: Annotated[Number, Field(ge=0.5, le=0.99)] = 0.8
    season: Annotated[
        Annotated[tuple[Annotated[Number, Field(gt=0, lt=inf)], ...], Field(min_length=12, max_length=12)] | None,
        Field(description="twelve sales above 0, those of an ordinary January, February, ..., December"),
    ] = None


Score = Annotated[Count, Field(ge=1, le=5)]
ScoreRange = Annotated[tuple[Score, Score], Field(description="lowest and highest score, such as [4, 5]")]


class SegmentRule(_Table):
    """A named segment: the customers whose three scores lie in these ranges, ends included."""

    name: Annotated[str, Field(min_length=1)]
    r: ScoreRange = (1, 5)
    f: ScoreRange = (1, 5)
    m: ScoreRange = (1, 5)

    @model_validator(mode="after")
    def _ranges_in_order(self) -> SegmentRule:
        for score, (low, high) in (("r", self.r), ("f", self.f), ("m", self.m)):
            if high < low:
                raise ValueError(f"{score} = [{low}, {high}] holds no score: the lower end comes first")
        return self


class Segments(_Table):
    """RFM segments: the first rule that fits names the segment; every customer must fit one.

    `clusters` is the number of k-means clusters beside the named segments. When more than `unusual_movement` times the
    usual share of customers change their segment from one day to the next, a check warns.
    """

    rules: tuple[SegmentRule, ...] = (
        SegmentRule(name="Champions", r=(4, 5), f=(4, 5)),
        SegmentRule(name="Loyal", r=(3, 5), f=(3, 5)),
        SegmentRule(name="Potential loyalists", r=(4, 5), f=(2, 2)),
        SegmentRule(name="New customers", r=(5, 5), f=(1, 1)),
        SegmentRule(name="Promising", r=(4, 4), f=(1, 1)),
        SegmentRule(name="Needs attention", r=(3, 3), f=(2, 2)),
        SegmentRule(name="About to sleep", r=(3, 3), f=(1, 1)),
        SegmentRule(name="Cannot lose them", r=(1, 2), f=(4, 5), m=(4, 5)),
        SegmentRule(name="At risk", r=(1, 2), f=(3, 5)),
        SegmentRule(name="Hibernating", r=(2, 2)),
        SegmentRule(name="Lost", r=(1, 1)),
    )
    clusters: Annotated[Count, Field(ge=2, le=12)] = 5
    unusual_movement: Annotated[Number, Field(gt=1)] = 3.0

    @model_validator(mode="after")
    def _every_score_has_a_segment(self) -> Segments:
        for r, f, m in product(range(1, 6), repeat=3):
            if not any(
                rule.r[0] <= r <= rule.r[1] and rule.f[0] <= f <= rule.f[1] and rule.m[0] <= m <= rule.m[1] for rule in self.rules
            ):
                raise ValueError(f"no rule holds r = {r}, f = {f}, m = {m}; end with a rule that holds everyone")
        return self


FIRST_ORDER_MONTH = "first order month"


class Customers(_Table):
    """Which properties of people are kept as `traits`; cohorts are made by each of those under `cohorts`."""

    cohorts: Names = ()
    email: Names = ("email", "email address", "e-mail")
    consent: Names = ("email consent", "newsletter", "subscribed", "accepts marketing")

    @field_validator("cohorts")
    @classmethod
    def _not_the_built_in_cohort(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if FIRST_ORDER_MONTH in names:
            raise ValueError(f"{FIRST_ORDER_MONTH!r} is the cohort that is always made; leave it out")
        return names

    @property
    def traits(self) -> tuple[str, ...]:
        """Every property that is kept, each once."""
        return tuple(dict.fromkeys(self.cohorts + self.email + self.consent))


class Affinity(_Table):
    """Products bought together: how far back, in how many baskets at least, and how many related products each gets.

    Baskets with more than `basket_cap` different products are left out and counted: one of 5,000 lines is 12.5 M pairs.
    """

    history_days: Annotated[Count, Field(ge=1, le=3650)] = 365
    minimum_baskets: Annotated[Count, Field(ge=1)] = 5
    basket_cap: Annotated[Count, Field(ge=2, le=5000)] = 100
    related_products: Annotated[Count, Field(ge=1, le=1000)] = 20


class Recommendations(_Table):
    """The lists of each customer: how long, from how much history, and what must not stand in them.

    `buy_again` leaves out what was bought in the last `rest_days`; both lists leave out what the customer returned, what
    nobody bought in the last `assortment_days`, and the excluded products (by id) and categories, letter case and spaces aside.
    """

    length: Annotated[Count, Field(ge=1, le=100)] = 20
    history_days: Annotated[Count, Field(ge=1, le=3650)] = 730
    rest_days: Annotated[Count, Field(ge=0, le=365)] = 3
    assortment_days: Annotated[Count, Field(ge=1, le=3650)] = 90
    excluded_products: Names = ()
    excluded_categories: Names = ()


class Activation(_Table):
    """The lists that go out: e-mail campaigns and the site.

    Nobody is written to without consent (a trait named under `[customers] consent` with a value of `consent_means`),
    unless `consent_required` is false. `suppression_file` names addresses or customers, one a line, who get nothing,
    nor does whoever tells an address that one of them ever told. Who refused before `[business] first_day` has refused.
    A fixed share of customers, `holdout_share`, is left out of every campaign, so that its effect can be measured.
    The address of a Redis server stands in the environment as ANALYTICS_REDIS_URL, never here.
    """

    campaign: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="lower-case letters, digits, - and _")] = (
        "nightly"
    )
    products_per_email: Annotated[Count, Field(ge=1, le=20)] = 8
    consent_required: bool = True
    consent_means: Names = ("true", "yes", "1", "on", "subscribed", "opted in", "y", "t")
    suppression_file: Path | None = None
    holdout_share: Annotated[Number, Field(ge=0, le=0.5)] = 0.05
    onsite_hours_to_live: Annotated[Count, Field(ge=1, le=24 * 90)] = 72


class Operations(_Table):
    """The night and what it costs.

    The night waits for the last hours of its day until `night_starts_by`, on the clock of the business, then runs with what
    there is and says so; empty, it waits for as long as it takes. Its tables must be there by `window_ends`; a forecast that they
    will not be is told `warn_days` ahead. `price_per_hour` of the machine, in the business's currency, gives runs a cost. Of each
    table `proof_partitions` old partitions are computed again every day, beside the live ones, and compared. Tables that say how
    things stood on a day keep their last `as_of_days_kept` days, and of those before them the last day of each month.
    """

    night_starts_by: OptionalTime = time(4)
    window_ends: time = time(6)
    warn_days: Annotated[Count, Field(ge=1, le=365)] = 30
    price_per_hour: Annotated[Decimal, Field(ge=0)] | None = None
    proof_partitions: Annotated[Count, Field(ge=0, le=100)] = 1
    # The last 30 days are kept filled, and one more may be at work.
    as_of_days_kept: Annotated[Count, Field(ge=31)] = 90


Severity = Literal["warning", "error"]


class AlertRoute(_Table):
    """One way to people: which alerts go to the Apprise URLs that an environment variable holds.

    `urls` names the variable, never a URL: addresses are secrets. Without `owners` every owner's alerts are meant.
    """

    urls: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="the name of an environment variable")]
    owners: tuple[str, ...] = ()
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = ("warning", "error")


class Alerts(_Table):
    """Who hears of what: an alert goes along every route that fits it. `attempts` are made before it counts as undelivered."""

    routes: tuple[AlertRoute, ...] = (AlertRoute(urls="ANALYTICS_ALERT_URLS"),)
    attempts: Annotated[Count, Field(ge=1, le=20)] = 8


class Exports(_Table):
    """Where new export files arrive; `make run EXPORTS=… FORMAT=…` says the same for one home."""

    folder: str | None = None
    format: Literal["kissmetrics"] = "kissmetrics"


class Settings(_Table):
    """Everything that `analytics.toml` can say."""

    business: Business
    exports: Exports = Exports()
    events: Events = Events()
    properties: Properties = Properties()
    identity: Identity = Identity()
    items: Items = Items()
    customers: Customers = Customers()
    ltv: Ltv = Ltv()
    segments: Segments = Segments()
    affinity: Affinity = Affinity()
    recommendations: Recommendations = Recommendations()
    activation: Activation = Activation()
    accounts: Accounts = Accounts()
    subscriptions: Subscriptions = Subscriptions()
    health: Health = Health()
    churn: Churn = Churn()
    training_sets: tuple[TrainingSet, ...] = ()
    operations: Operations = Operations()
    alerts: Alerts = Alerts()

    @field_validator("training_sets")
    @classmethod
    def _one_name_each(cls, sets: tuple[TrainingSet, ...]) -> tuple[TrainingSet, ...]:
        names = [one.name for one in sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are called {', '.join(twice)}")
        return sets

    def fingerprint(self, *names: str) -> str:
        """Twelve hex digits over the named settings (`business.currency`, `events`, ...): part of a table's code version."""
        values = self.model_dump(mode="json")
        chosen = []
        for name in sorted(names):
            value: Any = values
            for part in name.split("."):
                value = value[part]
            chosen.append((name, value))
        return hashlib.sha256(repr(chosen).encode()).hexdigest()[:12]


def settings_path() -> Path:
    """`ANALYTICS_CONFIG`, or `analytics.toml` beside the package."""
    return Path(os.environ.get("ANALYTICS_CONFIG") or PROJECT_ROOT / "analytics.toml").expanduser().resolve()


def load_settings(path: Path | None = None) -> Settings:
    """Read and check the settings file.

    Raises:
        SettingsError: every mistake at once, each with file, line, and what is allowed.
    """
    path = path or settings_path()
    return parse_settings(
        _text_of(path, "there is no settings file. Write one, or set ANALYTICS_CONFIG to where it is"), str(path)
    )


def load_health(path: Path) -> Health:
    """Read and check the `[health]` of a file that may hold nothing else.

    Raises:
        SettingsError: as `load_settings`.
    """
    text = _text_of(path, "there is no such file. Write one with a table [health], as in your settings")
    return _parsed(text, str(path), _HealthAlone).health


def parse_settings(text: str, source: str) -> Settings:
    """Check the text of a settings file; `source` stands in the error messages."""
    return _parsed(text, source, Settings)


class _HealthAlone(BaseModel):
    health: Health


_Declared = TypeVar("_Declared", Settings, _HealthAlone)


def _text_of(path: Path, where_there_is_none: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: {where_there_is_none}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as UTF-8 text ({error}).") from None


def _parsed(text: str, source: str, declared: type[_Declared]) -> _Declared:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: not valid TOML: {error}") from None
    try:
        return declared.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A list is not too short as well when it is an entry of it that is wrong.
        places = {mistake["loc"][:-1] for mistake in found}
        mistakes = [one for one in found if one["type"] != "too_short" or one["loc"] not in places]
        raise SettingsError("\n".join(explain(one, text, source, declared) for one in mistakes)) from None
