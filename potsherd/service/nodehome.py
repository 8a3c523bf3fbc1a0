"""The node home: the folder of one node and of one process at a time.

node.key      the node's Ed25519 seed in hex (secret)
network       the configuration of the network that it serves, signed; absent until it has joined
credential    its credential chain in hex; empty in an open network
config.toml   settings (docs/configuration.md)
lock          locked by the process that runs the node
run/          the local API (potsherd.service.local)
shards/ staging/ index.sqlite    the store (docs/spec/store.md)
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.crypto.membership import NetworkConfig, open_config, verify_chain
from potsherd.crypto.signing import SEED_BYTES, SigningKey
from potsherd.datasets.small_files import private_folder, read_small, write_private
from potsherd.errors import MalformedError, NotFoundError, RefusedError
from potsherd.ports import Identity, Rng

__all__ = ["NodeHome", "NodeMembership"]


@dataclass(frozen=True)
class NodeMembership:
    """What a node needs to serve a network."""

    identity: Identity
    config: NetworkConfig
    chain: bytes


class NodeHome:
    """Paths, and the small files among them."""

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist yet."""
        self.folder = folder

    def exists(self) -> bool:
        """Whether the node has a key."""
        return (self.folder / "node.key").exists()

    def key(self) -> SigningKey:
        """Raises NotFoundError before `potsherd init`, MalformedError for a damaged file."""
        try:
            return SigningKey(_hex(self.folder / "node.key", SEED_BYTES))
        except NotFoundError:
            raise NotFoundError(
                f"there is no node in {self.folder}", remedy="Make one with: potsherd init"
            ) from None

    def make_key(self, rng: Rng) -> SigningKey:
        """The node's key, made now if there is none: a node's identity is never replaced."""
        if not self.exists():
            private_folder(self.folder)
            write_private(
                self.folder / "node.key", rng.randbytes(SEED_BYTES).hex().encode() + b"\n"
            )
        return self.key()

    def join(self, config: bytes, chain: bytes) -> None:
        """Keep network and credential. Raises RefusedError when the node serves another network."""
        network = open_config(config)
        joined = self.network()
        if joined is not None and joined.network_id != network.network_id:
            raise RefusedError(
                f"this node serves the network {joined.name!r}",
                remedy="Give a second node a home of its own (POTSHERD_HOME), or join as a client only: "
                "--client",
            )
        private_folder(self.folder)
        write_private(self.folder / "credential", chain.hex().encode() + b"\n")
        write_private(self.folder / "network", config)

    def network(self) -> NetworkConfig | None:
        """The network that the node has joined."""
        try:
            return open_config(read_small(self.folder / "network"))
        except NotFoundError:
            return None

    def membership(self, now: float) -> NodeMembership:
        """Raises NotFoundError before joining, MembershipError for a credential that holds no more."""
        key, config = self.key(), self.network()
        if config is None:
            raise NotFoundError(
                "this node has not joined a network",
                remedy="Join with: potsherd network join FILE (or make one: potsherd network create NAME)",
            )
        chain = _hex(self.folder / "credential")
        verify_chain(chain, key.verify_key, config, now)
        return NodeMembership(Identity(key.seed, key.verify_key, config.network_id), config, chain)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one process. Raises RefusedError when another has it."""
        private_folder(self.folder)
        with (self.folder / "lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RefusedError(
                    f"a node is running in {self.folder} already",
                    remedy="See: potsherd node status",
                ) from None
            yield


def _hex(path: Path, size: int | None = None) -> bytes:
    try:
        data = bytes.fromhex(read_small(path).decode())
    except (UnicodeDecodeError, ValueError):
        raise MalformedError(f"{path} is damaged") from None
    if size is not None and len(data) != size:
        raise MalformedError(f"{path} is damaged")
    return data
