"""What a process asks of its allocator, as the kernel sees it: each in a process of its own."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from potsherd.node.real.memory import CLIENT_KEEP_BYTES, HUGE_SPARE_BYTES

MIB = 2**20
HAS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
needs_huge_pages = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a kernel without huge pages"
)

PRELUDE = """
import ctypes
from pathlib import Path
from potsherd.cli.context import run
from potsherd.node.real.memory import CLIENT_KEEP_BYTES, resident_bytes, reuse_memory

def advised():
    '''(start, end) of the addresses that may come in huge pages.'''
    found, place = [], (0, 0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            place = tuple(int(part, 16) for part in first.split("-"))
        elif first == "VmFlags:" and "hg" in line.split():
            found.append(place)
    return found

def advised_bytes():
    return sum(end - start for start, end in advised())

async def say():
    print(advised_bytes())
"""


def said_by(body: str) -> list[str]:
    """The words that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@needs_huge_pages
def test_what_a_command_keeps_may_come_in_huge_pages_and_is_not_there_before_it_is_used() -> None:
    done, before, after, grown = said_by(
        "before, resident = advised_bytes(), resident_bytes()\n"
        "done = reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "print(done, before, advised_bytes(), resident_bytes() - resident)"
    )
    assert done == str(HAS_GLIBC)
    if HAS_GLIBC:
        assert int(before) == 0
        assert CLIENT_KEEP_BYTES - HUGE_SPARE_BYTES <= int(after) < CLIENT_KEEP_BYTES
        assert int(grown) < 4 * MIB


@needs_huge_pages
def test_buffers_lie_in_what_was_advised() -> None:
    [inside] = said_by(
        "reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "kept = [bytearray(16 * 2**20) for _ in range(6)]\n"
        "at = [ctypes.addressof((ctypes.c_char * 1).from_buffer(one)) for one in kept]\n"
        "print(all(any(start <= one < end for start, end in advised()) for one in at))"
    )
    assert inside == str(HAS_GLIBC)


@needs_huge_pages
@pytest.mark.parametrize("is_node", [False, True])
def test_commands_ask_for_huge_pages_and_nodes_do_not(is_node: bool) -> None:
    [size] = said_by(f"run(say(), is_node={is_node})")
    assert (int(size) > 0) == (HAS_GLIBC and not is_node)


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
