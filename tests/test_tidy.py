"""House rules that a machine can check (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from running_order import LONGEST_FIRST

import potsherd

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600
PACKAGE = Path(potsherd.__file__).parent
TESTS = Path(__file__).parent

# The two words are built so that this file does not find itself.
OPEN_WORK = re.compile(
    r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b(?!\(#\d+\))"
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/[A-Za-z0-9_.-]+")
"""A folder of somebody's machine; documentation uses ~ or relative paths."""


class Function(NamedTuple):
    where: str
    lines: int


def modules(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.rglob("*.py")))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Function(f"{path.name}:{node.lineno} {node.name}", lines)


def test_no_function_is_longer_than_a_screen() -> None:
    found = [f for root in (PACKAGE, TESTS) for path in modules(root) for f in functions(path)]
    assert [f for f in found if f.lines > FUNCTION_LINES_MAX] == []


def test_no_module_is_longer_than_ten_minutes_of_reading() -> None:
    sizes = {
        str(path): len(path.read_text().splitlines())
        for root in (PACKAGE, TESTS)
        for path in modules(root)
    }
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX} == {}


def test_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST_FIRST if not (TESTS / name).is_file()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)


def test_open_work_names_its_issue() -> None:
    """An open end without an issue is forgotten: write the word, then (#12)."""
    found = [
        f"{path.name}:{number} {line.strip()}"
        for root in (PACKAGE, TESTS)
        for path in modules(root)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if OPEN_WORK.search(line)
    ]
    assert found == []


def _public_modules() -> list[str]:
    found = pkgutil.walk_packages(potsherd.__path__, "potsherd.")
    return [m.name for m in found if not any(part.startswith("_") for part in m.name.split("."))]


@pytest.mark.parametrize("name", _public_modules())
def test_public_names_are_listed_and_exist(name: str) -> None:
    module = importlib.import_module(name)
    if not Path(str(module.__file__)).read_text().strip():
        return  # an empty __init__.py
    listed = getattr(module, "__all__", None)
    assert listed is not None, f"{name} has no __all__"
    assert len(set(listed)) == len(listed)
    assert [n for n in listed if not hasattr(module, n)] == []


def test_the_installed_package_has_every_module(checkout: Path) -> None:
    """What is tested is what was written: nothing forgotten by the packaging, nothing left over."""
    source = checkout / "potsherd"
    wanted = {str(p.relative_to(source)) for p in modules(source)} | {"py.typed"}
    present = {str(p.relative_to(PACKAGE)) for p in modules(PACKAGE)} | {
        p.name for p in PACKAGE.glob("py.typed")
    }
    assert present == wanted


def _texts(checkout: Path) -> Iterator[Path]:
    for folder in ("potsherd", "tests", "docs", "benchmarks", ".ci"):
        for path in sorted((checkout / folder).rglob("*")):
            if path.is_file() and path.suffix in {".py", ".md", ".toml", ".json", ".sh", ""}:
                yield path
    yield from sorted(checkout.glob("*.md"))
    yield checkout / "pyproject.toml"
    yield checkout / "Makefile"


def test_no_path_of_a_machine_is_written_down(checkout: Path) -> None:
    found = [
        f"{path.relative_to(checkout)}:{number} {line.strip()[:80]}"
        for path in _texts(checkout)
        if "__pycache__" not in path.parts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []
