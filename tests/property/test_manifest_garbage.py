"""Whatever bytes are called a page: they are refused with a typed error, or they are what we would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from plain_decoder import decode_plainly

from potsherd.crypto.eris import ReadCapability, TreeShape, block_size_for, shape_of
from potsherd.datasets.manifest import ManifestReader, PagePlace, SegmentRef, entry_bytes_max
from potsherd.datasets.pages import (
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
    split_path,
)
from potsherd.errors import MalformedError, PotsherdError
from potsherd.wire import COLUMNS_FROM, pack, unpack

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in (b".", b"..") and not set(name) & {0, 47}
)
dates = st.integers(-(2**63), 2**63 - 1)
modes = st.integers(0, 0o7777)
pairs = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))


def capability(length: int) -> bytes:
    shape = TreeShape(length, block_size_for(length))
    return ReadCapability(shape.block_size, shape.root_level, bytes(32), bytes(32)).to_bytes()


@st.composite
def contents(draw: st.DrawFn) -> FileContent:
    length = draw(st.one_of(st.integers(0, 70_000), st.integers(0, 2**34)))
    size = block_size_for(length)
    left = TreeShape(length, size).encoded_length
    extents = []
    while left:
        part = left if left <= 2 * size else draw(st.integers(1, min(left // size, 2**15))) * size
        part = max(part, min(left, 2**30) // 4 // size * size)
        extents.append((draw(st.integers(0, 4)), draw(st.integers(0, 2**30)), part))
        left -= part
    holes = ((0, length // 2),) if length > 2 and draw(st.booleans()) else ()
    return FileContent(length, bytes(32), bytes(32), capability(length), tuple(extents), holes)


refs = st.builds(
    lambda length, segment, offset: PageRef(capability(length), length, segment, offset),
    st.integers(1024, 40_000),
    st.integers(0, 4),
    st.integers(0, 2**30),
)
entries = st.one_of(
    st.builds(
        lambda name, mode, date, content, more: Entry(
            name, Kind.FILE, mode, date, content=content, metadata=more
        ),
        *(names, modes, dates, contents(), pairs),
    ),
    st.builds(
        lambda name, mode, date, ref: Entry(name, Kind.FOLDER, mode, date, folder=ref),
        *(names, modes, dates, st.none() | refs),
    ),
    st.builds(
        lambda name, mode, date, target: Entry(name, Kind.SYMLINK, mode, date, target=target),
        *(names, modes, dates, names),
    ),
)
ROWS = [SegmentRow(bytes([n + 1]) * 32, bytes([n]) * 20, 1, 2) for n in range(5)]
INFO = RootInfo("title", bytes(32), 0, 0, None, 0, 0o755, 0, Totals(0, 0, 0, 0))


@st.composite
def drafts(draw: st.DrawFn) -> PageDraft:
    root = INFO if draw(st.booleans()) else None
    if draw(st.booleans()):
        found = draw(st.lists(names, min_size=1, max_size=5, unique=True))
        children = tuple(Child(name, draw(refs)) for name in sorted(found))
        return PageDraft(draw(st.integers(1, 8)), (), children, root)
    found_entries = draw(
        st.lists(entries, min_size=0 if root else 1, max_size=5, unique_by=lambda e: e.name)
    )
    return PageDraft(0, tuple(sorted(found_entries, key=lambda e: e.name)), (), root)


@given(drafts())
def test_a_page_comes_back(draft: PageDraft) -> None:
    data = build_page(draft, ROWS, 4)
    page = parse_page(data)
    assert (page.level, page.root) == (draft.level, draft.root)
    assert TreeShape(len(data), block_size_for(len(data))).leaves >= 2
    numbers = [4 if row.segment_id == SELF else ROWS.index(row) for row in page.segments]
    for entry, original in zip(page.entries, draft.entries, strict=True):
        if entry.content and original.content:
            extents = tuple((numbers[s], o, length) for s, o, length in entry.content.extents)
            entry = replace(entry, content=replace(entry.content, extents=extents))
        if entry.folder:
            entry = replace(
                entry, folder=replace(entry.folder, segment=numbers[entry.folder.segment])
            )
        assert entry == original
    for child, wanted in zip(page.children, draft.children, strict=True):
        assert replace(child.page, segment=numbers[child.page.segment]) == wanted.page


@given(entries)
def test_the_bound_of_every_entry_holds(entry: Entry) -> None:
    assert len(pack(entry._lower())) <= entry_bytes_max(entry)


@given(st.binary(max_size=200))
def test_garbage_is_no_page(data: bytes) -> None:
    try:
        parse_page(data)
    except MalformedError:
        return
    raise AssertionError("a page of less than 1,024 bytes")


@given(drafts(), st.data())
def test_a_page_with_one_byte_changed(draft: PageDraft, data: st.DataObject) -> None:
    good = build_page(draft, ROWS, 4)
    at = data.draw(st.integers(0, min(len(good), 900) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        page = parse_page(bytes(bad))
    except MalformedError:
        return
    assert page.encode() == bytes(bad)


@given(drafts(), st.data())
def test_a_page_cut_short(draft: PageDraft, data: st.DataObject) -> None:
    good = build_page(draft, ROWS, 4)
    cut = data.draw(st.integers(0, len(good) - 1))
    for bad in (good[:cut], good + good[:1], good + b"\0"):
        try:
            parse_page(bad)
        except MalformedError:
            continue
        raise AssertionError("a second spelling of a page")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=70)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=30,
)


@given(drafts(), st.data(), plain)
def test_a_page_with_one_value_changed(
    draft: PageDraft, data: st.DataObject, value: object
) -> None:
    """Well-formed msgpack of the wrong shape: deeper in the parser than random bytes get."""
    top = unpack(build_page(draft, ROWS, 4), size_max=2**24)
    where = top
    while True:
        at = data.draw(st.integers(0, len(where) - 1))
        if not isinstance(where[at], list) or not where[at] or data.draw(st.booleans()):
            break
        where = where[at]
    where[at] = value
    bad = pack(top)
    try:
        page = parse_page(bad)
    except MalformedError:
        return
    assert page.encode() == bad


# --- columns -------------------------------------------------------------------------------------------


@st.composite
def long_drafts(draw: st.DrawFn) -> PageDraft:
    """Pages with lists so long that they are looked at by columns."""
    count = draw(st.integers(COLUMNS_FROM, COLUMNS_FROM + 2))
    root = INFO if draw(st.booleans()) else None
    if draw(st.integers(0, 3)) == 0:
        some = draw(st.lists(refs, min_size=1, max_size=2))
        children = [Child(b"%04d" % at, some[at % len(some)]) for at in range(count)]
        return PageDraft(1, (), tuple(children), root)
    kinds = draw(st.lists(entries, min_size=1, max_size=3))
    found = [replace(kinds[at % len(kinds)], name=b"%04d" % at) for at in range(count)]
    return PageDraft(0, tuple(found), (), root)


def outcome(parse: Callable[[bytes], Page], data: bytes) -> Page | None:
    """None for what is refused; anything else but a page or MalformedError fails the test."""
    try:
        return parse(data)
    except MalformedError:
        return None


@given(long_drafts())
def test_a_long_page_is_what_the_plain_decoder_says(draft: PageDraft) -> None:
    data = build_page(draft, ROWS, 4)
    page = parse_page(data)
    assert page == decode_plainly(Page, data)
    assert page.encode() == data


def places(top: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Every value in nested lists, as (the list that holds it, where)."""
    for at, value in enumerate(top):
        yield top, at
        if isinstance(value, list):
            yield from places(value)


