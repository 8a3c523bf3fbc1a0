"""The answer to a challenge: a proof of cells that does not send them (docs/design/verify.md).

Definition (docs/spec/node-protocol.md, section 4): a GMAC over the cells, whose key is the challenge's nonce. Who answers
must have the very bytes after it has seen the nonce; who asks has the bytes too, or computes them from other shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from potsherd.ports import Buffer
from potsherd.wire import Bytes, Record, Uint

__all__ = ["NONCE_SIZE", "TAG_SIZE", "Challenge", "ChallengeAnswer", "ChallengeTag"]

NONCE_SIZE = 32
TAG_SIZE = 16
IV_SIZE = 12


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
    """See ChallengeTag."""

    SIZE_MAX: ClassVar[int] = 32
    tag: Annotated[bytes, Bytes(TAG_SIZE)]


class ChallengeTag:
    """Takes the cells of a challenge in order, in any portions.

    Some 26 GB/s where the processor has instructions for AES and GHASH, five times as fast as BLAKE2b in SIMD lanes.
    """

    def __init__(self, nonce: bytes, first: int) -> None:
        """`first`: the row of the first cell."""
        mode = modes.GCM(first.to_bytes(IV_SIZE, "big"))
        self._state = Cipher(algorithms.AES256(nonce), mode).encryptor()

    def update(self, cells: Buffer) -> None:
        """The next cells. Blocks: through `Env.offload` for more than a few."""
        self._state.authenticate_additional_data(cells)

    def answer(self) -> bytes:
        """For the cells so far, 16 bytes. Once: nothing can follow."""
        self._state.finalize()
        return self._state.tag
