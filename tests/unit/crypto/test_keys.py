"""Key schedule and ids against their vectors; the recovery file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from potsherd.crypto import armour, hashing
from potsherd.crypto.invitations import InvitationFile, encode_network, invite
from potsherd.crypto.keys import NETWORKS_MAX, Genesis, Master, RecoveryFile, derive
from potsherd.crypto.membership import create_network
from potsherd.errors import MalformedError, UsageError

VECTORS = Path(__file__).parents[2] / "vectors" / "keys"


def cases(pattern: str) -> list[dict[str, str | int]]:
    found = [json.loads(path.read_text()) for path in sorted(VECTORS.glob(pattern))]
    assert found
    return found


def raw(case: dict[str, str | int], name: str) -> bytes:
    return bytes.fromhex(str(case[name]))


@pytest.mark.parametrize("case", cases("schedule-*.json"))
def test_schedule(case: dict[str, str | int]) -> None:
    master, number, epoch = raw(case, "master"), int(case["dataset"]), int(case["epoch"])
    keys = Master(master).dataset(number)
    assert {
        "identity-sign": Master(master).identity_sign().verify_key.hex(),
        "identity-box-seed": Master(master).identity_box_seed().hex(),
        "owner": keys.owner.verify_key.hex(),
        "withdraw": keys.withdraw.verify_key.hex(),
        "placement": keys.placement.hex(),
        "convergence": keys.convergence(epoch).hex(),
        "read": keys.read(epoch).hex(),
        "genesis": keys.genesis.encode().hex(),
        "dataset-id": keys.dataset_id.hex(),
    } == {name: case[name] for name in case if name not in ("master", "dataset", "epoch")}
    assert Genesis.decode(raw(case, "genesis")) == keys.genesis


@pytest.mark.parametrize("case", cases("ids-*.json"))
def test_ids(case: dict[str, str | int]) -> None:
    key = raw(case, "key")
    network = hashing.network_id(key)
    computed = {
        "digest": hashing.digest(key),
        "network-id": network,
        "member-dht-id": hashing.member_dht_id(network, int(case["serial"]), int(case["number"])),
        "open-dht-id": hashing.open_dht_id(key),
        "entry-locator": hashing.entry_locator(raw(case, "root-reference"), raw(case, "root-key")),
        "placement-key": hashing.placement_key(key, int(case["archive"]), int(case["segment"])),
        "dataset-id": hashing.dataset_id(key),
        "head-locator": hashing.head_locator(key),
    }
    assert {name: value.hex() for name, value in computed.items()} == {
        name: case[name] for name in computed
    }


def test_every_derived_secret_is_another() -> None:
    master = b"m" * 32
    labels = (
        "identity-sign", "identity-box", "owner-sign", "withdraw", "placement", "convergence", "read",
    )  # fmt: skip
    seen = {
        derive(master, label, dataset, epoch)
        for label in labels
        for dataset in range(3)
        for epoch in range(3)
    }
    assert len(seen) == len(labels) * 9
    assert derive(b"n" * 32, "read") not in seen


def test_ids_of_equal_input_and_different_kind_differ() -> None:
    data = b"d" * 32
    kinds: list[Callable[[bytes], bytes]] = [
        hashing.digest, hashing.network_id, hashing.open_dht_id, hashing.dataset_id, hashing.head_locator,
    ]  # fmt: skip
    assert len({kind(data)[:20] for kind in kinds}) == len(kinds)


def test_numbers_out_of_range_are_wrong_calls() -> None:
    calls: list[Callable[[], object]] = [
        lambda: derive(b"m" * 32, "read", -1),
        lambda: derive(b"m" * 32, "read", 0, 2**64),
        lambda: hashing.member_dht_id(b"n" * 32, 2**32, 0),
        lambda: hashing.member_dht_id(b"n" * 32, 0, 2**16),
        lambda: hashing.placement_key(b"p" * 32, -1, 0),
        lambda: hashing.placement_key(b"p" * 32, 0, 2**32),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    for secret in (b"", b"m" * 31, b"m" * 33):
        with pytest.raises(UsageError):
            Master(secret)


def test_nothing_secret_in_repr() -> None:
    master = Master(b"\xa5" * 32)
    keys = master.dataset(0)
    shown = repr(master) + repr(keys) + repr(RecoveryFile(master.secret))
    assert "a5a5" not in shown
    assert "xa5" not in shown
    for secret in (keys.placement, keys.owner.seed, keys.withdraw.seed):
        assert secret.hex()[:16] not in shown
        assert str(secret[:4])[2:-1] not in shown


def networks() -> tuple[str, str]:
    key, config = create_network("lab", b"N" * 32, ((b"b" * 32, "192.0.2.7", 4800),))
    return invite(key, config, b"I" * 32, 1, "Example lab", 3).encode(), encode_network(config)


def test_recovery_file_round_trip() -> None:
    for texts in ((), networks(), (networks()[1],) * NETWORKS_MAX):
        file = RecoveryFile(bytes(range(32)), texts)
        again = RecoveryFile.decode(file.encode())
        assert (again.master, again.networks) == (file.master, file.networks)


def test_an_invitation_comes_back_usable() -> None:
    text = RecoveryFile(bytes(32), networks()).encode()
    file = InvitationFile.decode(RecoveryFile.decode(text).networks[0])
    assert file.certificate.operator == "Example lab"


def test_recovery_file_survives_mail_and_typing() -> None:
    file = RecoveryFile(bytes(range(32)), networks())
    text = file.encode()
    for spelling in (
        text.lower(),
        text.replace("\n", "\r\n"),
        "\n\n" + text.replace("\n", "  \n\n"),
        text.rstrip("\n"),
    ):
        assert RecoveryFile.decode(spelling) == file


def test_the_master_fits_on_one_line_of_paper() -> None:
    lines = RecoveryFile(bytes(range(32))).encode().splitlines()
    block = lines[lines.index("-----BEGIN POTSHERD MASTER-----") + 1 : -1]
    assert len(block) == 1
    assert block[0].split() == [group for group in block[0].split() if len(group) == 4]
    assert len(block[0].split()) == 14


def test_every_single_typo_in_the_master_is_found_and_named() -> None:
    text = RecoveryFile(bytes(range(32))).encode()
    start = text.index("MASTER-----\n") + len("MASTER-----\n")
    end = text.index("\n", start)
    for place in range(start, end):
        if text[place] == " ":
            continue
        other = "Q" if text[place] != "Q" else "R"
        with pytest.raises(MalformedError, match="master has a typo or is cut"):
            RecoveryFile.decode(text[:place] + other + text[place + 1 :])
        with pytest.raises(MalformedError, match="characters other than"):
            RecoveryFile.decode(text[:place] + "0" + text[place + 1 :])
        with pytest.raises(MalformedError, match="master has a typo or is cut"):
            RecoveryFile.decode(text[:place] + text[place + 1 :])
    for place in range(start, end - 1):
        pair = text[place + 1] + text[place]
        if " " in pair or pair[0] == pair[1]:
            continue
        with pytest.raises(MalformedError, match="master has a typo or is cut"):
            RecoveryFile.decode(text[:place] + pair + text[place + 2 :])


def typo(block: str) -> str:
    lines = block.splitlines()
    lines[2] = lines[2][:-1] + ("A" if lines[2][-1] != "A" else "B")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: "", "first two lines"),
        (lambda text: text.replace("version 1", "version 2"), "first two lines"),
        (lambda text: text + "hello\n", "belongs to no block"),
        (lambda text: text.replace("END POTSHERD MASTER", "END POTSHERD MISTER"), "no END line"),
        (lambda text: text.replace("POTSHERD MASTER", "POTSHERD NETWORK"), "master"),
        (lambda text: text + armour.wrap("SECRET", b"x"), "master, then networks"),
        (lambda text: text + armour.wrap("MASTER", b"x" * 32), "master, then networks"),
        (lambda text: text + typo(networks()[0]), "invitation has a typo"),
        (lambda text: text + networks()[1] * 17, "at most 16"),
        (lambda text: text[: len(text) // 2 + 40], "no END line"),
        (lambda text: text + "x" * (1 << 20), "too long"),
    ],
)
def test_a_recovery_file_that_is_none(change: Callable[[str], str], why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        RecoveryFile.decode(change(RecoveryFile(bytes(range(32))).encode()))


def test_a_master_of_another_length_is_refused() -> None:
    text = RecoveryFile(bytes(32)).encode().split("-----BEGIN")[0]
    for size in (0, 31, 33):
        with pytest.raises(MalformedError):
            RecoveryFile.decode(text + armour.wrap("MASTER", bytes(size)))


def test_spare_bits_of_the_last_character_are_no_second_spelling() -> None:
    text = armour.wrap("NETWORK", b"x")  # 4 bytes with the check: 7 characters, 3 spare bits
    line = text.splitlines()[1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    last = alphabet.index(line[-1])
    assert last % 8 == 0
    assert armour.unwrap("NETWORK", text, size_max=1) == b"x"
    for spare in range(1, 8):
        other = text.replace(line, line[:-1] + alphabet[last + spare])
        with pytest.raises(MalformedError, match="typo"):
            armour.unwrap("NETWORK", other, size_max=1)
    with pytest.raises(MalformedError, match="too long"):
        armour.unwrap("NETWORK", armour.wrap("NETWORK", b"xy"), size_max=1)
