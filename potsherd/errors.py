"""Every error that potsherd raises on purpose, sorted by what the catcher should do.

    PotsherdError                 exit 1   failed
    ├── UsageError                exit 2   the caller asked for something that makes no sense
    ├── PartlyDone                exit 3   some of it worked, the message says what did not
    ├── NotFoundError             exit 4   no such name, record, block, path
    ├── NotEnoughShards           exit 5   fewer than k shards of a segment answer
    ├── BelowTarget               exit 6   readable, but redundancy is below target
    ├── RefusedError              exit 7   a rule says no: quota, permission, membership, expiry
    │   ├── QuotaError                     no room within the quota
    │   └── MembershipError                credential, invitation or network does not admit it
    ├── MalformedError            exit 1   bytes that our encoder would not write
    ├── IntegrityError            exit 1   bytes that do not have the hash or signature they must have
    ├── LimitError                exit 1   a named bound would be exceeded
    ├── ChangedError              exit 1   a source changed while it was read
    ├── StorageError              exit 1   the disk says no: full, read-only, I/O error
    └── PeerError                 exit 1   a peer did not answer, broke off or broke the protocol
        └── UnreachableError               no connection

The first line of each class docstring is what a user reads when no better message was given.
Bytes from a peer, a disk or a user never meet an ``assert``: they end here.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BelowTarget",
    "ChangedError",
    "IntegrityError",
    "LimitError",
    "MalformedError",
    "MembershipError",
    "NotEnoughShards",
    "NotFoundError",
    "PartlyDone",
    "PeerError",
    "PotsherdError",
    "QuotaError",
    "RefusedError",
    "StorageError",
    "UnreachableError",
    "UsageError",
]


class PotsherdError(Exception):
    """Something failed."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        """`remedy` is one sentence that tells what to do about it; shown on a line of its own."""
        self.message = message or (type(self).__doc__ or "").partition("\n")[0]
        self.remedy = remedy
        super().__init__(self.message)


class UsageError(PotsherdError, ValueError):
    """That call makes no sense."""

    exit_code = 2


class PartlyDone(PotsherdError):  # noqa: N818 (names what happened, not a kind of error)
    """Only part of it was done."""

    exit_code = 3


class NotFoundError(PotsherdError, KeyError):
    """Not found."""

    exit_code = 4

    def __str__(self) -> str:  # KeyError would print the repr
        return self.message


class NotEnoughShards(PotsherdError):  # noqa: N818
    """Fewer pieces answer than are needed to rebuild the data."""

    exit_code = 5


class BelowTarget(PotsherdError):  # noqa: N818
    """Readable, but with less redundancy than asked for."""

    exit_code = 6


class RefusedError(PotsherdError, PermissionError):
    """Refused."""

    exit_code = 7

    def __str__(self) -> str:  # PermissionError is an OSError, which formats its arguments itself
        return self.message


class QuotaError(RefusedError):
    """No room within the quota."""


class MembershipError(RefusedError):
    """Not a member of this network."""


class MalformedError(PotsherdError, ValueError):
    """Bytes that no potsherd encoder would have written."""


class IntegrityError(PotsherdError):
    """Bytes that do not have the hash or signature they must have."""


class LimitError(PotsherdError):
    """A limit would be exceeded."""


class ChangedError(PotsherdError):
    """A file changed while it was being read."""


class StorageError(PotsherdError, OSError):
    """The disk refused: full, read-only or failing."""

    def __str__(self) -> str:
        return self.message


class PeerError(PotsherdError, ConnectionError):
    """A peer did not answer, broke off or broke the protocol."""

    def __str__(self) -> str:
        return self.message


class UnreachableError(PeerError):
    """No connection to the peer."""
