"""The tree of manifest pages: written from below in one pass, read from above (docs/spec/manifest.md).

Neither side knows network or clock. The writer is a generator that gives out `PageDraft`s and is sent
back where each page came to lie; the reader asks a function for the plaintext of pages.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, suppress
from dataclasses import field, replace
from typing import NamedTuple

from potsherd.classes import dataclass
from potsherd.datasets.pages import (
    FOLDER_DEPTH_MAX,
    PAGE_TARGET_BYTES,
    SELF,
    Child,
    Entry,
    Kind,
    Page,
    PageDraft,
    PageRef,
    RootInfo,
    Totals,
    split_path,
)
from potsherd.errors import MalformedError, NotFoundError, UsageError

__all__ = [
    "LOOK_AHEAD_PAGES",
    "FetchPages",
    "ManifestReader",
    "Node",
    "PagePlace",
    "SegmentRef",
    "entry_bytes_max",
    "write_manifest",
]

LOOK_AHEAD_PAGES = 32
"""Pages that a walk asks for at once; half of it in each folder further down, so memory stays bounded."""
ROOT_BYTES_MAX = 700
"""Of a page without entries and segments: RootInfo with the longest title, and the page's own frame."""
SEGMENT_ROW_BYTES_MAX = 64
CHILD_BYTES_MAX = 100
"""Of a reference to a page, without the name."""


# --- writing -------------------------------------------------------------------------------------------


def entry_bytes_max(entry: Entry) -> int:
    """At most so many bytes of a page; segment numbers count as wide as they can be."""
    size = 30 + len(entry.name)
    size += sum(6 + len(k.encode()) + len(v.encode()) for k, v in entry.metadata)
    if entry.content is not None:
        size += 160 + 14 * len(entry.content.extents) + 19 * len(entry.content.holes)
    if entry.folder is not None:
        size += CHILD_BYTES_MAX
    return size + len(entry.target or b"")


@dataclass
class _Level:
    """One level of a folder's B-tree: the page that is being filled."""

    entries: list[Entry] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    segments: set[int] = field(default_factory=set)
    size: int = 0

    def full_with(self, size: int, segments: set[int]) -> bool:
        rows = len(self.segments | segments) * SEGMENT_ROW_BYTES_MAX
        return bool(self.size) and self.size + size + rows > PAGE_TARGET_BYTES - 100

    def add(self, item: Entry | Child, size: int, segments: set[int]) -> None:
        if isinstance(item, Entry):
            self.entries.append(item)
        else:
            self.children.append(item)
        self.size += size
        self.segments |= segments

    def draft(self, level: int) -> PageDraft:
        return PageDraft(level, tuple(self.entries), tuple(self.children))


_Pages = Generator[PageDraft, PageRef, None]


class _Folder:
    """A folder whose entries come in order; full pages leave at once."""

    def __init__(self, entry: Entry | None) -> None:
        self.entry = entry
        self.last = b""
        self.levels: list[_Level] = [_Level()]

    def add(self, entry: Entry) -> _Pages:
        if entry.name <= self.last:
            raise UsageError("entries of a manifest come in the order of names, each once")
        self.last = entry.name
        used = {extent[0] for extent in entry.content.extents} if entry.content else set()
        if entry.folder is not None:
            used = {entry.folder.segment}
        yield from self._add(0, entry, entry_bytes_max(entry), used)

    def _add(self, at: int, item: Entry | Child, size: int, segments: set[int]) -> _Pages:
        if at == len(self.levels):
            self.levels.append(_Level())
        if self.levels[at].full_with(size, segments):
            yield from self._emit(at)
        self.levels[at].add(item, size, segments)

    def _emit(self, at: int) -> _Pages:
        draft = self.levels[at].draft(at)
        self.levels[at] = _Level()
        ref = yield draft
        child = Child(draft.first_name, ref)
        yield from self._add(at + 1, child, CHILD_BYTES_MAX + len(child.first), {ref.segment})

    def close(self) -> Generator[PageDraft, PageRef, _Level]:
        """The top page, not emitted; its level is `len(self.levels) - 1`."""
        at = 0
        while at < len(self.levels) - 1:
            yield from self._emit(at)
            at += 1
        return self.levels[at]


