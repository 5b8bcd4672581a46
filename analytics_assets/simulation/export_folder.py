"""A KISSmetrics export as a folder: files by receipt, their index, and the faults that real exports have.

OUT/revisions/N.json         one JSON object a line; N counts the files of all companies by their last receipt
OUT/index.csv                which file holds which times of receipt
OUT/truth*                   what a correct reader must find, by company

The faults: repeated and late lines, UTF-8 bytes as octal escapes (not JSON), and broken lines. What a company's lines
say is decided where the company's lines are made, not here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

REPEATED_SHARE = 0.003
"""Share of lines that stand in the export twice."""
OCTAL_SHARE = 0.2
"""Share of the lines with other letters than ASCII that have them as octal escapes."""
BROKEN_SHARE = 0.0002
"""Broken lines per line; each kind of `BROKEN` stands in the export at least once."""
BROKEN = (
    '{"_n":"purchased","_p":"broken@shop.test","_t":17',
    '{"_n":"purchased","order id":"1","order total":"9.99","_t":1760000000}',
    '{"_n":"purchased","_p":"broken@shop.test","_t":"yesterday","order id":"1","order total":"9.99"}',
    '{"_p":"broken@shop.test","_p2":"","_t":1760000000}',
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    "[1,2,3]",
    '{"_n":"purchased","_p":"broken@shop.test","_t":99999999999999999999,"order id":"1","order total":"9.99"}',
)
"""Lines that nobody can mend: each must be set aside with a reason, none may stop the load."""
_REPEAT_SECONDS = (0, 600, 86_400)

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class CompanyLines:
    """What one company adds to an export."""

    files: Sequence[pl.DataFrame]
    """One frame per revision file, with the columns line, received (UTC epoch seconds), in order of receipt."""
    truth: dict[str, str | pl.DataFrame]
    """Files of the truth by name: text, or rows for a Parquet file."""


def write_folder(out: Path, companies: Sequence[CompanyLines], progress: Progress | None = None) -> None:
    """Write the lines of these companies as one export to the folder `out`, which must not exist or be empty.

    It is written beside it, to `out` + ".partial", and renamed at the end: what stands at `out` is complete. The same
    companies give the same bytes. `progress` is told what is being done and how much of it, 0 to 1, is.
    Raises `FileExistsError` where `out` holds anything.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder")
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    (partial / "revisions").mkdir(parents=True)

    files = sorted((file for company in companies for file in company.files), key=lambda file: int(file["received"][-1]))
    index = ["filename,min_timestamp,max_timestamp,min_utc_date,max_utc_date"]
    for number, file in enumerate(files, start=1):
        name = f"revisions/{number}.json"
        (partial / name).write_bytes(("\n".join(file["line"].to_list()) + "\n").encode())
        received = (int(file["received"][0]), int(file["received"][-1]))
        dates = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M GMT") for at in received)
        index.append(",".join((name, *map(str, received), *dates)))
        if progress:
            progress("writing files", number / len(files))
    (partial / "index.csv").write_text("\n".join(index) + "\n")
    for company in companies:
        for name, content in company.truth.items():
            if isinstance(content, str):
                (partial / name).write_text(content)
            else:
                content.write_parquet(partial / name)
    os.replace(partial, out)


def repeat_and_break(lines: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, dict[str, int]]:
    """Add further copies of some lines (line, received) and broken ones, and count both."""
    again = np.flatnonzero(rng.random(lines.height) < REPEATED_SHARE)
    repeated = lines[again].with_columns(pl.col("received") + rng.choice(_REPEAT_SECONDS, len(again)))
    broken_lines = max(len(BROKEN), round(lines.height * BROKEN_SHARE))
    broken = pl.DataFrame(
        {
            "line": [BROKEN[n % len(BROKEN)] for n in range(broken_lines)],
            "received": lines["received"].gather(rng.integers(0, lines.height, broken_lines)),
        }
    )
    return pl.concat([lines, repeated, broken]), {"repeated_lines": repeated.height, "broken_lines": broken.height}


def lateness(rows: int, share: float, seconds: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Draw by how many seconds each row is received late: a share of them by one of `seconds`, the others not."""
    return np.where(rng.random(rows) < share, rng.choice(seconds, rows), 0)


def json_text(value: str) -> str:
    """Write a JSON string, letters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False)


def written(texts: list[str], rows: pl.Series, faults: bool, rng: np.random.Generator) -> tuple[pl.Series, pl.Series]:
    """Give each row the text that it names, a share of those beyond ASCII in octal, and say which are."""
    plain = np.array([text.isascii() for text in texts])
    octal = (rng.random(len(rows)) < OCTAL_SHARE * faults) & ~plain[rows.to_numpy()]
    both = pl.Series([*texts, *map(_octal, texts)], dtype=pl.String)
    return both.gather(rows + len(texts) * pl.Series(octal).cast(pl.Int64)), pl.Series(octal)


def _octal(text: str) -> str:
    """Write the UTF-8 bytes of letters beyond ASCII as KISSmetrics does: "é" is \\303\\251, which is not JSON."""
    return "".join(c if c.isascii() else "".join(f"\\{byte:03o}" for byte in c.encode()) for c in text)


def money(pence: pl.Expr) -> pl.Expr:
    """Write pence as text with two decimals and a sign only if negative: "49.90"."""
    size = pence.abs()
    sign = pl.when(pence < 0).then(pl.lit("-")).otherwise(pl.lit(""))
    return pl.concat_str([sign, (size // 100).cast(pl.String), pl.lit("."), (size % 100).cast(pl.String).str.zfill(2)])
