"""docs/cli.md and docs/configuration.md say what the code has: every command, option, setting and exit code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import potsherd
from potsherd import errors
from potsherd.cli.config import SETTINGS
from potsherd.cli.main import app


def commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """("potsherd lab up", command) of every verb."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


VERBS = dict(commands(typer.main.get_command(app()), ("potsherd",)))


def sections(page: str) -> dict[str, str]:
    """Text below each heading that names a command, by the command without its arguments."""
    found = re.split(r"^### `(potsherd [a-z ]+?)(?: [A-Z\[].*)?`$", page, flags=re.M)
    return dict(zip(found[1::2], found[2::2], strict=True))


@pytest.fixture(scope="module")
def page(checkout: Path) -> str:
    return (checkout / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_documented_with_every_option(verb: str, page: str) -> None:
    text = sections(page)[verb]
    options = {o for p in VERBS[verb].params for o in (*p.opts, *p.secondary_opts)}
    options = {o for o in options if o.startswith("-")} - {"--json", "--help"}
    assert {o for o in options if f"`{o}" not in text} == set()


def test_nothing_is_documented_that_does_not_exist(page: str) -> None:
    found = sections(page)
    assert set(found) == set(VERBS)
    for verb, text in found.items():
        options = {o for p in VERBS[verb].params for o in (*p.opts, *p.secondary_opts)}
        documented = re.findall(r"^\| (`-.*?) \|", text, flags=re.M)
        named = {o for line in documented for o in re.findall(r"`(-[-\w]+)", line)}
        assert named <= options, verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_a_help_text_and_json(verb: str) -> None:
    assert VERBS[verb].help
    assert any("--json" in p.opts for p in VERBS[verb].params)
    for parameter in VERBS[verb].params:
        assert getattr(parameter, "help", None), parameter.name


def test_every_exit_code_is_documented(page: str) -> None:
    codes = {getattr(errors, name).exit_code for name in errors.__all__} | {0, 130}
    assert {int(c) for c in re.findall(r"^\| (\d+) \|", page, flags=re.M)} == codes


def test_every_setting_is_documented(checkout: Path) -> None:
    page = (checkout / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| (person|node) ", page, flags=re.M)
    assert rows == [(s.key, s.variable, s.home) for s in SETTINGS]


def test_the_limits_in_the_architecture_page_are_those_of_the_code(checkout: Path) -> None:
    page = (checkout / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| (\d+) \| `([\w.]+)\.(\w+)` \|$", page, flags=re.M)
    assert len(rows) > 10
    found = {f"{m}.{n}": getattr(importlib.import_module(m), n) for _, m, n in rows}
    assert found == {f"{m}.{n}": int(value) for value, m, n in rows}


def test_links_between_pages_lead_somewhere(checkout: Path) -> None:
    pages = [*checkout.glob("*.md"), *(checkout / "docs").rglob("*.md")]
    missing = [
        f"{page.relative_to(checkout)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_files_named_in_the_architecture_page_exist(checkout: Path) -> None:
    """The life of a block names files relative to the package, the second of a pair beside the first."""
    text = (checkout / "ARCHITECTURE.md").read_text()
    package = Path(potsherd.__file__).parent
    folder = package
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        candidates = [package / name, folder / name]
        assert any(path.exists() for path in candidates), name
        folder = next(path for path in candidates if path.exists()).parent


def test_pages_that_code_and_pages_name_exist(checkout: Path) -> None:
    sources = [*(checkout / "potsherd").rglob("*.py"), *checkout.glob("*.md")]
    named = {
        (str(path.relative_to(checkout)), page)
        for path in sources
        for page in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())
    }
    assert {(path, page) for path, page in named if not (checkout / page).exists()} == set()