def write_manifest(
    entries: Iterable[tuple[tuple[bytes, ...], Entry]], info: RootInfo, segments: Callable[[], int]
) -> Generator[PageDraft, PageRef, None]:
    """Drafts of all pages, from below; the last one has `info`, with its totals filled in, as root.

    `entries` are (names of the folders around it, entry) in the order of their paths, name by name,
    every folder before what it contains, files with contents whose extents name segments by number.
    The generator is sent a PageRef for every draft but the last. `segments()` tells how many segments the
    archive has by now. Memory: the open page of each level of each open folder.
    """
    root = _Folder(None)
    stack = [root]
    counts: Counter[int] = Counter()
    content_bytes = 0
    for folders, entry in entries:
        while len(stack) - 1 > len(folders):
            yield from _close_top(stack)
        counts[entry.kind] += 1
        content_bytes += entry.content.length if entry.content else 0
        if entry.kind == Kind.FOLDER:
            if len(stack) > FOLDER_DEPTH_MAX:
                raise UsageError("folders nested too deep")
            stack.append(_Folder(entry))
        else:
            yield from stack[-1].add(entry)
    while len(stack) > 1:
        yield from _close_top(stack)
    totals = Totals(counts[Kind.FILE], counts[Kind.FOLDER], counts[Kind.SYMLINK], content_bytes)
    yield from _write_root(root, replace(info, totals=totals), segments)


def _close_top(stack: list[_Folder]) -> _Pages:
    folder = stack.pop()
    top = yield from folder.close()
    entry = folder.entry
    if entry is None:
        raise UsageError("the root folder is closed last")
    if top.size:
        ref = yield top.draft(len(folder.levels) - 1)
        entry = replace(entry, folder=ref)
    yield from stack[-1].add(entry)


def _write_root(root: _Folder, info: RootInfo, segments: Callable[[], int]) -> _Pages:
    """The root page holds the top page of the root folder where that is small enough, else refers to it."""
    top = yield from root.close()
    level = len(root.levels) - 1
    overhead = ROOT_BYTES_MAX + SEGMENT_ROW_BYTES_MAX * segments()
    draft = top.draft(level)
    if top.size + overhead > PAGE_TARGET_BYTES and top.size > CHILD_BYTES_MAX * 3:
        ref = yield draft
        draft = PageDraft(level + 1, (), (Child(draft.first_name, ref),))
    yield replace(draft, root=info)


# --- reading -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentRef:
    """What it takes to find a segment."""

    segment_id: bytes
    placement_key: bytes
    k: int
    n: int


@dataclass(frozen=True)
class PagePlace:
    """A page as a reader finds it: capability (66 bytes), length, segment, offset of its blocks."""

    capability: bytes
    length: int
    segment: SegmentRef
    offset: int


FetchPages = Callable[[Sequence[PagePlace]], Awaitable[list[Page]]]
"""Parsed pages, in order; their bytes verified against their capabilities."""


class Node(NamedTuple):
    """An entry of a dataset, where it stands, and the segments that its extents name."""

    path: bytes
    """Names joined with `/`; empty for the root folder, whose entry is made up from the root page."""
    entry: Entry
    segments: tuple[SegmentRef, ...]


@dataclass(frozen=True)
class _Loaded:
    page: Page
    segments: tuple[SegmentRef, ...]

    @classmethod
    def of(cls, page: Page, own: SegmentRef, *, root: bool) -> _Loaded:
        if (page.root is not None) != root:
            raise MalformedError("a root page in the middle of a manifest, or none at its top")
        refs = []
        for row in page.segments:
            if row.segment_id == SELF and row.placement_key != own.placement_key:
                raise MalformedError("a page that lies in another segment than it says")
            identity = own.segment_id if row.segment_id == SELF else row.segment_id
            refs.append(SegmentRef(identity, row.placement_key, row.k, row.n))
        return cls(page, tuple(refs))

    def place(self, ref: PageRef) -> PagePlace:
        return PagePlace(ref.capability, ref.length, self.segments[ref.segment], ref.offset)

    def below(self, start: int = 0) -> _Window:
        """All pages below it, from item `start` on."""
        refs: list[PageRef | None] = [child.page for child in self.page.children]
        refs = refs or [entry.folder for entry in self.page.entries]
        return [(at, ref) for at, ref in enumerate(refs[start:], start) if ref is not None]

    def window(self, depth: int, start: int = 0) -> _Window:
        """Of these as many as are asked for at once; none if there are none."""
        return self.below(start)[: max(2, LOOK_AHEAD_PAGES >> depth)]

    def first(self) -> bytes:
        return self.page.children[0].first if self.page.level else self.page.entries[0].name


