"""The memory of a put and a get does not grow with the number of files."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest

CLIENT = r"""
import asyncio, resource, sys, tempfile
from pathlib import Path
from types import SimpleNamespace
from datasets_bench import settings
from potsherd.datasets.get import get
from potsherd.datasets.put import put, scan
from potsherd.datasets.reader import Piece, open_archive
from potsherd.datasets.spool import Spool
from potsherd.datasets.testing import MemorySegments, inline

class OnDisk(MemorySegments):
    '''Keeps the stream in a file: what is measured is the client, not the network.'''

    def __init__(self, path):
        super().__init__(4, 12)
        self.file = path.open("w+b", buffering=0)

    async def rows(self, parts, *, cell_size):
        for part in parts:
            self.file.write(part.data)

    async def finish(self, *, stream_length, cell_size, rows, entry):
        identity = bytes([len(self.order)]) * 32
        kept = SimpleNamespace(placement_key=self._open.placement_key, entry=entry)
        self.segments[identity] = kept
        self.order.append(identity)
        self._open = None
        return identity

    async def read(self, segment, ranges):
        found = []
        for offset, length in ranges:
            self.file.seek(offset)
            found.append(Piece(self.file.read(length)))
        return found

async def main(count, folder):
    source = folder / "source"
    for number in range(count):
        if number % 1000 == 0:
            inside = source / f"{number // 100000}" / f"{number // 1000}"
            inside.mkdir(parents=True)
        (inside / f"file-number-{number}").write_bytes(b"%d" % number)
    env = SimpleNamespace(offload=inline)
    spool = Spool.open(folder / "spool")
    summary, _ = await scan(env, spool, [source])
    segments = OnDisk(folder / "stream")
    result = await put(env, spool, summary, segments, settings(4, 12))
    archive = await open_archive(env, segments, result.capability)
    done = await get(env, archive, folder / "target")
    assert done.files == count == result.totals.files
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(int(sys.argv[1]), Path(folder)))
"""


def peak_kib(files: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(files)],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "TMPDIR": tempfile.gettempdir(),
            "POTSHERD_KERNELS": "off",  # the first process to compile one takes 60 MB for it
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_ten_times_the_files_take_the_same_memory() -> None:
    assert peak_kib(3000) < peak_kib(300) + 30 * 1024


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_200_000_files_take_the_memory_of_20_000() -> None:
    assert peak_kib(200_000) < peak_kib(20_000) + 20 * 1024
