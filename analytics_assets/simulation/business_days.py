"""Business days as instants: how a simulated company's time of day becomes seconds."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class BusinessDays:
    """Business days as instants. A day position is a float: 3.25 is a quarter through the fourth day's trade.

    Within a day positions follow 24 weights of its hours by the local clock. A day on which clocks change has 23 or 25
    hours with their own weights, so that no local time is made up and later positions are later instants. `starts`
    has the instant at which each day begins, and one more: the end of the last.
    """

    def __init__(self, first_day: date, days: int, zone: ZoneInfo, hour_weights: Floats) -> None:
        """Lay out this many days from the first one on."""
        midnights = (datetime.combine(first_day + timedelta(n), datetime.min.time(), zone) for n in range(days + 1))
        self.starts: Ints = np.array([int(midnight.timestamp()) for midnight in midnights], dtype=np.int64)
        self._curves = {}
        lengths = np.diff(self.starts)
        for day in (0, *np.flatnonzero(lengths != 86_400)):
            slots = np.arange(self.starts[day], self.starts[day + 1], 1_800)
            hours = [datetime.fromtimestamp(int(slot), zone).hour for slot in slots]
            self._curves[int(day)] = np.concatenate(([0.0], np.cumsum(hour_weights[hours])))
        ordinary = int(np.argmax(lengths == 86_400))
        if ordinary not in self._curves:
            self._curves[ordinary] = np.concatenate(([0.0], np.cumsum(np.repeat(hour_weights, 2))))
        self._ordinary = ordinary

    def instants(self, positions: Floats) -> Ints:
        """Turn day positions into instants, whole seconds, each on its own day."""
        day = np.floor(positions).astype(np.int64)
        seconds = self._seconds(self._ordinary, positions - day)
        for odd in self._curves.keys() - {self._ordinary}:
            on_it = np.flatnonzero(day == odd)
            seconds[on_it] = self._seconds(odd, positions[on_it] - odd)
        return self.starts[day] + seconds

    def _seconds(self, day: int, share: Floats) -> Ints:
        curve = self._curves[day]
        return np.floor(np.interp(share, curve / curve[-1], np.arange(len(curve)) * 1_800.0)).astype(np.int64)

    def days(self, instants: Ints) -> Ints:
        """Give each instant's business day, 0 = the first."""
        return np.searchsorted(self.starts, instants, side="right") - 1
