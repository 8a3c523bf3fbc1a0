"""What a process asks of its allocator, as the kernel sees it: each in a process of its own."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from potsherd.node.real.memory import (
    AHEAD_BYTES_MAX,
    AHEAD_BYTES_MIN,
    CLIENT_KEEP_BYTES,
    HUGE_SPARE_BYTES,
    AdvisedHeap,
)

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


def can_populate() -> bool:
    """Whether this system brings pages that are asked for."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            page.madvise(23)  # MADV_POPULATE_WRITE
        except (OSError, ValueError):
            return False
    return True


@needs_huge_pages
@pytest.mark.skipif(not HAS_GLIBC, reason="another allocator")
@pytest.mark.skipif(sys.platform == "linux" and not can_populate(), reason="asks for pages")
def test_no_page_comes_while_a_large_buffer_is_made() -> None:
    """It would come under the interpreter's lock, 2 MiB of it, and the event loop would wait."""
    made, faults = said_by(
        "import resource, threading\n"
        "from potsherd.kernels import buffers\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt\n"
        "class Counting:\n"
        "    def __init__(self, heap):\n"
        "        self.heap, self.buffers, self.faults = heap, 0, 0\n"
        "    def before(self, size):\n"
        "        self.heap.before(size)\n"
        "        self.faults -= faults()\n"
        "    def after(self, end):\n"
        "        self.faults += faults()\n"
        "        self.buffers += 1\n"
        "        self.heap.after(end)\n"
        "reuse_memory(CLIENT_KEEP_BYTES, huge=True)\n"
        "counting = Counting(buffers._heap)\n"
        "buffers.grow_in(counting)\n"
        "kept = []\n"
        "def work():\n"
        "    for size in [2**20] * 8 + [2**23] * 8:\n"
        "        kept.append(buffers.unset(size))\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
        "print(counting.buffers, counting.faults)"
    )
    assert int(made) == 16
    assert int(faults) <= 3  # small objects of Python; it would be more than ten


class Asked:
    """A machine that is asked for pages; addresses are only numbers."""

    def __init__(self, *, can: bool = True) -> None:
        self.can = can
        self.ranges: list[tuple[int, int]] = []

    def __call__(self, start: int, size: int, advice: int) -> int:
        assert start % mmap.PAGESIZE == 0
        assert 0 < size <= 2 * MIB + mmap.PAGESIZE  # who changes the map waits for each
        self.ranges.append((start, start + size))
        return 0 if self.can else -1


START, END = 2**40 + 16, 2**40 + 124 * MIB


def elsewhere(work: Callable[[], None]) -> None:
    """Do it in another thread than this."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_pages_come_before_each_buffer_once_and_not_far_ahead() -> None:
    asked = Asked()
    heap, end = AdvisedHeap(asked, START, END), START

    def work() -> None:
        nonlocal end
        for size in [100_000, MIB, 5 * MIB, *[8 * MIB] * 20]:
            heap.before(size)
            reached = asked.ranges[-1][1]
            assert reached >= min(end + size + AHEAD_BYTES_MIN // 2, END)
            assert reached <= end + size + max(AHEAD_BYTES_MIN, min(end - START, AHEAD_BYTES_MAX))
            end += size
            heap.after(end)

    elsewhere(work)
    assert asked.ranges[0][0] <= START
    for (_, before), (start, _) in itertools.pairwise(asked.ranges):
        assert before - mmap.PAGESIZE < start <= before
    assert asked.ranges[-1][1] == END


def test_the_event_loop_asks_for_no_pages() -> None:
    asked = Asked()
    heap = AdvisedHeap(asked, START, END)
    heap.before(8 * MIB)
    assert asked.ranges == []
    heap.after(START + 8 * MIB)
    elsewhere(lambda: heap.before(MIB))
    assert asked.ranges[-1][1] > START + 9 * MIB


def test_who_comes_meanwhile_waits_for_the_same_pages() -> None:
    """Else it would touch them itself, under the interpreter's lock."""
    asking, may_come, starts = threading.Event(), threading.Event(), list[int]()

    def slowly(start: int, size: int, advice: int) -> int:
        starts.append(start)
        asking.set()
        may_come.wait()
        return 0

    heap = AdvisedHeap(slowly, START, END)
    threads = [threading.Thread(target=heap.before, args=[MIB]) for _ in range(2)]
    threads[0].start()
    assert asking.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    waited = threads[1].is_alive()
    may_come.set()
    for thread in threads:
        thread.join()
    assert waited
    assert len(set(starts)) == len(starts)


def test_a_system_that_cannot_is_asked_once() -> None:
    asked = Asked(can=False)
    heap = AdvisedHeap(asked, START, END)
    for _ in range(3):
        elsewhere(lambda: heap.before(MIB))
    assert len(asked.ranges) == 1


def test_a_buffer_outside_the_heap_changes_nothing() -> None:
    asked = Asked()
    heap = AdvisedHeap(asked, START, END)
    heap.after(END + 2**30)
    elsewhere(lambda: heap.before(MIB))
    assert asked.ranges[-1][1] <= START + MIB + AHEAD_BYTES_MIN
