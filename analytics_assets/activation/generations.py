"""Folders that go out: built beside, checked, named after their content, and shown by switching a link.

    ROOT/generations/2026-03-30-1f0c…/   files and manifest.json, never changed once they are there
    ROOT/2026-03-30                      link to the generation of that day
    ROOT/current                         link to the newest day's generation (on-site only)
    ROOT/status.json                     whether the newest day is out, and if not, since when and why

A reader who follows a link sees one whole generation, whatever is being written or has failed beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
STATUS = "status.json"


@dataclass(frozen=True)
class Generation:
    """A finished folder: its business day, its name, and what its manifest says."""

    day: date
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`DATE-` and twelve hex digits of its content: equal content has an equal name."""
        return str(self.manifest["generation"])

    def damaged_files(self) -> list[str]:
        """Files that are not, byte for byte, what the manifest says."""
        return [
            name
            for name, said in self.manifest["files"].items()
            if not (self.folder / name).is_file() or sha256_of(self.folder / name) != said["sha256"]
        ]


@dataclass(frozen=True)
class Channel:
    """The generations of one way out, below `root`; the newest `days_kept` stay."""

    root: Path
    days_kept: int

    def generation(self, day: date) -> Generation | None:
        """What is out for a day."""
        return self._sealed(self.root / day.isoformat(), day)

    def days(self) -> list[date]:
        """Days that have a generation, oldest first."""
        return sorted(
            date.fromisoformat(link.name) for link in self.root.glob("[0-9]*-[0-9][0-9]-[0-9][0-9]") if link.is_symlink()
        )

    def newest(self) -> Generation | None:
        """The newest day's generation."""
        days = self.days()
        return self.generation(days[-1]) if days else None

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """An empty folder to write into. What a killed process left there is cleared away first; hold the channel's lock."""
        generations = self.root / "generations"
        generations.mkdir(parents=True, exist_ok=True)
        for leftover in generations.glob(".building*"):
            shutil.rmtree(leftover)
        folder = generations / ".building"
        folder.mkdir()
        try:
            yield folder
        finally:
            # On a full disk removing still works, and gives back what the attempt took.
            shutil.rmtree(folder, ignore_errors=True)

    def seal(
        self, built: Path, day: date, rows: Mapping[str, int], content: Mapping[str, Any], circumstances: Mapping[str, Any]
    ) -> Generation:
        """Give a built folder its manifest and its name. Nothing shows it yet.

        Args:
            built: the folder that `building` gave.
            day: the business day.
            rows: rows of each file by name.
            content: further facts of the manifest that belong to the content; a change of them is a new generation. An equal one
                that stands already is kept, unless its files are damaged: then this one takes its place.
            circumstances: facts that may differ between equal generations: run, versions, times.
        """
        files = {
            name: {"rows": count, "bytes": (built / name).stat().st_size, "sha256": sha256_of(built / name)}
            for name, count in rows.items()
        }
        facts = {"schema_version": SCHEMA_VERSION, "as_of_date": day.isoformat(), **content, "files": files}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{day.isoformat()}-{digest}"
        folder = self.root / "generations" / name
        standing = self._sealed(folder, day)
        if standing is None or standing.damaged_files():
            manifest = {**facts, "generation": name, **circumstances}
            (built / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            for path in (*built.iterdir(), built):
                _to_disk(path)
            if folder.exists():
                folder.rename(built.with_name(f"{built.name}-damaged"))
            built.rename(folder)
        sealed = self._sealed(folder, day)
        assert sealed is not None
        return sealed

    def _sealed(self, folder: Path, day: date) -> Generation | None:
        try:
            return Generation(day, folder, json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def show(self, generation: Generation) -> None:
        """Let the day's link lead to a sealed generation, and clear away what is past keeping."""
        self._link(generation.day.isoformat(), generation)
        for day in self.days()[: -self.days_kept]:
            (self.root / day.isoformat()).unlink()
        linked = {link.resolve() for link in self.root.iterdir() if link.is_symlink() and link.name != ".link"}
        for folder in (self.root / "generations").iterdir():
            # One of the same day that was just replaced may still be open somewhere: it goes with the next day's.
            if folder.resolve() not in linked and not folder.name.startswith((generation.day.isoformat(), ".")):
                shutil.rmtree(folder)

    def show_as_current(self, generation: Generation) -> None:
        """Let `current` lead to a generation, unless it leads to a newer day's."""
        current = self.root / "current"
        if not current.is_symlink() or os.readlink(current).rsplit("/", 1)[-1][:10] <= generation.day.isoformat():
            self._link("current", generation)

    def _link(self, name: str, generation: Generation) -> None:
        temporary = self.root / ".link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("generations") / generation.name)
        temporary.replace(self.root / name)

    def write_status(self, due: date, over: date, asked: date | None = None, reasons: Sequence[str] = ()) -> dict[str, Any]:
        """Say in `status.json` how old the newest generation is and, where a newer one is held back, since when and why.

        `state` is `held` while the newest day that was asked for is held back, else `current`, or `old` when a newer day is due.
        `since` is when that began, whatever the days and the reasons have been meanwhile: since then nothing newer has gone out.

        Args:
            due: the newest business day whose generation should be out by now.
            over: the newest business day that is over. That a later one was held, under a `last_day` that has been taken back, counts no longer.
            asked: the business day that was tried; None renews the age alone.
            reasons: why it is held back; empty when it is out.
        """
        newest, now = self.newest(), datetime.now(UTC).isoformat(timespec="seconds")
        before = self.status() or {"asked_for": None, "state": None, "reasons": []}
        if (
            before["state"] == "held"
            and before["asked_for"] <= over.isoformat()
            and (asked is None or asked.isoformat() < before["asked_for"])
        ):
            asked, reasons = date.fromisoformat(before["asked_for"]), before["reasons"]
        age = (due - newest.day).days if newest else None
        state = "held" if reasons else "current" if age is not None and age <= 0 else "old"
        status = {
            "state": state,
            "since": before["since"] if before["state"] == state else now,
            "checked_at": now,
            "last_good_day": newest.day.isoformat() if newest else None,
            "last_good_generation": newest.name if newest else None,
            "age_in_days": max(age, 0) if age is not None else None,
            "asked_for": asked.isoformat() if asked else before["asked_for"],
            "reasons": list(reasons),
        }
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / ".status.json"
        temporary.write_text(json.dumps(status, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(self.root / STATUS)
        return status

    def status(self) -> dict[str, Any] | None:
        """What `status.json` says; None where it is not there or is no status."""
        try:
            return json.loads((self.root / STATUS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
