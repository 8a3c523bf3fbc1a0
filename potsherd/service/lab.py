"""The lab: a local network of real node processes on loopback, to try things out and to test with.

Under POTSHERD_HOME: `lab/lab.json` says which nodes there are, `lab/nodeNN/` is the home of one node process
with its log, and the person home gets a network `lab`, so that data verbs find it like any other network.

A lab outlives the command that started it.  Processes are known by number and starting time, so a state file from
before a reboot never makes us kill a stranger.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

from potsherd.classes import dataclass
from potsherd.datasets.home import HOME_VARIABLE, Home
from potsherd.datasets.networks import Network
from potsherd.datasets.peer_cache import PeerCache
from potsherd.datasets.small_files import private_folder, read_json, write_private
from potsherd.errors import (
    MalformedError,
    NotFoundError,
    PeerError,
    PotsherdError,
    RefusedError,
    UsageError,
)
from potsherd.kernels.choice import cache_folder
from potsherd.node.session import Session
from potsherd.ports import Address, Env, Rng
from potsherd.service.local import call, clear, running
from potsherd.service.nodehome import NodeHome
from potsherd.service.processes import Process

__all__ = ["NETWORK_NAME", "NODES_MAX", "Lab", "LabNode", "LabSettings"]

NETWORK_NAME = "lab"
NODES_MAX = 200
"""Nodes of a lab that run at a time: each is a Python process of some 60 MB."""
NODES_EVER_MAX = 10_000
"""Nodes that the lab's invitation admits, those that were killed counted."""
DONORS_MAX = 1000
"""Presences looked at when it is waited for new nodes; those of dead nodes are among them for a while."""
START_TIMEOUT_S = 60.0
START_TIMEOUT_PER_NODE_S = 3.0
"""Seconds until all nodes must have joined: a Python process takes half a CPU second to start."""
POLL_S = 0.2
STOP_TIMEOUT_S = 10.0
"""Seconds for an orderly stop before SIGKILL."""
HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
_NOBODY = Process(0, "")
_Known = tuple[bytes, Address]


@dataclass(frozen=True)
class LabNode:
    """One node of the lab."""

    index: int
    """1 … N, as the command line counts."""
    port: int
    key: str
    """Node key in hex."""
    process: Process

    @property
    def address(self) -> Address:
        """UDP and TCP."""
        return Address(HOST, self.port)


@dataclass(frozen=True)
class LabSettings:
    """What every node of the lab runs with; kept, so that nodes added later are like the first ones."""

    quota: int = 2 * 10**9
    """Bytes that each may use."""
    timers: str = "normal"
    """A name of `potsherd.node.pace`."""
    repair_rate: int = 0
    """Bytes a second that repairs by one node may move; 0: the node's default."""

    def write(self, folder: Path, port: int, site: str) -> None:
        """The node's config.toml."""
        lines = [
            "[node]",
            f'listen = "{HOST}:{port}"',
            f"quota = {self.quota}",
            f'site = "{site}"',
            f'timers = "{self.timers}"',
        ]
        if self.repair_rate:
            lines.append(f"repair_rate = {self.repair_rate}")
        write_private(folder / "config.toml", "\n".join([*lines, ""]).encode())


@dataclass
class _State:
    """What lab.json holds."""

    settings: LabSettings
    nodes: dict[int, LabNode] = field(default_factory=dict)


