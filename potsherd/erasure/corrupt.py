"""Finding silently wrong shards when no hash tells which they are.

Normally a shard is checked against its Merkle root, and this module is not needed. It is for salvage: the
descriptor is lost, shards are there, and some of them are wrong. Slow: 5 to 120 ms for each byte column
that reedsolo looks at; the rest is the engine's speed. It holds copies of what it is given, so give it the
same run of cells of each shard, not whole shards.
"""

from __future__ import annotations

from collections.abc import Mapping

from potsherd.erasure.code import N_MAX, Code
from potsherd.errors import IntegrityError, NotEnoughShards
from potsherd.ports import Buffer

__all__ = ["SAMPLES_MAX", "find_corrupt"]

SAMPLES_MAX = 16
"""Byte columns that reedsolo looks at in one round; a round removes at least one shard."""
TOO_MANY = "more wrong shards than can be told apart"


def find_corrupt(shards: Mapping[int, Buffer], code: Code) -> set[int]:
    """The indices of shards that are not shards of the same segment as the others.

    With p shards present, up to (p - k) // 2 wrong ones in each byte column are found, wherever in the
    shard they are wrong; different columns may be wrong in different shards. Raises NotEnoughShards when
    exactly k or fewer are there (nothing to compare with), and IntegrityError when they contradict each
    other in more places than can be told apart. Beyond that bound an answer can be wrong, as with every
    code; check it against hashes where there are any.
    """
    left = {index: bytes(shard) for index, shard in shards.items()}
    found: set[int] = set()
    while True:
        if len(left) <= code.k:
            raise NotEnoughShards(f"{len(left)} shards, more than {code.k} are needed to compare")
        suspicious = _inconsistent_offsets(left, code)
        if not suspicious:
            return found
        wrong = _wrong_in_columns(left, code, suspicious)
        found |= wrong
        left = {index: shard for index, shard in left.items() if index not in wrong}


def _inconsistent_offsets(shards: dict[int, bytes], code: Code) -> list[int]:
    """Some byte offsets at which the shards are not a code word, spread over those there are."""
    chosen = sorted(shards)[: code.k]
    others = [index for index in shards if index not in chosen]
    rebuilt = code.rebuild({index: shards[index] for index in chosen}, others)
    differing = 0
    for index in others:
        given, computed = (int.from_bytes(s, "little") for s in (shards[index], rebuilt[index]))
        differing |= given ^ computed
    size = len(shards[chosen[0]])
    places = [at for at, byte in enumerate(differing.to_bytes(size, "little")) if byte]
    step = max(1, -(-len(places) // SAMPLES_MAX))
    return places[::step]


def _wrong_in_columns(shards: dict[int, bytes], code: Code, offsets: list[int]) -> set[int]:
    from reedsolo import ReedSolomonError, RSCodec  # only salvage pays for its import

    codec = RSCodec(N_MAX - code.k)
    absent = [index for index in range(N_MAX) if index not in shards]
    found: set[int] = set()
    for offset in offsets:
        word = bytearray(N_MAX)
        for index, shard in shards.items():
            word[index] = shard[offset]
        try:
            _, corrected, _ = codec.decode(word, erase_pos=absent)
        except ReedSolomonError as error:
            raise IntegrityError(f"{TOO_MANY}: {error}") from None
        wrong = {index for index in shards if corrected[index] != word[index]}
        if not wrong:  # reedsolo sees no contradiction where our engine does: stop, do not loop
            raise IntegrityError(TOO_MANY)
        found |= wrong
    return found
