"""`python -W ignore -m analytics_assets_tests.kills.crowd FOLDER SECONDS`: eight writers, four readers, maintenance, all at once.

Each writer replaces days that others replace too, an hour of its own on a day that all share, and adds one to a number that
all add to, each followed by publication. Readers want whole days: all rows of a day are of one write, as many as it wrote. Two read
`analytics.duckdb`, one the lake at pinned versions, one opens the database as a careless person does, to write. In the end no
write is lost: every hour holds its writer's last number, and the number is as high as it was counted. Ends with 1 if anybody saw an error.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb

from analytics_assets.home import Home
from analytics_assets.operations.maintenance import maintain
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake, Pin, predicate_for
from analytics_assets.warehouse.publishing import is_behind, publish
from analytics_assets.warehouse.work import Platform
from analytics_assets.warehouse.writing import Overtaken
from analytics_assets_tests.conftest import AUTUMN
from analytics_assets_tests.kills.killing import answer, apart, start
from analytics_assets_tests.warehouse.conftest import DAILY, HOURLY, days, hours, rows_of, sale, tick

WRITERS, READERS, ROWS = 8, 2, 40
TABLES = (DAILY, HOURLY)
# The day of the number that all add to; days before it are replaced by anybody.
COUNTED = 9
WHOLE = f"""SELECT day, count(*), count(DISTINCT till) FROM sales WHERE day < '2011-11-{COUNTED:02}'
    GROUP BY day HAVING count(*) <> {ROWS} OR count(DISTINCT till) <> 1"""


def rounds(until: float) -> Iterator[None]:
    """Until time is over, and twice at least, however slow the machine is."""
    yield from (None, None)
    while time.monotonic() < until:
        yield


def write(home: Home, number: int, until: float) -> dict[str, int]:
    """Replace days, an hour, and the number, until time is over; how often."""
    lake, chance = Lake(home.lake), random.Random(number)
    wrote = added = 0
    for _ in rounds(until):
        wrote += 1
        day = chance.randrange(1, COUNTED)
        sales = rows_of(DAILY, [sale(f"{day}-{row}", day, till=f"{number}-{wrote}") for row in range(ROWS)])
        if wrote % 2:
            lake.replace(DAILY, sales, predicate_for(DAILY, days(day, day)), {})
        else:
            with contextlib.closing(lake.stage(DAILY)) as staged:
                staged.append(sales)
                lake.adopt(staged, days(day, day), {})
        window = hours(number, number + 1)
        lake.replace(HOURLY, rows_of(HOURLY, [tick(number, 1_000_000 * number + wrote)]), predicate_for(HOURLY, window), {})
        added += add_one(lake)
        publish(home, TABLES)
    return {f"hour {number}": wrote, "added": added}


def add_one(lake: Lake) -> int:
    """Read the number and write it one higher, unless somebody did meanwhile, as assets do; 1 when it was written."""
    predicate = predicate_for(DAILY, days(COUNTED, COUNTED))
    seen = lake.pin(DAILY)
    with engine() as connection:
        attach(connection, seen, predicate)
        (now,) = connection.sql(f"SELECT coalesce(max(amount), 0) FROM sales WHERE day = '2011-11-{COUNTED:02}'").fetchall()[0]

    def before(pin: Pin) -> None:
        if pin.files(predicate) != seen.files(predicate):
            raise Overtaken

    try:
        lake.replace(DAILY, rows_of(DAILY, [sale("number", COUNTED, amount=now + 1)]), predicate, {}, before)
    except Overtaken:
        return 0
    return 1


def read_database(home: Home, number: int, until: float) -> dict[str, int]:
    """Open `analytics.duckdb` again and again, and want whole days and a number that never falls."""
    reads, highest = 0, 0
    for _ in rounds(until):
        with contextlib.closing(duckdb.connect(str(home.database), read_only=True)) as connection:
            for _again in range(3):
                assert not (torn := connection.sql(WHOLE).fetchall()), torn
            (now,) = connection.sql(f"SELECT max(amount) FROM sales WHERE day = '2011-11-{COUNTED:02}'").fetchall()[0]
            assert (now or 0) >= highest, f"from {highest} back to {now}: an older version over a newer one"
            highest, reads = now or 0, reads + 1
    return {"reads of the database": reads}


def read_lake(home: Home, number: int, until: float) -> dict[str, int]:
    """Pin the lake, and want whole days from the pinned version for as long as it is read."""
    reads = 0
    for _ in rounds(until):
        with engine() as connection:
            attach(connection, Lake(home.lake).pin(DAILY))
            found = set()
            for _again in range(5):
                assert not (torn := connection.sql(WHOLE).fetchall()), torn
                found.add(connection.sql("SELECT max(amount), bit_xor(hash(till)) FROM sales").fetchall()[0])
            assert len(found) == 1, found
        reads += 1
    return {"reads of the lake": reads}


def read_carelessly(home: Home, number: int, until: float) -> dict[str, int]:
    """Open `analytics.duckdb` to write, as who is not the superuser; it is refused, and reading goes on."""
    opened = refused = 0
    if os.geteuid() == 0:
        os.setuid(65534)
    for _ in rounds(until):
        try:
            with contextlib.closing(duckdb.connect(str(home.database))) as connection:
                connection.execute("DELETE FROM sales")
            opened += 1
        except duckdb.Error:
            refused += 1
        time.sleep(0.05)
    assert not opened and refused
    return {"careless opens": refused}


def look_after(home: Home, number: int, until: float) -> dict[str, int]:
    """Merge small files all the time."""
    platform, merged = Platform(parse_settings(AUTUMN, "x"), home, list(TABLES)), 0
    instance = dg.DagsterInstance.ephemeral()
    for _ in rounds(until):
        merged += sum(one.files_merged for one in maintain(platform, instance, datetime.now(UTC)))
    return {"files merged": merged}


def crowd(folder: Path, seconds: float) -> tuple[dict[str, int], list[str]]:
    """What everybody did together, and the errors that anybody saw."""
    home = Home(folder / "home")
    shutil.rmtree(home.root, ignore_errors=True)
    parts: list[tuple[Callable[[Home, int, float], dict[str, int]], int]] = [(write, number) for number in range(WRITERS)]
    parts += [(read_database, number) for number in range(READERS)] + [(read_lake, 0), (read_carelessly, 0), (look_after, 0)]
    apart(lambda: _begin(home))
    until = time.monotonic() + seconds
    children = {start(lambda part=part, number=number: part(home, number, until)): part.__name__ for part, number in parts}
    done: dict[str, int] = {}
    errors = []
    for started, name in children.items():
        try:
            for what, count in answer(started).items():
                done[what] = done.get(what, 0) + count
        except RuntimeError as error:
            errors.append(f"{name}: {error}")
    return done, errors + apart(lambda: _lost(home, done))


def _begin(home: Home) -> None:
    lake = Lake(home.lake)
    for day in range(1, COUNTED):
        sales = rows_of(DAILY, [sale(f"{day}-{row}", day, till="begin") for row in range(ROWS)])
        lake.replace(DAILY, sales, predicate_for(DAILY, days(day, day)), {})
    publish(home, TABLES)


def _lost(home: Home, done: dict[str, int]) -> list[str]:
    """What was written and is not there, in the lake or in the database."""
    wrong = [] if not is_behind(home, TABLES) else ["the database does not show the lake"]
    with contextlib.closing(duckdb.connect(str(home.database), read_only=True)) as connection:
        ticks = sorted(row[0] for row in connection.sql("SELECT tick FROM ticks").fetchall())
        number = connection.sql(f"SELECT max(amount) FROM sales WHERE day = '2011-11-{COUNTED:02}'").fetchall()[0][0]
        wrong += [f"torn: {row}" for row in connection.sql(WHOLE).fetchall()]
    wanted = sorted(1_000_000 * writer + done.get(f"hour {writer}", -1) for writer in range(WRITERS))
    if ticks != wanted:
        wrong.append(f"hours hold {ticks}, written last were {wanted}")
    if number != done.get("added"):
        wrong.append(f"the number is {number} and was raised {done.get('added')} times")
    return wrong


def main() -> int:
    folder, seconds = Path(sys.argv[1]).resolve(), float(sys.argv[2])
    done, errors = crowd(folder, seconds)
    print("\n".join([*errors, f"{done}", f"{len(errors)} errors"]))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
