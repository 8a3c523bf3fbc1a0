"""Wrong shards are found without hashes, within the bound and not beyond."""

from __future__ import annotations

import random

import pytest

from potsherd.erasure import Code, find_corrupt
from potsherd.errors import IntegrityError, NotEnoughShards

SIZE = 50


def shards_of(code: Code, rng: random.Random, present: int) -> dict[int, bytearray]:
    data = [rng.randbytes(SIZE) for _ in range(code.k)]
    everything = dict(enumerate(map(bytearray, data + code.parity(data))))
    return {index: everything[index] for index in rng.sample(range(code.n), present)}


def spoil(shard: bytearray, rng: random.Random, count: int) -> None:
    for at in rng.sample(range(SIZE), count):
        shard[at] ^= rng.randint(1, 255)


@pytest.mark.parametrize("bad_bytes", [1, SIZE])
@pytest.mark.parametrize(
    ("k", "n", "present"), [(1, 3, 3), (4, 9, 8), (10, 30, 18), (250, 255, 254)]
)
def test_up_to_half_of_the_spare_shards_may_lie(
    k: int, n: int, present: int, bad_bytes: int
) -> None:
    rng = random.Random(k + bad_bytes)
    code = Code(k, n)
    shards = shards_of(code, rng, present)
    bad = set(rng.sample(sorted(shards), (present - k) // 2))
    for index in bad:
        spoil(shards[index], rng, bad_bytes)
    assert find_corrupt(shards, code) == bad


def test_honest_shards_give_nothing() -> None:
    code = Code(4, 9)
    assert find_corrupt(shards_of(code, random.Random(1), 5), code) == set()
    assert find_corrupt(dict.fromkeys(range(5), b""), code) == set()


def test_a_shard_that_lies_once_hides_behind_one_that_always_lies() -> None:
    """The sampled columns show only the loud one; the next round finds the other."""
    rng = random.Random(2)
    code = Code(2, 8)
    shards = shards_of(code, rng, 8)
    spoil(shards[0], rng, SIZE)
    shards[5][17] ^= 1
    assert find_corrupt(shards, code) == {0, 5}


def test_nothing_to_compare_with() -> None:
    code = Code(4, 9)
    with pytest.raises(NotEnoughShards):
        find_corrupt(shards_of(code, random.Random(1), 4), code)


def test_seen_but_not_located() -> None:
    """One spare shard shows that something is wrong, not what."""
    rng = random.Random(4)
    code = Code(4, 9)
    shards = shards_of(code, rng, 5)
    spoil(next(iter(shards.values())), rng, 1)
    with pytest.raises(IntegrityError):
        find_corrupt(shards, code)


def test_too_many_liars_are_not_taken_for_honest() -> None:
    rng = random.Random(5)
    code = Code(4, 9)
    shards = shards_of(code, rng, 9)
    for index in (0, 1, 2, 3, 4, 5):
        spoil(shards[index], rng, SIZE)
    with pytest.raises((IntegrityError, NotEnoughShards)):
        find_corrupt(shards, code)
