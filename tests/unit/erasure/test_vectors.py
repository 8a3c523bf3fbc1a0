"""The vectors of the erasure room: one file, one case, with the expected kind of failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from potsherd import errors
from potsherd.erasure import Code, find_corrupt, merkle
from potsherd.erasure.descriptor import Descriptor, Entry
from potsherd.erasure.layout import Geometry
from potsherd.erasure.stream import Close, Placed, StreamLayout

Case: TypeAlias = dict[str, Any]
VECTORS = Path(__file__).parents[2] / "vectors"
FILES = sorted([*VECTORS.glob("erasure/*.json"), *VECTORS.glob("segments/*.json")])


def unhex(items: list[str]) -> list[bytes]:
    return [bytes.fromhex(item) for item in items]


def check_parity(case: Case) -> None:
    code = Code(case["k"], case["n"])
    assert code.parity(unhex(case["data"])) == unhex(case["parity"])


def shards_of(case: Case, name: str) -> dict[int, bytes]:
    return {int(index): bytes.fromhex(shard) for index, shard in case[name].items()}


def check_rebuild(case: Case) -> None:
    rebuilt = Code(case["k"], case["n"]).rebuild(shards_of(case, "shards"), case["wanted"])
    assert rebuilt == shards_of(case, "rebuilt")


def check_corrupt(case: Case) -> None:
    found = find_corrupt(shards_of(case, "shards"), Code(case["k"], case["n"]))
    assert sorted(found) == case["corrupt"]


def check_geometry(case: Case) -> None:
    geometry = Geometry.of(case["k"], case["n"], case["stream_length"], small=case["small"])
    assert (geometry.cell_size, geometry.rows) == (case["cell_size"], case["rows"])
    assert geometry.conforms()


def check_locate(case: Case) -> None:
    numbers = [case[name] for name in ("k", "n", "cell_size", "rows", "stream_length")]
    spans = Geometry(*numbers).locate(case["offset"], case["length"])
    assert [list(span) for span in spans] == case["spans"]


def check_stream(case: Case) -> None:
    plan, steps = StreamLayout(case["k"]), []
    for block_size, length in case["encodings"]:
        steps += [*plan.begin(block_size), *plan.add(length), *plan.end()]
    steps += plan.finish()
    extents = {s.number: [list(e) for e in s.extents] for s in steps if isinstance(s, Placed)}
    assert extents == dict(enumerate(case["extents"]))
    assert [list(s) for s in steps if isinstance(s, Close)] == case["closes"]


def check_merkle(case: Case) -> None:
    tree = {"cells": merkle.CELL_TREE, "lease": merkle.LEASE_TREE}[case["tree"]]
    leaves, root = b"".join(unhex(case["leaves"])), bytes.fromhex(case["root"])
    first, count, proof = case["first"], case["count"], b"".join(unhex(case["proof"]))
    size, run = len(leaves) // 32, leaves[first * 32 : (first + count) * 32]
    merkle.verify_range(root, size, first, run, proof, tree=tree)
    assert merkle.root(leaves, tree=tree) == root
    assert merkle.prove_range(leaves, first, count, tree=tree) == proof


def check_descriptor(case: Case) -> None:
    encoding = bytes.fromhex(case["encoding"])
    descriptor = Descriptor.decode(encoding)
    fields = dict(case["fields"])
    for name in ("placement_key", "owner_key"):
        fields[name] = bytes.fromhex(fields[name])
    fields["roots"] = tuple(unhex(fields["roots"]))
    if fields["entry"]:
        locator, offset, length = fields["entry"]
        fields["entry"] = Entry(bytes.fromhex(locator), offset, length)
    assert descriptor == Descriptor(**fields)
    assert descriptor.encode() == encoding
    assert descriptor.segment_id.hex() == case["segment_id"]


CHECKS: dict[str, Callable[[Case], None]] = {
    "parity": check_parity,
    "rebuild": check_rebuild,
    "corrupt": check_corrupt,
    "geometry": check_geometry,
    "locate": check_locate,
    "stream": check_stream,
    "merkle": check_merkle,
    "descriptor": check_descriptor,
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_vector(path: Path) -> None:
    case = json.loads(path.read_text())
    check = CHECKS[case["kind"]]
    if case["error"] is None:
        check(case)
        return
    with pytest.raises(errors.PotsherdError) as caught:
        check(case)
    assert type(caught.value).__name__ == case["error"]


def test_no_kind_of_vector_is_missing() -> None:
    kinds = {json.loads(path.read_text())["kind"] for path in FILES}
    assert kinds == set(CHECKS)
