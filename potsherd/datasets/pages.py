"""Pages of a manifest: what each of them says, byte for byte (docs/spec/manifest.md).

A manifest is a tree of pages, each an ERIS encoding of its own. A folder is a B-tree: pages of level 0
hold its entries, pages above them hold references to pages, both in the order of names (raw bytes). The
root page is the top page of the root folder and carries a `RootInfo` besides.

On the wire a page names segments by their place in its own table. Drafts and readers name them
differently; `build_page` and `parse_page` are the only places where page bytes come and go.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Final, TypeAlias

from potsherd.classes import dataclass
from potsherd.crypto.eris import ReadCapability, block_size_for, shape_of
from potsherd.crypto.eris.capability import CAPABILITY_BYTES
from potsherd.errors import LimitError, MalformedError
from potsherd.wire import Bytes, Int, ListOf, Nested, Opt, Record, Text, Tuple, Uint, pack

__all__ = [
    "ENTRIES_MAX",
    "EXTENTS_MAX",
    "FOLDER_DEPTH_MAX",
    "HOLES_MAX",
    "METADATA_MAX",
    "NAME_BYTES_MAX",
    "PAGE_BYTES_MAX",
    "PAGE_TARGET_BYTES",
    "SEGMENTS_MAX",
    "SELF",
    "Child",
    "Entry",
    "FileContent",
    "Kind",
    "Page",
    "PageDraft",
    "PageRef",
    "RootInfo",
    "SegmentRow",
    "Totals",
    "build_page",
    "check_name",
    "parse_page",
    "split_path",
]

NAME_BYTES_MAX = 255
"""Bytes of one name, as on every file system in use; a longer one is MalformedError."""
TARGET_BYTES_MAX = 4095
"""Bytes of a symbolic link's target: PATH_MAX without its NUL."""
FOLDER_DEPTH_MAX = 256
"""Folders within folders; a deeper tree is refused when it is scanned and when it is read."""
METADATA_MAX = 16
"""Pairs of metadata of one file."""
HOLES_MAX = 4096
"""Holes of a sparse file that are remembered; the smallest beyond it come back as zeros on disk."""
SEGMENTS_MAX = 2**16
"""Segments that a page names, and so of an archive: about 64 TiB."""
EXTENTS_MAX = SEGMENTS_MAX
"""Extents of one file."""
ENTRIES_MAX = 2048
"""Entries or children in one page; the smallest entry has about 20 bytes, so a page is full before."""
LEVEL_MAX = 8
"""Height of a folder's B-tree: 100 children a page would be 10^16 entries."""
PAGE_TARGET_BYTES = 16 * 1024 - 1
"""A page is full when it would be longer: below 16 KiB ERIS has blocks of 1 KiB."""
PAGE_BYTES_MAX = 8 * 2**20
"""Bytes of the longest page: a root that names SEGMENTS_MAX segments, or a file of as many extents."""
STREAM_BYTES_MAX = 2**30
"""Bytes of a segment's stream."""
FILE_BYTES_MAX = 2**56
SELF = bytes(32)
"""Stands for the id of the segment that contains the page: nobody knows it before it is complete."""
SHAPES_MAX = 4096
"""Pairs of capability's head and length whose tree is remembered."""
_PAD_SMALL = 1024
_PAD_LARGE = 32 * 1024

Extents: TypeAlias = tuple[tuple[int, int, int], ...]


class Kind:
    """What an entry is; plain integers, because that is what the wire takes."""

    FILE: Final = 0
    FOLDER: Final = 1
    SYMLINK: Final = 2


def check_name(name: bytes) -> None:
    """Raises MalformedError for what cannot be the name of a file in a folder."""
    if not 1 <= len(name) <= NAME_BYTES_MAX or name in (b".", b".."):
        raise MalformedError("a name that is empty, too long, `.` or `..`")
    if b"/" in name or b"\0" in name:
        raise MalformedError("a name with `/` or NUL in it")


def split_path(path: bytes) -> tuple[bytes, ...]:
    """Names of a path inside a dataset; empty and `.` parts fall away. Raises MalformedError."""
    names = tuple(part for part in path.split(b"/") if part not in (b"", b"."))
    if len(names) > FOLDER_DEPTH_MAX:
        raise MalformedError(f"a path of more than {FOLDER_DEPTH_MAX} names")
    for name in names:
        check_name(name)
    return names