@given(long_drafts(), st.data(), plain)
def test_a_long_page_with_one_value_changed(
    draft: PageDraft, data: st.DataObject, value: object
) -> None:
    """The quick decoder accepts what the plain one accepts and gives the same; it refuses all else."""
    top = unpack(build_page(draft, ROWS, 4), size_max=2**24)
    where, at = data.draw(st.sampled_from(list(places(top))), label="place")
    where[at] = value
    bad = pack(top)
    assert outcome(Page.decode, bad) == outcome(partial(decode_plainly, Page), bad)


@given(long_drafts(), st.data())
def test_a_long_page_with_a_value_moved_or_nudged(draft: PageDraft, data: st.DataObject) -> None:
    """What is nearly right: numbers one off or negative, texts for bytes, values of other places, one too few."""
    top = unpack(build_page(draft, ROWS, 4), size_max=2**24)
    spots = list(places(top))
    where, at = data.draw(st.sampled_from(spots), label="place")
    old = where[at]
    other, there = data.draw(st.sampled_from(spots), label="other place")
    near: list[object] = [other[there], None, True, False, [], [old], b"", -1, float("nan")]
    if type(old) is int:
        near += [n for n in (old + 1, old - 1, -old) if -(2**63) <= n < 2**64]
        near += [float(old), bool(old)]
    if type(old) is bytes:
        near += [old + b"\0", old[:-1], old[::-1], old.decode("latin-1")]
    if type(old) is list:
        near += [old[1:], [*old, None], old * 2]
    where[at] = data.draw(st.sampled_from(near), label="value")
    try:
        bad = msgpack.packb(top)
    except ValueError:  # a list put into itself
        return
    assert outcome(Page.decode, bad) == outcome(partial(decode_plainly, Page), bad)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 70_000) | st.integers(0, 2**34))
def test_a_remembered_tree_judges_as_a_fresh_one(code: int, level: int, length: int) -> None:
    known = capability(length)
    extents = ((0, 0, TreeShape(length, block_size_for(length)).encoded_length),)
    for head in (bytes((code, level)), bytes((known[0], level)), known[:2]):
        named = head + known[2:]
        wanted = False
        with suppress(MalformedError):
            parsed = ReadCapability.from_bytes(named)
            shape_of(parsed, length)
            wanted = parsed.block_size == block_size_for(length)
        for _ in range(2):
            judged = False
            with suppress(MalformedError):
                FileContent(length, bytes(32), bytes(32), named, extents).check()
                judged = True
            assert judged == wanted


@given(st.lists(drafts(), min_size=2, max_size=6), st.binary(max_size=30))
async def test_pages_that_do_not_belong_together(found: list[PageDraft], path: bytes) -> None:
    """Any pages in any order behind a root: a reader ends, with a typed error or with entries."""
    pages = [
        parse_page(build_page(replace(draft, root=None), ROWS, 4))
        for draft in found
        if draft.first_name
    ]
    own = SegmentRef(ROWS[4].segment_id, ROWS[4].placement_key, 1, 2)
    info = replace(INFO, totals=Totals(20, 20, 20, 0))
    root = parse_page(build_page(replace(found[0], root=info), ROWS, 4))

    async def fetch(places: list[PagePlace]) -> list[Page]:
        if not pages:
            raise MalformedError("nothing there")
        return [pages[place.offset % len(pages)] for place in places]

    reader = ManifestReader(root, own, fetch)  # type: ignore[arg-type]
    with suppress(PotsherdError):
        assert len([node async for node in reader.walk()]) <= 61
    with suppress(PotsherdError):
        await reader.lookup(path)


@given(st.binary(max_size=300))
def test_a_path_is_names_or_refused(path: bytes) -> None:
    try:
        found = split_path(path)
    except MalformedError:
        return
    for name in found:
        check_name(name)
    assert split_path(b"/".join(found)) == found
