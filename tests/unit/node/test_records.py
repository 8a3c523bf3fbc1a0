"""Statements and messages: vectors, sizes, and the numbers that the specification states."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potsherd import errors
from potsherd.crypto.signing import open_signed
from potsherd.erasure.descriptor import Descriptor
from potsherd.errors import MalformedError
from potsherd.node import records
from potsherd.node.audit import records as audit_records
from potsherd.node.lease_records import Extension, Withdrawal
from potsherd.node.records import (
    Head,
    HolderTicket,
    Lease,
    LeasePath,
    ProvisionalLease,
    ReadAnswer,
    RosterEntry,
    Ticket,
)
from potsherd.node.rpc import HEADER_MAX, Envelope, Methods
from potsherd.wire import Record

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "records").glob("*.json"))
STATEMENTS: dict[str, type[Record]] = {
    cls.TYPE: cls
    for cls in (
        Ticket,
        RosterEntry,
        ProvisionalLease,
        Lease,
        Head,
        Extension,
        Withdrawal,
        HolderTicket,
        ReadAnswer,
    )
}
MESSAGES: list[type[Record]] = [
    cls
    for module in (records, audit_records)
    for cls in vars(module).values()
    if isinstance(cls, type) and issubclass(cls, Record) and cls is not Record
]


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def test_every_statement_has_a_vector() -> None:
    cases = [json.loads(path.read_text()) for path in VECTORS]
    assert {c["record"] for c in cases if c["expect"] == "ok"} == set(STATEMENTS)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    case = json.loads(path.read_text())
    data, network_id = bytes.fromhex(case["signed"]), bytes.fromhex(case["network_id"])
    cls, signer = STATEMENTS[case["record"]], bytes.fromhex(case["signer"])
    if case["expect"] != "ok":
        with pytest.raises(getattr(errors, case["expect"])):
            open_signed(cls, data, network_id, lambda _: signer)
        return
    record = open_signed(cls, data, network_id, lambda _: signer)
    found = {f.name: plain(getattr(record, f.name)) for f in fields(record)}  # type: ignore[arg-type]
    assert found == case["fields"], "Record is a dataclass only in its subclasses"
    assert record.encode() == data[64:]


def test_the_examples_of_the_specification() -> None:
    page = Path(__file__).parents[3] / "docs" / "spec" / "node-protocol.md"
    abort = Envelope(0, 9, Methods.PUSH_ABORT.number, records.PushAbort(5).encode()).encode()
    push = Envelope(0, 10, Methods.PUSH.number, records.Push(5, 3).encode()).encode()
    if page.exists():  # not beside an installed wheel
        text = "".join(page.read_text().split())
        for example in (abort, push):
            assert example.hex() in text
    assert abort.hex(" ") == "96 01 01 00 09 04 c4 04 93 01 01 05"


def test_the_largest_of_everything_fits_its_envelope() -> None:
    for cls in MESSAGES:
        assert cls.SIZE_MAX < HEADER_MAX


def full(cls: type[Record], **values: Any) -> int:
    return len(cls(**values).encode())


def test_the_largest_lists_fit_their_messages() -> None:
    entry = bytes(64 + RosterEntry.SIZE_MAX)
    hint = records.HolderHint(entry, "f" * 45, 65535)
    assert full(records.Roster, segment_id=bytes(32), holders=(hint,) * 512)
    path = LeasePath(bytes(32), 2**20 - 1, (bytes(32),) * 20)
    lease = bytes(64 + Lease.SIZE_MAX)
    count = records.SEGMENTS_PER_MESSAGE_MAX
    assert full(records.LeasePut, lease=lease, paths=(path,) * count)
    assert full(records.LeaseReply, leases=((lease, path),) * count)
    proofs = (bytes(32 * 32),) * 128
    assert full(records.ReadProofs, proofs=proofs)
    assert full(records.AnnounceNow, segment_ids=(bytes(32),) * count)
    head = bytes(64 + Head.SIZE_MAX)
    assert full(records.HeadReply, genesis=bytes(256), heads=(head,) * 8)
    assert full(records.HeadPut, segment_id=bytes(32), genesis=bytes(256), head=head)
    runs = tuple((i * 256, 1) for i in range(128))
    assert full(records.Read, segment_id=bytes(32), index=254, runs=runs)
    commit_max = 64 + ProvisionalLease.SIZE_MAX
    descriptor = bytes(Descriptor.SIZE_MAX)
    assert full(records.Commit, stage=2**32 - 1, descriptor=descriptor, lease=bytes(commit_max))


@given(st.sampled_from(MESSAGES), st.binary(max_size=400))
def test_garbage_is_malformed(cls: type[Record], data: bytes) -> None:
    with suppress(MalformedError):
        assert cls.decode(data).encode() == data
