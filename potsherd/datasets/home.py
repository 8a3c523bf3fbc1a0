"""Where a person's things lie: the person home, beside it the node home and the lab.

`POTSHERD_HOME` names the folder that holds all three; otherwise it is the user's data folder of the platform
(XDG on Linux: ~/.local/share/potsherd).  The person home:

    master.key        the 32 bytes from which everything of the person follows, in hex (secret, mode 0600)
    config.toml       settings (docs/configuration.md)
    library.sqlite    the person's own datasets (docs/spec/library.md)
    networks/         networks that can be used (potsherd.datasets.networks)
    spool/            one folder for each running or interrupted put
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from potsherd.classes import dataclass
from potsherd.crypto.keys import MASTER_BYTES, Master
from potsherd.datasets.networks import Networks
from potsherd.datasets.small_files import private_folder, read_json, read_small, write_private
from potsherd.errors import MalformedError, NotFoundError, RefusedError, StorageError
from potsherd.ports import Rng

__all__ = ["HOME_VARIABLE", "Home"]

HOME_VARIABLE = "POTSHERD_HOME"
GUESSED_PUT_RATE = 20e6
"""Bytes a second assumed before a put was measured here."""
MEASURED_BYTES_MIN = 8 * 2**20


def _base(environment: Mapping[str, str]) -> Path:
    named = environment.get(HOME_VARIABLE, "")
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("potsherd")


@dataclass(frozen=True)
class Home:
    """The person home, and the way to its neighbours."""

    base: Path
    """The folder of person home, node home and lab."""

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Home:
        """By `POTSHERD_HOME`, else the platform's data folder; nothing need exist yet."""
        return cls(_base(environment))

    @property
    def folder(self) -> Path:
        """The person home itself."""
        return self.base / "person"

    @property
    def node_folder(self) -> Path:
        """The node home of this person's node."""
        return self.base / "node"

    @property
    def lab_folder(self) -> Path:
        """The local networks of `potsherd lab`."""
        return self.base / "lab"

    @property
    def config_path(self) -> Path:
        """The person's config.toml."""
        return self.folder / "config.toml"

    @property
    def library_path(self) -> Path:
        """The library's database."""
        return self.folder / "library.sqlite"

    @property
    def spool_folder(self) -> Path:
        """Where running puts keep what they have to keep."""
        return self.folder / "spool"

    @property
    def networks(self) -> Networks:
        """The networks that can be used from here."""
        return Networks(self.folder / "networks")

    def put_rate(self) -> float:
        """Bytes of ciphertext a second of the last larger `put`, or a careful guess before the first."""
        try:
            rate = float(read_json(self.folder / "measured.json")["put_bytes_per_s"])
        except (NotFoundError, StorageError, MalformedError, KeyError, TypeError, ValueError):
            return GUESSED_PUT_RATE
        return rate if 1.0 <= rate <= 1e12 else GUESSED_PUT_RATE

    def measured(self, sent_bytes: int, seconds: float) -> None:
        """Remember the rate of a put for the next estimate; small puts measure only latency."""
        if sent_bytes >= MEASURED_BYTES_MIN and seconds > 0:
            text = json.dumps({"version": 1, "put_bytes_per_s": sent_bytes / seconds})
            write_private(self.folder / "measured.json", text.encode())

    def exists(self) -> bool:
        """Whether this person has a master key."""
        return self._master_path.exists()

    @property
    def _master_path(self) -> Path:
        return self.folder / "master.key"

    def master(self) -> Master:
        """Raises NotFoundError before `potsherd init`, MalformedError for a damaged file."""
        try:
            secret = bytes.fromhex(read_small(self._master_path).decode())
        except NotFoundError:
            raise NotFoundError(
                f"there is no person home in {self.folder}", remedy="Make one with: potsherd init"
            ) from None
        except (UnicodeDecodeError, ValueError):
            raise MalformedError(f"{self._master_path} is damaged") from None
        if len(secret) != MASTER_BYTES:
            raise MalformedError(f"{self._master_path} is damaged")
        return Master(secret)

    def make_master(self, rng: Rng) -> Master:
        """The person's master, made now if there is none."""
        if not self.exists():
            self.keep_master(Master(rng.randbytes(MASTER_BYTES)))
        return self.master()

    def keep_master(self, master: Master) -> None:
        """Write a master into an empty home. Raises RefusedError when there is another already."""
        if self.exists():
            if self.master().secret == master.secret:
                return
            raise RefusedError(
                f"{self.folder} has a master key already",
                remedy="Recover into an empty home: set POTSHERD_HOME to a new folder.",
            )
        private_folder(self.folder)
        write_private(self._master_path, master.secret.hex().encode() + b"\n")