@dataclass(frozen=True)
class SegmentRow(Record):
    """A segment as pages name it. `segment_id` is SELF for the segment that contains the page."""

    segment_id: Annotated[bytes, Bytes(32)]
    placement_key: Annotated[bytes, Bytes(20)]
    k: Annotated[int, Uint(255, min=1)]
    n: Annotated[int, Uint(255, min=1)]

    def check(self) -> None:
        """See Record.check."""
        if self.k > self.n:
            raise MalformedError("SegmentRow: k is more than n")


@dataclass(frozen=True)
class PageRef(Record):
    """Where a page is and what opens it. It lies whole in one segment; its length gives its blocks."""

    capability: Annotated[bytes, Bytes(66)]
    length: Annotated[int, Uint(PAGE_BYTES_MAX, min=_PAD_SMALL)]
    segment: Annotated[int, Uint(SEGMENTS_MAX - 1)]
    offset: Annotated[int, Uint(STREAM_BYTES_MAX)]

    def check(self) -> None:
        """See Record.check."""
        _check_capability(self.capability, self.length)


@dataclass(frozen=True)
class Child(Record):
    """A page below an index page: its first name, and where it is."""

    first: Annotated[bytes, Bytes(max=NAME_BYTES_MAX, min=1)]
    page: Annotated[PageRef, Nested(PageRef)]


@dataclass(frozen=True)
class FileContent(Record):
    """The bytes of a file: how many, their hashes, the capability, and where the blocks lie."""

    length: Annotated[int, Uint(FILE_BYTES_MAX)]
    blake2b: Annotated[bytes, Bytes(32)]
    sha256: Annotated[bytes, Bytes(32)]
    capability: Annotated[bytes, Bytes(66)]
    extents: Annotated[
        Extents,
        ListOf(
            Tuple(Uint(SEGMENTS_MAX - 1), Uint(STREAM_BYTES_MAX), Uint(STREAM_BYTES_MAX, min=1024)),
            max=EXTENTS_MAX,
            min=1,
        ),
    ]
    """(place in the segment table, offset, length): runs of whole blocks, in post-order."""
    holes: Annotated[
        tuple[tuple[int, int], ...],
        ListOf(Tuple(Uint(FILE_BYTES_MAX), Uint(FILE_BYTES_MAX, min=1)), max=HOLES_MAX),
    ] = ()
    """(start, length) of runs of zeros that took no room on the source's disk."""
    chunk_index: Annotated[PageRef | None, Opt(Nested(PageRef))] = None
    """Reserved: a page that tells where the chunks of an HDF5 file lie. None in this version."""

    def check(self) -> None:
        """See Record.check."""
        stored = _check_capability(self.capability, self.length)
        block_size = block_size_for(self.length)
        total = broken = 0
        for _, _, length in self.extents:
            total += length
            broken |= length % block_size
        if total != stored:
            raise MalformedError("FileContent: extents that do not hold the content's blocks")
        if broken:
            raise MalformedError("FileContent: an extent of broken blocks")
        if self.chunk_index is not None:
            raise MalformedError("FileContent: a chunk index is reserved for a later version")
        end = -1
        for start, length in self.holes:
            if start <= end or start + length > self.length:
                raise MalformedError("FileContent: holes out of order or out of the file")
            end = start + length


def _check_capability(capability: bytes, length: int) -> int:
    """Bytes of all blocks of the content. Raises MalformedError when size and capability disagree."""
    if len(capability) != CAPABILITY_BYTES:
        raise MalformedError(f"a read capability has 66 bytes, not {len(capability)}")
    return _stored_bytes(bytes(capability[:2]), length)


@functools.lru_cache(maxsize=SHAPES_MAX)
def _stored_bytes(head: bytes, length: int) -> int:
    """The same from block size and level, all that a capability says of the length: files are often alike."""
    parsed = ReadCapability.from_bytes(head + bytes(CAPABILITY_BYTES - len(head)))
    if parsed.block_size != block_size_for(length):
        raise MalformedError("a capability whose block size does not follow from the length")
    return shape_of(parsed, length).encoded_length


