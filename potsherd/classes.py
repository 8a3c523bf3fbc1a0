"""Data classes whose methods are compiled when they are first called.

    from potsherd.classes import dataclass

For readers and type checkers this is the `dataclass` of the standard library, and a test compares what they do.
That one compiles up to six functions for each class while its module is imported; most commands make instances of a
third of the classes they import, compare few of them, and show none (docs/design/rooms.md has the figures).

`field`, `fields`, `replace` and `asdict` are those of the standard library. Classes with `slots` or `order` are left
to it entirely. Not known here: fields by keyword only, `InitVar`, reprs that contain themselves. A class made here and
one of the standard library do not inherit from each other when they are frozen: TypeError.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, **options):
        """Like `dataclasses.dataclass`; options: `frozen`, `eq`, `repr`, and `slots` and `order`."""
        if cls is None:
            return lambda cls: dataclass(cls, **options)
        if options.keys() & {"slots", "order"}:
            return dataclasses.dataclass(cls, **options)
        return _begin(cls, **options)


_COLLECTING = threading.RLock()
_Source = tuple[list[str], dict[str, Any]]
"""Lines of a function, and the global names in them."""


def _begin(
    cls: type[Any], *, frozen: bool = False, eq: bool = True, repr: bool = True
) -> type[Any]:
    """Give the class its methods; those that it defines itself stay."""
    own = dict(cls.__dict__)
    methods: dict[str, Any] = {"__init__": _late(cls, "__init__", lambda: _init(cls, frozen))}
    if repr:
        methods["__repr__"] = _late(cls, "__repr__", lambda: _repr(cls))
    if eq:
        methods["__eq__"] = _late(cls, "__eq__", lambda: _eq(cls))
        methods["__hash__"] = _late(cls, "__hash__", lambda: _hash(cls)) if frozen else None
    if frozen:
        methods.update(_refusals(cls))
    if own.get("__hash__", methods) is None:  # Python's own doing in a class that has only `__eq__`
        del own["__hash__"]
    for name, method in methods.items():
        if name not in own:
            setattr(cls, name, method)
    cls.__dataclass_fields__ = _Fields(cls)
    return cls


class _Fields:
    """Stands where `dataclasses` looks for the fields of a class, until it looks."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls

    def __get__(self, instance: object, owner: type[Any]) -> Any:
        with _COLLECTING:  # once: it takes the defaults out of the class
            if self._cls.__dict__["__dataclass_fields__"] is self:
                dataclasses.dataclass(init=False, repr=False, eq=False)(self._cls)
        return self._cls.__dict__["__dataclass_fields__"]


def _late(cls: type[Any], name: str, source: Callable[[], _Source]) -> Callable[..., Any]:
    """A method that is compiled, and steps into its own place, at its first call."""

    def first(self: Any, *args: Any, **named: Any) -> Any:
        if cls.__dict__[name] is first:
            lines, names = source()
            made: dict[str, Any] = {}
            exec("\n ".join(lines), names, made)  # noqa: S102 (of names of fields, as dataclasses does)
            made[name].__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(cls, name, made[name])
        return cls.__dict__[name](self, *args, **named)

    first.__name__, first.__qualname__ = name, f"{cls.__qualname__}.{name}"
    return first


def _init(cls: type[Any], frozen: bool) -> _Source:
    names: dict[str, Any] = {"_set": object.__setattr__, "_MAKE": object()}
    parameters, body = ["self"], ["pass"]
    for field in dataclasses.fields(cls):
        name, value = field.name, field.name
        if field.default_factory is not MISSING:
            names[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is _MAKE else {name}"
        if field.init:
            parameters.append(name + _default(field, names))
        elif field.default_factory is not MISSING:
            value = f"_make_{name}()"
        else:
            continue  # its default, if any, is an attribute of the class
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    return [f"def __init__({', '.join(parameters)}):", *body], names


def _default(field: Field[Any], names: dict[str, Any]) -> str:
    if field.default_factory is not MISSING:
        return "=_MAKE"
    if field.default is MISSING:
        return ""
    names[f"_default_{field.name}"] = field.default
    return f"=_default_{field.name}"


def _repr(cls: type[Any]) -> _Source:
    shown = ", ".join(f"{f.name}={{self.{f.name}!r}}" for f in dataclasses.fields(cls) if f.repr)
    return ["def __repr__(self):", f"return f'{{self.__class__.__qualname__}}({shown})'"], {}


def _values(of: str, fields: list[Field[Any]]) -> str:
    return "(" + "".join(f"{of}.{field.name}, " for field in fields) + ")"


def _eq(cls: type[Any]) -> _Source:
    compared = [f for f in dataclasses.fields(cls) if f.compare]
    same = f"{_values('self', compared)} == {_values('other', compared)}"
    condition = "if other.__class__ is self.__class__ else NotImplemented"
    return ["def __eq__(self, other):", f"return {same} {condition}"], {}


def _hash(cls: type[Any]) -> _Source:
    counted = [f for f in dataclasses.fields(cls) if (f.compare if f.hash is None else f.hash)]
    return ["def __hash__(self):", f"return hash({_values('self', counted)})"], {}


def _refusals(cls: type[Any]) -> dict[str, Callable[..., None]]:
    """What keeps an instance as it is; classes below may have attributes of their own."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is cls or name in cls.__dataclass_fields__:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return {"__setattr__": __setattr__, "__delattr__": __delattr__}
