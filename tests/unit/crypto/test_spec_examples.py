"""The worked examples in docs/spec are what the code writes."""

from __future__ import annotations

from pathlib import Path

from potsherd.crypto import eris
from potsherd.crypto.keys import Master, RecoveryFile
from potsherd.crypto.membership import Credential, InvitationCertificate
from potsherd.crypto.signing import SigningKey

SPEC = Path(__file__).parents[3] / "docs" / "spec"


def squeezed(page: str) -> str:
    return "".join((SPEC / page).read_text().split())


def test_eris() -> None:
    encoded = eris.encode_many([b"Hello world!"], convergence_secret=eris.NULL_SECRET)[0]
    page = squeezed("eris.md")
    assert encoded.capability.to_bytes().hex() in page
    assert encoded.capability.urn in page


def test_keys() -> None:
    keys = Master(bytes(range(32))).dataset(1)
    page = squeezed("keys.md")
    for value in (keys.genesis.encode(), keys.dataset_id, keys.read(2)):
        assert value.hex() in page
    block = RecoveryFile(bytes(range(32))).encode().split("\n\n")[1]
    assert "".join(block.split()) in page


def test_membership() -> None:
    invitation, node = (SigningKey(letter * 32).verify_key for letter in (b"I", b"n"))
    page = squeezed("membership.md")
    certificate = InvitationCertificate(invitation, 7, "Example lab", 3, None, None)
    assert certificate.encode().hex() in page
    assert Credential(node, 2, None).encode().hex() in page
