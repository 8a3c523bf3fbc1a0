"""`doctor`: what is wrong here, each finding with what to do about it."""

from __future__ import annotations

import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.cli.config import unknown_variables
from potsherd.cli.context import Command, run
from potsherd.cli.peers import client_session
from potsherd.cli.units import format_size, parse_address
from potsherd.datasets.networks import Network
from potsherd.errors import NotFoundError, PotsherdError
from potsherd.service.local import running

__all__ = ["Finding", "examine"]

OPEN_FILES_MIN = 1024
"""File handles that a node with a few hundred connections needs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: str
    """`ok`, `note` (worth knowing), `problem`."""
    text: str
    remedy: str = ""


def examine(command: Command, *, offline: bool) -> None:
    """Print all findings. Raises PotsherdError when there is a problem among them."""
    problems = 0
    for finding in _findings(command, offline=offline):
        problems += finding.state == "problem"
        remedy = f"\n         {finding.remedy}" if finding.remedy else ""
        command.output.show(
            "finding",
            f"{finding.state:8} {finding.check}: {finding.text}{remedy}",
            check=finding.check,
            state=finding.state,
            text=finding.text,
            remedy=finding.remedy,
        )
    if problems:
        raise PotsherdError(f"{problems} problem{'s' if problems > 1 else ''} found")


def _findings(command: Command, *, offline: bool) -> Iterator[Finding]:
    yield _python()
    yield from _variables(command)
    yield from _open_files()
    yield from _person(command)
    yield from _node(command)
    for name in command.home.networks.names():
        yield from _network(command, name, offline=offline)


def _python() -> Finding:
    import sqlite3

    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{version} on {sys.platform}, SQLite {sqlite3.sqlite_version}")


def _variables(command: Command) -> Iterator[Finding]:
    for name in unknown_variables(command.environment):
        yield Finding(
            "environment", "problem", f"{name} is no setting", "See: potsherd config show --json"
        )


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_MIN:
        yield Finding(
            "open files",
            "note",
            f"{soft} at most",
            f"Allow more for a node: ulimit -n {OPEN_FILES_MIN}",
        )
    else:
        yield Finding("open files", "ok", f"{soft} at most")


def _person(command: Command) -> Iterator[Finding]:
    home = command.home
    try:
        home.master()
        yield Finding("person home", "ok", str(home.folder))
    except PotsherdError as error:
        yield Finding("person home", "problem", error.message, error.remedy)
    yield from _secret(home.folder / "master.key")
    if not home.networks.names():
        yield Finding("networks", "note", "none is known here", "Try it out with: potsherd lab up")


def _secret(path: Path) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return
    if mode & 0o077:
        yield Finding(
            path.name, "problem", f"others can read it (mode {mode:04o})", f"chmod 600 {path}"
        )


def _node(command: Command) -> Iterator[Finding]:
    home = command.node_home
    yield from _secret(home.folder / "node.key")
    try:
        network = home.network()
        home.key()
    except NotFoundError as error:
        yield Finding("node", "note", error.message, error.remedy)
        return
    except PotsherdError as error:
        yield Finding("node", "problem", error.message, error.remedy)
        return
    if network is None:
        yield Finding("node", "note", "it has joined no network")
        return
    process = running(home.folder)
    state = f"runs as process {process.process.pid}" if process else "does not run now"
    yield Finding("node", "ok", f"of network {network.name}; {state}")
    yield from _quota(command)
    yield from _listening(command)


def _quota(command: Command) -> Iterator[Finding]:
    quota, free = command.config["node.quota"], shutil.disk_usage(command.node_home.folder).free
    text = f"{format_size(quota)} given, {format_size(free)} free on that disk"
    if quota > free:
        # Space that the node uses already is part of both sides, so this is a note only.
        yield Finding("quota", "note", text, "The node stops taking more when the disk is full.")
    else:
        yield Finding("quota", "ok", text)


def _listening(command: Command) -> Iterator[Finding]:
    listen, advertise = command.config["node.listen"], command.config["node.advertise"]
    host = parse_address(listen).host
    if advertise is None and host in ("127.0.0.1", "::1"):
        yield Finding(
            "listen", "note", f"{listen} can be reached from this machine only", "Set node.listen."
        )
    elif advertise is None and host in ("0.0.0.0", "::"):  # noqa: S104 (compares, does not bind)
        yield Finding("listen", "problem", f"others cannot be told {listen}", "Set node.advertise.")
    else:
        yield Finding("listen", "ok", f"{listen}, others are told {advertise or listen}")


def _network(command: Command, name: str, *, offline: bool) -> Iterator[Finding]:
    check = f"network {name}"
    try:
        network = command.home.networks.get(name)
        yield from _secret(network.folder / "key")
        yield from _secret(network.folder / "invitation")
        if offline:
            yield Finding(check, "ok", f"id {network.config.network_id.hex()[:16]}, not asked")
        else:
            size = run(_size(command, network))
            yield Finding(check, "ok", f"{size} nodes give disk")
    except PotsherdError as error:
        yield Finding(check, "problem", error.message, error.remedy)


async def _size(command: Command, network: Network) -> int:
    async with client_session(command, network) as session:
        return await session.network_size()
