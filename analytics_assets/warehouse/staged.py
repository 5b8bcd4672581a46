"""Rows on their way into a table that are too many for memory: written part by part, audited, and adopted as they lie."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from analytics_assets.warehouse.tables import Table

ROWS_OF_A_STAGED_FILE = 8_000_000
# Beyond it a column is written out value by value, which takes several times as long.
DICTIONARY_BYTES = 16 * 2**20


@dataclass
class _File:
    path: Path
    day: date
    rows: int
    writer: pq.ParquetWriter

    @property
    def has_room(self) -> bool:
        return self.writer.is_open and self.rows < ROWS_OF_A_STAGED_FILE


@dataclass
class Staged:
    """Rows in Parquet files that lie in the folder of their table and belong to no version: too many for memory.

    They are appended part by part, audited where they lie, and made a version by `Lake.adopt` without being written again;
    `close` deletes those that were not. What a killed process leaves behind no reader sees, as with Delta's own writes.
    """

    table: Table
    folder: Path
    nulls: Counter[str] = field(default_factory=Counter)
    """Rows without a value so far, by column: counting them in the files took a second for 40 M rows."""
    _files: list[_File] = field(default_factory=list)

    def append(self, part: pa.Table) -> None:
        """Write rows of one day that follow the earlier ones of their partition in order of the key; text may be dictionary-encoded.

        Partitions may come in any order, each of them in one piece.

        Raises:
            ValueError: the rows are of several days, or have not the declared columns and types.
        """
        column = self.table.partition_column
        assert column
        found = pa.schema([pa.field(f.name, getattr(f.type, "value_type", f.type)) for f in part.schema])
        if found != self.table.arrow_schema():
            raise ValueError(f"{self.table.name}: columns staged: {found}, declared: {self.table.arrow_schema()}")
        if not part.num_rows:
            return
        days = part[column].unique().to_pylist()
        if len(days) > 1:
            raise ValueError(f"{self.table.name}: a staged part has rows of {days[0]} and of {days[1]}")
        self.nulls.update({name: _nulls(values) for name, values in zip(part.column_names, part.columns, strict=True)})
        part = part.drop_columns(column)
        file = next((file for file in self._files if file.day == days[0] and file.has_room), None)
        file = file or self._open(days[0], part.schema)
        file.writer.write_table(part, row_group_size=part.num_rows)
        file.rows += part.num_rows

    def extend(self, later: Staged) -> None:
        """Take over the rows of another one, which follow these in order of the key."""
        self.files()
        later.files()
        self._files += later._files
        self.nulls += later.nulls
        later._files = []

    def _open(self, day: date, schema: pa.Schema) -> _File:
        # Of a day's hours some may still come, long after those of the next day; a day that another follows is complete.
        if self.table.grain == "day":
            self.files()
        path = self.folder / f"{self.table.partition_column}={day}" / f"{uuid.uuid4()}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The rows come in order of the key: of other columns a least and a greatest value rule nothing out, and took half the time.
        # Written once and read by every check: beside zstd a fifth less to write, a third less to read, a sixth more to keep.
        writer = pq.ParquetWriter(
            path, schema, compression="snappy", store_schema=False,
            write_statistics=[f.name for f in schema if f.name in self.table.key],
            use_dictionary=[f.name for f in schema if not pa.types.is_floating(f.type)], dictionary_pagesize_limit=DICTIONARY_BYTES,
        )  # fmt: skip
        self._files.append(_File(path, day, 0, writer))
        return self._files[-1]

    def files(self) -> list[str]:
        """The files so far, finished, in the order of their rows."""
        for file in self._files:
            file.writer.close()
        return [str(file.path) for file in self._files]

    def add_actions(self) -> list[AddAction]:
        """The finished files as a Delta commit names them."""
        self.files()
        return [
            AddAction(
                path=str(file.path.relative_to(self.folder)),
                size=file.path.stat().st_size,
                partition_values={str(self.table.partition_column): file.day.isoformat()},
                modification_time=int(file.path.stat().st_mtime * 1000),
                data_change=True,
                stats=json.dumps({"numRecords": file.rows}),
            )
            for file in self._files
        ]

    def select(self) -> str:
        """A SELECT over the rows so far."""
        return self.table.select_from_files(self.files(), [str(self.table.partition_column)])

    def reader(self) -> pa.RecordBatchReader:
        """The rows, file by file, as Delta takes them without holding them."""
        self.files()

        def batches() -> Iterator[pa.RecordBatch]:
            for file in self._files:
                day = pa.scalar(file.day, pa.date32())
                for batch in pq.ParquetFile(file.path).iter_batches():
                    columns = {name: batch.column(name) for name in batch.schema.names} | {
                        str(self.table.partition_column): pa.repeat(day, batch.num_rows)
                    }
                    yield pa.record_batch([columns[name].cast(kind) for name, kind in kinds.items()], schema=schema)

        schema = self.table.arrow_schema()
        kinds = dict(zip(schema.names, schema.types, strict=True))
        return pa.RecordBatchReader.from_batches(schema, batches())

    def close(self) -> None:
        """Delete what no version has."""
        for path in self.files():
            Path(path).unlink()
        self._files.clear()

    def leave(self, files: Collection[str]) -> None:
        """Leave files to the versions that have them now."""
        self._files = [file for file in self._files if str(file.path) not in files]


def _nulls(values: pa.ChunkedArray) -> int:
    """How many there are, also where a dictionary holds one."""
    if any(pa.types.is_dictionary(chunk.type) and chunk.dictionary.null_count for chunk in values.chunks):
        values = values.cast(values.type.value_type)
    return int(values.null_count)
