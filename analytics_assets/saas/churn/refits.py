"""Refits within one materialisation: each is made once from its training rows and shared by all days that it serves."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import polars as pl

from analytics_assets.saas.churn.backtest import NotEnoughHistory, Refit, Serving, anchors, digest_of, no_cut_off, refit, serving
from analytics_assets.saas.churn.features import Kind, inputs_of
from analytics_assets.saas.churn.histories import Histories
from analytics_assets.saas.churn.models import Model


class Refits:
    """The refits of the days and anchors that one materialisation asks for, made from data and from no published model."""

    def __init__(self, histories: Histories) -> None:
        """Begin with none; `stored` are the models that were written to or read from their files, by id."""
        self.histories = histories
        self.stored: dict[str, Model] = {}
        self._made: dict[tuple[Kind, str], Refit | str] = {}

    def at(self, kind: Kind, anchor: date, rows: pl.DataFrame | None = None) -> Refit:
        """The refit as of the end of a day; `rows` is its training set, where it is at hand. Raises NotEnoughHistory."""
        label = self.histories.churn(kind)
        drivers = self.histories.drivers(label)
        rows = (self.histories.training_rows(label, anchor) if rows is None else rows).sort("cut_off", "subject_id")
        key = kind, digest_of(rows, inputs_of(drivers, rows))
        if key not in self._made:
            try:
                self._made[key] = refit(rows, kind, anchor, label.horizon_days, drivers)
            except NotEnoughHistory as reason:
                self._made[key] = str(reason)
        found = self._made[key]
        if isinstance(found, str):
            raise NotEnoughHistory(found)
        return replace(found, anchor=anchor)

    def serving(self, kind: Kind, day: date, rows: pl.DataFrame | None = None) -> Serving:
        """The refit that serves a day; `rows` is the day's training set, where it is at hand. Raises NotEnoughHistory."""
        label = self.histories.churn(kind)
        rows = self.histories.training_rows(label, day) if rows is None else rows
        cut_offs = self.histories.cut_offs(label, day)
        if not cut_offs:
            raise NotEnoughHistory(no_cut_off(label.horizon_days))
        return serving(
            lambda: self.at(kind, day, rows),
            lambda anchor: self.at(kind, anchor),
            anchors(cut_offs[-1], self.histories.work.platform.clock.first_day),
            rows.filter(pl.col("cut_off") == cut_offs[-1]),
            self.histories.drivers(label),
        )
