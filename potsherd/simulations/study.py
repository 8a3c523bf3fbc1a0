"""The file that `potsherd simulate` reads: one scenario in TOML, and what-if curves around it (docs/planning.md).

Unknown keys, wrong types and values that make no sense are errors that name the field.
"""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from potsherd.classes import dataclass
from potsherd.errors import UsageError
from potsherd.simulations import quantities as q
from potsherd.simulations.montecarlo.distributions import (
    Distribution,
    Exponential,
    parse_distribution,
)
from potsherd.simulations.montecarlo.scenario import (
    SEGMENT_BYTES,
    NodeClass,
    Repair,
    Scenario,
    Shock,
)
from potsherd.simulations.traces.trace import Trace, read_trace

__all__ = ["FILE_MAX", "Study", "Variant", "read_study", "with_laws"]

FILE_MAX = 100_000
"""Bytes of a scenario."""
CLASSES_MAX = 50
SHOCKS_MAX = 50
CURVES_MAX = 10
VALUES_MAX = 50
STANDARD_YEARS = 10.0
REPLACED = ("turnover", "life", "uptime", "absence")
"""Of nodes: what a trace for all of them replaces."""
T = TypeVar("T")
_MISSING: Any = object()


@dataclass(frozen=True)
class Variant:
    """One point of a what-if curve."""

    field: str
    value: str
    """As the file has it."""
    number: float | None
    """Where it is a plain one."""
    scenario: Scenario


@dataclass(frozen=True)
class Study:
    """What is simulated."""

    scenario: Scenario
    variants: tuple[Variant, ...]
    text: str
    """The file."""
    traces: tuple[Trace, ...] = ()


