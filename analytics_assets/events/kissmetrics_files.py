"""The folder of a KISSmetrics export: its files in order of receipt, and what its index says of them. `kissmetrics.py` reads them."""

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path


class ExportError(Exception):
    """The folder or one of its files is not what an export must be. The message says where and what to do."""


@dataclass(frozen=True)
class ExportFile:
    """One file of an export.

    `name` is relative to the export's folder. `revision` is None when the file is not named by a number.
    `received_at` is the index's max_timestamp, the receipt of the file's last line; None where the index has none.
    """

    name: str
    path: Path
    revision: int | None
    size: int
    received_at: datetime | None


def list_files(folder: Path) -> list[ExportFile]:
    """The files of the export in `folder`, by revision: 10 after 9, and files not named by a number last, by name.

    Takes `revisions/*.json` (or `.json.gz`), else the same files in the folder itself. Hidden files and such as are
    still being written (`12.json.partial`) are passed over.

    Raises:
        ExportError: there is no export in the folder, its index cannot be read, or two files are one revision.
    """
    if not folder.exists():
        raise ExportError(f"{folder}: there is no such folder. Give the folder that holds revisions/ and index.csv.")
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file. Give the folder that holds revisions/ and index.csv.")
    received = _received(folder)
    files: list[ExportFile] = []
    for directory in (folder / "revisions", folder):
        if directory.is_dir() and not files:
            for path in _paths(directory):
                stem = _stem(path.name)
                files.append(
                    ExportFile(
                        name=path.relative_to(folder).as_posix(),
                        path=path,
                        revision=int(stem) if re.fullmatch("[0-9]{1,18}", stem) else None,
                        size=path.stat().st_size,
                        received_at=received.get(stem),
                    )
                )
    if not files:
        raise ExportError(_nothing_found(folder))
    files.sort(key=lambda file: (file.revision is None, file.revision or 0, file.name))
    for one, other in pairwise(files):
        if _stem(one.path.name) == _stem(other.path.name) or (one.revision == other.revision is not None):
            raise ExportError(
                f"{folder}: {one.name} and {other.name} are both revision {one.revision or _stem(one.path.name)}. "
                "Remove the one that is a copy: its lines would count twice."
            )
    return files


def named_and_missing(folder: Path, known: Iterable[str]) -> list[str]:
    """Files that the index names and that are not among the `known` ones: on their way, or lost. Names without folder and ending."""
    there = {_stem(Path(name).name) for name in known}
    return sorted(_received(folder).keys() - there, key=lambda stem: (len(stem), stem))


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".json")


def _paths(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        finished = not path.name.startswith(".") and not _stem(path.name).endswith((".partial", ".tmp"))
        if finished and path.name.endswith((".json", ".json.gz")) and path.is_file():
            yield path


def _nothing_found(folder: Path) -> str:
    expected = "Expected revisions/1.json, revisions/2.json and so on, one JSON object a line"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    if not names:
        return f"{folder} is empty. {expected}: copy the export's bucket into it."
    inside = sorted(path.name for path in (folder / "revisions").iterdir()) if "revisions/" in names else []
    if "revisions/" in names and not inside:
        return f"{folder / 'revisions'} is empty. {expected}: copy the export's bucket into {folder}."
    found = ", ".join(["revisions/" + name for name in inside[:5]] or names[:5])
    more = ", ..." if len(inside or names) > 5 else ""
    return f"{folder} holds no KISSmetrics export. {expected}; found {found}{more}. Give the folder of the export."


def _received(folder: Path) -> dict[str, datetime]:
    """When the last line of each file was received, by the file's name without folder and ending."""
    index = folder / "index.csv"
    if not index.exists() and folder.name == "revisions":
        index = folder.parent / "index.csv"
    if not index.exists():
        return {}
    advice = "Copy the index from the export's bucket again, or remove it: times of receipt are then unknown."
    received = {}
    line_number = 1
    try:
        with index.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            header = [name.strip().lower() for name in next(rows, [])]
            if "filename" not in header or "max_timestamp" not in header:
                found = ",".join(header)
                expected = "the header must name filename and max_timestamp"
                raise ExportError(f"{index}, line 1: {expected}, and is {found!r}. {advice}")
            line_number = 2
            for row in rows:
                if row:
                    fields = dict(zip(header, row, strict=False))
                    stem = _stem(Path(fields["filename"].strip()).name)
                    received[stem] = datetime.fromtimestamp(int(fields["max_timestamp"]), UTC)
                line_number = rows.line_num + 1
    except (csv.Error, KeyError, OverflowError, ValueError) as error:
        raise ExportError(f"{index}, line {line_number}: {_index_problem(error)}. {advice}") from error
    except OSError as error:
        raise ExportError(f"{index} cannot be read: {error.strerror}. Check its permissions.") from error
    return received


def _index_problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error.args[0]}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, csv.Error):
        return f"not CSV ({error})"
    return f"max_timestamp is not a time in seconds ({error})"
