"""What a process asks of its allocator, as the kernel sees it: each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from potsherd.node.real.memory import CLIENT_KEEP_BYTES, HUGE_SPARE_BYTES

MIB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages"
)

PRELUDE = """
import ctypes
import mmap
from pathlib import Path
from potsherd.node.real.memory import CLIENT_KEEP_BYTES, resident_bytes, reuse_memory

def advised():
    '''Bytes of address space that may come in huge pages.'''
    total = size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:") and "hg" in line.split():
            total += size
    return total

def has_glibc():
    return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
"""


def said_by(body: str) -> list[str]:
    """The words that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@needs_huge_pages
def test_what_a_command_keeps_may_come_in_huge_pages_and_is_not_there_before_it_is_used() -> None:
    done, glibc, before, after, grown = said_by(
        "before, resident = advised(), resident_bytes()\n"
        "done = reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "print(done, has_glibc(), before, advised(), resident_bytes() - resident)"
    )
    assert done == glibc
    if done == "True":
        assert int(before) == 0
        assert CLIENT_KEEP_BYTES - HUGE_SPARE_BYTES <= int(after) < CLIENT_KEEP_BYTES
        assert int(grown) < 4 * MIB


@needs_huge_pages
def test_buffers_lie_in_what_was_advised() -> None:
    done, inside = said_by(
        "done = reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "low, end = 2**64, 0\n"
        "place = 0, 0\n"
        "for line in Path('/proc/self/smaps').read_text().splitlines():\n"
        "    first = line.split()[0]\n"
        "    if '-' in first and not first.endswith(':'):\n"
        "        place = tuple(int(part, 16) for part in first.split('-'))\n"
        "    elif line.startswith('VmFlags:') and 'hg' in line.split():\n"
        "        low, end = min(low, place[0]), max(end, place[1])\n"
        "kept = [bytearray(16 * 2**20) for _ in range(6)]\n"
        "at = [ctypes.addressof((ctypes.c_char * 1).from_buffer(one)) for one in kept]\n"
        "print(done, all(low <= one < end for one in at))"
    )
    assert done == "False" or inside == "True"


def test_a_node_asks_for_no_huge_pages() -> None:
    assert said_by("reuse_memory(CLIENT_KEEP_BYTES)\nprint(advised())") == ["0"]


def test_larger_buffers_go_back_to_the_system_as_before() -> None:
    used, left = said_by(
        "reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "before = resident_bytes()\n"
        "large = bytearray(200 * 2**20)\n"
        "used = resident_bytes() - before\n"
        "del large\n"
        "print(used, resident_bytes() - before)"
    )
    assert int(used) >= 190 * MIB
    assert int(left) < 20 * MIB
