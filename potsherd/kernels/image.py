"""Compiled kernels as files that are mapped into memory and run, without compiler or linker.

LLVM needs 60 MB and a good part of a second; its result is some 20 KB of code that does not depend on where it
lies. So whoever has compiled a kernel writes an *image* of it: the sections of the ELF object laid out one
behind the other with the distances between them filled in. Loading is one `mmap`, which a node that must stay
light can afford. Linux on x86-64 and aarch64; elsewhere kernels are compiled at each start.

Layout of the file: a page of header (magic, digest of all that follows it, target's name, names and
offsets of functions), then the code. It is used only when the folder is the user's own and nobody
else can write to it, and when the digest fits.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from potsherd.classes import dataclass
from potsherd.kernels.buffers import held

__all__ = [
    "CACHE_FILES_MAX",
    "Image",
    "ImageLibrary",
    "NotLinkable",
    "file_name",
    "keep",
    "link",
    "open_image",
]

CACHE_FILES_MAX = 32
"""Images kept on disk; the oldest go first."""
MAGIC = b"potsherd kernel 1\n"
PAGE = 4096
_HEAD = struct.Struct("<18s32s16sI")
_ENTRY = struct.Struct("<24sQ")
_KEPT: list[mmap.mmap] = []  # code must outlive every caller


class NotLinkable(Exception):  # noqa: N818 (a state of the machine, not a fault)
    """An object file with something in it that an image cannot have."""


@dataclass(frozen=True)
class Image:
    """Code without relocations, and where in it the functions begin."""

    target: str
    functions: Mapping[str, int]
    code: bytes

    def encode(self) -> bytes:
        """The file's bytes."""
        entries = [_ENTRY.pack(name.encode(), at) for name, at in sorted(self.functions.items())]
        rest = _HEAD.pack(MAGIC, bytes(32), self.target.encode(), len(entries)) + b"".join(entries)
        rest = rest.ljust(PAGE, b"\0") + self.code
        return rest[:18] + _digest(rest) + rest[50:]


def _digest(data: bytes) -> bytes:
    return blake2b(data[50:], digest_size=32).digest()


class ImageLibrary:
    """Functions of a mapped image."""

    def __init__(self, target: str, functions: Mapping[str, int], base: int) -> None:
        self.target = target
        self._functions, self._base = functions, base

    def function(self, name: str, arguments: Sequence[type[Any]]) -> Any:
        """The function as a ctypes callable; it returns nothing and releases the GIL."""
        return ctypes.CFUNCTYPE(None, *arguments)(self._base + self._functions[name])


def open_image(folder: Path, name: str) -> ImageLibrary | None:
    """Map an image; None when there is none that may be used."""
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, ValueError, struct.error):
        found = folder.stat()
        if found.st_uid != os.getuid() or found.st_mode & 0o022:
            return None  # somebody else could have put code there
        with (folder / name).open("rb") as file:
            whole = file.read()
            magic, digest, target, count = _HEAD.unpack_from(whole)
            if magic != MAGIC or digest != _digest(whole):
                return None
            entries = [
                _ENTRY.unpack_from(whole, _HEAD.size + i * _ENTRY.size) for i in range(count)
            ]
            readable = mmap.PROT_READ | mmap.PROT_EXEC
            code = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=readable)
        _KEPT.append(code)
        with held([code]) as ((base,), _):
            functions = {entry.rstrip(b"\0").decode(): at for entry, at in entries}
            return ImageLibrary(target.rstrip(b"\0").decode(), functions, base + PAGE)
    return None


def keep(folder: Path, name: str, image: Image) -> None:
    """Write to the cache; a disk that refuses costs only the next start."""
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(image.encode())
        Path(temporary).replace(folder / name)
        files = sorted(folder.glob("*.kernel"), key=lambda path: path.stat().st_mtime)
        for old in files[:-CACHE_FILES_MAX]:
            old.unlink()


def file_name(kind: str, target: str | None) -> str | None:
    """What the image of a kernel for this processor is called; None where there are no images.

    Another version of the kernels or another processor gives another name. `target` is None for the best.
    """
    with contextlib.suppress(OSError):
        state = blake2b(digest_size=12)
        for part in (*_sources(), _processor(), (target or "").encode()):
            state.update(len(part).to_bytes(8, "big") + part)
        return f"{kind}-{state.hexdigest()}.kernel"
    return None


def _sources() -> Iterator[bytes]:
    for name in ("ir", "gf_ir", "llvm", "image"):
        yield Path(__file__).with_name(f"{name}.py").read_bytes()