@dataclass(frozen=True)
class Entry(Record):
    """One name in a folder. Exactly what its kind needs is there; an empty folder has no page."""

    name: Annotated[bytes, Bytes(max=NAME_BYTES_MAX, min=1)]
    kind: Annotated[int, Uint(Kind.SYMLINK)]
    mode: Annotated[int, Uint(0o7777)]
    mtime_ns: Annotated[int, Int()]
    content: Annotated[FileContent | None, Opt(Nested(FileContent))] = None
    folder: Annotated[PageRef | None, Opt(Nested(PageRef))] = None
    target: Annotated[bytes | None, Opt(Bytes(max=TARGET_BYTES_MAX, min=1))] = None
    metadata: Annotated[
        tuple[tuple[str, str], ...],
        ListOf(Tuple(Text(64, min=1), Text(1024)), max=METADATA_MAX),
    ] = ()

    def check(self) -> None:
        """See Record.check."""
        check_name(self.name)
        if (self.content is not None) != (self.kind == Kind.FILE):
            raise MalformedError("Entry: files have a content, and only they")
        if (self.target is not None) != (self.kind == Kind.SYMLINK):
            raise MalformedError("Entry: symbolic links have a target, and only they")
        if self.folder is not None and self.kind != Kind.FOLDER:
            raise MalformedError("Entry: only folders have a page")
        if self.target is not None and b"\0" in self.target:
            raise MalformedError("Entry: a target with NUL in it")
        if self.metadata:
            keys = [key for key, _ in self.metadata]
            if sorted(set(keys)) != keys:
                raise MalformedError("Entry: metadata not sorted and distinct")


@dataclass(frozen=True)
class Totals(Record):
    """What the whole archive holds."""

    files: Annotated[int, Uint(2**48)]
    folders: Annotated[int, Uint(2**48)]
    symlinks: Annotated[int, Uint(2**48)]
    content_bytes: Annotated[int, Uint(2**60)]


@dataclass(frozen=True)
class RootInfo(Record):
    """Of the archive, and of the root folder itself, which no entry describes."""

    title: Annotated[str, Text(255)]
    dataset_id: Annotated[bytes, Bytes(32)]
    archive: Annotated[int, Uint(2**32 - 1)]
    epoch: Annotated[int, Uint(2**32 - 1)]
    parent: Annotated[bytes | None, Opt(Bytes(66))]
    """Root capability of the archive before this one."""
    created: Annotated[int, Uint(2**40 - 1)]
    """Seconds since 1970, UTC, by the writer's clock."""
    mode: Annotated[int, Uint(0o7777)]
    mtime_ns: Annotated[int, Int()]
    totals: Annotated[Totals, Nested(Totals)]


@dataclass(frozen=True)
class Page(Record):
    """See the module's text. `pad` is zero bytes; `parse_page` checks how many."""

    TYPE: ClassVar[str] = "page"
    SIZE_MAX: ClassVar[int] = PAGE_BYTES_MAX

    level: Annotated[int, Uint(LEVEL_MAX)]
    root: Annotated[RootInfo | None, Opt(Nested(RootInfo))]
    segments: Annotated[tuple[SegmentRow, ...], ListOf(Nested(SegmentRow), max=SEGMENTS_MAX)]
    entries: Annotated[tuple[Entry, ...], ListOf(Nested(Entry), max=ENTRIES_MAX)]
    children: Annotated[tuple[Child, ...], ListOf(Nested(Child), max=ENTRIES_MAX)]
    pad: Annotated[bytes, Bytes(max=_PAD_LARGE)] = b""

    def check(self) -> None:
        """See Record.check."""
        if bool(self.entries) == bool(self.children) and not self._is_empty_root():
            raise MalformedError("Page: neither entries nor children, or both")
        if (self.level > 0) != bool(self.children):
            raise MalformedError("Page: children stand above level 0, and only there")
        names = [e.name for e in self.entries] or [c.first for c in self.children]
        if not all(map(operator.lt, names, itertools.islice(names, 1, None))):
            raise MalformedError("Page: names out of order, or twice")
        ids = [row.segment_id for row in self.segments]
        if len(set(ids)) != len(ids):
            raise MalformedError("Page: a segment named twice")
        self._check_table()

    def _is_empty_root(self) -> bool:
        return self.root is not None and self.level == 0

    def _check_table(self) -> None:
        """A root names all segments of its archive, itself last; other pages those that they use."""
        used = dict.fromkeys(_uses(self.entries, self.children))
        if self.root is None:
            if list(used) != list(range(len(self.segments))):
                raise MalformedError("Page: segments that are not those used, in order of use")
        elif not self.segments or self.segments[-1].segment_id != SELF:
            raise MalformedError("Page: a root whose own segment is not the last")
        elif used and max(used) >= len(self.segments):
            raise MalformedError("Page: a segment that is not in the table")


