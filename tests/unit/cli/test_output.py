"""Results as text or as JSON; names of files cannot move the cursor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from potsherd.cli.output import Output, printable
from potsherd.ports import Address
from potsherd.service.jsonable import jsonable


class Kind(Enum):
    FILE = 1


@dataclass(frozen=True)
class Report:
    key: bytes
    kind: Kind
    where: Address
    parts: tuple[int, ...]
    path: Path


def test_a_report_becomes_json_material() -> None:
    report = Report(b"\x00\xff", Kind.FILE, Address("::1", 5), (1, 2), Path("a/b"))
    assert jsonable(report) == {
        "key": "00ff",
        "kind": "file",
        "where": {"host": "::1", "port": 5},
        "parts": [1, 2],
        "path": "a/b",
    }
    assert json.loads(json.dumps(jsonable({"x": [None, True, "s", {1: b""}]}))) == {
        "x": [None, True, "s", {"1": ""}]
    }


def test_control_characters_and_odd_bytes_are_escaped() -> None:
    assert printable("ünïcode 文") == "ünïcode 文"
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert printable(b"caf\xe9") == "caf\\udce9"


def test_json_is_one_object_a_line_with_its_type(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.show("thing", "not shown", name="caf\udce9\n", text="field", type_="field")
    output.table("row", ("a",), [{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"type": "thing", "name": "caf\udce9\n", "text": "field", "type_": "field"},
        {"type": "row", "a": 1, "b": 2},
        {"type": "row", "a": 3, "b": 4},
    ]


def test_a_table_is_aligned_and_an_empty_one_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.table("row", ("name", "n"), [{"name": "long name", "n": 1}, {"name": "x\t", "n": 22}])
    output.table("row", ("name",), [])
    assert capsys.readouterr().out == "NAME       N\nlong name  1\nx\\t        22\n"


def test_notes_go_to_standard_error_and_progress_nowhere_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(as_json=False)
    with output.progress("put") as progress:
        progress(1, 2)
    output.note("by the way")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "by the way\n")
