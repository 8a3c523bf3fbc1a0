"""From the disks of killed nodes: each holds at most one index of a segment, and it is what it says."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from cli_support import Cli, make_experiment

from potsherd.erasure.descriptor import Descriptor
from potsherd.erasure.merkle import cell_leaves, root

pytestmark = pytest.mark.slow

NODES = 8


def shards_on(node: Path) -> list[tuple[bytes, int]]:
    """(segment id, index) of every shard on a node's disk, by its own bytes."""
    found = []
    with sqlite3.connect(node / ".index" / "index.sqlite") as index:
        query = (
            "SELECT s.segment_id, s.idx, s.descriptor, d.data FROM segments s "
            "LEFT JOIN shards d ON d.segment = s.id"
        )
        rows = index.execute(query).fetchall()
    for segment_id, number, encoding, data in rows:
        descriptor = Descriptor.decode(encoding)
        assert descriptor.segment_id == segment_id
        if data is None:
            [file] = [p for p in (node / "shards").rglob("*") if p.name == segment_id.hex()]
            data = file.read_bytes()[: descriptor.geometry.shard_size]
        own = root(cell_leaves(data, descriptor.cell_size))
        fitting = [i for i, expected in enumerate(descriptor.roots) if expected == own]
        assert fitting == [number], "the bytes are another shard than the index says"
        found.append((segment_id, number))
    files = [p for p in (node / "shards").rglob("*") if p.is_file()]
    assert len(files) == sum(data is None for *_, data in rows), "a file that no row names"
    return found


def test_every_node_holds_at_most_one_index_of_a_segment(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "home")
    small, large = make_experiment(tmp_path), tmp_path / "large"
    large.mkdir()
    (large / "one.bin").write_bytes(random.Random(3).randbytes(2_000_000))
    with cli.lab(NODES):
        cli("put", small, "--k", "2", "--n", "6", "--name", "small")
        cli("put", large, "--k", "3", "--n", "7", "--name", "large")
        cli("lab", "kill", *map(str, range(1, NODES + 1)))
        by_segment: dict[bytes, list[int]] = {}
        for number in range(1, NODES + 1):
            [node] = (tmp_path / "home" / "lab").glob(f"node*{number}/node")
            shards = shards_on(node)
            segments = [segment for segment, _ in shards]
            assert len(set(segments)) == len(segments)
            for segment, index in shards:
                by_segment.setdefault(segment, []).append(index)
    assert len(by_segment) >= 2
    for indices in by_segment.values():
        assert sorted(indices) == list(range(len(indices)))
        assert len(indices) in (6, 7)