class Lab:
    """The lab of one POTSHERD_HOME."""

    def __init__(self, home: Home) -> None:
        """Reads nothing yet."""
        self._home = home
        self.folder = home.lab_folder
        # Popen objects must not be collected while their process runs.
        self._children: list[subprocess.Popen[bytes]] = []

    def nodes(self) -> list[LabNode]:
        """As the state file has them. Raises NotFoundError without a lab."""
        return list(self._read().nodes.values())

    def _read(self) -> _State:
        try:
            state = read_json(self.folder / "lab.json")
            nodes = [
                LabNode(int(n["index"]), int(n["port"]), str(n["key"]), Process(**n["process"]))
                for n in state["nodes"]
            ]
            return _State(LabSettings(**state["settings"]), {node.index: node for node in nodes})
        except NotFoundError:
            raise NotFoundError(
                "no lab is up here", remedy="Start one with: potsherd lab up"
            ) from None
        except (KeyError, TypeError, ValueError):
            raise MalformedError(
                f"{self.folder / 'lab.json'} is damaged", remedy="Clear it with: potsherd lab down"
            ) from None

    def exists(self) -> bool:
        """Whether there is anything of a lab, running or not."""
        return (self.folder / "lab.json").exists()

    async def up(self, env: Env, count: int, settings: LabSettings) -> AsyncIterator[int]:
        """Make the lab and start its nodes; yields how many have joined so far, until all have.

        Raises RefusedError when there is a lab, PeerError when a node does not come up; then nothing is left.
        """
        if not 1 <= count <= NODES_MAX:
            raise UsageError(f"a lab has 1 to {NODES_MAX} nodes")
        with self._locked():
            if self.exists():
                raise RefusedError(
                    "a lab is here already",
                    remedy="Take it down first: potsherd lab down (its data goes)",
                )
            try:
                private_folder(self.folder)
                made = self._make_homes(env, range(1, count + 1), settings)
                network = self._make_network(env, [(bytes.fromhex(n.key), n.address) for n in made])
                self._admit(network, made)
                self._write(_State(settings, {node.index: node for node in made}))
                # The first has nobody to ask and joins at once; the others join by it.
                self._start([1])
                async for _ in self._wait_joined([1]):
                    pass
                self._start([])
                async for joined in self._wait_joined([]):
                    yield joined
                await self._wait_seen(env, network, made)
            except BaseException:
                await self._down()
                raise

    async def add(self, env: Env, count: int) -> AsyncIterator[int]:
        """Let fresh nodes join the lab that runs; yields how many have joined so far, until all have.

        Raises NotFoundError without a lab, UsageError when it would be too large, PeerError when a node
        does not come up; those that were made stay, dead or alive.
        """
        with self._locked():
            state = self._read()
            alive = [node for node in state.nodes.values() if node.process.alive()]
            if (
                not 1 <= count <= NODES_MAX - len(alive)
                or count + len(state.nodes) > NODES_EVER_MAX
            ):
                raise UsageError(
                    f"a lab has at most {NODES_MAX} nodes at a time, {NODES_EVER_MAX} in all"
                )
            if not alive:
                raise RefusedError(
                    "no node of the lab runs: new ones would find nobody",
                    remedy="Start those that it has: potsherd lab start",
                )
            network = self._home.networks.get(NETWORK_NAME)
            first = max(state.nodes) + 1
            made = self._make_homes(env, range(first, first + count), state.settings)
            known = [(bytes.fromhex(node.key), node.address) for node in alive]
            network.peers.save(known)
            self._admit(network, made, known)
            state.nodes |= {node.index: node for node in made}
            self._write(state)
            fresh = [node.index for node in made]
            self._start(fresh)
            async for joined in self._wait_joined(fresh):
                yield joined
            await self._wait_seen(env, network, made)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time changes the lab. Raises RefusedError while another does."""
        private_folder(self._home.base)
        with (self._home.base / "lab.lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RefusedError("another command is changing the lab now") from None
            yield

    def _make_homes(self, env: Env, indices: Sequence[int], settings: LabSettings) -> list[LabNode]:
        """Homes with keys and settings; they have joined no network yet."""
        ports = _free_ports(env.rng, len(indices))
        made = []
        for index, port in zip(indices, ports, strict=True):
            home = NodeHome(self._node_folder(index) / "node")
            key = home.make_key(env.rng).verify_key
            settings.write(home.folder, port, f"lab-{index}")
            made.append(LabNode(index, port, key.hex(), _NOBODY))
        return made

    def _admit(
        self, network: Network, nodes: Sequence[LabNode], known: Sequence[_Known] = ()
    ) -> None:
        """Network and credential for each of the homes, and `known`: nodes to join by."""
        if network.invitation is None:
            raise MalformedError("the lab's network has no invitation")
        for node in nodes:
            home = NodeHome(self._node_folder(node.index) / "node")
            credential = network.invitation.certify_node(bytes.fromhex(node.key), node.index - 1)
            home.join(network.config_bytes, credential)
            PeerCache(home.folder / "peers").save(known)

    def _make_network(self, env: Env, nodes: Sequence[_Known]) -> Network:
        networks = self._home.networks
        if NETWORK_NAME in networks.names():
            if not (networks.folder / NETWORK_NAME / _MARK).exists():
                raise RefusedError(
                    f"a network of yours is called {NETWORK_NAME!r}",
                    remedy="Use another POTSHERD_HOME for the lab.",
                )
            networks.remove(NETWORK_NAME)  # of a lab that was removed by hand
        network = networks.create(
            env, NETWORK_NAME, nodes[:1], is_open=False, operator="lab", nodes=NODES_EVER_MAX
        )
        write_private(network.folder / _MARK, b"")
        network.peers.save(nodes)  # so that clients find others when the first is dead
        return network

    def _node_folder(self, index: int) -> Path:
        return self.folder / f"node{index:02}"

    def _write(self, state: _State) -> None:
        found = {
            "version": 1,
            "settings": asdict(state.settings),
            "nodes": [asdict(node) for node in state.nodes.values()],
        }
        write_private(self.folder / "lab.json", json.dumps(found, indent=1).encode())

    async def start(self, indices: Sequence[int] = ()) -> list[int]:
        """Start these nodes, or all that do not run, and wait until they have joined; which ones."""
        with self._locked():
            started = self._start(indices)
            async for _ in self._wait_joined(started):
                pass
        return started

    def _start(self, indices: Sequence[int]) -> list[int]:
        started = []
        state = self._read()
        nodes = state.nodes
        for index in self._known(indices, nodes):
            if nodes[index].process.alive():
                continue
            # One writing for each process: if we are killed now, `down` still knows all of them.
            nodes[index] = replace(nodes[index], process=self._spawn(index))
            self._write(state)
            started.append(index)
        return started

    def _known(self, indices: Sequence[int], nodes: dict[int, LabNode]) -> list[int]:
        for index in indices:
            if index not in nodes:
                raise NotFoundError(
                    f"the lab has no node {index}", remedy=f"It has nodes 1 to {len(nodes)}."
                )
        return list(dict.fromkeys(indices)) or list(nodes)

    def _spawn(self, index: int) -> Process:
        folder = self._node_folder(index)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("POTSHERD_")}
        environment[HOME_VARIABLE] = str(folder)
        environment["POTSHERD_KERNEL_CACHE"] = str(cache_folder())  # compiled once for all of them
        with (folder / "log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "potsherd", "node", "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is not for the nodes
            )
        self._children.append(child)
        return Process.of(child.pid)

    async def _wait_joined(self, indices: Sequence[int]) -> AsyncIterator[int]:
        """Yields how many of these nodes, or of all, have joined, when that changes, until all have."""
        last, wanted = -1, list(indices) or [node.index for node in self.nodes()]
        timeout_s = START_TIMEOUT_S + START_TIMEOUT_PER_NODE_S * len(wanted)
        try:
            async with asyncio.timeout(timeout_s):
                while last < len(wanted):
                    nodes = [node for node in self.nodes() if node.index in wanted]
                    self._check_alive(nodes)
                    states = await asyncio.gather(*(self.state(node) for node in nodes))
                    joined = sum(state.get("joined", False) for state in states)
                    if joined != last:
                        yield (last := joined)
                    else:
                        await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise PeerError(
                f"only {last} nodes joined within {timeout_s:.0f} s",
                remedy=f"See what they say: {self.folder}/node*/log",
            ) from None

    async def _wait_seen(self, env: Env, network: Network, nodes: Sequence[LabNode]) -> None:
        """Until a client sees every one of these nodes: their presences have been published."""
        access = network.client(env)
        session = await Session.open(
            env, access.config, access.chain, access.identity, bootstrap=access.bootstrap
        )
        missing = {bytes.fromhex(node.key) for node in nodes}
        target = access.config.network_id[:20]
        try:
            async with session, asyncio.timeout(START_TIMEOUT_S):
                while missing:
                    missing -= {donor.key for donor in await session.donors(target, DONORS_MAX)}
                    await asyncio.sleep(POLL_S if missing else 0)
        except TimeoutError:
            raise PeerError(f"{len(missing)} of {len(nodes)} nodes cannot be seen") from None

    def _check_alive(self, nodes: Sequence[LabNode]) -> None:
        for child in self._children:
            child.poll()
        for node in nodes:
            if node.process != _NOBODY and not node.process.alive():
                raise PeerError(f"node {node.index} ended at once: {self._last_words(node.index)}")

    def _last_words(self, index: int) -> str:
        try:
            lines = (self._node_folder(index) / "log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        return " / ".join(lines[-2:]) or "it said nothing"

    async def state(self, node: LabNode) -> dict[str, Any]:
        """What the node says of itself, or nothing when it does not run or answer."""
        if not node.process.alive() or node.process.stopped():
            return {}
        try:
            return await call(self._node_folder(node.index) / "node", "status")
        except PotsherdError:
            return {}

    def kill(self, indices: Sequence[int]) -> list[int]:
        """SIGKILL, like a power cut for the process; which ones were alive."""
        nodes = {node.index: node for node in self.nodes()}
        return [index for index in self._known(indices, nodes) if nodes[index].process.kill()]

    def oldest(self, count: int) -> list[int]:
        """Those of the nodes that run which were made first. Raises UsageError when fewer run."""
        alive = [node.index for node in self.nodes() if node.process.alive()]
        if not 1 <= count <= len(alive):
            raise UsageError(f"{len(alive)} nodes of the lab run")
        return sorted(alive)[:count]

    def sleep(self, indices: Sequence[int]) -> list[int]:
        """SIGSTOP, like a machine that is put to sleep; which ones were awake."""
        nodes = self._read().nodes
        awake = [i for i in self._known(indices, nodes) if not nodes[i].process.stopped()]
        return [index for index in awake if nodes[index].process.kill(signal.SIGSTOP)]

    def wake(self, indices: Sequence[int]) -> list[int]:
        """SIGCONT to these nodes, or to all; which ones were asleep."""
        nodes = self._read().nodes
        asleep = [i for i in self._known(indices, nodes) if nodes[i].process.stopped()]
        return [index for index in asleep if nodes[index].process.kill(signal.SIGCONT)]

    async def down(self) -> int:
        """Stop every node and remove the lab with its data and its network; how many were running."""
        with self._locked():
            return await self._down()

    async def _down(self) -> int:
        alive = [process for process in self._processes() if process.kill(signal.SIGTERM)]
        for process in alive:
            process.kill(signal.SIGCONT)  # who is asleep hears nothing
        if not await self._wait_ended(alive):
            for process in alive:
                process.kill()
            await self._wait_ended(alive)
        for home in self.folder.glob("node*/node"):
            clear(home)
        shutil.rmtree(self.folder, ignore_errors=True)
        if (self._home.networks.folder / NETWORK_NAME / _MARK).exists():
            self._home.networks.remove(NETWORK_NAME)
        return len(alive)

    async def _wait_ended(self, processes: Sequence[Process]) -> bool:
        """Whether all have ended within STOP_TIMEOUT_S."""
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                while any(process.alive() for process in processes):
                    for child in self._children:
                        child.poll()  # else it stays as a zombie
                    await asyncio.sleep(POLL_S / 4)
                return True
        return False

    def _processes(self) -> list[Process]:
        """From the state file, and from what the nodes wrote themselves if that file is damaged."""
        found = []
        with suppress(NotFoundError, MalformedError):
            found = [node.process for node in self.nodes()]
        for folder in sorted(self.folder.glob("node*/node")):
            node = running(folder)
            if node is not None and node.process not in found:
                found.append(node.process)
        return found


_MARK = "made-by-lab"
"""In the network's folder: this network goes when the lab goes."""


def _free_ports(rng: Rng, count: int) -> list[int]:
    """Ports that are free for UDP and TCP, below those that systems give to outgoing connections.

    So nobody takes the port of a node that is dead until it is started again.
    """
    ports: list[int] = []
    for port in rng.sample(PORTS, len(PORTS)):
        if len(ports) == count:
            return ports
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind((HOST, port))
            udp.bind((HOST, port))
            ports.append(port)
    raise RefusedError(f"fewer than {count} ports are free from {PORTS.start} to {PORTS.stop - 1}")
