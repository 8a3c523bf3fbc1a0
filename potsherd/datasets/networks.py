"""The networks a person can use: one folder each in the person home, and how a client joins from it.

    networks/NAME/invitation   the invitation (secret), or `network` for an open network (public)
    networks/NAME/config       a newer signed configuration than the invitation's, once one was seen
    networks/NAME/key          the network's own key (secret), with who made the network only
    networks/NAME/peers        nodes that answered lately: the peer cache

`potsherd lab up` writes such a folder too, so that a lab is a network like any other.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potsherd.crypto.invitations import InvitationFile, decode_network, encode_network
from potsherd.crypto.membership import (
    NetworkConfig,
    certify_open_client,
    open_config,
    update_config,
    verify_chain,
)
from potsherd.crypto.signing import SigningKey
from potsherd.datasets.small_files import private_folder, read_json, read_small, write_private
from potsherd.errors import MalformedError, NotFoundError, RefusedError, UsageError
from potsherd.ports import Address, Env, Identity

__all__ = ["ClientAccess", "Network", "Networks"]

PEERS_MAX = 64
"""Entries of a peer cache; what comes after is left out."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What may name a network here: also a folder on every system."""

_INVITATION, _NETWORK, _CONFIG, _KEY, _PEERS = "invitation", "network", "config", "key", "peers"


@dataclass(frozen=True)
class ClientAccess:
    """Everything `Session.open` needs to join a network as a client with a key of one use."""

    config: NetworkConfig
    chain: bytes
    identity: Identity
    bootstrap: tuple[tuple[bytes, Address], ...]


class Network:
    """One network's folder."""

    def __init__(self, folder: Path) -> None:
        """Raises NotFoundError without files, and MalformedError or IntegrityError for damaged ones."""
        self.name = folder.name
        self.folder = folder
        self.invitation: InvitationFile | None = None
        try:
            self.invitation = InvitationFile.decode(read_small(folder / _INVITATION).decode())
            self.config_bytes = self.invitation.config_bytes
        except NotFoundError:
            self.config_bytes = decode_network(read_small(folder / _NETWORK).decode())
        except UnicodeDecodeError:
            raise MalformedError(f"{folder / _INVITATION} is damaged") from None
        self.config = open_config(self.config_bytes)
        self._take_newer()

    def _take_newer(self) -> None:
        try:
            data = read_small(self.folder / _CONFIG)
        except NotFoundError:
            return
        newer = update_config(self.config, data)
        if newer is not self.config:
            self.config, self.config_bytes = newer, data

    def update(self, data: bytes) -> bool:
        """Keep a signed configuration if it is newer; whether it was."""
        newer = update_config(self.config, data)
        if newer is self.config:
            return False
        write_private(self.folder / _CONFIG, data)
        self.config, self.config_bytes = newer, data
        return True

    def key(self) -> SigningKey:
        """The network's own key. Raises RefusedError for everybody who did not make the network."""
        try:
            return SigningKey(bytes.fromhex(read_small(self.folder / _KEY).decode().strip()))
        except NotFoundError:
            raise RefusedError(
                f"the key of the network {self.name!r} is not here",
                remedy="Only who made the network, or has its key file, can do this.",
            ) from None
        except ValueError:
            raise MalformedError(f"{self.folder / _KEY} is damaged") from None

    def as_text(self) -> str:
        """What a recovery file keeps to join again: the invitation, or an open network's configuration."""
        return self.invitation.encode() if self.invitation else encode_network(self.config_bytes)

    def client(self, env: Env) -> ClientAccess:
        """A fresh key with a credential of role client. Raises MembershipError: expired, removed."""
        key = SigningKey(seed := env.rng.randbytes(32))
        if self.invitation is not None:
            chain = self.invitation.certify_client(key.verify_key, env.utc())
            verify_chain(chain, key.verify_key, self.config, env.utc())  # expired, removed
        else:
            chain = certify_open_client(key, self.config, env.utc())
        identity = Identity(seed, key.verify_key, self.config.network_id)
        return ClientAccess(self.config, chain, identity, tuple(self.bootstrap()))

    def bootstrap(self) -> list[tuple[bytes, Address]]:
        """Nodes to ask first: those that answered lately, then those of the configuration."""
        known = dict(self.peers())
        for key, host, port in self.config.bootstrap:
            if key not in known and _is_literal(host):
                known[key] = Address(host, port)
        return list(known.items())

    def peers(self) -> list[tuple[bytes, Address]]:
        """The peer cache; a missing or damaged one is empty, because it only saves time."""
        try:
            entries = read_json(self.folder / _PEERS)["peers"]
            return [
                (bytes.fromhex(e["key"]), Address(str(e["host"]), int(e["port"])))
                for e in entries[:PEERS_MAX]
                if _is_literal(e["host"]) and len(e["key"]) == 64
            ]
        except (NotFoundError, MalformedError, KeyError, TypeError, ValueError):
            return []

    def save_peers(self, peers: Sequence[tuple[bytes, Address]]) -> None:
        """Replace the peer cache; an empty list leaves it as it is."""
        if not peers:
            return
        entries = [{"key": k.hex(), "host": a.host, "port": a.port} for k, a in peers[:PEERS_MAX]]
        write_private(self.folder / _PEERS, json.dumps({"version": 1, "peers": entries}).encode())


