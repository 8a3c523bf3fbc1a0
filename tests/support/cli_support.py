"""The command `potsherd` as a user runs it: a process of its own, with a home of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT_S = 300
"""Against commands that hang: a busy machine may take minutes."""


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output of a --json call."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def object(self) -> dict[str, Any]:
        """The only one."""
        [found] = self.objects
        return found


class Cli:
    """Calls `potsherd` under one POTSHERD_HOME."""

    def __init__(self, home: Path, **variables: str) -> None:
        self.home = home
        kernels = "POTSHERD_KERNEL_CACHE"  # one for the whole run, see conftest.py
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith("POTSHERD_") or k == kernels
        }
        self._environment = clean | {"POTSHERD_HOME": str(home)} | variables

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process that the caller ends."""
        return subprocess.Popen(
            [sys.executable, "-m", "potsherd", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=self._environment,
            **options,
        )

    def __call__(self, *arguments: str | Path, code: int = 0, stdin: str = "") -> Ended:
        """Run to the end; fails with what was printed when the exit code is another."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(stdin, timeout=COMMAND_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        called = " ".join(map(str, arguments))
        assert process.returncode == code, f"{called}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return Ended(process.returncode, out, err)

    @contextmanager
    def node(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """`node run` while the block runs, from the moment it listens."""
        with self.start("node", "run", "--json", *options) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, process.communicate()[1]
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                process.communicate(timeout=COMMAND_TIMEOUT_S)

    @contextmanager
    def lab(self, nodes: int) -> Iterator[None]:
        """A lab while the block runs."""
        try:
            self("lab", "up", "--nodes", str(nodes))
            yield
        finally:
            self("lab", "down")


def free_port() -> int:
    """Free for UDP and TCP a moment ago."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        return port


def make_experiment(parent: Path) -> Path:
    """A folder with a bit of everything: 5 files."""
    folder = parent / "experiment"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.csv").write_text("x,y\n1,2\n" * 100)
    (folder / "deep" / "er" / "big.bin").write_bytes(random.Random(1).randbytes(700_001))
    (folder / "deep" / "nothing").touch()
    (folder / "line\nbreak").write_text("odd name")
    (folder / "link").symlink_to("deep/er")
    with (folder / os.fsdecode(b"caf\xe9")).open("w") as file:
        file.write("a name that is no UTF-8")
    (folder / "a.csv").chmod(0o640)
    return folder


def tree(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """What `get` must bring back: kinds, contents, targets, modes and times of files."""
    found: dict[bytes, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        facts = path.lstat()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder", facts.st_mode)
        else:
            found[name] = ("file", path.read_bytes(), facts.st_mode, facts.st_mtime_ns)
    return found
