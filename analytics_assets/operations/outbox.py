"""The outbox: alerts that stand or have ended, and the messages about them that are to be delivered.

A SQLite file in the home, which any number of processes write. An alert has a key; while it stands, the same key is no
news. Messages are written in the transaction that raises or ends the alert, one an address, so that a crash loses none.

A message is taken (a lease in the file), sent, and recorded. Who dies between sending and recording leaves the lease to
run out, and the message is sent again: a doubled message is better than a lost one, and every message carries the alert's
number, by which a receiver tells. What an endpoint refuses, or does not answer in time, is tried again with growing pauses
and in the end counted as undelivered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

BUSY_SECONDS = 30
LEASE = timedelta(minutes=5)
FIRST_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(hours=1)

# How the file came to be what it is, oldest first: `PRAGMA user_version` says how many of these it has seen. Files from before
# there was a number have the first one's tables.
STEPS = (
    """
CREATE TABLE IF NOT EXISTS alerts (
    alert INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL, subject TEXT NOT NULL, partition TEXT, owners TEXT NOT NULL,
    run_id TEXT, text TEXT NOT NULL, raised_at TEXT NOT NULL, seen_at TEXT NOT NULL, times_seen INTEGER NOT NULL DEFAULT 1,
    recovered_at TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS standing ON alerts (key) WHERE recovered_at IS NULL;
CREATE TABLE IF NOT EXISTS messages (
    message INTEGER PRIMARY KEY AUTOINCREMENT,
    alert INTEGER NOT NULL REFERENCES alerts, news TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due_at TEXT NOT NULL, ended_at TEXT, problem TEXT,
    UNIQUE (alert, news, address)
);
CREATE INDEX IF NOT EXISTS due ON messages (state, due_at);
CREATE TABLE IF NOT EXISTS runs_seen (run_id TEXT PRIMARY KEY, ended_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
""",
)

WAITING, TAKEN, DELIVERED, UNDELIVERED, NO_ADDRESS = "waiting", "taken", "delivered", "undelivered", "no address"


@dataclass(frozen=True)
class Alert:
    """Something that is wrong. `key` says what is the same thing; `subject` is an asset or a part of the platform."""

    key: str
    kind: str
    severity: str
    subject: str
    text: str
    partition: str | None = None
    owners: tuple[str, ...] = ()
    run_id: str | None = None


@dataclass(frozen=True)
class Standing:
    """An alert as the outbox holds it."""

    number: int
    alert: Alert
    raised_at: datetime
    seen_at: datetime
    times_seen: int
    recovered_at: datetime | None
    delivery: str


@dataclass(frozen=True)
class Message:
    """News of an alert for one address; `news` is `raised` or `recovered`, and the alert may be over by now."""

    number: int
    alert_number: int
    news: str
    address: str
    attempts: int
    alert: Alert
    is_over: bool


class OutboxError(Exception):
    """The outbox cannot be used; the message says what to do."""


class Outbox:
    """The outbox of a home. Every method is one transaction; those called inside `together` are one with each other."""

    def __init__(self, file: Path) -> None:
        """Name the file; it is made by the first method that writes."""
        self.file = file
        self._open: sqlite3.Connection | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make all of it happen or nothing; other processes wait."""
        with self._connection() as connection:
            self._open = connection
            try:
                yield
            finally:
                self._open = None

    @contextmanager
    def _connection(self, writing: bool = True) -> Iterator[sqlite3.Connection]:
        if self._open:
            yield self._open
            return
        if not writing:
            # Not `ro`: who comes first after a process that was killed in a transaction must roll it back, to read too.
            connection = sqlite3.connect(f"{self.file.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
        else:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.file, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            if writing:
                connection.execute("BEGIN IMMEDIATE")
                self._bring_up(connection)
            yield connection
            if writing:
                connection.execute("COMMIT")
        finally:
            connection.close()

    def _bring_up(self, connection: sqlite3.Connection) -> None:
        """Take the steps that the file has not seen, within the open transaction."""
        seen = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if seen > len(STEPS):
            raise OutboxError(
                f"{self.file} was written by a newer version of Analytics Assets (version {seen} of the file; this one knows "
                f"{len(STEPS)}). Use that version."
            )
        for statement in (statement for step in STEPS[seen:] for statement in step.split(";") if statement.strip()):
            connection.execute(statement)
        if seen < len(STEPS):
            connection.execute(f"PRAGMA user_version = {len(STEPS)}")

    @property
    def _is_there(self) -> bool:
        """The schema comes into the file as a whole; before that the file is not there, or empty."""
        return self.file.exists() and self.file.stat().st_size > 0

    def raise_alert(self, alert: Alert, at: datetime) -> int:
        """Note that something is wrong; what stands already is seen once more.

        Returns:
            The alert's number.
        """
        with self._connection() as connection:
            standing = connection.execute(
                "SELECT alert FROM alerts WHERE key = ? AND recovered_at IS NULL", (alert.key,)
            ).fetchone()
            if standing:
                connection.execute(
                    "UPDATE alerts SET times_seen = times_seen + 1, seen_at = max(seen_at, ?), kind = ?, severity = ?, text = ?, "
                    "partition = ?, run_id = ? WHERE alert = ?",
                    (_text(at), alert.kind, alert.severity, alert.text, alert.partition, alert.run_id, standing["alert"]),
                )
                return int(standing["alert"])
            made = connection.execute(
                "INSERT INTO alerts (key, kind, severity, subject, partition, owners, run_id, text, raised_at, seen_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(alert.key, alert.kind, alert.severity, alert.subject, alert.partition, " ".join(alert.owners)),
                    *(alert.run_id, alert.text, _text(at), _text(at)),
                ),
            )
            return int(made.lastrowid or 0)

    def recover(self, key: str, at: datetime) -> bool:
        """Note that a thing is right again; False where it was."""
        with self._connection() as connection:
            ended = connection.execute(
                "UPDATE alerts SET recovered_at = ? WHERE key = ? AND recovered_at IS NULL", (_text(at), key)
            )
            return ended.rowcount == 1

    def seen_first(self, run_id: str, ended_at: datetime) -> bool:
        """Note that a run was looked at; False where it had been."""
        with self._connection() as connection:
            query = "INSERT INTO runs_seen VALUES (?, ?) ON CONFLICT DO NOTHING"
            return connection.execute(query, (run_id, _text(ended_at))).rowcount == 1

    def forget_runs_before(self, instant: datetime) -> None:
        """Forget runs that nobody will ask for again."""
        with self._connection() as connection:
            connection.execute("DELETE FROM runs_seen WHERE ended_at < ?", (_text(instant),))

    def seen_until(self) -> datetime | None:
        """When the newest run that was looked at had ended."""
        if not self._is_there:
            return None
        with self._connection(writing=False) as connection:
            newest = connection.execute("SELECT max(ended_at) FROM runs_seen").fetchone()[0]
        return datetime.fromisoformat(newest) if newest else None

    def address(self, number: int, news: str, addresses: Sequence[str], at: datetime, state: str = WAITING) -> None:
        """Write the messages about an alert, one an address, unless they are written already."""
        with self._connection() as connection:
            if state == WAITING and addresses:
                query = "DELETE FROM messages WHERE alert = ? AND news = ? AND state = ?"
                connection.execute(query, (number, news, NO_ADDRESS))
            connection.executemany(
                "INSERT INTO messages (alert, news, address, state, due_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [(number, news, address, state, _text(at)) for address in addresses],
            )

    def unaddressed(self, raised_after: datetime) -> list[tuple[Standing, str]]:
        """Alerts that nobody was written to yet, with the news: those that stand, and those that came and went after an instant.

        News that an alert ended is written to nobody who was not told that it began. Where no address was known, nobody was told.
        """
        told = "EXISTS (SELECT 1 FROM messages m WHERE m.alert = alerts.alert AND m.news = '{news}' AND m.state <> '{none}')"
        began, ended = (told.format(news=news, none=NO_ADDRESS) for news in ("raised", "recovered"))
        with self._connection() as connection:
            rows = connection.execute(
                f"""SELECT alerts.*, 'raised' AS news FROM alerts
                WHERE (recovered_at IS NULL OR raised_at >= ?) AND NOT {began}
                UNION ALL SELECT alerts.*, 'recovered' FROM alerts
                WHERE recovered_at IS NOT NULL AND (raised_at >= ? OR {began}) AND NOT {ended}
                ORDER BY alert, news""",
                (_text(raised_after), _text(raised_after)),
            ).fetchall()
        return [(_standing(row, ""), row["news"]) for row in rows]

    def addresses_of(self, number: int, news: str) -> list[str]:
        """To which addresses news of an alert was written."""
        with self._connection() as connection:
            query = "SELECT address FROM messages WHERE alert = ? AND news = ? AND state <> ? ORDER BY address"
            return [row["address"] for row in connection.execute(query, (number, news, NO_ADDRESS))]

    def due(self, now: datetime) -> list[str]:
        """Addresses with messages that are due."""
        with self._connection() as connection:
            query = "SELECT DISTINCT address FROM messages WHERE state IN (?, ?) AND due_at <= ? ORDER BY 1"
            return [row["address"] for row in connection.execute(query, (WAITING, TAKEN, _text(now)))]

    def take(self, address: str, now: datetime) -> list[Message]:
        """Take every message to an address that is due; for the length of the lease they are nobody else's.

        A message that somebody took and did not report on in time is due again. Taking counts as an attempt. That an alert began goes
        with the news of its end, or before it: not after it, however long the pause since the endpoint refused.
        """
        with self._connection() as connection:
            rows = connection.execute(
                """WITH open AS (SELECT * FROM messages WHERE address = :address AND state IN (:waiting, :taken)),
                due AS (SELECT alert FROM open WHERE due_at <= :now),
                at_work AS (SELECT alert FROM open WHERE news = 'raised' AND state = :taken AND due_at > :now)
                UPDATE messages SET state = :taken, attempts = attempts + 1, due_at = :until
                WHERE message IN (
                    SELECT message FROM open
                    WHERE (due_at <= :now OR state = :waiting AND news = 'raised' AND alert IN (SELECT alert FROM due))
                    AND (news = 'raised' OR alert NOT IN (SELECT alert FROM at_work))
                )
                RETURNING message, alert, news, address, attempts""",
                {"address": address, "waiting": WAITING, "taken": TAKEN, "now": _text(now), "until": _text(now + LEASE)},
            ).fetchall()
            wanted = ", ".join(str(row["alert"]) for row in rows)
            alerts = {
                row["alert"]: _standing(row, "") for row in connection.execute(f"SELECT * FROM alerts WHERE alert IN ({wanted})")
            }
        return [
            Message(
                *(row["message"], row["alert"], row["news"], row["address"], row["attempts"]),
                *(alerts[row["alert"]].alert, alerts[row["alert"]].recovered_at is not None),
            )
            for row in sorted(rows, key=lambda row: row["message"])
        ]

    def delivered(self, messages: Sequence[Message], now: datetime) -> None:
        """Record that an endpoint has accepted messages."""
        with self._connection() as connection:
            connection.executemany(
                "UPDATE messages SET state = ?, ended_at = ?, problem = NULL WHERE message = ?",
                [(DELIVERED, _text(now), message.number) for message in messages],
            )

    def refused(self, messages: Sequence[Message], problem: str, attempts: int, now: datetime) -> None:
        """Record that an endpoint has not: they are due again after a pause that doubles, or undelivered after `attempts`."""
        with self._connection() as connection:
            for message in messages:
                given_up = message.attempts >= attempts
                pause = min(FIRST_PAUSE * 2 ** (message.attempts - 1), LONGEST_PAUSE)
                connection.execute(
                    "UPDATE messages SET state = ?, due_at = ?, ended_at = ?, problem = ? WHERE message = ?",
                    (
                        *(UNDELIVERED if given_up else WAITING, _text(now + pause), _text(now) if given_up else None),
                        *(problem, message.number),
                    ),
                )

    def try_again(self, now: datetime) -> int:
        """Make what is undelivered due again, from the first attempt on."""
        with self._connection() as connection:
            query = "UPDATE messages SET state = ?, attempts = 0, due_at = ?, ended_at = NULL WHERE state = ?"
            return connection.execute(query, (WAITING, _text(now), UNDELIVERED)).rowcount

    def alerts(self, standing_only: bool = False) -> list[Standing]:
        """Alerts, newest first, with what became of their messages."""
        if not self._is_there:
            return []
        where = "WHERE recovered_at IS NULL" if standing_only else ""
        with self._connection(writing=False) as connection:
            rows = connection.execute(f"SELECT * FROM alerts {where} ORDER BY alert DESC").fetchall()
            states: dict[int, list[sqlite3.Row]] = {}
            for row in connection.execute("SELECT * FROM messages ORDER BY message"):
                states.setdefault(row["alert"], []).append(row)
        return [_standing(row, _delivery(states.get(row["alert"], []))) for row in rows]

    def undelivered(self) -> dict[str, int]:
        """How many messages each address has not accepted, after all attempts."""
        return self._counted("state = ?", (UNDELIVERED,))

    def overdue(self, before: datetime) -> dict[str, int]:
        """How many messages of each address have been due since before an instant: nobody delivers."""
        return self._counted("state IN (?, ?) AND due_at < ?", (WAITING, TAKEN, _text(before)))

    def waiting(self) -> dict[str, int]:
        """How many messages to each address no endpoint has accepted yet, and will be asked to again."""
        return self._counted("state IN (?, ?)", (WAITING, TAKEN))

    def _counted(self, where: str, values: tuple[str, ...]) -> dict[str, int]:
        if not self._is_there:
            return {}
        with self._connection(writing=False) as connection:
            rows = connection.execute(f"SELECT address, count(*) FROM messages WHERE {where} GROUP BY 1 ORDER BY 1", values)
            return dict(rows)

    def note(self, name: str) -> str | None:
        """What was noted under a name."""
        if not self._is_there:
            return None
        with self._connection(writing=False) as connection:
            row = connection.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return row["value"] if row else None

    def take_note(self, name: str, value: str | None) -> None:
        """Note a value under a name; None forgets it."""
        with self._connection() as connection:
            connection.execute("DELETE FROM notes WHERE name = ?", (name,))
            if value is not None:
                connection.execute("INSERT INTO notes VALUES (?, ?)", (name, value))


def _standing(row: sqlite3.Row, delivery: str) -> Standing:
    alert = Alert(
        key=row["key"],
        kind=row["kind"],
        severity=row["severity"],
        subject=row["subject"],
        text=row["text"],
        partition=row["partition"],
        owners=tuple(row["owners"].split()),
        run_id=row["run_id"],
    )
    recovered = row["recovered_at"]
    return Standing(
        number=row["alert"],
        alert=alert,
        raised_at=datetime.fromisoformat(row["raised_at"]),
        seen_at=datetime.fromisoformat(row["seen_at"]),
        times_seen=row["times_seen"],
        recovered_at=datetime.fromisoformat(recovered) if recovered else None,
        delivery=delivery,
    )


def _delivery(messages: Sequence[sqlite3.Row]) -> str:
    """What became of an alert's messages, in words: `raised: delivered to A; recovered: waiting for A, 2 attempts (error 500)`."""
    words = []
    for row in messages:
        tried = f", {row['attempts']} attempts" if row["state"] != DELIVERED and row["attempts"] else ""
        problem = f" ({row['problem']})" if row["problem"] else ""
        words.append(f"{row['news']}: {row['state']}, {row['address']}{tried}{problem}")
    return "; ".join(words)


def _text(instant: datetime) -> str:
    """Instants in UTC and of one length sort as texts."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")
