"""Shard files: names, and the order of steps that makes them durable (docs/spec/store.md, section 4).

A shard file is the shard's cells followed by their leaf hashes, 32 bytes each, so that a proof does not
read the shard again. Functions here block: they are called through `Env.offload`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

from potsherd.erasure.layout import CELL_SIZE
from potsherd.erasure.merkle import HASH_SIZE
from potsherd.errors import PotsherdError, StorageError
from potsherd.node.challenge import ChallengeTag
from potsherd.node.store.stages import Stage
from potsherd.ports import Buffer, Disk

__all__ = [
    "SHARDS",
    "STAGING",
    "append",
    "digest",
    "file_size",
    "publish",
    "read_leaves",
    "read_runs",
    "remove_quietly",
    "segment_of",
    "shard_path",
    "tags",
]

SHARDS = "shards"
STAGING = "staging"
DIGEST_PORTION = 2**20
"""Bytes read at a time."""
TAG_ROWS = 16
"""Cells of a challenge that are in memory at a time: 512 KiB, which stay in the cache from the read on."""
_NAME = re.compile(rf"{SHARDS}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})")


def shard_path(segment_id: bytes) -> str:
    """Where the shard of a segment lies: a node keeps one index of it at most."""
    name = segment_id.hex()
    return f"{SHARDS}/{name[:2]}/{name}"


def segment_of(path: str) -> bytes | None:
    """The segment id in a shard file's path; None for a file that is not ours."""
    match = _NAME.fullmatch(path)
    return None if match is None else bytes.fromhex(match[2])


def file_size(shard_size: int) -> int:
    """Bytes of the file of a shard (of full-size cells): cells and leaves."""
    return shard_size + -(-shard_size // CELL_SIZE) * HASH_SIZE


def append(disk: Disk, stage: Stage, data: Buffer) -> None:
    """Write behind what the stage has and hash the cells; the stage is unchanged when it fails."""
    disk.write(stage.path, stage.size, data)
    stage.hasher.update(data)


def digest(disk: Disk, stage: Stage) -> bytes:
    """BLAKE2b-256 of the staged bytes, read back: only a resumed push asks."""
    hasher = blake2b(digest_size=32)
    for at in range(0, stage.size, DIGEST_PORTION):
        hasher.update(disk.read(stage.path, at, min(DIGEST_PORTION, stage.size - at)))
    return hasher.digest()


def publish(disk: Disk, stage: Stage, leaves: bytes, target: str) -> int:
    """Make a whole stage durable under its final name; returns its allocated bytes.

    Content first, then the name: whatever a crash leaves is a file of staging/, or a whole shard that
    no transaction names yet. `open` removes both.
    """
    disk.write(stage.path, stage.size, leaves)
    disk.truncate(stage.path, stage.size + len(leaves))
    disk.sync(stage.path)
    allocated = _allocated(disk, stage.path)
    disk.rename(stage.path, target)
    disk.sync_folder(target.rpartition("/")[0])
    return allocated


def _allocated(disk: Disk, path: str) -> int:
    for found, _, allocated in disk.walk(path.rpartition("/")[0]):
        if found == path:
            return allocated
    raise StorageError(f"{path} has vanished")


def read_leaves(disk: Disk, path: str, shard_size: int) -> bytes:
    """The leaf hashes behind the cells."""
    return bytes(disk.read(path, shard_size, file_size(shard_size) - shard_size))


def read_runs(disk: Disk, path: str, runs: Sequence[tuple[int, int]]) -> Buffer:
    """The cells of (first row, count) runs, concatenated."""
    parts = [disk.read(path, first * CELL_SIZE, count * CELL_SIZE) for first, count in runs]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def tags(disk: Disk, path: str, runs: Sequence[tuple[int, int]], nonce: bytes) -> tuple[bytes, ...]:
    """The answer to a challenge over (first row, count) runs (node/challenge.py), read in portions."""
    found = []
    for first, count in runs:
        tag, end = ChallengeTag(nonce, first), first + count
        for at in range(first, end, TAG_ROWS):
            tag.update(read_runs(disk, path, [(at, min(TAG_ROWS, end - at))]))
        found.append(tag.answer())
    return tuple(found)


def remove_quietly(disk: Disk, path: str) -> bool:
    """Remove a file; False when the disk refuses (the sweep tries again)."""
    try:
        disk.remove(path)
    except PotsherdError:
        return False
    return True
