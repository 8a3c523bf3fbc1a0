"""The networks a person can use: one folder each in the person home, and how a client joins from it.

    networks/NAME/invitation   the invitation (secret), or `network` for an open network (public)
    networks/NAME/config       a newer signed configuration than the invitation's, once one was seen
    networks/NAME/key          the network's own key (secret), with who made the network only
    networks/NAME/issued       invitations issued here, one JSON object a line, so that no serial is used twice
    networks/NAME/peers        nodes that answered lately: the peer cache

`potsherd lab up` writes such a folder too, so that a lab is a network like any other.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from potsherd.classes import dataclass
from potsherd.crypto.invitations import InvitationFile, decode_network, encode_network, invite
from potsherd.crypto.membership import (
    NetworkConfig,
    certify_open_client,
    create_network,
    open_config,
    update_config,
    verify_chain,
)
from potsherd.crypto.signing import SigningKey
from potsherd.datasets.peer_cache import PeerCache
from potsherd.datasets.small_files import private_folder, read_small, write_private
from potsherd.errors import MalformedError, NotFoundError, RefusedError, UsageError
from potsherd.ports import Address, Env, Identity

__all__ = ["ClientAccess", "Network", "Networks"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What may name a network here: also a folder on every system."""

_INVITATION, _NETWORK, _CONFIG, _KEY = "invitation", "network", "config", "key"
_ISSUED, _PEERS = "issued", "peers"


@dataclass(frozen=True)
class ClientAccess:
    """Everything `Session.open` needs to join a network as a client with a key of one use."""

    config: NetworkConfig
    chain: bytes
    identity: Identity
    bootstrap: tuple[tuple[bytes, Address], ...]
    """Nodes that answered lately; the session adds the configuration's."""


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

    def is_maker(self) -> bool:
        """Whether the network's own key is here."""
        return (self.folder / _KEY).exists()

    def invite(
        self, env: Env, operator: str, nodes: int, *, join_by: int | None, until: int | None
    ) -> InvitationFile:
        """Issue an invitation with the next serial, which is on disk before the invitation exists."""
        key = self.key()
        with self._issued() as file:
            file.seek(0)
            serial = len(file.readlines())
            made = invite(
                key,
                self.config_bytes,
                env.rng.randbytes(32),
                serial,
                operator,
                nodes,
                join_by,
                until,
            )
            entry = {"serial": serial, "operator": operator, "nodes": nodes, "date": int(env.utc())}
            file.write(json.dumps(entry | {"join_by": join_by, "until": until}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return made

    @contextmanager
    def _issued(self) -> Iterator[TextIO]:
        with (self.folder / _ISSUED).open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def issued(self) -> list[dict[str, Any]]:
        """What `invite` has written down: serial, operator, nodes, date, join_by, until."""
        try:
            lines = read_small(self.folder / _ISSUED).decode().splitlines()
            return [json.loads(line) for line in lines]
        except NotFoundError:
            return []
        except ValueError:
            raise MalformedError(f"{self.folder / _ISSUED} is damaged") from None

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
        return ClientAccess(self.config, chain, identity, tuple(self.peers.load()))

    @property
    def peers(self) -> PeerCache:
        """Nodes that answered lately."""
        return PeerCache(self.folder / _PEERS)


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

    def create(
        self,
        env: Env,
        name: str,
        bootstrap: Sequence[tuple[bytes, Address]],
        *,
        is_open: bool,
        operator: str = "",
        nodes: int = 1,
    ) -> Network:
        """Make a network and keep its key here; the maker's own invitation, serial 0, has `nodes` nodes.

        Raises UsageError when the name is taken here or a bootstrap address has no port.
        """
        if name in self.names():
            raise UsageError(f"a network {name!r} is known here already")
        if any(address.port == 0 for _, address in bootstrap):
            raise UsageError("the address of a bootstrap node needs its port")
        triples = tuple((key, address.host, address.port) for key, address in bootstrap)
        key, config = create_network(name, env.rng.randbytes(32), triples, is_open)
        if is_open:
            return self.add(encode_network(config), key=key)
        seed = env.rng.randbytes(32)
        network = self.add(invite(key, config, seed, 0, operator, nodes).encode(), key=key)
        entry = {"serial": 0, "operator": operator, "nodes": nodes, "date": int(env.utc())}
        with network._issued() as file:
            file.write(json.dumps(entry | {"join_by": None, "until": None}) + "\n")
        return network

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
