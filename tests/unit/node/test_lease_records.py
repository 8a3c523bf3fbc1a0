"""Extensions and withdrawals: who may sign them, and what a byte changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError, MalformedError, RefusedError
from potsherd.node.lease_exchange import open_extension, open_withdrawal
from potsherd.node.lease_records import (
    KEEPING_LEASES_MAX,
    KEEPING_SEGMENTS_MAX,
    STATEMENTS_MAX,
    Extension,
    KeepingQuery,
    KeepingReply,
    KeptSegment,
    Withdrawal,
)
from potsherd.node.records import DATE_MAX, Lease, LeasePath
from potsherd.node.testing import seed_of

NOW = 1_800_000_000
NET = bytes(range(32))
KEEPER, OFFLINE, STRANGER = (SigningKey(seed_of(name)) for name in ("keeper", "offline", "no"))
EXTENSION = Extension(b"o" * 32, 7, KEEPER.verify_key, NOW)
WITHDRAWAL = Withdrawal(b"o" * 32, 7, 1, NOW, True, OFFLINE.verify_key)


def test_a_keeper_signs_its_extension() -> None:
    assert open_extension(EXTENSION.signed(KEEPER.sign, NET), NET) == EXTENSION
    for data in (EXTENSION.signed(STRANGER.sign, NET), EXTENSION.signed(KEEPER.sign, bytes(32))):
        with pytest.raises(IntegrityError):
            open_extension(data, NET)


def test_a_withdrawal_is_by_its_key_and_not_of_tomorrow() -> None:
    good = WITHDRAWAL.signed(OFFLINE.sign, NET)
    assert open_withdrawal(good, NET, NOW) == WITHDRAWAL
    assert open_withdrawal(good, NET, NOW + 10**8) == WITHDRAWAL
    with pytest.raises(RefusedError, match="future"):
        open_withdrawal(good, NET, NOW - 601)
    with pytest.raises(IntegrityError):
        open_withdrawal(WITHDRAWAL.signed(STRANGER.sign, NET), NET, NOW)
    with pytest.raises(MalformedError):
        replace(WITHDRAWAL, number=0).encode()


def test_every_changed_byte_and_every_cut_is_refused() -> None:
    signed = WITHDRAWAL.signed(OFFLINE.sign, NET)
    for at in range(len(signed)):
        for wrong in (signed[:at], signed[:at] + bytes([signed[at] ^ 1]) + signed[at + 1 :]):
            with pytest.raises((MalformedError, IntegrityError, RefusedError)):
                open_withdrawal(wrong, NET, NOW)


@given(st.binary(max_size=400))
def test_garbage_gives_only_typed_errors(data: bytes) -> None:
    with pytest.raises((MalformedError, IntegrityError)):
        open_extension(data, NET)
    with pytest.raises((MalformedError, IntegrityError)):
        open_withdrawal(data, NET, NOW)


def test_the_longest_messages_fit() -> None:
    lease = Lease(
        *(b"o" * 32, 2**32 - 1, 2**32 - 1, bytes(32), 2**20, 2**60, DATE_MAX),
        keepers=tuple(bytes([i]) * 32 for i in range(8)),
        withdraw_key=bytes(32),
        grace_s=DATE_MAX,
        repair_below=255,
    )
    signed = lease.signed(KEEPER.sign, NET)
    path = LeasePath(bytes(32), 2**20 - 1, (bytes(32),) * 20)
    segment = KeptSegment(bytes(32), True, ((signed, path),) * KEEPING_LEASES_MAX)
    longest = replace(EXTENSION, archive=2**32 - 1, until=DATE_MAX).signed(KEEPER.sign, NET)
    ended = replace(WITHDRAWAL, archive=2**32 - 1, number=2**32 - 1, date=DATE_MAX)
    reply = KeepingReply(
        DATE_MAX,
        (segment,) * KEEPING_SEGMENTS_MAX,
        (longest,) * STATEMENTS_MAX,
        ((ended.signed(OFFLINE.sign, NET), DATE_MAX),) * STATEMENTS_MAX,
    )
    assert KeepingReply.decode(reply.encode()) == reply
    query = KeepingQuery((bytes(32),) * KEEPING_SEGMENTS_MAX)
    assert KeepingQuery.decode(query.encode()) == query
