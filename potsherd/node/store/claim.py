"""What a commit claims, checked against what was staged: everything that needs neither index nor disk."""

from __future__ import annotations

from potsherd.classes import dataclass
from potsherd.erasure import merkle
from potsherd.erasure.descriptor import Descriptor
from potsherd.errors import IntegrityError, RefusedError
from potsherd.node.records import ProvisionalLease
from potsherd.node.store import rosters
from potsherd.node.store.stages import Stage

__all__ = ["Claim", "check_claim"]


@dataclass(frozen=True)
class Claim:
    """A commit whose parts fit each other and the staged bytes. `leaves` are those of the shard."""

    descriptor: Descriptor
    encoding: bytes
    segment_id: bytes
    lease: tuple[ProvisionalLease, bytes] | None
    """The record and its signature; None when another holder brought the shard."""
    entry: bytes
    leaves: bytes


def check_claim(stage: Stage, encoding: bytes, lease: bytes, entry: bytes) -> Claim:
    """Check a commit of a whole stage. Hashes what is in memory: call it off the loop.

    Raises MalformedError; RefusedError when the parts name different things, so that another commit may
    follow; IntegrityError when the staged bytes are not the shard.
    """
    descriptor = Descriptor.decode(encoding)
    if (descriptor.owner_key, descriptor.placement_key) != stage.key[:2]:
        raise RefusedError("the descriptor is of another owner or place than the ticket")
    if stage.index >= descriptor.n:
        raise RefusedError(f"a segment of {descriptor.n} has no index {stage.index}")
    if stage.size != descriptor.geometry.shard_size:
        raise RefusedError(f"{stage.size} bytes staged of {descriptor.geometry.shard_size}")
    provisional = ProvisionalLease.decode(lease[64:]) if lease else None
    _check_statements(descriptor, stage.index, provisional, entry)
    leaves = stage.hasher.leaves()
    if stage.memory is not None:
        leaves = merkle.cell_leaves(stage.memory, descriptor.cell_size)
    if merkle.root(leaves) != descriptor.roots[stage.index]:
        raise IntegrityError("the staged bytes are not the shard that the descriptor names")
    return Claim(
        descriptor,
        bytes(encoding),
        descriptor.segment_id,
        (provisional, bytes(lease[:64])) if provisional else None,
        bytes(entry),
        leaves,
    )


def _check_statements(
    descriptor: Descriptor, index: int, lease: ProvisionalLease | None, entry: bytes
) -> None:
    facts = (descriptor.owner_key, descriptor.segment_id)
    if lease is not None and (lease.owner, lease.segment_id) != facts:
        raise RefusedError("the provisional lease is of another owner or segment")
    holding = rosters.parse(entry)
    if (holding.segment_id, holding.index, holding.held) != (descriptor.segment_id, index, True):
        raise RefusedError("the roster entry says something else than the descriptor")
