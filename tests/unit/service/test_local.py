"""The local API of a node process: who runs, asked over a Unix socket that only its user can reach."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from potsherd.errors import NotFoundError, PeerError, RefusedError, UsageError
from potsherd.service.local import (
    REQUEST_BYTES_MAX,
    Handler,
    LocalServer,
    call,
    clear,
    running,
)
from potsherd.service.processes import Process

KEY = "ab" * 32


def serve(home: Path) -> LocalServer:
    async def slow() -> Mapping[str, Any]:
        return {"answer": 42}

    def refuse() -> Mapping[str, Any]:
        raise RefusedError("not now", remedy="Later.")

    methods: dict[str, Handler] = {"ask": slow, "refuse": refuse}
    return LocalServer(home, methods, host="127.0.0.1", port=4800, key=KEY)


async def test_a_call_is_answered_and_errors_come_back_with_their_remedy(tmp_path: Path) -> None:
    async with serve(tmp_path):
        assert await call(tmp_path, "ask") == {"answer": 42}
        with pytest.raises(RefusedError, match="not now") as caught:
            await call(tmp_path, "refuse")
        assert caught.value.remedy == "Later."
        with pytest.raises(PeerError, match="no such method"):
            await call(tmp_path, "__class__")


async def test_a_command_gets_its_parameters(tmp_path: Path) -> None:
    async def double(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(parameters.get("n"), int):
            raise UsageError("a number")
        return {"n": 2 * parameters["n"]}

    commands = {"double": double}
    server = LocalServer(tmp_path, {}, host="127.0.0.1", port=1, key=KEY, commands=commands)
    async with server:
        assert await call(tmp_path, "double", n=21) == {"n": 42}
        with pytest.raises(UsageError, match="a number"):
            await call(tmp_path, "double", n="21")
        found = running(tmp_path)
        assert found is not None
        for request in (b'{"method": "double", "parameters": 5}', b"[]", b'{"method": 7}'):
            reader, writer = await asyncio.open_unix_connection(found.socket)
            writer.write(request + b"\n")
            assert "error" in json.loads(await reader.readline())
            writer.close()
            await writer.wait_closed()


async def test_the_folder_is_its_users_alone(tmp_path: Path) -> None:
    async with serve(tmp_path):
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


async def test_it_says_who_runs_and_forgets_it_when_it_stops(tmp_path: Path) -> None:
    assert running(tmp_path) is None
    async with serve(tmp_path):
        found = running(tmp_path)
        assert found is not None
        assert (found.process.pid, found.port, found.key) == (os.getpid(), 4800, KEY)
    assert running(tmp_path) is None
    with pytest.raises(NotFoundError):
        await call(tmp_path, "ask")


async def test_a_state_file_left_behind_by_a_crash_counts_for_nothing(tmp_path: Path) -> None:
    """Our own process id with another starting time: the number was given to somebody else since."""
    async with serve(tmp_path):
        state = json.loads((tmp_path / "run" / "node.json").read_text())
    state["process"]["started"] += "0"
    (tmp_path / "run" / "node.json").write_text(json.dumps(state))
    assert running(tmp_path) is None
    for damaged in ("", "[]", "{}", '{"process": 1}', '{"process": {"pid": 1, "started": ""}}'):
        (tmp_path / "run" / "node.json").write_text(damaged)
        assert running(tmp_path) is None


def long_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A home whose socket does not fit its own path, and the folder that is used instead of /tmp."""
    short = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", short)
    home = tmp_path / ("long" * 30)
    home.mkdir()
    return home, Path(short)


async def test_a_home_with_a_long_path_works_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket's path has room for about 100 bytes."""
    home, elsewhere = long_home(tmp_path, monkeypatch)
    async with serve(home):
        found = running(home)
        assert found is not None
        folder = Path(found.socket).parent
        assert folder.parent == elsewhere
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert await call(home, "ask") == {"answer": 42}
    elsewhere.rmdir()  # nothing is left in it


async def test_a_long_folder_for_temporary_files_is_no_harm_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = long_home(tmp_path, monkeypatch)
    long = tmp_path / ("temporary" * 12)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with serve(home):
        assert await call(home, "ask") == {"answer": 42}
    elsewhere.rmdir()


async def test_a_folder_that_others_may_enter_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = long_home(tmp_path, monkeypatch)
    async with serve(home):
        [folder] = elsewhere.iterdir()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RefusedError, match="this user's alone"):
        await serve(home).__aenter__()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(RefusedError):
        await serve(home).__aenter__()
    folder.unlink()
    elsewhere.rmdir()


async def test_what_a_killed_node_left_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = long_home(tmp_path, monkeypatch)
    async with serve(home):
        clear(home)
        assert running(home) is None
        assert list(elsewhere.iterdir()) == []
    elsewhere.rmdir()


@pytest.mark.parametrize(
    "line", [b"\n", b"garbage\n", b"[1]\n", b'{"method": 1}\n', b'{"method": {}}\n']
)
async def test_garbage_is_answered_with_an_error(tmp_path: Path, line: bytes) -> None:
    async with serve(tmp_path):
        found = running(tmp_path)
        assert found is not None
        reader, writer = await asyncio.open_unix_connection(found.socket)
        writer.write(line)
        assert b"no such method" in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_too_long_a_line_is_cut_off_and_the_next_caller_is_served(tmp_path: Path) -> None:
    async with serve(tmp_path):
        found = running(tmp_path)
        assert found is not None
        reader, writer = await asyncio.open_unix_connection(found.socket)
        writer.write(b"x" * (3 * REQUEST_BYTES_MAX))
        assert await reader.read() == b""
        writer.close()
        assert await call(tmp_path, "ask") == {"answer": 42}


async def test_a_second_server_takes_over_a_socket_left_behind(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "api.sock").touch()
    async with serve(tmp_path):
        assert await call(tmp_path, "ask") == {"answer": 42}


def test_this_process_lives_and_an_unknown_one_does_not() -> None:
    assert Process.current().alive()
    assert not Process(0, "").alive()
    assert not Process(os.getpid(), "long ago").alive()
    assert not Process(os.getpid(), "long ago").kill()
    assert Process.of(2**22 + 1).started == ""
