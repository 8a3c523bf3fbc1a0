"""The peer cache: addresses of nodes that answered lately, so that joining does not hang on a few bootstrap nodes.

A JSON file; it only saves time, so a missing or damaged one is an empty one.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from potsherd.datasets.small_files import read_json, write_private
from potsherd.errors import MalformedError, NotFoundError, StorageError
from potsherd.ports import Address

__all__ = ["PeerCache"]

PEERS_MAX = 64
"""Entries kept and read; what comes after is left out."""
KEY_HEX_DIGITS = 64


class PeerCache:
    """One file of (node key, address)."""

    def __init__(self, path: Path) -> None:
        """The file need not exist."""
        self.path = path

    def load(self) -> list[tuple[bytes, Address]]:
        """At most PEERS_MAX, in the order in which they were saved."""
        try:
            entries = read_json(self.path)["peers"]
            return [
                (bytes.fromhex(entry["key"]), Address(str(entry["host"]), int(entry["port"])))
                for entry in entries[:PEERS_MAX]
                if _is_literal(entry["host"]) and len(entry["key"]) == KEY_HEX_DIGITS
            ]
        except (NotFoundError, StorageError, MalformedError, KeyError, TypeError, ValueError):
            return []

    def save(self, peers: Sequence[tuple[bytes, Address]]) -> None:
        """Replace the file; an empty list leaves it as it is."""
        if not peers:
            return
        entries = [{"key": k.hex(), "host": a.host, "port": a.port} for k, a in peers[:PEERS_MAX]]
        write_private(self.path, json.dumps({"version": 1, "peers": entries}).encode())


def _is_literal(host: object) -> bool:
    """Whether this is an IP address, not a name."""
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True
