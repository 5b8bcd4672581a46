"""Hours and business days: both in the business's time zone, both beginning at `first_day`, and how they map.

A partition is its time window, never its key: when the clock goes back an hour comes twice, and its second key carries an
offset. Tables hold instants in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from analytics_assets.home import Home
from analytics_assets.settings import Settings
from analytics_assets.warehouse.lake import Window

# As-of tables read all earlier days. Planning 4,000 days took 0.1 s, the same as one day.
ALL_EARLIER_DAYS = 4_000
# What is as of a day of the last week is restated by itself; for what is older somebody asks.
LOOKBACK = timedelta(days=7)
# That on which clocks go back.
LONGEST_DAY = timedelta(hours=25)


@dataclass(frozen=True)
class BusinessClock:
    """First and last business day, and the partitions between them. Without `last_day` the business is live."""

    settings: Settings
    first_day: date

    @classmethod
    def of(cls, settings: Settings, home: Home) -> BusinessClock:
        """The clock of a home; before its first load the partitions begin today."""
        today = datetime.now(settings.business.zone).date()
        return cls(settings, home.first_day(settings) or min(today, settings.business.last_day or today))

    @property
    def hours(self) -> dg.HourlyPartitionsDefinition:
        """Hourly partitions."""
        return dg.HourlyPartitionsDefinition(
            start_date=self._naive(self.first_day), end_date=self._end, timezone=self.settings.business.time_zone
        )

    @property
    def days(self) -> dg.DailyPartitionsDefinition:
        """Daily partitions."""
        return dg.DailyPartitionsDefinition(
            start_date=self._naive(self.first_day), end_date=self._end, timezone=self.settings.business.time_zone
        )

    @property
    def _end(self) -> datetime | None:
        last = self.settings.business.last_day
        return self._naive(last + timedelta(days=1)) if last else None

    def _naive(self, day: date) -> datetime:
        return datetime.combine(day, time.min)

    def begins(self, day: date) -> datetime:
        """The instant at which a business day begins."""
        return datetime.combine(day, time.min, self.settings.business.zone).astimezone(UTC)

    def day_of(self, instant: datetime) -> date:
        """The business day that an instant falls on."""
        return instant.astimezone(self.settings.business.zone).date()

    def now(self) -> datetime:
        """The end of the data for a historical export, else the time of day."""
        last = self.settings.business.last_day
        wall = datetime.now(UTC)
        return min(wall, self.begins(last + timedelta(days=1))) if last else wall

    @property
    def is_over(self) -> bool:
        """Whether the business's last day has ended: a historical export, whose clock stands still."""
        last = self.settings.business.last_day
        return last is not None and datetime.now(UTC) >= self.begins(last + timedelta(days=1))

    def hour_keys(self, start: datetime, end: datetime) -> dict[datetime, str]:
        """Partition keys of the hours from `start` to `end` by the instant (UTC) at which each begins.

        One look-up for the whole range: asking Dagster for each hour took longer than computing it.
        """
        if end <= start:
            return {}
        keys = keys_between(self.hours, start, end)
        return {start.astimezone(UTC) + timedelta(hours=number): key for number, key in enumerate(keys)}

    def window(self, start: datetime, end: datetime) -> Window:
        """The window between two instants, as business days and instants in UTC."""
        start, end = start.astimezone(UTC), end.astimezone(UTC)
        first, last = self.day_of(start), self.day_of(end - timedelta(microseconds=1))
        whole = start == self.begins(first) and end == self.begins(last + timedelta(days=1))
        return Window(first, last, start, end, whole)


def keys_between(definition: dg.TimeWindowPartitionsDefinition, start: datetime, end: datetime) -> Sequence[str]:
    """Keys of the partitions between two instants.

    Asked in UTC: of two times on one local clock Python compares what the clock shows, and the hour that repeats ends, by that,
    when it begins. It was left out until the next hour came in.
    """
    return definition.get_partition_keys_in_time_window(dg.TimeWindow(start.astimezone(UTC), end.astimezone(UTC)))


def hours_of_the_day() -> dg.TimeWindowPartitionMapping:
    """A day needs its own 23, 24 or 25 hours."""
    return dg.TimeWindowPartitionMapping()


def all_earlier_days() -> dg.TimeWindowPartitionMapping:
    """A day needs itself and every day before it: late data restates the as-of days that come after."""
    return dg.TimeWindowPartitionMapping(start_offset=-ALL_EARLIER_DAYS, allow_nonexistent_upstream_partitions=True)


def with_earlier(partitions: int) -> dg.TimeWindowPartitionMapping:
    """A partition needs those of its own time and of so many partitions like itself before; there are none before the first day."""
    return dg.TimeWindowPartitionMapping(start_offset=-partitions, allow_nonexistent_upstream_partitions=True)


def the_evening_before(by_the_hour: bool) -> dg.TimeWindowPartitionMapping:
    """An hour or a day needs the day before its own.

    Hours are shifted by hours, and the day before has 23 to 25 of them: the shift that always covers the day before also covers
    the one before that, and for the last hour of a day the day itself, which therefore waits until its day is computed.
    """
    start, end = (-25, -23) if by_the_hour else (-1, -1)
    return dg.TimeWindowPartitionMapping(start_offset=start, end_offset=end, allow_nonexistent_upstream_partitions=True)