@dataclass
class _Frame:
    """A page in the middle of being walked."""

    loaded: _Loaded
    names: tuple[bytes, ...]
    """Of the folder that the page belongs to."""
    limit: bytes | None
    """Every name in the page is less; None for the last page of its folder."""
    at: int = 0
    ahead: dict[int, Page] = field(default_factory=dict)

    def below(self, at: int, page: Page) -> _Frame:
        """The page that item `at` refers to."""
        own = self.loaded
        if own.page.level:
            children = own.page.children
            limit = children[at + 1].first if at + 1 < len(children) else self.limit
            return _Frame(_child(own, children[at], limit, page), self.names, limit)
        entry = own.page.entries[at]
        if entry.folder is None or len(self.names) >= FOLDER_DEPTH_MAX:
            raise MalformedError("folders nested too deep")
        loaded = _Loaded.of(page, own.place(entry.folder).segment, root=False)
        return _Frame(loaded, (*self.names, entry.name), None)

    def nodes(self, stop: int) -> list[Node]:
        """Entries from where it stands up to `stop`, which is where it stands then."""
        entries, segments = self.loaded.page.entries[self.at : stop], self.loaded.segments
        self.at = stop
        around = b"".join(name + b"/" for name in self.names)
        return [Node(around + entry.name, entry, segments) for entry in entries]

    def stop(self, *, recurse: bool) -> int:
        """Behind the first entry that has entries of its own to be walked before the next one."""
        entries = self.loaded.page.entries
        for at in range(self.at, len(entries) if recurse else 0):
            if entries[at].folder is not None:
                return at + 1
        return len(entries)


_Window = list[tuple[int, PageRef]]
"""References to pages, with the number of the item that has each."""


