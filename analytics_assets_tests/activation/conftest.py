"""A shop's evening of fabricated tables, behind real assets, checks and a real lake.

Five business days, 2026-03-01 to 2026-03-05, in London. On every evening:

| customer | address | consent | lifetime value |
|---|---|---|---|
| ann@x.test | her name | yes | 500 |
| bob@x.test | his name | yes | 400 |
| cat@x.test | her name | no | 300 |
| dan | told: Dan@Mail.Test | yes | 200 |
| eve | none | yes | 100 |
| fay@x.test | her name | never asked | 50 |

Nobody is held out unless a test says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.activation.assets import email_campaign_asset, onsite_recommendations_asset
from analytics_assets.activation.checks import activation_checks
from analytics_assets.events.tables import IDENTITIES, RECORDS, TRAITS
from analytics_assets.home import Home
from analytics_assets.retail.ltv.assets import CUSTOMER_LTV, LTV_BACKTESTS
from analytics_assets.retail.orders.assets import ORDER_ITEMS
from analytics_assets.retail.recommendations.tables import PRODUCT_RECOMMENDATIONS, RECOMMENDATION_QUALITY, RECOMMENDATIONS
from analytics_assets.retail.segments.assets import CUSTOMER_SEGMENTS
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work

DAYS = [date(2026, 3, number) for number in range(1, 6)]
SETTINGS = """
[business]
time_zone = "Europe/London"
currency = "GBP"
first_day = 2026-03-01
last_day = 2026-03-05
[activation]
products_per_email = 4
holdout_share = 0
"""
_OF_TYPE = {
    "VARCHAR": "",
    "BIGINT": 0,
    "DOUBLE": 0.0,
    "DECIMAL(18,2)": Decimal(0),
    "DATE": DAYS[0],
    "BOOLEAN": True,
    "TIMESTAMPTZ": datetime(2026, 3, 1, tzinfo=UTC),
}


def rows_of(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a declared table; what a row does not say is NULL, or nothing of the column's type."""
    blank = {c.name: None if c.nullable else _OF_TYPE[c.type] for c in table.columns}
    full = [{name: row.get(name, value) for name, value in blank.items()} for row in rows]
    return pa.Table.from_pylist(full, schema=table.arrow_schema())


def standard_rows() -> dict[str, list[dict[str, Any]]]:
    """The shop of the module's docstring."""
    worth = {"ann@x.test": 500, "bob@x.test": 400, "cat@x.test": 300, "dan": 200, "eve": 100, "fay@x.test": 50}
    consent = {"ann@x.test": "yes", "bob@x.test": "Yes ", "cat@x.test": "no", "dan": "true", "eve": "yes"}
    rows: dict[str, list[dict[str, Any]]] = {
        "traits": [
            {"event_date": DAYS[0], "identity": who, "trait": "email consent", "value": value, "last_second": 100}
            for who, value in consent.items()
        ],
        "order_items": [
            {
                "order_date": DAYS[0],
                "event_id": "e1",
                "line": n,
                "kind": "order",
                "product_id": f"p{n}",
                "product_name": f"Product {n}",
                "quantity": 1,
            }
            for n in range(1, 9)
        ],
    }
    rows["traits"].append(
        {"event_date": DAYS[0], "identity": "dan", "trait": "email", "value": " Dan@Mail.Test", "last_second": 100}
    )
    for day in DAYS:
        of_day: dict[str, list[dict[str, Any]]] = {
            "identities": [{"identity": who, "kind": "named", "customer_id": who} for who in worth],
            "customer_ltv": [
                {"customer_id": who, "currency": "GBP", "orders": 2, "lifetime_value": Decimal(value)}
                for who, value in worth.items()
            ],
            "ltv_backtests": [{"currency": "GBP", "chosen": True, "accepted": True, "reason": "good"}],
            "customer_segments": [{"customer_id": who, "currency": "GBP", "segment": "Loyal"} for who in worth],
            "recommendations": [
                {
                    "customer_id": who,
                    "list": name,
                    "rank": rank,
                    "product_id": f"p{rank + first}",
                    "score": 1 / rank,
                    "basis": "history" if name == "buy_again" else "similarity",
                    "reason": "popular",
                }
                for who in worth
                for name, first in (("buy_again", 0), ("discover", 4))
                for rank in range(1, 5)
            ],
            "product_recommendations": [
                {"product_id": "p1", "rank": rank, "related_product_id": f"p{rank + 1}", "reason": "bought with it"}
                for rank in (1, 2)
            ],
            "recommendation_quality": [
                {
                    "list": name,
                    "model": model,
                    "cut_off": DAYS[0],
                    "customers": 500,
                    "recall_at_20": recall,
                    "chosen": model == "ease",
                }
                for name in ("buy_again", "discover")
                for model, recall in (("ease", 0.5), ("popular", 0.2))
            ],
        }
        for table, found in of_day.items():
            rows.setdefault(table, []).extend({"as_of_date": day, **row} for row in found)
    return rows


