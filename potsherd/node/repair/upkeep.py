"""What a node does by itself to keep segments alive: the parts, put together for `Node`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from potsherd.node.liveness import PeerTable
from potsherd.node.repair.reconciler import Reconciler, ReconcilerStatistics
from potsherd.node.rosters import Rosters
from potsherd.node.session import Session
from potsherd.node.settings import NodeSettings
from potsherd.node.store import ShardStore
from potsherd.ports import Address, Env

__all__ = ["Upkeep", "UpkeepStatistics"]


@dataclass(frozen=True)
class UpkeepStatistics:
    """A snapshot of all parts."""

    reconciler: ReconcilerStatistics


class Upkeep:
    """Made by `Node` once its session stands; `tasks` are run by the node."""

    def __init__(
        self,
        env: Env,
        settings: NodeSettings,
        *,
        store: ShardStore,
        session: Session,
        rosters: Rosters,
        peers: PeerTable,
        address_of: Callable[[bytes], Address | None],
        holders_changed: Callable[[], None],
    ) -> None:
        """`holders_changed`: other holders of some segments have become known."""
        self._env = env
        self._peers = peers
        self._holders_changed = holders_changed
        self.reconciler = Reconciler(
            env,
            store,
            rosters,
            node_key=session.identity.key,
            dial=lambda key, near: session.peer(key, peers.address_of(key), near=near),
            alive=lambda key: peers.alive(key, env.monotonic()),
            address_of=address_of,
            changed=self._roster_changed,
            round_s=settings.reconcile_round_s,
            tick_s=settings.reconcile_tick_s,
            batch=settings.reconcile_batch,
        )

    def tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """(name, what runs until it is cancelled)."""
        yield "reconciler", self.reconciler.run

    def statistics(self) -> UpkeepStatistics:
        """A snapshot."""
        return UpkeepStatistics(self.reconciler.statistics())

    def met(self, key: bytes) -> None:
        """A node gave its first sign of life, or came back."""
        self.reconciler.met(key)

    def _roster_changed(self, segment_id: bytes) -> None:
        self._holders_changed()
