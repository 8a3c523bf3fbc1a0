"""ERIS: round trips by every way, ranges equal slices, damage never gives wrong plaintext."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from potsherd.crypto import eris
from potsherd.errors import PotsherdError

KIB = 1024
LIMIT = 1 << 26
secrets = st.binary(min_size=32, max_size=32)


@st.composite
def contents(draw: st.DrawFn, blocks_max: int = 40) -> bytes:
    """Lengths lie around block boundaries; blocks repeat or differ."""
    blocks = draw(st.integers(0, blocks_max))
    length = max(0, blocks * KIB + draw(st.sampled_from([-2, -1, 0, 1, 2, 511])))
    return draw(st.sampled_from([_zeros, _counted, _text]))(length)


def _zeros(length: int) -> bytes:
    return bytes(length)


def _counted(length: int) -> bytes:
    return b"".join([n.to_bytes(4, "big") for n in range(length // 4 + 1)])[:length]


def _text(length: int) -> bytes:
    return (b"\x80" * (length // 2)).ljust(length, b"\0")  # looks like padding


def stored(encoded: eris.Encoded) -> dict[bytes, bytes]:
    size = encoded.capability.block_size
    return {
        encoded.references[32 * i : 32 * i + 32]: encoded.blocks[size * i : size * i + size]
        for i in range(len(encoded.references) // 32)
    }


def streamed(content: bytes, secret: bytes, block_size: int, step: int) -> eris.Encoded:
    encoder = eris.Encoder(secret, block_size)
    batches = []
    for at in range(0, len(content), step):
        batches += encoder.feed(memoryview(content)[at : at + step])
    last, root = encoder.finish()
    batches += last
    return eris.Encoded(
        root,
        b"".join([batch.blocks for batch in batches]),
        b"".join([batch.references for batch in batches]),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(contents(), max_size=6), secrets, st.integers(1, 50_000))
@example([b"", b"x" * 1024, b"x" * (16 * 1024 - 1), b"x" * (16 * 1024)], bytes(32), 1024)
def test_round_trips(items: list[bytes], secret: bytes, step: int) -> None:
    """Many at once, streamed in odd pieces, and by the wrapper: the same blocks in the same order."""
    for block_size in eris.BLOCK_SIZES:
        encoded = eris.encode_many(items, convergence_secret=secret, block_size=block_size)
        for content, one in zip(items, encoded, strict=True):
            assert streamed(content, secret, block_size, step) == one
            order: list[bytes] = []
            root = eris.encode(
                content,
                convergence_secret=secret,
                block_size=block_size,
                put_block=lambda reference, _, order=order: order.append(reference),  # type: ignore[misc] # the default binds `order`
            )
            assert (root, b"".join(order)) == (one.capability, one.references)
            get = stored(one).__getitem__
            assert b"".join(eris.decode(root, get, size_limit=len(content))) == content
        known = [
            (one.capability, len(c), one.blocks) for c, one in zip(items, encoded, strict=True)
        ]
        assert eris.decode_many(known) == items


@settings(max_examples=60, deadline=None)
@given(contents(), st.integers(0, 45 * KIB), st.integers(0, 45 * KIB))
def test_ranges_equal_slices(content: bytes, start: int, length: int) -> None:
    one = eris.encode_many([content], convergence_secret=bytes(32))[0]
    expected = content[start : start + length]
    get = stored(one).__getitem__
    assert eris.read_range(one.capability, get, start, length, size_limit=LIMIT) == expected
    shape = eris.shape_of(one.capability, len(content))
    blocks = {}
    for level, index in shape.blocks_of_range(start, length):
        at = shape.position(level, index) * KIB
        blocks[level, index] = one.blocks[at : at + KIB]
    assert eris.decode_blocks(one.capability, len(content), blocks, start, length) == expected


@settings(max_examples=80, deadline=None)
@given(contents(20), st.integers(0, 2**32), st.integers(1, 255), st.booleans())
def test_one_changed_byte_never_gives_wrong_plaintext(
    content: bytes, place: int, flip: int, in_capability: bool
) -> None:
    """In a block always an error; in a capability an error, but for a level-0 key and size bits."""
    one = eris.encode_many([content], convergence_secret=bytes(32))[0]
    capability, blocks = one.capability, bytearray(one.blocks)
    if in_capability:
        raw = bytearray(capability.to_bytes())
        raw[place % (34 if capability.level == 0 else 66)] ^= flip
        try:
            capability = eris.ReadCapability.from_bytes(raw)
        except PotsherdError:
            return
    else:
        blocks[place % len(blocks)] ^= flip
    damaged = one._replace(blocks=bytes(blocks))
    by_reference = dict(zip(stored(one), stored(damaged).values(), strict=False))
    got = bytearray()
    try:
        for piece in eris.decode(capability, by_reference.__getitem__, size_limit=LIMIT):
            got += piece
    except PotsherdError:
        assert content.startswith(got)
    else:
        # Equal blocks are stored once: the change hit a copy that was not read.
        assert not in_capability
        assert got == content
    try:
        eris.decode_postorder(capability, len(content), blocks)
    except PotsherdError:
        return
    raise AssertionError("a changed byte went unnoticed")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.text(max_size=120))
def test_garbage_for_a_capability(data: bytes, text: str) -> None:
    parsers: list[Callable[[], bool]] = [
        lambda: eris.ReadCapability.from_bytes(data).to_bytes() == data,
        lambda: eris.ReadCapability.from_urn(text).urn == text,
        lambda: eris.ReadCapability.from_urn("urn:eris:" + text).urn == "urn:eris:" + text,
    ]
    for parse in parsers:
        try:
            assert parse()
        except PotsherdError:
            continue


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.binary(min_size=64, max_size=64), st.binary(max_size=2 * KIB))
def test_garbage_for_blocks(level: int, pair: bytes, block: bytes) -> None:
    capability = eris.ReadCapability(KIB, level, pair[:32], pair[32:])
    for lookup in ({}, {pair[:32]: block}):
        try:
            b"".join(eris.decode(capability, lookup.__getitem__, size_limit=LIMIT))
        except PotsherdError:
            continue
        raise AssertionError("garbage was read")
