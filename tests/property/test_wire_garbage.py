"""Garbage in gives only MalformedError, and what parses is what our encoder writes."""

from __future__ import annotations

import contextlib
import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.errors import MalformedError
from potsherd.node import records
from potsherd.wire import Record, pack

RECORDS = [
    kind
    for _, kind in inspect.getmembers(records, inspect.isclass)
    if issubclass(kind, Record) and kind is not Record
]

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=70)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=20,
)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)
@given(
    data=st.binary(max_size=200)
    | PLAIN.map(pack)
    | st.lists(PLAIN, max_size=12).map(lambda p: pack([1, 1, *p]))
)
def test_any_bytes_give_a_record_that_encodes_to_them_or_a_malformed_error(
    kind: type[Record], data: bytes
) -> None:
    with contextlib.suppress(MalformedError):
        assert kind.decode(data).encode() == data
