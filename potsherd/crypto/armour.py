"""Binary files as text that survives mail, paper and typing (docs/spec/keys.md).

Base32 between a BEGIN and an END line; the last three bytes are a check over kind and content, so a
typo is found and said. White space and the case of letters do not matter, everything else does.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import Final

from potsherd.errors import MalformedError

__all__ = ["rejoin", "split_blocks", "unwrap", "wrap"]

ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
CHECK_BYTES: Final = 3
PERSON_CHECK: Final = b"psh armour"
LINE_GROUPS: Final = 14
GROUP: Final = 4
TEXT_BYTES_MAX: Final = 1 << 20
"""Longer texts are refused unread."""


def wrap(kind: str, data: bytes) -> str:
    """`kind` is a word in capitals. The result ends with a newline."""
    return rejoin(kind, base64.b32encode(data + _check(kind, data)).decode("ascii").rstrip("="))


def rejoin(kind: str, text: str) -> str:
    """The layout that `wrap` gives to Base32 characters; the counterpart of `split_blocks`."""
    groups = [text[at : at + GROUP] for at in range(0, len(text), GROUP)]
    lines = [" ".join(groups[at : at + LINE_GROUPS]) for at in range(0, len(groups), LINE_GROUPS)]
    return "\n".join([_line("BEGIN", kind), *lines, _line("END", kind), ""])


def unwrap(kind: str, text: str, *, size_max: int) -> bytes:
    """The bytes of one block. Raises MalformedError that says whether it is cut, foreign or mistyped."""
    blocks = split_blocks(text)
    if len(blocks) != 1 or blocks[0][0] != kind:
        raise MalformedError(f"not a potsherd {kind.lower()}: one block with BEGIN and END lines")
    name, body = blocks[0]
    if not set(body) <= ALPHABET:
        raise MalformedError(f"the {name.lower()} has characters other than A-Z and 2-7")
    data = _checked(kind, body)
    if data is None:
        raise MalformedError(f"the {name.lower()} has a typo or is cut: its check does not fit")
    if len(data) > size_max:
        raise MalformedError(f"the {name.lower()} is too long")
    return data


def _checked(kind: str, body: str) -> bytes | None:
    padded = body + "=" * (-len(body) % 8)
    try:
        raw = base64.b32decode(padded)
    except (binascii.Error, ValueError):
        return None
    data, check = raw[:-CHECK_BYTES], raw[-CHECK_BYTES:]
    canonical = base64.b32encode(raw).decode("ascii") == padded
    return data if canonical and check == _check(kind, data) else None


def split_blocks(text: str) -> list[tuple[str, str]]:
    """(kind, Base32 characters) of every block of a text that holds nothing but blocks."""
    if len(text) > TEXT_BYTES_MAX:
        raise MalformedError("this text is too long")
    blocks: list[tuple[str, str]] = []
    kind = ""
    body: list[str] = []
    for line in text.splitlines():
        line = "".join(line.split()).upper()
        if not line:
            continue
        if not kind:
            kind, body = _kind_of(line), []
        elif line == _squeezed("END", kind):
            blocks.append((kind, "".join(body)))
            kind = ""
        else:
            body.append(line)
    if kind:
        raise MalformedError(f"the {kind.lower()} has no END line")
    return blocks


def _kind_of(line: str) -> str:
    kind = line.removeprefix("-----BEGINPOTSHERD").removesuffix("-----")
    if line != _squeezed("BEGIN", kind) or not (kind.isascii() and kind.isalpha()):
        raise MalformedError("a line that belongs to no block")
    return kind


def _line(edge: str, kind: str) -> str:
    return f"-----{edge} POTSHERD {kind}-----"


def _squeezed(edge: str, kind: str) -> str:
    return f"-----{edge}POTSHERD{kind}-----"


def _check(kind: str, data: bytes) -> bytes:
    key = kind.encode("ascii")
    return blake2b(data, digest_size=CHECK_BYTES, key=key, person=PERSON_CHECK).digest()
