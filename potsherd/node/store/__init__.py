"""The shard store: shards, rosters, leases and heads of one node, within a quota (docs/spec/store.md)."""

from potsherd.node.store.keeping import Dropped, Kept, LeaseState, Tombstone
from potsherd.node.store.store import ShardStore
from potsherd.node.store.types import Held, Recovery, StageState, StoreConfig, Usage

__all__ = [
    "Dropped",
    "Held",
    "Kept",
    "LeaseState",
    "Recovery",
    "ShardStore",
    "StageState",
    "StoreConfig",
    "Tombstone",
    "Usage",
]