class _Table:
    """A table of the file, whose keys are taken one after the other; what is left is unknown."""

    def __init__(self, where: str, given: object) -> None:
        if not isinstance(given, dict):
            raise UsageError(f"{where} = {given!r}: not a table")
        self.where, self._left = where, dict(given)

    def field(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        return name in self._left

    def raw(self, name: str, default: Any = _MISSING) -> Any:
        if name not in self._left:
            if default is _MISSING:
                raise UsageError(f"{self.field(name)}: missing")
            return default
        return self._left.pop(name)

    def read(self, name: str, how: Callable[[str, object], T], default: Any = _MISSING) -> T:
        value = self.raw(name, default if default is _MISSING else None)
        return cast(T, default) if value is None else how(self.field(name), value)

    def table(self, name: str) -> _Table:
        return _Table(self.field(name), self.raw(name, {}))

    def tables(self, name: str, most: int) -> list[_Table]:
        given = self.raw(name, [])
        if not isinstance(given, list) or len(given) > most:
            raise UsageError(f"{self.field(name)}: not a list of up to {most} tables")
        return [_Table(f"{self.field(name)}[{i}]", one) for i, one in enumerate(given)]

    def made(self, kind: Callable[..., T], **fields: Any) -> T:
        """Of these fields; its errors say where."""
        try:
            return kind(**fields)
        except UsageError as error:
            raise UsageError(f"{self.where}.{error.message}") from None

    def done(self) -> None:
        for name in self._left:
            raise UsageError(f"{self.field(name)}: unknown")


def _whole(field: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{field} = {value!r}: not a whole number")
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 120:
        raise UsageError(f"{field} = {value!r}: not a text of 1 to 120 characters")
    return value


def _yes(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{field} = {value!r}: not true or false")
    return value


def _number(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{field} = {value!r}: not a number")
    return float(value)


def _moments(field: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise UsageError(f'{field} = {value!r}: not a list of times like ["1y"]')
    return tuple(q.duration_years(field, one) for one in value)


def read_study(path: Path, trace: Path | None = None) -> Study:
    """`trace` replaces lives, uptime and absences of all nodes. Raises UsageError that names the field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    if len(data) > FILE_MAX:
        raise UsageError(f"{path}: more than {FILE_MAX:,} bytes")
    try:
        text = data.decode()
        given = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file ({error})") from None
    reader = _Reader(path.parent, path.stem)
    if trace is not None:
        reader.all_nodes = reader.trace(trace)
    curves = given.pop("what_if", [])
    scenario = reader.scenario(given)
    variants = reader.variants(given, curves)
    return Study(scenario, variants, text, tuple(reader.traces.values()))


class _Reader:
    """Reads one file; relative traces lie beside it."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self.traces: dict[Path, Trace] = {}
        self.all_nodes: Trace | None = None

    def trace(self, path: Path) -> Trace:
        """Read once, however often it is named."""
        if path not in self.traces:
            self.traces[path] = read_trace(path)
        return self.traces[path]

    def scenario(self, given: Mapping[str, Any]) -> Scenario:
        top = _Table("", given)
        code, data = top.table("code"), top.table("data")
        repair = _repair(top.table("repair"))
        segment_bytes = data.read("segment", q.size, SEGMENT_BYTES)
        if data.has("segments"):
            segments = data.read("segments", _whole)
        else:
            size = data.read("size", q.size)
            segments = max(1, math.ceil(size / segment_bytes))
            segment_bytes = size / segments
        found = Scenario(
            nodes=tuple(self._nodes(t, repair) for t in top.tables("nodes", CLASSES_MAX)),
            k=code.read("k", _whole),
            n=code.read("n", _whole),
            r=code.read("r", _whole),
            pool=code.read("pool", _whole, None),
            segments=segments,
            segment_bytes=segment_bytes,
            repair=repair,
            shocks=tuple(_shock(t) for t in top.tables("shocks", SHOCKS_MAX)),
            years=top.read("years", _years, STANDARD_YEARS),
            start=top.read("start", _text, "met"),  # type: ignore[arg-type] # checked there
            replicates=top.read("replicates", _whole, 16),
            seed=top.read("seed", _whole, 1),
            name=top.read("name", _text, self._name),
        )
        for table in (code, data, top):
            table.done()
        return found

    def _nodes(self, given: _Table, repair: Repair) -> NodeClass:
        life, trace = self._life(given), self.all_nodes
        uptime = given.read("uptime", q.share, 1.0)
        absence = self._absence(given)
        if trace is not None:
            life = trace.life.values if trace.life else life
            if trace.absence is not None and trace.uptime is not None:
                absence, uptime = trace.absence.values, trace.uptime
        up = given.read("up", q.bandwidth, 10e6 / 8)
        found = given.made(
            NodeClass,
            name=given.read("name", _text, "nodes"),
            count=given.read("count", _whole),
            life=life,
            uptime=uptime,
            session_years=given.read("session", q.duration_years, 8 / q.HOURS_PER_YEAR),
            absence=absence,
            habit=given.read("habit", _text, "none"),
            disk_bytes=given.read("disk", q.size, 1e12),
            up=up,
            down=given.read("down", q.bandwidth, 5 * up),
            sites=given.read("sites", _whole, 0),
            operators=given.read("operators", _whole, 0),
            replaced=given.read("replaced", _yes, True),
        )
        given.done()
        return found

    def _life(self, given: _Table) -> Distribution:
        if given.has("turnover"):
            if given.has("life"):
                raise UsageError(f"{given.field('life')}: turnover says that already")
            rate = given.read("turnover", q.turnover)
            if rate <= 0:
                raise UsageError(f"{given.field('turnover')}: 0: somebody leaves, or a disk fails")
            return Exponential(1 / rate)
        return self._law(given.table("life"), "life")

    def _absence(self, given: _Table) -> Distribution | None:
        return self._law(given.table("absence"), "absence") if given.has("absence") else None

    def _law(self, given: _Table, what: str) -> Distribution:
        """`{kind = "weibull", mean = "4y", shape = 0.6}` or `{trace = "file.csv"}`."""
        if given.has("trace"):
            path = self._folder / given.read("trace", _text)
            given.done()
            measured = getattr(self.trace(path), what)
            if measured is None:
                raise UsageError(f"{given.field('trace')} = {path}: does not say any {what}")
            return cast(Distribution, measured.values)
        kind = given.read("kind", _text, "exponential")
        mean = given.read("mean", q.duration_years)
        shape = given.read("shape", _number, None)
        given.done()
        try:
            return parse_distribution(kind, mean, shape)
        except UsageError as error:
            raise UsageError(f"{given.where}: {error.message}") from None

    def _varied(self, given: Mapping[str, Any], field: str) -> Scenario:
        """A point of a curve. One that varies what the trace replaces is as the file says, without the trace."""
        trace = self.all_nodes
        if field.startswith("nodes.") and field.split(".")[1] in REPLACED:
            self.all_nodes = None
        try:
            return self.scenario(given)
        finally:
            self.all_nodes = trace

    def variants(self, given: Mapping[str, Any], curves: object) -> tuple[Variant, ...]:
        """All points of all curves."""
        found: list[Variant] = []
        for curve in _Table("", {"what_if": curves}).tables("what_if", CURVES_MAX):
            field = curve.read("field", _text)
            values = curve.raw("values")
            curve.done()
            if not isinstance(values, list) or not 0 < len(values) <= VALUES_MAX:
                raise UsageError(f"{curve.field('values')}: not a list of 1 to {VALUES_MAX} values")
            for value in values:
                changed = copy.deepcopy(dict(given))
                _put(changed, field, value, curve.field("field"))
                try:
                    scenario = self._varied(changed, field)
                except UsageError as error:
                    raise UsageError(
                        f"{curve.where}: {field} = {value!r}: {error.message}"
                    ) from None
                number = float(value) if isinstance(value, int | float) else None
                found.append(Variant(field, str(value), number, scenario))
        return tuple(found)


def _repair(given: _Table) -> Repair:
    standard = Repair()
    exponential = given.has("mean")
    found = Repair(
        kind="exponential" if exponential else "timed",
        notice_years=given.read("gone_after", q.duration_years, standard.notice_years),
        mean_years=given.read("mean", q.duration_years, standard.mean_years),
        bandwidth=given.read("bandwidth", q.share, standard.bandwidth),
    )
    given.done()
    return found


def _shock(given: _Table) -> Shock:
    found = given.made(
        Shock,
        name=given.read("name", _text, "shock"),
        scope=given.read("scope", _text),
        per_year=given.read("rate", q.per_year, 0.0),
        share=given.read("share", q.share, 1.0),
        leaves=given.read("leaves", _yes, False),
        at_years=given.read("at", _moments, ()),
        dark_years=given.read("dark", q.duration_years, 0.0),
    )
    given.done()
    return found


def _years(field: str, value: object) -> float:
    """`10` or `"18month"`."""
    return q.duration_years(field, value) if isinstance(value, str) else _number(field, value)


def _put(given: dict[str, Any], field: str, value: object, where: str) -> None:
    """Set a dotted field; within a list of tables, in each of them."""
    *path, last = field.split(".")
    places: list[Any] = [given]
    for name in path:
        places = [p.setdefault(name, {}) for p in places if isinstance(p, dict)]
        places = [one for p in places for one in (p if isinstance(p, list) else [p])]
    if not places or not all(isinstance(p, dict) for p in places):
        raise UsageError(f"{where} = {field!r}: no such place in the scenario")
    for place in places:
        place[last] = value


def with_laws(study: Study) -> Study:
    """With the scenario under the Weibull fitted to a trace, and without memory, as variants beside it."""
    found = list(study.variants)
    for trace in study.traces:
        measured = trace.life or trace.absence
        field = "life" if trace.life else "absence_years"
        if measured is None:
            continue
        values = measured.values
        laws = {"weibull, fitted": measured.fitted, "exponential": Exponential(values.mean)}
        nodes = study.scenario.nodes
        for name, law in laws.items():
            key = "life" if field == "life" else "absence"
            changed = tuple(
                replace(c, **{key: law}) if getattr(c, key) == values else c  # type: ignore[arg-type] # by name
                for c in nodes
            )
            if changed != nodes:
                scenario = replace(study.scenario, nodes=changed)
                found.append(Variant(f"{key} of {trace.path.name}", name, None, scenario))
    return replace(study, variants=tuple(found))
