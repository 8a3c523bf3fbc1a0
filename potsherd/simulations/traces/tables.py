"""CSV files with a header, plain or gzipped, read strictly: a hole is an error that names line and field."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from potsherd.errors import UsageError

__all__ = ["BYTES_MAX", "ROWS_MAX", "Table", "read_table"]

ROWS_MAX = 5_000_000
"""Of a trace; more is refused."""
BYTES_MAX = 500_000_000
"""Of a trace, unpacked; more is refused."""


class Table:
    """Named columns of text, with the number of the line that each row came from."""

    def __init__(self, path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.path, self.columns, self.rows = path, tuple(columns), rows

    def wrong(self, row: int, column: str, why: str) -> UsageError:
        """An error that says where: row 0 stands in line 2."""
        return UsageError(f"{self.path}: line {row + 2}, {column}: {why}")

    def texts(self, column: str) -> list[str]:
        """A column; raises UsageError where nothing stands."""
        place = self.columns.index(column)
        for number, row in enumerate(self.rows):
            if not row[place].strip():
                raise self.wrong(number, column, "nothing there: a trace must have no holes")
        return [row[place].strip() for row in self.rows]

    def numbers(
        self, column: str, *, unmeasured: bool = False, signed: bool = False
    ) -> list[float]:
        """A column of finite numbers, of 0 or more unless `signed`; raises UsageError for anything else.

        `unmeasured`: a moment may say `nan` (a share of nobody) and then has no number.
        """
        found = []
        for number, text in enumerate(self.texts(column)):
            if unmeasured and text.lower().lstrip("-") == "nan":
                continue
            try:
                value = float(text)
            except ValueError:
                raise self.wrong(number, column, f"{text!r} is not a number") from None
            if not (math.isfinite(value) and (signed or value >= 0)):
                why = "finite" if signed else "0 or more"
                raise self.wrong(number, column, f"{text!r} is not {why}")
            found.append(value)
        return found


def read_table(path: Path) -> Table:
    """Raises UsageError for what is no CSV with a header, or has rows of another length."""
    try:
        with _open(path) as file:
            rows = list(_rows(path, file))
    except FileNotFoundError:
        raise UsageError(f"trace = {path}: no such file") from None
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as error:
        raise UsageError(f"trace = {path}: not a CSV file ({error})") from None
    except OSError as error:
        raise UsageError(f"trace = {path}: {error.strerror or error}") from None
    if len(rows) < 2:
        raise UsageError(f"trace = {path}: no rows below the header")
    head, *body = rows
    table = Table(path, [name.strip() for name in head], body)
    for number, row in enumerate(body):
        if len(row) != len(head):
            field = table.columns[min(len(row), len(head) - 1)]
            raise table.wrong(number, field, f"{len(row)} fields where the header has {len(head)}")
    return table


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(path: Path, file: TextIO) -> Iterator[list[str]]:
    size = 0
    for number, row in enumerate(csv.reader(file, strict=True)):
        size += sum(map(len, row)) + len(row)
        if number > ROWS_MAX or size > BYTES_MAX:
            raise UsageError(
                f"trace = {path}: more than {ROWS_MAX:,} rows or {BYTES_MAX:,} characters"
            )
        yield row
