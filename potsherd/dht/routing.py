"""The routing table: who is asked, who is told to others.

Built on `Node`, `KBucket` and `RoutingTable` of the `kademlia` package, with what is wrong there
overridden (docs/design/dht.md lists each). Only donors whose chain and address have been proven get
here; the caller sees to that. Nothing here waits or sends; what should be pinged is returned.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from typing import Any

from kademlia.node import Node
from kademlia.routing import KBucket, RoutingTable

from potsherd.dht.addresses import Contact, Scope, prefix_of, scope_of
from potsherd.dht.config import DhtConfig
from potsherd.ports import Rng

__all__ = ["ID_BITS", "Bucket", "Table", "TableNode", "capped", "number", "random_id_in"]

ID_BITS = 160
SORTED_MAX = 512
"""Contacts up to which a table is sorted as a whole."""


def number(dht_id: bytes) -> int:
    """An id as the integer that XOR distances are made of."""
    return int.from_bytes(dht_id, "big")


class TableNode(Node):  # type: ignore[misc] # kademlia has no type information
    """A contact with what we have seen of it."""

    id: bytes
    long_id: int

    def __init__(self, contact: Contact, now: float) -> None:
        super().__init__(contact.dht_id, contact.address.host, contact.address.port)
        self.contact = contact
        self.first_seen = now
        self.last_seen = now
        self.last_failed = float("-inf")
        self.failures = 0


class Bucket(KBucket):  # type: ignore[misc] # kademlia has no type information
    """A range of ids with both ends included; time comes in from outside."""

    nodes: dict[bytes, TableNode]
    replacement_nodes: dict[bytes, TableNode]
    range: tuple[int, int]

    def __init__(self, low: int, high: int, config: DhtConfig, now: float) -> None:
        self._config = config
        self.last_updated = now
        super().__init__(low, high, config.keepers)
        self.max_replacement_nodes = config.replacements_max

    def touch_last_updated(self) -> None:
        """Nothing: kademlia reads a clock here; `Table.touch` is given the time."""

    def split(self) -> tuple[Bucket, Bucket]:
        """Two halves of this class, nodes in their order, replacements as far as there is room."""
        low, high = self.range
        middle = (low + high) // 2
        one = Bucket(low, middle, self._config, self.last_updated)
        two = Bucket(middle + 1, high, self._config, self.last_updated)
        for node in [*self.nodes.values(), *self.replacement_nodes.values()]:
            (one if node.long_id <= middle else two).add_node(node)
        return one, two

    def depth(self) -> int:
        """Bits that all ids of the range share; kademlia counts those that the nodes share."""
        return ID_BITS - (self.range[0] ^ self.range[1]).bit_length()

    def same_prefix(self, node: TableNode) -> int:
        """How many of the nodes have an address of the prefix of `node`."""
        prefix = prefix_of(node.contact.address)
        return sum(prefix_of(other.contact.address) == prefix for other in self.nodes.values())


class Table(RoutingTable):  # type: ignore[misc] # kademlia has no type information
    """Buckets around the own id, with exact answers to "who is nearest"."""

    buckets: list[Bucket]

    def __init__(self, own_id: bytes, config: DhtConfig, now: float) -> None:
        self._config = config
        self._now_at_flush = now
        self._own = number(own_id)
        self._good: dict[int, TableNode] = {}
        self._failing: dict[int, TableNode] = {}
        super().__init__(None, config.keepers, Node(own_id))

    def flush(self) -> None:
        """One empty bucket for all ids."""
        self.buckets = [Bucket(0, 2**ID_BITS - 1, self._config, self._now_at_flush)]
        self._reindex()

    def __len__(self) -> int:
        return len(self._good) + len(self._failing)

    def get_bucket_for(self, node: Any) -> int:
        """Place of the bucket whose range holds the node's id."""
        return self._place(node.long_id)

    def _place(self, long_id: int) -> int:
        low, high = 0, len(self.buckets) - 1
        while low < high:
            middle = (low + high) // 2
            if long_id <= self.buckets[middle].range[1]:
                high = middle
            else:
                low = middle + 1
        return low

    def _reindex(self) -> None:
        nodes = [node for bucket in self.buckets for node in bucket.nodes.values()]
        self._good = {n.long_id: n for n in nodes if not n.failures}
        self._failing = {n.long_id: n for n in nodes if n.failures}

    def get(self, dht_id: bytes) -> TableNode | None:
        """The node of this id that is in a bucket."""
        long_id = number(dht_id)
        return self._good.get(long_id) or self._failing.get(long_id)

    def contacts(self) -> list[Contact]:
        """All contacts without a failure, nearest to the own id first."""
        return [self._good[i].contact for i in sorted(self._good, key=self._own.__xor__)]

    def nearest(self, target: bytes, count: int, *, exclude: bytes = b"") -> list[Contact]:
        """Exactly the `count` nearest contacts known; failing ones only when others are too few."""
        distance = number(target).__xor__
        ids = _least(count + 1, self._good, distance)
        found = [self._good[i].contact for i in ids]
        if len(found) <= count and self._failing:
            ids = _least(count, self._failing, distance)
            found += [self._failing[i].contact for i in ids]
        return [contact for contact in found if contact.dht_id != exclude][:count]

    def nearer(self, target: bytes, since: float) -> int:
        """How many contacts that have answered since then are nearer to `target` than we are."""
        place = number(target)
        own = self._own ^ place
        return sum(n.last_seen >= since and i ^ place < own for i, n in self._good.items())

    def wants(self, contact: Contact) -> bool:
        """Whether a sign of life of `contact` could change the table."""
        long_id = number(contact.dht_id)
        if long_id == self._own:
            return False
        node = self._good.get(long_id)
        if node is not None:
            return node.contact.key == contact.key and node.contact.address != contact.address
        bucket = self.buckets[self._place(long_id)]
        return (
            long_id in self._failing
            or len(bucket) < self._config.keepers
            or self._may_split(bucket)
            or len(bucket.replacement_nodes) < self._config.replacements_max
        )

    def _may_split(self, bucket: Bucket) -> bool:
        if len(self.buckets) >= self._config.buckets_max or bucket.range[0] == bucket.range[1]:
            return False
        return bool(bucket.range[0] <= self._own <= bucket.range[1] or bucket.depth() % 5)

    def seen(self, contact: Contact, now: float) -> tuple[bool, Contact | None]:
        """A verified donor has answered a request of ours at its address.

        Returns (whether it is new in the table, a silent contact of its full bucket to be pinged).
        """
        long_id = number(contact.dht_id)
        if long_id == self._own:
            return False, None
        bucket = self.buckets[self._place(long_id)]
        known = bucket.nodes.get(contact.dht_id)
        if known is not None:
            self._refresh(bucket, known, contact, now)
            return False, None
        return self._enter(TableNode(contact, now), now)

    def _refresh(self, bucket: Bucket, known: TableNode, contact: Contact, now: float) -> None:
        """The known node goes to the tail. A second key for one id waits until the first is gone."""
        if known.contact.key != contact.key and not known.failures:
            return
        known.contact = contact
        known.last_seen = now
        if known.failures:
            known.failures = 0
            self._good[known.long_id] = self._failing.pop(known.long_id)
        bucket.add_node(known)

    def _enter(self, node: TableNode, now: float) -> tuple[bool, Contact | None]:
        cap = self._config.prefix_nodes_max
        while True:
            bucket = self.buckets[self._place(node.long_id)]
            if cap is not None and bucket.same_prefix(node) >= cap:
                return False, None
            if bucket.add_node(node):
                self._good[node.long_id] = node
                return True, None
            if not self._may_split(bucket):
                return False, self._questionable(bucket, now)
            self.split_bucket(self._place(node.long_id))
            self._reindex()
            if node.long_id in self._good:  # splitting made room and took it from the replacements
                return True, None

    def _questionable(self, bucket: Bucket, now: float) -> Contact | None:
        head: TableNode = bucket.head()
        if head.failures or now - head.last_seen > self._config.questionable_s:
            return head.contact
        return None

    def failed(self, contact: Contact, now: float) -> bool:
        """A request, with all its repetitions, was not answered. True if that removed the contact."""
        node = self.get(contact.dht_id)
        if node is None or node.contact != contact:
            return False
        if now - node.last_failed < self._config.failure_spacing_s:
            return False
        node.last_failed = now
        node.failures += 1
        if node.failures >= self._config.failures_max:
            self.remove_contact(node)
            self._reindex()
            return True
        if node.failures == 1:
            self._failing[node.long_id] = self._good.pop(node.long_id)
        return False

    def touch(self, target: bytes, now: float) -> None:
        """A look-up went to the bucket of `target`."""
        self.buckets[self._place(number(target))].last_updated = now

    def stalest(self, now: float) -> Bucket | None:
        """The bucket without a look-up for longest, if longer than the configured time."""
        bucket = min(self.buckets, key=lambda b: b.last_updated)
        return bucket if now - bucket.last_updated >= self._config.bucket_refresh_s else None

    def silent(self, now: float, age_s: float, count: int) -> list[Contact]:
        """Up to `count` contacts to ping: the failing first, then those not heard of for `age_s`."""
        old = [n for n in self._good.values() if now - n.last_seen >= age_s]
        old.sort(key=lambda n: n.last_seen)
        return [n.contact for n in [*self._failing.values(), *old][:count]]

    def elders(self) -> Iterable[TableNode]:
        """Good nodes, the longest known first."""
        return sorted(self._good.values(), key=lambda n: n.first_seen)


def _least(count: int, ids: Collection[int], key: Callable[[int], int]) -> list[int]:
    """The first `count` by key; of a few hundred, sorting all is three times as fast as a heap."""
    if len(ids) <= SORTED_MAX:
        return sorted(ids, key=key)[:count]
    return heapq.nsmallest(count, ids, key=key)


def random_id_in(bucket: Bucket, rng: Rng) -> bytes:
    """An id within the range of `bucket`, for refreshing it."""
    return rng.randint(*bucket.range).to_bytes(ID_BITS // 8, "big")


def capped(contacts: list[Contact], cap: int | None) -> list[Contact]:
    """`contacts` in their order with at most `cap` of one public prefix."""
    if cap is None:
        return contacts
    count: dict[str, int] = {}
    kept = []
    for contact in contacts:
        prefix = prefix_of(contact.address)
        count[prefix] = count.get(prefix, 0) + 1
        if count[prefix] <= cap or scope_of(contact.address) is not Scope.PUBLIC:
            kept.append(contact)
    return kept
