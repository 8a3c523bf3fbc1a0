"""Every timer and limit of the DHT, by name and with its unit.

Tests and simulations scale the DHT by this class alone. Formats' own limits (record lifetime, clock
tolerance, datagram size) are no configuration: they stand in `records.py` and `wire.py`.
"""

from __future__ import annotations

from potsherd.classes import dataclass

__all__ = ["DhtConfig"]


@dataclass(frozen=True)
class DhtConfig:
    """Timers and limits of one node's DHT; the defaults are what the service runs with."""

    # Look-ups
    keepers: int = 20
    """K: bucket size, and how many of the nearest nodes keep a record."""
    alpha: int = 3
    """Requests in flight on one path of a look-up."""
    paths: int = 2
    """Disjoint paths of a look-up, when there are contacts enough for all of them."""
    path_seeds_min: int = 3
    """Contacts that each path must start with; with fewer there are fewer paths."""
    candidates_max: int = 64
    """Candidates not asked yet that one path remembers; the farthest are forgotten first."""
    asks_max: int = 160
    """Contacts that one look-up asks at most; then it ends with what it has."""
    pages_max: int = 16
    """Pages of one answer that are asked for."""
    lookup_timeout_s: float = 60.0
    """A look-up ends with what it has after this time."""
    lookups_parallel: int = 16
    """Look-ups of one node that run at a time; further ones wait."""
    stores_parallel: int = 64
    """Store requests in flight; further ones wait."""
    announce_batch: int = 64
    """Keys looked up before their records are sent, grouped by keeper."""
    everybody_s: float = 240.0
    """A look-up that found the whole of a small network serves for storing announcements this long, if nobody comes or
    goes; less than `token_period_s`, for the tokens are its own."""
    pool_cover: int = 3
    """Nodes that tell all that they keep of each block of a pool."""
    pool_shares: int = 8
    """Nodes that tell a client a share of it before: else it takes as many round trips as it has pages."""
    pool_parallel: int = 8
    """Blocks of one pool query that are looked up and asked for at a time."""
    pool_blocks_max: int = 128
    """Blocks of one pool query, of about 10 to 19 donors each; then it ends with what it has."""

    # Requests
    retry_timeouts_s: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Waiting time after each transmission; a contact is silent after the first, failed after all."""
    suspect_s: float = 20.0
    """A contact that was silent is pinged, not waited for, by look-ups of the next so many seconds."""
    suspects_max: int = 1024
    """Silent contacts remembered; the oldest goes first."""
    join_wait_s: float = 0.6
    """After the first known node has answered, joining waits so long for the others."""
    regreet_s: float = 5.0
    """A known node that greets anew (it has started again) is given its records back at most this often."""
    requests_max: int = 1024
    """Requests in flight; one more fails at once."""
    sessions_max: int = 4096
    """Peers whose verified credential is remembered; the least recently used goes first."""
    admission_s: float = 3600.0
    """A credential chain is verified again after this time."""

    # Routing table
    failures_max: int = 3
    """Failed requests in a row after which a contact leaves the table."""
    failure_spacing_s: float = 10.0
    """Failures closer together than this count as one: ten look-ups meet one outage at once."""
    buckets_max: int = 512
    """Buckets of the routing table; beyond it none is split."""
    replacements_max: int = 20
    """Replacement cache of a bucket; the oldest goes first."""
    questionable_s: float = 900.0
    """A contact not heard of for this long is asked for a sign of life when its bucket is full, and does not count
    among those that are nearer to a record than we are."""
    prefix_nodes_max: int | None = None
    """Nodes per /24 or /48 in a bucket, a result and a pool. None (by invitation); 4 suits an open
    network. Loopback and private addresses count singly."""
    probes_max: int = 64
    """Requesters not yet in the table that are being pinged; beyond it they must ask again."""
    join_lookups: int = 4
    """Look-ups for far parts of the id space when joining, after the one for the own id."""
    client_width: int = 8
    """How many of the nearest nodes a client gets to know when joining."""

    # Rate limits
    prefix_rate_per_s: float = 200.0
    """Datagrams accepted per prefix, lasting."""
    prefix_burst: float = 1000.0
    """Datagrams accepted per prefix, at once."""
    prefixes_max: int = 8192
    """Prefixes with a bucket of their own; the least recently seen is forgotten first."""
    strangers_per_s: float = 1000.0
    """Datagrams of keys without a session, over all prefixes, lasting: bounds public-key work."""
    strangers_burst: float = 4000.0
    """The same, at once."""
    dial_rate_per_s: float = 0.2
    """Requests to one host (private: address) that has not answered yet, lasting."""
    dial_burst: float = 32.0
    """The same, at once: nobody can be flooded through us."""

    # Records
    token_period_s: float = 300.0
    """The secret behind store tokens changes this often; a token lives one to two periods."""
    announcements_per_key: int = 64
    """Announcements kept under one key; a newcomer beyond it is refused."""
    announcements_per_member_and_key: int = 16
    """Of these by one member."""
    announcements_per_prefix_and_key: int = 16
    """Of these from one prefix."""
    announcements_per_member: int = 20_000
    """Announcements by one member under all keys."""
    announcements_max: int = 200_000
    """Announcements kept in all."""
    presences_per_member: int = 2_000
    """Presences by one member."""
    presences_per_prefix: int | None = None
    """Presences with addresses of one prefix. None (by invitation); 16 suits an open network."""
    presences_max: int = 20_000
    """Presences kept in all."""

    # Maintenance
    maintenance: bool = True
    """False: no periodic work at all; for studies that drive it themselves."""
    tick_s: float = 60.0
    """How often due maintenance is looked for, jittered by a quarter."""
    bucket_refresh_s: float = 3600.0
    """A bucket without a look-up for this long gets one; one bucket a tick."""
    contact_ping_s: float = 1800.0
    """A contact not heard of for this long is pinged."""
    pings_per_tick: int = 8
    """Contacts pinged in one tick."""
    presence_lifetime_s: float = 10_800.0
    """A presence expires this long after it was signed."""
    presence_period_s: float = 3600.0
    """The own presence is signed and stored again this often, jittered by a tenth."""
    presence_retry_s: float = 15.0
    """The own presence is stored again after this time while too few keep it, jittered by half; doubles from
    try to try up to `presence_period_s`."""
    restore_period_s: float = 21_600.0
    """The own announcements are stored again this often, jittered by a tenth."""
    own_announcements_max: int = 50_000
    """Own announcements remembered for storing again; those beyond it are stored once."""
    handover_queue_max: int = 64
    """New neighbours waiting for records; beyond it they wait for the publishers."""
    handover_records_max: int = 512
    """Records handed to one new neighbour."""
    handover_datagrams_per_s: float = 20.0
    """Speed of handing over."""
