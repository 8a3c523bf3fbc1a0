"""`lab up | status | kill | start | down`: a local network of real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, begin, real, run

if TYPE_CHECKING:
    from potsherd.service.lab import Lab

__all__ = ["register"]

app = typer.Typer(
    help="A local network of real node processes, to try things out.", no_args_is_help=True
)

Indices = Annotated[list[int], typer.Argument(metavar="NODE...", help="Numbers of nodes, from 1.")]


def register(parent: typer.Typer) -> None:
    """Add the verbs of this module."""
    parent.add_typer(app, name="lab")


def _lab(command: Command) -> Lab:
    from potsherd.service.lab import Lab

    return Lab(command.home)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="How many node processes.")] = 12,
    quota: Annotated[str, typer.Option(metavar="SIZE", help="What each node may use.")] = "2GB",
    as_json: JsonFlag = False,
) -> None:
    """Start a local network on loopback, and wait until all its nodes have joined."""
    from potsherd.cli.units import parse_size

    command = begin(as_json)
    size = parse_size(quota)
    run(_up(command, _lab(command), nodes, size))
    command.output.show("lab", f"{nodes} nodes are up", nodes=nodes, folder=command.home.lab_folder)


async def _up(command: Command, lab: Lab, nodes: int, quota: int) -> None:
    env = real(command.home.folder)
    command.home.make_master(env.rng)  # so that `put` works at once
    with command.output.counter("joined", nodes) as progress:
        async for joined in lab.up(env, nodes, quota):
            progress(joined, nodes)


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """The lab's nodes. Exit 4 when there is no lab."""
    command = begin(as_json)
    lab = _lab(command)
    command.output.table(
        "lab_node", ("node", "state", "address", "used", "shards", "key"), run(_rows(lab, as_json))
    )


async def _rows(lab: Lab, as_json: bool) -> list[dict[str, Any]]:
    import asyncio

    from potsherd.cli.units import format_size

    nodes = lab.nodes()
    states = await asyncio.gather(*(lab.state(node) for node in nodes))
    rows = []
    for node, state in zip(nodes, states, strict=True):
        usage = state.get("usage", {})
        used = usage.get("used", 0)
        rows.append(
            {
                "node": node.index,
                "state": "up" if state else "silent" if node.process.alive() else "dead",
                "address": f"{node.address.host}:{node.address.port}",
                "used": used if as_json else format_size(used),
                "shards": usage.get("shards", 0),
                "key": node.key if as_json else node.key[:16],
                "pid": node.process.pid,
            }
        )
    return rows


@app.command()
def kill(indices: Indices, as_json: JsonFlag = False) -> None:
    """SIGKILL nodes, as a power cut would."""
    command = begin(as_json)
    hit = _lab(command).kill(indices)
    _changed(command, "killed", hit)


@app.command()
def start(
    indices: Annotated[
        list[int] | None,
        typer.Argument(metavar="[NODE...]", help="Numbers of nodes; all dead ones if none."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start nodes again, with the disks they had."""
    command = begin(as_json)
    _changed(command, "started", run(_lab(command).start(indices or [])))


def _changed(command: Command, what: str, indices: list[int]) -> None:
    text = f"{what}: {', '.join(map(str, indices)) or 'none'}"
    command.output.show(f"lab_{what}", text, nodes=indices)


@app.command()
def down(as_json: JsonFlag = False) -> None:
    """Stop all nodes and remove the lab with its data."""
    command = begin(as_json)
    stopped = run(_lab(command).down())
    command.output.show("lab_down", f"{stopped} nodes stopped, lab removed", stopped=stopped)
