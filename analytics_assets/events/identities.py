"""Who is who: the closure over aliases, as it was known at the end of a day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analytics_assets.events.tables import IDENTITIES, RECORDS
from analytics_assets.settings import Identity
from analytics_assets.warehouse.assets import Audit, Needs, Platform, Work, table_asset

_HERE = Path(__file__).parent
_ONE_DAY = timedelta(days=1)


def resolve(first_seen: pl.DataFrame, aliases: pl.DataFrame, rules: Identity) -> tuple[pl.DataFrame, list[str]]:
    """Make customers of identities.

    Aliases are symmetric and transitive. A blocked word joins nobody; neither does an identity that is aliased with more
    than `max_aliases` others, which is a shared one; a chain that still joins more than that many stays apart as well.

    Args:
        first_seen: one row per identity: `identity`, `first_seen_at` (NULL where only an alias names it).
        aliases: one row per alias known by then: `identity`, `other_identity`.
        rules: the settings under `[identity]`.

    Returns:
        One row per identity (`identity`, `kind`, `customer_id`), and the shared identities that the cap blocked.
    """
    ends = pl.concat([aliases["identity"], aliases["other_identity"].rename("identity")]).unique().to_frame()
    people = (
        pl.concat([first_seen.select("identity", "first_seen_at"), ends], how="diagonal")
        .group_by("identity")
        .agg(pl.col("first_seen_at").min())
        .with_columns(node=_node(rules))
    )
    nodes = (
        people.group_by("node")
        .agg(pl.col("first_seen_at").min())
        .sort("node")
        .with_row_index("number")
        .with_columns(
            blocked=pl.col("node").str.strip_chars().str.to_lowercase().is_in(list(rules.blocked)),
            anonymous=pl.col("node").str.contains(rules.anonymous_pattern),
        )
    )
    number = people.join(nodes, on="node").select("identity", pl.col("number").cast(pl.Int64))
    pairs = (
        aliases.join(number, on="identity")
        .join(number, left_on="other_identity", right_on="identity", suffix="_other")
        .select("number", "number_other")
        .to_numpy()
    )
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    closed = nodes["blocked"].to_numpy().copy()
    pairs = pairs[~closed[pairs].any(axis=1)]
    degree = np.bincount(pairs.ravel(), minlength=len(nodes))
    hubs = degree > rules.max_aliases
    closed |= hubs
    pairs = pairs[~closed[pairs].any(axis=1)]
    component = _components(pairs, len(nodes))
    oversize = np.bincount(component, minlength=len(nodes)) > rules.max_aliases
    in_oversize = oversize[component]
    component = _components(pairs[~in_oversize[pairs].any(axis=1)], len(nodes))
    shared = nodes.filter(pl.Series(hubs | in_oversize))["node"].to_list()

    nodes = nodes.with_columns(component=pl.Series(component), blocked=pl.Series(closed))
    best = (
        nodes.filter(~pl.col("blocked"))
        .sort("anonymous", pl.when(pl.col("anonymous")).then(None).otherwise(pl.col("first_seen_at")), "node", nulls_last=True)
        .group_by("component", maintain_order=True)
        .agg(pl.col("node").first().alias("customer_id"))
    )
    kind = pl.when("blocked").then(pl.lit("blocked")).when("anonymous").then(pl.lit("anonymous")).otherwise(pl.lit("named"))
    resolved = nodes.join(best, on="component", how="left").with_columns(
        kind=kind, customer_id=pl.when("blocked").then(None).otherwise(pl.col("customer_id"))
    )
    rows = people.join(resolved.select("node", "kind", "customer_id"), on="node", how="left").sort("identity")
    return rows.select("identity", "kind", "customer_id"), shared


def _node(rules: Identity) -> pl.Expr:
    """What an identity counts as: e-mail addresses that differ in letter case only are one."""
    identity = pl.col("identity")
    if not rules.fold_email_case:
        return identity
    return pl.when(identity.str.contains("@", literal=True)).then(identity.str.to_lowercase()).otherwise(identity)


def _components(pairs: np.ndarray, nodes: int) -> np.ndarray:
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1]


def maps_as_of(work: Work, days: Sequence[date]) -> Iterator[tuple[pl.DataFrame, list[str]]]:
    """The map of each day, as `resolve` returns it: what the table `identities` holds, for any day, materialised or not."""
    work.read(RECORDS)
    begins = work.platform.clock.begins
    aliases = work.sql(_HERE / "aliases.sql").pl()
    first_day = work.platform.clock.first_day
    everyone = work.sql(_HERE / "first_seen.sql", start_at=begins(first_day), end_at=begins(max(days) + _ONE_DAY)).pl()
    for day in days:
        end = begins(day + _ONE_DAY)
        known = aliases.filter(pl.col("known_at") < end)
        yield resolve(everyone.filter(pl.col("first_seen_at") < end), known, work.settings.identity)


def identities_as_of(work: Work, day: date) -> pl.DataFrame:
    """One row per identity (`identity`, `kind`, `customer_id`) as of the end of any day: the rows of `identities` of that day.

    For what is recomputed from fixed earlier days, whose partitions of `identities` need not have been materialised.
    """
    ((rows, _),) = maps_as_of(work, [day])
    return rows


def identities(work: Work) -> Mapping[str, pa.Table]:
    """Who is who, as it was known at the end of the day: every identity and the customer that it belongs to.

    Two identities are one customer when a chain of aliases joins them. Aliases count from the moment that they were
    received, so a late one changes all history in every day computed from then on, and no day knows of a merge before it
    was known. Words that many people share (`guest`, `null`, ...) and identities with too many aliases join nobody:
    they are marked `blocked` and reported here.

    A customer is called by its earliest named identity, an anonymous visitor by the smallest of its identities.
    """
    found: list[pl.DataFrame] = []
    shared: list[str] = []
    for day, (rows, shared_words) in zip(work.days, maps_as_of(work, work.days), strict=True):
        found.append(rows.with_columns(as_of_date=pl.lit(day)))
        shared = shared_words
    last = found[-1]
    work.metadata |= {
        "named": int((last["kind"] == "named").sum()),
        "anonymous": int((last["kind"] == "anonymous").sum()),
        "blocked": int((last["kind"] == "blocked").sum()),
        "identities blocked by the cap on aliases": len(shared),
    }
    if shared:
        work.log.warning(
            f"{len(shared)} identities are aliased with more than {work.settings.identity.max_aliases} others and join nobody. "
            "If they are people, raise [identity] max_aliases; if they are words, add them to blocked."
        )
    return {IDENTITIES.name: work.rows_of(IDENTITIES, pl.concat(found).to_arrow())}


def identities_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `identities`."""
    return table_asset(
        platform,
        (IDENTITIES,),
        identities,
        needs=[Needs("events", as_of=True, hourly=True)],
        audits=[
            Audit(
                "customers_resolve_to_themselves",
                "A customer's id is an identity of the same customer (folded e-mail addresses aside).",
                """SELECT r.as_of_date, r.customer_id FROM rows AS r ANTI JOIN (SELECT as_of_date, customer_id, identity FROM rows) AS s
                ON s.as_of_date = r.as_of_date AND s.customer_id = r.customer_id
                AND (s.identity = r.customer_id OR lower(s.identity) = r.customer_id)
                WHERE r.customer_id IS NOT NULL""",
            )
        ],
        settings=("identity",),
        group="events",
        condition=condition,
    )
