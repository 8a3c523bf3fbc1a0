"""A decoder of records that looks at one value after the other: what the quick one in `potsherd.wire` is held to.

It is slow and short, and shares with the product only what a single plain field accepts, and the rules in `check`.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar, cast

import msgpack

from potsherd.errors import MalformedError
from potsherd.wire import ListOf, Nested, Opt, Record, Tuple

__all__ = ["decode_plainly"]

R = TypeVar("R", bound=Record)


def decode_plainly(cls: type[R], data: bytes) -> R:
    """What `cls.decode(data)` must give. Raises MalformedError."""
    if len(data) > cls.SIZE_MAX:
        raise MalformedError("too long")
    try:
        plain = msgpack.unpackb(data, strict_map_key=True, max_map_len=0, max_ext_len=0)
        canonical = msgpack.packb(plain) == data
    except Exception as error:
        raise MalformedError(f"not msgpack: {error!r}") from None
    if not canonical or type(plain) is not list or len(plain) < 2:
        raise MalformedError("not a record")
    if type(plain[0]) is not int or type(plain[1]) is not int:
        raise MalformedError("no version or suite")
    if (plain[0], plain[1]) != (cls.VERSION, cls.SUITE):
        raise MalformedError("another version or suite")
    return _record(cls, plain[2:])


def _record(cls: type[R], plain: Any) -> R:
    fields = dataclasses.fields(cast(Any, cls))
    hints = typing.get_type_hints(cls, include_extras=True)
    if type(plain) is not list or len(plain) != len(fields):
        raise MalformedError(f"not a {cls.__name__}")
    values: list[Any] = []
    for field, value in zip(fields, plain, strict=True):
        values.append(_value(hints[field.name].__metadata__[0], value))
    record = cls(*values)
    record.check()
    return record


def _value(field: Any, plain: Any) -> Any:
    if isinstance(field, Opt):
        return None if plain is None else _value(field.field, plain)
    if isinstance(field, Nested):
        return _record(field.cls, plain)
    if isinstance(field, Tuple):
        if type(plain) is not list or len(plain) != len(field.fields):
            raise MalformedError("not so many values")
        return tuple(_value(f, p) for f, p in zip(field.fields, plain, strict=True))
    if isinstance(field, ListOf):
        if type(plain) is not list or not field.min <= len(plain) <= field.max:
            raise MalformedError("a list too short or too long")
        return tuple(_value(field.field, item) for item in plain)
    return field.lift(plain, "")
