"""Strict msgpack: what our encoder would not write is refused (docs/spec/wire.md).

A format is a frozen dataclass that inherits `Record`. Its fields carry their bounds in `Annotated`:

    @dataclass(frozen=True)
    class Receipt(Record):
        TYPE: ClassVar[str] = "receipt"
        SIZE_MAX: ClassVar[int] = 512
        segment: Annotated[bytes, Bytes(32)]
        index: Annotated[int, Uint(254)]

On the wire a record is a msgpack array: version, suite, then the fields in the order of the class.
There are no maps, no floats, no extension types. `decode` accepts a byte string only if `encode` of the
result gives exactly these bytes back, so every value has one spelling.

Long lists are checked column by column: the types of all values at once, then the least and the greatest, at the
speed of built-ins. Such a check only says yes for values each of which would pass alone; where it does not say yes,
they are looked at one by one, and that decides.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

import msgpack  # type: ignore[import-untyped, unused-ignore]

from potsherd.classes import dataclass
from potsherd.errors import MalformedError

__all__ = [
    "COLUMNS_FROM",
    "Bool",
    "Bytes",
    "Field",
    "Int",
    "ListOf",
    "Nested",
    "Opt",
    "Record",
    "Text",
    "Tuple",
    "Uint",
    "pack",
    "signing_input",
    "unpack",
]

SIGNING_PREFIX = b"potsherd/1"
COLUMNS_FROM = 8
"""Values of a list from which on they are lifted by columns; fewer are quicker one by one."""


class Field(Protocol):
    """What a value may be: checks on the way out, checks and converts on the way in."""

    def lower(self, value: Any, where: str) -> Any:
        """Turn a Python value into plain msgpack material. Raises MalformedError."""

    def lift(self, plain: Any, where: str) -> Any:
        """Turn plain msgpack material into the Python value. Raises MalformedError."""

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        """`lift` of each; subclasses may be quicker, never milder. Raises MalformedError."""
        return [self.lift(one, where) for one in plain]


def _refuse(where: str, why: str) -> MalformedError:
    return MalformedError(f"{where}: {why}")


class _Plain(Field):
    """A field whose Python value and wire value are the same object."""

    def check(self, value: Any, where: str) -> None:
        raise NotImplementedError

    def fits(self, values: Sequence[Any]) -> bool:
        """Whether all of them (one at least) certainly pass `check`; False where it takes a closer look."""
        return False

    def lower(self, value: Any, where: str) -> Any:
        self.check(value, where)
        return value

    def lift(self, plain: Any, where: str) -> Any:
        self.check(plain, where)
        return plain

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        if plain and not self.fits(plain):
            for value in plain:
                self.check(value, where)
        return plain


@dataclass(frozen=True)
class Uint(_Plain):
    """An integer from `min` to `max`, both included."""

    max: int = 2**64 - 1
    min: int = 0

    def check(self, value: Any, where: str) -> None:
        if type(value) is not int or not self.min <= value <= self.max:
            raise _refuse(where, f"not an integer from {self.min} to {self.max}")

    def fits(self, values: Sequence[Any]) -> bool:
        return _all_are(values, int) and self.min <= min(values) and max(values) <= self.max


@dataclass(frozen=True)
class Int(Uint):
    """A signed 64-bit integer."""

    max: int = 2**63 - 1
    min: int = -(2**63)


@dataclass(frozen=True)
class Bytes(_Plain):
    """A byte string of exactly `size` bytes, or of `min` to `max`."""

    size: int | None = None
    max: int = 0
    min: int = 0

    def check(self, value: Any, where: str) -> None:
        if type(value) is not bytes:
            raise _refuse(where, "not a byte string")
        low, high = self._bounds()
        if not low <= len(value) <= high:
            raise _refuse(where, f"{len(value)} bytes, not {low} to {high}")

    def fits(self, values: Sequence[Any]) -> bool:
        low, high = self._bounds()
        return _all_are(values, bytes) and _lengths_fit(values, low, high)

    def _bounds(self) -> tuple[int, int]:
        return (self.min, self.max) if self.size is None else (self.size, self.size)


@dataclass(frozen=True)
class Text(_Plain):
    """A text of at most `max` bytes in UTF-8, without NUL and without lone surrogates."""

    max: int
    min: int = 0

    def check(self, value: Any, where: str) -> None:
        if type(value) is not str:
            raise _refuse(where, "not a text")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _refuse(where, "not valid Unicode") from None
        if not self.min <= size <= self.max or "\0" in value:
            raise _refuse(where, f"not a text of {self.min} to {self.max} bytes without NUL")


class Bool(_Plain):
    """True or false."""

    def check(self, value: Any, where: str) -> None:
        if type(value) is not bool:
            raise _refuse(where, "not true or false")

    def fits(self, values: Sequence[Any]) -> bool:
        return _all_are(values, bool)


@dataclass(frozen=True)
class Opt(Field):
    """A field or nil."""

    field: Field

    def lower(self, value: Any, where: str) -> Any:
        return None if value is None else self.field.lower(value, where)

    def lift(self, plain: Any, where: str) -> Any:
        return None if plain is None else self.field.lift(plain, where)

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        present = [one for one in plain if one is not None]
        if not present:
            return plain
        lifted = self.field.lift_all(present, where)
        if len(present) == len(plain):
            return lifted
        rest = iter(lifted)
        return [None if one is None else next(rest) for one in plain]


@dataclass(frozen=True)
class ListOf(Field):
    """A tuple of `min` to `max` values of one field."""

    field: Field
    max: int
    min: int = 0

    def _check(self, value: Any, kind: type[Any], where: str) -> None:
        if not isinstance(value, kind) or not self.min <= len(value) <= self.max:
            raise _refuse(where, f"not a list of {self.min} to {self.max}")

    def lower(self, value: Any, where: str) -> Any:
        self._check(value, tuple, where)
        return [self.field.lower(item, where) for item in value]

    def lift(self, plain: Any, where: str) -> Any:
        self._check(plain, list, where)
        if len(plain) >= COLUMNS_FROM:
            return tuple(self.field.lift_all(plain, where))
        return tuple(self.field.lift(item, where) for item in plain)

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        if not plain:
            return plain
        if not (_all_are(plain, list) and _lengths_fit(plain, self.min, self.max)):
            for one in plain:
                self._check(one, list, where)
        lifted = self.field.lift_all(list(itertools.chain.from_iterable(plain)), where)
        if len(lifted) == len(plain) and _lengths_fit(plain, 1, 1):
            return list(zip(lifted, strict=True))  # one each, as the extents of most files
        rest = iter(lifted)
        return [tuple(itertools.islice(rest, len(one))) for one in plain]


class Tuple(Field):
    """A tuple with one field for each place."""

    def __init__(self, *fields: Field) -> None:
        self.fields = fields

    def _check(self, value: Any, kind: type[Any], where: str) -> None:
        if not isinstance(value, kind) or len(value) != len(self.fields):
            raise _refuse(where, f"not {len(self.fields)} values")

    def lower(self, value: Any, where: str) -> Any:
        self._check(value, tuple, where)
        return [f.lower(item, where) for f, item in zip(self.fields, value, strict=True)]

    def lift(self, plain: Any, where: str) -> Any:
        self._check(plain, list, where)
        return tuple(f.lift(item, where) for f, item in zip(self.fields, plain, strict=True))

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        if not _are_rows(plain, len(self.fields)):
            return super().lift_all(plain, where)
        columns = zip(self.fields, zip(*plain, strict=True), strict=True)
        return list(zip(*(f.lift_all(column, where) for f, column in columns), strict=True))


class Nested(Field):
    """A record inside a record, without version and suite of its own."""

    def __init__(self, cls: type[Record]) -> None:
        self.cls = cls

    def lower(self, value: Any, where: str) -> Any:
        if type(value) is not self.cls:
            raise _refuse(where, f"not a {self.cls.__name__}")
        return value._lower()

    def lift(self, plain: Any, where: str) -> Any:
        return self.cls._lift(plain)

    def lift_all(self, plain: Sequence[Any], where: str) -> Sequence[Any]:
        return self.cls._lift_all(plain)


def _all_are(values: Sequence[Any], kind: type[Any]) -> bool:
    return set(map(type, values)) == {kind}


def _lengths_fit(values: Sequence[Any], low: int, high: int) -> bool:
    lengths = set(map(len, values))
    return low <= min(lengths) and max(lengths) <= high


def _are_rows(plain: Sequence[Any], width: int) -> bool:
    """Whether these are lists (one at least) of so many values each."""
    return width > 0 and _all_are(plain, list) and _lengths_fit(plain, width, width)


def pack(plain: Any) -> bytes:
    """Encode plain material (int, bytes, str, bool, None, list) in its one canonical form."""
    encoded: bytes = msgpack.packb(plain, use_bin_type=True)
    return encoded


def _no_extension(code: int, data: bytes) -> Any:
    raise MalformedError("extension types are not used")


def unpack(data: bytes | memoryview, *, size_max: int) -> Any:
    """Decode canonical msgpack of at most `size_max` bytes. Raises MalformedError."""
    if len(data) > size_max:
        raise MalformedError(f"{len(data)} bytes where at most {size_max} are allowed")
    try:
        plain = msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            ext_hook=_no_extension,
            max_map_len=0,
        )
        canonical = pack(plain) == data
    except MalformedError:
        raise
    except (
        Exception
    ) as error:  # msgpack raises ValueError, its own types, UnicodeDecodeError, RecursionError
        raise MalformedError(f"not msgpack: {type(error).__name__}") from None
    if not canonical:
        raise MalformedError("not in canonical form")
    return plain


def signing_input(record_type: str, network_id: bytes, body: bytes | memoryview) -> bytes:
    """What a signature covers: prefix ‖ length of type ‖ type ‖ network id ‖ exact bytes.

    Types have different lengths, so the length goes before them: no two records share an input.
    """
    name = record_type.encode("ascii")
    return b"".join((SIGNING_PREFIX, bytes([len(name)]), name, network_id, body))


_FIELDS: dict[type[Any], tuple[tuple[str, Field, str], ...]] = {}


def _fields(cls: type[Any]) -> tuple[tuple[str, Field, str], ...]:
    known = _FIELDS.get(cls)
    if known is None:
        known = _FIELDS[cls] = _read_fields(cls)
    return known


def _read_fields(cls: type[Any]) -> tuple[tuple[str, Field, str], ...]:
    fields = dataclasses.fields(cls)
    result = []
    for field, hint in zip(fields, _hints(cls, fields), strict=True):
        metadata: tuple[Any, ...] = getattr(hint, "__metadata__", ())
        if len(metadata) != 1:
            raise TypeError(
                f"{cls.__name__}.{field.name} needs exactly one wire field in Annotated"
            )
        result.append((field.name, metadata[0], f"{cls.__name__}.{field.name}"))
    return tuple(result)


def _hints(cls: type[Any], fields: Sequence[dataclasses.Field[Any]]) -> Sequence[Any]:
    """What `typing.get_type_hints` finds, compiled in one piece: in a fresh process that saves a third of it.

    A record whose fields come from another module is left to `typing`, which looks into the modules of all bases.
    """
    if any("__annotations__" in base.__dict__ for base in cls.__mro__[1:] if base is not Record):
        hints = typing.get_type_hints(cls, include_extras=True)
        return [hints[field.name] for field in fields]
    source = "".join(f"{field.type}, " for field in fields)
    found: tuple[Any, ...] = eval(  # noqa: S307 (annotations, as Python keeps them: our own source)
        f"({source})", vars(sys.modules[cls.__module__]), dict(vars(cls))
    )
    return found


class Record:
    """Base of every format; see the module's text."""

    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1
    SUITE: ClassVar[int] = 1
    SIZE_MAX: ClassVar[int] = 1024

    def check(self) -> None:
        """Rules that one field alone cannot state; raises MalformedError. Called both ways."""

    def _lower(self) -> list[Any]:
        self.check()
        return [f.lower(getattr(self, name), where) for name, f, where in _fields(type(self))]

    @classmethod
    def _lift(cls, plain: Any) -> Self:
        fields = _fields(cls)
        if type(plain) is not list or len(plain) != len(fields):
            raise MalformedError(f"{cls.__name__}: not {len(fields)} fields")
        values: list[Any] = [f.lift(p, w) for p, (_, f, w) in zip(plain, fields, strict=True)]
        record = cls(*values)
        record.check()
        return record

    @classmethod
    def _lift_all(cls, plain: Sequence[Any]) -> list[Self]:
        """`_lift` of each, column by column."""
        fields = _fields(cls)
        if not _are_rows(plain, len(fields)):
            return [cls._lift(one) for one in plain]
        columns = zip(fields, zip(*plain, strict=True), strict=True)
        records = list(map(cls, *(f.lift_all(column, where) for (_, f, where), column in columns)))
        for record in records:
            record.check()
        return records

    def encode(self) -> bytes:
        """The record's exact bytes. Raises MalformedError when a value is out of bounds."""
        data = pack([self.VERSION, self.SUITE, *self._lower()])
        if len(data) > self.SIZE_MAX:
            raise MalformedError(
                f"{type(self).__name__}: {len(data)} bytes, at most {self.SIZE_MAX}"
            )
        return data

    @classmethod
    def decode(cls, data: bytes | memoryview) -> Self:
        """Parse exact bytes. Raises MalformedError for anything `encode` would not write."""
        plain = unpack(data, size_max=cls.SIZE_MAX)
        if type(plain) is not list or len(plain) < 2:
            raise MalformedError(f"{cls.__name__}: not a record")
        known = (plain[0], plain[1]) == (cls.VERSION, cls.SUITE)
        if not known or {type(plain[0]), type(plain[1])} != {int}:  # True is 1, and so is 1.0
            raise MalformedError(f"{cls.__name__}: unknown version or suite")
        return cls._lift(plain[2:])

    def signed(self, sign: Callable[[bytes], bytes], network_id: bytes) -> bytes:
        """`signature (64 bytes) ‖ encoding`; `sign` maps a message to its Ed25519 signature."""
        body = self.encode()
        return sign(signing_input(self.TYPE, network_id, body)) + body

    @classmethod
    def split_signed(cls, data: bytes | memoryview, network_id: bytes) -> tuple[Self, bytes, bytes]:
        """Parse `signature ‖ encoding` into (record, signature, signing input); checks no signature."""
        if not 64 < len(data) <= 64 + cls.SIZE_MAX:
            raise MalformedError(f"{cls.__name__}: wrong size for a signed record")
        data = bytes(data)
        record = cls.decode(data[64:])
        return record, data[:64], signing_input(cls.TYPE, network_id, data[64:])
