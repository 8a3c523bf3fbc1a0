"""The stream plan against a slow model that places block after block, and its steps carried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.erasure.layout import Extent, ExtentMap, Geometry, Limits
from potsherd.erasure.stream import Close, Mode, Pad, Placed, Put, Step, StreamLayout

TINY = Limits(cell_size=16, cell_step=4, data_cells=12, block_small=2)
SMALL, LARGE = TINY.block_small, TINY.cell_size


@dataclass
class Writer:
    """Carries out steps as a stream writer would: bytes in, segments and extents out."""

    k: int
    queue: bytearray = field(default_factory=bytearray)
    segments: dict[int, bytearray] = field(default_factory=dict)
    closed: dict[int, Geometry] = field(default_factory=dict)
    extents: dict[int, tuple[Extent, ...]] = field(default_factory=dict)
    queue_max: int = 0

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Put | Pad):
                self._append(step)
            elif isinstance(step, Placed):
                assert step.number not in self.extents
                self.extents[step.number] = step.extents
            else:
                self._close(step)
        self.queue_max = max(self.queue_max, len(self.queue))

    def _append(self, step: Put | Pad) -> None:
        assert step.length > 0 and step.segment_number not in self.closed
        segment = self.segments.setdefault(step.segment_number, bytearray())
        assert len(segment) == step.offset
        if isinstance(step, Pad):
            segment += bytes(step.length)
        else:
            segment += self.queue[: step.length]
            del self.queue[: step.length]

    def _close(self, step: Close) -> None:
        assert step.segment_number == len(self.closed)
        assert len(self.segments.get(step.segment_number, b"")) == step.stream_length
        shape = Geometry.of(self.k, self.k, step.stream_length, small=step.small, limits=TINY)
        self.closed[step.segment_number] = shape

    def read(self, extents: tuple[Extent, ...]) -> bytes:
        return b"".join(bytes(self.segments[s][o : o + n]) for s, o, n in extents)


@dataclass(frozen=True)
class Encoding:
    block_size: int
    blocks: int
    calls: int
    """Number of `add` calls it comes in, at most."""

    def content(self, number: int) -> bytes:
        size = self.block_size
        return b"".join(
            (b"%d.%d|" % (number, i)).ljust(size, b"=")[:size] for i in range(self.blocks)
        )

    def parts(self, content: bytes) -> Iterator[bytes]:
        step = max(1, -(-self.blocks // self.calls)) * self.block_size
        return (content[i : i + step] for i in range(0, len(content), step))


encodings = st.lists(
    st.builds(
        Encoding, st.sampled_from([SMALL, LARGE]), st.integers(0, 20), st.sampled_from([1, 3, 50])
    ),
    max_size=30,
)
ks = st.integers(1, 5)


def feed(plan: StreamLayout, writer: Writer, encoding: Encoding, content: bytes) -> None:
    writer.run(plan.begin(encoding.block_size))
    for part in encoding.parts(content):
        writer.queue += part
        writer.run(plan.add(len(part)))
    writer.run(plan.end())


def slow_extents(k: int, work: list[Encoding]) -> list[list[tuple[int, int]]]:
    """(segment, offset) of every block of every encoding, by the words of the specification."""
    total = sum(e.block_size * e.blocks for e in work)
    small = total < k * TINY.cell_size
    capacity, segment, offset, found = TINY.capacity(k), 0, 0, []
    for encoding in work:
        places = []
        if not small and encoding.block_size == LARGE:
            offset += -offset % LARGE
        for _ in range(encoding.blocks):
            if not small and offset == capacity:
                segment, offset = segment + 1, 0
            places.append((segment, offset))
            offset += encoding.block_size
        found.append(places)
    return found


@given(ks, encodings)
@settings(max_examples=200)
def test_plan_equals_the_slow_model_and_the_bytes_are_found(k: int, work: list[Encoding]) -> None:
    plan, writer = StreamLayout(k, limits=TINY), Writer(k)
    contents = [encoding.content(number) for number, encoding in enumerate(work)]
    for encoding, content in zip(work, contents, strict=True):
        feed(plan, writer, encoding, content)
    writer.run(plan.finish())
    assert not writer.queue
    assert set(writer.closed) == set(writer.segments) | ({0} if not writer.segments else set())
    for number, places in enumerate(slow_extents(k, work)):
        extents, size = writer.extents[number], work[number].block_size
        assert [(s, at) for s, o, n in extents for at in range(o, o + n, size)] == places
        assert all(n % size == 0 for _, _, n in extents)
        assert writer.read(extents) == contents[number]
        assert ExtentMap(extents).slice(0, len(contents[number])) == list(extents)


@given(ks, encodings)
def test_the_writer_keeps_less_than_a_row(k: int, work: list[Encoding]) -> None:
    """Between two steps; so at most a row and one `add` are in memory."""
    plan, writer = StreamLayout(k, limits=TINY), Writer(k)
    for number, encoding in enumerate(work):
        feed(plan, writer, encoding, encoding.content(number))
    assert writer.queue_max < TINY.row_bytes(k)


def page_blocks(number: int, names: object) -> bytes:
    """A stand-in for a manifest page: its content names extents, its length depends on them."""
    text = f"page {number} {names}".encode()
    size = SMALL if len(text) < 40 else LARGE
    return text + bytes(-len(text) % size or size)


def page_block_size(blocks: bytes) -> int:
    return SMALL if len(blocks) % LARGE else LARGE


def write_pages_small(plan: StreamLayout, writer: Writer, count: int) -> bool:
    trial, pages = plan.small_trial(), []
    for number in range(count):
        page = page_blocks(number, trial.extents)
        extent = trial.place(page_block_size(page), len(page))
        if extent is None:
            return False
        pages.append((page, extent))
    writer.queue += b"".join(page for page, _ in pages)
    writer.run(trial.accept())
    assert all(writer.read((extent,)) == page for page, extent in pages)
    return True


def write_pages_aligned(plan: StreamLayout, writer: Writer, count: int) -> None:
    for number in range(count):
        page = page_blocks(number, (plan.segment_number, len(writer.closed)))
        if not plan.fits(page_block_size(page), len(page)):
            writer.run(plan.close())
            page = page_blocks(number, (plan.segment_number, len(writer.closed)))
        name = plan.encodings
        writer.run(plan.begin(page_block_size(page)))
        writer.queue += page
        writer.run(plan.add(len(page)))
        writer.run(plan.end())
        (extent,) = writer.extents[name]
        assert writer.read((extent,)) == page


@given(st.integers(2, 5), encodings, st.integers(1, 4))
def test_pages_lie_whole_and_tell_the_truth(k: int, work: list[Encoding], count: int) -> None:
    """The procedure of docs/spec/segments.md for manifest pages, both ways."""
    plan, writer = StreamLayout(k, limits=TINY), Writer(k)
    for number, encoding in enumerate(work):
        feed(plan, writer, encoding, encoding.content(number))
    undecided = plan.mode is Mode.UNDECIDED
    if undecided and write_pages_small(plan, writer, count):
        assert sum(map(len, writer.segments.values())) < TINY.row_bytes(k)
    else:
        if undecided:
            writer.run(plan.align())
        write_pages_aligned(plan, writer, count)
        writer.run(plan.finish())
    assert not writer.queue
    for number, encoding in enumerate(work):
        assert writer.read(writer.extents[number]) == encoding.content(number)
    last = max(writer.extents.items())[1]
    assert last[0].segment_number == max(writer.closed)
