"""Every timer and limit of a running node, by name and with its unit."""

from __future__ import annotations

from dataclasses import field

from potsherd.classes import dataclass
from potsherd.dht import DhtConfig
from potsherd.node.audit.settings import AuditSettings
from potsherd.node.habits import LossPolicy
from potsherd.node.liveness import FreezePolicy
from potsherd.node.repair.settings import RepairSettings
from potsherd.node.store import StoreConfig
from potsherd.ports import Address

__all__ = ["NodeSettings", "ServerLimits"]

ANY_LOOPBACK_PORT = Address("127.0.0.1", 0)


@dataclass(frozen=True)
class ServerLimits:
    """How much one node serves at a time; beyond each bound a peer is refused, never queued for ever."""

    connections_max: int = 512
    """Greeted connections in all."""
    connections_per_member: int = 128
    """Greeted connections of one member: all its nodes and clients together."""
    connections_per_key: int = 4
    """Greeted connections of one node key."""
    greetings_max: int = 64
    """Connections that have not said hello yet."""
    stages_per_connection: int = 256
    """Open stages that one connection may push to."""
    idle_timeout_s: float = 600.0
    """Seconds without a request after which a connection is closed."""
    farewell_s: float = 5.0
    """Seconds that a refused peer has to take the reason."""


@dataclass(frozen=True)
class NodeSettings:
    """What a donor's node runs with; the defaults are the service's."""

    quota_bytes: int
    """Bytes of disk that the node may use, everything counted (promise 4)."""
    listen: Address = ANY_LOOPBACK_PORT
    """IP address and port for UDP and TCP alike; port 0 lets the system choose."""
    public_address: Address | None = None
    """Where others reach the node; None: where it listens, unless that is a wildcard."""
    site: str = ""
    """Declared site, a failure domain; empty: none declared."""
    operator: str = ""
    """Label of who runs the node, a failure domain; empty: the invitation's label."""
    bootstrap: tuple[tuple[bytes, Address], ...] = ()
    """(node key, address) to join by, besides the network configuration's."""

    presence_period_s: float = 1800.0
    """Seconds between checks whether the presence must be published anew."""
    join_retry_s: float = 30.0
    """Seconds until joining is tried again when no node answered; doubles up to `join_retry_max_s`."""
    join_retry_max_s: float = 600.0
    """Seconds between tries to join, at most."""
    heartbeat_s: float = 600.0
    """Seconds between signs of life of each node that shares segments with us."""
    heartbeat_timeout_s: float = 10.0
    """Seconds for one heartbeat, the look-up of a presence not counted."""
    heartbeat_tick_s: float = 60.0
    """Seconds between two steps of the heartbeats, at most; a tenth of `heartbeat_s` where that is less."""
    heartbeats_parallel: int = 8
    """Heartbeats under way at a time."""
    away_after_s: float = 1800.0
    """Seconds without a sign of life after which a peer counts as away."""
    loss: LossPolicy = field(default_factory=LossPolicy)
    """When a silent peer is given up."""
    freeze: FreezePolicy = field(default_factory=FreezePolicy)
    """When silence is not believed."""
    peers_save_s: float = 14_400.0
    """Seconds between two times that what is known of peers is written down."""
    survey_period_s: float = 21_600.0
    """Seconds between two looks at the presences around a segment: addresses and failure domains."""
    peers_max: int = 4096
    """Peers watched; pools are neighbourhoods, so a node shares segments with fewer."""
    roster_period_s: float = 600.0
    """Seconds between readings of who shares segments with us."""
    reconcile_round_s: float = 21_600.0
    """Seconds in which the roster of every segment is compared with one other holder's."""
    reconcile_tick_s: float = 10.0
    """Seconds between two steps of reconciling, at least; jittered by half."""
    reconcile_batch: int = 64
    """Segments looked at in one step of reconciling."""
    repair: RepairSettings = field(default_factory=RepairSettings)
    """When and how segments are repaired."""
    audit: AuditSettings = field(default_factory=AuditSettings)
    """When shards of others are audited, and how fast one's own are read."""
    announce_period_s: float = 43_200.0
    """Seconds in which every segment is announced anew; half of a record's life."""
    announce_tick_s: float = 30.0
    """Seconds between two steps of the announcer, jittered by half."""
    announce_batch: int = 64
    """Segments looked at in one step of the announcer."""
    retention_round_s: float = 86_400.0
    """Seconds in which it is looked at how long every segment is to be kept."""
    retention_tick_s: float = 30.0
    """Seconds between two steps of that, at least; jittered by half."""
    retention_batch: int = 128
    """Segments looked at in one step of that."""
    grace_min_s: int = 7 * 86_400
    """Seconds of grace after the end of any lease, also one that grants less."""
    move_retry_s: float = 300.0
    """Seconds until a shard that no node took is offered again, when this node shrinks or leaves."""
    move_parallel: int = 2
    """Shards moved at a time when this node shrinks or leaves."""
    watch_period_s: float = 300.0
    """Seconds between looks at the machine: its clock, its disk."""
    sweep_period_s: float = 3600.0
    """Seconds between sweeps of the store: stages idle for too long."""
    sessions_max: int = 256
    """Connections kept open to other nodes."""

    dht: DhtConfig = field(default_factory=DhtConfig)
    """The DHT's timers and limits."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """The store's timers and limits."""
    server: ServerLimits = field(default_factory=ServerLimits)
    """What peers may ask at a time."""
