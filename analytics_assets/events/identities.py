"""Who is who: the closure over aliases, as it was known at the end of a day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analytics_assets.events.tables import IDENTITIES, RECORDS
from analytics_assets.settings import Identity
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent
FIRST_SEEN = _HERE / "first_seen.sql"
_ONE_DAY = timedelta(days=1)


class People:
    """Everyone who was seen and every alias, made ready once, so that the map of each of many days costs little.

    Aliases are symmetric and transitive. A blocked word joins nobody; neither does an identity that is aliased with more
    than `max_aliases` others, which is a shared one; a chain that still joins more than that many stays apart as well.
    """

    def __init__(self, first_seen: pl.DataFrame, aliases: pl.DataFrame, rules: Identity) -> None:
        """Number identities, and the nodes that they count as.

        Args:
            first_seen: one row per identity: `identity`, `first_seen_at`.
            aliases: one row per alias: `identity`, `other_identity`, `known_at`.
            rules: the settings under `[identity]`.
        """
        self._cap = rules.max_aliases
        ends = [aliases["identity"], aliases["other_identity"]]
        people = pl.concat([first_seen["identity"], *ends]).unique().sort().to_frame("identity").with_columns(node=_node(rules))
        self._identity = people["identity"]
        self._node = people["node"].unique().sort()
        self._node_of = _places(people["node"], self._node)
        self._blocked = _is_blocked(self._node, rules).to_numpy()
        self._anonymous = self._node.str.contains(rules.anonymous_pattern).to_numpy()

        self._seen = np.full(len(people), np.iinfo(np.int64).max)
        self._seen[_places(first_seen["identity"], self._identity)] = _microseconds(first_seen["first_seen_at"])
        self._node_seen = np.full(len(self._node), np.iinfo(np.int64).max)
        np.minimum.at(self._node_seen, self._node_of, self._seen)
        self._alias_ends = np.stack([_places(end, self._identity) for end in ends], axis=1)
        self._alias_known = _microseconds(aliases["known_at"])

    def as_of(self, end: datetime) -> tuple[pl.DataFrame, list[str]]:
        """Make customers of the identities that had been seen or aliased before `end`.

        Returns:
            One row per identity (`identity`, `kind`, `customer_id`), and the shared identities that the cap blocked.
        """
        now = _microseconds(pl.Series([end], dtype=pl.Datetime("us", "UTC")))[0]
        ends = self._alias_ends[self._alias_known < now]
        known = self._seen < now
        known[ends] = True
        nodes = len(self._node)

        pairs = np.sort(self._node_of[ends], axis=1)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        pairs = np.stack(np.divmod(np.unique(pairs[:, 0] * nodes + pairs[:, 1]), max(nodes, 1)), axis=1)
        closed = self._blocked.copy()
        pairs = pairs[~closed[pairs].any(axis=1)]
        hubs = np.bincount(pairs.ravel(), minlength=nodes) > self._cap
        closed |= hubs
        pairs = pairs[~closed[pairs].any(axis=1)]
        component = _components(pairs, nodes)
        in_oversize = (np.bincount(component, minlength=nodes) > self._cap)[component]
        component = _components(pairs[~in_oversize[pairs].any(axis=1)], nodes)

        # The earliest name first, names never seen after them, then the anonymous; nodes are sorted, so ties go to the smallest.
        named_since = np.where(self._anonymous | (self._node_seen >= now), np.iinfo(np.int64).max, self._node_seen)
        order = np.lexsort((named_since, self._anonymous))[::-1]
        caller = np.zeros(nodes, dtype=np.int64)
        caller[component[order]] = order
        there = np.flatnonzero(known)
        node = self._node_of[there]
        kind = pl.Series(["named", "anonymous", "blocked"]).gather(np.where(closed, 2, self._anonymous)[node])
        rows = pl.DataFrame({"identity": self._identity.gather(there), "kind": kind}).with_columns(
            customer_id=pl.when(kind != "blocked").then(self._node.gather(caller[component[node]]))
        )
        return rows, self._node.filter(pl.Series(hubs | in_oversize)).to_list()


def _node(rules: Identity, column: str = "identity") -> pl.Expr:
    """What an identity counts as: e-mail addresses that differ in letter case only are one."""
    identity = pl.col(column)
    if not rules.fold_email_case:
        return identity
    lower = identity.map_batches(_lower, return_dtype=pl.String)
    return pl.when(identity.str.contains("@", literal=True)).then(lower).otherwise(identity)


def _lower(identities: pl.Series) -> pl.Series:
    """In lower case, as the statements and the audit have it: of `İ`, `Σ` and newer letters Polars makes others than DuckDB."""
    is_odd = identities.str.contains("@", literal=True) & identities.str.contains(r"[^\x00-\x7F]")
    odd = identities.filter(is_odd).unique().to_frame("identity")
    if odd.is_empty():
        return identities.str.to_lowercase()
    with engine() as connection:
        connection.register("odd", odd.to_arrow())
        lowered = connection.sql("SELECT identity, lower(identity) AS lower FROM odd").pl()
    return identities.str.to_lowercase().zip_with(~is_odd, identities.replace(lowered["identity"], lowered["lower"]))


def _is_blocked(nodes: pl.Series, rules: Identity) -> pl.Series:
    return nodes.str.strip_chars().str.to_lowercase().is_in(list(rules.blocked))


def _places(texts: pl.Series, among: pl.Series) -> np.ndarray:
    numbered = pl.DataFrame({"text": among, "place": np.arange(len(among))})
    return texts.to_frame("text").join(numbered, on="text", how="left", maintain_order="left")["place"].to_numpy()


def _microseconds(instants: pl.Series) -> np.ndarray:
    return instants.dt.epoch("us").to_numpy()


def _components(pairs: np.ndarray, nodes: int) -> np.ndarray:
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(nodes, nodes))
    return connected_components(graph, directed=False)[1]


def people_around(identities: pl.Series, first_seen: pl.DataFrame, aliases: pl.DataFrame, rules: Identity) -> People:
    """What `People` of everyone says of these identities, and of whom aliases join to them; of others it may say less.

    From them it goes `max_aliases` aliases far: a chain of more stays apart, whatever lies beyond.
    """
    nodes = aliases.select("identity", "other_identity", "known_at", one=_node(rules), other=_node(rules, "other_identity"))
    near = identities.alias("identity").to_frame().select(_node(rules)).to_series().unique()
    near = near.filter(~_is_blocked(near, rules))
    for _ in range(rules.max_aliases + 1):
        touched = nodes.filter(pl.col("one").is_in(near.implode()) | pl.col("other").is_in(near.implode()))
        wider = pl.concat([near, touched["one"], touched["other"]]).unique()
        wider = wider.filter(~_is_blocked(wider, rules))
        if len(wider) == len(near):
            break
        near = wider
    return People(first_seen.filter(_node(rules).is_in(near.implode())), touched, rules)


def maps_as_of(work: Work, days: Sequence[date], around: pl.Series | None = None) -> Iterator[tuple[pl.DataFrame, list[str]]]:
    """The map of each day, as `People.as_of` returns it: what `identities` holds, for any day, materialised or not."""
    clock = work.platform.clock
    people = people_until(work, max(days), around)
    for day in days:
        yield people.as_of(clock.begins(day + _ONE_DAY))


def people_until(work: Work, day: date, around: pl.Series | None = None) -> People:
    """Everyone who was seen by the end of a day, for the maps of that day and of earlier ones; `around` some, as `people_around` says."""
    clock, aliases = work.platform.clock, all_aliases(work)
    everyone = work.sql(FIRST_SEEN, start_at=clock.begins(clock.first_day), end_at=clock.begins(day + _ONE_DAY)).pl()
    rules = work.settings.identity
    return People(everyone, aliases, rules) if around is None else people_around(around, everyone, aliases, rules)


def all_aliases(work: Work) -> pl.DataFrame:
    """One row per alias (`identity`, `other_identity`, `known_at`)."""
    work.read(RECORDS)
    return work.sql(_HERE / "aliases.sql").pl()


def identities_as_of(work: Work, day: date) -> pl.DataFrame:
    """One row per identity (`identity`, `kind`, `customer_id`) as of the end of any day: the rows of `identities` of that day.

    For what is recomputed from fixed earlier days, whose partitions of `identities` need not have been materialised.
    """
    ((rows, _),) = maps_as_of(work, [day])
    return rows


def identities(work: Work) -> Mapping[str, Staged]:
    """Who is who, as it was known at the end of the day: every identity and the customer that it belongs to.

    Two identities are one customer when a chain of aliases joins them. Aliases count from the moment that they were
    received, so a late one changes all history in every day computed from then on, and no day knows of a merge before it
    was known. Words that many people share (`guest`, `null`, ...) and identities with too many aliases join nobody:
    they are marked `blocked` and reported here.

    A customer is called by its earliest named identity, an anonymous visitor by the smallest of its identities.
    """
    work.bound_memory()
    staged = work.stage(IDENTITIES)
    for day, known in zip(work.days, maps_as_of(work, work.days), strict=True):
        rows, shared = known
        staged.append(work.rows_of(IDENTITIES, rows.with_columns(as_of_date=pl.lit(day)).to_arrow()))
    work.metadata |= {
        "named": int((rows["kind"] == "named").sum()),
        "anonymous": int((rows["kind"] == "anonymous").sum()),
        "blocked": int((rows["kind"] == "blocked").sum()),
        "identities blocked by the cap on aliases": len(shared),
    }
    if shared:
        work.log.warning(
            f"{len(shared)} identities are aliased with more than {work.settings.identity.max_aliases} others and join nobody. "
            "If they are people, raise [identity] max_aliases; if they are words, add them to blocked."
        )
    return {IDENTITIES.name: staged}


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
