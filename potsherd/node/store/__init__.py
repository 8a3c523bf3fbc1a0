"""The shard store: shards, rosters, leases and heads of one node, within a quota (docs/spec/store.md)."""

from potsherd.node.store.store import ShardStore
from potsherd.node.store.types import Held, Recovery, StageState, StoreConfig, Usage

__all__ = ["Held", "Recovery", "ShardStore", "StageState", "StoreConfig", "Usage"]
