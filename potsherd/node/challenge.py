"""The answer to a challenge: a proof of cells that does not send them (docs/design/verify.md).

Definition (docs/spec/node-protocol.md, section 4): each cell is hashed by itself under the challenge's nonce, so that
SIMD lanes can work on many cells at once, then the digests together under the same nonce. Who answers must
read the very bytes after it has seen the nonce; who asks has the bytes too, or computes them from other shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, ClassVar

from potsherd.ports import Buffer
from potsherd.wire import Bytes, Record, Uint

__all__ = ["NONCE_SIZE", "Challenge", "ChallengeAnswer", "ChallengeHash"]

NONCE_SIZE = 32
DIGEST_SIZE = 32
PERSON = b"potsherd holding"
"""Personalisation of the last hash: it is never the digest of a cell."""
KERNEL_BYTES_MIN = 128 * 1024
"""Runs of cells from which the compiled kernel is used."""


@dataclass(frozen=True)
class Challenge(Record):
    """Rows `first` to `first + count - 1` of one shard, and a nonce that nobody has seen before."""

    SIZE_MAX: ClassVar[int] = 128
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    first: Annotated[int, Uint(32767)]
    count: Annotated[int, Uint(32768, min=1)]
    nonce: Annotated[bytes, Bytes(NONCE_SIZE)]


@dataclass(frozen=True)
class ChallengeAnswer(Record):
    """See ChallengeHash."""

    SIZE_MAX: ClassVar[int] = 48
    digest: Annotated[bytes, Bytes(DIGEST_SIZE)]


class ChallengeHash:
    """Takes the cells of a challenge in order, in any portions of whole cells.

    `light`: for nodes, which use the compiled kernel only once its image is there (kernels/choice.py).
    """

    def __init__(self, nonce: bytes, cell_size: int, *, light: bool = False) -> None:
        self._nonce, self._cell_size, self._light = nonce, cell_size, light
        self._state = blake2b(digest_size=DIGEST_SIZE, key=nonce, person=PERSON)

    def update(self, cells: Buffer) -> None:
        """The next cells. Blocks: through `Env.offload` for more than a few."""
        self._state.update(self._digests(cells))

    def digest(self) -> bytes:
        """The answer for the cells so far, 32 bytes."""
        return self._state.digest()

    def _digests(self, cells: Buffer) -> bytes:
        """BLAKE2b-256 of each cell, with the nonce as salt (16 bytes) and personalisation (16)."""
        view, size = memoryview(cells).cast("B"), self._cell_size
        if len(view) < KERNEL_BYTES_MIN:
            start = blake2b(digest_size=DIGEST_SIZE, salt=self._nonce[:16], person=self._nonce[16:])
            digests = []
            for at in range(0, len(view), size):
                state = start.copy()
                state.update(view[at : at + size])
                digests.append(state.digest())
            return b"".join(digests)
        from potsherd.kernels.choice import (
            batch_hash,
            light_hash,
        )  # not before there is enough to do

        return (light_hash if self._light else batch_hash)(view, size, self._nonce)
