"""Manifest pages: what is written is what is read, and what is wrong is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from potsherd.crypto.eris import TreeShape, block_size_for, encode_many
from potsherd.datasets.manifest import (
    ManifestReader,
    Node,
    PagePlace,
    SegmentRef,
    entry_bytes_max,
    write_manifest,
)
from potsherd.datasets.pages import (
    PAGE_TARGET_BYTES,
    SELF,
    Child,
    Entry,
    FileContent,
    Kind,
    Page,
    PageDraft,
    PageRef,
    RootInfo,
    SegmentRow,
    Totals,
    build_page,
    check_name,
    parse_page,
)
from potsherd.errors import LimitError, MalformedError, NotFoundError, PotsherdError, UsageError
from potsherd.wire import pack

OWN = SegmentRow(bytes([9]) * 32, bytes(20), 4, 12)
INFO = RootInfo("a title", bytes(32), 0, 0, None, 1_700_000_000, 0o755, 5, Totals(0, 0, 0, 0))


def content(length: int, segment: int = 0, offset: int = 0) -> FileContent:
    shape = TreeShape(length, block_size_for(length))
    code = bytes([shape.block_size.bit_length() - 1, shape.root_level])
    extents = ((segment, offset, shape.encoded_length),)
    return FileContent(length, bytes(32), bytes(32), code + bytes(64), extents)


def file(name: bytes, length: int = 5, **more: int) -> Entry:
    return Entry(name, Kind.FILE, 0o644, -7, content(length, **more))


def folder(name: bytes) -> Entry:
    return Entry(name, Kind.FOLDER, 0o755, 0)


Items = Iterator[tuple[tuple[bytes, ...], Entry]]


class Shelf:
    """Keeps pages like a put does: every page in segment `own`, at an offset of its own."""

    def __init__(self, segments: Sequence[SegmentRow] = (OWN,)) -> None:
        self.segments = segments
        self.own = len(segments) - 1
        self.pages: dict[int, bytes] = {}
        self.fetched: list[int] = []

    def keep(self, draft: PageDraft) -> PageRef:
        data = build_page(draft, self.segments, self.own)
        [encoded] = encode_many(
            [data], convergence_secret=bytes(32), block_size=block_size_for(len(data))
        )
        offset = len(self.pages)
        self.pages[offset] = data
        return PageRef(encoded.capability.to_bytes(), len(data), self.own, offset)

    async def fetch(self, places: Sequence[PagePlace]) -> list[Page]:
        self.fetched += [place.offset for place in places]
        return [parse_page(self.pages[place.offset]) for place in places]

    def write(self, entries: Iterable[tuple[tuple[bytes, ...], Entry]]) -> ManifestReader:
        drafts = write_manifest(entries, INFO, lambda: len(self.segments))
        draft = next(drafts)
        while draft.root is None:
            draft = drafts.send(self.keep(draft))
        self.keep(draft)
        row = self.segments[self.own]
        own = SegmentRef(row.segment_id, row.placement_key, row.k, row.n)
        return ManifestReader(parse_page(self.pages[len(self.pages) - 1]), own, self.fetch)


async def walked(reader: ManifestReader, path: bytes = b"", *, recurse: bool = True) -> list[Node]:
    return [node async for node in reader.walk(path, recurse=recurse)]


def tree(depth: int, width: int, prefix: tuple[bytes, ...] = ()) -> Items:
    for number in range(width):
        name = b"%05d" % number
        if number % 3 == 1 and depth:
            yield prefix, folder(name)
            yield from tree(depth - 1, width, (*prefix, name))
        else:
            yield prefix, file(name, number)


@pytest.mark.parametrize("count", [0, 1, 2, 70, 90, 5000])
async def test_a_folder_of_any_size_comes_back_in_order(count: int) -> None:
    shelf = Shelf()
    entries = [file(b"%06d" % number, number) for number in range(count)]
    reader = shelf.write(((), entry) for entry in entries)
    nodes = await walked(reader)
    assert nodes[0].path == b"" and nodes[0].entry.kind == Kind.FOLDER
    assert [node.entry for node in nodes[1:]] == entries
    assert reader.info.totals == Totals(count, 0, 0, sum(range(count)))
    assert all(len(page) <= PAGE_TARGET_BYTES for page in shelf.pages.values())
    assert all(len(page) > 10_000 for page in list(shelf.pages.values())[:-3])


async def test_a_tree_comes_back_with_its_paths() -> None:
    shelf = Shelf()
    entries = list(tree(3, 9))
    reader = shelf.write(entries)
    nodes = await walked(reader)
    assert [n.path for n in nodes[1:]] == [b"/".join((*p, e.name)) for p, e in entries]


def chain(depth: int, width: int, prefix: tuple[bytes, ...] = ()) -> Items:
    """Folders of `width` files, each with one such folder among them."""
    for number in range(width):
        yield prefix, file(b"%05d" % number, number)
    if depth:
        yield prefix, folder(b"below")
        yield from chain(depth - 1, width, (*prefix, b"below"))
    yield prefix, file(b"last")


async def test_a_path_touches_only_its_own_pages() -> None:
    shelf = Shelf()
    reader = shelf.write(chain(2, 1000))
    node = await reader.lookup(b"./below//below/00599")
    assert node.path == b"below/below/00599" and node.entry.content == content(599)
    assert len(shelf.fetched) <= 6 < len(shelf.pages) / 5
    missing = (
        b"below/below/00599/x",
        b"0",
        b"zz",
        b"00000/x",
        b"below/below/01000",
        b"below/below/x",
    )
    for path in missing:
        with pytest.raises(NotFoundError):
            await reader.lookup(path)


# --- pages asked for before they are needed ----------------------------------------------------------


def folders(names: bytes, width: int = 300) -> Items:
    """Folders of one letter each, with so many files: five pages and one above them."""
    for name in names:
        yield (), folder(bytes([name]))
        yield from (((bytes([name]),), file(b"%05d" % number)) for number in range(width))


async def test_a_walk_fetches_every_page_once() -> None:
    for entries in (
        list(tree(3, 9)),
        list(chain(2, 200)),
        list(folders(b"abcdefg")),
        [((), file(b"%05d" % n)) for n in range(3000)],
    ):
        shelf = Shelf()
        reader = shelf.write(entries)
        assert len(await walked(reader)) == len(entries) + 1
        assert sorted(shelf.fetched) == list(range(len(shelf.pages) - 1))


async def test_the_next_folder_is_fetched_while_one_is_listed() -> None:
    shelf = Shelf()
    reader = shelf.write(folders(b"abc"))
    seen = 0
    async with aclosing(reader.walk_many()) as found:
        async for nodes in found:
            if not nodes[0].path.startswith(b"b/"):
                continue
            asked = len(shelf.fetched)
            await asyncio.sleep(0)  # nobody asks for more entries
            seen += len(shelf.fetched) > asked
    assert seen


async def test_a_folder_alone_asks_for_nothing_below_it() -> None:
    shelf = Shelf()
    reader = shelf.write(folders(b"abc"))
    nodes = await walked(reader, recurse=False)
    await asyncio.sleep(0)
    assert len(nodes) == 4
    own = {node.entry.folder.offset for node in nodes if node.entry.folder}
    assert not own & set(shelf.fetched)


async def test_what_is_before_a_missing_page_is_listed() -> None:
    """A page that fails when it is asked for early fails the walk where it comes to it, not before."""
    shelf = Shelf()
    entries = list(folders(b"abc"))
    reader = shelf.write(entries)
    whole = await walked(reader)
    bad = next(n.entry.folder.offset for n in whole if n.path == b"b" and n.entry.folder)
    below = parse_page(shelf.pages[bad]).children[0].page.offset
    shelf.pages[below] = shelf.pages[below][:-1]
    nodes: list[Node] = []
    with pytest.raises(MalformedError):
        async for node in reader.walk():
            nodes.append(node)
    assert [n.path for n in nodes] == [n.path for n in whole][: 1 + 301 + 1]


async def test_a_walk_that_is_left_asks_no_more() -> None:
    shelf = Shelf()
    reader = shelf.write(folders(b"abc"))
    fetch, before = shelf.fetch, asyncio.all_tasks()
    listing, stuck = False, 0

    async def slow(places: Sequence[PagePlace]) -> list[Page]:
        nonlocal stuck
        if listing:  # asked for ahead, not because the walk waits for it
            stuck += 1
            await asyncio.Event().wait()
        return await fetch(places)

    reader._fetch = slow
    async with aclosing(reader.walk_many()) as found:
        async for _ in found:
            listing = True
            await asyncio.sleep(0)
            if stuck:
                break
            listing = False
    assert stuck
    assert asyncio.all_tasks() == before


async def test_one_folder_can_be_listed_alone() -> None:
    reader = Shelf().write(tree(2, 30))
    nodes = await walked(reader, b"00001", recurse=False)
    assert [n.path for n in nodes] == [b"00001", *(b"00001/%05d" % n for n in range(30))]
    assert [n.path for n in await walked(reader, b"00000")] == [b"00000"]
    assert len(await walked(reader, b"00001")) == 1 + 30 + 10 * 30


async def test_empty_folders_links_and_odd_names() -> None:
    entries = [
        ((), folder(b"-rf")),
        ((), folder(b"a\nb")),
        ((b"a\nb",), Entry(b"\xff\xfe", Kind.SYMLINK, 0o777, 1, target=b"../../etc/passwd")),
        ((b"a\nb",), replace(file(b"\xff\xff"), metadata=(("k", "v"), ("l", "")))),
        ((), file(b"ab")),
    ]
    nodes = await walked(Shelf().write(entries))
    assert [n.entry.name for n in nodes[1:]] == [e.name for _, e in entries]
    assert nodes[1].entry.folder is None and nodes[2].entry.folder is not None
    assert nodes[3].entry == entries[2][1] and nodes[4].entry == entries[3][1]


async def test_deep_folders() -> None:
    names = [b"d%d" % n for n in range(250)]
    entries = [(tuple(names[:n]), folder(names[n])) for n in range(250)]
    nodes = await walked(Shelf().write([*entries, (tuple(names), file(b"x"))]))
    assert nodes[-1].path == b"/".join([*names, b"x"])


def test_too_deep_and_unordered_are_refused() -> None:
    names = [b"d"] * 300
    with pytest.raises(UsageError):
        Shelf().write((tuple(names[:n]), folder(b"d")) for n in range(300))
    with pytest.raises(UsageError):
        Shelf().write([((), file(b"b")), ((), file(b"a"))])
    with pytest.raises(UsageError):
        Shelf().write([((), file(b"a")), ((), folder(b"a"))])


async def test_segments_are_named_by_the_page_that_uses_them() -> None:
    rows = [SegmentRow(bytes([n]) * 32, bytes([n]) * 20, 1, 3) for n in range(1, 6)]
    shelf = Shelf(rows)
    entries = [((), file(b"%04d" % n, 40000, segment=n // 100)) for n in range(400)]
    entries.append(((), file(b"zzz", 40000, segment=4)))
    reader = shelf.write(entries)
    nodes = await walked(reader)
    for number, node in enumerate(nodes[1:401]):
        assert node.entry.content is not None
        ref = node.segments[node.entry.content.extents[0][0]]
        assert ref.segment_id == rows[number // 100].segment_id
    assert nodes[-1].segments[-1].segment_id == rows[4].segment_id  # `self` resolved
    assert [ref.segment_id for ref in reader.segments] == [row.segment_id for row in rows]


def test_a_page_names_only_complete_segments() -> None:
    rows = [SegmentRow(SELF, bytes(20), 1, 1), SegmentRow(SELF, bytes(20), 1, 1)]
    with pytest.raises(LimitError):
        build_page(PageDraft(0, (file(b"a", segment=0),)), rows, 1)
    with pytest.raises(LimitError):
        build_page(PageDraft(0, (file(b"a", segment=1),)), rows, 0)


@pytest.mark.parametrize("title", range(256))
def test_every_page_has_two_leaves(title: int) -> None:
    """Sizes around 1,024 and 32,768 one by one: the padding's own length prefix changes within."""
    for filling in (0, 1, 2, 32_000 - 700 + title):
        metadata = tuple((f"k{n:02}", "v" * 1000) for n in range(filling // 1000 // 2))
        entries = [replace(file(b"a"), metadata=metadata), replace(file(b"b"), metadata=metadata)]
        entries.append(file(b"c" * (1 + filling % 200)))
        info = replace(INFO, title="t" * title)
        data = build_page(PageDraft(0, tuple(entries), root=info), [OWN], 0)
        shape = TreeShape(len(data), block_size_for(len(data)))
        assert shape.leaves >= 2
        assert 1024 <= len(data) < 16384 or len(data) >= 32768
        assert parse_page(data).entries == tuple(entries)


def test_the_padding_has_one_length() -> None:
    bare = Page(0, INFO, (replace(OWN, segment_id=SELF),), (file(b"a"),), ())
    data = build_page(PageDraft(0, (file(b"a"),), root=INFO), [OWN], 0)
    assert len(data) == 1024 and parse_page(data).pad == bytes(1024 - len(bare.encode()) - 1)
    for pad in (b"", bytes(10), bytes(2000)):
        with pytest.raises(MalformedError):
            parse_page(replace(bare, pad=pad).encode())
    with pytest.raises(MalformedError):
        parse_page(data[:-1] + b"\1")


def bad_pages() -> Iterator[Page]:
    own = replace(OWN, segment_id=SELF)
    ref = PageRef(bytes([10, 1]) + bytes(64), 1024, 0, 0)
    yield Page(0, None, (), (), ())
    yield Page(1, None, (), (), ())
    yield Page(0, None, (own,), (), (Child(b"a", ref),))
    yield Page(1, None, (own,), (file(b"a"),), ())
    yield Page(1, None, (own,), (file(b"a"),), (Child(b"a", ref),))
    yield Page(0, None, (own,), (file(b"b"), file(b"a")), ())
    yield Page(0, None, (own,), (file(b"a"), file(b"a")), ())
    yield Page(0, None, (own, own), (file(b"a"), file(b"b", segment=1)), ())
    yield Page(0, None, (OWN, own), (file(b"a", segment=1), file(b"b", segment=0)), ())
    yield Page(0, None, (own,), (folder(b"a"),), ())
    yield Page(0, None, (), (file(b"a"),), ())
    yield Page(0, INFO, (), (), ())
    yield Page(0, INFO, (own, OWN), (), ())
    yield Page(0, INFO, (own,), (file(b"a", segment=1),), ())
    yield Page(0, INFO, (own,), (replace(file(b"a"), target=b"x"),), ())
    yield Page(0, INFO, (own,), (replace(file(b"a"), content=None),), ())
    yield Page(0, INFO, (own,), (replace(file(b"a"), folder=ref),), ())
    yield Page(0, INFO, (own,), (replace(folder(b"a"), content=content(3)),), ())
    yield Page(0, INFO, (own,), (replace(file(b"a"), metadata=(("b", ""), ("a", ""))),), ())
    yield Page(0, INFO, (own,), (Entry(b"a", Kind.SYMLINK, 0, 0, target=b"a\0"),), ())
    for name in (b".", b"..", b"a/b", b"a\0"):
        yield Page(0, INFO, (own,), (file(name),), ())


@pytest.mark.parametrize("number", range(24))
def test_a_wrong_page_is_refused_both_ways(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    page = list(bad_pages())[number]
    with pytest.raises(MalformedError):
        page.encode()
    with monkeypatch.context() as patched:
        for cls in (Page, Entry, FileContent, PageRef):
            patched.setattr(cls, "check", lambda self: None)
        data = page.encode()
        data = data[:-2] + pack(bytes(max(0, 1024 - len(data) - 1)))
    with pytest.raises(MalformedError):
        parse_page(data)


@pytest.mark.parametrize(
    "change",
    [
        {"length": 6000},
        {"length": 20_000},
        {"capability": bytes([10, 1]) + bytes(64)},
        {"capability": bytes([15, 0]) + bytes(64)},
        {"capability": bytes(66)},
        {"extents": ((0, 0, 2048),)},
        {"extents": ((0, 0, 512), (0, 512, 512))},
        {"extents": ()},
        {"holes": ((4, 2),)},
        {"holes": ((2, 1), (0, 1))},
        {"holes": ((0, 2), (2, 1))},
        {"chunk_index": PageRef(bytes([10, 1]) + bytes(64), 1024, 0, 0)},
    ],
)
def test_a_content_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    good = content(5)
    good.encode()
    with pytest.raises(MalformedError):
        FileContent(**{**vars(good), **change}).encode()


async def test_pages_that_contradict_each_other_are_refused() -> None:
    """Each page is well formed by itself; a reader compares it with what led there."""
    shelf = Shelf()
    reader = shelf.write(((), file(b"%05d" % n)) for n in range(300))
    assert len(shelf.pages) > 3
    shelf.pages[0], shelf.pages[1] = shelf.pages[1], shelf.pages[0]
    with pytest.raises(MalformedError):
        await walked(reader)
    with pytest.raises(MalformedError):
        await reader.lookup(b"00000")
    shelf.pages[0] = shelf.pages[len(shelf.pages) - 1]  # a root page in the middle
    with pytest.raises(MalformedError):
        await walked(reader)


async def test_a_manifest_that_repeats_itself_ends() -> None:
    """A few pages that refer to one folder page a hundred times each would be endless."""
    shelf = Shelf()
    ref = shelf.keep(PageDraft(0, (folder(b"x"),)))
    for _ in range(20):
        entries = tuple(replace(folder(b"%03d" % n), folder=ref) for n in range(50))
        ref = shelf.keep(PageDraft(0, entries))
    info = replace(INFO, totals=Totals(1, 100, 0, 0))
    root = PageDraft(0, (replace(folder(b"x"), folder=ref),), root=info)
    own = SegmentRef(OWN.segment_id, OWN.placement_key, 4, 12)
    reader = ManifestReader(parse_page(build_page(root, [OWN], 0)), own, shelf.fetch)
    with pytest.raises(MalformedError, match="more entries"):
        await walked(reader)


def test_a_page_of_another_segment_is_refused() -> None:
    page = parse_page(build_page(PageDraft(0, (), root=INFO), [OWN], 0))
    with pytest.raises(MalformedError):
        ManifestReader(page, SegmentRef(bytes(32), b"x" * 20, 4, 12), Shelf().fetch)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"x" * 256])
def test_names_that_no_folder_has(name: bytes) -> None:
    with pytest.raises(MalformedError):
        check_name(name)


def test_the_bound_of_an_entry_holds() -> None:
    """Pages are filled by it, so one byte too few would make a page of another block size."""
    big = content(2**34, 65535, 2**30)
    blocks = big.extents[0][2]
    piece = 2**30 - 2**15
    extents = [(65535, 2**30, piece)] * (blocks // piece) + [(65535, 2**30, blocks % piece)]
    big = replace(big, extents=tuple(extents))
    entries = [
        Entry(b"n" * 255, Kind.FILE, 0o7777, -(2**63), big),
        Entry(b"n", Kind.FILE, 0, 2**63 - 1, replace(big, holes=((2**33, 2**32),))),
        Entry(
            b"n",
            Kind.FOLDER,
            0o7777,
            -(2**63),
            folder=PageRef(bytes([10, 1]) + bytes(64), 9999, 65535, 2**30),
        ),
        Entry(
            b"n",
            Kind.SYMLINK,
            0o7777,
            -(2**63),
            target=b"t" * 4095,
            metadata=(("k" * 64, "v" * 1024),),
        ),
    ]
    for entry in entries:
        assert len(pack(entry._lower())) <= entry_bytes_max(entry)


def test_a_draft_too_long_is_a_limit() -> None:
    with pytest.raises(PotsherdError):
        build_page(PageDraft(0, tuple(file(b"%05d" % n) for n in range(3000))), [OWN], 0)


def test_a_name_twice_in_a_long_page_is_refused() -> None:
    names = [b"%04d" % n for n in range(20)]
    for bad in (names[:10] + names[9:], names[::-1], [*names, names[0]]):
        with pytest.raises(LimitError, match="twice"):
            build_page(PageDraft(0, tuple(map(file, bad))), [OWN], 0)


@pytest.mark.parametrize("lengths", [(1536, 1536, 1024), (1024, 1536, 1536), (2048, 2047, 1)])
def test_extents_of_broken_blocks_are_refused(lengths: tuple[int, int, int]) -> None:
    good = content(3000)
    shape = TreeShape(3000, 1024)
    rest = shape.encoded_length - sum(lengths)
    extents = tuple((0, 4096 * at, length) for at, length in enumerate((*lengths, rest)) if length)
    with pytest.raises(MalformedError, match="extent"):
        replace(good, extents=extents).check()
