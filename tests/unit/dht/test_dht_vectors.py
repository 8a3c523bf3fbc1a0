"""The vectors of docs/spec/dht.md, which were not written by this code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potsherd import errors
from potsherd.crypto.boxes import DatagramBox
from potsherd.crypto.signing import verify
from potsherd.dht.membrane import Peer
from potsherd.dht.records import Admissions, open_announcement, open_presence
from potsherd.dht.wire import REPLIES, REQUESTS, Flag, build_frame, parse_datagram, parse_frame
from potsherd.errors import MembershipError
from potsherd.wire import signing_input

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "dht").glob("*.json"))


class Reader:
    """A membrane that reads: real signatures, and one chain that it admits."""

    my_key = my_id = my_chain = b""

    def __init__(self, case: dict[str, Any]) -> None:
        self.network_id = bytes.fromhex(case["network_id"])
        self._admits = {k: bytes.fromhex(v) for k, v in case.get("admits", {}).items()}

    def verify(self, record_type: str, key: bytes, body: bytes, signature: bytes) -> bool:
        return verify(key, signing_input(record_type, self.network_id, body), signature)

    def admit(self, chain: bytes, node_key: bytes, now: float) -> Peer:
        if (chain, node_key) != (self._admits["chain"], self._admits["key"]):
            raise MembershipError
        return Peer(self._admits["dht_id"], "donor", 1)

    def seal(self, peer_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
        raise NotImplementedError

    def open(self, peer_key: bytes, nonce: bytes, ciphertext: bytes) -> bytes | None:
        raise NotImplementedError

    def sign(self, record_type: str, body: bytes) -> bytes:
        raise NotImplementedError


def read(case: dict[str, Any]) -> Any:
    data = bytes.fromhex(case["hex"])
    match case["kind"]:
        case "announcement":
            return open_announcement(data, Reader(case), case["utc"])
        case "presence":
            reader = Reader(case)
            return open_presence(
                data, reader, Admissions(reader, entries_max=1, ttl_s=1.0), case["utc"]
            )
        case "frame":
            return parse_frame(data)
        case _:
            return parse_datagram(data)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    case = json.loads(path.read_text())
    if case["expect"] != "ok":
        with pytest.raises(getattr(errors, case["expect"])):
            read(case)
        return
    result = read(case)
    for name, value in case.get("fields", {}).items():
        got = getattr(result, name)
        got = got.hex() if isinstance(got, bytes) else got
        assert (list(got) if isinstance(got, tuple) else got) == value
    if case["kind"] == "frame":
        check_frame(case, result)
    if case["kind"] == "datagram":
        check_datagram(case, result)


def check_frame(case: dict[str, Any], result: Any) -> None:
    network, frame = result
    assert network.hex() == case["network"]
    assert (frame.flags, frame.type) == (case["flags"], case["type"])
    assert (frame.request_id.hex(), frame.body.hex()) == (case["request_id"], case["body"])
    assert (frame.chain.hex() if frame.chain is not None else None) == case["chain"]
    table = REPLIES if frame.flags & Flag.REPLY else REQUESTS
    assert table[frame.type].decode(frame.body).encode() == frame.body
    size = len(bytes.fromhex(case["hex"])) + 74
    assert build_frame(network, frame, size).hex() == case["hex"]


def check_datagram(case: dict[str, Any], sealed: Any) -> None:
    receiver = DatagramBox(bytes.fromhex(case["receiver_seed"]))
    assert sealed.key == DatagramBox(bytes.fromhex(case["sender_seed"])).node_key
    plain = receiver.open(sealed.key, sealed.nonce, sealed.box)
    assert plain is not None
    assert plain.hex() == case["plain"]
    frame = parse_frame(plain)[1]
    assert bool(frame.flags & Flag.GREATER) == (sealed.key > receiver.node_key)


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 20