def _is_literal(host: object) -> bool:
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True


class Networks:
    """All networks of a person home."""

    def __init__(self, folder: Path) -> None:
        """`folder` need not exist yet."""
        self.folder = folder

    def names(self) -> list[str]:
        """Sorted."""
        try:
            return sorted(
                path.name
                for path in self.folder.iterdir()
                if NAME.fullmatch(path.name)
                and ((path / _INVITATION).exists() or (path / _NETWORK).exists())
            )
        except FileNotFoundError:
            return []

    def get(self, name: str) -> Network:
        """Raises NotFoundError, with the nearest name."""
        names = self.names()
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Do you mean {near[0]!r}?" if near else "See: potsherd network list"
            raise NotFoundError(f"no network {name!r}", remedy=hint)
        return Network(self.folder / name)

    def choose(self, name: str | None) -> Network:
        """The named network, or the only one. Raises NotFoundError or UsageError."""
        if name is not None:
            return self.get(name)
        names = self.names()
        if not names:
            raise NotFoundError(
                "no network is known here",
                remedy="Join one with an invitation (potsherd network join FILE), make one "
                "(potsherd network create NAME), or try it out: potsherd lab up",
            )
        if len(names) > 1:
            raise UsageError(
                f"several networks are known here: {', '.join(names)}",
                remedy="Choose one with --network NAME, POTSHERD_NETWORK, or `network` in config.toml.",
            )
        return self.get(names[0])

    def add(self, text: str, name: str | None = None, *, key: SigningKey | None = None) -> Network:
        """Keep an invitation or an open network's file; the same network again is brought up to date.

        Raises MalformedError, IntegrityError, MembershipError; UsageError when the name is another
        network's or cannot be a name.
        """
        kind = _NETWORK if "POTSHERD NETWORK" in text.upper() else _INVITATION
        config = (
            open_config(decode_network(text))
            if kind == _NETWORK
            else InvitationFile.decode(text).config
        )
        if kind == _NETWORK and not config.is_open:
            raise RefusedError(
                f"the network {config.name!r} admits by invitation", remedy="Ask a member for one."
            )
        name = name or config.name
        if not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a network here",
                remedy="Give it a name of letters, digits, '.', '_' and '-': --as NAME",
            )
        self._same_network(name, config)
        folder = private_folder(self.folder / name)
        if key is not None:
            write_private(folder / _KEY, key.seed.hex().encode() + b"\n")
        write_private(folder / kind, text.encode())
        return Network(folder)

    def _same_network(self, name: str, config: NetworkConfig) -> None:
        if name not in self.names():
            return
        if Network(self.folder / name).config.network_id != config.network_id:
            raise UsageError(
                f"another network is called {name!r} here", remedy="Give this one a name: --as NAME"
            )

    def remove(self, name: str) -> None:
        """Forget a network; its nodes and data stay as they are."""
        if NAME.fullmatch(name):
            shutil.rmtree(self.folder / name, ignore_errors=True)