def _uses(entries: Iterable[Entry], children: Iterable[Child]) -> Iterable[int]:
    for entry in entries:
        if entry.content is not None:
            for extent in entry.content.extents:
                yield extent[0]
        if entry.folder is not None:
            yield entry.folder.segment
    for child in children:
        yield child.page.segment


@dataclass(frozen=True)
class PageDraft:
    """A page to be written; segments are named by their number in the archive."""

    level: int
    entries: tuple[Entry, ...] = ()
    children: tuple[Child, ...] = ()
    root: RootInfo | None = None

    @property
    def first_name(self) -> bytes:
        """The first name in it; empty when there is none."""
        if self.level:
            return self.children[0].first
        return self.entries[0].name if self.entries else b""


def build_page(draft: PageDraft, segments: Sequence[SegmentRow], own: int) -> bytes:
    """The exact bytes of a page that is to lie in segment number `own`.

    `segments` are those of the archive by number, up to `own` at least; ids of those before `own` must
    be known. Raises LimitError when the page would be too long.
    """
    if draft.root is not None:
        used = list(range(own + 1))
    else:
        used = list(dict.fromkeys(_uses(draft.entries, draft.children)))
    rows = []
    for number in used:
        row = replace(segments[number], segment_id=SELF) if number == own else segments[number]
        if number > own or (number < own and row.segment_id == SELF):
            raise LimitError("a page names a segment that is not complete")
        rows.append(row)
    place = {number: at for at, number in enumerate(used)}
    page = Page(
        draft.level,
        draft.root,
        tuple(rows),
        tuple(_entry_with_places(entry, place) for entry in draft.entries),
        tuple(Child(c.first, _ref_with_place(c.page, place)) for c in draft.children),
    )
    try:
        data = page.encode()
    except MalformedError as error:
        raise LimitError(f"a manifest page cannot be written: {error}") from None
    return data[:-2] + pack(bytes(_pad_length(len(data))))


def _entry_with_places(entry: Entry, place: dict[int, int]) -> Entry:
    if len(place) == 1 and 0 in place:
        return entry  # a dataset of one segment: most of them
    if entry.content is not None:
        extents = tuple((place[s], o, length) for s, o, length in entry.content.extents)
        return replace(entry, content=replace(entry.content, extents=extents))
    if entry.folder is not None:
        return replace(entry, folder=_ref_with_place(entry.folder, place))
    return entry


def _ref_with_place(ref: PageRef, place: dict[int, int]) -> PageRef:
    return replace(ref, segment=place[ref.segment])


def _pad_length(bare: int) -> int:
    """Zero bytes for a page that has `bare` bytes with an empty `pad`.

    The fewest that fill the page up to 1,024 bytes, or from 16,384 up to 32,768. The length prefix of
    `pad` grows from two bytes to three, so 1,024 is stepped over from 768 (it becomes 1,025), and
    32,768 from 32,512. Either way the page has two leaves at least, so its root key is verified.
    """
    if bare < _PAD_SMALL:
        goal = _PAD_SMALL
    elif PAGE_TARGET_BYTES < bare < _PAD_LARGE:
        goal = _PAD_LARGE
    else:
        return 0
    missing = goal - bare
    return missing if missing <= 255 else max(256, missing - 1)


def parse_page(data: bytes | memoryview) -> Page:
    """Parse the exact bytes of a page. Raises MalformedError for what `build_page` would not write."""
    page = Page.decode(data)
    pad = len(page.pad)
    bare = len(data) - pad - (0 if pad <= 255 else 1)
    if any(page.pad) or pad != _pad_length(bare):
        raise MalformedError("a page with the wrong padding")
    return page
