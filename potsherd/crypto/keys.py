"""The key schedule (docs/spec/keys.md): everything secret of a person follows from 32 bytes.

Seeds are derived by hashing, never by adding to keys, and readers get no parent key. So the recovery
file is the master, and with it the datasets 0, 1, 2 … are found again by their numbers.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, ClassVar, Final

from potsherd.classes import dataclass
from potsherd.crypto import armour, hashing
from potsherd.crypto.signing import SigningKey
from potsherd.errors import MalformedError, UsageError
from potsherd.wire import Bytes, Record

__all__ = ["MASTER_BYTES", "DatasetKeys", "Genesis", "Master", "RecoveryFile", "derive"]

MASTER_BYTES: Final = 32
PERSON_KEYS: Final = b"psh keys"

LABEL_IDENTITY_SIGN: Final = "identity-sign"
LABEL_IDENTITY_BOX: Final = "identity-box"
LABEL_OWNER: Final = "owner-sign"
LABEL_WITHDRAW: Final = "withdraw"
LABEL_PLACEMENT: Final = "placement"
LABEL_CONVERGENCE: Final = "convergence"
LABEL_READ: Final = "read"

NETWORKS_MAX: Final = 16
"""Networks in one recovery file."""
NETWORK_KINDS: Final = ("INVITATION", "NETWORK")
NETWORK_BYTES_MAX: Final = 1 << 15
_HEADER: Final = "potsherd recovery file, version 1"
_WARNING: Final = (
    "Whoever has this can read, change and take out everything stored with it. Keep it offline."
)


def derive(master: bytes, label: str, dataset: int = 0, epoch: int = 0) -> bytes:
    """32 bytes: BLAKE2b keyed with the master over length of label ‖ label ‖ dataset ‖ epoch."""
    name = label.encode("ascii")
    try:
        numbers = dataset.to_bytes(8, "big") + epoch.to_bytes(8, "big")
    except OverflowError:
        raise UsageError("dataset and epoch are numbers of 64 bits") from None
    data = bytes((len(name),)) + name + numbers
    return blake2b(data, digest_size=32, key=master, person=PERSON_KEYS).digest()


class Master:
    """The 32 random bytes of a person. `repr` shows nothing of them."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != MASTER_BYTES:
            raise UsageError("a master has 32 bytes")
        self._secret = bytes(secret)

    @property
    def secret(self) -> bytes:
        """The 32 bytes, for the key file and the recovery file."""
        return self._secret

    def identity_sign(self) -> SigningKey:
        """The person's own signing key."""
        return SigningKey(derive(self._secret, LABEL_IDENTITY_SIGN))

    def identity_box_seed(self) -> bytes:
        """32 bytes, the X25519 secret of the person, to be certified by `identity_sign`."""
        return derive(self._secret, LABEL_IDENTITY_BOX)

    def dataset(self, number: int) -> DatasetKeys:
        """The keys of dataset 0, 1, 2 …"""
        return DatasetKeys(self._secret, number)

    def __repr__(self) -> str:
        return "Master(…)"


class DatasetKeys:
    """All keys of one dataset of a person; made on demand, never stored."""

    __slots__ = ("_master", "number", "owner", "placement", "withdraw")

    def __init__(self, master: bytes, number: int) -> None:
        self._master = master
        self.number = number
        self.owner = SigningKey(derive(master, LABEL_OWNER, number))
        self.withdraw = SigningKey(derive(master, LABEL_WITHDRAW, number))
        self.placement = derive(master, LABEL_PLACEMENT, number)

    def convergence(self, epoch: int) -> bytes:
        """32 bytes: the ERIS convergence secret of an epoch, for owner and writers only."""
        return derive(self._master, LABEL_CONVERGENCE, self.number, epoch)

    def read(self, epoch: int) -> bytes:
        """32 bytes: encrypts the root capability in the heads of an epoch."""
        return derive(self._master, LABEL_READ, self.number, epoch)

    @property
    def genesis(self) -> Genesis:
        """The record whose hash names the dataset; it follows from master and number alone."""
        return Genesis(self.owner.verify_key)

    @property
    def dataset_id(self) -> bytes:
        """32 bytes."""
        return self.genesis.dataset_id

    def __repr__(self) -> str:
        return f"DatasetKeys(number={self.number}, owner={self.owner!r})"


@dataclass(frozen=True)
class Genesis(Record):
    """The root of a dataset: the key whose signature makes a first epoch and a first head valid.

    It names no network: an owner key belongs to one dataset, and heads are signed for their network.
    """

    TYPE: ClassVar[str] = "genesis"
    SIZE_MAX: ClassVar[int] = 64
    owner: Annotated[bytes, Bytes(32)]

    @property
    def dataset_id(self) -> bytes:
        """32 bytes: the hash of this record's encoding."""
        return hashing.dataset_id(self.encode())


@dataclass(frozen=True, repr=False)
class RecoveryFile:
    """What `init --recover` needs on an empty machine: the master, and how to join the networks."""

    master: bytes
    networks: tuple[str, ...] = ()
    """Invitation or network files (armoured text, potsherd.crypto.membership), at most NETWORKS_MAX."""

    def __post_init__(self) -> None:
        if len(self.master) != MASTER_BYTES or len(self.networks) > NETWORKS_MAX:
            raise UsageError("a recovery file holds a master of 32 bytes and at most 16 networks")

    def __repr__(self) -> str:
        return f"RecoveryFile(…, {len(self.networks)} networks)"

    def encode(self) -> str:
        """Text to print or to put away."""
        head = f"{_HEADER}\n{_WARNING}\n\n"
        return head + "\n".join([armour.wrap("MASTER", self.master), *self.networks])

    @classmethod
    def decode(cls, text: str) -> RecoveryFile:
        """Raises MalformedError that says what is wrong; white space and letter case do not matter."""
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line]
        if [line.lower() for line in lines[:2]] != [_HEADER.lower(), _WARNING.lower()]:
            raise MalformedError("not a recovery file of version 1: its first two lines differ")
        blocks = armour.split_blocks("\n".join(lines[2:]))
        if not 1 <= len(blocks) <= 1 + NETWORKS_MAX:
            raise MalformedError("a recovery file has one master and at most 16 networks")
        texts = [armour.rejoin(kind, body) for kind, body in blocks]
        for (kind, _), block in zip(blocks[1:], texts[1:], strict=True):
            if kind not in NETWORK_KINDS:
                raise MalformedError("a recovery file holds a master, then networks")
            armour.unwrap(kind, block, size_max=NETWORK_BYTES_MAX)  # finds typos
        master = armour.unwrap("MASTER", texts[0], size_max=MASTER_BYTES)
        if len(master) != MASTER_BYTES:
            raise MalformedError("the master does not have 32 bytes")
        return cls(master, tuple(texts[1:]))
