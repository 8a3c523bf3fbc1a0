"""What the data verbs share: a NAME, the network it lies in, a joined client."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, real, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from potsherd.cli.output import Progress
    from potsherd.datasets.library import Resolved
    from potsherd.datasets.networks import Network
    from potsherd.datasets.operations import Context

__all__ = ["DatasetName", "connected", "network_of", "peers", "resolved"]

DatasetName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name of the library, a URN, - (read from standard input) or @FILE."
    ),
]


def resolved(command: Command, name: str) -> Resolved:
    """What NAME means. Warns when a key link stood on the command line, where others can read it."""
    from potsherd.datasets.library import Library, resolve

    path = command.home.library_path
    library = Library(path) if path.exists() else None
    try:
        found = resolve(name, sys.stdin, library)
    finally:
        if library is not None:
            library.close()
    if found.typed and not (found.dataset and found.dataset.public):
        command.output.note(
            "A key link on the command line can be seen by others on this machine and stays in the "
            "shell's history; - reads it from standard input, @FILE from a file."
        )
    return found


def network_of(command: Command, found: Resolved, flag: str | None) -> Network:
    """The network that was asked for, else the one where the dataset was put, else the usual one."""
    known = command.home.networks
    if flag is None and found.dataset is not None and found.dataset.network in known.names():
        return known.get(found.dataset.network)
    return command.network()


@asynccontextmanager
async def connected(
    command: Command, network: Network, progress: Progress | None = None
) -> AsyncIterator[Context]:
    """A joined client; what a running node of the network knows is taken over first."""
    from potsherd.cli.peers import borrow_peers
    from potsherd.datasets import operations

    def count(what: str, done: int, total: int) -> None:
        if progress is not None and what == "bytes":
            progress(done, total)
        elif progress is not None:
            progress(0, None, f"{done} of {total} {what}" if total else f"{done} {what}")

    await borrow_peers(command, network)
    env = real(command.home.spool_folder)
    async with operations.connect(env, command.home, network, on_progress=count) as context:
        yield context


def peers(network: NetworkName = None, as_json: JsonFlag = False) -> None:
    """The nodes that give disk to the network now."""
    from potsherd.cli.peers import donors

    command = begin(as_json, network=network)
    rows = run(donors(command, command.network()))
    command.output.table("peer", ("address", "site", "operator", "key"), rows)
