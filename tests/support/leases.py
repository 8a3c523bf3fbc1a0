"""Leases over hand-made segments, and what lengthens or ends them, really signed."""

from __future__ import annotations

from collections.abc import Sequence

from potsherd.crypto.keys import Master
from potsherd.crypto.signing import SigningKey
from potsherd.erasure.merkle import HASH_SIZE, LEASE_TREE, MerkleTree
from potsherd.node.lease_records import Extension, Withdrawal
from potsherd.node.records import Lease, LeasePath
from potsherd.node.session import Session
from potsherd.node.testing import HandMade, seed_of

DAY = 86_400


def withdraw_key(made: HandMade) -> SigningKey:
    """The key that may withdraw the segment's archive."""
    return Master(seed_of("master")).dataset(made.number).withdraw


def lease_over(
    made: Sequence[HandMade],
    until: float = 0,
    *,
    archive: int = 0,
    sequence: int = 1,
    grace_s: int = 0,
    keepers: Sequence[bytes] = (),
    withdraw: bytes | None = None,
) -> tuple[bytes, list[LeasePath]]:
    """A signed lease over segments of one owner, and the path of each."""
    first = made[0]
    ids = b"".join(one.segment_id for one in made)
    tree = MerkleTree(ids, tree=LEASE_TREE)
    lease = Lease(
        owner=first.owner.verify_key,
        archive=archive,
        sequence=sequence,
        root=tree.root,
        segments=len(made),
        total_bytes=sum(len(one.stream) for one in made),
        until=int(until),
        keepers=tuple(sorted(keepers)),
        withdraw_key=withdraw or withdraw_key(first).verify_key,
        grace_s=grace_s,
        repair_below=0,
    )
    paths = []
    for position, one in enumerate(made):
        proof = tree.prove_range(position, 1)
        hashes = tuple(proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE))
        paths.append(LeasePath(one.segment_id, position, hashes))
    return lease.signed(first.owner.sign, first.network_id), paths


def withdrawal_of(
    made: HandMade, date: float, *, number: int = 1, active: bool = True, archive: int = 0
) -> bytes:
    """A signed withdrawal of the archive."""
    key = withdraw_key(made)
    record = Withdrawal(made.owner.verify_key, archive, number, int(date), active, key.verify_key)
    return record.signed(key.sign, made.network_id)


def extension_of(made: HandMade, keeper: SigningKey, until: float, *, archive: int = 0) -> bytes:
    """A keeper's signed extension."""
    record = Extension(made.owner.verify_key, archive, keeper.verify_key, int(until))
    return record.signed(keeper.sign, made.network_id)


async def give(
    session: Session, nodes: Sequence[bytes], lease: bytes, paths: Sequence[LeasePath]
) -> None:
    """Hand a lease to nodes."""
    for key in nodes:
        await (await session.peer(key)).put_lease(lease, paths)
