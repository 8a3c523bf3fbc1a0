"""Keys, membership and armour: garbage gives only typed errors, and nobody is admitted by it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from potsherd.crypto import armour
from potsherd.crypto.boxes import DatagramBox, secret_open, secret_seal
from potsherd.crypto.invitations import (
    InvitationFile,
    Inviter,
    appoint_inviter,
    decode_network,
    invite,
)
from potsherd.crypto.keys import RecoveryFile
from potsherd.crypto.membership import (
    DATE_MAX,
    NODES_MAX,
    SERIAL_MAX,
    create_network,
    open_config,
    verify_chain,
)
from potsherd.crypto.signing import SigningKey, verify
from potsherd.errors import MembershipError, PotsherdError
from potsherd.wire import pack

NOW = 1_800_000_000.0
NODE = SigningKey(b"n" * 32)
NETWORK, SIGNED = create_network("lab", b"N" * 32, ((b"b" * 32, "192.0.2.7", 4800),))
CONFIG = open_config(SIGNED)
VALID = invite(
    Inviter(SigningKey(b"V" * 32), appoint_inviter(NETWORK, CONFIG, SigningKey(b"V" * 32).verify_key, 0, 9)),
    SIGNED, b"I" * 32, 7, "Example lab", 3,
).certify_node(NODE.verify_key, 2)  # fmt: skip
dates = st.none() | st.integers(0, DATE_MAX)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600) | st.lists(st.binary(max_size=160), max_size=4).map(pack))
def test_a_chain_of_garbage_admits_nobody(chain: bytes) -> None:
    try:
        verify_chain(chain, NODE.verify_key, CONFIG, NOW, joining=True)
    except MembershipError:
        return
    raise AssertionError("garbage was admitted")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255), st.booleans())
def test_a_changed_or_cut_chain_admits_nobody(place: int, flip: int, cut: bool) -> None:
    assert verify_chain(VALID, NODE.verify_key, CONFIG, NOW).serial == 7
    changed = VALID[:place] + bytes([VALID[place] ^ flip]) + VALID[place + 1 :]
    try:
        verify_chain(VALID[:place] if cut else changed, NODE.verify_key, CONFIG, NOW)
    except MembershipError:
        return
    raise AssertionError("a changed chain was admitted")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, SERIAL_MAX), st.integers(1, NODES_MAX), dates, dates, st.integers(0, NODES_MAX - 1)
)  # fmt: skip
def test_who_is_admitted_follows_from_the_invitation(
    serial: int, nodes: int, join_by: int | None, until: int | None, number: int
) -> None:
    file = invite(NETWORK, SIGNED, b"I" * 32, serial, "lab", nodes, join_by, until)
    assert InvitationFile.decode(file.encode()) == file
    fits = number < nodes
    alive = (until is None or until > NOW) and (join_by is None or join_by > NOW)
    try:
        chain = file.certify_node(NODE.verify_key, number)
        member = verify_chain(chain, NODE.verify_key, CONFIG, NOW, joining=True)
    except MembershipError:
        assert not (fits and alive)
        return
    assert fits
    assert alive
    assert (member.serial, member.number, member.until) == (serial, number, until)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.sampled_from(["", "INVITATION", "NETWORK", "MASTER"]))
def test_garbage_for_text_files(text: str, kind: str) -> None:
    if kind:
        text = f"-----BEGIN POTSHERD {kind}-----\n{text}\n-----END POTSHERD {kind}-----\n"
    for parse in (InvitationFile.decode, decode_network, RecoveryFile.decode):
        try:
            parse(text)
        except PotsherdError:
            continue
        raise AssertionError("garbage was read")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_in_good_armour(data: bytes) -> None:
    """The check fits, the content does not."""
    assert armour.unwrap("NETWORK", armour.wrap("NETWORK", data), size_max=200) == data
    for kind, parse in (("INVITATION", InvitationFile.decode), ("NETWORK", decode_network)):
        try:
            parse(armour.wrap(kind, data))
        except PotsherdError:
            continue
        raise AssertionError("garbage was read")


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=70))
def test_garbage_for_signatures_and_boxes(key: bytes, nonce: bytes, data: bytes) -> None:
    assert not verify(key, b"message", data)
    assert DatagramBox(b"s" * 32).open(key, nonce, data) is None
    assert secret_open(key, nonce, data) is None


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=24, max_size=24), st.binary(max_size=1200))
def test_box_round_trips(nonce: bytes, plain: bytes) -> None:
    here, there = DatagramBox(b"h" * 32), DatagramBox(b"t" * 32)
    assert there.open(here.node_key, nonce, here.seal(there.node_key, nonce, plain)) == plain
    assert secret_open(b"k" * 32, nonce, secret_seal(b"k" * 32, nonce, plain)) == plain
