"""`potsherd.classes`: the methods of the standard library's data classes, made at their first call."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar

import pytest

from potsherd.classes import dataclass

METHODS = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


def _made(decorate: Callable[..., Any], **options: bool) -> Any:
    """One class with all that fields can be, by either decorator."""

    class Thing:
        """Compared."""

        first: int
        second: str = "two"
        many: list[int] = field(default_factory=list, compare=False)
        secret: bytes = field(default=b"key", repr=False)
        hashed: tuple[int, ...] = field(default=(), hash=False)
        inner: int = field(default=7, init=False)
        own: dict[str, int] = field(default_factory=dict, init=False, compare=False)
        LIMIT: ClassVar[int] = 3

        def double(self) -> int:
            return 2 * self.first

    return decorate(Thing, **options)


OPTIONS: list[dict[str, bool]] = [
    {},
    {"frozen": True},
    {"eq": False},
    {"frozen": True, "eq": False},
    {"repr": False},
    {"frozen": True, "repr": False},
]


def _said(action: Callable[[], object]) -> object:
    """What it gives, or the error it raises, without texts that name functions differently."""
    try:
        return action()
    except Exception as error:
        return type(error), isinstance(error, FrozenInstanceError) and str(error)


def _behaviour(cls: Any) -> list[object]:
    one, same = cls(1, secret=b"x"), cls(1, "two", [5], b"x")
    other, shifted = cls(2, hashed=(1,)), cls(2, hashed=(2,))
    shown = "" if cls.__repr__ is object.__repr__ else repr(other)
    return [
        shown,
        (one == same, one != same, one == other, one == 5, one.__eq__(object())),
        _said(lambda: hash(one) == hash(same)),
        _said(lambda: hash(other) == hash(shifted)),
        (cls.__hash__ is None, cls.__hash__ is object.__hash__, cls.__eq__ is object.__eq__),
        (one.many, one.many is not other.many, same.many, one.inner, one.own, one.double()),
        dataclasses.asdict(other),
        dataclasses.replace(other, first=9).first,
        [f.name for f in dataclasses.fields(cls)],
        cls.__match_args__,
        (cls.second, cls.secret, hasattr(cls, "many"), cls.inner, cls.LIMIT),
        _said(lambda: cls()),
        _said(lambda: cls(1, "2", [], b"", (), 8)),
        _said(lambda: cls(1, unknown=1)),
        _said(lambda: setattr(one, "first", 4)),
        _said(lambda: setattr(one, "unknown", 4)),
        _said(lambda: delattr(one, "first")),
        _said(lambda: one.first),
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_class_behaves_as_one_of_the_standard_library(options: dict[str, bool]) -> None:
    ours, theirs = (_made(made, **options) for made in (dataclass, dataclasses.dataclass))
    assert _behaviour(ours) == _behaviour(theirs)


@pytest.mark.parametrize("options", [{"order": True}, {"frozen": True, "slots": True}], ids=str)
def test_what_it_does_not_do_itself_the_standard_library_does(options: dict[str, bool]) -> None:
    class Place:
        x: int
        y: int

    made: Any = dataclass(**options)(Place)
    assert "__dataclass_fields__" in made.__dict__
    assert isinstance(made.__dict__["__dataclass_fields__"], dict)
    assert made(1, 2) == made(1, 2)
    assert ("__slots__" in made.__dict__) is ("slots" in options)


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True)
class Point3(Point):
    z: int = 0


def test_nothing_is_compiled_before_it_is_called_and_then_once() -> None:
    @dataclass(frozen=True)
    class Late:
        x: int

    made: Any = Late
    before = {name: made.__dict__[name] for name in METHODS}
    assert not isinstance(made.__dict__["__dataclass_fields__"], dict)
    one = made(1)
    first = made.__dict__["__init__"]
    assert first is not before["__init__"]
    assert made.__dict__["__repr__"] is before["__repr__"]
    assert repr(one).endswith("Late(x=1)")
    assert made(2) != one
    assert made.__dict__["__init__"] is first
    before["__init__"](one, 3)  # the placeholder, kept by somebody, still does it
    assert (one.x, made.__dict__["__init__"]) == (3, first)


def test_a_class_below_has_the_fields_of_those_above() -> None:
    assert (Point3(1, 2, 3).z, Point3(1)) == (3, Point3(1, 0, 0))
    assert Point3(1) != Point(1)
    assert [f.name for f in dataclasses.fields(Point3)] == ["x", "y", "z"]
    assert repr(Point3(1)) == "Point3(x=1, y=0, z=0)"


def test_a_standard_class_below_a_late_one_has_its_fields() -> None:
    @dataclass
    class Above:
        x: int

    @dataclasses.dataclass
    class Below(Above):
        y: int

    assert Below(1, 2) == Below(x=1, y=2)


def test_a_plain_class_below_may_have_attributes_of_its_own() -> None:
    class Noted(Point):
        def __init__(self, x: int, note: str) -> None:
            super().__init__(x)
            self.note = note

    noted = Noted(1, "here")
    assert (noted.x, noted.y, noted.note) == (1, 0, "here")
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'x'"):
        noted.x = 2  # type: ignore[misc]
    del noted.note
    with pytest.raises(FrozenInstanceError, match="cannot delete field 'y'"):
        del noted.y


def test_methods_that_a_class_defines_itself_stay() -> None:
    @dataclass(frozen=True)
    class Own:
        x: int

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("negative")

        def __repr__(self) -> str:
            return "hidden"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

    assert (repr(Own(1)), Own(1) == Own(2)) == ("hidden", True)
    assert hash(Own(1)) == hash((1,))  # as the standard library has it
    with pytest.raises(ValueError, match="negative"):
        Own(-1)


def test_copies_and_pickles_are_equal() -> None:
    point = Point3(1, 2, 3)
    for other in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):  # noqa: S301
        assert (other, hash(other)) == (point, hash(point))


def test_an_instance_that_no_init_made_has_fields_methods_and_patterns() -> None:
    """As in a process that gets pickles of a class which it has not used yet."""

    @dataclass(frozen=True)
    class Sent:
        x: int

    sent = Sent.__new__(Sent)
    sent.__dict__["x"] = 5
    assert dataclasses.asdict(sent) == {"x": 5}
    assert dataclasses.replace(sent, x=6).x == 6


def test_threads_that_begin_together_make_whole_instances() -> None:
    for _ in range(50):

        @dataclass
        class Shared:
            x: int
            seen: list[int] = field(default_factory=list)

        start, made = threading.Barrier(4), list[Shared]()

        def make(cls: Any = Shared, start: Any = start, made: Any = made) -> None:
            start.wait()
            made.append(cls(1))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(one.x, one.seen) for one in made] == [(1, [])] * 4
