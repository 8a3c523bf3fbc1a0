"""Errors become messages and exit codes in one place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from potsherd import errors
from potsherd.cli import main as command
from potsherd.cli.main import exit_code_of


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_documented_exit_code(name: str) -> None:
    error = getattr(errors, name)("why")
    assert exit_code_of(error) in range(1, 8)
    group = ExceptionGroup("tasks", [ValueError("other"), ExceptionGroup("inner", [error])])
    assert exit_code_of(group) == exit_code_of(error)


def test_what_is_no_error_of_ours_fails() -> None:
    assert exit_code_of(ValueError("a bug")) == 1
    assert exit_code_of(KeyboardInterrupt()) == 130


def test_wrong_usage_is_exit_2_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POTSHERD_HOME", str(tmp_path / "home"))
    for arguments in (("frobnicate",), ("config", "show", "--frob"), ("network", "create")):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "potsherd" in err
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_a_message_and_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "node", "status")
    assert (code, out) == (4, "")
    assert err == "potsherd: no node is running here\n  Start it with: potsherd node run\n"


def test_with_json_the_error_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "node", "status", "--json")
    assert json.loads(out) == {
        "type": "error",
        "kind": "NotFoundError",
        "message": "no node is running here",
        "remedy": "Start it with: potsherd node run",
        "exit_code": 4,
    }
    assert code == 4


def test_a_bug_shows_its_traceback_only_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret of a bug")

    monkeypatch.setattr(command, "app", broken)
    code, _, err = run(capsys, "list")
    assert code == 1
    assert "Traceback" not in err
    assert "POTSHERD_DEBUG=1" in err
    monkeypatch.setenv("POTSHERD_DEBUG", "1")
    assert "Traceback" in run(capsys, "list")[2]


def test_an_interruption_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "app", interrupted)
    assert run(capsys, "list")[0] == 130


def loaded(*arguments: str) -> set[str]:
    """The modules that a process has when it has shown a help text."""
    code = (
        "import sys\n"
        "from potsherd.cli.main import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert " ".join(("Usage: potsherd", *arguments[:-1])) in ended.stdout
    return set(ended.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    """`potsherd --help` in 0.2 s: the modules it may not load cost more than that together."""
    heavy = {"numpy", "asyncio", "rich", "nacl", "cryptography", "msgpack", "sqlite3", "h5py"}
    found = loaded("--help")
    assert "typer" in found
    assert not heavy & found


def test_a_verb_imports_no_other_verb() -> None:
    others = {"data", "lab", "network", "node", "plan", "retrieve", "setup", "simulate"}
    found = loaded("put", "--help")
    assert "potsherd.cli.store" in found
    assert not {f"potsherd.cli.{other}" for other in others} & found


def test_every_verb_is_found_alone_as_among_all() -> None:
    everything: Any = typer.main.get_command(command.app())
    assert set(everything.commands) == set(command.VERBS)
    for verb in command.VERBS:
        alone: Any = typer.main.get_command(command.app(verb))
        assert list(alone.commands) == [verb]
        found, among = alone.commands[verb], everything.commands[verb]
        assert [p.opts for p in found.params] == [p.opts for p in among.params]
        assert (found.help, type(found)) == (among.help, type(among))
