"""Garbage descriptors give MalformedError and nothing else; good ones are canonical."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import Geometry, rows_max
from potsherd.errors import MalformedError
from potsherd.wire import pack


@st.composite
def descriptors(draw: st.DrawFn) -> Descriptor:
    n = draw(st.integers(1, 255))
    k = draw(st.integers(1, n))
    small = draw(st.booleans())
    longest = k * 32768 - 1 if small else rows_max(k) * k * 32768
    length = draw(st.integers(0, longest))
    geometry = Geometry.of(k, n, length, small=small)
    roots = tuple(draw(st.lists(st.binary(min_size=32, max_size=32), min_size=n, max_size=n)))
    entry = None
    if length and draw(st.booleans()):
        offset = draw(st.integers(0, length - 1))
        entry = Entry(bytes(20), offset, draw(st.integers(1, length - offset)))
    r = draw(st.integers(k, n))
    return Descriptor(
        k, n, r, geometry.cell_size, geometry.rows, length, bytes(20), bytes(32), roots, entry
    )


@given(descriptors())
def test_every_segment_has_a_descriptor(descriptor: Descriptor) -> None:
    data = descriptor.encode()
    assert Descriptor.decode(data) == descriptor
    assert Descriptor.decode(memoryview(data)).segment_id == descriptor.segment_id


@given(descriptors(), st.data())
def test_a_changed_or_cut_descriptor_is_refused_or_another(
    descriptor: Descriptor, choices: st.DataObject
) -> None:
    data = bytearray(descriptor.encode())
    at = choices.draw(st.integers(0, min(len(data) - 1, 60)))
    data[at] ^= choices.draw(st.integers(1, 255))
    for spoiled in (bytes(data), bytes(data[:at]), bytes(data) + b"\0"):
        with contextlib.suppress(MalformedError):
            other = Descriptor.decode(spoiled)
            assert other.encode() == spoiled
            assert other.segment_id != descriptor.segment_id


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=20,
)


@given(st.binary(max_size=300) | plain.map(pack) | st.lists(plain).map(lambda x: pack([1, 1, *x])))
def test_garbage_is_malformed(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert Descriptor.decode(data).encode() == data