class _Ahead:
    """The pages that a walk needs next, asked for while those before them are used: one request, not more."""

    def __init__(self, fetch: FetchPages) -> None:
        self._fetch = fetch
        self._asked: tuple[_Loaded, _Window] | None = None
        self._task: asyncio.Future[list[Page]] | None = None

    def ask(self, loaded: _Loaded, window: _Window) -> asyncio.Future[list[Page]]:
        """Begin to fetch a window of the pages below one."""
        places = [loaded.place(ref) for _, ref in window]
        self._asked = (loaded, window)
        self._task = asyncio.ensure_future(self._fetch(places))
        return self._task

    async def take(self, loaded: _Loaded, window: _Window) -> dict[int, Page]:
        """These pages by item; what was asked for instead of them is dropped."""
        task = self._task
        if task is None or self._asked != (loaded, window):
            await self.close()
            task = self.ask(loaded, window)
        pages = await task
        self._task = None
        return {at: below for (at, _), below in zip(window, pages, strict=True)}

    async def close(self) -> None:
        """Ask no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class ManifestReader:
    """Reads the manifest whose root page has been fetched. Raises MalformedError when pages contradict."""

    def __init__(self, root: Page, own: SegmentRef, fetch: FetchPages) -> None:
        self._root = _Loaded.of(root, own, root=True)
        self._fetch = fetch

    @property
    def info(self) -> RootInfo:
        """What the root page says of the archive."""
        if self._root.page.root is None:
            raise MalformedError("a manifest without a root")
        return self._root.page.root

    @property
    def segments(self) -> tuple[SegmentRef, ...]:
        """Every segment that the archive needs, in the order that its lease counts them."""
        return self._root.segments

    @property
    def root_node(self) -> Node:
        """The root folder, as an entry without a name."""
        entry = Entry(b"", Kind.FOLDER, self.info.mode, self.info.mtime_ns)
        return Node(b"", entry, self._root.segments)

    async def lookup(self, path: bytes) -> Node:
        """The entry at a path, touching only the pages on its way. Raises NotFoundError."""
        found, _ = await self._descend(split_path(path))
        return found

    async def walk(self, path: bytes = b"", *, recurse: bool = True) -> AsyncGenerator[Node, None]:
        """The entry at a path, then all below it, in the order of `write_manifest`.

        Without `recurse` a folder's own entries only. Asks for pages up to LOOK_AHEAD_PAGES at a time.
        Raises NotFoundError.
        """
        async with aclosing(self.walk_many(path, recurse=recurse)) as found:
            async for nodes in found:
                for node in nodes:
                    yield node

    async def walk_many(
        self, path: bytes = b"", *, recurse: bool = True
    ) -> AsyncGenerator[list[Node], None]:
        """The same, as many entries at a time as stand together in a page; the first list is the entry alone."""
        names = split_path(path)
        node, holder = await self._descend(names)
        yield [node]
        top = holder
        if names:
            if node.entry.folder is None:
                return
            top = await self._top_page(holder, node.entry.folder)
        async with aclosing(self._walk(_Frame(top, names, None), recurse=recurse)) as found:
            async for below in found:
                yield below

    async def _walk(self, start: _Frame, *, recurse: bool) -> AsyncGenerator[list[Node], None]:
        totals = self.info.totals
        left = totals.files + totals.folders + totals.symlinks
        stack = [start]
        ahead = _Ahead(self._fetch)
        try:
            while stack:
                frame = stack[-1]
                page = frame.loaded.page
                if frame.at == len(page.children or page.entries):
                    stack.pop()
                    continue
                if page.level:
                    frame.at += 1
                    stack.append(await _descended(stack, ahead, recurse=recurse))
                    continue
                nodes = frame.nodes(frame.stop(recurse=recurse))
                left -= len(nodes)
                if left < 0:  # without this a few pages that name each other often would never end
                    raise MalformedError("a manifest with more entries than its root page says")
                yield nodes
                if recurse and nodes[-1].entry.folder is not None:
                    stack.append(await _descended(stack, ahead, recurse=recurse))
        finally:
            await ahead.close()

    async def _descend(self, names: Sequence[bytes]) -> tuple[Node, _Loaded]:
        """The entry, and the page that holds it; the root page for no names."""
        node, loaded = self.root_node, self._root
        for depth, name in enumerate(names):
            if depth:
                if node.entry.folder is None:
                    raise _missing(names)
                loaded = await self._top_page(loaded, node.entry.folder)
            entry, loaded = await self._find(loaded, name)
            if entry is None:
                raise _missing(names)
            node = Node(b"/".join(names[: depth + 1]), entry, loaded.segments)
        return node, loaded

    async def _find(self, loaded: _Loaded, name: bytes) -> tuple[Entry | None, _Loaded]:
        limit: bytes | None = None
        while loaded.page.level:
            children = loaded.page.children
            at = bisect.bisect_right(children, name, key=lambda child: child.first) - 1
            if at < 0:
                return None, loaded
            limit = children[at + 1].first if at + 1 < len(children) else limit
            [below] = await self._fetch([loaded.place(children[at].page)])
            loaded = _child(loaded, children[at], limit, below)
        entries = loaded.page.entries
        at = bisect.bisect_left(entries, name, key=lambda entry: entry.name)
        found = at < len(entries) and entries[at].name == name
        return (entries[at] if found else None), loaded

    async def _top_page(self, holder: _Loaded, ref: PageRef) -> _Loaded:
        place = holder.place(ref)
        [page] = await self._fetch([place])
        return _Loaded.of(page, place.segment, root=False)


async def _descended(stack: Sequence[_Frame], ahead: _Ahead, *, recurse: bool) -> _Frame:
    """The page that the item before the top frame's place refers to; the pages needed next are asked for."""
    frame = stack[-1]
    at = frame.at - 1
    if at not in frame.ahead:
        window = frame.loaded.window(len(frame.names), at)
        frame.ahead.update(await ahead.take(frame.loaded, window))
        with suppress(MalformedError):  # raised when the page is come to, not before
            following = next(_needed_next(stack, recurse=recurse), None)
            if following is not None:
                ahead.ask(*following)
    return frame.below(at, frame.ahead.pop(at))


def _needed_next(stack: Sequence[_Frame], *, recurse: bool) -> Iterator[tuple[_Loaded, _Window]]:
    """Windows that the walk comes to, in its order, below pages that are here."""
    for frame in reversed(stack):
        if not (frame.loaded.page.level or recurse):
            continue
        for at, _ in frame.loaded.below(frame.at - (frame is stack[-1])):
            page = frame.ahead.get(at)
            if page is None:
                yield frame.loaded, frame.loaded.window(len(frame.names), at)
                break
            if page.level or recurse:
                below = frame.below(at, page)
                window = below.loaded.window(len(below.names))
                if window:
                    yield below.loaded, window


def _child(parent: _Loaded, child: Child, limit: bytes | None, page: Page) -> _Loaded:
    loaded = _Loaded.of(page, parent.place(child.page).segment, root=False)
    if loaded.page.level != parent.page.level - 1 or loaded.first() != child.first:
        raise MalformedError("a page that is not what the page above it says")
    last = loaded.page.children[-1].first if loaded.page.level else loaded.page.entries[-1].name
    if limit is not None and last >= limit:
        raise MalformedError("pages whose names overlap")
    return loaded


def _missing(names: Sequence[bytes]) -> NotFoundError:
    text = b"/".join(names).decode("utf-8", "backslashreplace")
    return NotFoundError(
        f"no {text!r} in this dataset", remedy="see what there is with `potsherd ls`"
    )
