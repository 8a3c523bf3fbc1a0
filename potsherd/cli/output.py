"""What commands print: text for people, or one JSON object a line with a `type` field (docs/cli.md).

Results go to standard output, everything else (progress, notes, errors) to standard error.  Names of files come
from strangers: in text they are shown with control characters escaped, so that a name cannot move the cursor;
JSON carries them exactly, with bytes that are no UTF-8 as lone surrogates.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from potsherd.service.jsonable import jsonable

__all__ = ["Output", "Progress", "printable"]


class Progress(Protocol):
    """What long work calls to say how far it is."""

    def __call__(self, done: int, total: int | None, text: str = "") -> None:
        """`done` of `total` bytes; `total` is None while nobody knows."""


def printable(text: str | bytes) -> str:
    """Safe to show on a terminal: control characters and undecodable bytes become escapes."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class Output:
    """Where one command's results go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, type_: str, text: str | None, /, **fields: Any) -> None:
        """One result: its JSON object, or its text; a text of None means that people need not see it."""
        if self.as_json:
            self.objects(type_, (fields,))
        elif text is not None:
            self._write(sys.stdout, text)

    def objects(self, type_: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Results as JSON objects, written together."""
        lines = [
            json.dumps({"type": type_, **{k: jsonable(v) for k, v in fields.items()}}) + "\n"
            for fields in rows
        ]
        sys.stdout.write("".join(lines))
        sys.stdout.flush()

    def lines(self, texts: Iterable[str]) -> None:
        """Results as text, written together."""
        text = "\n".join(texts)
        if text:
            self._write(sys.stdout, text)

    def table(self, type_: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
        """Rows of fields; text shows `columns` (their str) aligned, JSON every field of each row."""
        rows = list(rows)
        if self.as_json:
            for row in rows:
                self.show(type_, None, **row)
            return
        cells = [[c.upper() for c in columns]] + [
            [printable(str(r[c])) for c in columns] for r in rows
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        for line in cells if rows else ():
            text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            self._write(sys.stdout, text.rstrip())

    def note(self, text: str) -> None:
        """Something a person may want to know; never part of the result."""
        self._write(sys.stderr, text)

    @staticmethod
    def _write(stream: Any, text: str) -> None:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()

    @contextmanager
    def counter(self, title: str, total: int) -> Iterator[Progress]:
        """Like `progress`, of things instead of bytes."""
        if self.as_json or not sys.stderr.isatty():
            yield _silent
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done, total, text="": bars.update(task, completed=done, total=total)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A bar on standard error when that is a terminal; otherwise nothing."""
        if self.as_json or not sys.stderr.isatty():
            yield _silent
            return
        with _bar(title) as progress:
            yield progress


def _silent(done: int, total: int | None, text: str = "") -> None:
    """Progress that nobody sees."""


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None, text="")

        def update(done: int, total: int | None, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=printable(text))

        yield update