def _processor() -> bytes:
    """Instruction sets, in the system's words: what code for one processor may use and another may lack."""
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    wanted = (b"flags", b"Features", b"model name", b"CPU part")
    return platform.machine().encode() + b"".join(
        sorted({x for x in lines if x.startswith(wanted)})
    )


# --- linking --------------------------------------------------------------------------------------

_ALLOCATED, _WRITE = 2, 1
_PROGBITS, _SYMBOLS, _RELA = 1, 2, 4
_GLOBAL_FUNCTION = 0x12
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


class _Symbol(NamedTuple):
    name: int
    info: int
    other: int
    section: int
    value: int
    size: int


def link(elf: bytes, target: str) -> Image:
    """The image of a relocatable ELF object for x86-64 or aarch64. Raises NotLinkable.

    Only what the kernels need: read-only sections, references within the object relative to the place.
    """
    try:
        return _link(elf, target)
    except (struct.error, IndexError) as error:
        raise NotLinkable(f"not an ELF object as expected: {error}") from None


def _link(elf: bytes, target: str) -> Image:
    head = _ELF_HEADER.unpack_from(elf)
    if head[0][:6] != b"\x7fELF\x02\x01" or head[1] != 1:
        raise NotLinkable("not a 64-bit little-endian relocatable object")
    sections = [_Section(*_SECTION.unpack_from(elf, head[6] + 64 * i)) for i in range(head[12])]
    code, places = _laid_out(elf, sections)
    (table,) = (s for s in sections if s.kind == _SYMBOLS)
    symbols = [_Symbol(*row) for row in _SYMBOL.iter_unpack(elf[table.offset :][: table.size])]
    for section in sections:
        if section.kind == _RELA and section.info in places:
            patch = _PATCHES.get(head[2])
            if patch is None:
                raise NotLinkable("not a processor that images are made for")
            for at, info, addend in _RELOCATION.iter_unpack(elf[section.offset :][: section.size]):
                symbol = symbols[info >> 32]
                if symbol.section not in places:
                    raise NotLinkable("a reference to something outside")
                value = places[symbol.section] + symbol.value + addend
                patch(code, places[section.info] + at, value, info & 0xFFFFFFFF)
    return Image(target, _functions(elf, sections[table.link], symbols, places), bytes(code))


def _laid_out(elf: bytes, sections: Sequence[_Section]) -> tuple[bytearray, dict[int, int]]:
    """The sections that are loaded, one behind the other, and where each begins."""
    code, places = bytearray(), {}
    for number, section in enumerate(sections):
        if not section.flags & _ALLOCATED:
            continue
        if section.kind != _PROGBITS or section.flags & _WRITE or section.align > PAGE:
            raise NotLinkable("a section that is not plain code or constants")
        code += bytes(-len(code) % max(1, section.align))
        places[number] = len(code)
        code += elf[section.offset : section.offset + section.size]
    return code, places


def _functions(
    elf: bytes, names: _Section, symbols: Sequence[_Symbol], places: Mapping[int, int]
) -> dict[str, int]:
    text = elf[names.offset : names.offset + names.size]
    return {
        text[s.name : text.index(0, s.name)].decode(): places[s.section] + s.value
        for s in symbols
        if s.info == _GLOBAL_FUNCTION
    }


def _patch_x86(code: bytearray, at: int, value: int, kind: int) -> None:
    """R_X86_64_PC32 and R_X86_64_PLT32 (System V ABI, AMD64, table 4.9)."""
    if kind not in (2, 4):
        raise NotLinkable(f"relocation {kind}")
    struct.pack_into("<i", code, at, value - at)


def _patch_aarch64(code: bytearray, at: int, value: int, kind: int) -> None:
    """ADR_PREL_PG_HI21, ADD_ABS_LO12_NC, LDST128_ABS_LO12_NC, CALL26 (ELF for the Arm 64-bit architecture).

    Pages are the same wherever the image lies, because it begins with a page.
    """
    (word,) = struct.unpack_from("<I", code, at)
    if kind == 275:
        pages = (value >> 12) - (at >> 12)
        word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
    elif kind == 277:
        word |= (value & 0xFFF) << 10
    elif kind == 299:
        word |= (value & 0xFFF) >> 4 << 10
    elif kind == 283:
        word |= (value - at) >> 2 & 0x3FFFFFF
    else:
        raise NotLinkable(f"relocation {kind}")
    struct.pack_into("<I", code, at, word)


_PATCHES: dict[int, Callable[[bytearray, int, int, int], None]] = {
    62: _patch_x86,
    183: _patch_aarch64,
}
