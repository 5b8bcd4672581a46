"""Daily `traits`: what is known of people beside what they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pyarrow as pa

from analytics_assets.events.events import json_paths
from analytics_assets.events.tables import EVENTS, PROPERTY_SETS, TRAITS
from analytics_assets.warehouse.assets import table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent


def traits(work: Work) -> Mapping[str, pa.Table]:
    """What people said of themselves on a day: country, plan, consent to e-mail, whatever `[customers]` in the settings names.

    A trait is a property of a person that came with an event or by itself. Values stay with the identity and the day that they
    came with, so that every later day can ask what was known by then: the first value for cohorts, the latest for consent, every address
    that was ever told.

    Read it as a diary: who a customer is on a day, is the latest line up to that day over all of the customer's identities.
    """
    days = f"event_date >= '{work.window.first_day}' AND event_date <= '{work.window.last_day}'"
    for table in (EVENTS, PROPERTY_SETS):
        work.read(table, days)
    names = work.settings.customers.traits
    rows = work.sql(
        _HERE / "traits.duckdb.sql",
        traits=list(names),
        paths=json_paths(names),
        first_day=work.window.first_day,
        last_day=work.window.last_day,
    )
    return {TRAITS.name: work.rows_of(TRAITS, rows)}


def traits_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `traits`."""
    return table_asset(
        platform,
        (TRAITS,),
        traits,
        needs=[Needs("events", hourly=True)],
        settings=("customers",),
        group="events",
        condition=condition,
    )
