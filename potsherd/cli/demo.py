"""The demonstration (`make demo`): a dataset survives the nodes that held all of its plain data.

It does what a user would do, by the command `potsherd` only, and shows every command line before it runs it.
Everything lies in a temporary folder and is gone afterwards.
"""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["make_dataset", "play"]

NODES = 12
DATA_PIECES = 4
"""k: pieces that suffice; the first k hold the ciphertext itself, the others parity."""
SECONDS, RATE_HZ, CHANNELS = 20, 10_000, 16
"""Of the made-up recording: 6.4 MB as 16-bit integers."""


def say(text: str = "") -> None:
    """One line to the reader."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Terminal:
    """Runs `potsherd` like somebody at a terminal, under a POTSHERD_HOME of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {"POTSHERD_HOME": str(folder / "home")}

    def potsherd(self, *arguments: str) -> None:
        """Show the command line, run it, and stop the demonstration if it fails."""
        say(f"$ potsherd {' '.join(arguments)}")
        subprocess.run(self._command(arguments), env=self._environment, cwd=self.folder, check=True)
        say()

    def ask(self, *arguments: str) -> list[dict[str, Any]]:
        """The same with --json, for what the next step needs to know."""
        say(f"$ potsherd {' '.join(arguments)} --json")
        code, rows = self.look(*arguments)
        if code:
            raise subprocess.CalledProcessError(code, self._command(arguments))
        return rows

    def look(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and what a command says with --json; shows nothing."""
        ended = subprocess.run(
            self._command((*arguments, "--json")),
            env=self._environment,
            cwd=self.folder,
            check=False,
            capture_output=True,
        )
        return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "potsherd", *arguments]

    @contextmanager
    def lab(self, nodes: int, *options: str) -> Iterator[None]:
        """A local network while the block runs; taken down whatever happens."""
        try:
            self.potsherd("lab", "up", "--nodes", str(nodes), *options)
            yield
        finally:
            self.potsherd("lab", "down")


def make_dataset(folder: Path) -> None:
    """A small experiment: an HDF5 recording laid out like NWB, its trials as CSV, notes, and odd ends."""
    import h5py
    import numpy as np

    rng = np.random.default_rng(2)
    (folder / "sub-01" / "ses-a").mkdir(parents=True)
    with h5py.File(folder / "sub-01" / "ses-a" / "recording.nwb", "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["session_description"] = "made up for the demonstration"
        series = file.create_group("acquisition/ElectricalSeries")
        noise = rng.normal(scale=40.0, size=(SECONDS * RATE_HZ, CHANNELS)).cumsum(axis=0) % 4096
        data = series.create_dataset("data", data=noise.astype("int16"), chunks=(RATE_HZ, CHANNELS))
        data.attrs["unit"] = "microvolts"
        series.create_dataset("starting_time", data=0.0).attrs["rate"] = float(RATE_HZ)
        file["intervals/trials/start_time"] = np.arange(0, SECONDS, 2.0)
    trials = [f"{n},{2.0 * n:.3f},{rng.integers(2)}" for n in range(SECONDS // 2)]
    (folder / "sub-01" / "trials.csv").write_text("trial,start_s,hit\n" + "\n".join(trials) + "\n")
    (folder / "README.txt").write_text("A recording of nothing, to be kept for ever.\n")
    (folder / "sub-01" / "empty.txt").touch()
    (folder / "latest").symlink_to("sub-01/ses-a")


def data_holders(terminal: Terminal, name: str) -> list[int]:
    """Numbers of the lab's nodes that hold the data columns of the entry segment."""
    [stat] = terminal.ask("stat", name)
    [entry] = [segment for segment in stat["segments"] if segment["entry"]]
    keys = {piece["key"] for piece in entry["pieces"] if piece["index"] < entry["k"]}
    nodes = terminal.ask("lab", "status")
    return [node["node"] for node in nodes if node["key"] in keys]


def differences(one: Path, other: Path) -> list[str]:
    """Paths that are not the same, byte for byte, in both folders; symbolic links by their targets."""
    names = {p.relative_to(root) for root in (one, other) for p in root.rglob("*")}
    return sorted(str(name) for name in names if not _same(one / name, other / name))


def _same(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if one.is_dir():
        return other.is_dir()
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def demonstrate(folder: Path) -> bool:
    """The whole story; whether the data came back whole."""
    terminal = Terminal(folder)
    make_dataset(folder / "recordings")
    say(f"A dataset has been made in {folder / 'recordings'}: HDF5, CSV, text, a link.\n")
    with terminal.lab(NODES):
        code = ("--k", str(DATA_PIECES), "--n", str(NODES))
        terminal.potsherd("put", "recordings", *code)
        doomed = data_holders(terminal, "recordings")
        say(
            f"\nThe first {DATA_PIECES} pieces hold the encrypted data itself, the other "
            f"{NODES - DATA_PIECES} only parity.\nNow exactly those {DATA_PIECES} nodes are "
            "killed, and with them the only direct copy of every block:\n"
        )
        terminal.potsherd("lab", "kill", *map(str, doomed))
        terminal.potsherd("ls", "recordings", "--long", "--recursive")
        terminal.potsherd("get", "recordings", "back")
        wrong = differences(folder / "recordings", folder / "back")
        say(
            "Compared byte for byte: "
            + (f"DIFFERENT: {wrong}" if wrong else "all the same.")
            + "\n"
        )
        terminal.potsherd("stat", "recordings")
        say(
            f"Lost: nodes {', '.join(map(str, doomed))}, a third of the network, with all data "
            "pieces of the segment\nthat holds the files and the way into them.\n"
            f"What that did: {'nothing' if not wrong else 'harm'}. The other pieces rebuilt them; "
            "the nodes that keep\nthem never could read any of it.\n"
        )
    return not wrong


def play(name: str, scene: Callable[[Path], bool]) -> NoReturn:
    """Run a demonstration in a folder of its own. Exit 0 if everything came back byte for byte, else 1."""
    with tempfile.TemporaryDirectory(prefix=f"potsherd-{name}-") as folder:
        try:
            whole = scene(Path(folder))
        except subprocess.CalledProcessError as error:
            say(f"potsherd {' '.join(error.cmd[3:])} failed with exit code {error.returncode}.")
            whole = False
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    play("demo", demonstrate)
