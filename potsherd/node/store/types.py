"""What the store is told and what it tells: limits, stages, held shards, usage, what a start found."""

from __future__ import annotations

from potsherd.classes import dataclass
from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.layout import CELL_SIZE
from potsherd.errors import UsageError

__all__ = [
    "DATASETS_PER_SEGMENT_MAX",
    "FRAME_HEADER_BYTES",
    "HEADS_MAX",
    "HEAD_FORKS_MAX",
    "HEAD_NUMBERS_MAX",
    "LEASES_PER_SEGMENT_MAX",
    "ROSTER_MAX",
    "ROSTER_NODES_MAX",
    "TRANSACTION_PAGES_MAX",
    "Held",
    "Recovery",
    "StageState",
    "StoreConfig",
    "Usage",
]

ROSTER_MAX = 512
"""Entries kept of one segment; those of further nodes are not taken."""
ROSTER_NODES_MAX = 65536
"""Nodes that `roster_nodes` names at most."""
LEASES_PER_SEGMENT_MAX = 64
"""Leases of one segment; a further one is refused."""
HEAD_NUMBERS_MAX = 4
"""Of a dataset the heads with so many highest numbers are kept."""
HEAD_FORKS_MAX = 2
"""Different heads of one number: two prove a fork, further ones prove nothing more."""
HEADS_MAX = HEAD_NUMBERS_MAX * HEAD_FORKS_MAX
FRAME_HEADER_BYTES = 24
"""Of a page in the write-ahead log."""
TRANSACTION_PAGES_MAX = 240
"""Pages that one transaction dirties at most; larger work is split."""
DATASETS_PER_SEGMENT_MAX = 4
"""Datasets whose heads are kept beside one segment; a further one is refused."""


@dataclass(frozen=True)
class StoreConfig:
    """Limits and timers of a store. Sizes in bytes, times in seconds."""

    small_shard_max: int = 65536
    """Shards shorter than this live in the index, others in a file of their own."""
    staging_bytes_max: int = 16 * 2**30
    """Reserved by all open stages together."""
    staging_member_bytes_max: int = 4 * 2**30
    """Reserved by the open stages of one member."""
    stages_max: int = 1024
    """Open stages."""
    stages_member_max: int = 256
    """Open stages of one member."""
    staging_memory_max: int = 16 * 2**20
    """Reserved by stages that are kept in memory; beyond it small ones get a file too."""
    staging_idle_s: float = 86400.0
    """A stage without a call for so long is given up."""
    wal_bytes_max: int = 4 * 2**20
    """Write-ahead log of the index; reserved for good."""
    member_share: float = 1.0
    """Of the quota, what all that one member brings with owners' tickets may take; 1: everything."""
    page_bytes: int = 8192
    """Page size of a fresh index (docs/design/store.md says why)."""
    writes_waiting_max: int = 4096
    """Transactions that wait for a commit; a further one is refused."""
    cached_segments_max: int = 512
    """Held segments whose row and descriptor stay in memory."""
    cached_leaves_max: int = 32768
    """Leaf hashes whose Merkle trees stay in memory; about 150 bytes each."""

    def __post_init__(self) -> None:
        if self.wal_bytes_max < 2 * TRANSACTION_PAGES_MAX * (self.page_bytes + FRAME_HEADER_BYTES):
            raise UsageError("a write-ahead log that does not hold the largest transaction twice")
        if self.small_shard_max <= CELL_SIZE:
            raise UsageError("shards of one cell live in the index: it may be a short one")


@dataclass(frozen=True)
class StageState:
    """An open stage: its handle, its bytes so far, and BLAKE2b-256 of them."""

    stage: int
    size: int
    digest: bytes


@dataclass(frozen=True)
class Held:
    """A shard that is durable here. `committed` is the date of its commit, seconds UTC."""

    segment_id: bytes
    index: int
    descriptor: Descriptor
    committed: int


@dataclass(frozen=True)
class Usage:
    """Bytes, and the number of shards. `used` is all that is charged: files, stages, index, reserves."""

    quota: int
    used: int
    staged: int
    index_bytes: int
    shards: int
    free: int


@dataclass(frozen=True)
class Recovery:
    """What `open` found and set right."""

    stages_discarded: int = 0
    """Files of unfinished pushes, removed."""
    orphans_removed: int = 0
    """Shard files that no committed transaction names, removed."""
    lost: tuple[bytes, ...] = ()
    """Segment ids whose file is missing or short: dropped from the index, to be repaired."""
    foreign: tuple[str, ...] = ()
    """Files in the shard folder that are not ours (the first hundred): left alone, but counted."""
    moved_bytes: int = 0
    """By how much the allocated bytes of known files differ from what the index said."""
