"""`init`, `config show`, `doctor`: the homes of a person and a node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potsherd.cli.context import Command, JsonFlag, begin, real, run

if TYPE_CHECKING:
    from potsherd.crypto.keys import Master, RecoveryFile

__all__ = ["config", "doctor", "init"]

config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)


def init(
    recovery: Annotated[
        Path | None,
        typer.Option(
            "--recovery", metavar="FILE", help="Write the recovery file there; never replaces one."
        ),
    ] = None,
    recover: Annotated[
        Path | None,
        typer.Option(
            "--recover", metavar="FILE", help="Bring back library and data from a recovery file."
        ),
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Disk that the node gives; kept in its config.toml."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make the person home and the node home: keys, settings, and a recovery file if you want one.

    May be run again: what is there stays as it is.
    """
    command = begin(as_json, node__quota=quota)
    if recover is not None:
        _recover(command, recover)
        return
    env = real(command.home.folder)
    fresh = not command.home.exists()
    master = command.home.make_master(env.rng)
    key = command.node_home.make_key(env.rng)
    _write_templates(command, quota)
    written = _recovery_file(command, master, recovery, ask=fresh)
    command.output.show(
        "init",
        f"person home  {command.home.folder}\nnode home    {command.node_home.folder}\n"
        f"person key   {master.identity_sign().verify_key.hex()}\n"
        f"node key     {key.verify_key.hex()}",
        person_home=command.home.folder,
        node_home=command.node_home.folder,
        person_key=master.identity_sign().verify_key,
        node_key=key.verify_key,
        fresh=fresh,
        recovery_file=written,
    )


def _write_templates(command: Command, quota: str | None) -> None:
    from potsherd.cli.config import template
    from potsherd.datasets.small_files import write_private

    if not command.home.config_path.exists():
        write_private(command.home.config_path, template("person").encode())
    path = command.node_home.folder / "config.toml"
    if not path.exists():
        text = template("node")
        if quota is not None:
            text += f'quota = "{quota}"\n'  # [node] is the only table there
        write_private(path, text.encode())
    elif quota is not None:
        command.output.note(f"{path} is there already: write the quota into it yourself.")


def _recovery_file(
    command: Command, master: Master, path: Path | None, *, ask: bool
) -> Path | None:
    """Write the recovery file where the user wants it; on a terminal, ask for the place."""
    if (
        path is None
        and ask
        and not command.output.as_json
        and sys.stdin.isatty()
        and sys.stderr.isatty()
    ):
        text = typer.prompt(
            "A recovery file brings back everything if this machine is lost.\n"
            "Where to write it (empty: not now)",
            default="",
            show_default=False,
            err=True,
        )
        path = Path(text).expanduser() if text.strip() else None
    if path is None:
        if ask:
            command.output.note(
                "No recovery file yet; make one with: potsherd init --recovery FILE"
            )
        return None
    _write_recovery(command, master, path)
    command.output.note(
        f"Recovery file written: {path}. Keep it offline; who has it can read everything."
    )
    return path


def _write_recovery(command: Command, master: Master, path: Path) -> None:
    from potsherd.crypto.keys import RecoveryFile
    from potsherd.datasets.small_files import write_new

    networks = command.home.networks
    texts = tuple(networks.get(name).as_text() for name in networks.names())
    write_new(path, RecoveryFile(master.secret, texts).encode().encode())


def _read_recovery(path: Path) -> RecoveryFile:
    from potsherd.crypto.keys import RecoveryFile
    from potsherd.datasets.small_files import read_small
    from potsherd.errors import MalformedError

    try:
        return RecoveryFile.decode(read_small(path).decode())
    except UnicodeDecodeError:
        raise MalformedError(f"{path} is no recovery file") from None


def _recover(command: Command, path: Path) -> None:
    """Master and networks first, then the library from the heads; may be repeated."""
    from potsherd.crypto.keys import Master
    from potsherd.errors import NotFoundError

    file = _read_recovery(path)
    master = Master(file.master)
    command.home.keep_master(master)
    env = real(command.home.folder)
    command.node_home.make_key(env.rng)
    _write_templates(command, None)
    for text in file.networks:
        command.home.networks.add(text)
    names = command.home.networks.names()
    if not names:
        raise NotFoundError(
            "the keys are back, but the recovery file names no network",
            remedy=f"Join one (potsherd network join FILE --client), then: potsherd init --recover {path}",
        )
    chosen = command.config["network"]
    found = [
        (name, label)
        for name in names
        if chosen in (None, name)
        for label in run(_rebuild(command, name))
    ]
    for network, label in found:
        command.output.show("recovered", f"{label}", name=label, network=network)
    command.output.note(f"{len(found)} datasets are back in the library.")


async def _rebuild(command: Command, network: str) -> list[str]:
    from potsherd.cli.data import connected
    from potsherd.datasets import operations

    with command.output.progress("recover") as progress:
        async with connected(command, command.home.networks.get(network), progress) as context:
            found = await operations.recover(context, command.home.master())
    return [dataset.name for dataset in found]


@config.command("show")
def config_show(as_json: JsonFlag = False) -> None:
    """Every setting, its value, and where it comes from."""
    command = begin(as_json)
    rows = [
        {
            "key": value.setting.key,
            "value": value.value,
            "source": value.source,
            "variable": value.setting.variable,
            "help": value.setting.help,
        }
        for value in command.config.values()
    ]
    if not as_json:
        rows = [
            row | {"value": "-" if row["value"] in (None, "") else row["value"]} for row in rows
        ]
    command.output.table("setting", ("key", "value", "source"), rows)


def doctor(
    offline: Annotated[bool, typer.Option(help="Leave out what needs the network.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Look for what is wrong with this installation, and say what to do. Exit 1 if something is."""
    from potsherd.cli.doctor import examine

    examine(begin(as_json), offline=offline)
