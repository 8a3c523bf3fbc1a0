"""Large runs past the page cache: the same bytes whatever the file system does, and nothing left in the cache."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from potsherd.errors import NotFoundError, StorageError
from potsherd.node.payloads import ALIGNMENT, PayloadBuffers, aligned
from potsherd.node.real.direct import DIRECT_BYTES_MIN
from potsherd.node.real.disk import RealDisk

SIZE = 4 * DIRECT_BYTES_MIN
O_DIRECT: int = getattr(os, "O_DIRECT", 0)


class Refusing:
    """A file system that does not know O_DIRECT, or not for this file."""

    def __init__(self, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = 0
        self._original: Any = getattr(os, call)
        self._direct: set[int] = set()
        self._call = call
        monkeypatch.setattr(os, call, self)
        if call != "open":
            self._open = os.open
            monkeypatch.setattr(os, "open", self._note)

    def _note(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        descriptor: int = self._open(path, flags, *rest, **more)
        (self._direct.add if flags & O_DIRECT else self._direct.discard)(descriptor)
        return descriptor

    def __call__(self, first: Any, *rest: Any, **more: Any) -> Any:
        is_direct = rest[0] & O_DIRECT if self._call == "open" else first in self._direct
        if is_direct:
            self.refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return self._original(first, *rest, **more)


@pytest.fixture(params=["as it is", "open", "pwrite", "preadv"])
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Refusing | None:
    if request.param == "as it is" or not O_DIRECT:
        return None
    return Refusing(request.param, monkeypatch)


def payload(data: bytes) -> memoryview:
    """As a request's payload lies in memory."""
    view = PayloadBuffers().take(len(data))
    view[:] = data
    return view


@pytest.mark.parametrize("seed", range(3))
def test_a_file_is_what_was_written_in_any_portions(
    tmp_path: Path, seed: int, refusing: Refusing | None
) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    disk = RealDisk(tmp_path)
    disk.create("f", SIZE + 100)
    wanted = bytearray(SIZE + 100)
    for number in range(12):
        sizes = (2 * DIRECT_BYTES_MIN, 1, 5000, ALIGNMENT, DIRECT_BYTES_MIN)
        size = sizes[0] if not number else rng.choice(sizes)
        step = ALIGNMENT if rng.random() < 0.7 else 1
        start = 0 if not number else rng.randrange(0, SIZE - size + 1, step)
        data = rng.randbytes(size)
        disk.write("f", start, payload(data) if not number or rng.random() < 0.7 else data)
        wanted[start : start + size] = data
        at = 0 if not number else rng.randrange(0, SIZE // 2, step)
        for length in (SIZE // 2, 700, len(wanted) - at):
            assert disk.read("f", at, length) == wanted[at : at + length]
    disk.sync("f")
    assert (tmp_path / "f").read_bytes() == wanted
    if refusing is not None:
        assert refusing.refused == 1  # asked once, not each time


def test_the_ends_of_a_file_hold(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.create("f", SIZE)
    with pytest.raises(StorageError, match="beyond the end"):
        disk.write("f", SIZE - DIRECT_BYTES_MIN + ALIGNMENT, payload(bytes(DIRECT_BYTES_MIN)))
    with pytest.raises(StorageError, match="shorter"):
        disk.read("f", SIZE - DIRECT_BYTES_MIN, 2 * DIRECT_BYTES_MIN)
    with pytest.raises(StorageError, match="no such range"):
        disk.read("f", -ALIGNMENT, DIRECT_BYTES_MIN)
    for call in (
        lambda: disk.read("g", 0, DIRECT_BYTES_MIN),
        lambda: disk.write("g", 0, payload(bytes(DIRECT_BYTES_MIN))),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert (tmp_path / "f").stat().st_size == SIZE


def test_a_name_that_means_another_file_is_opened_anew(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    for name in ("old", "new"):
        disk.create(name, DIRECT_BYTES_MIN)
        disk.write(name, 0, payload(name.encode() * (DIRECT_BYTES_MIN // 3) + b"-"))
        disk.read(name, 0, DIRECT_BYTES_MIN)
    disk.rename("new", "old")
    assert bytes(disk.read("old", 0, DIRECT_BYTES_MIN)[:6]) == b"newnew"


def test_what_is_read_stays_as_long_as_somebody_looks_at_it(tmp_path: Path) -> None:
    """Four threads read from one disk, whose buffers are used again."""
    disk = RealDisk(tmp_path)
    files = 8
    for number in range(files):
        disk.create(str(number), SIZE)
        disk.write(str(number), 0, payload(bytes([number]) * SIZE))

    def read(turn: int) -> bool:
        number = turn * 5 % files
        held = disk.read(str(number), turn % 3 * ALIGNMENT, DIRECT_BYTES_MIN)
        other = disk.read(str((number + 1) % files), 0, SIZE)
        return set(bytes(held)) == {number} and set(bytes(other)) == {(number + 1) % files}

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(200)))


def test_large_payloads_begin_where_a_disk_wants_them() -> None:
    buffers = PayloadBuffers()
    for size in (DIRECT_BYTES_MIN, DIRECT_BYTES_MIN + 5, SIZE, DIRECT_BYTES_MIN):
        view = buffers.take(size)
        assert view.nbytes == size
        assert ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT == 0
        buffers.give(view)
    assert aligned(memoryview(bytearray(ALIGNMENT + 7)), 7).nbytes == 7


def resident(path: Path) -> int:
    """Pages of a file that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        place = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(len(mapped)), found) == 0
        return sum(one & 1 for one in found)


def file_system(path: Path) -> str:
    """The kind that the kernel names for the mount below which a path lies."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    below = [(place, kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
    return max(below, key=lambda mount: len(mount[0]))[1]


@pytest.mark.skipif(not O_DIRECT, reason="no O_DIRECT on this system")
def test_the_page_cache_keeps_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = RealDisk(tmp_path_factory.mktemp("cache"))
    disk.create("f", SIZE)
    disk.write("f", 0, payload(bytes(SIZE)))
    disk.sync("f")
    disk.read("f", 0, SIZE)
    path = disk._root / "f"
    if file_system(path) not in ("ext4", "xfs"):  # others have their own ideas of it
        pytest.skip("this file system may have no way past the page cache")
    assert resident(path) <= SIZE // mmap.PAGESIZE // 10
