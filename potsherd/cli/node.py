"""`node run | status`; the other verbs of `node` are in donor.py."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potsherd.cli import donor
from potsherd.cli.context import Command, JsonFlag, begin, real, run
from potsherd.cli.network import parse_bootstrap

if TYPE_CHECKING:
    from potsherd.node.node import Node
    from potsherd.node.settings import NodeSettings

__all__ = ["app"]

JOIN_RETRY_S = 2.0
"""Seconds until joining is tried again at first: nodes of a lab or a rack start at the same time."""

app = typer.Typer(help="The node on this machine.", no_args_is_help=True)


@app.command("run")
def run_(
    quota: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Disk to give, everything counted: 50GB.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen, UDP and TCP.")
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address that others are told, if another."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where the machine stands.")] = None,
    bootstrap: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY@HOST:PORT", help="A node to join by, besides those known."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the node in the foreground until SIGTERM or Ctrl-C."""
    from potsherd.service.daemon import serve

    command = begin(
        as_json, node__quota=quota, node__listen=listen, node__advertise=advertise, node__site=site
    )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    env = real(command.node_home.folder, is_node=True)
    settings = _settings(command, bootstrap or [])
    serving = serve(command.node_home, env, settings, ready=lambda node: _ready(command, node))
    number = run(serving, is_node=True)
    if number == signal.SIGINT:
        raise KeyboardInterrupt


def _settings(command: Command, bootstrap: list[str]) -> NodeSettings:
    from potsherd.cli.units import parse_address
    from potsherd.node.pace import at_pace
    from potsherd.node.repair.settings import RepairSettings
    from potsherd.node.settings import NodeSettings
    from potsherd.node.store import StoreConfig

    config = command.config
    advertise = config["node.advertise"]
    settings = NodeSettings(
        quota_bytes=config["node.quota"],
        listen=parse_address(config["node.listen"]),
        public_address=None if advertise is None else parse_address(advertise),
        site=config["node.site"],
        bootstrap=tuple(parse_bootstrap(text) for text in bootstrap),
        join_retry_s=JOIN_RETRY_S,
        repair=RepairSettings(
            bytes_per_s=config["node.repair_rate"],
            readable_target=float(config["node.readable"].rstrip("%")) / 100,
        ),
        store=StoreConfig(member_share=int(config["node.member_share"].rstrip("%")) / 100),
    )
    return at_pace(settings, config["node.timers"])


def _ready(command: Command, node: Node) -> None:
    from potsherd.cli.units import format_address

    address = format_address(node.listening)
    key = node.identity.key.hex()
    command.output.show("node", f"node {key} listens on {address}", key=key, address=address)
    if not node.leaving.takes:
        command.output.note(
            f"It is {node.leaving.intent.mode}: it takes no new pieces. To change that: potsherd node resume"
        )


