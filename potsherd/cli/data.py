"""The data verbs: `put list ls stat verify get cat`, and `peers`."""

from __future__ import annotations

from typing import Annotated

import typer

from potsherd.cli.context import JsonFlag, NetworkName, begin, run

__all__ = ["register"]

NAME_HELP = "A name of the library, a URN, - (read from standard input) or @FILE."

Name = Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP)]


def register(app: typer.Typer) -> None:
    """Add the verbs of this module."""
    app.command("peers")(peers)


def peers(network: NetworkName = None, as_json: JsonFlag = False) -> None:
    """The nodes that give disk to the network now."""
    from potsherd.cli.peers import donors

    command = begin(as_json, network=network)
    rows = run(donors(command, command.network()))
    command.output.table("peer", ("address", "site", "operator", "key"), rows)
