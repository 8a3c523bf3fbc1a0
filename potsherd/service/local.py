"""The local API of a running node: a Unix socket in a folder that only its user can enter.

One request and one reply per connection, each a JSON object on one line: `{"method": "quota", "parameters": {...}}`
is answered by `{"result": {...}}` or `{"error": {"kind": ..., "message": ..., "remedy": ...}}`.  Who may open the socket may do everything
that the node's user may; the folder's mode 0700 is the permission check.

A Unix socket's path has room for about 100 bytes, a home's path may be longer: then the socket lies in a folder
of its own under the system's temporary folder, always the same one for a home, so that crashes leave no more than
one behind.  Where the socket really is stands in `run/node.json`, beside the process id.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from potsherd import errors
from potsherd.classes import dataclass
from potsherd.datasets.small_files import read_json, write_private
from potsherd.errors import (
    MalformedError,
    NotFoundError,
    PeerError,
    PotsherdError,
    RefusedError,
    UsageError,
)
from potsherd.service.processes import Process

__all__ = ["Command", "Handler", "LocalServer", "Running", "call", "clear", "running"]

REQUEST_BYTES_MAX = 4096
REPLY_BYTES_MAX = 4 * 2**20
"""Bytes of one line; a reply of a node with thousands of peers still fits."""
CALL_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 16
"""Requests in work; more wait in the socket's queue."""
SOCKET_PATH_BYTES_MAX = 100
SHORT_FOLDER = Path("/tmp")  # noqa: S108 - nobody else's folder is entered, see _socket_path
RUN_FOLDER = "run"
STATE_FILE = "node.json"
SOCKET_FILE = "api.sock"

Handler = Callable[[], Awaitable[Mapping[str, Any]] | Mapping[str, Any]]
"""Answers a method without parameters."""
Command = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Answers a method with parameters, as they came: JSON of anybody who may open the socket."""
_KINDS: dict[str, type[PotsherdError]] = {name: getattr(errors, name) for name in errors.__all__}


@dataclass(frozen=True)
class Running:
    """What a node process says about itself in `run/node.json`."""

    process: Process
    socket: str
    host: str
    port: int
    """Where it listens; the port is the real one when 0 was asked for."""
    key: str
    """Node key in hex."""


def running(home: Path) -> Running | None:
    """The node process of a node home, if it lives; a file left behind by a crash counts for nothing."""
    try:
        state = read_json(home / RUN_FOLDER / STATE_FILE)
        found = Running(
            process=Process(**state["process"]),
            socket=str(state["socket"]),
            host=str(state["host"]),
            port=int(state["port"]),
            key=str(state["key"]),
        )
    except (NotFoundError, MalformedError, KeyError, TypeError, ValueError):
        return None
    return found if found.process.alive() else None


def _elsewhere(home: Path) -> Path:
    """A folder for the socket with a short path, also where TMPDIR has a long one."""
    digest = hashlib.blake2b(os.fsencode(home.absolute()), digest_size=8).hexdigest()
    name = f"potsherd-{os.getuid()}-{digest}"
    folder = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(folder / SOCKET_FILE)) <= SOCKET_PATH_BYTES_MAX:
        return folder
    return SHORT_FOLDER / name


def clear(home: Path) -> None:
    """Remove what a node process leaves behind when it is killed: its state file and its socket."""
    (home / RUN_FOLDER / STATE_FILE).unlink(missing_ok=True)
    (home / RUN_FOLDER / SOCKET_FILE).unlink(missing_ok=True)
    folder = _elsewhere(home)
    with suppress(OSError):
        (folder / SOCKET_FILE).unlink(missing_ok=True)
        folder.rmdir()


async def call(home: Path, method: str, **parameters: Any) -> dict[str, Any]:
    """Ask the node of a node home.

    Raises NotFoundError when none runs, PeerError when it does not answer, and what it refuses with.
    """
    node = running(home)
    if node is None:
        raise NotFoundError("no node is running here", remedy="Start it with: potsherd node run")
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            request = {"method": method, "parameters": parameters}
            line = await _exchange(node.socket, json.dumps(request).encode() + b"\n")
        reply = json.loads(line)
    except (OSError, TimeoutError, ValueError) as error:
        raise PeerError(f"the node process {node.process.pid} does not answer: {error}") from None
    if "result" not in reply:
        failure = reply.get("error", {})
        kind = _KINDS.get(failure.get("kind", ""), PeerError)
        raise kind(str(failure.get("message", "refused")), remedy=str(failure.get("remedy", "")))
    result: dict[str, Any] = reply["result"]
    return result


async def _exchange(path: str, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path, limit=REPLY_BYTES_MAX)
    try:
        writer.write(request)
        await writer.drain()
        return await reader.readline()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


class LocalServer:
    """Serves the local API while a node runs; `async with` it."""

    def __init__(
        self,
        home: Path,
        methods: Mapping[str, Handler],
        *,
        host: str,
        port: int,
        key: str,
        commands: Mapping[str, Command] | None = None,
    ) -> None:
        self._folder = home / RUN_FOLDER
        self._methods = dict(methods)
        self._commands = dict(commands or {})
        self._address = (host, port)
        self._key = key
        self._busy = asyncio.Semaphore(CONNECTIONS_MAX)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> LocalServer:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        path = self._socket_path()
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=REQUEST_BYTES_MAX)
        state = Running(Process.current(), str(path), *self._address, self._key)
        write_private(self._folder / STATE_FILE, json.dumps(asdict(state)).encode())
        return self

    def _socket_path(self) -> Path:
        path = self._folder / SOCKET_FILE
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
        folder = _elsewhere(self._folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        facts = folder.lstat()
        # Everybody can write where this lies: a folder that somebody else put there is not entered.
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
            raise RefusedError(
                f"{folder} is not this user's alone",
                remedy="Remove it, or use a shorter POTSHERD_HOME.",
            )
        return folder / SOCKET_FILE

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        clear(self._folder.parent)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._busy, asyncio.timeout(CALL_TIMEOUT_S):
                reply = await self._answer(await reader.readline())
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # the caller has gone, or sent no line
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            name, parameters = str(request["method"]), request.get("parameters", {})
        except (ValueError, KeyError, TypeError, AttributeError):
            return _failure(PeerError("no such method"))
        try:
            return {"result": await self._call(name, parameters)}
        except PotsherdError as error:
            return _failure(error)

    async def _call(self, name: str, parameters: Any) -> Mapping[str, Any]:
        command, method = self._commands.get(name), self._methods.get(name)
        if command is not None:
            if not isinstance(parameters, dict):
                raise UsageError("parameters are an object")
            return await command(parameters)
        if method is None:
            raise PeerError("no such method")
        result = method()
        return await result if isinstance(result, Awaitable) else result


def _failure(error: PotsherdError) -> dict[str, Any]:
    kind = type(error).__name__
    return {"error": {"kind": kind, "message": error.message, "remedy": error.remedy}}
