"""Reports as JSON material, for `--json` and for the local API."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any

__all__ = ["jsonable"]

PLAIN = frozenset((str, int, float, bool, type(None)))
"""Most of what there is; looked for first, exactly, so that an enumeration of integers is none of them."""


def jsonable(value: Any) -> Any:
    """Dataclasses and named tuples by field, bytes in hex, other iterables as lists."""
    if type(value) in PLAIN:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return jsonable(value._asdict())
    if isinstance(value, dict):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value
