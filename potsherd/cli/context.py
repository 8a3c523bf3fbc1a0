"""What every command starts from: its homes, its settings, its output, and the real `Env`."""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from potsherd.classes import dataclass
from potsherd.cli.output import Output
from potsherd.cli.process import little_garbage

if TYPE_CHECKING:
    import asyncio

    from potsherd.cli.config import Config
    from potsherd.datasets.home import Home
    from potsherd.datasets.networks import Network
    from potsherd.ports import Env
    from potsherd.service.nodehome import NodeHome

__all__ = [
    "Command",
    "JsonFlag",
    "NetworkName",
    "begin",
    "now",
    "real",
    "run",
]

T = TypeVar("T")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
NetworkName = Annotated[
    str | None,
    typer.Option(
        "--network", metavar="NAME", help="The network, by its name here; see network list."
    ),
]


@dataclass(frozen=True)
class Command:
    """One call of one verb."""

    home: Home
    node_home: NodeHome
    config: Config
    output: Output
    environment: Mapping[str, str]

    def network(self) -> Network:
        """The network that was chosen, or the only one."""
        return self.home.networks.choose(self.config["network"])


def begin(as_json: bool, **flags: Any) -> Command:
    """Resolve homes and settings; `flags` are settings given as options, `.` written as `__`."""
    from potsherd.cli.config import Config
    from potsherd.datasets.home import Home
    from potsherd.service.nodehome import NodeHome

    # What rooms below log is for services; a command says what matters by its errors.
    logging.getLogger("potsherd").addHandler(logging.NullHandler())
    home = Home.find(os.environ)
    files = {"person": home.config_path, "node": home.node_folder / "config.toml"}
    given = {key.replace("__", "."): value for key, value in flags.items()}
    config = Config(files, os.environ, given)
    return Command(home, NodeHome(home.node_folder), config, Output(as_json=as_json), os.environ)


def real(folder: Path, *, is_node: bool = False) -> Env:
    """The `Env` of clocks, sockets, threads and the disk at `folder`."""
    from potsherd.datasets.small_files import private_folder
    from potsherd.node.real.env import THREADS_DEFAULT, real_env, threads_to_compute

    threads = THREADS_DEFAULT if is_node else threads_to_compute()
    return real_env(private_folder(folder), threads=threads)


def now() -> float:
    """Seconds since 1970; unlike `real` it makes no folder."""
    from potsherd.node.real.env import utc

    return utc()


def run(main: Coroutine[Any, Any, T], *, is_node: bool = False) -> T:
    """Run to the end on a loop of its own; uvloop's when the extra [fast] is installed."""
    import asyncio

    from potsherd.node.real.memory import CLIENT_KEEP_BYTES, NODE_KEEP_BYTES, reuse_memory

    reuse_memory(NODE_KEEP_BYTES if is_node else CLIENT_KEEP_BYTES, huge=not is_node)
    # Some 100,000 objects of libraries are looked through at each full collection: a quarter of a put's time.
    gc.freeze()
    little_garbage()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_small(main) if is_node else main)


async def _small(main: Coroutine[Any, Any, T]) -> T:
    """Run it, and meanwhile keep the process small."""
    import asyncio

    from potsherd.node.real.memory import stay_small

    beside = asyncio.create_task(stay_small())
    try:
        return await main
    finally:
        beside.cancel()
