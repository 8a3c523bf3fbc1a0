"""Chains: what admits, what does not, and how large it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from potsherd.crypto import hashing
from potsherd.crypto.invitations import (
    InvitationFile,
    Inviter,
    appoint_inviter,
    decode_network,
    encode_network,
    invite,
)
from potsherd.crypto.membership import (
    BOOTSTRAP_MAX,
    CHAIN_BYTES_MAX,
    CLIENT_LIFETIME_S,
    CLOCK_SKEW_S,
    DATE_MAX,
    NODES_MAX,
    OPERATOR_BYTES_MAX,
    REMOVED_MAX,
    SERIAL_MAX,
    Credential,
    InvitationCertificate,
    InviterCertificate,
    NetworkConfig,
    Role,
    certify_open_client,
    create_network,
    encode_chain,
    open_config,
    sign_config,
    update_config,
    verify_chain,
)
from potsherd.crypto.signing import SigningKey
from potsherd.errors import IntegrityError, MalformedError, MembershipError, UsageError

NOW = 1_800_000_000.0
BOOTSTRAP = ((b"b" * 32, "192.0.2.7", 4800),)
NODE = SigningKey(b"n" * 32)


def seed(letter: str) -> bytes:
    return letter.encode() * 32


NETWORK, SIGNED = create_network("lab", seed("N"), BOOTSTRAP)
CONFIG = open_config(SIGNED)
OPEN_NETWORK, OPEN_SIGNED = create_network("open lab", seed("O"), BOOTSTRAP, open_=True)
OPEN_CONFIG = open_config(OPEN_SIGNED)


def invitation(
    serial: int = 7, nodes: int = 3, join_by: int | None = None, until: int | None = None
) -> InvitationFile:
    return invite(NETWORK, SIGNED, seed("I"), serial, "Example lab", nodes, join_by, until)


def inviter(first: int, last: int, until: int | None = None) -> Inviter:
    key = SigningKey(seed("V"))
    return Inviter(key, appoint_inviter(NETWORK, CONFIG, key.verify_key, first, last, until))


def refused(chain: bytes, why: str, *, config: NetworkConfig = CONFIG, now: float = NOW) -> None:
    with pytest.raises(MembershipError, match=why):
        verify_chain(chain, NODE.verify_key, config, now, joining=True)


def test_a_donor_is_admitted_with_an_id_it_cannot_choose() -> None:
    member = verify_chain(
        invitation().certify_node(NODE.verify_key, 2), NODE.verify_key, CONFIG, NOW, joining=True
    )
    assert (member.role, member.serial, member.number) == (Role.DONOR, 7, 2)
    assert (member.operator, member.until, member.is_donor) == ("Example lab", None, True)
    assert member.dht_id == hashing.member_dht_id(CONFIG.network_id, 7, 2)


def test_a_client_is_admitted_for_seven_days_and_not_as_donor() -> None:
    chain = invitation().certify_client(NODE.verify_key, NOW)
    member = verify_chain(chain, NODE.verify_key, CONFIG, NOW + CLIENT_LIFETIME_S - 1)
    assert (member.role, member.number, member.is_donor) == (Role.CLIENT, None, False)
    assert member.dht_id == hashing.open_dht_id(NODE.verify_key)
    assert member.until == int(NOW) + CLIENT_LIFETIME_S
    refused(chain, "expired", now=NOW + CLIENT_LIFETIME_S)


def test_a_client_from_a_clock_far_ahead_is_refused() -> None:
    ahead = NOW + CLOCK_SKEW_S
    chain = invitation().certify_client(NODE.verify_key, ahead)
    verify_chain(chain, NODE.verify_key, CONFIG, NOW)
    refused(invitation().certify_client(NODE.verify_key, ahead + 1), "seven days")


def test_an_inviter_invites_within_its_range_only() -> None:
    file = invite(inviter(100, 199), SIGNED, seed("I"), 150, "Elsewhere", 1)
    member = verify_chain(file.certify_node(NODE.verify_key, 0), NODE.verify_key, CONFIG, NOW)
    assert member.serial == 150
    for serial in (99, 200):
        with pytest.raises(MembershipError, match="no right"):
            invite(inviter(100, 199), SIGNED, seed("I"), serial, "Elsewhere", 1)


def test_a_forged_serial_of_an_inviter_is_refused() -> None:
    right, fresh = inviter(100, 199), SigningKey(seed("I"))
    certificate = InvitationCertificate(fresh.verify_key, 200, "", 1, None, None)
    credential = Credential(NODE.verify_key, 0, None)
    refused(
        encode_chain(
            right.certificate,
            certificate.signed(right.key.sign, CONFIG.network_id),
            credential.signed(fresh.sign, CONFIG.network_id),
        ),
        "no right",
    )


def test_no_chain_is_deeper() -> None:
    """An inviter cannot appoint an inviter, and a chain of four is not read."""
    right, below = inviter(100, 199), SigningKey(seed("W"))
    second = InviterCertificate(below.verify_key, 100, 110, None)
    signed = second.signed(right.key.sign, CONFIG.network_id)
    certificate = InvitationCertificate(seed("x"), 100, "", 1, None, None)
    tail = certificate.signed(below.sign, CONFIG.network_id)
    credential = Credential(NODE.verify_key, 0, None).signed(below.sign, CONFIG.network_id)
    refused(encode_chain(signed, tail, credential), "wrong signature")
    # Cut, so that four fit into the bytes of a chain: it is refused by their number.
    refused(
        encode_chain(right.certificate, signed[:90], tail[:90], credential[:90]), "one to three"
    )


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        (b"", "invitation only"),
        (invitation().certify_node(b"o" * 32, 0), "another node key"),
        (invitation(join_by=int(NOW)).certify_node(NODE.verify_key, 0), "invitation has expired"),
        (invitation(until=int(NOW)).certify_node(NODE.verify_key, 0), "membership has expired"),
        (
            invite(inviter(7, 7, int(NOW)), SIGNED, seed("I"), 7, "", 1).certify_node(
                NODE.verify_key, 0
            ),
            "right to invite has expired",
        ),
        (
            invite(OPEN_NETWORK, OPEN_SIGNED, seed("I"), 7, "", 1).certify_node(NODE.verify_key, 0),
            "wrong signature",
        ),
        (b"\xc1", "not msgpack"),
        (b"\x93\xc4\x00\xc4\x00\xc4\x00", "size"),
        (b"\x92\x01\x02", "byte strings"),
        (b"x" * (CHAIN_BYTES_MAX + 1), "at most 512"),
    ],
)
def test_refused_with_a_reason(chain: bytes, why: str) -> None:
    refused(chain, why)


def test_join_by_counts_only_when_joining() -> None:
    chain = invitation(join_by=int(NOW) - 1).certify_node(NODE.verify_key, 0)
    assert verify_chain(chain, NODE.verify_key, CONFIG, NOW).number == 0


def test_a_number_beyond_the_invitation_is_refused() -> None:
    with pytest.raises(MembershipError, match="no node of this number"):
        invitation(nodes=3).certify_node(NODE.verify_key, 3)
    body = Credential(NODE.verify_key, 3, None)
    chain = invitation(nodes=3).certify_node(NODE.verify_key, 0)
    certificate = chain[3 : 3 + chain[2]]  # array of two, byte string of one length byte
    refused(
        encode_chain(certificate, body.signed(SigningKey(seed("I")).sign, CONFIG.network_id)),
        "beyond the invitation",
    )


def test_a_removed_serial_is_refused_and_its_neighbours_are_not() -> None:
    config = dataclasses.replace(CONFIG, number=2, removed=((6, 6), (8, 9)))
    chain = invitation(serial=7).certify_node(NODE.verify_key, 0)
    assert verify_chain(chain, NODE.verify_key, config, NOW).serial == 7
    for serial in (6, 8, 9):
        refused(
            invitation(serial=serial).certify_node(NODE.verify_key, 0), "removed", config=config
        )


def test_open_network() -> None:
    member = verify_chain(b"", NODE.verify_key, OPEN_CONFIG, NOW)
    assert (member.dht_id, member.serial) == (hashing.open_dht_id(NODE.verify_key), None)
    assert member.is_donor
    chain = certify_open_client(NODE, OPEN_CONFIG, NOW)
    assert verify_chain(chain, NODE.verify_key, OPEN_CONFIG, NOW).role is Role.CLIENT
    with pytest.raises(MembershipError, match="wrong signature"):
        verify_chain(chain, seed("x"), OPEN_CONFIG, NOW)
    refused(chain, "invitation only")
    donor = Credential(NODE.verify_key, 0, None).signed(NODE.sign, OPEN_CONFIG.network_id)
    refused(encode_chain(donor), "needs no credential", config=OPEN_CONFIG)


def test_the_id_in_an_open_network_is_of_the_key_also_with_an_invitation() -> None:
    file = invite(OPEN_NETWORK, OPEN_SIGNED, seed("I"), 7, "Known lab", 1)
    chain = file.certify_node(NODE.verify_key, 0)
    member = verify_chain(chain, NODE.verify_key, OPEN_CONFIG, NOW)
    assert member.dht_id == hashing.open_dht_id(NODE.verify_key)
    assert member.operator == "Known lab"


def test_sizes_at_their_bounds() -> None:
    """Invitation ≤ 160 bytes, credential ≤ 120, a whole chain ≤ 512, with the largest values."""
    sign, network = SigningKey(seed("s")).sign, CONFIG.network_id
    certificate = InvitationCertificate(
        b"k" * 32, SERIAL_MAX, "é" * 15 + "x", NODES_MAX, DATE_MAX, DATE_MAX
    )
    assert len(certificate.operator.encode()) == OPERATOR_BYTES_MAX
    right = InviterCertificate(b"k" * 32, SERIAL_MAX - 999, SERIAL_MAX, DATE_MAX)
    donor = Credential(b"k" * 32, NODES_MAX - 1, None).signed(sign, network)
    client = Credential(b"k" * 32, None, DATE_MAX).signed(sign, network)
    assert len(certificate.signed(sign, network)) <= 160
    assert max(len(donor), len(client)) <= 120
    parts = right.signed(sign, network), certificate.signed(sign, network), client
    assert len(encode_chain(*parts)) <= CHAIN_BYTES_MAX


def test_the_largest_configuration_fits() -> None:
    removed = tuple((SERIAL_MAX - 2 * i - 1, SERIAL_MAX - 2 * i - 1) for i in range(REMOVED_MAX))
    config = NetworkConfig(
        "n" * 64, b"k" * 32, 2**32 - 1, True, (255, 255, 255),
        ((b"k" * 32, "h" * 255, 65535),) * BOOTSTRAP_MAX, removed[::-1],
    )  # fmt: skip
    assert NetworkConfig.decode(config.encode()) == config


@pytest.mark.parametrize(
    "change",
    [
        {"removed": ((5, 4),)},
        {"removed": ((1, 2), (2, 3))},
        {"removed": ((1, 2), (3, 3))},
        {"code": (4, 9, 3)},
        {"code": (4, 9, 10)},
        {"name": ""},
        {"bootstrap": ((b"b" * 32, "h", 0),)},
    ],
)
def test_a_configuration_out_of_bounds_is_never_written(change: dict[str, object]) -> None:
    config = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(MalformedError):
        config.encode()


def test_an_inviter_gets_at_most_a_thousand_serials() -> None:
    inviter(0, 999)
    with pytest.raises(UsageError, match="1,000"):
        inviter(0, 1000)


def test_the_newer_configuration_of_the_same_network_wins() -> None:
    newer = sign_config(NETWORK, dataclasses.replace(CONFIG, number=2, removed=((3, 3),)))
    assert update_config(CONFIG, newer).number == 2
    assert update_config(open_config(newer), SIGNED).number == 2
    with pytest.raises(MembershipError, match="another network"):
        update_config(CONFIG, OPEN_SIGNED)
    with pytest.raises(IntegrityError):
        update_config(CONFIG, newer[:64][::-1] + newer[64:])
    with pytest.raises(UsageError, match="not the key"):
        sign_config(OPEN_NETWORK, CONFIG)


def test_invitation_file_round_trip_and_typos() -> None:
    for file in (
        invitation(),
        invite(inviter(5, 9), SIGNED, seed("I"), 7, "x", 2, int(NOW), int(NOW)),
    ):
        text = file.encode()
        again = InvitationFile.decode(text)
        assert again == file
        assert again.certify_node(NODE.verify_key, 1) == file.certify_node(NODE.verify_key, 1)
        assert InvitationFile.decode(text.replace("\n", "\r\n").lower().replace(" ", "")) == file
        at = len(text) // 2
        typo = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
        with pytest.raises(MalformedError, match="a typo or is cut"):
            InvitationFile.decode(typo)
        with pytest.raises(MalformedError):
            InvitationFile.decode(text[:at])


def test_an_invitation_file_with_a_foreign_key_is_refused() -> None:
    body = invitation()._body
    with pytest.raises(MembershipError, match="not the one it certifies"):
        InvitationFile(SIGNED, None, body.certificate, seed("J"))


def test_check_join_speaks_of_expiry_and_withdrawal() -> None:
    invitation(join_by=int(NOW) + 1).check_join(NOW)
    with pytest.raises(MembershipError, match="expired"):
        invitation(join_by=int(NOW)).check_join(NOW)
    with pytest.raises(MembershipError, match="expired"):
        invitation(until=int(NOW)).check_join(NOW)


def test_network_file_round_trip() -> None:
    assert decode_network(encode_network(OPEN_SIGNED)) == OPEN_SIGNED
    with pytest.raises(MalformedError, match="not a potsherd network"):
        decode_network(invitation().encode())


def test_repr_shows_no_seed() -> None:
    assert seed("I").hex() not in repr(invitation())
    assert str(seed("I")) not in repr(invitation())


VECTORS = Path(__file__).parents[2] / "vectors" / "membership"


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.json")), ids=lambda path: path.stem)
def test_vector(path: Path) -> None:
    """Written from docs/spec/membership.md with other libraries; the same verdict is expected."""
    case = json.loads(path.read_text())
    config, chain, key = (bytes.fromhex(case[name]) for name in ("config", "chain", "node-key"))
    opened = open_config(config)
    if "error" in case:
        with pytest.raises(MembershipError, match=case["reason"]):
            verify_chain(chain, key, opened, case["now"], joining=case["joining"])
        return
    member = verify_chain(chain, key, opened, case["now"], joining=case["joining"])
    assert {
        "role": member.role.value,
        "dht-id": member.dht_id.hex(),
        "serial": member.serial,
        "number": member.number,
        "operator": member.operator,
        "until": member.until,
    } == case["member"]


def test_there_are_vectors() -> None:
    assert len(list(VECTORS.glob("good-*.json"))) >= 6
    assert len(list(VECTORS.glob("bad-*.json"))) >= 16