@dataclass
class Shop:
    """A home, its settings, the rows that the fabricated assets will compute, and Dagster's record."""

    root: Path
    settings_text: str = SETTINGS
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=standard_rows)
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)

    @property
    def platform(self) -> Platform:
        """A new platform, as a new process makes one."""
        return Platform(parse_settings(self.settings_text, "analytics.toml"), Home(self.root / "home"), [])

    def assets(self) -> dict[str, dg.AssetsDefinition]:
        """The inputs by name, and what goes out."""
        platform, condition = self.platform, dg.AutomationCondition.eager()

        def input_of(*tables: Table, needs: tuple[Needs, ...] = (), settings: tuple[str, ...] = ()) -> dg.AssetsDefinition:
            def compute(work: Work) -> Mapping[str, pa.Table]:
                """Fabricated rows of these days."""
                return {
                    table.name: rows_of(
                        table,
                        [
                            r
                            for r in self.rows[table.name]
                            if work.window.first_day <= r[table.partition_column] <= work.window.last_day
                        ],
                    )
                    for table in tables
                }

            audit = Audit("sound", "A test can make it fail.", "SELECT 1 FROM rows WHERE customer_id = 'broken'")
            audits = [audit] if any(column.name == "customer_id" for column in tables[0].columns) else []
            return table_asset(platform, tables, compute, needs=needs, audits=audits, settings=settings, group="retail")

        inputs = {
            "traits": input_of(TRAITS),
            "identities": input_of(IDENTITIES),
            "order_items": input_of(ORDER_ITEMS),
            "customer_ltv": input_of(CUSTOMER_LTV, LTV_BACKTESTS, settings=("ltv",)),
            "customer_segments": input_of(CUSTOMER_SEGMENTS),
            "recommendations": input_of(
                RECOMMENDATIONS,
                PRODUCT_RECOMMENDATIONS,
                RECOMMENDATION_QUALITY,
                needs=(Needs("order_items", as_of=True), Needs("identities")),
                settings=("recommendations",),
            ),
        }
        email = email_campaign_asset(platform, condition, list(inputs.values()))
        onsite = onsite_recommendations_asset(platform, condition, [inputs["recommendations"]])
        return {**inputs, "email_campaign": email, "onsite_recommendations": onsite}

    def run(self, *names: str, day: date = DAYS[2], last: date | None = None) -> dg.ExecuteInProcessResult:
        """Materialise assets for a day, or a range in one run; what goes wrong stands in the result."""
        assets = self.assets()
        checks = activation_checks(self.platform)
        definitions = dg.Definitions(assets=list(assets.values()), asset_checks=checks, executor=dg.in_process_executor)
        tags = {"dagster/asset_partition_range_start": f"{day}", "dagster/asset_partition_range_end": f"{last or day}"}
        return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(name) for name in names],
            tags=tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )

    def inputs(self, first: date = DAYS[0], last: date = DAYS[-1]) -> None:
        """Materialise every input for these days."""
        names = [name for name in self.assets() if name not in ("email_campaign", "onsite_recommendations")]
        assert self.run(*names, day=first, last=last).success

    def landed(self, said: list[tuple[str, date, date | None, dict[str, str]]]) -> None:
        """Let exactly these property sets have landed: who said it, the days on which it was said and received, what was said."""
        noon = lambda day: day and datetime.combine(day, time(12), UTC)  # noqa: E731
        rows = [
            {"file": "1.json", "line_number": n, "kind": "set", "record_id": f"r{n}", "identity": who, "occurred_at": noon(day),
             "received_at": noon(received), "properties": json.dumps(properties)}
            for n, (who, day, received, properties) in enumerate(said)
        ]  # fmt: skip
        self.platform.lake.replace(RECORDS, rows_of(RECORDS, rows), None, {})

    def folder(self, channel: str, day: date = DAYS[2]) -> Path:
        """What is out for a day."""
        return self.root / "home" / "activation" / channel / day.isoformat()

    def list_of(self, day: date = DAYS[2], name: str = "recipients") -> pl.DataFrame:
        """A list as people read it."""
        return pl.read_csv(self.folder("email", day) / f"{name}.csv", infer_schema=False)

    def manifest(self, channel: str, day: date = DAYS[2]) -> dict[str, Any]:
        """The manifest of a day."""
        return json.loads((self.folder(channel, day) / "manifest.json").read_text())

    def status(self, channel: str) -> dict[str, Any]:
        """The channel's status."""
        return json.loads((self.folder(channel).parent / "status.json").read_text())


def why(result: dg.ExecuteInProcessResult) -> str:
    """The message of the failed step."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            return str((data.user_failure_data and data.user_failure_data.description) or data.error)
    raise AssertionError("the run did not fail")


@pytest.fixture
def why_of() -> Callable[[dg.ExecuteInProcessResult], str]:
    """Read the message of a run's failed step."""
    return why


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop; nothing is materialised yet."""
    monkeypatch.delenv("ANALYTICS_REDIS_URL", raising=False)
    return Shop(tmp_path)


@pytest.fixture
def evening(shop: Shop) -> Shop:
    """The shop with all inputs of its five days."""
    shop.inputs()
    return shop
