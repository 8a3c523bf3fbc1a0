"""`lab up | add | status | kill | sleep | wake | start | down`: a local network of real processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli.context import Command, JsonFlag, begin, real, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from potsherd.service.lab import Lab, LabNode

__all__ = ["app"]

app = typer.Typer(
    help="A local network of real node processes, to try things out.", no_args_is_help=True
)

SomeIndices = Annotated[
    list[int] | None, typer.Argument(metavar="[NODE...]", help="Numbers of nodes, from 1.")
]
Oldest = Annotated[
    int | None,
    typer.Option("--oldest", metavar="N", help="Those N that run and were made first."),
]


def _lab(command: Command) -> Lab:
    from potsherd.service.lab import Lab

    return Lab(command.home)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(help="How many node processes.")] = 12,
    quota: Annotated[str, typer.Option(metavar="SIZE", help="What each node may use.")] = "2GB",
    fast: Annotated[
        bool,
        typer.Option("--fast", help="A node that is killed is given up after about 20 seconds."),
    ] = False,
    repair_rate: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What repairs by one node may move in a second."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Start a local network on loopback, and wait until all its nodes have joined."""
    from potsherd.cli.config import parse_setting
    from potsherd.service.lab import LabSettings

    command = begin(as_json)
    settings = LabSettings(
        quota=parse_setting("node.quota", quota),
        timers="fast" if fast else "normal",
        repair_rate=0 if repair_rate is None else parse_setting("node.repair_rate", repair_rate),
    )
    env = real(command.home.folder)
    command.home.make_master(env.rng)  # so that `put` works at once
    run(_count_joined(command, nodes, _lab(command).up(env, nodes, settings)))
    command.output.show("lab", f"{nodes} nodes are up", nodes=nodes, folder=command.home.lab_folder)


@app.command()
def add(
    count: Annotated[int, typer.Argument(metavar="N", help="How many fresh nodes.")],
    as_json: JsonFlag = False,
) -> None:
    """Let fresh nodes join the lab, and wait until they have. Exit 4 when there is no lab."""
    command = begin(as_json)
    lab = _lab(command)
    env = real(command.home.folder)
    run(_count_joined(command, count, lab.add(env, count)))
    _changed(command, "added", [node.index for node in lab.nodes()][-count:])


async def _count_joined(command: Command, wanted: int, joining: AsyncIterator[int]) -> None:
    with command.output.counter("joined", wanted) as progress:
        async for joined in joining:
            progress(joined, wanted)


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
                "state": "up" if state else _silent(node),
                "address": f"{node.address.host}:{node.address.port}",
                "used": used if as_json else format_size(used),
                "shards": usage.get("shards", 0),
                "key": node.key if as_json else node.key[:16],
                "pid": node.process.pid,
            }
        )
    return rows


def _silent(node: LabNode) -> str:
    """Why it says nothing."""
    if node.process.stopped():
        return "asleep"
    return "silent" if node.process.alive() else "dead"


@app.command()
def kill(indices: SomeIndices = None, oldest: Oldest = None, as_json: JsonFlag = False) -> None:
    """SIGKILL nodes, as a power cut would."""
    command = begin(as_json)
    lab = _lab(command)
    _changed(command, "killed", lab.kill(_chosen(lab, indices, oldest)))


@app.command()
def sleep(
    indices: SomeIndices = None,
    oldest: Oldest = None,
    time: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="Wait so long (30s, 5min), then wake them."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop nodes without ending them (SIGSTOP), like machines that are put to sleep."""
    from potsherd.cli.units import parse_duration

    command = begin(as_json)
    duration = None if time is None else parse_duration(time)
    lab = _lab(command)
    asleep = lab.sleep(_chosen(lab, indices, oldest))
    if duration is None:
        _changed(command, "asleep", asleep)
        return
    try:
        command.output.note(f"asleep: {_list(asleep)}")
        run(_pause(duration))
    finally:
        woken = lab.wake(asleep) if asleep else []
    _changed(command, "woken", woken)


async def _pause(duration: float) -> None:
    import asyncio

    await asyncio.sleep(duration)


@app.command()
def wake(indices: SomeIndices = None, as_json: JsonFlag = False) -> None:
    """Continue nodes that are asleep (SIGCONT); all of them if none is named."""
    command = begin(as_json)
    _changed(command, "woken", _lab(command).wake(indices or []))


def _chosen(lab: Lab, indices: list[int] | None, oldest: int | None) -> list[int]:
    from potsherd.errors import UsageError

    if bool(indices) == (oldest is not None):
        raise UsageError("name the nodes by number, or take the --oldest N that run")
    return indices or lab.oldest(oldest or 0)


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
    command.output.show(f"lab_{what}", f"{what}: {_list(indices)}", nodes=indices)


def _list(indices: list[int]) -> str:
    return ", ".join(map(str, indices)) or "none"


@app.command()
def down(as_json: JsonFlag = False) -> None:
    """Stop all nodes and remove the lab with its data."""
    command = begin(as_json)
    stopped = run(_lab(command).down())
    command.output.show("lab_down", f"{stopped} nodes stopped, lab removed", stopped=stopped)
