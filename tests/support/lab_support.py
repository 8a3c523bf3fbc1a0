"""Looking into a lab from tests: who keeps what, who repairs, and waiting for it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cli_support import COMMAND_TIMEOUT_S, Cli

T = TypeVar("T")
WAIT_S = 300.0


def wait_for(
    what: str, look: Callable[[], T], timeout_s: float = WAIT_S, pause_s: float = 0.3
) -> T:
    """The first true answer of `look`; fails with `what` when none comes in time."""
    end = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {timeout_s} s"
        time.sleep(pause_s)
    return found


class LabCli(Cli):
    """The command, with a lab under its home."""

    def donor(self, number: int) -> Cli:
        """The command as the donor of that node types it."""
        return Cli(self.home / "lab" / f"node{number:02}")

    def nodes(self, state: str = "up") -> dict[str, int]:
        """Key → number, of nodes in that state."""
        rows = self("lab", "status", "--json").objects
        return {row["key"]: row["node"] for row in rows if row["state"] == state}

    def node_status(self, number: int) -> dict[str, Any]:
        """What a node says of itself; nothing when it does not run."""
        with self.donor(number).start("node", "status", "--json") as process:
            out, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        return {} if process.returncode else dict(json.loads(out))

    def verify(self, name: str, *options: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code, and each segment's facts."""
        with self.start("verify", name, *options, "--json") as process:
            out, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        said = [json.loads(line) for line in out.splitlines()]
        found: list[dict[str, Any]] = next(
            (row["segments"] for row in said if row["type"] == "verify"), []
        )
        return process.returncode, found

    def holders(self, name: str) -> dict[int, int]:
        """Index → number of the node that has just proven it; of a dataset of one segment."""
        numbers = self.nodes()
        _, segments = self.verify(name)
        [segment] = segments
        return {p["index"]: numbers[p["key"]] for p in segment["pieces"] if p["live"]}

    def forget_owner(self) -> None:
        """Delete the person home but for the networks: keys, library, everything that only owners have."""
        person = self.home / "person"
        for path in person.iterdir():
            if path.name != "networks":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def logs(self) -> str:
        """The ends of all nodes' logs, for a failing test."""
        parts = []
        for path in sorted((self.home / "lab").glob("node*/log")):
            lines = path.read_text(errors="replace").splitlines()[-8:]
            parts.append(f"{path.parent.name}: " + "\n    ".join(lines))
        return "\n".join(parts)


def key_link(cli: Cli, source: Path, file: Path, *options: str) -> Path:
    """Put a folder and keep its key link in a file."""
    urn = cli("put", source, *options, "--urn").out.strip()
    file.write_text(urn + "\n")
    return file
