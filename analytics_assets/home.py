"""Where everything that is written lies: `ANALYTICS_HOME`, and what it remembers of the export that it holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path

from analytics_assets.settings import PROJECT_ROOT, Settings


class HomeError(Exception):
    """The home folder holds something else, or cannot be written; the message says what to do."""


# Among `built_with`: no fingerprint, so that whatever the settings are now, the table is computed anew.
SEVERAL_VERSIONS = "several"


@dataclass(frozen=True)
class Contents:
    """What a home holds: one export of one company.

    `exports` and `format` are pinned by the first load, so that two companies never mix in one home. `first_day` is the
    business day on which the partitions begin where the settings do not say. `built_with` maps each table to the
    fingerprint of code and settings that its partitions were made with.
    """

    exports: str | None = None
    format: str = "kissmetrics"
    first_day: str | None = None
    built_with: dict[str, str] | None = None


@dataclass(frozen=True)
class Home:
    """Paths below one home folder."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """`ANALYTICS_HOME`, or `data/` beside the package.

        Raises:
            HomeError: no Delta table can lie below it.
        """
        root = Path(os.environ.get("ANALYTICS_HOME") or PROJECT_ROOT / "data").expanduser().resolve()
        # Delta's library reads it as the character that it stands for in a URL, and looks elsewhere.
        if found := re.search("%[0-9A-Fa-f]{2}", str(root)):
            raise HomeError(
                f"{root} cannot hold tables: {found[0]} in a path is read as another character. Name another ANALYTICS_HOME."
            )
        return cls(root)

    @property
    def lake(self) -> Path:
        """Delta tables, one folder each."""
        return self.root / "lake"

    @property
    def database(self) -> Path:
        """What people open: a link to the newest published version."""
        return self.root / "analytics.duckdb"

    @property
    def published(self) -> Path:
        """The numbered versions behind `database`."""
        return self.root / "published"

    @property
    def dagster(self) -> Path:
        """Dagster's own storage (`DAGSTER_HOME`)."""
        return self.root / "dagster"

    @property
    def alerts(self) -> Path:
        """The outbox of alerts."""
        return self.root / "alerts.sqlite"

    @property
    def spill(self) -> Path:
        """What computations put down that do not fit into memory, a folder each, while they are at work."""
        return self.root / "spill"

    @property
    def simulation(self) -> Path:
        """The simulated company's export."""
        return self.root / "simulation"

    @property
    def _contents_file(self) -> Path:
        return self.root / "home.json"

    def contents(self) -> Contents:
        """What the home holds; an empty one holds nothing yet."""
        try:
            remembered = dict(json.loads(self._contents_file.read_text()))
        except FileNotFoundError:
            return Contents()
        except (ValueError, TypeError) as error:
            raise HomeError(f"{self._contents_file} is damaged ({error}). Remove it: the next run writes it anew.") from None
        if unknown := remembered.keys() - {field.name for field in fields(Contents)}:
            raise HomeError(
                f"{self._contents_file} was written by a newer version of Analytics Assets: {', '.join(sorted(unknown))} is unknown to this "
                "one. Use that version, or a home of its own for this one."
            )
        return Contents(**remembered)

    def remember(self, **changes: object) -> Contents:
        """Change what is remembered, atomically."""
        with self.lock("home"):
            contents = replace(self.contents(), **changes)  # type: ignore[arg-type]
            temporary = self._contents_file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(asdict(contents), indent=1, sort_keys=True) + "\n")
            temporary.replace(self._contents_file)
        return contents

    def builds(self, table: str, version: str) -> None:
        """Note that partitions of a table are built now: where others were by another version, all are to be built anew, also when that
        version comes back.
        """
        built_with = self.contents().built_with or {}
        if built_with.get(table, version) != version:
            self.remember(built_with=built_with | {table: SEVERAL_VERSIONS})

    def first_day(self, settings: Settings) -> date | None:
        """The first business day with a partition: the setting, or what the first load found; None before that."""
        if settings.business.first_day:
            return settings.business.first_day
        found = self.contents().first_day
        return date.fromisoformat(found) if found else None

    @contextlib.contextmanager
    def lock(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold `name` against other processes of this home; the kernel frees it when the holder dies.

        `waiting` is called once when another process holds it, before waiting for it to end.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / f".{name}.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
