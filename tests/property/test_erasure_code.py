"""Any k of n shards rebuild the others, for codes and losses nobody thought of."""

from __future__ import annotations

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from reedsolo import RSCodec

from potsherd.erasure import Code, find_corrupt
from potsherd.kernels.gf import PlainEngine

seeds = st.integers(0, 2**32)


@st.composite
def codes(draw: st.DrawFn, n_max: int = 255) -> Code:
    n = draw(st.integers(1, n_max))
    return Code(draw(st.integers(1, n)), n)


@given(codes(), st.integers(0, 200), seeds)
@example(Code(255, 255), 3, 0)
@example(Code(1, 255), 3, 0)
@example(Code(127, 255), 3, 0)
@settings(max_examples=60)
def test_any_k_of_n_rebuild_the_others(code: Code, size: int, seed: int) -> None:
    rng = random.Random(seed)
    data = [rng.randbytes(size) for _ in range(code.k)]
    shards = dict(enumerate(data + code.parity(data)))
    kept = rng.sample(range(code.n), code.k)
    wanted = rng.sample(range(code.n), rng.randint(0, code.n))
    rebuilt = code.rebuild({index: shards[index] for index in kept}, wanted)
    assert rebuilt == {index: shards[index] for index in wanted}


@given(codes(), seeds)
@settings(max_examples=40)
def test_parity_equals_reedsolo(code: Code, seed: int) -> None:
    data = random.Random(seed).randbytes(code.k)
    parity = Code(code.k, code.n, engine=PlainEngine()).parity([bytes([b]) for b in data])
    assert code.parity([bytes([b]) for b in data]) == parity
    if code.k < 255:
        assert b"".join(parity) == bytes(RSCodec(255 - code.k).encode(data)[code.k : code.n])


@given(codes(n_max=40), st.data(), seeds)
@settings(max_examples=25)
def test_corrupt_shards_up_to_half_the_spare_are_found(
    code: Code, choices: st.DataObject, seed: int
) -> None:
    rng = random.Random(seed)
    data = [rng.randbytes(20) for _ in range(code.k)]
    shards = dict(enumerate(map(bytearray, data + code.parity(data))))
    present = choices.draw(st.integers(min(code.k + 1, code.n), code.n))
    shards = {index: shards[index] for index in rng.sample(range(code.n), present)}
    if present == code.k:
        return
    bad = rng.sample(sorted(shards), choices.draw(st.integers(0, (present - code.k) // 2)))
    for index in bad:
        shards[index][rng.randrange(20)] ^= rng.randint(1, 255)
    assert find_corrupt(shards, code) == set(bad)
