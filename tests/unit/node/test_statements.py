"""Which signed statements are acceptable, and which garbage gives what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd.crypto.signing import SigningKey
from potsherd.erasure.merkle import LEASE_TREE, MerkleTree
from potsherd.errors import IntegrityError, MalformedError, PotsherdError, RefusedError
from potsherd.node.records import Head, Lease, LeasePath, ProvisionalLease, RosterEntry, Ticket
from potsherd.node.statements import (
    CLOCK_SKEW_S,
    TICKET_LIFE_MAX_S,
    check_lease_path,
    open_head,
    open_lease,
    open_provisional_lease,
    open_roster,
    open_roster_entry,
    open_ticket,
)
from potsherd.node.testing import HandMade, seed_of
from potsherd.wire import Record

NOW = 1_800_000_000
NET = bytes(range(32))
OTHER_NET = bytes(32)
MADE = HandMade(NET, b"some stream" * 30, with_entry=True)
HOLDER = SigningKey(seed_of("holder"))
STRANGER = SigningKey(seed_of("stranger"))
ME = seed_of("this node")


def resigned(data: bytes, cls: type[Record], key: SigningKey, **changes: Any) -> bytes:
    """The statement with other fields, signed by `key`."""
    record: Any = cls.decode(data[64:])  # which kind of record is the caller's business
    changed: Record = replace(record, **changes)
    return changed.signed(key.sign, NET)


def test_a_ticket_is_good_for_a_while() -> None:
    data = MADE.ticket(NOW, 0, ME)
    too_long = TICKET_LIFE_MAX_S + CLOCK_SKEW_S + 1
    assert open_ticket(data, NET, NOW, ME).owner == MADE.owner.verify_key
    assert open_ticket(data, NET, NOW + 3600 + CLOCK_SKEW_S, ME)
    with pytest.raises(RefusedError, match="expired"):
        open_ticket(data, NET, NOW + 3601 + CLOCK_SKEW_S, ME)
    with pytest.raises(RefusedError, match="longer"):
        open_ticket(MADE.ticket(NOW, 0, ME, life_s=too_long), NET, NOW, ME)
    with pytest.raises(IntegrityError):
        open_ticket(data, OTHER_NET, NOW, ME)
    with pytest.raises(IntegrityError):
        open_ticket(resigned(data, Ticket, STRANGER), NET, NOW, ME)


def test_a_ticket_is_good_for_one_node() -> None:
    """A holder that has seen a ticket cannot spend it at another."""
    data = MADE.ticket(NOW, 0, HOLDER.verify_key)
    assert open_ticket(data, NET, NOW, HOLDER.verify_key).index == 0
    with pytest.raises(RefusedError, match="another node"):
        open_ticket(data, NET, NOW, ME)
    with pytest.raises(IntegrityError):
        open_ticket(resigned(data, Ticket, STRANGER, holder=ME), NET, NOW, ME)


def test_a_provisional_lease_is_for_one_segment_by_its_owner() -> None:
    data, descriptor = MADE.lease(NOW), MADE.descriptor
    assert open_provisional_lease(data, descriptor, NET, NOW).segment_id == MADE.segment_id
    with pytest.raises(IntegrityError):
        open_provisional_lease(resigned(data, ProvisionalLease, STRANGER), descriptor, NET, NOW)
    bad: list[dict[str, Any]] = [
        {"segment_id": bytes(32)},
        {"owner": STRANGER.verify_key},
        {"until": NOW - CLOCK_SKEW_S},
        {"until": NOW + 31 * 86_400},
    ]
    for changes in bad:
        with pytest.raises(RefusedError):
            changed = resigned(data, ProvisionalLease, MADE.owner, **changes)
            open_provisional_lease(changed, descriptor, NET, NOW)


def test_a_roster_entry_is_signed_by_the_node_it_names() -> None:
    data = MADE.entry(HOLDER, 2)
    assert open_roster_entry(data, NET, MADE.segment_id).index == 2
    with pytest.raises(IntegrityError, match="another segment"):
        open_roster_entry(data, NET, bytes(32))
    forged = resigned(data, RosterEntry, STRANGER)
    with pytest.raises(IntegrityError):
        open_roster([data, forged], NET, MADE.segment_id)


def lease_over(ids: list[bytes], **changes: Any) -> Lease:
    fields: dict[str, Any] = {
        "owner": MADE.owner.verify_key,
        "archive": 0,
        "sequence": 1,
        "root": MerkleTree(b"".join(ids), tree=LEASE_TREE).root,
        "segments": len(ids),
        "total_bytes": 1000,
        "until": 0,
        "keepers": (),
        "withdraw_key": bytes(32),
        "grace_s": 86_400,
        "repair_below": 0,
    }
    return Lease(**{**fields, **changes})


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_a_lease_proves_each_of_its_segments_and_no_other(where: tuple[int, int]) -> None:
    count, position = where
    ids = [seed_of("segment", i) for i in range(count)]
    lease = lease_over(ids)
    proof = MerkleTree(b"".join(ids), tree=LEASE_TREE).prove_range(position, 1)
    hashes = tuple(proof[i : i + 32] for i in range(0, len(proof), 32))
    path = LeasePath(ids[position], position, hashes)
    check_lease_path(lease, path)
    wrong = [
        replace(path, segment_id=seed_of("another")),
        replace(path, position=position + count),
        replace(path, path=(*hashes, bytes(32))),
    ]
    if hashes:
        wrong.append(replace(path, path=(*hashes[:-1], bytes(32))))
    if count > 1:
        wrong.append(replace(path, position=(position + 1) % count))
    for changed in wrong:
        with pytest.raises(IntegrityError):
            check_lease_path(lease, changed)


def test_a_lease_is_signed_by_its_owner() -> None:
    lease = lease_over([MADE.segment_id])
    assert open_lease(lease.signed(MADE.owner.sign, NET), NET) == lease
    with pytest.raises(IntegrityError):
        open_lease(lease.signed(STRANGER.sign, NET), NET)


def test_a_head_is_by_the_owner_of_its_dataset() -> None:
    genesis = MADE.genesis.encode()
    head = MADE.heads([NOW])[0]
    assert open_head(genesis, head, NET, NOW)[1].number == 1
    assert open_head(genesis, head, NET, NOW - CLOCK_SKEW_S)
    refused: list[tuple[type[PotsherdError], bytes]] = [
        (IntegrityError, resigned(head, Head, MADE.owner, dataset_id=bytes(32))),
        (IntegrityError, resigned(head, Head, STRANGER)),
        (RefusedError, resigned(head, Head, STRANGER, writer=STRANGER.verify_key)),
        (RefusedError, resigned(head, Head, MADE.owner, epoch=1)),
        (RefusedError, resigned(head, Head, MADE.owner, date=NOW + CLOCK_SKEW_S + 1)),
    ]
    for error, data in refused:
        with pytest.raises(error):
            open_head(genesis, data, NET, NOW)
    with pytest.raises(IntegrityError):
        open_head(HandMade(NET, b"x", number=1).genesis.encode(), head, NET, NOW)


OPENERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (lambda d: open_ticket(d, NET, NOW, ME), MADE.ticket(NOW, 0, ME)),
    (lambda d: open_provisional_lease(d, MADE.descriptor, NET, NOW), MADE.lease(NOW)),
    (lambda d: open_roster_entry(d, NET, MADE.segment_id), MADE.entry(HOLDER, 1)),
    (lambda d: open_lease(d, NET), lease_over([bytes(32)]).signed(MADE.owner.sign, NET)),
    (lambda d: open_head(MADE.genesis.encode(), d, NET, NOW), MADE.heads([NOW])[0]),
]


@pytest.mark.parametrize("which", range(len(OPENERS)))
def test_every_changed_byte_and_every_cut_is_refused(which: int) -> None:
    opener, good = OPENERS[which]
    opener(good)
    for at in range(len(good)):
        with pytest.raises((MalformedError, IntegrityError, RefusedError)):
            opener(good[:at])
        with pytest.raises((MalformedError, IntegrityError, RefusedError)):
            opener(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


@given(st.sampled_from(OPENERS), st.binary(max_size=600))
def test_garbage_gives_only_typed_errors(
    opener: tuple[Callable[[bytes], object], bytes], data: bytes
) -> None:
    with pytest.raises((MalformedError, IntegrityError)):
        opener[0](data)
