"""The ERIS read capability: 66 bytes that find, verify and decrypt a content (docs/spec/eris.md)."""

from __future__ import annotations

import base64
import binascii

from potsherd.classes import dataclass
from potsherd.errors import MalformedError, UsageError

__all__ = [
    "BLOCK_SIZES",
    "BLOCK_SIZE_LARGE",
    "BLOCK_SIZE_SMALL",
    "CAPABILITY_BYTES",
    "KEY_BYTES",
    "PAIR_BYTES",
    "REFERENCE_BYTES",
    "SMALL_CONTENT_BYTES",
    "URN_PREFIX",
    "ReadCapability",
    "block_size_for",
]

BLOCK_SIZE_SMALL = 1024
BLOCK_SIZE_LARGE = 32 * 1024
BLOCK_SIZES = (BLOCK_SIZE_SMALL, BLOCK_SIZE_LARGE)
SMALL_CONTENT_BYTES = 16 * 1024
"""Content shorter than this is encoded with small blocks."""
REFERENCE_BYTES = 32
KEY_BYTES = 32
PAIR_BYTES = REFERENCE_BYTES + KEY_BYTES
CAPABILITY_BYTES = 66
URN_PREFIX = "urn:eris:"
_URN_CHARACTERS = 106
_SIZE_BY_CODE = {size.bit_length() - 1: size for size in BLOCK_SIZES}


def block_size_for(content_length: int) -> int:
    """The block size that the rule of ERIS 1.0 gives a content of this many bytes."""
    return BLOCK_SIZE_SMALL if content_length < SMALL_CONTENT_BYTES else BLOCK_SIZE_LARGE


@dataclass(frozen=True, slots=True, repr=False)
class ReadCapability:
    """Secret: whoever has it reads the content. `repr` shows neither key nor whole reference."""

    block_size: int
    level: int
    """Height of the tree: 0 for one leaf."""
    root_reference: bytes
    root_key: bytes

    def __post_init__(self) -> None:
        if self.block_size not in BLOCK_SIZES or not 0 <= self.level <= 255:
            raise UsageError("a capability has blocks of 1 KiB or 32 KiB and a level of 0 to 255")
        if len(self.root_reference) != REFERENCE_BYTES or len(self.root_key) != KEY_BYTES:
            raise UsageError("a capability has a reference and a key of 32 bytes each")

    def __repr__(self) -> str:
        return (
            f"ReadCapability(block_size={self.block_size}, level={self.level}, "
            f"root_reference={self.root_reference[:4].hex()}…)"
        )

    def to_bytes(self) -> bytes:
        """log2 of the block size ‖ level ‖ root reference ‖ root key."""
        head = bytes((self.block_size.bit_length() - 1, self.level))
        return head + self.root_reference + self.root_key

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> ReadCapability:
        """Raises MalformedError unless there are 66 bytes with one of the two block sizes."""
        data = bytes(data)
        if len(data) != CAPABILITY_BYTES:
            raise MalformedError(f"a read capability has 66 bytes, not {len(data)}")
        block_size = _SIZE_BY_CODE.get(data[0])
        if block_size is None:
            raise MalformedError("a read capability with an unknown block size")
        return cls(block_size, data[1], data[2:34], data[34:])

    @property
    def urn(self) -> str:
        """`urn:eris:` and 106 characters of Base32."""
        return URN_PREFIX + base64.b32encode(self.to_bytes()).decode("ascii").rstrip("=")

    @classmethod
    def from_urn(cls, urn: str) -> ReadCapability:
        """Raises MalformedError for any spelling that `urn` would not give.

        106 characters carry 530 bits for 528: `b32decode` accepts four spellings of one capability,
        so the two spare bits are checked by encoding again.
        """
        text = urn.removeprefix(URN_PREFIX)
        if text == urn or len(text) != _URN_CHARACTERS:
            raise MalformedError("a key link is `urn:eris:` and 106 characters")
        try:
            capability = cls.from_bytes(base64.b32decode(text + "======"))
        except (binascii.Error, ValueError) as error:
            if isinstance(error, MalformedError):
                raise
            raise MalformedError("a key link has only the letters A-Z and the digits 2-7") from None
        if capability.urn != urn:
            raise MalformedError("a key link that is not in its one canonical spelling")
        return capability
