"""What happened in a virtual world, line by line, and one hash over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from potsherd.ports import Buffer

__all__ = ["EventLog"]

PENDING_LINES_MAX = 512


class EventLog:
    """Every datagram, stream chunk, disk call and commit as a line, and a running BLAKE2b of the lines.

    A line is `time kind where what size hash`, the time as Python's shortest exact decimal of virtual
    seconds, the hash BLAKE2b-128 of the bytes. Two runs are equal exactly when their digests are.
    To find where two runs part, give both a `file` and use diff.
    """

    def __init__(
        self, clock: Callable[[], float], *, content: bool = True, file: Path | None = None
    ) -> None:
        """`content=False` leaves out the hash of the bytes: cheaper, and blind to their difference."""
        self._clock = clock
        self._content = content
        self._hash = hashlib.blake2b(digest_size=32)
        self._pending: list[str] = []
        self._file = None if file is None else file.open("w", encoding="utf-8")
        self.aliases: dict[str, str] = {}
        """What to write in place of names that follow from outside of the world, as folders of the
        real machine do; at the begin of paths of disk calls."""
        self.frozen = False
        self.events = 0

    def add(self, kind: str, where: str, what: str, data: Buffer = b"") -> None:
        """Note one event; `data` is hashed at once and may change afterwards."""
        if self.frozen:
            return
        if self.aliases and kind == "disk":
            operation, _, path = what.partition(" ")
            folder, slash, rest = path.partition("/")
            what = f"{operation} {self.aliases.get(folder, folder)}{slash}{rest}"
        tag = hashlib.blake2b(data, digest_size=16).hexdigest() if self._content else "-"
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._pending.append(f"{self._clock()!r} {kind} {where} {what} {size} {tag}\n")
        self.events += 1
        if len(self._pending) >= PENDING_LINES_MAX:
            self._flush()

    def digest(self) -> str:
        """BLAKE2b-256 of all lines so far, in hex."""
        self._flush()
        return self._hash.copy().hexdigest()

    def close(self) -> None:
        """Stop noting, and close the file."""
        self._flush()
        self.frozen = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        text = "".join(self._pending)
        self._pending.clear()
        self._hash.update(text.encode())
        if self._file is not None:
            self._file.write(text)
            self._file.flush()
