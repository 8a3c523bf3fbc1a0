"""The compiled kernels give the same bytes as the plain engines, on every instruction set of this machine."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.crypto.eris.backend import PlainBackend
from potsherd.errors import UsageError
from potsherd.kernels import llvm
from potsherd.kernels.eris import ErisKernel, keyed_state
from potsherd.kernels.eris_ir import eris_module
from potsherd.kernels.gf import PlainEngine
from potsherd.kernels.gf_ir import METHODS, gf_module
from potsherd.kernels.gf_llvm import LlvmEngine
from potsherd.kernels.stream_ir import BESIDE_BITS

pytest.importorskip("llvmlite")

TARGETS = llvm.targets()
PLAIN = PlainBackend()


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> llvm.Target:
    chosen: llvm.Target = request.param
    return chosen


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def eris(target: llvm.Target, cache: Path) -> ErisKernel:
    return ErisKernel(target, cache=cache)


@pytest.fixture(scope="module")
def engine(target: llvm.Target, cache: Path) -> LlvmEngine:
    return LlvmEngine(target, cache=cache)


BATCHES = st.tuples(
    st.sampled_from([1024, 32768]), st.integers(0, 35), st.binary(min_size=32, max_size=32)
).filter(lambda batch: batch[0] * batch[1] <= 12 * 32768)


@settings(max_examples=25, deadline=None)
@given(batch=BATCHES, level=st.integers(0, 4), seed=st.integers(0, 2**32))
def test_eris_batches_equal_the_plain_backend(
    eris: ErisKernel, batch: tuple[int, int, bytes], level: int, seed: int
) -> None:
    size, count, secret = batch
    data = hashlib.shake_256(seed.to_bytes(8, "big")).digest(size * count)
    for ours, plain in (
        (eris.encrypt_leaves(data, size, secret), PLAIN.encrypt_leaves(data, size, secret)),
        (eris.encrypt_nodes(data, size, level), PLAIN.encrypt_nodes(data, size, level)),
    ):
        assert bytes(ours[0]) == bytes(plain[0])
        assert bytes(ours[1]) == bytes(plain[1])
    keys = hashlib.shake_256(secret).digest(32 * count)
    assert eris.decrypt(data, keys, size, level) == PLAIN.decrypt(data, keys, size, level)
    assert eris.references(data, size) == PLAIN.references(data, size)


@settings(max_examples=40, deadline=None)
@given(
    block_size=st.sampled_from([1024, 32768]),
    size=st.one_of(st.integers(0, 3 * 2**18), st.integers(0, 24).map(lambda groups: 8192 * groups)),
    groups=st.lists(st.integers(1, 19), max_size=5),
    secret=st.binary(min_size=32, max_size=32),
)
def test_a_content_hashed_on_the_way_has_its_hash_and_the_same_leaves(
    eris: ErisKernel, block_size: int, size: int, groups: list[int], secret: bytes
) -> None:
    hashing = eris.hashing(size)
    if hashing is None:
        assert eris.target.vector_bits not in BESIDE_BITS
        return
    content = hashlib.shake_256(secret).digest(size)
    plain = content + bytes(block_size - size % block_size)
    sizes = [*(count * block_size for count in groups), len(plain)]
    at = 0
    for length in sizes:
        batch = plain[at : at + length]
        at += length
        ours = hashing.encrypt_leaves(batch, block_size, secret)
        assert [bytes(part) for part in ours] == [
            bytes(part) for part in PLAIN.encrypt_leaves(batch, block_size, secret)
        ]
    for _ in range(2):
        assert hashing.digest() == hashlib.blake2b(content, digest_size=32).digest()


def test_a_hash_of_half_a_content_is_not_given(cache: Path) -> None:
    hashing = ErisKernel(cache=cache).hashing(2048)
    if hashing is None:
        pytest.skip("this processor hashes nothing on the way")
    hashing.encrypt_leaves(bytes(1024), 1024, bytes(32))
    with pytest.raises(UsageError, match="1024 bytes"):
        hashing.digest()


def test_eris_takes_every_kind_of_buffer_and_leaves_it_alone(eris: ErisKernel) -> None:
    data = bytes(range(256)) * 12
    for buffer in (data, bytearray(data), memoryview(data), memoryview(bytearray(b"." + data))[1:]):
        assert eris.references(buffer, 1024) == PLAIN.references(data, 1024)
        assert bytes(buffer) == data


def test_keyed_state_is_that_of_hashlib(eris: ErisKernel) -> None:
    secret, block = bytes(range(32)), bytes(range(256)) * 4
    _, pairs = eris.encrypt_leaves(block, 1024, secret)
    assert bytes(pairs)[32:64] == hashlib.blake2b(block, key=secret, digest_size=32).digest()
    assert len(keyed_state(secret)) == 64


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, 12),
    m=st.integers(1, 14),
    size=st.sampled_from([0, 1, 63, 64, 65, 128, 192, 1000, 8192, 8256, 20000]),
    seed=st.integers(0, 2**32),
)
def test_matrix_products_equal_the_plain_engine(
    engine: LlvmEngine, k: int, m: int, size: int, seed: int
) -> None:
    random = hashlib.shake_256(seed.to_bytes(8, "big")).digest(k * m + k * size)
    matrix = tuple(random[k * j : k * j + k] for j in range(m))
    inputs = [random[k * m + i * size : k * m + (i + 1) * size] for i in range(k)]
    ours, plain = ([bytearray(size) for _ in range(m)] for _ in range(2))
    engine.multiply(matrix, inputs, ours)
    PlainEngine().multiply(matrix, inputs, plain)
    assert ours == plain


@pytest.mark.parametrize(("rows", "cell"), list(itertools.product((0, 1, 3), (64, 100, 4096))))
def test_row_products_equal_the_plain_engine(engine: LlvmEngine, rows: int, cell: int) -> None:
    matrix = tuple(bytes((7 * j + 3 * i + 1) % 256 for i in range(5)) for j in range(8))
    table = hashlib.shake_256(b"table").digest(5 * rows * cell)
    ours, plain = ([bytearray(rows * cell) for _ in matrix] for _ in range(2))
    engine.multiply_rows(matrix, table, cell, ours)
    PlainEngine().multiply_rows(matrix, table, cell, plain)
    assert ours == plain


def test_every_text_is_well_formed() -> None:
    """Also for processors that this machine cannot run: parsing and verifying needs none of them."""
    from llvmlite import binding

    texts = [eris_module(bits) for bits in (128, 256, 512)]
    texts += [gf_module(m) for m in METHODS if m != "neon"]
    for text in texts:
        binding.parse_assembly(text).verify()


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    kernel = ErisKernel(TARGETS[-1], cache=blocked / "below")
    assert kernel.references(bytes(1024), 1024) == PLAIN.references(bytes(1024), 1024)
