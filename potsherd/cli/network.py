"""`network create | invite | join | members | list`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, NetworkName, begin, real, run

if TYPE_CHECKING:
    from potsherd.crypto.invitations import InvitationFile
    from potsherd.datasets.networks import Network
    from potsherd.ports import Address, Env

__all__ = ["app", "parse_bootstrap"]

TEXT_CHARACTERS_MAX = 2**18
"""Of an invitation on standard input."""

app = typer.Typer(help="Networks: make one, invite, join, see who is in.", no_args_is_help=True)


def parse_bootstrap(text: str) -> tuple[bytes, Address]:
    """`NODEKEY@192.0.2.1:4800` → (32 bytes, address). Raises UsageError."""
    from potsherd.cli.units import parse_address
    from potsherd.errors import UsageError

    key, at, address = text.partition("@")
    if not at or not re.fullmatch(r"[0-9a-fA-F]{64}", key):
        raise UsageError(f"{text!r} is not KEY@ADDRESS:PORT", remedy="The key has 64 hex digits.")
    return bytes.fromhex(key), parse_address(address)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the network is called.")],
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where others reach this node; otherwise node.advertise, or node.listen.",
        ),
    ] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY@HOST:PORT", help="Another node to join by; may be repeated."),
    ] = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="Admit everybody, without invitation.")
    ] = False,
    operator: Annotated[str, typer.Option(help="Label of who runs this node.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Make a network, and make this node its first member."""
    from potsherd.cli.units import format_address, parse_address
    from potsherd.errors import UsageError

    command = begin(as_json)
    if (serving := command.node_home.network()) is not None:
        raise UsageError(f"this node serves the network {serving.name!r} already")
    env = real(command.home.folder)
    node_key = command.node_home.make_key(env.rng)
    settings = command.config
    where = parse_address(address or settings["node.advertise"] or settings["node.listen"])
    nodes = [(node_key.verify_key, where), *map(parse_bootstrap, bootstrap or [])]
    network = command.home.networks.create(env, name, nodes, is_open=is_open, operator=operator)
    chain = network.invitation.certify_node(node_key.verify_key, 0) if network.invitation else b""
    command.node_home.join(network.config_bytes, chain)
    _show_network(command, network, node_key=node_key.verify_key, address=format_address(where))
    command.output.note("Start its first node with: potsherd node run")


def _show_network(command: Command, network: Network, **more: Any) -> None:
    command.output.show(
        "network",
        f"{network.name}  id {network.config.network_id.hex()}",
        name=network.name,
        id=network.config.network_id,
        open=network.config.is_open,
        maker=network.is_maker(),
        **more,
    )


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """The networks that are known here."""
    command = begin(as_json)
    for name in command.home.networks.names():
        _show_network(command, command.home.networks.get(name))


@app.command()
def invite(
    nodes: Annotated[
        int, typer.Option(min=1, max=65535, help="How many nodes may join with it.")
    ] = 1,
    operator: Annotated[
        str, typer.Option(help="Label of who will run them: a failure domain.")
    ] = "",
    join_by: Annotated[
        str, typer.Option(metavar="DATE", help="Join until then: 2030-01-31, or 30d.")
    ] = "30d",
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Membership ends then; otherwise never.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it there (mode 0600)."),
    ] = None,
    network: NetworkName = None,
    as_json: JsonFlag = False,
) -> None:
    """Print an invitation file. It is secret: whoever has it can join."""
    from potsherd.cli.units import parse_date
    from potsherd.datasets.small_files import write_new

    command = begin(as_json, network=network)
    chosen = command.network()
    env = real(command.home.folder)
    if chosen.config.is_open:
        text, serial = chosen.as_text(), None
    else:
        end = None if until is None else parse_date(until, env.utc())
        join_end = parse_date(join_by, env.utc())
        made = chosen.invite(env, operator, nodes, join_by=join_end, until=end)
        text, serial = made.encode(), made.certificate.serial
    if output is not None:
        write_new(output, text.encode())
    command.output.show(
        "invitation",
        f"{output}" if output else text.rstrip(),
        network=chosen.name,
        serial=serial,
        nodes=nodes,
        file=output,
        text=None if output else text,
    )


@app.command()
def join(
    file: Annotated[
        str, typer.Argument(help="Invitation or network file; - reads standard input.")
    ],
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What to call the network here.")
    ] = None,
    client: Annotated[
        bool, typer.Option("--client", help="Only store and read; give no disk to this network.")
    ] = False,
    number: Annotated[
        int | None,
        typer.Option(min=0, help="Which node of the invitation this is; otherwise asked for."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Join a network with an invitation, as a node that gives disk, or with --client without."""
    command = begin(as_json)
    env = real(command.home.folder)
    text = _read_text(file)
    invitation = _checked(text, env.utc())
    known = set(command.home.networks.names())
    network = command.home.networks.add(text, name)
    try:
        chosen = None if client else _join_node(command, env, network, invitation, number)
    except BaseException:
        if network.name not in known:
            command.home.networks.remove(network.name)
        raise
    _show_network(command, network, number=chosen)
    if not client:
        command.output.note("Start the node with: potsherd node run")


def _join_node(
    command: Command,
    env: Env,
    network: Network,
    invitation: InvitationFile | None,
    number: int | None,
) -> int | None:
    """Certify this node and keep that in its home; the number it took."""
    from potsherd.service.joining import free_number

    key = command.node_home.make_key(env.rng).verify_key
    if invitation is None:
        command.node_home.join(network.config_bytes, b"")
        return None
    if number is None:
        number = run(free_number(env, network, invitation, key))
    command.node_home.join(network.config_bytes, invitation.certify_node(key, number))
    return number


def _read_text(file: str) -> str:
    from potsherd.datasets.small_files import read_small
    from potsherd.errors import MalformedError

    if file == "-":
        return sys.stdin.read(TEXT_CHARACTERS_MAX)
    try:
        return read_small(Path(file)).decode()
    except UnicodeDecodeError:
        raise MalformedError(f"{file} is no invitation") from None


def _checked(text: str, now: float) -> InvitationFile | None:
    """The invitation, if it is one and still holds; None for an open network's file."""
    from potsherd.crypto.invitations import InvitationFile, decode_network

    if "POTSHERD NETWORK" in text.upper():
        decode_network(text)
        return None
    invitation = InvitationFile.decode(text)
    invitation.check_join(now)
    return invitation


@app.command()
def members(network: NetworkName = None, as_json: JsonFlag = False) -> None:
    """The nodes that give disk now; for who made the network, also the invitations issued."""
    command = begin(as_json, network=network)
    chosen = command.network()
    from potsherd.cli.peers import donors

    command.output.table(
        "member", ("operator", "site", "address", "key"), run(donors(command, chosen))
    )
    if chosen.is_maker() and not chosen.config.is_open:
        issued = chosen.issued()
        if not as_json:
            command.output.show("", "")
        command.output.table("invitation", ("serial", "operator", "nodes"), issued)
