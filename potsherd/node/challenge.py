"""The answer to a challenge: a proof of cells that does not send them (docs/design/verify.md).

Definition (docs/spec/node-protocol.md, section 4): a GMAC over the cells, whose key is the challenge's nonce. Who answers
must have the very bytes after it has seen the nonce; who asks has the bytes too, or computes them from other shards.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from potsherd.classes import dataclass
from potsherd.ports import Buffer
from potsherd.wire import Bytes, ListOf, Record, Tuple, Uint

__all__ = [
    "CHALLENGE_ROWS_MAX",
    "CHALLENGE_RUNS_MAX",
    "NONCE_SIZE",
    "TAG_SIZE",
    "Challenge",
    "ChallengeAnswer",
    "ChallengeTag",
    "tag_of",
]

NONCE_SIZE = 32
TAG_SIZE = 16
IV_SIZE = 12
CHALLENGE_ROWS_MAX = 384
"""Rows of one challenge together, 12 MiB of whole cells: less than one connection may occupy (rpc.py)."""
CHALLENGE_RUNS_MAX = 64
"""Runs of one challenge."""


@dataclass(frozen=True)
class Challenge(Record):
    """Runs of rows (first, count) of one shard, and a nonce that nobody has seen before."""

    SIZE_MAX: ClassVar[int] = 1024
    segment_id: Annotated[bytes, Bytes(32)]
    index: Annotated[int, Uint(254)]
    runs: Annotated[
        tuple[tuple[int, int], ...],
        ListOf(Tuple(Uint(32767), Uint(32768, min=1)), max=CHALLENGE_RUNS_MAX, min=1),
    ]
    nonce: Annotated[bytes, Bytes(NONCE_SIZE)]


@dataclass(frozen=True)
class ChallengeAnswer(Record):
    """One tag for each run; see ChallengeTag."""

    SIZE_MAX: ClassVar[int] = 1280
    tags: Annotated[tuple[bytes, ...], ListOf(Bytes(TAG_SIZE), max=CHALLENGE_RUNS_MAX, min=1)]


class ChallengeTag:
    """Takes the cells of one run in order, in any portions.

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


def tag_of(nonce: bytes, first: int, cells: Buffer) -> bytes:
    """The tag of a run that is there as a whole."""
    tag = ChallengeTag(nonce, first)
    tag.update(cells)
    return tag.answer()
