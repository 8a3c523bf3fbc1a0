"""Who may bring a shard that its owner has not sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError, RefusedError
from potsherd.node.records import HolderTicket
from potsherd.node.statements import CLOCK_SKEW_S, HOLDER_TICKET_LIFE_MAX_S, open_holder_ticket
from potsherd.node.testing import HandMade, seed_of

NOW = 1_800_000_000
NET = bytes(range(32))
MADE = HandMade(NET, b"some stream" * 30)
OTHER = HandMade(NET, b"another one" * 30)
SIGNER, STRANGER = SigningKey(seed_of("holder")), SigningKey(seed_of("stranger"))
ME = seed_of("this node")
TICKET = HolderTicket(MADE.segment_id, 2, SIGNER.verify_key, ME, NOW + 60)


def opened(
    ticket: HolderTicket = TICKET,
    *,
    key: SigningKey = SIGNER,
    entry: bytes | None = None,
    now: float = NOW,
    peer: bytes = SIGNER.verify_key,
) -> HolderTicket:
    return open_holder_ticket(
        ticket.signed(key.sign, NET),
        MADE.descriptor,
        MADE.entry(SIGNER, 0) if entry is None else entry,
        NET,
        now,
        holder=ME,
        peer=peer,
    )


def test_a_holder_brings_a_shard() -> None:
    assert opened() == TICKET
    assert opened(now=NOW + 60 + CLOCK_SKEW_S) == TICKET


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"holder": seed_of("another node")}, RefusedError),
        ({"segment_id": OTHER.segment_id}, RefusedError),
        ({"index": 4}, RefusedError),
        ({"expires": NOW - CLOCK_SKEW_S - 1}, RefusedError),
        ({"expires": NOW + HOLDER_TICKET_LIFE_MAX_S + CLOCK_SKEW_S + 1}, RefusedError),
        ({"signer": STRANGER.verify_key}, IntegrityError),
    ],
)
def test_a_ticket_for_anything_else_is_refused(changes: dict[str, Any], error: type) -> None:
    with pytest.raises(error):
        opened(replace(TICKET, **changes))


def test_who_does_not_say_that_it_holds_the_segment_is_refused() -> None:
    for entry in (MADE.entry(SIGNER, 0, held=False), MADE.entry(STRANGER, 0)):
        with pytest.raises(RefusedError):
            opened(entry=entry)
    with pytest.raises(IntegrityError):
        opened(entry=OTHER.entry(SIGNER, 0))


def test_nobody_spends_the_ticket_of_another() -> None:
    with pytest.raises(RefusedError):
        opened(peer=STRANGER.verify_key)
    with pytest.raises(IntegrityError):
        opened(key=STRANGER)