@app.command()
def status(
    dropped: Annotated[
        bool,
        typer.Option("--dropped", help="What it does not keep any more, and why; newest first."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """What the running node says: joined or not, space, peers. Exit 4 when none runs."""
    from potsherd.service.local import call

    command = begin(as_json)
    if dropped:
        _show_dropped(command)
        return
    state = run(call(command.node_home.folder, "status"))
    command.output.show("node_status", _as_text(state), **state)


def _show_dropped(command: Command) -> None:
    from potsherd.cli.units import format_date, format_size
    from potsherd.service.local import call

    rows = run(call(command.node_home.folder, "dropped"))["dropped"]
    if not command.output.as_json:
        for row in rows:
            row |= {
                "date": format_date(row["date"]),
                "segment": row["segment_id"][:16],
                "piece": row["index"],
                "size": format_size(row["bytes"]),
            }
    columns = ("date", "segment", "piece", "size", "reason", "detail")
    command.output.table("dropped", columns, rows)


def _as_text(state: dict[str, Any]) -> str:
    """What a person wants to know; --json has all of it."""
    from potsherd.cli.units import format_date, format_size

    usage, peers = state["usage"], state["peers"]
    told = state["address"]
    lines = [
        f"network  {state['network']}, "
        + ("joined" if state["joined"] else "not joined yet: no other node answers"),
        f"node     {state['key']}",
        f"listens  on {_address(state['listen'])}, "
        + (f"others are told {_address(told)}" if told else "others are told nothing"),
        f"since    {format_date(state['since'])}",
        f"space    {format_size(usage['used'])} of {format_size(usage['quota'])} used, "
        f"{usage['shards']} pieces kept",
        f"peers    {peers['watched']} share pieces with it, {peers['away']} of them are away"
        + (f", {peers['gone']} given up" if peers.get("gone") else ""),
    ]
    lines += _keeping_lines(state)
    if state.get("trouble"):
        lines.append(f"trouble  {state['trouble']}")
    return "\n".join(lines)


def _keeping_lines(state: dict[str, Any]) -> list[str]:
    """What is ending, and what the donor has asked for."""
    from potsherd.cli.donor import progress_text

    kept, lines = state["retention"], []
    repairs = state["upkeep"]["repairer"]
    if repairs["needing"] or repairs["repaired"]:
        lines.append(
            f"repair   {repairs['needing']} segments need it, {repairs['repaired']} pieces rebuilt since then"
        )
    lines += _audit_lines(state["upkeep"]["auditing"])
    if repairs["inconsistent"]:
        lines.append(
            f"miscoded {len(repairs['inconsistent'])} segments were coded wrongly by their owner"
        )
    if kept["dropped"] or kept["ending"] or kept["waiting"]:
        lines.append(
            f"ended    {kept['dropped']} pieces deleted since then (node status --dropped), "
            f"{kept['ending']} in their grace"
        )
    if kept["waiting"]:
        lines.append(
            f"waits    {kept['waiting']} pieces are over by this machine's clock, other nodes do not agree"
        )
    if state["leaving"]["mode"]:
        lines.append(f"asked    {progress_text(state['leaving'])}")
    return lines + [line for trouble in state["troubles"] for line in _trouble_lines(trouble)]


def _audit_lines(auditing: dict[str, Any]) -> list[str]:
    """When others were last read, and this disk; what was found."""
    from potsherd.cli.units import format_date

    audits, scrub = auditing["audits"], auditing["scrub"]
    last = format_date(audits["newest"]) if audits["newest"] else "none yet"
    lines = [
        f"audits   last {last}; {audits['proofs']} pieces of others remembered as proven; since start "
        f"{audits['passed']} right, {audits['failed']} wrong, {audits['silent']} not answered"
    ]
    read = (
        f"read to the end {format_date(scrub['finished'])}" if scrub["finished"] else "not read yet"
    )
    if scrub["began"]:
        read += f", reading since {format_date(scrub['began'])}"
    lines.append(
        f"disk     {read}; since start {scrub['found']} damaged cells found, {scrub['mended']} pieces mended"
    )
    if scrub["damaged"]:
        lines.append(f"DAMAGED  {scrub['damaged']} pieces on this disk, being rebuilt from others")
    return lines


def _trouble_lines(trouble: dict[str, Any]) -> list[str]:
    """What is wrong with the machine, or was."""
    from potsherd.cli.output import printable
    from potsherd.cli.units import format_date

    since, last = format_date(trouble["first"]), format_date(trouble["last"])
    if not trouble["now"]:
        return [f"was      {printable(trouble['text'])} ({last})"]
    lines = [f"TROUBLE  {printable(trouble['text'])} (since {since})"]
    return [*lines, f"         {trouble['remedy']}"] if trouble["remedy"] else lines


def _address(told: dict[str, Any]) -> str:
    from potsherd.cli.units import format_address
    from potsherd.ports import Address

    return format_address(Address(told["host"], told["port"]))


for _verb in (donor.quota, donor.pause, donor.resume, donor.leave, donor.stop):
    app.command()(_verb)
